package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func (b *blast) findDisks(ctx context.Context) {
	type diskOn struct {
		id  cvm.DiskID
		set KeySet
	}
	var disks []diskOn
	for _, id := range slices.Clone(b.out.Sets) {
		set := b.sets[id.Fold()]
		list, err := try(ctx, b, func() ([]cvm.DiskID, error) { return b.r.DESDisks(ctx, id) })
		if err != nil {
			b.unread("the disks of "+string(id), err)
			continue
		}
		for _, d := range list {
			disks = append(disks, diskOn{d, set})
		}
	}
	type read struct {
		disk  cvm.Disk
		users []string
	}
	each(ctx, disks, func(d diskOn) {
		got, err := try(ctx, b, func() (read, error) {
			disk, users, err := b.r.DiskUsers(ctx, d.id)
			return read{disk, users}, err
		})
		if fault.Is(err, fault.NotFound) {
			return // deleted since it was listed
		}
		if err != nil {
			b.unread(string(d.id), err)
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(got.users) == 0 {
			b.out.Unattached = append(b.out.Unattached, got.disk.ID)
		}
		for _, user := range got.users {
			vm := b.vm(user)
			// The VM says what the disk is to it; until it is read this is what the disk says.
			role := RoleData
			switch {
			case got.disk.SecureDES.Fold() == d.set.ID.Fold():
				role = RoleConfidentialOS
			case got.disk.OSType != "":
				role = RoleOS
			}
			vm.Disks = append(vm.Disks, b.ties(d.set, BlastDisk{ID: got.disk.ID, Role: role})...)
		}
	})
}

// findUsers adds VMs whose OS disk is no resource: those that are listed, and the
// instances of scale sets whose model has the key.
func (b *blast) findUsers(ctx context.Context) error {
	if len(b.out.Sets) == 0 {
		return nil
	}
	var found []string
	_, err := try(ctx, b, func() (struct{}, error) {
		found = nil
		return struct{}{}, b.r.SetUsers(ctx, b.out.Sets, func(id string) error { found = append(found, id); return nil })
	})
	var ids []string
	for _, id := range found {
		if _, bad := cvm.ParseVMID(id); bad == nil {
			ids = append(ids, id)
			continue
		}
		instances, err := try(ctx, b, func() ([]cvm.VMID, error) { return b.r.ScaleSetVMs(ctx, id) })
		if fault.Is(err, fault.NotFound) {
			continue // deleted since it was listed
		}
		if err != nil {
			b.unread("the instances of "+id, err)
		}
		for _, vm := range instances {
			ids = append(ids, string(vm))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range ids {
		b.vm(id)
	}
	return err
}

func (b *blast) readVMs(ctx context.Context) {
	var all []*BlastVM
	for _, v := range b.vms {
		all = append(all, v)
	}
	each(ctx, all, func(v *BlastVM) {
		vm, err := try(ctx, b, func() (cvm.VM, error) { return b.r.VM(ctx, v.ID) })
		if fault.Is(err, fault.NotFound) {
			vm, err = try(ctx, b, func() (cvm.VM, error) { return b.r.VM(ctx, v.ID) })
		}
		if err != nil {
			b.unread(string(v.ID), err)
		} else {
			b.fill(v, vm)
		}
		v.WhenGone, v.WhenExpired = GoesDown, RunsStartsPerhaps
		if v.Running == cvm.False {
			v.WhenGone, v.WhenExpired = StartsNot, StartsPerhaps
		}
	})
	for folded, v := range b.vms {
		if len(v.Disks) == 0 { // listed by a model that has changed since
			delete(b.vms, folded)
		}
	}
}

// fill takes from a VM what its disks are to it, and whether it runs.
func (b *blast) fill(v *BlastVM, vm cvm.VM) {
	v.ID = vm.ID
	for i := range v.Disks {
		d := &v.Disks[i]
		data := slices.ContainsFunc(vm.DataDisks, func(ref cvm.DataDiskRef) bool { return ref.ID.Fold() == d.ID.Fold() })
		switch os := vm.OSDisk.ID.Fold() == d.ID.Fold(); {
		case os && (d.Role == RoleConfidentialOS || vm.OSDisk.SecureDES.Fold() == d.Set.Fold()):
			d.Role = RoleConfidentialOS
		case os:
			d.Role = RoleOS
		case data:
			d.Role = RoleData
		default:
			d.Role = RoleDetached
		}
	}
	// Where both name one set the disk is the confidential one.
	for _, os := range []struct {
		role string
		des  cvm.DESID
	}{{RoleConfidentialOS, vm.OSDisk.SecureDES}, {RoleOS, vm.OSDisk.SSEDES}} {
		s, on := b.sets[os.des.Fold()]
		if on && !slices.ContainsFunc(v.Disks, func(d BlastDisk) bool {
			return d.Set.Fold() == os.des.Fold() && (d.Role == RoleConfidentialOS || d.Role == RoleOS)
		}) {
			v.Disks = append(v.Disks, b.ties(s, BlastDisk{ID: vm.OSDisk.ID, Role: os.role})...)
		}
	}
	v.Power = vm.Power
	switch strings.ToLower(vm.Power) {
	case "":
		b.unread(string(v.ID), errors.New("its power state was not in what was read"))
	case "deallocated", "stopped":
		v.Running = cvm.False
	default:
		v.Running = cvm.True // starting, stopping and deallocating too: it isn't down yet, or not for long
	}
}

// readKeys reads the versions that sets name, and the one that was asked for.
func (b *blast) readKeys(ctx context.Context) {
	urls := map[string]cvm.KeyID{b.key.Fold(): b.key}
	for _, s := range b.sets {
		for _, u := range append([]string{s.Active}, s.Previous...) {
			if _, ok := b.names(u); ok {
				if id, err := cvm.ParseKeyID(strings.TrimSpace(u)); err == nil {
					urls[id.Fold()] = id
				}
			}
		}
	}
	var list []cvm.KeyID
	for _, id := range urls {
		list = append(list, id)
	}
	each(ctx, list, func(id cvm.KeyID) {
		k, err := try(ctx, b, func() (cvm.Key, error) { return b.r.Key(ctx, id) })
		v := BlastKey{ID: id, State: b.state(k, err)}
		if err != nil && v.State == "unread" {
			b.unread(string(id), err)
		}
		if !k.Expires.IsZero() {
			v.Expires = &k.Expires
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.out.Versions = append(b.out.Versions, v)
	})
}

func (b *blast) state(k cvm.Key, err error) string {
	switch {
	case fault.Is(err, fault.NotFound):
		return "deleted"
	case err != nil || !k.AttributesRead || k.Enabled == cvm.Unread:
		return "unread"
	case k.Enabled == cvm.False:
		return "disabled"
	case !k.Expires.IsZero() && !k.Expires.After(b.now):
		return "expired"
	case k.NotBefore.After(b.now):
		return "not-yet-valid"
	}
	return "enabled"
}
