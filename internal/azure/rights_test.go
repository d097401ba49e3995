package azure

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

var noStorage = config.Config{Cloud: config.Public}

func query(v cvm.Vault, key cvm.KeyID) cvm.RightsQuery {
	return cvm.RightsQuery{Vault: v, Key: key, DESPrincipal: desOID, Orchestrator: orchOID}
}

func roleRow(principal, kind, role, scope, condition string) string {
	return fmt.Sprintf(`{"properties":{"principalId":%q,"principalType":%q,"roleDefinitionId":"/subscriptions/%s/providers/Microsoft.Authorization/roleDefinitions/%s","scope":%q,"condition":%q}}`,
		principal, kind, subID, role, scope, condition)
}

const (
	customRole = "99999999-0000-4000-8000-000000000001"
	groupOID   = "00000000-0000-4000-8000-0000000000e1"
	adminOID   = "00000000-0000-4000-8000-0000000000e2"
	rbacList   = "GET " + armHost + vaultID + "/keys/cvm-os-key/providers/Microsoft.Authorization/roleAssignments"
	denyList   = "GET " + armHost + vaultID + "/keys/cvm-os-key/providers/Microsoft.Authorization/denyAssignments"
	roleDef    = "GET " + armHost + "/subscriptions/" + subID + "/providers/Microsoft.Authorization/roleDefinitions/" + customRole
)

var rbacVault = cvm.Vault{ID: vaultID, Name: "kv-cvm", Host: "kv-cvm.vault.azure.net", RBAC: cvm.True}

// byFilter answers by what $filter asks for.
func byFilter(t *testing.T, m map[string][]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rows, ok := m[r.URL.Query().Get("$filter")]
		if !ok {
			t.Errorf("asked with the filter %q", r.URL.Query().Get("$filter"))
		}
		jsonBody(200, `{"value":[`+strings.Join(rows, ",")+`]}`)(w, r)
	}
}

func TestRightsRBAC(t *testing.T) {
	keyAt := vaultID + "/keys/cvm-os-key"
	for _, tc := range []struct {
		name  string
		rows  map[string][]string
		want  cvm.Rights
		calls int // reads of assignments and definitions
	}{
		{"granted at the key, above, and by a custom role", map[string][]string{"atScope()": {
			roleRow(desOID, "ServicePrincipal", roleEncryptionUser, keyAt, ""),
			roleRow(orchOID, "ServicePrincipal", roleReleaseUser, "/subscriptions/"+subID, ""),
			roleRow(adminOID, "User", customRole, "/", ""),
			roleRow(adminOID, "User", "b24988ac-6180-42a0-ab88-20f7382dd24c", "/subscriptions/"+subID, ""),
		}}, cvm.Rights{DESIdentity: []string{"get", "unwrapkey", "wrapkey"}, Orchestrator: []string{"release"}, OtherUnwrap: []string{adminOID}}, 3},
		{"through a group", map[string][]string{
			"atScope()": {roleRow(orchOID, "ServicePrincipal", roleReleaseUser, keyAt, ""), roleRow(groupOID, "Group", roleEncryptionUser, vaultID, "")},
			"assignedTo('" + desOID + "')": {
				roleRow(groupOID, "Group", roleEncryptionUser, vaultID, ""),
				roleRow(adminOID, "User", roleReleaseUser, vaultID, ""),                     // an answer that wasn't asked for counts for nothing
				roleRow(desOID, "ServicePrincipal", roleReleaseUser, vaultID+"/keys/x", ""), // another key
			},
		}, cvm.Rights{DESIdentity: []string{"get", "unwrapkey", "wrapkey"}, Orchestrator: []string{"release"}, OtherUnwrap: []string{groupOID}}, 3},
		{"nothing", map[string][]string{"atScope()": nil, "assignedTo('" + desOID + "')": nil, "assignedTo('" + orchOID + "')": nil}, cvm.Rights{}, 3},
		{"a condition on what is given without one too", map[string][]string{"atScope()": {
			roleRow(desOID, "ServicePrincipal", roleEncryptionUser, keyAt, "@Resource[x]"), roleRow(desOID, "ServicePrincipal", roleEncryptionUser, vaultID, ""),
			roleRow(orchOID, "ServicePrincipal", roleReleaseUser, keyAt, ""), roleRow(orchOID, "ServicePrincipal", roleEncryptionUser, keyAt, "@Resource[x]"),
		}}, cvm.Rights{DESIdentity: []string{"get", "unwrapkey", "wrapkey"}, Orchestrator: []string{"release"}, OtherUnwrap: []string{orchOID}}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t)
			f.on(rbacList, byFilter(t, tc.rows))
			f.on(denyList, jsonBody(200, `{"value":[]}`))
			f.on(roleDef, jsonBody(200, `{"properties":{"permissions":[{"dataActions":["Microsoft.KeyVault/vaults/keys/*"],"notDataActions":["Microsoft.KeyVault/vaults/keys/release/action"]}]}}`))
			c := f.client()
			got, err := c.Rights(context.Background(), query(rbacVault, keyURL))
			tc.want.Model, tc.want.OrchestratorKnown = "rbac", true
			if err != nil || !reflect.DeepEqual(normal(got), normal(tc.want)) {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tc.want)
			}
			if n := len(f.seen()); n != tc.calls {
				t.Errorf("%d calls, want %d: %v", n, tc.calls, f.seen())
			}
		})
	}
}

// A condition isn't evaluated: what hangs on one alone is neither given nor missing.
func TestRightsConditional(t *testing.T) {
	role := func(principal, kind, id string) string { return roleRow(principal, kind, id, vaultID, "@Resource[x]") }
	orch := roleRow(orchOID, "ServicePrincipal", roleReleaseUser, vaultID, "")
	for name, rows := range map[string]map[string][]string{
		"its own":        {"atScope()": {role(desOID, "ServicePrincipal", roleEncryptionUser), orch}, "assignedTo('" + desOID + "')": nil},
		"a group's":      {"atScope()": {orch}, "assignedTo('" + desOID + "')": {role(groupOID, "Group", roleEncryptionUser)}},
		"the platform's": {"atScope()": {roleRow(desOID, "ServicePrincipal", roleEncryptionUser, vaultID, ""), role(orchOID, "ServicePrincipal", roleReleaseUser)}, "assignedTo('" + orchOID + "')": nil},
	} {
		f := newFake(t)
		f.on(rbacList, byFilter(t, rows))
		if got, err := f.client().Rights(context.Background(), query(rbacVault, keyURL)); !fault.Is(err, fault.Blocked) || fault.Code(err) != "RoleAssignmentNotEvaluated" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// normal makes empty lists equal.
func normal(r cvm.Rights) cvm.Rights {
	for _, l := range []*[]string{&r.DESIdentity, &r.Orchestrator, &r.OtherUnwrap} {
		if len(*l) == 0 {
			*l = nil
		}
	}
	return r
}

func TestRightsUnreadable(t *testing.T) {
	f := newFake(t)
	denied := jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`)
	f.on(rbacList, denied)
	c := f.client()
	if _, err := c.Rights(context.Background(), query(rbacVault, keyURL)); fault.Action(err) != "Microsoft.Authorization/roleAssignments/read" {
		t.Error(err)
	}
	f.on(rbacList, jsonBody(200, `{"value":[`+roleRow(adminOID, "User", customRole, "/", "")+`]}`))
	f.on(roleDef, denied)
	if _, err := c.Rights(context.Background(), query(rbacVault, keyURL)); fault.Action(err) != "Microsoft.Authorization/roleDefinitions/read" {
		t.Error(err)
	}
}

func TestRightsCached(t *testing.T) {
	f := newFake(t)
	f.on(rbacList, byFilter(t, map[string][]string{"atScope()": {
		roleRow(desOID, "ServicePrincipal", roleEncryptionUser, "/", ""), roleRow(orchOID, "ServicePrincipal", roleReleaseUser, "/", ""),
	}}))
	f.on(denyList, jsonBody(200, `{"value":[]}`))
	f.on("PUT "+armHost+vaultID+"/keys/cvm-os-key/providers/Microsoft.Authorization/roleAssignments/"+assignmentName(vaultID+"/keys/cvm-os-key", desOID, roleEncryptionUser), jsonBody(201, `{}`))
	c := f.client()
	r := c.Reader(time.Minute)
	ctx := context.Background()
	for i, want := range []int{2, 2, 4} {
		if _, err := r.Rights(ctx, query(rbacVault, keyURL), i == 2); err != nil {
			t.Fatal(err)
		}
		if n := len(f.seen()); n != want {
			t.Errorf("look %d: %d calls, want %d", i, n, want)
		}
	}
	if err := c.GrantKey(ctx, cvm.Grant{Vault: rbacVault, Key: keyURL, Principal: desOID, For: "des"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rights(ctx, query(rbacVault, keyURL), false); err != nil {
		t.Fatal(err)
	}
	if n := len(f.seen()); n != 7 {
		t.Errorf("after a grant: %d calls, want 7", n)
	}
}

func TestRightsPolicies(t *testing.T) {
	v := cvm.Vault{ID: vaultID, AccessPolicies: []cvm.AccessPolicy{
		{ObjectID: strings.ToUpper(desOID), Keys: []string{"Get", "wrapkey", "unwrapKey", "list"}},
		{ObjectID: orchOID, Keys: []string{"all"}}, {ObjectID: adminOID, Keys: []string{"unwrapkey"}}, {ObjectID: groupOID, Keys: []string{"list"}},
		{ObjectID: desOID, ApplicationID: groupOID, Keys: []string{"release"}}, // of an application that acts for it
	}}
	got, err := New(noStorage, nil).Rights(context.Background(), query(v, keyURL))
	want := cvm.Rights{Model: "access-policies", OrchestratorKnown: true, DESIdentity: []string{"get", "unwrapkey", "wrapkey"},
		Orchestrator: []string{"get", "release", "unwrapkey", "wrapkey"}, OtherUnwrap: []string{orchOID, adminOID}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

var theHSM = cvm.Vault{ID: hsmID, Name: "hsm-cvm", Host: "hsm-cvm.managedhsm.azure.net", HSM: true}

const hsmBase = "hsm-cvm.managedhsm.azure.net//keys/cvm-os-key/providers/Microsoft.Authorization/roleAssignments"

func TestRightsHSM(t *testing.T) {
	f := newFake(t)
	row := func(principal, role, scope string) string {
		return fmt.Sprintf(`{"properties":{"principalId":%q,"roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/%s","scope":%q}}`, principal, role, scope)
	}
	f.on("GET "+hsmBase, answers(
		jsonBody(200, `{"value":[`+row(desOID, roleHSMEncryptionUser, "/keys/cvm-os-key")+`],"nextLink":"https://hsm-cvm.managedhsm.azure.net/next"}`),
		jsonBody(200, `{"value":[],"nextLink":"https://evil.example.net/next"}`)))
	f.on("GET hsm-cvm.managedhsm.azure.net/next", jsonBody(200, `{"value":[`+row(orchOID, roleHSMReleaseUser, "/keys")+`,`+row(adminOID, customRole, "/")+`,`+row(groupOID, "of-another-key", "/keys/other")+`]}`))
	f.on("GET hsm-cvm.managedhsm.azure.net//providers/Microsoft.Authorization/roleDefinitions", jsonBody(200,
		`{"value":[{"name":"other"}],"nextLink":"https://HSM-cvm.managedhsm.azure.net:443/roles"}`))
	f.on("GET hsm-cvm.managedhsm.azure.net:443/roles", jsonBody(200,
		`{"value":[{"name":"`+customRole+`","properties":{"permissions":[{"dataActions":["Microsoft.KeyVault/managedHsm/keys/unwrap/action"]}]}}]}`))
	c := f.client()
	got, err := c.Rights(context.Background(), query(theHSM, hsmKey))
	want := cvm.Rights{Model: "hsm-local", OrchestratorKnown: true, DESIdentity: []string{"get", "unwrapkey", "wrapkey"}, Orchestrator: []string{"release"}, OtherUnwrap: []string{adminOID}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := c.Rights(context.Background(), query(theHSM, hsmKey)); !fault.Is(err, fault.Blocked) {
		t.Errorf("a next page elsewhere: %v", err)
	}
}

func TestGrants(t *testing.T) {
	f := newFake(t)
	ctx := context.Background()
	c := f.client()
	put := func(v cvm.Vault, base, role, principal string) string {
		scope := keyScope(v, cvm.KeyID(keyURL))
		if v.HSM {
			scope = v.Host + "/keys/cvm-os-key"
		}
		return "PUT " + base + "/" + assignmentName(scope, principal, role)
	}
	exists := jsonBody(409, `{"error":{"code":"RoleAssignmentExists","message":"The role assignment already exists."}}`)
	for _, tc := range []struct {
		name, call string
		grant      cvm.Grant
		body       string
	}{
		{"rbac, des", put(rbacVault, strings.TrimPrefix(rbacList, "GET "), roleEncryptionUser, desOID), cvm.Grant{Vault: rbacVault, Key: keyURL, Principal: desOID, For: "des"},
			`{"properties":{"principalId":"` + desOID + `","principalType":"ServicePrincipal","roleDefinitionId":"/subscriptions/` + subID + `/providers/Microsoft.Authorization/roleDefinitions/` + roleEncryptionUser + `"}}`},
		{"rbac, orchestrator", put(rbacVault, strings.TrimPrefix(rbacList, "GET "), roleReleaseUser, orchOID), cvm.Grant{Vault: rbacVault, Key: keyURL, Principal: orchOID, For: "orchestrator"},
			`{"properties":{"principalId":"` + orchOID + `","principalType":"ServicePrincipal","roleDefinitionId":"/subscriptions/` + subID + `/providers/Microsoft.Authorization/roleDefinitions/` + roleReleaseUser + `"}}`},
		{"hsm, des", put(theHSM, hsmBase, roleHSMEncryptionUser, desOID), cvm.Grant{Vault: theHSM, Key: hsmKey, Principal: desOID, For: "des"},
			`{"properties":{"principalId":"` + desOID + `","roleDefinitionId":"Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/` + roleHSMEncryptionUser + `"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.on(tc.call, answers(jsonBody(201, `{}`), exists))
			for range 2 { // doing it twice is doing it once
				if err := c.GrantKey(ctx, tc.grant); err != nil {
					t.Fatal(err, f.seen())
				}
			}
			if f.lastBody() != tc.body {
				t.Errorf("sent %s", f.lastBody())
			}
		})
	}
	t.Run("access policy", func(t *testing.T) {
		std := group + "Microsoft.KeyVault/vaults/kv-std"
		f.on("GET "+armHost+std, jsonBody(200, string(vector(t, "vault-standard-accesspolicies.json"))))
		f.on("PUT "+armHost+std+"/accessPolicies/add", jsonBody(200, `{}`))
		key := cvm.KeyID("https://kv-std.vault.azure.net/keys/k")
		if err := c.GrantKey(ctx, cvm.Grant{Vault: cvm.Vault{ID: std}, Key: key, Principal: orchOID, For: "orchestrator"}); err != nil {
			t.Fatal(err)
		}
		if want := `{"properties":{"accessPolicies":[{"objectId":"` + orchOID + `","permissions":{"keys":["get","release"]},"tenantId":"00000000-0000-0000-0000-0000000000aa"}]}}`; f.lastBody() != want {
			t.Errorf("sent %s", f.lastBody())
		}
	})
	t.Run("refusals", func(t *testing.T) {
		f.on(put(rbacVault, strings.TrimPrefix(rbacList, "GET "), roleEncryptionUser, groupOID), jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`))
		err := c.GrantKey(ctx, cvm.Grant{Vault: rbacVault, Key: keyURL, Principal: groupOID, For: "des"})
		if !fault.Is(err, fault.Denied) || fault.Action(err) != "Microsoft.Authorization/roleAssignments/write" {
			t.Error(err)
		}
		n := len(f.seen())
		for _, g := range []cvm.Grant{{Vault: rbacVault, Key: keyURL, For: "des"}, {Vault: rbacVault, Key: keyURL, Principal: desOID, For: "me"}, {Vault: rbacVault, Key: "https://x/keys/k", Principal: desOID, For: "des"}} {
			if err := c.GrantKey(ctx, g); !fault.Is(err, fault.Invalid) {
				t.Error(err)
			}
		}
		if len(f.seen()) != n {
			t.Error("an invalid grant was sent")
		}
	})
}

func TestAssignmentName(t *testing.T) {
	a := assignmentName("/Sub/X", "P", "R")
	if a != assignmentName("/sub/x/", "p", "r") || a == assignmentName("/sub/y", "p", "r") || len(a) != 36 || a[14] != '5' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Error(a)
	}
}

func TestWildcard(t *testing.T) {
	for _, tc := range []struct {
		p, s string
		want bool
	}{{"*", "a/b", true}, {"a/*", "a/b/c", true}, {"a/*/c", "a/b/c", true}, {"a/*/c", "a/c", false}, {"a/b", "a/b", true}, {"a/b", "a/bc", false}, {"*/read", "x/read", true}, {"a*b*c", "aXbYc", true}, {"a*b*c", "acb", false}, {"", "a", false}} {
		if got := wildcard(tc.p, tc.s); got != tc.want {
			t.Errorf("%q on %q: %v", tc.p, tc.s, got)
		}
	}
}
