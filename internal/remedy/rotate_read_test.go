package remedy

import (
	"context"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// sharing is a set with one data disk that two VMs share. What it isn't asked for
// here, it hasn't got.
type sharing struct {
	RotationReader
	disk cvm.Disk
}

func (r sharing) DESDisks(context.Context, cvm.DESID) ([]cvm.DiskID, error) {
	return []cvm.DiskID{r.disk.ID}, nil
}

func (r sharing) Disk(context.Context, cvm.DiskID) (cvm.Disk, error) { return r.disk, nil }

func (r sharing) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	return cvm.VM{ID: id, Power: powerRunning}, nil
}

// All VMs that share a disk on the set are taken down for its key, whichever of them
// manages it, and a VM that our books know stays though it is a holder alone.
func TestARotationSeesAllWhoShareADisk(t *testing.T) {
	two := vmID + "-two"
	for name, c := range map[string]struct {
		disk   cvm.Disk
		also   []cvm.VMID
		want   []cvm.VMID
		unread string
	}{
		"two of them":       {cvm.Disk{ManagedBy: string(vmID), Holders: []string{strings.ToUpper(string(vmID)), string(two)}}, nil, []cvm.VMID{vmID, two}, ""},
		"a holder in books": {cvm.Disk{ManagedBy: string(vmID), Holders: []string{string(vmID), string(two)}}, []cvm.VMID{two}, []cvm.VMID{vmID, two}, ""},
		"holders alone":     {cvm.Disk{Holders: []string{string(two)}}, nil, []cvm.VMID{two}, ""},
		"nobody":            {cvm.Disk{}, nil, nil, ""},
		"one that is no VM": {cvm.Disk{ManagedBy: string(vmID), Holders: []string{string(vmID), "/what"}}, nil, []cvm.VMID{vmID}, "/what"},
	} {
		c.disk.ID, c.disk.Name, c.disk.MaxShares = data0ID, "shared", 2
		in := RotationInput{DES: cvm.DES{ID: desID}}
		if err := in.readUsers(t.Context(), sharing{disk: c.disk}, c.also); err != nil {
			t.Fatal(err)
		}
		var got []cvm.VMID
		for _, vm := range in.VMs {
			got = append(got, vm.ID)
		}
		if !slices.EqualFunc(got, c.want, func(a, b cvm.VMID) bool { return same(a, b) }) || strings.Contains(strings.Join(in.Unread, " "), "/what") != (c.unread != "") {
			t.Errorf("%s: %v, unread %v", name, got, in.Unread)
		}
	}
}

// A next start rests on the TEE that the judge goes by: what Resource SKUs say of the
// size, before its name.
func TestTheReleasePolicyIsAskedForTheTEEThatTheSKUsName(t *testing.T) {
	w := newWorld()
	key, d := w.keys[keyV1], document(t, "enforce")
	if why := releasePolicyDoubt(key, w.vm, d); why != "" {
		t.Fatal(why)
	}
	vm := w.vm
	vm.Size, vm.SizeTEE = "Standard_DC4newname_v9", cvm.TEESNP
	if why := releasePolicyDoubt(key, vm, d); why != "" {
		t.Errorf("of a size that only the SKUs know: %s", why)
	}
	provider, _ := cvm.AttestationProvider(w.vm.Location)
	key.Policy.Decoded = cvm.DraftReleasePolicies(cvm.TEETDX, provider)
	if byName := releasePolicyDoubt(key, w.vm, d); byName == "" {
		t.Fatal("a policy for TDX alone is fit for SNP")
	}
	vm = w.vm
	vm.SizeTEE = cvm.TEETDX
	if why := releasePolicyDoubt(key, vm, d); why != "" {
		t.Errorf("the SKUs say TDX: %s", why)
	}
}
