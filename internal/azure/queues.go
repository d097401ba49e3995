package azure

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azqueue/v2"

	"cvmguard/internal/fault"
)

const (
	actionEnqueue = "Microsoft.Storage/storageAccounts/queueServices/queues/messages/add/action"
	actionDequeue = "Microsoft.Storage/storageAccounts/queueServices/queues/messages/process/action"
)

// longestHiding is the service's bound.
const longestHiding = 7 * 24 * time.Hour

// Queue puts messages on the account's queues.
type Queue struct{ c *Client }

// Queue gives the queue service as cvmguard uses it.
func (c *Client) Queue() *Queue { return &Queue{c} }

// Enqueue puts a message on a queue, base64 on the wire as the Functions host
// reads it. It never expires and is hidden for delay, rounded up to whole seconds; a
// delay of more than 7 days is fault.Invalid. A queue that isn't there is made.
func (q *Queue) Enqueue(ctx context.Context, queue string, text []byte, delay time.Duration) error {
	return q.c.QueueRaw().EnqueueRaw(ctx, queue, base64.StdEncoding.EncodeToString(text), delay, -1)
}

// QueueRaw gives the queue service as a Functions host uses it: texts are those of
// the wire.
func (c *Client) QueueRaw() *QueueRaw { return &QueueRaw{c} }

// QueueRaw reads and writes messages as they are on the wire.
type QueueRaw struct{ c *Client }

// RawMessage is one message that was taken off a queue for a time.
type RawMessage struct {
	ID, PopReceipt string
	RawText        string // as on the wire: base64 where Enqueue wrote it
	DequeueCount   int64
	Inserted       time.Time
	Expires        time.Time
	NextVisible    time.Time
}

func (q *QueueRaw) queue(k call, name string) (*azqueue.QueueClient, error) {
	svc, err := q.c.storage.queues()
	if err != nil {
		return nil, k.fault(err)
	}
	return svc.NewQueueClient(name), nil
}

// EnqueueRaw puts a text on a queue. A ttl below zero is for ever, 0 is the
// service's default of 7 days.
func (q *QueueRaw) EnqueueRaw(ctx context.Context, queue, rawText string, delay, ttl time.Duration) error {
	k := call{"putting a message on queue", queue, actionEnqueue}
	cl, err := q.queue(k, queue)
	if err != nil {
		return err
	}
	if delay > longestHiding {
		return fault.New(fault.Invalid, k.op, k.object, "a delay of %s is longer than the service hides a message: 7 days", delay)
	}
	opts := &azqueue.EnqueueMessageOptions{}
	if delay > 0 {
		opts.VisibilityTimeout = to.Ptr(seconds(delay))
	}
	switch {
	case ttl < 0:
		opts.TimeToLive = to.Ptr(int32(-1))
	case ttl > 0:
		opts.TimeToLive = to.Ptr(seconds(ttl))
	}
	return q.c.storage.retryMissing(k, "queue "+queue, "QueueNotFound",
		func() error { _, err := cl.Create(ctx, nil); return err },
		func() error { _, err := cl.EnqueueMessage(ctx, rawText, opts); return err })
}

// seconds rounds up: hidden too long by a part of a second is harmless, too short
// isn't.
func seconds(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) }

// Dequeue takes up to n messages (1 to 32) and hides them for hide. A queue that
// isn't there has none.
func (q *QueueRaw) Dequeue(ctx context.Context, queue string, n int, hide time.Duration) ([]RawMessage, error) {
	k := call{"taking messages off queue", queue, actionDequeue}
	cl, err := q.queue(k, queue)
	if err != nil {
		return nil, err
	}
	resp, err := cl.DequeueMessages(ctx, &azqueue.DequeueMessagesOptions{
		NumberOfMessages: to.Ptr(int32(max(1, min(n, 32)))), VisibilityTimeout: to.Ptr(max(1, seconds(hide)))})
	if err != nil {
		if err := k.fault(err); !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		return nil, nil
	}
	var out []RawMessage
	for _, m := range resp.Messages {
		if m == nil || m.MessageID == nil || m.PopReceipt == nil {
			continue
		}
		r := RawMessage{ID: *m.MessageID, PopReceipt: *m.PopReceipt, RawText: deref(m.MessageText)}
		if m.DequeueCount != nil {
			r.DequeueCount = *m.DequeueCount
		}
		for _, t := range []struct {
			from *time.Time
			into *time.Time
		}{{m.InsertionTime, &r.Inserted}, {m.ExpirationTime, &r.Expires}, {m.TimeNextVisible, &r.NextVisible}} {
			if t.from != nil {
				*t.into = *t.from
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// Update hides a taken message for hide from now, with its text as it is given,
// and answers with the new pop receipt. NotFound when somebody else has it.
func (q *QueueRaw) Update(ctx context.Context, queue, id, popReceipt, rawText string, hide time.Duration) (string, error) {
	k := call{"updating a message on queue", queue, actionDequeue}
	cl, err := q.queue(k, queue)
	if err != nil {
		return "", err
	}
	resp, err := cl.UpdateMessage(ctx, id, popReceipt, rawText, &azqueue.UpdateMessageOptions{VisibilityTimeout: to.Ptr(seconds(min(max(0, hide), longestHiding)))})
	if err != nil {
		return "", lostMessage(k.fault(err))
	}
	return deref(resp.PopReceipt), nil
}

// Delete takes a message off its queue for good. NotFound when somebody else has
// it.
func (q *QueueRaw) Delete(ctx context.Context, queue, id, popReceipt string) error {
	k := call{"deleting a message of queue", queue, actionDequeue}
	cl, err := q.queue(k, queue)
	if err != nil {
		return err
	}
	_, err = cl.DeleteMessage(ctx, id, popReceipt, nil)
	return lostMessage(k.fault(err))
}

// lostMessage: a receipt that no longer fits means that the message is in other
// hands.
func lostMessage(err error) error {
	if fault.Code(err) != "PopReceiptMismatch" {
		return err
	}
	return &fault.Error{Kind: fault.NotFound, Op: "changing a message that others hold", Code: fault.Code(err), Err: err, Next: "let it go"}
}
