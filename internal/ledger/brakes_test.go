package ledger_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

func TestBreakerIsSticky(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	b := ledger.Brakes{Tables: s.Tables()}
	fresh, err := b.Breaker(ctx)
	if err != nil || fresh != (ledger.Breaker{}) {
		t.Fatalf("%+v, %v", fresh, err)
	}
	if was, err := b.Reset(ctx, t0, "x"); err != nil || was.Tripped {
		t.Errorf("a reset of one that hasn't tripped: %+v, %v", was, err)
	}
	first, err := b.Trip(ctx, fresh, t0, "too many", 6, "p1")
	if err != nil || !first.Tripped {
		t.Fatal(first, err)
	}
	// Another worker that was slower: the first word stands.
	second, err := b.Trip(ctx, fresh, t0.Add(time.Second), "far too many", 7, "p1")
	if err != nil || second.Why != "too many" || !second.At.Equal(t0) {
		t.Errorf("%+v, %v", second, err)
	}
	if was, err := b.Reset(ctx, t0.Add(time.Hour), "jane"); err != nil || was.Count != 6 {
		t.Errorf("%+v, %v", was, err)
	}
	now, err := b.Breaker(ctx)
	if err != nil || now.Tripped || now.Epoch != 1 || now.ResetBy != "jane" || !now.ResetAt.Equal(t0.Add(time.Hour)) || now.Why != "" {
		t.Errorf("%+v, %v", now, err)
	}
	// A worker that counted before the reset doesn't trip what a person has set again.
	if late, err := b.Trip(ctx, first, t0.Add(time.Hour), "late", 9, "p1"); err != nil || late.Tripped || late.Epoch != 1 {
		t.Errorf("%+v, %v", late, err)
	}
	s.Tables().Corrupt(ledger.TableBrakes, "breaker", "state", func(cols map[string]string) { cols["tripped"] = "no" })
	if _, err := b.Breaker(ctx); !fault.Is(err, fault.Bug) || !strings.Contains(err.Error(), "column tripped") {
		t.Errorf("an unreadable row: %v", err)
	}
}

func TestChanges(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	b := ledger.Brakes{Tables: s.Tables()}
	count := func(state ledger.Breaker, at time.Time, want int) {
		t.Helper()
		if c, err := b.Changes(ctx, state, at); err != nil || len(c.At) != want {
			t.Errorf("at %s: %v, not %d, %v", at, c.At, want, err)
		}
	}
	change := func(state ledger.Breaker, chain string, at time.Time) {
		t.Helper()
		c, err := b.Changes(ctx, state, at)
		fatal(t, err)
		if ok, err := b.Change(ctx, state, c, chain, "id"); !ok || err != nil {
			t.Errorf("%s at %s: %t, %v", chain, at, ok, err)
		}
	}
	var state ledger.Breaker
	count(state, t0, 0)
	for i := range 4 {
		at := t0.Add(time.Duration(i) * 20 * time.Minute)
		change(state, fmt.Sprint("chain", i), at)
		change(state, fmt.Sprint("chain", i), at.Add(time.Minute)) // twice is once
	}
	change(state, "chain0", t0.Add(50*time.Minute)) // once more: it counts from then on
	count(state, t0.Add(59*time.Minute), 4)
	count(state, t0.Add(time.Hour+20*time.Minute), 3)
	count(state, t0.Add(time.Hour+40*time.Minute), 2)
	count(state, t0.Add(4*time.Hour), 0)
	count(ledger.Breaker{Epoch: 1}, t0, 0) // after a reset nothing was changed yet
	count(ledger.Breaker{Epoch: 10}, t0, 0)
	change(ledger.Breaker{Epoch: 1}, "chain9", t0)
	count(ledger.Breaker{Epoch: 1}, t0, 1)
	c, err := b.Changes(ctx, state, t0.Add(time.Hour))
	if err != nil || c.With("chain1") != 4 || c.With("other") != 5 {
		t.Errorf("%v: %d %d, %v", c.At, c.With("chain1"), c.With("other"), err)
	}
	change(state, "chain7", t0.Add(time.Hour))
	if ok, err := b.Change(ctx, state, c, "chain8", "id"); ok || err != nil {
		t.Errorf("somebody was quicker: %t, %v", ok, err)
	}
	if n, err := b.Prune(ctx, t0.Add(30*time.Minute)); n != 3 || err != nil {
		t.Errorf("%d were pruned, %v", n, err)
	}
	count(state, t0.Add(time.Hour), 4)
	if n, err := b.Prune(ctx, t0.Add(30*time.Hour)); n != 4 || err != nil {
		t.Errorf("%d were pruned, %v", n, err)
	}
	change(state, "chain8", t0.Add(30*time.Hour))
	count(state, t0.Add(30*time.Hour), 1)
	s.Tables().Corrupt(ledger.TableBrakes, "changed-0", "9999999998", func(cols map[string]string) { cols["at"] = "now" })
	if _, err := b.Changes(ctx, state, t0); !fault.Is(err, fault.Bug) {
		t.Errorf("an unreadable change: %v", err)
	}
}

// Any number of workers, their clocks apart: exactly as many get through as may.
func TestExactlySoManyChanges(t *testing.T) {
	const most = 10
	b := ledger.Brakes{Tables: memstore.New(nil).Tables()}
	var through atomic.Int64
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			chain := fmt.Sprint("chain", i)
			for {
				c, err := b.Changes(t.Context(), ledger.Breaker{}, t0.Add(time.Duration(-i%7)*time.Second))
				if err != nil {
					t.Error(err)
					return
				}
				if c.With(chain) > most {
					return
				}
				ok, err := b.Change(t.Context(), ledger.Breaker{}, c, chain, "id")
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					through.Add(1)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := through.Load(); n != most {
		t.Errorf("%d got through", n)
	}
}

// A worker whose clock is hours behind hides nothing that others have changed.
func TestAClockThatIsBehind(t *testing.T) {
	const most = 10
	b := ledger.Brakes{Tables: memstore.New(nil).Tables()}
	through := 0
	for i := range 40 {
		now := t0.Add(time.Duration(i) * time.Second)
		if i%2 == 1 {
			now = now.Add(-2 * time.Hour)
		}
		chain := fmt.Sprint("chain", i)
		c, err := b.Changes(t.Context(), ledger.Breaker{}, now)
		fatal(t, err)
		if c.With(chain) > most {
			continue
		}
		if ok, err := b.Change(t.Context(), ledger.Breaker{}, c, chain, "id"); !ok || err != nil {
			t.Fatal(ok, err)
		}
		through++
	}
	if through != most {
		t.Errorf("%d got through, the most is %d", through, most)
	}
	// One that was days ahead for a moment doesn't date what comes after it.
	c, err := b.Changes(t.Context(), ledger.Breaker{Epoch: 1}, t0.Add(72*time.Hour))
	fatal(t, err)
	if _, err := b.Change(t.Context(), ledger.Breaker{Epoch: 1}, c, "ahead", "id"); err != nil {
		t.Fatal(err)
	}
	c, err = b.Changes(t.Context(), ledger.Breaker{Epoch: 1}, t0)
	fatal(t, err)
	if _, err := b.Change(t.Context(), ledger.Breaker{Epoch: 1}, c, "chain1", "id"); err != nil {
		t.Fatal(err)
	}
	if c, err = b.Changes(t.Context(), ledger.Breaker{Epoch: 1}, t0.Add(2*time.Hour)); err != nil || c.With("ahead") != 1 {
		t.Errorf("%v, %v", c.At, err)
	}
}

func TestCanaryPlaces(t *testing.T) {
	const places = 3
	s := memstore.New(nil)
	b := ledger.Brakes{Tables: s.Tables()}
	var taken atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			ok, err := b.TakePlace(t.Context(), "p1", places, ledger.CanaryPlace{Chain: fmt.Sprint("chain", i), ID: "id", Shared: cvm.SharedKey, Was: policy.Compliant, At: t0.Add(time.Duration(i))})
			if err != nil {
				t.Error(err)
			}
			if ok {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	c, err := b.Canary(t.Context(), "p1")
	if err != nil || taken.Load() != places || len(c.Places) != places || !c.ReleasedAt.IsZero() || !c.Holds(c.Places[0].Chain) || c.Holds("chain99") {
		t.Fatalf("%d were taken: %+v, %v", taken.Load(), c, err)
	}
	if p := c.Places[2]; p.Shared != cvm.SharedKey || p.Was != policy.Compliant || p.ID != "id" || !p.At.Equal(c.Last()) {
		t.Errorf("%+v", p)
	}
	if ok, err := b.TakePlace(t.Context(), "p1", places, c.Places[1]); !ok || err != nil {
		t.Errorf("whose answer was lost: %t, %v", ok, err)
	}
	if other, err := b.Canary(t.Context(), "p2"); err != nil || len(other.Places) != 0 {
		t.Errorf("%+v, %v", other, err)
	}
	fatal(t, b.ReleaseCanary(t.Context(), "p1", "jane", t0))
	fatal(t, b.ReleaseCanary(t.Context(), "p1", "joe", t0.Add(time.Hour)))
	if c, err = b.Canary(t.Context(), "p1"); err != nil || c.ReleasedBy != "jane" || !c.ReleasedAt.Equal(t0) || len(c.Places) != places {
		t.Errorf("%+v, %v", c, err)
	}
	s.Tables().Corrupt(ledger.TableBrakes, "canary-p1", "0002", func(cols map[string]string) { cols["at"] = "now" })
	if _, err := b.Canary(t.Context(), "p1"); !fault.Is(err, fault.Bug) {
		t.Errorf("an unreadable place: %v", err)
	}
}

func TestEstate(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	b := ledger.Brakes{Tables: s.Tables()}
	if n, at, err := b.Estate(ctx); n != 0 || !at.IsZero() || err != nil {
		t.Error(n, at, err)
	}
	for _, n := range []int{3, 4} {
		fatal(t, b.SetEstate(ctx, n, t0))
		if got, at, err := b.Estate(ctx); got != n || !at.Equal(t0) || err != nil {
			t.Error(got, at, err)
		}
	}
	for i := range 6 {
		r := ledger.Row{PK: testSub, RK: fmt.Sprint("r", i), ID: testVM, Verdict: policy.Compliant}
		if i == 0 {
			r.Verdict = policy.Gone
		}
		e, err := r.Entity()
		fatal(t, err)
		_, err = s.Tables().Insert(ctx, ledger.TableVMs, e)
		fatal(t, err)
	}
	for enough, want := range map[int]int{3: 3, 100: 5} {
		if n, err := b.CountVMs(ctx, enough); n != want || err != nil {
			t.Errorf("enough %d: %d, %v", enough, n, err)
		}
	}
}

func TestContested(t *testing.T) {
	r := ledger.Row{ID: testVM}
	step := remedy.Step{Kind: remedy.Tag, Target: testVM, Args: map[string]string{"tag": "t", "value": "v"}}
	other := step
	other.Args = map[string]string{"tag": "t", "value": "w"}
	done := ledger.Outcome{State: remedy.Done}
	for _, kind := range []remedy.Kind{remedy.CollectEvidence, remedy.Deallocate, remedy.Start, remedy.MarkDown, remedy.ClearMark, remedy.RestoreTag} {
		r.Ended(remedy.Step{Kind: kind, Target: testVM}, done, t0, false)
	}
	if len(r.Set) != 0 {
		t.Errorf("these set nothing: %v", r.Set)
	}
	if _, yes := r.ChangedBack(step, t0, 0); yes {
		t.Error("changed back before it was set")
	}
	r.Ended(step, done, t0, false)
	lag := time.Minute
	if _, yes := r.ChangedBack(step, t0.Add(lag-1), lag); yes {
		t.Error("changed back within the lag")
	}
	if _, yes := r.ChangedBack(other, t0.Add(lag), lag); yes {
		t.Error("another value was changed back")
	}
	for i := range 3 {
		times, yes := r.ChangedBack(step, t0.Add(time.Hour), lag)
		if !yes || times != i+1 {
			t.Fatalf("round %d: %d %t", i, times, yes)
		}
		r.CountBack(step)
		r.CountBack(step) // once a time
		if _, yes := r.ChangedBack(step, t0.Add(time.Hour), lag); yes {
			t.Fatal("counted twice")
		}
		r.Ended(step, done, t0, false)
	}
	r.Ended(other, done, t0, false)
	if times, yes := r.ChangedBack(other, t0.Add(time.Hour), lag); !yes || times != 1 {
		t.Errorf("another value is counted anew: %d %t", times, yes)
	}
	r.Ended(other, ledger.Outcome{State: remedy.Blocked, Code: ledger.CodeChangedBack}, t0, false)
	c := r.Contested()
	if len(c) != 1 || c[0] != (cvm.Contest{Step: "tag", On: testVM, Times: 1, Since: t0, Why: ledger.WhyChangedBack}) {
		t.Errorf("%+v", c)
	}
	r.Stop(other, ledger.WhyUndone, t0.Add(time.Hour)) // it stays as it was
	if r.Contested()[0] != c[0] {
		t.Errorf("%+v", r.Contested())
	}
	if r.Resume("start", t0) != 0 || r.Resume("", t0.Add(-1)) != 0 || r.Resume("tag", t0) != 1 || r.Contested() != nil || len(r.Set) != 0 {
		t.Errorf("resumed: %+v, set %v", r.Contested(), r.Set)
	}
	// What there is too much of doesn't overflow the row.
	for i := range 300 {
		s := remedy.Step{Kind: remedy.EncryptDataDisk, Target: fmt.Sprint(testVM, "-", strings.Repeat("x", 80), i)}
		r.Ended(s, done, t0.Add(time.Duration(i)), false)
		r.Stop(s, ledger.WhyChangedBack, t0)
	}
	r.PK, r.RK = testSub, cvm.RowKey(testVM)
	if _, err := r.Entity(); err != nil || len(r.Set) > 50 || len(r.Stopped) > 50 {
		t.Errorf("%d set, %d stopped: %v", len(r.Set), len(r.Stopped), err)
	}
}
