package customhandler

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// twice is how today's host writes a text value: its JSON text in a string.
func twice(s string) string {
	inner, _ := json.Marshal(s)
	outer, _ := json.Marshal(string(inner))
	return string(outer)
}

func once(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestUnwrap(t *testing.T) {
	for _, c := range []struct{ name, wire, want string }{
		{"object", `{"a": 1.50}`, `{"a": 1.50}`},
		{"plain text, newer host", twice("hello"), "hello"},
		{"plain text, looser peer", once("hello"), "hello"},
		{"JSON text, newer host", twice(`{"vm":"x"}`), `{"vm":"x"}`},
		{"JSON text, older host", once(`{"vm": "x"}`), `{"vm": "x"}`},
		{"array", once("[1]"), "[1]"},
		{"number", once("1"), "1"},
		{"null", once("null"), "null"},
		{"bare null", "null", "null"},
		{"the sender's own JSON string", twice(`"quoted"`), `"quoted"`},
		{"text that looks like JSON and isn't", twice(`{"cut`), `{"cut`},
		{"cut, once", once(`{"cut`), `{"cut`},
		{"empty text", twice(""), ""},
		{"spaces about", once(` "x"`), "x"},
	} {
		if got := string(unwrap(json.RawMessage(c.wire))); got != c.want {
			t.Errorf("%s: %s gives %q, want %q", c.name, c.wire, got, c.want)
		}
	}
}

func TestOpenEnvelope(t *testing.T) {
	for _, c := range []struct {
		name, body string
		refused    bool // not from the host at all
		damaged    bool
	}{
		{"invocation", `{"Data":{"event":{}},"Metadata":{}}`, false, false},
		{"no metadata", `{"Data":{"event":{}}}`, false, false},
		{"a CloudEvent as it is", `{"specversion":"1.0","data":{"event":{}}}`, true, false},
		{"an Event Grid event as it is", `[{"id":"1","data":{}}]`, true, false},
		{"other JSON", `"x"`, true, false},
		{"nothing", ``, true, false},
		{"null", `null`, true, false},
		{"cut short", `{"Data":{"event":{"id":`, false, true},
		{"Data null", `{"Data":null}`, false, true},
		{"Data a text", `{"Data":"x"}`, false, true},
	} {
		_, err := openEnvelope([]byte(c.body))
		if errors.Is(err, errNotWrapped) != c.refused {
			t.Errorf("%s: refused is %v: %v", c.name, !c.refused, err)
		}
		if (err != nil && !errors.Is(err, errNotWrapped)) != c.damaged {
			t.Errorf("%s: damaged is %v: %v", c.name, !c.damaged, err)
		}
	}
}

func TestDecodeQueueDamaged(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"Data isn't an object", `{"Data": "some text", "Metadata": {"DequeueCount": 3}}`, `"some text"`},
		{"two inputs, neither ours", `{"Data": {"a":1,"b":2}}`, `{"a":1,"b":2}`},
		{"cut short", `{"Data": {"wo`, `{"Data": {"wo`},
	} {
		text, _, err := decodeQueue([]byte(c.body))
		if err == nil || string(text) != c.want {
			t.Errorf("%s: %q, %v", c.name, text, err)
		}
	}
	text, _, err := decodeQueue([]byte(`{"Data": {"other":1,"work":"\"mine\""}}`))
	if err != nil || string(text) != "mine" {
		t.Errorf("with an input binding beside it: %q, %v", text, err)
	}
}

func TestDequeueCount(t *testing.T) {
	for meta, want := range map[string]int{
		`{"DequeueCount":"3"}`: 3, `{"DequeueCount":3}`: 3, `{"dequeueCount":"2"}`: 2,
		`{"DequeueCount":"\"9\""}`: 0, // a sender's property took its place
		`{"DequeueCount":-1}`:      0, `{"DequeueCount":null}`: 0, `{}`: 0, ``: 0, `[]`: 0, `{"DequeueCount":"1e3"}`: 0,
	} {
		if got := dequeueCount(json.RawMessage(meta)); got != want {
			t.Errorf("%s: %d, want %d", meta, got, want)
		}
	}
}

func TestLenientTime(t *testing.T) {
	utc := time.Date(2026, 11, 20, 10, 7, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		`"2026-11-20T10:07:00Z"`: utc, `"2026-11-20T11:07:00+01:00"`: utc, `"2026-11-20T10:07:00"`: utc,
		`"2026-11-20T10:07:00.0000000"`: utc, `"0001-01-01T00:00:00"`: {}, `"0001-01-01T00:00:00+00:00"`: {},
		`null`: {}, `""`: {}, `"soon"`: {}, `7`: {}, ``: {},
	} {
		if got := lenientTime(json.RawMessage(s)); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
}

func TestDecodeTimerOddities(t *testing.T) {
	for body, late := range map[string]bool{
		`{"Data":{"timer":{"IsPastDue":"True"}}}`:                       true,
		`{"Data":{"timer":"{\"IsPastDue\":true}"}}`:                     true,
		`{"Data":{"timer":null}}`:                                       false,
		`{"Data":{"timer":[1]}}`:                                        false,
		`{"Data":{"timer":{"ScheduleStatus":"x","IsPastDue":true}}}`:    true,
		`{"Data":{"t":{"ScheduleStatus":{"Last":1},"IsPastDue":true}}}`: true,
	} {
		c, err := decodeTimer([]byte(body))
		if err != nil || c.PastDue != late || !c.Last.IsZero() {
			t.Errorf("%s: %+v, %v", body, c, err)
		}
	}
}

func TestWrappedRequest(t *testing.T) {
	route, err := ParseRoute("vms/{key?}/{view?}")
	if err != nil {
		t.Fatal(err)
	}
	call := func(req string) (HTTPCall, bool) {
		t.Helper()
		q, err := decodeHTTP([]byte(`{"Data":{"req":` + req + `}}`))
		if err != nil {
			t.Fatalf("%s: %v", req, err)
		}
		c, bodyLost, err := q.call(Meta{}, route, "api")
		if err != nil {
			t.Fatalf("%s: %v", req, err)
		}
		return c, bodyLost
	}
	c, _ := call(`{"Url":"http://h/api/vms/a%20b/records?x=1&x=2&code=s","Method":"get","Query":"{\"y\":\"3\",\"Code\":\"s\"}",
		"Headers":{"Cookie":["a=b"],"authorization":["Bearer s"],"X-MS-CLIENT-PRINCIPAL":["s"],"X-MS-TOKEN-AAD-ACCESS-TOKEN":["s"],
		"Referer":["http://h/?code=s"],"X-Original-URL":["/api/vms?code=s"],"accept":["a","b"],"Single":"one"},"Params":{}}`)
	if c.Method != "GET" || c.Query.Encode() != "x=1%2C2&y=3" || c.Params["key"] != "a b" || c.Params["view"] != "records" {
		t.Errorf("%+v", c)
	}
	if len(c.Header) != 2 || strings.Join(c.Header.Values("Accept"), ",") != "a,b" || c.Header.Get("Single") != "one" {
		t.Errorf("headers %v", c.Header)
	}
	if c, _ = call(`{"Url":"/x","Method":"POST","Headers":{"Content-Type":["application/octet-stream"]},"Body":"AAEC"}`); string(c.Body) != "\x00\x01\x02" || c.Base != "" {
		t.Errorf("binary body %q, base %q", c.Body, c.Base)
	}
	if c, _ = call(`{"Url":"/x","Method":"POST","Headers":{},"Body":{"a":1}}`); string(c.Body) != `{"a":1}` {
		t.Errorf("object body %q", c.Body)
	}
	if c, lost := call(`{"Url":"/x","Method":"POST","Headers":{"Transfer-Encoding":["chunked"]}}`); !c.Chunked || !lost {
		t.Error("a lost body isn't noticed")
	}
	if c, lost := call(`{"Url":"/x","Method":"POST","Headers":{"Content-Length":["0"]}}`); c.Chunked || lost {
		t.Error("an empty body is taken for a lost one")
	}
	if c, lost := call(`{"Url":"/x","Method":"POST","Headers":{}}`); !c.Chunked || lost {
		t.Error("a body of which nothing is known must be left to the function")
	}
	for _, bad := range []string{`"no"`, `[]`, `{"Url":"/x"}`, `{"Url":5,"Method":"GET"}`} {
		if _, err := decodeHTTP([]byte(`{"Data":{"req":` + bad + `}}`)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	q, err := decodeHTTP([]byte(`{"Data":{"req":{"Url":"http://h/api/vms?dryrun=%zz","Method":"GET"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := q.call(Meta{}, route, "api"); err == nil {
		t.Error("a query that can't be read in full was taken")
	}
}

func TestCaller(t *testing.T) {
	key := `{"AuthenticationType":"WebJobsAuthLevel","IsAuthenticated":true,"Claims":[{"Type":"http://schemas.microsoft.com/2017/07/functions/claims/keyid","Value":"ci"}]}`
	person := `{"AuthenticationType":"aad","IsAuthenticated":true,"NameClaimType":"n","Claims":[{"Type":"n","Value":"ann\u0007@example.com"}]}`
	forged := `{"AuthenticationType":"aad","IsAuthenticated":false,"Name":"root"}`
	for ids, want := range map[string]string{
		"[" + key + "]": "ci", "[" + key + "," + person + "]": "ann@example.com", "[" + forged + "]": "",
		"[" + forged + "," + key + "]": "ci", "[]": "", "null": "", `"x"`: "",
		`[{"IsAuthenticated":true,"AuthenticationType":"aad","Name":"` + strings.Repeat("é", 300) + `"}]`: strings.Repeat("é", 128),
	} {
		if got := caller(json.RawMessage(ids)); got != want {
			t.Errorf("%s: %q, want %q", ids, got, want)
		}
	}
}

func TestRoutes(t *testing.T) {
	for _, c := range []struct {
		route, path string
		want        string // "k=v,k=v", or "-" for no match
	}{
		{"vms/{key?}/{view?}", "vms", ""},
		{"vms/{key?}/{view?}", "vms/", ""},
		{"vms/{key?}/{view?}", "VMs/ab12", "key=ab12"},
		{"vms/{key?}/{view?}", "vms/ab12/records", "key=ab12,view=records"},
		{"vms/{key?}/{view?}", "vms/ab12/records/x", "-"},
		{"vms/{key?}/{view?}", "vms//records", "-"},
		{"vms/{key?}/{view?}", "vms/a%2Fb", "key=a%2Fb"},
		{"vms/{key?}/{view?}", "vms/a%20b", "key=a b"},
		{"vms/{key?}/{view?}", "vms/a%zz", "-"},
		{"ui/{*path}", "ui", ""},
		{"ui/{*path}", "ui/a/b%20c", "path=a/b c"},
		{"inbox/{id}/redrive", "inbox/7/redrive", "id=7"},
		{"inbox/{id}/redrive", "inbox/7", "-"},
		{"n/{k:int}", "n/12", "k=12"},
		{"n/{k:int}", "n/x", "-"},
		{"rerun", "rerun2", "-"},
	} {
		r, err := ParseRoute(c.route)
		if err != nil {
			t.Fatal(err)
		}
		got := "-"
		if params, ok := r.Match(c.path); ok {
			var parts []string
			for _, n := range r.Names() {
				if v, ok := params[n]; ok {
					parts = append(parts, n+"="+v)
				}
			}
			got = strings.Join(parts, ",")
		}
		if got != c.want {
			t.Errorf("%s on %s: %q, want %q", c.route, c.path, got, c.want)
		}
	}
	for _, bad := range []string{"", "/", "a{b}", "{a}{b}", "{a?}/b", "{a?}/{b}", "{*r}/x", "{a}/{A}", "{}", "{a:guid}", "a//b", "{a=1}", "{", "x}", "{1a}"} {
		if _, err := ParseRoute(bad); err == nil {
			t.Errorf("route %q was taken", bad)
		}
	}
}

func TestSettle(t *testing.T) {
	for _, status := range []int{0, 100, 199, 600} {
		if _, err := settle(HTTPAnswer{Status: status}); err == nil {
			t.Errorf("status %d was taken", status)
		}
	}
	a, err := settle(HTTPAnswer{Status: 200, Header: map[string]string{"x-a": "1\r\nSet-Cookie: b"}})
	if err != nil || a.Header["X-A"] != "1  Set-Cookie: b" || a.Header["Content-Type"] == "" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := encodeHTTP(HTTPAnswer{Status: 200, Body: []byte{0xff}}, nil); err == nil {
		t.Error("a body that isn't text was wrapped")
	}
}

func FuzzDecodeInvocation(f *testing.F) {
	for _, s := range []string{
		`{"Data":{"event":{"id":"1"}},"Metadata":{"DequeueCount":"1"}}`, `{"Data":{"work":"\"\\\"x\\\"\""}}`, `{"Data":{"event":"[\"{}\",1]"}}`,
		`{"Data":{"req":{"Url":"http://h/api/vms?x=1","Method":"GET","Headers":{"A":["b"]},"Params":{"key":null},"Identities":[{"Claims":[{}]}],"Body":"x"}}}`,
		`{"Data":{"timer":{"ScheduleStatus":{"Last":"0001-01-01T00:00:00"},"IsPastDue":true}}}`, `{"Data":{"wo`, `[]`, `null`, "",
	} {
		f.Add([]byte(s))
	}
	route, err := ParseRoute("vms/{key?}/{view?}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		events, err := decodeEvents(body)
		if (err == nil) != (len(events) > 0) {
			t.Fatalf("%d events and %v", len(events), err)
		}
		if text, n, err := decodeQueue(body); n < 0 || (err == nil && text == nil) {
			t.Fatalf("text %q, count %d, %v", text, n, err)
		}
		if c, err := decodeTimer(body); err != nil && c.PastDue {
			t.Fatal("a tick beside an error")
		}
		q, err := decodeHTTP(body)
		if err != nil {
			return
		}
		c, _, err := q.call(Meta{}, route, "api")
		if err != nil {
			return
		}
		if c.Query.Has("code") || c.Header.Get("Authorization") != "" || len([]rune(c.Caller)) > 128 {
			t.Fatalf("a credential came through: %v %v", c.Query, c.Header)
		}
		for _, n := range route.Names() {
			if _, ok := c.Params[n]; !ok {
				t.Fatalf("parameter %s is missing", n)
			}
		}
	})
}

// FuzzText checks that whatever text a sender writes comes out as it was, by
// the encoding of today's host.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "hello", `{"a":1}`, `"x"`, `"\"x\""`, "1", "null", "é\u2028\x00", `{"cut`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) {
			return
		}
		if got := unwrap(json.RawMessage(twice(s))); string(got) != s {
			t.Fatalf("%q came out as %q", s, got)
		}
	})
}

func FuzzRoute(f *testing.F) {
	f.Add("vms/{key?}/{view?}", "vms/a/b")
	f.Add("ui/{*path}", "ui/%2e%2e/x")
	f.Add("{a:int}", "9")
	f.Fuzz(func(t *testing.T, route, path string) {
		r, err := ParseRoute(route)
		if err != nil {
			return
		}
		params, ok := r.Match(path)
		for k := range params {
			if ok && !strings.Contains(route, "{"+k) && !strings.Contains(route, "{*"+k) {
				t.Fatalf("parameter %q isn't in %q", k, route)
			}
		}
	})
}

func FuzzCredentials(f *testing.F) {
	f.Add("X-MS-Token-AAD-Id-Token")
	f.Add("x-functions-KEY")
	f.Add("coo\u212aie") // the Kelvin sign, a k in lower case
	f.Fuzz(func(t *testing.T, name string) {
		out := withoutCredentials(http.Header{name: {"v"}})
		for k := range out {
			lower := strings.ToLower(k)
			if lower == "authorization" || lower == "cookie" || lower == "x-functions-key" || strings.HasPrefix(lower, "x-ms-token-") {
				t.Fatalf("%q came through", k)
			}
		}
	})
}
