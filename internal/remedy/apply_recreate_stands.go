package remedy

import (
	"cmp"
	"context"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// The clauses of a VM that isn't what the plan was made for: no waiting mends them.
const (
	notAsPlanned = "the VM isn't as it was when the plan was made"
	notThereNow  = "the VM that the plan was made for isn't there any more"
)

// planStands says why what a re-creation, or the way back from one, rests on doesn't
// hold any more, "" if it does: the VM as it was planned for, the key path of the VM
// that is to be created, the locks, cvmguard's own rights, the size. All is read now.
func (a *AzureApplier) planStands(ctx context.Context, az Recreator, s Step) (string, error) {
	if a.Now == nil {
		return "there is no clock to tell whether a key has expired", nil
	}
	id := vmOf(s)
	vm, err := az.VM(ctx, id)
	switch {
	case fault.Is(err, fault.NotFound):
		return notThereNow, nil
	case err != nil:
		return "", err
	}
	body, err := az.VMBody(ctx, id)
	if err != nil {
		return "", err
	}
	asPlanned, err := unchanged(body, s.Args[argDigest])
	if err != nil {
		return "", err
	}
	if !asPlanned {
		return notAsPlanned, nil // what follows would be about another VM
	}
	var out doubts
	around, err := readSurroundings(ctx, az, id, body)
	if err != nil {
		return "", err
	}
	if des := cvm.DESID(s.Args[argDES]); des != "" {
		path, err := readDESPath(ctx, az, des, a.Policy)
		if err != nil {
			return "", err
		}
		next := boot{vm: vm, des: path.DES, key: path.Key, vault: path.Vault, rights: path.Rights}
		next.vm.Size, next.vm.SecurityType = s.Args[argSize], "ConfidentialVM"
		next.vm.OSDisk = cvm.OSDiskRef{ID: cmp.Or(cvm.DiskID(s.Args[argOldDisk]), vm.OSDisk.ID), SecurityEncryptionType: cvm.EncryptDisk, SecureDES: des}
		out.list = next.doubts(a.Policy, a.Now())
	} else {
		around.Interfaces = nil // back to a VM that may have accelerated networking
	}
	around.doubts(&out)
	if err := oldDiskDoubts(ctx, az, cvm.DiskID(s.Args[argOldDisk]), &out); err != nil {
		return "", err
	}
	lack, err := lacking(ctx, az, id, s.Args[argNeeds])
	if err != nil {
		return "", err
	}
	out.list = append(out.list, lack...)
	sized := vm
	sized.Size = s.Args[argSize]
	if err := a.sizeDoubts(ctx, sized, &out); err != nil {
		return "", err
	}
	return strings.Join(out.list, "; "), nil
}

// oldDiskDoubts are those of the OS disk that the way back leads to, "" on the way
// there.
func oldDiskDoubts(ctx context.Context, az Recreator, id cvm.DiskID, out *doubts) error {
	if id == "" {
		return nil
	}
	f, err := factOf(az.Disk(ctx, id))("disk-unreadable")
	switch {
	case err != nil:
		return err
	case f.Absent:
		out.when(true, "the old OS disk %s is gone: there is nothing to go back to", id)
		return nil
	}
	if disk, ok := read(out, f, "the old OS disk "+string(id)); ok {
		out.when(disk.ManagedBy != "", "the old OS disk %s is attached to %s; detach it there", id, disk.ManagedBy)
	}
	return nil
}

func (a *AzureApplier) lookCheckRecreation(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.recreator(s)
	if err != nil {
		return Progress{}, err
	}
	why, err := a.planStands(ctx, az, s)
	switch {
	case err != nil:
		return Progress{}, err
	case why == notAsPlanned || why == notThereNow:
		return refused(superseded(s, "%s", why)), nil
	case why != "":
		return refuse(s, "%s; mend what is named and resume, or stop this operation and plan again", why), nil
	}
	return effected(), nil
}
