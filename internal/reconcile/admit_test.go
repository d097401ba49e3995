package reconcile

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// A turn that sends nothing doesn't touch table brakes, one that only collects
// evidence reads the breaker's row, one that changes something notes it once.
func TestWhatTheBrakesCost(t *testing.T) {
	w := newWorld(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	x := &tables{Tables: l.Tables}
	l.Tables = x
	w.announce(t, "vm1")
	w.until(t, l, time.Second)
	if got := fmt.Sprint(x.calls); got != "[get get]" || w.count("run-command") != 1 {
		t.Errorf("for evidence: %s", got)
	}
	x.calls = nil
	w.drain(t, l, nil)
	if got := fmt.Sprint(x.calls); got != "[get query insert get]" || w.count("tags") != 1 {
		t.Errorf("for a change: %s", got)
	}
	x.calls = nil
	w.send(t, w.event("vm1", "nothing"))
	w.drain(t, l, nil)
	if len(x.calls) != 0 {
		t.Errorf("for nothing: %v", x.calls)
	}
}

// Table brakes that can't be read: nothing is sent. What passes is tried again with
// the message; what doesn't is shown, and the VM is judged all the same.
func TestBrakesThatCannotBeRead(t *testing.T) {
	t.Run("for a while", func(t *testing.T) {
		w := newWorld(t, "vm1")
		l := w.loop(t, policy.ModeEnforce)
		x := &tables{Tables: l.Tables, fail: fault.New(fault.Transient, "reading", "", "503")}
		l.Tables = x
		w.announce(t, "vm1")
		w.until(t, l, 5*time.Minute)
		if len(w.writes) != 0 || len(x.calls) == 0 {
			t.Fatalf("%v after %v", w.writes, x.calls)
		}
		x.fail = nil
		w.drain(t, l, nil)
		if w.row(t, mustVM(t, "vm1")).Verdict != policy.Compliant {
			t.Error(w.row(t, mustVM(t, "vm1")).Verdict)
		}
	})
	t.Run("for good", func(t *testing.T) {
		w := newWorld(t, "vm1")
		l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
		if _, err := l.brakes().Trip(t.Context(), ledger.Breaker{}, w.clock.Now(), "a test", 9, "p"); err != nil {
			t.Fatal(err)
		}
		was := ""
		w.store.Tables().Corrupt(ledger.TableBrakes, "breaker", "state", func(cols map[string]string) { was, cols["tripped"] = cols["tripped"], "perhaps" })
		w.announce(t, "vm1")
		w.drain(t, l, nil)
		if r := w.row(t, o); len(w.writes) != 0 || r.Braked != BrakeUnreadable || r.Verdict != policy.Unknown || r.NextLook.IsZero() {
			t.Errorf("%v, braked by %q, %s, next look %s", w.writes, r.Braked, r.Verdict, r.NextLook)
		}
		w.stepsBlocked(t, o, "can't be read")
		w.store.Tables().Corrupt(ledger.TableBrakes, "breaker", "state", func(cols map[string]string) { cols["tripped"] = was })
		if _, err := l.ResetBreaker(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
		w.drain(t, l, nil)
		if r := w.row(t, o); r.Verdict != policy.Compliant || r.Braked != "" {
			t.Errorf("%s, braked by %q", r.Verdict, r.Braked)
		}
	})
}

// A VM's share of steps for a day: evidence isn't counted.
func TestTheStepLimit(t *testing.T) {
	const most = 3
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	l.Policy = braked(t, func(b *policy.Brakes) { b.MaxStepsPerVMPerDay, b.MaxChangedBack = most, 1000 })
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	first := w.row(t, o).Sends[ledger.SendKey(remedy.Step{Kind: remedy.Tag, Target: o.ID})][0]
	for i := range most + 2 {
		w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.rerun("vm1", fmt.Sprint("removed", i)))
		w.until(t, l, time.Minute)
	}
	if w.count("tags") != most || w.count("run-command") != most+3 {
		t.Fatalf("%v", w.writes)
	}
	r := w.row(t, o)
	if r.Braked != BrakeLimit || !r.NextLook.Equal(first.Add(guardWindow)) {
		t.Errorf("braked by %q, next look at %s, the first step is a day old at %s", r.Braked, r.NextLook, first.Add(guardWindow))
	}
	w.stepsBlocked(t, o, "brakes.maxStepsPerVMPerDay")
	n := len(w.records(t, o))
	w.until(t, l, first.Add(guardWindow).Sub(w.clock.Now())-time.Minute)
	if got := len(w.records(t, o)); got != n {
		t.Errorf("%d records more while it is held", got-n)
	}
	w.until(t, l, 10*time.Minute)
	if w.count("tags") != most+1 || w.row(t, o).Braked != "" {
		t.Errorf("%v, braked by %q", w.writes, w.row(t, o).Braked)
	}
	w.atRest(t, o)
}

// A crash at any point around the limit: never is more changed than may be, and what
// rests is either done or held by the breaker.
func TestTheBreakerAndACrashAtAnyPoint(t *testing.T) {
	all := []string{"vm1", "vm2", "vm3"}
	run := func(at int) (points int) {
		w := newWorld(t, all...)
		doc := braked(t, func(b *policy.Brakes) { b.MaxVMsPerHour = 2 })
		start := func() *Loop { l := w.loop(t, policy.ModeEnforce); l.Policy = doc; return l }
		w.announce(t, all...)
		point := func(name string) error {
			if points++; points == at {
				panic(crash{name})
			}
			return nil
		}
		w.store.Hook = func(a memstore.Action) error { return point(a.Op + a.Name) }
		w.hook = point
		w.drain(t, start(), start)
		w.quiet()
		changed, held := w.changedVMs(all), 0
		for _, n := range all {
			o := mustVM(t, n)
			w.atRest(t, o)
			if r := w.row(t, o); r.Braked == BrakeBreaker {
				held++
			}
		}
		if len(changed) > 2 || len(changed)+held != len(all) || !w.breaker(t).Tripped || w.count("tags") > 2 {
			t.Errorf("a crash at point %d: %v were changed, %d are held, tripped %t, %v", at, changed, held, w.breaker(t).Tripped, w.writes)
		}
		return points
	}
	stride := 4
	if raceEnabled || testing.Short() {
		stride = 20
	}
	points := run(0)
	for at := 1 + rand.IntN(stride); at <= points && !t.Failed(); at += stride {
		run(at)
	}
}
