package cvm

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

const (
	claimCompliance = "x-ms-compliance-status"
	claimType       = "x-ms-attestation-type"
	guestPrefix     = "x-ms-isolation-tee."
	compliantCVM    = "azure-compliant-cvm"
)

// PolicyQuestion is what a release policy is judged against.
type PolicyQuestion struct {
	// Region in which VMs boot by the key, "" not to ask (rows 49 and 50).
	Region string
	// TEE of the VM: "" or TEENone not to ask (row 50); TEEUnknown passes only
	// where both are admitted.
	TEE TEE
	// Authorities are attestation providers' base URLs by region, for those that
	// the embedded table lacks; an entry wins over the table's.
	Authorities map[string]string
	// ExtraAuthorities are providers that a policy may name beside Microsoft's.
	ExtraAuthorities []string
}

// PolicyFault is one thing found about a release policy.
type PolicyFault struct {
	Code     string // a reason code of the truth table
	State    State  // Fail, UnknownState, or Pass for a note
	Severity string // info, low, medium, high, critical
	Clause   string // where in the policy, "" for the whole
	Text     string // one sentence
}

// JudgeReleasePolicy says what is wrong with a key's release policy, one fault a
// code, in this order; nil for nothing. It judges what the policy admits, not how
// it is written.
//
//	45 absent                                                      key-no-release-policy
//	46 can't be read, or too complex                               unknown, key-policy-unreadable
//	47 an alternative without the top-level compliance status, or
//	   with an attestation type other than sevsnpvm and tdxvm      key-policy-weak
//	48 an authority that is neither Microsoft's nor listed         key-policy-foreign-authority
//	   of Microsoft's shape with an unknown code                   unknown, key-policy-authority-unlisted
//	49 no authority for the region                                 key-policy-region-missing
//	   a region whose provider isn't known                         unknown, the same
//	50 the region's authorities don't admit the TEE                key-policy-tee-missing
//	51 claims of the guest's own dialect alone                     key-policy-guest-dialect
//	52 the policy can be changed later                             note, key-policy-mutable
func JudgeReleasePolicy(p ReleasePolicy, q PolicyQuestion) []PolicyFault {
	if !p.Present {
		return []PolicyFault{{"key-no-release-policy", Fail, "high", "", "The key has no release policy, so it can't be released to a confidential VM."}}
	}
	j := policyJudge{q: q}
	if why := j.read(p); why != "" {
		j.faults = nil
		j.add("key-policy-unreadable", UnknownState, "high", "", "The release policy can't be read: "+why+".")
		if p.Mutable || p.Decoded != "" {
			j.mutable(p)
		}
		return j.inOrder()
	}
	j.region()
	if j.guest > 0 && j.other == 0 {
		j.add("key-policy-guest-dialect", Fail, "high", "", "The policy names claims of the guest's own dialect only; the platform's release at boot doesn't carry them.")
	}
	j.mutable(p)
	return j.inOrder()
}

const tooComplex = "its alternatives are too many, or it can't be told whether some of them contradict themselves"

// read judges the branches; the text says why the policy can't be read.
func (j *policyJudge) read(p ReleasePolicy) (why string) {
	if p.Decoded == "" {
		return p.Problem
	}
	branches, err := parsePolicy(p.Decoded)
	if err != nil {
		return err.Error()
	}
	work := 0
	for _, b := range branches {
		terms, ok := b.when.alternatives(&work)
		if !ok || len(terms) > maxPolicyTerms {
			return tooComplex
		}
		j.branch(b, minimal(terms))
	}
	return ""
}

// mutable is row 52, which a policy that can't be read may have too.
func (j *policyJudge) mutable(p ReleasePolicy) {
	if !p.Immutable {
		j.add("key-policy-mutable", Pass, "info", "", "Whoever may update the key may change its release policy.")
	}
}

// policyJudge gathers what the branches say.
type policyJudge struct {
	q      PolicyQuestion
	faults []PolicyFault
	places map[string][]string // clauses by code
	placed map[string]bool     // the same, each with its code
	bases  map[string][]term   // authority's base -> its alternatives
	guest  int                 // claims of the guest dialect
	other  int                 // all other claims
	terms  int                 // alternatives that can be satisfied, of all branches
}

func (j *policyJudge) branch(b branch, terms []term) {
	j.terms += len(terms)
	kind, base := authorityOf(b.authority, j.q.ExtraAuthorities)
	switch kind {
	case authorityForeign:
		j.add("key-policy-foreign-authority", Fail, "critical", b.path, fmt.Sprintf("The policy trusts %q, which is neither Microsoft's shared provider nor listed by policy.", short(b.authority)))
	case authorityUnlisted:
		j.add("key-policy-authority-unlisted", UnknownState, "high", b.path, fmt.Sprintf("The policy trusts %q, which has the shape of Microsoft's shared providers and isn't known.", short(b.authority)))
	}
	if base != "" {
		if j.bases == nil {
			j.bases = map[string][]term{}
		}
		j.bases[base] = append(j.bases[base], terms...)
	}
	var places map[string]string
	for _, t := range terms {
		if weakBy := t.weak(); weakBy != "" {
			if places == nil {
				places = map[string]string{}
				b.when.places(places)
			}
			j.add("key-policy-weak", Fail, "critical", places[t.key()], fmt.Sprintf("%s; %s is enough.", weakBy, enough(t)))
		}
	}
	b.when.leaves(func(c condition) {
		if strings.HasPrefix(c.claim, guestPrefix) {
			j.guest++
		} else {
			j.other++
		}
	})
}

// weak says why an alternative is weak, "" where it isn't.
func (t term) weak() string {
	if t[claimCompliance] != quoted(compliantCVM) {
		return "The key can be released without the platform's word that the VM is a compliant CVM"
	}
	if typ, named := t[claimType]; named && typ != quoted("sevsnpvm") && typ != quoted("tdxvm") {
		return fmt.Sprintf("The key can be released to attestation type %s", short(typ))
	}
	return ""
}

func enough(t term) string {
	if len(t) == 0 {
		return "any token of the authority"
	}
	return short(t.text())
}

// places gives, by an alternative's key, the first clause that alone has it: down
// through the anyOfs.
func (c condition) places(into map[string]string) {
	if c.any {
		for _, kid := range c.kids {
			kid.places(into)
		}
		return
	}
	work := 0
	terms, _ := c.alternatives(&work) // a part of what was within the bound
	for _, t := range terms {
		if key := t.key(); into[key] == "" {
			into[key] = c.path
		}
	}
}

// short cuts a text of the policy to what a sentence bears, and what isn't to be
// printed out of it.
func short(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > 200 {
		return string(runes[:200]) + "…"
	}
	return s
}

// region judges rows 49 and 50 by the union of the region's branches.
func (j *policyJudge) region() {
	if j.q.Region == "" {
		if j.terms == 0 {
			j.add("key-policy-region-missing", Fail, "high", "", "Nothing can satisfy the policy: the key is released to nobody, and no VM on it can boot.")
		}
		return
	}
	region := FoldRegion(j.q.Region)
	provider, ok := j.q.Authorities[region]
	if !ok {
		provider, ok = AttestationProvider(region)
	}
	base, plain := authorityBase(provider)
	if !ok || !plain {
		j.add("key-policy-region-missing", UnknownState, "medium", "", fmt.Sprintf("The attestation provider of region %q isn't known, so it can't be told whether the policy names it.", region))
		return
	}
	terms := j.bases[base]
	if len(terms) == 0 {
		j.add("key-policy-region-missing", Fail, "high", "", fmt.Sprintf("The policy names no authority that can speak for region %s (%s); a VM there may not boot.", region, base))
		return
	}
	admits := func(attestationType string) bool {
		for _, t := range terms {
			if typ, named := t[claimType]; !named || typ == quoted(attestationType) {
				return true
			}
		}
		return false
	}
	snp, tdx := admits("sevsnpvm"), admits("tdxvm")
	switch {
	case j.q.TEE == TEESNP && !snp, j.q.TEE == TEETDX && !tdx, j.q.TEE == TEEUnknown && !snp && !tdx:
		j.add("key-policy-tee-missing", Fail, "high", "", fmt.Sprintf("For region %s the policy names attestation types, and that of the VM's TEE isn't among them.", region))
	case j.q.TEE == TEEUnknown && snp != tdx:
		j.add("key-policy-tee-missing", UnknownState, "medium", "", fmt.Sprintf("For region %s the policy admits one TEE only, and the VM's isn't known.", region))
	}
}

// add keeps one fault a code: the first, with the places of the others.
func (j *policyJudge) add(code string, state State, severity, clause, text string) {
	if j.places == nil {
		j.places, j.placed = map[string][]string{}, map[string]bool{}
	}
	if !slices.ContainsFunc(j.faults, func(f PolicyFault) bool { return f.Code == code }) {
		j.faults = append(j.faults, PolicyFault{code, state, severity, "", text})
	}
	if clause != "" && !j.placed[code+" "+clause] {
		j.placed[code+" "+clause] = true
		j.places[code] = append(j.places[code], clause)
	}
}

func (j *policyJudge) inOrder() []PolicyFault {
	var out []PolicyFault
	for _, code := range []string{"key-policy-unreadable", "key-policy-weak", "key-policy-foreign-authority", "key-policy-authority-unlisted",
		"key-policy-region-missing", "key-policy-tee-missing", "key-policy-guest-dialect", "key-policy-mutable"} {
		for _, f := range j.faults {
			if f.Code == code {
				f.Clause = firstPlaces(j.places[code])
				out = append(out, f)
			}
		}
	}
	return out
}

func (c condition) leaves(yield func(condition)) {
	if c.isLeaf {
		yield(c)
		return
	}
	for _, kid := range c.kids {
		kid.leaves(yield)
	}
}

func quoted(s string) string { return `"` + s + `"` }
