package devhost

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func vectorFiles(t *testing.T) []string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "..", "shared", "vectors", "host", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("no vectors beside the repository")
	}
	return files
}

type webhookCase struct {
	Name    string
	Kind    string
	Request struct {
		Method, Path string
		Headers      map[string]string
		Body         json.RawMessage
		BodyText     *string `json:"body_text"`
	}
	ResponseOK struct {
		Headers map[string]string
	} `json:"response_ok"`
	Expect struct {
		Status      int
		Invocations *int
		Body        map[string]any
	}
}

type answerCase struct {
	Name   string
	Answer struct {
		Status   int
		Headers  map[string]string
		BodyText string `json:"body_text"`
	}
	Outcome string
	Logs    []string
	HTTP    *struct {
		Status   int
		BodyText string `json:"body_text"`
	}
	Outputs map[string]struct {
		Bytes string `json:"bytes_hex"`
		Text  string
	}
}

// TestVectors runs the cases that are the host's own part: its webhook, and
// how it reads answers. The rest of the folder is what a handler is sent;
// TestVectorEncoding makes some of these, and the handler's package reads all.
func TestVectors(t *testing.T) {
	for _, file := range vectorFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Base(file)
		if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
			var c webhookCase
			if err := json.Unmarshal(text, &c); err == nil && c.Kind == "webhook" {
				t.Run(base, func(t *testing.T) { runWebhook(t, c) })
			}
			continue
		}
		var items []json.RawMessage
		if err := json.Unmarshal(text, &items); err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			var w webhookCase
			var a answerCase
			errW, errA := json.Unmarshal(item, &w), json.Unmarshal(item, &a)
			switch {
			case errW == nil && strings.HasPrefix(w.Request.Path, "/runtime/"):
				t.Run(base+"/"+w.Name, func(t *testing.T) { runWebhook(t, w) })
			case errA == nil && a.Outcome != "":
				t.Run(base+"/"+a.Name, func(t *testing.T) { runAnswer(t, a) })
			default:
				t.Errorf("%s: a case that no test knows: %.80s (%v, %v)", base, item, errW, errA)
			}
		}
	}
}

func runWebhook(t *testing.T, c webhookCase) {
	body := string(c.Request.Body)
	if body == "null" {
		body = ""
	}
	if c.Request.BodyText != nil {
		body = *c.Request.BodyText
	}
	var calls atomic.Int32
	h, _ := withHandler(t, Options{}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		if c.Name == "notification-one-fails" && n == 1 {
			answerWith(500, `{}`).ServeHTTP(w, r)
			return
		}
		answerWith(200, `{}`).ServeHTTP(w, r)
	}))
	var headers []string
	for k, v := range c.Request.Headers {
		headers = append(headers, k, v)
	}
	w := request(h, c.Request.Method, c.Request.Path, body, headers...)
	if w.Code != c.Expect.Status {
		t.Errorf("status %d, want %d: %s", w.Code, c.Expect.Status, w.Body)
	}
	if want := c.Expect.Invocations; want != nil && int(calls.Load()) != *want {
		t.Errorf("%d invocations, want %d", calls.Load(), *want)
	}
	for k, v := range c.ResponseOK.Headers {
		if w.Header().Get(k) != v {
			t.Errorf("header %s: %q, want %q", k, w.Header().Get(k), v)
		}
	}
	if c.Request.Method == http.MethodOptions && (w.Header().Get("WebHook-Allowed-Rate") != "" || w.Code == 200 && w.Body.Len() > 0) {
		t.Errorf("an allowed rate or a body: %v %q", w.Header(), w.Body)
	}
	if c.Expect.Body != nil {
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || !reflect.DeepEqual(got, c.Expect.Body) {
			t.Errorf("body %s", w.Body)
		}
	}
}

func runAnswer(t *testing.T, c answerCase) {
	var followed atomic.Bool
	functions := map[string]string{"f": `{"bindings":[{"type":"queueTrigger","name":"work","direction":"in","queueName":"q"},{"type":"queue","name":"out","direction":"out","queueName":"sent"}]}`}
	queues := newMemoryQueues()
	h, in := withHandler(t, Options{Queues: queues}, functions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/f" {
			followed.Store(true)
			answerWith(200, "{}").ServeHTTP(w, r)
			return
		}
		w.Header()["Content-Type"] = nil // no guess by net/http
		for k, v := range c.Answer.Headers {
			w.Header().Set(k, v)
		}
		w.WriteHeader(c.Answer.Status)
		io.WriteString(w, c.Answer.BodyText)
	}))
	a, err := in.invoke(context.Background(), h.functions["f"], []byte(`{}`))
	var res httpResponse
	if err == nil && strings.HasPrefix(c.Name, "http-") {
		res, err = a.response("res")
	}
	outcome := "success"
	switch {
	case errors.Is(err, ErrNull):
		outcome = "hang"
	case err != nil:
		outcome = "failure"
	case followed.Load():
		outcome = "followed"
	}
	if outcome != c.Outcome {
		t.Fatalf("%s, want %s (%v)", outcome, c.Outcome, err)
	}
	if (h.Stats().NullAnswers == 1) != (outcome == "hang") {
		t.Errorf("stats %+v", h.Stats())
	}
	if c.Logs != nil && strings.Join(a.logs, "|") != strings.Join(c.Logs, "|") {
		t.Errorf("logs %q", a.logs)
	}
	if c.HTTP != nil && (res.status != c.HTTP.Status || string(res.body) != c.HTTP.BodyText) {
		t.Errorf("%d %q, want %d %q", res.status, res.body, c.HTTP.Status, c.HTTP.BodyText)
	}
	for name, want := range c.Outputs {
		text := want.Text
		if want.Bytes != "" {
			b, err := hex.DecodeString(want.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			text = string(b)
		}
		if name != "out" || queues.len("sent") != 1 {
			t.Fatalf("output %q: %d messages", name, queues.len("sent"))
		}
		if got, err := decodeBase64(queues.queues["sent"][0].RawText); err != nil || string(got) != text {
			t.Errorf("sent %q (%v), want %q", got, err, text)
		}
	}
}

// handlerCase is one that the host sends.
type handlerCase struct {
	Name    string
	Request struct {
		Method, Path string
		Headers      map[string]any
		Body         struct {
			Data     map[string]any
			Metadata map[string]any
		}
	}
}

// TestVectorEncoding makes the bodies of the second set anew from what was
// sent, and compares.
func TestVectorEncoding(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	zone := func(s string) time.Time { return at(s).In(time.FixedZone("", 0)) }
	guid := "2b0c9a44-7a0f-4b7e-8b57-6c2a4d1e9f01"
	made := 0
	for _, file := range vectorFiles(t) {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		var make func(f *function, c handlerCase, s object) ([]byte, error)
		message := QueueMessage{ID: "800ae4b3-bdd2-4c08-badd-f08e5a34b865", PopReceipt: "AgAAAAMAAAAAAAAAAgtnj8x+1QE=", DequeueCount: 1,
			Inserted: at("2026-11-20T10:15:30.9Z"), NextVisible: at("2026-11-20T10:25:30.1Z"), Expires: at("2026-11-27T10:15:30Z")}
		switch name {
		case "c-queue-json", "c-queue-plain-text", "c-queue-metadata-overwritten":
			if name == "c-queue-plain-text" {
				message.Expires = time.Time{}
			}
			make = func(f *function, c handlerCase, s object) ([]byte, error) {
				var inner string
				if err := json.Unmarshal([]byte(c.Request.Body.Data["work"].(string)), &inner); err != nil {
					return nil, err
				}
				return queueBody(f, message, []byte(inner), s)
			}
		case "c-timer":
			make = func(f *function, _ handlerCase, s object) ([]byte, error) {
				last := zone("2026-11-20T09:07:00.0021354Z")
				return timerBody(f, tick{last: last, next: zone("2026-11-20T10:07:00Z"), updated: last, monitored: true}, s)
			}
		case "timer-no-monitor":
			make = func(f *function, _ handlerCase, s object) ([]byte, error) {
				return timerBody(f, tick{pastDue: true}, s)
			}
		case "c-eventgrid-resource-write-vm", "c-eventgrid-resource-notification-vm", "eventgrid-cloudevent":
			make = func(f *function, c handlerCase, s object) ([]byte, error) {
				e, err := json.Marshal(c.Request.Body.Data["event"])
				if err != nil {
					return nil, err
				}
				return eventBody(f, []json.RawMessage{e}, s)
			}
		case "c-http-get-vms", "c-http-post-rerun-route":
			make = func(f *function, c handlerCase, s object) ([]byte, error) { return makeRequest(t, f, c, s) }
		default:
			continue
		}
		made++
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var c handlerCase
			if err := json.Unmarshal(text, &c); err != nil {
				t.Fatal(err)
			}
			functions, err := readFunctions(stage(t, plainHostJSON, plainFunctions), nil)
			if err != nil {
				t.Fatal(err)
			}
			f := functions[strings.TrimPrefix(c.Request.Path, "/")]
			got, err := make(f, c, sys(f.name, at("2026-11-20T10:15:30.1234567Z"), guid))
			if err != nil {
				t.Fatal(err)
			}
			var gotBody, wantBody any
			var want struct {
				Request struct{ Body json.RawMessage }
			}
			if err := errors.Join(json.Unmarshal(text, &want), json.Unmarshal(got, &gotBody), json.Unmarshal(want.Request.Body, &wantBody)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(gotBody, wantBody) {
				t.Errorf("made %s\nwant %s", got, want.Request.Body)
			}
		})
	}
	if made < 8 {
		t.Errorf("only %d cases were made", made)
	}
}

func makeRequest(t *testing.T, f *function, c handlerCase, s object) ([]byte, error) {
	t.Helper()
	req := c.Request.Body.Data["req"].(map[string]any)
	u, err := url.Parse(req["Url"].(string))
	if err != nil {
		t.Fatal(err)
	}
	var content []byte
	if b, ok := req["Body"].(string); ok {
		content = []byte(b)
	}
	r := httptest.NewRequest(req["Method"].(string), u.RequestURI(), bytes.NewReader(content))
	r.Host = u.Host
	for k, v := range req["Headers"].(map[string]any) {
		if k != "Host" {
			r.Header[k] = []string{v.([]any)[0].(string)}
		}
	}
	params, ok := f.route.Match(strings.TrimPrefix(u.EscapedPath(), "/api/"))
	if !ok {
		t.Fatalf("no route for %s", u.Path)
	}
	return httpBody(f, r, u.Scheme+"://"+u.Host, params, identities(grant{"Function", "default"}), content, s)
}
