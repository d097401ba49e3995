package devhost

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestConfig(t *testing.T) {
	c, err := readConfig(stage(t, `{"version":"2.0","customHandler":{"description":{"defaultExecutablePath":"go","arguments":["a b","\"c d\"","%X%"]},"enableForwardingHttpRequest":true},
		"extensions":{"http":{"routePrefix":""},"queues":{"batchSize":8}}}`, nil),
		environment{"X=1 2", "AzureFunctionsJobHost__extensions__Queues__BATCHSIZE=4", "AzureFunctionsJobHost__extensions__queues__visibilityTimeout=00:00:01",
			"azurefunctionsjobhost__functionTimeout=1.00:00:00", "AzureFunctionsJobHost__customHandler__enableForwardingHttpRequest=false"})
	if err != nil {
		t.Fatal(err)
	}
	if c.queues.BatchSize != 4 || c.queues.VisibilityTimeout != time.Second || c.timeout != 24*time.Hour || c.mode != HTTPWrap || c.prefix != "" ||
		c.queues.MaxDequeueCount != 5 || !c.queues.Base64 || c.queues.MaxPolling != 2*time.Second || strings.Join(c.arguments, "|") != "a|b|c d|1|2" || c.executable != "go" {
		t.Errorf("%+v", c)
	}
	for name, want := range map[string][]string{
		`{}`:                                   {"version", "customHandler is missing"},
		`{"version":"2.0","customHandler":{}}`: {"defaultExecutablePath"},
		`{"version":"1","functionTimeout":"x","customHandler":{"description":{"defaultExecutablePath":"x"},"http":{"routes":[]},"initializationTimeout":"9"},
		  "extensions":{"queues":{"batchSize":33,"maxDequeueCount":0,"messageEncoding":"hex","visibilityTimeout":"30"}}}`: {
			"version", "functionTimeout", "customHandler.http", "initializationTimeout", "batchSize is 33", "maxDequeueCount is 0", "messageEncoding", "visibilityTimeout"},
		`no JSON`: {"not a JSON object"},
	} {
		_, err := readConfig(stage(t, name, nil), nil)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v lacks %q", name, err, w)
			}
		}
	}
	if _, err := readConfig(t.TempDir(), nil); err == nil {
		t.Error("a folder without host.json was taken")
	}
}

func TestFunctions(t *testing.T) {
	for text, want := range map[string]string{
		`{"bindings":[]}`: "0 triggers",
		`{"bindings":[{"type":"timerTrigger","name":"a","schedule":"x"}]}`:                                                "fields",
		`{"bindings":[{"type":"queueTrigger","name":"a","queueName":"%UNSET%"}]}`:                                         "queueName is missing",
		`{"bindings":[{"type":"queueTrigger","name":"a","queueName":"q"},{"type":"eventGridTrigger","name":"b"}]}`:        "2 triggers",
		`{"bindings":[{"type":"queueTrigger","name":"a","queueName":"q"},{"type":"queue","name":"A","direction":"out"}]}`: `named "A"`,
		`{"bindings":[{"type":"queueTrigger","name":"a","queueName":"q"},{"type":"blob","name":"b","direction":"out"}]}`:  "blob",
		`{"bindings":[{"type":"blobTrigger","name":"a"}]}`:                                                                "blobTrigger",
		`{"bindings":[{"type":"httpTrigger","name":"a","authLevel":"root"}]}`:                                             "authLevel",
		`{"bindings":[{"type":"httpTrigger","name":"a","route":"{a}{b}"}]}`:                                               "{a}{b}",
		`nothing`: "invalid",
	} {
		if _, err := readFunctions(stage(t, plainHostJSON, map[string]string{"f": text}), nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "f/function.json") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	root := stage(t, plainHostJSON, map[string]string{"a": plainFunctions["open"], "b": strings.Replace(plainFunctions["open"], `{`, `{"disabled":true,`, 1)})
	fs, err := readFunctions(root, environment{"AzureWebJobs.a.Disabled=True"})
	if err != nil || !fs["a"].disabled || !fs["b"].disabled {
		t.Errorf("%v", err)
	}
	for _, bad := range []map[string]string{{}, {"9": plainFunctions["open"]}, {"host": plainFunctions["open"]}} {
		if _, err := readFunctions(stage(t, plainHostJSON, bad), nil); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if _, err := New(Options{Root: stage(t, plainHostJSON, plainFunctions), Env: []string{}}); err == nil || !strings.Contains(err.Error(), "Options.Queues") {
		t.Errorf("queues without storage: %v", err)
	}
}

func TestSpans(t *testing.T) {
	for s, want := range map[string]time.Duration{"00:00:30": 30 * time.Second, "1.02:03:04.5": 26*time.Hour + 3*time.Minute + 4500*time.Millisecond,
		"24:00:00": -1, "00:60:00": -1, "00:00:60": -1, "30": -1, "": -1, "-00:00:01": -1, "x.00:00:01": -1, "00:00:NaN": -1} {
		if got, err := parseSpan(s); got != max(want, 0) || (err != nil) != (want < 0) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestSchedules(t *testing.T) {
	at := time.Date(2026, 11, 20, 10, 15, 29, 5e8, time.UTC) // a Friday
	for s, want := range map[string]string{
		"0 7 * * * *":          "2026-11-20T11:07:00Z",
		"7 * * * *":            "2026-11-20T11:07:00Z",
		"*/10 * * * * *":       "2026-11-20T10:15:30Z",
		"0 0,20,40 9-17 * * *": "2026-11-20T10:20:00Z",
		"0 5/20 * * * *":       "2026-11-20T10:25:00Z",
		"0 0 3 * * Mon":        "2026-11-23T03:00:00Z",
		"0 0 3 * * mon-wed":    "2026-11-23T03:00:00Z",
		"0 0 0 1 1 *":          "2027-01-01T00:00:00Z",
		"0 0 0 29 feb *":       "2028-02-29T00:00:00Z",
		"0 0 0 13 * friday":    "2027-08-13T00:00:00Z",
		"29 15 10 20 11 *":     "2027-11-20T10:15:29Z",
		"00:30:00":             "2026-11-20T10:45:29.5Z",
	} {
		c, err := parseSchedule(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		if got := c.next(at).Format(time.RFC3339Nano); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
	for _, bad := range []string{"", "* * * *", "60 * * * * *", "0 0 0 30 2 *", "* * * * * 7", "5-1 * * * * *", "*/0 * * * * *", "a * * * * *", "1,,2 * * * * *", "00:00:00"} {
		if _, err := parseSchedule(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzSchedule(f *testing.F) {
	f.Add("0 */5 1-3 * jan mon-fri")
	f.Add("00:00:01")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseSchedule(s)
		if err != nil {
			return
		}
		at := time.Date(2026, 11, 20, 10, 15, 29, 0, time.UTC)
		if n := c.next(at); !n.After(at) {
			t.Fatalf("%q: %v follows %v", s, n, at)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"Outputs":{"res":{"statusCode":"201","headers":{"a":"b"},"body":"x"}},"Logs":["a"],"ReturnValue":null}`)
	f.Add(`{"Outputs":{"out":["a",{"b":1}]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := readAnswer(200, http.Header{"Content-Type": {"application/json"}}, []byte(s))
		if err != nil {
			return
		}
		if r, err := a.response("res"); err == nil && (r.status < 200 || r.status > 999) {
			t.Fatalf("status %d", r.status)
		}
		outputValues(a.output("out"), false)
	})
}

func FuzzWebhookBody(f *testing.F) {
	f.Add([]byte(`[{"data":{"validationCode":"x"}}]`))
	f.Add([]byte(`{"data":"{\"validationCode\":\"x\"}"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if code, err := validationCode(b); (err == nil) != (code != "") {
			t.Fatalf("%q, %v", code, err)
		}
		events, err := splitEvents(b)
		for _, e := range events {
			if err == nil && !isObject(e) {
				t.Fatalf("%s is no object", e)
			}
		}
	})
}

func TestTimer(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	root := stage(t, plainHostJSON, map[string]string{"sweep": plainFunctions["sweep"]})
	h, in := withHandler(t, Options{Root: root, TimerScale: 36000}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		bodies = append(bodies, string(b))
		mu.Unlock()
		answerWith(200, "{}").ServeHTTP(w, r)
	}))
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(bodies) }
	runFor := func(n int) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		var timer sync.WaitGroup
		timer.Go(func() { in.runTimer(ctx, h.functions["sweep"]) })
		eventually(t, "ticks", func() bool { return count() >= n })
		cancel()
		timer.Wait()
	}
	runFor(3) // an hour is a tenth of a second
	mu.Lock()
	if !strings.Contains(bodies[0], `"Last":"0001-01-01T00:00:00"`) || strings.Contains(bodies[0], `"IsPastDue":true`) || strings.Contains(bodies[2], "0001-01-01") {
		t.Errorf("%q", bodies)
	}
	mu.Unlock()
	// The host was away at the next time: one call at once, past due.
	late := h.timerStatus("sweep")
	late.next = time.Now().Add(-time.Hour)
	h.setTimerStatus("sweep", late)
	before := count()
	runFor(before + 1)
	mu.Lock()
	if !strings.Contains(bodies[before], `"IsPastDue":true`) {
		t.Errorf("%s", bodies[before])
	}
	mu.Unlock()
	if h.Stats().Ticks != count() {
		t.Errorf("%+v", h.Stats())
	}
}

func TestTimerMonitoring(t *testing.T) {
	root := stage(t, plainHostJSON, map[string]string{
		"often":  `{"bindings":[{"type":"timerTrigger","name":"timer","schedule":"*/30 * * * * *"}]}`,
		"hourly": `{"bindings":[{"type":"timerTrigger","name":"timer","schedule":"0 7 * * * *"}]}`,
		"off":    `{"bindings":[{"type":"timerTrigger","name":"timer","schedule":"0 7 * * * *","useMonitor":false}]}`,
	})
	fs, err := readFunctions(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"often": false, "hourly": true, "off": false} {
		if got := fs[name].monitored(time.Now()); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if l := (environment{"TZ=Europe/Berlin"}).location(); l.String() != "Europe/Berlin" && l != time.UTC {
		t.Errorf("%v", l)
	}
}
