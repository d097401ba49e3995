package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cvmguard/handlers"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// The list of operations has all pages, the newest plan first, and one whose plan is
// lost without a time of its own.
func TestOperationListHasAllPages(t *testing.T) {
	pages := map[string]string{
		"":   `{"operations":[{"hash":"old","kind":"undo","made":"2026-11-01T00:00:00Z","state":"operation-waiting","steps":[]},{"hash":"lost","state":"operation-missing","steps":[]}],"next":"k1"}`,
		"k1": `{"operations":[{"hash":"new","kind":"undo","made":"2026-11-02T00:00:00Z","state":"operation-done","steps":[]}]}`,
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, pages[r.URL.Query().Get("after")])
	}))
	defer app.Close()
	do := func(args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		env := map[string]string{envURL: app.URL, envKey: "hush"}
		if got := run(args, func(k string) string { return env[k] }, &out, &errs); got != 0 {
			t.Fatalf("%v: status %d: %s%s", args, got, out.String(), errs.String())
		}
		return out.String()
	}
	text := do("operation", "list")
	if n, o, l := strings.Index(text, "new "), strings.Index(text, "old "), strings.Index(text, "lost "); n < 0 || o < n || l < o || strings.Contains(text, "0001") {
		t.Errorf("%s", text)
	}
	var all struct {
		Operations []handlers.OperationView `json:"operations"`
	}
	if err := json.Unmarshal([]byte(do("operation", "list", "--output", "json")), &all); err != nil || len(all.Operations) != 3 || all.Operations[0].Hash != "new" {
		t.Errorf("%v, %+v", err, all)
	}
}

// Who waits for an operation that a brake holds is told which, why and what to do.
func TestAWaitNamesTheBrake(t *testing.T) {
	v := handlers.OperationView{Hash: strings.Repeat("a", 64), State: reconcile.OperationUnderWay, Text: "The operation is under way; 0 of 1 steps are done.",
		Steps: []handlers.OperationStepView{{Step: remedy.DeallocateWave, State: remedy.Blocked, Why: "it waits"}}}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}))
	defer app.Close()
	do := func(args ...string) string {
		var out, errs bytes.Buffer
		env := map[string]string{envURL: app.URL}
		if got := run(args, func(k string) string { return env[k] }, &out, &errs); got != exitNot {
			t.Errorf("%v: status %d: %s%s", args, got, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}
	for brake, next := range map[string]string{reconcile.BrakeBreaker: "cvmguard brakes reset", reconcile.BrakeUnreadable: "cvmguard brakes reset",
		reconcile.BrakeCanary: "cvmguard brakes release", reconcile.BrakeLimit: "a day after", reconcile.BrakeWindow: "window opens",
		reconcile.BrakeContested: "cvmguard brakes resume", "another": "see cvmguard brakes show"} {
		v.Braked = brake
		want := "held by the brake " + brake + ": it waits; "
		if said := do("operation", "approve", v.Hash, "--wait", "1ns"); !strings.Contains(said, "it has not ended within 1ns: "+v.Text+" It is "+want) || !strings.Contains(said, next) {
			t.Errorf("%s: %s", brake, said)
		}
		if said := do("operation", "show", v.Hash); !strings.Contains(said, want) || !strings.Contains(said, next) {
			t.Errorf("%s: %s", brake, said)
		}
	}
	v.Braked = ""
	if said := do("operation", "approve", v.Hash, "--wait", "1ns"); strings.Contains(said, "brake") {
		t.Error(said)
	}
}

// A VM's reasons are listed once each, however many findings have them.
func TestReasonsAreListedOnce(t *testing.T) {
	var v handlers.VMView
	for _, f := range []struct {
		state  cvm.State
		reason string
	}{{cvm.UnknownState, "key-unreadable"}, {cvm.Fail, "not-confidential"}, {cvm.UnknownState, "key-unreadable"}, {cvm.Pass, "reboot-pending"}} {
		v.Findings = append(v.Findings, ledger.RowFinding{State: f.state, Reason: f.reason})
	}
	if got := reasons(v); got != "key-unreadable not-confidential" {
		t.Error(got)
	}
}
