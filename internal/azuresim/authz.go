package azuresim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Role is a set of Azure actions, as in a role definition. Names may hold
// wildcards ("*"), case is ignored.
type Role struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

// ParseRole reads a role from JSON: {"actions":[…],"dataActions":[…]} or a role
// definition with "permissions".
func ParseRole(b []byte) (*Role, error) {
	var d struct {
		Role
		Permissions []Role `json:"permissions"`
		Properties  struct {
			Permissions []Role `json:"permissions"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("reading a role: %w", err)
	}
	r := d.Role
	for _, p := range append(d.Permissions, d.Properties.Permissions...) {
		r.Actions = append(r.Actions, p.Actions...)
		r.NotActions = append(r.NotActions, p.NotActions...)
		r.DataActions = append(r.DataActions, p.DataActions...)
		r.NotDataActions = append(r.NotDataActions, p.NotDataActions...)
	}
	if len(r.Actions)+len(r.DataActions) == 0 {
		return nil, fmt.Errorf(`reading a role: it has neither "actions" nor "dataActions"`)
	}
	return &r, nil
}

// And is the role with another's permissions added.
func (r *Role) And(o *Role) *Role {
	if r == nil || o == nil {
		return nil // everything
	}
	return &Role{
		Actions: slices.Concat(r.Actions, o.Actions), NotActions: slices.Concat(r.NotActions, o.NotActions),
		DataActions: slices.Concat(r.DataActions, o.DataActions), NotDataActions: slices.Concat(r.NotDataActions, o.NotDataActions),
	}
}

// SetRole changes what a principal may do by itself; nil is everything.
func (s *Sim) SetRole(principal string, role *Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.principals[principal]; p != nil {
		p.role = role
	}
}

// allows says whether the role grants an action.
func (r *Role) allows(action string, data bool) bool {
	if r == nil {
		return true
	}
	yes, no := r.Actions, r.NotActions
	if data {
		yes, no = r.DataActions, r.NotDataActions
	}
	return matchAny(yes, action) && !matchAny(no, action)
}

func matchAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if match(p, s) {
			return true
		}
	}
	return false
}

// match compares an action with a pattern that may hold "*", case aside.
func match(pattern, s string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	s = strings.ToLower(s)
	if len(parts) == 1 {
		return s == parts[0]
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

type denial struct{ principal, action, scope string }

// Deny takes an action (a pattern) away from a principal, whatever its roles
// say, on every scope that begins with scope ("" is everywhere).
func (s *Sim) Deny(principal, action, scope string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = append(s.denied, denial{principal, action, fold(scope)})
}

// Undeny takes every denial of that principal and action back.
func (s *Sim) Undeny(principal, action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.denied[:0]
	for _, d := range s.denied {
		if d.principal != principal || !strings.EqualFold(d.action, action) {
			kept = append(kept, d)
		}
	}
	s.denied = kept
}

// may says whether a principal may do an action on a scope: by its own role or
// by a role assignment in the world, unless it is denied. Under Sim.mu.
func (s *Sim) may(p *principal, action, scope string, data bool) bool {
	for _, d := range s.denied {
		if d.principal == p.Name && match(d.action, action) && strings.HasPrefix(fold(scope), d.scope) {
			return false
		}
	}
	if p.role.allows(action, data) {
		return true
	}
	for _, a := range s.roles {
		if same(a.principal, p.ObjectID) && within(scope, a.scope) {
			if def := s.roleDefinition(a.role); def != nil && def.role.allows(action, data) {
				return true
			}
		}
	}
	return false
}

// within says whether scope is at or below the scope of an assignment.
func within(scope, assigned string) bool {
	a, b := fold(scope), fold(assigned)
	return b == "" || a == b || strings.HasPrefix(a, b+"/")
}

// refuse answers 403 when the caller may not do what it asks. Under Sim.mu.
func (s *Sim) refuse(x *exchange) bool {
	if x.action == "" || x.free || x.principal == nil {
		return false
	}
	if x.plane == PlaneKeys {
		return s.refuseKeys(x)
	}
	if s.may(x.principal, x.action, x.scope, x.data) {
		return false
	}
	x.fail(http.StatusForbidden, "AuthorizationFailed", fmt.Sprintf(
		"The client '%s' with object id '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.",
		x.principal.ClientID, x.principal.ObjectID, x.action, x.scope))
	return true
}

// refuseLinked answers 403 when a write names a resource that the caller may
// not read or use. Under Sim.mu.
func (x *exchange) refuseLinked(action, linked string) bool {
	if linked == "" || x.s.may(x.principal, action, linked, false) {
		return false
	}
	x.fail(http.StatusForbidden, "LinkedAuthorizationFailed", fmt.Sprintf(
		"The client has permission to perform action '%s' on scope '%s'; however, it does not have permission to perform action '%s' on the linked scope '%s' or the linked scope is invalid.",
		x.action, x.scope, action, linked))
	return true
}
