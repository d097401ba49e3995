package handlers_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
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
