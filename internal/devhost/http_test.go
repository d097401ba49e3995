package devhost

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cvmguard/internal/customhandler"
)

// muxHandler is a real handler over plainFunctions that tells what it got.
func muxHandler(t *testing.T) (http.Handler, func() customhandler.HTTPCall) {
	t.Helper()
	var mu sync.Mutex
	var last customhandler.HTTPCall
	take := func(_ context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		mu.Lock()
		defer mu.Unlock()
		last = c
		return customhandler.HTTPAnswer{Status: 202, Header: map[string]string{"Content-Type": "application/json", "Location": "/api/vms/x"}, Body: []byte(`{"a":1.50}`)}
	}
	m := customhandler.NewMux(nil, "api")
	m.HTTP("vms", "vms/{key?}/{view?}", []string{"GET"}, false, take)
	m.HTTP("rerun", "rerun", []string{"POST"}, false, take)
	m.HTTP("open", "", nil, true, take)
	return m, func() customhandler.HTTPCall { mu.Lock(); defer mu.Unlock(); return last }
}

// TestModes calls a real handler wrapped, forwarded and proxied: the function
// must not be able to tell, but for what only a wrapping host says.
func TestModes(t *testing.T) {
	var calls []customhandler.HTTPCall
	for _, mode := range []HTTPMode{HTTPWrap, HTTPForward, HTTPProxy} {
		handler, last := muxHandler(t)
		h, _ := withHandler(t, Options{HTTP: mode}, plainFunctions, handler)
		w := request(h, "POST", "http://guard.example/api/rerun?a=1&a=2&code=secret", `{"vm":"x"}`, "Content-Type", "application/json", "X-Functions-Key", "secret", "Cookie", "a=b")
		if w.Code != 202 || w.Body.String() != `{"a":1.50}` || w.Header().Get("Location") != "/api/vms/x" || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %v %s", mode, w.Code, w.Header(), w.Body)
		}
		c := last()
		c.Invocation = ""
		for _, transport := range []string{"User-Agent", "Accept-Encoding", "Content-Length", "X-Forwarded-For", "Host"} {
			c.Header.Del(transport)
		}
		calls = append(calls, c)
		if w := request(h, "GET", "http://guard.example/api/vms/k", ""); w.Code != 202 || last().Params["key"] != "k" || last().Params["view"] != "" {
			t.Errorf("%s: %d %+v", mode, w.Code, last())
		}
		for path, want := range map[string]int{"/api/nobody": 404, "/rerun": 404, "/api/vms/a/b/c": 404} {
			if w := request(h, "GET", path, ""); w.Code != want {
				t.Errorf("%s %s: %d", mode, path, w.Code)
			}
		}
		if w := request(h, "GET", "/api/rerun", ""); w.Code != 404 {
			t.Errorf("%s: another method: %d", mode, w.Code)
		}
	}
	texts := map[string]bool{}
	for _, c := range calls {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		texts[string(b)] = true
		if strings.Contains(string(b), "secret") {
			t.Errorf("the key came through: %s", b)
		}
	}
	if len(texts) != 1 {
		t.Errorf("the modes differ:\n%v", texts)
	}
}

func TestChunkedBodies(t *testing.T) {
	for mode, want := range map[HTTPMode]int{HTTPWrap: 411, HTTPProxy: 202} {
		handler, last := muxHandler(t)
		h, _ := withHandler(t, Options{HTTP: mode}, plainFunctions, handler)
		r := httptest.NewRequest("POST", "/api/rerun", io.NopCloser(strings.NewReader("body")))
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
		w := httptest.NewRecorder()
		h.serve(w, r)
		if w.Code != want || (want == 202) != (string(last().Body) == "body") {
			t.Errorf("%s: %d, body %q", mode, w.Code, last().Body)
		}
	}
	// Forwarded, nothing tells that there was a body: the function sees that one may be missing.
	handler, last := muxHandler(t)
	h, _ := withHandler(t, Options{HTTP: HTTPForward}, plainFunctions, handler)
	r := httptest.NewRequest("POST", "/api/rerun", io.NopCloser(strings.NewReader("body")))
	r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.serve(w, r)
	if w.Code != 202 || len(last().Body) != 0 {
		t.Errorf("forwarded: %d %q", w.Code, last().Body)
	}
}

func TestForwardedHeaders(t *testing.T) {
	var got http.Header
	var uri, host string
	h, _ := withHandler(t, Options{HTTP: HTTPForward}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, uri, host = r.Header, r.RequestURI, r.Host
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(302)
	}))
	w := request(h, "GET", "http://guard.example/api/vms/a%20b?x=1&x=2&code=k", "", "X-Azure-Functions-InvocationId", "caller", "User-Agent", "curl/8")
	if w.Code != 302 {
		t.Errorf("a redirect must go back to the caller: %d", w.Code)
	}
	ids := got.Values("X-Azure-Functions-InvocationId")
	if len(ids) != 2 || ids[0] != "caller" || len(ids[1]) != 36 || got.Get("User-Agent") != "curl/8 Azure-Functions-Host/4.1036.2.2" {
		t.Errorf("%v", got)
	}
	if uri != "/api/vms/a%20b?code=k&x=1%2C2" || host != "guard.example" {
		t.Errorf("%s at %s", uri, host)
	}
}

func TestWrappedFailures(t *testing.T) {
	for body, want := range map[string]int{"null": 500, "": 500, "[]": 500, `{"Outputs":{"res":7}}`: 500, `{"Outputs":{"res":{"headers":{"a":null}}}}`: 500,
		"{}": 204, `{"Outputs":{"res":{"statusCode":"x"}}}`: 200, `{"Outputs":{"RES":{"StatusCode":404,"body":{"a":1},"headers":{"X-List":[1]}}}}`: 404} {
		h, _ := withHandler(t, Options{}, plainFunctions, answerWith(200, body))
		w := request(h, "GET", "/api/vms", "")
		if w.Code != want || want == 500 && w.Body.Len() > 0 {
			t.Errorf("%q: %d %q, want %d", body, w.Code, w.Body, want)
		}
		if want == 404 && (w.Body.String() != "{\n  \"a\": 1\n}" || w.Header().Get("X-List") != "[1]") {
			t.Errorf("%q %v", w.Body, w.Header())
		}
		if s := h.Stats(); (s.Failures == 1) != (want == 500) || s.Running != 0 {
			t.Errorf("%q: %+v", body, s)
		}
	}
}

func TestKeys(t *testing.T) {
	handler, last := muxHandler(t)
	h, _ := withHandler(t, Options{RequireKeys: true, Keys: Keys{Default: "host-key", Functions: map[string]string{"vms": "vms-key"}}}, plainFunctions, handler)
	k := h.Keys()
	if len(k.Master) < 32 || len(k.System) < 32 || k.Master == k.System {
		t.Fatal("weak keys were made up")
	}
	for _, c := range []struct {
		path, key string
		status    int
		caller    string
	}{
		{"/api/vms", "", 401, ""}, {"/api/vms", "wrong", 401, ""}, {"/api/vms", "host-key", 202, "default"}, {"/api/vms", "vms-key", 202, "default"},
		{"/api/vms", k.Master, 202, "master"}, {"/api/vms", k.System, 401, ""}, {"/api/open", "", 202, ""},
		{"/admin/host/status", "", 401, ""}, {"/admin/host/status", "host-key", 401, ""}, {"/admin/host/status", k.Master, 200, ""}, {"/admin/host/ping", "", 200, ""},
		{"/runtime/webhooks/eventgrid?functionName=nobody", "", 401, ""}, {"/runtime/webhooks/eventgrid?functionName=nobody", "host-key", 401, ""},
		{"/runtime/webhooks/eventgrid?functionName=nobody", k.System, 404, ""},
	} {
		w := request(h, "GET", c.path, "", "x-functions-key", c.key)
		if w.Code != c.status || c.status == 401 && w.Body.Len() > 0 {
			t.Errorf("%s with %q: %d, want %d", c.path, c.key, w.Code, c.status)
		}
		if c.status == 202 && last().Caller != c.caller {
			t.Errorf("%s with %q: caller %q, want %q", c.path, c.key, last().Caller, c.caller)
		}
	}
	if w := request(h, "GET", "/api/vms?code=host-key", ""); w.Code != 202 || last().Query.Has("code") {
		t.Errorf("key in the query: %d", w.Code)
	}
	if u := h.WebhookURL("vm-event"); !strings.HasPrefix(u, h.URL()) || !strings.HasSuffix(u, "functionName=vm-event&code="+k.System) {
		t.Errorf("webhook %s", u)
	}
}

func TestAdmin(t *testing.T) {
	bodies := make(chan string, 10)
	h, _ := withHandler(t, Options{}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies <- r.URL.Path + " " + string(b)
		answerWith(200, "{}").ServeHTTP(w, r)
	}))
	for _, c := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"reconcile", `{"input":"{\"vm\":\"x\"}"}`, 202, `/reconcile {"Data":{"work":"\"{\\\"vm\\\":\\\"x\\\"}\""}`},
		{"vm-event", `{"input":"{\"id\":\"1\",\"data\":{\"a\":1}}"}`, 202, `/vm-event {"Data":{"event":{"id":"1","data":{"a":1}}},"Metadata":{"data":{"a":1}`},
		{"sweep", ``, 202, `/sweep {"Data":{"timer":{"IsPastDue":false,`},
		{"vm-event", `{"input":"no JSON"}`, 400, ""}, {"reconcile", `no JSON`, 400, ""}, {"open", `{}`, 400, ""}, {"nobody", `{}`, 404, ""},
	} {
		w := request(h, "POST", "/admin/functions/"+c.name, c.body)
		if w.Code != c.status {
			t.Errorf("%s %s: %d %s", c.name, c.body, w.Code, w.Body)
		}
		if c.want != "" {
			if got := <-bodies; !strings.HasPrefix(got, c.want) {
				t.Errorf("%s\nwant %s…", got, c.want)
			}
		}
	}
	w := request(h, "GET", "/admin/host/status", "")
	var s struct{ State, Version, ID string }
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || s.State != "Running" || s.Version == "" || s.ID == "" {
		t.Errorf("%s: %v", w.Body, err)
	}
	if w := request(h, "GET", "/admin/else", ""); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
	if w := request(h, "GET", "/", ""); w.Code != 200 || w.Body.Len() == 0 {
		t.Errorf("%d", w.Code)
	}
}

// TestEventsAtOnce checks that the events of one delivery run side by side, and
// that a function bound to many gets one call.
func TestEventsAtOnce(t *testing.T) {
	var here atomic.Int32
	all := make(chan struct{})
	h, _ := withHandler(t, Options{}, plainFunctions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if here.Add(1) == 5 {
			close(all)
		}
		select {
		case <-all:
		case <-time.After(5 * time.Second):
			t.Error("the events don't run side by side")
		}
		answerWith(200, "{}").ServeHTTP(w, r)
	}))
	five := "[" + strings.TrimSuffix(strings.Repeat(`{"id":"1","data":null},`, 5), ",") + "]"
	if w := request(h, "POST", "/runtime/webhooks/eventgrid?functionName=vm-event", five, "Aeg-Event-Type", "Notification"); w.Code != 202 || w.Body.Len() > 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	var body string
	functions := map[string]string{"vm-event": `{"bindings":[{"type":"eventGridTrigger","name":"event","direction":"in","cardinality":"many"}]}`}
	h, _ = withHandler(t, Options{}, functions, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		body = string(b)
		answerWith(200, "{}").ServeHTTP(w, r)
	}))
	request(h, "POST", "/runtime/webhooks/eventgrid?functionName=vm-event", `[{"id":"1","data":{"a":1}}, {"id":"2"}]`, "Aeg-Event-Type", "Notification")
	if want := `{"Data":{"event":"[{\"id\":\"1\",\"data\":{\"a\":1}},{\"id\":\"2\"}]"},"Metadata":{"data":"[{\"a\":1}]"`; !strings.HasPrefix(body, want) {
		t.Errorf("%s", body)
	}
	for _, bad := range []string{"", "no JSON", "[1]"} {
		if w := request(h, "POST", "/runtime/webhooks/eventgrid?functionName=vm-event", bad, "Aeg-Event-Type", "Notification"); w.Code != 500 {
			t.Errorf("%q: %d", bad, w.Code)
		}
	}
	for _, bad := range []string{"{}", `[{"data":"x"}]`, "x"} {
		if w := request(h, "POST", "/runtime/webhooks/eventgrid?functionName=vm-event", bad, "Aeg-Event-Type", "SubscriptionValidation"); w.Code != 500 {
			t.Errorf("%q: %d", bad, w.Code)
		}
	}
}

func TestNotUp(t *testing.T) {
	h, err := New(Options{Root: stage(t, plainHostJSON, plainFunctions), Env: []string{}, Queues: newMemoryQueues(), StartWait: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if w := request(h, "GET", "/api/open", ""); w.Code != 503 {
		t.Errorf("%d", w.Code)
	}
	if err := h.KillHandler(); err == nil {
		t.Error("there was something to kill")
	}
}
