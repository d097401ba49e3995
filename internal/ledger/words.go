package ledger

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// Cause kinds by which a person's word reaches an object. The first ones are for
// operations, CauseUndone is for the object of a step that is being undone: its ID
// is the step's SendKey. CauseResume reaches any other object too: steps that were
// stopped there may be taken again, those of the kind that its ID names, all where
// it names none.
const (
	CausePlanned = "planned" // a plan was made and waits for approval
	CauseApprove = "approve"
	CausePause   = "pause"
	CauseResume  = "resume"
	CauseStop    = "stop"
	CauseUndone  = "undone"
)

const operationsSegment = "operations"

// OperationID is the id of the object that an operation is for the loop.
func OperationID(subscription, hash string) string {
	return strings.ToLower(subscription) + "/" + operationsSegment + "/" + hash
}

// ParseOperationID takes an operation's id apart. fault.Invalid for other texts.
func ParseOperationID(id string) (subscription, hash string, err error) {
	seg := strings.Split(strings.ToLower(id), "/")
	if len(seg) == 3 && seg[1] == operationsSegment && IsHash(seg[2]) {
		if _, err := cvm.ParseRegionID(seg[0] + "/regions/x"); err == nil { // the subscription is a GUID
			return seg[0], seg[2], nil
		}
	}
	return "", "", fault.New(fault.Invalid, "reading an operation's id", id, "give <subscription>/operations/<the plan's 64 hex digits>")
}

// IsWord says whether a cause of that kind is a person's word.
func IsWord(kind string) bool {
	switch kind {
	case CauseApprove, CausePause, CauseResume, CauseStop:
		return true
	}
	return false
}

// TakeWord takes a person's word from a cause into the row; other causes are let
// be. Words come in any order and more than once, and the end is the same: what is
// stopped stays stopped, the first approval counts, and of pause, resume and
// approve the newest decides whether the operation is paused.
func (r *Row) TakeWord(c Cause) {
	if c.Kind == CauseUndone {
		r.undone(c)
		return
	}
	if r.SharedKind != cvm.SharedOperation {
		if c.Kind == CauseResume {
			r.Resume(c.ID, c.At)
		}
		return
	}
	if !IsWord(c.Kind) {
		return
	}
	var s OperationState
	if r.Operation != nil {
		s = *r.Operation
	}
	at := c.At.UTC().Round(0)
	if c.Kind == CauseApprove && (s.Approved.IsZero() || at.Before(s.Approved)) {
		s.Approved, s.ApprovedBy = at, c.By
	}
	s.Stopped = s.Stopped || c.Kind == CauseStop
	switch newer := at.After(s.SaidAt); {
	case newer:
		s.Paused, s.SaidAt, s.SaidBy = c.Kind == CausePause || c.Kind == CauseStop && s.Paused, at, c.By
	case at.Equal(s.SaidAt) && c.Kind == CausePause:
		s.Paused = true // of two words at one moment the careful one
	}
	r.Operation = &s
}

// undone stops a step that is being undone, so that the object's own turns don't
// take it again. Where the row has no room for it, it isn't, and the undoing waits.
func (r *Row) undone(c Cause) {
	kind, target, ok := strings.Cut(c.ID, " ")
	if !ok || target == "" {
		return
	}
	r.stop(c.ID, cvm.Contest{Step: kind, On: target, Since: c.At.UTC().Truncate(time.Second), Why: WhyUndone})
}

// StepDone notes that the n-th step (from 1) is done. A step done before those that
// come before it is kept aside until they are.
func (s *OperationState) StepDone(n int) {
	if n < 1 || s.IsDone(n) {
		return
	}
	s.Ahead = append(slices.Clone(s.Ahead), n)
	slices.Sort(s.Ahead)
	for len(s.Ahead) > 0 && s.Ahead[0] == s.Done+1 {
		s.Done, s.Ahead = s.Done+1, s.Ahead[1:]
	}
	if len(s.Ahead) == 0 {
		s.Ahead = nil
	}
}

// IsDone says whether the n-th step (from 1) is done.
func (s *OperationState) IsDone(n int) bool {
	return s != nil && (n <= s.Done || slices.Contains(s.Ahead, n))
}

// takeOperation brings an operation's state up to what a record says: the words are
// those of the newer, and what is done stays done.
func (r *Row) takeOperation(said *OperationState) {
	if said == nil {
		return
	}
	s := *said
	s.Ahead = slices.Clone(said.Ahead)
	if have := r.Operation; have != nil {
		if have.SaidAt.After(s.SaidAt) {
			s.Paused, s.SaidAt, s.SaidBy = have.Paused, have.SaidAt, have.SaidBy
		}
		if !have.Approved.IsZero() && (s.Approved.IsZero() || have.Approved.Before(s.Approved)) {
			s.Approved, s.ApprovedBy = have.Approved, have.ApprovedBy
		}
		s.Stopped = s.Stopped || have.Stopped
		s.Void = cmp.Or(s.Void, have.Void)
		for n := range have.Done {
			s.StepDone(n + 1)
		}
		for _, n := range have.Ahead {
			s.StepDone(n)
		}
	}
	r.Operation = &s
}

// TakeOperation brings the row's operation up to a record of the object: its
// state, and the step that an outcome ends or the refusal that ends it for good.
func (r *Row) TakeOperation(rec Record) {
	if r.SharedKind != cvm.SharedOperation {
		return
	}
	r.takeOperation(rec.Operation)
	if rec.Type != TypeOutcome || rec.Outcome == nil || rec.Step == nil {
		return
	}
	done := rec.Outcome.State == remedy.Done
	if !done && rec.Outcome.Code != remedy.CodeSuperseded {
		return
	}
	if r.Operation == nil {
		r.Operation = &OperationState{}
	}
	if done {
		r.Operation.StepDone(rec.Step.Number())
		return
	}
	const most = 500 // the record has the whole
	r.Operation.Void = strings.ToValidUTF8(rec.Outcome.Error[:min(len(rec.Outcome.Error), most)], "")
}
