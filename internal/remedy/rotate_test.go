package remedy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

const keyV2 = keyURL + "/00000000000000000000000000000022"

// rotation is a set with a VM for each power state that is given, and a good new key.
func rotation(t *testing.T, powers ...string) RotationInput {
	t.Helper()
	w := newWorld()
	key := w.keys[keyV1]
	key.ID = keyV2
	in := RotationInput{DES: w.sets[desID], Key: keyV2, Old: cvm.Known(w.keys[keyV1]), Sizes: map[cvm.VMID]cvm.Fact[bool]{}, Others: map[string]KeyPath{},
		New:    KeyPath{DES: cvm.Known(rotated(w.sets[desID], keyV2)), Key: cvm.Known(key), Vault: cvm.Known(w.vaults[strings.ToLower(vaultID)]), Rights: cvm.Known(w.rights[keyURL])},
		Policy: document(t, "enforce"), Now: testNow, By: "jane"}
	in.New.Rights.Value.OrchestratorKnown = true
	for i, power := range powers {
		vm := w.vm
		vm.Name = fmt.Sprintf("vm%02d", i+1)
		vm.ID, vm.Power, vm.DataDisks = cvm.VMID(sub+"Microsoft.Compute/virtualMachines/"+vm.Name), power, nil
		d := w.disks[osID]
		d.ID, d.ManagedBy = cvm.DiskID(sub+"Microsoft.Compute/disks/"+vm.Name+"-os"), string(vm.ID)
		vm.OSDisk.ID = d.ID
		in.VMs, in.Disks = append(in.VMs, vm), append(in.Disks, d)
		in.Sizes[vm.ID] = cvm.Known(true)
	}
	return in
}

func TestPlanRotation(t *testing.T) {
	in := rotation(t, "deallocated", "stopped", "running", "running", "running", "running", "running")
	in.Wave = 2
	op, err := PlanRotation(in)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	targets := map[string]bool{}
	down, up := []string{}, []string{}
	for i, s := range op.Steps {
		kinds = append(kinds, string(s.Kind))
		if s.Number() != i+1 || s.State != Planned || s.Does == "" || s.Undo == "" || s.Class == "" || s.Disturbs == "" {
			t.Errorf("step %d: %+v", i+1, s)
		}
		if key := string(s.Kind) + s.Target; targets[key] {
			t.Errorf("two steps are %s on %s", s.Kind, s.Target)
		} else {
			targets[key] = true
		}
		for _, id := range s.VMs() {
			switch s.Kind {
			case DeallocateWave:
				down = append(down, id.Name())
			case StartWave:
				up = append(up, id.Name())
			}
		}
	}
	if want := []string{"check-rotation", "deallocate-wave", "deallocate-wave", "deallocate-wave", "set-des-key", "start-wave", "start-wave", "start-wave"}; !slices.Equal(kinds, want) {
		t.Errorf("%v", kinds)
	}
	if want := []string{"vm03", "vm04", "vm05", "vm06", "vm07", "vm02"}; !slices.Equal(down, want) {
		t.Errorf("taken down: %v", down)
	}
	if want := []string{"vm03", "vm04", "vm05", "vm06", "vm07"}; !slices.Equal(up, want) {
		t.Errorf("started: %v", up)
	}
	for _, vm := range op.VMs {
		if vm.Running != (vm.Downtime > 0) || !vm.Running && vm.Note == "" {
			t.Errorf("%+v", vm)
		}
	}
	if d := op.VMs[0].Downtime; len(op.VMs) != 6 || d != 3*timeDeallocate+timeSetKey+timeStart {
		t.Errorf("%d VMs, the first is down for %s", len(op.VMs), d)
	}
	if s := op.Steps[4]; s.Before[BeforeKey] != string(keyV1) || !strings.Contains(s.Undo, string(keyV1)) {
		t.Errorf("%+v", s)
	}
	if again, err := PlanRotation(in); err != nil || fmt.Sprint(again) != fmt.Sprint(op) {
		t.Errorf("the same input gives another plan: %v", err)
	}
	for _, wave := range []int{-1, MaxWave + 1} {
		in.Wave = wave
		if _, err := PlanRotation(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("waves of %d: %v", wave, err)
		}
	}
}

// One doubt, whatever it is, and no plan is made.
func TestARotationInDoubt(t *testing.T) {
	vm := func(change func(*cvm.VM)) func(*RotationInput) {
		return func(in *RotationInput) { change(&in.VMs[1]) }
	}
	key := func(change func(*cvm.Key)) func(*RotationInput) {
		return func(in *RotationInput) { change(&in.New.Key.Value) }
	}
	for name, c := range map[string]struct {
		change func(*RotationInput)
		want   string
	}{
		"the set isn't confidential":      {func(in *RotationInput) { in.DES.Type = cvm.DESTypeSSE }, "type"},
		"the set is being changed":        {func(in *RotationInput) { in.DES.ProvisioningState = "Updating" }, "wait until"},
		"the set rotates by itself":       {func(in *RotationInput) { in.DES.AutoRotation = true }, "by itself"},
		"the key is the present one":      {func(in *RotationInput) { in.Key = keyV1 }, "already"},
		"the key has no version":          {func(in *RotationInput) { in.Key = keyURL }, "no version"},
		"the new key wasn't read":         {func(in *RotationInput) { in.New.Key = cvm.NotRead[cvm.Key]("key-unreadable", "", "") }, "key"},
		"the new key isn't there":         {func(in *RotationInput) { in.New.Key = cvm.NotThere[cvm.Key]() }, "key"},
		"the vault wasn't read":           {func(in *RotationInput) { in.New.Vault = cvm.NotRead[cvm.Vault]("vault-unreadable", "", "") }, "vault"},
		"the rights weren't read":         {func(in *RotationInput) { in.New.Rights = cvm.NotRead[cvm.Rights]("rights-unreadable", "", "") }, "rights"},
		"the orchestrator lacks release":  {func(in *RotationInput) { in.New.Rights.Value.Orchestrator = nil }, "release"},
		"the set's identity lacks unwrap": {func(in *RotationInput) { in.New.Rights.Value.DESIdentity = []string{"get", "wrapkey"} }, "unwrapkey"},
		"nobody names the orchestrator":   {func(in *RotationInput) { in.Policy = document(t, "enforce", "orchestratorObjectId: "+orcheID+"\n", "") }, "orchestratorObjectId"},
		"the old key wasn't read":         {func(in *RotationInput) { in.Old = cvm.NotRead[cvm.Key]("key-unreadable", "", "") }, "has now"},
		"the old key is disabled":         {func(in *RotationInput) { in.Old.Value.Enabled = cvm.False }, "has now"},
		"a disk wasn't read":              {func(in *RotationInput) { in.Unread = []string{"the disk x wasn't read"} }, "disk x"},
		"the size isn't offered":          {func(in *RotationInput) { in.Sizes[in.VMs[1].ID] = cvm.Known(false) }, "isn't offered"},
		"the size wasn't read":            {func(in *RotationInput) { delete(in.Sizes, in.VMs[1].ID) }, "offered"},
		"the new key has expired":         {key(func(k *cvm.Key) { k.Expires = testNow }), "expired"},
		"the new key expires soon":        {key(func(k *cvm.Key) { k.Expires = testNow.Add(time.Hour) }), "expires within"},
		"the new key isn't valid yet":     {key(func(k *cvm.Key) { k.NotBefore = testNow.Add(time.Hour) }), "valid yet"},
		"the new key is disabled":         {key(func(k *cvm.Key) { k.Enabled = cvm.False }), "enabled"},
		"whether it is isn't known":       {key(func(k *cvm.Key) { k.Enabled, k.AttributesRead = cvm.Unread, false }), "attributes"},
		"the new key isn't exportable":    {key(func(k *cvm.Key) { k.Exportable = cvm.False }), "exportable"},
		"the new key has no policy":       {key(func(k *cvm.Key) { k.Policy = cvm.ReleasePolicy{} }), "policy"},
		"the new key can't unwrap":        {key(func(k *cvm.Key) { k.Ops = []string{"wrapKey"} }), "unwrapkey"},
		"a VM's OS disk is ephemeral":     {vm(func(v *cvm.VM) { v.OSDisk.Ephemeral = true }), "ephemeral"},
		"a VM is being changed":           {vm(func(v *cvm.VM) { v.ProvisioningState = "Updating" }), "vm02"},
		"a VM's power wasn't read":        {vm(func(v *cvm.VM) { v.Power = "" }), "power state"},
		"a VM is starting":                {vm(func(v *cvm.VM) { v.Power = "starting" }), "power state"},
		"a VM is of a scale set":          {vm(func(v *cvm.VM) { v.ScaleSet = "vmss" }), "scale set"},
		"cvmguard takes a VM down":        {vm(func(v *cvm.VM) { v.Tags = map[string]string{TagDeallocated: MarkPending} }), TagDeallocated},
		"another set's key is in doubt":   {vm(func(v *cvm.VM) { v.OSDisk.SecureDES = dataDES }), "vm02"},
	} {
		t.Run(name, func(t *testing.T) {
			in := rotation(t, "running", "running")
			if _, err := PlanRotation(in); err != nil {
				t.Fatalf("without it: %v", err)
			}
			c.change(&in)
			_, err := PlanRotation(in)
			if !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "then plan again") {
				t.Errorf("%v", err)
			}
		})
	}
}
