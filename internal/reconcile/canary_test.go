package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// changedVMs are the VMs with a tag.
func (w *world) changedVMs(all []string) (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range all {
		if len(w.vms[vmIDOf(n)].Tags) > 0 {
			out = append(out, n)
		}
	}
	return out
}

func TestTheCanary(t *testing.T) {
	const few = 3
	all := names(10)
	setup := func(t *testing.T, wait time.Duration) (*world, *Loop) {
		w := newWorld(t, all...)
		l := w.loop(t, policy.ModeEnforce)
		l.Policy = braked(t, func(b *policy.Brakes) { b.Canary = policy.Canary{VMs: few, Wait: wait} })
		w.announce(t, all...)
		w.drain(t, l, nil)
		if got := w.changedVMs(all); len(got) != few || w.count("run-command") != len(all) {
			t.Fatalf("changed %v, %d bundles", got, w.count("run-command"))
		}
		return w, l
	}
	held := func(t *testing.T, w *world, until time.Time) (o Object) {
		n := 0
		for _, name := range all {
			r := w.row(t, mustVM(t, name))
			if r.Braked != BrakeCanary {
				continue
			}
			n, o = n+1, mustVM(t, name)
			w.stepsBlocked(t, o, "brakes.canary")
			if !until.IsZero() && !r.NextLook.Equal(until) || until.IsZero() && r.NextLook.Sub(w.clock.Now()) < 12*time.Hour {
				t.Errorf("%s: the next look is at %s, not %s", name, r.NextLook, until)
			}
			w.atRest(t, o)
		}
		if n != len(all)-few {
			t.Errorf("%d are held", n)
		}
		return o
	}
	t.Run("released by time", func(t *testing.T) {
		w, l := setup(t, 6*time.Hour)
		c, err := l.brakes().Canary(t.Context(), l.Policy.Hash)
		if err != nil || len(c.Places) != few {
			t.Fatal(c, err)
		}
		o := held(t, w, c.Last().Add(6*time.Hour))
		n := len(w.records(t, o))
		for i := range 5 {
			w.send(t, w.event(last(o.ID), fmt.Sprint(i)))
			w.until(t, l, time.Hour)
		}
		if len(w.changedVMs(all)) != few || len(w.records(t, o)) != n {
			t.Errorf("before its time: %v, %d records more", w.changedVMs(all), len(w.records(t, o))-n)
		}
		w.until(t, l, 2*time.Hour)
		if got := w.changedVMs(all); len(got) != len(all) {
			t.Errorf("after its time: %v", got)
		}
		if c, err = l.brakes().Canary(t.Context(), l.Policy.Hash); err != nil || c.ReleasedBy != ledger.ReleasedByTime {
			t.Error(c, err)
		}
		// Another policy has a canary of its own.
		other := *l.Policy
		other.Hash = "other"
		l.Policy = &other
		for _, n := range all {
			w.change(n, func(v *cvm.VM) { v.Tags = nil })
		}
		w.announce(t, all...)
		w.drain(t, l, nil)
		if got := w.changedVMs(all); len(got) != few {
			t.Errorf("by another policy: %v", got)
		}
	})
	t.Run("a canary is still being changed", func(t *testing.T) {
		w := newWorld(t, all...)
		l := w.loop(t, policy.ModeEnforce)
		l.Policy = braked(t, func(b *policy.Brakes) { b.Canary = policy.Canary{VMs: few, Wait: 5 * time.Minute} })
		w.announce(t, all...)
		w.hook = func(when string) error {
			if strings.HasPrefix(when, "before tags") {
				w.opTime, w.pace = 30*time.Minute, 30*time.Second
			}
			return nil
		}
		w.until(t, l, 20*time.Minute)
		if n := w.count("tags"); n != few {
			t.Errorf("%d VMs are being changed, not %d", n, few)
		}
		s, err := l.BrakesNow(t.Context())
		if err != nil || len(s.Trouble) != few {
			t.Errorf("%+v, %v", s.Trouble, err)
		}
		w.until(t, l, 5*time.Hour)
		if got := w.changedVMs(all); len(got) != len(all) {
			t.Errorf("in the end: %v", got)
		}
	})
	t.Run("released by a person", func(t *testing.T) {
		w, l := setup(t, 0)
		held(t, w, time.Time{})
		w.until(t, l, 11*time.Hour)
		if len(w.changedVMs(all)) != few {
			t.Errorf("nobody said so: %v", w.changedVMs(all))
		}
		if n, err := l.ReleaseCanary(t.Context(), "jane"); n != len(all)-few || err != nil {
			t.Errorf("%d woken, %v", n, err)
		}
		w.drain(t, l, nil)
		if got := w.changedVMs(all); len(got) != len(all) {
			t.Errorf("%v", got)
		}
		s, err := l.BrakesNow(t.Context())
		if err != nil || s.Canary.ReleasedBy != "jane" || len(s.Held) != 0 || s.Changed == 0 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a canary is worse off", func(t *testing.T) {
		w, l := setup(t, time.Hour)
		name := w.changedVMs(all)[0]
		w.change(name, func(v *cvm.VM) { v.SecureBoot = cvm.False })
		w.send(t, w.event(name, "broken"))
		w.until(t, l, 5*time.Hour)
		if got := w.changedVMs(all); len(got) != few {
			t.Fatalf("%v", got)
		}
		s, err := l.BrakesNow(t.Context())
		if err != nil || len(s.Held) != len(all)-few || s.Held[0].Brake != BrakeCanary || s.Trouble[mustVM(t, name).Chain()] == "" {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("a canary's step failed", func(t *testing.T) {
		w, l := setup(t, time.Hour)
		name := w.changedVMs(all)[0]
		w.ends = func(what string) error {
			if what != "tags "+name {
				return nil
			}
			return fault.New(fault.Blocked, "tagging", name, "a lock")
		}
		w.clock.Advance(time.Minute)
		w.change(name, func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.event(name, "removed"))
		w.until(t, l, 4*time.Hour)
		if got := w.changedVMs(all); len(got) != few-1 {
			t.Fatalf("%v", got)
		}
		s, err := l.BrakesNow(t.Context())
		if err != nil || s.Trouble[mustVM(t, name).Chain()] == "" || s.Ends.IsZero() {
			t.Errorf("%+v, %v", s, err)
		}
		w.ends = nil // the person mends it
		w.until(t, l, 4*time.Hour)
		if got := w.changedVMs(all); len(got) != len(all) {
			t.Errorf("once it is mended: %v", got)
		}
	})
}

// A shared object is a canary only where few VMs hang on it.
func TestTheCanaryAndSharedObjects(t *testing.T) {
	for _, few := range []int{4, 2} {
		all := names(3)
		w := newWorld(t, all...)
		w.des.AutoRotation = true
		l := w.loop(t, policy.ModeEnforce)
		l.Policy = braked(t, func(b *policy.Brakes) { b.Canary = policy.Canary{VMs: few} })
		w.announce(t, all...)
		w.drain(t, l, nil)
		repaired, des := w.count("des auto-rotation"), mustShared(t, string(desID))
		if few == 4 && repaired != 1 || few == 2 && (repaired != 0 || w.row(t, des).Braked != BrakeCanary) {
			t.Fatalf("with %d places the set was repaired %d times, braked by %q", few, repaired, w.row(t, des).Braked)
		}
		if _, err := l.ReleaseCanary(t.Context(), "jane"); err != nil {
			t.Fatal(err)
		}
		w.drain(t, l, nil)
		if w.count("des auto-rotation") != 1 || len(w.changedVMs(all)) != 3 {
			t.Errorf("once released: %v", w.writes)
		}
	}
}
