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
	h, err := l.claim(ctx, o, m, log)
	if err != nil || h == nil {
		return err
	}
	return l.hold(ctx, h, m)
}

func (l *Loop) log() *slog.Logger {
	if l.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l.Log
}

// claim takes the lease, or follows the one who has it. It answers nil without an
// error when the message is to be let go.
func (l *Loop) claim(ctx context.Context, o Object, m Message, log *slog.Logger) (*held, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		row, err := l.readRow(ctx, o)
		fresh := fault.Is(err, fault.NotFound)
		if err != nil && !fresh {
			return nil, err
		}
		now := l.Now()
		if !fresh && row.Owner != "" && row.LeaseEnds.After(now) {
			gone, err := l.follow(ctx, o, m, row)
			if err != nil {
				return nil, err
			}
			if gone {
				continue
			}
			log.Debug("the object is claimed; its holder will look again")
			return nil, nil
		}
		if !fresh && row.Owner == "" && !m.Due.IsZero() && !m.Due.Equal(row.NextLook) {
			log.Debug("a look-again that another one replaced")
			return nil, nil // rule 6
		}
		cut := row.Owner != "" // an owner whose lease has ended: a turn cut short
		if fresh {
			row = ledger.Row{PK: o.PK, RK: o.RK, ID: o.ID, SharedKind: o.Kind}
		}
		owner, err := l.random()
		if err != nil {
			return nil, err
		}
		row.Owner, row.LeaseEnds = owner, now.Add(l.Settings.Lease)
		row.Again, row.Followed = false, ""
		if !m.DryRun {
			mergeCause(&row, m.Cause)
		}
		row.ETag, err = l.writeRow(ctx, &row)
		if fault.Is(err, fault.Conflict) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("claiming %q: %w", o.ID, err)
		}
		return &held{loop: l, object: o, row: row, owner: owner, repair: cut || fresh, log: log}, nil
	}
}

// follow is rule 2. gone says that the lease went first and no copy is queued:
// the worker starts over.
func (l *Loop) follow(ctx context.Context, o Object, m Message, row ledger.Row) (gone bool, err error) {
	lease, queued := row.Owner, false
	for {
		now := l.Now()
		if row.Owner != lease || !row.LeaseEnds.After(now) {
			return !queued, nil
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
		mergeCause(&row, m.Cause)
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
func (l *Loop) hold(ctx context.Context, h *held, m Message) error {
	turn, cancel := context.WithTimeout(ctx, l.Settings.Turn)
	defer cancel()
	for {
		if err := l.look(turn, h, m); err != nil {
			h.cut(ctx, err)
			return fmt.Errorf("looking at %q: %w", h.object.ID, err)
		}
		again, err := h.release(turn, m.DryRun)
		if err != nil {
			h.cut(ctx, err)
			return err
		}
		if !again {
			return nil
		}
		m.Due = time.Time{}
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
		ended, err := l.drive(ctx, h, m)
		if err != nil || !ended {
			return err
		}
		m.Cause.Kind = causeOwnStep // what the step changed is read afresh
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
		m.Cause.Kind = causeOwnStep
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
