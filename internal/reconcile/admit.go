package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// The whys of what table brakes says. They stand in records.
const (
	whyBreaker    = "the breaker has tripped: nothing is sent until a person resets it (cvmguard brakes reset)"
	whyUnreadable = "table brakes can't be read, so nobody can say whether the breaker has tripped: nothing is sent"
	whyCanary     = "the first VMs of this policy are looked at first (brakes.canary)"
)

func everyStep(remedy.Step) bool { return true }

// canaryHolds says whether the canary concerns a step.
func canaryHolds(s remedy.Step) bool { return s.Kind.Changes() && !brings(s) }

// admission asks table brakes before an intent is recorded.
type admission struct {
	loop *Loop
	h    *held
	now  time.Time
	// verdict is the object's at present, before the policy changed anything.
	verdict policy.Value
	// begun: an operation that has disturbed VMs already. It is gone on with, and was
	// counted when it began.
	begun bool

	read    bool
	breaker ledger.Breaker
	// counted: the object is one of those that the breaker lets be changed.
	counted bool
}

func (l *Loop) brakes() ledger.Brakes { return ledger.Brakes{Tables: l.Tables} }

// ask asks for one step. held is nil where it may be sent; else it says which steps
// the brake holds back. What passes comes back as an error: the turn fails, and
// nothing is sent.
func (a *admission) ask(ctx context.Context, s remedy.Step) (held func(remedy.Step) bool, b brake, err error) {
	held, b, err = a.askAll(ctx, s)
	if err == nil || retryable(err) {
		return held, b, err
	}
	a.h.log.Error("table brakes can't be made sense of; nothing is sent", slog.String(logError, err.Error()))
	return everyStep, brake{name: BrakeUnreadable, why: whyUnreadable, until: a.now.Add(a.loop.Settings.SlowPace)}, nil
}

func (a *admission) askAll(ctx context.Context, s remedy.Step) (held func(remedy.Step) bool, b brake, err error) {
	if !a.read {
		if a.breaker, err = a.loop.brakes().Breaker(ctx); err != nil {
			return nil, b, err
		}
		a.read = true
	}
	tripped := brake{name: BrakeBreaker, why: whyBreaker}
	if a.breaker.Tripped {
		return everyStep, tripped, nil
	}
	if !canaryHolds(s) || a.begun {
		return nil, b, nil
	}
	if b, held, err := a.canary(ctx); err != nil || held {
		return canaryHolds, b, err
	}
	if a.breaker, err = a.count(ctx); err != nil {
		return nil, b, err
	}
	if a.breaker.Tripped {
		return everyStep, tripped, nil
	}
	return nil, b, nil
}

// estateAge is how long the size of the estate that a full sweep found is good.
const estateAge = 48 * time.Hour

// count notes the object's change, or trips the breaker if it is one too many.
func (a *admission) count(ctx context.Context) (ledger.Breaker, error) {
	limits, books, o := a.loop.Policy.Brakes, a.loop.brakes(), a.h.object
	for limits.MaxVMsPerHour > 0 || limits.MaxSharePerHour > 0 {
		changes, err := books.Changes(ctx, a.breaker, a.now)
		if err != nil {
			return a.breaker, err
		}
		n := changes.With(o.Chain())
		why, err := a.tooMany(ctx, n)
		if err != nil {
			return a.breaker, err
		}
		if why == "" {
			if ok, err := books.Change(ctx, a.breaker, changes, o.Chain(), a.h.row.ID); ok || err != nil {
				a.counted = true
				return a.breaker, err
			}
			continue
		}
		was := a.breaker
		if a.breaker, err = books.Trip(ctx, was, a.now, why, n, a.loop.Policy.Hash); err != nil {
			return was, err
		}
		if a.breaker.Tripped {
			a.h.log.Error("the breaker has tripped: nothing more is sent until a person resets it", slog.String("why", a.breaker.Why), slog.Int("changed", a.breaker.Count))
			break
		}
		// A person reset it meanwhile: counted anew.
	}
	return a.breaker, nil
}

// tooMany says why n changed objects are more than policy allows, "" if they aren't.
func (a *admission) tooMany(ctx context.Context, n int) (string, error) {
	limits := a.loop.Policy.Brakes
	if limits.MaxVMsPerHour > 0 && n > limits.MaxVMsPerHour {
		return fmt.Sprintf("%d objects would have been changed within an hour, the most is %d (brakes.breaker.vmsPerHour)", n, limits.MaxVMsPerHour), nil
	}
	total, over, err := a.overShare(ctx, n)
	if err != nil || !over {
		return "", err
	}
	return fmt.Sprintf("%d objects would have been changed within an hour, more than %d%% of %d VMs (brakes.breaker.sharePerHour)", n, limits.MaxSharePerHour, total), nil
}

// overShare says whether n objects are a greater part of the VMs than policy lets
// be changed. The rows are counted only where the last sweep's count doesn't settle
// it, and no further than that takes.
func (a *admission) overShare(ctx context.Context, n int) (total int, over bool, err error) {
	limits := a.loop.Policy.Brakes
	if limits.MaxSharePerHour <= 0 || n < max(limits.ShareFrom, 1) {
		return 0, false, nil
	}
	within := func(total int) bool { return n*100 <= limits.MaxSharePerHour*total }
	total, at, err := a.loop.brakes().Estate(ctx)
	if err != nil || within(total) && a.now.Sub(at) < estateAge {
		return total, false, err
	}
	enough := (n*100 + limits.MaxSharePerHour - 1) / limits.MaxSharePerHour
	total, err = a.loop.brakes().CountVMs(ctx, enough)
	return total, err == nil && !within(total), err
}

// stillSet looks at the breaker right before a call. out is nil where the call may
// be made, else what the step ends with. What passes comes back as an error. A
// change that was counted in this very turn is one of those that policy allows,
// whoever made it trip since; after a turn that was cut short it isn't sent.
func (l *Loop) stillSet(ctx context.Context, h *held) (out *ledger.Outcome, err error) {
	s := h.row.Step.Step
	state, err := l.brakes().Breaker(ctx)
	why := whyBreaker
	switch {
	case err == nil && (!state.Tripped || h.counted == h.row.Step.Intent):
		return nil, nil
	case err != nil && retryable(err):
		return nil, err
	case err != nil:
		why = whyUnreadable
	}
	return outcomeOf(remedy.Blocked, &fault.Error{Kind: fault.Blocked, Op: "sending " + string(s.Kind), Object: s.Target, Code: codeBreaker, Err: errText(why)}), nil
}

type errText string

func (e errText) Error() string { return string(e) }

// letGo puts an object on the loop again that was just found braked while a person
// let that brake go: whoever does that wakes the objects whose rows show it, and
// this one's didn't yet.
func (l *Loop) letGo(ctx context.Context, h *held) error {
	switch h.row.Braked {
	case BrakeBreaker:
		state, err := l.brakes().Breaker(ctx)
		if err != nil || state.Tripped {
			return err
		}
	case BrakeCanary:
		c, err := l.brakes().Canary(ctx, l.Policy.Hash)
		if err != nil || c.ReleasedAt.IsZero() {
			return err
		}
	default:
		return nil
	}
	return l.enqueue(ctx, h.object.message(ledger.Cause{Kind: causeLookAgain, At: l.Now()}, time.Time{}), 0)
}
