package devhost

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// memoryQueues is storage in memory, on a clock of its own.
type memoryQueues struct {
	mu     sync.Mutex
	now    time.Time
	queues map[string][]*memoryMessage
	serial int
	calls  []string // "update work 10m0s", "delete work", …
	fail   func(op, queue string) error
}

type memoryMessage struct {
	QueueMessage
	visible time.Time
	ttl     time.Duration
}

func newMemoryQueues() *memoryQueues {
	return &memoryQueues{now: time.Date(2026, 11, 20, 10, 15, 30, 0, time.UTC), queues: map[string][]*memoryMessage{}}
}

func (q *memoryQueues) note(op, queue, more string) error {
	q.calls = append(q.calls, strings.TrimSpace(op+" "+queue+" "+more))
	if q.fail != nil {
		return q.fail(op, queue)
	}
	return nil
}

func (q *memoryQueues) Dequeue(ctx context.Context, queue string, n int, hide time.Duration) ([]QueueMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []QueueMessage
	for _, m := range q.queues[queue] {
		if len(out) == n || m.visible.After(q.now) {
			continue
		}
		q.serial++
		m.DequeueCount++
		m.PopReceipt = fmt.Sprint("r", q.serial)
		m.visible = q.now.Add(hide)
		m.NextVisible = m.visible
		out = append(out, m.QueueMessage)
	}
	return out, nil
}

func (q *memoryQueues) find(queue, id, receipt string) (int, error) {
	for i, m := range q.queues[queue] {
		if m.ID == id {
			if m.PopReceipt != receipt {
				return 0, errors.New("PopReceiptMismatch")
			}
			return i, nil
		}
	}
	return 0, errors.New("MessageNotFound")
}

func (q *memoryQueues) Update(_ context.Context, queue, id, receipt string, text *string, hide time.Duration) (string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.note("update", queue, hide.String()); err != nil {
		return "", err
	}
	i, err := q.find(queue, id, receipt)
	if err != nil {
		return "", err
	}
	m := q.queues[queue][i]
	q.serial++
	m.PopReceipt, m.visible = fmt.Sprint("r", q.serial), q.now.Add(hide)
	if text != nil {
		m.RawText = *text
	}
	return m.PopReceipt, nil
}

func (q *memoryQueues) Delete(_ context.Context, queue, id, receipt string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.note("delete", queue, ""); err != nil {
		return err
	}
	i, err := q.find(queue, id, receipt)
	if err != nil {
		return err
	}
	q.queues[queue] = append(q.queues[queue][:i:i], q.queues[queue][i+1:]...)
	return nil
}

func (q *memoryQueues) Enqueue(_ context.Context, queue, raw string, delay, ttl time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.note("enqueue", queue, ""); err != nil {
		return err
	}
	q.serial++
	q.queues[queue] = append(q.queues[queue], &memoryMessage{visible: q.now.Add(delay), ttl: ttl,
		QueueMessage: QueueMessage{ID: fmt.Sprint("m", q.serial), RawText: raw, Inserted: q.now}})
	return nil
}

func (q *memoryQueues) put(t *testing.T, queue, text string) {
	t.Helper()
	if err := q.Enqueue(context.Background(), queue, base64.StdEncoding.EncodeToString([]byte(text)), 0, 0); err != nil {
		t.Fatal(err)
	}
}

func (q *memoryQueues) pass(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.now = q.now.Add(d)
}

func (q *memoryQueues) len(queue string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.queues[queue])
}

func (q *memoryQueues) log() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return strings.Join(q.calls, ", ")
}

var _ QueueReader = (*memoryQueues)(nil)

const plainHostJSON = `{"version":"2.0","functionTimeout":"00:00:05","customHandler":{"description":{"defaultExecutablePath":"handler"}},
 "extensions":{"queues":{"batchSize":4,"newBatchThreshold":2,"maxDequeueCount":3,"visibilityTimeout":"00:00:30","maxPollingInterval":"00:00:00.01"}}}`

var plainFunctions = map[string]string{
	"vm-event":  `{"bindings":[{"type":"eventGridTrigger","name":"event","direction":"in"}]}`,
	"reconcile": `{"bindings":[{"type":"queueTrigger","name":"work","direction":"in","queueName":"reconcile","connection":"AzureWebJobsStorage"}]}`,
	"poison":    `{"bindings":[{"type":"queueTrigger","name":"work","direction":"in","queueName":"reconcile-poison","connection":"AzureWebJobsStorage"}]}`,
	"sweep":     `{"bindings":[{"type":"timerTrigger","name":"timer","direction":"in","schedule":"0 7 * * * *"}]}`,
	"vms":       `{"bindings":[{"type":"httpTrigger","name":"req","direction":"in","authLevel":"function","methods":["get"],"route":"vms/{key?}/{view?}"},{"type":"http","name":"res","direction":"out"}]}`,
	"rerun":     `{"bindings":[{"type":"httpTrigger","name":"req","direction":"in","methods":["post"],"route":"rerun"},{"type":"http","name":"res","direction":"out"}]}`,
	"open":      `{"bindings":[{"type":"httpTrigger","name":"req","direction":"in","authLevel":"anonymous"},{"type":"http","name":"res","direction":"out"}]}`,
}

// stage writes a script root.
func stage(t *testing.T, hostJSON string, functions map[string]string) string {
	t.Helper()
	root := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("host.json", hostJSON)
	for name, text := range functions {
		write(name+"/function.json", text)
	}
	return root
}

// withHandler makes a host with an instance whose handler is h, without a
// process.
func withHandler(t *testing.T, opts Options, functions map[string]string, handler http.Handler) (*Host, *instance) {
	t.Helper()
	if opts.Root == "" {
		opts.Root = stage(t, plainHostJSON, functions)
	}
	if opts.Env == nil {
		opts.Env = []string{}
	}
	if opts.Queues == nil {
		opts.Queues = newMemoryQueues()
	}
	host, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(host.Close)
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	in := newInstance(host, n)
	host.mu.Lock()
	host.inst = in
	host.mu.Unlock()
	host.setState(ready)
	return host, in
}

// request serves one request on the host's own handler.
func request(h *Host, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(method, target, nil)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.serve(w, r)
	return w
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(8 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

func answerWith(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}
