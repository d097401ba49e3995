package handlers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// What is wrong with a question about operations is told with the field and the
// fix.
func TestOperationsRefuse(t *testing.T) {
	tw := newTwins(t)
	des := `"des":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/diskEncryptionSets/des1"`
	for body, want := range map[string]string{
		"":                      "a JSON body is needed",
		"[]":                    "can't be read",
		"{}":                    "it must be rotate-key, recreate-vm or undo",
		`{"kind":"rotate"}`:     "it must be rotate-key, recreate-vm or undo",
		`{"kind":"rotate-key"}`: "it is needed with the kind rotate-key",
		`{"kind":"rotate-key",` + des + `,"vm":"x"}`:                     "it doesn't go with the kind rotate-key",
		`{"kind":"rotate-key",` + des + `,"wave":"two"}`:                 "wave",
		`{"kind":"rotate-key",` + des + `,"waves":2}`:                    "unknown field",
		`{"kind":"recreate-vm"}`:                                         "it is needed with the kind recreate-vm",
		`{"kind":"undo"}`:                                                "give either the record",
		`{"kind":"undo","record":"a","plan":"b"}`:                        "give either the record",
		`{"kind":"undo","record":"` + strings.Repeat("x", 20<<10) + `"}`: "too long",
	} {
		if a := tw.do("POST", "/api/operations", body); a.Status != 400 || !strings.Contains(a.Body, want) {
			t.Errorf("%.80s: %d %.300s", body, a.Status, a.Body)
		}
	}
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/api/operations/" + hash, 404, hash},
		{"GET", "/api/operations/" + hash + "/approve", 404, "there is nothing here"},
		{"POST", "/api/operations/" + hash, 404, "there is nothing here"},
		{"POST", "/api/operations/" + hash + "/aprove", 404, "it must be one of"},
		{"POST", "/api/operations/" + hash + "/approve", 404, hash},
		{"POST", "/api/operations/123/approve", 400, "64 hex digits"},
		{"GET", "/api/operations?all=1", 400, "there are after"},
		{"GET", "/api/operations?after=", 400, "it must be an operation's key"},
		{"GET", "/api/operations?after=" + hash, 400, "it must be an operation's key"},
		{"GET", "/api/operations/" + hash + "?after=x", 400, "there is none here"},
	} {
		if a := tw.do(c.method, c.path, ""); a.Status != c.status || !strings.Contains(a.Body, c.want) {
			t.Errorf("%s %s: %d %.300s", c.method, c.path, a.Status, a.Body)
		}
	}
	if a := tw.do("GET", "/api/operations", ""); a.Status != 200 || !strings.Contains(a.Body, `"operations":[]`) {
		t.Errorf("%+v", a)
	}
}

// The list of operations comes in pages, and one whose plan is lost neither hides the
// others nor itself.
func TestOperationsInPages(t *testing.T) {
	tw := newTwins(t)
	good := ""
	tw.each(func(w *world) {
		var err error
		good, err = ledger.Operations{Blobs: w.store.Blobs()}.Put(t.Context(), remedy.Operation{Schema: remedy.OperationSchema, Kind: remedy.UndoOperation, Object: "o", Subscription: lowSub,
			Made: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 250 {
			id := ledger.OperationID(sub, fmt.Sprintf("%064x", i))
			if i == 0 {
				id = ledger.OperationID(sub, good)
			}
			r := ledger.Row{PK: lowSub, RK: cvm.RowKey(id), ID: id, SharedKind: cvm.SharedOperation}
			e, err := r.Entity()
			if err == nil {
				_, err = w.store.Tables().Insert(t.Context(), ledger.TableShared, e)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	seen, after := map[string]bool{}, ""
	for page, want := range []int{200, 50} {
		a := tw.do("GET", "/api/operations"+after, "")
		var got struct {
			Operations []handlers.OperationView `json:"operations"`
			Next       string                   `json:"next"`
		}
		if err := json.Unmarshal([]byte(a.Body), &got); err != nil || a.Status != 200 || len(got.Operations) != want || (got.Next == "") != (page == 1) {
			t.Fatalf("page %d: %d, %d of them, next %q, %v", page, a.Status, len(got.Operations), got.Next, err)
		}
		for i, o := range got.Operations {
			seen[o.Hash] = true
			if o.Hash == good && (o.State != reconcile.OperationWaiting || i != 0) || o.Hash != good && (o.State != reconcile.OperationMissing || !strings.Contains(o.Text, "Make the plan anew") || o.Key == "") {
				t.Errorf("%d %+v", i, o)
			}
		}
		after = "?after=" + got.Next
	}
	if len(seen) != 250 || !seen[good] {
		t.Errorf("%d seen", len(seen))
	}
}

// The field that is wrong is blamed, with an example of it.
func TestOperationsBlameTheField(t *testing.T) {
	tw := newTwins(t)
	tw.each(func(w *world) { w.app.Loop.Planning = struct{ remedy.RecreationReader }{} }) // what is asked for here is refused before a read
	des := `"des":"` + string(desID) + `"`
	for body, want := range map[string]struct {
		status       int
		field, given string
	}{
		`{"kind":"rotate-key","des":"des1"}`:                                  {400, "des", "des1"},
		`{"kind":"rotate-key",` + des + `,"key":"os"}`:                        {400, "key", "os"},
		`{"kind":"rotate-key",` + des + `,"wave":99}`:                         {400, "wave", "99"},
		`{"kind":"recreate-vm","vm":"vm1"}`:                                   {400, "vm", "vm1"},
		`{"kind":"recreate-vm","vm":"` + vmNamed("vm1") + `","des":"x"}`:      {400, "des", "x"},
		`{"kind":"recreate-vm","vm":"` + vmNamed("vm1") + `","size":"a b"}`:   {400, "size", "a b"},
		`{"kind":"recreate-vm","vm":"` + vmNamed("vm1") + `","image":"i"}`:    {400, "image", "i"},
		`{"kind":"undo","record":"7"}`:                                        {400, "record", "7"},
		`{"kind":"undo","plan":"7"}`:                                          {400, "plan", "7"},
		`{"kind":"undo","record":"` + chainOf(vmNamed("vm1")) + `/00000001"}`: {404, "record", chainOf(vmNamed("vm1")) + "/00000001"},
		`{"kind":"undo"}`: {400, "record", ""},
	} {
		a := tw.do("POST", "/api/operations", body)
		p := a.problem(t)
		if a.Status != want.status || p.Field != want.field || p.Given != want.given || want.status == 400 && !strings.Contains(p.Example, `"`+want.field+`":`) {
			t.Errorf("%s: %d %+v", body, a.Status, p)
		}
	}
	hash := strings.Repeat("ab", 32)
	for _, target := range []string{"/api/operations/" + hash, "/api/vms/" + hash + "/records"} {
		if a := tw.do("GET", target, ""); a.Status != 404 || strings.Contains(a.Body, ".json") || strings.Contains(a.Body, "Blob") {
			t.Errorf("%s: %+v", target, a)
		}
	}
	if p := tw.do("GET", "/api/operations/"+hash, "").problem(t); p.Message != "there is no plan with this hash; see cvmguard operation list" || p.Field != "hash" {
		t.Errorf("%+v", p)
	}
}

// What is shared has records too, which are asked for by key, by id, and for an
// operation by its plan's hash; and a word that would do nothing is a conflict.
func TestSharedObjectsAndOperationsAreShown(t *testing.T) {
	tw := newTwins(t)
	ctx := context.Background()
	op := remedy.Operation{Schema: remedy.OperationSchema, Kind: remedy.UndoOperation, Object: "x/00000001", Subscription: lowSub, Policy: policy.Embedded().Hash,
		Steps: []remedy.Step{{Kind: remedy.RestoreAutoRotation, Target: string(desID), State: remedy.Planned, Args: map[string]string{"step": "1"}}}}
	var hash, id string
	tw.each(func(w *world) {
		var err error
		if hash, err = (ledger.Operations{Blobs: w.store.Blobs()}).Put(ctx, op); err != nil {
			t.Fatal(err)
		}
		id = ledger.OperationID(lowSub, hash)
		for _, of := range []string{id, string(desID)} {
			o, err := reconcile.SharedObject(of)
			if err != nil {
				t.Fatal(err)
			}
			step := op.Steps[0]
			step.State = remedy.Done
			rec := ledger.Record{Object: o.ID, Chain: o.Chain(), Seq: 1, At: w.clock.Now().UTC(), Type: ledger.TypeOutcome, Version: "test", Mode: policy.ModeEnforce, Policy: op.Policy,
				Step: &step, Outcome: &ledger.Outcome{State: remedy.Done}}
			head, _, err := (ledger.Chains{Blobs: w.store.Blobs()}).Append(ctx, rec, "")
			if err != nil {
				t.Fatal(err)
			}
			row := ledger.Row{PK: o.PK, RK: o.RK, ID: o.ID, SharedKind: o.Kind, HeadSeq: 1, HeadHash: head}
			if o.Kind == cvm.SharedOperation {
				row.Operation = &ledger.OperationState{Approved: w.clock.Now().Add(-time.Hour), Done: 1}
			}
			e, err := row.Entity()
			if err == nil {
				_, err = w.store.Tables().Insert(ctx, ledger.TableShared, e)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, c := range []struct{ given, of, kind string }{
		{hash, id, "operation"}, {url.PathEscape(id), id, "operation"}, {ledger.ChainKey(lowSub, cvm.RowKey(id)), id, "operation"},
		{url.PathEscape(string(desID)), string(desID), "des"}, {ledger.ChainKey(lowSub, cvm.RowKey(string(desID))), string(desID), "des"},
	} {
		key := ledger.ChainKey(lowSub, cvm.RowKey(c.of))
		if a := tw.do("GET", "/api/vms/"+c.given, ""); a.Status != 200 || !strings.Contains(a.Body, `"key":"`+key+`"`) || !strings.Contains(a.Body, `"shared":"`+c.kind+`"`) {
			t.Errorf("%s: %+v", c.given, a)
		}
		if a := tw.do("GET", "/api/vms/"+c.given+"/records", ""); a.Status != 200 || !strings.Contains(a.Body, `"name":"`+key+`/00000001.json"`) {
			t.Errorf("%s: %+v", c.given, a)
		}
		if a := tw.do("GET", "/api/vms/"+c.given+"/fresh?max_age=1h", ""); a.Status != 404 {
			t.Errorf("%s, fresh: %+v", c.given, a)
		}
	}
	if a := tw.do("GET", "/api/vms/a%2Fb", ""); a.Status != 404 || a.problem(t).Field != "key" {
		t.Errorf("no id: %+v", a)
	}
	if a := tw.do("GET", "/api/operations/"+hash, ""); !strings.Contains(a.Body, `"record":"`+ledger.ChainKey(lowSub, cvm.RowKey(id))+`/00000001"`) {
		t.Errorf("the step doesn't name its record: %+v", a)
	}
	for _, word := range reconcile.OperationWords() {
		if a := tw.do("POST", "/api/operations/"+hash+"/"+word, ""); a.Status != 409 || !strings.Contains(a.Body, "All steps are done") {
			t.Errorf("%s to what is done: %+v", word, a)
		}
	}
	if len(tw.world.queued()) != 0 {
		t.Error("a word was put on the queue all the same")
	}
}
