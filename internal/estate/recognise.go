package estate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// object is a JSON object whose members aren't read yet.
type object map[string]json.RawMessage

func objectOf(raw []byte) (object, bool) {
	var m object
	if t := bytes.TrimSpace(raw); len(t) == 0 || t[0] != '{' || json.Unmarshal(t, &m) != nil {
		return nil, false
	}
	return m, true
}

// text is a member that is a text, "" if it is anything else.
func (m object) text(name string) string {
	var s string
	if json.Unmarshal(m[name], &s) != nil {
		return ""
	}
	return s
}

func (m object) object(name string) object {
	o, ok := objectOf(m[name])
	if !ok {
		return nil
	}
	return o
}

func (m object) has(names ...string) bool {
	for _, n := range names {
		if v := m[n]; len(v) > 0 && string(v) != "null" {
			return true
		}
	}
	return false
}

// listOf is a JSON list's elements.
func listOf(raw []byte) ([]json.RawMessage, bool) {
	var list []json.RawMessage
	if t := bytes.TrimSpace(raw); len(t) == 0 || t[0] != '[' || json.Unmarshal(t, &list) != nil {
		return nil, false
	}
	return list, true
}

// maxNested is how deep lists of bodies are looked into.
const maxNested = 4

// value takes in a body, or a list of bodies, and says whether anything in it was
// of use.
func (e *Estate) value(file string, raw []byte, depth int) bool {
	if list, ok := listOf(raw); ok {
		return e.list(file, list, depth)
	}
	m, ok := objectOf(raw)
	if !ok {
		return false
	}
	if used, known := e.body(file, raw, m); known {
		return used
	}
	list, ok := listOf(m["value"])
	if !ok {
		return false
	}
	e.page(file, m, list)
	if ids, ok := textsOf(list); ok {
		return e.associated(file, m, ids)
	}
	return e.list(file, list, depth)
}

// page keeps count of the pages of listings: one with a nextLink isn't the last.
func (e *Estate) page(file string, m object, list []json.RawMessage) {
	kind := "?"
	if len(list) > 0 {
		if first, ok := objectOf(list[0]); ok {
			kind = strings.ToLower(cmp.Or(first.text("type"), typeOfID(first.text("id"))))
		}
	}
	p := e.pages[kind]
	if m.text("nextLink") != "" {
		p.more = append(p.more, file)
	} else {
		p.last++
	}
	e.pages[kind] = p
}

// pages are the pages that were seen of listings of one kind.
type pages struct {
	more []string // files that have a page after them
	last int      // how many have none
}

func (e *Estate) list(file string, list []json.RawMessage, depth int) bool {
	used := false
	if depth >= maxNested {
		e.trouble(file, "lists in it stand in one another more than %d deep; what is in them counts as not captured", maxNested)
		return false
	}
	for i, raw := range list {
		used = e.value(fmt.Sprintf("%s[%d]", file, i), raw, depth+1) || used
	}
	return used
}

func textsOf(list []json.RawMessage) ([]string, bool) {
	out := make([]string, 0, len(list))
	for _, raw := range list {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return nil, false
		}
		out = append(out, s)
	}
	return out, len(out) > 0
}

// body takes in one body. known is false for what isn't one.
func (e *Estate) body(file string, raw []byte, m object) (used, known bool) {
	if key := m.object("key"); key.text("kid") != "" {
		return e.key(file, raw, m, key), true
	}
	if m.text("kid") != "" {
		return e.keyItem(file, m), true
	}
	if strings.EqualFold(m.text("resourceType"), "virtualMachines") && m.text("name") != "" {
		return e.sku(m), true
	}
	id := m.text("id")
	if vm, ok := cutSuffixFold(id, "/instanceView"); ok {
		fold := strings.ToLower(vm)
		if first, twice := e.views[fold]; twice && !bytes.Equal(first.body, raw) {
			e.trouble(file, "%s shows the instance view of %s differently; keep the one that is right", first.file, vm)
			raw = nil // neither is used
		}
		e.views[fold] = view{raw, file}
		return true, true
	}
	typ := strings.ToLower(m.text("type"))
	if !strings.Contains(typ, "/") {
		typ = typeOfID(id)
	}
	switch typ {
	case "microsoft.compute/virtualmachines", "microsoft.compute/virtualmachinescalesets/virtualmachines":
		if !m.has("properties") {
			if vm, err := cvm.ParseVMID(id); err == nil {
				e.vms.known(vm.Fold(), id)
			}
		}
		return arm(e, e.vms, file, raw, m, cvm.ParseVM, func(v cvm.VM) string { return v.ID.Fold() }, sameVM), true
	case "microsoft.compute/disks":
		return arm(e, e.disks, file, raw, m, cvm.ParseDisk, func(d cvm.Disk) string { return d.ID.Fold() }, alike), true
	case "microsoft.compute/diskencryptionsets":
		return arm(e, e.sets, file, raw, m, cvm.ParseDES, func(d cvm.DES) string { return d.ID.Fold() }, alike), true
	case "microsoft.keyvault/vaults", "microsoft.keyvault/managedhsms":
		return arm(e, e.vaults, file, raw, m, parseVault, func(v vaultBody) string { return v.Host }, alike), true
	}
	return false, false
}

func cutSuffixFold(s, suffix string) (string, bool) {
	if n := len(s) - len(suffix); n >= 0 && strings.EqualFold(s[n:], suffix) {
		return s[:n], true
	}
	return s, false
}

// typeOfID is the resource type that an ARM id stands for, lower case; "" for what
// isn't a resource's id.
func typeOfID(id string) string {
	low := strings.ToLower(id)
	i := strings.LastIndex(low, "/providers/")
	if i < 0 {
		return ""
	}
	seg := strings.Split(low[i+len("/providers/"):], "/")
	if len(seg) < 3 || len(seg)%2 == 0 {
		return ""
	}
	typ := seg[0]
	for i := 1; i < len(seg); i += 2 {
		typ += "/" + seg[i]
	}
	return typ
}

// arm takes in a body of Resource Manager.
func arm[T any](e *Estate, s shelf[T], file string, raw []byte, m object, parse func([]byte) (T, error), fold func(T) string, merge func(a, b T) (T, bool)) bool {
	id := m.text("id")
	if !m.has("properties") {
		e.trouble(file, "%s has no properties, so it is not the body that Azure answers with (the Azure CLI's own commands print another form); capture it with az rest", orThis(id))
		return false
	}
	v, err := parse(raw)
	if err != nil {
		e.trouble(file, "it can't be used (%v); %s counts as not captured", err, orThis(id))
		if strings.HasPrefix(strings.ToLower(id), "/subscriptions/") {
			s.spoil(strings.ToLower(id), id, file+" can't be used")
		}
		return false
	}
	at := fold(v)
	if at == "" {
		e.trouble(file, "%s names no vaultUri or hsmUri, by which keys find it; it counts as not captured", orThis(id))
		return false
	}
	if trouble := s.put(at, id, file, v, merge); trouble != "" {
		e.trouble(file, "%s", trouble)
	}
	return true
}

func orThis(id string) string {
	if id == "" {
		return "a body without an id"
	}
	return id
}

func parseVault(raw []byte) (vaultBody, error) {
	v, err := cvm.ParseVault(raw)
	if err != nil {
		return vaultBody{}, err
	}
	m, _ := objectOf(raw)
	_, policies := listOf(m.object("properties")["accessPolicies"])
	return vaultBody{v, policies}, nil
}

// alike takes two bodies for one where what is read of them is the same. ARM
// changes the letter case of ids.
func alike[T any](a, b T) (T, bool) {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return a, errX == nil && errY == nil && strings.EqualFold(string(x), string(y))
}

// sameVM is alike for two bodies of a VM, of which one may have the instance view.
func sameVM(a, b cvm.VM) (cvm.VM, bool) {
	if a.InstanceView == b.InstanceView {
		a.ETag, b.ETag = "", ""
		return alike(a, b)
	}
	if b.InstanceView {
		a, b = b, a
	}
	x, y := a, b
	for _, v := range []*cvm.VM{&x, &y} {
		v.ETag, v.InstanceView, v.Generation, v.Power, v.AgentReady, v.AgentVersion, v.Extensions = "", false, "", "", "", "", nil
	}
	_, ok := alike(x, y)
	return a, ok
}

// key takes in a key bundle, or the bundle of a deleted key.
func (e *Estate) key(file string, raw []byte, m, key object) bool {
	kid := key.text("kid")
	id, err := cvm.ParseKeyID(kid)
	if err != nil {
		e.trouble(file, "it can't be used (%v)", err)
		return false
	}
	if m.has("recoveryId", "deletedDate", "scheduledPurgeDate") {
		e.deleted[id.Versionless().Fold()] = file
		return true
	}
	attributes := m.object("attributes")
	if key.has("keyOps") || m.has("releasePolicy") || attributes.has("expires", "notBefore") {
		e.trouble(file, "the key is in the Azure CLI's own form, not as Key Vault answers; capture it with az rest; %s counts as not captured", kid)
		e.keys.spoil(id.Fold(), kid, file+" is not in Key Vault's own form")
		return false
	}
	k, err := cvm.ParseKey(raw)
	if err != nil {
		e.trouble(file, "it can't be used (%v); %s counts as not captured", err, kid)
		e.keys.spoil(id.Fold(), kid, file+" can't be used")
		return false
	}
	if trouble := e.keys.put(id.Fold(), kid, file, k, sameKey); trouble != "" {
		e.trouble(file, "%s", trouble)
	}
	e.seen(k.ID, k.Created)
	return true
}

// sameKey is exact: in a release policy letter case counts.
func sameKey(a, b cvm.Key) (cvm.Key, bool) {
	both := a
	a.ID, b.ID = "", ""
	return both, reflect.DeepEqual(a, b)
}

// keyItem takes in an element of a list of keys or of versions: it shows that a
// version is there and when it was made, not what it is.
func (e *Estate) keyItem(file string, m object) bool {
	id, err := cvm.ParseKeyID(m.text("kid"))
	if err != nil {
		e.trouble(file, "it can't be used (%v)", err)
		return false
	}
	if m.has("recoveryId", "deletedDate", "scheduledPurgeDate") {
		e.deleted[id.Versionless().Fold()] = file
		return true
	}
	var created int64
	if json.Unmarshal(m.object("attributes")["created"], &created) != nil || created <= 0 {
		return false
	}
	e.seen(id, time.Unix(created, 0).UTC())
	return true
}

func (e *Estate) seen(id cvm.KeyID, created time.Time) {
	if id.Version() != "" {
		name := id.Versionless().Fold()
		e.versions[name] = append(e.versions[name], version{id, created})
	}
}

// sku takes in a Resource SKU of a VM size.
func (e *Estate) sku(m object) bool {
	var w struct {
		Name         string   `json:"name"`
		Locations    []string `json:"locations"`
		Capabilities []struct {
			Name  string `json:"name"`
			Value string `json:"value"`
		} `json:"capabilities"`
	}
	for name, into := range map[string]any{"name": &w.Name, "locations": &w.Locations, "capabilities": &w.Capabilities} {
		if json.Unmarshal(m[name], into) != nil {
			return false
		}
	}
	if len(w.Capabilities) == 0 || len(w.Locations) == 0 {
		return false // not the whole of it
	}
	value := ""
	for _, c := range w.Capabilities {
		if strings.EqualFold(c.Name, "ConfidentialComputingType") {
			value = c.Value
		}
	}
	tee := cvm.TEEOfCapability(value)
	for _, l := range w.Locations {
		at := skuKey(w.Name, l)
		if was, ok := e.skus[at]; ok && was != tee {
			e.skus[at] = cvm.TEEUnknown
			continue
		}
		e.skus[at] = tee
	}
	return true
}

// associated takes in a list of ids: what hangs on a disk encryption set, where
// the list says on which; else it is looked at again when all disks are known.
func (e *Estate) associated(file string, m object, ids []string) bool {
	if m.has("nextLink") {
		return false // a page of a longer list says nothing of the whole
	}
	if des, ok := cutSuffixFold(m.text("id"), "/associatedResources"); ok {
		return e.hangOn(file, des, ids)
	}
	e.unnamed = append(e.unnamed, append([]string{file}, ids...))
	return false
}

func (e *Estate) hangOn(file, des string, ids []string) bool {
	id, err := cvm.ParseDESID(des)
	if err != nil {
		e.trouble(file, "it can't be used (%v)", err)
		return false
	}
	var disks []cvm.DiskID
	for _, d := range ids {
		if disk, err := cvm.ParseDiskID(d); err == nil { // snapshots and others are left out
			disks = append(disks, disk)
		}
	}
	if trouble := e.lists.put(id.Fold(), des, file, disks, alike); trouble != "" {
		e.trouble(file, "%s", trouble)
	}
	return true
}

// finish ties together what was in files of its own.
func (e *Estate) finish() {
	for _, id := range slices.Sorted(maps.Keys(e.views)) {
		v, vm := e.views[id], e.vms[id]
		if v.body == nil || vm == nil || !vm.good() || vm.value.InstanceView {
			continue
		}
		if err := cvm.ParseInstanceView(v.body, &vm.value); err != nil {
			e.trouble(v.file, "it can't be used (%v)", err)
		}
	}
	for _, d := range e.Disks() {
		for _, set := range []cvm.DESID{d.SecureDES, d.SSEDES} {
			if set != "" {
				e.onSet[set.Fold()] = append(e.onSet[set.Fold()], d.ID)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(e.pages)) {
		if p := e.pages[kind]; len(p.more) > 0 && p.last == 0 {
			e.trouble(p.more[len(p.more)-1], "it is a page of a listing with more after it (nextLink), and the last page isn't there: capture the rest")
		}
	}
	for _, l := range e.unnamed {
		if des := e.ownerOf(l[1:]); des != "" && e.hangOn(l[0], des, l[1:]) {
			e.used++
		}
	}
}

// ownerOf finds the one disk encryption set on which a list's disks hang: all of
// them were captured and are on it, and no other disk that was captured is.
func (e *Estate) ownerOf(ids []string) string {
	owner, listed := "", map[string]bool{}
	for _, id := range ids {
		disk, err := cvm.ParseDiskID(id)
		if err != nil {
			continue
		}
		d := e.disks[disk.Fold()]
		if d == nil || !d.good() {
			return ""
		}
		set := d.value.SecureDES
		if set == "" {
			set = d.value.SSEDES
		}
		if set == "" || owner != "" && !strings.EqualFold(owner, string(set)) {
			return ""
		}
		owner = string(set)
		listed[disk.Fold()] = true
	}
	for _, d := range e.onSet[strings.ToLower(owner)] {
		if !listed[d.Fold()] {
			return ""
		}
	}
	return owner
}

func errDeleted(name string) error {
	return fault.New(fault.NotFound, "reading key", name, "its deleted bundle was captured")
}
