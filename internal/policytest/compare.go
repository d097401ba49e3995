package policytest

import (
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// Compare says what of a verdict and a plan isn't as it was expected. It is pure.
func Compare(vm string, x policy.Expectation, v policy.Verdict, plan remedy.Plan) []Difference {
	var out []Difference
	differ := func(what, expected, found string) {
		out = append(out, Difference{VM: vm, What: what, Expected: expected, Found: found})
	}
	if x.Verdict != "" && x.Verdict != v.Value {
		differ("verdict", string(x.Verdict), string(v.Value))
	}
	for _, want := range x.Findings {
		if !slices.ContainsFunc(v.Findings, func(f policy.Finding) bool { return matches(want, f) }) {
			differ("finding", words(want.Rule, want.State, want.Reason), ofRule(v.Findings, want.Rule))
		}
	}
	if x.Only {
		for _, f := range v.Findings {
			counts := f.State == cvm.Fail || f.State == cvm.UnknownState
			if counts && !slices.ContainsFunc(x.Findings, func(want policy.ExpectedFinding) bool { return matches(want, f) }) {
				differ("finding", "no other", words(f.Rule, f.State, f.Reason)+": "+f.Text)
			}
		}
	}
	var planned []string
	for _, s := range plan.Steps {
		if s.State == remedy.Planned {
			planned = append(planned, string(s.Kind))
		}
	}
	switch {
	case x.Only && x.Plan != nil && !slices.Equal(x.Plan, planned), !x.Only && !within(x.Plan, planned):
		differ("plan", steps(x.Plan), steps(planned))
	}
	return out
}

func matches(want policy.ExpectedFinding, f policy.Finding) bool {
	return want.Rule == f.Rule && (want.State == "" || want.State == f.State) && (want.Reason == "" || want.Reason == f.Reason)
}

// within says whether all of want stand in have, in that order.
func within(want, have []string) bool {
	for _, h := range have {
		if len(want) > 0 && want[0] == h {
			want = want[1:]
		}
	}
	return len(want) == 0
}

func words(rule string, state cvm.State, reason string) string {
	s := rule
	if state != "" {
		s += " " + string(state)
	}
	if reason != "" {
		s += " (" + reason + ")"
	}
	return s
}

// ofRule is all that a rule says.
func ofRule(list []policy.Finding, rule string) string {
	var all []string
	for _, f := range list {
		if f.Rule == rule {
			all = append(all, words(f.Rule, f.State, f.Reason))
		}
	}
	if len(all) == 0 {
		return rule + " isn't judged on a VM"
	}
	return strings.Join(all, ", ")
}

func steps(kinds []string) string {
	if len(kinds) == 0 {
		return "no step"
	}
	return strings.Join(kinds, ", ")
}
