package azurepolicy

import (
	"encoding/json"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// Resource is what a condition is evaluated on: a body of ARM's (NewResource), or
// a VM or disk that was read (OfVM, OfDisk).
type Resource interface {
	id() string
	// field is a field's or alias's value; there is false where it isn't.
	field(name string) (value any, there bool, err error)
	// elements are an array's, each a Resource with the array's own aliases.
	elements(array string) ([]Resource, error)
}

// maxBody bounds a body; ARM's own are a few tens of KiB.
const maxBody = 4 << 20

// NewResource is the body of a GET or of a PUT. id is the resource's ARM id, which
// a PUT has in its URL; "" takes the body's own. Errors are fault.Invalid.
func NewResource(id string, body []byte) (Resource, error) {
	const op = "reading a resource's body"
	if len(body) > maxBody {
		return nil, fault.New(fault.Invalid, op, id, "the body is %d bytes long, more than %d", len(body), maxBody)
	}
	var tree map[string]any
	if err := json.Unmarshal(body, &tree); err != nil || tree == nil {
		return nil, fault.New(fault.Invalid, op, id, "the body is not a JSON object")
	}
	if id == "" {
		if own, ok := tree["id"].(string); ok {
			id = own
		}
	}
	if typeOf(id) == "" {
		return nil, fault.New(fault.Invalid, op, id, "it is not the ARM id of a resource; give the id with the body of a PUT")
	}
	return armBody{armID: id, tree: tree}, nil
}

// typeOf is the type in an ARM id, "" for what is no resource's.
func typeOf(id string) string {
	at := strings.LastIndex(strings.ToLower(id), "/providers/")
	if at < 0 {
		return ""
	}
	seg := strings.Split(id[at+len("/providers/"):], "/")
	if len(seg) < 3 || len(seg)%2 == 0 {
		return ""
	}
	typ := seg[0]
	for i := 1; i < len(seg); i += 2 {
		typ += "/" + seg[i]
	}
	return typ
}

func nameOf(id string) string { return id[strings.LastIndex(id, "/")+1:] }

// tagName takes a tag's name out of a field tags['…'].
func tagName(field string) (string, bool) {
	name, ok := strings.CutPrefix(field, "tags['")
	name, closed := strings.CutSuffix(name, "']")
	return name, ok && closed
}

func unknownField(name string) error {
	return fault.New(fault.Invalid, "evaluating a policy rule", name, "it is a field or an alias that this evaluator doesn't know")
}

// armBody is a body, or an element of an array in one.
type armBody struct {
	armID string
	tree  map[string]any // of the whole resource
	array string         // the path of the array that element is of, "" for none
	elem  any
}

func (b armBody) id() string { return b.armID }

func (b armBody) field(name string) (any, bool, error) {
	switch name {
	case "id":
		return b.armID, true, nil
	case "type":
		return typeOf(b.armID), true, nil
	case "name":
		return nameOf(b.armID), true, nil
	case "location":
		v, ok := walk(b.tree, "location")
		return cvm.FoldRegion(asText(v)), ok, nil
	case "identity.type":
		v, ok := walk(b.tree, "identity.type")
		return v, ok, nil
	}
	if tag, ok := tagName(name); ok {
		tags, _ := walk(b.tree, "tags")
		m, _ := tags.(map[string]any)
		for k, v := range m {
			if strings.EqualFold(k, tag) && v != nil {
				return v, true, nil
			}
		}
		return nil, false, nil
	}
	a, ok := aliases()[name]
	if !ok {
		return nil, false, unknownField(name)
	}
	if array, rest, in := strings.Cut(a.path, "[*]"); in {
		if b.array != array {
			return nil, false, unknownField(name)
		}
		if rest == "" {
			return b.elem, b.elem != nil, nil
		}
		m, _ := b.elem.(map[string]any)
		v, there := walk(m, strings.TrimPrefix(rest, "."))
		return v, there, nil
	}
	v, there := walk(b.tree, a.path)
	return v, there, nil
}

func (b armBody) elements(array string) ([]Resource, error) {
	a, ok := aliases()[array]
	path, isArray := strings.CutSuffix(a.path, "[*]")
	if !ok || !isArray {
		return nil, unknownField(array)
	}
	v, _ := walk(b.tree, path)
	list, _ := v.([]any)
	out := make([]Resource, 0, len(list))
	for _, e := range list {
		out = append(out, armBody{armID: b.armID, tree: b.tree, array: path, elem: e})
	}
	return out, nil
}

// walk follows members, whose names ignore case; null is a member that isn't there.
func walk(tree map[string]any, path string) (any, bool) {
	var at any = tree
	for name := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		next, found := m[name]
		if !found {
			for k, v := range m {
				if strings.EqualFold(k, name) {
					next, found = v, true
				}
			}
		}
		if !found || next == nil {
			return nil, false
		}
		at = next
	}
	return at, true
}

// OfVM is a VM that was read. The instance of a uniform scale set stands for its
// set: that is what was asked for.
func OfVM(vm cvm.VM) Resource {
	id := string(vm.ID)
	if set, _, ok := vm.ID.Instance(); ok {
		id = set
	}
	return typed{armID: id, vm: &vm}
}

// OfDisk is a managed disk that was read.
func OfDisk(d cvm.Disk) Resource { return typed{armID: string(d.ID), disk: &d} }

// typed is a VM, an element of its data disks, or a disk.
type typed struct {
	armID string
	vm    *cvm.VM
	data  *cvm.DataDiskRef
	disk  *cvm.Disk
}

func (t typed) id() string { return t.armID }

func (t typed) field(name string) (any, bool, error) {
	switch name {
	case "id":
		return t.armID, true, nil
	case "type":
		return typeOf(t.armID), true, nil
	case "name":
		return nameOf(t.armID), true, nil
	}
	if tag, ok := tagName(name); ok {
		tags := map[string]string{}
		if t.vm != nil {
			tags = t.vm.Tags
		}
		for k, v := range tags {
			if strings.EqualFold(k, tag) {
				return v, true, nil
			}
		}
		return nil, false, nil
	}
	a, ok := aliases()[name]
	switch {
	case !ok:
		return nil, false, unknownField(name)
	case a.data != nil && t.data != nil:
		v := a.data(*t.data)
		return v, v != "", nil
	case a.vm != nil && t.vm != nil:
		v := a.vm(*t.vm)
		return v, v != "", nil
	case a.disk != nil && t.disk != nil:
		v := a.disk(*t.disk)
		return v, v != "", nil
	}
	return nil, false, nil // an alias of another type
}

func (t typed) elements(array string) ([]Resource, error) {
	if set, _ := ofSet(vmData); array != vmData && array != set || t.vm == nil {
		return nil, nil
	}
	var out []Resource
	for i := range t.vm.DataDisks {
		out = append(out, typed{armID: t.armID, vm: t.vm, data: &t.vm.DataDisks[i]})
	}
	return out, nil
}
