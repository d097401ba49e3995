package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// braked is a document of mode enforce with other brakes.
func braked(t testing.TB, change func(*policy.Brakes)) *policy.Document {
	t.Helper()
	doc := *document(t, "", policy.ModeEnforce)
	change(&doc.Brakes)
	return &doc
}

func names(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("vm%02d", i+1))
	}
	return out
}

// tables counts the calls that read or write table brakes.
type tables struct {
	ledger.Tables
	mu    sync.Mutex
	calls []string
	fail  error
}

func (x *tables) note(op, table string) error {
	if table != ledger.TableBrakes {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.calls = append(x.calls, op)
	return x.fail
}

func (x *tables) Get(ctx context.Context, table, pk, rk string) (ledger.Entity, error) {
	if err := x.note("get", table); err != nil {
		return ledger.Entity{}, err
	}
	return x.Tables.Get(ctx, table, pk, rk)
}

func (x *tables) Insert(ctx context.Context, table string, e ledger.Entity) (string, error) {
	if err := x.note("insert", table); err != nil {
		return "", err
	}
	return x.Tables.Insert(ctx, table, e)
}

func (x *tables) Query(ctx context.Context, table string, f ledger.Filter, yield func(ledger.Entity) bool) error {
	if err := x.note("query", table); err != nil {
		return err
	}
	return x.Tables.Query(ctx, table, f, yield)
}

func (w *world) breaker(t testing.TB) ledger.Breaker {
	t.Helper()
	b, err := ledger.Brakes{Tables: w.store.Tables()}.Breaker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stepsBlocked checks what the last record of an object says: that its steps are held back, and why.
func (w *world) stepsBlocked(t testing.TB, o Object, why string) {
	t.Helper()
	recs := w.records(t, o)
	r := recs[len(recs)-1].Record
	if r.Type != ledger.TypeState || r.Plan == nil || len(r.Plan.Steps) == 0 {
		t.Fatalf("%s: its last record is a %s with plan %+v", last(o.ID), r.Type, r.Plan)
	}
	for _, s := range r.Plan.Steps {
		if s.State == remedy.Planned || s.State == remedy.Blocked && !strings.Contains(s.Why, why) {
			t.Errorf("%s: step %s is %s: %q", last(o.ID), s.Kind, s.State, s.Why)
		}
	}
}

// The breaker trips after so many VMs, and from then on nothing at all is written,
// whatever comes, until a person resets it.
func TestTheBreakerTrips(t *testing.T) {
	const most = 5
	all := names(12)
	w := newWorld(t, all...)
	doc := braked(t, func(b *policy.Brakes) { b.MaxVMsPerHour = most })
	start := func() *Loop { l := w.loop(t, policy.ModeEnforce); l.Policy = doc; return l }
	l := start()
	w.announce(t, all...)
	w.drain(t, l, nil)
	if w.count("tags") != most || !w.breaker(t).Tripped {
		t.Fatalf("%d VMs were changed, the most is %d; %+v", w.count("tags"), most, w.breaker(t))
	}
	if b := w.breaker(t); b.Count != most+1 || b.Policy != doc.Hash || !strings.Contains(b.Why, "brakes.breaker.vmsPerHour") || b.At.IsZero() {
		t.Errorf("%+v", b)
	}
	wrote, heldBack := len(w.writes), 0
	for _, n := range all {
		o := mustVM(t, n)
		if r := w.row(t, o); r.Braked != "" {
			heldBack++
			w.stepsBlocked(t, o, "cvmguard brakes reset")
			if r.Braked != BrakeBreaker || !r.NextLook.IsZero() && r.NextLook.Sub(w.clock.Now()) < time.Hour {
				t.Errorf("%s: braked by %q, next look at %s", n, r.Braked, r.NextLook)
			}
		}
	}
	if heldBack != len(all)-most {
		t.Errorf("%d VMs are held back", heldBack)
	}
	// A new process, reruns that ask for evidence, hours: nothing is sent, and the
	// records don't grow for it.
	l = start()
	for round := range 3 {
		for i, n := range all {
			w.send(t, w.rerun(n, fmt.Sprint("again", i, round)))
		}
		w.until(t, l, 2*time.Hour)
	}
	if len(w.writes) != wrote {
		t.Fatalf("after it tripped: %v", w.writes[wrote:])
	}
	records := 0
	for _, n := range all {
		w.atRest(t, mustVM(t, n))
		records += len(w.records(t, mustVM(t, n)))
	}
	w.send(t, w.event("vm01", "once more"))
	w.until(t, l, time.Hour)
	for _, n := range all {
		records -= len(w.records(t, mustVM(t, n)))
	}
	if records != 0 {
		t.Errorf("%d records more for nothing", -records)
	}
	woken, err := l.ResetBreaker(t.Context(), "key:default")
	if err != nil || woken != len(all) { // by now all of them want evidence
		t.Fatalf("%d were woken, %v", woken, err)
	}
	if b := w.breaker(t); b.Tripped || b.ResetBy != "key:default" || b.Epoch != 1 || !b.ResetAt.Equal(w.clock.Now()) {
		t.Errorf("%+v", b)
	}
	w.drain(t, l, nil)
	if got := w.count("tags"); got != 2*most {
		t.Errorf("%d VMs were changed by then, not %d", got, 2*most)
	}
	if b := w.breaker(t); !b.Tripped || b.Epoch != 1 {
		t.Errorf("%+v", b)
	}
	w.clock.Advance(2 * time.Hour)
	if _, err := l.ResetBreaker(t.Context(), "key:default"); err != nil {
		t.Fatal(err)
	}
	w.drain(t, l, nil)
	if got := w.count("tags"); got != len(all) || w.breaker(t).Tripped {
		t.Errorf("%d VMs were changed in the end, %+v", got, w.breaker(t))
	}
	for _, n := range all {
		if r := w.row(t, mustVM(t, n)); r.Braked != "" || r.Verdict != policy.Compliant {
			t.Errorf("%s is %s, braked by %q", n, r.Verdict, r.Braked)
		}
	}
}

// Any number of workers together never change more than so many, and what was
// tripped stays so.
func TestTheBreakerWithManyWorkers(t *testing.T) {
	const most, workers = 8, 6
	all := names(30)
	w := newWorld(t, all...)
	doc := braked(t, func(b *policy.Brakes) { b.MaxVMsPerHour = most })
	w.announce(t, all...)
	var wg sync.WaitGroup
	end := w.clock.Now().Add(20 * time.Minute)
	for range workers {
		l := w.loop(t, policy.ModeEnforce)
		l.Policy = doc
		wg.Go(func() {
			for w.clock.Now().Before(end) {
				if !w.step(&l, nil) {
					w.clock.Advance(time.Second)
				}
			}
		})
	}
	wg.Wait()
	l := w.loop(t, policy.ModeEnforce)
	l.Policy = doc
	w.drain(t, l, nil)
	// A change is counted before it is sent, and one that was counted isn't sent if
	// another worker trips the breaker in between: never more, and of each other
	// worker one fewer at most. How many exactly, one worker alone shows.
	if got := w.count("tags"); got > most || got < most-(workers-1) || !w.breaker(t).Tripped {
		t.Errorf("%d were changed, the most is %d; tripped %t", got, most, w.breaker(t).Tripped)
	}
	wrote := len(w.writes)
	w.announce(t, all...)
	w.until(t, l, 3*time.Hour)
	if len(w.writes) != wrote {
		t.Errorf("after it tripped: %v", w.writes[wrote:])
	}
}

// The share counts from so many changed objects on, of the VMs that there are.
func TestTheBreakersShare(t *testing.T) {
	for name, c := range map[string]struct {
		share, from, sweep int
		changed            int
	}{
		"half":                          {50, 1, 0, 10},
		"a tenth, but not below a few":  {10, 4, 0, 3},
		"none":                          {0, 1, 0, 20},
		"by the last sweep":             {50, 1, 1000, 20},
		"the last sweep's is too small": {50, 1, 3, 10},
	} {
		t.Run(name, func(t *testing.T) {
			all := names(20)
			w := newWorld(t, all...)
			l := w.loop(t, policy.ModeEnforce)
			l.Policy = braked(t, func(b *policy.Brakes) { b.MaxSharePerHour, b.ShareFrom = 0, c.from })
			w.announce(t, all...)
			w.drain(t, l, nil)
			w.clock.Advance(2 * time.Hour)
			if c.sweep > 0 {
				if err := l.brakes().SetEstate(t.Context(), c.sweep, w.clock.Now()); err != nil {
					t.Fatal(err)
				}
			}
			before := w.count("tags")
			for _, n := range all {
				w.change(n, func(v *cvm.VM) { v.Tags = nil })
			}
			l.Policy = braked(t, func(b *policy.Brakes) { b.MaxSharePerHour, b.ShareFrom = c.share, c.from })
			w.announce(t, all...)
			w.drain(t, l, nil)
			if got := w.count("tags") - before; got != c.changed || w.breaker(t).Tripped == (c.changed == len(all)) {
				t.Errorf("%d were changed, not %d: %+v", got, c.changed, w.breaker(t))
			}
		})
	}
}

// What trips it between the intent and the call stops the call; what is under way
// is brought to its end and recorded.
func TestTheBreakerRightBeforeTheCall(t *testing.T) {
	w := newWorld(t, "vm1", "vm2")
	l := w.loop(t, policy.ModeEnforce)
	trip := func() {
		books := l.brakes()
		b, err := books.Breaker(context.Background())
		if err == nil {
			_, err = books.Trip(context.Background(), b, w.clock.Now(), "a test", 9, "p")
		}
		if err != nil {
			t.Error(err)
		}
	}
	o := mustVM(t, "vm1")
	w.once(func(a memstore.Action) bool {
		return a.After && a.Op == "create" && strings.HasPrefix(a.Name, ledger.ContainerRecords+"/"+o.Chain())
	}, trip)
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	if out := w.outcomes(t, o, remedy.CollectEvidence); len(w.writes) != 0 || len(out) != 1 || out[0].State != remedy.Blocked || out[0].Code != codeBreaker || !out[0].NotBefore.IsZero() {
		t.Fatalf("%v, outcomes %+v", w.writes, out)
	}
	if r := w.row(t, o); r.Braked != BrakeBreaker || len(r.Hold) != 0 {
		t.Errorf("braked by %q, hold %v", r.Braked, r.Hold)
	}
	w.atRest(t, o)
	w.quiet()
	if _, err := l.ResetBreaker(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	w.until(t, l, time.Second)
	if w.count("run-command vm1") != 1 || w.row(t, o).Step == nil {
		t.Fatalf("after the reset: %v", w.writes)
	}
	trip() // with the step under way
	w.drain(t, l, nil)
	if out := w.outcomes(t, o, remedy.CollectEvidence); len(out) != 2 || out[1].State != remedy.Done || w.row(t, o).Verdict != policy.Compliant || w.count("tags") != 0 {
		t.Errorf("%+v, %s, %v", out, w.row(t, o).Verdict, w.writes)
	}
	w.atRest(t, o)
}

// A reset that falls between a look at the breaker and the row that shows it held
// wakes the object all the same.
func TestAResetWhileAnObjectIsFoundBraked(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	if _, err := l.brakes().Trip(t.Context(), ledger.Breaker{}, w.clock.Now(), "a test", 9, "p"); err != nil {
		t.Fatal(err)
	}
	w.once(recordOf(o), func() {
		if n, err := l.ResetBreaker(context.Background(), "x"); n != 0 || err != nil {
			t.Errorf("%d woken, %v", n, err)
		}
	})
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Compliant || r.Braked != "" {
		t.Errorf("%s, braked by %q", r.Verdict, r.Braked)
	}
	w.atRest(t, o)
}

// The canary and the breaker's count concern the steps that change something, but for
// those that bring a VM back.
func TestWhatTheBreakerCounts(t *testing.T) {
	back := []remedy.Kind{remedy.Start, remedy.StartWave, remedy.ClearMark}
	for _, k := range remedy.Kinds() {
		if got, want := canaryHolds(remedy.Step{Kind: k}), k.Changes() && !slices.Contains(back, k); got != want {
			t.Errorf("%s: %t", k, got)
		}
	}
	for _, k := range []remedy.Kind{remedy.CollectEvidence, remedy.CheckRotation, remedy.CheckRecreation} {
		if canaryHolds(remedy.Step{Kind: k}) {
			t.Errorf("%s, which only looks, is counted as a change", k)
		}
	}
}
