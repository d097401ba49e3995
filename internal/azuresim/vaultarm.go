package azuresim

import (
	"net/http"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
)

// patchVault changes a vault's properties: at once, no operation.
func (x *exchange) patchVault(p armPath) {
	r := x.find(p, typeVault)
	if r == nil {
		return
	}
	patch, ok := x.decodeAs(&armkeyvault.VaultPatchParameters{})
	if !ok {
		return
	}
	np, _ := patch["properties"].(doc)
	for _, once := range []string{"enablePurgeProtection", "enableSoftDelete"} {
		if v, ok := np[once].(bool); ok && !v && yes(r.props(), once) {
			x.fail(http.StatusBadRequest, "BadRequest", "The property \""+once+"\" cannot be set to false. Enabling it for a vault is irreversible.")
			return
		}
	}
	if t, ok := patch["tags"].(doc); ok {
		r.body["tags"] = t
	}
	merge(r.props(), np)
	x.reply(http.StatusOK, copyOf(r.body))
	x.emitDone(r.id, false)
}

// putAccessPolicies adds to, replaces or removes from a vault's access policies.
func (x *exchange) putAccessPolicies(p armPath) {
	q := p
	q.pairs = p.pairs[:1]
	r := x.find(q, typeVault)
	if r == nil {
		return
	}
	body, ok := x.decodeAs(&armkeyvault.VaultAccessPolicyParameters{})
	if !ok {
		return
	}
	if yes(r.props(), "enableRbacAuthorization") {
		x.fail(http.StatusBadRequest, "BadRequest", "The vault uses RBAC authorization: its access policies have no effect and are not changed (our choice).")
		return
	}
	now := list(r.props(), "accessPolicies")
	kind := strings.ToLower(p.name())
	for _, e := range list(body, "properties", "accessPolicies") {
		i := slices.IndexFunc(now, func(o doc) bool { return same(str(o, "objectId"), str(e, "objectId")) })
		switch {
		case kind == "remove" && i >= 0:
			now = slices.Delete(now, i, i+1)
		case kind == "remove":
		case i < 0:
			now = append(now, e)
		case kind == "add":
			now[i] = union(now[i], e)
		default:
			now[i] = e
		}
	}
	if kind != "add" && kind != "replace" && kind != "remove" {
		x.fail(http.StatusBadRequest, "BadRequest", "The operation kind '"+p.name()+"' is not add, replace or remove.")
		return
	}
	all := make([]any, len(now))
	for i, e := range now {
		all[i] = e
	}
	r.props()["accessPolicies"] = all
	x.reply(http.StatusOK, doc{
		"id": r.id + "/accessPolicies/", "type": typeVault + "/accessPolicies", "location": r.location(),
		"properties": doc{"accessPolicies": copyOf(all)},
	})
	x.emitDone(r.id, false)
}

// union adds the permissions of b to those of a.
func union(a, b doc) doc {
	for _, kind := range []string{"keys", "secrets", "certificates", "storage"} {
		have, _ := at(a, "permissions", kind).([]any)
		more, _ := at(b, "permissions", kind).([]any)
		for _, m := range more {
			if !slices.ContainsFunc(have, func(h any) bool { return strings.EqualFold(text(h), text(m)) }) {
				have = append(have, m)
			}
		}
		if have != nil {
			put(a, have, "permissions", kind)
		}
	}
	return a
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
