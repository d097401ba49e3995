package azuresim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"

	"cvmguard/internal/cvm"
)

// World-making. These methods put things into the simulated world as they would
// be found there; nothing of it is in the call log, and the refusals that a
// request would meet do not apply, so that a world may also be wrong.

// DefaultGroup is the resource group of specs that name none.
const DefaultGroup = "rg-cvm"

func (s *Sim) idOf(group, typ, name string) string {
	ns, t, _ := strings.Cut(typ, "/")
	return "/subscriptions/" + s.opt.Subscription + "/resourceGroups/" + orElse(group, DefaultGroup) + "/providers/" + ns + "/" + t + "/" + name
}

// VaultSpec is a key vault: by default Premium, RBAC, with soft delete and purge
// protection, behind a firewall that lets trusted services through.
type VaultSpec struct {
	Name, Group, Location string
	Standard              bool // SKU standard
	AccessPolicies        bool // the old permission model
	NoPurgeProtection     bool
	NoSoftDelete          bool
	NoBypass              bool // firewall without the exception for trusted services
}

// AddVault makes a key vault and gives its ARM id. Its host is
// <name>.vault.azure.net.
func (s *Sim) AddVault(v VaultSpec) string {
	sku := armkeyvault.SKUNamePremium
	if v.Standard {
		sku = armkeyvault.SKUNameStandard
	}
	bypass := armkeyvault.NetworkRuleBypassOptionsAzureServices
	if v.NoBypass {
		bypass = armkeyvault.NetworkRuleBypassOptionsNone
	}
	host := strings.ToLower(v.Name) + ".vault.azure.net"
	p := &armkeyvault.VaultProperties{
		SKU: &armkeyvault.SKU{Family: to.Ptr(armkeyvault.SKUFamilyA), Name: to.Ptr(sku)}, TenantID: to.Ptr(s.opt.Tenant),
		AccessPolicies: []*armkeyvault.AccessPolicyEntry{}, EnabledForDeployment: to.Ptr(false), EnabledForTemplateDeployment: to.Ptr(false),
		EnabledForDiskEncryption: to.Ptr(true), EnableSoftDelete: to.Ptr(!v.NoSoftDelete), SoftDeleteRetentionInDays: to.Ptr[int32](90),
		EnableRbacAuthorization: to.Ptr(!v.AccessPolicies), VaultURI: to.Ptr("https://" + host + "/"),
		ProvisioningState: to.Ptr(armkeyvault.VaultProvisioningStateSucceeded), PublicNetworkAccess: to.Ptr("Enabled"),
		NetworkACLs: &armkeyvault.NetworkRuleSet{
			Bypass: to.Ptr(bypass), DefaultAction: to.Ptr(armkeyvault.NetworkRuleActionDeny),
			IPRules: []*armkeyvault.IPRule{}, VirtualNetworkRules: []*armkeyvault.VirtualNetworkRule{},
		},
	}
	if !v.NoPurgeProtection {
		p.EnablePurgeProtection = to.Ptr(true) // never false: the service leaves it out
	}
	return s.addVault(host, false, s.idOf(v.Group, typeVault, v.Name), typeVault,
		toDoc(&armkeyvault.Vault{Location: to.Ptr(region(orElse(v.Location, s.opt.Location))), Tags: map[string]*string{}, Properties: p}))
}

// HSMSpec is a Managed HSM with purge protection.
type HSMSpec struct {
	Name, Group, Location string
	NoPurgeProtection     bool
}

// AddHSM makes a Managed HSM and gives its ARM id. Its host is
// <name>.managedhsm.azure.net. Nobody but AdminPrincipal has rights on its keys
// until GrantHSM: Azure roles do not reach in there.
func (s *Sim) AddHSM(h HSMSpec) string {
	host := strings.ToLower(h.Name) + ".managedhsm.azure.net"
	p := &armkeyvault.ManagedHsmProperties{
		TenantID: to.Ptr(s.opt.Tenant), InitialAdminObjectIDs: []*string{to.Ptr(guid("object", AdminPrincipal))}, HsmURI: to.Ptr("https://" + host + "/"),
		EnableSoftDelete: to.Ptr(true), SoftDeleteRetentionInDays: to.Ptr[int32](90), EnablePurgeProtection: to.Ptr(!h.NoPurgeProtection),
		ProvisioningState: to.Ptr(armkeyvault.ProvisioningStateSucceeded), StatusMessage: to.Ptr("The Managed HSM is provisioned and ready to use."),
		PublicNetworkAccess: to.Ptr(armkeyvault.PublicNetworkAccessEnabled), Regions: []*armkeyvault.MHSMGeoReplicatedRegion{},
		NetworkACLs: &armkeyvault.MHSMNetworkRuleSet{
			Bypass: to.Ptr(armkeyvault.NetworkRuleBypassOptionsAzureServices), DefaultAction: to.Ptr(armkeyvault.NetworkRuleActionDeny),
			IPRules: []*armkeyvault.MHSMIPRule{}, VirtualNetworkRules: []*armkeyvault.MHSMVirtualNetworkRule{},
		},
		SecurityDomainProperties: &armkeyvault.ManagedHSMSecurityDomainProperties{
			ActivationStatus: to.Ptr(armkeyvault.ActivationStatusActive), ActivationStatusMessage: to.Ptr("Your HSM has been activated."),
		},
	}
	return s.addVault(host, true, s.idOf(h.Group, typeHSM, h.Name), typeHSM, toDoc(&armkeyvault.ManagedHsm{
		Location: to.Ptr(region(orElse(h.Location, s.opt.Location))), Tags: map[string]*string{}, Properties: p,
		SKU: &armkeyvault.ManagedHsmSKU{Family: to.Ptr(armkeyvault.ManagedHsmSKUFamilyB), Name: to.Ptr(armkeyvault.ManagedHsmSKUNameStandardB1)},
	}))
}

func (s *Sim) addVault(host string, hsm bool, id, typ string, body doc) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.add(id, typ, body)
	s.vaults[host] = &vault{res: r, hsm: hsm, host: host, keys: map[string]*keyName{}}
	return id
}

// GrantHSM assigns one of a Managed HSM's own roles (by name or GUID) at "/",
// "/keys" or "/keys/<name>" to an object id.
func (s *Sim) GrantHSM(hsmName, scope, objectID, role string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var v *vault
	for _, domain := range hsmDomains {
		if found := s.vaults[strings.ToLower(hsmName)+"."+domain]; found != nil {
			v = found
		}
	}
	def := definitionIn(hsmRoles, role)
	if v == nil || def == nil {
		return fmt.Errorf("granting %q on Managed HSM %q: no such role or HSM", role, hsmName)
	}
	v.assign(guid("assignment", scope+objectID+def.id), scope, objectID, def.id)
	return nil
}

// GrantRole assigns an Azure role (by name or GUID) at a scope to an object id.
func (s *Sim) GrantRole(scope, objectID, role string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grantRole(scope, objectID, role)
}

func (s *Sim) grantRole(scope, objectID, role string) error {
	def := s.roleDefinition(role)
	if def == nil {
		return fmt.Errorf("granting %q: the simulator has no such role", role)
	}
	name := guid("assignment", scope+objectID+def.id)
	s.roles = append(s.roles, &roleAssignment{
		id: scope + "/providers/Microsoft.Authorization/roleAssignments/" + name, name: name, scope: scope, principal: objectID, role: def.id, kind: "ServicePrincipal",
	})
	return nil
}

// GrantPolicy adds an access policy entry to a vault of that model.
func (s *Sim) GrantPolicy(vaultName, objectID string, keys ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.vaults[strings.ToLower(vaultName)+".vault.azure.net"]
	if v == nil {
		return fmt.Errorf("granting on vault %q: there is none", vaultName)
	}
	v.addPolicy(s.opt.Tenant, objectID, keys)
	return nil
}

func (v *vault) addPolicy(tenant, objectID string, keys []string) {
	p := v.res.props()
	p["accessPolicies"] = append(anyList(p["accessPolicies"]), doc{"tenantId": tenant, "objectId": objectID,
		"permissions": doc{"keys": toAny(keys), "secrets": []any{}, "certificates": []any{}}})
}

// KeySpec is a key. The zero value of each field is a key that is fit for
// confidential VMs.
type KeySpec struct {
	Vault string // name of the vault or HSM, or its host
	Name  string

	Type          string   // "": RSA-HSM
	Bits          int      // 0: 3072
	Ops           []string // nil: wrapKey, unwrapKey
	NotExportable bool     // and no release policy
	Policy        string   // the release policy's JSON; "": one for the vault's region; "-": none
	RawPolicy     string   // release_policy.data as it stands, for policies that are not readable
	Immutable     bool
	Disabled      bool
	Expires       time.Time // zero: never
	NotBefore     time.Time
	Forbidden     bool // nobody but AdminPrincipal may read it
}

// AddKey makes a key, or a new version of it, and gives its versioned URL.
func (s *Sim) AddKey(k KeySpec) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.vaultNamed(k.Vault)
	if v == nil {
		return "", fmt.Errorf("adding key %q: there is no vault or HSM %q", k.Name, k.Vault)
	}
	q := keyRequest{Type: orElse(k.Type, "RSA-HSM"), Bits: k.Bits, Ops: k.Ops, Attr: doc{"enabled": !k.Disabled, "exportable": !k.NotExportable}}
	if q.Bits == 0 {
		q.Bits = 3072
	}
	if q.Ops == nil {
		q.Ops = []string{"wrapKey", "unwrapKey"}
	}
	if !k.Expires.IsZero() {
		q.Attr["exp"] = float64(k.Expires.Unix())
	}
	if !k.NotBefore.IsZero() {
		q.Attr["nbf"] = float64(k.NotBefore.Unix())
	}
	if !k.NotExportable && k.Policy != "-" {
		policy := k.Policy
		if policy == "" {
			p, err := GoodPolicy(v.res.location())
			if err != nil {
				return "", fmt.Errorf("adding key %q: %w", k.Name, err)
			}
			policy = p
		}
		q.Policy = doc{"data": base64.RawURLEncoding.EncodeToString([]byte(policy)), "immutable": k.Immutable}
	}
	kv := s.makeKey(v, k.Name, q)
	if k.RawPolicy != "" {
		kv.body["release_policy"] = doc{"contentType": "application/json; charset=utf-8", "data": k.RawPolicy, "immutable": k.Immutable}
	}
	v.keys[fold(k.Name)].forbids = k.Forbidden
	return str(kv.body, "key", "kid"), nil
}

func (s *Sim) vaultNamed(name string) *vault {
	name = strings.ToLower(name)
	for _, suffix := range []string{"", ".vault.azure.net", ".managedhsm.azure.net"} {
		if v := s.vaults[name+suffix]; v != nil {
			return v
		}
	}
	return nil
}

// GoodPolicy is a release policy for confidential VMs of both TEEs in the given
// regions.
func GoodPolicy(regions ...string) (string, error) {
	var branches []any
	for _, r := range regions {
		url, ok := cvm.AttestationProvider(r)
		if !ok {
			return "", fmt.Errorf("no shared attestation provider is known for region %q", r)
		}
		claim := func(name, value string) doc { return doc{"claim": name, "equals": value} }
		branches = append(branches, doc{"authority": strings.TrimRight(url, "/") + "/", "allOf": []any{
			claim("x-ms-compliance-status", "azure-compliant-cvm"),
			doc{"anyOf": []any{claim("x-ms-attestation-type", "tdxvm"), claim("x-ms-attestation-type", "sevsnpvm")}},
		}})
	}
	b, err := json.Marshal(doc{"version": "1.0.0", "anyOf": branches})
	if err != nil {
		return "", fmt.Errorf("writing a release policy: %w", err)
	}
	return string(b), nil
}

// DESSpec is a disk encryption set.
type DESSpec struct {
	Name, Group, Location string
	Key                   string // versioned URL
	Type                  string // "": the type for confidential VMs
	AutoRotation          bool
	NoGrants              bool // neither its identity nor the orchestrator gets rights on the key
}

// AddDES makes a disk encryption set with a system identity and, unless NoGrants,
// the rights of that identity and of the orchestrator on its key, in the vault's
// own model. It gives the ARM id.
func (s *Sim) AddDES(d DESSpec) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, k := s.keyByURL(d.Key)
	if k == nil {
		return "", fmt.Errorf("adding disk encryption set %q: there is no key %q", d.Name, d.Key)
	}
	id := s.idOf(d.Group, typeDES, d.Name)
	principal := guid("identity", fold(id))
	active := &armcompute.KeyForDiskEncryptionSet{KeyURL: to.Ptr(str(k.body, "key", "kid"))}
	if !v.hsm {
		active.SourceVault = &armcompute.SourceVault{ID: to.Ptr(v.res.id)}
	}
	r := s.add(id, typeDES, toDoc(&armcompute.DiskEncryptionSet{
		Location: to.Ptr(region(orElse(d.Location, v.res.location()))), Tags: map[string]*string{},
		Identity: &armcompute.EncryptionSetIdentity{
			Type: to.Ptr(armcompute.DiskEncryptionSetIdentityTypeSystemAssigned), PrincipalID: to.Ptr(principal), TenantID: to.Ptr(s.opt.Tenant),
		},
		Properties: &armcompute.EncryptionSetProperties{
			ActiveKey: active, EncryptionType: to.Ptr(armcompute.DiskEncryptionSetType(orElse(d.Type, confidentialDES))),
			PreviousKeys: []*armcompute.KeyForDiskEncryptionSet{}, RotationToLatestKeyVersionEnabled: to.Ptr(d.AutoRotation),
			ProvisioningState: to.Ptr("Succeeded"),
		},
	}))
	r.props()["lastKeyRotationTimestamp"] = stamp(s.now().Add(-48 * time.Hour))
	if d.NoGrants {
		return id, nil
	}
	return id, s.grantKey(v, k.name, principal)
}

// grantKey gives a set's identity and the orchestrator what they need of a key.
func (s *Sim) grantKey(v *vault, key, principal string) error {
	orchestrator := s.principals[OrchestratorPrincipal].ObjectID
	switch {
	case v.hsm:
		for _, g := range [][2]string{{principal, "Managed HSM Crypto Service Encryption User"}, {orchestrator, "Managed HSM Crypto Service Release User"}} {
			def, scope := definitionIn(hsmRoles, g[1]), "/keys/"+key
			if !slices.ContainsFunc(v.local, func(a *roleAssignment) bool { return a.principal == g[0] && a.scope == scope && a.role == def.id }) {
				v.assign(guid("assignment", v.host+scope+g[0]+def.id), scope, g[0], def.id)
			}
		}
		return nil
	case yes(v.res.props(), "enableRbacAuthorization"):
		if err := s.grantRole(v.res.id, principal, "Key Vault Crypto Service Encryption User"); err != nil {
			return err
		}
		if v.lacks(s, orchestrator, key, "release") == "" {
			return nil
		}
		return s.grantRole(v.res.id, orchestrator, "Key Vault Crypto Service Release User")
	default:
		v.addPolicy(s.opt.Tenant, principal, []string{"get", "wrapKey", "unwrapKey"})
		if v.lacks(s, orchestrator, key, "get", "release") != "" {
			v.addPolicy(s.opt.Tenant, orchestrator, []string{"get", "release"})
		}
		return nil
	}
}

// Orchestrator is the object id of the Confidential VM Orchestrator in this
// tenant.
func (s *Sim) Orchestrator() string { return guid("object", OrchestratorPrincipal) }
