package remedy

import (
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// The tags that cvmguard writes on a VM.
const (
	TagVerdict     = "cvmguard-verdict"         // the verdict, no date: equal verdicts give no write
	TagDeallocated = "cvmguard-deallocated-for" // MarkPending or MarkIsDown: we mean to, or did, take it down
	MarkPending    = "data-disks"
	MarkIsDown     = "data-disks-down"
)

const modeEnforce = policy.ModeEnforce

// The names of a step's arguments.
const (
	argTag    = "tag"
	argValue  = "value"
	argRemove = "remove"
	argVM     = "vm"
	argVault  = "vault"
	argDES    = "des"
	argKey    = "key"
	argBits   = "bits"
	argPolicy = "release-policy"
	argRegion = "region"
)

// planner gathers the steps for one object. It is pure: what it looks at are the
// verdict, the posture behind it and the policy document.
type planner struct {
	v        policy.Verdict
	d        *policy.Document
	steps    []Step
	answered map[int]bool // findings (by index) that some step answers
}

func newPlanner(v policy.Verdict, d *policy.Document) *planner {
	return &planner{v: v, d: d, answered: map[int]bool{}}
}

func (pl *planner) plan() Plan {
	if pl.steps == nil {
		pl.steps = []Step{}
	}
	return Plan{Mode: pl.d.Mode(), Steps: pl.steps}
}

// findings gives the indices of the verdict's findings that want selects.
func (pl *planner) findings(want func(policy.Finding) bool) []int {
	var out []int
	for i, f := range pl.v.Findings {
		if want(f) {
			out = append(out, i)
		}
	}
	return out
}

// failing gives those in state fail with one of the reasons.
func (pl *planner) failing(reasons ...string) []int {
	return pl.findings(func(f policy.Finding) bool {
		return f.State == cvm.Fail && slices.Contains(reasons, f.Reason)
	})
}

// add appends a step that answers findings: their rules and reasons become its.
func (pl *planner) add(s Step, findings []int) {
	for _, i := range findings {
		pl.answered[i] = true
		s.Rules = append(s.Rules, pl.v.Findings[i].Rule)
		if r := pl.v.Findings[i].Reason; r != "" {
			s.Reasons = append(s.Reasons, r)
		}
	}
	s.Rules, s.Reasons = uniq(s.Rules), uniq(s.Reasons)
	pl.steps = append(pl.steps, s)
}

// permit is what policy must say for a step to be carried out.
type permit struct {
	class policy.Class
	word  string // the document's name of the permission, for the reader
	given bool
	// rule, where it is named, is the rule under which the step is taken though there
	// may be no finding yet.
	rule string
	// asks: no rule need be enforced for the step, because it finds out and repairs
	// nothing.
	asks bool
}

// decide gives a step the state that policy and doubts leave it: advised where
// policy doesn't let it be done, else blocked where there is a doubt, else
// planned.
func (pl *planner) decide(s *Step, p permit, findings []int, doubts []string) {
	s.Class = p.class
	switch {
	case !p.given:
		s.State, s.Why = Advised, fmt.Sprintf("policy doesn't permit it (remedy.%s)", p.word)
	case rank(p.class) > rank(pl.d.Remedy.Allow):
		s.State, s.Why = Advised, fmt.Sprintf("policy carries out nothing above %s", pl.d.Remedy.Allow)
	case !p.asks && !pl.enforced(findings) && !pl.enforces(p.rule):
		s.State, s.Why = Advised, "policy only audits what asks for it"
	case len(doubts) > 0:
		s.State, s.Why = Blocked, strings.Join(doubts, "; ")
	default:
		s.State = Planned
	}
}

// enforced says whether policy enforces a rule behind one of the findings.
func (pl *planner) enforced(findings []int) bool {
	return slices.ContainsFunc(findings, func(i int) bool { return pl.enforces(pl.v.Findings[i].Rule) })
}

func (pl *planner) enforces(rule string) bool {
	e := pl.d.Effect(rule)
	return e == policy.EffectEnforce || e == policy.EffectQuarantine
}

// rank orders the classes, weakest first.
func rank(c policy.Class) int {
	return slices.Index([]policy.Class{policy.ClassNone, policy.InPlace, policy.NeedsDeallocation, policy.NeedsRecreate, policy.NeedsPerson}, c)
}

// advise appends a step that a person carries out.
func (pl *planner) advise(s Step, findings []int, why string) {
	s.State, s.Why = Advised, why
	pl.add(s, findings)
}

func uniq(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}
