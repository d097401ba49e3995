package truth

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cvmguard/internal/cvm"
)

// Parts are an estate's bodies, read: what a posture is put together of. A nil
// pointer is what the estate doesn't have.
type Parts struct {
	VM         *cvm.VM
	OSDisk     *cvm.Disk
	DES        *cvm.DES
	Key        *cvm.Key
	Vault      *cvm.Vault
	DataDisks  []cvm.Disk
	DataDES    []cvm.DES
	DESDisks   []cvm.Disk
	Associated []string // nil: not asked
	Rights     *cvm.Rights
	Proved     *cvm.Attestation
	Claims     *cvm.GuestClaims

	TagSetter  *cvm.TagSetter
	Contested  []cvm.Contest
	Newer      string
	SecondLook bool
	GuestAsked bool
	Absent     []string
	Unread     map[string]cvm.Unknown
	// Refused are the bodies that a parser refused, by name: facts that can't be
	// known.
	Refused map[string]error
}

// Posture reads the estate as the loop's observer would, from bodies alone.
func (e Estate) Posture() (cvm.Posture, error) {
	p, err := e.Parts()
	if err != nil {
		return cvm.Posture{}, err
	}
	if len(p.Refused) > 0 {
		return cvm.Posture{}, fmt.Errorf("parsers refused %v", p.Refused)
	}
	return p.Posture(), nil
}

// Parts reads all bodies. An error is one of the estate's own form.
func (e Estate) Parts() (Parts, error) {
	p := Parts{Refused: map[string]error{}}
	for _, name := range []string{"vm", "osDisk", "des", "key", "vault", "dataDisks", "dataDES", "associated", "claims", ""} {
		var err error
		if p, err = p.Again(e, name); err != nil {
			return p, err
		}
	}
	return p, nil
}

// Again is the parts with one of them read anew, by its name in the tree; ""
// stands for all that isn't a body of Azure's.
func (p Parts) Again(e Estate, name string) (Parts, error) {
	var err error
	refused := map[string]error{}
	for k, v := range p.Refused {
		if k != name {
			refused[k] = v
		}
	}
	p.Refused = refused
	switch name {
	case "vm", "instanceView":
		delete(refused, "vm")
		p.VM, err = parsed("vm", e.tree["vm"], cvm.ParseVM, refused)
		if view := e.tree["instanceView"]; err == nil && p.VM != nil && view != nil {
			var b []byte
			if b, err = json.Marshal(view); err == nil {
				if bad := cvm.ParseInstanceView(b, p.VM); bad != nil {
					refused["vm"] = bad
				}
			}
		}
	case "osDisk":
		p.OSDisk, err = parsed(name, e.tree[name], cvm.ParseDisk, refused)
	case "des":
		p.DES, err = parsed(name, e.tree[name], cvm.ParseDES, refused)
	case "key":
		var body any
		if body, err = e.keyBody(); err == nil {
			p.Key, err = parsed(name, body, cvm.ParseKey, refused)
		}
	case "vault":
		p.Vault, err = parsed(name, e.tree[name], cvm.ParseVault, refused)
	case "dataDisks":
		p.DataDisks, err = parsedAll(e, name, cvm.ParseDisk, refused)
	case "dataDES":
		p.DataDES, err = parsedAll(e, name, cvm.ParseDES, refused)
	case "associated", "desDisks":
		p.Associated = nil
		if body := e.tree["associated"]; body != nil {
			ids, err := parsed("associated", body, func(b []byte) ([]string, error) { ids, _, err := cvm.ParseAssociated(b); return ids, err }, refused)
			if err != nil {
				return p, err
			}
			p.Associated = []string{}
			if ids != nil {
				p.Associated = *ids
			}
		}
		p.DESDisks, err = parsedAll(e, "desDisks", cvm.ParseDisk, refused)
	case "claims":
		p.Claims, err = parsed(name, e.tree[name], func(b []byte) (cvm.GuestClaims, error) {
			var c cvm.Claims
			if err := json.Unmarshal(b, &c); err != nil {
				return cvm.GuestClaims{}, err
			}
			return cvm.ReadGuestClaims(c)
		}, refused)
	case "":
		var own struct {
			Rights     *cvm.Rights            `json:"rights"`
			Proved     *cvm.Attestation       `json:"attestation"`
			TagSetter  *cvm.TagSetter         `json:"tagSetter"`
			Contested  []cvm.Contest          `json:"contested"`
			Newer      string                 `json:"newerVersion"`
			SecondLook bool                   `json:"secondLook"`
			GuestAsked bool                   `json:"guestAsked"`
			Absent     []string               `json:"absent"`
			Unread     map[string]cvm.Unknown `json:"unread"`
		}
		b, bad := json.Marshal(e.tree)
		if bad == nil {
			bad = json.Unmarshal(b, &own)
		}
		err = bad
		p.Rights, p.Proved, p.TagSetter, p.Contested, p.Newer, p.SecondLook, p.GuestAsked, p.Absent, p.Unread =
			own.Rights, own.Proved, own.TagSetter, own.Contested, own.Newer, own.SecondLook, own.GuestAsked, own.Absent, own.Unread
	}
	if err != nil {
		return p, fmt.Errorf("reading %s of an estate: %w", name, err)
	}
	return p, nil
}

// parsed is a body read by its parser, nil where there is none or it was refused.
func parsed[T any](name string, body any, parse func([]byte) (T, error), refused map[string]error) (*T, error) {
	if body == nil {
		return nil, nil
	}
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	v, err := parse(b)
	if err != nil {
		refused[name] = err
		return nil, nil
	}
	return &v, nil
}

func parsedAll[T any](e Estate, name string, parse func([]byte) (T, error), refused map[string]error) ([]T, error) {
	list, _ := e.tree[name].([]any)
	var out []T
	for i, body := range list {
		v, err := parsed(name+"/"+strconv.Itoa(i), body, parse, refused)
		if err != nil {
			return nil, err
		}
		if v != nil {
			out = append(out, *v)
		}
	}
	return out, nil
}

// fact is a part as a fact: absent or unread where the estate says so, unreadable
// where a parser refused it, not captured where there is none.
func fact[T any](p Parts, name, unreadable string, v *T) cvm.Fact[T] {
	why, unread := p.Unread[name]
	bad, refused := p.Refused[name]
	switch {
	case slices.Contains(p.Absent, name):
		return cvm.NotThere[T]()
	case unread:
		return cvm.NotRead[T](why.Code, why.Action, why.Detail)
	case refused:
		return cvm.NotRead[T](unreadable, "", bad.Error())
	case v == nil:
		return cvm.NotRead[T]("not-captured", "", "")
	}
	return cvm.Known(*v)
}

func same[T, U ~string](a T, b U) bool { return strings.EqualFold(string(a), string(b)) }

// Posture puts the parts together as the loop's observer does: the VM names its
// OS disk and its set, the set its key, the key its vault; what isn't named isn't
// looked at, and what is named is found by its id.
func (p Parts) Posture() cvm.Posture {
	out := cvm.Posture{SecondLook: p.SecondLook, GuestAsked: p.GuestAsked, VM: fact(p, "vm", "vm-unreadable", p.VM),
		DESDisks: cvm.NotRead[[]cvm.Disk]("not-asked", "", ""), Rights: cvm.NotRead[cvm.Rights]("not-asked", "", "")}
	if out.VM.Absent {
		out.Gone = true
		return out
	}
	if !out.VM.Known {
		return out
	}
	vm := out.VM.Value
	out.ID = vm.ID
	if p.Proved != nil || p.Unread["attestation"].Code != "" {
		out.Attestation = fact(p, "attestation", "evidence-not-collected", p.Proved)
	} else {
		out.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "")
	}
	out.Claims = fact(p, "claims", "evidence-not-collected", p.Claims)
	if p.Claims == nil && p.Refused["claims"] == nil {
		out.Claims = cvm.NotRead[cvm.GuestClaims]("evidence-not-collected", "", "")
	}
	out.TagSetter = cvm.NotRead[cvm.TagSetter]("not-asked", "", "")
	if p.TagSetter != nil || p.Unread["tagSetter"].Code != "" {
		out.TagSetter = fact(p, "tagSetter", "", p.TagSetter)
	}
	out.Contested = p.Contested
	switch {
	case vm.OSDisk.Ephemeral:
		out.OSDisk = cvm.NotRead[cvm.Disk]("ephemeral-os", "", "")
	case vm.OSDisk.ID == "":
		out.OSDisk = cvm.NotRead[cvm.Disk]("disk-unreadable", "", "the VM names no managed OS disk")
	case p.OSDisk != nil && !same(p.OSDisk.ID, vm.OSDisk.ID):
		out.OSDisk = fact[cvm.Disk](p, "osDisk", "disk-unreadable", nil)
	default:
		out.OSDisk = fact(p, "osDisk", "disk-unreadable", p.OSDisk)
	}
	p.keyPath(vm, &out)
	p.dataDisks(vm, &out)
	return out
}

func (p Parts) keyPath(vm cvm.VM, out *cvm.Posture) {
	if vm.OSDisk.SecureDES == "" {
		return
	}
	if p.DES != nil && !same(p.DES.ID, vm.OSDisk.SecureDES) {
		p.DES = nil
	}
	out.DES = fact(p, "des", "des-unreadable", p.DES)
	if !out.DES.Known {
		return
	}
	p.hangs(out)
	id, err := cvm.ParseKeyID(p.DES.KeyURL)
	if err != nil {
		out.Key, out.Vault = cvm.NotRead[cvm.Key]("key-url-invalid", "", err.Error()), cvm.NotRead[cvm.Vault]("key-url-invalid", "", "")
		return
	}
	if k := p.Key; k != nil && (!same(k.ID.Versionless(), id.Versionless()) || id.Version() != "" && !same(k.ID.Version(), id.Version())) {
		p.Key = nil
	}
	if out.Key = fact(p, "key", "key-unreadable", p.Key); out.Key.Known {
		out.Key.Value.NewerVersion = p.Newer
	}
	if p.Vault != nil && !same(p.Vault.Host, id.Host()) {
		p.Vault = nil
	}
	out.Vault = fact(p, "vault", "vault-unreadable", p.Vault)
	if p.Rights != nil || slices.Contains(p.Absent, "rights") || p.Unread["rights"].Code != "" {
		out.Rights = fact(p, "rights", "rights-unreadable", p.Rights)
	}
}

// hangs finds the disks that hang on the set, among all that the estate has.
func (p Parts) hangs(out *cvm.Posture) {
	if why, unread := p.Unread["desDisks"]; unread {
		out.DESDisks = cvm.NotRead[[]cvm.Disk](why.Code, why.Action, why.Detail)
		return
	}
	if p.Associated == nil {
		return
	}
	all := append(slices.Clone(p.DataDisks), p.DESDisks...)
	if p.OSDisk != nil {
		all = append(all, *p.OSDisk)
	}
	disks := []cvm.Disk{}
	for _, id := range p.Associated {
		i := slices.IndexFunc(all, func(d cvm.Disk) bool { return same(d.ID, cvm.DiskID(id)) })
		if i < 0 {
			out.DESDisks = cvm.NotRead[[]cvm.Disk]("not-captured", "", "")
			return
		}
		disks = append(disks, all[i])
	}
	out.DESDisks = cvm.Known(disks)
}

func (p Parts) dataDisks(vm cvm.VM, out *cvm.Posture) {
	for i, ref := range vm.DataDisks {
		at := strconv.Itoa(i)
		f := cvm.DataDiskFacts{Ref: ref}
		var disk *cvm.Disk
		if n := slices.IndexFunc(p.DataDisks, func(d cvm.Disk) bool { return same(d.ID, ref.ID) }); n >= 0 {
			disk = &p.DataDisks[n]
		}
		f.Disk = fact(p, "dataDisks/"+at, "disk-unreadable", disk)
		id := ref.SecureDES
		if id == "" && f.Disk.Known {
			id = f.Disk.Value.SSEDES
		}
		if id == "" {
			id = ref.SSEDES
		}
		if id != "" {
			sets := slices.Clone(p.DataDES)
			if p.DES != nil {
				sets = append(sets, *p.DES)
			}
			var set *cvm.DES
			if n := slices.IndexFunc(sets, func(d cvm.DES) bool { return same(d.ID, id) }); n >= 0 {
				set = &sets[n]
			}
			f.DES = fact(p, "dataDES/"+at, "des-unreadable", set)
		}
		out.DataDisks = append(out.DataDisks, f)
	}
}
