package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// causeReset is the cause of objects that a person's word on a brake puts on the
// loop.
const causeReset = "brakes"

// BrakesState is where the brakes stand.
type BrakesState struct {
	Breaker ledger.Breaker
	Changed int // objects changed within the hour, as the breaker counts them: VMs and shared objects
	VMs     int // those known, of which the breaker's share is a part
	Policy  string
	// Canary is that of the policy in force; Trouble says, by chain, what is wrong with
	// one of its objects; Ends is when the rest follows by itself, zero for never.
	Canary  ledger.Canary
	Trouble map[string]string
	Ends    time.Time
	Held    []HeldObject // by brake, the strongest first
	More    bool         // there are more than MaxHeld
}

// HeldObject is an object that a brake holds, or of which a step is stopped.
type HeldObject struct {
	ID, Chain string
	Shared    cvm.SharedKind
	Brake     string
	NextLook  time.Time
	Stopped   []cvm.Contest
}

// MaxHeld bounds how many held objects are listed.
const MaxHeld = 1000

// BrakesNow reads where the brakes stand.
func (l *Loop) BrakesNow(ctx context.Context) (BrakesState, error) {
	books, now := l.brakes(), l.Now()
	s := BrakesState{Policy: l.Policy.Hash, Trouble: map[string]string{}}
	var err error
	if s.Breaker, err = books.Breaker(ctx); err != nil {
		return s, err
	}
	changes, err := books.Changes(ctx, s.Breaker, now)
	if err != nil {
		return s, err
	}
	s.Changed = len(changes.At)
	if s.VMs, err = books.CountVMs(ctx, math.MaxInt); err != nil && !fault.Is(err, fault.NotFound) {
		return s, err
	}
	if s.Canary, err = books.Canary(ctx, l.Policy.Hash); err != nil {
		return s, err
	}
	for _, p := range s.Canary.Places {
		trouble, err := l.canaryTrouble(ctx, p)
		if err != nil {
			return s, err
		}
		if trouble != "" {
			s.Trouble[p.Chain] = trouble
		}
	}
	if set := l.Policy.Brakes.Canary; set.Wait > 0 && s.Canary.ReleasedAt.IsZero() && len(s.Canary.Places) >= set.VMs {
		s.Ends = s.Canary.Last().Add(set.Wait)
	}
	for _, name := range brakeOrder {
		err := l.eachBraked(ctx, name, func(r ledger.Row) bool {
			if s.More = len(s.Held) == MaxHeld; s.More {
				return false
			}
			s.Held = append(s.Held, HeldObject{ID: r.ID, Chain: r.Chain(), Shared: r.SharedKind, Brake: name, NextLook: r.NextLook, Stopped: r.Contested()})
			return true
		})
		if err != nil || s.More {
			return s, err
		}
	}
	return s, nil
}

// eachBraked calls yield with the rows that a brake holds, until it returns false.
func (l *Loop) eachBraked(ctx context.Context, name string, yield func(ledger.Row) bool) error {
	for _, table := range []string{ledger.TableVMs, ledger.TableShared} {
		more := true
		err := l.Tables.Query(ctx, table, ledger.Filter{Equal: map[string]string{ledger.ColBraked: name}}, func(e ledger.Entity) bool {
			row, err := ledger.DecodeRow(e)
			if err != nil { // its own turn says what is wrong with it
				row = ledger.Row{PK: e.PK, RK: e.RK, ID: e.Cols[ledger.ColID], SharedKind: cvm.SharedKind(e.Cols[ledger.ColShared])}
			}
			more = yield(row)
			return more
		})
		if err != nil && !fault.Is(err, fault.NotFound) {
			return fmt.Errorf("looking for objects that the brake %s holds: %w", name, err)
		}
		if !more {
			break
		}
	}
	return nil
}

// ResetBreaker lets the breaker go again on a person's word, forgets what was
// counted, and puts the objects that it held on the loop; it answers how many. It
// may be said again where it failed half-way. fault.Invalid: it hasn't tripped and
// holds nothing. Then what was counted stays: a reset that is said twice must not
// let the policy change twice as much.
func (l *Loop) ResetBreaker(ctx context.Context, by string) (woken int, err error) {
	now := l.Now()
	was, err := l.brakes().Reset(ctx, now, by)
	if err != nil {
		return 0, err
	}
	if was.Tripped {
		l.log().Warn("the breaker was reset", slog.String("by", by), slog.String("why", was.Why), slog.Int("changed", was.Count))
	}
	woken, err = l.wakeBraked(ctx, ledger.Cause{Kind: causeReset, At: now, ID: BrakeBreaker, By: by}, BrakeBreaker, BrakeUnreadable)
	if err == nil && woken == 0 && !was.Tripped {
		return 0, notTripped(was)
	}
	return woken, err
}

// notTripped refuses the reset of a breaker that hasn't tripped.
func notTripped(b ledger.Breaker) error {
	last := ""
	if !b.ResetAt.IsZero() {
		last = "; it was reset last at " + b.ResetAt.UTC().Format(time.RFC3339)
	}
	return &fault.Error{Kind: fault.Invalid, Op: "resetting the breaker", Err: errText("it hasn't tripped and holds nothing, so nothing was changed and what it has counted within the hour stays" + last),
		Next: "see `cvmguard brakes show`; a greater count is allowed by the policy's brakes.breaker"}
}

// ReleaseCanary lets all objects follow the canary of the policy in force, on a
// person's word, and puts those that it held on the loop; it answers how many.
func (l *Loop) ReleaseCanary(ctx context.Context, by string) (woken int, err error) {
	now := l.Now()
	if l.Policy.Brakes.Canary.VMs <= 0 {
		return 0, fault.New(fault.Invalid, "releasing the canary", "", "the policy in force has none (brakes.canary)")
	}
	if err := l.brakes().ReleaseCanary(ctx, l.Policy.Hash, by, now); err != nil {
		return 0, err
	}
	l.log().Warn("the canary was released", slog.String("by", by), slog.String("policy", l.Policy.Hash))
	return l.wakeBraked(ctx, ledger.Cause{Kind: causeReset, At: now, ID: BrakeCanary, By: by}, BrakeCanary)
}

// Resume lets steps be taken again that are stopped on an object (a VM's ARM id or
// a shared object's id): those of a kind, all where step is "". It is said to the
// object's own turn, whose record keeps who said it. fault.NotFound: nothing of it
// is stopped.
func (l *Loop) Resume(ctx context.Context, id, step, by string) (Object, []cvm.Contest, error) {
	const op = "letting steps be taken again"
	o, err := AnyObject(id)
	if err != nil {
		return o, nil, err
	}
	row, err := l.readRow(ctx, o)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return o, nil, err
	}
	stopped := slices.DeleteFunc(row.Contested(), func(c cvm.Contest) bool { return step != "" && c.Step != step })
	if all := row.Contested(); len(stopped) == 0 && len(all) > 0 {
		var kinds []string
		for _, c := range all {
			kinds = append(kinds, c.Step)
		}
		return o, nil, asked("step", fault.New(fault.NotFound, op, o.ID, "no step %q of it is stopped; give one that is: %s", step, strings.Join(kinds, ", ")))
	}
	if len(stopped) == 0 {
		return o, nil, fault.New(fault.NotFound, op, o.ID, "no such step of it is stopped; see GET /api/brakes")
	}
	m := o.message(ledger.Cause{Kind: ledger.CauseResume, At: l.Now(), ID: step, By: by}, time.Time{})
	if err := l.enqueue(ctx, m, 0); err != nil {
		return o, nil, err
	}
	l.log().Warn("stopped steps are let be taken again", slog.String(logObject, o.ID), slog.String("by", by), slog.Int("steps", len(stopped)))
	return o, stopped, nil
}

// wakers is how many messages are put on the queue at a time.
const wakers = 16

// wakeBraked puts every object on the loop that one of the brakes holds.
func (l *Loop) wakeBraked(ctx context.Context, c ledger.Cause, names ...string) (int, error) {
	var objects []Object
	var bad error
	for _, name := range names {
		err := l.eachBraked(ctx, name, func(r ledger.Row) bool {
			objects = append(objects, Object{Kind: r.SharedKind, ID: r.ID, Table: r.Table(), PK: r.PK, RK: r.RK})
			return true
		})
		bad = errors.Join(bad, err)
	}
	work := make(chan Object)
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	for range min(wakers, len(objects)) {
		wg.Go(func() {
			for o := range work {
				err := l.enqueue(ctx, o.message(c, time.Time{}), 0)
				mu.Lock()
				if bad = errors.Join(bad, err); err == nil {
					n++
				}
				mu.Unlock()
			}
		})
	}
	for _, o := range objects {
		work <- o
	}
	close(work)
	wg.Wait()
	if bad != nil {
		return n, fmt.Errorf("after %d of %d objects were put on the loop: %w; say it again", n, len(objects), bad)
	}
	return n, nil
}
