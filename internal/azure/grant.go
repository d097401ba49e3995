package azure

import (
	"context"
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// GrantKey gives a principal what it needs of one key, by the vault's model: a
// role assignment at the key's scope, an access policy added to the vault's, or a
// managed HSM's local role at the key. Doing it twice is doing it once: role
// assignments have a name made from what they say.
func (c *Client) GrantKey(ctx context.Context, g cvm.Grant) error {
	k := call{op: "granting rights on key", object: string(g.Key)}
	key, err := c.keyURL(k, g.Key)
	if err != nil {
		return err
	}
	if g.Principal == "" || (g.For != "des" && g.For != "orchestrator") {
		return fault.New(fault.Invalid, k.op, k.object, "a grant needs a principal and is for %q or %q, not %q", "des", "orchestrator", g.For)
	}
	switch rightsModel(g.Vault) {
	case modelLocal:
		err = c.grantLocal(ctx, k, key, g)
	case modelRBAC:
		err = c.grantRole(ctx, k, key, g)
	default:
		err = c.grantPolicy(ctx, k, g)
	}
	c.listeners.changed(string(key))
	c.listeners.changed(g.Vault.ID)
	if fault.Code(err) == "RoleAssignmentExists" {
		return nil
	}
	return err
}

func (c *Client) grantRole(ctx context.Context, k call, key cvm.KeyID, g cvm.Grant) error {
	k.action = "Microsoft.Authorization/roleAssignments/write"
	at, err := placeOf(cvm.VaultID(g.Vault.ID), cvm.ParseVaultID)
	if err != nil {
		return err
	}
	cl, err := c.roleAssigns.get(at.sub)
	if err != nil {
		return k.fault(err)
	}
	role := roleEncryptionUser
	if g.For == "orchestrator" {
		role = roleReleaseUser
	}
	scope := keyScope(g.Vault, key)
	_, err = cl.Create(once(ctx), scope, assignmentName(scope, g.Principal, role), armauthorization.RoleAssignmentCreateParameters{
		Properties: &armauthorization.RoleAssignmentProperties{
			PrincipalID:      &g.Principal,
			RoleDefinitionID: to.Ptr("/subscriptions/" + at.sub + "/providers/Microsoft.Authorization/roleDefinitions/" + role),
			// Named, so that a principal which is new in the directory isn't looked up.
			PrincipalType: to.Ptr(armauthorization.PrincipalTypeServicePrincipal),
		},
	}, nil)
	return k.fault(err)
}

func (c *Client) grantLocal(ctx context.Context, k call, key cvm.KeyID, g cvm.Grant) error {
	k.action = "Microsoft.KeyVault/managedHsm/roleAssignments/write/action"
	role := roleHSMEncryptionUser
	if g.For == "orchestrator" {
		role = roleHSMReleaseUser
	}
	scope := "/keys/" + key.KeyName()
	var body localAssignment
	body.Properties.PrincipalID = g.Principal
	body.Properties.RoleDefinitionID = "Microsoft.KeyVault/providers/Microsoft.Authorization/roleDefinitions/" + role
	name := assignmentName(key.Host()+scope, g.Principal, role)
	return c.local(once(ctx), k, http.MethodPut, key.Host(), localURL(key.Host(), scope, "roleAssignments", name, ""), body, nil)
}

// grantPolicy adds to the vault's access policies; the service merges and leaves
// those of others as they are.
func (c *Client) grantPolicy(ctx context.Context, k call, g cvm.Grant) error {
	at, err := placeOf(cvm.VaultID(g.Vault.ID), cvm.ParseVaultID)
	if err != nil {
		return err
	}
	// A policy names the vault's tenant, which only the vault itself tells.
	body, err := c.vaultBody(ctx, k, cvm.VaultID(g.Vault.ID))
	if err != nil {
		return err
	}
	var v struct{ Properties struct{ TenantID string } }
	if err := json.Unmarshal(body, &v); err != nil || v.Properties.TenantID == "" {
		return fault.New(fault.Transient, k.op, k.object, "the vault doesn't say its tenant")
	}
	perms := []*armkeyvault.KeyPermissions{to.Ptr(armkeyvault.KeyPermissionsGet), to.Ptr(armkeyvault.KeyPermissionsWrapKey), to.Ptr(armkeyvault.KeyPermissionsUnwrapKey)}
	if g.For == "orchestrator" {
		perms = []*armkeyvault.KeyPermissions{to.Ptr(armkeyvault.KeyPermissionsGet), to.Ptr(armkeyvault.KeyPermissionsRelease)}
	}
	k.action = typeVault + "/accessPolicies/write"
	cl, err := c.vaults.get(at.sub)
	if err != nil {
		return k.fault(err)
	}
	_, err = cl.UpdateAccessPolicy(once(ctx), at.group, at.name, armkeyvault.AccessPolicyUpdateKindAdd, armkeyvault.VaultAccessPolicyParameters{
		Properties: &armkeyvault.VaultAccessPolicyProperties{AccessPolicies: []*armkeyvault.AccessPolicyEntry{{
			ObjectID: &g.Principal, TenantID: &v.Properties.TenantID, Permissions: &armkeyvault.Permissions{Keys: perms},
		}}},
	}, nil)
	return k.fault(err)
}

// assignmentNamespace makes our assignments' names differ from other programs'
// over the same three texts.
var assignmentNamespace = [16]byte{0x6b, 0x1f, 0x0c, 0x5e, 0x93, 0x4d, 0x4b, 0x2a, 0x8f, 0x27, 0x51, 0xd8, 0x0e, 0x7a, 0xc4, 0x63}

// assignmentName is a version 5 UUID (RFC 9562) over scope, principal and role.
func assignmentName(scope, principal, role string) string {
	h := sha1.New()
	h.Write(assignmentNamespace[:])
	fmt.Fprintf(h, "%s|%s|%s", fold(scope), fold(principal), fold(role))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
