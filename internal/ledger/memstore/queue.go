package memstore

import (
	"context"
	"slices"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Queue is a Store's view as queue storage, with the reader's side for tests.
type Queue struct{ s *Store }

var _ ledger.Queue = Queue{}

// maxMessage is the longest text, in bytes: 64 KiB once it is in base64.
const maxMessage = 48 << 10

type message struct {
	id       int
	text     []byte
	visible  time.Time
	dequeued int
	receipt  int
}

// Message is a message as a reader has it.
type Message struct {
	ID       int // in the order of enqueuing, from 1
	Text     []byte
	Visible  time.Time // when it can be taken next
	Dequeued int       // how often it was taken
	receipt  int
}

// Enqueue implements ledger.Queue.
func (q Queue) Enqueue(ctx context.Context, queue string, text []byte, delay time.Duration) error {
	return q.s.act(ctx, "enqueue", queue, func() error {
		if _, ok := q.s.queues[queue]; !ok {
			return fault.New(fault.NotFound, "enqueuing on", queue, "there is no such queue")
		}
		if len(text) > maxMessage || delay < 0 || delay > 7*24*time.Hour {
			return fault.New(fault.Invalid, "enqueuing on", queue, "a text of %d bytes and a delay of %s: at most %d bytes and 7 days go", len(text), delay, maxMessage)
		}
		q.s.messages++
		q.s.queues[queue] = append(q.s.queues[queue], &message{id: q.s.messages, text: slices.Clone(text), visible: q.s.Clock.Now().Add(delay)})
		return nil
	})
}

// Dequeue takes the message that is visible longest and hides it for a time; ok
// is false when none is visible.
func (q Queue) Dequeue(queue string, hide time.Duration) (m Message, ok bool) {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	now := q.s.Clock.Now()
	var first *message
	for _, c := range q.s.queues[queue] {
		if !c.visible.After(now) && (first == nil || c.visible.Before(first.visible)) {
			first = c
		}
	}
	if first == nil {
		return Message{}, false
	}
	first.visible, first.dequeued, first.receipt = now.Add(hide), first.dequeued+1, first.receipt+1
	return first.view(), true
}

// Done removes a taken message. It is false, and the message stays, when it was
// taken by somebody else since: the hiding time was over.
func (q Queue) Done(queue string, m Message) bool {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	at := slices.IndexFunc(q.s.queues[queue], func(c *message) bool { return c.id == m.ID && c.receipt == m.receipt })
	if at < 0 {
		return false
	}
	q.s.queues[queue] = slices.Delete(q.s.queues[queue], at, at+1)
	return true
}

// Requeue gives a taken message back, as the host does with one that failed: it
// is visible again after delay. It is false like Done's.
func (q Queue) Requeue(queue string, m Message, delay time.Duration) bool {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	for _, c := range q.s.queues[queue] {
		if c.id == m.ID && c.receipt == m.receipt {
			c.visible = q.s.Clock.Now().Add(delay)
			c.receipt++
			return true
		}
	}
	return false
}

// Peek gives all messages, hidden ones too, in the order of their next
// visibility.
func (q Queue) Peek(queue string) []Message {
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	out := []Message{}
	for _, c := range q.s.queues[queue] {
		out = append(out, c.view())
	}
	slices.SortStableFunc(out, func(a, b Message) int { return a.Visible.Compare(b.Visible) })
	return out
}

// Next is when the next message becomes visible (it may be past); ok is false
// for an empty queue.
func (q Queue) Next(queue string) (at time.Time, ok bool) {
	all := q.Peek(queue)
	if len(all) == 0 {
		return time.Time{}, false
	}
	return all[0].Visible, true
}

func (m *message) view() Message {
	return Message{ID: m.id, Text: slices.Clone(m.text), Visible: m.visible, Dequeued: m.dequeued, receipt: m.receipt}
}
