package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy/truth"
)

// Combinations: a case of one part of the table laid over a case of another says
// what both say. The parts are what a VM is and how its disks are, its set, its key,
// vault and rights, its data disks, and the guest.

// laidCase is a case as one part of a combination.
type laidCase struct {
	tabled
	section int
	at      []string             // what it changes, JSON pointers
	says    []string             // what it says of any consequence
	states  map[string]cvm.State // rule -> its state where it has one only
}

func laidCases(t *testing.T) (out []laidCase) {
	t.Helper()
	table, err := truth.Load()
	if err != nil {
		t.Fatal(err)
	}
	section := map[string]int{}
	for i, s := range table.Sections {
		for _, r := range s.Rows {
			section[r.Row] = i
		}
	}
	for _, c := range tabledCases(t) {
		if len(c.Policy) > 0 || c.Base != "snp" || len(c.Change) == 0 && len(c.Set) == 0 && len(c.Drop) == 0 || !c.At.Equal(truth.Now) {
			continue
		}
		v := Judge(c.parts.Posture(), c.doc, c.At)
		ch := laidCase{tabled: c, section: section[c.Row], at: c.changed(t), says: spoken(v.Findings), states: map[string]cvm.State{}}
		for _, f := range v.Findings {
			ch.states[f.Rule] = f.State
		}
		out = append(out, ch)
	}
	return out
}

// beside is what the first list has and the second lacks.
func beside(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(l string) bool { return slices.Contains(other, l) })
}

// overlap says whether two cases change the same place: then only the second holds.
func overlap(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if strings.HasPrefix(x+"/", y+"/") || strings.HasPrefix(y+"/", x+"/") {
				return true
			}
		}
	}
	return false
}

// cuts are the rows that are a link of the chain themselves: what lies behind them
// isn't judged, or otherwise. Each is a case of its own, and laid over every
// compliant case by TestOneBadFactIsNeverCompliant.
var cuts = map[string]string{
	"2": "a set of another type may rotate, and take data disks", "6": "the OS disk isn't under the set's key", "8": "there is no encrypted OS disk",
	"9": "what the OS disk should be isn't known", "37": "the set names no key", "43": "the key has no size in bits", "59": "the key isn't there",
	"60": "the key wasn't read",
}

// cut says whether a case is of such a row, or of what wasn't read.
func (c laidCase) cut() bool {
	if cuts[c.Row] != "" {
		return true
	}
	return slices.ContainsFunc(c.says, func(l string) bool {
		_, said, _ := strings.Cut(l, ": unknown ")
		code, _, _ := strings.Cut(said, ",")
		return strings.HasSuffix(code, "-unreadable") || strings.HasSuffix(code, "-unread") || code == "not-captured"
	})
}

// apart are pairs that speak of one fact, by parts of their names.
var apart = []struct{ a, b, why string }{
	{"row 36,", "row 49,", "both move the set's region or the VM's"},
	{"row 36,", "row 68,", "both move the set's region or the VM's"},
	{"guest state alone", "row 31, on a set of another type", "the OS disk isn't under the set's key"},
	{"guest state alone", "row 39,", "the OS disk isn't under the set's key"},
	{"on a set of another type", "row 76,", "the set isn't one for OS disks"},
	{"row 35, None, and so no rights", "nobody asked for them", "one asks for rights, the other doesn't"},
	{"for a size that isn't known", "focal", "the image is for one TEE alone"},
}

func together(list []laidCase) bool {
	for i, a := range list {
		for _, b := range list[i+1:] {
			if overlap(a.at, b.at) || slices.ContainsFunc(apart, func(x struct{ a, b, why string }) bool {
				return strings.Contains(a.String(), x.a) && strings.Contains(b.String(), x.b)
			}) {
				return false
			}
		}
	}
	return true
}

// union is what several cases say together: all that each says, but for rules that
// in one of them don't apply.
func union(list []laidCase) (want []string) {
	for _, c := range list {
		for _, l := range c.says {
			rule, _, _ := strings.Cut(l, ":")
			silent := slices.ContainsFunc(list, func(o laidCase) bool { return o.states[rule] == cvm.NotApplicable })
			if !silent && !slices.Contains(want, l) {
				want = append(want, l)
			}
		}
	}
	slices.Sort(want)
	return want
}

// laid lays cases over each other and holds the judge to their union. It says
// whether they go together at all.
func laid(t *testing.T, list []laidCase) bool {
	t.Helper()
	if !together(list) {
		return false
	}
	e, p := list[0].estate, list[0].parts
	reread := []string{"associated", "claims", ""}
	for _, c := range list[1:] {
		var err error
		if e, err = c.On(e); err != nil {
			return false // the place of its fact isn't there
		}
		for _, at := range c.at {
			body, _, _ := strings.Cut(at[1:], "/")
			reread = append(reread, body)
		}
	}
	if e.Get("/releasePolicy") != nil || e.Get("/keyBits") != nil {
		reread = append(reread, "key")
	}
	slices.Sort(reread)
	for _, body := range slices.Compact(reread) {
		var err error
		if p, err = p.Again(e, body); err != nil {
			t.Fatalf("%v: %v", list, err)
		}
	}
	v, want := Judge(p.Posture(), list[0].doc, list[0].At), union(list)
	got := spoken(v.Findings)
	if missing, more := beside(want, got), beside(got, want); len(missing)+len(more) > 0 {
		t.Errorf("%v:\n lacks %s\n more  %s", list, strings.Join(missing, "; "), strings.Join(more, "; "))
	}
	worst := Compliant
	for _, c := range list {
		if value := Value(c.Verdict); value == NonCompliant || value == Unknown && worst == Compliant {
			worst = value
		}
	}
	// A case's own verdict may be of a rule that doesn't apply beside another.
	if v.Value != worst && len(beside(got, want)) == 0 && len(want) == len(unionAll(list)) {
		t.Errorf("%v: %s, want %s", list, v.Value, worst)
	}
	return true
}

// unionAll is union with rules that don't apply in one of them.
func unionAll(list []laidCase) (all []string) {
	for _, c := range list {
		for _, l := range c.says {
			if !slices.Contains(all, l) {
				all = append(all, l)
			}
		}
	}
	return all
}

func TestCombinationsSayWhatAllSay(t *testing.T) {
	var parts [][]laidCase
	all := laidCases(t)
	for _, c := range all {
		for len(parts) <= c.section {
			parts = append(parts, nil)
		}
		if !c.cut() {
			parts[c.section] = append(parts[c.section], c)
		}
	}
	pairs := inParallel(t, slices.Concat(parts...), func(t *testing.T, one laidCase) int {
		n := 0
		for _, other := range parts[one.section+1:] {
			for _, b := range other {
				if laid(t, []laidCase{one, b}) {
					n++
				}
			}
		}
		return n
	})
	// One of each part, drawn by a fixed seed.
	draw, more := rand.New(rand.NewPCG(5, 83)), 0
	for range 6000 {
		var list []laidCase
		for _, p := range parts {
			list = append(list, p[draw.IntN(len(p))])
		}
		for len(list) > 2 && !together(list) {
			list = slices.Delete(list, 1, 2)
		}
		if len(list) > 2 && laid(t, list) {
			more++
		}
	}
	t.Logf("%d choices, %d pairs, %d of three and more", len(all), pairs, more)
	if pairs < 11_000 || more < 3000 {
		t.Errorf("%d pairs and %d larger combinations only", pairs, more)
	}
}
