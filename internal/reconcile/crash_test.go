package reconcile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // thousands of small worlds, none of which lives long
	os.Exit(m.Run())
}

// trouble is what happens at a point: it may panic, answer with an error or run
// another worker. Points are counted over storage actions and Azure writes, before
// and after each.
type trouble func(w *world, at int, name string) error

// play runs an estate to rest: VMs on one disk encryption set with a fault, each
// announced twice.
func play(t testing.TB, names []string, trouble trouble) (w *world, points []string) {
	t.Helper()
	w = newWorld(t, names...)
	w.des.AutoRotation = true
	l := w.loop(t, policy.ModeEnforce)
	w.announce(t, names...)
	w.announce(t, names...)
	point := func(name string) error {
		points = append(points, name)
		if trouble == nil {
			return nil
		}
		return trouble(w, len(points), name)
	}
	w.store.Hook = func(a memstore.Action) error {
		when := "before "
		if a.After {
			when = "after "
		}
		return point(when + a.Op + " " + a.Name)
	}
	w.hook = point
	w.drain(t, l, func() *Loop { return w.loop(t, policy.ModeEnforce) })
	w.quiet()
	return w, points
}

// quiet takes the hooks away.
func (w *world) quiet() { w.store.Hook, w.hook = nil, nil }

func estate(t testing.TB, names []string) []Object {
	out := []Object{mustShared(t, string(desID))}
	for _, n := range names {
		out = append(out, mustVM(t, n))
	}
	return out
}

// summary is the final state that no trouble may change.
func summary(t testing.TB, w *world, names []string) string {
	t.Helper()
	var b strings.Builder
	for _, o := range estate(t, names) {
		r := w.row(t, o)
		outcomes := []string{}
		for _, h := range w.history(t, o) {
			if strings.HasPrefix(h, "outcome") {
				outcomes = append(outcomes, h)
			}
		}
		slices.Sort(outcomes)
		fmt.Fprintf(&b, "%s: %s %v %v\n", last(o.ID), r.Verdict, r.Plan, outcomes)
	}
	writes := slices.Clone(w.writes)
	slices.Sort(writes)
	fmt.Fprintf(&b, "writes: %s\n", strings.Join(writes, ", "))
	return b.String()
}

// reference is a play without trouble.
func reference(t *testing.T, names []string) (want string, points []string) {
	t.Helper()
	w, points := play(t, names, nil)
	want = summary(t, w, names)
	for _, n := range names {
		if !strings.Contains(want, n+": compliant [] [outcome collect-evidence done outcome tag done]") {
			t.Fatalf("the estate does not become compliant:\n%s", want)
		}
	}
	if n := strings.Count(want, "des auto-rotation false"); n != 1 {
		t.Fatalf("the disk encryption set that they share was repaired %d times", n)
	}
	w.atRest(t, estate(t, names)...)
	return want, points
}

// atEvery plays once for each point, in parallel. Under the race detector it takes
// every n-th only, with -short every tenth, from a random one on.
func atEvery(t *testing.T, names []string, underRace int, skip func(point string) bool, trouble func(at int) trouble) {
	t.Helper()
	want, points := reference(t, names)
	stride, first := 1, 0
	switch {
	case testing.Short():
		stride = 10
	case raceEnabled:
		stride = underRace
	}
	if stride > 1 {
		first = rand.IntN(stride)
	}
	t.Logf("%d points, every %d. from %d on", len(points), stride, first+1)
	const chunks = 4
	for c := range chunks {
		t.Run(fmt.Sprint("chunk ", c), func(t *testing.T) {
			t.Parallel()
			for i := first + c*stride; i < len(points); i += chunks * stride {
				if skip != nil && skip(points[i]) {
					continue
				}
				w, _ := play(t, names, trouble(i+1))
				if got := summary(t, w, names); got != want {
					t.Errorf("trouble at point %d (%s) ends otherwise:\n%swant\n%s", i+1, points[i], got, want)
				}
				w.atRest(t, estate(t, names)...)
				if t.Failed() {
					t.Fatalf("at point %d (%s)", i+1, points[i])
				}
			}
		})
	}
}

var (
	one = []string{"vm1"}
	two = []string{"vm1", "vm2"}
)

// most is the estate of the longest tests: a smaller one under the race detector.
func most() []string {
	if raceEnabled {
		return one
	}
	return two
}

func TestACrashBetweenAnyTwoLinesConverges(t *testing.T) {
	atEvery(t, most(), 3, nil, func(at int) trouble {
		return func(_ *world, n int, name string) error {
			if n == at {
				panic(crash{name})
			}
			return nil
		}
	})
}

func TestTwoCrashesConverge(t *testing.T) {
	want, points := reference(t, one)
	seed, plays := rand.Uint64(), 150
	if raceEnabled || testing.Short() {
		plays = 10
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for range plays {
		a, b := 1+r.IntN(len(points)), 1+r.IntN(len(points))
		w, _ := play(t, one, func(_ *world, n int, name string) error {
			if n == a || n == a+b {
				panic(crash{name})
			}
			return nil
		})
		if got := summary(t, w, one); got != want {
			t.Fatalf("crashes at points %d and %d (seed %d) end otherwise:\n%swant\n%s", a, a+b, seed, got, want)
		}
		w.atRest(t, estate(t, one)...)
	}
}

// A failure of storage or of Azure, before the effect or with the answer lost.
func TestAnErrorAtAnyPointConverges(t *testing.T) {
	atEvery(t, most(), 3, nil, func(at int) trouble {
		return func(_ *world, n int, name string) error {
			if n == at {
				return fault.New(fault.Transient, "acting", name, "%w", errors.New("the connection broke"))
			}
			return nil
		}
	})
}

// An error that lasts for a while: all that is tried within two minutes fails,
// from any point on.
func TestAnOutageFromAnyPointOnConverges(t *testing.T) {
	atEvery(t, one, 6, nil, func(at int) trouble {
		var ends time.Time
		return func(w *world, n int, name string) error {
			if n == at {
				ends = w.clock.Now().Add(2 * time.Minute)
			}
			if w.clock.Now().Before(ends) && strings.HasPrefix(name, "before ") {
				return fault.New(fault.Transient, "acting", name, "503")
			}
			return nil
		}
	})
}

// A second worker takes all messages that are due while the first is between any
// two lines.
func TestASecondWorkerBetweenAnyTwoLines(t *testing.T) {
	atEvery(t, one, 6, nil, func(at int) trouble {
		return func(w *world, n int, name string) error {
			if n != at {
				return nil
			}
			store, azure := w.store.Hook, w.hook
			w.quiet()
			for second := w.loop(t, policy.ModeEnforce); w.step(&second, nil); {
			}
			w.store.Hook, w.hook = store, azure
			return nil
		}
	})
}

// A worker sleeps between any two lines until long after its lease; others do the
// work, and what it still writes does no harm. Left out is a sleep inside a call
// that Azure hasn't got yet: a call that lands after the lease is sent twice.
func TestALateWriterAtAnyPoint(t *testing.T) {
	inCall := func(point string) bool {
		return strings.HasPrefix(point, "before run-command") || strings.HasPrefix(point, "before des")
	}
	atEvery(t, one, 6, inCall, func(at int) trouble {
		return func(w *world, n int, name string) error {
			if n != at {
				return nil
			}
			store, azure := w.store.Hook, w.hook
			w.quiet()
			w.clock.Advance(DefaultSettings().Lease + time.Second)
			w.drain(t, w.loop(t, policy.ModeEnforce), nil)
			w.store.Hook, w.hook = store, azure
			return nil
		}
	})
}
