package cvm

import (
	"fmt"
	"slices"
)

// PolicyClause is one authority's branch of a release policy, explained.
type PolicyClause struct {
	Clause    string   `json:"clause"`    // anyOf[0]
	Authority string   `json:"authority"` // as written
	Kind      string   `json:"kind"`      // shared (Microsoft's), unlisted, listed or foreign
	Regions   []string `json:"regions"`   // that it speaks for, by the table of shared providers
	TEEs      []string `json:"tees"`      // that it admits
	Takes     string   `json:"takes"`     // the claims that are enough
	Codes     []string `json:"codes"`     // reason codes that this clause causes by itself
}

var authorityKinds = map[authorityKind]string{
	authorityForeign: "foreign", authorityShared: "shared", authorityUnlisted: "unlisted", authorityExtra: "listed",
}

// ExplainReleasePolicy gives a policy's branches one by one, with the codes of
// rows 47 and 48 that each causes. What concerns the policy as a whole (regions,
// TEE, dialect, mutability) is JudgeReleasePolicy's. A policy that it calls
// unreadable has none.
func ExplainReleasePolicy(p ReleasePolicy, extra []string) []PolicyClause {
	out := []PolicyClause{}
	if p.Decoded == "" {
		return out
	}
	branches, err := parsePolicy(p.Decoded)
	if err != nil {
		return out
	}
	work := 0
	for _, b := range branches {
		terms, ok := b.when.alternatives(&work)
		if !ok || len(terms) > maxPolicyTerms {
			return []PolicyClause{}
		}
		terms = minimal(terms)
		kind, base := authorityOf(b.authority, extra)
		c := PolicyClause{Clause: b.path, Authority: b.authority, Kind: authorityKinds[kind], Regions: regionsOf(base), TEEs: admittedTEEs(terms), Codes: []string{}}
		g := grants{terms: terms}
		which := make([]int, len(terms))
		for i := range which {
			which[i] = i
		}
		c.Takes = g.say(which)
		if len(terms) == 0 {
			c.Takes = "nothing: its conditions contradict each other"
		}
		j := policyJudge{q: PolicyQuestion{ExtraAuthorities: extra}}
		j.branch(b, terms)
		for _, f := range j.inOrder() {
			c.Codes = append(c.Codes, f.Code)
		}
		if c.TEEs == nil {
			c.TEEs = []string{}
		}
		if c.Regions == nil {
			c.Regions = []string{}
		}
		out = append(out, c)
	}
	return out
}

// Authorities gives the attestation providers of regions for a policy to name: an
// entry of own, by region, wins over the table. The error names the regions whose
// provider isn't known.
func Authorities(regions []string, own map[string]string) ([]string, error) {
	var out, missing []string
	for _, r := range regions {
		r = FoldRegion(r)
		url, ok := own[r]
		if !ok {
			url, ok = AttestationProvider(r)
		}
		switch {
		case !ok || !IsAttestationURL(url):
			missing = append(missing, r)
		case !slices.Contains(out, url):
			out = append(out, url)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the attestation provider of %q isn't known", missing)
	}
	return out, nil
}
