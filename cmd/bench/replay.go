//go:build !release

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
	"cvmguard/internal/reconcile"
)

// place is the table's, container's and queue's name of what the bench itself
// writes.
const place = "bench"

// replay makes the storage calls of an event bare: through the same SDK, on rows
// and records of the same size, one after the other.
type replay struct {
	arm
	w      *local.World
	row    ledger.Entity
	record []byte
	n      atomic.Int64
	rows   chan ledger.Entity // that were inserted, for mixes that insert none
}

// newReplay takes a judged VM's row and record for a pattern.
func newReplay(ctx context.Context, w *local.World, vm string) (*replay, error) {
	o, err := reconcile.VMObject(vm)
	if err != nil {
		return nil, err
	}
	r := &replay{w: w, rows: make(chan ledger.Entity, 1<<16)}
	if r.arm, err = newARM(ctx, w.Sim); err != nil {
		return nil, err
	}
	if r.row, err = w.Storage.Tables().Get(ctx, o.Table, o.PK, o.RK); err != nil {
		return nil, err
	}
	if r.record, err = w.Storage.Blobs().Read(ctx, ledger.ContainerRecords, ledger.RecordName(o.Chain(), 1), 1<<20); err != nil {
		return nil, err
	}
	for range 5 { // the table, container and queue are made
		if err := r.once(ctx, mix{opRowInsert: 1, opBlobCreate: 1, opEnqueue: 1}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// once makes the calls of one event, the host's on its message too.
func (r *replay) once(ctx context.Context, m mix) error {
	if err := r.calls(ctx, m); err != nil {
		return err
	}
	_, err := r.take(ctx, 1)
	return err
}

// take takes messages off the queue and deletes them, as the host does.
func (r *replay) take(ctx context.Context, most int) (n int, err error) {
	queues := r.w.Storage.QueueRaw()
	got, err := queues.Dequeue(ctx, place, most, time.Minute)
	for _, m := range got {
		err = errors.Join(err, queues.Delete(ctx, place, m.ID, m.PopReceipt))
	}
	return len(got), err
}

// calls makes the handler's calls of one event.
func (r *replay) calls(ctx context.Context, m mix) error {
	n := r.n.Add(1)
	row := ledger.Entity{PK: r.row.PK, RK: cvm.RowKey(fmt.Sprintf("%s %d", r.row.RK, n)), Cols: maps.Clone(r.row.Cols)}
	if m[opRowInsert] < 0.5 {
		row = <-r.rows
	}
	defer func() { r.rows <- row }()
	blob := fmt.Sprintf("%s/%d.json", row.RK, n)
	tables, blobs := r.w.Storage.Tables(), r.w.Storage.Blobs()
	insert := func() (err error) { row.ETag, err = tables.Insert(ctx, place, row); return err }
	var faults []error
	do := func(op string, call func() error) {
		for range int(math.Round(m[op])) {
			faults = append(faults, call())
		}
	}
	// The event's own message is taken at once; what else is enqueued looks again
	// later and stays.
	var delay time.Duration
	do(opEnqueue, func() error {
		err := r.w.Storage.Queue().Enqueue(ctx, place, []byte(`{"vm":"`+r.row.RK+`"}`), delay)
		delay = 10 * time.Minute
		return err
	})
	do(opRowInsert, insert)
	do(opRowGet, func() error { _, err := tables.Get(ctx, place, row.PK, row.RK); return err })
	do(opRowReplace, func() (err error) { row.ETag, err = tables.Replace(ctx, place, row); return err })
	do(opBlobCreate, func() error { return blobs.Create(ctx, place, blob, r.record) })
	do(opBlobRead, func() error { _, err := blobs.Read(ctx, place, blob, 1<<20); return absent(err) })
	do(opBlobExists, func() error { _, err := blobs.Exists(ctx, place, blob); return err })
	for op, n := range m {
		if !slices.Contains([]string{opEnqueue, opRowInsert, opRowGet, opRowReplace, opBlobCreate, opBlobRead, opBlobExists}, op) && n >= 0.5 {
			faults = append(faults, fmt.Errorf("the floor has no bare call for %q, which one event makes %.1f times", op, n))
		}
	}
	return errors.Join(faults...)
}

// absent lets a read pass that finds nothing, as the handler's do.
func absent(err error) error {
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// many makes the calls of n events, so many at a time, while their messages are
// taken as the host takes them, and gives the time of all.
func (r *replay) many(ctx context.Context, m mix, n, workers int) (time.Duration, error) {
	began := time.Now()
	var left atomic.Int64
	left.Store(int64(n))
	faults := make([]error, workers+1)
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for left.Add(-1) >= 0 && faults[i] == nil {
				faults[i] = r.calls(ctx, m)
			}
		})
	}
	all.Go(func() {
		for taken := 0; taken < n && faults[workers] == nil; {
			got, err := r.take(ctx, batch)
			if got == 0 && err == nil {
				err = pause(ctx, 5*time.Millisecond)
			}
			taken, faults[workers] = taken+got, err
		}
	})
	all.Wait()
	return time.Since(began), errors.Join(faults...)
}
