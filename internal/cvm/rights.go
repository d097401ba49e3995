package cvm

import (
	"slices"
	"strings"
)

// RightsByPolicies is who may do what with a key where a vault's access policies
// decide it. A policy for an application that acts for somebody gives that somebody
// nothing. The permission "all" counts for every operation; names ignore case.
func RightsByPolicies(q RightsQuery) Rights {
	out := Rights{Model: "access-policies", OrchestratorKnown: q.Orchestrator != ""}
	ops := []string{"get", "wrapkey", "unwrapkey", "release"}
	for _, p := range q.Vault.AccessPolicies {
		var has []string
		for _, perm := range p.Keys {
			switch perm = strings.ToLower(perm); {
			case perm == "all":
				has = append(has, ops...)
			case slices.Contains(ops, perm):
				has = append(has, perm)
			}
		}
		own := p.ApplicationID == ""
		if q.DESPrincipal != "" && strings.EqualFold(p.ObjectID, q.DESPrincipal) && own {
			out.DESIdentity = append(out.DESIdentity, has...)
		} else if slices.Contains(has, "unwrapkey") {
			out.OtherUnwrap = append(out.OtherUnwrap, p.ObjectID)
		}
		if own && q.Orchestrator != "" && strings.EqualFold(p.ObjectID, q.Orchestrator) {
			out.Orchestrator = append(out.Orchestrator, has...)
		}
	}
	for _, list := range []*[]string{&out.DESIdentity, &out.Orchestrator, &out.OtherUnwrap} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return out
}
