package fleet

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// KeySet is a disk encryption set and the keys that it names.
type KeySet struct {
	ID       cvm.DESID
	Type     string   // encryptionType; "" means cvm.DESTypeSSE
	Active   string   // activeKey.keyUrl, as read
	Previous []string // previousKeys' URLs, while a rotation is under way
}

// BlastReader is what a blast radius is read from. Listings are Resource Graph's,
// which shows what the caller may read and may be minutes behind; the rest is read
// from the service itself.
type BlastReader interface {
	// KeySets lists the disk encryption sets of subscriptions, of all that the
	// caller sees where none is named. A named one that isn't seen is an error.
	KeySets(ctx context.Context, subscriptions []string, yield func(KeySet) error) error
	KeySet(ctx context.Context, id cvm.DESID) (KeySet, error)
	// SetUsers lists the VMs, and the uniform scale sets, whose OS disk names one of
	// the sets: ephemeral OS disks are no resources, so a set's own list lacks them.
	SetUsers(ctx context.Context, sets []cvm.DESID, yield func(id string) error) error
	// ScaleSetVMs lists the instances of a uniform scale set, which Resource Graph
	// doesn't show.
	ScaleSetVMs(ctx context.Context, scaleSet string) ([]cvm.VMID, error)
	DESDisks(ctx context.Context, id cvm.DESID) ([]cvm.DiskID, error)
	// DiskUsers reads a disk with the ids of all VMs that it is attached to.
	DiskUsers(ctx context.Context, id cvm.DiskID) (cvm.Disk, []string, error)
	VM(ctx context.Context, id cvm.VMID) (cvm.VM, error)
	Key(ctx context.Context, id cvm.KeyID) (cvm.Key, error)
}

// The roles that a disk on a key's set can have for a VM.
const (
	RoleConfidentialOS = "confidential-os" // its key is released into the attested guest
	RoleOS             = "os"              // server-side encryption
	RoleData           = "data"            // server-side encryption
	RoleDetached       = "not-attached"    // named by the disk, not by the VM: being attached or taken off
)

// BlastDisk is a disk that ties a VM to the key.
type BlastDisk struct {
	ID      cvm.DiskID `json:"id,omitempty"` // "" for an ephemeral OS disk
	Role    string     `json:"role"`
	Set     cvm.DESID  `json:"set"`
	SetType string     `json:"setType"`
	Version string     `json:"version"` // that the set names; "" where it names none, which is the newest
	// Previous is set where the set still lists the key after a change: the VM may
	// be on it or on the new one.
	Previous bool `json:"previous,omitempty"`
}

// What becomes of a VM.
const (
	GoesDown          = "goes-down"               // within about an hour, and doesn't start
	StartsNot         = "does-not-start"          // it isn't running
	RunsStartsPerhaps = "runs-on-start-uncertain" // sources disagree about the next start
	StartsPerhaps     = "start-uncertain"
)

// BlastVM is a VM that hangs on the key.
type BlastVM struct {
	ID      cvm.VMID    `json:"id"`
	Power   string      `json:"power"`   // as read; "" where it wasn't
	Running cvm.Tri     `json:"running"` // "" where it isn't known
	Disks   []BlastDisk `json:"disks"`
	// WhenGone is what a disabled or deleted key does to it, WhenExpired what an
	// expired one does. A power state that isn't known counts as running.
	WhenGone    string `json:"whenDisabledOrDeleted"`
	WhenExpired string `json:"whenExpired"`
}

// BlastKey is one version of the key that sets name.
type BlastKey struct {
	ID      cvm.KeyID  `json:"id"`
	State   string     `json:"state"`             // enabled, disabled, expired, not-yet-valid, deleted or unread
	Expires *time.Time `json:"expires,omitempty"` // nil where it has no end, or wasn't read
}

// Unread is something that couldn't be read, behind which VMs may be hidden.
type Unread struct {
	Object string `json:"object"`
	Why    string `json:"why"`
}

// Blast is all that hangs on a key. It is whole only where Unread is empty.
type Blast struct {
	Key        cvm.KeyID    `json:"key"`
	Versions   []BlastKey   `json:"versions"`
	Sets       []cvm.DESID  `json:"sets"`
	VMs        []BlastVM    `json:"vms"`
	Unattached []cvm.DiskID `json:"unattached"` // disks on the key that no VM has
	Unread     []Unread     `json:"unread"`
}

// FoundNothing says that neither the key nor anything that names it was found: more
// likely a URL that is misspelt than a key without use.
func (b Blast) FoundNothing() bool {
	there := func(k BlastKey) bool { return k.State != "deleted" }
	return len(b.Sets) == 0 && len(b.VMs) == 0 && len(b.Unattached) == 0 && !slices.ContainsFunc(b.Versions, there)
}

const (
	blastParallel = 8
	blastTries    = 4
	blastWait     = time.Minute // the longest wait that a throttled read is worth
)

// BlastRadius finds every VM that hangs on a key, by the key's URL with or without
// a version, in the subscriptions named, in all that the reader sees where none
// is. Its error means that nothing could be said at all; what alone could not be
// read stands in Unread. now tells an expired key; wait sleeps until the context
// ends.
func BlastRadius(ctx context.Context, r BlastReader, key cvm.KeyID, subscriptions []string, now time.Time, wait func(context.Context, time.Duration) error) (Blast, error) {
	id, err := cvm.ParseKeyID(string(key))
	if err != nil {
		return Blast{}, err
	}
	b := &blast{r: r, wait: wait, key: id, now: now, vms: map[string]*BlastVM{}, sets: map[string]KeySet{},
		out: Blast{Key: id, Versions: []BlastKey{}, Sets: []cvm.DESID{}, VMs: []BlastVM{}, Unattached: []cvm.DiskID{}, Unread: []Unread{}}}
	if err := b.findSets(ctx, subscriptions); err != nil {
		return Blast{}, err
	}
	b.findDisks(ctx)
	if err := b.findUsers(ctx); err != nil {
		b.unread("VMs with ephemeral OS disks", err)
	}
	b.readVMs(ctx)
	b.readKeys(ctx)
	if ctx.Err() != nil {
		return Blast{}, context.Cause(ctx)
	}
	return b.sorted(), nil
}

type blast struct {
	r    BlastReader
	wait func(context.Context, time.Duration) error
	key  cvm.KeyID
	now  time.Time

	mu   sync.Mutex
	out  Blast
	vms  map[string]*BlastVM // by folded id
	sets map[string]KeySet   // by folded id
}

func (b *blast) unread(object string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out.Unread = append(b.out.Unread, Unread{object, err.Error()})
}

// try does a read, and again where the service asks to wait.
func try[T any](ctx context.Context, b *blast, read func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		v, err := read()
		again := fault.Is(err, fault.Throttled) || fault.Is(err, fault.Transient)
		if pause := fault.RetryAfter(err); !again || n == blastTries || pause > blastWait || b.wait(ctx, max(pause, 200*time.Millisecond)) != nil {
			return v, err
		}
	}
}

// each does f for every item, a few at a time.
func each[T any](ctx context.Context, items []T, f func(T)) {
	next := make(chan T)
	var wg sync.WaitGroup
	for range min(blastParallel, len(items)) {
		wg.Go(func() {
			for item := range next {
				f(item)
			}
		})
	}
	for _, item := range items {
		select {
		case next <- item:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wg.Wait()
}

// names says whether a set's URL is of the key: of the same version where both
// name one, for a URL without a version means the newest.
func (b *blast) names(raw string) (version string, ok bool) {
	id, err := cvm.ParseKeyID(strings.TrimSpace(raw))
	if err != nil || id.Versionless().Fold() != b.key.Versionless().Fold() {
		return "", false
	}
	want := b.key.Version()
	return id.Version(), want == "" || id.Version() == "" || strings.EqualFold(want, id.Version())
}

func (b *blast) onKey(s KeySet) bool {
	_, ok := b.names(s.Active)
	return ok || slices.ContainsFunc(s.Previous, func(u string) bool { _, ok := b.names(u); return ok })
}

func (b *blast) findSets(ctx context.Context, subscriptions []string) error {
	var found []KeySet
	_, err := try(ctx, b, func() (struct{}, error) {
		found = nil
		return struct{}{}, b.r.KeySets(ctx, subscriptions, func(s KeySet) error {
			if b.onKey(s) {
				found = append(found, s)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	each(ctx, found, func(listed KeySet) {
		s, err := try(ctx, b, func() (KeySet, error) { return b.r.KeySet(ctx, listed.ID) })
		switch {
		case fault.Is(err, fault.NotFound):
			return // deleted since it was listed
		case err != nil:
			b.unread(string(listed.ID), err)
			s = listed
		case !b.onKey(s):
			return // moved to another key since
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.sets[s.ID.Fold()] = s
		b.out.Sets = append(b.out.Sets, s.ID)
	})
	return nil
}

// ties gives the ways in which a set names the key, active first.
func (b *blast) ties(s KeySet, d BlastDisk) []BlastDisk {
	d.Set, d.SetType = s.ID, s.Type
	if d.SetType == "" {
		d.SetType = cvm.DESTypeSSE
	}
	var out []BlastDisk
	if v, ok := b.names(s.Active); ok {
		d.Version = v
		out = append(out, d)
	}
	for _, u := range s.Previous {
		if v, ok := b.names(u); ok && !slices.ContainsFunc(out, func(x BlastDisk) bool { return strings.EqualFold(x.Version, v) }) {
			d.Version, d.Previous = v, true
			out = append(out, d)
		}
	}
	return out
}

// vm gives a VM's entry; under mu.
func (b *blast) vm(id string) *BlastVM {
	folded := cvm.VMID(id).Fold()
	if b.vms[folded] == nil {
		b.vms[folded] = &BlastVM{ID: cvm.VMID(id), Disks: []BlastDisk{}}
	}
	return b.vms[folded]
}

func (b *blast) sorted() Blast {
	for _, v := range b.vms {
		slices.SortFunc(v.Disks, func(x, y BlastDisk) int {
			return strings.Compare(x.ID.Fold()+x.Set.Fold()+x.Version, y.ID.Fold()+y.Set.Fold()+y.Version)
		})
		b.out.VMs = append(b.out.VMs, *v)
	}
	o := b.out
	slices.SortFunc(o.VMs, func(x, y BlastVM) int { return strings.Compare(x.ID.Fold(), y.ID.Fold()) })
	slices.SortFunc(o.Versions, func(x, y BlastKey) int { return strings.Compare(x.ID.Fold(), y.ID.Fold()) })
	slices.SortFunc(o.Sets, func(x, y cvm.DESID) int { return strings.Compare(x.Fold(), y.Fold()) })
	slices.SortFunc(o.Unattached, func(x, y cvm.DiskID) int { return strings.Compare(x.Fold(), y.Fold()) })
	slices.SortFunc(o.Unread, func(x, y Unread) int { return strings.Compare(x.Object, y.Object) })
	return o
}
