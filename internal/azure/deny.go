package azure

import (
	"context"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// everyone is the principal by which a deny assignment means all.
const everyone = "00000000-0000-0000-0000-000000000000"

// denial is one deny assignment, as far as it holds at a key.
type denial struct {
	ops      []string // that it takes away for certain
	perhaps  []string // that it takes away under a condition, which isn't evaluated
	names    []principalRef
	excluded []principalRef
}

type principalRef struct {
	id    string // folded
	group bool   // or anything else whose members aren't known here
}

// denials are the deny assignments that hold at a key of a vault with RBAC. They
// win over every grant.
func (c *Client) denials(ctx context.Context, k call, v cvm.Vault, scope string) ([]denial, error) {
	k.action = "Microsoft.Authorization/denyAssignments/read"
	at, err := placeOf(cvm.VaultID(v.ID), cvm.ParseVaultID)
	if err != nil {
		return nil, err
	}
	cl, err := c.denies.get(at.sub)
	if err != nil {
		return nil, k.fault(err)
	}
	var out []denial
	for pager := cl.NewListForScopePager(scope, &armauthorization.DenyAssignmentsClientListForScopeOptions{Filter: to.Ptr("atScope()")}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, k.fault(err)
		}
		for _, a := range page.Value {
			if a == nil || a.Properties == nil {
				continue
			}
			p := a.Properties
			here := deref(p.Scope)
			if !covers(here, scope) || p.DoNotApplyToChildScopes != nil && *p.DoNotApplyToChildScopes && fold(here) != fold(scope) {
				continue
			}
			d := denial{names: refs(p.Principals), excluded: refs(p.ExcludePrincipals)}
			for _, perm := range p.Permissions {
				if perm == nil {
					continue
				}
				ops := operations([]permission{{texts(perm.DataActions), texts(perm.NotDataActions)}}, vaultKeyActions)
				if deref(perm.Condition) != "" {
					d.perhaps = append(d.perhaps, ops...)
				} else {
					d.ops = append(d.ops, ops...)
				}
			}
			out = append(out, d)
		}
	}
	return out, nil
}

func refs(ps []*armauthorization.Principal) []principalRef {
	var out []principalRef
	for _, p := range ps {
		if p == nil || deref(p.ID) == "" {
			continue
		}
		id := fold(*p.ID)
		known := deref(p.Type) == string(armauthorization.PrincipalTypeServicePrincipal) || deref(p.Type) == string(armauthorization.PrincipalTypeUser)
		out = append(out, principalRef{id, !known && id != everyone})
	}
	return out
}

// left takes from what a principal was granted what is denied to it. Where that
// hangs on a group's members, or on a condition, nobody here can tell, which is an
// error: the rights then aren't known.
func left(k call, principal string, granted []string, denials []denial) ([]string, error) {
	id := fold(principal)
	for _, d := range denials {
		hit := func(r principalRef) bool { return r.id == id }
		unknown := func(r principalRef) bool { return r.group && r.id != id }
		all := slices.ContainsFunc(d.names, func(r principalRef) bool { return r.id == id || r.id == everyone })
		if slices.ContainsFunc(d.excluded, hit) || !all && !slices.ContainsFunc(d.names, unknown) {
			continue
		}
		certain := all && !slices.ContainsFunc(d.excluded, unknown)
		touched := func(ops []string) bool {
			return slices.ContainsFunc(granted, func(op string) bool { return slices.Contains(ops, op) })
		}
		if touched(d.perhaps) || !certain && touched(d.ops) {
			return nil, &fault.Error{Kind: fault.Blocked, Op: k.op, Object: k.object, Code: "DenyAssignmentNotEvaluated",
				Err: &cause{text: "a deny assignment names a group or has a condition, so it can't be told whether it takes rights from " + principal}, Next: "look at the deny assignments of the vault"}
		}
		granted = slices.DeleteFunc(slices.Clone(granted), func(op string) bool { return slices.Contains(d.ops, op) })
	}
	return granted, nil
}
