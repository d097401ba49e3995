package devhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// serveAdmin serves the part of /admin that local work needs.
func (h *Host) serveAdmin(w http.ResponseWriter, r *http.Request) {
	name, isFunction := strings.CutPrefix(r.URL.Path, "/admin/functions/")
	switch {
	case r.URL.Path == "/admin/host/status" && r.Method == http.MethodGet:
		h.mu.Lock()
		s := h.state
		h.mu.Unlock()
		status := object{"id": h.id, "state": string(s), "version": h.opts.Version, "versionDetails": h.opts.Version,
			"instanceId": h.id, "processUptime": h.now().Sub(h.started).Milliseconds()}
		if h.cfg.bundle != nil {
			status["extensionBundle"] = h.cfg.bundle
		}
		if s == dead {
			status["errors"] = []string{errDead.Error()}
		}
		b, err := marshal(status)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		h.write(w, b)
	case isFunction && r.Method == http.MethodPost:
		h.startByHand(w, r, name)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// startByHand starts a function that isn't HTTP and answers at once.
func (h *Host) startByHand(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := h.functions[name]
	if !ok {
		http.Error(w, fmt.Sprintf("there is no function %q", name), http.StatusNotFound)
		return
	}
	content, err := readLimited(w, r)
	if err != nil {
		return
	}
	var in struct{ Input string }
	if len(bytes.TrimSpace(content)) > 0 {
		if err := json.Unmarshal(content, &in); err != nil {
			http.Error(w, `the body must be {"input": "<text>"}`, http.StatusBadRequest)
			return
		}
	}
	inst, ok := h.up(w, r)
	if !ok {
		return
	}
	call, err := inst.byHand(f, in.Input)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	go func() {
		if err := call(context.WithoutCancel(r.Context())); err != nil {
			h.opts.Log.Warn("the function that was started by hand failed", "function", f.name, "error", err)
		}
	}()
}

// byHand is the call of a function with a text for input.
func (in *instance) byHand(f *function, input string) (func(context.Context) error, error) {
	switch f.trigger.Type {
	case "queueTrigger":
		id, err := in.h.guid()
		now := in.h.now()
		m := QueueMessage{ID: id, PopReceipt: "by-hand", DequeueCount: 1, Inserted: now, NextVisible: now.Add(in.h.opts.HidingTime), Expires: now.AddDate(0, 0, 7)}
		return func(ctx context.Context) error { return in.invokeMessage(ctx, f, m, []byte(input)) }, err
	case "eventGridTrigger":
		events, err := splitEvents([]byte(input))
		if err != nil || len(events) == 0 {
			return nil, errors.New("the input must be the text of an event, a JSON object")
		}
		return func(ctx context.Context) error { return in.invokeEvents(ctx, f, events[:1]) }, nil
	case "timerTrigger":
		t := in.h.timerStatus(f.name)
		t.monitored = f.monitored(in.h.now())
		return func(ctx context.Context) error { return in.invokeTick(ctx, f, t) }, nil
	}
	return nil, fmt.Errorf("function %q is an HTTP function: call its route", f.name)
}
