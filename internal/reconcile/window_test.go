package reconcile

import (
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// What disturbs waits for a window, with all that belongs to it; what brings a VM
// back, or goes on with what was begun, never does.
func TestWindows(t *testing.T) {
	step := func(k remedy.Kind, d remedy.Disturbs) remedy.Step {
		return remedy.Step{Kind: k, Target: string(k), State: remedy.Planned, Disturbs: d}
	}
	down := []remedy.Step{step(remedy.EncryptDataDisk, remedy.DisturbsDeallocate), step(remedy.Start, remedy.DisturbsNone), step(remedy.ClearMark, remedy.DisturbsNone)}
	whole := append([]remedy.Step{step(remedy.MarkDeallocation, remedy.DisturbsNone), step(remedy.Deallocate, remedy.DisturbsDeallocate), step(remedy.MarkDown, remedy.DisturbsNone)}, down...)
	tag := step(remedy.Tag, remedy.DisturbsNone)
	done := step(remedy.DeallocateWave, remedy.DisturbsDeallocate)
	done.State = remedy.Done
	opening := time.Date(2026, 11, 1, 22, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		power string
		steps []remedy.Step
		now   time.Duration // from noon
		takes remedy.Kind   // "" for none
		holds int
	}{
		"a VM that runs":                     {"running", append(whole[:len(whole):len(whole)], tag), 0, remedy.Tag, 6},
		"a VM that runs, in the window":      {"running", whole, 11 * time.Hour, remedy.MarkDeallocation, 0},
		"a VM that is down already":          {"deallocated", down, 0, remedy.EncryptDataDisk, 0},
		"a start":                            {"deallocated", down[1:], 0, remedy.Start, 0},
		"an operation that isn't begun":      {"", []remedy.Step{step(remedy.DeallocateWave, remedy.DisturbsDeallocate)}, 0, "", 1},
		"an operation that has taken a wave": {"", []remedy.Step{done, step(remedy.DeallocateWave, remedy.DisturbsDeallocate)}, 0, remedy.DeallocateWave, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "vm1")
			l := w.loop(t, policy.ModeEnforce)
			l.Policy = braked(t, func(b *policy.Brakes) { b.Windows = []policy.Window{{From: 22 * time.Hour, To: 4 * time.Hour}} })
			w.clock.Advance(c.now)
			now := w.clock.Now()
			h := &held{loop: l, object: mustVM(t, "vm1"), log: l.log(), row: ledger.Row{PK: sub, RK: "x", ID: string(vmIDOf("vm1"))}}
			v := &view{plan: remedy.Plan{Mode: policy.ModeEnforce, Steps: c.steps[:len(c.steps):len(c.steps)]}, verdict: policy.Verdict{Value: policy.NonCompliant}}
			v.plan.Steps = append([]remedy.Step(nil), c.steps...)
			if c.power != "" {
				v.vm = &cvm.VM{Power: c.power}
			}
			s, apply, err := l.choose(t.Context(), h, Message{}, v, now)
			if err != nil || apply != (c.takes != "") || apply && s.Kind != c.takes {
				t.Fatalf("it takes %q (%t), %v", s.Kind, apply, err)
			}
			n := 0
			for _, s := range v.plan.Steps {
				if s.State == remedy.Blocked {
					n++
					if !strings.Contains(s.Why, "brakes.windows") {
						t.Errorf("%s: %q", s.Kind, s.Why)
					}
				}
			}
			if n != c.holds {
				t.Errorf("%d steps are held, not %d", n, c.holds)
			}
			if next := l.nextLook(h, v, now); c.holds > 0 && (!next.Equal(opening) || v.brakeName() != BrakeWindow) {
				t.Errorf("the next look is at %s, braked by %q", next, v.brakeName())
			}
		})
	}
}
