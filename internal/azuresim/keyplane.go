package azuresim

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// vault is the data plane of a key vault or Managed HSM.
type vault struct {
	res   *resource
	hsm   bool
	host  string
	keys  map[string]*keyName // by folded name
	local []*roleAssignment   // Managed HSM's own RBAC
}

// keyName is all versions of a key.
type keyName struct {
	name     string
	versions []*keyVersion // oldest first
	deleted  bool
	forbids  bool // nobody but the admin may read it
}

// keyVersion is one version, its body as GET shows it.
type keyVersion struct {
	name, version string
	body          doc
}

func (k *keyName) newest() *keyVersion { return k.versions[len(k.versions)-1] }

// keyByURL finds the vault and the key version that a URL names, the newest
// version where it names none.
func (s *Sim) keyByURL(raw string) (*vault, *keyVersion) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, nil
	}
	v := s.vaults[strings.ToLower(u.Host)]
	segs := strings.Split(strings.Trim(u.Path, "/"), "/")
	if v == nil || len(segs) < 2 || len(segs) > 3 || segs[0] != "keys" {
		return v, nil
	}
	version := ""
	if len(segs) == 3 {
		version = segs[2]
	}
	return v, v.find(segs[1], version)
}

func (v *vault) find(name, version string) *keyVersion {
	k := v.keys[fold(name)]
	if k == nil || k.deleted {
		return nil
	}
	if version == "" {
		return k.newest()
	}
	for _, e := range k.versions {
		if same(e.version, version) {
			return e
		}
	}
	return nil
}

// keyOp is one operation of the key plane: the access policy permission and the
// data actions that it needs.
type keyOp struct {
	permission       string
	onVault, onHSM   string // data action
	write            bool
	h                func(*exchange, *vault, []string)
	scopeSegmentName int // which path segment is the key's name, 0 none
}

const (
	vaultKeys = "Microsoft.KeyVault/vaults/keys/"
	hsmKeys   = "Microsoft.KeyVault/managedHsm/keys/"
)

// grants are the data actions that stand for an access policy's permissions.
var grants = map[string][2]string{
	"get":       {vaultKeys + "read", hsmKeys + "read/action"},
	"wrapkey":   {vaultKeys + "wrap/action", hsmKeys + "wrap/action"},
	"unwrapkey": {vaultKeys + "unwrap/action", hsmKeys + "unwrap/action"},
	"release":   {vaultKeys + "release/action", hsmKeys + "release/action"},
}

var keyOps = map[string]keyOp{
	"GET keys":                   {"list", vaultKeys + "read", hsmKeys + "read/action", false, (*exchange).listKeys, 0},
	"GET keys/*":                 {"get", vaultKeys + "read", hsmKeys + "read/action", false, (*exchange).getKey, 1},
	"GET keys/*/versions":        {"list", vaultKeys + "read", hsmKeys + "read/action", false, (*exchange).listVersions, 1},
	"GET keys/*/*":               {"get", vaultKeys + "read", hsmKeys + "read/action", false, (*exchange).getKey, 1},
	"POST keys/*/create":         {"create", vaultKeys + "create/action", hsmKeys + "create", true, (*exchange).createKey, 1},
	"PATCH keys/*/*":             {"update", vaultKeys + "update/action", hsmKeys + "write/action", true, (*exchange).updateKey, 1},
	"PATCH keys/*":               {"update", vaultKeys + "update/action", hsmKeys + "write/action", true, (*exchange).updateKey, 1},
	"DELETE keys/*":              {"delete", vaultKeys + "delete", hsmKeys + "delete", true, (*exchange).removeKey, 1},
	"GET deletedkeys/*":          {"get", vaultKeys + "read", hsmKeys + "deletedKeys/read/action", false, (*exchange).getDeletedKey, 1},
	"POST deletedkeys/*/recover": {"recover", vaultKeys + "recover/action", hsmKeys + "deletedKeys/recover/action", true, (*exchange).recoverKey, 1},
	"GET roleassignments":        {"", "", "Microsoft.KeyVault/managedHsm/roleAssignments/read/action", false, (*exchange).listLocalAssignments, 0},
	"GET roleassignments/*":      {"", "", "Microsoft.KeyVault/managedHsm/roleAssignments/read/action", false, (*exchange).getLocalAssignment, 0},
	"PUT roleassignments/*":      {"", "", "Microsoft.KeyVault/managedHsm/roleAssignments/write/action", true, (*exchange).putLocalAssignment, 0},
	"GET roledefinitions":        {"", "", "Microsoft.KeyVault/managedHsm/roleDefinitions/read/action", false, (*exchange).listLocalDefinitions, 0},
}

func keyPattern(segs []string) string {
	out := make([]string, len(segs))
	for i, g := range segs {
		switch {
		case i == 0:
			out[i] = strings.ToLower(g)
		case i == 2 && (strings.EqualFold(g, "versions") || strings.EqualFold(g, "create") || strings.EqualFold(g, "recover")):
			out[i] = strings.ToLower(g)
		default:
			out[i] = "*"
		}
	}
	return strings.Join(out, "/")
}

func (s *Sim) routeKeys(x *exchange) {
	audience, hsm, _ := keyHost(x.host)
	path := strings.Trim(x.path, "/")
	localScope := ""
	if i := strings.Index(strings.ToLower(x.path), "/providers/microsoft.authorization/"); hsm && i >= 0 {
		localScope = "/" + strings.Trim(x.path[:i], "/")
		path = strings.Trim(x.path[i+len("/providers/microsoft.authorization/"):], "/")
	}
	segs := strings.Split(path, "/")
	op, known := keyOps[x.r.Method+" "+keyPattern(segs)]
	known = known && (op.onVault != "" || hsm && localScope != "")
	if known {
		x.write, x.data = op.write, true
		x.action = op.onVault
		if hsm {
			x.action = op.onHSM
		}
	}
	p, why := x.bearer(audience)
	if p == nil {
		x.header.Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="https://login.microsoftonline.com/%s", resource="%s"`, s.opt.Tenant, audience))
		x.failInner(http.StatusUnauthorized, "Unauthorized", "AKV10000: the request was not authenticated: "+why+".", "")
		return
	}
	x.principal = p
	switch {
	case !known:
		x.fail(http.StatusNotFound, "NotFound", fmt.Sprintf("the simulator's key plane has no %s %s", x.r.Method, keyPattern(segs)))
		return
	case x.query("api-version") == "":
		x.fail(http.StatusBadRequest, "BadParameter", "The api-version query parameter is required.")
		return
	}
	name := ""
	if op.scopeSegmentName > 0 {
		name = segs[op.scopeSegmentName]
	}
	s.mu.Lock()
	v := s.vaults[x.host]
	s.mu.Unlock()
	if v == nil {
		x.fail(http.StatusNotFound, "VaultNotFound", "no vault or Managed HSM answers at "+x.host+" (in Azure the name would not resolve)")
		return
	}
	switch {
	case localScope != "":
		x.scope = localScope
	case hsm:
		x.scope = "/keys"
	default:
		x.scope = v.res.id
	}
	if name != "" {
		if hsm {
			x.scope = "/keys/" + name
		} else {
			x.scope = v.res.id + "/keys/" + name
		}
	}
	x.exec = func() { op.h(x, v, segs) }
	x.keyName, x.permission, x.vault = name, op.permission, v
}

// refuseKeys answers 403 by the vault's own model: Azure RBAC, access policies,
// or a Managed HSM's local RBAC. Access policies and local RBAC stand outside
// Azure roles: only AdminPrincipal passes them without an entry. Under Sim.mu.
func (s *Sim) refuseKeys(x *exchange) bool {
	if x.principal.Name == AdminPrincipal {
		return false
	}
	forbidden := func(inner, text string) bool {
		x.failInner(http.StatusForbidden, "Forbidden", text, inner)
		return true
	}
	who := fmt.Sprintf("Caller: appid=%s;oid=%s; Action: '%s'; Resource: '%s'", x.principal.ClientID, x.principal.ObjectID, x.action, x.scope)
	byRBAC := "Caller is not authorized to perform action on resource. " + who
	for _, d := range s.denied {
		if d.principal == x.principal.Name && match(d.action, x.action) && strings.HasPrefix(fold(x.scope), d.scope) {
			return forbidden("ForbiddenByRbac", byRBAC)
		}
	}
	if k := x.vault.keys[fold(x.keyName)]; k != nil && k.forbids {
		return forbidden("ForbiddenByRbac", byRBAC)
	}
	switch {
	case x.vault.hsm:
		if s.mayLocally(x.vault, x.principal.ObjectID, x.action, x.scope) {
			return false
		}
		return forbidden("", "User does not have permission: "+who)
	case yes(x.vault.res.props(), "enableRbacAuthorization"):
		if s.may(x.principal, x.action, x.scope, true) {
			return false
		}
		return forbidden("ForbiddenByRbac", byRBAC)
	default:
		if x.vault.policyGives(x.principal.ObjectID, x.permission) {
			return false
		}
		return forbidden("AccessDenied", "The user, group or application does not have keys "+x.permission+" permission on key vault '"+x.vault.res.name+"'. "+who)
	}
}

func (v *vault) policyGives(objectID, permission string) bool {
	for _, e := range list(v.res.props(), "accessPolicies") {
		if !same(str(e, "objectId"), objectID) {
			continue
		}
		for _, k := range anyList(at(e, "permissions", "keys")) {
			if strings.EqualFold(text(k), permission) || strings.EqualFold(text(k), "all") {
				return true
			}
		}
	}
	return false
}

func anyList(v any) []any {
	a, _ := v.([]any)
	return a
}

// lacks is the first of the permissions that a principal has not got on a key,
// "" if it has them all.
func (v *vault) lacks(s *Sim, objectID, key string, permissions ...string) string {
	for _, perm := range permissions {
		g := grants[strings.ToLower(perm)]
		ok := false
		switch {
		case v.hsm:
			ok = s.mayLocally(v, objectID, g[1], "/keys/"+key)
		case yes(v.res.props(), "enableRbacAuthorization"):
			for _, a := range s.roles {
				def := s.roleDefinition(a.role)
				ok = ok || same(a.principal, objectID) && within(v.res.id+"/keys/"+key, a.scope) && def != nil && def.role.allows(g[0], true)
			}
		default:
			ok = v.policyGives(objectID, perm)
		}
		if !ok {
			return perm
		}
	}
	return ""
}
