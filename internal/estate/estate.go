package estate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

// Estate is what was captured. Its methods answer as Azure's client does, with
// *cvm.UnreadError for what isn't among the files.
type Estate struct {
	vms      shelf[cvm.VM]       // by folded id
	disks    shelf[cvm.Disk]     // by folded id
	sets     shelf[cvm.DES]      // by folded id
	vaults   shelf[vaultBody]    // by host
	keys     shelf[cvm.Key]      // by folded versioned URL
	skus     map[string]cvm.TEE  // by size and region, lower case; TEEUnknown where two disagree
	lists    shelf[[]cvm.DiskID] // what hangs on a disk encryption set, by its folded id
	versions map[string][]version
	deleted  map[string]string       // folded key URL without a version -> file
	onSet    map[string][]cvm.DiskID // disks that were seen on a disk encryption set
	pages    map[string]pages        // of listings, by the type of what they list
	views    map[string]view         // instance views in files of their own, by folded VM id
	unnamed  [][]string              // lists of ids that don't say whose they are

	files, used int
	troubles    []Trouble
}

// version is one version of a key that was seen.
type version struct {
	id      cvm.KeyID
	created time.Time
}

// vaultBody is a vault or HSM, and whether its body shows access policies at all.
type vaultBody struct {
	cvm.Vault
	policies bool
}

type view struct {
	body []byte
	file string
}

// Trouble is a file, or a body in one, that could not be used, or not as it is.
type Trouble struct {
	File string `json:"file"` // from DIR, with the place in it for one of several bodies
	Why  string `json:"why"`  // one sentence, with what to do about it
}

// Troubles are those of all files, in their order.
func (e *Estate) Troubles() []Trouble { return slices.Clone(e.troubles) }

// Files says how many files there were, and how many held something of use.
func (e *Estate) Files() (all, used int) { return e.files, e.used }

// VMs are the ids of all VMs that the files name, in the order of their folded ids.
func (e *Estate) VMs() []cvm.VMID {
	ids := make([]cvm.VMID, 0, len(e.vms))
	for fold, s := range e.vms {
		ids = append(ids, cmp.Or(s.value.ID, cvm.VMID(s.id), cvm.VMID(fold)))
	}
	slices.SortFunc(ids, func(a, b cvm.VMID) int { return cmp.Compare(a.Fold(), b.Fold()) })
	return ids
}

// Disks are all disks that were captured, in the order of their folded ids.
func (e *Estate) Disks() []cvm.Disk {
	var all []cvm.Disk
	for _, s := range e.disks {
		if s.good() {
			all = append(all, s.value)
		}
	}
	slices.SortFunc(all, func(a, b cvm.Disk) int { return cmp.Compare(a.ID.Fold(), b.ID.Fold()) })
	return all
}

// Captured are all VMs whose bodies could be used, in the order of their folded ids.
func (e *Estate) Captured() []cvm.VM {
	var all []cvm.VM
	for _, s := range e.vms {
		if s.good() {
			all = append(all, s.value)
		}
	}
	slices.SortFunc(all, func(a, b cvm.VM) int { return cmp.Compare(a.ID.Fold(), b.ID.Fold()) })
	return all
}

// The reasons of facts that aren't known.
const (
	notCaptured = "not-captured"
	notAsked    = "not-asked"
)

func unread(object, code, why string) error {
	return &cvm.UnreadError{Object: object, Why: cvm.Unknown{Code: code, Detail: why}}
}

// VM gives a VM, with its instance view if that was captured.
func (e *Estate) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	vm, err := e.vms.get(id.Fold(), string(id))
	if err == nil {
		vm.SizeTEE = e.skus[skuKey(vm.Size, vm.Location)]
	}
	return vm, err
}

// Disk gives a managed disk.
func (e *Estate) Disk(_ context.Context, id cvm.DiskID) (cvm.Disk, error) {
	d, err := e.disks.get(id.Fold(), string(id))
	if err == nil {
		return d, nil
	}
	if _, bad := cvm.ParseDiskID(string(id)); bad != nil {
		err = bad
	}
	return d, err
}

// DES gives a disk encryption set.
func (e *Estate) DES(_ context.Context, id cvm.DESID, _ bool) (cvm.DES, error) {
	d, err := e.sets.get(id.Fold(), string(id))
	if err == nil {
		return d, nil
	}
	if _, bad := cvm.ParseDESID(string(id)); bad != nil {
		err = bad
	}
	return d, err
}

// DESDisks lists what hangs on a disk encryption set. Where the list wasn't
// captured it gives the disks that were seen on it, and says not-asked.
func (e *Estate) DESDisks(_ context.Context, id cvm.DESID) ([]cvm.DiskID, error) {
	if s, ok := e.lists[id.Fold()]; ok {
		if s.good() {
			return s.value, nil
		}
		return nil, unread(string(id), notCaptured, s.bad)
	}
	return e.onSet[id.Fold()], unread(string(id), notAsked, "what hangs on it was not captured")
}

// Key gives the version that a URL names. A URL without one gives the newest
// version that was captured, where that can be told.
func (e *Estate) Key(_ context.Context, id cvm.KeyID, _ bool) (cvm.Key, error) {
	id, err := cvm.ParseKeyID(string(id))
	if err != nil {
		return cvm.Key{}, err
	}
	name := id.Versionless().Fold()
	if _, exact := e.keys[id.Fold()]; id.Version() == "" && !exact {
		newest, ok := e.newest(name)
		if !ok {
			return cvm.Key{}, e.deletedOr(name, unread(string(id), notCaptured, "no version of it is among the files, or which is the newest can't be told"))
		}
		id = newest.id
	}
	k, err := e.keys.get(id.Fold(), string(id))
	if err != nil {
		if len(e.versions[name]) > 0 && e.keys[id.Fold()] == nil {
			err = unread(string(id), notCaptured, fmt.Sprintf("%s is not among the captured files; another version of the key is (%s)", id, e.versions[name][0].id.Version()))
		}
		return k, e.deletedOr(name, err)
	}
	if file := e.deleted[name]; file != "" {
		return cvm.Key{}, unread(string(id), notCaptured, "the files show it both deleted ("+file+") and there")
	}
	if newest, ok := e.newest(name); ok && newest.created.After(k.Created) && !k.Created.IsZero() {
		k.NewerVersion = newest.id.Version()
	}
	return k, nil
}

// newest is the newest of a key's versions that were seen. ok is false where there
// is none, where one of several has no time, and where two were made at one moment.
func (e *Estate) newest(name string) (version, bool) {
	all := e.versions[name]
	if len(all) == 0 {
		return version{}, false
	}
	top, tie := all[0], false
	for _, v := range all[1:] {
		switch {
		case strings.EqualFold(string(v.id), string(top.id)):
			continue
		case v.created.IsZero() || top.created.IsZero():
			return version{}, false
		case v.created.Equal(top.created):
			tie = true
		case v.created.After(top.created):
			top, tie = v, false
		}
	}
	return top, !tie
}

// Vault gives the vault or HSM that answers at a host. Its id is of no interest:
// a disk encryption set doesn't always name it.
func (e *Estate) Vault(_ context.Context, ref cvm.VaultRef, _ bool) (cvm.Vault, error) {
	host := strings.ToLower(ref.Host)
	v, err := e.vaults.get(host, "https://"+host)
	return v.Vault, err
}

// Rights gives who may do what with a key where access policies decide it.
func (e *Estate) Rights(_ context.Context, q cvm.RightsQuery, _ bool) (cvm.Rights, error) {
	v, err := e.vaults.get(q.Vault.Host, q.Vault.ID)
	switch {
	case err != nil:
		return cvm.Rights{}, err
	case v.HSM || v.RBAC == cvm.True || !v.policies:
		return cvm.Rights{}, unread(string(q.Key), notAsked, "who has which role was not captured")
	}
	return cvm.RightsByPolicies(q), nil
}

// shelf keeps the objects of one kind.
type shelf[T any] map[string]*slot[T]

// slot is one object: where it was found, or why it can't be used.
type slot[T any] struct {
	id    string // as spelled
	value T
	file  string // "" while only its name is known
	bad   string // why it isn't used, "" if it is
}

func (s *slot[T]) good() bool { return s.file != "" && s.bad == "" }

func (s shelf[T]) get(fold, object string) (T, error) {
	var zero T
	switch v, ok := s[fold]; {
	case !ok || v.file == "" && v.bad == "":
		return zero, unread(object, notCaptured, object+" is not among the captured files")
	case v.bad != "":
		return zero, unread(object, notCaptured, v.bad)
	default:
		return v.value, nil
	}
}

// known makes sure that an object has its slot.
func (s shelf[T]) known(fold, id string) *slot[T] {
	v := s[fold]
	if v == nil {
		v = &slot[T]{id: id}
		s[fold] = v
	}
	return v
}

// spoil says that an object can't be used.
func (s shelf[T]) spoil(fold, id, why string) {
	if v := s.known(fold, id); v.bad == "" {
		v.bad = why
	}
}

// put keeps an object. merge makes one of two bodies of the same object; ok is
// false where they differ, and then neither is used.
func (s shelf[T]) put(fold, id, file string, value T, merge func(a, b T) (T, bool)) (trouble string) {
	v := s.known(fold, id)
	if v.file == "" {
		v.value, v.file = value, file
		return ""
	}
	both, ok := merge(v.value, value)
	if !ok {
		trouble = fmt.Sprintf("%s shows %s differently; keep the one that is right", v.file, id)
		s.spoil(fold, id, fmt.Sprintf("%s and %s show it differently", v.file, file))
		return trouble
	}
	v.value = both
	return ""
}

// skuKey names a size in a region.
func skuKey(size, region string) string {
	return strings.ToLower(size) + "|" + cvm.FoldRegion(region)
}

// deletedOr is row 59 for a key whose deleted bundle was captured: it isn't there.
func (e *Estate) deletedOr(name string, err error) error {
	if e.deleted[name] != "" {
		return errDeleted(name)
	}
	return err
}

// Orphans are the confidential OS disks that are unattached and that no VM names
// (row 28), in the order of their folded ids.
func (e *Estate) Orphans() []cvm.Disk {
	named := map[string]bool{}
	for _, vm := range e.Captured() {
		named[vm.OSDisk.ID.Fold()] = true
		for _, d := range vm.DataDisks {
			named[d.ID.Fold()] = true
		}
	}
	var all []cvm.Disk
	for _, d := range e.Disks() {
		if d.Orphaned() && !named[d.ID.Fold()] {
			all = append(all, d)
		}
	}
	return all
}
