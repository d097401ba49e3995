package azuresim

import (
	"net/http"
	"strings"
)

// What stands around VMs: network interfaces, management locks, and what a caller
// may do.

const typeNIC = "Microsoft.Network/networkInterfaces"

type lock struct{ id, scope, level string }

// AddLock puts a management lock (CanNotDelete or ReadOnly) on a scope.
func (s *Sim) AddLock(scope, name, level string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks = append(s.locks, lock{scope + "/providers/Microsoft.Authorization/locks/" + name, scope, level})
}

// SetAcceleratedNetworking switches accelerated networking on all of a VM's network
// interfaces.
func (s *Sim) SetAcceleratedNetworking(vm string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.get(vm, typeVM); r != nil {
		for _, id := range interfacesOf(r) {
			if nic := s.get(id, typeNIC); nic != nil {
				nic.props()["enableAcceleratedNetworking"] = on
			}
		}
	}
}

func interfacesOf(vm *resource) []string {
	var out []string
	for _, n := range list(vm.props(), "networkProfile", "networkInterfaces") {
		out = append(out, str(n, "id"))
	}
	return out
}

// addInterfaces makes a VM's network interfaces where they aren't there, and ties
// them to it. Under Sim.mu.
func (s *Sim) addInterfaces(vm *resource) {
	for _, id := range interfacesOf(vm) {
		nic := s.get(id, typeNIC)
		if nic == nil {
			nic = s.add(id, typeNIC, doc{"location": vm.location(), "properties": doc{"provisioningState": "Succeeded", "enableAcceleratedNetworking": false}})
		}
		nic.props()["virtualMachine"] = doc{"id": vm.id}
	}
}

// releaseInterfaces unties a deleted VM's network interfaces, or deletes them by
// their deleteOption. Under Sim.mu.
func (s *Sim) releaseInterfaces(vm *resource) {
	for _, n := range list(vm.props(), "networkProfile", "networkInterfaces") {
		nic := s.get(str(n, "id"), typeNIC)
		switch {
		case nic == nil:
		case strings.EqualFold(str(n, "properties", "deleteOption"), "Delete"):
			s.remove(nic.key)
		default:
			delete(nic.props(), "virtualMachine")
		}
	}
}

// refuseInterfaces answers for a creation whose network interfaces don't fit.
func (x *exchange) refuseInterfaces(body doc) bool {
	for _, n := range list(body, "properties", "networkProfile", "networkInterfaces") {
		id := str(n, "id")
		nic := x.s.get(id, typeNIC)
		switch {
		case x.refuseLinked(typeNIC+"/join/action", id):
			return true
		case nic == nil: // our choice: it is made with the VM, so that a test need not
		case isConfidential(body) && yes(nic.body, "properties", "enableAcceleratedNetworking"):
			// The code is our choice; that confidential VMs have none is documented.
			x.fail(http.StatusBadRequest, "VMSizeIsNotPermittedToEnableAcceleratedNetworking", "The VM size is not permitted to enable accelerated networking on network interface '"+id+"'.")
			return true
		}
	}
	ids, _ := at(body, "identity", "userAssignedIdentities").(doc)
	for _, id := range sortedKeys(ids) {
		if x.refuseLinked("Microsoft.ManagedIdentity/userAssignedIdentities/assign/action", id) {
			return true
		}
	}
	return false
}

// locked answers 409 where a lock keeps a resource from being deleted.
func (x *exchange) locked(r *resource) bool {
	for _, l := range x.s.locks {
		if within(r.id, l.scope) {
			x.fail(http.StatusConflict, "ScopeLocked", "The scope '"+r.id+"' cannot perform delete operation because following scope(s) are locked: '"+l.scope+"'. Please remove the lock and try again.")
			return true
		}
	}
	return false
}

// listLocks answers with the locks at the scope and above it.
func (x *exchange) listLocks(p armPath) {
	if f := x.query("$filter"); f != "atScope()" {
		x.fail(http.StatusBadRequest, "UnsupportedQuery", "The filter '"+f+"' is not one that the simulator knows; it knows atScope().")
		return
	}
	var out []any
	for _, l := range x.s.locks {
		if within(p.scope, l.scope) {
			out = append(out, doc{"id": l.id, "name": l.id[strings.LastIndex(l.id, "/")+1:], "type": "Microsoft.Authorization/locks", "properties": doc{"level": l.level}})
		}
	}
	x.page(out)
}

// listPermissions answers what the caller may do at the scope. As in Azure what is
// denied isn't taken off, but by the simulator's own denials it is.
func (x *exchange) listPermissions(p armPath) {
	var out []any
	add := func(r *Role) {
		if r == nil {
			r = &Role{Actions: []string{"*"}}
		}
		texts := func(list []string) []any {
			v := []any{}
			for _, s := range list {
				v = append(v, s)
			}
			return v
		}
		var denied []string
		for _, d := range x.s.denied {
			if d.principal == x.principal.Name && strings.HasPrefix(fold(p.scope), d.scope) {
				denied = append(denied, d.action)
			}
		}
		out = append(out, doc{"actions": texts(r.Actions), "notActions": texts(append(denied, r.NotActions...)), "dataActions": texts(r.DataActions), "notDataActions": texts(r.NotDataActions)})
	}
	add(x.principal.role)
	for _, a := range x.s.roles {
		if same(a.principal, x.principal.ObjectID) && within(p.scope, a.scope) {
			if def := x.s.roleDefinition(a.role); def != nil {
				add(&def.role)
			}
		}
	}
	x.page(out)
}
