package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// The brakes, as Row.Braked names them, the strongest first.
const (
	BrakeBreaker    = "breaker"    // too many objects were changed: a person resets it
	BrakeUnreadable = "unreadable" // table brakes can't be made sense of: nothing is sent
	BrakeCanary     = "canary"     // a new policy's first VMs are looked at first
	BrakeLimit      = "step-limit" // the object had its share of steps for a day
	BrakeWindow     = "window"     // what disturbs waits for a maintenance window
	BrakeContested  = "contested"  // the step was stopped: changed back by others, or undone
)

// brakeOrder is their order of strength.
var brakeOrder = []string{BrakeBreaker, BrakeUnreadable, BrakeCanary, BrakeLimit, BrakeWindow, BrakeContested}

// codeBreaker is the Outcome.Code of a step that the breaker stopped right before
// its call.
const codeBreaker = "breaker"

// brake holds back a step. Its why stands in records, so it names no moment and no
// count that differ from turn to turn.
type brake struct {
	name, why string
	until     time.Time // when it lets go by itself, zero for never
}

// restrain finds out what the object's own row and the clock hold back, by SendKey.
// It asks no storage.
func (l *Loop) restrain(h *held, v *view, now time.Time) map[string]brake {
	braked := map[string]brake{}
	if l.Policy.Mode() != policy.ModeEnforce {
		return braked
	}
	b := l.Policy.Brakes
	stopped := h.row.Stopped
	if v.renewed {
		stopped = nil // that was another VM
	}
	limit, limited := l.limit(h, v, now)
	opening := b.NextOpening(now)
	down := v.vm != nil && v.vm.Power == powerDeallocated
	for _, s := range v.plan.Steps {
		if s.State != remedy.Planned {
			continue
		}
		key := ledger.SendKey(s)
		if c, ok := stopped[key]; ok && h.object.Kind != cvm.SharedOperation {
			braked[key] = brake{name: BrakeContested, why: contestedWhy(c)}
		} else if limited && s.Kind.Changes() && !brings(s) {
			braked[key] = limit
		} else if disturbs(s) && !opening.Equal(now) && !down && !begun(v.plan) {
			braked[key] = brake{name: BrakeWindow, why: "it disturbs and waits for a maintenance window (brakes.windows)", until: opening}
		}
	}
	holdChain(v.plan, braked)
	return braked
}

// powerDeallocated is the power state of a VM that is down for good, as cvm.VM
// names it.
const powerDeallocated = "deallocated"

func contestedWhy(c cvm.Contest) string {
	if c.Why == ledger.WhyUndone {
		return "it was undone on a person's word; let it be taken again with cvmguard brakes resume"
	}
	return "others changed back what it sets too often (brakes.maxChangedBack); let it be taken again with cvmguard brakes resume"
}

// limit is the brake of an object that had its share of steps. Operations are
// whole plans that a person approved.
func (l *Loop) limit(h *held, v *view, now time.Time) (brake, bool) {
	most := l.Policy.Brakes.MaxStepsPerVMPerDay
	if most <= 0 || h.object.Kind == cvm.SharedOperation || v.renewed {
		return brake{}, false
	}
	sent := h.row.StepsWithin(now, guardWindow)
	if len(sent) < most {
		return brake{}, false
	}
	return brake{name: BrakeLimit, why: fmt.Sprintf("%d steps were sent within 24 h, as many as policy allows (brakes.maxStepsPerVMPerDay)", most),
		until: sent[len(sent)-most].Add(guardWindow)}, true
}

// disturbs says whether a step disturbs whoever uses the VM.
func disturbs(s remedy.Step) bool {
	switch s.Disturbs {
	case remedy.DisturbsRestart, remedy.DisturbsDeallocate, remedy.DisturbsRecreate:
		return true
	}
	return false
}

// begun says whether a plan's steps have disturbed anybody yet, which those of an
// operation tell when they are done.
func begun(p remedy.Plan) bool {
	return slices.ContainsFunc(p.Steps, func(s remedy.Step) bool { return s.State == remedy.Done && disturbs(s) })
}

// brings says whether a step brings a VM back that cvmguard took down, which none
// but the breaker may keep from it.
func brings(s remedy.Step) bool {
	return s.Kind == remedy.Start || s.Kind == remedy.StartWave || s.Kind == remedy.ClearMark
}

// chain are the kinds of a deallocation of one VM, from its first mark to the last.
var chain = []remedy.Kind{remedy.MarkDeallocation, remedy.Deallocate, remedy.MarkDown, remedy.EncryptDataDisk, remedy.Start, remedy.ClearMark}

// holdChain holds back the whole of a deallocation that isn't begun if a part of it
// is held back: a VM isn't taken down for nothing.
func holdChain(p remedy.Plan, braked map[string]brake) {
	in := func(s remedy.Step) bool { return s.State == remedy.Planned && slices.Contains(chain, s.Kind) }
	var first *brake
	begins := false
	for _, s := range p.Steps {
		if b, ok := braked[ledger.SendKey(s)]; ok && in(s) && first == nil {
			first = &b
		}
		begins = begins || in(s) && s.Kind == remedy.Deallocate
	}
	if first == nil || !begins {
		return
	}
	for _, s := range p.Steps {
		if _, ok := braked[ledger.SendKey(s)]; !ok && in(s) {
			braked[ledger.SendKey(s)] = *first
		}
	}
}

// choose is the step to be taken now, if there is one that no brake holds back.
// What is held back is shown as blocked in the plan, with why.
func (l *Loop) choose(ctx context.Context, h *held, m Message, v *view, now time.Time) (step remedy.Step, apply bool, err error) {
	h.counted = 0
	v.braked = l.restrain(h, v, now)
	next := func() (remedy.Step, bool) {
		return v.plan.NextExcept(func(s remedy.Step) bool {
			key := ledger.SendKey(s)
			_, is := v.braked[key]
			return is || v.hold[key].After(now) || h.done[key] || l.setLately(h, s, now)
		})
	}
	if m.DryRun || l.Policy.Mode() != policy.ModeEnforce {
		l.brakedAsBefore(h, v)
		v.block()
		return step, false, nil
	}
	a := admission{loop: l, h: h, now: now, verdict: v.verdict.Value, begun: h.object.Kind == cvm.SharedOperation && begun(v.plan)}
	for {
		if step, apply = next(); !apply {
			break
		}
		held, b, err := a.ask(ctx, step)
		if err != nil {
			return step, false, err
		}
		if held == nil {
			if a.counted {
				h.counted = h.row.HeadSeq + 1 // the intent that comes next
			}
			break
		}
		for _, s := range v.plan.Steps {
			if s.State == remedy.Planned && held(s) {
				v.braked[ledger.SendKey(s)] = b
			}
		}
		holdChain(v.plan, v.braked)
	}
	v.block()
	return step, apply, nil
}

// setLately says whether a step was brought about so short a while ago that a read
// may not show it yet. Then nobody can say whether it was changed back.
func (l *Loop) setLately(h *held, s remedy.Step, now time.Time) bool {
	was, ok := h.row.Set[ledger.SendKey(s)]
	return ok && was.Value == ledger.Fingerprint(s) && now.Sub(was.At) < l.Settings.TransitionWait
}

// brakedAsBefore shows a dry run what the last true look found braked, so that both
// see the same. It asks nobody.
func (l *Loop) brakedAsBefore(h *held, v *view) {
	if l.Policy.Mode() != policy.ModeEnforce {
		return
	}
	var why string
	covers := everyStep
	switch h.row.Braked {
	case BrakeBreaker:
		why = whyBreaker
	case BrakeUnreadable:
		why = whyUnreadable
	case BrakeCanary:
		why, covers = whyCanary, canaryHolds
	default:
		return
	}
	for _, s := range v.plan.Steps {
		if s.State == remedy.Planned && covers(s) {
			v.braked[ledger.SendKey(s)] = brake{name: h.row.Braked, why: why}
		}
	}
}

// block shows what is braked in the plan.
func (v *view) block() {
	for i := range v.plan.Steps {
		s := &v.plan.Steps[i]
		if b, ok := v.braked[ledger.SendKey(*s)]; ok && s.State == remedy.Planned {
			s.State, s.Why = remedy.Blocked, b.why
		}
	}
}

// brakeName is the strongest of the brakes that hold steps of the view, "" for none.
func (v *view) brakeName() string {
	for _, name := range brakeOrder {
		for _, b := range v.braked {
			if b.name == name {
				return name
			}
		}
	}
	return ""
}
