package remedy

import (
	"context"
	"maps"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func (w *world) BeginTags(_ context.Context, _ cvm.VMID, etag string, tags map[string]string) (Progress, error) {
	if etag != w.vm.ETag {
		return Progress{}, fault.New(fault.Conflict, "tagging", string(vmID), "412")
	}
	return w.begin("tags", func() { w.vm.Tags = maps.Clone(tags); w.vm.ProvisioningState = "Updating"; w.touch() },
		func() { w.vm.ProvisioningState = "Succeeded"; w.touch() }, func() {})
}

func (w *world) BeginExtension(_ context.Context, _ cvm.VMID, _, name string, ext ExtensionSpec) (Progress, error) {
	i := -1
	return w.begin("extension", func() {
		for k, x := range w.vm.Extensions {
			if x.Name == name {
				i = k
			}
		}
		if i < 0 {
			w.vm.Extensions = append(w.vm.Extensions, cvm.Extension{})
			i = len(w.vm.Extensions) - 1
		}
		w.vm.Extensions[i] = cvm.Extension{Name: name, Publisher: ext.Publisher, Type: ext.Type, Version: ext.Version, ProvisioningState: "Creating"}
	}, func() { w.vm.Extensions[i].ProvisioningState, w.vm.Extensions[i].HandlerStatus = "Succeeded", "Ready" },
		func() { w.vm.Extensions[i].ProvisioningState = "Failed" })
}

func (w *world) BeginRunCommand(_ context.Context, _ cvm.VMID, _, _ string, rc RunCommandSpec) (Progress, error) {
	return w.begin("run-command", func() {
		w.run = &RunCommandView{ProvisioningState: "Creating", Parameters: rc.Parameters, ExecutionState: "Running"}
	}, func() { w.run.ProvisioningState, w.run.ExecutionState = "Succeeded", "Succeeded" },
		func() { w.run.ProvisioningState, w.run.ExecutionState, w.run.ExitCode = "Succeeded", "Failed", 3 })
}

func (w *world) RunCommand(context.Context, cvm.VMID, string) (RunCommandView, error) {
	if w.run == nil {
		return RunCommandView{}, fault.New(fault.NotFound, "reading run command", string(vmID), "404")
	}
	return *w.run, nil
}

func (w *world) diskStates(s string) {
	for id, d := range w.disks {
		d.State = s
		w.disks[id] = d
	}
}

func (w *world) BeginDeallocate(context.Context, cvm.VMID) (Progress, error) {
	return w.begin("deallocate", func() { w.vm.Power, w.vm.AgentReady = "deallocating", cvm.Unread },
		func() { w.vm.Power = powerDeallocated; w.diskStates("Reserved") }, func() { w.vm.Power = powerRunning })
}

func (w *world) BeginStart(context.Context, cvm.VMID) (Progress, error) {
	return w.begin("start", func() { w.vm.Power = "starting" },
		func() { w.vm.Power, w.vm.AgentReady = powerRunning, cvm.True; w.diskStates("Attached") }, func() { w.vm.Power = powerDeallocated })
}

func (w *world) BeginDiskDES(_ context.Context, id cvm.DiskID, des cvm.DESID, kind string) (Progress, error) {
	if w.vm.Power != powerDeallocated {
		return Progress{}, fault.New(fault.Blocked, "changing disk", string(id), "OperationNotAllowed")
	}
	set := func(state string, done bool) func() {
		return func() {
			d := w.disks[id]
			d.ProvisioningState = state
			if done {
				d.SSEDES, d.EncryptionType = des, kind
			}
			w.disks[id] = d
		}
	}
	return w.begin("disk "+id.Name(), set("Updating", false), set("Succeeded", true), set("Succeeded", false))
}

func (w *world) BeginDESAutoRotation(_ context.Context, id cvm.DESID, on bool) (Progress, error) {
	set := func(state string, flag bool) func() {
		return func() { d := w.sets[id]; d.ProvisioningState, d.AutoRotation = state, flag; w.sets[id] = d }
	}
	return w.begin("rotation", set("Updating", on), set("Succeeded", on), set("Succeeded", !on))
}

func (w *world) BeginCreateDES(_ context.Context, id cvm.DESID, location string, key cvm.KeyID, source string, _ map[string]string) (Progress, error) {
	d := cvm.DES{ID: id, Name: id.Name(), Location: location, Type: cvm.DESTypeConfidential, KeyURL: string(key), SourceVault: source,
		IdentityType: "SystemAssigned", PrincipalID: "p-new", ProvisioningState: "Creating"}
	return w.begin("create-des", func() { w.sets[id] = d }, func() { d.ProvisioningState = "Succeeded"; w.sets[id] = d }, func() { delete(w.sets, id) })
}

// now is a write of the key plane: its effect is there when it answers.
func (w *world) now(kind string, do func()) error {
	slow := w.slow
	w.slow = 0
	defer func() { w.slow = slow }()
	_, err := w.begin(kind, func() {}, do, func() {})
	return err
}

func (w *world) CreateKey(_ context.Context, host, name string, bits int, policy string, immutable bool) (cvm.Key, error) {
	k := goodKey(cvm.KeyID("https://"+host+"/keys/"+name+"/00000000000000000000000000000009"), policy)
	k.Bits, k.Policy.Immutable = bits, immutable
	return k, w.now("create-key", func() { w.putKey(k) })
}

func (w *world) UpdateKeyReleasePolicy(_ context.Context, id cvm.KeyID, policy string) error {
	return w.now("release-policy", func() { k := w.keys[id]; k.Policy.Decoded = policy; w.putKey(k) })
}

func (w *world) GrantKey(_ context.Context, g cvm.Grant) error {
	return w.now("grant "+g.For, func() {
		r := w.rights[g.Key]
		r.Model = "rbac"
		if g.For == "des" {
			r.DESIdentity = []string{"get", "wrapkey", "unwrapkey"}
		} else {
			r.Orchestrator = []string{"release"}
		}
		w.rights[g.Key] = r
	})
}
