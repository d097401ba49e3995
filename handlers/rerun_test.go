package handlers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

func TestRerunOneVM(t *testing.T) {
	vm := vmNamed("vm1")
	body := `{"vm":"` + vm + `"}`
	for target, dry := range map[string]bool{"/api/rerun": false, "/api/rerun?dryrun=true": true, "/api/rerun?dryrun=false": false,
		"/api/rerun?dryrun=true&code=KEY": true} {
		tw := newTwins(t)
		writes := tw.writes()
		a := tw.do("POST", target, body)
		var said struct {
			Enqueued      int
			Dryrun        bool
			VM, Key, Look string
		}
		a.into(t, &said)
		if a.Status != 202 || a.Header["Location"] != "/api/vms/"+chainOf(vm) || said.Look != host+a.Header["Location"] {
			t.Errorf("%s: %+v", target, a)
		}
		if said.Enqueued != 1 || said.Dryrun != dry || said.VM != vm || said.Key != chainOf(vm) {
			t.Errorf("%s: %+v", target, said)
		}
		if strings.Contains(a.Body+tw.logged.String()+tw.other.logged.String(), "KEY") {
			t.Errorf("%s: the key is in the answer or the log", target)
		}
		if writes() != 1 {
			t.Errorf("%s: %d writes", target, writes())
		}
		tw.each(func(w *world) {
			q := w.queued()
			want := ledger.Cause{Kind: "rerun", At: w.clock.Now(), ID: "7d3c4e9a-5ac8-4a0e-9a7d-1f5d3c1c2b10", Fresh: !dry}
			if len(q) != 1 || q[0].VM != vm || q[0].DryRun != dry || q[0].Cause != want {
				t.Errorf("%s: queued %+v", target, q)
			}
		})
	}
}

// A VM that Azure says isn't there is refused, and leaves no row; one that has a row
// is looked at again, and so is one of which nobody can say now.
func TestRerunOfAVMThatIsNotThere(t *testing.T) {
	vm := vmNamed("nope")
	body := `{"vm":"` + vm + `"}`
	away := func(k fault.Kind) error { return fault.New(k, "reading VM", vm, "Azure's own words") }
	for _, target := range []string{"/api/rerun", "/api/rerun?dryrun=true"} {
		tw := newTwins(t)
		tw.each(func(w *world) { w.azure.fail["VM"] = away(fault.NotFound) })
		writes := tw.writes()
		a := tw.do("POST", target, body)
		p := a.problem(t)
		if a.Status != 404 || p.Field != "vm" || p.Given != vm || !strings.Contains(p.Message, "no VM was found") || !strings.Contains(p.Message, "check subscription, resource group and name") || p.Example == "" || p.Code != "notfound" {
			t.Errorf("%s: %d %+v", target, a.Status, p)
		}
		if writes() != 0 || len(tw.queued()) != 0 || len(tw.other.queued()) != 0 {
			t.Errorf("%s: something was queued", target)
		}
	}
	tw := newTwins(t)
	tw.each(func(w *world) {
		w.azure.fail["VM"] = away(fault.NotFound)
		w.known(vm, func(r *ledger.Row) { r.Verdict = policy.Gone })
	})
	if a := tw.do("POST", "/api/rerun", body); a.Status != 202 || len(tw.queued()) != 1 {
		t.Errorf("a deleted VM: %+v", a)
	}
	for _, k := range []fault.Kind{fault.Throttled, fault.Transient, fault.Denied, fault.Bug} {
		tw := newTwins(t)
		tw.each(func(w *world) { w.azure.fail["VM"] = away(k) })
		if a := tw.do("POST", "/api/rerun", body); a.Status != 202 || len(tw.queued()) != 1 {
			t.Errorf("%s: %+v", k, a)
		}
	}
	tw = newTwins(t)
	tw.each(func(w *world) {
		w.azure.fail["VM"] = away(fault.NotFound)
		w.app.Loop.Tables = unread{w.app.Loop.Tables}
	})
	if a := tw.do("POST", "/api/rerun", body); a.Status != 202 || len(tw.queued()) != 1 {
		t.Errorf("the row can't be read: %+v", a)
	}
}

// unread are tables of which no row can be read.
type unread struct{ ledger.Tables }

func (unread) Get(_ context.Context, table, _, _ string) (ledger.Entity, error) {
	return ledger.Entity{}, fault.New(fault.Transient, "reading row", table, "storage is away")
}

func TestRerunRefuses(t *testing.T) {
	vm := vmNamed("vm1")
	good := `{"vm":"` + vm + `"}`
	long := `{"vm":"` + vm + strings.Repeat(" ", 17<<10) + `"}`
	for name, c := range map[string]struct{ target, body, field, given string }{
		"bad id":                   {"", `{"vm":"vm1"}`, "vm", "vm1"},
		"id of a disk":             {"", `{"vm":"` + inGroup + `Microsoft.Compute/disks/d"}`, "vm", inGroup + "Microsoft.Compute/disks/d"},
		"id of an extension":       {"", `{"vm":"` + vm + `/extensions/x"}`, "vm", vm + "/extensions/x"},
		"empty id":                 {"", `{"vm":""}`, "vm", ""},
		"unknown parameter":        {"?dry=true", good, "dry", "true"},
		"parameter in other case":  {"?DryRun=true", good, "DryRun", "true"},
		"dryrun by another word":   {"?dryrun=yes", good, "dryrun", "yes"},
		"dryrun twice":             {"?dryrun=true&dryrun=false", good, "dryrun", "true,false"},
		"dryrun empty":             {"?dryrun=", good, "dryrun", ""},
		"too long":                 {"", long, "body", fmt.Sprint(len(long)) + " bytes"},
		"no body":                  {"", "", "body", ""},
		"blank body":               {"", "  \n", "body", ""},
		"not JSON":                 {"", "vm1", "body", "vm1"},
		"cut short":                {"", good[:30], "body", good[:30]},
		"an array":                 {"", "[1]", "body", "[1]"},
		"null":                     {"", "null", "body", "null"},
		"no scope":                 {"", "{}", "body", "{}"},
		"unknown member":           {"", `{"vm":"x","dryrun":true}`, "body", `{"vm":"x","dryrun":true}`},
		"vm of another type":       {"", `{"vm":7}`, "body", `{"vm":7}`},
		"text after the body":      {"", `{"vm":"x"} {}`, "body", `{"vm":"x"} {}`},
		"vm and group":             {"", `{"vm":"x","group":"rg"}`, "body", `{"vm":"x","group":"rg"}`},
		"vm and subscription":      {"", `{"vm":"x","subscription":"y"}`, "body", `{"vm":"x","subscription":"y"}`},
		"group and query":          {"", `{"group":"rg","query":"true"}`, "body", `{"group":"rg","query":"true"}`},
		"query and subscription":   {"", `{"query":"true","subscription":"y"}`, "body", `{"query":"true","subscription":"y"}`},
		"bad subscription":         {"", `{"subscription":"prod"}`, "subscription", "prod"},
		"group with a quote":       {"", `{"group":"rg' or true"}`, "group", "rg' or true"},
		"group id with a quote":    {"", `{"group":"/subscriptions/` + sub + `/resourceGroups/rg'"}`, "group", "/subscriptions/" + sub + "/resourceGroups/rg'"},
		"group id of a disk":       {"", `{"group":"` + inGroup + `"}`, "group", inGroup},
		"empty group":              {"", `{"group":""}`, "group", ""},
		"group elsewhere":          {"", `{"group":"/subscriptions/` + sub + `/resourceGroups/rg","subscription":"00000000-0000-0000-0000-0000000000a2"}`, "group", "/subscriptions/" + sub + "/resourceGroups/rg"},
		"empty query":              {"", `{"query":" "}`, "query", " "},
		"query with a pipe":        {"", `{"query":"true | take 1"}`, "query", "true | take 1"},
		"query with a semicolon":   {"", `{"query":"true; x"}`, "query", "true; x"},
		"query of several lines":   {"", `{"query":"true\r\nx"}`, "query", "true\r\nx"},
		"query that is very long":  {"", `{"query":"` + strings.Repeat("a", 2001) + `"}`, "query", strings.Repeat("a", 200) + "…"},
		"query that Azure refuses": {"", `{"query":"nonsense"}`, "query", "nonsense"},
	} {
		tw := newTwins(t)
		tw.each(func(w *world) {
			if name == "query that Azure refuses" {
				w.lister.vms, w.lister.err = []fleet.VM{{ID: cvm.VMID(vm)}}, fault.New(fault.Invalid, "listing VMs", "nonsense", "400")
			}
		})
		writes := tw.writes()
		a := tw.do("POST", "/api/rerun"+c.target, c.body)
		p := a.problem(t)
		if a.Status != 400 || p.Field != c.field || p.Given != c.given || p.Message == "" || p.Example == "" {
			t.Errorf("%s: %d %+v, want field %q given %q", name, a.Status, p, c.field, c.given)
		}
		if writes() != 0 || len(tw.queued()) != 0 || len(tw.other.queued()) != 0 {
			t.Errorf("%s: something was queued", name)
		}
	}
}

// A body's faults are told in JSON's words, not in this program's.
func TestRerunBodyIsToldInJSONsWords(t *testing.T) {
	for body, want := range map[string]string{
		"[]":               "it is JSON of type array, a JSON object is needed",
		`"vm"`:             "it is JSON of type string, a JSON object is needed",
		`{"vm":7}`:         "vm is of type number, a text is needed",
		`{"vm":"x","y":1}`: `unknown field "y"`,
		`{} {}`:            "there is text after the JSON object",
	} {
		a := newTwins(t).do("POST", "/api/rerun", body)
		if p := a.problem(t); a.Status != 400 || !strings.Contains(p.Message, want) || strings.Contains(p.Message, "Go ") || strings.Contains(p.Message, "rerunBody") {
			t.Errorf("%s: %d %+v, want %q", body, a.Status, p, want)
		}
	}
}

func TestRerunBodyThatWasLost(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/api/rerun", "/api/evidence"} {
		tw := newTwins(t)
		a := tw.ask(request{method: "POST", target: target, lost: true})
		if p := a.problem(t); a.Status != 411 || p.Field != "body" || !strings.Contains(p.Message, "Content-Length") || len(tw.queued()) != 0 {
			t.Errorf("%s: %+v", target, a)
		}
	}
	// A body above what any function takes is refused before a function runs.
	tw := newTwins(t)
	if a := tw.do("POST", "/api/rerun", strings.Repeat("x", 2<<20+1)); a.Status != 413 || len(tw.queued()) != 0 {
		t.Errorf("%d %.200s", a.Status, a.Body)
	}
}

func TestRerunScope(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want fleet.Scope
	}{
		"subscription":           {`{"subscription":"` + sub + `"}`, fleet.Scope{Subscriptions: []string{sub}}},
		"group":                  {`{"group":"rg-app"}`, fleet.Scope{Group: "rg-app"}},
		"group in subscription":  {`{"group":"rg-app","subscription":"` + sub + `"}`, fleet.Scope{Group: "rg-app", Subscriptions: []string{sub}}},
		"group by its id":        {`{"group":"/subscriptions/` + sub + `/resourceGroups/rg-app"}`, fleet.Scope{Group: "rg-app", Subscriptions: []string{sub}}},
		"group's id, twice said": {`{"group":"/subscriptions/` + sub + `/resourceGroups/rg-app","subscription":"` + lowSub + `"}`, fleet.Scope{Group: "rg-app", Subscriptions: []string{sub}}},
		"query":                  {`{"query":"tags.env =~ 'prod'"}`, fleet.Scope{Where: "tags.env =~ 'prod'"}},
	} {
		tw := newTwins(t)
		tw.each(func(w *world) { w.lister.vms = []fleet.VM{{ID: cvm.VMID(vmNamed("a"))}, {ID: cvm.VMID(vmNamed("b"))}} })
		a := tw.do("POST", "/api/rerun?dryrun=true", c.body)
		var said struct {
			Enqueued int
			Dryrun   bool
			Look     string
		}
		a.into(t, &said)
		if a.Status != 202 || said.Enqueued != 2 || !said.Dryrun || said.Look != host+"/api/vms" || a.Header["Location"] != "/api/vms" {
			t.Errorf("%s: %+v", name, a)
		}
		if len(tw.lister.asked) != 1 || fmt.Sprint(tw.lister.asked[0]) != fmt.Sprint(c.want) {
			t.Errorf("%s: asked for %+v", name, tw.lister.asked)
		}
		q := tw.queued()
		slices.SortFunc(q, func(a, b reconcile.Message) int { return strings.Compare(a.VM, b.VM) }) // several are put at a time
		if len(q) != 2 || q[0].VM != vmNamed("a") || q[1].VM != vmNamed("b") || !q[1].DryRun || q[1].Cause.Kind != "rerun" || q[1].Cause.Fresh {
			t.Errorf("%s: queued %+v", name, q)
		}
	}
}

func TestRerunFails(t *testing.T) {
	vm := vmNamed("vm1")
	for name, c := range map[string]struct {
		body   string
		err    error // of the listing
		status int
		wait   string
	}{
		"queue away":        {`{"vm":"` + vm + `"}`, nil, 503, ""},
		"queue away, group": {`{"group":"rg"}`, nil, 503, ""},
		"graph throttled":   {`{"group":"rg"}`, &fault.Error{Kind: fault.Throttled, Op: "listing VMs", RetryAfter: 1500e6}, 429, "2"},
		"graph denied":      {`{"group":"rg"}`, &fault.Error{Kind: fault.Denied, Op: "listing VMs", Action: "Microsoft.ResourceGraph/resources/read"}, 500, ""},
	} {
		tw := newTwins(t)
		tw.each(func(w *world) {
			w.lister.vms, w.lister.err = []fleet.VM{{ID: cvm.VMID(vm)}}, c.err
			if c.err == nil {
				w.storageFails("enqueue", "")
			}
		})
		a := tw.do("POST", "/api/rerun", c.body)
		if a.Status != c.status || a.Header["Retry-After"] != c.wait || a.problem(t).Message == "" || len(tw.queued()) != 0 {
			t.Errorf("%s: %+v, queued %v", name, a, tw.queued())
		}
	}
}
