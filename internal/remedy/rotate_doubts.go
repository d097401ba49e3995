package remedy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// Doubts lists why the key isn't to be rotated now, one clause each; none means
// that there is no doubt that can be read. The new key is judged as the set's key
// by the policy in force, and each VM by what its next start would rest on.
func (in RotationInput) Doubts() []string {
	var out doubts
	out.list = append(out.list, in.Unread...)
	des := in.DES
	out.when(!same(des.Type, cvm.DESTypeConfidential), "the disk encryption set is of type %s, not %s", des.Type, cvm.DESTypeConfidential)
	out.when(des.AutoRotation, "the set may rotate its key by itself: switch that off first (%s)", azAutoRotation(des.ID, false))
	out.when(!same(des.ProvisioningState, "Succeeded") && !same(des.ProvisioningState, "Failed"), "the set is %q: wait until it isn't being changed", des.ProvisioningState)
	switch again := in.repeats(); {
	case again && des.PreviousKeys > 0:
		out.when(des.LastRotation.IsZero() || in.Now.Before(des.LastRotation.Add(policy.RotationTime)), "a rotation to %s is under way: wait for its end; one that has not ended after %s can be repeated", in.Key, policy.RotationTime)
	case again && !same(des.ProvisioningState, "Failed"):
		out.when(true, "%s is the set's key already: make a new version, or name another", in.Key)
	}
	out.when(in.Key.Version() == "", "the new key's URL names no version")
	in.oldKeyDoubts(&out)
	v := policy.JudgeShared(cvm.SharedPosture{Kind: cvm.SharedDES, ID: string(des.ID), Region: des.Location, DES: in.New.DES,
		DESDisks: cvm.Known(in.Disks), Key: in.New.Key, Vault: in.New.Vault, Rights: in.New.Rights}, in.Policy, in.Now)
	for _, f := range v.Findings {
		out.when(f.State == cvm.Fail || f.State == cvm.UnknownState, "with the new key %s would be %s (%s): %s", f.Rule, f.State, f.Reason, strings.TrimSuffix(f.Text, "."))
	}
	out.when(in.Policy.Orchestrator() == "", "policy doesn't name the orchestrator's object id (orchestratorObjectId), so its right to release the key can't be read")
	out.list = append(out.list, in.allVMDoubts()...)
	return uniqInOrder(out.list)
}

// allVMDoubts are those about the VMs, each told once with the VMs that it is about.
func (in RotationInput) allVMDoubts() []string {
	var order []string
	about := map[string][]string{}
	for _, vm := range in.VMs {
		for _, why := range in.vmDoubts(vm) {
			if about[why] == nil {
				order = append(order, why)
			}
			about[why] = append(about[why], vm.ID.Name())
		}
	}
	for i, why := range order {
		order[i] = strings.Join(about[why], ", ") + ": " + why
	}
	return order
}

// oldKeyDoubts: the disks' keys are unwrapped with the old version and wrapped with
// the new one.
func (in RotationInput) oldKeyDoubts(out *doubts) {
	if key, ok := read(out, in.Old, "the version that the set has now"); ok {
		out.when(key.Enabled != cvm.True, "the version that the set has now isn't enabled, so its disks' keys can't be unwrapped: enable it")
	}
}

// vmDoubts are those about one VM.
func (in RotationInput) vmDoubts(vm cvm.VM) []string {
	var out doubts
	_, marked := tagOf(vm.Tags, TagDeallocated)
	_, _, instance := vm.ID.Instance()
	out.when(instance, "it is an instance of a uniform scale set, whose model decides")
	out.when(moving(vm.ProvisioningState), "it is %s: wait until it isn't being changed", strings.ToLower(vm.ProvisioningState))
	out.when(marked, "cvmguard is in the midst of taking it down (tag %s)", TagDeallocated)
	out.when(vm.OSDisk.Ephemeral, "its OS disk is ephemeral and can't get another key: delete the VM first, or give it a disk encryption set of its own")
	switch vm.Power {
	case powerDeallocated:
		if why := releasePolicyDoubt(in.New.Key.Value, vm, in.Policy); in.New.Key.Known && why != "" {
			out.when(true, "%s", why)
		}
	case powerRunning, "stopped":
		out.list = append(out.list, in.bootOf(vm).doubts(in.Policy, in.Now)...)
		if vm.Power == powerRunning {
			offered, ok := read(&out, in.Sizes[vm.ID], "whether the size "+vm.Size+" is offered")
			out.when(ok && !offered, "the size %s isn't offered to the subscription in %s, zones %v", vm.Size, vm.Location, vm.Zones)
		}
	default:
		out.when(true, "its power state is %q: wait until it runs or is deallocated", vm.Power)
	}
	return uniqInOrder(out.list)
}

// bootOf is what a VM's next start would rest on: the set with its new key, or
// another set where only a data disk hangs on this one.
func (in RotationInput) bootOf(vm cvm.VM) boot {
	path := in.New
	if id := vm.OSDisk.SecureDES; id != "" && !same(id, in.DES.ID) {
		path = in.Others[id.Fold()]
	}
	return boot{vm: vm, des: path.DES, key: path.Key, vault: path.Vault, rights: path.Rights}
}

// rotated is the set as it would be with the new key.
func rotated(des cvm.DES, key cvm.KeyID) cvm.DES {
	des.KeyURL, des.PreviousKeys, des.RotationError = string(key), 0, ""
	if same(des.ProvisioningState, "Failed") {
		des.ProvisioningState = "Succeeded" // a repeated update with all VMs down is its cure
	}
	return des
}

// otherKey refuses for good a plan that isn't about the key that the set has by now.
func otherKey(des cvm.DES, s Step) error {
	if same(des.KeyURL, s.Args[argFrom]) {
		return nil
	}
	return superseded(s, "the set names %s by now, not %s as when the plan was made", des.KeyURL, s.Args[argFrom])
}

// userMark names a VM in eight characters: those of all VMs on a set fit a row.
func userMark(id cvm.VMID) string {
	sum := sha256.Sum256([]byte(id.Fold()))
	return hex.EncodeToString(sum[:4])
}

// usersDigest names a set of VMs in few bytes.
func usersDigest(vms []cvm.VMID) string {
	var list []string
	for _, id := range vms {
		list = append(list, id.Fold())
	}
	slices.Sort(list)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(list), "\n")))
	return fmt.Sprintf("%d-%s", len(vms), hex.EncodeToString(sum[:]))
}
