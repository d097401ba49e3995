package reconcile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
)

// compliant is a world at rest with its VMs compliant.
func compliant(t testing.TB, names ...string) (*world, *Loop) {
	t.Helper()
	w := newWorld(t, names...)
	l := w.loop(t, policy.ModeEnforce)
	w.announce(t, names...)
	w.drain(t, l, nil)
	for _, n := range names {
		if r := w.row(t, mustVM(t, n)); r.Verdict != policy.Compliant {
			t.Fatalf("%s is %s: %+v", n, r.Verdict, r.Findings)
		}
		w.atRest(t, mustVM(t, n))
	}
	return w, l
}

// Rule 6: a look-again that another one replaced is let go, if the row is released.
func TestALookAgainOfAnotherTimeIsLetGo(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	etag, reads := w.row(t, o).ETag, w.reads["VM"]
	for _, due := range []time.Duration{-time.Hour, time.Second, 100 * time.Hour} {
		if err := l.Turn(t.Context(), o.message(ledger.Cause{Kind: causeLookAgain}, w.clock.Now().Add(due))); err != nil {
			t.Fatal(err)
		}
	}
	if w.row(t, o).ETag != etag || w.reads["VM"] != reads {
		t.Error("a turn was taken")
	}
	if err := l.Turn(t.Context(), o.message(ledger.Cause{Kind: causeLookAgain}, w.row(t, o).NextLook)); err != nil {
		t.Fatal(err)
	}
	if w.reads["VM"] == reads {
		t.Error("no turn was taken by the row's own")
	}
}

// Rule 6: a look-again that comes before its time is that time's only message: it
// takes its turn, whatever the clock says, and another one is on its way.
func TestALookAgainThatComesEarly(t *testing.T) {
	for _, skew := range []time.Duration{-5 * time.Second, -20 * time.Millisecond, 20 * time.Millisecond, 5 * time.Second} {
		t.Run(skew.String(), func(t *testing.T) {
			w := newWorld(t, "vm1")
			o := mustVM(t, "vm1")
			workers := []*Loop{w.loop(t, policy.ModeEnforce), w.loop(t, policy.ModeEnforce)} // who take turns
			workers[1].Now = func() time.Time { return w.clock.Now().Add(skew) }             // by another clock
			w.announce(t, "vm1", "vm1")
			q := w.store.Queue()
			for n := range 200 {
				if w.step(&workers[n%2], nil) {
					continue
				}
				at, any := q.Next(ledger.QueueReconcile)
				if !any || at.Sub(w.clock.Now()) > horizon {
					break
				}
				w.clock.Set(at)
			}
			if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" || w.row(t, o).Verdict != policy.Compliant {
				t.Errorf("%s after %s", w.row(t, o).Verdict, got)
			}
			w.atRest(t, o)
			// The look of the next day, whose turn finds that it is an hour until the next.
			w.clock.Set(w.row(t, o).NextLook.Add(-time.Minute))
			w.deny["VM"] = denied("reading VM", "vm1", "Microsoft.Compute/virtualMachines/read", 1)
			for n := range 6 {
				w.until(t, workers[(n+1)%2], time.Hour)
				w.atRest(t, o)
				if r := w.row(t, o); r.Verdict != policy.Unknown || w.clock.Now().Sub(r.LastSeen) > time.Hour+time.Minute {
					t.Fatalf("%s, last seen %s ago", r.Verdict, w.clock.Now().Sub(r.LastSeen))
				}
			}
		})
	}
}

// A look further away than a message may be hidden.
func TestALookWeeksAway(t *testing.T) {
	w := newWorld(t, "vm1")
	w.policy = "schemaVersion: 1\nname: month\nattestation: {maxAge: 720h}\n"
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.announce(t, "vm1")
	for day := range 40 {
		w.until(t, l, 24*time.Hour)
		w.atRest(t, o)
		want := 1
		if day >= 30 {
			want = 2
		}
		if got := w.count("run-command"); got != want {
			t.Fatalf("day %d: evidence was collected %d times, not %d", day+1, got, want)
		}
	}
}

// Rule 6: the next look is brought forward or, once passed, set anew; never put
// off, cleared or added to.
func TestNextLook(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	now := w.clock.Now()
	for _, c := range []struct {
		name     string
		row, at  time.Duration // from now
		want     time.Duration
		messages int
	}{
		{"passed: set anew", -time.Second, time.Hour, time.Hour, 1},
		{"just now: set anew", 0, time.Hour, time.Hour, 1},
		{"sooner: brought forward", time.Hour, time.Minute, time.Minute, 1},
		{"later: not put off", time.Minute, time.Hour, time.Minute, 0},
		{"the same: not added to", time.Minute, time.Minute, time.Minute, 0},
		{"a split microsecond: never before its time", -time.Second, time.Minute + 1, time.Minute + time.Microsecond, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, _ := w.queued(t)
			h := &held{loop: l, object: o, row: ledger.Row{NextLook: now.Add(c.row)}}
			got, err := l.schedule(t.Context(), h, now.Add(c.at))
			if err != nil || !got.Equal(now.Add(c.want)) {
				t.Errorf("%s from now, %v", got.Sub(now), err)
			}
			after, at := w.queued(t)
			if len(after) != len(before)+c.messages {
				t.Errorf("%d messages more", len(after)-len(before))
			}
			if i := slices.IndexFunc(after, func(m Message) bool { return m.Due.Equal(got) }); c.messages > 0 && (i < 0 || at[i].Before(got)) {
				t.Errorf("message %d for %s", i, got)
			}
		})
	}
	// A look that would have been in the past is an hour away, not at once.
	h := &held{loop: l, object: o}
	att := *w.row(t, o).Attestation
	att.JudgedAt = now.Add(-100 * time.Hour)
	if got := l.nextLook(h, &view{att: &att}, now); !got.Equal(now.Add(l.Settings.SlowPace)) {
		t.Errorf("%s", got.Sub(now))
	}
}

// Enqueue first, row second: at no write of a row is there a next look to come
// without its message, all through a play.
func TestEnqueueFirstRowSecond(t *testing.T) {
	objects := estate(t, two)
	n := 0
	play(t, two, func(w *world, _ int, name string) error {
		if len(name) < 13 || name[:13] != "after replace" {
			return nil
		}
		now := w.clock.Now()
		msgs, _ := w.queued(t)
		for _, o := range objects {
			e, err := w.store.Tables().Get(t.Context(), o.Table, o.PK, o.RK)
			if err != nil {
				continue // not there yet
			}
			r, err := ledger.DecodeRow(e)
			if err != nil {
				t.Fatal(err)
			}
			if !r.NextLook.After(now) {
				continue
			}
			n++
			if !slices.ContainsFunc(msgs, func(m Message) bool { return m.Due.Equal(r.NextLook) }) {
				t.Errorf("after %s: no message for %s's next look", name, last(o.ID))
			}
		}
		return nil
	})
	if n == 0 {
		t.Error("no next look was seen")
	}
}

// A turn that can't enqueue doesn't write the row's next look either.
func TestAQueueThatIsAway(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeObserve), mustVM(t, "vm1")
	w.store.Hook = func(a memstore.Action) error {
		if a.Op == "enqueue" {
			return notFound("queue")
		}
		return nil
	}
	if err := l.Turn(t.Context(), w.event("vm1", "first")); err == nil {
		t.Fatal("the message was let go")
	}
	w.quiet()
	if r := w.row(t, o); !r.NextLook.IsZero() || r.HeadSeq != 0 || r.Verdict != "" {
		t.Errorf("next look %s, %d records, %s", r.NextLook, r.HeadSeq, r.Verdict)
	}
}
