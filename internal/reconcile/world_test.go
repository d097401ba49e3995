package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// The estate of the tests: one confidential VM under a customer key, or several
// on one disk encryption set.
const (
	sub     = "00000000-0000-0000-0000-000000000001"
	rg      = "/subscriptions/" + sub + "/resourceGroups/rg"
	desID   = cvm.DESID(rg + "/providers/Microsoft.Compute/diskEncryptionSets/des1")
	vaultID = rg + "/providers/Microsoft.KeyVault/vaults/kv1"
	keyURL  = "https://kv1.vault.azure.net/keys/k1/0123456789abcdef0123456789abcdef"
)

func vmIDOf(name string) cvm.VMID {
	return cvm.VMID(rg + "/providers/Microsoft.Compute/virtualMachines/" + name)
}

// world is a small Azure in memory behind the loop's interfaces, with a call log
// of accepted writes and hooks for crashes around each of them.
type world struct {
	clock  *memstore.Clock
	store  *memstore.Store
	opTime time.Duration // how long an operation takes

	mu     sync.Mutex
	vms    map[cvm.VMID]*cvm.VM
	des    cvm.DES
	key    cvm.Key
	vault  cvm.Vault
	runs   map[cvm.VMID]*run
	ops    map[string]*operation
	writes []string
	reads  map[string]int
	hook   func(when string) // called before and after each write
	fail   map[string]error  // by method: the next call fails with it
}

type run struct {
	spec remedy.RunCommandSpec
	op   *operation
}

type operation struct {
	ends   time.Time
	effect func()
	done   bool
}

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	clock := memstore.NewClock(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	w := &world{clock: clock, store: memstore.New(clock), opTime: 5 * time.Second, vms: map[cvm.VMID]*cvm.VM{}, runs: map[cvm.VMID]*run{},
		ops: map[string]*operation{}, reads: map[string]int{}, fail: map[string]error{}}
	for i, n := range names {
		id := vmIDOf(n)
		w.vms[id] = &cvm.VM{ID: id, Name: n, Location: "westeurope", UniqueID: fmt.Sprintf("00000000-0000-0000-0000-%012d", i+1), ETag: "1",
			Size: "Standard_DC4as_v5", ProvisioningState: "Succeeded", SecurityType: "ConfidentialVM", SecureBoot: cvm.True, VTPM: cvm.True, Generation: "V2",
			OS: "Linux", Power: "running", InstanceView: true, AgentReady: cvm.True, AgentVersion: "2.11",
			OSDisk: cvm.OSDiskRef{ID: diskOf(n), Name: n, SecurityEncryptionType: "DiskWithVMGuestState", SecureDES: desID},
			Extensions: []cvm.Extension{{Name: "GuestAttestation", Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation", Version: "1.0",
				ProvisioningState: "Succeeded", HandlerStatus: "Ready"}}}
	}
	w.des = cvm.DES{ID: desID, Name: "des1", Location: "westeurope", Type: cvm.DESTypeConfidential, KeyURL: keyURL, SourceVault: vaultID,
		ProvisioningState: "Succeeded", IdentityType: "SystemAssigned", PrincipalID: "00000000-0000-0000-0000-0000000000d1"}
	rp := `{"version":"1.0.0","anyOf":[{"authority":"https://sharedweu.weu.attest.azure.net","allOf":[{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"}]}]}`
	w.key = cvm.Key{ID: keyURL, Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True, AttributesRead: true,
		RecoveryLevel: "Recoverable", Policy: cvm.ReleasePolicy{Present: true, Immutable: true, Decoded: rp}}
	w.vault = cvm.Vault{ID: vaultID, Name: "kv1", Host: "kv1.vault.azure.net", Location: "westeurope", SKU: "premium", PurgeProtection: cvm.True, SoftDelete: cvm.True,
		RBAC: cvm.True, DefaultAction: "Allow", Bypass: "AzureServices", PublicAccess: "Enabled", ProvisioningState: "Succeeded"}
	return w
}

func diskOf(vm string) cvm.DiskID {
	return cvm.DiskID(rg + "/providers/Microsoft.Compute/disks/" + vm + "-os")
}

// settle lets the operations whose time has come take effect. The lock is held.
func (w *world) settle() {
	now := w.clock.Now()
	for _, k := range slices.Sorted(maps.Keys(w.ops)) {
		if o := w.ops[k]; !o.done && !now.Before(o.ends) {
			o.done = true
			o.effect()
		}
	}
}

func read[T any](w *world, method string, f func() (T, error)) (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads[method]++
	w.settle()
	if err := w.fail[method]; err != nil {
		delete(w.fail, method)
		var zero T
		return zero, err
	}
	return f()
}

func notFound(id string) error { return fault.New(fault.NotFound, "reading", id, "404") }

func (w *world) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	return read(w, "VM", func() (cvm.VM, error) {
		for k, v := range w.vms {
			if strings.EqualFold(string(k), string(id)) {
				c := *v
				c.Tags = maps.Clone(v.Tags)
				c.Extensions = slices.Clone(v.Extensions)
				return c, nil
			}
		}
		return cvm.VM{}, notFound(string(id))
	})
}

func (w *world) Disk(_ context.Context, id cvm.DiskID) (cvm.Disk, error) {
	return read(w, "Disk", func() (cvm.Disk, error) {
		return cvm.Disk{ID: id, Location: "westeurope", State: "Attached", SecurityType: "ConfidentialVM_DiskEncryptedWithCustomerKey", HasSecurityProfile: true,
			SecureDES: desID, ConfidentialVersion: "V1", Generation: "V2", ProvisioningState: "Succeeded", NetworkAccessPolicy: "DenyAll", CreateOption: "FromImage",
			EncryptionType: "EncryptionAtRestWithPlatformKey"}, nil
	})
}

func (w *world) readDES() (cvm.DES, error) {
	return read(w, "DES", func() (cvm.DES, error) { return w.des, nil })
}
func (w *world) readKey() (cvm.Key, error) {
	return read(w, "Key", func() (cvm.Key, error) { return w.key, nil })
}
func (w *world) readVault() (cvm.Vault, error) {
	return read(w, "Vault", func() (cvm.Vault, error) { return w.vault, nil })
}
func (w *world) readRights() (cvm.Rights, error) {
	return read(w, "Rights", func() (cvm.Rights, error) {
		return cvm.Rights{Model: "rbac", DESIdentity: []string{"get", "wrapkey", "unwrapkey"}}, nil
	})
}

// reader is the world as the loop reads it.
type reader struct{ *world }

func (r reader) DES(context.Context, cvm.DESID, bool) (cvm.DES, error)        { return r.readDES() }
func (r reader) Key(context.Context, cvm.KeyID, bool) (cvm.Key, error)        { return r.readKey() }
func (r reader) Vault(context.Context, cvm.VaultRef, bool) (cvm.Vault, error) { return r.readVault() }
func (r reader) Rights(context.Context, cvm.RightsQuery, bool) (cvm.Rights, error) {
	return r.readRights()
}
func (r reader) DESDisks(context.Context, cvm.DESID) ([]cvm.DiskID, error) {
	return read(r.world, "DESDisks", func() ([]cvm.DiskID, error) {
		var ids []cvm.DiskID
		for _, id := range slices.Sorted(maps.Keys(r.vms)) {
			ids = append(ids, diskOf(r.vms[id].Name))
		}
		return ids, nil
	})
}

// writer is the world as steps are applied to it.
type writer struct{ *world }

func (x writer) DES(context.Context, cvm.DESID) (cvm.DES, error)             { return x.readDES() }
func (x writer) Key(context.Context, cvm.KeyID) (cvm.Key, error)             { return x.readKey() }
func (x writer) Vault(context.Context, cvm.VaultRef) (cvm.Vault, error)      { return x.readVault() }
func (x writer) Rights(context.Context, cvm.RightsQuery) (cvm.Rights, error) { return x.readRights() }

// begin accepts a write and starts its operation.
func (w *world) begin(what string, start, effect func()) (remedy.Progress, error) {
	if w.hook != nil {
		w.hook("before " + what)
	}
	w.mu.Lock()
	w.settle()
	w.writes = append(w.writes, what)
	token := fmt.Sprintf("op-%d", len(w.writes))
	if start != nil {
		start()
	}
	w.ops[token] = &operation{ends: w.clock.Now().Add(w.opTime), effect: effect}
	w.mu.Unlock()
	if w.hook != nil {
		w.hook("after " + what)
	}
	return remedy.Progress{State: remedy.Underway, Token: token, RetryAfter: 2 * time.Second}, nil
}

func (w *world) PollOperation(_ context.Context, token string) (remedy.Progress, error) {
	return read(w, "PollOperation", func() (remedy.Progress, error) {
		o, ok := w.ops[token]
		if !ok {
			return remedy.Progress{}, notFound(token)
		}
		if !o.done {
			return remedy.Progress{State: remedy.Underway, Token: token, RetryAfter: 2 * time.Second}, nil
		}
		return remedy.Progress{State: remedy.Effected}, nil
	})
}

func (x writer) BeginTags(_ context.Context, id cvm.VMID, etag string, tags map[string]string) (remedy.Progress, error) {
	v := x.vms[id]
	return x.begin("tags "+v.Name, func() { v.ProvisioningState = "Updating" }, func() {
		v.Tags, v.ProvisioningState = tags, "Succeeded"
		v.ETag += "+"
	})
}

func (x writer) BeginRunCommand(_ context.Context, id cvm.VMID, _, _ string, rc remedy.RunCommandSpec) (remedy.Progress, error) {
	v := x.vms[id]
	r := &run{spec: rc}
	nonce := rc.Protected["NONCE"]
	out := rc.Protected["OUT_URL"]
	p, err := x.begin("run-command "+v.Name, func() { x.runs[id] = r }, func() { x.collect(nonce, out) })
	if err == nil {
		r.op = x.ops[p.Token]
	}
	return p, err
}

// collect is the guest: it brings a bundle over the nonce. The lock is held.
func (w *world) collect(nonce, out string) {
	raw, err := hex.DecodeString(nonce)
	if err != nil {
		raw, err = base64.RawURLEncoding.DecodeString(nonce)
	}
	if err != nil {
		panic("the nonce is neither hex nor base64url: " + nonce)
	}
	body, _ := json.Marshal(map[string]any{"version": 1, "nonce": base64.RawURLEncoding.EncodeToString(raw)})
	name := out[strings.Index(out, ledger.ContainerIncoming+"/")+len(ledger.ContainerIncoming)+1:]
	name, _, _ = strings.Cut(name, "?")
	hook := w.store.Hook
	w.store.Hook = nil // the guest doesn't crash with the handler
	if err := w.store.Blobs().Create(context.Background(), ledger.ContainerIncoming, name, body); err != nil {
		panic(err)
	}
	w.store.Hook = hook
}

func (x writer) RunCommand(_ context.Context, id cvm.VMID, _ string) (remedy.RunCommandView, error) {
	return read(x.world, "RunCommand", func() (remedy.RunCommandView, error) {
		r := x.runs[id]
		if r == nil {
			return remedy.RunCommandView{}, notFound("run command")
		}
		v := remedy.RunCommandView{ProvisioningState: "Updating", Parameters: r.spec.Parameters, ExecutionState: "Running"}
		if r.op == nil || r.op.done {
			v.ProvisioningState, v.ExecutionState = "Succeeded", "Succeeded"
		}
		return v, nil
	})
}

func (x writer) BeginDESAutoRotation(_ context.Context, _ cvm.DESID, on bool) (remedy.Progress, error) {
	return x.begin("des auto-rotation "+fmt.Sprint(on), func() { x.des.ProvisioningState = "Updating" }, func() {
		x.des.AutoRotation, x.des.ProvisioningState = on, "Succeeded"
	})
}

var errNotHere = fault.New(fault.Bug, "writing", "", "the tests' world has no such write")

func (x writer) BeginExtension(context.Context, cvm.VMID, string, string, remedy.ExtensionSpec) (remedy.Progress, error) {
	return remedy.Progress{}, errNotHere
}
func (x writer) BeginDeallocate(context.Context, cvm.VMID) (remedy.Progress, error) {
	return remedy.Progress{}, errNotHere
}
func (x writer) BeginStart(context.Context, cvm.VMID) (remedy.Progress, error) {
	return remedy.Progress{}, errNotHere
}
func (x writer) BeginDiskDES(context.Context, cvm.DiskID, cvm.DESID, string) (remedy.Progress, error) {
	return remedy.Progress{}, errNotHere
}
func (x writer) BeginCreateDES(context.Context, cvm.DESID, string, cvm.KeyID, string, map[string]string) (remedy.Progress, error) {
	return remedy.Progress{}, errNotHere
}
func (x writer) CreateKey(context.Context, string, string, int, string, bool) (cvm.Key, error) {
	return cvm.Key{}, errNotHere
}
func (x writer) UpdateKeyReleasePolicy(context.Context, cvm.KeyID, string) error { return errNotHere }
func (x writer) GrantKey(context.Context, cvm.Grant) error                       { return errNotHere }

var (
	_ Azure        = reader{}
	_ remedy.Azure = writer{}
)

type tool struct{}

func (tool) Ensure(context.Context) (string, string, error) {
	return strings.Repeat("ab", 32), "https://storage.example/tools/x?sig=1", nil
}

// loop makes a worker: a process that has just started.
func (w *world) loop(t testing.TB, mode string) *Loop {
	t.Helper()
	doc := policy.Embedded().WithMode(mode)
	ap := remedy.NewApplier(writer{w}, doc)
	ap.Script, ap.Now = func(string) string { return "#!/bin/sh\n" }, w.clock.Now
	s := DefaultSettings()
	return &Loop{Azure: reader{w}, Blobs: w.store.Blobs(), SAS: w.store.Blobs(), Tables: w.store.Tables(), Queue: w.store.Queue(), Applier: ap,
		Provider: func(string) string { return "https://sharedweu.weu.attest.azure.net" }, Tool: tool{}, Policy: doc, Settings: s, Now: w.clock.Now,
		Rand: entropy{}, Version: "test", Development: true, Judge: judge}
}

// entropy is randomness that needs no system.
type entropy struct{}

func (entropy) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return len(p), nil
}

// judge stands for the verifier: good nonce, good evidence.
func judge(_ context.Context, bundle []byte, n attest.Nonce, _ attest.Subject, _ attest.Options, now time.Time) attest.Result {
	a := cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Evidence: cvm.Outcome{State: cvm.Pass}, NonceIssued: n.Issued, JudgedAt: now, Way: n.Way, Kind: "snp"}
	if n.State != attest.NonceGood {
		a.Evidence = cvm.Outcome{State: cvm.Fail, Reason: "nonce." + string(n.State)}
	}
	sum := sha256.Sum256(bundle)
	a.Bundle = hex.EncodeToString(sum[:])
	return attest.Result{Attestation: a}
}

// crash is what a hook panics with.
type crash struct{ at string }

// drain plays the host: it delivers messages until nothing is due within the
// horizon. A turn that crashes or fails leaves its message to come again.
func (w *world) drain(t testing.TB, l *Loop, restart func() *Loop) {
	t.Helper()
	const horizon = 30 * time.Minute
	q := w.store.Queue()
	for range 5000 {
		msg, ok := q.Dequeue(ledger.QueueReconcile, 10*time.Minute)
		if !ok {
			at, any := q.Next(ledger.QueueReconcile)
			if !any || at.Sub(w.clock.Now()) > horizon {
				return
			}
			w.clock.Set(at)
			continue
		}
		w.clock.Advance(5 * time.Millisecond)
		err, crashed := w.deliver(l, msg.Text)
		switch {
		case crashed:
			l = restart() // the message stays hidden until its time is over
		case err != nil:
			q.Requeue(ledger.QueueReconcile, msg, 30*time.Second)
		default:
			q.Done(ledger.QueueReconcile, msg)
		}
	}
	t.Fatal("the loop does not come to rest")
}

func (w *world) deliver(l *Loop, text []byte) (err error, crashed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	m, err := DecodeMessage(text)
	if err != nil {
		return err, false
	}
	return l.Turn(context.Background(), m), false
}

func (w *world) announce(t testing.TB, l *Loop, names ...string) {
	t.Helper()
	for i, n := range names {
		m := Message{VM: string(vmIDOf(n)), Cause: ledger.Cause{Kind: causeEvent, At: w.clock.Now(), ID: fmt.Sprint("event-", n, i)}}
		if err := l.Queue.Enqueue(context.Background(), ledger.QueueReconcile, m.Encode(), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// row reads an object's row.
func (w *world) row(t testing.TB, o Object) ledger.Row {
	t.Helper()
	e, err := w.store.Tables().Get(context.Background(), o.Table, o.PK, o.RK)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ledger.DecodeRow(e)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// history is what an auditor sees of an object: verdicts, intents and outcomes in
// their order, repetitions of a verdict left out.
func (w *world) history(t testing.TB, o Object) []string {
	t.Helper()
	var out []string
	c := ledger.Chains{Blobs: w.store.Blobs()}
	recs, err := c.After(context.Background(), o.Chain(), 0, "")
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, r := range recs {
		if r.Record.Type == ledger.TypeOutcome {
			out = append(out, "outcome "+string(r.Record.Step.Kind)+" "+string(r.Record.Outcome.State))
			continue
		}
		line := "verdict " + string(r.Record.Verdict.Value)
		if line != last {
			out = append(out, line)
			last = line
		}
	}
	return out
}

func mustVM(t testing.TB, name string) Object {
	t.Helper()
	o, err := VMObject(string(vmIDOf(name)))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustShared(t testing.TB, id string) Object {
	t.Helper()
	o, err := SharedObject(id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}
