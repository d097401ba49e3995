package azurepolicy

import (
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// vmRules are the rules whose definitions are about a VM's request alone.
var vmRules = []string{"vm-kind", "os-disk-confidential", "os-disk-customer-key", "vtpm-persisted", "secure-boot", "vtpm", "encryption-at-host"}

// agrees holds one rule's definition to the judge: what it fails is refused, and
// what it passes, or isn't about, is let through.
func agrees(t *testing.T, what, rule string, said []string, refused bool, beyond func(code string) bool) {
	t.Helper()
	fails, open := false, len(said) == 0
	for _, s := range said {
		state, code, _ := strings.Cut(s, " ")
		switch cvm.State(state) {
		case cvm.Fail:
			if beyond != nil && beyond(code) {
				open = true
				continue
			}
			fails = true
		case cvm.UnknownState, cvm.Exempt, cvm.NotAsked:
			open = true
		case cvm.NotApplicable: // to this VM; what is shared is held to its rule all the same
			open = open || !slices.Contains(vmRules, rule)
		}
	}
	switch {
	case fails && !refused:
		t.Errorf("%s: %s says %v, and its definition lets it through", what, rule, said)
	case !fails && !open && refused:
		t.Errorf("%s: %s says %v, and its definition refuses it", what, rule, said)
	}
}

// TestTheDefinitionsAgreeWithTheJudge goes through every combination of what a
// VM's request can say, under policies that want all, some and none.
func TestTheDefinitionsAgreeWithTheJudge(t *testing.T) {
	docs := map[string]*policy.Document{
		"all":      document(t, ""),
		"by tag":   document(t, `want: {include: [{tag: {class: "secret*"}}]}`),
		"by size":  document(t, `want: {include: [{size: "Standard_DC*"}, {name: "*-1", resourceGroup: RG-PAY}]}`),
		"all but":  document(t, `want: {exclude: [{tag: {class: "*"}}]}`),
		"not this": document(t, `want: {exclude: [{name: pay-1}]}`),
	}
	initiatives := map[string]Initiative{}
	for name, d := range docs {
		initiatives[name] = export(t, d)
	}
	cases := 0
	for _, security := range []string{"", "Standard", "TrustedLaunch", "ConfidentialVM", "confidentialvm", "ConfidentialVM2"} {
		for _, encryption := range []string{"", cvm.EncryptGuestState, cvm.EncryptDisk, "nonpersistedtpm", "DiskAndAll"} {
			for _, sets := range [][2]cvm.DESID{{}, {desID, ""}, {"", sseID}, {desID, sseID}} {
				for _, as := range []struct {
					size                string
					boot, vtpm, encrypt cvm.Tri
				}{
					{"Standard_DC4as_v5", cvm.True, cvm.True, cvm.True}, {"Standard_DC4es_v6", cvm.False, cvm.True, cvm.Unread},
					{"Standard_DC8as_cc_v5", cvm.True, cvm.False, cvm.False}, {"Standard_DC2s_v3", cvm.Unread, cvm.Unread, cvm.True}, {"Standard_D4s_v5", cvm.True, cvm.True, cvm.False},
				} {
					for _, tags := range []map[string]string{nil, {"Class": "Secret-1"}, {"class": "open"}} {
						vm := cvm.VM{ID: vmID, Name: "pay-1", Location: "northeurope", Size: as.size, SecurityType: security, Tags: tags, OS: "Linux",
							SecureBoot: as.boot, VTPM: as.vtpm, EncryptionAtHost: as.encrypt, ProvisioningState: "Succeeded",
							OSDisk: cvm.OSDiskRef{ID: diskID, SecurityEncryptionType: encryption, SecureDES: sets[0], SSEDES: sets[1]}}
						p := cvm.Posture{ID: vmID, VM: cvm.Known(vm), OSDisk: cvm.NotRead[cvm.Disk]("not-captured", "", ""),
							DES: cvm.Known(cvm.DES{ID: desID, Type: cvm.DESTypeConfidential, Location: "northeurope"})}
						body := resource(t, string(vmID), vmBody(vm))
						for name, d := range docs {
							cases++
							v := policy.Judge(p, d, now)
							of, asked := hits(t, initiatives[name], OfVM(vm)), hits(t, initiatives[name], body)
							what := strings.Join([]string{name, security, encryption, string(sets[0]), string(sets[1]), as.size, tags["class"] + tags["Class"]}, "|")
							for _, rule := range vmRules {
								if of[rule] != asked[rule] {
									t.Errorf("%s: %s says %v of what was read and %v of the body", what, rule, of[rule], asked[rule])
								}
								agrees(t, what, rule, states(v.Findings, rule), asked[rule], nil)
							}
							if t.Failed() {
								t.FailNow()
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d VMs under a policy", cases)
}

func TestDefinitionsOfDisks(t *testing.T) {
	all, some := export(t, document(t, "")), export(t, document(t, `want: {include: [{name: pay-*}]}`))
	body := func(osType, security, access, ade, encryption, set string) map[string]any {
		p := map[string]any{}
		if osType != "" {
			p["osType"] = osType
		}
		if security != "" {
			p["securityProfile"] = map[string]any{"securityType": security}
		}
		if access != "" {
			p["networkAccessPolicy"] = access
		}
		if ade != "" {
			p["encryptionSettingsCollection"] = map[string]any{"enabled": ade == "true"}
		}
		enc := map[string]any{}
		if encryption != "" {
			enc["type"] = encryption
		}
		if set != "" {
			enc["diskEncryptionSetId"] = set
		}
		if len(enc) > 0 {
			p["encryption"] = enc
		}
		return map[string]any{"properties": p}
	}
	for _, tt := range []struct {
		what         string
		body         map[string]any
		all, wanting []string
	}{
		{"a good OS disk", body("Linux", cvm.DiskCustomerKey, "DenyAll", "", "", ""), nil, nil},
		{"an OS disk that may be exported", body("Linux", cvm.DiskCustomerKey, "AllowAll", "", "", ""), []string{"disk-export"}, []string{"disk-export"}},
		{"an OS disk that says nothing of it", body("Linux", cvm.DiskCustomerKey, "", "", "", ""), []string{"disk-export"}, []string{"disk-export"}},
		{"an ordinary OS disk that may be", body("Linux", "", "AllowAll", "", "", ""), []string{"disk-export"}, nil},
		{"Azure Disk Encryption", body("Linux", cvm.DiskCustomerKey, "DenyAll", "true", "", ""), []string{"ade-on-os-disk"}, []string{"ade-on-os-disk"}},
		{"its decrypted remains", body("Linux", cvm.DiskCustomerKey, "DenyAll", "false", "", ""), nil, nil},
		{"on an ordinary disk", body("Linux", "", "DenyAll", "true", "", ""), nil, nil},
		{"a data disk on the platform's key", body("", "", "DenyAll", "", "EncryptionAtRestWithPlatformKey", ""), []string{"data-disk-customer-key"}, nil},
		{"a data disk that says nothing", body("", "", "DenyAll", "", "", ""), []string{"data-disk-customer-key"}, nil},
		{"a data disk on a customer's", body("", "", "DenyAll", "", cvm.DESTypeSSE, string(sseID)), nil, nil},
		{"a data disk with a set alone", body("", "", "DenyAll", "", "", string(sseID)), nil, nil},
	} {
		r := resource(t, string(diskID), tt.body)
		for name, want := range map[string][]string{"all": tt.all, "some": tt.wanting} {
			i := map[string]Initiative{"all": all, "some": some}[name]
			got := []string{}
			for rule := range hits(t, i, r) {
				got = append(got, rule)
			}
			if slices.Sort(got); !slices.Equal(got, want) && len(got)+len(want) > 0 {
				t.Errorf("%s, %s wanted: refused by %v, want %v", tt.what, name, got, want)
			}
		}
	}
}

func TestDataDisksThatAreMadeWithTheirVM(t *testing.T) {
	i := export(t, document(t, ""))
	vm := cvm.VM{ID: vmID, SecurityType: "ConfidentialVM", OSDisk: cvm.OSDiskRef{SecurityEncryptionType: cvm.EncryptDisk, SecureDES: desID}}
	for _, tt := range []struct {
		what string
		data []cvm.DataDiskRef
		want bool
	}{
		{"none", nil, false},
		{"one on the platform's key", []cvm.DataDiskRef{{LUN: 0}}, true},
		{"a good one and a bad one", []cvm.DataDiskRef{{LUN: 0, SSEDES: sseID}, {LUN: 1}}, true},
		{"on a customer's key", []cvm.DataDiskRef{{LUN: 0, SSEDES: sseID}}, false},
		{"confidential", []cvm.DataDiskRef{{LUN: 0, SecurityEncryptionType: cvm.EncryptDataDisk}}, false},
		{"made before", []cvm.DataDiskRef{{LUN: 0, ID: diskID}}, false},
	} {
		vm.DataDisks = tt.data
		for _, r := range []Resource{OfVM(vm), resource(t, string(vmID), vmBody(vm))} {
			if got := hits(t, i, r)["data-disk-customer-key"]; got != tt.want {
				t.Errorf("%s: refused %v, want %v", tt.what, got, tt.want)
			}
		}
	}
}

// TestNotACVMSizeIsTheTables compares the names of sizes with package cvm's table.
func TestNotACVMSizeIsTheTables(t *testing.T) {
	c := notACVMSize()
	for _, size := range strings.Fields(`Standard_DC2as_v5 Standard_DC96ads_v5 Standard_EC4as_v5 Standard_DC2es_v6 Standard_DC4eds_v5 Standard_NCC40ads_H100_v5
		Standard_DC16as_cc_v5 Standard_DC4ads_cc_v5 Standard_EC8as_cc_v5 Standard_EC96ads_cc_v5 Standard_DC2s Standard_DC4s Standard_DC1s_v2 Standard_DC8_v2 Standard_DC8s_v2
		Standard_DC1s_v3 Standard_DC48s_v3 Standard_DC24ds_v3 standard_dc2ds_v3 Standard_D4s_v3 Standard_DS2_v2 Standard_E4s_v5 Standard_B2ms`) {
		got, err := c.Evaluate(OfVM(cvm.VM{ID: vmID, Size: size}), nil)
		if want := cvm.NotACVMSize(size) != ""; err != nil || got != want {
			t.Errorf("%s: %v, want %v; %v", size, got, want, err)
		}
	}
}
