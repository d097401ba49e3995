package devhost

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// deliver dequeues one message of a function's queue and does what is to be
// done with it.
func deliver(t *testing.T, in *instance, q *memoryQueues, function string) (QueueMessage, error) {
	t.Helper()
	f := in.h.functions[function]
	ms, err := q.Dequeue(context.Background(), f.trigger.QueueName, 1, in.h.opts.HidingTime)
	if err != nil || len(ms) != 1 {
		t.Fatalf("%d messages, %v", len(ms), err)
	}
	return ms[0], in.work(context.Background(), f, ms[0])
}

func TestQueueTries(t *testing.T) {
	q := newMemoryQueues()
	var bodies []string
	_, in := withHandler(t, Options{Queues: q}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength != -1 || len(r.TransferEncoding) != 1 {
			t.Errorf("the body isn't in chunks: %d %v, %v", r.ContentLength, r.TransferEncoding, err)
		}
		bodies = append(bodies, string(b))
		answerWith(500, "{}").ServeHTTP(w, r)
	}))
	q.put(t, "reconcile", `{"vm":"x"}`)
	for try := 1; try <= 3; try++ {
		m, err := deliver(t, in, q, "reconcile")
		if err != nil || m.DequeueCount != try {
			t.Fatalf("try %d: count %d, %v", try, m.DequeueCount, err)
		}
		q.pass(29 * time.Second)
		if ms, _ := q.Dequeue(context.Background(), "reconcile", 1, 0); len(ms) != 0 {
			t.Fatal("the failed message is visible before visibilityTimeout")
		}
		q.pass(time.Second)
	}
	if q.len("reconcile") != 0 || q.len("reconcile-poison") != 1 {
		t.Fatalf("after the last try: %d and %d", q.len("reconcile"), q.len("reconcile-poison"))
	}
	if log := q.log(); !strings.HasSuffix(log, "update reconcile 30s, update reconcile 30s, enqueue reconcile-poison, delete reconcile") {
		t.Errorf("calls of storage: %s", log)
	}
	if len(bodies) != 3 || !strings.Contains(bodies[2], `"work":"\"{\\\"vm\\\":\\\"x\\\"}\""`) || !strings.Contains(bodies[2], `"DequeueCount":"3"`) {
		t.Errorf("bodies %q", bodies)
	}
	// On the poison queue: hidden for the whole time after each failure, and no
	// call beyond the last try.
	for try := 1; try <= 4; try++ {
		m, err := deliver(t, in, q, "poison")
		if err != nil || m.DequeueCount != try {
			t.Fatalf("poison try %d: %d, %v", try, m.DequeueCount, err)
		}
		q.pass(10*time.Minute - time.Second)
		if ms, _ := q.Dequeue(context.Background(), "reconcile-poison", 1, 0); len(ms) != 0 {
			t.Fatal("the message on the poison queue came back early")
		}
		q.pass(time.Second)
	}
	if len(bodies) != 6 || q.len("reconcile-poison") != 1 {
		t.Errorf("%d calls, %d messages; want 6 and the one that circles", len(bodies), q.len("reconcile-poison"))
	}
}

func TestQueueSuccessAndReceipts(t *testing.T) {
	q := newMemoryQueues()
	_, in := withHandler(t, Options{Queues: q}, plainFunctions, answerWith(200, "{}"))
	q.put(t, "reconcile", "plain text")
	if _, err := deliver(t, in, q, "reconcile"); err != nil || q.len("reconcile") != 0 {
		t.Errorf("%v, %d left", err, q.len("reconcile"))
	}
	// A void receipt at the end is no failure.
	q.put(t, "reconcile", "again")
	q.fail = func(op, _ string) error {
		if op == "delete" {
			return errors.New("PopReceiptMismatch")
		}
		return nil
	}
	if _, err := deliver(t, in, q, "reconcile"); err != nil || q.len("reconcile") != 1 {
		t.Errorf("%v, %d left", err, q.len("reconcile"))
	}
}

func TestQueueCrashWindow(t *testing.T) {
	q := newMemoryQueues()
	_, in := withHandler(t, Options{Queues: q}, plainFunctions, answerWith(500, "{}"))
	q.put(t, "reconcile", "x")
	q.queues["reconcile"][0].DequeueCount = 2
	q.fail = func(op, _ string) error {
		if op == "delete" {
			return errors.New("cut off")
		}
		return nil
	}
	if _, err := deliver(t, in, q, "reconcile"); err == nil || q.len("reconcile") != 1 || q.len("reconcile-poison") != 1 {
		t.Errorf("cut between copy and delete: %v, %d and %d; the message must be in both", err, q.len("reconcile"), q.len("reconcile-poison"))
	}
	q.fail = nil
	q.pass(time.Hour)
	if _, err := deliver(t, in, q, "reconcile"); err != nil || q.len("reconcile") != 0 || q.len("reconcile-poison") != 2 {
		t.Errorf("a message with its tries used up: %v, %d and %d", err, q.len("reconcile"), q.len("reconcile-poison"))
	}
}

func TestQueueBadBase64(t *testing.T) {
	q := newMemoryQueues()
	h, in := withHandler(t, Options{Queues: q}, plainFunctions, answerWith(200, "{}"))
	if err := q.Enqueue(context.Background(), "reconcile", `{"vm":"raw"}`, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := deliver(t, in, q, "reconcile"); err != nil || q.len("reconcile") != 0 || q.queues["reconcile-poison"][0].RawText != `{"vm":"raw"}` {
		t.Errorf("%v, %d, %+v", err, q.len("reconcile"), q.queues["reconcile-poison"])
	}
	if _, err := deliver(t, in, q, "poison"); err != nil || q.len("reconcile-poison") != 1 || h.Stats().Invocations != 0 {
		t.Errorf("on the poison queue: %v, %d left, %+v", err, q.len("reconcile-poison"), h.Stats())
	}
}

func TestQueueRenewal(t *testing.T) {
	q := newMemoryQueues()
	release := make(chan struct{})
	_, in := withHandler(t, Options{Queues: q, HidingTime: 20 * time.Millisecond}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		answerWith(200, "{}").ServeHTTP(w, r)
	}))
	q.put(t, "reconcile", "x")
	done := make(chan error, 1)
	go func() { _, err := deliver(t, in, q, "reconcile"); done <- err }()
	eventually(t, "two renewals", func() bool { return strings.Count(q.log(), "update reconcile 20ms") >= 2 })
	close(release)
	if err := <-done; err != nil || q.len("reconcile") != 0 {
		t.Errorf("%v, %d left: the newest receipt must be used", err, q.len("reconcile"))
	}
}

func TestQueueListener(t *testing.T) {
	q := newMemoryQueues()
	var now, most, all atomic.Int32
	release := make(chan struct{})
	_, in := withHandler(t, Options{Queues: q}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		all.Add(1)
		<-release
		answerWith(200, "{}").ServeHTTP(w, r)
	}))
	for range 30 {
		q.put(t, "reconcile", "x")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var listener sync.WaitGroup
	listener.Go(func() { in.listenQueue(ctx, in.h.functions["reconcile"]) })
	eventually(t, "four at once", func() bool { return now.Load() == 4 })
	close(release)
	eventually(t, "an empty queue", func() bool { return q.len("reconcile") == 0 })
	cancel()
	listener.Wait()
	if most.Load() > 6 || all.Load() != 30 {
		t.Errorf("%d at once (batch 4 and threshold 2), %d calls", most.Load(), all.Load())
	}
}

func TestPoisonQueueNames(t *testing.T) {
	for queue, want := range map[string]string{"reconcile": "reconcile-poison", "reconcile-poison": "",
		strings.Repeat("q", 56): strings.Repeat("q", 56) + "-poison", strings.Repeat("q", 57): ""} {
		if got := poisonQueue(queue); got != want {
			t.Errorf("%s: %q, want %q", queue, got, want)
		}
	}
}

func TestBindingData(t *testing.T) {
	metadata := object{"Id": "host's", "sys": object{}}
	if err := bindingData(metadata, []byte(`{"id":"a","list":[1],"nothing":null,"n":1.50,"yes":true,"at":"2026-11-20T10:15:29.5Z","o":{"a":1},"queueTrigger":"x"}`)); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(metadata)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"Id":"\"a\"","at":"\"11/20/2026 10:15:29\"","n":"\"1.50\"","o":{"a":1},"sys":{},"yes":"\"True\""}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for _, other := range []string{"text", "[1]", "7", `{"cut`} {
		if err := bindingData(metadata, []byte(other)); err != nil || len(metadata) != 6 {
			t.Errorf("%s: %v, %v", other, err, metadata)
		}
	}
}
