package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
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

const planDES = "/subscriptions/" + standInSub + "/resourceGroups/rg-app/providers/Microsoft.Compute/diskEncryptionSets/des1"

// operation keeps a plan of one step as the function app does, with the row that its
// first turn makes, and gives its hash.
func (a *standIn) operation(t *testing.T, kind remedy.OperationKind, object string, change ...func(*ledger.Row)) (hash string, op remedy.Operation) {
	t.Helper()
	ctx := context.Background()
	op = remedy.Operation{Schema: remedy.OperationSchema, Kind: kind, Object: object, Subscription: standInSub, Made: time.Now().UTC().Truncate(time.Second),
		Policy: policy.Embedded().Hash, Why: "For a test.", Steps: []remedy.Step{{Kind: remedy.SetDESKey, Target: planDES, State: remedy.Planned, Does: "Sets it.", Args: map[string]string{"step": "1"}}}}
	hash, err := ledger.Operations{Blobs: a.store.Blobs()}.Put(ctx, op)
	if err != nil {
		t.Fatal(err)
	}
	o, err := reconcile.SharedObject(ledger.OperationID(standInSub, hash))
	if err != nil {
		t.Fatal(err)
	}
	row := ledger.Row{PK: o.PK, RK: o.RK, ID: o.ID, SharedKind: o.Kind}
	for _, f := range change {
		f(&row)
	}
	e, err := row.Entity()
	if err == nil {
		_, err = a.store.Tables().Insert(ctx, ledger.TableShared, e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return hash, op
}

// commandLine runs commands against the app, each with the status that it must have.
func commandLine(t *testing.T, a *standIn) func(status int, args ...string) string {
	return func(status int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(args, func(k string) string { return map[string]string{envURL: a.server.URL}[k] }, &out, &errs); got != status {
			t.Errorf("%v: status %d, not %d: %s%s", args, got, status, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}
}

func TestAPlanIsApprovedByItsOwnCommand(t *testing.T) {
	a, err := newStandIn("")
	if err != nil {
		t.Fatal(err)
	}
	defer a.server.Close()
	a.loop.Policy = policy.Embedded().WithMode(policy.ModeEnforce)
	do := commandLine(t, a)
	vm := standInVM("vm-bad")
	rotate, _ := a.operation(t, remedy.RotateKeyOperation, planDES)
	recreate, _ := a.operation(t, remedy.RecreateOperation, vm)
	back, _ := a.operation(t, remedy.UndoOperation, vm)
	undo, _ := a.operation(t, remedy.UndoOperation, chainOf(vm)+"/00000003")
	for _, c := range []struct{ command, hash, want string }{
		{"rotate", recreate, "this plan makes VM vm-bad anew: use cvmguard recreate apply --plan " + recreate},
		{"rotate", back, "this plan brings VM vm-bad back on the OS disk that it had: use cvmguard recreate apply --plan " + back},
		{"rotate", undo, "this plan undoes the step of record " + chainOf(vm) + "/00000003: use cvmguard operation approve " + undo},
		{"recreate", rotate, "this plan rotates the key of disk encryption set des1: use cvmguard rotate apply --plan " + rotate},
		{"recreate", undo, "use cvmguard operation approve " + undo},
		{"rotate", strings.Repeat("0", 64), "the function app refused the plan's hash \"" + strings.Repeat("0", 64) + "\": there is no plan with this hash; see cvmguard operation list"},
	} {
		if said := do(1, c.command, "apply", "--plan", c.hash); !strings.Contains(said, c.want) || strings.Contains(said, "kind") || strings.Contains(said, ".json") {
			t.Errorf("%s apply: %s", c.command, said)
		}
	}
	if a.queued(`"kind":"approve"`) {
		t.Fatal("a plan was approved by the other kind's command")
	}
	do(0, "rotate", "apply", "--plan", strings.ToUpper(rotate))
	do(0, "recreate", "apply", "--plan", recreate)
	do(0, "recreate", "apply", "--plan", back)
	do(0, "operation", "approve", undo)
	if !a.queued(`"kind":"approve"`) {
		t.Error("no plan was approved")
	}
}

// Words of which nothing would come are refused with where the plan stands.
func TestWordsThatDoNothing(t *testing.T) {
	a, err := newStandIn("")
	if err != nil {
		t.Fatal(err)
	}
	defer a.server.Close()
	a.loop.Policy = policy.Embedded().WithMode(policy.ModeEnforce)
	do := commandLine(t, a)
	refused := func(word, hash, want string) {
		t.Helper()
		if said := do(1, "operation", word, hash); !strings.Contains(said, want) || strings.Contains(said, ": said;") {
			t.Errorf("%s: %s", word, said)
		}
	}
	fresh, _ := a.operation(t, remedy.RotateKeyOperation, planDES)
	refused("pause", fresh, "It waits for a person's approval")
	refused("resume", fresh, "It waits for a person's approval")
	do(0, "operation", "approve", fresh)
	do(0, "operation", "pause", fresh)
	do(0, "operation", "resume", fresh)
	do(0, "operation", "stop", fresh)
	refused("approve", fresh, "The operation was stopped")
	done, _ := a.operation(t, remedy.RotateKeyOperation, planDES+"2", func(r *ledger.Row) { r.Operation = &ledger.OperationState{Approved: time.Now(), Done: 1} })
	for _, word := range reconcile.OperationWords() {
		refused(word, done, "All steps are done")
	}
	void, _ := a.operation(t, remedy.RotateKeyOperation, planDES+"3", func(r *ledger.Row) {
		r.Operation = &ledger.OperationState{Approved: time.Now(), Void: "the set has another key"}
	})
	for _, word := range reconcile.OperationWords() {
		refused(word, void, "It was refused for good: the set has another key")
	}
}

// What an undo needs is found: by the plan's hash, or by the id of what the step was
// about, with the records' names.
func TestTheRecordsOfOperationsAndSharedObjects(t *testing.T) {
	a, err := newStandIn("")
	if err != nil {
		t.Fatal(err)
	}
	defer a.server.Close()
	do := commandLine(t, a)
	ctx, chains := context.Background(), ledger.Chains{Blobs: a.store.Blobs()}
	wants := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("it lacks %q: %s", p, text)
			}
		}
	}
	// keep makes one outcome record of a step in an object's chain.
	keep := func(o reconcile.Object, step remedy.Step) (name string, head ledger.Row) {
		t.Helper()
		step.State = remedy.Done
		rec := ledger.Record{Object: o.ID, Chain: o.Chain(), Seq: 1, At: time.Now().UTC(), Type: ledger.TypeOutcome, Version: "test", Mode: policy.ModeEnforce,
			Policy: policy.Embedded().Hash, Step: &step, Outcome: &ledger.Outcome{State: remedy.Done}, Causes: []ledger.Cause{{Kind: "shared", At: time.Now().UTC(), ID: ledger.OperationID(standInSub, strings.Repeat("ab", 32))}}}
		hash, _, err := chains.Append(ctx, rec, "")
		if err != nil {
			t.Fatal(err)
		}
		return o.Chain() + "/00000001", ledger.Row{PK: o.PK, RK: o.RK, ID: o.ID, SharedKind: o.Kind, HeadSeq: 1, HeadHash: hash}
	}
	var name string
	hash, _ := a.operation(t, remedy.RotateKeyOperation, planDES, func(r *ledger.Row) {
		o, err := reconcile.SharedObject(r.ID)
		if err != nil {
			t.Fatal(err)
		}
		var head ledger.Row
		name, head = keep(o, remedy.Step{Kind: remedy.SetDESKey, Target: planDES, Args: map[string]string{"step": "1"}})
		r.HeadSeq, r.HeadHash, r.Operation = head.HeadSeq, head.HeadHash, &ledger.OperationState{Approved: time.Now(), Done: 1}
	})
	wants(do(0, "operation", "show", hash), "RECORD", name)
	for _, given := range []string{hash, strings.ToUpper(hash), ledger.OperationID(standInSub, hash), strings.TrimSuffix(name, "/00000001")} {
		wants(do(0, "vms", given, "--records"), "set-des-key", "operation "+strings.Repeat("ab", 32), name)
		wants(do(0, "vms", given), "operation", hash)
	}
	for _, id := range []string{planDES, "https://kv-app.vault.azure.net/keys/os", "/subscriptions/" + standInSub + "/resourceGroups/rg-app/providers/Microsoft.KeyVault/vaults/kv-app", standInSub + "/regions/westeurope"} {
		o, err := reconcile.SharedObject(id)
		if err != nil {
			t.Fatal(err)
		}
		name, row := keep(o, remedy.Step{Kind: remedy.DisableAutoRotation, Target: id})
		e, err := row.Entity()
		if err == nil {
			_, err = a.store.Tables().Insert(ctx, ledger.TableShared, e)
		}
		if err != nil {
			t.Fatal(err)
		}
		wants(do(0, "vms", id, "--records"), "disable-des-auto-rotation", name)
		wants(do(0, "vms", o.Chain(), "--seq", "1"), `"disable-des-auto-rotation"`)
		wants(do(1, "vms", id, "--seq", "2"), "the "+string(o.Kind)+" has one")
		wants(do(1, "fresh", o.Chain(), "--max-age", "1h"), "no VM has this key")
	}
	wants(do(1, "vms", strings.Repeat("0", 64), "--records"), "no VM has this key, no shared object and no plan")
	wants(do(2, "vms", "des1"), "neither the key nor the id of a VM, a shared object or a plan")
}

// What is wrong with a plan that is asked for is said by the command's own flag.
func TestPlanCommandsNameTheirFlags(t *testing.T) {
	a, err := newStandIn("")
	if err != nil {
		t.Fatal(err)
	}
	defer a.server.Close()
	a.loop.Planning = struct{ remedy.RecreationReader }{} // what is asked for here is refused before anything is read
	do := commandLine(t, a)
	for want, args := range map[string][]string{
		`refused --des "des1"`:            {"rotate", "plan", "--des", "des1"},
		`for example --des /subscription`: {"rotate", "plan", "--des", "des1"},
		`refused --key "os"`:              {"rotate", "plan", "--des", planDES, "--key", "os"},
		`refused --wave "99"`:             {"rotate", "plan", "--des", planDES, "--wave", "99"},
		`refused the record "7"`:          {"undo", "7"},
		`for example cvmguard undo `:      {"undo", "7"},
		`there is no such record`:         {"undo", chainOf(standInVM("vm-bad")) + "/00000099"},
		`refused --plan "7"`:              {"recreate", "back", "--plan", "7"},
		`refused --des "x"`:               {"recreate", "plan", "--vm", standInVM("vm-bad"), "--des", "x"},
	} {
		if said := do(1, args...); !strings.Contains(said, want) || strings.Contains(said, `"kind"`) {
			t.Errorf("%v: it lacks %s: %s", args, want, said)
		}
	}
}
