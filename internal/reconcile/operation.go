package reconcile

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// An operation is an object of the loop like any other: what is observed is its
// plan, which never changes, and its row, which says how many of its steps are done
// and what people said. Claim, intent, call, look-again and outcome are the loop's.

// operationRule is the rule under which an operation's findings stand. No document
// names it.
const operationRule = "operation"

// Where an operation stands, as the reason of its one finding.
const (
	OperationMissing  = "operation-missing"
	OperationWaiting  = "operation-waiting"
	OperationObserve  = "operation-observe"
	OperationUnderWay = "operation-under-way"
	OperationPaused   = "operation-paused"
	OperationFailed   = "operation-failed"
	OperationStopped  = "operation-stopped"
	OperationRefused  = "operation-refused" // for good
	OperationDone     = "operation-done"

	// OperationUnreadable is of the list alone: where the operation stands couldn't be
	// read.
	OperationUnreadable = "operation-unreadable"
)

const textMissing = "The plan of that hash isn't there, or was changed after it was made: nothing is carried out."

// planLost says whether an error of reading a plan means that it can't be used any
// more: it isn't there, or its bytes aren't those that its hash was made of.
func planLost(err error) bool {
	return fault.Is(err, fault.NotFound) || fault.Is(err, fault.Bug) || fault.Is(err, fault.Invalid)
}

// operationPosture is what a record says of an operation that was looked at.
type operationPosture struct {
	Kind  cvm.SharedKind         `json:"kind"`
	ID    string                 `json:"id"`
	What  remedy.OperationKind   `json:"what,omitempty"`
	About string                 `json:"about,omitempty"` // its object
	State *ledger.OperationState `json:"state,omitempty"`
}

// wordAt is a person's word with a time that isn't still to come, which would
// outdo every later word.
func wordAt(c ledger.Cause, now time.Time) ledger.Cause {
	if c.At.After(now) {
		c.At = now
	}
	return c
}

func (l *Loop) operations() ledger.Operations { return ledger.Operations{Blobs: l.Blobs} }

// viewOperation sees how far an operation has come and what may be done next.
func (l *Loop) viewOperation(ctx context.Context, h *held, m Message, doc *policy.Document) (*view, error) {
	_, hash, err := ledger.ParseOperationID(h.object.ID)
	if err != nil {
		return nil, err
	}
	op, err := l.operations().Get(ctx, hash)
	if planLost(err) {
		// Nobody can say what was approved: nothing is done.
		h.log.Error("an operation's plan can't be used", logError, err.Error())
		return l.operationView(h, remedy.Operation{}, remedy.Plan{Mode: doc.Mode(), Steps: []remedy.Step{}}, OperationMissing, textMissing), nil
	}
	if err != nil {
		return nil, err
	}
	now := l.Now()
	st := StandingOf(h.row)
	plan := op.Plan(st, doc)
	hold := ReleasedHold(h.row, l.Settings.SlowPace)
	wait, err := l.stopsFirst(ctx, h, m, &plan)
	if err != nil {
		return nil, err
	}
	described := h.row
	described.Hold = hold
	code, text := DescribeOperation(op, described, doc.Mode(), now)
	v := l.operationView(h, op, plan, code, text)
	v.hold = hold
	if wait {
		err = l.later(ctx, h, m, l.Settings.TransitionWait, func(*ledger.Row) {})
	}
	return v, err
}

// StandingOf is what an operation's row says of it.
func StandingOf(row ledger.Row) remedy.Standing {
	st := remedy.Standing{Done: row.Operation.IsDone, Sent: func(s remedy.Step) bool { return len(row.Sends[ledger.SendKey(s)]) > 0 }}
	if s := row.Operation; s != nil {
		st.Approved, st.Paused, st.Stopped, st.Void = !s.Approved.IsZero(), s.Paused, s.Stopped, s.Void != ""
	}
	return st
}

// ReleasedHold is the row's hold without the steps that a person has asked for anew
// since they failed: a word of theirs doesn't wait for the slow pace.
func ReleasedHold(row ledger.Row, slow time.Duration) map[string]time.Time {
	out := map[string]time.Time{}
	for key, until := range row.Hold {
		if s := row.Operation; s != nil && s.SaidAt.After(until.Add(-slow)) {
			continue
		}
		out[key] = until
	}
	return out
}

// DescribeOperation says where an operation stands: a code and a sentence.
func DescribeOperation(op remedy.Operation, row ledger.Row, mode string, now time.Time) (code, text string) {
	st := StandingOf(row)
	done := 0
	for _, s := range op.Steps {
		if st.Done(s.Number()) {
			done++
		}
	}
	far := fmt.Sprintf("%d of %d steps are done", done, len(op.Steps))
	failed := ""
	for _, s := range op.Steps {
		if until := row.Hold[ledger.SendKey(s)]; !st.Done(s.Number()) && until.After(now) {
			failed = fmt.Sprintf("step %d (%s) failed or was refused and is tried again after %s", s.Number(), s.Kind, until.UTC().Format(time.RFC3339))
			break
		}
	}
	refused := ""
	if st.Void {
		refused = "It was refused for good: " + row.Operation.Void
	}
	switch {
	case len(op.Steps) > 0 && done == len(op.Steps):
		return OperationDone, "All steps are done."
	case st.Void && op.Ended(st):
		return OperationRefused, refused + "; " + far + "."
	case st.Stopped && op.Ended(st):
		return OperationStopped, "The operation was stopped; " + far + "."
	case st.Approved && mode != policy.ModeEnforce:
		return OperationObserve, "It is approved, but policy's mode is " + mode + ": nothing is carried out; " + far + "."
	case st.Void:
		return OperationRefused, refused + "; the VMs that it took down are started again; " + far + "."
	case st.Stopped:
		return OperationStopped, "The operation was stopped, and the VMs that it took down are started again; " + far + "."
	case !st.Approved:
		return OperationWaiting, "It waits for a person's approval."
	case st.Paused:
		return OperationPaused, "The operation is paused; " + far + "."
	case failed != "":
		return OperationFailed, "The operation is under way; " + far + ", " + failed + "."
	}
	return OperationUnderWay, "The operation is under way; " + far + "."
}

func (l *Loop) operationView(h *held, op remedy.Operation, plan remedy.Plan, code, text string) *view {
	state := ledger.OperationState{}
	if h.row.Operation != nil {
		state = *h.row.Operation
	}
	f := policy.Finding{Rule: operationRule, State: cvm.Fail, Severity: policy.Info, Reason: code, Text: text}
	value := policy.NonCompliant
	switch code {
	case OperationDone:
		f.State, value = cvm.Pass, policy.Compliant
	case OperationMissing:
		f.Severity = policy.High
	case OperationFailed, OperationRefused:
		f.Severity = policy.Medium
	}
	return &view{
		posture:   operationPosture{Kind: cvm.SharedOperation, ID: h.object.ID, What: op.Kind, About: op.Object, State: &state},
		verdict:   l.stamp(policy.Verdict{Value: value, Findings: []policy.Finding{f}, At: l.Now().UTC()}),
		plan:      plan,
		operation: &state,
		change:    func(*ledger.Row) {},
	}
}

// stopsFirst sees to it that the object of a step that is to be undone leaves it
// alone before it is undone: else its own turn could take the step again in between.
// It says by wait that this isn't so yet, and blocks the step.
func (l *Loop) stopsFirst(ctx context.Context, h *held, m Message, plan *remedy.Plan) (wait bool, err error) {
	for i := range plan.Steps {
		s := &plan.Steps[i]
		key, id, undoes := s.Undoes()
		if s.State != remedy.Planned || !undoes || plan.Mode != policy.ModeEnforce {
			continue
		}
		o, err := AnyObject(id)
		if err != nil {
			return false, err
		}
		row, err := l.readRow(ctx, o)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return false, err
		}
		if _, stopped := row.Stopped[key]; stopped {
			continue
		}
		if !row.MayStop(key) {
			s.State, s.Why = remedy.Blocked, id+" has as many stopped steps as can be kept, so it can't be told to leave the undone one alone; let some be taken again with cvmguard brakes resume, then cvmguard operation resume"
			continue
		}
		s.State, s.Why = remedy.Blocked, "the turns of "+id+" are told first to leave the undone step alone"
		if m.DryRun {
			continue
		}
		c := ledger.Cause{Kind: ledger.CauseUndone, ID: key, At: h.row.Operation.Approved, By: h.row.Operation.ApprovedBy}
		if err := l.enqueue(ctx, o.message(c, time.Time{}), 0); err != nil {
			return false, err
		}
		wait = true
	}
	return wait, nil
}

// AnyObject is the loop's object of an id, a VM's or a shared one's.
func AnyObject(id string) (Object, error) {
	if o, err := VMObject(id); err == nil {
		return o, nil
	}
	return SharedObject(id)
}

// wakeOfOperation puts on the loop what a step of an operation was about, before its
// outcome is recorded. VMs that were started are asked for evidence anew.
func (l *Loop) wakeOfOperation(ctx context.Context, h *held) error {
	st := h.row.Step
	c := ledger.Cause{Kind: causeShared, At: l.Now(), ID: h.object.ID}
	ids := []string{st.Step.Target}
	if vms := st.Step.VMs(); len(vms) > 0 {
		ids = nil
		for _, vm := range vms {
			ids = append(ids, string(vm))
		}
	}
	if st.Step.Kind == remedy.StartWave {
		c.Fresh, c.At = true, st.Started // all of them were down then
	}
	for _, id := range ids {
		o, err := AnyObject(id)
		if err != nil {
			continue // a disk or another resource that is no object of the loop
		}
		if err := l.enqueue(ctx, o.message(c, time.Time{}), 0); err != nil {
			return err
		}
	}
	return nil
}
