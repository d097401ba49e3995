package remedy

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// RecreationReader is what a re-creation is judged by.
type RecreationReader interface {
	RotationReader
	// VMBody is the VM as ARM shows it, its extensions in `resources`.
	VMBody(ctx context.Context, id cvm.VMID) ([]byte, error)
	NetworkInterface(ctx context.Context, id string) (NetworkInterface, error)
	// Locks are those that hold at a VM, whatever scope they were set on.
	Locks(ctx context.Context, id cvm.VMID) ([]Lock, error)
}

// Recreator is what an Azure may offer beside: to delete a VM and create one.
// Without it a re-creation is refused.
type Recreator interface {
	RecreationReader
	// BeginVMPatch sends a PATCH. With an etag it is refused (Conflict) when the VM has
	// changed since.
	BeginVMPatch(ctx context.Context, id cvm.VMID, etag string, body []byte) (Progress, error)
	// BeginVMCreate creates a VM, and never changes one that is there (Conflict).
	BeginVMCreate(ctx context.Context, id cvm.VMID, body []byte) (Progress, error)
	// BeginVMDelete deletes a VM; its disks and interfaces go or stay by their
	// deleteOption.
	BeginVMDelete(ctx context.Context, id cvm.VMID) (Progress, error)
	// Lacking is which of the actions the caller itself may not take on a scope.
	Lacking(ctx context.Context, scope string, actions []string) ([]string, error)
}

// ReadRecreation reads what PlanRecreation judges by. What can't be read is a fact
// that isn't known; what passes by itself comes back as an error. v is the
// VM's verdict.
func ReadRecreation(ctx context.Context, az RecreationReader, id cvm.VMID, o RecreationOptions, v policy.Verdict, d *policy.Document, now time.Time) (RecreationInput, error) {
	in := RecreationInput{Options: o, Verdict: v, Policy: d, Now: now}
	if err := o.check(); err != nil {
		return in, err
	}
	var err error
	if in.VM, err = az.VM(ctx, id); err != nil {
		return in, fmt.Errorf("reading the VM: %w", err)
	}
	if in.Body, err = az.VMBody(ctx, id); err != nil {
		return in, fmt.Errorf("reading the VM: %w", err)
	}
	if in.VM.OSDisk.ID != "" {
		if in.OSDisk, err = factOf(az.Disk(ctx, in.VM.OSDisk.ID))("disk-unreadable"); err != nil {
			return in, err
		}
	}
	for _, ref := range in.VM.DataDisks {
		f, err := factOf(az.Disk(ctx, ref.ID))("disk-unreadable")
		if err != nil {
			return in, err
		}
		in.Data = append(in.Data, f)
	}
	if in.Around, err = readSurroundings(ctx, az, id, in.Body); err != nil {
		return in, err
	}
	var out doubts
	c := in.choose(&out)
	if in.Path, err = readDESPath(ctx, az, c.des, d); err != nil {
		return in, err
	}
	in.Offered, err = factOf(az.SizeOffered(ctx, id.Subscription(), in.VM.Location, c.size, in.VM.Zones))("size-unreadable")
	return in, err
}

// readDESPath reads a disk encryption set and what lies behind it.
func readDESPath(ctx context.Context, az RotationReader, id cvm.DESID, d *policy.Document) (p KeyPath, err error) {
	if id == "" {
		return p, nil
	}
	if p.DES, err = factOf(az.DES(ctx, id))("des-unreadable"); err != nil || !p.DES.Known {
		return p, err
	}
	key, kerr := cvm.ParseKeyID(p.DES.Value.KeyURL)
	if kerr != nil {
		p.Key = cvm.NotRead[cvm.Key]("key-url-invalid", "", kerr.Error())
		return p, nil
	}
	des := p.DES
	p, _, err = readPath(ctx, az, des.Value, key, d)
	p.DES = des
	return p, err
}

func (a *AzureApplier) recreator(s Step) (Recreator, error) {
	if r, ok := a.Azure.(Recreator); ok {
		return r, nil
	}
	return nil, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "this Azure can't re-create VMs")
}

// recreationAct is the act of a step of a re-creation, or of the way back.
func (a *AzureApplier) recreationAct(s Step) (act, bool) {
	switch s.Kind {
	case CheckRecreation:
		return act{look: a.lookCheckRecreation, start: a.startNothing}, true
	case KeepParts:
		return act{look: a.lookKeepParts, start: a.startKeepParts}, true
	case TakeDown:
		return act{look: a.lookTakeDown, start: a.startDeallocate}, true
	case DeleteVM:
		return act{look: a.lookDeleteVM, start: a.startDeleteVM}, true
	case CreateVM:
		return act{look: a.lookCreateVM, start: a.startCreateVM}, true
	case RestoreExtension:
		return act{look: a.lookRestoreExtension, start: a.startRestoreExtension}, true
	}
	return act{}, false
}

func (a *AzureApplier) lookKeepParts(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	vm, err := az.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	if moving(vm.ProvisioningState) {
		return inMotion(), nil
	}
	body, err := az.VMBody(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	asPlanned, err := unchanged(body, s.Args[argDigest])
	switch {
	case err != nil:
		return Progress{}, err
	case !asPlanned:
		return refused(superseded(s, notAsPlanned)), nil
	}
	ok, err := kept(body)
	switch {
	case err != nil:
		return Progress{}, err
	case ok:
		return effected(), nil
	}
	return notThere(), nil
}

// startKeepParts makes the PATCH of the VM as it is at this moment: its lists take
// the place of the VM's, so one from the plan would detach what was attached since.
// The etag is read before the body, so that what comes between them is a conflict.
func (a *AzureApplier) startKeepParts(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	vm, err := az.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	body, err := az.VMBody(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	asPlanned, err := unchanged(body, s.Args[argDigest])
	switch {
	case err != nil:
		return Progress{}, err
	case !asPlanned:
		return refused(superseded(s, notAsPlanned)), nil
	}
	patch, err := keepBody(body)
	if err != nil {
		return Progress{}, err
	}
	return az.BeginVMPatch(ctx, vmOf(s), vm.ETag, []byte(patch))
}

func (a *AzureApplier) lookTakeDown(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	switch {
	case err != nil:
		return Progress{}, err
	case vm.Power == powerDeallocated:
		return effected(), nil
	case vm.Power == "deallocating", vm.Power == "starting", moving(vm.ProvisioningState):
		return inMotion(), nil
	}
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	why, err := a.planStands(ctx, az, s)
	if err != nil {
		return Progress{}, err
	}
	if why != "" {
		return refuse(s, "%s; mend what is named and resume, or stop this operation and plan again", why), nil
	}
	return notThere(), nil
}
