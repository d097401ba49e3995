package cvm

import (
	"slices"
	"strings"
	"time"
)

// Tri is a boolean that ARM may leave out.
type Tri string

// The three values of a Tri; the zero value is Unread.
const (
	Unread Tri = ""
	True   Tri = "true"
	False  Tri = "false"
)

// VM is a virtual machine as ARM shows it (Microsoft.Compute/virtualMachines
// with $expand=instanceView, API 2026-04-01). Texts are kept as read; compare
// without regard to case.
type VM struct {
	ID                VMID              `json:"id"`
	Name              string            `json:"name"`
	Location          string            `json:"location"` // lower case, no spaces
	UniqueID          string            `json:"vmId"`     // properties.vmId
	ETag              string            `json:"etag,omitempty"`
	Tags              map[string]string `json:"tags,omitempty"`
	Zones             []string          `json:"zones,omitempty"`
	Size              string            `json:"size"`
	SizeTEE           TEE               `json:"sizeTee,omitempty"` // what Resource SKUs say of the size; "" where they weren't read
	ProvisioningState string            `json:"provisioningState"`
	SecurityType      string            `json:"securityType,omitempty"` // as read; "" when absent
	SecureBoot        Tri               `json:"secureBoot,omitempty"`
	VTPM              Tri               `json:"vTpm,omitempty"`
	Generation        string            `json:"generation,omitempty"` // V1, V2, "" unread (instanceView)
	EncryptionAtHost  Tri               `json:"encryptionAtHost,omitempty"`
	OS                string            `json:"os,omitempty"` // Linux, Windows
	Image             Image             `json:"image,omitzero"`
	OSDisk            OSDiskRef         `json:"osDisk"`
	DataDisks         []DataDiskRef     `json:"dataDisks,omitempty"`
	ScaleSet          string            `json:"scaleSet,omitempty"`
	PrincipalID       string            `json:"principalId,omitempty"` // system identity
	InstanceView      bool              `json:"instanceView"`          // whether it was read with one
	Power             string            `json:"power,omitempty"`       // running, deallocated, stopped, starting …
	AgentReady        Tri               `json:"agentReady,omitempty"`
	AgentVersion      string            `json:"agentVersion,omitempty"`
	Extensions        []Extension       `json:"extensions,omitempty"`
	TimeCreated       time.Time         `json:"timeCreated,omitzero"`
}

// Image is where the OS disk came from.
type Image struct {
	ID        string `json:"id,omitempty"`
	Publisher string `json:"publisher,omitempty"`
	Offer     string `json:"offer,omitempty"`
	SKU       string `json:"sku,omitempty"`
	Version   string `json:"version,omitempty"`
}

// OSDiskRef is storageProfile.osDisk. The two disk encryption sets are different
// fields with different meanings.
type OSDiskRef struct {
	ID                     DiskID `json:"id"`
	Name                   string `json:"name,omitempty"`
	SecurityEncryptionType string `json:"securityEncryptionType,omitempty"`
	SecureDES              DESID  `json:"secureDES,omitempty"` // managedDisk.securityProfile.diskEncryptionSet: the confidential one
	SSEDES                 DESID  `json:"sseDES,omitempty"`    // managedDisk.diskEncryptionSet: server-side encryption
	Ephemeral              bool   `json:"ephemeral,omitempty"`
	CreateOption           string `json:"createOption,omitempty"`
}

// DataDiskRef is one element of storageProfile.dataDisks.
type DataDiskRef struct {
	LUN                    int    `json:"lun"`
	ID                     DiskID `json:"id"`
	Name                   string `json:"name,omitempty"`
	SecurityEncryptionType string `json:"securityEncryptionType,omitempty"`
	SecureDES              DESID  `json:"secureDES,omitempty"`
	SSEDES                 DESID  `json:"sseDES,omitempty"`
}

// Extension is a VM extension: the resource's state and the handler's.
type Extension struct {
	Name              string `json:"name"`
	Publisher         string `json:"publisher"`
	Type              string `json:"type"`
	Version           string `json:"version,omitempty"`
	ProvisioningState string `json:"provisioningState,omitempty"`
	HandlerStatus     string `json:"handlerStatus,omitempty"` // vmAgent.extensionHandlers[].status.displayStatus, "" unread
}

// Orphaned says whether a disk is a confidential OS disk that nobody holds: what is
// on it can be had only by who makes a VM of it.
func (d Disk) Orphaned() bool {
	return strings.HasPrefix(strings.ToLower(d.SecurityType), "confidentialvm_") && strings.EqualFold(d.State, "Unattached") && d.ManagedBy == ""
}

// Disk is a managed disk (API 2026-03-02).
type Disk struct {
	ID                         DiskID            `json:"id"`
	Name                       string            `json:"name"`
	Location                   string            `json:"location"`
	Tags                       map[string]string `json:"tags,omitempty"`
	ManagedBy                  string            `json:"managedBy,omitempty"`
	ProvisioningState          string            `json:"provisioningState,omitempty"`
	State                      string            `json:"diskState,omitempty"`
	SecurityType               string            `json:"securityType,omitempty"` // properties.securityProfile.securityType
	HasSecurityProfile         bool              `json:"hasSecurityProfile"`
	SecureDES                  DESID             `json:"secureDES,omitempty"`             // secureVMDiskEncryptionSetId
	ConfidentialVersion        string            `json:"confidentialVMVersion,omitempty"` // V1, V2, "" unread
	EncryptionType             string            `json:"encryptionType,omitempty"`
	SSEDES                     DESID             `json:"sseDES,omitempty"`     // encryption.diskEncryptionSetId
	ADE                        bool              `json:"ade,omitempty"`        // encryptionSettingsCollection.enabled
	ADETainted                 bool              `json:"adeTainted,omitempty"` // encryptionSettingsCollection present at all
	Generation                 string            `json:"generation,omitempty"`
	CreateOption               string            `json:"createOption,omitempty"`
	ImageID                    string            `json:"imageId,omitempty"`
	NetworkAccessPolicy        string            `json:"networkAccessPolicy,omitempty"`
	OSType                     string            `json:"osType,omitempty"`
	DataSecurityEncryptionType string            `json:"dataSecurityEncryptionType,omitempty"`
	MaxShares                  int               `json:"maxShares,omitempty"` // how many VMs may have it at once, 0 unread
	Holders                    []string          `json:"holders,omitempty"`   // of a shared disk, the VMs that have it
}

// Shared says whether more VMs than one may have the disk at once. All of them must
// be down for its encryption to be changed.
func (d Disk) Shared() bool { return d.MaxShares > 1 || len(d.Holders) > 1 }

// Users are the ids of all VMs that have the disk, each once: its manager's first,
// then those that share it.
func (d Disk) Users() []string {
	var out []string
	for _, id := range append([]string{d.ManagedBy}, d.Holders...) {
		if id != "" && !slices.ContainsFunc(out, func(have string) bool { return strings.EqualFold(have, id) }) {
			out = append(out, id)
		}
	}
	return out
}

// The disk encryption set types (note Vm, not VM).
const (
	DESTypeSSE          = "EncryptionAtRestWithCustomerKey"
	DESTypeDouble       = "EncryptionAtRestWithPlatformAndCustomerKeys"
	DESTypeConfidential = "ConfidentialVmEncryptedWithCustomerKey"
)

// DES is a disk encryption set.
type DES struct {
	ID                DESID     `json:"id"`
	Name              string    `json:"name"`
	Location          string    `json:"location"`
	Type              string    `json:"encryptionType"` // absent on the wire means DESTypeSSE
	KeyURL            string    `json:"keyUrl"`         // as read
	SourceVault       string    `json:"sourceVault,omitempty"`
	PreviousKeys      int       `json:"previousKeys,omitempty"`
	AutoRotation      bool      `json:"autoRotation,omitempty"`
	RotationError     string    `json:"rotationError,omitempty"` // autoKeyRotationError.code
	LastRotation      time.Time `json:"lastRotation,omitzero"`
	ProvisioningState string    `json:"provisioningState,omitempty"`
	IdentityType      string    `json:"identityType,omitempty"` // "", None, SystemAssigned, UserAssigned, …
	PrincipalID       string    `json:"principalId,omitempty"`
	FederatedClientID string    `json:"federatedClientId,omitempty"`
}

// Key is one key version as the key plane shows it (7.6, 2025-07-01).
type Key struct {
	ID             KeyID         `json:"kid"` // with version
	Type           string        `json:"kty"`
	Bits           int           `json:"bits,omitempty"` // modulus size, 0 if there is no modulus
	Ops            []string      `json:"key_ops,omitempty"`
	Enabled        Tri           `json:"enabled,omitempty"`
	Exportable     Tri           `json:"exportable,omitempty"`
	NotBefore      time.Time     `json:"nbf,omitzero"`
	Expires        time.Time     `json:"exp,omitzero"`
	Created        time.Time     `json:"created,omitzero"`
	RecoveryLevel  string        `json:"recoveryLevel,omitempty"`
	Managed        bool          `json:"managed,omitempty"`
	Policy         ReleasePolicy `json:"releasePolicy,omitzero"`
	NewerVersion   string        `json:"newerVersion,omitempty"` // "" if none or not asked
	AttributesRead bool          `json:"attributesRead"`
}

// ReleasePolicy is a key's release policy as it came. Present with an empty
// Decoded means unreadable (row 46); Problem says why.
type ReleasePolicy struct {
	Present   bool   `json:"present"`
	Immutable bool   `json:"immutable,omitempty"`
	Mutable   bool   `json:"mutable,omitempty"` // of one that can't be decoded: it isn't immutable, as read
	Decoded   string `json:"decoded,omitempty"` // the JSON text
	Problem   string `json:"problem,omitempty"`
}

// Vault is a Key Vault or a Managed HSM.
type Vault struct {
	ID                string         `json:"id"` // ARM id
	Name              string         `json:"name"`
	Host              string         `json:"host"` // of vaultUri or hsmUri, lower case
	HSM               bool           `json:"hsm,omitempty"`
	Location          string         `json:"location"`
	ExtraRegions      []string       `json:"extraRegions,omitempty"`
	SKU               string         `json:"sku"` // standard, premium, Standard_B1 …
	PurgeProtection   Tri            `json:"purgeProtection,omitempty"`
	SoftDelete        Tri            `json:"softDelete,omitempty"` // absent means on for new vaults; as read
	RBAC              Tri            `json:"rbac,omitempty"`
	DefaultAction     string         `json:"defaultAction,omitempty"` // networkAcls.defaultAction
	Bypass            string         `json:"bypass,omitempty"`
	PublicAccess      string         `json:"publicNetworkAccess,omitempty"`
	AccessPolicies    []AccessPolicy `json:"accessPolicies,omitempty"`
	ProvisioningState string         `json:"provisioningState,omitempty"`
}

// ShutsOutPlatform says whether the vault's firewall may keep Azure's own services
// out, through which disks reach their key. Bypass knows two values, of which one
// lets them in; any other isn't known to.
func (v Vault) ShutsOutPlatform() bool {
	shut := strings.EqualFold(v.DefaultAction, "Deny") || strings.EqualFold(v.PublicAccess, "Disabled")
	return shut && !strings.EqualFold(v.Bypass, "AzureServices")
}

// AccessPolicy is one entry of a vault's accessPolicies, keys only.
type AccessPolicy struct {
	ObjectID string   `json:"objectId"`
	Keys     []string `json:"keys"` // lower case
	// ApplicationID narrows it to an application that acts for the object: it gives
	// the object itself nothing.
	ApplicationID string `json:"applicationId,omitempty"`
}

// VaultRef finds a vault or HSM: by ARM id where it is known (sourceVault), else
// by the host of its URI.
type VaultRef struct {
	ID   string `json:"id,omitempty"`
	Host string `json:"host,omitempty"`
}

// RightsQuery asks who may do what with a key.
type RightsQuery struct {
	Vault        Vault
	Key          KeyID
	DESPrincipal string // object id of the DES's identity, "" if it has none
	Orchestrator string // object id of the Confidential VM Orchestrator in this tenant, "" if policy doesn't say
}

// Grant gives a principal what it needs of one key.
type Grant struct {
	Vault     Vault
	Key       KeyID
	Principal string // object id
	For       string // "des" (get, wrapKey, unwrapKey) or "orchestrator" (release; with access policies get too)
}
