package handlers_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// post sends an invocation as the host does, in chunks, and gives the handler's
// own status.
func (w *world) post(function string, body []byte) int {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodPost, w.server.URL+"/"+function, struct{ io.Reader }{bytes.NewReader(body)})
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	status, _, answer := w.send(req)
	var object map[string]any
	if json.Unmarshal(answer, &object) != nil || object == nil {
		w.t.Fatalf("%s answered %q, which is no JSON object", function, answer)
	}
	return status
}

func (w *world) send(req *http.Request) (int, http.Header, []byte) {
	w.t.Helper()
	req.Header.Set("X-Azure-Functions-InvocationId", "7d3c4e9a-5ac8-4a0e-9a7d-1f5d3c1c2b10")
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, res.Header, answer
}

// invoke wraps a trigger's value as it is and posts it.
func (w *world) invoke(function, binding string, value []byte) int {
	w.t.Helper()
	return w.post(function, fmt.Appendf(nil, `{"Data":{%q:%s},"Metadata":{"sys":{"MethodName":%q}}}`, binding, value, function))
}

// message delivers a queue message: its text, twice in JSON, as the host sends it.
func (w *world) message(function, text string) int {
	w.t.Helper()
	return w.invoke(function, "work", quoted(string(quoted(text))))
}

func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

// answer is what the caller of an HTTP function gets.
type answer struct {
	Status int
	Header map[string]string // those that the functions set
	Body   string
}

// into reads the answer's body.
func (a answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.Body), v); err != nil {
		t.Fatalf("%d %s: %v", a.Status, a.Body, err)
	}
}

type problem struct{ Field, Given, Message, Example, Code string }

func (a answer) problem(t testing.TB) problem {
	t.Helper()
	var b struct{ Error problem }
	a.into(t, &b)
	return b.Error
}

// request is what a caller sends. A body that is nil comes with a length of zero;
// lost says that it came in chunks, which the host drops.
type request struct {
	method, target string
	body           []byte
	lost           bool
}

// wrapped sends a request as a host that wraps it.
func (w *world) wrapped(r request) answer {
	w.t.Helper()
	u, err := url.Parse(r.target)
	if err != nil {
		w.t.Fatal(err)
	}
	headers := map[string][]string{"Host": {"guard.example"}, "Content-Type": {"application/json"}, "x-functions-key": {"secret-key"}}
	if !r.lost {
		headers["Content-Length"] = []string{fmt.Sprint(len(r.body))}
	}
	query := map[string]string{}
	for k, v := range u.Query() {
		query[k] = strings.Join(v, ",")
	}
	req := map[string]any{"Url": host + r.target, "Method": r.method, "Query": query, "Headers": headers, "Params": map[string]any{}, "Identities": []any{}}
	if len(r.body) > 0 {
		req["Body"] = string(r.body)
	}
	body, err := json.Marshal(map[string]any{"Data": map[string]any{"req": req}, "Metadata": map[string]any{}})
	if err != nil {
		w.t.Fatal(err)
	}
	post, err := http.NewRequest(http.MethodPost, w.server.URL+"/"+strings.Split(u.Path, "/")[2], struct{ io.Reader }{bytes.NewReader(body)})
	if err != nil {
		w.t.Fatal(err)
	}
	status, _, text := w.send(post)
	var out struct {
		Outputs struct {
			Res struct {
				StatusCode string
				Headers    map[string]string
				Body       string
			}
		}
	}
	if err := json.Unmarshal(text, &out); err != nil || status != http.StatusOK {
		w.t.Fatalf("%s %s wrapped: the host is told %d %s", r.method, r.target, status, text)
	}
	a := answer{Header: out.Outputs.Res.Headers, Body: out.Outputs.Res.Body}
	if _, err := fmt.Sscan(out.Outputs.Res.StatusCode, &a.Status); err != nil {
		w.t.Fatalf("status %q", out.Outputs.Res.StatusCode)
	}
	return a
}

// forwarded sends a request as a host that forwards it.
func (w *world) forwarded(r request) answer {
	w.t.Helper()
	var body io.Reader
	if len(r.body) > 0 {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequest(r.method, w.server.URL+r.target, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Host = "guard.example"
	req.Header.Set("X-Forwarded-Proto", "https")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("x-functions-key", "secret-key")
	if body == nil && r.method == http.MethodPost && !r.lost {
		req.Body = http.NoBody // sends Content-Length: 0
	}
	var status int
	var header http.Header
	var text []byte
	if r.lost {
		status, header, text = w.sendWithoutLength(req)
	} else {
		status, header, text = w.send(req)
	}
	a := answer{Status: status, Header: map[string]string{}, Body: string(text)}
	for k := range header {
		if k != "Date" && k != "Content-Length" {
			a.Header[k] = header.Get(k)
		}
	}
	return a
}

// sendWithoutLength sends a request with neither body nor length, which Go's
// client does not do for a POST.
func (w *world) sendWithoutLength(req *http.Request) (int, http.Header, []byte) {
	w.t.Helper()
	recorder := httptest.NewRecorder()
	req.Body, req.ContentLength, req.RequestURI = http.NoBody, 0, req.URL.RequestURI()
	w.mux.ServeHTTP(recorder, req)
	return recorder.Code, recorder.Header(), recorder.Body.Bytes()
}

// twins are two function apps in the same state. What a caller asks goes wrapped
// to one and forwarded to the other, and the answers must be the same.
type twins struct {
	*world // the one that gets it wrapped
	other  *world
}

func newTwins(t testing.TB, prepare ...func(*world)) twins {
	t.Helper()
	tw := twins{newWorld(t), newWorld(t)}
	tw.each(prepare...)
	return tw
}

func (tw twins) each(do ...func(*world)) {
	for _, f := range do {
		f(tw.world)
		f(tw.other)
	}
}

func (tw twins) do(method, target string, body string) answer {
	tw.t.Helper()
	return tw.ask(request{method: method, target: target, body: []byte(body)})
}

func (tw twins) ask(r request) answer {
	tw.t.Helper()
	a, b := tw.wrapped(r), tw.other.forwarded(r)
	if as, bs := fmt.Sprint(a), fmt.Sprint(b); as != bs {
		tw.t.Errorf("%s %.200s\nwrapped   %.2000s\nforwarded %.2000s", r.method, r.target, as, bs)
	}
	return a
}
