package devhost

import (
	"context"
	"time"
)

// QueueMessage is a message as it lies in the queue.
type QueueMessage struct {
	ID, PopReceipt string
	RawText        string // as on the wire: base64, with the default encoding
	DequeueCount   int    // this delivery counted: 1 for the first
	Inserted       time.Time
	Expires        time.Time // zero: never
	NextVisible    time.Time
}

// QueueReader is the storage that the host works queues with. Any error is
// logged and tried again; a queue that isn't there is an error or no messages,
// as the implementation likes, except that Enqueue makes it.
type QueueReader interface {
	// Dequeue takes up to n visible messages (n is 1 to 32) and hides them.
	Dequeue(ctx context.Context, queue string, n int, hide time.Duration) ([]QueueMessage, error)
	// Update hides a message for so long from now (0: visible at once) and
	// replaces its raw text unless that is nil (the host always gives it, as some
	// SDKs can't leave it alone). The old receipt is void then.
	Update(ctx context.Context, queue, id, popReceipt string, text *string, hide time.Duration) (newPopReceipt string, err error)
	// Delete removes a message; a void receipt is an error.
	Delete(ctx context.Context, queue, id, popReceipt string) error
	// Enqueue adds a message with this raw text, making the queue if need be.
	// delay 0: visible at once; ttl 0: the service's default (7 days), negative: never expires.
	Enqueue(ctx context.Context, queue string, rawText string, delay, ttl time.Duration) error
}
