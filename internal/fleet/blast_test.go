package fleet

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

const (
	blastSub = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/RG/providers/Microsoft.Compute/"
	blastKey = "https://kv-cvm.vault.azure.net/keys/k"
)

func setID(n string) cvm.DESID   { return cvm.DESID(blastSub + "diskEncryptionSets/" + n) }
func diskID(n string) cvm.DiskID { return cvm.DiskID(blastSub + "disks/" + n) }
func vmID(n string) cvm.VMID     { return cvm.VMID(blastSub + "virtualMachines/" + n) }

// blastWorld is an Azure in maps. What is in fail fails, by the id's last part.
type blastWorld struct {
	mu     sync.Mutex
	listed []KeySet
	live   map[cvm.DESID]KeySet
	users  []string
	disks  map[cvm.DESID][]cvm.DiskID
	disk   map[cvm.DiskID]cvm.Disk
	shared map[cvm.DiskID][]string
	vms    map[string]cvm.VM
	keys   map[cvm.KeyID]cvm.Key
	scale  map[string][]cvm.VMID
	fail   map[string][]error // taken one by one
	asked  []string           // subscriptions
}

func (w *blastWorld) fault(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.ToLower(id[strings.LastIndexByte(id, '/')+1:])
	list := w.fail[name]
	if len(list) == 0 {
		return nil
	}
	if len(list) > 1 {
		w.fail[name] = list[1:]
	}
	return list[0]
}

func notThere(id string) error { return fault.New(fault.NotFound, "reading", id, "404") }

func (w *blastWorld) KeySets(_ context.Context, subs []string, yield func(KeySet) error) error {
	w.asked = subs
	for _, s := range w.listed {
		if err := yield(s); err != nil {
			return err
		}
	}
	return w.fault("sets")
}

func (w *blastWorld) KeySet(_ context.Context, id cvm.DESID) (KeySet, error) {
	if err := w.fault(string(id)); err != nil {
		return KeySet{}, err
	}
	s, ok := w.live[id]
	if !ok {
		return KeySet{}, notThere(string(id))
	}
	return s, nil
}

func (w *blastWorld) SetUsers(_ context.Context, _ []cvm.DESID, yield func(string) error) error {
	for _, u := range w.users {
		if err := yield(u); err != nil {
			return err
		}
	}
	return w.fault("users")
}

func (w *blastWorld) ScaleSetVMs(_ context.Context, id string) ([]cvm.VMID, error) {
	if err := w.fault(id); err != nil {
		return nil, err
	}
	list, ok := w.scale[id]
	if !ok {
		return nil, notThere(id)
	}
	return list, nil
}

func (w *blastWorld) DESDisks(_ context.Context, id cvm.DESID) ([]cvm.DiskID, error) {
	return w.disks[id], w.fault("disks-of-" + id.Name())
}

func (w *blastWorld) DiskUsers(_ context.Context, id cvm.DiskID) (cvm.Disk, []string, error) {
	d, ok := w.disk[id]
	if !ok {
		return d, nil, notThere(string(id))
	}
	users := w.shared[id]
	if d.ManagedBy != "" {
		users = append([]string{d.ManagedBy}, users...)
	}
	return d, users, w.fault(string(id))
}

func (w *blastWorld) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	if err := w.fault(string(id)); err != nil {
		return cvm.VM{}, err
	}
	v, ok := w.vms[id.Fold()]
	if !ok {
		return v, notThere(string(id))
	}
	return v, nil
}

func (w *blastWorld) Key(_ context.Context, id cvm.KeyID) (cvm.Key, error) {
	if err := w.fault(string(id)); err != nil {
		return cvm.Key{}, err
	}
	k, ok := w.keys[id]
	if !ok {
		return k, notThere(string(id))
	}
	return k, nil
}

func (w *blastWorld) set(s KeySet, disks ...cvm.DiskID) {
	w.listed, w.live[s.ID], w.disks[s.ID] = append(w.listed, s), s, disks
}

func newBlastWorld() *blastWorld {
	w := &blastWorld{live: map[cvm.DESID]KeySet{}, disks: map[cvm.DESID][]cvm.DiskID{}, disk: map[cvm.DiskID]cvm.Disk{}, shared: map[cvm.DiskID][]string{},
		vms: map[string]cvm.VM{}, keys: map[cvm.KeyID]cvm.Key{}, fail: map[string][]error{}}
	conf := func(name string, os cvm.DiskID, vm string) {
		w.disk[os] = cvm.Disk{ID: os, SecureDES: cvm.DESID(strings.ToUpper(string(setID(name)))), OSType: "Linux", ManagedBy: vm}
	}
	w.set(KeySet{ID: setID("active"), Type: cvm.DESTypeConfidential, Active: "https://KV-CVM.vault.azure.net/keys/K/1"}, diskID("os1"), diskID("os2"), diskID("spare"))
	w.set(KeySet{ID: setID("moved"), Type: cvm.DESTypeConfidential, Active: blastKey + "/2", Previous: []string{blastKey + "/1", "https://kv-cvm.vault.azure.net/keys/old/1"}}, diskID("os3"))
	w.set(KeySet{ID: setID("sse"), Active: blastKey}, diskID("data1"), diskID("os4"), diskID("gone"))
	w.set(KeySet{ID: setID("other"), Active: "https://kv-cvm.vault.azure.net/keys/k2/1"}, diskID("never"))
	w.set(KeySet{ID: setID("elsewhere"), Active: "https://kv-other.vault.azure.net/keys/k/1"}, diskID("never"))
	w.set(KeySet{ID: setID("left"), Active: blastKey + "/1"})
	w.live[setID("left")] = KeySet{ID: setID("left"), Active: "https://kv-cvm.vault.azure.net/keys/k2/1"} // moved off since it was listed
	w.set(KeySet{ID: setID("deleted"), Active: blastKey + "/1"})
	delete(w.live, setID("deleted"))
	conf("active", diskID("os1"), strings.ToUpper(string(vmID("vm1"))))
	conf("active", diskID("os2"), string(vmID("vm2")))
	conf("active", diskID("spare"), "")
	conf("moved", diskID("os3"), string(vmID("vm3")))
	w.disk[diskID("data1")] = cvm.Disk{ID: diskID("data1"), SSEDES: setID("sse"), ManagedBy: string(vmID("vm1"))}
	w.shared[diskID("data1")] = []string{string(vmID("vm4"))}
	w.disk[diskID("os4")] = cvm.Disk{ID: diskID("os4"), SSEDES: setID("sse"), OSType: "Linux", ManagedBy: string(vmID("vm4"))}
	put := func(name, power string, os cvm.OSDiskRef, data ...cvm.DiskID) {
		v := cvm.VM{ID: vmID(name), Power: power, OSDisk: os}
		for _, d := range data {
			v.DataDisks = append(v.DataDisks, cvm.DataDiskRef{ID: d})
		}
		w.vms[v.ID.Fold()] = v
	}
	put("vm1", "running", cvm.OSDiskRef{ID: diskID("os1"), SecureDES: setID("active")}, diskID("data1"))
	put("vm2", "deallocated", cvm.OSDiskRef{ID: diskID("os2"), SecureDES: setID("active")})
	put("vm3", "running", cvm.OSDiskRef{ID: diskID("os3"), SecureDES: setID("moved")})
	put("vm4", "stopped", cvm.OSDiskRef{ID: diskID("os4"), SSEDES: setID("sse")}, diskID("data1"))
	put("vm5", "running", cvm.OSDiskRef{Ephemeral: true, SecureDES: setID("active")})
	put("vm6", "running", cvm.OSDiskRef{Ephemeral: true, SecureDES: setID("other")}) // Resource Graph lags
	w.users = []string{string(vmID("vm1")), string(vmID("vm5")), string(vmID("vm6"))}
	key := func(v string, k cvm.Key) {
		id := cvm.KeyID(blastKey + v)
		k.ID, k.AttributesRead = id, true
		w.keys[id] = k
	}
	key("", cvm.Key{Enabled: cvm.True})
	key("/2", cvm.Key{Enabled: cvm.False})
	w.keys["https://KV-CVM.vault.azure.net/keys/K/1"] = cvm.Key{AttributesRead: true, Enabled: cvm.True, Expires: time.Unix(1_800_000_000, 0)}
	w.keys[blastKey+"/1"] = w.keys["https://KV-CVM.vault.azure.net/keys/K/1"]
	return w
}

func blastOf(t *testing.T, w *blastWorld, key string) (Blast, error) {
	t.Helper()
	return BlastRadius(t.Context(), w, cvm.KeyID(key), []string{"sub"}, time.Unix(1_800_000_000, 0), func(context.Context, time.Duration) error { return nil })
}

// told is a blast in short: vm power gone/expired: disk role version.
func told(b Blast) []string {
	var out []string
	for _, v := range b.VMs {
		s := v.ID.Name() + " " + v.Power + " " + v.WhenGone + "/" + v.WhenExpired + ":"
		for _, d := range v.Disks {
			s += fmt.Sprintf(" %s %s %s/%s", d.ID.Name(), d.Role, d.Set.Name(), d.Version)
			if d.Previous {
				s += " previous"
			}
		}
		out = append(out, strings.ToLower(s))
	}
	return out
}

func TestBlastRadius(t *testing.T) {
	all := []string{
		"vm1 running goes-down/runs-on-start-uncertain: data1 data sse/ os1 confidential-os active/1",
		"vm2 deallocated does-not-start/start-uncertain: os2 confidential-os active/1",
		"vm3 running goes-down/runs-on-start-uncertain: os3 confidential-os moved/1 previous os3 confidential-os moved/2",
		"vm4 stopped does-not-start/start-uncertain: data1 data sse/ os4 os sse/",
		"vm5 running goes-down/runs-on-start-uncertain:  confidential-os active/1",
	}
	for _, tc := range []struct {
		key  string
		want []string
		keys string
	}{
		{blastKey, all, "k enabled, 1 expired, 2 disabled"},
		{strings.ToUpper(blastKey[:8]) + blastKey[8:] + "/1", []string{all[0], all[1],
			"vm3 running goes-down/runs-on-start-uncertain: os3 confidential-os moved/1 previous", all[3], all[4]}, "k enabled, 1 expired"},
		{blastKey + "/2", []string{
			"vm1 running goes-down/runs-on-start-uncertain: data1 data sse/",
			"vm3 running goes-down/runs-on-start-uncertain: os3 confidential-os moved/2", all[3]}, "k enabled, 2 disabled"},
		{"https://kv-cvm.vault.azure.net/keys/nobody", nil, "nobody deleted"},
	} {
		w := newBlastWorld()
		b, err := blastOf(t, w, strings.Replace(tc.key, "HTTPS:", "https:", 1))
		if err != nil || !slices.Equal(told(b), tc.want) || len(b.Unread) > 0 {
			t.Errorf("%s: %v\n%s\nwant\n%s\nunread %v", tc.key, err, strings.Join(told(b), "\n"), strings.Join(tc.want, "\n"), b.Unread)
		}
		var keys []string
		for _, v := range b.Versions {
			keys = append(keys, string(v.ID[strings.LastIndexByte(string(v.ID), '/')+1:])+" "+v.State)
		}
		if got := strings.Join(keys, ", "); got != tc.keys {
			t.Errorf("%s: keys %q, want %q", tc.key, got, tc.keys)
		}
		if !reflect.DeepEqual(w.asked, []string{"sub"}) {
			t.Error(w.asked)
		}
	}
	w := newBlastWorld()
	b, err := blastOf(t, w, blastKey)
	if err != nil || len(b.Unattached) != 1 || b.Unattached[0].Name() != "spare" || len(b.Sets) != 3 {
		t.Errorf("%v %v %v", err, b.Unattached, b.Sets)
	}
	if _, err := blastOf(t, w, "https://example.org/keys/k"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

// The instances of a uniform scale set are VMs: by their disks, and those with
// ephemeral OS disks by the set, unless they are of an older model without the key.
func TestBlastScaleSet(t *testing.T) {
	ss := blastSub + "virtualMachineScaleSets/ss"
	w := newBlastWorld()
	w.users = append(w.users, ss, blastSub+"virtualMachineScaleSets/deleted")
	w.scale = map[string][]cvm.VMID{}
	disks := w.disks[setID("active")]
	for i, os := range []cvm.OSDiskRef{{Ephemeral: true, SecureDES: setID("active")}, {Ephemeral: true, SecureDES: setID("other")}, {ID: diskID("ss2"), SecureDES: setID("active")}} {
		id := cvm.VMID(fmt.Sprintf("%s/virtualMachines/%d", ss, i))
		w.scale[ss] = append(w.scale[ss], id)
		w.vms[id.Fold()] = cvm.VM{ID: id, Power: "running", OSDisk: os}
		if os.ID != "" {
			w.disk[os.ID] = cvm.Disk{ID: os.ID, SecureDES: os.SecureDES, OSType: "Linux", ManagedBy: strings.ToUpper(string(id))}
			disks = append(disks, os.ID)
		}
	}
	w.disks[setID("active")] = disks
	b, err := blastOf(t, w, blastKey)
	if got := told(b); err != nil || len(b.Unread) != 0 || len(got) != 7 ||
		got[5] != "ss_0 running goes-down/runs-on-start-uncertain:  confidential-os active/1" || got[6] != "ss_2 running goes-down/runs-on-start-uncertain: ss2 confidential-os active/1" {
		t.Errorf("%v\n%s\nunread %v", err, strings.Join(got, "\n"), b.Unread)
	}
}

// What can't be read is said, and nothing else of the list is lost by it.
func TestBlastUnread(t *testing.T) {
	denied := &fault.Error{Kind: fault.Denied, Op: "reading", Err: errors.New("forbidden"), Action: "x/read"}
	for _, tc := range []struct {
		what string
		vms  int
	}{{"active", 5}, {"disks-of-active", 5}, {"os1", 5}, {"vm1", 5}, {"vm3", 5}, {"users", 5}, {"1", 5}, {"disks-of-moved", 4}} {
		w := newBlastWorld()
		w.fail[tc.what] = []error{denied}
		b, err := blastOf(t, w, blastKey)
		if tc.what == "disks-of-active" {
			tc.vms = 4 // vm2 is known by its disk alone; vm3, vm4 by other sets, vm1 and vm5 by Resource Graph
		}
		if err != nil || len(b.Unread) == 0 || !strings.Contains(b.Unread[0].Why, "forbidden") {
			t.Errorf("%s: %v, unread %v", tc.what, err, b.Unread)
		}
		want := tc.vms
		if len(b.VMs) != want {
			t.Errorf("%s: %d VMs, want %d: %v", tc.what, len(b.VMs), want, told(b))
		}
	}
	w := newBlastWorld()
	w.fail["vm1"] = []error{denied}
	b, err := blastOf(t, w, blastKey)
	if err != nil || b.VMs[0].Running != cvm.Unread || b.VMs[0].WhenGone != GoesDown {
		t.Errorf("a VM that can't be read: %+v, %v", b.VMs[0], err)
	}
	w = newBlastWorld()
	w.users, w.fail["ss"] = append(w.users, blastSub+"virtualMachineScaleSets/ss"), []error{denied}
	if b, err = blastOf(t, w, blastKey); err != nil || len(b.VMs) != 5 || len(b.Unread) != 1 || !strings.Contains(b.Unread[0].Object, "/ss") {
		t.Errorf("a scale set: %v, %v", b.Unread, err)
	}
	w = newBlastWorld()
	w.fail["sets"] = []error{denied}
	if _, err := blastOf(t, w, blastKey); !fault.Is(err, fault.Denied) {
		t.Error(err)
	}
	// A throttle is waited for.
	w = newBlastWorld()
	throttled := &fault.Error{Kind: fault.Throttled, Op: "reading", RetryAfter: time.Second, Err: errors.New("429")}
	for _, what := range []string{"vm1", "os2", "active", "1", "sets"} {
		w.fail[what] = []error{throttled, throttled, nil}
	}
	if b, err = blastOf(t, w, blastKey); err != nil || len(b.VMs) != 5 || len(b.Unread) != 0 || len(b.Sets) != 3 {
		t.Errorf("throttled: %v, %v, %v", told(b), b.Unread, err)
	}
	// An interrupt is no short list.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	if _, err := BlastRadius(ctx, newBlastWorld(), blastKey, nil, time.Now(), func(context.Context, time.Duration) error { return nil }); err == nil {
		t.Error("an interrupt gave a list")
	}
}

// A VM whose OS disk names one set in both its places hangs on it by the confidential
// one, however often it is asked.
func TestBlastOfADiskThatNamesASetTwice(t *testing.T) {
	for range 20 {
		w := newBlastWorld()
		w.vms[vmID("vm5").Fold()] = cvm.VM{ID: vmID("vm5"), Power: "running", OSDisk: cvm.OSDiskRef{Ephemeral: true, SecureDES: setID("active"), SSEDES: setID("active")}}
		b, err := blastOf(t, w, blastKey)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range b.VMs {
			if v.ID == vmID("vm5") && (len(v.Disks) != 1 || v.Disks[0].Role != RoleConfidentialOS) {
				t.Fatalf("%+v", v.Disks)
			}
		}
	}
}
