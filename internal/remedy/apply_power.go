package remedy

import (
	"context"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func (a *AzureApplier) lookDeallocate(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	switch {
	case vm.Power == powerDeallocated:
		return effected(), nil
	case vm.Power == "deallocating", moving(vm.ProvisioningState):
		return inMotion(), nil
	case vm.Power != powerRunning:
		return refuse(s, "the VM isn't running but %q", vm.Power), nil
	}
	if mark, _ := tagOf(vm.Tags, TagDeallocated); mark != MarkPending {
		return refuse(s, "the VM doesn't bear the tag %s=%s, by which it would be started again", TagDeallocated, MarkPending), nil
	}
	why, err := a.startDoubts(ctx, s, vm)
	if err != nil {
		return Progress{}, err
	}
	if len(why) > 0 {
		return refuse(s, "it is in doubt that the VM starts again: %s", strings.Join(why, "; ")), nil
	}
	return notThere(), nil
}

// startDoubts reads all that the VM's next start rests on, now.
func (a *AzureApplier) startDoubts(ctx context.Context, s Step, vm cvm.VM) ([]string, error) {
	var out doubts
	if a.Now == nil {
		return []string{"there is no clock to tell whether a key has expired"}, nil
	}
	now := a.Now()
	b := boot{vm: vm}
	if id := vm.OSDisk.SecureDES; id != "" {
		if err := a.readKeyPath(ctx, id, &b); err != nil {
			return nil, err
		}
	}
	out.list = b.doubts(a.Policy, now)
	// A data disk whose key can't be had keeps the VM down as well.
	target := s.Args[argDES]
	if target == "" {
		return []string{"the step names no disk encryption set for the data disks"}, nil
	}
	ids := []string{target}
	for _, ref := range vm.DataDisks {
		for _, id := range []cvm.DESID{ref.SSEDES, ref.SecureDES} {
			if id != "" && !containsFold(ids, string(id)) {
				ids = append(ids, string(id))
			}
		}
	}
	for _, id := range ids {
		why, err := a.dataDESDoubts(ctx, cvm.DESID(id), vm.Location, now, id == target)
		if err != nil {
			return nil, err
		}
		out.list = append(out.list, why...)
	}
	err := a.sizeDoubts(ctx, vm, &out)
	return out.list, err
}

func (a *AzureApplier) sizeDoubts(ctx context.Context, vm cvm.VM, out *doubts) error {
	sizes, ok := a.Azure.(SizeReader)
	if !ok {
		out.when(true, "it can't be read whether the size %s is offered", vm.Size)
		return nil
	}
	offered, err := sizes.SizeOffered(ctx, vm.ID.Subscription(), vm.Location, vm.Size, vm.Zones)
	if err != nil && passes(err) {
		return err
	}
	out.when(err != nil, "it wasn't read whether the size %s is offered", vm.Size)
	out.when(err == nil && !offered, "the size %s isn't offered to the subscription in %s, zones %v", vm.Size, vm.Location, vm.Zones)
	return nil
}

// readKeyPath reads set, key, vault and rights. Errors that pass come back; the
// others leave their fact unknown, which is a doubt.
func (a *AzureApplier) readKeyPath(ctx context.Context, id cvm.DESID, b *boot) (err error) {
	if b.des, err = factOf(a.Azure.DES(ctx, id))("des-unreadable"); err != nil || !b.des.Known {
		return err
	}
	des := b.des.Value
	key, err := cvm.ParseKeyID(des.KeyURL)
	if err != nil {
		b.key = cvm.NotRead[cvm.Key]("key-url-invalid", "", err.Error())
		return nil
	}
	if b.key, err = factOf(a.Azure.Key(ctx, key))("key-unreadable"); err != nil {
		return err
	}
	if b.vault, err = factOf(a.Azure.Vault(ctx, cvm.VaultRef{ID: des.SourceVault, Host: key.Host()}))("vault-unreadable"); err != nil || !b.vault.Known {
		return err
	}
	b.rights, err = factOf(a.Azure.Rights(ctx, cvm.RightsQuery{Vault: b.vault.Value, Key: key.Versionless(),
		DESPrincipal: des.PrincipalID, Orchestrator: a.Policy.Orchestrator()}))("rights-unreadable")
	return err
}

// dataDESDoubts are those of a disk encryption set that a data disk hangs on or
// is to hang on (ordinary: it must be of a type for server-side encryption). Its
// key needs neither HSM nor release policy.
func (a *AzureApplier) dataDESDoubts(ctx context.Context, id cvm.DESID, region string, at time.Time, ordinary bool) ([]string, error) {
	var b boot
	if err := a.readKeyPath(ctx, id, &b); err != nil {
		return nil, err
	}
	var out doubts
	if des, ok := read(&out, b.des, "the data disks' disk encryption set "+string(id)); ok {
		out.when(cvm.FoldRegion(des.Location) != cvm.FoldRegion(region), "the disk encryption set %s is in another region", des.Name)
		out.when(ordinary && !same(des.Type, cvm.DESTypeSSE) && !same(des.Type, cvm.DESTypeDouble), "the disk encryption set %s is of type %s, which isn't for server-side encryption", des.Name, des.Type)
		desDoubts(&out, des)
		if key, ok := read(&out, b.key, "its key"); ok {
			keyStateDoubts(&out, key, at)
		}
		if r, ok := read(&out, b.rights, "the rights on its key"); ok {
			lack := missing(r.DESIdentity, desOps)
			out.when(len(lack) > 0, "the identity of %s lacks %s", des.Name, strings.Join(lack, ", "))
		}
	}
	return out.list, nil
}

func (a *AzureApplier) startDeallocate(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	return a.Azure.BeginDeallocate(ctx, vmOf(s))
}

func (a *AzureApplier) lookStart(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	switch {
	case vm.Power == powerRunning:
		return effected(), nil
	case vm.Power == "starting", vm.Power == "deallocating", moving(vm.ProvisioningState):
		return inMotion(), nil
	case vm.Power == "":
		return refuse(s, "the VM's power state wasn't read"), nil
	}
	if _, ours := tagOf(vm.Tags, TagDeallocated); !ours {
		return refuse(s, "somebody else stopped the VM: it doesn't bear the tag %s", TagDeallocated), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startStart(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	return a.Azure.BeginStart(ctx, vmOf(s))
}

// Data disks.

func (a *AzureApplier) lookDataDisk(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	disk, err := a.Azure.Disk(ctx, cvm.DiskID(s.Target))
	if err != nil {
		return Progress{}, err
	}
	want := cvm.DESID(s.Args[argDES])
	switch {
	case want == "" || s.Args[argVM] == "":
		return Progress{}, fault.New(fault.Bug, "encrypting disk", s.Target, "the step names no disk encryption set or VM")
	case same(disk.SSEDES, want) && underCustomerKey(disk):
		if moving(disk.ProvisioningState) {
			return inMotion(), nil
		}
		return effected(), nil
	case moving(disk.ProvisioningState):
		return inMotion(), nil
	case disk.ADETainted:
		return refuse(s, "the disk was under Azure Disk Encryption, which rules out server-side encryption with a customer key"), nil
	case slices.ContainsFunc(disk.Users(), func(user string) bool { return !same(user, s.Args[argVM]) }):
		return refuse(s, "the disk is attached to another VM"), nil
	}
	vm, err := a.Azure.VM(ctx, cvm.VMID(s.Args[argVM]))
	if err != nil {
		return Progress{}, err
	}
	// The disk's own state is a second witness.
	if vm.Power != powerDeallocated || !same(disk.State, "Reserved") && !same(disk.State, "Unattached") {
		return refuse(s, "the VM isn't deallocated (power %q, disk %q)", vm.Power, disk.State), nil
	}
	if a.Now == nil {
		return refuse(s, "there is no clock to tell whether the key has expired"), nil
	}
	why, err := a.dataDESDoubts(ctx, want, vm.Location, a.Now(), true)
	if err != nil {
		return Progress{}, err
	}
	if len(why) > 0 {
		return refuse(s, "%s", strings.Join(why, "; ")), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startDataDisk(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	des, err := a.Azure.DES(ctx, cvm.DESID(s.Args[argDES]))
	if err != nil {
		return Progress{}, err
	}
	// A disk's encryption type is that of the set it hangs on.
	return a.Azure.BeginDiskDES(ctx, cvm.DiskID(s.Target), des.ID, des.Type)
}

// underCustomerKey says whether a disk's server-side encryption is with a key of
// the customer's.
func underCustomerKey(d cvm.Disk) bool {
	return same(d.EncryptionType, cvm.DESTypeSSE) || same(d.EncryptionType, cvm.DESTypeDouble)
}

// factOf makes a fact of a read: known, absent, or unknown with the missing
// action. What passes by itself comes back as an error.
func factOf[T any](v T, err error) func(code string) (cvm.Fact[T], error) {
	return func(code string) (cvm.Fact[T], error) {
		switch {
		case err == nil:
			return cvm.Known(v), nil
		case fault.Is(err, fault.NotFound):
			return cvm.NotThere[T](), nil
		case passes(err):
			return cvm.Fact[T]{}, err
		}
		return cvm.NotRead[T](code, fault.Action(err), err.Error()), nil
	}
}
