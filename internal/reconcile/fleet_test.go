package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// newKeyURL is the key's version to which the tests rotate.
const newKeyURL = keyName + "/ffffffffffffffffffffffffffffffff"

// fleet is the world with what the rotation of a key needs beside.
type fleet struct {
	writer
	newKey cvm.Key
}

func newFleet(t testing.TB, names ...string) (*fleet, func() *Loop) {
	t.Helper()
	w := newWorld(t, names...)
	w.policy = "schemaVersion: 1\nname: fleet\nmode: enforce\norchestratorObjectId: 00000000-0000-0000-0000-00000000beef\nremedy: {collectEvidence: false, tag: false, disableAutoRotation: false}\n"
	w.rights.Orchestrator, w.rights.OrchestratorKnown = []string{"release"}, true
	f := &fleet{writer: writer{w}, newKey: w.key}
	f.newKey.ID = newKeyURL
	return f, func() *Loop {
		l := w.loop(t, policy.ModeEnforce)
		ap := remedy.NewApplier(f, l.Policy)
		ap.Now, ap.OnSet = w.clock.Now, l.VMsOnSet
		l.Applier = ap
		return l
	}
}

func (f *fleet) Key(_ context.Context, id cvm.KeyID) (cvm.Key, error) {
	return read(f.world, "Key", last(string(id)), func() (cvm.Key, error) {
		if strings.EqualFold(string(id), keyURL) {
			return f.key, nil
		}
		return f.newKey, nil
	})
}

func (f *fleet) DESDisks(context.Context, cvm.DESID) ([]cvm.DiskID, error) {
	return read(f.world, "DESDisks", "", func() (ids []cvm.DiskID, err error) {
		for _, id := range slices.Sorted(maps.Keys(f.vms)) {
			if !f.vms[id].OSDisk.Ephemeral {
				ids = append(ids, diskOf(f.vms[id].Name))
			}
		}
		return ids, nil
	})
}

func (f *fleet) Disk(ctx context.Context, id cvm.DiskID) (cvm.Disk, error) {
	d, err := f.writer.Disk(ctx, id)
	d.ID, d.Name = id, id.Name()
	d.ManagedBy = string(vmIDOf(strings.TrimSuffix(last(string(id)), "-os")))
	return d, err
}

func (f *fleet) SizeOffered(context.Context, string, string, string, []string) (bool, error) {
	return true, nil
}

func (f *fleet) power(what string, id cvm.VMID, from, to string) (remedy.Progress, error) {
	v := f.vms[id]
	return f.begin(what+" "+last(string(id)), func(o *operation) error {
		was := v.Power
		v.Power = from
		o.failed = func() { v.Power = was }
		return nil
	}, func() { v.Power = to })
}

func (f *fleet) BeginDeallocate(_ context.Context, id cvm.VMID) (remedy.Progress, error) {
	return f.power("deallocate", id, "deallocating", "deallocated")
}

func (f *fleet) BeginStart(_ context.Context, id cvm.VMID) (remedy.Progress, error) {
	return f.power("start", id, "starting", "running")
}

func (f *fleet) BeginDESKey(_ context.Context, id cvm.DESID, key cvm.KeyID, _ string) (remedy.Progress, error) {
	return f.begin("des-key "+last(string(key)), func(o *operation) error {
		for _, v := range f.vms {
			if v.Power != "deallocated" {
				return fault.New(fault.Blocked, "rotating", string(id), "%s is %s", v.Name, v.Power)
			}
		}
		was := f.des
		f.des.ProvisioningState = "Updating"
		o.failed = func() { f.des = was }
		return nil
	}, func() {
		f.des.PreviousKeys = 0
		f.des.KeyURL, f.des.ProvisioningState, f.des.LastRotation = string(key), "Succeeded", f.clock.Now()
	})
}

var _ remedy.KeyRotator = (*fleet)(nil)

// plan makes a rotation's plan and puts it on the loop; it answers with the
// operation's object and its plan.
func (f *fleet) plan(t testing.TB, l *Loop, wave int) (Object, remedy.Operation) {
	t.Helper()
	in, err := remedy.ReadRotation(t.Context(), f, desID, newKeyURL, nil, l.Policy, f.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	in.Wave = wave
	op, err := remedy.PlanRotation(in)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := l.operations().Put(t.Context(), op)
	if err != nil {
		t.Fatal(err)
	}
	o := mustShared(t, ledger.OperationID(op.Subscription, hash))
	f.say(t, o, ledger.CausePlanned)
	f.until(t, l, time.Second)
	return o, op
}

func (f *fleet) say(t testing.TB, o Object, word string) {
	t.Helper()
	f.send(t, o.message(ledger.Cause{Kind: word, At: f.clock.Now(), By: "jane"}, time.Time{}))
}

// powers says how the VMs stand, by name.
func (f *fleet) powers() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle()
	var out []string
	for i := range len(f.vms) {
		out = append(out, f.vms[vmIDOf(fmt.Sprintf("vm%d", i+1))].Power)
	}
	return strings.Join(out, " ")
}
