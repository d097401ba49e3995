package azuresim

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Changes of the world by other hands. Each publishes what Azure would publish,
// where events are emitted, and is not in the call log.

// change runs f under the lock on a resource.
func (s *Sim) change(id, typ string, f func(*resource) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.get(id, typ)
	if r == nil {
		return fmt.Errorf("changing %q: there is no such resource", id)
	}
	return f(r)
}

func (s *Sim) told(r *resource, action, method string) {
	e := armEvent{action: action, target: r.id, method: method, correlation: s.id()}
	if s.mute {
		s.logActivity(e)
		return
	}
	s.emit(e)
}

func (s *Sim) toldKey(v *vault, k *keyVersion, kind string) {
	if !s.mute {
		s.emitKey(v, k, kind)
	}
}

// quietly makes changes without their events: a scene publishes its own.
func (s *Sim) quietly(f func() error) error {
	set := func(on bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mute = on
	}
	set(true)
	defer set(false)
	return f()
}

// DeleteVM deletes a VM at once, as if somebody had.
func (s *Sim) DeleteVM(id string) error {
	return s.change(id, typeVM, func(r *resource) error {
		s.deleteNow(r)
		s.told(r, typeVM+"/delete", http.MethodDelete)
		return nil
	})
}

// RestartVM restarts a VM.
func (s *Sim) RestartVM(id string) error {
	return s.change(id, typeVM, func(r *resource) error {
		if err := s.boot(r); err != nil {
			return fmt.Errorf("restarting %q: %s: %s", id, err.code, err.text)
		}
		r.vm.agentReady = true
		s.told(r, typeVM+"/restart/action", http.MethodPost)
		return nil
	})
}

// DeallocateVM deallocates a VM.
func (s *Sim) DeallocateVM(id string) error {
	return s.change(id, typeVM, func(r *resource) error {
		r.vm.power, r.vm.agentReady = "deallocated", false
		s.diskStates(r, "Reserved")
		s.told(r, typeVM+"/deallocate/action", http.MethodPost)
		return nil
	})
}

// StartVM starts a deallocated VM.
func (s *Sim) StartVM(id string) error {
	return s.change(id, typeVM, func(r *resource) error {
		if err := s.boot(r); err != nil {
			return fmt.Errorf("starting %q: %s: %s", id, err.code, err.text)
		}
		r.vm.agentReady = true
		s.told(r, typeVM+"/start/action", http.MethodPost)
		return nil
	})
}

// SetTag sets one of a VM's tags.
func (s *Sim) SetTag(id, name, value string) error {
	return s.change(id, typeVM, func(r *resource) error {
		put(r.body, value, "tags", name)
		r.touch()
		s.told(r, typeVM+"/write", http.MethodPatch)
		return nil
	})
}

// SetSecureBoot flips a VM's secure boot setting: what no request could do on a
// confidential VM.
func (s *Sim) SetSecureBoot(id string, on bool) error {
	return s.change(id, typeVM, func(r *resource) error {
		put(r.body, on, "properties", "securityProfile", "uefiSettings", "secureBootEnabled")
		r.touch()
		s.told(r, typeVM+"/write", http.MethodPut)
		return nil
	})
}

// SetAgentReady says whether the VM agent reports.
func (s *Sim) SetAgentReady(id string, ready bool) error {
	return s.change(id, typeVM, func(r *resource) error {
		r.vm.agentReady = ready
		return nil
	})
}

// SetTransition puts a VM into a provisioning state by another's hand, until
// state is "" or "Succeeded": requests that need the VM are refused with 409
// Conflict meanwhile.
func (s *Sim) SetTransition(id, state string) error {
	return s.change(id, typeVM, func(r *resource) error {
		if state == "" || state == "Succeeded" {
			if r.busy != nil && r.busy == r.vm.transition {
				r.busy = nil
			}
			r.vm.transition = nil
			r.setState("Succeeded")
			s.told(r, typeVM+"/write", http.MethodPatch)
			return nil
		}
		r.vm.transition = &operation{id: s.id(), action: typeVM + "/write", target: r.id, status: "InProgress"}
		r.busy = r.vm.transition
		r.setState(state)
		return nil
	})
}

// RenameCase changes how ARM spells a VM's id, letters' case aside: what Azure
// does now and then. spell gets the id and gives the new spelling.
func (s *Sim) RenameCase(id string, spell func(string) string) error {
	return s.change(id, typeVM, func(r *resource) error {
		n := spell(r.id)
		if fold(n) != r.key {
			return fmt.Errorf("spelling %q as %q: that is another id", r.id, n)
		}
		r.id = n
		r.body["id"] = n
		r.name = n[strings.LastIndexByte(n, '/')+1:]
		r.body["name"] = r.name
		return nil
	})
}

// SetDESAutoRotation sets a disk encryption set's rotation flag.
func (s *Sim) SetDESAutoRotation(id string, on bool) error {
	return s.change(id, typeDES, func(r *resource) error {
		r.props()["rotationToLatestKeyVersionEnabled"] = on
		s.told(r, typeDES+"/write", http.MethodPatch)
		return nil
	})
}

// changeKey runs f on the key version that a URL names, the newest if it names
// none.
func (s *Sim) changeKey(url string, f func(*vault, *keyVersion)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, k := s.keyByURL(url)
	if k == nil {
		return fmt.Errorf("changing key %q: there is none", url)
	}
	f(v, k)
	return nil
}

// ExpireKey sets a key version's expiry to a moment before now.
func (s *Sim) ExpireKey(url string) error {
	return s.changeKey(url, func(v *vault, k *keyVersion) {
		put(k.body, float64(s.now().Add(-time.Minute).Unix()), "attributes", "exp")
		s.toldKey(v, k, "KeyExpired")
	})
}

// SetKeyExpiry sets a key version's expiry; the zero time takes it away.
func (s *Sim) SetKeyExpiry(url string, at time.Time) error {
	return s.changeKey(url, func(v *vault, k *keyVersion) {
		if at.IsZero() {
			drop(k.body, "attributes", "exp")
			return
		}
		put(k.body, float64(at.Unix()), "attributes", "exp")
		if left := at.Sub(s.now()); left > 0 && left <= 30*24*time.Hour {
			s.toldKey(v, k, "KeyNearExpiry")
		}
	})
}

// DisableKey disables a key version; Azure has no event for that.
func (s *Sim) DisableKey(url string) error {
	return s.changeKey(url, func(_ *vault, k *keyVersion) { put(k.body, false, "attributes", "enabled") })
}

// EnableKey enables a key version.
func (s *Sim) EnableKey(url string) error {
	return s.changeKey(url, func(_ *vault, k *keyVersion) { put(k.body, true, "attributes", "enabled") })
}

// DeleteKey deletes a key, softly: no event either.
func (s *Sim) DeleteKey(url string) error {
	return s.changeKey(url, func(v *vault, k *keyVersion) { v.keys[fold(k.name)].deleted = true })
}

// NewKeyVersion makes a new version like the newest and gives its URL. An
// ordinary disk encryption set with the rotation flag moves to it; a confidential
// one does not.
func (s *Sim) NewKeyVersion(url string) (string, error) {
	var out string
	err := s.changeKey(url, func(v *vault, k *keyVersion) {
		old := v.keys[fold(k.name)].newest()
		q := keyRequest{Type: str(old.body, "key", "kty"), Bits: 3072, Attr: doc{"enabled": true}}
		if e, ok := at(old.body, "attributes", "exportable").(bool); ok {
			q.Attr["exportable"] = e
		}
		for _, o := range anyList(at(old.body, "key", "key_ops")) {
			q.Ops = append(q.Ops, text(o))
		}
		if p, ok := old.body["release_policy"].(doc); ok {
			q.Policy = copyOf(p)
		}
		n := s.makeKey(v, k.name, q)
		out = str(n.body, "key", "kid")
		s.toldKey(v, n, "KeyNewVersionCreated")
		for _, set := range s.all(typeDES, "") {
			_, used := s.keyByURL(str(set.props(), "activeKey", "keyUrl"))
			if used != nil && used.name == k.name && yes(set.props(), "rotationToLatestKeyVersionEnabled") && str(set.props(), "encryptionType") != confidentialDES {
				put(set.body, out, "properties", "activeKey", "keyUrl")
				put(set.body, stamp(s.now()), "properties", "lastKeyRotationTimestamp")
				s.told(set, typeDES+"/write", http.MethodPatch)
			}
		}
	})
	return out, err
}

// Resource gives a copy of a resource's ARM body; ok is false if there is none.
func (s *Sim) Resource(id string) (body map[string]any, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resources[fold(id)]
	if r == nil {
		return nil, false
	}
	return copyOf(r.body), true
}

// Edit changes a resource's ARM body by hand: for worlds that no request and no
// other method can make.
func (s *Sim) Edit(id string, f func(body map[string]any)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resources[fold(id)]
	if r == nil {
		return fmt.Errorf("editing %q: there is no such resource", id)
	}
	f(r.body)
	if r.vm != nil {
		r.touch()
	}
	return nil
}
