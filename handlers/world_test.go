package handlers_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/azure"
	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

// The estate of the tests.
const (
	sub     = "00000000-0000-0000-0000-0000000000A1"
	lowSub  = "00000000-0000-0000-0000-0000000000a1"
	inGroup = "/subscriptions/" + sub + "/resourceGroups/rg-app/providers/"
	keyURL  = "https://kv-app.vault.azure.net/keys/os"
	host    = "https://guard.example"
)

func vmNamed(name string) string { return inGroup + "Microsoft.Compute/virtualMachines/" + name }

func chainOf(vm string) string { return ledger.ChainKey(lowSub, cvm.RowKey(vm)) }

// world is one function app: the real handlers behind the real mux on a port,
// storage in memory, a small Azure and a clock that stands still.
type world struct {
	t      testing.TB
	clock  *memstore.Clock
	store  *memstore.Store
	azure  *smallAzure
	lister *estate
	app    *handlers.App
	mux    *customhandler.Mux
	server *httptest.Server
	logged *lockedBuffer
	// sourceErr is what making the App fails with.
	sourceErr error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	clock := memstore.NewClock(time.Date(2026, 11, 20, 10, 20, 0, 0, time.UTC))
	w := &world{t: t, clock: clock, store: memstore.New(clock), azure: &smallAzure{fail: map[string]error{}}, lister: &estate{}, logged: &lockedBuffer{}}
	log := slog.New(slog.NewJSONHandler(w.logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	blobs, tables, queue := w.store.Blobs(), w.store.Tables(), w.store.Queue()
	random := &lockedReader{r: rand.NewChaCha8([32]byte{7})}
	inbox := ledger.Inbox{Blobs: blobs, Tables: tables}
	nonces := ledger.Nonces{Tables: tables, Evidence: ledger.Evidence{Blobs: blobs}}
	doc := policy.Embedded().WithMode(policy.ModeObserve)
	settings := reconcile.DefaultSettings()
	w.app = &handlers.App{
		Loop: &reconcile.Loop{Azure: w.azure, Blobs: blobs, SAS: blobs, Tables: tables, Queue: queue,
			Provider: func(string) string { return "" }, Policy: doc, Settings: settings, Now: clock.Now, Rand: random, Log: log, Version: "test"},
		Fleet: &fleet.Fleet{Lister: w.lister, Decider: decider{}, Tables: tables, Queue: queue, Blobs: blobs, Inbox: inbox, Nonces: nonces,
			Now: clock.Now, Stale: 24 * time.Hour, Missed: 15 * time.Minute, Log: log},
		Decider: decider{}, DecideKey: decider{}.DecideKey, Inbox: inbox, Nonces: nonces, Tables: tables, Chains: ledger.Chains{Blobs: blobs},
		Queue: queue, Policy: doc, Now: clock.Now, Rand: random, Version: "test", SlowPace: settings.SlowPace, NonceLife: settings.NonceLife,
		Health: func(context.Context) []handlers.Dependency {
			return []handlers.Dependency{{Name: "storage", Ready: true}}
		},
	}
	w.mux = customhandler.NewMux(log, "api")
	handlers.Register(w.mux, func(context.Context) (*handlers.App, error) { return w.app, w.sourceErr })
	w.server = httptest.NewServer(w.mux)
	t.Cleanup(w.server.Close)
	return w
}

// decider reads events as the program does.
type decider struct{}

func (decider) Decide(event []byte) (cvm.VMID, ledger.Cause, string, error) {
	d, err := classify(event)
	if err == nil && d.VM == "" && d.Drop == "" {
		d.Drop, d.Why = azure.DropOtherEvent, "it is about a key"
	}
	return d.VM, d.Cause, why(d), err
}

func (decider) DecideKey(event []byte) (cvm.KeyID, ledger.Cause, string, error) {
	d, err := classify(event)
	if err == nil && d.Key == "" && d.Drop == "" {
		d.Drop, d.Why = azure.DropOtherEvent, "it is about a VM"
	}
	return d.Key, d.Cause, why(d), err
}

func classify(event []byte) (azure.Decision, error) {
	e, err := azure.ParseEvent(event)
	if err != nil {
		return azure.Decision{}, err
	}
	return azure.Classify(e), nil
}

func why(d azure.Decision) string {
	if d.Drop == "" {
		return ""
	}
	return d.Drop + ": " + d.Why
}

// estate is what Resource Graph lists.
type estate struct {
	vms   []fleet.VM
	err   error // after the VMs
	asked []fleet.Scope
}

func (e *estate) ListVMs(_ context.Context, s fleet.Scope, yield func(fleet.VM) error) error {
	e.asked = append(e.asked, s)
	for _, vm := range e.vms {
		if err := yield(vm); err != nil {
			return err
		}
	}
	return e.err
}

// smallAzure answers for any VM with a sound one under the key keyURL; a method
// in fail answers with its error.
type smallAzure struct{ fail map[string]error }

func (a *smallAzure) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	name := path.Base(string(id))
	return cvm.VM{ID: id, Name: name, Location: "westeurope", UniqueID: "00000000-0000-0000-0000-000000000b0b", ETag: "1", Size: "Standard_DC4as_v5",
		ProvisioningState: "Succeeded", SecurityType: "ConfidentialVM", SecureBoot: cvm.True, VTPM: cvm.True, Generation: "V2", OS: "Linux", Power: "running",
		InstanceView: true, AgentReady: cvm.True, AgentVersion: "2.11",
		OSDisk: cvm.OSDiskRef{ID: inGroup + "Microsoft.Compute/disks/" + cvm.DiskID(name), Name: name, SecurityEncryptionType: "DiskWithVMGuestState", SecureDES: desID},
		Extensions: []cvm.Extension{{Name: "GuestAttestation", Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation", Version: "1.0",
			ProvisioningState: "Succeeded", HandlerStatus: "Ready"}}}, a.fail["VM"]
}

const desID = cvm.DESID(inGroup + "Microsoft.Compute/diskEncryptionSets/des1")

func (a *smallAzure) Disk(_ context.Context, id cvm.DiskID) (cvm.Disk, error) {
	return cvm.Disk{ID: id, Location: "westeurope", State: "Attached", SecurityType: "ConfidentialVM_DiskEncryptedWithCustomerKey", HasSecurityProfile: true,
		SecureDES: desID, ConfidentialVersion: "V1", Generation: "V2", ProvisioningState: "Succeeded", NetworkAccessPolicy: "DenyAll", CreateOption: "FromImage",
		EncryptionType: "EncryptionAtRestWithPlatformKey"}, a.fail["Disk"]
}

func (a *smallAzure) DES(context.Context, cvm.DESID, bool) (cvm.DES, error) {
	return cvm.DES{ID: desID, Name: "des1", Location: "westeurope", Type: cvm.DESTypeConfidential, KeyURL: keyURL + "/0123456789abcdef0123456789abcdef",
		SourceVault: inGroup + "Microsoft.KeyVault/vaults/kv-app", ProvisioningState: "Succeeded", IdentityType: "SystemAssigned",
		PrincipalID: "00000000-0000-0000-0000-0000000000d1"}, a.fail["DES"]
}

func (a *smallAzure) DESDisks(context.Context, cvm.DESID) ([]cvm.DiskID, error) {
	return nil, a.fail["DESDisks"]
}

func (a *smallAzure) Key(_ context.Context, id cvm.KeyID, _ bool) (cvm.Key, error) {
	rp := `{"version":"1.0.0","anyOf":[{"authority":"https://sharedweu.weu.attest.azure.net","allOf":[{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"}]}]}`
	return cvm.Key{ID: id, Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True, AttributesRead: true,
		RecoveryLevel: "Recoverable", Policy: cvm.ReleasePolicy{Present: true, Immutable: true, Decoded: rp}}, a.fail["Key"]
}

func (a *smallAzure) Vault(context.Context, cvm.VaultRef, bool) (cvm.Vault, error) {
	return cvm.Vault{ID: inGroup + "Microsoft.KeyVault/vaults/kv-app", Name: "kv-app", Host: "kv-app.vault.azure.net", Location: "westeurope", SKU: "premium",
		PurgeProtection: cvm.True, SoftDelete: cvm.True, RBAC: cvm.True, DefaultAction: "Allow", Bypass: "AzureServices", PublicAccess: "Enabled",
		ProvisioningState: "Succeeded"}, a.fail["Vault"]
}

func (a *smallAzure) Rights(context.Context, cvm.RightsQuery, bool) (cvm.Rights, error) {
	return cvm.Rights{Model: "rbac", DESIdentity: []string{"get", "wrapkey", "unwrapkey"}}, a.fail["Rights"]
}

// queued gives the messages on reconcile.
func (w *world) queued() []reconcile.Message {
	w.t.Helper()
	out := []reconcile.Message{}
	for _, q := range w.store.Queue().Peek(ledger.QueueReconcile) {
		m, err := reconcile.DecodeMessage(q.Text)
		if err != nil {
			w.t.Fatalf("what was put on the queue can't be read: %v", err)
		}
		out = append(out, m)
	}
	return out
}

// letters gives the inbox with its bytes, oldest first.
func (w *world) letters() []ledger.Letter {
	w.t.Helper()
	var out []ledger.Letter
	err := w.app.Inbox.List(context.Background(), 1000, false, func(l ledger.Letter) bool {
		out = append(out, l)
		return true
	})
	for i := range out {
		if err == nil {
			out[i], err = w.app.Inbox.Get(context.Background(), out[i].ID)
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// writes counts what changed storage since it was called.
func (w *world) writes() func() int {
	before := w.store.Actions()
	return func() int { return w.store.Actions() - before }
}

// storageFails makes every action whose operation and name contain the texts fail.
func (w *world) storageFails(op, name string) {
	w.store.Hook = func(a memstore.Action) error {
		if !a.After && strings.Contains(a.Op, op) && strings.Contains(a.Name, name) {
			return fault.New(fault.Transient, a.Op, a.Name, "storage is away")
		}
		return nil
	}
}

// storageWorks undoes storageFails.
func (w *world) storageWorks() { w.store.Hook = nil }

// row reads a VM's row.
func (w *world) row(vm string) ledger.Row {
	w.t.Helper()
	e, err := w.store.Tables().Get(context.Background(), ledger.TableVMs, lowSub, cvm.RowKey(vm))
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := ledger.DecodeRow(e)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// known writes a VM's row as the loop would after a look, changed by change.
func (w *world) known(vm string, change ...func(*ledger.Row)) {
	w.t.Helper()
	r := ledger.Row{PK: lowSub, RK: cvm.RowKey(vm), ID: vm, UniqueID: "00000000-0000-0000-0000-000000000b0b", Verdict: policy.Compliant,
		LastSeen: w.clock.Now(), Key: keyURL}
	for _, f := range change {
		f(&r)
	}
	e, err := r.Entity()
	if err == nil {
		_, err = w.store.Tables().Insert(context.Background(), ledger.TableVMs, e)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// lockedBuffer is a log that many write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}

// spoil makes a VM's row unreadable.
func (w *world) spoil(vm string) {
	w.store.Tables().Corrupt(ledger.TableVMs, lowSub, cvm.RowKey(vm), func(cols map[string]string) { cols["headSeq"] = "many" })
}

// hookedOrder notes the operations that change storage, in their order.
func hookedOrder(w *world, order *[]string) {
	w.store.Hook = func(a memstore.Action) error {
		if a.After {
			*order = append(*order, a.Op)
		}
		return nil
	}
}

// failFrom makes every action from the nth on fail.
func failFrom(seen *int, nth int) func(memstore.Action) error {
	return func(a memstore.Action) error {
		if a.After {
			return nil
		}
		if *seen++; *seen >= nth {
			return fault.New(fault.Transient, a.Op, a.Name, "storage is away")
		}
		return nil
	}
}
