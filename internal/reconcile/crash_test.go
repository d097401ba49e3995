package reconcile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
)

// play runs the estate to rest: two VMs on one disk encryption set with a fault,
// each announced twice. crashAt lists the points (counted over storage actions
// and Azure writes, before and after each) at which the process dies.
func play(t *testing.T, crashAt ...int) (w *world, points int) {
	t.Helper()
	w = newWorld(t, "vm1", "vm2")
	w.des.AutoRotation = true
	at := 0
	point := func(name string) {
		at++
		if slices.Contains(crashAt, at) {
			panic(crash{name})
		}
	}
	l := w.loop(t, policy.ModeEnforce)
	w.announce(t, l, "vm1", "vm2", "vm1", "vm2")
	w.store.Hook = func(a memstore.Action) error {
		point(fmt.Sprintf("%s %s after=%v", a.Op, a.Name, a.After))
		return nil
	}
	w.hook = point
	w.drain(t, l, func() *Loop { return w.loop(t, policy.ModeEnforce) })
	w.store.Hook, w.hook = nil, nil
	return w, at
}

// summary is the final state that no crash may change.
func summary(t *testing.T, w *world) string {
	t.Helper()
	var b strings.Builder
	for _, o := range []Object{mustVM(t, "vm1"), mustVM(t, "vm2"), mustShared(t, string(desID))} {
		r := w.row(t, o)
		step := ""
		if r.Step != nil {
			step = " open " + string(r.Step.Step.Kind)
		}
		outcomes := []string{}
		for _, h := range w.history(t, o) {
			if strings.HasPrefix(h, "outcome") {
				outcomes = append(outcomes, h)
			}
		}
		slices.Sort(outcomes)
		fmt.Fprintf(&b, "%s: %s%s %v %v\n", o.ID[strings.LastIndex(o.ID, "/")+1:], r.Verdict, step, r.Plan, outcomes)
	}
	writes := slices.Clone(w.writes)
	slices.Sort(writes)
	fmt.Fprintf(&b, "writes: %s\n", strings.Join(writes, ", "))
	return b.String()
}

func TestACrashBetweenAnyTwoLinesConverges(t *testing.T) {
	ref, points := play(t)
	want := summary(t, ref)
	t.Logf("%d points; without a crash:\n%s", points, want)
	if !strings.Contains(want, "vm1: compliant") || !strings.Contains(want, "vm2: compliant") || strings.Contains(want, "open") {
		t.Fatal("the estate does not become compliant")
	}
	if n := strings.Count(want, "des auto-rotation false"); n != 1 {
		t.Fatalf("two VMs on one disk encryption set repaired it %d times", n)
	}
	for at := 1; at <= points; at++ {
		w, _ := play(t, at)
		if got := summary(t, w); got != want {
			t.Fatalf("a crash at point %d ends otherwise:\n%swant\n%s", at, got, want)
		}
		checkChains(t, w)
	}
}

func TestTwoCrashesConverge(t *testing.T) {
	ref, points := play(t)
	want := summary(t, ref)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 150 {
		a, b := 1+r.IntN(points), 1+r.IntN(points)
		w, _ := play(t, a, a+b)
		if got := summary(t, w); got != want {
			t.Fatalf("crashes at points %d and %d (seed %d) end otherwise:\n%swant\n%s", a, a+b, seed, got, want)
		}
		checkChains(t, w)
	}
}

// checkChains verifies every chain's links.
func checkChains(t *testing.T, w *world) {
	t.Helper()
	for _, o := range []Object{mustVM(t, "vm1"), mustVM(t, "vm2"), mustShared(t, string(desID))} {
		recs, err := ledger.Chains{Blobs: w.store.Blobs()}.After(t.Context(), o.Chain(), 0, "")
		if err != nil {
			t.Fatal(err)
		}
		r := w.row(t, o)
		if len(recs) == 0 || recs[len(recs)-1].Hash != r.HeadHash {
			t.Fatalf("%s: the row's head is %d, the chain has %d", o.ID, r.HeadSeq, len(recs))
		}
	}
}
