package reconcile

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Log keys.
const (
	logObject = "object"
	logCause  = "cause"
	logStep   = "step"
	logState  = "state"
	logError  = "error"
)

// errLost is what a holder fails its message with when its claim is gone.
var errLost = fault.New(fault.Conflict, "holding the claim", "", "another worker has taken the object; this turn writes nothing more")

// Turn takes one turn for a message. A nil error means that the message may be
// deleted: the work is done, or another message carries it. An error means that
// the message must come again.
func (l *Loop) Turn(ctx context.Context, m Message) error {
	o, err := objectOf(m)
	if err != nil {
		return err
	}
	log := l.log().With(slog.String(logObject, o.ID), slog.String(logCause, m.Cause.Kind))
	for {
		done, err := l.try(ctx, o, m, log)
		if done || err != nil {
			return err
		}
	}
}

// try is one try at the claim, and the turn if it is had; done is false when
// somebody else was quicker and the row must be read anew.
func (l *Loop) try(ctx context.Context, o Object, m Message, log *slog.Logger) (done bool, err error) {
	// The turn's time runs from before the lease's, so that it is over first however
	// long the claim itself takes to be written.
	turn, cancel := context.WithTimeout(ctx, l.Settings.Turn)
	defer cancel()
	h, done, err := l.claim(turn, o, m, log)
	if err != nil || h == nil {
		return done, err
	}
	return true, l.hold(ctx, turn, h, m)
}

func (l *Loop) log() *slog.Logger {
	if l.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l.Log
}

// claim takes the lease, or follows the one who has it. Without a claim and an
// error, done says that the message is to be let go, else the row is read anew.
func (l *Loop) claim(ctx context.Context, o Object, m Message, log *slog.Logger) (h *held, done bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	row, err := l.readRow(ctx, o)
	fresh := fault.Is(err, fault.NotFound)
	if err != nil && !fresh {
		return nil, false, err
	}
	now := l.Now()
	if !fresh && row.Owner != "" && row.LeaseEnds.After(now) {
		anew, err := l.follow(ctx, o, m, row)
		if err == nil && !anew {
			log.Debug("the object is claimed; its holder will look again")
		}
		return nil, !anew, err
	}
	if !fresh && row.Owner == "" && !m.Due.IsZero() && !m.Due.Equal(row.NextLook) {
		log.Debug("a look-again that another one replaced")
		return nil, true, nil // rule 6
	}
	owner, err := l.random()
	if err != nil {
		return nil, false, err
	}
	if fresh {
		rebuilt, err := l.rebuild(ctx, o, owner)
		if rebuilt || err != nil {
			return nil, false, err
		}
		row = ledger.Row{PK: o.PK, RK: o.RK, ID: o.ID, SharedKind: o.Kind}
	}
	cut := row.Owner != "" // an owner whose lease has ended: a turn cut short
	o.ID = row.ID          // one spelling of an object, whatever the message's
	row.Owner, row.LeaseEnds = owner, now.Add(l.Settings.Lease)
	row.Again, row.Followed = false, ""
	if !m.Due.IsZero() && m.Due.Equal(row.NextLook) && row.NextLook.After(now) {
		// It came before its time and is spent by this turn: from now on no message
		// stands for that time any more.
		row.NextLook = now
	}
	if !m.DryRun {
		mergeCause(&row, m.Cause, now)
	}
	row.ETag, err = l.writeRow(ctx, &row)
	if fault.Is(err, fault.Conflict) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("claiming %q: %w", o.ID, err)
	}
	return &held{loop: l, object: o, row: row, owner: owner, repair: cut, cut: cut, fresh: cut, log: log}, true, nil
}

// rebuild is what an object without a row, but with records, needs first: its row
// was lost, and with it who holds the object and what is under way. As in any
// rebuild the row is claimed for one lease, which a turn that held it outlives no
// more than its own; the message then follows that claim.
func (l *Loop) rebuild(ctx context.Context, o Object, owner string) (rebuilt bool, err error) {
	_, err = ledger.Rebuilding{Blobs: l.Blobs, Tables: l.Tables, Now: l.Now, Owner: "rebuild-" + owner, Lease: l.Settings.Lease}.Rebuild(ctx, o.Chain())
	switch {
	case err == nil:
		l.log().Warn("a row was lost and is written anew from its records", slog.String(logObject, o.ID))
		return true, nil
	case fault.Is(err, fault.NotFound):
		return false, nil // no record either: it is new
	case fault.Is(err, fault.Conflict):
		return true, nil // another worker was quicker
	}
	return false, fmt.Errorf("looking for records of %q: %w", o.ID, err)
}

// follow is rule 2. anew says that the lease went first and no copy is queued, or
// that the message is a person's word, which doesn't wait out a lease that nobody
// holds any more (a pause would come steps late): the worker starts over.
func (l *Loop) follow(ctx context.Context, o Object, m Message, row ledger.Row) (anew bool, err error) {
	lease, queued := row.Owner, false
	for {
		now := l.Now()
		if row.Owner != lease || !row.LeaseEnds.After(now) {
			return !queued || ledger.IsWord(m.Cause.Kind) && !m.DryRun, nil
		}
		if !queued && (m.DryRun || row.Followed != lease) {
			c := m
			c.Due = time.Time{}
			if err := l.enqueue(ctx, c, row.LeaseEnds.Sub(now)+l.Settings.Margin); err != nil {
				return false, err
			}
			queued = true
		}
		if m.DryRun {
			return false, nil // its copy does the dry run; a look by the holder would not be dry
		}
		row.Again, row.Followed = true, lease
		mergeCause(&row, m.Cause, now)
		_, err := l.writeRow(ctx, &row)
		if err == nil {
			return false, nil
		}
		if !fault.Is(err, fault.Conflict) {
			return false, fmt.Errorf("following the claim on %q: %w", o.ID, err)
		}
		if row, err = l.readRow(ctx, o); err != nil {
			return false, err
		}
	}
}

// hold looks until nobody asks for another look, then releases.
func (l *Loop) hold(ctx, turn context.Context, h *held, m Message) error {
	for {
		if err := l.look(turn, h, m); err != nil {
			h.cutShort(ctx, err)
			return fmt.Errorf("looking at %q: %w", h.object.ID, err)
		}
		again, err := h.release(turn, m.DryRun)
		if err != nil {
			h.cutShort(ctx, err)
			return err
		}
		if !again {
			return nil
		}
		// The look that others ask for is theirs: whatever this message was, it isn't
		// dry, and it remembers nothing, for what they came for may be newer.
		m.Due, m.DryRun, m.Cause = time.Time{}, false, ledger.Cause{Kind: causeLookAgain, At: l.Now()}
		h.fresh = true
	}
}

// look is one look at the object: repair what a cut turn left, drive an open
// step, and when none is open observe, judge, plan, record and apply one step.
func (l *Loop) look(ctx context.Context, h *held, m Message) error {
	if h.repair {
		if err := h.repairHead(ctx); err != nil {
			return err
		}
		h.repair = false
	}
	if h.row.Step != nil {
		if m.DryRun {
			wait := max(h.row.NextLook.Sub(l.Now()), 0) + l.Settings.Margin
			return l.enqueue(ctx, m, wait) // a dry run waits for the step's end
		}
		ended, err := l.drive(ctx, h)
		if err != nil || !ended {
			return err
		}
		h.fresh = true // what the step changed is read anew
	}
	for {
		v, err := l.view(ctx, h, m)
		if err != nil || v == nil {
			return err
		}
		ended, err := l.settle(ctx, h, m, v)
		if err != nil || !ended {
			return err
		}
		h.fresh = true
	}
}

func (l *Loop) readRow(ctx context.Context, o Object) (ledger.Row, error) {
	e, err := l.Tables.Get(ctx, o.Table, o.PK, o.RK)
	if err != nil {
		return ledger.Row{}, fmt.Errorf("reading the row of %q: %w", o.ID, err)
	}
	return ledger.DecodeRow(e)
}

// writeRow inserts a row that has no ETag and replaces one that has.
func (l *Loop) writeRow(ctx context.Context, r *ledger.Row) (etag string, err error) {
	e, err := r.Entity()
	if err != nil {
		return "", err
	}
	if r.ETag == "" {
		return l.Tables.Insert(ctx, r.Table(), e)
	}
	return l.Tables.Replace(ctx, r.Table(), e)
}

func (l *Loop) random() (string, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(l.Rand, b); err != nil {
		return "", fmt.Errorf("reading randomness for a lease: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// maxDelay keeps a message's hiding time under the queue's seven days; a
// look-again that comes early finds its due still the row's and takes a turn.
const maxDelay = 6 * 24 * time.Hour

func (l *Loop) enqueue(ctx context.Context, m Message, delay time.Duration) error {
	if err := l.Queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), min(max(delay, 0), maxDelay)); err != nil {
		return fmt.Errorf("enqueueing %s%s: %w", m.VM, m.Shared, err)
	}
	return nil
}
