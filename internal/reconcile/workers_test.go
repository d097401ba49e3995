package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
)

// once is a hook of the store that acts at the first action that at selects.
func (w *world) once(at func(memstore.Action) bool, act func()) {
	done := false
	w.store.Hook = func(a memstore.Action) error {
		if !done && at(a) {
			done = true
			act()
		}
		return nil
	}
}

func recordOf(o Object) func(memstore.Action) bool {
	return func(a memstore.Action) bool {
		return a.Op == "create" && !a.After && strings.HasPrefix(a.Name, ledger.ContainerRecords+"/"+o.Chain())
	}
}

// Rule 2: whoever finds the object claimed leaves one message for after the lease,
// whatever their number, and merges its cause.
func TestOneFollowerALease(t *testing.T) {
	w := newWorld(t, "vm1")
	o := mustVM(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	var lease time.Time
	w.hook = func(when string) error {
		if when != "before run-command vm1" {
			return nil
		}
		w.hook = nil
		lease = w.row(t, o).LeaseEnds
		before, _ := w.queued(t)
		for i := range 3 {
			if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), w.event("vm1", fmt.Sprint("while-claimed-", i))); err != nil {
				t.Error(err)
			}
		}
		// A look-again of a time that isn't the row's is followed like any other.
		if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), o.message(ledger.Cause{Kind: causeLookAgain}, w.clock.Now().Add(-time.Hour))); err != nil {
			t.Error(err)
		}
		after, at := w.queued(t)
		if len(after) != len(before)+1 {
			t.Fatalf("%d messages were added, not one", len(after)-len(before))
		}
		i := slices.IndexFunc(after, func(m Message) bool { return m.Cause.ID == "while-claimed-0" })
		if i < 0 || !after[i].Due.IsZero() || !at[i].Equal(lease.Add(l.Settings.Margin)) {
			t.Errorf("the copy is %+v for %s, the lease ends at %s", after[i], at[i], lease)
		}
		r := w.row(t, o)
		if !r.Again || r.Followed != r.Owner || len(r.Causes) != 3 {
			t.Errorf("again %t, followed %q of %q, causes %+v", r.Again, r.Followed, r.Owner, r.Causes)
		}
		return nil
	}
	if err := l.Turn(t.Context(), w.event("vm1", "first")); err != nil {
		t.Fatal(err)
	}
	// Rule 3: with a step open the holder clears again, and ends.
	if r := w.row(t, o); r.Again || r.Owner != "" || r.Step == nil || w.reads["VM"] > 5 {
		t.Errorf("again %t, owner %q, step %v after %d reads", r.Again, r.Owner, r.Step, w.reads["VM"])
	}
	w.drain(t, l, nil)
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
		t.Error(got)
	}
	w.atRest(t, o)
}

// A follower whose write another one overtakes tries again, and leaves one copy all
// the same; if the lease goes meanwhile, that copy is enough. A look-again's copy
// stands for no time.
func TestAFollowerThatIsOvertaken(t *testing.T) {
	for _, ends := range []bool{false, true} {
		w := newWorld(t, "vm1")
		o := mustVM(t, "vm1")
		l := w.loop(t, policy.ModeEnforce)
		w.once(recordOf(o), func() {
			before, _ := w.queued(t)
			w.once(func(a memstore.Action) bool { return a.Op == "enqueue" && a.After }, func() {
				w.store.Tables().Corrupt(o.Table, o.PK, o.RK, func(cols map[string]string) {
					if ends {
						cols["leaseEnds"] = ledger.TimeText(w.clock.Now())
					}
				})
			})
			reads := w.reads["VM"]
			if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), o.message(ledger.Cause{Kind: causeLookAgain}, w.clock.Now())); err != nil {
				t.Error(err)
			}
			w.quiet()
			after, _ := w.queued(t)
			if len(after) != len(before)+1 || w.reads["VM"] != reads {
				t.Errorf("ends %t: %d copies, %d reads", ends, len(after)-len(before), w.reads["VM"]-reads)
			}
			for _, m := range after {
				if !slices.Contains(before, m) && (m.VM != o.ID || !m.Due.IsZero()) {
					t.Errorf("the copy is %+v", m)
				}
			}
			if r := w.row(t, o); r.Again == ends {
				t.Errorf("ends %t: again %t", ends, r.Again)
			}
		})
		if err := l.Turn(t.Context(), w.event("vm1", "first")); (err != nil) != ends || ends && !errors.Is(err, errLost) {
			t.Errorf("ends %t: the holder's turn: %v", ends, err)
		}
		w.send(t, w.event("vm1", "first"))
		w.drain(t, l, nil)
		if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
			t.Error(got)
		}
	}
}

// A dry run leaves a copy of itself each time, and asks nobody to look again.
// A person's word doesn't wait for the end of a lease that was given up: a pause
// would come steps late.
func TestAWordThatIsOvertakenIsTakenAtOnce(t *testing.T) {
	w := newWorld(t, "vm1")
	o := mustVM(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	w.once(recordOf(o), func() {
		w.once(func(a memstore.Action) bool { return a.Op == "enqueue" && a.After }, func() {
			w.store.Tables().Corrupt(o.Table, o.PK, o.RK, func(cols map[string]string) { cols["leaseEnds"] = ledger.TimeText(w.clock.Now()) })
		})
		reads := w.reads["VM"]
		word := ledger.Cause{Kind: ledger.CauseResume, At: w.clock.Now(), ID: "tag " + o.ID, By: "me"}
		if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), o.message(word, time.Time{})); err != nil {
			t.Error(err)
		}
		w.quiet()
		if w.reads["VM"] == reads {
			t.Error("the word waits for its copy")
		}
	})
	if err := l.Turn(t.Context(), w.event("vm1", "first")); err == nil {
		t.Error("the holder whose lease went goes on")
	}
}

func TestADryRunFollowsByItself(t *testing.T) {
	w := newWorld(t, "vm1")
	o := mustVM(t, "vm1")
	w.once(recordOf(o), func() {
		for range 2 {
			m := w.event("vm1", "dry")
			m.DryRun = true
			if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), m); err != nil {
				t.Error(err)
			}
		}
		msgs, _ := w.queued(t)
		n := 0
		for _, m := range msgs {
			if m.DryRun {
				n++
			}
		}
		if r := w.row(t, o); n != 2 || r.Again || r.Followed != "" {
			t.Errorf("%d copies; again %t, followed %q", n, r.Again, r.Followed)
		}
	})
	if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), w.event("vm1", "first")); err != nil {
		t.Fatal(err)
	}
}

// Rule 3: a holder that finds again set looks once more, and sees what the other
// message came for, though its own turn could do with what is remembered.
func TestAHolderLooksOnceMore(t *testing.T) {
	w := newWorld(t, "vm1")
	o := mustVM(t, "vm1")
	stale := w.des
	stale.AutoRotation = true
	w.remembered = &stale
	l := w.loop(t, policy.ModeObserve)
	w.once(recordOf(o), func() {
		m := Message{VM: o.ID, Cause: ledger.Cause{Kind: causeShared, ID: string(desID), At: w.clock.Now()}}
		if err := w.loop(t, policy.ModeObserve).Turn(t.Context(), m); err != nil {
			t.Error(err)
		}
	})
	if err := l.Turn(t.Context(), w.event("vm1", "first")); err != nil {
		t.Fatal(err)
	}
	if w.reads["VM"] != 2 {
		t.Errorf("the VM was looked at %d times", w.reads["VM"])
	}
	if got := w.history(t, o); fmt.Sprint(got) != "[verdict non-compliant verdict unknown]" {
		t.Errorf("history %v: the second look saw what was remembered", got)
	}
	w.atRest(t, o)
}

// A worker that slept inside a call comes back to find its claim gone: its message
// fails, and what it began was adopted.
func TestALateHolderFailsItsMessage(t *testing.T) {
	w := newWorld(t, "vm1")
	o := mustVM(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	w.hook = func(when string) error {
		if when == "after run-command vm1" {
			w.hook = nil
			w.clock.Advance(l.Settings.Lease)
			if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), w.event("vm1", "second")); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	if err := l.Turn(t.Context(), w.event("vm1", "first")); !errors.Is(err, errLost) {
		t.Errorf("the late holder's turn: %v", err)
	}
	w.drain(t, l, nil)
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
		t.Error(got)
	}
	w.atRest(t, o)
}

// A worker that slept up to the very call doesn't make it once its lease is over,
// though nobody has taken the object yet.
func TestNoCallAfterTheLease(t *testing.T) {
	w := newWorld(t, "vm1")
	o := mustVM(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	w.store.Hook = func(a memstore.Action) error {
		if a.Op == "replace" && a.After && len(w.row(t, o).Sends) > 0 {
			w.quiet()
			w.clock.Advance(l.Settings.Lease)
		}
		return nil
	}
	if err := l.Turn(t.Context(), w.event("vm1", "first")); !errors.Is(err, errLost) || len(w.writes) != 0 {
		t.Errorf("%v, writes %v", err, w.writes)
	}
	w.send(t, w.event("vm1", "first"))
	w.drain(t, l, nil)
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
		t.Error(got)
	}
}

// A turn that fails gives its lease up at once, but not while a call may still
// land whose answer it never had.
func TestWhatAFailedTurnLeaves(t *testing.T) {
	for _, c := range []struct {
		name  string
		call  bool
		leave time.Duration // of the lease
	}{{"storage fails", false, 0}, {"the turn's time is over inside a call", true, DefaultSettings().Lease}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, "vm1")
			o := mustVM(t, "vm1")
			l := w.loop(t, policy.ModeEnforce)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.hook = func(string) error { // the call is on its way when the turn's time is over
				cancel()
				return fault.New(fault.Transient, "putting", "", "%w", context.DeadlineExceeded)
			}
			if !c.call {
				w.store.Hook = func(a memstore.Action) error {
					if recordOf(o)(a) {
						return fault.New(fault.Transient, "writing", a.Name, "503")
					}
					return nil
				}
			}
			start := w.clock.Now()
			if err := l.Turn(ctx, w.event("vm1", "first")); err == nil {
				t.Fatal("the turn did not fail")
			}
			w.quiet()
			r := w.row(t, o)
			if got := r.LeaseEnds.Sub(start); r.Owner == "" || got != c.leave || r.LastError == "" {
				t.Errorf("owner %q, %s of the lease are left, error %q", r.Owner, got, r.LastError)
			}
			w.send(t, w.event("vm1", "first"))
			w.drain(t, l, nil)
			if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
				t.Error(got)
			}
			if r := w.row(t, o); r.LastError != "" {
				t.Errorf("the row still says %q", r.LastError)
			}
		})
	}
}

// Any message takes a turn where one was cut short, a look-again of another time
// too; and a dry run leaves it at that.
func TestATurnCutShortIsMadeGoodByAnyMessage(t *testing.T) {
	for _, dry := range []bool{false, true} {
		w := newWorld(t, "vm1")
		o := mustVM(t, "vm1")
		l := w.loop(t, policy.ModeEnforce)
		w.hook = func(when string) error { panic(crash{when}) }
		if _, crashed := w.deliver(l, w.event("vm1", "first").Encode()); !crashed {
			t.Fatal("no crash")
		}
		w.quiet()
		w.clock.Advance(l.Settings.Lease)
		if dry {
			m := w.event("vm1", "dry")
			m.DryRun = true
			if err := l.Turn(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if w.count("") != 0 {
				t.Errorf("a dry run sent %v", w.writes)
			}
		}
		if err := l.Turn(t.Context(), o.message(ledger.Cause{Kind: causeLookAgain}, w.clock.Now().Add(-time.Minute))); err != nil {
			t.Fatal(err)
		}
		if w.count("run-command") != 1 {
			t.Errorf("dry %t: the open step wasn't driven", dry)
		}
	}
}

// Several workers at once, with all the messages that there are.
func TestWorkersAtOnce(t *testing.T) {
	want, _ := reference(t, two)
	seeds := 12
	if testing.Short() || raceEnabled {
		seeds = 3
	}
	for n := range seeds {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, two...)
			w.des.AutoRotation = true
			for range 5 {
				w.announce(t, two...)
			}
			q := w.store.Queue()
			for range 2000 {
				var workers sync.WaitGroup
				for range 3 {
					workers.Go(func() {
						for l := w.loop(t, policy.ModeEnforce); w.step(&l, nil); {
						}
					})
				}
				workers.Wait()
				at, any := q.Next(ledger.QueueReconcile)
				if !any || at.Sub(w.clock.Now()) > horizon {
					break
				}
				w.clock.Set(at)
			}
			if got := summary(t, w, two); got != want {
				t.Errorf("ends with\n%swant\n%s", got, want)
			}
			w.atRest(t, estate(t, two)...)
		})
	}
}
