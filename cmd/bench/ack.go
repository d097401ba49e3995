//go:build !release

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cvmguard/internal/ledger"
)

const ackFloor = "the same delivery through the same host to a handler that does nothing, then one bare enqueue to the same Azurite"

// acknowledged measures the way of an event from the webhook to its 202, with the
// loop switched off: nothing but the acknowledgement runs. Each sample is followed
// by one of its floor.
func (b *bench) acknowledged(ctx context.Context) error {
	w, err := b.world(ctx, map[string]string{"AzureWebJobs.reconcile.Disabled": "true"})
	if err != nil {
		return err
	}
	defer w.Close()
	noop, stop, err := b.noopHost(ctx)
	if err != nil {
		return err
	}
	defer stop()
	p, err := addPath(w.Sim, "ack")
	if err != nil {
		return err
	}
	id, err := addVM(w.Sim, "ack", p)
	if err != nil {
		return err
	}
	const warmUp = 20 // clients are made, connections opened
	var own, floor, host, queue samples
	for i := range b.acks + warmUp {
		e := created(w.Sim, id)
		took, err := deliver(ctx, w.Host().WebhookURL("vm-event"), e)
		if err != nil {
			return err
		}
		bare, err := deliver(ctx, noop, e)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := w.Storage.Queue().Enqueue(ctx, "bench", []byte(fmt.Sprintf(`{"vm":%q}`, id)), 0); err != nil {
			return err
		}
		put := time.Since(began)
		if i >= warmUp {
			own.took(took)
			floor.took(bare + put)
			host.took(bare)
			queue.took(put)
		}
	}
	m, err := w.Storage.QueueRaw().Dequeue(ctx, ledger.QueueReconcile, 1, time.Second)
	if err != nil {
		return err
	}
	if len(m) == 0 {
		return errors.New("no acknowledged event is on the queue")
	}
	const name = "event to acknowledgement, "
	b.figures = append(b.figures,
		figure(name+"p50", "ms", own.percentile(0.5)).beside(floor.percentile(0.5), ackFloor).of(len(own)),
		figure(name+"p99", "ms", own.percentile(0.99)).beside(floor.percentile(0.99), ackFloor).of(len(own)).
			noting("of the floor's p50 the host takes %.2f ms and the enqueue %.2f ms", host.percentile(0.5), queue.percentile(0.5)))
	return nil
}
