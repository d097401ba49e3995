package reconcile

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/remedy"
)

// run is a run command as it was last put.
type run struct {
	spec remedy.RunCommandSpec
	op   *operation
	exit int
}

// writer is the world as steps are applied to it.
type writer struct{ *world }

func (x writer) DES(context.Context, cvm.DESID) (cvm.DES, error)             { return x.readDES() }
func (x writer) Key(_ context.Context, id cvm.KeyID) (cvm.Key, error)        { return x.readKey(id) }
func (x writer) Vault(context.Context, cvm.VaultRef) (cvm.Vault, error)      { return x.readVault() }
func (x writer) Rights(context.Context, cvm.RightsQuery) (cvm.Rights, error) { return x.readRights() }

// begin accepts a write, if start does, and begins its operation.
func (w *world) begin(what string, start func(*operation) error, effect func()) (remedy.Progress, error) {
	if w.hook != nil {
		if err := w.hook("before " + what); err != nil {
			return remedy.Progress{}, err
		}
	}
	token, err := w.accept(what, start, effect)
	if err != nil {
		return remedy.Progress{}, err
	}
	if w.hook != nil {
		if err := w.hook("after " + what); err != nil {
			return remedy.Progress{}, err
		}
	}
	return remedy.Progress{State: remedy.Underway, Token: token, RetryAfter: w.pace}, nil
}

func (w *world) accept(what string, start func(*operation) error, effect func()) (token string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settle()
	o := &operation{what: what, ends: w.clock.Now().Add(w.opTime), effect: effect}
	if err := start(o); err != nil {
		return "", err
	}
	w.writes = append(w.writes, what)
	token = fmt.Sprintf("op-%d", len(w.writes))
	w.ops[token] = o
	return token, nil
}

// count is how many writes of a kind were accepted.
func (w *world) count(prefix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, what := range w.writes {
		if strings.HasPrefix(what, prefix) {
			n++
		}
	}
	return n
}

func (w *world) PollOperation(_ context.Context, token string) (remedy.Progress, error) {
	return read(w, "PollOperation", token, func() (remedy.Progress, error) {
		o, ok := w.ops[token]
		switch {
		case !ok:
			return remedy.Progress{}, notFound(token)
		case !o.done:
			return remedy.Progress{State: remedy.Underway, Token: token, RetryAfter: w.pace}, nil
		case o.err != nil:
			return remedy.Progress{State: remedy.Ended, Err: o.err}, nil
		}
		return remedy.Progress{State: remedy.Effected}, nil
	})
}

func (x writer) BeginTags(_ context.Context, id cvm.VMID, etag string, tags map[string]string) (remedy.Progress, error) {
	var v *cvm.VM
	return x.begin("tags "+last(string(id)), func(o *operation) error {
		if v = x.vms[id]; v == nil {
			return notFound(string(id))
		}
		if v.ETag != etag {
			return fault.New(fault.Conflict, "tagging", string(id), "412: the VM is at %s, not at %s", v.ETag, etag)
		}
		v.ProvisioningState = "Updating"
		v.ETag += "+"
		o.failed = func() { v.ProvisioningState = "Succeeded" }
		return nil
	}, func() { v.Tags, v.ProvisioningState = tags, "Succeeded" })
}

func (x writer) BeginRunCommand(_ context.Context, id cvm.VMID, _, _ string, rc remedy.RunCommandSpec) (remedy.Progress, error) {
	r := &run{spec: rc}
	return x.begin("run-command "+last(string(id)), func(o *operation) error {
		if x.vms[id] == nil {
			return notFound(string(id))
		}
		r.op, r.exit = o, x.runExit
		x.runs[id] = r
		return nil
	}, func() { x.collect(rc.Protected["NONCE"], rc.Protected["OUT_URL"]) })
}

// collect is the guest: it appends a bundle over the nonce. The lock is held.
func (w *world) collect(nonce, out string) {
	raw, err := base64.RawURLEncoding.DecodeString(nonce)
	if err != nil {
		panic("the nonce isn't base64url: " + nonce)
	}
	body := bundleOver(raw)
	if w.guest != nil {
		body = w.guest(raw)
	}
	if body == nil {
		return
	}
	name := out[strings.Index(out, ledger.ContainerIncoming+"/")+len(ledger.ContainerIncoming)+1:]
	name, _, _ = strings.Cut(name, "?")
	w.store.Blobs().Overwrite(ledger.ContainerIncoming, name, body) // past the hook: the guest doesn't crash with the handler
}

func bundleOver(nonce []byte) []byte {
	body, err := json.Marshal(map[string]any{"version": 1, "nonce": base64.RawURLEncoding.EncodeToString(nonce)})
	if err != nil {
		panic(err)
	}
	return body
}

func (x writer) RunCommand(_ context.Context, id cvm.VMID, _ string) (remedy.RunCommandView, error) {
	return read(x.world, "RunCommand", last(string(id)), func() (remedy.RunCommandView, error) {
		r := x.runs[id]
		if r == nil {
			return remedy.RunCommandView{}, notFound("run command")
		}
		v := remedy.RunCommandView{ProvisioningState: "Updating", Parameters: r.spec.Parameters, ExecutionState: "Running"}
		switch {
		case r.op.done && r.op.err != nil:
			v.ProvisioningState = "Failed"
		case r.op.done && r.exit != 0:
			v.ProvisioningState, v.ExecutionState, v.ExitCode = "Succeeded", "Failed", r.exit
		case r.op.done:
			v.ProvisioningState, v.ExecutionState = "Succeeded", "Succeeded"
		}
		return v, nil
	})
}

func (x writer) BeginDESAutoRotation(_ context.Context, _ cvm.DESID, on bool) (remedy.Progress, error) {
	return x.begin("des auto-rotation "+fmt.Sprint(on), func(o *operation) error {
		x.des.ProvisioningState = "Updating"
		o.failed = func() { x.des.ProvisioningState = "Succeeded" }
		return nil
	}, func() { x.des.AutoRotation, x.des.ProvisioningState = on, "Succeeded" })
}

func (x writer) BeginCreateDES(_ context.Context, id cvm.DESID, location string, key cvm.KeyID, source string, _ map[string]string) (remedy.Progress, error) {
	return x.begin("create-des "+last(string(id)), func(*operation) error { return nil }, func() {
		x.des = cvm.DES{ID: id, Name: last(string(id)), Location: location, Type: cvm.DESTypeConfidential, KeyURL: string(key), SourceVault: source,
			ProvisioningState: "Succeeded", IdentityType: "SystemAssigned", PrincipalID: "00000000-0000-0000-0000-0000000000d1"}
	})
}

func (x writer) CreateKey(_ context.Context, _, _ string, bits int, policy string, immutable bool) (cvm.Key, error) {
	if x.hook != nil {
		if err := x.hook("before create-key"); err != nil {
			return cvm.Key{}, err
		}
	}
	x.mu.Lock()
	x.writes = append(x.writes, "create-key")
	x.key = cvm.Key{ID: keyURL, Type: "RSA-HSM", Bits: bits, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True, AttributesRead: true,
		RecoveryLevel: "Recoverable", Policy: cvm.ReleasePolicy{Present: true, Immutable: immutable, Decoded: policy}}
	key := x.key
	x.mu.Unlock()
	if x.hook != nil {
		if err := x.hook("after create-key"); err != nil {
			return cvm.Key{}, err
		}
	}
	return key, nil
}

func (x writer) GrantKey(context.Context, cvm.Grant) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writes = append(x.writes, "grant")
	x.rights.DESIdentity = []string{"get", "wrapkey", "unwrapkey"}
	return nil
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
func (x writer) UpdateKeyReleasePolicy(context.Context, cvm.KeyID, string) error { return errNotHere }

var _ remedy.Azure = writer{}
