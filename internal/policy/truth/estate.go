package truth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Estate is what Azure shows of one VM and of all that it hangs on, as one tree:
//
//	vm, instanceView        the bodies of the VM's GETs
//	osDisk                  of the OS disk's
//	des, key, vault         of what its customer key hangs on
//	dataDisks, dataDES      lists of bodies: the data disks and their sets
//	associated, desDisks    the answer of associatedResources, and the bodies of
//	                        what it names beside osDisk and dataDisks
//	rights, attestation     cvm.Rights and cvm.Attestation, which no one body shows
//	claims                  what the guest says, as it sends it
//	tagSetter, contested    as in cvm.Posture
//	newerVersion            of the key, where versions were listed
//	secondLook, guestAsked  as in cvm.Posture
//	absent                  names of what Azure answers 404 to: vm, osDisk, des, …
//	unread                  names of what wasn't read: {"code": …, "action": …}
//	releasePolicy, keyBits  stand for key.release_policy.data, encoded, and key.n
//
// What is in neither is not captured. An Estate is never changed: its methods
// give a new one.
type Estate struct {
	tree map[string]any
}

// Estate is the case's, made of its base and its changes.
func (c Case) Estate() (Estate, error) {
	e, err := Base(c.Base)
	if err != nil {
		return e, err
	}
	return c.On(e)
}

// On is another estate with the case's changes.
func (c Case) On(e Estate) (Estate, error) {
	var err error
	if len(c.Change) > 0 {
		var patch map[string]any
		if err := decode(c.Change, &patch); err != nil {
			return e, fmt.Errorf("case %q: %w", c.Name, err)
		}
		e = e.Patch(patch)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Set)) {
		if e, err = e.Set(p, c.Set[p]); err != nil {
			return e, fmt.Errorf("case %q: %w", c.Name, err)
		}
	}
	for _, p := range c.Drop {
		if e, err = e.Drop(p); err != nil {
			return e, fmt.Errorf("case %q: %w", c.Name, err)
		}
	}
	return e, nil
}

// Base is one of the estates of bases.yaml: a patch on another base (its member
// "from"), with "@name" for the body of that name.
func Base(name string) (Estate, error) {
	if e, ok := made.Load(name); ok {
		return e.(Estate), nil
	}
	e, err := base(name, 0)
	if err == nil {
		made.Store(name, e)
	}
	return e, err
}

// made are the bases that were put together before, by name.
var made sync.Map

func base(name string, depth int) (Estate, error) {
	a, err := readAbout()
	if err != nil {
		return Estate{}, err
	}
	raw, ok := a.Bases[name]
	if !ok || depth > 4 {
		return Estate{}, fmt.Errorf("there is no base %q, or its bases go in a circle", name)
	}
	var patch map[string]any
	if err := decode(raw, &patch); err != nil {
		return Estate{}, fmt.Errorf("base %q: %w", name, err)
	}
	e := Estate{tree: map[string]any{}}
	if from, ok := patch["from"].(string); ok {
		if e, err = base(from, depth+1); err != nil {
			return e, err
		}
		delete(patch, "from")
	}
	for k, v := range patch {
		if name, ok := v.(string); ok && strings.HasPrefix(name, "@") { // a body of its own, not a change of the other's
			e = e.Patch(map[string]any{k: nil})
		}
	}
	whole, err := bodies(patch)
	if err != nil {
		return e, fmt.Errorf("base %q: %w", name, err)
	}
	return e.Patch(whole.(map[string]any)), nil
}

// Bases are the names of all bases, sorted.
func Bases() ([]string, error) {
	a, err := readAbout()
	return slices.Sorted(maps.Keys(a.Bases)), err
}

// bodies puts the bodies in the place of their names.
func bodies(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case string:
		name, ok := strings.CutPrefix(v, "@")
		if !ok {
			return v, nil
		}
		b, err := files.ReadFile("bodies/" + name + ".json")
		if err != nil {
			return nil, err
		}
		var body any
		return body, decode(b, &body)
	case map[string]any:
		for k := range v {
			if v[k], err = bodies(v[k]); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = bodies(v[i]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// decode reads JSON with its numbers as they are spelled.
func decode(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	return dec.Decode(v)
}

// Patch is the estate with a JSON merge patch (RFC 7396) on its tree.
func (e Estate) Patch(patch map[string]any) Estate {
	return Estate{tree: Merge(e.tree, patch).(map[string]any)}
}

// Merge lays a JSON merge patch (RFC 7396) over a value, which it leaves as it is.
func Merge(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = nil
	}
	out := maps.Clone(t)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range p {
		if v == nil {
			delete(out, k)
			continue
		}
		out[k] = Merge(out[k], v)
	}
	return out
}

// Set is the estate with a value at a JSON pointer; "-" behind a list's pointer
// is its end.
func (e Estate) Set(pointer string, value any) (Estate, error) {
	tree, err := edit(e.tree, split(pointer), func(any) (any, bool) { return value, true })
	if err != nil {
		return e, fmt.Errorf("setting %s: %w", pointer, err)
	}
	return Estate{tree: tree.(map[string]any)}, nil
}

// Drop is the estate without what a JSON pointer points to.
func (e Estate) Drop(pointer string) (Estate, error) {
	tree, err := edit(e.tree, split(pointer), func(any) (any, bool) { return nil, false })
	if err != nil {
		return e, fmt.Errorf("dropping %s: %w", pointer, err)
	}
	return Estate{tree: tree.(map[string]any)}, nil
}

func split(pointer string) []string {
	parts := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return parts
}

// edit copies the path to a place and changes it there.
func edit(v any, path []string, change func(any) (any, bool)) (any, error) {
	name := path[0]
	switch v := v.(type) {
	case map[string]any:
		out := maps.Clone(v)
		if len(path) > 1 {
			sub, err := edit(v[name], path[1:], change)
			out[name] = sub
			return out, err
		}
		if next, keep := change(v[name]); keep {
			out[name] = next
		} else if _, there := v[name]; there {
			delete(out, name)
		} else {
			return nil, fmt.Errorf("there is no %q", name)
		}
		return out, nil
	case []any:
		i, err := strconv.Atoi(name)
		if name == "-" && len(path) == 1 {
			next, _ := change(nil)
			return append(slices.Clone(v), next), nil
		}
		if err != nil || i < 0 || i >= len(v) {
			return nil, fmt.Errorf("%q is no place in a list of %d", name, len(v))
		}
		out := slices.Clone(v)
		if len(path) > 1 {
			out[i], err = edit(v[i], path[1:], change)
			return out, err
		}
		next, keep := change(v[i])
		if !keep {
			return slices.Delete(out, i, i+1), nil
		}
		out[i] = next
		return out, nil
	}
	return nil, fmt.Errorf("%q is in neither an object nor a list", name)
}

// Bodies are the parts of an estate that come from outside: Azure's bodies, and what the guest says.
var Bodies = []string{"vm", "instanceView", "osDisk", "des", "key", "vault", "dataDisks", "dataDES", "claims"}

// Members are the JSON pointers of all that is in the bodies, objects and lists
// included, sorted.
func (e Estate) Members() []string {
	var out []string
	for _, body := range Bodies {
		members(e.tree[body], "/"+body, &out)
	}
	return out
}

func members(v any, at string, out *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			p := at + "/" + strings.ReplaceAll(strings.ReplaceAll(k, "~", "~0"), "/", "~1")
			*out = append(*out, p)
			members(v[k], p, out)
		}
	case []any:
		for i := range v {
			p := at + "/" + strconv.Itoa(i)
			*out = append(*out, p)
			members(v[i], p, out)
		}
	}
}

// Get is what a JSON pointer points to, nil where nothing is.
func (e Estate) Get(pointer string) any {
	var v any = e.tree
	for _, name := range split(pointer) {
		switch at := v.(type) {
		case map[string]any:
			v = at[name]
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

// Map is the estate with every value replaced by what f makes of it, from the
// leaves up.
func (e Estate) Map(f func(any) any) Estate {
	return Estate{tree: mapped(e.tree, f).(map[string]any)}
}

func mapped(v any, f func(any) any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, sub := range v {
			out[k] = mapped(sub, f)
		}
		return f(out)
	case []any:
		out := make([]any, len(v))
		for i, sub := range v {
			out[i] = mapped(sub, f)
		}
		return f(out)
	}
	return f(v)
}

// keyBody is the key's body with what releasePolicy and keyBits stand for.
func (e Estate) keyBody() (any, error) {
	body, ok := e.tree["key"].(map[string]any)
	if !ok {
		return e.tree["key"], nil
	}
	body = maps.Clone(body)
	if p, ok := e.tree["releasePolicy"]; ok {
		text, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encoding releasePolicy: %w", err)
		}
		body["release_policy"] = Merge(body["release_policy"], map[string]any{
			"contentType": "application/json; charset=utf-8", "data": base64.RawURLEncoding.EncodeToString(text)})
	}
	if n, ok := e.tree["keyBits"].(json.Number); ok {
		bits, err := strconv.Atoi(n.String())
		if err != nil || bits < 8 || bits > 1<<14 {
			return nil, fmt.Errorf("keyBits is %s", n)
		}
		modulus := bytes.Repeat([]byte{0xc5}, bits/8)
		body["key"] = Merge(body["key"], map[string]any{"n": base64.RawURLEncoding.EncodeToString(modulus)})
	}
	return body, nil
}
