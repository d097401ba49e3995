package devhost

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// eventGridOrigins are those that Event Grid itself names in a handshake.
var eventGridOrigins = []string{"eventgrid.azure.net", "eventgrid.azure.us", "eventgrid.azure.cn", "eventgrid.azure.eaglex.ic.gov", "eventgrid.azure.microsoft.scloud"}

// serveEventGrid is Event Grid's webhook. The order of its decisions is the
// host's: function, OPTIONS, kind of request, body.
func (in *instance) serveEventGrid(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("functionName")
	f, ok := in.h.functions[name] // with case
	if !ok || f.disabled || f.trigger.Type != "eventGridTrigger" {
		http.Error(w, fmt.Sprintf("cannot find function: '%s'", name), http.StatusNotFound)
		return
	}
	if r.Method == http.MethodOptions {
		origin := strings.ToLower(r.Header.Get("WebHook-Request-Origin"))
		if !slices.Contains(eventGridOrigins, origin) {
			origin = eventGridOrigins[0]
		}
		w.Header().Set("Webhook-Allowed-Origin", origin)
		w.WriteHeader(http.StatusOK)
		return
	}
	kind := r.Header.Get("aeg-event-type")
	switch {
	case strings.EqualFold(kind, "Unsubscribe"):
		w.WriteHeader(http.StatusAccepted)
		return
	case !strings.EqualFold(kind, "SubscriptionValidation") && !strings.EqualFold(kind, "Notification"):
		http.Error(w, "the header aeg-event-type must be SubscriptionValidation, Notification or Unsubscribe", http.StatusBadRequest)
		return
	}
	content, err := readLimited(w, r)
	if err != nil {
		return
	}
	if strings.EqualFold(kind, "SubscriptionValidation") {
		in.validate(w, content)
		return
	}
	if err := in.deliver(r, f, content); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// validate answers Event Grid's handshake with the code that it sent. The
// function isn't called.
func (in *instance) validate(w http.ResponseWriter, content []byte) {
	code, err := validationCode(content)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer, err := marshal(object{"validationResponse": code})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	in.h.write(w, answer)
}

func validationCode(content []byte) (string, error) {
	type event struct {
		Data json.RawMessage `json:"data"`
	}
	var one event
	var many []event
	if json.Unmarshal(content, &many) == nil && len(many) > 0 {
		one = many[0]
	} else if err := json.Unmarshal(content, &one); err != nil {
		return "", fmt.Errorf("the validation event can't be read: %w", err)
	}
	data := one.Data
	var s string
	if json.Unmarshal(data, &s) == nil {
		data = json.RawMessage(s)
	}
	var v struct {
		ValidationCode string `json:"validationCode"`
	}
	if json.Unmarshal(data, &v) != nil || v.ValidationCode == "" {
		return "", errors.New("the validation event has no validationCode in its data")
	}
	return v.ValidationCode, nil
}

// deliver makes one invocation an event (or one for all, with cardinality
// many), all at once. Its error is the first failure: Event Grid delivers all
// of them again then.
func (in *instance) deliver(r *http.Request, f *function, content []byte) error {
	events, err := splitEvents(content)
	if err != nil || len(events) == 0 {
		return err
	}
	if f.trigger.Cardinality == "many" {
		return in.invokeEvents(r.Context(), f, events)
	}
	faults := make([]error, len(events))
	var all sync.WaitGroup
	for i, e := range events {
		all.Go(func() { faults[i] = in.invokeEvents(r.Context(), f, []json.RawMessage{e}) })
	}
	all.Wait()
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	return nil
}

// splitEvents reads an array of events or a single one. Each is written anew:
// the order of keys stays, spacing doesn't.
func splitEvents(content []byte) ([]json.RawMessage, error) {
	var events []json.RawMessage
	if err := json.Unmarshal(content, &events); err != nil {
		if !json.Valid(content) {
			return nil, fmt.Errorf("the body is not JSON: %w", err)
		}
		events = []json.RawMessage{content}
	}
	for i, e := range events {
		if !isObject(e) {
			return nil, fmt.Errorf("event %d is not an object", i)
		}
		var b bytes.Buffer
		if err := json.Compact(&b, e); err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		events[i] = b.Bytes()
	}
	return events, nil
}
