package customhandler

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostVectors is the folder of recorded and inferred host traffic, "" if it
// isn't beside the repository.
func hostVectors(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			v := filepath.Join(dir, "..", "shared", "vectors", "host")
			if _, err := os.Stat(v); err == nil {
				return v
			}
			return ""
		}
	}
	return ""
}

type vector struct {
	Name    string
	Kind    string
	Request struct {
		Method, Path string
		Headers      map[string]any
		Body         json.RawMessage
		BodyText     *string `json:"body_text"`
	}
	Expect struct {
		Status        any
		JSON, NotNull bool
		Inbox         bool
		Forwarded     bool
		Queued        []string
		HTTP          *struct{ StatusCode any }
		Decode        map[string]string
	}
}

// seen is what the functions of vectorMux were given.
type seen struct {
	mu     sync.Mutex
	events []EventCall
	queue  []QueueCall
	timers []TimerCall
	http   []HTTPCall
}

func vectorMux(log *slog.Logger) (*Mux, *seen) {
	s := &seen{}
	note := func(f func()) { s.mu.Lock(); defer s.mu.Unlock(); f() }
	m := NewMux(log, "api")
	m.Event("vm-event", func(_ context.Context, c EventCall) error {
		note(func() { s.events = append(s.events, c) })
		return nil
	})
	queue := func(_ context.Context, c QueueCall) error {
		note(func() { s.queue = append(s.queue, c) })
		return nil
	}
	m.Queue("reconcile", queue)
	m.Queue("TestFunction", queue)
	m.Timer("sweep", func(_ context.Context, c TimerCall) error {
		note(func() { s.timers = append(s.timers, c) })
		return nil
	})
	m.HTTP("rerun", "rerun", []string{"post"}, false, func(_ context.Context, c HTTPCall) HTTPAnswer {
		note(func() { s.http = append(s.http, c) })
		var in struct{ VM string }
		if json.Unmarshal(c.Body, &in) != nil || !strings.HasPrefix(in.VM, "/subscriptions/") {
			return HTTPAnswer{Status: 400, Body: []byte(`{"error":"vm"}`)}
		}
		return HTTPAnswer{Status: 202, Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{}`)}
	})
	m.HTTP("vms", "vms/{key?}/{view?}", []string{"get"}, false, func(_ context.Context, c HTTPCall) HTTPAnswer {
		note(func() { s.http = append(s.http, c) })
		return HTTPAnswer{Status: 200, Header: map[string]string{"Content-Type": "application/json"}, Body: []byte(`{}`)}
	})
	return m, s
}

// TestVectors sends every case that the host sends to a handler. The others in
// the folder (arrays, and requests to the host's own webhook) are for the
// stand-in of the host; its test fails for those that it doesn't know.
func TestVectors(t *testing.T) {
	dir := hostVectors(t)
	if dir == "" {
		t.Skip("no vectors beside the repository")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if filepath.Ext(file) != ".json" {
				t.Fatal("a file of a kind that no test knows")
			}
			if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
				return // several cases in one file: the host stand-in's
			}
			var v vector
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			if v.Kind == "webhook" {
				return
			}
			if v.Kind != "handler" && v.Kind != "" || strings.HasPrefix(v.Request.Path, "/runtime/") || v.Request.Path == "" {
				t.Fatalf("kind %q, path %q: no test knows this case", v.Kind, v.Request.Path)
			}
			runVector(t, v)
		})
	}
}

func runVector(t *testing.T, v vector) {
	var logged bytes.Buffer
	m, got := vectorMux(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))
	srv := httptest.NewServer(m)
	defer srv.Close()
	body := []byte(v.Request.Body)
	if string(body) == "null" {
		body = nil
	}
	if v.Request.BodyText != nil {
		body = []byte(*v.Request.BodyText)
	}
	var reader io.Reader
	if body != nil {
		reader = struct{ io.Reader }{bytes.NewReader(body)} // no length: in chunks, as the host sends it
	}
	req, err := http.NewRequest(v.Request.Method, srv.URL+v.Request.Path, reader)
	if err != nil {
		t.Fatal(err)
	}
	for k, h := range v.Request.Headers {
		switch h := h.(type) {
		case string:
			req.Header.Set(k, h)
		case []any:
			for _, one := range h {
				req.Header.Add(k, one.(string))
			}
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	checkAnswer(t, v, res, answer)
	checkSeen(t, v, got, body)
	if strings.Contains(logged.String(), "REDACTED-FUNCTION-KEY") {
		t.Errorf("the log shows the function key:\n%s", logged.String())
	}
}

func checkAnswer(t *testing.T, v vector, res *http.Response, answer []byte) {
	t.Helper()
	switch want := v.Expect.Status.(type) {
	case float64:
		if res.StatusCode != int(want) {
			t.Errorf("status %d, want %v: %s", res.StatusCode, want, answer)
		}
	case []any:
		if !slices.Contains(want, any(float64(res.StatusCode))) {
			t.Errorf("status %d, want one of %v: %s", res.StatusCode, want, answer)
		}
	}
	var object map[string]any
	if err := json.Unmarshal(answer, &object); err != nil || object == nil {
		t.Fatalf("the answer is no JSON object: %q", answer)
	}
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	if res.ContentLength <= 0 {
		t.Errorf("Content-Length %d: the host would hang", res.ContentLength)
	}
	if v.Expect.HTTP == nil {
		return
	}
	out, ok := object["Outputs"].(map[string]any)["res"].(map[string]any)
	if !ok {
		t.Fatalf("no Outputs.res in %s", answer)
	}
	want, ok := v.Expect.HTTP.StatusCode.([]any)
	if !ok {
		want = []any{v.Expect.HTTP.StatusCode}
	}
	if !slices.Contains(want, out["statusCode"]) {
		t.Errorf("statusCode %v, want %v", out["statusCode"], want)
	}
}

func checkSeen(t *testing.T, v vector, got *seen, body []byte) {
	t.Helper()
	got.mu.Lock()
	defer got.mu.Unlock()
	whole, err := json.Marshal(got.http)
	if err != nil || bytes.Contains(whole, []byte("REDACTED-FUNCTION-KEY")) {
		t.Errorf("a function was given the function key (%v): %s", err, whole)
	}
	switch v.Request.Path {
	case "/vm-event":
		checkEvents(t, v, got.events, body)
	case "/reconcile", "/TestFunction":
		if len(got.queue) != 1 {
			t.Fatalf("%d queue calls", len(got.queue))
		}
		c := got.queue[0]
		if want, ok := v.Expect.Decode["myqueueItem"]; ok && string(c.Text) != want {
			t.Errorf("text %q, want %q", c.Text, want)
		} else if isJSON := json.Valid(c.Text) && c.Text[0] == '{'; !ok && isJSON == v.Expect.Inbox {
			t.Errorf("text %q, inbox %v", c.Text, v.Expect.Inbox)
		}
		wantCount := map[string]int{"queue-fifth-try": 5, "c-queue-metadata-overwritten": 0, "c-queue-host-test": 4}
		if want, ok := wantCount[v.Name]; ok && c.DequeueCount != want || !ok && c.DequeueCount != 1 {
			t.Errorf("dequeue count %d", c.DequeueCount)
		}
		if c.Invocation != "7d3c4e9a-5ac8-4a0e-9a7d-1f5d3c1c2b10" || c.Problem != "" {
			t.Errorf("call %+v", c)
		}
	case "/sweep":
		if len(got.timers) != 1 {
			t.Fatalf("%d timer calls", len(got.timers))
		}
		checkTick(t, v.Name, got.timers[0])
	case "/":
	default:
		if len(got.http) != 1 {
			t.Fatalf("%d HTTP calls", len(got.http))
		}
		checkHTTPCall(t, v.Name, got.http[0])
	}
}

func checkEvents(t *testing.T, v vector, calls []EventCall, body []byte) {
	t.Helper()
	want := 1
	if v.Name == "eventgrid-many" {
		want = 2
	}
	if len(calls) != want {
		t.Fatalf("%d calls, want %d", len(calls), want)
	}
	for _, c := range calls {
		var e struct{ ID, Subject string }
		if err := json.Unmarshal(c.Event, &e); err != nil || e.ID == "" {
			t.Fatalf("event %s: %v", c.Event, err)
		}
		if isVM := strings.Contains(strings.ToLower(e.Subject), "/virtualmachines/cvm-a"); isVM != (len(v.Expect.Queued) > 0) {
			t.Errorf("subject %q, expected in the queue: %v", e.Subject, v.Expect.Queued)
		}
		if v.Name != "eventgrid-as-text" && v.Name != "eventgrid-many" && !bytes.Contains(body, c.Event) {
			t.Errorf("the event's bytes are not those of the request: %s", c.Event)
		}
		if !bytes.Equal(c.Whole, body) || c.Problem != "" {
			t.Errorf("Whole isn't the body, or a problem: %q", c.Problem)
		}
	}
}

func checkTick(t *testing.T, name string, c TimerCall) {
	t.Helper()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	want := map[string]TimerCall{
		"timer":                      {Last: at("2026-11-20T10:07:00Z"), Next: at("2026-11-20T11:07:00Z")},
		"timer-no-monitor":           {PastDue: true},
		"c-timer":                    {Last: at("2026-11-20T09:07:00.0021354Z"), Next: at("2026-11-20T10:07:00Z")},
		"c-timer-first-run-past-due": {PastDue: true, Next: at("2026-11-20T10:07:00Z")},
	}
	w, ok := want[name]
	if !ok {
		t.Fatalf("no expectation for %s: add it here", name)
	}
	if c.PastDue != w.PastDue || !c.Last.Equal(w.Last) || !c.Next.Equal(w.Next) {
		t.Errorf("got %+v, want %+v", c, w)
	}
}

func checkHTTPCall(t *testing.T, name string, c HTTPCall) {
	t.Helper()
	type facts struct{ method, path, query, key, view, caller, base string }
	want := map[string]facts{
		"c-http-get-vms":                      {"GET", "/api/vms/ab12", "view=a%2Cb", "ab12", "", "default", "https://guard.azurewebsites.net"},
		"c-http-forwarded-spoofed-invocation": {"GET", "/api/vms/ab12", "", "ab12", "", "", ""},
		"c-http-post-rerun-route":             {"POST", "/api/rerun", "dryrun=true", "", "", "default", "https://guard.azurewebsites.net"},
		"http-rerun-wrapped":                  {"POST", "/api/rerun", "dryrun=true", "", "", "", "http://localhost:7071"},
		"http-rerun-forwarded":                {"POST", "/api/rerun", "dryrun=true", "", "", "", ""},
		"http-rerun-bad-id-wrapped":           {"POST", "/api/rerun", "", "", "", "", "http://localhost:7071"},
		"http-vms-get-wrapped":                {"GET", "/api/vms", "verdict=unknown%2Cnon-compliant", "", "", "", "http://localhost:7071"},
	}
	w, ok := want[name]
	if !ok {
		t.Fatalf("no expectation for %s: add it here", name)
	}
	got := facts{c.Method, c.Path, c.Query.Encode(), c.Params["key"], c.Params["view"], c.Caller, c.Base}
	if w.base == "" {
		got.base = "" // the test server's own
	}
	if got != w {
		t.Errorf("got %+v\nwant %+v", got, w)
	}
	if c.Invocation != "7d3c4e9a-5ac8-4a0e-9a7d-1f5d3c1c2b10" {
		t.Errorf("invocation %q", c.Invocation)
	}
}
