package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/remedy"
)

// held is an object under this worker's claim, for one turn.
type held struct {
	loop   *Loop
	object Object
	row    ledger.Row // as last written or read by this worker
	owner  string
	cut    bool // the turn before was cut short
	repair bool // and the records that the row doesn't know haven't been looked for yet
	fresh  bool // what may have changed since it was remembered is read anew
	// calling is set while a call's answer isn't known: the call may land as long as
	// the lease lasts, which so isn't cut short.
	calling bool
	// counted is the intent, by number, of a change that the breaker counted in this
	// turn, 0 for none.
	counted int
	done    map[string]bool // by SendKey: steps that ended well in this turn
	// orphan is an intent at the chain's head that the row doesn't show: it was
	// never sent, and serves again if the same step is planned.
	orphan *ledger.Record
	log    *slog.Logger
}

// save applies change to the row and writes it, reading the row again as long as
// others write to it (they set again, followed and causes only). change must be
// repeatable.
func (h *held) save(ctx context.Context, change func(*ledger.Row)) error {
	for {
		row := h.row.Clone()
		change(&row)
		etag, err := h.loop.writeRow(ctx, &row)
		if err == nil {
			row.ETag = etag
			h.row = row
			return nil
		}
		if !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("writing the row of %q: %w", h.object.ID, err)
		}
		if err := h.reread(ctx); err != nil {
			return err
		}
	}
}

func (h *held) reread(ctx context.Context) error {
	row, err := h.loop.readRow(ctx, h.object)
	if err != nil {
		return err
	}
	if row.Owner != h.owner {
		return errLost
	}
	h.row = row
	return nil
}

// release is rule 3: the release and the test of again are one write. After a dry
// run a turn that was cut short before it is still to be made good, by any message.
func (h *held) release(ctx context.Context, dry bool) (again bool, err error) {
	err = h.save(ctx, func(r *ledger.Row) {
		again = r.Again && r.Step == nil
		r.Again = false
		switch {
		case again:
		case dry && h.cut:
			r.LeaseEnds = h.loop.Now()
		default:
			r.Owner, r.LeaseEnds, r.Followed = "", time.Time{}, ""
		}
	})
	return again, err
}

// cutShort ends the lease of a turn that failed, so that its message need not wait
// for it; the owner stays, which marks the turn as cut short. A call whose answer
// isn't known keeps the lease as it is. It is best effort: the lease ends by
// itself.
func (h *held) cutShort(ctx context.Context, cause error) {
	if errors.Is(cause, errLost) {
		return // nothing to end
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := h.save(ctx, func(r *ledger.Row) {
		if !h.calling {
			r.LeaseEnds = h.loop.Now()
		}
		r.LastError = clip(cause.Error())
	})
	if err != nil {
		h.log.Warn("the lease of a failed turn ends by itself", slog.String(logError, err.Error()))
	}
}

// clip keeps an error's text short enough for a row.
func clip(s string) string {
	const most = 1024
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// repairHead finds the records that a cut turn wrote and the row doesn't know.
func (h *held) repairHead(ctx context.Context) error {
	c := h.loop.chains()
	later, err := c.After(ctx, h.object.Chain(), h.row.HeadSeq, h.row.HeadHash)
	if err != nil {
		return fmt.Errorf("looking for records after %d: %w", h.row.HeadSeq, err)
	}
	if len(later) > 0 {
		err := h.save(ctx, func(r *ledger.Row) {
			for _, rec := range later {
				adopt(r, rec.Record, rec.Hash)
			}
		})
		if err != nil {
			return err
		}
	}
	if h.row.Step != nil || h.row.HeadSeq == 0 {
		return nil
	}
	rec, _, _, err := c.Read(ctx, h.object.Chain(), h.row.HeadSeq)
	if err != nil {
		return fmt.Errorf("reading the chain's head: %w", err)
	}
	if rec.Type == ledger.TypeIntent {
		h.orphan = &rec
	}
	return nil
}

func (l *Loop) chains() ledger.Chains { return ledger.Chains{Blobs: l.Blobs} }

// adopt brings a row up to a record that it doesn't know.
func adopt(r *ledger.Row, rec ledger.Record, hash string) {
	r.HeadSeq, r.HeadHash = rec.Seq, hash
	r.TakeOperation(rec)
	switch rec.Type {
	case ledger.TypeState, ledger.TypeIntent:
		if state, err := rec.StateHash(); err == nil { // else it counts as changed
			r.StateHash = state
		}
		adoptState(r, rec)
	case ledger.TypeOutcome:
		if r.Step != nil && r.Step.Intent == rec.Intent {
			closeStep(r, rec.Outcome, rec.At)
		}
	}
}

func adoptState(r *ledger.Row, rec ledger.Record) {
	if rec.Verdict != nil {
		plan := remedy.Plan{}
		if rec.Plan != nil {
			plan = *rec.Plan
		}
		r.SetJudgement(*rec.Verdict, plan, rec.At)
		r.TakeAside(rec)
	}
	if rec.Attestation != nil && (r.Attestation == nil || rec.Attestation.NonceIssued.After(r.Attestation.NonceIssued)) {
		setAttestation(r, rec.Attestation)
	}
}

// setAttestation takes a judged bundle over; it is no longer pending.
func setAttestation(r *ledger.Row, a *cvm.Attestation) {
	r.SetAttestation(a)
	r.Pending = slices.DeleteFunc(r.Pending, func(p ledger.PendingEvidence) bool { return p.Bundle == a.Bundle })
}

// closeStep is what an outcome does to the row: the step is no longer open, what
// a guest brought is pending, and a step that failed is held back until its time.
func closeStep(r *ledger.Row, out *ledger.Outcome, at time.Time) {
	st := r.Step
	r.Step = nil
	if st == nil || out == nil {
		return
	}
	r.Ended(st.Step, *out, at, false)
	if out.State == remedy.Done {
		delete(r.Hold, ledger.SendKey(st.Step))
		if out.Bundle != "" {
			r.AddPending(ledger.PendingEvidence{Nonce: st.NonceHash, Bundle: out.Bundle})
		}
		return
	}
	r.HoldUntil(st.Step, out.NotBefore)
}

// mergeCause keeps why the object is looked at, until a record says it, and moves
// the moment for which evidence is wanted. A moment that is still to come counts
// as now: no nonce could be issued after it, and evidence would be due for ever.
func mergeCause(r *ledger.Row, c ledger.Cause, now time.Time) {
	if c.Kind == "" || c.Kind == causeLookAgain {
		return
	}
	if c.Fresh && c.At.After(now) {
		c.At = now
	}
	r.MergeCause(c)
	r.TakeWord(wordAt(c, now))
	if c.Nonce != "" {
		r.AddPending(ledger.PendingEvidence{Nonce: c.Nonce})
	}
	if c.FromEvent() && c.At.After(r.LastEventAt) {
		r.LastEvent, r.LastEventAt = c.ID, c.At
	}
}

// Cause kinds that the loop itself writes or asks for.
const (
	causeLookAgain = "look-again"
	causeShared    = "shared"
	causeEvent     = "event"
	causeSweep     = "sweep"
)
