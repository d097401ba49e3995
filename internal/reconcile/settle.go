package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// settle records what a look saw and applies one step. It answers true when the
// step ended at once, so that there is more to see.
func (l *Loop) settle(ctx context.Context, h *held, m Message, v *view) (ended bool, err error) {
	now := l.Now()
	step, apply, err := l.choose(ctx, h, m, v, now)
	if err != nil {
		return false, err
	}
	rec := l.stateRecord(h, m, v)
	state, err := rec.StateHash()
	if err != nil {
		return false, err
	}
	next := h.row.NextLook
	if !m.DryRun { // which sends nothing, and sees to it that nobody else does on its account
		for _, id := range v.wake {
			c := ledger.Cause{Kind: causeShared, At: now, ID: h.object.ID}
			if err := l.enqueue(ctx, Message{Shared: id, Cause: c}, 0); err != nil {
				return false, err
			}
		}
		if at := l.nextLook(h, v, now); !at.IsZero() {
			if next, err = l.schedule(ctx, h, at); err != nil {
				return false, err
			}
		}
	}
	var open *ledger.OpenStep
	if apply {
		rec.Type = ledger.TypeIntent
		step.State = remedy.Running
		rec.Step = &step
	}
	hash := ""
	switch {
	case apply && l.servesAgain(h.orphan, state, step):
		rec, hash = *h.orphan, h.row.HeadHash // recorded by a turn that was cut short before it sent anything
	case apply || state != h.row.StateHash || h.orphan != nil: // an intent that nobody goes on with isn't left at the head
		if hash, rec, err = l.append(ctx, h, rec); err != nil {
			return false, err
		}
	}
	h.orphan = nil
	if apply {
		open = &ledger.OpenStep{Step: step, Intent: rec.Seq, Record: ledger.RecordName(h.object.Chain(), rec.Seq), Started: now}
	}
	if v.verdict.Value != h.row.Verdict {
		h.log.Info("verdict", slog.String("verdict", string(v.verdict.Value)), slog.String("was", string(h.row.Verdict)))
	}
	braked := v.brakeName()
	newly := braked != h.row.Braked
	err = h.save(ctx, func(r *ledger.Row) {
		if hash != "" {
			r.HeadSeq, r.HeadHash, r.StateHash = rec.Seq, hash, state
			r.Causes = nil
		}
		r.SetJudgement(v.verdict, v.plan, now)
		r.LastSeen, r.NextLook, r.Development, r.LastError = now, next, l.Development, ""
		if !v.gone {
			r.GoneSince = time.Time{}
		}
		if !v.busy {
			r.TransitionSince = time.Time{}
		} else if r.TransitionSince.IsZero() {
			r.TransitionSince = now
		}
		if v.region != "" {
			r.Region = v.region
		}
		if v.vm != nil {
			r.ID = string(v.vm.ID)
		}
		v.change(r)
		if !m.DryRun {
			r.Braked = braked
		}
		r.TakeAside(rec)
		if v.att != nil {
			setAttestation(r, v.att)
		}
		r.Step = open
	})
	if err == nil && newly && !m.DryRun {
		err = l.letGo(ctx, h)
	}
	if err != nil || !apply {
		return false, err
	}
	return l.send(ctx, h)
}

func (l *Loop) stateRecord(h *held, m Message, v *view) ledger.Record {
	posture, err := json.Marshal(v.posture)
	if err != nil {
		panic(fmt.Sprintf("encoding a posture of plain fields: %v", err)) // cannot happen
	}
	return ledger.Record{Type: ledger.TypeState, Chain: h.object.Chain(), Seq: h.row.HeadSeq + 1, Posture: posture, Verdict: &v.verdict, Plan: &v.plan,
		Attestation: v.att, Shadow: v.shadow, WouldBeRefused: v.refused, Operation: v.operation, Causes: recordCauses(h.row, m), Policy: l.Policy.Hash, Mode: v.plan.Mode, Development: l.Development}
}

// servesAgain says whether an intent that a cut turn recorded, and never sent, is
// the very one that is wanted now.
func (l *Loop) servesAgain(orphan *ledger.Record, state string, step remedy.Step) bool {
	if orphan == nil || orphan.Step == nil || !orphan.Step.Same(step) {
		return false
	}
	was, err := orphan.StateHash()
	return err == nil && was == state
}

// recordCauses are those merged in the row, and this message's own where nothing
// merged it.
func recordCauses(row ledger.Row, m Message) []ledger.Cause {
	if len(row.Causes) > 0 {
		return row.Causes
	}
	if m.Cause.Kind == "" {
		return nil
	}
	return []ledger.Cause{m.Cause}
}

// keepPolicy sees to it, once a process, that the policy which the records name
// is in storage before the first of them.
func (l *Loop) keepPolicy(ctx context.Context) error {
	if l.policyKept.Load() {
		return nil
	}
	docs := []*policy.Document{l.Policy}
	if l.Shadow != nil {
		docs = append(docs, l.Shadow)
	}
	for _, d := range docs {
		err := l.Blobs.Create(ctx, ledger.ContainerPolicy, d.Hash+".yaml", d.Source)
		if err != nil && !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("keeping the policy in force: %w", err)
		}
	}
	l.policyKept.Store(true)
	return nil
}

// append adds a record to the object's chain. A sequence number that is taken
// means that a cut turn wrote it: the caller's turn fails and the next repairs.
func (l *Loop) append(ctx context.Context, h *held, rec ledger.Record) (string, ledger.Record, error) {
	rec.Object, rec.Chain, rec.Seq = h.row.ID, h.object.Chain(), h.row.HeadSeq+1
	rec.At = l.Now().UTC()
	rec.Version, rec.Development, rec.Policy = l.Version, l.Development, l.Policy.Hash
	if rec.Mode == "" {
		rec.Mode = l.Policy.Mode()
	}
	if err := l.keepPolicy(ctx); err != nil {
		return "", rec, err
	}
	hash, _, err := l.chains().Append(ctx, rec, h.row.HeadHash)
	if fault.Is(err, fault.Conflict) {
		// Another turn's record: the row is behind it. This turn fails, the next
		// one finds it.
		return "", rec, fmt.Errorf("record %d is already there: %w", rec.Seq, err)
	}
	if err != nil {
		return "", rec, fmt.Errorf("writing record %d of %q: %w", rec.Seq, h.object.ID, err)
	}
	return hash, rec, nil
}
