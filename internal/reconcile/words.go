package reconcile

import (
	"context"
	"log/slog"
	"strings"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// OperationWords are what a person may say to an operation.
func OperationWords() []string {
	return []string{ledger.CauseApprove, ledger.CausePause, ledger.CauseResume, ledger.CauseStop}
}

// SayToOperation puts a person's word on the loop. fault.NotFound: there is no plan
// of that hash; fault.Blocked: nothing would come of it, and the error says where
// the operation stands.
func (l *Loop) SayToOperation(ctx context.Context, hash, word, by string) (OperationNow, error) {
	now, err := l.OperationNow(ctx, hash)
	if err != nil {
		return now, err
	}
	if why := l.wordless(now, word); why != "" {
		e := fault.New(fault.Blocked, "saying "+word+" to plan", hash, "%s", strings.TrimSuffix(now.Text, "."))
		e.Code, e.Next = now.Code, why
		return now, e
	}
	c := ledger.Cause{Kind: word, At: l.Now().UTC(), By: by}
	if err := l.enqueue(ctx, Message{Shared: now.ID, Cause: c}, 0); err != nil {
		return now, err
	}
	l.noteWord(ctx, now.ID, c)
	l.log().Warn("a person's word on an operation", slog.String("plan", now.Hash), slog.String("word", word), slog.String("by", by))
	return now, nil
}

// wordless says what to do in place of a word of which nothing would come, "" where
// the word does something. One that was said already does no harm: who says it again
// may have lost the answer.
func (l *Loop) wordless(now OperationNow, word string) string {
	approved := !now.State.Approved.IsZero()
	switch {
	case now.Code == OperationDone:
		return "what is done is undone as the plan's way back says"
	case now.State.Void != "":
		return "make a new plan"
	case now.State.Stopped && word != ledger.CauseStop:
		return "what is stopped isn't begun again; make the plan anew"
	case word == ledger.CauseApprove && l.Policy.Mode() != policy.ModeEnforce:
		return "policy's mode is " + l.Policy.Mode() + ", in which nothing is carried out; put a policy of mode " + policy.ModeEnforce + " in force first"
	case !approved && (word == ledger.CausePause || word == ledger.CauseResume):
		return "there is nothing to " + word + "; approve it first, or stop it"
	}
	return ""
}

// noteWord takes a word into the operation's row at once, as its message will do once
// more: the next word is answered by where the operation then stands. The message is
// on its way already, so that a note which can't be made costs no more than that.
func (l *Loop) noteWord(ctx context.Context, id string, c ledger.Cause) {
	o, err := SharedObject(id)
	for range 5 {
		if err != nil {
			break
		}
		var row ledger.Row
		if row, err = l.readRow(ctx, o); err != nil {
			break // without a row its first turn looks for records, so none is made here
		}
		row.TakeWord(c)
		if _, err = l.writeRow(ctx, &row); !fault.Is(err, fault.Conflict) {
			break
		}
		err = nil
	}
	if err != nil {
		l.log().Debug("a person's word waits for its message", slog.String(logObject, id), slog.String(logError, err.Error()))
	}
}
