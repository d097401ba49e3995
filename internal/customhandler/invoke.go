package customhandler

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"cvmguard/internal/fault"
)

// bodyTime is how long a body may take to arrive. The host is on the same
// machine; only a broken peer is slow.
const bodyTime = 30 * time.Second

var (
	errBusy    = errors.New("as many invocations as this process takes are running")
	errTooLong = errors.New("the body is over the limit")
)

// serveInvocation serves POST /<function>.
func (m *Mux) serveInvocation(w http.ResponseWriter, r *http.Request, fn *function) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		m.send(w, r, http.StatusMethodNotAllowed, errorBody("an invocation is a POST by the Functions host"))
		return
	}
	// The host never sends an Origin; a web page that posts to a port of the
	// local machine can't leave it out.
	if r.Header.Get("Origin") != "" {
		m.send(w, r, http.StatusForbidden, errorBody("a function's path takes no request from a web page"))
		return
	}
	body, err := readBody(w, r, m.limits.Wrapped)
	meta := Meta{Function: fn.Name, Invocation: m.invocationID(r)}
	log := m.log.With("function", meta.Function, "invocation", meta.Invocation)
	switch {
	case errors.Is(err, errTooLong) && fn.Kind == HTTPTrigger:
		// The caller shall see the 413, so it goes inside a success.
		log.Warn("request refused: its invocation is over the limit", "limit", m.limits.Wrapped)
		drain(r)
		m.sendWrapped(w, r, meta, tooLong(m.limits.Body), nil)
		return
	case errors.Is(err, errTooLong):
		log.Error("invocation refused: its body is over the limit", "limit", m.limits.Wrapped)
		m.send(w, r, http.StatusRequestEntityTooLarge, tooLong(m.limits.Wrapped).Body)
		return
	case err != nil:
		log.Warn("invocation lost: its body didn't arrive", "error", err)
		m.send(w, r, http.StatusBadRequest, errorBody("the body didn't arrive whole"))
		return
	}
	if fn.Kind == HTTPTrigger {
		m.serveWrappedHTTP(w, r, fn, meta, body)
		return
	}
	work, err := prepare(fn, meta, body)
	if err != nil {
		log.Warn("request refused", "error", err)
		m.send(w, r, http.StatusBadRequest, errorBody(err.Error()))
		return
	}
	notes, err := m.run(r.Context(), meta, fn.Kind, work)
	if err != nil {
		m.send(w, r, http.StatusInternalServerError, errorBody(err.Error()))
		return
	}
	answer, err := encodeDone(notes)
	if err != nil {
		log.Error("the answer can't be encoded", "error", err)
		m.send(w, r, http.StatusInternalServerError, errorBody(err.Error()))
		return
	}
	m.send(w, r, http.StatusOK, answer)
}

// prepare decodes an invocation that isn't HTTP and gives the work to be done.
// An error means that the host didn't send this.
func prepare(fn *function, meta Meta, body []byte) (func(context.Context) error, error) {
	switch fn.Kind {
	case EventTrigger:
		events, err := decodeEvents(body)
		if errors.Is(err, errNotWrapped) {
			return nil, err
		}
		if err != nil {
			c := EventCall{Meta: meta, Whole: body, Problem: err.Error()}
			return func(ctx context.Context) error { return fn.event(ctx, c) }, nil
		}
		return func(ctx context.Context) error {
			var faults []error
			for _, e := range events {
				faults = append(faults, fn.event(ctx, EventCall{Meta: meta, Event: e, Whole: body}))
			}
			return errors.Join(faults...)
		}, nil
	case QueueTrigger:
		text, count, err := decodeQueue(body)
		if errors.Is(err, errNotWrapped) {
			return nil, err
		}
		c := QueueCall{Meta: meta, Text: text, DequeueCount: count}
		if err != nil {
			c.Problem = err.Error()
		}
		return func(ctx context.Context) error { return fn.queue(ctx, c) }, nil
	case TimerTrigger:
		c, err := decodeTimer(body)
		if err != nil {
			return nil, err
		}
		c.Meta = meta
		return func(ctx context.Context) error { return fn.timer(ctx, c) }, nil
	}
	return nil, fmt.Errorf("function %q has the unknown kind %q", fn.Name, fn.Kind)
}

// serveWrappedHTTP serves an HTTP request that the host wrapped. Whatever the
// caller is told, the host is told 200.
func (m *Mux) serveWrappedHTTP(w http.ResponseWriter, r *http.Request, fn *function, meta Meta, body []byte) {
	q, err := decodeHTTP(body)
	if err != nil {
		m.log.Warn("request refused", "function", meta.Function, "invocation", meta.Invocation, "error", err)
		m.send(w, r, http.StatusBadRequest, errorBody(err.Error()))
		return
	}
	call, bodyLost, err := q.call(meta, fn.route, m.prefix)
	if err != nil {
		m.sendWrapped(w, r, meta, errorAnswer(http.StatusBadRequest, "%s", err.Error()), nil)
		return
	}
	answer, notes, err := m.callHTTP(r.Context(), fn, call, bodyLost)
	if err != nil { // a failed invocation: the host answers its caller 500
		m.send(w, r, http.StatusInternalServerError, errorBody(err.Error()))
		return
	}
	m.sendWrapped(w, r, meta, answer, notes)
}

func (m *Mux) sendWrapped(w http.ResponseWriter, r *http.Request, meta Meta, a HTTPAnswer, notes []string) {
	body, err := encodeHTTP(a, notes)
	if err != nil {
		m.log.Error("the answer can't be encoded", "function", meta.Function, "invocation", meta.Invocation, "error", err)
		m.send(w, r, http.StatusInternalServerError, errorBody(err.Error()))
		return
	}
	m.send(w, r, http.StatusOK, body)
}

// serveRaw serves a request that the host forwarded or proxied; below is the
// escaped path under the prefix.
func (m *Mux) serveRaw(w http.ResponseWriter, r *http.Request, below string) {
	for _, fn := range m.routed {
		if params, ok := fn.route.Match(below); ok {
			m.serveRoute(w, r, fn, params)
			return
		}
	}
	m.send(w, r, http.StatusNotFound, errorBody("there is no function at this path"))
}

func (m *Mux) serveRoute(w http.ResponseWriter, r *http.Request, fn *function, params map[string]string) {
	meta := Meta{Function: fn.Name, Invocation: m.invocationID(r)}
	body, err := readBody(w, r, m.limits.Body)
	var answer HTTPAnswer
	switch {
	case errors.Is(err, errTooLong):
		answer = tooLong(m.limits.Body)
	case err != nil:
		answer = errorAnswer(http.StatusBadRequest, "the body didn't arrive whole")
	default:
		call, err := rawCall(r, meta, fn.route, params, body)
		if err != nil {
			answer = errorAnswer(http.StatusBadRequest, "%s", err.Error())
			break
		}
		if answer, _, err = m.callHTTP(r.Context(), fn, call, false); err != nil {
			answer = errorAnswer(http.StatusInternalServerError, "the request failed inside cvmguard; its log has the cause under invocation %s", meta.Invocation)
		}
	}
	if err := writeRaw(w, answer, r.Method == http.MethodHead); err != nil {
		m.log.Warn("the answer could not be sent", "function", meta.Function, "invocation", meta.Invocation, "error", err)
	}
}

// callHTTP runs an HTTP function. Its error is a failed invocation: a panic or
// an answer that can't be sent.
func (m *Mux) callHTTP(ctx context.Context, fn *function, c HTTPCall, bodyLost bool) (HTTPAnswer, []string, error) {
	if a, refused := refuse(c, fn.Methods, bodyLost); refused {
		return a, nil, nil
	}
	if int64(len(c.Body)) > m.limits.Body {
		return tooLong(m.limits.Body), nil, nil
	}
	var answer HTTPAnswer
	notes, err := m.run(ctx, c.Meta, fn.Kind, func(ctx context.Context) error {
		var err error
		answer, err = settle(fn.http(ctx, c))
		return err
	})
	if errors.Is(err, errBusy) {
		answer = errorAnswer(http.StatusServiceUnavailable, "too many requests at once; try again in a second")
		answer.Header["Retry-After"] = strconv.Itoa(1)
		return answer, nil, nil
	}
	return answer, notes, err
}

// run does the work of one invocation within the limits: it waits for a place
// (or gives errBusy), sets the context, turns a panic into an error and logs
// the outcome.
func (m *Mux) run(ctx context.Context, meta Meta, kind Kind, work func(context.Context) error) (notes []string, err error) {
	inv := &invocation{meta: meta, log: m.log.With("function", meta.Function, "invocation", meta.Invocation)}
	if err := m.takePlace(ctx, kind != HTTPTrigger); err != nil {
		inv.log.Warn("invocation not begun", "error", err)
		return nil, err
	}
	defer func() { <-m.slots }()
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, invocationKey{}, inv), m.limits.timeOf(kind))
	defer cancel()
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = fault.New(fault.Bug, "running function", meta.Function, "panic: %v", p)
			inv.log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		spent := time.Since(began).Milliseconds()
		if err != nil {
			inv.log.Error("invocation failed", "ms", spent, "kind", fault.KindOf(err), "error", err)
		} else {
			inv.log.Info("invocation done", "ms", spent)
		}
	}()
	err = work(ctx)
	return inv.lines(), err
}

func (m *Mux) takePlace(ctx context.Context, wait bool) error {
	select {
	case m.slots <- struct{}{}:
		return nil
	default:
	}
	if !wait {
		return errBusy
	}
	patience := time.NewTimer(m.limits.Time)
	defer patience.Stop()
	select {
	case m.slots <- struct{}{}:
		return nil
	case <-patience.C:
		return fmt.Errorf("waiting for a place: %w", errBusy)
	case <-ctx.Done():
		return fmt.Errorf("waiting for a place: %w", ctx.Err())
	}
}

// readBody reads a whole body of at most limit bytes (errTooLong beyond, at
// once where the length is announced). The host may send chunks or a length.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, errTooLong
	}
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(bodyTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("setting the body's time limit: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, errTooLong
	}
	// A deadline that passes later would look like a caller gone away.
	if err := rc.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, fmt.Errorf("clearing the body's time limit: %w", err)
	}
	return body, nil
}

// drain reads what a refused body has left, up to the host's own limit, so that
// the host has sent it all and reads the answer instead of failing.
func drain(r *http.Request) {
	if _, err := io.CopyN(io.Discard, r.Body, 128<<20); err != nil && !errors.Is(err, io.EOF) {
		return // the peer is gone, or will notice that the connection closes
	}
}

// invocationID is the host's id for the call: the last one, as a host that
// forwards adds its own after the caller's. It is for logs, and kept short.
func (m *Mux) invocationID(r *http.Request) string {
	ids := r.Header.Values("X-Azure-Functions-InvocationId")
	if n := len(ids); n > 0 && plainID(ids[n-1]) {
		return ids[n-1]
	}
	if m.NewID != nil {
		return m.NewID()
	}
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return "local-" + hex.EncodeToString(b[:])
}

func plainID(s string) bool {
	for _, c := range s {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}
