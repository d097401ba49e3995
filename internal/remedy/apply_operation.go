package remedy

import (
	"context"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// operationAct is the act of a step that only operations have. Each kind of
// operation has its own switch.
func (a *AzureApplier) operationAct(s Step) (act, bool) {
	switch s.Kind {
	// Rotation.
	case CheckRotation:
		return act{look: a.lookCheckRotation, start: a.startNothing}, true
	case DeallocateWave:
		return a.waveAct(a.downState, a.waveDoubts, a.Azure.BeginDeallocate), true
	case SetDESKey:
		return act{look: a.lookDESKey, start: a.startDESKey}, true
	case StartWave:
		return a.waveAct(a.upState, nil, a.Azure.BeginStart), true
	// Undo.
	case RestoreTag:
		return act{look: a.lookRestoreTag, start: a.startTags}, true
	case RestoreAutoRotation:
		return act{look: a.lookRestoreRotation, start: a.startRestoreRotation}, true
	case RestoreReleasePolicy:
		return act{look: a.lookRestorePolicy, start: a.startReleasePolicy}, true
	}
	return a.recreationAct(s)
}

// startNothing is for steps that only read: their look never says that there is
// something to send.
func (a *AzureApplier) startNothing(_ context.Context, s Step, _ Secrets) (Progress, error) {
	return Progress{}, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "the step sends nothing")
}

// Rotation.

func (a *AzureApplier) lookCheckRotation(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.rotator(s)
	if err != nil {
		return Progress{}, err
	}
	if a.Now == nil {
		return refuse(s, "there is no clock to tell whether a key has expired"), nil
	}
	also, err := a.onSet(ctx, cvm.DESID(s.Target))
	if err != nil {
		return Progress{}, err
	}
	in, err := ReadRotation(ctx, az, cvm.DESID(s.Target), cvm.KeyID(s.Args[argKey]), also, a.Policy, a.Now())
	if err != nil {
		return Progress{}, err
	}
	if err := otherKey(in.DES, s); err != nil {
		return refused(err), nil
	}
	if why := in.Doubts(); len(why) > 0 {
		return refuse(s, "%s", strings.Join(why, "; ")), nil
	}
	if digest := usersDigest(in.users()); digest != s.Args[argUsers] {
		return refused(superseded(s, "the VMs on the set aren't those that the plan was made for (now there are %d)", len(in.VMs))), nil
	}
	return effected(), nil
}

// lookDESKey reads the set, and before it is changed every VM on it.
func (a *AzureApplier) lookDESKey(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.rotator(s)
	if err != nil {
		return Progress{}, err
	}
	id, want := cvm.DESID(s.Target), cvm.KeyID(s.Args[argKey])
	des, err := az.DES(ctx, id)
	switch {
	case err != nil:
		return Progress{}, err
	case want == "" || s.Before[BeforeKey] == "":
		return Progress{}, fault.New(fault.Bug, "setting the key of disk encryption set", s.Target, "the step names no key, or not the one before")
	case moving(des.ProvisioningState):
		return inMotion(), nil
	case same(des.KeyURL, want) && same(des.ProvisioningState, "Succeeded") && des.PreviousKeys == 0:
		return effected(), nil
	case same(des.KeyURL, want) && same(des.ProvisioningState, "Succeeded") && (!same(s.Before[BeforeKey], want) || rotatedAt(des) != s.Before[beforeRotate]):
		return inMotion(), nil // Azure is at it
	case !same(des.KeyURL, want) && !same(des.KeyURL, s.Before[BeforeKey]):
		return refused(superseded(s, "the set names %s by now, which somebody else has set", des.KeyURL)), nil
	}
	up, err := a.notDown(ctx, az, id)
	if err != nil {
		return Progress{}, err
	}
	if len(up) > 0 {
		return refuse(s, "not every VM on the set is deallocated, and then none would get the key: %s", strings.Join(up, ", ")), nil
	}
	why, err := a.keyDoubtsNow(ctx, az, des, want)
	if err != nil {
		return Progress{}, err
	}
	if len(why) > 0 {
		return refuse(s, "%s", strings.Join(why, "; ")), nil
	}
	return notThere(), nil
}

// notDown lists what hangs on the set and isn't known to be deallocated.
func (a *AzureApplier) notDown(ctx context.Context, az RotationReader, id cvm.DESID) ([]string, error) {
	also, err := a.onSet(ctx, id)
	if err != nil {
		return nil, err
	}
	in := RotationInput{DES: cvm.DES{ID: id}, Policy: a.Policy}
	if err := in.readUsers(ctx, az, also); err != nil {
		return nil, err
	}
	up := in.Unread
	for _, vm := range in.VMs {
		if vm.Power != powerDeallocated {
			up = append(up, vm.ID.Name()+" is "+vm.Power)
		}
	}
	return up, nil
}

// keyDoubtsNow are those of the two keys, read once more.
func (a *AzureApplier) keyDoubtsNow(ctx context.Context, az RotationReader, des cvm.DES, key cvm.KeyID) ([]string, error) {
	in, err := a.newPath(ctx, az, des, key)
	if err != nil {
		return nil, err
	}
	var out doubts
	in.oldKeyDoubts(&out)
	if k, ok := read(&out, in.New.Key, "the new key"); ok {
		keyStateDoubts(&out, k, in.Now)
		out.when(k.Exportable != cvm.True, "the new key isn't exportable, so it can't be released")
		why := releaseFault(k.Policy, des.Location, "", a.Policy) // whether it admits each VM's TEE was asked before it was taken down
		out.when(why != "", "%s", why)
	}
	if r, ok := read(&out, in.New.Rights, "the rights on the new key"); ok {
		lack := missing(r.DESIdentity, desOps)
		out.when(len(lack) > 0, "the disk encryption set's identity lacks %s on the new key", strings.Join(lack, ", "))
	}
	return out.list, nil
}

// newPath reads a set's key path with a key, and the key that it has now.
func (a *AzureApplier) newPath(ctx context.Context, az RotationReader, des cvm.DES, key cvm.KeyID) (in RotationInput, err error) {
	if a.Now == nil {
		return in, fault.New(fault.Blocked, "rotating the key of disk encryption set", string(des.ID), "there is no clock to tell whether a key has expired")
	}
	in = RotationInput{DES: des, Key: key, Policy: a.Policy, Now: a.Now(), Others: map[string]KeyPath{}, Sizes: map[cvm.VMID]cvm.Fact[bool]{}}
	old, err := cvm.ParseKeyID(des.KeyURL)
	if err != nil {
		return in, err
	}
	if in.Old, err = factOf(az.Key(ctx, old))("key-unreadable"); err != nil {
		return in, err
	}
	in.New, _, err = readPath(ctx, az, des, key, a.Policy)
	in.New.DES = cvm.Known(rotated(des, key))
	return in, err
}

func (a *AzureApplier) startDESKey(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	az, err := a.rotator(s)
	if err != nil {
		return Progress{}, err
	}
	id, key := cvm.DESID(s.Target), cvm.KeyID(s.Args[argKey])
	vault, err := az.Vault(ctx, cvm.VaultRef{Host: key.Host()})
	if err != nil {
		return Progress{}, err
	}
	source := vault.ID
	if vault.HSM || !same(cvm.VaultID(vault.ID).Subscription(), id.Subscription()) {
		source = "" // Azure takes it neither for an HSM nor from another subscription
	}
	return az.BeginDESKey(ctx, id, key, source)
}
