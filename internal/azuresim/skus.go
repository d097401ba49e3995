package azuresim

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// vmSize is one size of Resource SKUs.
type vmSize struct {
	name, family string
	tee          string // capability ConfidentialComputingType: SNP, TDX, "" absent
	tempMB       int    // local disk, 0 none
	cpus, gb     int
}

// sizes are those that the simulator offers, in every location, by folded name.
// The real list is longer and differs by location.
var sizes = func() map[string]vmSize {
	m := map[string]vmSize{}
	for _, f := range []struct {
		pattern, family, tee string
		temp                 bool
	}{
		{"Standard_DC#as_v5", "standardDCasv5Family", "SNP", false},
		{"Standard_DC#ads_v5", "standardDCadsv5Family", "SNP", true},
		{"Standard_EC#as_v5", "standardECasv5Family", "SNP", false},
		{"Standard_EC#ads_v5", "standardECadsv5Family", "SNP", true},
		{"Standard_DC#as_v6", "standardDCasv6Family", "SNP", false},
		{"Standard_DC#ads_v6", "standardDCadsv6Family", "SNP", true},
		{"Standard_DC#es_v5", "standardDCev5Family", "TDX", false},
		{"Standard_DC#eds_v5", "standardDCedv5Family", "TDX", true},
		{"Standard_DC#es_v6", "standardDCesv6Family", "TDX", false},
		{"Standard_DC#eds_v6", "standardDCedsv6Family", "TDX", true},
		{"Standard_D#s_v5", "standardDSv5Family", "", false},
		{"Standard_D#ds_v5", "standardDDSv5Family", "", true},
	} {
		for _, n := range []int{2, 4, 8, 16, 32} {
			s := vmSize{name: strings.Replace(f.pattern, "#", strconv.Itoa(n), 1), family: f.family, tee: f.tee, cpus: n, gb: 4 * n}
			if f.temp {
				s.tempMB = n * 37500
			}
			m[strings.ToLower(s.name)] = s
		}
	}
	return m
}()

var locationFilter = regexp.MustCompile(`(?i)^\s*location\s+eq\s+'([^']*)'\s*$`)

func (x *exchange) listSKUs(armPath) {
	loc := x.s.opt.Location
	if f := x.query("$filter"); f != "" {
		m := locationFilter.FindStringSubmatch(f)
		if m == nil {
			x.fail(http.StatusBadRequest, "InvalidFilterInQueryString", "Invalid $filter '"+f+"' specified in the query string: only location eq '…' is known.")
			return
		}
		loc = region(m[1])
	}
	var out []any
	for _, name := range sortedKeys(sizes) {
		out = append(out, x.s.skuDoc(sizes[name], loc))
	}
	x.page(out)
}

func (s *Sim) skuDoc(z vmSize, loc string) doc {
	capability := func(k, v string) doc { return doc{"name": k, "value": v} }
	caps := []any{
		capability("MaxResourceVolumeMB", strconv.Itoa(z.tempMB)), capability("vCPUs", strconv.Itoa(z.cpus)),
		capability("MemoryGB", strconv.Itoa(z.gb)), capability("CpuArchitectureType", "x64"),
		capability("EncryptionAtHostSupported", "True"), capability("PremiumIO", "True"),
	}
	if z.tee != "" {
		caps = append(caps, capability("HyperVGenerations", "V2"), capability("ConfidentialComputingType", z.tee))
	} else {
		caps = append(caps, capability("HyperVGenerations", "V1,V2"))
	}
	restrictions := []any{}
	if s.exhausted[fold(z.name)+"@"+loc] == "SkuNotAvailable" {
		restrictions = append(restrictions, doc{"type": "Location", "values": []any{loc}, "reasonCode": "NotAvailableForSubscription",
			"restrictionInfo": doc{"locations": []any{loc}}})
	}
	tier, short, _ := strings.Cut(z.name, "_")
	return doc{
		"resourceType": "virtualMachines", "name": z.name, "tier": tier, "size": short, "family": z.family,
		"locations": []any{loc}, "locationInfo": []any{doc{"location": loc, "zones": []any{"1", "2", "3"}, "zoneDetails": []any{}}},
		"capabilities": caps, "restrictions": restrictions,
	}
}
