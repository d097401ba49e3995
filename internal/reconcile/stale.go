package reconcile

import (
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/remedy"
)

// codeAnew is the Outcome.Code of a step that wasn't sent because what it was
// decided by had changed by then: it is decided anew, at once.
const codeAnew = "decide-anew"

// stale says why a step that was decided on isn't to be sent any more: between its
// intent and its call hours may lie, in which the service turned it away or nobody
// worked. out is nil where the call may be made.
func (l *Loop) stale(h *held, now time.Time) (out *ledger.Outcome) {
	s := h.row.Step.Step
	sent := slices.ContainsFunc(h.row.Sends[ledger.SendKey(s)], func(t time.Time) bool { return !t.Before(h.row.Step.Started) })
	said := h.row.Operation
	var why string
	switch {
	case said != nil && said.Stopped && s.Kind != remedy.StartWave:
		why = "a person has stopped the operation"
	case said != nil && said.Void != "" && s.Kind != remedy.StartWave:
		why = "the operation was refused for good"
	case said != nil && said.Paused && !sent:
		why = "a person has paused the operation before anything of the step was sent"
	case h.object.Kind != cvm.SharedOperation && h.row.PolicyHash != l.Policy.Hash:
		why = "another policy is in force than the one by which it was decided"
	case !sent && waitsForWindow(h, s) && !l.Policy.Brakes.InWindow(now):
		why = "the maintenance window has closed"
	default:
		return nil
	}
	return outcomeOf(remedy.Blocked, &fault.Error{Kind: fault.Blocked, Op: "sending " + string(s.Kind), Object: s.Target, Code: codeAnew, Err: errText(why)})
}

// waitsForWindow says whether a step disturbs somebody who isn't disturbed already.
func waitsForWindow(h *held, s remedy.Step) bool {
	if !disturbs(s) || s.Kind == remedy.EncryptDataDisk { // whose VM is down
		return false
	}
	if h.object.Kind != cvm.SharedOperation {
		return true
	}
	for key := range h.row.Sends {
		kind, _, _ := strings.Cut(key, " ")
		switch remedy.Kind(kind) {
		case remedy.DeallocateWave, remedy.TakeDown, remedy.DeleteVM:
			return false // it has begun to disturb, and is brought to its end
		}
	}
	return true
}
