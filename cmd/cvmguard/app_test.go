package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// standIn is a function app for tests: the real handlers on storage in memory,
// with a loop that looks at a VM as soon as it is asked to.
type standIn struct {
	server *httptest.Server
	store  *memstore.Store
	loop   *reconcile.Loop
	vms    []string
}

const standInSub = "00000000-0000-0000-0000-0000000000a1"

func standInVM(name string) string {
	return "/subscriptions/" + standInSub + "/resourceGroups/rg-app/providers/Microsoft.Compute/virtualMachines/" + name
}

func chainOf(vm string) string { return ledger.ChainKey(standInSub, cvm.RowKey(vm)) }

// newStandIn has vm-good, compliant and attested an hour ago, and vm-bad, whose
// OS disk is under a platform key. With a key it refuses who hasn't got it.
func newStandIn(key string) (*standIn, error) {
	a := &standIn{store: memstore.New(memstore.NewClock(time.Now())), vms: []string{standInVM("vm-good"), standInVM("vm-bad")}}
	ctx := context.Background()
	for i, vm := range a.vms {
		if err := a.look(ctx, vm, i == 0, "event"); err != nil {
			return nil, err
		}
	}
	queue := loopingQueue{a}
	a.loop = &reconcile.Loop{Azure: emptyAzure{}, Tables: a.store.Tables(), Blobs: a.store.Blobs(), Queue: queue, Policy: policy.Embedded(), Now: time.Now}
	h := &handlers.App{
		Loop:  a.loop,
		Fleet: &fleet.Fleet{Lister: listOf(a.vms), Tables: a.store.Tables(), Queue: queue, Blobs: a.store.Blobs(), Now: time.Now},
		Inbox: ledger.Inbox{Blobs: a.store.Blobs(), Tables: a.store.Tables()}, Tables: a.store.Tables(),
		Chains: ledger.Chains{Blobs: a.store.Blobs()}, Queue: queue, Policy: policy.Embedded(), Now: time.Now, Version: "test",
	}
	mux := customhandler.NewMux(nil, "api")
	handlers.Register(mux, func(context.Context) (*handlers.App, error) { return h, nil })
	a.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Functions-Key") != key {
			w.WriteHeader(http.StatusUnauthorized) // the host says no more
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return a, nil
}

// emptyAzure has no VM: those of the stand-in are known by their rows.
type emptyAzure struct{ reconcile.Azure }

func (emptyAzure) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	return cvm.VM{}, fault.New(fault.NotFound, "reading VM", string(id), "404")
}

// look is a turn: a record, and the row that it makes.
func (a *standIn) look(ctx context.Context, vm string, good bool, cause string) error {
	chain, now := chainOf(vm), time.Now().UTC()
	chains := ledger.Chains{Blobs: a.store.Blobs()}
	recs, err := chains.After(ctx, chain, 0, "")
	if err != nil {
		return err
	}
	posture, err := json.Marshal(cvm.Posture{ID: cvm.VMID(vm), VM: cvm.Known(cvm.VM{ID: cvm.VMID(vm), Location: "westeurope", UniqueID: "u-" + chain})})
	if err != nil {
		return err
	}
	rec := ledger.Record{Object: vm, Chain: chain, Seq: len(recs) + 1, At: now, Type: ledger.TypeState, Version: "test", Mode: policy.ModeObserve,
		Policy: policy.Embedded().Hash, Causes: []ledger.Cause{{Kind: cause, At: now}}, Posture: posture,
		Verdict: &policy.Verdict{Value: policy.Compliant, Kind: cvm.KindCustomerKey, TEE: cvm.TEESNP, PolicyHash: policy.Embedded().Hash, At: now,
			Findings: []policy.Finding{{Rule: "os-disk-customer-key", State: cvm.Pass, Severity: policy.High, Text: "It is."}}},
		Plan: &remedy.Plan{Mode: policy.ModeObserve, Steps: []remedy.Step{}},
	}
	if good {
		rec.Attestation = &cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Evidence: cvm.Outcome{State: cvm.Pass}, Checks: []cvm.Check{},
			Bundle: strings.Repeat("ab", 32), NonceIssued: now.Add(-time.Hour), JudgedAt: now, Way: "arm", Kind: "snp"}
	} else {
		rec.Verdict.Value, rec.Verdict.Kind = policy.NonCompliant, cvm.KindPlatformKey
		rec.Verdict.Findings = []policy.Finding{{Rule: "os-disk-customer-key", State: cvm.Fail, Severity: policy.High, Reason: "os-disk-platform-key",
			Text: "The OS disk is under a platform key.", Class: policy.NeedsRecreate}}
		rec.Plan.Steps = []remedy.Step{{Kind: remedy.Recreate, Class: policy.NeedsRecreate, State: remedy.Advised, Target: vm, Does: "Re-create it.", Disturbs: remedy.DisturbsRecreate}}
	}
	previous := ""
	if len(recs) > 0 {
		previous = recs[len(recs)-1].Hash
	}
	if _, _, err := chains.Append(ctx, rec, previous); err != nil {
		return err
	}
	if recs, err = chains.After(ctx, chain, 0, ""); err != nil {
		return err
	}
	row, err := ledger.RowOf(recs, now)
	if err != nil {
		return err
	}
	e, err := row.Entity()
	if err != nil {
		return err
	}
	tables := a.store.Tables()
	if there, err := tables.Get(ctx, ledger.TableVMs, e.PK, e.RK); err == nil {
		if err := tables.Delete(ctx, ledger.TableVMs, e.PK, e.RK, there.ETag); err != nil {
			return err
		}
	}
	_, err = tables.Insert(ctx, ledger.TableVMs, e)
	return err
}

// queued says whether a message with the text is on the queue.
func (a *standIn) queued(text string) bool {
	for _, m := range a.store.Queue().Peek(ledger.QueueReconcile) {
		if strings.Contains(string(m.Text), text) {
			return true
		}
	}
	return false
}

// loopingQueue takes the VM's turn at once.
type loopingQueue struct{ a *standIn }

func (q loopingQueue) Enqueue(ctx context.Context, queue string, text []byte, delay time.Duration) error {
	if err := q.a.store.Queue().Enqueue(ctx, queue, text, delay); err != nil {
		return err
	}
	var m struct {
		VM string `json:"vm"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	if m.VM == "" {
		return nil // a shared object, whose turn nobody takes here
	}
	return q.a.look(ctx, m.VM, strings.HasSuffix(m.VM, "vm-good"), "rerun")
}

// listOf lists the app's VMs, whatever the scope but a group of another name.
type listOf []string

func (l listOf) ListVMs(_ context.Context, s fleet.Scope, yield func(fleet.VM) error) error {
	if s.Group != "" && s.Group != "rg-app" {
		return nil
	}
	for _, vm := range l {
		if err := yield(fleet.VM{ID: cvm.VMID(vm)}); err != nil {
			return err
		}
	}
	return nil
}

// brokenApp answers with a status and what a gateway might say.
func brokenApp(status int) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if status >= 300 && status < 400 {
			w.Header().Set("Location", "https://elsewhere.example/")
		}
		w.WriteHeader(status)
		fmt.Fprint(w, "<html>gateway</html>")
	}))
}
