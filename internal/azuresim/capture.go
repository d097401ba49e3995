package azuresim

import (
	"fmt"
	"net/url"
	"strings"
)

// PutResource puts a resource into the world from its body as GET shows it, with
// "id" and "type": for estates that were captured elsewhere, and for people who
// try a policy on the bodies that they have. VMs run, with a ready agent.
func (s *Sim) PutResource(body map[string]any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := copyOf(body)
	id, typ := str(b, "id"), str(b, "type")
	known := ""
	for _, t := range []string{typeVM, typeVMSSVM, typeExtension, typeRun, typeDisk, typeDES, typeVault, typeHSM, typeNIC} {
		if strings.EqualFold(t, typ) {
			known = t
		}
	}
	if known == "" {
		return fmt.Errorf("putting %q: the type %q is not one that can be put", id, typ)
	}
	p, err := parseARM(id)
	if err != nil || p.name() == "" {
		return fmt.Errorf("putting a resource: the id %q is not one of a resource", id)
	}
	r := s.add(id, known, b)
	switch known {
	case typeVM, typeVMSSVM:
		if known == typeVMSSVM {
			b["instanceId"], b["name"] = r.name, p.pairs[0][1]+"_"+r.name // as Azure shows it
		}
		r.vm = &vmState{power: "running", generation: s.generationFor(b), agentReady: true, agent: agentVersion, boots: 1}
		if g := str(b, "properties", "instanceView", "hyperVGeneration"); g != "" {
			r.vm.generation = g
		}
		drop(b, "properties", "instanceView")
		delete(b, "resources")
		r.touch()
	case typeRun:
		r.run = &runState{view: doc{}}
		if v, ok := at(b, "properties", "instanceView").(doc); ok {
			r.run.view = v
		}
		drop(b, "properties", "instanceView")
	case typeVault, typeHSM:
		u, err := url.Parse(orElse(str(b, "properties", "vaultUri"), str(b, "properties", "hsmUri")))
		if err != nil || u.Host == "" {
			return fmt.Errorf("putting %q: it has no vaultUri or hsmUri", id)
		}
		s.vaults[strings.ToLower(u.Host)] = &vault{res: r, hsm: known == typeHSM, host: strings.ToLower(u.Host), keys: map[string]*keyName{}}
	}
	return nil
}

// PutKey puts a key version into a vault that is there, from its body as GET
// shows it.
func (s *Sim) PutKey(body map[string]any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := copyOf(body)
	kid := str(b, "key", "kid")
	u, err := url.Parse(kid)
	if err != nil {
		return fmt.Errorf("putting key %q: %w", kid, err)
	}
	v := s.vaults[strings.ToLower(u.Host)]
	segs := strings.Split(strings.Trim(u.Path, "/"), "/")
	if v == nil || len(segs) != 3 || segs[0] != "keys" {
		return fmt.Errorf("putting key %q: it is not the versioned URL of a key in a vault that is there", kid)
	}
	n := v.keys[fold(segs[1])]
	if n == nil {
		n = &keyName{name: segs[1]}
		v.keys[fold(segs[1])] = n
	}
	n.versions = append(n.versions, &keyVersion{name: segs[1], version: segs[2], body: b})
	return nil
}
