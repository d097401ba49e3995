package handlers_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/ledger"
)

type issued struct {
	Nonce   string
	Expires time.Time
	VMID    string `json:"vmId"`
}

func bundleOver(nonce, more string) string {
	return fmt.Sprintf(`{"version":1,"kind":"snp","nonce":%q%s}`, nonce, more)
}

// issue asks both apps for a nonce: their randomness is the same.
func issue(t *testing.T, tw twins, vm string) issued {
	t.Helper()
	a := tw.do("POST", "/api/evidence", `{"vm":"`+vm+`"}`)
	var n issued
	a.into(t, &n)
	if a.Status != 201 || len(n.Nonce) != 43 {
		t.Fatalf("no nonce: %+v", a)
	}
	return n
}

// silent fails when a nonce stands in a log or in storage.
func silent(t *testing.T, tw twins, nonces ...string) {
	t.Helper()
	tw.each(func(w *world) {
		for _, n := range nonces {
			if strings.Contains(w.logged.String(), n) {
				t.Errorf("a log line holds the nonce: %s", w.logged.String())
			}
			err := w.store.Tables().Query(context.Background(), ledger.TableNonces, ledger.Filter{}, func(e ledger.Entity) bool {
				if strings.Contains(fmt.Sprint(e), n) {
					t.Error("a row holds the nonce")
				}
				return true
			})
			if err != nil {
				t.Error(err)
			}
			for _, m := range w.queued() {
				if strings.Contains(string(m.Encode()), n) {
					t.Error("a message holds the nonce")
				}
			}
		}
	})
}

func TestIssueNonce(t *testing.T) {
	vm := vmNamed("vm1")
	tw := newTwins(t, func(w *world) { w.known(vm) })
	first := issue(t, tw, vm)
	if !first.Expires.Equal(tw.clock.Now().Add(30*time.Minute)) || first.VMID != "00000000-0000-0000-0000-000000000b0b" {
		t.Errorf("%+v", first)
	}
	raw, err := base64.RawURLEncoding.DecodeString(first.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	row, err := tw.app.Nonces.ByHash(context.Background(), ledger.NonceHash(raw))
	if err != nil || string(row.VM) != vm || row.Way != ledger.WayPush || row.Cause != "push" || row.Used != "" || row.UniqueID != first.VMID {
		t.Errorf("%+v, %v", row, err)
	}
	if len(tw.queued()) != 0 {
		t.Error("issuing puts nothing on the loop")
	}
	// In any letter case it is the same VM and the same quota.
	nonces := []string{first.Nonce}
	for i := range 5 {
		nonces = append(nonces, issue(t, tw, []string{vm, strings.ToLower(vm), strings.ToUpper(vm)}[i%3]).Nonce)
	}
	a := tw.do("POST", "/api/evidence", `{"vm":"`+vm+`"}`)
	if a.Status != 429 || a.Header["Retry-After"] != "2400" || a.problem(t).Code != "throttled" {
		t.Errorf("above the quota: %+v", a)
	}
	tw.each(func(w *world) { w.known(vmNamed("vm2")); w.clock.Advance(39 * time.Minute) })
	nonces = append(nonces, issue(t, tw, vmNamed("vm2")).Nonce)
	if a := tw.do("POST", "/api/evidence", `{"vm":"`+vm+`"}`); a.Status != 429 || a.Header["Retry-After"] != "60" {
		t.Errorf("39 minutes later: %+v", a)
	}
	tw.each(func(w *world) { w.clock.Advance(time.Minute) })
	nonces = append(nonces, issue(t, tw, vm).Nonce)
	seen := map[string]bool{}
	for _, n := range nonces {
		if seen[n] {
			t.Error("a nonce came twice")
		}
		seen[n] = true
	}
	silent(t, tw, nonces...)
}

func TestIssueNonceRefuses(t *testing.T) {
	vm := vmNamed("vm1")
	for name, c := range map[string]struct {
		target, body string
		status       int
		field        string
	}{
		"unknown VM":       {"", `{"vm":"` + vmNamed("vm2") + `"}`, 404, "vm"},
		"VM not seen yet":  {"", `{"vm":"` + vmNamed("new") + `"}`, 404, "vm"},
		"bad id":           {"", `{"vm":"vm1"}`, 400, "vm"},
		"no id":            {"", `{}`, 400, "vm"},
		"not JSON":         {"", `vm1`, 400, "body"},
		"no body":          {"", ``, 400, "body"},
		"unknown member":   {"", `{"vm":"` + vm + `","cause":"x"}`, 400, "body"},
		"text after":       {"", `{"vm":"` + vm + `"}{}`, 400, "body"},
		"too long":         {"", `{"vm":"` + vm + `"` + strings.Repeat(" ", 5<<10) + `}`, 400, "body"},
		"query":            {"?nonce=QUERYNONCE", `{"vm":"` + vm + `"}`, 400, "nonce"},
		"trailing slash":   {"/", `{}`, 400, "vm"},
		"a bundle, no URL": {"", bundleOver(strings.Repeat("A", 43), ""), 400, "body"},
	} {
		tw := newTwins(t, func(w *world) {
			w.known(vm)
			w.known(vmNamed("new"), func(r *ledger.Row) { r.UniqueID, r.Verdict = "", "" })
		})
		writes := tw.writes()
		a := tw.do("POST", "/api/evidence"+c.target, c.body)
		if p := a.problem(t); a.Status != c.status || p.Field != c.field || p.Message == "" || writes() != 0 {
			t.Errorf("%s: %+v, %d writes", name, a, writes())
		}
		silent(t, tw, "QUERYNONCE", strings.Repeat("A", 43))
		if strings.Contains(a.Body, "QUERYNONCE") || strings.Contains(a.Body, strings.Repeat("A", 43)) {
			t.Errorf("%s: the answer holds it", name)
		}
	}
	for _, part := range []struct{ op, name string }{{"insert", "nonces/quota"}, {"insert", "nonces/n/"}} {
		tw := newTwins(t, func(w *world) { w.known(vm); w.storageFails(part.op, part.name) })
		if a := tw.do("POST", "/api/evidence", `{"vm":"`+vm+`"}`); a.Status != 503 {
			t.Errorf("%s away: %+v", part.name, a)
		}
	}
	tw := newTwins(t, func(w *world) { w.known(vm); w.spoil(vm) })
	if a := tw.do("POST", "/api/evidence", `{"vm":"`+vm+`"}`); a.Status != 500 {
		t.Errorf("a spoilt row: %+v", a)
	}
	if a := tw.do("GET", "/api/evidence", ""); a.Status != 405 {
		t.Errorf("GET: %+v", a)
	}
}

func TestPush(t *testing.T) {
	vm := vmNamed("vm1")
	tw := newTwins(t, func(w *world) { w.known(vm) })
	n := issue(t, tw, vm)
	good := bundleOver(n.Nonce, "")
	first := tw.do("POST", "/api/evidence/"+n.Nonce, good)
	sha := ledger.HashBytes([]byte(good))
	if first.Status != 202 || !strings.Contains(first.Body, sha) {
		t.Fatalf("%+v", first)
	}
	q := tw.queued()
	raw, err := base64.RawURLEncoding.DecodeString(n.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	if len(q) != 1 || q[0].VM != vm || q[0].Cause.Kind != "evidence" || q[0].Cause.Nonce != ledger.NonceHash(raw) || q[0].Cause.ID != sha || q[0].Cause.Fresh {
		t.Errorf("queued %+v", q)
	}
	if kept, err := tw.app.Nonces.Evidence.GetEvidence(context.Background(), sha); err != nil || string(kept) != good {
		t.Errorf("the bundle isn't kept as it came: %v", err)
	}
	// The same again, also after the nonce's time, answers the same.
	for range 2 {
		if a := tw.do("POST", "/api/evidence/"+n.Nonce, good); fmt.Sprint(a) != fmt.Sprint(first) {
			t.Errorf("the same again: %+v", a)
		}
		tw.each(func(w *world) { w.clock.Advance(time.Hour) })
	}
	if row, err := tw.app.Nonces.ByHash(context.Background(), ledger.NonceHash(raw)); err != nil || row.Used != sha {
		t.Errorf("%+v, %v", row, err)
	}
	// Other bytes over the same nonce.
	a := tw.do("POST", "/api/evidence/"+n.Nonce, good+" ")
	if a.Status != 409 || a.problem(t).Code != "nonce.reused" || len(tw.queued()) != 3 {
		t.Errorf("other bytes: %+v", a)
	}
	if _, err := tw.app.Nonces.Evidence.GetEvidence(context.Background(), ledger.HashBytes([]byte(good+" "))); err == nil {
		t.Error("refused evidence was kept")
	}
	silent(t, tw, n.Nonce)
}

func TestPushRefuses(t *testing.T) {
	t.Parallel()
	vm := vmNamed("vm1")
	tw := newTwins(t, func(w *world) { w.known(vm) })
	n, other := issue(t, tw, vm), issue(t, tw, vm)
	never := strings.Repeat("A", 43)
	// The last character of 32 bytes holds two bits that say nothing: one spelling alone is taken.
	twisted := n.Nonce[:42] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", n.Nonce[42])+1])
	for name, c := range map[string]struct {
		nonce, body string
		status      int
		code        string
	}{
		"never issued":      {never, bundleOver(never, ""), 404, "nonce.unknown"},
		"not base64":        {"!!", bundleOver(n.Nonce, ""), 404, "nonce.unknown"},
		"too short":         {n.Nonce[:40], bundleOver(n.Nonce, ""), 404, "nonce.unknown"},
		"too long":          {n.Nonce + "AAAA", bundleOver(n.Nonce, ""), 404, "nonce.unknown"},
		"other spelling":    {twisted, bundleOver(n.Nonce, ""), 404, "nonce.unknown"},
		"line feed in it":   {n.Nonce[:20] + "%0A" + n.Nonce[20:], bundleOver(n.Nonce, ""), 404, "nonce.unknown"},
		"another nonce":     {n.Nonce, bundleOver(other.Nonce, ""), 400, "nonce.mismatch"},
		"empty bundle":      {n.Nonce, "", 400, "bundle.malformed"},
		"not JSON":          {n.Nonce, "hello", 400, "bundle.malformed"},
		"cut short":         {n.Nonce, bundleOver(n.Nonce, "")[:40], 400, "bundle.malformed"},
		"no nonce":          {n.Nonce, `{"version":1,"kind":"snp"}`, 400, "bundle.malformed"},
		"unknown member":    {n.Nonce, bundleOver(n.Nonce, `,"x":1`), 400, "bundle.malformed"},
		"a member twice":    {n.Nonce, bundleOver(n.Nonce, `,"kind":"tdx"`), 400, "bundle.malformed"},
		"unknown version":   {n.Nonce, strings.Replace(bundleOver(n.Nonce, ""), "1", "2", 1), 400, "bundle.malformed"},
		"unknown kind":      {n.Nonce, strings.Replace(bundleOver(n.Nonce, ""), "snp", "sgx", 1), 400, "bundle.malformed"},
		"text after it":     {n.Nonce, bundleOver(n.Nonce, "") + "{}", 400, "bundle.malformed"},
		"over 2 MiB":        {n.Nonce, bundleOver(n.Nonce, strings.Repeat(" ", 2<<20)), 413, ""},
		"unknown parameter": {n.Nonce + "?vm=x", bundleOver(n.Nonce, ""), 400, ""},
	} {
		writes, otherWrites := tw.writes(), tw.other.writes()
		a := tw.do("POST", "/api/evidence/"+c.nonce, c.body)
		if a.Status != c.status || writes()+otherWrites() != 0 {
			t.Errorf("%s: %d %.300s, %d writes", name, a.Status, a.Body, writes())
		}
		if c.code != "" {
			if p := a.problem(t); p.Code != c.code || p.Message == "" || p.Field == "" {
				t.Errorf("%s: %+v", name, p)
			}
		}
		for _, secret := range []string{n.Nonce, other.Nonce, never} {
			if strings.Contains(a.Body, secret) || strings.Contains(fmt.Sprint(a.Header), secret) {
				t.Errorf("%s: the answer holds a nonce: %s", name, a.Body)
			}
		}
	}
	if len(tw.queued()) != 0 || len(tw.other.queued()) != 0 {
		t.Error("something was queued")
	}
	// None of it consumed the nonce; and what its guest brings in time is taken.
	tw.each(func(w *world) { w.clock.Advance(29 * time.Minute) })
	if a := tw.do("POST", "/api/evidence/"+n.Nonce, bundleOver(n.Nonce, "")); a.Status != 202 {
		t.Errorf("afterwards: %+v", a)
	}
	tw.each(func(w *world) { w.clock.Advance(time.Minute) })
	if a := tw.do("POST", "/api/evidence/"+other.Nonce, bundleOver(other.Nonce, "")); a.Status != 410 || a.problem(t).Code != "nonce.expired" {
		t.Errorf("after its time: %+v", a)
	}
	silent(t, tw, n.Nonce, other.Nonce, never)
}

func TestPushWithStorageAway(t *testing.T) {
	vm := vmNamed("vm1")
	for _, part := range []struct{ op, name string }{{"create", "evidence/"}, {"replace", "nonces/"}, {"enqueue", ""}} {
		tw := newTwins(t, func(w *world) { w.known(vm) })
		n := issue(t, tw, vm)
		tw.each(func(w *world) { w.storageFails(part.op, part.name) })
		if a := tw.do("POST", "/api/evidence/"+n.Nonce, bundleOver(n.Nonce, "")); a.Status != 503 || len(tw.queued()) != 0 || strings.Contains(a.Body, n.Nonce) {
			t.Errorf("%s away: %+v", part.op, a)
		}
		tw.each(func(w *world) { w.storageWorks() })
		if a := tw.do("POST", "/api/evidence/"+n.Nonce, bundleOver(n.Nonce, "")); a.Status != 202 || len(tw.queued()) != 1 {
			t.Errorf("%s back: %+v", part.op, a)
		}
		silent(t, tw, n.Nonce)
	}
}

// TestPushedEvidenceIsJudged takes a pushed bundle through the loop: it proves
// nothing, so it counts for nothing, and is kept and logged with the reason.
func TestPushedEvidenceIsJudged(t *testing.T) {
	vm := vmNamed("vm1")
	tw := newTwins(t)
	tw.each(func(w *world) {
		if s := w.message("reconcile", messageFor(vm)); s != 200 {
			t.Fatal(s)
		}
	})
	n := issue(t, tw, vm)
	if a := tw.do("POST", "/api/evidence/"+n.Nonce, bundleOver(n.Nonce, "")); a.Status != 202 {
		t.Fatalf("%+v", a)
	}
	for _, m := range tw.queued() {
		if m.Cause.Kind == "evidence" {
			if s := tw.message("reconcile", string(m.Encode())); s != 200 {
				t.Fatalf("%d: %s", s, tw.logged.String())
			}
		}
	}
	row, sha := tw.row(vm), ledger.HashBytes([]byte(bundleOver(n.Nonce, "")))
	if row.Attestation != nil || len(row.Pending) != 0 {
		t.Errorf("attestation %+v, pending %v", row.Attestation, row.Pending)
	}
	if log := tw.logged.String(); !strings.Contains(log, "a push that proves nothing") || !strings.Contains(log, sha) {
		t.Errorf("the log doesn't say what became of %s", sha)
	}
	silent(t, tw, n.Nonce)
}
