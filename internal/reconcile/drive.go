package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/remedy"
)

// guardWindow is the loop guard's: sends are counted over it.
const guardWindow = 24 * time.Hour

// keepSends is how long the row remembers what was sent: long enough to know a VM
// that cvmguard took down and could not start again.
const keepSends = 30 * 24 * time.Hour

// tokenLook stands in the row for "no resume token: look at the resource".
const tokenLook = "look"

// drive is rule 5: with a step open a turn only drives it. It answers true when
// the step has ended and its outcome is recorded.
func (l *Loop) drive(ctx context.Context, h *held) (ended bool, err error) {
	st := h.row.Step
	if st.Token == "" {
		return l.send(ctx, h)
	}
	now := l.Now()
	if now.Before(h.row.NextLook) {
		return false, nil // the cause is merged; the look-again drives, which is never too early: see claim
	}
	token := st.Token
	if token == tokenLook {
		token = ""
	}
	p, err := l.Applier.Poll(ctx, st.Step, token, h.secrets())
	if ctx.Err() != nil {
		return false, fmt.Errorf("polling %s: %w", ledger.SendKey(st.Step), ctx.Err())
	}
	over := now.Sub(st.Started) > l.stepLife(st.Step) // it may have ended all the same while nobody looked
	switch {
	case err == nil:
	case fault.Is(err, fault.NotFound) && token != "":
		p = remedy.Progress{State: remedy.Underway} // the operation is forgotten: look at the resource
	case retryable(err) && !over:
		h.log.Warn("polling a step failed; it is polled again", slog.String(logStep, string(st.Step.Kind)), slog.String(logError, err.Error()))
		return false, l.lookAgain(ctx, h, l.backOff(h, err), func(*ledger.Row) {})
	default:
		p = remedy.Progress{State: remedy.Ended, Err: err}
	}
	switch {
	case over && (p.State == remedy.Underway || p.State == remedy.NotThere):
		return true, l.end(ctx, h, outcomeOf(remedy.Failed, fault.New(fault.Transient, "waiting for "+string(st.Step.Kind), st.Step.Target,
			"it has not ended within %s; look at the resource's activity log", l.stepLife(st.Step))), false)
	case p.State == remedy.NotThere:
		return l.transmit(ctx, h)
	}
	return l.proceed(ctx, h, p, token == "")
}

// send drives a step without a token: it may have been sent (rule 4).
func (l *Loop) send(ctx context.Context, h *held) (ended bool, err error) {
	st := h.row.Step
	p, err := l.Applier.Look(ctx, st.Step, h.secrets())
	if err != nil {
		return l.refusedBy(ctx, h, err, false)
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
	if out := l.stale(h, now); out != nil {
		return true, l.end(ctx, h, out, false)
	}
	if times, _ := h.row.ChangedBack(st.Step, now, l.Settings.TransitionWait); l.Policy.Brakes.MaxChangedBack > 0 && times >= l.Policy.Brakes.MaxChangedBack {
		return true, l.end(ctx, h, outcomeOf(remedy.Blocked, &fault.Error{Kind: fault.Blocked, Op: "sending " + string(st.Step.Kind), Object: st.Step.Target, Code: ledger.CodeChangedBack,
			Err: errText(fmt.Sprintf("what it sets was changed back %d times by others", times)), Next: "see in the Activity Log who does, then let it be taken again with cvmguard brakes resume"}), false)
	}
	if sent := h.row.SentWithin(st.Step, now, guardWindow); sent >= l.Policy.Brakes.MaxSendsPerStepPerDay {
		out := outcomeOf(remedy.Failed, fault.New(fault.Blocked, "sending "+string(st.Step.Kind), st.Step.Target,
			"it was sent %d times in 24 h without lasting effect; see who or what undoes it", sent))
		times := h.row.Sends[key]
		out.NotBefore = times[len(times)-l.Policy.Brakes.MaxSendsPerStepPerDay].Add(guardWindow)
		return true, l.end(ctx, h, out, false)
	}
	if out, err := l.stillSet(ctx, h); err != nil || out != nil {
		if err != nil {
			return false, err
		}
		return true, l.end(ctx, h, out, false)
	}
	sec, blob := h.secrets(), ""
	if st.Step.Kind == remedy.CollectEvidence {
		if sec, blob, err = l.prepareEvidence(ctx, h); err != nil {
			return l.refusedBy(ctx, h, err, false)
		}
	}
	err = h.save(ctx, func(r *ledger.Row) {
		if _, back := r.ChangedBack(st.Step, now, l.Settings.TransitionWait); back {
			r.CountBack(st.Step)
		}
		r.Sent(st.Step, now, keepSends)
		r.Step.Token = ""
		if st.Step.Kind == remedy.CollectEvidence {
			r.Step.NonceHash, r.Step.Blob = ledger.NonceHash(sec.Nonce), blob
		}
	})
	if err != nil {
		return false, err
	}
	if !l.Now().Before(h.row.LeaseEnds) {
		return false, errLost // this worker slept: another may be about to send the same
	}
	h.calling = true
	p, err := l.Applier.Start(ctx, h.row.Step.Step, sec)
	if err != nil {
		return l.refusedBy(ctx, h, err, true)
	}
	h.calling = false
	h.log.Info("a step was sent", slog.String(logStep, key), slog.String(logState, string(p.State)))
	return l.proceed(ctx, h, p, false)
}

// refusedBy is what an error of a look or a call leads to: another look later for
// what passes, the step's end for what doesn't. A call that the service turned
// away at the door doesn't count for the loop guard. One whose answer was lost may
// still land: it isn't looked for before it had as long as the lease gives it.
func (l *Loop) refusedBy(ctx context.Context, h *held, err error, called bool) (bool, error) {
	if !retryable(err) {
		h.calling = false
		return true, l.end(ctx, h, outcomeOf(remedy.Failed, err), false)
	}
	step, wait := h.row.Step.Step, l.backOff(h, err)
	turnedAway := called && (fault.Is(err, fault.Throttled) || fault.Is(err, fault.Conflict))
	if called && !turnedAway {
		wait = max(wait, l.Settings.Lease-l.Settings.Turn)
	}
	h.log.Warn("a step could not be sent; it is looked at again", slog.String(logStep, ledger.SendKey(step)), slog.String(logError, err.Error()))
	err = l.lookAgain(ctx, h, wait, func(r *ledger.Row) {
		r.Step.Token = tokenLook
		if times := r.Sends[ledger.SendKey(step)]; turnedAway && len(times) > 0 {
			r.Sends[ledger.SendKey(step)] = times[:len(times)-1]
		}
	})
	if err == nil || turnedAway {
		h.calling = false
	}
	return false, err
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
		out := &ledger.Outcome{State: remedy.Done}
		if h.row.Step.Step.Kind != remedy.CollectEvidence {
			return true, l.end(ctx, h, out, adopted)
		}
		if err := l.fetchEvidence(ctx, h, out); err != nil {
			if retryable(err) {
				return l.refusedBy(ctx, h, err, false)
			}
			out = outcomeOf(remedy.Failed, err)
		}
		blob := h.row.Step.Blob
		if err := l.end(ctx, h, out, adopted); err != nil {
			return true, err
		}
		l.dropIncoming(ctx, h, blob)
		return true, nil
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
	braked := out.Code == codeBreaker || out.Code == ledger.CodeChangedBack || out.Code == codeAnew // what holds the step back is asked anew
	if slow := now.Add(l.Settings.SlowPace); out.State != remedy.Done && out.NotBefore.Before(slow) && !braked {
		out.NotBefore = slow
	}
	if h.object.Kind == cvm.SharedOperation {
		if err := l.wakeOfOperation(ctx, h); err != nil {
			return err
		}
	} else if !h.object.IsVM() {
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
	if err := h.save(ctx, func(r *ledger.Row) { adopt(r, rec, hash) }); err != nil {
		return err
	}
	if out.State == remedy.Done {
		if h.done == nil {
			h.done = map[string]bool{}
		}
		h.done[ledger.SendKey(step)] = true
	}
	return nil
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
	// A due goes with microseconds, and never before its time.
	at = at.UTC().Add(time.Microsecond - 1).Truncate(time.Microsecond)
	if h.row.NextLook.After(now) && !h.row.NextLook.After(at) {
		return h.row.NextLook, nil
	}
	m := h.object.message(ledger.Cause{Kind: causeLookAgain, At: now}, at)
	if err := l.enqueue(ctx, m, at.Sub(now)); err != nil {
		return time.Time{}, err
	}
	return at, nil
}

// wait turns what a service says of an operation's pace into a delay: never hot,
// never beyond MaxPoll.
func (l *Loop) wait(after time.Duration) time.Duration {
	return min(max(after, time.Second), l.Settings.MaxPoll)
}

// backOff is the pause after an error that passes: the one that the service
// states, whatever its length, else one that grows with the step's age.
func (l *Loop) backOff(h *held, err error) time.Duration {
	if after := fault.RetryAfter(err); after > 0 {
		return max(after, time.Second)
	}
	return l.wait(l.Now().Sub(h.row.Step.Started) / 2)
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
