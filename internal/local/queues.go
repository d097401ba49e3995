package local

import (
	"context"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/devhost"
)

// hostQueues is storage as the host reads its queues.
type hostQueues struct{ q *azure.QueueRaw }

var _ devhost.QueueReader = hostQueues{}

func (h hostQueues) Dequeue(ctx context.Context, queue string, n int, hide time.Duration) ([]devhost.QueueMessage, error) {
	got, err := h.q.Dequeue(ctx, queue, n, hide)
	if err != nil {
		return nil, err
	}
	out := make([]devhost.QueueMessage, len(got))
	for i, m := range got {
		out[i] = devhost.QueueMessage{ID: m.ID, PopReceipt: m.PopReceipt, RawText: m.RawText, DequeueCount: int(m.DequeueCount),
			Inserted: m.Inserted, Expires: m.Expires, NextVisible: m.NextVisible}
	}
	return out, nil
}

func (h hostQueues) Update(ctx context.Context, queue, id, popReceipt string, text *string, hide time.Duration) (string, error) {
	return h.q.Update(ctx, queue, id, popReceipt, *text, hide)
}

func (h hostQueues) Delete(ctx context.Context, queue, id, popReceipt string) error {
	return h.q.Delete(ctx, queue, id, popReceipt)
}

func (h hostQueues) Enqueue(ctx context.Context, queue, rawText string, delay, ttl time.Duration) error {
	return h.q.EnqueueRaw(ctx, queue, rawText, delay, ttl)
}
