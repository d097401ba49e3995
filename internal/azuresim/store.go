package azuresim

import (
	"fmt"
	"strings"
)

// resource is one ARM resource: its body as GET shows it, and what ARM does not
// show.
type resource struct {
	key  string // folded id
	id   string // as spelled at creation
	typ  string // "Microsoft.Compute/virtualMachines"
	name string
	body doc
	etag int        // VMs have one
	busy *operation // the operation that holds it
	vm   *vmState   // VMs only
	run  *runState  // run commands only
}

func (r *resource) location() string { return str(r.body, "location") }

func (r *resource) props() doc {
	p, ok := r.body["properties"].(doc)
	if !ok {
		p = doc{}
		r.body["properties"] = p
	}
	return p
}

func (r *resource) setState(state string) { r.props()["provisioningState"] = state }

// touch gives the resource a new ETag.
func (r *resource) touch() {
	r.etag++
	r.body["etag"] = fmt.Sprintf("\"%d\"", r.etag)
}

// add puts a resource into the world. id, name and type go into the body.
// Under Sim.mu.
func (s *Sim) add(id, typ string, body doc) *resource {
	body["id"], body["type"] = id, typ
	name := id[strings.LastIndexByte(id, '/')+1:]
	body["name"] = name
	r := &resource{key: fold(id), id: id, typ: typ, name: name, body: body}
	if _, ok := s.resources[r.key]; !ok {
		s.order = append(s.order, r.key)
	}
	s.resources[r.key] = r
	if p, err := parseARM(id); err == nil && p.rg != "" {
		s.groups[fold("/subscriptions/"+p.sub+"/resourceGroups/"+p.rg)] = p.rg
	}
	return r
}

// remove takes a resource and all below it out of the world. Under Sim.mu.
func (s *Sim) remove(key string) {
	kept := s.order[:0]
	for _, k := range s.order {
		if k == key || strings.HasPrefix(k, key+"/") {
			delete(s.resources, k)
			continue
		}
		kept = append(kept, k)
	}
	s.order = kept
}

// get finds a resource of a type by id. Under Sim.mu.
func (s *Sim) get(id, typ string) *resource {
	r := s.resources[fold(id)]
	if r == nil || !strings.EqualFold(r.typ, typ) {
		return nil
	}
	return r
}

// all lists the resources of a type at or below a scope, in order of creation.
// Under Sim.mu.
func (s *Sim) all(typ, scope string) []*resource {
	var out []*resource
	for _, k := range s.order {
		if r := s.resources[k]; strings.EqualFold(r.typ, typ) && within(k, scope) {
			out = append(out, r)
		}
	}
	return out
}

// The resource types that are kept.
const (
	typeVM        = "Microsoft.Compute/virtualMachines"
	typeVMSSVM    = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
	typeExtension = "Microsoft.Compute/virtualMachines/extensions"
	typeRun       = "Microsoft.Compute/virtualMachines/runCommands"
	typeDisk      = "Microsoft.Compute/disks"
	typeDES       = "Microsoft.Compute/diskEncryptionSets"
	typeVault     = "Microsoft.KeyVault/vaults"
	typeHSM       = "Microsoft.KeyVault/managedHSMs"
	typeTopic     = "Microsoft.EventGrid/topics"
)

// armPath is a parsed ARM path.
type armPath struct {
	sub, rg string
	ns      string      // provider namespace
	pairs   [][2]string // type and name, outermost first
	tail    string      // a collection's or an action's name, "" if the path ends in a name
	scope   string      // of an authorization path: what stands before its last /providers/
}

// parseARM reads an ARM path; the error is a sentence for the caller.
func parseARM(path string) (armPath, error) {
	var p armPath
	segs := strings.Split(strings.Trim(path, "/"), "/")
	for _, g := range segs {
		if g == "" {
			return p, fmt.Errorf("the path %q has an empty segment", path)
		}
	}
	last := -1
	for i, g := range segs {
		if strings.EqualFold(g, "providers") && i+1 < len(segs) {
			last = i
		}
	}
	if last < 0 {
		return p, fmt.Errorf("the path %q names no provider", path)
	}
	p.ns = segs[last+1]
	if last > 0 {
		p.scope = "/" + strings.Join(segs[:last], "/")
	}
	if len(segs) > 1 && strings.EqualFold(segs[0], "subscriptions") {
		p.sub = segs[1]
	}
	if len(segs) > 3 && strings.EqualFold(segs[2], "resourceGroups") {
		p.rg = segs[3]
	}
	rest := segs[last+2:]
	for len(rest) > 1 {
		p.pairs = append(p.pairs, [2]string{rest[0], rest[1]})
		rest = rest[2:]
	}
	if len(rest) == 1 {
		p.tail = rest[0]
	}
	return p, nil
}

// pattern is the path's kind: microsoft.compute/virtualmachines/*/start.
func (p armPath) pattern() string {
	b := strings.ToLower(p.ns)
	for _, t := range p.pairs {
		b += "/" + strings.ToLower(t[0]) + "/*"
	}
	if p.tail != "" {
		b += "/" + strings.ToLower(p.tail)
	}
	return b
}

// id is the resource that the path names, as spelled, without an action.
func (p armPath) id() string {
	b := p.groupScope()
	if len(p.pairs) == 0 {
		return b
	}
	b += "/providers/" + p.ns
	for _, t := range p.pairs {
		b += "/" + t[0] + "/" + t[1]
	}
	return b
}

// groupScope is the resource group or the subscription.
func (p armPath) groupScope() string {
	b := "/subscriptions/" + p.sub
	if p.rg != "" {
		b += "/resourceGroups/" + p.rg
	}
	return b
}

// name is the innermost name.
func (p armPath) name() string {
	if len(p.pairs) == 0 {
		return ""
	}
	return p.pairs[len(p.pairs)-1][1]
}

// parent is the id of the outermost resource: the VM of an extension.
func (p armPath) parent() string {
	q := p
	q.pairs = p.pairs[:1]
	return q.id()
}

// canonical is the id with the types spelled as ARM spells them, the names and
// the group as the caller did.
func (p armPath) canonical(typ string) string {
	ns, types, _ := strings.Cut(typ, "/")
	b := p.groupScope() + "/providers/" + ns
	for i, t := range strings.Split(types, "/") {
		b += "/" + t + "/" + p.pairs[i][1]
	}
	return b
}
