// Package fleet looks at the estate as a whole: which VMs there are, which of
// them the loop has never seen or not for long, and what Event Grid or the queue
// gave up. It puts objects on the loop and reads what the loop wrote; it judges
// and changes nothing itself.
//
// What it promises: a VM that a listing shows and no row knows is put on the
// loop; a dead letter is gone from its container only when what it is about is on
// the loop or its bytes are in the inbox, but for events that concern neither a VM
// nor a key. What it does not do: it is no second way to
// act on a VM.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

// Scope selects VMs: all that cvmguard may read when it is empty.
type Scope struct {
	Subscriptions []string
	Group         string // a resource group's name, within Subscriptions
	Where         string // a Resource Graph where-clause
}

// VM is one line of a listing.
type VM struct {
	ID      cvm.VMID
	Created time.Time // zero if the listing doesn't say
}

// Lister lists VMs by Resource Graph. yield's error ends the listing.
type Lister interface {
	ListVMs(ctx context.Context, s Scope, yield func(VM) error) error
}

// Decider says what an event is about. An error means that nobody can make sense
// of it.
type Decider interface {
	// Decide gives the VM to look at and why, or why it is none of the loop's business.
	Decide(event []byte) (vm cvm.VMID, cause ledger.Cause, drop string, err error)
	// DecideKey does the same for a key, by its versionless URL.
	DecideKey(event []byte) (key cvm.KeyID, cause ledger.Cause, drop string, err error)
}

// Fleet is the estate. All fields are required but Log.
type Fleet struct {
	Lister  Lister
	Decider Decider
	Tables  ledger.Tables
	Queue   ledger.Queue
	Blobs   ledger.Blobs
	Inbox   ledger.Inbox
	Nonces  ledger.Nonces
	Now     func() time.Time
	Stale   time.Duration // a row older than this is looked at again
	Missed  time.Duration // a VM older than this that no row knows is an event missed
	Log     *slog.Logger
}

// Report is what a sweep found and did.
type Report struct {
	Listed    int `json:"listed"`
	New       int `json:"new"`    // no row
	Missed    int `json:"missed"` // of New: old enough that an event must have been lost
	Stale     int `json:"stale"`
	Unjudged  int `json:"unjudged"` // a row without a verdict
	Overdue   int `json:"overdue"`  // whose next look has passed and nobody came
	Gone      int `json:"gone"`     // rows whose VM the listing doesn't show
	Imported  int `json:"imported"` // Event Grid's dead letters
	Enqueued  int `json:"enqueued"`
	OldNonces int `json:"oldNonces"`
	// OldLetters are letters with an outcome that were forgotten.
	OldLetters int `json:"oldLetters"`
	// OldChanges are changes that the breaker counts no more and that were forgotten.
	OldChanges int `json:"oldChanges"`
}

// letterLife is how long a letter whose outcome is known stays in the inbox.
const letterLife = 90 * 24 * time.Hour

// overdueAfter is how long after its next look an object without a turn counts
// as lost: a message was dropped or expired.
const overdueAfter = 15 * time.Minute

// Sweep imports dead letters, lists the estate, puts on the loop what is new,
// stale or never judged (with full: everything), and forgets old nonces (with full: old letters too). A part
// that fails doesn't keep the others from their work; the error names all. What is
// long comes after what was lost for certain: a sweep that runs out of time has
// imported the dead letters.
func (f *Fleet) Sweep(ctx context.Context, full bool) (Report, error) {
	var r Report
	var faults [5]error
	r.Imported, faults[0] = f.importDeadLetters(ctx)
	faults[1] = f.sweepEstate(ctx, full, &r)
	r.OldNonces, faults[2] = f.Nonces.Expire(ctx, f.Now().Add(-24*time.Hour))
	if full {
		r.OldLetters, faults[3] = f.Inbox.Prune(ctx, f.Now().Add(-letterLife))
		r.OldChanges, faults[4] = f.brakes().Prune(ctx, f.Now().Add(-24*time.Hour))
	}
	return r, errors.Join(faults[:]...)
}

func (f *Fleet) sweepEstate(ctx context.Context, full bool, r *Report) error {
	now := f.Now()
	rows, err := f.rows(ctx)
	if err != nil {
		return err
	}
	var noteErr error
	if full {
		noteErr = f.noteEstate(ctx, rows, now)
	}
	var wake []cvm.VMID
	err = f.Lister.ListVMs(ctx, Scope{}, func(vm VM) error {
		r.Listed++
		key := strings.ToLower(string(vm.ID))
		row, known := rows[key]
		delete(rows, key)
		why := full
		switch {
		case !known:
			r.New++
			if !vm.Created.IsZero() && now.Sub(vm.Created) > f.Missed {
				r.Missed++
				f.log().Warn("a VM that no event announced", slog.String("vm", string(vm.ID)))
			}
			why = true
		case row.Verdict == "":
			r.Unjudged++
			why = true
		case now.Sub(row.LastSeen) > f.Stale:
			r.Stale++
			why = true
		case !row.NextLook.IsZero() && now.Sub(row.NextLook) > overdueAfter && row.LastSeen.Before(row.NextLook):
			r.Overdue++
			why = true
		}
		if !why {
			return nil
		}
		wake = append(wake, vm.ID)
		return nil
	})
	if err != nil {
		err = fmt.Errorf("listing the estate: %w", err)
	}
	// Rows that the listing doesn't show: gone, or not to be listed any more. The
	// loop finds out which.
	for _, row := range rows {
		// After a listing that was cut short nobody can say what is gone.
		if err != nil || row.Verdict == policy.Gone || now.Sub(row.LastSeen) < f.Stale && !full {
			continue
		}
		r.Gone++
		wake = append(wake, cvm.VMID(row.ID))
	}
	n, wakeErr := f.wakeAll(ctx, wake, ledger.Cause{Kind: "sweep", At: now}, false)
	r.Enqueued = n
	return errors.Join(err, wakeErr, noteErr)
}

func (f *Fleet) brakes() ledger.Brakes { return ledger.Brakes{Tables: f.Tables} }

// noteEstate writes down how many VMs there are, of which the breaker takes its share.
func (f *Fleet) noteEstate(ctx context.Context, rows map[string]ledger.Row, now time.Time) error {
	n := 0
	for _, row := range rows {
		if row.Verdict != policy.Gone {
			n++
		}
	}
	return f.brakes().SetEstate(ctx, n, now)
}

// wakers is how many messages are put on the queue at a time.
const wakers = 16

// wakeAll puts VMs on the loop and answers with how many; the first failure stops
// what hasn't begun.
func (f *Fleet) wakeAll(ctx context.Context, ids []cvm.VMID, cause ledger.Cause, dry bool) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan cvm.VMID)
	var done atomic.Int64
	var wg sync.WaitGroup
	for range min(wakers, len(ids)) {
		wg.Go(func() {
			for id := range next {
				if err := Wake(ctx, f.Queue, reconcile.Message{VM: string(id), Cause: cause, DryRun: dry}); err != nil {
					cancel(err)
					return
				}
				done.Add(1)
			}
		})
	}
	for _, id := range ids {
		select {
		case next <- id:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
	n := int(done.Load())
	if n < len(ids) {
		return n, fmt.Errorf("after %d of %d VMs: %w", n, len(ids), context.Cause(ctx))
	}
	return n, nil
}

func (f *Fleet) rows(ctx context.Context) (map[string]ledger.Row, error) {
	rows := map[string]ledger.Row{}
	err := f.Tables.Query(ctx, ledger.TableVMs, ledger.Filter{}, func(e ledger.Entity) bool {
		row, err := ledger.DecodeRow(e)
		if err != nil {
			// An unreadable row counts as none: its VM is put on the loop, whose turn
			// fails with the reason and ends in the inbox.
			f.log().Error("a row can't be read; rebuild it", slog.String("error", err.Error()))
			return true
		}
		rows[strings.ToLower(row.ID)] = row
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("reading the rows of the estate: %w", err)
	}
	return rows, nil
}

func (f *Fleet) log() *slog.Logger {
	if f.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return f.Log
}

// maxCauseID is how much of a cause's id goes on the queue, in bytes. Event ids
// are GUIDs; one that is longer would not fit a message or a row.
const maxCauseID = 256

// Wake puts an object on the loop at once. The parts of the cause that come from
// outside are cut to what a message can carry, so that no event is too odd for
// its VM to be looked at.
func Wake(ctx context.Context, q ledger.Queue, m reconcile.Message) error {
	if len(m.Cause.ID) > maxCauseID {
		m.Cause.ID = strings.ToValidUTF8(m.Cause.ID[:maxCauseID], "")
	}
	if y := m.Cause.At.UTC().Year(); y < 1 || y > 9999 {
		m.Cause.At = time.Time{} // no time that JSON has
	}
	if err := q.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), 0); err != nil {
		return fmt.Errorf("putting %q on the loop: %w", m.VM+m.Shared, err)
	}
	return nil
}

// MaxRerun bounds how many VMs one rerun of a scope puts on the loop.
const MaxRerun = 100_000

// Rerun puts every VM of a scope on the loop and answers with how many. Nothing
// is put there before the whole scope is listed: a scope that is refused changes
// nothing; a queue that fails half-way is an error that says how many were put.
func (f *Fleet) Rerun(ctx context.Context, s Scope, cause ledger.Cause, dry bool) (int, error) {
	var ids []cvm.VMID
	err := f.Lister.ListVMs(ctx, s, func(vm VM) error {
		if len(ids) == MaxRerun {
			return fault.New(fault.Invalid, "rerunning a scope", "", "it has more than %d VMs; name a smaller one", MaxRerun)
		}
		ids = append(ids, vm.ID)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return f.wakeAll(ctx, ids, cause, dry)
}

// WakeByKey puts on the loop every VM that hangs on a key (its versionless URL,
// in any letter case), and the key itself. It answers with how many VMs.
func (f *Fleet) WakeByKey(ctx context.Context, key cvm.KeyID, cause ledger.Cause) (int, error) {
	if err := Wake(ctx, f.Queue, reconcile.Message{Shared: string(key), Cause: cause}); err != nil {
		return 0, err
	}
	n := 0
	var failed error
	filter := ledger.Filter{Equal: map[string]string{ledger.ColKey: strings.ToLower(string(key))}}
	err := f.Tables.Query(ctx, ledger.TableVMs, filter, func(e ledger.Entity) bool {
		if failed = Wake(ctx, f.Queue, reconcile.Message{VM: e.Cols[ledger.ColID], Cause: cause}); failed == nil {
			n++
		}
		return failed == nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return n, fmt.Errorf("putting the VMs of key %q on the loop: %w", key, err)
	}
	return n, nil
}
