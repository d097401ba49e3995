package azurepolicy

import (
	"strings"
	"sync"

	"cvmguard/internal/cvm"
)

// The resource types that definitions are about.
const (
	typeVM    = "Microsoft.Compute/virtualMachines"
	typeSet   = "Microsoft.Compute/virtualMachineScaleSets"
	typeDisk  = "Microsoft.Compute/disks"
	typeDES   = "Microsoft.Compute/diskEncryptionSets"
	typeVault = "Microsoft.KeyVault/vaults"
	typeHSM   = "Microsoft.KeyVault/managedHSMs"
	typeKey   = "Microsoft.KeyVault/vaults/keys"
	typeHKey  = "Microsoft.KeyVault/managedHSMs/keys"
)

// The aliases that definitions use. All are in the public cloud's list of
// aliases, as Microsoft's policy linter ships it, each with the default path that
// stands in the table below.
const (
	vmSecurity     = typeVM + "/securityProfile.securityType"
	vmSecureBoot   = typeVM + "/securityProfile.uefiSettings.secureBootEnabled"
	vmVTPM         = typeVM + "/securityProfile.uefiSettings.vTpmEnabled"
	vmAtHost       = typeVM + "/securityProfile.encryptionAtHost"
	vmSize         = typeVM + "/sku.name"
	vmEncryption   = typeVM + "/storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType"
	vmSecureDES    = typeVM + "/storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id"
	vmSSEDES       = typeVM + "/storageProfile.osDisk.managedDisk.diskEncryptionSet.id"
	vmImageID      = typeVM + "/storageProfile.imageReference.id"
	vmImageShared  = typeVM + "/storageProfile.imageReference.sharedGalleryImageId"
	vmImagePublic  = typeVM + "/storageProfile.imageReference.communityGalleryImageId"
	vmPublisher    = typeVM + "/storageProfile.imageReference.publisher"
	vmOffer        = typeVM + "/storageProfile.imageReference.offer"
	vmSKU          = typeVM + "/storageProfile.imageReference.sku"
	vmData         = typeVM + "/storageProfile.dataDisks[*]"
	vmDataID       = vmData + ".managedDisk.id"
	vmDataSSE      = vmData + ".managedDisk.diskEncryptionSet.id"
	vmDataSecurity = vmData + ".managedDisk.securityProfile.securityEncryptionType"

	diskOS         = typeDisk + "/osType"
	diskProfile    = typeDisk + "/securityProfile"
	diskSecurity   = typeDisk + "/securityProfile.securityType"
	diskADE        = typeDisk + "/encryptionSettingsCollection.enabled"
	diskAccess     = typeDisk + "/networkAccessPolicy"
	diskEncryption = typeDisk + "/encryption.type"
	diskSSEDES     = typeDisk + "/encryption.diskEncryptionSetId"

	desType = typeDES + "/encryptionType"

	vaultMode  = typeVault + "/createMode"
	vaultSKU   = typeVault + "/sku.name"
	vaultPurge = typeVault + "/enablePurgeProtection"
	vaultSoft  = typeVault + "/enableSoftDelete"
	hsmMode    = typeHSM + "/createMode"
	hsmPurge   = typeHSM + "/enablePurgeProtection"

	keyType       = typeKey + "/kty"
	keySize       = typeKey + "/keySize"
	keyOps        = typeKey + "/keyOps"
	keyOp         = typeKey + "/keyOps[*]"
	keyEnabled    = typeKey + "/attributes.enabled"
	keyExportable = typeKey + "/attributes.exportable"
	keyExpires    = typeKey + "/attributes.exp"
)

// alias is where an alias is found: in a body, and in what was read of one.
// Empty text, and nil, is a member that isn't there.
type alias struct {
	name string
	path string // of members in the body, joined by dots; [*] is each element
	vm   func(cvm.VM) string
	disk func(cvm.Disk) string
	data func(cvm.DataDiskRef) string // of an element of vmData
}

var aliases = sync.OnceValue(func() map[string]alias {
	table := []alias{
		{name: vmSecurity, path: "properties.securityProfile.securityType", vm: func(v cvm.VM) string { return v.SecurityType }},
		{name: vmSecureBoot, path: "properties.securityProfile.uefiSettings.secureBootEnabled", vm: func(v cvm.VM) string { return string(v.SecureBoot) }},
		{name: vmVTPM, path: "properties.securityProfile.uefiSettings.vTpmEnabled", vm: func(v cvm.VM) string { return string(v.VTPM) }},
		{name: vmAtHost, path: "properties.securityProfile.encryptionAtHost", vm: func(v cvm.VM) string { return string(v.EncryptionAtHost) }},
		{name: vmSize, path: "properties.hardwareProfile.vmSize", vm: func(v cvm.VM) string { return v.Size }},
		{name: vmEncryption, path: "properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType", vm: func(v cvm.VM) string { return v.OSDisk.SecurityEncryptionType }},
		{name: vmSecureDES, path: "properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id", vm: func(v cvm.VM) string { return string(v.OSDisk.SecureDES) }},
		{name: vmSSEDES, path: "properties.storageProfile.osDisk.managedDisk.diskEncryptionSet.id", vm: func(v cvm.VM) string { return string(v.OSDisk.SSEDES) }},
		{name: setModel, path: setProfile + "storageProfile", vm: func(cvm.VM) string { return "{}" }},
		// What was read keeps one id, whichever of the three it came from.
		{name: vmImageID, path: "properties.storageProfile.imageReference.id", vm: func(v cvm.VM) string { return v.Image.ID }},
		{name: vmImageShared, path: "properties.storageProfile.imageReference.sharedGalleryImageId", vm: func(v cvm.VM) string { return v.Image.ID }},
		{name: vmImagePublic, path: "properties.storageProfile.imageReference.communityGalleryImageId", vm: func(v cvm.VM) string { return v.Image.ID }},
		{name: vmPublisher, path: "properties.storageProfile.imageReference.publisher", vm: func(v cvm.VM) string { return v.Image.Publisher }},
		{name: vmOffer, path: "properties.storageProfile.imageReference.offer", vm: func(v cvm.VM) string { return v.Image.Offer }},
		{name: vmSKU, path: "properties.storageProfile.imageReference.sku", vm: func(v cvm.VM) string { return v.Image.SKU }},
		{name: vmData, path: "properties.storageProfile.dataDisks[*]"},
		{name: vmDataID, path: "properties.storageProfile.dataDisks[*].managedDisk.id", data: func(d cvm.DataDiskRef) string { return string(d.ID) }},
		{name: vmDataSSE, path: "properties.storageProfile.dataDisks[*].managedDisk.diskEncryptionSet.id", data: func(d cvm.DataDiskRef) string { return string(d.SSEDES) }},
		{name: vmDataSecurity, path: "properties.storageProfile.dataDisks[*].managedDisk.securityProfile.securityEncryptionType", data: func(d cvm.DataDiskRef) string { return d.SecurityEncryptionType }},

		{name: diskOS, path: "properties.osType", disk: func(d cvm.Disk) string { return d.OSType }},
		{name: diskProfile, path: "properties.securityProfile", disk: func(d cvm.Disk) string {
			if d.HasSecurityProfile {
				return "{}"
			}
			return ""
		}},
		{name: diskSecurity, path: "properties.securityProfile.securityType", disk: func(d cvm.Disk) string { return d.SecurityType }},
		{name: diskADE, path: "properties.encryptionSettingsCollection.enabled", disk: func(d cvm.Disk) string {
			switch {
			case d.ADE:
				return "true"
			case d.ADETainted:
				return "false"
			}
			return ""
		}},
		{name: diskAccess, path: "properties.networkAccessPolicy", disk: func(d cvm.Disk) string { return d.NetworkAccessPolicy }},
		{name: diskEncryption, path: "properties.encryption.type", disk: func(d cvm.Disk) string { return d.EncryptionType }},
		{name: diskSSEDES, path: "properties.encryption.diskEncryptionSetId", disk: func(d cvm.Disk) string { return string(d.SSEDES) }},

		{name: desType, path: "properties.encryptionType"},
		{name: vaultMode, path: "properties.createMode"},
		{name: vaultSKU, path: "properties.sku.name"},
		{name: vaultPurge, path: "properties.enablePurgeProtection"},
		{name: vaultSoft, path: "properties.enableSoftDelete"},
		{name: hsmMode, path: "properties.createMode"},
		{name: hsmPurge, path: "properties.enablePurgeProtection"},
		{name: keyType, path: "properties.kty"},
		{name: keySize, path: "properties.keySize"},
		{name: keyOps, path: "properties.keyOps"},
		{name: keyOp, path: "properties.keyOps[*]"},
		{name: keyEnabled, path: "properties.attributes.enabled"},
		{name: keyExportable, path: "properties.attributes.exportable"},
		{name: keyExpires, path: "properties.attributes.exp"},
	}
	m := make(map[string]alias, 2*len(table))
	for _, a := range table {
		m[a.name] = a
		if name, ok := ofSet(a.name); ok {
			a.name, a.path = name, setProfile+strings.TrimPrefix(a.path, "properties.")
			if name == setSize {
				a.path = "sku.name"
			}
			m[name] = a
		}
		if name := ofHSM(a.name); name != a.name {
			a.name = name
			m[name] = a
		}
	}
	return m
})

const (
	setProfile = "properties.virtualMachineProfile."
	setSize    = typeSet + "/sku.name"
	setModel   = typeSet + "/virtualMachineProfile.storageProfile"
)

// ofSet is the alias of a scale set's model that says what a VM's says; ok is false
// where there is none, the id of a data disk, and for what isn't a VM's.
func ofSet(name string) (set string, ok bool) {
	rest, isVM := strings.CutPrefix(name, typeVM+"/")
	switch {
	case !isVM || name == vmDataID:
		return name, false
	case name == vmSize:
		return setSize, true
	}
	return typeSet + "/virtualMachineProfile." + rest, true
}

// ofHSM is the alias of a key in a Managed HSM that says what a vault's key's says;
// any other alias stays as it is.
func ofHSM(name string) string {
	if rest, ok := strings.CutPrefix(name, typeKey+"/"); ok {
		return typeHKey + "/" + rest
	}
	return name
}
