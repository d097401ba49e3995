package local

import (
	"context"
	"sync"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/devhost"
)

// hostQueues is storage as the host reads its queues. An update through the SDK
// always writes a text, so the texts of messages that are being worked on are kept.
type hostQueues struct {
	q *azure.QueueRaw

	mu    sync.Mutex
	texts map[string]string // by message id
}

var _ devhost.QueueReader = (*hostQueues)(nil)

func (h *hostQueues) Dequeue(ctx context.Context, queue string, n int, hide time.Duration) ([]devhost.QueueMessage, error) {
	got, err := h.q.Dequeue(ctx, queue, n, hide)
	if err != nil {
		return nil, err
	}
	out := make([]devhost.QueueMessage, len(got))
	for i, m := range got {
		h.remember(m.ID, m.RawText)
		out[i] = devhost.QueueMessage{ID: m.ID, PopReceipt: m.PopReceipt, RawText: m.RawText, DequeueCount: int(m.DequeueCount),
			Inserted: m.Inserted, Expires: m.Expires, NextVisible: m.NextVisible}
	}
	return out, nil
}

func (h *hostQueues) Update(ctx context.Context, queue, id, popReceipt string, text *string, hide time.Duration) (string, error) {
	raw := h.recall(id)
	if text != nil {
		raw = *text
		h.remember(id, raw)
	}
	return h.q.Update(ctx, queue, id, popReceipt, raw, hide)
}

func (h *hostQueues) Delete(ctx context.Context, queue, id, popReceipt string) error {
	h.mu.Lock()
	delete(h.texts, id)
	h.mu.Unlock()
	return h.q.Delete(ctx, queue, id, popReceipt)
}

func (h *hostQueues) remember(id, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.texts == nil {
		h.texts = map[string]string{}
	}
	h.texts[id] = text
}

func (h *hostQueues) recall(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.texts[id]
}

func (h *hostQueues) Enqueue(ctx context.Context, queue, rawText string, delay, ttl time.Duration) error {
	return h.q.EnqueueRaw(ctx, queue, rawText, delay, ttl)
}
