package azure

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func denyRow(scope, principals, excluded, data, notData, more string) string {
	return fmt.Sprintf(`{"properties":{"scope":%q,"principals":[%s],"excludePrincipals":[%s],"permissions":[{"dataActions":[%s],"notDataActions":[%s]%s}]}}`, scope, principals, excluded, data, notData, more)
}

// Deny assignments win over every grant, and what can't be told of them makes the
// rights unknown.
func TestRightsDenied(t *testing.T) {
	const (
		all   = `{"id":"00000000-0000-0000-0000-000000000000","type":"SystemDefined"}`
		des   = `{"id":"` + desOID + `","type":"ServicePrincipal"}`
		group = `{"id":"` + groupOID + `","type":"Group"}`
		keys  = `"Microsoft.KeyVault/vaults/keys/*"`
		wrap  = `"Microsoft.KeyVault/vaults/keys/wrap/action"`
	)
	granted := cvm.Rights{DESIdentity: []string{"get", "unwrapkey", "wrapkey"}, Orchestrator: []string{"release"}}
	for _, tc := range []struct {
		name, rows string
		want       cvm.Rights
		unknown    bool
	}{
		{"none", "", granted, false},
		{"to everyone", denyRow("/subscriptions/"+subID, all, "", keys, "", ""), cvm.Rights{}, false},
		{"to everyone but one operation", denyRow(vaultID, all, "", keys, `"microsoft.keyvault/vaults/keys/READ"`, ""), cvm.Rights{DESIdentity: []string{"get"}}, false},
		{"to one", denyRow(vaultID, des, "", wrap, "", ""), cvm.Rights{DESIdentity: []string{"get", "unwrapkey"}, Orchestrator: []string{"release"}}, false},
		{"to everyone but it", denyRow("/", all, des, keys, "", ""), cvm.Rights{DESIdentity: granted.DESIdentity}, false},
		{"of other actions", denyRow("/", all, "", `"Microsoft.KeyVault/vaults/secrets/*"`, "", ""), granted, false},
		{"elsewhere", denyRow(vaultID+"/keys/other", all, "", keys, "", ""), granted, false},
		{"above alone", strings.Replace(denyRow(vaultID, all, "", keys, "", ""), `"scope"`, `"doNotApplyToChildScopes":true,"scope"`, 1), granted, false},
		{"to a group", denyRow(vaultID, group, "", wrap, "", ""), cvm.Rights{}, true},
		{"to a group, of other actions", denyRow(vaultID, group, "", `"Microsoft.KeyVault/vaults/keys/sign/action"`, "", ""), granted, false},
		{"to everyone but a group", denyRow(vaultID, all, group, wrap, "", ""), cvm.Rights{}, true},
		{"under a condition", denyRow(vaultID, des, "", wrap, "", `,"condition":"@Resource[x]"`), cvm.Rights{}, true},
	} {
		f := newFake(t)
		f.on(rbacList, byFilter(t, map[string][]string{"atScope()": {
			roleRow(desOID, "ServicePrincipal", roleEncryptionUser, vaultID, ""), roleRow(orchOID, "ServicePrincipal", roleReleaseUser, vaultID, ""),
		}}))
		f.on(denyList, jsonBody(200, `{"value":[`+tc.rows+`]}`))
		got, err := f.client().Rights(context.Background(), query(rbacVault, keyURL))
		if tc.unknown {
			if !fault.Is(err, fault.Blocked) {
				t.Errorf("%s: %+v, %v", tc.name, got, err)
			}
			continue
		}
		tc.want.Model, tc.want.OrchestratorKnown = "rbac", true
		if err != nil || !reflect.DeepEqual(normal(got), normal(tc.want)) {
			t.Errorf("%s: got %+v, %v\nwant %+v", tc.name, got, err, tc.want)
		}
	}
	f := newFake(t)
	f.on(rbacList, jsonBody(200, `{"value":[`+roleRow(desOID, "ServicePrincipal", roleEncryptionUser, vaultID, "")+`]}`))
	f.on(denyList, jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`))
	if _, err := f.client().Rights(context.Background(), query(rbacVault, keyURL)); fault.Action(err) != "Microsoft.Authorization/denyAssignments/read" {
		t.Error(err)
	}
}
