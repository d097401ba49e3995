package devhost

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

const (
	poisonSuffix = "-poison"
	maxQueueName = 63
	minPolling   = 100 * time.Millisecond
	storageTime  = 10 * time.Second // for one call of storage at a message's end
)

// poisonQueue is where a queue's failed messages go, "" where there is none: a
// poison queue has no poison queue, nor has one whose name has no room for the
// suffix.
func poisonQueue(queue string) string {
	if strings.HasSuffix(queue, poisonSuffix) || len(queue)+len(poisonSuffix) > maxQueueName {
		return ""
	}
	return queue + poisonSuffix
}

// listenQueue reads a function's queue until ctx ends, and then waits for the
// messages in hand.
func (in *instance) listenQueue(ctx context.Context, f *function) {
	cfg, queue := in.h.cfg.queues, f.trigger.QueueName
	log := in.h.opts.Log.With("function", f.name, "queue", queue)
	var inHand sync.WaitGroup
	defer inHand.Wait()
	var mu sync.Mutex
	running, ended := 0, make(chan struct{}, 1)
	wait := min(minPolling, cfg.MaxPolling)
	fault := ""
	for ctx.Err() == nil {
		mu.Lock()
		n := running
		mu.Unlock()
		if n > cfg.NewBatchThreshold {
			select {
			case <-ended:
			case <-ctx.Done():
			}
			continue
		}
		messages, err := in.h.opts.Queues.Dequeue(ctx, queue, cfg.BatchSize, in.h.opts.HidingTime)
		if err != nil && ctx.Err() == nil {
			if fault != err.Error() { // an absent queue would fill the log
				log.Warn("the queue can't be read; trying again", "error", err)
			}
			fault = err.Error()
		} else {
			fault = ""
		}
		if len(messages) == 0 {
			// Random exponential, like the host: from 100 ms up to the longest.
			if !pause(ctx, time.Duration(float64(wait)*(0.8+0.4*rand.Float64()))) {
				return
			}
			wait = min(wait*2, max(cfg.MaxPolling, time.Millisecond))
			continue
		}
		wait = min(minPolling, cfg.MaxPolling)
		for _, m := range messages {
			mu.Lock()
			running++
			mu.Unlock()
			inHand.Go(func() {
				// Storage must hear of the outcome even while the host stops.
				if err := in.work(context.WithoutCancel(ctx), f, m); err != nil {
					log.Warn("a message's end couldn't be written; it comes again", "message", m.ID, "error", err)
				}
				mu.Lock()
				running--
				mu.Unlock()
				select {
				case ended <- struct{}{}:
				default:
				}
			})
		}
	}
}

// work does all that is to be done with one delivery of a message. Its error
// is of storage, not of the function.
func (in *instance) work(ctx context.Context, f *function, m QueueMessage) error {
	cfg, queue := in.h.cfg.queues, f.trigger.QueueName
	log := in.h.opts.Log.With("function", f.name, "queue", queue, "message", m.ID)
	poison := poisonQueue(queue)
	if m.DequeueCount > cfg.MaxDequeueCount {
		// Crashes ate the tries: the function isn't called any more.
		if poison == "" {
			log.Warn("the message on a poison queue has used up its tries; it circles until it expires", "dequeueCount", m.DequeueCount)
			return nil
		}
		return in.poison(ctx, queue, m, "its tries are used up")
	}
	decoded := []byte(m.RawText)
	if cfg.Base64 {
		var err error
		if decoded, err = decodeBase64(m.RawText); err != nil {
			if poison == "" {
				log.Warn("the message isn't base64 and can't be moved on from a poison queue; it stays until it expires")
				return nil
			}
			return in.poison(ctx, queue, m, "it isn't base64")
		}
	}
	receipt, stop := in.keepHidden(ctx, queue, m)
	err := in.invokeMessage(ctx, f, m, decoded)
	stop()
	m.PopReceipt = receipt()
	ctx, cancel := context.WithTimeout(ctx, storageTime)
	defer cancel()
	switch {
	case err == nil:
		if err := in.h.opts.Queues.Delete(ctx, queue, m.ID, m.PopReceipt); err != nil {
			// The host takes a void receipt for done; the work may be delivered again.
			log.Warn("the finished message couldn't be deleted", "error", err)
		}
		return nil
	case poison == "":
		return nil // hidden for the rest of the hiding time
	case m.DequeueCount < cfg.MaxDequeueCount:
		if _, err := in.h.opts.Queues.Update(ctx, queue, m.ID, m.PopReceipt, &m.RawText, cfg.VisibilityTimeout); err != nil {
			return fmt.Errorf("releasing the failed message: %w", err)
		}
		return nil
	}
	return in.poison(ctx, queue, m, "its last try failed")
}

// poison copies a message to the poison queue and then deletes it. An end
// between the two leaves it in both.
func (in *instance) poison(ctx context.Context, queue string, m QueueMessage, why string) error {
	ctx, cancel := context.WithTimeout(ctx, storageTime)
	defer cancel()
	to := poisonQueue(queue)
	in.h.opts.Log.Warn("the message goes to the poison queue", "queue", to, "message", m.ID, "why", why)
	if err := in.h.opts.Queues.Enqueue(ctx, to, m.RawText, 0, 0); err != nil {
		return fmt.Errorf("copying the message to %q: %w", to, err)
	}
	in.h.count(func(s *Stats) { s.Poisoned++ })
	if err := in.h.opts.Queues.Delete(ctx, queue, m.ID, m.PopReceipt); err != nil {
		return fmt.Errorf("deleting the message that was copied to %q: %w", to, err)
	}
	return nil
}

// keepHidden renews a message's hiding at half time until stop is called; then
// receipt gives the newest pop receipt.
func (in *instance) keepHidden(ctx context.Context, queue string, m QueueMessage) (receipt func() string, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	current := m.PopReceipt // owned by the goroutine until done
	go func() {
		defer close(done)
		for pause(ctx, in.h.opts.HidingTime/2) {
			// Not cut by cancel: a renewal half made would leave a receipt unknown.
			next, err := in.h.opts.Queues.Update(context.WithoutCancel(ctx), queue, m.ID, current, &m.RawText, in.h.opts.HidingTime)
			if err != nil {
				in.h.opts.Log.Warn("the message's hiding couldn't be renewed", "queue", queue, "message", m.ID, "error", err)
				continue
			}
			current = next
		}
	}()
	return func() string { <-done; return current }, func() { cancel(); <-done }
}
