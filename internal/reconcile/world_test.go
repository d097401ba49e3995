package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger/memstore"
)

// The estate of the tests: confidential VMs under a customer key, all on one disk
// encryption set.
const (
	sub      = "00000000-0000-0000-0000-000000000001"
	rg       = "/subscriptions/" + sub + "/resourceGroups/rg"
	desID    = cvm.DESID(rg + "/providers/Microsoft.Compute/diskEncryptionSets/des1")
	vaultID  = rg + "/providers/Microsoft.KeyVault/vaults/kv1"
	keyName  = "https://kv1.vault.azure.net/keys/k1"
	keyURL   = keyName + "/0123456789abcdef0123456789abcdef"
	regionID = sub + "/regions/westeurope"
)

func vmIDOf(name string) cvm.VMID {
	return cvm.VMID(rg + "/providers/Microsoft.Compute/virtualMachines/" + name)
}

func diskOf(vm string) cvm.DiskID {
	return cvm.DiskID(rg + "/providers/Microsoft.Compute/disks/" + vm + "-os")
}

// world is a small Azure in memory behind the loop's interfaces, with a log of
// accepted writes and hooks around each of them.
type world struct {
	clock  *memstore.Clock
	store  *memstore.Store
	opTime time.Duration // how long an operation takes
	pace   time.Duration // the Retry-After of its polls
	policy string        // the document, "" for the embedded one

	mu     sync.Mutex
	vms    map[cvm.VMID]*cvm.VM
	des    cvm.DES
	key    cvm.Key
	vault  cvm.Vault
	rights cvm.Rights
	runs   map[cvm.VMID]*run
	ops    map[string]*operation
	writes []string
	reads  map[string]int
	fail   map[string]error // by method, as "VM" or "VM vm1": the next read fails with it
	deny   map[string]error // likewise: every read
	// remembered is the disk encryption set as a read that isn't fresh shows it.
	remembered *cvm.DES
	guest      func(nonce []byte) []byte // what a guest brings; nil is a bundle over the nonce
	runExit    int                       // the collector's exit code
	// hook is called before and after each write; an error before it refuses the
	// write, one after it loses the answer. Set it while nothing else uses the world.
	hook func(when string) error
	ends func(what string) error // how an operation ends: nil is well
}

type operation struct {
	what   string
	ends   time.Time
	effect func()
	failed func() // nil: a failure leaves nothing behind
	done   bool
	err    error
}

func newWorld(t testing.TB, names ...string) *world {
	t.Helper()
	clock := memstore.NewClock(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	w := &world{clock: clock, store: memstore.New(clock), opTime: 5 * time.Second, pace: 2 * time.Second, vms: map[cvm.VMID]*cvm.VM{}, runs: map[cvm.VMID]*run{},
		ops: map[string]*operation{}, reads: map[string]int{}, fail: map[string]error{}, deny: map[string]error{}}
	for i, n := range names {
		w.create(n, i+1)
	}
	w.des = cvm.DES{ID: desID, Name: "des1", Location: "westeurope", Type: cvm.DESTypeConfidential, KeyURL: keyURL, SourceVault: vaultID,
		ProvisioningState: "Succeeded", IdentityType: "SystemAssigned", PrincipalID: "00000000-0000-0000-0000-0000000000d1"}
	rp := `{"version":"1.0.0","anyOf":[{"authority":"https://sharedweu.weu.attest.azure.net","allOf":[{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"}]}]}`
	w.key = cvm.Key{ID: keyURL, Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True, AttributesRead: true,
		RecoveryLevel: "Recoverable", Policy: cvm.ReleasePolicy{Present: true, Immutable: true, Decoded: rp}}
	w.vault = cvm.Vault{ID: vaultID, Name: "kv1", Host: "kv1.vault.azure.net", Location: "westeurope", SKU: "premium", PurgeProtection: cvm.True, SoftDelete: cvm.True,
		RBAC: cvm.True, DefaultAction: "Allow", Bypass: "AzureServices", PublicAccess: "Enabled", ProvisioningState: "Succeeded"}
	w.rights = cvm.Rights{Model: "rbac", DESIdentity: []string{"get", "wrapkey", "unwrapkey"}}
	return w
}

// create makes a VM with the n-th unique id, in place of one of that name.
func (w *world) create(name string, n int) *cvm.VM {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := vmIDOf(name)
	w.vms[id] = &cvm.VM{ID: id, Name: name, Location: "westeurope", UniqueID: fmt.Sprintf("00000000-0000-0000-0000-%012d", n), ETag: "1",
		Size: "Standard_DC4as_v5", ProvisioningState: "Succeeded", SecurityType: "ConfidentialVM", SecureBoot: cvm.True, VTPM: cvm.True, Generation: "V2",
		OS: "Linux", Power: "running", InstanceView: true, AgentReady: cvm.True, AgentVersion: "2.11",
		OSDisk: cvm.OSDiskRef{ID: diskOf(name), Name: name, SecurityEncryptionType: "DiskWithVMGuestState", SecureDES: desID},
		Extensions: []cvm.Extension{{Name: "GuestAttestation", Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation", Version: "1.0",
			ProvisioningState: "Succeeded", HandlerStatus: "Ready"}}}
	delete(w.runs, id)
	return w.vms[id]
}

// remove deletes a VM, with what runs on it.
func (w *world) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.vms, vmIDOf(name))
	delete(w.runs, vmIDOf(name))
}

// change changes a VM by another's hand.
func (w *world) change(name string, f func(*cvm.VM)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	v := w.vms[vmIDOf(name)]
	f(v)
	v.ETag += "*"
}

// settle lets the operations whose time has come take effect. The lock is held.
func (w *world) settle() {
	now := w.clock.Now()
	for _, k := range slices.Sorted(maps.Keys(w.ops)) {
		o := w.ops[k]
		if o.done || now.Before(o.ends) {
			continue
		}
		o.done = true
		if w.ends != nil {
			o.err = w.ends(o.what)
		}
		if o.err == nil {
			o.effect()
		} else if o.failed != nil {
			o.failed()
		}
	}
}

// read is one read of Azure, of a thing by a short name.
func read[T any](w *world, method, name string, f func() (T, error)) (v T, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads[method]++
	w.settle()
	for _, what := range []string{method, method + " " + name} {
		if err := w.fail[what]; err != nil {
			delete(w.fail, what)
			return v, err
		}
		if err := w.deny[what]; err != nil {
			return v, err
		}
	}
	return f()
}

func last(id string) string { return strings.ToLower(id[strings.LastIndex(id, "/")+1:]) }

func notFound(id string) error { return fault.New(fault.NotFound, "reading", id, "404") }

func (w *world) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) {
	return read(w, "VM", last(string(id)), func() (cvm.VM, error) {
		if err := ctx.Err(); err != nil {
			return cvm.VM{}, err
		}
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
	return read(w, "Disk", last(string(id)), func() (cvm.Disk, error) {
		return cvm.Disk{ID: id, Location: "westeurope", State: "Attached", SecurityType: "ConfidentialVM_DiskEncryptedWithCustomerKey", HasSecurityProfile: true,
			SecureDES: desID, ConfidentialVersion: "V1", Generation: "V2", ProvisioningState: "Succeeded", NetworkAccessPolicy: "DenyAll", CreateOption: "FromImage",
			EncryptionType: "EncryptionAtRestWithPlatformKey"}, nil
	})
}

func (w *world) readDES() (cvm.DES, error) {
	return read(w, "DES", "", func() (cvm.DES, error) {
		if w.des.ID == "" {
			return cvm.DES{}, notFound(string(desID))
		}
		return w.des, nil
	})
}

func (w *world) readKey(id cvm.KeyID) (cvm.Key, error) {
	return read(w, "Key", "", func() (cvm.Key, error) {
		if w.key.ID == "" {
			return cvm.Key{}, notFound(string(id))
		}
		return w.key, nil
	})
}

func (w *world) readVault() (cvm.Vault, error) {
	return read(w, "Vault", "", func() (cvm.Vault, error) {
		if w.vault.ID == "" {
			return cvm.Vault{}, notFound(vaultID)
		}
		return w.vault, nil
	})
}

func (w *world) readRights() (cvm.Rights, error) {
	return read(w, "Rights", "", func() (cvm.Rights, error) {
		r := w.rights
		r.DESIdentity = slices.Clone(r.DESIdentity)
		return r, nil
	})
}

// reader is the world as the loop reads it.
type reader struct{ *world }

func (r reader) DES(_ context.Context, _ cvm.DESID, fresh bool) (cvm.DES, error) {
	r.mu.Lock()
	was := r.remembered
	r.mu.Unlock()
	if was != nil && !fresh {
		return *was, nil
	}
	return r.readDES()
}

func (r reader) Key(_ context.Context, id cvm.KeyID, _ bool) (cvm.Key, error) { return r.readKey(id) }
func (r reader) Vault(context.Context, cvm.VaultRef, bool) (cvm.Vault, error) { return r.readVault() }
func (r reader) Rights(context.Context, cvm.RightsQuery, bool) (cvm.Rights, error) {
	return r.readRights()
}

func (r reader) DESDisks(context.Context, cvm.DESID) ([]cvm.DiskID, error) {
	return read(r.world, "DESDisks", "", func() ([]cvm.DiskID, error) {
		var ids []cvm.DiskID
		for _, id := range slices.Sorted(maps.Keys(r.vms)) {
			ids = append(ids, diskOf(r.vms[id].Name))
		}
		return ids, nil
	})
}

var _ Azure = reader{}

// denied is a refusal for want of an action; what the service says differs from
// call to call.
func denied(op, object, action string, call int) error {
	return &fault.Error{Kind: fault.Denied, Op: op, Object: object, Code: "AuthorizationFailed", Action: action,
		Err: errors.New("HTTP 403: request " + fmt.Sprint(call) + " has no authorization"), Next: "give the identity a role with this action"}
}
