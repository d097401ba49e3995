package handlers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

type vmList struct {
	VMs []struct {
		Key, ID, Name, Verdict string
		Findings, Plan         []any
	}
	Next string
}

func (l vmList) names() string {
	var out []string
	for _, v := range l.VMs {
		out = append(out, v.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func verdict(v policy.Value) func(*ledger.Row) { return func(r *ledger.Row) { r.Verdict = v } }

func TestListVMs(t *testing.T) {
	tw := newTwins(t, func(w *world) {
		w.known(vmNamed("good"))
		w.known(vmNamed("bad"), verdict(policy.NonCompliant))
		w.known(vmNamed("dark"), verdict(policy.Unknown))
		w.known(vmNamed("new"), verdict(""))
		other := strings.Replace(vmNamed("else"), sub, "00000000-0000-0000-0000-0000000000a2", 1)
		w.known(other, func(r *ledger.Row) { r.PK = "00000000-0000-0000-0000-0000000000a2" })
	})
	for query, want := range map[string]string{
		"":                                       "bad dark else good new",
		"?verdict=compliant":                     "else good",
		"?verdict=unknown,non-compliant":         "bad dark",
		"?verdict=unknown&verdict=non-compliant": "bad dark",
		"?verdict=gone":                          "",
		"?subscription=" + sub:                   "bad dark good new",
		"?subscription=" + lowSub + "&verdict=unknown":                                "dark",
		"?subscription=00000000-0000-0000-0000-0000000000a3":                          "",
		"?after=" + lowSub + "-zzzzzzzzzzzzzzzzzzzzzzzzzz":                            "else",
		"?after=" + "00000000-0000-0000-0000-0000000000a2-zzzzzzzzzzzzzzzzzzzzzzzzzz": "",
	} {
		a := tw.do("GET", "/api/vms"+query, "")
		var l vmList
		a.into(t, &l)
		if a.Status != 200 || l.names() != want || l.VMs == nil || l.Next != "" {
			t.Errorf("%s: %d %q, want %q", query, a.Status, l.names(), want)
		}
		for _, v := range l.VMs {
			if v.Findings == nil || v.Plan == nil {
				t.Errorf("%s: null in place of an empty list: %+v", query, v)
			}
		}
	}
	for query, field := range map[string]string{"?verdict=good": "verdict", "?verdict=": "verdict", "?verdict=unknown,": "verdict", "?subscription=prod": "subscription",
		"?after=x": "after", "?after=": "after", "?max=1": "max"} {
		a := tw.do("GET", "/api/vms"+query, "")
		if p := a.problem(t); a.Status != 400 || p.Field != field || p.Message == "" || p.Example == "" {
			t.Errorf("%s: %+v", query, a)
		}
	}
	if a := tw.do("POST", "/api/vms", ""); a.Status != 405 {
		t.Errorf("POST: %+v", a)
	}
	tw.each(func(w *world) { w.spoil(vmNamed("dark")) })
	if a := tw.do("GET", "/api/vms", ""); a.Status != 500 || !strings.Contains(a.Body, "cvmguard rebuild") {
		t.Errorf("an unreadable row: %+v", a)
	}
}

func TestListVMsByPages(t *testing.T) {
	const n = 1005
	w := newWorld(t)
	for i := range n {
		w.known(vmNamed(fmt.Sprintf("vm%04d", i)), func(r *ledger.Row) {
			if i%2 == 1 {
				r.Verdict = policy.Unknown
			}
		})
	}
	for query, want := range map[string]struct{ all, pages int }{"": {n, 2}, "verdict=unknown": {n / 2, 1}, "verdict=unknown,compliant": {n, 2}} {
		seen, pages, after := map[string]bool{}, 0, ""
		for pages == 0 || after != "" {
			q := query
			if after != "" {
				q += "&after=" + url.QueryEscape(after)
			}
			a := w.forwarded(request{method: "GET", target: "/api/vms?" + q})
			var l vmList
			a.into(t, &l)
			if a.Status != 200 || pages > 5 {
				t.Fatalf("%s: %d %.200s", query, a.Status, a.Body)
			}
			for _, v := range l.VMs {
				if seen[v.Key] {
					t.Errorf("%s: %s twice", query, v.Key)
				}
				seen[v.Key] = true
			}
			after = l.Next
			pages++
		}
		if len(seen) != want.all || pages != want.pages {
			t.Errorf("%q: %d VMs on %d pages", query, len(seen), pages)
		}
	}
}

func TestOneVM(t *testing.T) {
	vm := vmNamed("vm1")
	tw := newTwins(t, func(w *world) {
		w.known(vm, func(r *ledger.Row) { r.LastError = "503" })
	})
	key := chainOf(vm)
	var v struct {
		Key, ID, Name, Verdict, LastError string
		LastSeen                          *time.Time
		NextLook                          *time.Time
	}
	a := tw.do("GET", "/api/vms/"+key, "")
	a.into(t, &v)
	if a.Status != 200 || v.Key != key || v.ID != vm || v.Name != "vm1" || v.Verdict != "compliant" || v.LastError != "503" || v.LastSeen == nil || v.NextLook != nil {
		t.Errorf("%+v", a)
	}
	busy := vmNamed("busy")
	tw.each(func(w *world) {
		w.known(busy, func(r *ledger.Row) {
			r.Step = &ledger.OpenStep{Step: remedy.Step{Kind: remedy.Tag, State: remedy.Running}, Intent: 1, Record: "r"}
			r.HeadSeq, r.HeadHash = 1, strings.Repeat("ab", 32)
			r.NextLook = w.clock.Now().Add(time.Minute)
			r.Attestation = &cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Evidence: cvm.Outcome{State: cvm.Fail, Reason: "quote.nonce"},
				NonceIssued: w.clock.Now(), JudgedAt: w.clock.Now(), Bundle: strings.Repeat("cd", 32)}
		})
	})
	var b struct {
		Running     string
		NextLook    *time.Time
		Head        struct{ Seq int }
		Attestation *struct{ Evidence cvm.Outcome }
	}
	tw.do("GET", "/api/vms/"+chainOf(busy), "").into(t, &b)
	if b.Running != string(remedy.Tag) || b.NextLook == nil || b.Head.Seq != 1 || b.Attestation == nil || b.Attestation.Evidence.Reason != "quote.nonce" {
		t.Errorf("a VM with a step under way: %+v", b)
	}
	if a := tw.do("GET", "/api/vms/"+key+"?x=1", ""); a.Status != 400 || a.problem(t).Field != "x" {
		t.Errorf("%+v", a)
	}
	if a := tw.do("GET", "/api/vms/"+url.PathEscape(vm), ""); a.Status != 200 || !strings.Contains(a.Body, key) {
		t.Errorf("by its id: %+v", a)
	}
	// The key is exactly one spelling; any other text that is no id is no VM.
	other := chainOf(vmNamed("vm2"))
	for _, text := range []string{other, strings.ToUpper(key), key + "x", key[1:], "ab12", "0", "-", "a%2Fb", "%00", "null", ".", "%2e%2e", "..%2f..", url.PathEscape("ключ"),
		url.PathEscape(key + "'"), "*", "keys-" + key[37:], strings.Repeat("a", 5000), url.PathEscape(vm + "/x")} {
		for _, view := range []string{"", "/records", "/fresh?max_age=1h", "/fresh", "/nothing"} {
			if a := tw.do("GET", "/api/vms/"+text+view, ""); a.Status != 404 {
				t.Errorf("%.60q%s: %d %.200s", text, view, a.Status, a.Body)
			}
		}
	}
	if a := tw.do("GET", "/api/vms/"+key+"/nothing", ""); a.Status != 404 || a.problem(t).Field != "view" {
		t.Errorf("%+v", a)
	}
	if a := tw.forwarded(request{method: "GET", target: "/api/vms/" + key + "/records/1"}); a.Status != 404 {
		t.Errorf("%+v", a)
	}
	tw.each(func(w *world) { w.spoil(vm) })
	if a := tw.do("GET", "/api/vms/"+key, ""); a.Status != 500 || a.problem(t).Code != "bug" {
		t.Errorf("an unreadable row: %+v", a)
	}
}

func TestRecords(t *testing.T) {
	vm := vmNamed("vm1")
	tw := newTwins(t, func(w *world) {
		// Three records by real turns: another fact each time.
		for i := range 3 {
			delete(w.azure.fail, "Disk")
			if i == 1 {
				w.azure.fail["Disk"] = errDenied
			}
			w.clock.Advance(time.Hour)
			if s := w.message("reconcile", messageFor(vm)); s != 200 {
				t.Fatal(s)
			}
		}
	})
	key := chainOf(vm)
	type list struct {
		Key  string
		Head struct {
			Seq  int
			Hash string
		}
		Records []struct {
			Name, Hash, Previous, Type string
			Seq                        int
			Posture                    any
			Verdict                    *policy.Verdict
		}
		Next int
	}
	var l list
	a := tw.do("GET", "/api/vms/"+key+"/records", "")
	a.into(t, &l)
	if a.Status != 200 || l.Key != key || len(l.Records) != 3 || l.Head.Seq != 3 || l.Head.Hash != l.Records[2].Hash {
		t.Fatalf("%+v", a)
	}
	previous := ""
	for i, r := range l.Records {
		if r.Seq != i+1 || r.Name != ledger.RecordName(key, i+1) || r.Previous != previous || r.Verdict == nil || r.Posture != nil {
			t.Errorf("record %+v", r)
		}
		previous = r.Hash
		raw := tw.do("GET", fmt.Sprintf("/api/vms/%s/records?seq=%d", key, i+1), "")
		if raw.Status != 200 || ledger.HashBytes([]byte(raw.Body)) != r.Hash || raw.Header["Content-Type"] != "application/json" {
			t.Errorf("record %d: the bytes don't have the hash %s: %d %.200s", i+1, r.Hash, raw.Status, raw.Body)
		}
		stored, err := tw.store.Blobs().Read(context.Background(), ledger.ContainerRecords, r.Name, 1<<20)
		if err != nil || string(stored) != raw.Body || !json.Valid(stored) {
			t.Errorf("record %d isn't the blob: %v", i+1, err)
		}
	}
	l = list{}
	tw.do("GET", "/api/vms/"+key+"/records?after=2", "").into(t, &l)
	if len(l.Records) != 1 || l.Records[0].Seq != 3 {
		t.Errorf("after 2: %+v", l)
	}
	l = list{}
	tw.do("GET", "/api/vms/"+key+"/records?after=9", "").into(t, &l)
	if l.Records == nil || len(l.Records) != 0 {
		t.Errorf("after 9: %+v", l)
	}
	for query, want := range map[string]int{"?seq=4": 404, "?seq=0": 400, "?seq=-1": 400, "?seq=x": 400, "?seq=": 400, "?seq=99999999999999999999": 400,
		"?after=-1": 400, "?after=x": 400, "?after=1&seq=1": 400, "?from=1": 400} {
		if a := tw.do("GET", "/api/vms/"+key+"/records"+query, ""); a.Status != want || a.problem(t).Message == "" {
			t.Errorf("%s: %+v", query, a)
		}
	}
	for _, seq := range []string{"4", "99", "123456789012"} {
		p := tw.do("GET", "/api/vms/"+key+"/records?seq="+seq, "").problem(t)
		if p.Field != "seq" || p.Given != seq || !strings.Contains(p.Message, "the VM has 3, numbered from 1") || strings.Contains(p.Message, ".json") {
			t.Errorf("a record that isn't there: %+v", p)
		}
	}
	tw.each(func(w *world) {
		w.store.Blobs().Overwrite(ledger.ContainerRecords, ledger.RecordName(key, 2), []byte("{}\n"))
	})
	if a := tw.do("GET", "/api/vms/"+key+"/records", ""); a.Status != 500 || a.problem(t).Code != "bug" {
		t.Errorf("a spoilt record: %+v", a)
	}
}

func TestRecordsByPages(t *testing.T) {
	vm := vmNamed("vm1")
	w := newWorld(t)
	hash := ""
	const n = 501
	for i := range n {
		r := ledger.Record{Object: vm, Chain: chainOf(vm), Seq: i + 1, At: w.clock.Now(), Type: ledger.TypeState, Version: "test", Policy: "p", Mode: "observe"}
		var err error
		if hash, _, err = w.app.Chains.Append(context.Background(), r, hash); err != nil {
			t.Fatal(err)
		}
	}
	w.known(vm, func(r *ledger.Row) { r.HeadSeq, r.HeadHash = n, hash })
	next, got := 0, 0
	for page := range 5 {
		var l struct {
			Records []struct{ Seq int }
			Next    int
		}
		w.forwarded(request{method: "GET", target: fmt.Sprintf("/api/vms/%s/records?after=%d", chainOf(vm), next)}).into(t, &l)
		for _, r := range l.Records {
			if got++; r.Seq != got {
				t.Fatalf("record %d in place %d", r.Seq, got)
			}
		}
		if next = l.Next; next == 0 {
			if page != 1 {
				t.Errorf("%d pages", page+1)
			}
			break
		}
	}
	if got != n {
		t.Errorf("%d records", got)
	}
}

func TestFresh(t *testing.T) {
	vm := vmNamed("vm1")
	key := chainOf(vm)
	pass, none := cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.NotApplicable, Reason: "maa.none-for-trusted-launch"}
	fail := cvm.Outcome{State: cvm.Fail, Reason: "quote.nonce"}
	attested := func(maa, evidence cvm.Outcome, age time.Duration) func(*world, *ledger.Row) {
		return func(w *world, r *ledger.Row) {
			r.Attestation = &cvm.Attestation{MAA: maa, Evidence: evidence, NonceIssued: w.clock.Now().Add(-age), JudgedAt: w.clock.Now(), Bundle: strings.Repeat("ab", 32)}
		}
	}
	for name, c := range map[string]struct {
		change func(*world, *ledger.Row)
		age    string
		status int
		reason string
	}{
		"fresh":                   {attested(pass, pass, time.Hour), "24h", 200, ""},
		"to the second":           {attested(pass, pass, time.Hour), "1h", 200, ""},
		"trusted launch":          {attested(none, pass, time.Hour), "90m", 200, ""},
		"too old":                 {attested(pass, pass, time.Hour), "59m59s", 412, "attested 1h0m0s ago"},
		"never attested":          {func(*world, *ledger.Row) {}, "24h", 412, "has not been attested"},
		"evidence failed":         {attested(pass, fail, time.Hour), "24h", 412, "quote.nonce"},
		"evidence unknown":        {attested(pass, cvm.Outcome{State: cvm.UnknownState, Reason: "snp.no-vcek"}, time.Hour), "24h", 412, "snp.no-vcek"},
		"MAA failed":              {attested(fail, pass, time.Hour), "24h", 412, "Microsoft Azure Attestation"},
		"MAA away":                {attested(cvm.Outcome{State: cvm.UnknownState, Reason: "maa.unavailable"}, pass, time.Hour), "24h", 412, "maa.unavailable"},
		"evidence not applicable": {attested(pass, none, time.Hour), "24h", 412, "did not pass"},
		"not compliant":           {func(w *world, r *ledger.Row) { attested(pass, pass, time.Hour)(w, r); r.Verdict = policy.NonCompliant }, "24h", 412, "non-compliant"},
		"unknown":                 {func(w *world, r *ledger.Row) { attested(pass, pass, time.Hour)(w, r); r.Verdict = policy.Unknown }, "24h", 412, "unknown"},
		"gone":                    {func(w *world, r *ledger.Row) { attested(pass, pass, time.Hour)(w, r); r.Verdict = policy.Gone }, "24h", 412, "gone"},
		"not judged yet":          {func(_ *world, r *ledger.Row) { r.Verdict = "" }, "24h", 412, "verdict"},
		"of a development world":  {func(w *world, r *ledger.Row) { attested(pass, pass, time.Hour)(w, r); r.Development = true }, "24h", 412, "development"},
		"in the development world": {func(w *world, r *ledger.Row) {
			attested(pass, pass, time.Hour)(w, r)
			r.Development, w.app.Loop.Development = true, true
		}, "24h", 200, ""},
		"no age":                  {attested(pass, pass, time.Hour), "", 400, ""},
		"an age of nothing":       {attested(pass, pass, time.Hour), "0s", 400, ""},
		"an age below nothing":    {attested(pass, pass, time.Hour), "-1h", 400, ""},
		"an age that is a number": {attested(pass, pass, time.Hour), "24", 400, ""},
		"an age in days":          {attested(pass, pass, time.Hour), "1d", 400, ""},
	} {
		tw := newTwins(t, func(w *world) { w.known(vm, func(r *ledger.Row) { c.change(w, r) }) })
		a := tw.do("GET", "/api/vms/"+key+"/fresh?max_age="+c.age, "")
		var said struct {
			Fresh                bool
			Reason, Verdict, Key string
		}
		a.into(t, &said)
		if a.Status != c.status || said.Fresh != (c.status == 200) || c.status != 400 && said.Key != key || !strings.Contains(said.Reason, c.reason) || (c.status == 412) != (said.Reason != "") {
			t.Errorf("%s: %+v", name, a)
		}
		if p := a.problem(t); c.status == 400 && (p.Field != "max_age" || p.Given != c.age || p.Example == "") {
			t.Errorf("%s: %+v", name, p)
		}
	}
	tw := newTwins(t, func(w *world) { w.known(vm) })
	if a := tw.do("GET", "/api/vms/"+key+"/fresh", ""); a.Status != 400 || a.problem(t).Field != "max_age" {
		t.Errorf("without max_age: %+v", a)
	}
	if a := tw.do("GET", "/api/vms/"+key+"/fresh?max_age=1h&x=1", ""); a.Status != 400 || a.problem(t).Field != "x" {
		t.Errorf("with another parameter: %+v", a)
	}
	if a := tw.do("GET", "/api/vms/"+chainOf(vmNamed("vm2"))+"/fresh?max_age=1h", ""); a.Status != 404 {
		t.Errorf("an unknown VM: %+v", a)
	}
}
