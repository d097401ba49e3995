package azuresim

import (
	"net/http"
	"strings"
)

const hsmData = "Microsoft.KeyVault/managedHsm/"

// hsmRoles are a Managed HSM's own built-in roles, those that touch keys and
// role assignments.
var hsmRoles = []builtIn{
	{"a290e904-7015-4bba-90c8-60543313cdb4", "Managed HSM Administrator", Role{DataActions: []string{hsmData + "roleAssignments/*", hsmData + "roleDefinitions/*"}}},
	{"515eb02d-2335-4d2d-92f2-b1cbdf9c3778", "Managed HSM Crypto Officer", Role{DataActions: []string{
		hsmKeys + "deletedKeys/*", hsmData + "roleAssignments/*", hsmData + "roleDefinitions/*"}}},
	{"21dbd100-6940-42c2-9190-5d6cb909625b", "Managed HSM Crypto User", Role{DataActions: []string{
		hsmKeys + "read/action", hsmKeys + "write/action", hsmKeys + "rotate/action", hsmKeys + "create", hsmKeys + "delete",
		hsmKeys + "backup/action", hsmKeys + "restore/action", hsmKeys + "release/action", hsmKeys + "import/action",
		hsmKeys + "encrypt/action", hsmKeys + "decrypt/action", hsmKeys + "wrap/action", hsmKeys + "unwrap/action",
		hsmKeys + "sign/action", hsmKeys + "verify/action", hsmData + "roleAssignments/read/action", hsmData + "roleDefinitions/read/action"}}},
	{"4bd23610-cdcf-4971-bdee-bdc562cc28e4", "Managed HSM Policy Administrator", Role{DataActions: []string{hsmData + "roleAssignments/*", hsmData + "roleDefinitions/*"}}},
	{"33413926-3206-4cdd-b39a-83574fe37a17", "Managed HSM Crypto Service Encryption User", Role{DataActions: []string{
		hsmKeys + "read/action", hsmKeys + "wrap/action", hsmKeys + "unwrap/action"}}},
	{"21dbd100-6940-42c2-9190-5d6cb909625c", "Managed HSM Crypto Service Release User", Role{DataActions: []string{hsmKeys + "release/action"}}},
	{"2c18b078-7c48-4d3a-af88-5a3a1b3f82b3", "Managed HSM Crypto Auditor", Role{DataActions: []string{
		hsmKeys + "read/action", hsmData + "roleAssignments/read/action", hsmData + "roleDefinitions/read/action"}}},
}

// mayLocally says whether a Managed HSM's own RBAC gives a principal an action.
func (s *Sim) mayLocally(v *vault, objectID, action, scope string) bool {
	for _, a := range v.local {
		if def := definitionIn(hsmRoles, a.role); same(a.principal, objectID) && withinLocal(scope, a.scope) && def != nil && def.role.allows(action, true) {
			return true
		}
	}
	return false
}

// withinLocal compares a Managed HSM's scopes: "/", "/keys", "/keys/<name>".
func withinLocal(scope, assigned string) bool {
	return within(strings.TrimSuffix(scope, "/"), strings.TrimSuffix(assigned, "/"))
}

func localDoc(a *roleAssignment) doc {
	return doc{
		"id": a.id, "name": a.name, "type": "Microsoft.Authorization/roleAssignments",
		"properties": doc{
			"principalId": a.principal, "scope": a.scope,
			"roleDefinitionId": "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + a.role,
		},
	}
}

func (x *exchange) listLocalAssignments(v *vault, _ []string) {
	f := parseAssignmentFilter(x.query("$filter"))
	if !f.ok {
		x.fail(http.StatusBadRequest, "BadParameter", "The filter '"+x.query("$filter")+"' is not supported.")
		return
	}
	var out []any
	for _, a := range v.local {
		if f.principal != "" && !same(f.principal, a.principal) {
			continue
		}
		if withinLocal(x.scope, a.scope) || !f.atScope && withinLocal(a.scope, x.scope) {
			out = append(out, localDoc(a))
		}
	}
	x.pageOf(out, x.s.opt.PageSize, "$skiptoken")
}

func (x *exchange) getLocalAssignment(v *vault, segs []string) {
	for _, a := range v.local {
		if same(a.name, segs[1]) {
			x.reply(http.StatusOK, localDoc(a))
			return
		}
	}
	x.fail(http.StatusNotFound, "RoleAssignmentNotFound", "Requested role assignment not found ("+segs[1]+").")
}

func (x *exchange) putLocalAssignment(v *vault, segs []string) {
	body, ok := x.decode()
	if !ok {
		return
	}
	who, ref := str(body, "properties", "principalId"), str(body, "properties", "roleDefinitionId")
	def := definitionIn(hsmRoles, ref)
	if def == nil || who == "" {
		x.fail(http.StatusBadRequest, "BadParameter", "The role definition '"+ref+"' or the principal '"+who+"' is not known.")
		return
	}
	for _, a := range v.local {
		if same(a.name, segs[1]) || same(a.principal, who) && same(a.role, def.id) && same(a.scope, x.scope) {
			x.fail(http.StatusConflict, "RoleAssignmentExists", "The role assignment already exists.")
			return
		}
	}
	a := v.assign(segs[1], x.scope, who, def.id)
	x.reply(http.StatusCreated, localDoc(a))
}

func (v *vault) assign(name, scope, objectID, role string) *roleAssignment {
	a := &roleAssignment{
		id: strings.TrimSuffix(scope, "/") + "/providers/Microsoft.Authorization/roleAssignments/" + name, name: name,
		scope: orElse(scope, "/"), principal: objectID, role: role,
	}
	v.local = append(v.local, a)
	return a
}

func (x *exchange) listLocalDefinitions(_ *vault, _ []string) {
	var out []any
	for _, d := range hsmRoles {
		b := x.s.definitionDoc(d, "Microsoft.KeyVault")
		out = append(out, b)
	}
	x.pageOf(out, x.s.opt.PageSize, "$skiptoken")
}
