package azuresim

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
)

// roleAssignment is an assignment of Azure RBAC, or of a Managed HSM's local one.
type roleAssignment struct {
	id        string
	name      string
	scope     string
	principal string // object id
	role      string // role definition's GUID
	kind      string // principal type
}

// builtIn is a role definition.
type builtIn struct {
	id, name string
	role     Role
}

// The built-in roles that matter to keys. Their permissions are the parts that
// the simulator knows actions of.
var azureRoles = []builtIn{
	{"e147488a-f6f5-4113-8e2d-b22465e65bf6", "Key Vault Crypto Service Encryption User", Role{DataActions: []string{
		"Microsoft.KeyVault/vaults/keys/read", "Microsoft.KeyVault/vaults/keys/wrap/action", "Microsoft.KeyVault/vaults/keys/unwrap/action"}}},
	{"08bbd89e-9f13-488c-ac41-acfcb10c90ab", "Key Vault Crypto Service Release User", Role{DataActions: []string{"Microsoft.KeyVault/vaults/keys/release/action"}}},
	{"21090545-7ca7-4776-b22c-e363652d74d2", "Key Vault Reader", Role{
		Actions: []string{"Microsoft.KeyVault/vaults/*/read", "Microsoft.KeyVault/vaults/read"}, DataActions: []string{"Microsoft.KeyVault/vaults/*/read"}}},
	{"12338af0-0e69-4776-bea7-57ae8d297424", "Key Vault Crypto User", Role{DataActions: []string{
		"Microsoft.KeyVault/vaults/keys/read", "Microsoft.KeyVault/vaults/keys/update/action", "Microsoft.KeyVault/vaults/keys/backup/action",
		"Microsoft.KeyVault/vaults/keys/encrypt/action", "Microsoft.KeyVault/vaults/keys/decrypt/action", "Microsoft.KeyVault/vaults/keys/wrap/action",
		"Microsoft.KeyVault/vaults/keys/unwrap/action", "Microsoft.KeyVault/vaults/keys/sign/action", "Microsoft.KeyVault/vaults/keys/verify/action"}}},
	{"14b46e9e-c2b7-41b4-b07b-48a6ebf60603", "Key Vault Crypto Officer", Role{DataActions: []string{"Microsoft.KeyVault/vaults/keys/*", "Microsoft.KeyVault/vaults/keyrotationpolicies/*"}}},
	{"00482a5a-887f-4fb3-b363-3b7fe8e74483", "Key Vault Administrator", Role{DataActions: []string{"Microsoft.KeyVault/vaults/*"}}},
	{"acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", Role{Actions: []string{"*/read"}}},
	{"b24988ac-6180-42a0-ab88-20f7382dd24c", "Contributor", Role{Actions: []string{"*"}, NotActions: []string{"Microsoft.Authorization/*/write", "Microsoft.Authorization/*/delete"}}},
	{"8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Owner", Role{Actions: []string{"*"}}},
}

// definitionIn finds a role by GUID, resource id or name.
func definitionIn(set []builtIn, ref string) *builtIn {
	ref = ref[strings.LastIndexByte(ref, '/')+1:]
	for i := range set {
		if strings.EqualFold(set[i].id, ref) || strings.EqualFold(set[i].name, ref) {
			return &set[i]
		}
	}
	return nil
}

func (s *Sim) roleDefinition(ref string) *builtIn { return definitionIn(azureRoles, ref) }

// assignmentFilter is one of the filters of a list of role assignments.
type assignmentFilter struct {
	atScope   bool   // at or above, not below
	principal string // "" anyone's
	ok        bool
}

var (
	filterPrincipal = regexp.MustCompile(`(?i)^\s*principalId\s+eq\s+'([^']+)'\s*$`)
	filterBare      = regexp.MustCompile(`(?i)^\s*principalId\s+eq\s+([0-9a-f-]{36})\s*$`)
	filterAssigned  = regexp.MustCompile(`(?i)^\s*assignedTo\('([^']+)'\)\s*$`)
	filterAtScope   = regexp.MustCompile(`(?i)^\s*atScope\(\)\s*$`)
	filterBoth      = regexp.MustCompile(`(?i)^\s*atScope\(\)\s+and\s+(.*)$`)
)

func parseAssignmentFilter(f string) assignmentFilter {
	if m := filterBoth.FindStringSubmatch(f); m != nil {
		inner := parseAssignmentFilter(m[1])
		inner.atScope = true
		return inner
	}
	for _, re := range []*regexp.Regexp{filterPrincipal, filterBare, filterAssigned} {
		if m := re.FindStringSubmatch(f); m != nil {
			return assignmentFilter{principal: m[1], ok: true}
		}
	}
	if filterAtScope.MatchString(f) {
		return assignmentFilter{atScope: true, ok: true}
	}
	return assignmentFilter{ok: strings.TrimSpace(f) == ""}
}

// assignments are those at, above and (unless atScope) below a scope.
func assignments(all []*roleAssignment, scope string, f assignmentFilter) []*roleAssignment {
	var out []*roleAssignment
	for _, a := range all {
		if f.principal != "" && !same(a.principal, f.principal) {
			continue
		}
		if within(scope, a.scope) || !f.atScope && within(a.scope, scope) {
			out = append(out, a)
		}
	}
	return out
}

func (x *exchange) listRoleAssignments(p armPath) {
	f := parseAssignmentFilter(x.query("$filter"))
	if !f.ok {
		x.fail(http.StatusBadRequest, "UnsupportedQuery", "The filter '"+x.query("$filter")+"' is not supported. Supported filters are atScope(), principalId eq '{value}' and assignedTo('{value}').")
		return
	}
	var out []any
	for _, a := range assignments(x.s.roles, p.scope, f) {
		out = append(out, x.s.assignmentDoc(a))
	}
	x.page(out)
}

func (s *Sim) assignmentDoc(a *roleAssignment) doc {
	now := stamp(s.now())
	return doc{
		"id": a.id, "name": a.name, "type": "Microsoft.Authorization/roleAssignments",
		"properties": doc{
			"roleDefinitionId": "/subscriptions/" + s.opt.Subscription + "/providers/Microsoft.Authorization/roleDefinitions/" + a.role,
			"principalId":      a.principal, "principalType": a.kind, "scope": orElse(a.scope, "/"),
			"condition": nil, "conditionVersion": nil, "createdOn": now, "updatedOn": now, "delegatedManagedIdentityResourceId": nil, "description": nil,
		},
	}
}

func (x *exchange) getRoleAssignment(p armPath) {
	for _, a := range x.s.roles {
		if same(a.scope, p.scope) && same(a.name, p.name()) {
			x.reply(http.StatusOK, x.s.assignmentDoc(a))
			return
		}
	}
	x.fail(http.StatusNotFound, "RoleAssignmentNotFound", "The role assignment '"+p.name()+"' is not found.")
}

func (x *exchange) putRoleAssignment(p armPath) {
	body, ok := x.decodeAs(&armauthorization.RoleAssignmentCreateParameters{})
	if !ok {
		return
	}
	ref, who := str(body, "properties", "roleDefinitionId"), str(body, "properties", "principalId")
	def := x.s.roleDefinition(ref)
	switch {
	case def == nil:
		x.fail(http.StatusNotFound, "RoleDefinitionDoesNotExist", "The specified role definition with ID '"+ref+"' does not exist.")
		return
	case who == "":
		x.fail(http.StatusBadRequest, "InvalidRequestContent", "Required parameter 'principalId' is missing (null).")
		return
	}
	for _, a := range x.s.roles {
		if same(a.scope, p.scope) && same(a.principal, who) && same(a.role, def.id) {
			x.reply(http.StatusConflict, doc{"error": doc{"code": "RoleAssignmentExists", "message": "The role assignment already exists. The ID of the conflicting role assignment is " + strings.ReplaceAll(a.name, "-", "") + "."}})
			return
		}
		if same(a.name, p.name()) {
			x.fail(http.StatusConflict, "RoleAssignmentUpdateNotPermitted", "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.")
			return
		}
	}
	a := &roleAssignment{
		id: p.scope + "/providers/Microsoft.Authorization/roleAssignments/" + p.name(), name: p.name(), scope: p.scope,
		principal: who, role: def.id, kind: orElse(str(body, "properties", "principalType"), "ServicePrincipal"),
	}
	x.s.roles = append(x.s.roles, a)
	x.reply(http.StatusCreated, x.s.assignmentDoc(a))
	x.emitDone(a.id, true)
}

func (s *Sim) definitionDoc(d builtIn, scope string) doc {
	strings2any := func(in []string) []any {
		out := make([]any, len(in))
		for i, v := range in {
			out[i] = v
		}
		return out
	}
	return doc{
		"id": scope + "/providers/Microsoft.Authorization/roleDefinitions/" + d.id, "name": d.id, "type": "Microsoft.Authorization/roleDefinitions",
		"properties": doc{
			"roleName": d.name, "type": "BuiltInRole", "description": d.name, "assignableScopes": []any{"/"},
			"permissions": []any{doc{
				"actions": strings2any(d.role.Actions), "notActions": strings2any(d.role.NotActions),
				"dataActions": strings2any(d.role.DataActions), "notDataActions": strings2any(d.role.NotDataActions),
			}},
		},
	}
}

func (x *exchange) listRoleDefinitions(p armPath) {
	var out []any
	for _, d := range azureRoles {
		if f := x.query("$filter"); f == "" || strings.Contains(strings.ToLower(f), "'"+strings.ToLower(d.name)+"'") {
			out = append(out, x.s.definitionDoc(d, p.scope))
		}
	}
	x.page(out)
}

func (x *exchange) getRoleDefinition(p armPath) {
	if d := x.s.roleDefinition(p.name()); d != nil {
		x.reply(http.StatusOK, x.s.definitionDoc(*d, p.scope))
		return
	}
	x.fail(http.StatusNotFound, "RoleDefinitionDoesNotExist", "The specified role definition with ID '"+p.name()+"' does not exist.")
}
