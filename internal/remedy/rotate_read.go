package remedy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// RotationReader is what the rotation of a key is judged by.
type RotationReader interface {
	SizeReader
	VM(ctx context.Context, id cvm.VMID) (cvm.VM, error)
	Disk(ctx context.Context, id cvm.DiskID) (cvm.Disk, error)
	DES(ctx context.Context, id cvm.DESID) (cvm.DES, error)
	DESDisks(ctx context.Context, id cvm.DESID) ([]cvm.DiskID, error)
	Key(ctx context.Context, id cvm.KeyID) (cvm.Key, error) // without a version: the newest
	Vault(ctx context.Context, ref cvm.VaultRef) (cvm.Vault, error)
	Rights(ctx context.Context, q cvm.RightsQuery) (cvm.Rights, error)
}

// Bounds of what is read for one rotation, so that it is done within a turn.
const (
	maxRotationDisks = 400
	readsAtOnce      = 8
)

// ReadRotation reads what PlanRotation and the step check-rotation judge by. key
// is the version that the set is to have, "" for the newest of its present key.
// also are VMs that are known to hang on the set beside those that its disks name:
// an ephemeral OS disk is no resource, so none of them is listed. What can't be
// read is a fact that isn't known; what passes by itself comes back as an error.
func ReadRotation(ctx context.Context, az RotationReader, id cvm.DESID, key cvm.KeyID, also []cvm.VMID, d *policy.Document, now time.Time) (RotationInput, error) {
	in := RotationInput{Policy: d, Now: now, Others: map[string]KeyPath{}, Sizes: map[cvm.VMID]cvm.Fact[bool]{}}
	des, err := az.DES(ctx, id)
	if err != nil {
		return in, fmt.Errorf("reading the disk encryption set: %w", err)
	}
	in.DES = des
	present, err := cvm.ParseKeyID(des.KeyURL)
	if err != nil {
		return in, fmt.Errorf("reading the key of disk encryption set %q: %w", id, err)
	}
	if in.Old, err = factOf(az.Key(ctx, present))("key-unreadable"); err != nil {
		return in, err
	}
	if key == "" {
		key = present.Versionless()
	}
	if in.New, in.Key, err = readPath(ctx, az, des, key, d); err != nil {
		return in, err
	}
	in.New.DES = cvm.Known(rotated(des, in.Key))
	if err := in.readUsers(ctx, az, also); err != nil {
		return in, err
	}
	return in, in.readRest(ctx, az)
}

// readPath reads key, vault and rights of a set with a key; named is the key with
// its version.
func readPath(ctx context.Context, az RotationReader, des cvm.DES, key cvm.KeyID, d *policy.Document) (p KeyPath, named cvm.KeyID, err error) {
	p.DES = cvm.Known(des)
	if p.Key, err = factOf(az.Key(ctx, key))("key-unreadable"); err != nil {
		return p, key, err
	}
	named = key
	if p.Key.Known {
		named = p.Key.Value.ID
	}
	ref := cvm.VaultRef{Host: key.Host()}
	if was, err := cvm.ParseKeyID(des.KeyURL); err == nil && was.Host() == key.Host() {
		ref.ID = des.SourceVault
	}
	if p.Vault, err = factOf(az.Vault(ctx, ref))("vault-unreadable"); err != nil || !p.Vault.Known {
		return p, named, err
	}
	p.Rights, err = factOf(az.Rights(ctx, cvm.RightsQuery{Vault: p.Vault.Value, Key: key.Versionless(),
		DESPrincipal: des.PrincipalID, Orchestrator: d.Orchestrator()}))("rights-unreadable")
	return p, named, err
}

// readUsers reads the disks on the set and the VMs that they belong to.
func (in *RotationInput) readUsers(ctx context.Context, az RotationReader, also []cvm.VMID) error {
	listed, err := factOf(az.DESDisks(ctx, in.DES.ID))("associated-unreadable")
	var out doubts
	ids, ok := read(&out, listed, "the list of disks on the set")
	in.Unread = append(in.Unread, out.list...)
	if err != nil || !ok {
		return err
	}
	if len(ids) > maxRotationDisks {
		in.Unread = append(in.Unread, fmt.Sprintf("%d disks hang on the set, and no more than %d are rotated in one operation: move some VMs to another set", len(ids), maxRotationDisks))
		return nil
	}
	disks := make([]cvm.Fact[cvm.Disk], len(ids))
	if err := atOnce(len(ids), func(i int) (err error) {
		disks[i], err = factOf(az.Disk(ctx, ids[i]))("disk-unreadable")
		return err
	}); err != nil {
		return err
	}
	users := map[string]cvm.VMID{}
	for i, f := range disks {
		switch {
		case f.Absent: // deleted since the listing
		case !f.Known:
			in.Unread = append(in.Unread, fmt.Sprintf("the disk %s on the set wasn't read (%s)", ids[i].Name(), f.Why.Code))
		default:
			in.Disks = append(in.Disks, f.Value)
			for _, user := range f.Value.Users() { // of a shared disk all: the key changes under each of them
				vm, err := cvm.ParseVMID(user)
				if err != nil {
					in.Unread = append(in.Unread, fmt.Sprintf("the disk %s belongs to %s, which is no VM that could be deallocated here", f.Value.Name, user))
					continue
				}
				users[vm.Fold()] = vm
			}
		}
	}
	for _, vm := range also {
		if _, there := users[vm.Fold()]; !there {
			users[vm.Fold()] = vm
		}
	}
	return in.readVMs(ctx, az, users, also)
}

func (in *RotationInput) readVMs(ctx context.Context, az RotationReader, users map[string]cvm.VMID, also []cvm.VMID) error {
	var list []cvm.VMID
	for _, id := range users {
		list = append(list, id)
	}
	slices.SortFunc(list, func(a, b cvm.VMID) int { return strings.Compare(a.Fold(), b.Fold()) })
	vms := make([]cvm.Fact[cvm.VM], len(list))
	if err := atOnce(len(list), func(i int) (err error) {
		vms[i], err = factOf(az.VM(ctx, list[i]))("vm-unreadable")
		return err
	}); err != nil {
		return err
	}
	for i, f := range vms {
		byBooks := slices.ContainsFunc(also, func(id cvm.VMID) bool { return same(id, list[i]) })
		switch {
		case f.Absent:
		case !f.Known:
			in.Unread = append(in.Unread, fmt.Sprintf("the VM %s on the set wasn't read (%s)", list[i].Name(), f.Why.Code))
		case byBooks && !usesSet(f.Value, in.DES.ID) && !in.hasDisk(f.Value.ID):
			// It has moved to another set since it was last looked at.
		default:
			in.VMs = append(in.VMs, f.Value)
		}
	}
	return nil
}

// hasDisk says whether a disk on the set names the VM.
func (in *RotationInput) hasDisk(vm cvm.VMID) bool {
	return slices.ContainsFunc(in.Disks, func(d cvm.Disk) bool {
		return slices.ContainsFunc(d.Users(), func(user string) bool { return same(user, vm) })
	})
}

func usesSet(vm cvm.VM, des cvm.DESID) bool {
	return same(vm.OSDisk.SecureDES, des) || same(vm.OSDisk.SSEDES, des) ||
		slices.ContainsFunc(vm.DataDisks, func(d cvm.DataDiskRef) bool { return same(d.SecureDES, des) || same(d.SSEDES, des) })
}

// readRest reads the sizes of the VMs that run, and the key paths of OS disks on
// other sets.
func (in *RotationInput) readRest(ctx context.Context, az RotationReader) error {
	sizes := make([]cvm.Fact[bool], len(in.VMs))
	if err := atOnce(len(in.VMs), func(i int) (err error) {
		vm := in.VMs[i]
		if vm.Power == powerRunning {
			sizes[i], err = factOf(az.SizeOffered(ctx, vm.ID.Subscription(), vm.Location, vm.Size, vm.Zones))("size-unreadable")
		}
		return err
	}); err != nil {
		return err
	}
	for i, vm := range in.VMs {
		in.Sizes[vm.ID] = sizes[i]
		id := vm.OSDisk.SecureDES
		if _, there := in.Others[id.Fold()]; id == "" || same(id, in.DES.ID) || there {
			continue
		}
		des, err := az.DES(ctx, id)
		if passes(err) {
			return err
		}
		path := KeyPath{DES: cvm.NotRead[cvm.DES]("des-unreadable", "", "")}
		if key, kerr := cvm.ParseKeyID(des.KeyURL); err == nil && kerr == nil {
			if path, _, err = readPath(ctx, az, des, key, in.Policy); err != nil {
				return err
			}
		}
		in.Others[id.Fold()] = path
	}
	return nil
}

// atOnce does n things, some of them at the same time, and gives the first error
// in order.
func atOnce(n int, do func(i int) error) error {
	errs := make([]error, n)
	slots := make(chan struct{}, readsAtOnce)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = do(i)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// KeyRotator is what an Azure may offer beside: to change a disk encryption set's
// key. Without it a rotation is refused.
type KeyRotator interface {
	RotationReader
	// BeginDESKey points the set at a key version. sourceVault is "" for a managed HSM
	// and for a vault in another subscription.
	BeginDESKey(ctx context.Context, id cvm.DESID, key cvm.KeyID, sourceVault string) (Progress, error)
}

func (a *AzureApplier) rotator(s Step) (KeyRotator, error) {
	if r, ok := a.Azure.(KeyRotator); ok {
		return r, nil
	}
	return nil, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "this Azure can't rotate keys")
}
