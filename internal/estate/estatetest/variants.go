package estatetest

import (
	"encoding/base64"
	"strings"
)

// Variant is one change to a good chain, and what must be said of the VM.
type Variant struct {
	Name    string
	Change  func(c *Chain, n int)
	Verdict string
	// Reasons are those of findings that fail or are unknown, each once, sorted.
	Reasons []string
	// Missing says that a link of the chain wasn't captured.
	Missing bool
}

const (
	compliant = "compliant"
	bad       = "non-compliant"
	unclear   = "unknown"
)

func osDisk(c *Chain) Body {
	return c.VM["properties"].(Body)["storageProfile"].(Body)["osDisk"].(Body)
}

// plain takes the confidential side away: an ordinary VM of a kind.
func plain(c *Chain, securityType, size string) {
	if securityType == "" {
		Drop(c.VM, "properties", "securityProfile")
	} else {
		Set(c.VM, securityType, "properties", "securityProfile", "securityType")
	}
	Set(c.VM, size, "properties", "hardwareProfile", "vmSize")
	Drop(osDisk(c), "managedDisk", "securityProfile")
	Drop(c.Disk, "properties", "securityProfile")
	c.DES, c.Key, c.Vault = nil, nil, nil
}

// encrypted sets securityEncryptionType and the disk's type, without a set.
func encrypted(c *Chain, typ, disk string) {
	Set(osDisk(c), Body{"securityEncryptionType": typ}, "managedDisk", "securityProfile")
	Set(c.Disk, Body{"securityType": disk}, "properties", "securityProfile")
	c.DES, c.Key, c.Vault = nil, nil, nil
}

// dataDisk attaches a data disk with an encryption.
func dataDisk(c *Chain, encryption Body) Body {
	d := id("Microsoft.Compute/disks", c.ID[strings.LastIndexByte(c.ID, '/')+1:]+"-data")
	Set(c.VM, []any{Body{"lun": 0.0, "name": "data", "createOption": "Attach", "managedDisk": Body{"id": d}}}, "properties", "storageProfile", "dataDisks")
	return Body{"name": "data", "id": d, "type": "Microsoft.Compute/disks", "location": Text(c.VM, "location"), "managedBy": c.ID,
		"properties": Body{"diskState": "Attached", "provisioningState": "Succeeded", "maxShares": 2.0, "creationData": Body{"createOption": "Empty"}, "encryption": encryption}}
}

// ordinarySet is a disk encryption set for data disks.
func ordinarySet(c *Chain) Body {
	return Body{"name": "sse", "id": Text(c.DES, "id") + "-sse", "type": "Microsoft.Compute/diskEncryptionSets", "location": Text(c.VM, "location"),
		"identity": Body{"type": "SystemAssigned", "principalId": "p"}, "properties": Body{"provisioningState": "Succeeded",
			"activeKey": Body{"keyUrl": "https://kv-data.vault.azure.net/keys/k/1"}, "encryptionType": "EncryptionAtRestWithCustomerKey"}}
}

func vmSet(v any, path ...string) func(*Chain, int) {
	return func(c *Chain, _ int) { Set(c.VM, v, append([]string{"properties"}, path...)...) }
}

func desSet(v any, path ...string) func(*Chain, int) {
	return func(c *Chain, _ int) { Set(c.DES, v, append([]string{"properties"}, path...)...) }
}

func keySet(v any, path ...string) func(*Chain, int) {
	return func(c *Chain, _ int) { Set(c.Key, v, path...) }
}

func vaultSet(v any, path ...string) func(*Chain, int) {
	return func(c *Chain, _ int) { Set(c.Vault, v, append([]string{"properties"}, path...)...) }
}

func policySet(authorities func(c *Chain) []Body) func(*Chain, int) {
	return func(c *Chain, _ int) { Set(c.Key, Policy(authorities(c)...), "release_policy") }
}

func autoRotation(version string) func(*Chain, int) {
	return func(c *Chain, _ int) {
		Set(c.DES, true, "properties", "rotationToLatestKeyVersionEnabled")
		if version != "" {
			Set(c.Disk, version, "properties", "securityProfile", "confidentialVMVersion")
		}
	}
}

func because(reasons ...string) []string { return reasons }

// Variants are all changes.
func Variants() []Variant {
	return append(append(kinds(), links()...), faults()...)
}

func kinds() []Variant {
	return []Variant{
		{"snp", func(*Chain, int) {}, compliant, nil, false},
		{"tdx v6", vmSet("Standard_DC4es_v6", "hardwareProfile", "vmSize"), compliant, nil, false},
		{"gpu", vmSet("Standard_NCC40ads_H100_v5", "hardwareProfile", "vmSize"), compliant, nil, false},
		{"managed hsm", func(c *Chain, n int) { c.OnHSM(n) }, compliant, nil, false},
		{"no source vault", func(c *Chain, _ int) { Drop(c.DES, "properties", "activeKey", "sourceVault") }, compliant, nil, false},
		{"other letters", func(c *Chain, _ int) {
			Set(c.DES, strings.ToUpper(Text(c.DES, "id")), "id")
			Set(osDisk(c), strings.Replace(Text(osDisk(c), "managedDisk", "id"), "resourceGroups", "resourcegroups", 1), "managedDisk", "id")
			Set(c.DES, strings.Replace(Text(c.DES, "properties", "activeKey", "keyUrl"), "cvm-os-key", "CVM-os-Key", 1), "properties", "activeKey", "keyUrl")
		}, compliant, nil, false},
		{"specialised disk", func(c *Chain, _ int) {
			Drop(c.VM, "properties", "storageProfile", "imageReference")
			Set(osDisk(c), "Attach", "createOption")
			Set(c.Disk, "ImportSecure", "properties", "creationData", "createOption")
		}, compliant, nil, false},
		{"gallery image", func(c *Chain, _ int) {
			Set(c.VM, Body{"id": id("Microsoft.Compute/galleries", "g/images/cvm/versions/1.0.0")}, "properties", "storageProfile", "imageReference")
		}, compliant, nil, false},
		{"flexible instance", vmSet(Body{"id": id("Microsoft.Compute/virtualMachineScaleSets", "flex")}, "virtualMachineScaleSet"), compliant, nil, false},
		{"uniform instance", func(c *Chain, n int) {
			c.rename(strings.Replace(c.ID, "/virtualMachines/", "/virtualMachineScaleSets/", 1) + "/virtualMachines/0")
			Set(c.VM, "Microsoft.Compute/virtualMachineScaleSets/virtualMachines", "type")
			Set(c.VM, Body{"name": Text(c.VM, "properties", "hardwareProfile", "vmSize"), "tier": "Standard"}, "sku")
			Drop(c.VM, "properties", "hardwareProfile", "vmSize")
		}, compliant, nil, false},
		{"platform key", func(c *Chain, _ int) {
			encrypted(c, "DiskWithVMGuestState", "ConfidentialVM_DiskEncryptedWithPlatformKey")
		}, bad, because("os-disk-platform-key"), false},
		{"guest state only", func(c *Chain, _ int) {
			encrypted(c, "VMGuestStateOnly", "ConfidentialVM_VMGuestStateOnlyEncryptedWithPlatformKey")
		}, bad, because("os-disk-not-confidential"), false},
		{"ephemeral vtpm on tdx", func(c *Chain, _ int) {
			encrypted(c, "NonPersistedTPM", "ConfidentialVM_NonPersistedTPM")
			Set(c.VM, "Standard_DC4es_v6", "properties", "hardwareProfile", "vmSize")
		}, bad, because("vtpm-not-persisted"), false},
		{"ephemeral vtpm on snp", func(c *Chain, _ int) {
			encrypted(c, "NonPersistedTPM", "ConfidentialVM_NonPersistedTPM")
		}, bad, because("vtpm-not-persisted-unsupported"), false},
		{"ephemeral os disk", func(c *Chain, _ int) {
			Set(osDisk(c), Body{"option": "Local"}, "diffDiskSettings")
			c.Disk = nil
		}, compliant, nil, false},
		{"trusted launch", func(c *Chain, _ int) {
			plain(c, "TrustedLaunch", "Standard_D4s_v5")
			Set(c.Disk, Body{"securityType": "TrustedLaunch"}, "properties", "securityProfile")
		}, bad, because("not-confidential"), false},
		{"standard", func(c *Chain, _ int) { plain(c, "", "Standard_D4s_v5") }, bad, because("not-confidential"), false},
		{"generation 1", func(c *Chain, _ int) {
			plain(c, "Standard", "Standard_D4s_v5")
			Set(c.VM, "V1", "properties", "instanceView", "hyperVGeneration")
			Set(c.Disk, "V1", "properties", "hyperVGeneration")
		}, bad, because("generation-1", "not-confidential"), false},
		{"confidential size without", func(c *Chain, _ int) { plain(c, "TrustedLaunch", "Standard_DC4as_v5") }, bad, because("confidential-size-without-cvm", "not-confidential"), false},
		{"parent size", vmSet("Standard_DC4as_cc_v5", "hardwareProfile", "vmSize"), bad, because("not-a-cvm-size"), false},
	}
}

// links are chains of which a link wasn't captured.
func links() []Variant {
	missing := because("not-captured")
	return []Variant{
		{"no disk", func(c *Chain, _ int) { c.Disk = nil }, unclear, missing, true},
		{"no set", func(c *Chain, _ int) { c.DES = nil }, unclear, missing, true},
		{"no key", func(c *Chain, _ int) { c.Key = nil }, unclear, missing, true},
		{"no vault", func(c *Chain, _ int) { c.Vault = nil }, unclear, missing, true},
		{"no hsm", func(c *Chain, n int) { c.OnHSM(n); c.Vault = nil }, unclear, missing, true},
		{"another vault at the source", func(c *Chain, _ int) {
			Set(c.Vault, strings.Replace(Text(c.Vault, "properties", "vaultUri"), "https://", "https://x", 1), "properties", "vaultUri")
			c.Key = nil // it could not have been read there
		}, unclear, missing, true},
		{"another version", func(c *Chain, _ int) { Set(c.Key, Text(c.Key, "key", "kid")+"f", "key", "kid") }, unclear, missing, true},
		{"no data disk", func(c *Chain, _ int) { dataDisk(c, Body{}) }, unclear, missing, true},
		{"no set of the data disk", func(c *Chain, _ int) {
			c.More = append(c.More, dataDisk(c, Body{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": Text(c.DES, "id") + "-sse"}))
		}, unclear, missing, true},
		{"no key and a fault", func(c *Chain, _ int) { c.Key = nil; Set(c.DES, "Failed", "properties", "provisioningState") }, bad, because("des-failed", "not-captured"), true},
	}
}

func faults() []Variant {
	compliance := Body{"claim": "x-ms-compliance-status", "equals": "azure-compliant-cvm"}
	provider := func(c *Chain) string { return clouds[c.Cloud].provider }
	return []Variant{
		{"secure boot off", vmSet(false, "securityProfile", "uefiSettings", "secureBootEnabled"), bad, because("secure-boot-off"), false},
		{"vtpm off", vmSet(false, "securityProfile", "uefiSettings", "vTpmEnabled"), bad, because("vtpm-off"), false},
		{"updating", vmSet("Updating", "provisioningState"), unclear, because("in-transition"), false},
		{"failed", vmSet("Failed", "provisioningState"), compliant, nil, false},
		{"both sets", func(c *Chain, _ int) {
			Set(osDisk(c), Body{"id": Text(c.DES, "id") + "-sse"}, "managedDisk", "diskEncryptionSet")
		}, bad, because("des-both-fields"), false},
		{"unknown encryption", func(c *Chain, _ int) {
			Set(osDisk(c), "SomethingNew", "managedDisk", "securityProfile", "securityEncryptionType")
		}, unclear, because("security-encryption-type-unread"), false},
		{"disk mismatch", func(c *Chain, _ int) {
			Set(c.Disk, "ConfidentialVM_DiskEncryptedWithPlatformKey", "properties", "securityProfile", "securityType")
		}, bad, because("disk-vm-mismatch"), false},
		{"set mismatch", func(c *Chain, _ int) {
			Set(c.Disk, Text(c.DES, "id")+"-other", "properties", "securityProfile", "secureVMDiskEncryptionSetId")
		}, bad, because("des-id-mismatch"), false},
		{"disk without profile", func(c *Chain, _ int) { Drop(c.Disk, "properties", "securityProfile") }, bad, because("disk-vm-mismatch"), false},
		{"ade", func(c *Chain, _ int) {
			Set(c.Disk, Body{"enabled": true}, "properties", "encryptionSettingsCollection")
		}, bad, because("ade-on-os-disk"), false},

		{"set of another type", desSet("EncryptionAtRestWithCustomerKey", "encryptionType"), bad, because("des-wrong-type"), false},
		{"set updating", desSet("Updating", "provisioningState"), unclear, because("des-in-transition"), false},
		{"set failed", desSet("Failed", "provisioningState"), bad, because("des-failed"), false},
		{"set without identity", func(c *Chain, _ int) { Set(c.DES, Body{"type": "None"}, "identity") }, bad, because("des-identity-missing"), false},
		{"set elsewhere", func(c *Chain, _ int) { Set(c.DES, "westus", "location") }, bad, because("des-region-mismatch", "vault-region-mismatch"), false},
		{"rotation error", desSet(Body{"code": "ManagedServiceIdentityNotFound"}, "autoKeyRotationError"), bad, because("des-rotation-error"), false},
		{"rotation stuck", desSet([]any{Body{"keyUrl": "https://x.vault.azure.net/keys/k/1"}}, "previousKeys"), unclear, because("rotation-in-progress"), false},
		{"auto rotation v1", autoRotation("V1"), bad, because("des-auto-rotation-unsupported"), false},
		{"auto rotation v2", autoRotation("V2"), compliant, nil, false},
		{"auto rotation unread", autoRotation(""), compliant, nil, false},
		{"key url invalid", desSet("https://example.org/keys/k/1", "activeKey", "keyUrl"), bad, because("key-url-invalid"), false},
		{"key url versionless", func(c *Chain, _ int) {
			url := Text(c.DES, "properties", "activeKey", "keyUrl")
			Set(c.DES, url[:strings.LastIndexByte(url, '/')], "properties", "activeKey", "keyUrl")
		}, bad, because("key-url-versionless"), false},

		{"software key", keySet("RSA", "key", "kty"), bad, because("key-not-hsm"), false},
		{"ec key", func(c *Chain, _ int) { Set(c.Key, "EC-HSM", "key", "kty"); Drop(c.Key, "key", "n") }, bad, because("key-wrong-type"), false},
		{"2048 bits", keySet(modulus(2048), "key", "n"), compliant, nil, false},
		{"not exportable", keySet(false, "attributes", "exportable"), bad, because("key-not-exportable"), false},
		{"no policy", func(c *Chain, _ int) { Drop(c.Key, "release_policy") }, bad, because("key-no-release-policy"), false},
		{"policy unreadable", keySet("%%%", "release_policy", "data"), unclear, because("key-policy-unreadable"), false},
		{"policy of another kind", keySet(base64.StdEncoding.EncodeToString([]byte(`{"version":"2.0"}`)), "release_policy", "data"), unclear, because("key-policy-unreadable"), false},
		{"policy weak", policySet(func(c *Chain) []Body {
			return []Body{{"authority": provider(c), "allOf": []Body{{"claim": "x-ms-attestation-type", "equals": "azurevm"}}}}
		}), bad, because("key-policy-tee-missing", "key-policy-weak"), false},
		{"policy of a stranger", policySet(func(c *Chain) []Body {
			return []Body{Authority(provider(c)), Authority("https://mine.neu.attest.azure.net")}
		}), bad, because("key-policy-foreign-authority"), false},
		{"policy for the other tee", policySet(func(c *Chain) []Body {
			return []Body{Authority(provider(c), Body{"claim": "x-ms-attestation-type", "equals": "tdxvm"})}
		}), bad, because("key-policy-tee-missing"), false},
		{"policy elsewhere", policySet(func(*Chain) []Body {
			return []Body{Authority("https://sharedwus.wus.attest.azure.net")}
		}), bad, because("key-policy-region-missing"), false},
		{"policy mutable", keySet(false, "release_policy", "immutable"), compliant, nil, false},
		{"policy written otherwise", policySet(func(c *Chain) []Body {
			return []Body{{"authority": provider(c) + "/", "anyOf": []Body{{"allOf": []Body{compliance, {"claim": "x-ms-attestation-type", "equals": "sevsnpvm"}}},
				{"allOf": []Body{compliance, {"claim": "x-ms-attestation-type", "equals": "tdxvm"}}}}}}
		}), compliant, nil, false},
		{"disabled", keySet(false, "attributes", "enabled"), bad, because("key-disabled"), false},
		{"expired", keySet(1768435200.0, "attributes", "exp"), bad, because("key-expired"), false},
		{"near expiry", keySet(1769900000.0, "attributes", "exp"), compliant, nil, false},
		{"not yet valid", keySet(1790000000.0, "attributes", "nbf"), bad, because("key-not-yet-valid"), false},
		{"no expiry", func(c *Chain, _ int) { Drop(c.Key, "attributes", "exp") }, compliant, nil, false},
		{"no wrap", keySet([]any{"sign"}, "key", "key_ops"), bad, because("key-ops-missing"), false},
		{"purgeable", keySet("Recoverable+Purgeable", "attributes", "recoveryLevel"), bad, because("vault-no-purge-protection"), false},
		{"of a certificate", keySet(true, "managed"), bad, because("key-certificate-backed"), false},
		{"no attributes", func(c *Chain, _ int) { Drop(c.Key, "attributes") }, unclear, because("key-attributes-unread"), false},

		{"standard vault", vaultSet("standard", "sku", "name"), bad, because("vault-not-premium"), false},
		{"the set names another vault", func(c *Chain, _ int) {
			other := Copy(c.Vault)
			Set(other, Text(other, "id")+"x", "id")
			Set(other, Text(other, "name")+"x", "name")
			Set(other, strings.Replace(Text(other, "properties", "vaultUri"), ".", "x.", 1), "properties", "vaultUri")
			c.More = append(c.More, other)
			Set(c.DES, Body{"id": Text(other, "id")}, "properties", "activeKey", "sourceVault")
			Set(c.Vault, "standard", "properties", "sku", "name")
		}, bad, because("vault-not-premium"), false},
		{"no purge protection", func(c *Chain, _ int) { Drop(c.Vault, "properties", "enablePurgeProtection") }, bad, because("vault-no-purge-protection"), false},
		{"no soft delete", vaultSet(false, "enableSoftDelete"), bad, because("vault-no-soft-delete"), false},
		{"vault elsewhere", func(c *Chain, _ int) { Set(c.Vault, "westus", "location") }, bad, because("vault-region-mismatch"), false},
		{"hsm extended", func(c *Chain, n int) {
			c.OnHSM(n)
			Set(c.Vault, "westus", "location")
			Set(c.Vault, []any{Body{"name": clouds[c.Cloud].region}}, "properties", "regions")
		}, unclear, because("vault-region-mismatch"), false},
		{"vault closed", vaultSet("None", "networkAcls", "bypass"), compliant, nil, false},

		{"data disk platform key", func(c *Chain, _ int) {
			c.More = append(c.More, dataDisk(c, Body{"type": "EncryptionAtRestWithPlatformKey"}))
		}, bad, because("data-disk-platform-key"), false},
		{"data disk customer key", func(c *Chain, _ int) {
			c.More = append(c.More, ordinarySet(c), dataDisk(c, Body{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": Text(c.DES, "id") + "-sse"}))
		}, compliant, nil, false},
		{"data disk on the confidential set", func(c *Chain, _ int) {
			c.More = append(c.More, dataDisk(c, Body{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": Text(c.DES, "id")}))
		}, bad, because("des-wrong-type"), false},
		{"data disk once under ade", func(c *Chain, _ int) {
			d := dataDisk(c, Body{"type": "EncryptionAtRestWithPlatformKey"})
			Set(d, Body{"enabled": false}, "properties", "encryptionSettingsCollection")
			c.More = append(c.More, d)
		}, bad, because("data-disk-ade-tainted", "data-disk-platform-key"), false},
	}
}
