package cvm

import (
	_ "embed"
	"encoding/json"
	"sort"
	"strings"
	"sync"
	"unicode"
)

//go:embed regions.json
var regionsJSON []byte

// providerTable is regions.json, turned for look-up both ways.
type providerTable struct {
	byRegion map[string]string   // region -> https://shared<code>.<code>.<suffix>
	hosts    map[string]bool     // the same hosts
	regions  map[string][]string // by https://<host>, in order
	suffixes []string            // ".attest.azure.net", …
}

var providers = sync.OnceValue(func() providerTable {
	var file struct {
		Clouds map[string]struct {
			Suffix  string            `json:"suffix"`
			Regions map[string]string `json:"regions"`
		} `json:"clouds"`
	}
	t := providerTable{byRegion: map[string]string{}, hosts: map[string]bool{}, regions: map[string][]string{}}
	if err := json.Unmarshal(regionsJSON, &file); err != nil {
		panic("cvm: the embedded regions.json is broken: " + err.Error())
	}
	for _, cloud := range file.Clouds {
		t.suffixes = append(t.suffixes, "."+cloud.Suffix)
		for region, code := range cloud.Regions {
			host := "shared" + code + "." + code + "." + cloud.Suffix
			t.byRegion[region], t.hosts[host] = "https://"+host, true
			t.regions["https://"+host] = append(t.regions["https://"+host], region)
		}
	}
	for _, list := range t.regions {
		sort.Strings(list)
	}
	sort.Strings(t.suffixes)
	return t
})

// AttestationProvider is the base URL, without a trailing slash, of Microsoft's
// shared attestation provider in a region of the public or US Government cloud.
// ok is false for a region whose provider isn't known: codes can't be computed
// from names.
func AttestationProvider(region string) (url string, ok bool) {
	url, ok = providers().byRegion[FoldRegion(region)]
	return url, ok
}

// regionsOf are the regions whose shared provider has this base URL.
func regionsOf(base string) []string { return append([]string(nil), providers().regions[base]...) }

// authorityKind is what an authority of a release policy is.
type authorityKind int

const (
	authorityForeign  authorityKind = iota
	authorityShared                 // one of Microsoft's shared providers
	authorityUnlisted               // of their shape, with a code that isn't listed: perhaps a new region
	authorityExtra                  // one that the policy document lists
)

// authorityOf sorts an authority. base is its comparable form, "" for one that
// isn't a plain https host.
func authorityOf(authority string, extra []string) (kind authorityKind, base string) {
	base, ok := authorityBase(authority)
	if !ok {
		return authorityForeign, ""
	}
	for _, e := range extra {
		if b, ok := authorityBase(e); ok && b == base {
			return authorityExtra, base
		}
	}
	host := strings.TrimPrefix(base, "https://")
	if providers().hosts[host] {
		return authorityShared, base
	}
	for _, suffix := range providers().suffixes {
		labels, ok := strings.CutSuffix(host, suffix)
		if !ok {
			continue
		}
		shared, code, ok := strings.Cut(labels, ".")
		if ok && code != "" && !strings.Contains(code, ".") && shared == "shared"+code {
			return authorityUnlisted, base
		}
	}
	return authorityForeign, base
}

// authorityBase is https://<host> in lower case. A trailing slash is ignored;
// userinfo, port, path, query and other schemes are refused.
func authorityBase(s string) (string, bool) {
	low := strings.ToLower(s)
	host, ok := strings.CutPrefix(low, "https://")
	if !ok || strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII }) { // some fold to ASCII letters
		return "", false
	}
	host = strings.TrimSuffix(host, "/")
	for _, r := range host {
		if r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') {
			return "", false
		}
	}
	if host == "" || strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") || strings.Contains(host, "..") || !strings.Contains(host, ".") {
		return "", false
	}
	return "https://" + host, true
}

// IsAttestationURL says whether s is a plain https host, as an authority must be.
func IsAttestationURL(s string) bool { _, ok := authorityBase(s); return ok }
