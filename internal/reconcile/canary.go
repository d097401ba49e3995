package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// canary says whether the policy's canary holds the object back. The first objects
// that a policy is to change take its places. A shared object takes one only where
// no more VMs hang on it than the canary has places, so that no single change
// reaches further than that; others wait with the rest. An operation, which a person
// has approved, doesn't wait.
func (a *admission) canary(ctx context.Context) (b brake, held bool, err error) {
	l, h := a.loop, a.h
	most := l.Policy.Brakes.Canary.VMs
	if most <= 0 || h.object.Kind == cvm.SharedOperation {
		return b, false, nil
	}
	c, err := l.brakes().Canary(ctx, l.Policy.Hash)
	if err != nil || !c.ReleasedAt.IsZero() || c.Holds(h.object.Chain()) {
		return b, false, err
	}
	if len(c.Places) < most {
		small, err := l.reachesFew(ctx, h, most)
		if err != nil {
			return b, false, err
		}
		if small {
			p := ledger.CanaryPlace{Chain: h.object.Chain(), ID: h.row.ID, Shared: h.object.Kind, Was: a.verdict, At: a.now}
			if taken, err := l.brakes().TakePlace(ctx, l.Policy.Hash, most, p); err != nil || taken {
				return b, false, err
			}
			if c, err = l.brakes().Canary(ctx, l.Policy.Hash); err != nil { // others were quicker
				return b, false, err
			}
		}
	}
	until, err := l.canaryEnds(ctx, c, a.now)
	if err != nil {
		return b, false, err
	}
	if !until.IsZero() && !until.After(a.now) {
		err := l.brakes().ReleaseCanary(ctx, l.Policy.Hash, ledger.ReleasedByTime, a.now)
		if err == nil {
			h.log.Info("the canary is released: its time is over, and all is well with its VMs", slog.String("policy", l.Policy.Hash))
		}
		return b, false, err
	}
	return brake{name: BrakeCanary, why: whyCanary, until: until}, true, nil
}

// reachesFew says whether no more VMs than `most` hang on an object.
func (l *Loop) reachesFew(ctx context.Context, h *held, most int) (bool, error) {
	if h.object.IsVM() {
		return true, nil
	}
	f, ok := dependents(h.object, h.row)
	if !ok {
		return true, nil
	}
	n := 0
	err := l.Tables.Query(ctx, ledger.TableVMs, f, func(ledger.Entity) bool {
		n++
		return n <= most
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return false, fmt.Errorf("counting the VMs of %q: %w", h.object.ID, err)
	}
	return n <= most, nil
}

// canaryEnds is when the rest may follow by itself, or when that is to be looked at
// again; zero where only a person lets it. A moment that isn't to come means now.
func (l *Loop) canaryEnds(ctx context.Context, c ledger.Canary, now time.Time) (time.Time, error) {
	set := l.Policy.Brakes.Canary
	if set.Wait <= 0 {
		return time.Time{}, nil
	}
	if len(c.Places) < set.VMs {
		return now.Add(l.Settings.SlowPace), nil
	}
	if ends := c.Last().Add(set.Wait); ends.After(now) {
		return ends, nil
	}
	for _, p := range c.Places {
		trouble, err := l.canaryTrouble(ctx, p)
		if err != nil {
			return time.Time{}, err
		}
		if trouble != "" {
			return now.Add(l.Settings.SlowPace), nil // it may pass, and else a person lets it
		}
	}
	return now, nil
}

// canaryTrouble says what is wrong with one of the canaries, "" for nothing: it is
// still being changed, a step of its failed or is stopped, or it is worse off than
// before.
func (l *Loop) canaryTrouble(ctx context.Context, p ledger.CanaryPlace) (string, error) {
	table := ledger.TableVMs
	if p.Shared != "" {
		table = ledger.TableShared
	}
	pk, rk, ok := ledger.SplitChain(p.Chain)
	if !ok {
		return "", fault.New(fault.Bug, "reading a canary's place", p.ID, "%q is no object's key", p.Chain)
	}
	row, err := l.readRow(ctx, Object{ID: p.ID, Kind: p.Shared, Table: table, PK: pk, RK: rk})
	if fault.Is(err, fault.NotFound) {
		return "its row is gone", nil
	}
	if err != nil {
		return "", err
	}
	switch {
	case row.Step != nil && row.Step.Step.Kind.Changes():
		return "a step is still under way", nil
	case len(row.Hold) > 0:
		return "a step failed", nil
	case len(row.Stopped) > 0:
		return "a step is contested", nil
	case p.Was == policy.Compliant && (row.Verdict == policy.NonCompliant || row.Verdict == policy.Unknown):
		return "it was compliant and is " + string(row.Verdict), nil
	}
	return "", nil
}
