package remedy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// lookDeleteVM: the VM that the plan was made for is gone, or is fit to be
// deleted. One of the same name with another unique id is not it.
func (a *AzureApplier) lookDeleteVM(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	vm, err := az.VM(ctx, vmOf(s))
	switch {
	case fault.Is(err, fault.NotFound):
		return effected(), nil
	case err != nil:
		return Progress{}, err
	case s.Args[argVMUnique] == "":
		return Progress{}, fault.New(fault.Bug, "deleting VM", s.Target, "the step doesn't say which VM of that name")
	case !same(vm.UniqueID, s.Args[argVMUnique]):
		return effected(), nil // it is gone, and another one stands in its place
	case same(vm.ProvisioningState, "Deleting"), vm.Power != powerDeallocated && moving(vm.ProvisioningState):
		return inMotion(), nil
	case vm.Power != powerDeallocated:
		return refuse(s, "the VM is %q, not deallocated: somebody has started it; stop the operation and plan again", vm.Power), nil
	}
	body, err := az.VMBody(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	ok, err := kept(body)
	switch {
	case err != nil:
		return Progress{}, err
	case !ok:
		return refuse(s, "a disk or network interface would be deleted with the VM: somebody has set its deleteOption back; stop the operation and plan again"), nil
	}
	// It may have been down for days: a pause has no end of its own.
	why, err := a.planStands(ctx, az, s)
	switch {
	case err != nil:
		return Progress{}, err
	case why != "":
		return refuse(s, "the VM is down and not deleted, for what is to be created is in doubt: %s; mend what is named and resume, or stop the operation, start the VM (%s) and plan again", why, azStart(vmOf(s))), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startDeleteVM(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	return az.BeginVMDelete(ctx, vmOf(s))
}

// lookCreateVM: the VM that the step's body describes is there and settled. Another
// unique id alone doesn't tell it from one that somebody else created in the gap.
func (a *AzureApplier) lookCreateVM(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	want, err := described(vmOf(s), s.Args[argBody])
	if err != nil {
		return Progress{}, fault.New(fault.Bug, "creating VM", s.Target, "%w", err)
	}
	vm, err := a.Azure.VM(ctx, vmOf(s))
	switch {
	case fault.Is(err, fault.NotFound):
		return notThere(), nil
	case err != nil:
		return Progress{}, err
	case same(vm.UniqueID, s.Args[argVMUnique]):
		if same(vm.ProvisioningState, "Deleting") {
			return inMotion(), nil
		}
		return refuse(s, "the old VM is still there"), nil
	case moving(vm.ProvisioningState):
		return inMotion(), nil
	}
	settled := same(vm.ProvisioningState, "Succeeded")
	if others := foreign(vm, want, settled); len(others) > 0 {
		return refuse(s, "somebody created another VM of that name: %s; see in its activity log who did; resume once they have deleted it, or stop the operation", strings.Join(others, ", ")), nil
	}
	if settled {
		return effected(), nil
	}
	return refuse(s, "the new VM is %s; look at its activity log, then go back (cvmguard recreate back), or delete it together with its new OS disk, never the old one, and resume", vm.ProvisioningState), nil
}

// described is the VM that a body creates, as it would be read.
func described(id cvm.VMID, body string) (cvm.VM, error) {
	var vm object
	if err := json.Unmarshal([]byte(body), &vm); err != nil {
		return cvm.VM{}, fmt.Errorf("the new VM's body can't be read: %w", err)
	}
	return shownAs(id, vm)
}

// shownAs reads a body that creates a VM as if ARM showed it.
func shownAs(id cvm.VMID, body object) (cvm.VM, error) {
	shown := object{"id": string(id), "name": id.Name(), "type": "Microsoft.Compute/virtualMachines"}
	maps.Copy(shown, body)
	text, err := canonical(shown)
	if err != nil {
		return cvm.VM{}, err
	}
	vm, err := cvm.ParseVM([]byte(text))
	if err != nil {
		return vm, fmt.Errorf("the new VM's body can't be read back: %w", err)
	}
	return vm, nil
}

// foreign says in what a VM isn't the one that was to be created. Of one that didn't
// come up (settled is false) ARM may not show the disk.
func foreign(vm, want cvm.VM, settled bool) []string {
	var out doubts
	differs := func(what, is, wanted string) {
		out.when(wanted != "" && !same(is, wanted) && (settled || is != ""), "%s is %q, not %q", what, is, wanted)
	}
	out.when(cvm.SecurityOf(vm) != cvm.SecurityOf(want) && (settled || vm.SecurityType != ""), "its security type is %q, not %q", vm.SecurityType, want.SecurityType)
	differs("its size", vm.Size, want.Size)
	differs("its OS disk", vm.OSDisk.Name, want.OSDisk.Name)
	differs("its OS disk", string(vm.OSDisk.ID), string(want.OSDisk.ID)) // on the way back
	differs("its disk encryption set", string(vm.OSDisk.SecureDES), string(want.OSDisk.SecureDES))
	differs("its image", vm.Image.ID, want.Image.ID)
	for _, part := range [][2]string{{vm.Image.Publisher, want.Image.Publisher}, {vm.Image.Offer, want.Image.Offer}, {vm.Image.SKU, want.Image.SKU}} {
		differs("its image", part[0], part[1])
	}
	return out.list
}

func (a *AzureApplier) startCreateVM(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	return az.BeginVMCreate(ctx, vmOf(s), []byte(s.Args[argBody]))
}

func (a *AzureApplier) lookRestoreExtension(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, cvm.VMID(s.Args[argVM]))
	if err != nil {
		return Progress{}, err
	}
	for _, e := range vm.Extensions {
		if !same(e.Name, s.Args[argName]) && !(same(e.Type, s.Args[argType]) && same(e.Publisher, s.Args[argPublisher])) {
			continue
		}
		switch {
		case moving(e.ProvisioningState):
			return inMotion(), nil
		case same(e.ProvisioningState, "Succeeded"):
			return effected(), nil
		}
		return refuse(s, "the extension is %s; look at its status on the VM", e.ProvisioningState), nil
	}
	if vm.Power != powerRunning || vm.AgentReady == cvm.False {
		return inMotion(), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startRestoreExtension(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	id := cvm.VMID(s.Args[argVM])
	vm, err := a.Azure.VM(ctx, id)
	if err != nil {
		return Progress{}, err
	}
	spec, err := carriedSpec(s)
	if err != nil {
		return Progress{}, fault.New(fault.Bug, "installing extension", s.Target, "%w", err)
	}
	return a.Azure.BeginExtension(ctx, id, vm.Location, s.Args[argName], spec)
}

// carriedDigest is of what a re-creation rests on in a VM's own body: its size,
// disks, interfaces, identities, login. Tags and states come and go.
func carriedDigest(body []byte) (string, error) {
	var vm object
	if err := json.Unmarshal(body, &vm); err != nil {
		return "", fmt.Errorf("the VM's body can't be read: %w", err)
	}
	props := inner(vm, "properties")
	c := carried(vm, &recreationBodies{})
	delete(c, "tags")
	text, err := canonical(object{"carried": c, "vmId": props["vmId"], "size": props["hardwareProfile"], "security": props["securityProfile"],
		"osDisk": at(props, "storageProfile", "osDisk", "managedDisk", "id"), "login": at(props, "osProfile", "linuxConfiguration", "ssh")})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:]), nil
}

// unchanged says whether a VM is as it was when its digest was made.
func unchanged(body []byte, digest string) (bool, error) {
	now, err := carriedDigest(body)
	return strings.EqualFold(now, digest), err
}
