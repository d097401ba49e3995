package customhandler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// post sends an invocation and gives status, header and body.
func post(t *testing.T, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	return do(t, http.MethodPost, url, body, header...)
}

func do(t *testing.T, method, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(text)
}

func serve(t *testing.T, m *Mux) string {
	t.Helper()
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestRefusals(t *testing.T) {
	m, got := vectorMux(nil)
	m.Limits = Limits{Body: 50, Wrapped: 1000}
	url := serve(t, m)
	long := strings.Repeat("x", 2000)
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
	}{
		{"probe", "GET", "/", "", nil, 200},
		{"unknown function", "POST", "/nobody", `{"Data":{}}`, nil, 404},
		{"function in another case", "POST", "/Vm-Event", `{"Data":{}}`, nil, 404},
		{"function by GET", "GET", "/vm-event", "", nil, 405},
		{"an event as it is, on the function's path", "POST", "/vm-event", `{"id":"1","data":{"event":{}}}`, nil, 400},
		{"a message as it is, on the function's path", "POST", "/reconcile", `{"vm":"x"}`, nil, 400},
		{"a request as it is, on the function's path", "POST", "/rerun", `{"vm":"x"}`, nil, 400},
		{"an empty tick", "POST", "/sweep", ``, nil, 400},
		{"a web page", "POST", "/vm-event", `{"Data":{"event":{}}}`, []string{"Origin", "http://evil.example"}, 403},
		{"invocation over the limit", "POST", "/vm-event", long, nil, 413},
		{"unknown route", "GET", "/api/nobody", "", nil, 404},
		{"route by another method", "DELETE", "/api/vms", "", nil, 405},
		{"raw body over the limit", "POST", "/api/rerun", long, nil, 413},
		{"raw query that can't be read", "GET", "/api/vms?a=%zz", "", nil, 400},
		{"the prefix alone", "GET", "/api/", "", nil, 404},
	} {
		status, header, body := do(t, c.method, url+c.path, c.body, c.header...)
		var object map[string]any
		if status != c.status || json.Unmarshal([]byte(body), &object) != nil || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %v %q, want %d and JSON", c.name, status, header, body, c.status)
		}
	}
	if n := len(got.events) + len(got.queue) + len(got.timers) + len(got.http); n != 0 {
		t.Errorf("%d calls came through", n)
	}
	// Of a wrapped request the host is told 200 and the caller what is wrong.
	for _, c := range []struct{ name, req, code string }{
		{"method", `{"Url":"http://h/api/rerun","Method":"PUT"}`, "405"},
		{"lost body", `{"Url":"http://h/api/rerun","Method":"POST","Headers":{"Transfer-Encoding":["chunked"]}}`, "411"},
		{"long body", `{"Url":"http://h/api/rerun","Method":"POST","Body":"` + strings.Repeat("x", 60) + `"}`, "413"},
		{"very long body", `{"Url":"http://h/api/rerun","Method":"POST","Body":"` + long + `"}`, "413"},
		{"query", `{"Url":"http://h/api/rerun?a=%zz","Method":"POST","Body":"x"}`, "400"},
	} {
		status, _, body := post(t, url+"/rerun", `{"Data":{"req":`+c.req+`}}`)
		if status != 200 || !strings.Contains(body, `"statusCode":"`+c.code+`"`) {
			t.Errorf("wrapped, %s: %d %s, want %s inside", c.name, status, body, c.code)
		}
	}
}

func TestDamagedIsHandedOn(t *testing.T) {
	m, got := vectorMux(nil)
	url := serve(t, m)
	for _, body := range []string{`{"Data":{"event":{"id":`, `{"Data":null}`, `{"Data":{"a":1,"b":2}}`, `{"Data":{"event":""}}`} {
		if status, _, answer := post(t, url+"/vm-event", body); status != 200 {
			t.Errorf("%s: %d %s", body, status, answer)
		}
		c := got.events[len(got.events)-1]
		if c.Event != nil || string(c.Whole) != body || c.Problem == "" {
			t.Errorf("%s: %+v", body, c)
		}
	}
	if status, _, _ := post(t, url+"/reconcile", `{"Data": 5}`); status != 200 || string(got.queue[0].Text) != "5" || got.queue[0].Problem == "" {
		t.Errorf("%d %+v", status, got.queue)
	}
	big := strings.Repeat("x", 1<<20)
	if status, _, _ := post(t, url+"/vm-event", `{"Data":{"event":{"subject":"`+big+`"}},"Metadata":{"data":"`+big+`"}}`); status != 200 {
		t.Errorf("an event of 1 MiB: %d", status)
	}
}

func TestSameBothWays(t *testing.T) {
	m, got := vectorMux(nil)
	url := serve(t, m)
	status, _, inner := post(t, url+"/rerun", `{"Data":{"req":{"Url":"`+url+`/api/rerun?dryrun=true&code=k","Method":"POST","Query":{"dryrun":"true","code":"k"},
		"Headers":{"Content-Type":["application/json"],"X-Functions-Key":["k"]},"Params":{},"Body":"{\"vm\":\"/subscriptions/1\"}"}}}`)
	if status != 200 || !strings.Contains(inner, `"res":{"statusCode":"202"`) {
		t.Fatalf("wrapped: %d %s", status, inner)
	}
	status, _, outer := post(t, url+"/api/rerun?dryrun=true&code=k", `{"vm":"/subscriptions/1"}`, "Content-Type", "application/json", "X-Functions-Key", "k")
	if status != 202 || outer != "{}" {
		t.Fatalf("raw: %d %s", status, outer)
	}
	for i := range got.http {
		for _, transport := range []string{"User-Agent", "Accept-Encoding", "Content-Length"} {
			got.http[i].Header.Del(transport)
		}
		got.http[i].Invocation = ""
	}
	a, errA := json.Marshal(got.http[0])
	b, errB := json.Marshal(got.http[1])
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("wrapped %s\n    raw %s", a, b)
	}
}

func TestInvocations(t *testing.T) {
	var mu sync.Mutex
	var logged bytes.Buffer
	log := slog.New(slog.NewJSONHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logged.Write(p)
	}), nil))
	m := NewMux(log, "")
	m.Limits.Time = 20 * time.Millisecond
	m.Queue("fails", func(context.Context, QueueCall) error { return errors.New("storage is away") })
	m.Queue("panics", func(context.Context, QueueCall) error { panic("boom") })
	m.Queue("notes", func(ctx context.Context, c QueueCall) error {
		LogFrom(ctx).Info("in the middle")
		Note(ctx, "queued %s", "x")
		if MetaFrom(ctx) != c.Meta {
			return errors.New("another invocation's context")
		}
		for range 100 {
			Note(ctx, "%s", strings.Repeat("é", 1000))
		}
		return nil
	})
	m.Queue("slow", func(ctx context.Context, _ QueueCall) error { <-ctx.Done(); return ctx.Err() })
	m.HTTP("page", "page", nil, true, func(context.Context, HTTPCall) HTTPAnswer { panic("boom") })
	m.HTTP("nothing", "nothing", nil, true, func(context.Context, HTTPCall) HTTPAnswer { return HTTPAnswer{} })
	url := serve(t, m)
	const body = `{"Data":{"work":"x"}}`
	for path, want := range map[string]int{"/fails": 500, "/panics": 500, "/notes": 200, "/slow": 500} {
		status, _, answer := post(t, url+path, body, "X-Azure-Functions-InvocationId", "id-of"+strings.ReplaceAll(path, "/", "-"))
		if status != want || !json.Valid([]byte(answer)) {
			t.Errorf("%s: %d %s", path, status, answer)
		}
		if path == "/notes" {
			var a struct{ Logs []string }
			if err := json.Unmarshal([]byte(answer), &a); err != nil || len(a.Logs) != maxNotes || a.Logs[0] != "queued x" || len(a.Logs[1]) > maxNote {
				t.Errorf("notes: %v %d", err, len(a.Logs))
			}
		}
	}
	const req = `{"Data":{"req":{"Url":"http://h/api/page","Method":"GET"}}}`
	for _, path := range []string{"/page", "/nothing"} {
		if status, _, answer := post(t, url+path, req); status != 500 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
		if status, _, answer := do(t, "GET", url+"/api"+path, ""); status != 500 || strings.Contains(answer, "boom") {
			t.Errorf("raw %s: %d %s", path, status, answer)
		}
	}
	if status, _, _ := post(t, url+"/notes", body); status != 200 {
		t.Errorf("after a panic: %d", status)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{`"invocation":"id-of-panics","panic":"boom"`, "mux_test.go", `"in the middle","function":"notes","invocation":"id-of-notes"`, `"kind":"bug"`} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log lacks %s", want)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestLimiter(t *testing.T) {
	m := NewMux(nil, "")
	m.Limits.Parallel = 2
	release, begun := make(chan struct{}), make(chan struct{}, 10)
	m.Queue("work", func(context.Context, QueueCall) error { begun <- struct{}{}; <-release; return nil })
	m.HTTP("page", "page", nil, true, func(context.Context, HTTPCall) HTTPAnswer { return HTTPAnswer{Status: 200} })
	url := serve(t, m)
	var done sync.WaitGroup
	statuses := make(chan int, 3)
	for range 3 {
		done.Add(1)
		go func() {
			defer done.Done()
			res, err := http.Post(url+"/work", "application/json", strings.NewReader(`{"Data":{"work":"x"}}`))
			if err != nil {
				statuses <- 0
				return
			}
			res.Body.Close()
			statuses <- res.StatusCode
		}()
	}
	<-begun
	<-begun
	status, header, _ := do(t, "GET", url+"/api/page", "")
	if status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("a request over the limit: %d %v", status, header)
	}
	if status, _, body := post(t, url+"/page", `{"Data":{"req":{"Url":"http://h/api/page","Method":"GET"}}}`); status != 200 || !strings.Contains(body, `"statusCode":"503"`) {
		t.Errorf("wrapped: %d %s", status, body)
	}
	if status, _, _ := do(t, "GET", url+"/", ""); status != 200 {
		t.Errorf("the probe is held up: %d", status)
	}
	select {
	case <-begun:
		t.Error("a third invocation ran")
	default:
	}
	close(release)
	done.Wait()
	for range 3 {
		if s := <-statuses; s != 200 {
			t.Errorf("status %d", s)
		}
	}
}

func TestRegistration(t *testing.T) {
	m := NewMux(nil, "/api/v1/")
	event := func(context.Context, EventCall) error { return nil }
	page := func(context.Context, HTTPCall) HTTPAnswer { return HTTPAnswer{Status: 200} }
	m.Event("vm-event", event)
	m.HTTP("vms", "", []string{"get", "Post"}, true, page)
	for name, add := range map[string]func(){
		"twice": func() { m.Event("vm-event", event) }, "prefix": func() { m.Event("API", event) }, "host": func() { m.Event("host", event) },
		"digit": func() { m.Event("1a", event) }, "path": func() { m.Event("a/b", event) }, "route": func() { m.HTTP("x", "a{b}", nil, false, page) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			add()
		}()
	}
	list := m.Functions()
	if len(list) != 2 || list[1].Name != "vms" || list[1].Route != "vms" || strings.Join(list[1].Methods, " ") != "GET POST" || !list[1].Anonymous {
		t.Errorf("%+v", list)
	}
	url := serve(t, m)
	if status, _, _ := do(t, "GET", url+"/api/v1/vms", ""); status != 200 {
		t.Errorf("below a prefix of two segments: %d", status)
	}
}

func TestSpecialRouteFirst(t *testing.T) {
	m := NewMux(nil, "")
	say := func(s string) HTTPFunc {
		return func(context.Context, HTTPCall) HTTPAnswer { return HTTPAnswer{Status: 200, Body: []byte(s)} }
	}
	m.HTTP("rest", "{*p}", nil, true, say("rest"))
	m.HTTP("one", "vms/{key}", nil, true, say("one"))
	m.HTTP("number", "vms/{key:int}", nil, true, say("number"))
	m.HTTP("all", "vms/all", nil, true, say("all"))
	url := serve(t, m)
	for path, want := range map[string]string{"vms/all": "all", "vms/7": "number", "vms/x": "one", "vms/x/y": "rest", "other": "rest"} {
		if _, _, body := do(t, "GET", url+"/api/"+path, ""); body != want {
			t.Errorf("%s: %q, want %q", path, body, want)
		}
	}
}
