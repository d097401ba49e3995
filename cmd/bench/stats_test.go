//go:build !release

package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func upTo(n int) samples {
	var s samples
	for i := n; i >= 1; i-- { // falling: the order must not matter
		s.add(float64(i))
	}
	return s
}

func TestPercentile(t *testing.T) {
	for _, c := range []struct {
		n    int
		p    float64
		want float64
	}{
		{1, 0.5, 1}, {1, 0.99, 1}, {2, 0.5, 1}, {3, 0.5, 2}, {4, 0.5, 2}, {5, 0.5, 3},
		{30, 0.95, 29}, {100, 0.07, 7}, {100, 0.5, 50}, {100, 0.95, 95}, {100, 0.99, 99}, {100, 1, 100},
		{50, 0.99, 50}, {500, 0.99, 495}, {10, 0, 1},
	} {
		if got := upTo(c.n).percentile(c.p); got != c.want {
			t.Errorf("percentile %v of 1 to %d is %v, want %v", c.p, c.n, got, c.want)
		}
	}
	if got := (samples{}).percentile(0.5); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
	s := samples{3, 1, 2}
	if s.percentile(0.5) != 2 || s.highest() != 3 || s[0] != 3 {
		t.Errorf("the samples were changed: %v", s)
	}
	var d samples
	if d.took(1500 * time.Microsecond); d[0] != 1.5 {
		t.Errorf("1.5 ms became %v", d[0])
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		name string
		f    Figure
		of   float64
		met  bool
	}{
		{"a ratio under its goal", figure("a", "ms", 8).beside(4, "f").timesFloorUnder(3), 2.0 / 3, true},
		{"a ratio at its goal", figure("a", "ms", 12).beside(4, "f").timesFloorUnder(3), 1, false},
		{"a value over its goal", figure("a", "MB", 90).under(60), 1.5, false},
		{"as many as allowed", figure("a", "reads", 5).atMost(5), 1, true},
		{"one more than allowed", figure("a", "reads", 6).atMost(5), 1.2, false},
	} {
		if c.f.Met == nil || *c.f.Met != c.met || math.Abs(c.f.OfGoal-c.of) > 1e-9 {
			t.Errorf("%s: %+v, want met %v at %v of the goal", c.name, c.f, c.met, c.of)
		}
	}
	if f := figure("a", "ms", 1).beside(0, "f"); f.TimesFloor != 0 {
		t.Errorf("a floor of nothing gives the ratio %v", f.TimesFloor)
	}
}

func TestPrint(t *testing.T) {
	r := Report{Schema: ReportSchema, Cores: 2, Figures: []Figure{
		figure("cold start, median", "ms", 9).beside(2.5, "a no-op handler").timesFloorUnder(3),
		figure("memory at rest", "MB", 30).under(60), figure("something", "ms", 1),
	}}
	var out bytes.Buffer
	if err := r.print(&out, "table"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cold start, median", "9.00 ms", "2.50 ms", "3.60×", "over its goal", "under 3× its floor", "50 %", "a no-op handler"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
	out.Reset()
	if err := r.print(&out, "json"); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Figures) != 3 || back.Figures[2].Met != nil || *back.Figures[0].Met {
		t.Errorf("%v: %s", err, &out)
	}
}

func TestKindOf(t *testing.T) {
	const a = "/devstoreaccount1"
	for _, c := range []struct{ service, method, path, query, want string }{
		{"table", "GET", a + "/vms(PartitionKey='a',RowKey='b')", "", opRowGet},
		{"table", "GET", a + "/vms()", "$filter=x", opRowQuery},
		{"table", "POST", a + "/vms", "", opRowInsert},
		{"table", "POST", a + "/Tables", "", opSetUp},
		{"table", "PUT", a + "/vms(PartitionKey='a',RowKey='b')", "", opRowReplace},
		{"blob", "PUT", a + "/records/x/1.json", "", opBlobCreate},
		{"blob", "PUT", a + "/records", "restype=container", opSetUp},
		{"blob", "GET", a + "/records/x/1.json", "", opBlobRead},
		{"blob", "HEAD", a + "/policy/x", "", opBlobExists},
		{"queue", "POST", a + "/reconcile/messages", "", opEnqueue},
		{"queue", "GET", a + "/reconcile/messages", "numofmessages=8", opHost},
		{"queue", "DELETE", a + "/reconcile/messages/1", "popreceipt=x", opHost},
		{"queue", "PUT", a + "/reconcile/messages/1", "popreceipt=x", opHost},
		{"queue", "PUT", a + "/reconcile", "", opSetUp},
		{"table", "DELETE", a + "/vms(PartitionKey='a',RowKey='b')", "", "table DELETE"},
	} {
		if got := opOf(c.service, c.method, c.path, c.query); got != c.want {
			t.Errorf("%s %s %s?%s is %q, want %q", c.service, c.method, c.path, c.query, got, c.want)
		}
	}
}

func TestStatusLine(t *testing.T) {
	const text = "Name:\tcvmguard\nVmHWM:\t   41000 kB\nVmRSS:\t   40000 kB\nRssAnon:\t   20000 kB\n"
	if got := kilobytes(text, "VmRSS"); got != 40000*1024 {
		t.Errorf("VmRSS is %v", got)
	}
	if got := kilobytes(text, "VmSwap"); got != 0 {
		t.Errorf("VmSwap is %v", got)
	}
	if ppid, cpu := statOf("12 (a b) c) S 7 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 1 2 3"); ppid != 7 || cpu != 3*time.Second {
		t.Errorf("parent %d, %v", ppid, cpu)
	}
}

func TestVerdictLines(t *testing.T) {
	v := newVerdictLines()
	wait := v.expect("/subscriptions/S/resourceGroups/g/x")
	for _, line := range []string{
		"not JSON\n", `{"msg":"verdict"` + "\n", `{"msg":"listening","object":"/subscriptions/s/resourcegroups/g/x"}` + "\n",
		`{"msg":"verdict","object":"/subscriptions/s/resourcegroups/g/other","verdict":"unknown"}` + "\n",
		`{"msg":"verdict","object":"/subscriptions/s/resourcegroups/g/x","verdict":"unknown"}` + "\n",
	} {
		before := time.Now()
		if _, err := v.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		left := len(v.wait)
		v.mu.Unlock()
		if strings.Contains(line, `/x","verdict"`) != (left == 0) {
			t.Fatalf("after %q %d VMs are waited for", line, left)
		}
		if left == 0 {
			if at, err := wait(t.Context()); err != nil || at.Before(before) {
				t.Errorf("%v, %v", at, err)
			}
		}
	}
}
