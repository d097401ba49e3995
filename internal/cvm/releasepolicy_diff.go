package cvm

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// PolicyRelation is how one release policy stands to another.
type PolicyRelation string

// The relations, of the second policy to the first. Weaker means that it releases
// the key in cases in which the first doesn't.
const (
	PolicyEquivalent  PolicyRelation = "equivalent"
	PolicyWeaker      PolicyRelation = "weaker"
	PolicyStronger    PolicyRelation = "stronger"
	PolicyDifferent   PolicyRelation = "different" // each releases where the other doesn't
	PolicyNotCompared PolicyRelation = "not-compared"
)

// PolicyDifference is one clause in which two release policies differ.
type PolicyDifference struct {
	About    string         `json:"about"`    // authority, claims, tee, region, mutability, unreadable or absent
	Relation PolicyRelation `json:"relation"` // what it makes of the second policy; equivalent for a note
	Clause   string         `json:"clause"`   // where: "a anyOf[0]", "b anyOf[1]", or both
	Text     string         `json:"text"`     // one sentence
}

// PolicyComparison is the outcome of CompareReleasePolicies.
type PolicyComparison struct {
	Relation    PolicyRelation     `json:"relation"`
	Differences []PolicyDifference `json:"differences"` // empty for policies that admit the same
}

// maxPolicyPairs bounds how many alternatives of one policy are held against
// those of another.
const maxPolicyPairs = 4_000_000

// CompareReleasePolicies says whether b releases a key in the same cases as a, in
// more, in fewer, or in others. It compares what they admit, not how they are
// written: order, nesting, repetition, a trailing slash or a claim that another
// alternative makes needless count for nothing. A policy that can't be read, or
// is too complex, is not compared, and neither is an absent one.
func CompareReleasePolicies(a, b ReleasePolicy) PolicyComparison {
	var c policyDiff
	one, ok1 := c.read("a", a)
	two, ok2 := c.read("b", b)
	if !ok1 || !ok2 {
		return PolicyComparison{PolicyNotCompared, c.list}
	}
	for _, base := range bothKeys(one, two) {
		if !c.authority(base, one[base], two[base]) {
			return PolicyComparison{PolicyNotCompared, []PolicyDifference{{"unreadable", PolicyNotCompared, "a, b", "The policies are too complex to be compared."}}}
		}
	}
	c.regions(one, two)
	out := PolicyComparison{PolicyEquivalent, c.list}
	for _, d := range c.list {
		switch {
		case d.Relation == PolicyEquivalent || d.Relation == out.Relation:
		case out.Relation == PolicyEquivalent:
			out.Relation = d.Relation
		default:
			out.Relation = PolicyDifferent
		}
	}
	if out.Differences == nil {
		out.Differences = []PolicyDifference{}
	}
	return out
}

// grants is what one authority may say: alternatives, with the places of the
// branches that they came from.
type grants struct {
	terms  []term
	clause []string // of each term
	name   string   // the authority as written
}

func (g *grants) places() string {
	if g == nil {
		return ""
	}
	list := slices.Clone(g.clause)
	sort.Strings(list)
	return firstPlaces(slices.Compact(list))
}

func firstPlaces(list []string) string {
	if len(list) > 5 {
		return strings.Join(list[:5], ", ") + fmt.Sprintf(" and %d more", len(list)-5)
	}
	return strings.Join(list, ", ")
}

type policyDiff struct {
	list  []PolicyDifference
	pairs int
}

func (c *policyDiff) add(about string, rel PolicyRelation, clause, format string, args ...any) {
	c.list = append(c.list, PolicyDifference{about, rel, clause, fmt.Sprintf(format, args...)})
}

// read gives a policy's grants by authority, without the authorities that nothing
// can satisfy.
func (c *policyDiff) read(which string, p ReleasePolicy) (map[string]*grants, bool) {
	if !p.Present {
		c.add("absent", PolicyNotCompared, which, "There is no release policy.")
		return nil, false
	}
	problem := p.Problem
	var branches []branch
	if p.Decoded != "" {
		var err error
		if branches, err = parsePolicy(p.Decoded); err != nil {
			problem = err.Error()
		} else {
			problem = ""
		}
	} else if problem == "" {
		problem = "it is empty"
	}
	if problem != "" {
		c.add("unreadable", PolicyNotCompared, which, "The release policy can't be read: %s.", problem)
		return nil, false
	}
	out := map[string]*grants{}
	work := 0
	for _, b := range branches {
		terms, ok := b.when.alternatives(&work)
		if !ok || len(terms) > maxPolicyTerms {
			c.add("unreadable", PolicyNotCompared, which+" "+b.path, "It can't be compared: "+tooComplex+".")
			return nil, false
		}
		base := comparableAuthority(b.authority)
		for _, t := range minimal(terms) {
			if out[base] == nil {
				out[base] = &grants{name: b.authority}
			}
			out[base].terms = append(out[base].terms, t)
			out[base].clause = append(out[base].clause, which+" "+b.path)
		}
	}
	return out, true
}

// authority compares what two policies let one authority say; false when there
// is too much of it.
func (c *policyDiff) authority(base string, one, two *grants) bool {
	switch {
	case two == nil:
		c.add("authority", PolicyStronger, one.places(), "Only a trusts %q%s.", one.name, regionsText(base))
		return true
	case one == nil:
		c.add("authority", PolicyWeaker, two.places(), "Only b trusts %q%s.", two.name, regionsText(base))
		return true
	}
	more, ok1 := c.beyond(two, one) // what b admits and a doesn't
	less, ok2 := c.beyond(one, two)
	if !ok1 || !ok2 {
		return false
	}
	if len(more) == 0 && len(less) == 0 {
		return true
	}
	if len(more) > 0 {
		c.add("claims", PolicyWeaker, two.named(more), "Of %q b takes %s, which a doesn't.", two.name, two.say(more))
	}
	if len(less) > 0 {
		c.add("claims", PolicyStronger, one.named(less), "Of %q a takes %s, which b doesn't.", one.name, one.say(less))
	}
	c.tees(one, two)
	return true
}

// beyond are the alternatives of g that none of h's admits. A claim has one value
// of endlessly many, so an alternative is within others exactly if one of them
// asks for no more than it does.
func (c *policyDiff) beyond(g, h *grants) ([]int, bool) {
	if c.pairs += len(g.terms) * len(h.terms); c.pairs > maxPolicyPairs {
		return nil, false
	}
	var out []int
	for i, t := range g.terms {
		if !slices.ContainsFunc(h.terms, func(u term) bool { return len(u) <= len(t) && contains(t, u) }) {
			out = append(out, i)
		}
	}
	return out, true
}

func (g *grants) named(which []int) string {
	var list []string
	for _, i := range which {
		list = append(list, g.clause[i])
	}
	sort.Strings(list)
	return firstPlaces(slices.Compact(list))
}

// say writes alternatives as a person would: claim = "value" and …
func (g *grants) say(which []int) string {
	var list []string
	for _, i := range which {
		list = append(list, g.terms[i].text())
	}
	sort.Strings(list)
	list = slices.Compact(list)
	if len(list) > 3 {
		list = append(list[:3:3], fmt.Sprintf("%d more", len(list)-3))
	}
	return strings.Join(list, ", or ")
}

func (t term) text() string {
	if len(t) == 0 {
		return "any claims"
	}
	var parts []string
	for name, v := range t {
		parts = append(parts, name+" = "+v)
	}
	sort.Strings(parts)
	return strings.Join(parts, " and ")
}

// admittedTEEs are the TEEs whose attestation type some alternative admits.
func admittedTEEs(terms []term) []string {
	var out []string
	for _, tee := range []TEE{TEESNP, TEETDX} {
		for _, t := range terms {
			if typ, named := t[claimType]; !named || typ == quoted(attestationTypes[tee]) {
				out = append(out, string(tee))
				break
			}
		}
	}
	return out
}

func (c *policyDiff) tees(one, two *grants) {
	a, b := admittedTEEs(one.terms), admittedTEEs(two.terms)
	if slices.Equal(a, b) {
		return
	}
	rel := PolicyDifferent
	switch {
	case subset(a, b):
		rel = PolicyWeaker
	case subset(b, a):
		rel = PolicyStronger
	}
	c.add("tee", rel, one.places()+", "+two.places(), "By %q a admits %s, b %s.", one.name, orNone(a), orNone(b))
}

// regions notes the regions in which VMs boot by one policy and not by the other.
func (c *policyDiff) regions(one, two map[string]*grants) {
	only := func(x, y map[string]*grants) []string {
		var out []string
		for base := range x {
			if y[base] == nil {
				out = append(out, regionsOf(base)...)
			}
		}
		sort.Strings(out)
		return out
	}
	if list := only(one, two); len(list) > 0 {
		c.add("region", PolicyStronger, "a", "Only by a can VMs boot in %s.", firstPlaces(list))
	}
	if list := only(two, one); len(list) > 0 {
		c.add("region", PolicyWeaker, "b", "Only by b can VMs boot in %s.", firstPlaces(list))
	}
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "no TEE"
	}
	return strings.Join(list, " and ")
}

func regionsText(base string) string {
	if list := regionsOf(base); len(list) > 0 {
		return " (" + strings.Join(list, ", ") + ")"
	}
	return ""
}

func bothKeys(a, b map[string]*grants) []string {
	var out []string
	for k := range a {
		out = append(out, k)
	}
	for k := range b {
		if a[k] == nil {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}
