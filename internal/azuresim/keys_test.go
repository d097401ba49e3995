package azuresim

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

func TestKeysAreReadByVersionAndNewest(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	c := keysOf(t, s, "kv-cvm.vault.azure.net", HandlerPrincipal)
	next := must[string](t)(s.NewKeyVersion(w.key))
	k, err := c.GetKey(ctx(t), "cvm-os-key", "", nil)
	ok(t, err)
	if string(*k.Key.KID) != next || !*k.Attributes.Exportable || *k.Key.Kty != azkeys.KeyTypeRSAHSM || len(k.Key.N) != 384 || len(k.ReleasePolicy.EncodedPolicy) == 0 {
		t.Fatalf("got %+v", k.KeyBundle)
	}
	k, err = c.GetKey(ctx(t), "CVM-OS-KEY", w.key[strings.LastIndex(w.key, "/")+1:], nil)
	ok(t, err)
	if string(*k.Key.KID) != w.key {
		t.Fatalf("got %s", *k.Key.KID)
	}
	n := 0
	for p := c.NewListKeyPropertiesVersionsPager("cvm-os-key", nil); p.More(); {
		page, err := p.NextPage(ctx(t))
		ok(t, err)
		n += len(page.Value)
	}
	if n != 2 {
		t.Fatalf("%d versions", n)
	}
	_, err = c.GetKey(ctx(t), "absent", "", nil)
	wantError(t, err, 404, "KeyNotFound")
	ok(t, s.DeleteKey(w.key))
	_, err = c.GetKey(ctx(t), "cvm-os-key", "", nil)
	wantError(t, err, 404, "KeyNotFound")
	_, err = c.GetDeletedKey(ctx(t), "cvm-os-key", nil)
	ok(t, err)
	_, err = c.RecoverDeletedKey(ctx(t), "cvm-os-key", nil)
	ok(t, err)
	hsm, err := keysOf(t, s, "hsm-cvm.managedhsm.azure.net", HandlerPrincipal).GetKey(ctx(t), "cvm-os-key", "", nil)
	ok(t, err)
	if string(*hsm.Key.KID) != w.hsmKey {
		t.Fatal(*hsm.Key.KID)
	}
}

func TestKeyBodiesAreShapedAsAzures(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	for url, name := range map[string]string{w.key: "key-good.json", w.hsmKey: "key-good-mhsm.json"} {
		_, _, got := call(t, s, HandlerPrincipal, "GET", url+"?api-version=2025-07-01", nil)
		sameShape(t, got, vector(t, name))
	}
}

func createParams(change func(*azkeys.CreateKeyParameters)) azkeys.CreateKeyParameters {
	policy, err := GoodPolicy("westeurope")
	if err != nil {
		panic(err)
	}
	p := azkeys.CreateKeyParameters{
		Kty: to.Ptr(azkeys.KeyTypeRSAHSM), KeySize: to.Ptr[int32](3072),
		KeyAttributes: &azkeys.KeyAttributes{Exportable: to.Ptr(true)},
		ReleasePolicy: &azkeys.KeyReleasePolicy{EncodedPolicy: []byte(policy)},
	}
	change(&p)
	return p
}

func TestKeyCreation(t *testing.T) {
	s := start(t, Options{})
	small(t, s)
	s.AddVault(VaultSpec{Name: "kv-std", Standard: true})
	premium := keysOf(t, s, "kv-cvm.vault.azure.net", HandlerPrincipal)
	k, err := premium.CreateKey(ctx(t), "new", createParams(func(*azkeys.CreateKeyParameters) {}), nil)
	ok(t, err)
	if *k.Attributes.RecoveryLevel != "Recoverable" || k.ReleasePolicy == nil || !*k.Attributes.Exportable {
		t.Fatalf("got %+v", k.KeyBundle)
	}
	for name, c := range map[string]struct {
		vault  string
		change func(*azkeys.CreateKeyParameters)
	}{
		"exportable software key":          {"kv-cvm", func(p *azkeys.CreateKeyParameters) { p.Kty = to.Ptr(azkeys.KeyTypeRSA) }},
		"exportable without a policy":      {"kv-cvm", func(p *azkeys.CreateKeyParameters) { p.ReleasePolicy = nil }},
		"policy without exportable":        {"kv-cvm", func(p *azkeys.CreateKeyParameters) { p.KeyAttributes = nil }},
		"a policy that is none":            {"kv-cvm", func(p *azkeys.CreateKeyParameters) { p.ReleasePolicy.EncodedPolicy = []byte("{}") }},
		"an odd size":                      {"kv-cvm", func(p *azkeys.CreateKeyParameters) { p.KeySize = to.Ptr[int32](1000) }},
		"hardware key in a standard vault": {"kv-std", func(*azkeys.CreateKeyParameters) {}},
	} {
		_, err := keysOf(t, s, c.vault+".vault.azure.net", HandlerPrincipal).CreateKey(ctx(t), "bad", createParams(c.change), nil)
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		wantError(t, err, 400, "BadParameter")
	}
}

func TestKeyUpdate(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	c := keysOf(t, s, "kv-cvm.vault.azure.net", HandlerPrincipal)
	version := func(url string) string { return url[strings.LastIndex(url, "/")+1:] }
	other, err := GoodPolicy("westeurope", "northeurope")
	ok(t, err)
	newPolicy := azkeys.UpdateKeyParameters{ReleasePolicy: &azkeys.KeyReleasePolicy{EncodedPolicy: []byte(other)}}
	k, err := c.UpdateKey(ctx(t), "cvm-os-key", version(w.key), newPolicy, nil)
	ok(t, err)
	if string(k.ReleasePolicy.EncodedPolicy) != other {
		t.Fatalf("the policy is %s", k.ReleasePolicy.EncodedPolicy)
	}
	frozen := must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "frozen", Immutable: true}))
	_, err = c.UpdateKey(ctx(t), "frozen", version(frozen), newPolicy, nil)
	wantError(t, err, 400, "BadParameter")
	_, err = c.UpdateKey(ctx(t), "data-key", "", newPolicy, nil)
	wantError(t, err, 400, "BadParameter")
	_, err = c.UpdateKey(ctx(t), "data-key", "", azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Exportable: to.Ptr(true)}}, nil)
	wantError(t, err, 400, "BadParameter")
	off, err := c.UpdateKey(ctx(t), "cvm-os-key", version(w.key), azkeys.UpdateKeyParameters{KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(false)}}, nil)
	ok(t, err)
	if *off.Attributes.Enabled {
		t.Fatal("still enabled")
	}
	if n := len(s.Writes(HandlerPrincipal)); n != 2 {
		t.Fatalf("%d accepted writes, want 2", n)
	}
}

func TestKeyRightsByModel(t *testing.T) {
	s := start(t, Options{Role: &Role{DataActions: []string{"Microsoft.KeyVault/vaults/keys/read"}}})
	small(t, s)
	s.AddVault(VaultSpec{Name: "kv-old", AccessPolicies: true})
	s.AddHSM(HSMSpec{Name: "hsm-closed"})
	must[string](t)(s.AddKey(KeySpec{Vault: "kv-old", Name: "k"}))
	must[string](t)(s.AddKey(KeySpec{Vault: "hsm-closed", Name: "k"}))
	must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "hidden", Forbidden: true}))
	h, _ := s.Principal(HandlerPrincipal)
	get := func(host, name string) (int, string, string) {
		t.Helper()
		status, _, body := call(t, s, HandlerPrincipal, "GET", "https://"+host+"/keys/"+name+"?api-version=2025-07-01", nil)
		return status, str(body, "error", "code"), str(body, "error", "innererror", "code")
	}
	for _, c := range []struct {
		host, name string
		status     int
		code       string
		inner      string
	}{
		{"kv-cvm.vault.azure.net", "cvm-os-key", 200, "", ""},
		{"kv-cvm.vault.azure.net", "hidden", 403, "Forbidden", "ForbiddenByRbac"},
		{"kv-old.vault.azure.net", "k", 403, "Forbidden", "AccessDenied"},
		{"hsm-closed.managedhsm.azure.net", "k", 403, "Forbidden", ""},
	} {
		if status, code, inner := get(c.host, c.name); status != c.status || code != c.code || inner != c.inner {
			t.Errorf("%s %s: %d %s %s", c.host, c.name, status, code, inner)
		}
	}
	ok(t, s.GrantPolicy("kv-old", h.ObjectID, "GET"))
	ok(t, s.GrantHSM("hsm-closed", "/keys/k", h.ObjectID, "Managed HSM Crypto Auditor"))
	for _, host := range []string{"kv-old.vault.azure.net", "hsm-closed.managedhsm.azure.net"} {
		if status, code, _ := get(host, "k"); status != 200 {
			t.Errorf("%s after the grant: %d %s", host, status, code)
		}
	}
	_, err := keysOf(t, s, "kv-cvm.vault.azure.net", HandlerPrincipal).CreateKey(ctx(t), "n", createParams(func(*azkeys.CreateKeyParameters) {}), nil)
	wantError(t, err, 403, "Forbidden")
	ok(t, s.GrantRole(s.idOf("", typeVault, "kv-cvm")+"/keys/n", h.ObjectID, "Key Vault Crypto Officer"))
	_, err = keysOf(t, s, "kv-cvm.vault.azure.net", HandlerPrincipal).CreateKey(ctx(t), "n", createParams(func(*azkeys.CreateKeyParameters) {}), nil)
	ok(t, err)
}

func TestHSMLocalRBAC(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	h, _ := s.Principal(HandlerPrincipal)
	const base = "https://hsm-cvm.managedhsm.azure.net"
	list := func(scope, filter string) []any {
		t.Helper()
		status, _, body := call(t, s, HandlerPrincipal, "GET", base+scope+"/providers/Microsoft.Authorization/roleAssignments?api-version=7.6&$filter="+strings.ReplaceAll(filter, " ", "%20"), nil)
		if status != 200 {
			t.Fatalf("%d %v", status, body)
		}
		return body["value"].([]any)
	}
	if n := len(list("/", "")); n != 3 { // the auditor, the set's identity, the orchestrator
		t.Fatalf("%d assignments in all", n)
	}
	if n := len(list("/keys/cvm-os-key", "principalId eq '"+s.Orchestrator()+"'")); n != 1 {
		t.Fatalf("%d of the orchestrator", n)
	}
	if n := len(list("", "atScope()")); n != 1 {
		t.Fatalf("%d at /", n)
	}
	grant := func(key string) (int, doc) {
		status, _, body := call(t, s, HandlerPrincipal, "PUT", base+"/keys/"+key+"/providers/Microsoft.Authorization/roleAssignments/"+guid("a", key)+"?api-version=7.6",
			doc{"properties": doc{"principalId": s.Orchestrator(), "roleDefinitionId": "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/21dbd100-6940-42c2-9190-5d6cb909625c"}})
		return status, body
	}
	if status, body := grant("other"); status != 403 {
		t.Fatalf("an auditor could grant: %d %v", status, body)
	}
	ok(t, s.GrantHSM("hsm-cvm", "/", h.ObjectID, "Managed HSM Policy Administrator"))
	if status, body := grant("other"); status != 201 || str(body, "properties", "scope") != "/keys/other" {
		t.Fatalf("%d %v", status, body)
	}
	if status, body := grant("cvm-os-key"); status != 409 || str(body, "error", "code") != "RoleAssignmentExists" {
		t.Fatalf("%d %v", status, body)
	}
	status, _, body := call(t, s, HandlerPrincipal, "GET", base+"/providers/Microsoft.Authorization/roleDefinitions?api-version=7.6", nil)
	if status != 200 || len(body["value"].([]any)) != len(hsmRoles) {
		t.Fatalf("%d %v", status, body)
	}
	if why := s.keyUnusable(w.hsmDES); why != "" {
		t.Fatal(why)
	}
}

func TestVaultsAndRoleAssignmentsByARM(t *testing.T) {
	s := start(t, Options{})
	small(t, s)
	s.AddVault(VaultSpec{Name: "kv-std", Standard: true, AccessPolicies: true, NoPurgeProtection: true})
	vault, hsm := s.idOf("", typeVault, "kv-cvm"), s.idOf("", typeHSM, "hsm-cvm")
	_, _, got := call(t, s, HandlerPrincipal, "GET", armURL(vault), nil)
	sameShape(t, got, vector(t, "vault-premium.json"))
	_, _, got = call(t, s, HandlerPrincipal, "GET", armURL(hsm), nil)
	sameShape(t, got, vector(t, "mhsm.json"))

	old := s.idOf("", typeVault, "kv-std")
	entry := func(keys ...string) doc {
		return doc{"properties": doc{"accessPolicies": []any{doc{"tenantId": s.Tenant(), "objectId": "o", "permissions": doc{"keys": toAny(keys), "secrets": []any{}, "certificates": []any{}}}}}}
	}
	url := strings.Replace(armURL(old), "?", "/accessPolicies/add?", 1)
	for _, keys := range [][]string{{"get", "wrapKey"}, {"unwrapKey", "get"}} {
		if status, _, body := call(t, s, HandlerPrincipal, "PUT", url, entry(keys...)); status != 200 {
			t.Fatalf("%d %v", status, body)
		}
	}
	_, _, got = call(t, s, HandlerPrincipal, "GET", armURL(old), nil)
	sameShape(t, got, vector(t, "vault-standard-accesspolicies.json"))
	if p := list(got, "properties", "accessPolicies"); len(p) != 1 || len(at(p[0], "permissions", "keys").([]any)) != 3 {
		t.Fatalf("policies %v", p)
	}
	if status, _, _ := call(t, s, HandlerPrincipal, "PATCH", armURL(vault), doc{"properties": doc{"enablePurgeProtection": false}}); status != 400 {
		t.Fatalf("purge protection went off: %d", status)
	}
	if status, _, _ := call(t, s, HandlerPrincipal, "PATCH", armURL(old), doc{"properties": doc{"enablePurgeProtection": true}}); status != 200 {
		t.Fatal(status)
	}

	scope := vault + "/keys/cvm-os-key"
	ra := "https://management.azure.com" + scope + "/providers/Microsoft.Authorization/roleAssignments"
	role := "/subscriptions/" + s.Subscription() + "/providers/Microsoft.Authorization/roleDefinitions/e147488a-f6f5-4113-8e2d-b22465e65bf6"
	body := doc{"properties": doc{"roleDefinitionId": role, "principalId": "p1", "principalType": "ServicePrincipal"}}
	for i, want := range []int{201, 409} {
		if status, _, b := call(t, s, HandlerPrincipal, "PUT", ra+"/"+guid("ra", string(rune('a'+i)))+"?api-version=2022-04-01", body); status != want {
			t.Fatalf("try %d: %d %v", i, status, b)
		}
	}
	for filter, want := range map[string]int{"": 4, "principalId%20eq%20'p1'": 1, "assignedTo('p1')": 1, "atScope()": 4} {
		status, _, b := call(t, s, HandlerPrincipal, "GET", ra+"?api-version=2022-04-01&$filter="+filter, nil)
		if status != 200 || len(b["value"].([]any)) != want {
			t.Errorf("filter %q: %d, %d assignments, want %d", filter, status, len(anyList(b["value"])), want)
		}
	}
	if status, _, b := call(t, s, HandlerPrincipal, "GET", "https://management.azure.com"+role+"?api-version=2022-04-01", nil); status != 200 || str(b, "properties", "roleName") != "Key Vault Crypto Service Encryption User" {
		t.Fatalf("%d %v", status, b)
	}
}

func TestReleasePolicyOfRawBytesIsServedAsItStands(t *testing.T) {
	s := start(t, Options{})
	small(t, s)
	url := must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "raw", RawPolicy: "not base64!", Expires: clock.Add(time.Hour)}))
	_, _, got := call(t, s, HandlerPrincipal, "GET", url+"?api-version=2025-07-01", nil)
	if str(got, "release_policy", "data") != "not base64!" {
		t.Fatal(got)
	}
	good, _ := s.keyByURL("https://kv-cvm.vault.azure.net/keys/raw")
	if good == nil {
		t.Fatal("no vault")
	}
	if _, err := base64.RawURLEncoding.DecodeString(str(got, "key", "n")); err != nil {
		t.Fatal(err)
	}
}
