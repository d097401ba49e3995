package remedy

import (
	"testing"

	"cvmguard/internal/cvm"
)

// Whoever may write tags can't have a VM started: only cvmguard's own books count.
func TestATagAloneStartsNothing(t *testing.T) {
	d := document(t, "enforce")
	for _, mark := range []string{MarkPending, MarkIsDown, "x"} {
		for _, power := range []string{powerDeallocated, "stopped"} {
			for _, taken := range []bool{true, false} {
				w := newWorld()
				w.vm.Power, w.vm.Tags = power, map[string]string{TagDeallocated: mark}
				plan := planOf(w, d, func(p *cvm.Posture) { p.TakenDown = taken })
				starts := false
				for _, s := range plan.Steps {
					starts = starts || s.Kind == Start && s.State == Planned
				}
				if starts != taken {
					t.Errorf("tag %q, %s, taken down by us %v: starts %v", mark, power, taken, starts)
				}
			}
		}
	}
}
