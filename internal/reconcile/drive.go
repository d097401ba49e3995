package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/remedy"
)

// guardWindow is the loop guard's: sends are counted over it.
const guardWindow = 24 * time.Hour

// tokenLook stands in the row for "no resume token: look at the resource".
const tokenLook = "look"

// drive is rule 5: with a step open a turn only drives it. It answers true when
// the step has ended and its outcome is recorded.
func (l *Loop) drive(ctx context.Context, h *held, m Message) (ended bool, err error) {
	st := h.row.Step
	if st.Token == "" {
		return l.send(ctx, h)
	}
	now := l.Now()
	if now.Before(h.row.NextLook) && !m.Due.Equal(h.row.NextLook) {
		return false, nil // the cause is merged; the look-again drives
	}
	if now.Sub(st.Started) > l.stepLife(st.Step) {
		return true, l.end(ctx, h, outcomeOf(remedy.Failed, fault.New(fault.Transient, "waiting for "+string(st.Step.Kind), st.Step.Target,
			"it has not ended within %s; look at the resource's activity log", l.stepLife(st.Step))), false)
	}
	token := st.Token
	if token == tokenLook {
		token = ""
	}
	p, err := l.Applier.Poll(ctx, st.Step, token, h.secrets())
	if err != nil {
		if fault.Is(err, fault.NotFound) && token != "" {
			p = remedy.Progress{State: remedy.Underway} // the operation is forgotten: look at the resource
		} else if retryable(err) {
			h.log.Warn("polling a step failed; it is polled again", slog.String(logStep, string(st.Step.Kind)), slog.String(logError, err.Error()))
			return false, l.lookAgain(ctx, h, l.wait(fault.RetryAfter(err)), func(r *ledger.Row) {})
		} else {
			p = remedy.Progress{State: remedy.Ended, Err: err}
		}
	}
	switch p.State {
	case remedy.NotThere:
		return l.transmit(ctx, h)
	default:
		return l.proceed(ctx, h, p, false)
	}
}

// send drives a step without a token: it may have been sent (rule 4).
func (l *Loop) send(ctx context.Context, h *held) (ended bool, err error) {
	st := h.row.Step
	p, err := l.Applier.Look(ctx, st.Step, h.secrets())
	if err != nil {
		return l.refusedBy(ctx, h, err)
	}
	if p.State == remedy.NotThere {
		return l.transmit(ctx, h)
	}
	return l.proceed(ctx, h, p, true)
}

// transmit makes the one call. What it needs besides the step is made new and is
// in the row before the call.
func (l *Loop) transmit(ctx context.Context, h *held) (ended bool, err error) {
	st := h.row.Step
	key := ledger.SendKey(st.Step)
	now := l.Now()
	if sent := h.row.SentWithin(st.Step, now, guardWindow); sent >= l.Policy.Brakes.MaxSendsPerStepPerDay {
		return true, l.end(ctx, h, outcomeOf(remedy.Failed, fault.New(fault.Blocked, "sending "+string(st.Step.Kind), st.Step.Target,
			"it was sent %d times in 24 h without lasting effect; see who undoes it, then rerun", sent)), false)
	}
	sec, blob := h.secrets(), ""
	if st.Step.Kind == remedy.CollectEvidence {
		if sec, blob, err = l.prepareEvidence(ctx, h); err != nil {
			return l.refusedBy(ctx, h, err)
		}
	}
	err = h.save(ctx, func(r *ledger.Row) {
		r.Sent(st.Step, now, guardWindow)
		r.Step.Token = ""
		if st.Step.Kind == remedy.CollectEvidence {
			r.Step.NonceHash, r.Step.Blob = ledger.NonceHash(sec.Nonce), blob
		}
	})
	if err != nil {
		return false, err
	}
	p, err := l.Applier.Start(ctx, h.row.Step.Step, sec)
	if err != nil {
		return l.refusedBy(ctx, h, err)
	}
	h.log.Info("a step was sent", slog.String(logStep, key), slog.String(logState, string(p.State)))
	return l.proceed(ctx, h, p, false)
}

// refusedBy is what an error of a look or a call leads to: another look later for
// what passes, the step's end for what doesn't.
func (l *Loop) refusedBy(ctx context.Context, h *held, err error) (bool, error) {
	if retryable(err) {
		h.log.Warn("a step could not be sent; it is looked at again", slog.String(logStep, ledger.SendKey(h.row.Step.Step)), slog.String(logError, err.Error()))
		return false, l.lookAgain(ctx, h, l.wait(fault.RetryAfter(err)), func(r *ledger.Row) { r.Step.Token = tokenLook })
	}
	return true, l.end(ctx, h, outcomeOf(remedy.Failed, err), false)
}

// proceed goes on from where an act stands.
func (l *Loop) proceed(ctx context.Context, h *held, p remedy.Progress, adopted bool) (bool, error) {
	switch p.State {
	case remedy.Underway:
		token := p.Token
		if token == "" {
			token = tokenLook
		}
		return false, l.lookAgain(ctx, h, l.wait(p.RetryAfter), func(r *ledger.Row) { r.Step.Token = token })
	case remedy.Effected:
		out := &ledger.Outcome{State: remedy.Done, Adopted: adopted}
		if h.row.Step.Step.Kind == remedy.CollectEvidence {
			if err := l.fetchEvidence(ctx, h, out); err != nil {
				if retryable(err) {
					return l.refusedBy(ctx, h, err)
				}
				out = outcomeOf(remedy.Failed, err)
			}
		}
		return true, l.end(ctx, h, out, adopted)
	case remedy.Refused:
		return true, l.end(ctx, h, outcomeOf(remedy.Blocked, p.Err), false)
	case remedy.Ended:
		return true, l.end(ctx, h, outcomeOf(remedy.Failed, p.Err), false)
	default:
		return false, fault.New(fault.Bug, "driving a step", ledger.SendKey(h.row.Step.Step), "unexpected state %q", p.State)
	}
}

// end records a step's outcome. The VMs that hang on a shared object are put on
// the loop before that outcome is recorded.
func (l *Loop) end(ctx context.Context, h *held, out *ledger.Outcome, adopted bool) error {
	st := *h.row.Step
	out.Adopted = adopted
	now := l.Now()
	if out.State != remedy.Done {
		out.NotBefore = now.Add(l.Settings.SlowPace)
	}
	if !h.object.IsVM() {
		if err := l.wakeVMs(ctx, h); err != nil {
			return err
		}
	}
	step := st.Step
	step.State = out.State
	rec := ledger.Record{Type: ledger.TypeOutcome, Step: &step, Intent: st.Intent, Outcome: out}
	hash, rec, err := l.append(ctx, h, rec)
	if err != nil {
		return err
	}
	h.log.Info("a step ended", slog.String(logStep, ledger.SendKey(step)), slog.String(logState, string(out.State)), slog.String(logError, out.Error))
	return h.save(ctx, func(r *ledger.Row) { adopt(r, rec, hash) })
}

// lookAgain is rule 6 for an open step: enqueue first, row second, and next look
// is brought forward or, once passed, set anew.
func (l *Loop) lookAgain(ctx context.Context, h *held, wait time.Duration, change func(*ledger.Row)) error {
	next, err := l.schedule(ctx, h, l.Now().Add(wait))
	if err != nil {
		return err
	}
	return h.save(ctx, func(r *ledger.Row) {
		change(r)
		r.NextLook = next
	})
}

// schedule enqueues a look-again for `at` unless one that comes sooner is on its
// way. It answers with the next look that the row must show.
func (l *Loop) schedule(ctx context.Context, h *held, at time.Time) (time.Time, error) {
	now := l.Now()
	if h.row.NextLook.After(now) && !h.row.NextLook.After(at) {
		return h.row.NextLook, nil
	}
	at = at.UTC().Truncate(time.Microsecond)
	m := h.object.message(ledger.Cause{Kind: causeLookAgain, At: now}, at)
	if err := l.enqueue(ctx, m, at.Sub(now)); err != nil {
		return time.Time{}, err
	}
	return at, nil
}

// wait turns a service's Retry-After into a delay: never hot, never beyond MaxPoll.
func (l *Loop) wait(after time.Duration) time.Duration {
	return min(max(after, time.Second), l.Settings.MaxPoll)
}

func (l *Loop) stepLife(s remedy.Step) time.Duration {
	if s.Kind == remedy.CollectEvidence {
		return l.Settings.NonceLife
	}
	return l.Settings.StepLife
}

// secrets is what is known of a step that may have been sent: the cause by which
// our own run command is known again. The nonce itself is nowhere but in the call.
func (h *held) secrets() remedy.Secrets {
	return remedy.Secrets{Cause: h.row.Step.Record, VMUniqueID: h.row.UniqueID}
}

func retryable(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	switch fault.KindOf(err) {
	case fault.Transient, fault.Throttled, fault.Conflict:
		return true
	}
	return false
}

func outcomeOf(state remedy.StepState, err error) *ledger.Outcome {
	if err == nil {
		err = fault.New(fault.Bug, "ending a step", "", "it was refused without a reason")
	}
	return &ledger.Outcome{State: state, Kind: string(fault.KindOf(err)), Code: fault.Code(err), Error: err.Error()}
}

// wakeVMs enqueues the VMs that hang on a shared object.
func (l *Loop) wakeVMs(ctx context.Context, h *held) error {
	f, ok := dependents(h.object, h.row)
	if !ok {
		return nil
	}
	var failed error
	c := ledger.Cause{Kind: causeShared, At: l.Now(), ID: h.object.ID}
	err := l.Tables.Query(ctx, ledger.TableVMs, f, func(e ledger.Entity) bool {
		r, err := ledger.DecodeRow(e)
		if err != nil {
			failed = err
			return false
		}
		failed = l.enqueue(ctx, Message{VM: r.ID, Cause: c}, 0)
		return failed == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("putting the VMs of %q on the loop: %w", h.object.ID, err)
	}
	return nil
}
