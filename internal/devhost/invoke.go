package devhost

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxAnswer bounds what is read of an answer; the real host stops at 2 GB.
const maxAnswer = 64 << 20

// invoke makes one wrapped call of the handler and writes its queue outputs. It
// waits for a handler that is starting, as the host does, and isn't cut short
// by a caller who goes away: the host cancels nothing.
func (in *instance) invoke(ctx context.Context, f *function, body []byte) (a answer, err error) {
	h := in.h
	ctx = context.WithoutCancel(ctx)
	id, err := h.guid()
	if err != nil {
		return a, err
	}
	log := h.opts.Log.With("function", f.name, "invocation", id)
	h.count(func(s *Stats) { s.Invocations++; s.Running++ })
	defer func() {
		h.count(func(s *Stats) {
			s.Running--
			if err != nil {
				s.Failures++
			}
			if errors.Is(err, ErrNull) {
				s.NullAnswers++
			}
		})
		if err != nil {
			log.Error("invocation failed", "error", err)
			err = fmt.Errorf("function %s, invocation %s: %w", f.name, id, err)
		}
	}()
	patience, cancel := context.WithTimeout(ctx, 4*h.cfg.startTime)
	defer cancel()
	if err := h.awaitReady(patience, true); err != nil {
		return a, err
	}
	if h.cfg.timeout > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, h.cfg.timeout)
		defer done()
	}
	// Without a length net/http sends chunks, as the host does in Azure.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, in.base()+"/"+f.name, struct{ io.Reader }{bytes.NewReader(body)})
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	h.sign(req.Header, id)
	res, err := in.client.Do(req)
	if err == nil {
		defer res.Body.Close()
		var content []byte
		if content, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer)); err == nil {
			if a, err = readAnswer(res.StatusCode, res.Header, content); err != nil {
				return a, err
			}
			for _, line := range a.logs {
				log.Info(line)
			}
			return a, in.writeOutputs(ctx, f, a)
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		log.Error("the invocation ran into the function timeout: the handler is killed, with everything in it", "timeout", h.cfg.timeout)
		in.killForTimeout()
		return a, fmt.Errorf("timeout of %v exceeded", h.cfg.timeout)
	}
	return a, err
}

// sign sets the host's own headers.
func (h *Host) sign(header http.Header, id string) {
	header.Set("User-Agent", "Azure-Functions-Host/"+h.opts.Version)
	header.Set("X-Azure-Functions-HostVersion", h.opts.Version)
	header.Set("X-Azure-Functions-InvocationId", id)
}

// writeOutputs writes what the answer holds for queue bindings. A failure here
// fails the invocation although the handler's work is done.
func (in *instance) writeOutputs(ctx context.Context, f *function, a answer) error {
	for _, b := range f.outputs {
		if b.Type != "queue" {
			continue
		}
		for _, message := range outputValues(a.output(b.Name), b.DataType == "binary") {
			raw := string(message)
			if in.h.cfg.queues.Base64 {
				raw = base64.StdEncoding.EncodeToString(message)
			}
			if err := in.h.opts.Queues.Enqueue(ctx, in.h.env.expand(b.QueueName), raw, 0, 0); err != nil {
				return fmt.Errorf("writing output %q: %w", b.Name, err)
			}
		}
	}
	return nil
}

// invokeEvents calls the function for one event, or for several where its
// cardinality is many.
func (in *instance) invokeEvents(ctx context.Context, f *function, events []json.RawMessage) error {
	s, err := in.sys(f)
	if err != nil {
		return err
	}
	b, err := eventBody(f, events, s)
	if err != nil {
		return err
	}
	_, err = in.invoke(ctx, f, b)
	return err
}

// invokeMessage calls the function for a message whose encoding is undone.
func (in *instance) invokeMessage(ctx context.Context, f *function, m QueueMessage, decoded []byte) error {
	s, err := in.sys(f)
	if err != nil {
		return err
	}
	b, err := queueBody(f, m, decoded, s)
	if err != nil {
		return err
	}
	_, err = in.invoke(ctx, f, b)
	return err
}

// invokeTick calls the function for a tick.
func (in *instance) invokeTick(ctx context.Context, f *function, t tick) error {
	s, err := in.sys(f)
	if err != nil {
		return err
	}
	b, err := timerBody(f, t, s)
	if err != nil {
		return err
	}
	in.h.count(func(s *Stats) { s.Ticks++ })
	_, err = in.invoke(ctx, f, b)
	return err
}

func (in *instance) sys(f *function) (object, error) {
	guid, err := in.h.guid()
	return sys(f.name, in.h.now(), guid), err
}

// pause waits, or gives false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
