package azure

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// The three models by which rights on keys are given. RBAC and access policies
// exclude each other per vault.
const (
	modelRBAC     = "rbac"
	modelPolicies = "access-policies"
	modelLocal    = "hsm-local"
)

// rightsModel is the vault's model; enableRbacAuthorization false or absent means
// access policies.
func rightsModel(v cvm.Vault) string {
	switch {
	case v.HSM:
		return modelLocal
	case v.RBAC == cvm.True:
		return modelRBAC
	default:
		return modelPolicies
	}
}

// keyOps are the operations that matter here.
var keyOps = []string{"get", "wrapkey", "unwrapkey", "release"}

// The data actions behind keyOps, in their order.
var (
	vaultKeyActions = []string{actionKeyRead, "Microsoft.KeyVault/vaults/keys/wrap/action", "Microsoft.KeyVault/vaults/keys/unwrap/action", "Microsoft.KeyVault/vaults/keys/release/action"}
	hsmKeyActions   = []string{"Microsoft.KeyVault/managedHsm/keys/read/action", "Microsoft.KeyVault/managedHsm/keys/wrap/action", "Microsoft.KeyVault/managedHsm/keys/unwrap/action", "Microsoft.KeyVault/managedHsm/keys/release/action"}
)

// Built-in roles.
const (
	roleEncryptionUser    = "e147488a-f6f5-4113-8e2d-b22465e65bf6" // Key Vault Crypto Service Encryption User
	roleReleaseUser       = "08bbd89e-9f13-488c-ac41-acfcb10c90ab" // Key Vault Crypto Service Release User
	roleHSMEncryptionUser = "33413926-3206-4cdd-b39a-83574fe37a17" // Managed HSM Crypto Service Encryption User
	roleHSMReleaseUser    = "21dbd100-6940-42c2-9190-5d6cb909625c" // Managed HSM Crypto Service Release User
)

// builtIn are the operations of well-known roles, so that their definitions
// needn't be read. Every other role's definition is.
var builtIn = map[string][]string{
	roleEncryptionUser:                     {"get", "wrapkey", "unwrapkey"},
	roleReleaseUser:                        {"release"},
	roleHSMEncryptionUser:                  {"get", "wrapkey", "unwrapkey"},
	roleHSMReleaseUser:                     {"release"},
	"2c18b078-7c48-4d3a-af88-5a3a1b3f82b3": {"get"}, // Managed HSM Crypto Auditor
	"8e3af657-a8ff-443c-a75c-2fe8c4bcb635": {},      // Owner: no data actions
	"b24988ac-6180-42a0-ab88-20f7382dd24c": {},      // Contributor
	"acdd72a7-3385-48ef-bd42-f606fba81ae7": {},      // Reader
	"18d7d88d-d35e-4fb5-a5c3-7773c20a72d9": {},      // User Access Administrator
}

// assignment is one role assignment of either kind of RBAC.
type assignment struct {
	principal, role, scope string
	group, conditional     bool
}

// Rights reads who may do what with a key: for the disk encryption set's
// identity, the orchestrator, and all others who may unwrap.
func (c *Client) Rights(ctx context.Context, q cvm.RightsQuery) (cvm.Rights, error) {
	out := cvm.Rights{Model: rightsModel(q.Vault), OrchestratorKnown: q.Orchestrator != ""}
	if out.Model == modelPolicies {
		return cvm.RightsByPolicies(q), nil
	}
	k := call{op: "reading the rights on key", object: string(q.Key)}
	key, err := c.keyURL(k, q.Key)
	if err != nil {
		return cvm.Rights{}, err
	}
	src := c.armRights(q.Vault, key)
	if out.Model == modelLocal {
		src = c.localRights(key)
	}
	all, err := src.list(ctx, k, "atScope()")
	if err != nil {
		return cvm.Rights{}, err
	}
	granted, perhaps := map[string][]string{}, map[string][]string{} // by folded principal
	for _, a := range all {
		if !covers(a.scope, src.scope) {
			continue
		}
		ops, err := src.ops(ctx, k, a.role)
		if err != nil {
			return cvm.Rights{}, err
		}
		id := fold(a.principal)
		if slices.Contains(ops, "unwrapkey") && id != fold(q.DESPrincipal) {
			out.OtherUnwrap = append(out.OtherUnwrap, a.principal)
		}
		if a.conditional {
			perhaps[id] = append(perhaps[id], ops...)
		} else {
			granted[id] = append(granted[id], ops...)
		}
	}
	of := func(principal string, needs ...string) ([]string, error) {
		return src.withGroups(ctx, k, principal, granted[fold(principal)], perhaps[fold(principal)], needs)
	}
	if q.DESPrincipal != "" {
		out.DESIdentity, err = of(q.DESPrincipal, "get", "wrapkey", "unwrapkey")
	}
	if err == nil && q.Orchestrator != "" {
		out.Orchestrator, err = of(q.Orchestrator, "release")
	}
	if err == nil && out.Model == modelRBAC && len(out.DESIdentity)+len(out.Orchestrator) > 0 {
		err = c.takeDenied(ctx, k, q, src.scope, &out)
	}
	if err != nil {
		return cvm.Rights{}, err
	}
	out.OtherUnwrap = sorted(out.OtherUnwrap)
	return out, nil
}

// takeDenied takes out what deny assignments take away.
func (c *Client) takeDenied(ctx context.Context, k call, q cvm.RightsQuery, scope string, out *cvm.Rights) error {
	denials, err := c.denials(ctx, k, q.Vault, scope)
	if err != nil {
		return err
	}
	if out.DESIdentity, err = left(k, q.DESPrincipal, out.DESIdentity, denials); err != nil {
		return err
	}
	out.Orchestrator, err = left(k, q.Orchestrator, out.Orchestrator, denials)
	return err
}

// source lists assignments and knows roles, for one of the two kinds of RBAC.
type source struct {
	scope  string
	groups bool // whether rights through groups can be asked for
	list   func(ctx context.Context, k call, filter string) ([]assignment, error)
	ops    func(ctx context.Context, k call, role string) ([]string, error)
}

// withGroups adds what a principal has through groups, which costs a call and is
// asked for only when something that it needs is missing. Where only a condition,
// which isn't evaluated, could give what is missing, nobody here can tell, which is
// an error: the rights then aren't known.
func (s source) withGroups(ctx context.Context, k call, principal string, have, perhaps, needs []string) ([]string, error) {
	lacks := func(op string) bool { return !slices.Contains(have, op) }
	if slices.ContainsFunc(needs, lacks) && s.groups && !strings.ContainsAny(principal, "' \t\n") {
		more, err := s.list(ctx, k, "assignedTo('"+principal+"')")
		if err != nil {
			return nil, err
		}
		for _, a := range more {
			if !(a.group || fold(a.principal) == fold(principal)) || !covers(a.scope, s.scope) {
				continue
			}
			ops, err := s.ops(ctx, k, a.role)
			if err != nil {
				return nil, err
			}
			if a.conditional {
				perhaps = append(perhaps, ops...)
			} else {
				have = append(have, ops...)
			}
		}
	}
	if slices.ContainsFunc(needs, func(op string) bool { return lacks(op) && slices.Contains(perhaps, op) }) {
		return nil, &fault.Error{Kind: fault.Blocked, Op: k.op, Object: k.object, Code: "RoleAssignmentNotEvaluated",
			Err: &cause{text: "a role assignment has a condition, so it can't be told whether it gives rights to " + principal}, Next: "give the role without a condition"}
	}
	return sorted(have), nil
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

// covers says whether an assignment's scope holds at a target.
func covers(scope, target string) bool {
	s, t := fold(scope), fold(target)
	return s == "" || s == t || strings.HasPrefix(t, s+"/") || strings.HasPrefix(s, "/providers/microsoft.management/managementgroups/")
}

// keyScope is a key's scope for Resource Manager's role assignments.
func keyScope(v cvm.Vault, key cvm.KeyID) string { return v.ID + "/keys/" + key.KeyName() }

// armRights are role assignments in Resource Manager.
func (c *Client) armRights(v cvm.Vault, key cvm.KeyID) source {
	scope := keyScope(v, key)
	return source{
		scope:  scope,
		groups: true,
		list: func(ctx context.Context, k call, filter string) ([]assignment, error) {
			k.action = "Microsoft.Authorization/roleAssignments/read"
			at, err := placeOf(cvm.VaultID(v.ID), cvm.ParseVaultID)
			if err != nil {
				return nil, err
			}
			cl, err := c.roleAssigns.get(at.sub)
			if err != nil {
				return nil, k.fault(err)
			}
			var out []assignment
			// The SDK puts the filter into the URL as it is.
			escaped := strings.ReplaceAll(url.QueryEscape(filter), "+", "%20")
			for pager := cl.NewListForScopePager(scope, &armauthorization.RoleAssignmentsClientListForScopeOptions{Filter: to.Ptr(escaped)}); pager.More(); {
				page, err := pager.NextPage(ctx)
				if err != nil {
					return nil, k.fault(err)
				}
				for _, a := range page.Value {
					if a == nil || a.Properties == nil || a.Properties.PrincipalID == nil || a.Properties.RoleDefinitionID == nil {
						continue
					}
					p := a.Properties
					out = append(out, assignment{principal: *p.PrincipalID, role: *p.RoleDefinitionID, scope: deref(p.Scope),
						group:       p.PrincipalType != nil && *p.PrincipalType == armauthorization.PrincipalTypeGroup,
						conditional: deref(p.Condition) != ""})
				}
			}
			return out, nil
		},
		ops: func(ctx context.Context, k call, role string) ([]string, error) {
			return c.roleOperations(ctx, fold(role), role, func(ctx context.Context) ([]string, error) {
				k.action = "Microsoft.Authorization/roleDefinitions/read"
				cl, err := c.roleDefs()
				if err != nil {
					return nil, k.fault(err)
				}
				def, err := cl.GetByID(ctx, role, nil)
				if err != nil {
					return nil, k.fault(err)
				}
				if def.Properties == nil {
					return nil, fault.New(fault.Transient, k.op, k.object, "the definition of role %q is empty", role)
				}
				var perms []permission
				for _, p := range def.Properties.Permissions {
					if p != nil {
						perms = append(perms, permission{texts(p.DataActions), texts(p.NotDataActions)})
					}
				}
				return operations(perms, vaultKeyActions), nil
			})
		},
	}
}

// roleOperations is what a role allows: known, remembered or read.
func (c *Client) roleOperations(ctx context.Context, key, role string, read func(context.Context) ([]string, error)) ([]string, error) {
	if ops, ok := builtIn[fold(role[strings.LastIndexByte(role, '/')+1:])]; ok {
		return ops, nil
	}
	return c.roleOps.get(ctx, key, false, read)
}

// permission is one grant of a role definition.
type permission struct{ data, not []string }

// operations are those of keyOps whose data action some permission allows.
func operations(perms []permission, actions []string) []string {
	var out []string
	for i, action := range actions {
		if slices.ContainsFunc(perms, func(p permission) bool { return anyMatch(p.data, action) && !anyMatch(p.not, action) }) {
			out = append(out, keyOps[i])
		}
	}
	return out
}

func anyMatch(patterns []string, action string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wildcard(strings.ToLower(p), strings.ToLower(action)) })
}

// wildcard matches an action against a pattern in which * stands for any text.
func wildcard(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, mid := range parts[1 : len(parts)-1] {
		i := strings.Index(s, mid)
		if i < 0 {
			return false
		}
		s = s[i+len(mid):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

func texts(ps []*string) []string {
	var out []string
	for _, p := range ps {
		if p != nil {
			out = append(out, *p)
		}
	}
	return out
}

func deref(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
