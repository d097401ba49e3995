package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

// row is one row of the truth table: a change of the compliant posture and what
// must be said of it, and nothing else.
type row struct {
	row    string
	what   string
	change func(*cvm.Posture)
	doc    string // lines of a policy document, "" for the embedded one
	want   []string
	class  Class // of the first of want, where it fails
	value  Value
	object string // of the first of want
}

func truthTable() []row {
	type p = *cvm.Posture
	vm := func(f func(*cvm.VM)) func(p) { return func(x p) { f(&x.VM.Value) } }
	disk := func(f func(*cvm.Disk)) func(p) { return func(x p) { f(&x.OSDisk.Value) } }
	des := func(f func(*cvm.DES)) func(p) { return func(x p) { f(&x.DES.Value) } }
	key := func(f func(*cvm.Key)) func(p) { return func(x p) { f(&x.Key.Value) } }
	vault := func(f func(*cvm.Vault)) func(p) { return func(x p) { f(&x.Vault.Value) } }
	rights := func(f func(*cvm.Rights)) func(p) { return func(x p) { f(&x.Rights.Value) } }
	policy := func(text string) func(p) { return key(func(k *cvm.Key) { k.Policy.Decoded = text }) }
	data := func(f func(*cvm.DataDiskFacts)) func(p) { return func(x p) { f(&x.DataDisks[0]) } }
	enc := func(x p, typ string, des cvm.DESID, diskType string) {
		x.VM.Value.OSDisk.SecurityEncryptionType, x.VM.Value.OSDisk.SecureDES = typ, des
		x.OSDisk.Value.SecurityType, x.OSDisk.Value.SecureDES = diskType, des
	}
	ordinary := func(x p, typ, generation string) {
		v := &x.VM.Value
		v.SecurityType, v.Size, v.Generation, v.OSDisk.SecurityEncryptionType, v.OSDisk.SecureDES = typ, "Standard_D4s_v5", generation, "", ""
		x.OSDisk.Value = cvm.Disk{ID: osID, Generation: generation, NetworkAccessPolicy: "DenyAll"}
		if typ == "TrustedLaunch" {
			x.OSDisk.Value.HasSecurityProfile, x.OSDisk.Value.SecurityType = true, "TrustedLaunch"
			x.Attestation.Value.MAA = cvm.Outcome{State: cvm.NotApplicable}
		}
		x.DES, x.Key, x.Vault = cvm.Fact[cvm.DES]{}, cvm.Fact[cvm.Key]{}, cvm.Fact[cvm.Vault]{}
	}
	draft := cvm.DraftReleasePolicy("https://sharedneu.neu.attest.azure.net")
	days := func(n int) time.Time { return now.Add(time.Duration(n) * 24 * time.Hour) }
	keyURL := string(keyID.Versionless())
	sse := string(desID)
	fails := func(codes ...string) (out []string) {
		for _, c := range codes {
			out = append(out, "fail "+c)
		}
		return out
	}
	return []row{
		{"1", "as it should be", func(p) {}, "", nil, "", Compliant, ""},
		{"2", "set of another type", des(func(d *cvm.DES) { d.Type = cvm.DESTypeSSE }), "", fails("des-wrong-type"), NeedsRecreate, NonCompliant, sse},
		{"3", "platform key", func(x p) { enc(x, cvm.EncryptDisk, "", cvm.DiskPlatformKey) }, "", fails("os-disk-platform-key"), NeedsRecreate, NonCompliant, ""},
		{"4", "set gone", func(x p) { x.DES = cvm.NotThere[cvm.DES]() }, "", fails("des-missing"), NeedsPerson, NonCompliant, sse},
		{"5", "guest state only", func(x p) { enc(x, cvm.EncryptGuestState, "", cvm.DiskGuestState) }, "", fails("os-disk-not-confidential"), NeedsRecreate, NonCompliant, ""},
		{"6", "guest state only with a set", func(x p) { enc(x, cvm.EncryptGuestState, desID, cvm.DiskGuestState) }, "", fails("des-without-disk-encryption"), NeedsRecreate, NonCompliant, ""},
		{"7", "no vTPM state", func(x p) { enc(x, cvm.EncryptNoTPM, "", cvm.DiskNoTPM); x.VM.Value.Size = "Standard_DC2es_v5" }, "", fails("vtpm-not-persisted"), NeedsRecreate, NonCompliant, ""},
		{"7", "no vTPM state, secure boot off", func(x p) {
			enc(x, cvm.EncryptNoTPM, "", cvm.DiskNoTPM)
			x.VM.Value.Size, x.VM.Value.SecureBoot = "Standard_DC2es_v5", cvm.False
		}, "", fails("vtpm-not-persisted"), NeedsRecreate, NonCompliant, ""},
		{"8", "no vTPM state on SNP", func(x p) { enc(x, cvm.EncryptNoTPM, "", cvm.DiskNoTPM) }, "", fails("vtpm-not-persisted-unsupported"), NeedsRecreate, NonCompliant, ""},
		{"8", "no vTPM state on Windows", func(x p) {
			enc(x, cvm.EncryptNoTPM, desID, cvm.DiskNoTPM)
			x.VM.Value.Size, x.VM.Value.OS = "Standard_DC2es_v5", "Windows"
		}, "", fails("vtpm-not-persisted-unsupported"), NeedsRecreate, NonCompliant, ""},
		{"9", "no encryption type", vm(func(v *cvm.VM) { v.OSDisk.SecurityEncryptionType = "" }), "", []string{"unknown security-encryption-type-unread"}, "", Unknown, ""},
		{"9", "new encryption type", vm(func(v *cvm.VM) { v.OSDisk.SecurityEncryptionType = "DiskAndAll" }), "", []string{"unknown security-encryption-type-unread"}, "", Unknown, ""},
		{"9", "no encryption type, disk without a profile", func(x p) {
			x.VM.Value.OSDisk.SecurityEncryptionType = ""
			x.OSDisk.Value.HasSecurityProfile, x.OSDisk.Value.SecurityType, x.OSDisk.Value.SecureDES = false, "", ""
		}, "", []string{"unknown security-encryption-type-unread"}, "", Unknown, ""},
		{"10", "both sets", vm(func(v *cvm.VM) { v.OSDisk.SSEDES = sseID }), "", fails("des-both-fields"), NeedsPerson, NonCompliant, ""},
		{"3", "server-side set only", func(x p) { enc(x, cvm.EncryptDisk, "", cvm.DiskPlatformKey); x.VM.Value.OSDisk.SSEDES = sseID }, "", fails("os-disk-platform-key"), NeedsRecreate, NonCompliant, ""},
		{"11", "vTPM off", vm(func(v *cvm.VM) { v.VTPM = cvm.False }), "", fails("vtpm-off"), NeedsRecreate, NonCompliant, ""},
		{"12", "secure boot off", vm(func(v *cvm.VM) { v.SecureBoot = cvm.False }), "", fails("secure-boot-off"), NeedsRecreate, NonCompliant, ""},
		{"13", "secure boot off, guest state only", func(x p) {
			enc(x, cvm.EncryptGuestState, "", cvm.DiskGuestState)
			x.VM.Value.SecureBoot = cvm.False
		}, "", fails("os-disk-not-confidential", "secure-boot-off"), NeedsRecreate, NonCompliant, ""},
		{"-", "UEFI settings not shown", vm(func(v *cvm.VM) { v.SecureBoot, v.VTPM = cvm.Unread, cvm.Unread }), "", []string{"unknown uefi-unread"}, "", Unknown, ""},
		{"14", "Trusted Launch", func(x p) { ordinary(x, "TrustedLaunch", "V2") }, "", fails("not-confidential"), NeedsRecreate, NonCompliant, ""},
		{"15", "Trusted Launch with a set", func(x p) { ordinary(x, "TrustedLaunch", "V2"); x.VM.Value.OSDisk.SSEDES = sseID }, "", fails("not-confidential"), NeedsRecreate, NonCompliant, ""},
		{"-", "Trusted Launch's own", func(x p) {
			ordinary(x, "TrustedLaunch", "V2")
			x.VM.Value.VTPM, x.VM.Value.SecureBoot = cvm.False, cvm.False
		}, "", fails("not-confidential", "tl-vtpm-off", "tl-secure-boot-off"), NeedsRecreate, NonCompliant, ""},
		{"16", "ordinary, gen 2", func(x p) { ordinary(x, "", "V2") }, "", fails("not-confidential"), NeedsRecreate, NonCompliant, ""},
		{"16", "ordinary, typed", func(x p) { ordinary(x, "standard", "V2") }, "", fails("not-confidential"), NeedsRecreate, NonCompliant, ""},
		{"17", "ordinary, gen 1", func(x p) { ordinary(x, "", "V1") }, "", fails("not-confidential", "generation-1"), NeedsRecreate, NonCompliant, ""},
		{"17", "gen 1 by the disk", func(x p) { ordinary(x, "", "V1"); x.VM.Value.Generation = "" }, "", fails("not-confidential", "generation-1"), NeedsRecreate, NonCompliant, ""},
		{"14-17", "not wanted", func(x p) { ordinary(x, "", "V1") }, "want: {include: [{name: cvm-*}]}", nil, "", NotACVM, ""},
		{"1", "not wanted, but one", func(p) {}, "want: {exclude: [{name: vm1}]}", nil, "", Compliant, ""},
		{"18", "confidential size", func(x p) { ordinary(x, "TrustedLaunch", "V2"); x.VM.Value.Size = "Standard_DC4as_v5" }, "", fails("not-confidential", "confidential-size-without-cvm"), NeedsRecreate, NonCompliant, ""},
		{"19", "parent size", func(x p) { ordinary(x, "", "V2"); x.VM.Value.Size = "Standard_DC4as_cc_v5" }, "", fails("not-confidential", "not-a-cvm-size"), NeedsRecreate, NonCompliant, ""},
		{"19", "SGX size", func(x p) { ordinary(x, "", "V2"); x.VM.Value.Size = "Standard_DC4s_v3" }, "", fails("not-confidential", "not-a-cvm-size"), NeedsRecreate, NonCompliant, ""},
		{"-", "new security type", vm(func(v *cvm.VM) { v.SecurityType = "Quantum" }), "", []string{"unknown security-type-unread"}, "", Unknown, ""},
		{"21", "ephemeral OS disk", func(x p) {
			x.VM.Value.OSDisk.Ephemeral = true
			x.OSDisk, x.DESDisks = cvm.NotRead[cvm.Disk]("ephemeral-os", "", ""), cvm.NotRead[[]cvm.Disk]("not-asked", "", "")
		}, "", []string{"pass ephemeral-os"}, "", Compliant, ""},
		{"22", "updating", vm(func(v *cvm.VM) { v.ProvisioningState = "Updating" }), "", []string{"unknown in-transition"}, "", Unknown, ""},
		{"22", "state not shown", vm(func(v *cvm.VM) { v.ProvisioningState = "" }), "", []string{"unknown in-transition"}, "", Unknown, ""},
		{"23", "failed", vm(func(v *cvm.VM) { v.ProvisioningState = "Failed" }), "", []string{"pass provisioning-failed"}, "", Compliant, ""},
		{"24", "types differ", disk(func(d *cvm.Disk) { d.SecurityType = cvm.DiskPlatformKey }), "", fails("disk-vm-mismatch"), NeedsPerson, NonCompliant, ""},
		{"24", "types differ, first look", func(x p) { x.OSDisk.Value.SecurityType = cvm.DiskPlatformKey; x.SecondLook = false }, "", []string{"unknown disk-vm-mismatch"}, "", Unknown, ""},
		{"24", "disk's type new", disk(func(d *cvm.Disk) { d.SecurityType = "ConfidentialVM_New" }), "", []string{"unknown disk-security-type-unread"}, "", Unknown, ""},
		{"25", "sets differ", disk(func(d *cvm.Disk) { d.SecureDES = desID + "2" }), "", fails("des-id-mismatch"), NeedsPerson, NonCompliant, ""},
		{"25", "sets differ by case alone", disk(func(d *cvm.Disk) { d.SecureDES = cvm.DESID(strings.ToUpper(string(desID))) }), "", nil, "", Compliant, ""},
		{"25", "disk names no set", disk(func(d *cvm.Disk) { d.SecureDES = "" }), "", fails("des-id-mismatch"), NeedsPerson, NonCompliant, ""},
		{"26", "no profile", disk(func(d *cvm.Disk) { d.HasSecurityProfile, d.SecurityType, d.SecureDES = false, "", "" }), "", fails("disk-vm-mismatch"), NeedsPerson, NonCompliant, ""},
		{"26", "no profile, first look", func(x p) {
			x.OSDisk.Value.HasSecurityProfile, x.OSDisk.Value.SecurityType, x.OSDisk.Value.SecureDES = false, "", ""
			x.SecondLook = false
		}, "", []string{"unknown disk-vm-mismatch"}, "", Unknown, ""},
		{"27", "ADE", disk(func(d *cvm.Disk) { d.ADE = true }), "", fails("ade-on-os-disk"), NeedsRecreate, NonCompliant, ""},
		{"29", "exportable", disk(func(d *cvm.Disk) { d.NetworkAccessPolicy = "AllowAll" }), "", []string{"pass disk-exportable"}, "", Compliant, ""},
		{"29", "SAS open", disk(func(d *cvm.Disk) { d.State = "ActiveSAS" }), "", []string{"pass disk-exportable"}, "", Compliant, ""},
		{"29", "exportable, and policy forbids", disk(func(d *cvm.Disk) { d.NetworkAccessPolicy = "AllowAll" }), "rules: {disk-export: audit}", []string{"pass disk-exportable", "fail disk-exportable"}, "", NonCompliant, ""},
		{"31", "auto rotation, all V1", des(func(d *cvm.DES) { d.AutoRotation = true }), "", fails("des-auto-rotation-unsupported"), InPlace, NonCompliant, sse},
		{"31", "auto rotation, one V2", func(x p) {
			x.DES.Value.AutoRotation = true
			x.DESDisks.Value = append(x.DESDisks.Value, cvm.Disk{SecurityType: cvm.DiskCustomerKey, ConfidentialVersion: "V2"})
		}, "", []string{"pass des-auto-rotation-unsupported"}, "", Compliant, ""},
		{"31", "auto rotation, disks not read", func(x p) {
			x.DES.Value.AutoRotation = true
			x.DESDisks = cvm.NotRead[[]cvm.Disk]("not-asked", "", "")
		}, "", []string{"pass des-auto-rotation-unsupported"}, "", Compliant, ""},
		{"32", "rotation error", des(func(d *cvm.DES) { d.RotationError = "X" }), "", fails("des-rotation-error"), NeedsPerson, NonCompliant, sse},
		{"33", "rotating", des(func(d *cvm.DES) { d.PreviousKeys, d.LastRotation = 1, now.Add(-23*time.Hour) }), "", []string{"pass rotation-in-progress"}, "", Compliant, ""},
		{"33", "rotating, no stamp", des(func(d *cvm.DES) { d.PreviousKeys = 1 }), "", []string{"pass rotation-in-progress"}, "", Compliant, ""},
		{"33", "rotating too long", des(func(d *cvm.DES) { d.PreviousKeys, d.LastRotation = 1, now.Add(-24*time.Hour) }), "", []string{"unknown rotation-in-progress"}, "", Unknown, sse},
		{"34", "set updating", des(func(d *cvm.DES) { d.ProvisioningState = "Updating" }), "", []string{"unknown des-in-transition"}, "", Unknown, sse},
		{"34", "set failed", des(func(d *cvm.DES) { d.ProvisioningState = "Failed" }), "", fails("des-failed"), NeedsDeallocation, NonCompliant, sse},
		{"35", "no identity", des(func(d *cvm.DES) { d.IdentityType = "None" }), "", fails("des-identity-missing"), NeedsPerson, NonCompliant, sse},
		{"35", "no principal", des(func(d *cvm.DES) { d.PrincipalID = "" }), "", fails("des-identity-missing"), NeedsPerson, NonCompliant, sse},
		{"36", "set elsewhere", func(x p) { x.DES.Value.Location, x.Vault.Value.Location = "westeurope", "westeurope" }, "", fails("des-region-mismatch"), NeedsRecreate, NonCompliant, sse},
		{"37", "no key URL", des(func(d *cvm.DES) { d.KeyURL = "https://example.org/keys/k/1" }), "", fails("key-url-invalid"), NeedsPerson, NonCompliant, sse},
		{"38", "no version", des(func(d *cvm.DES) { d.KeyURL = keyURL }), "", fails("key-url-versionless"), NeedsDeallocation, NonCompliant, sse},
		{"39", "others on the set", func(x p) {
			x.DESDisks.Value = append(x.DESDisks.Value, cvm.Disk{EncryptionType: cvm.DESTypeSSE})
		}, "", fails("des-mixed-use"), NeedsRecreate, NonCompliant, sse},
		{"39", "confidential data disk on the set", func(x p) {
			x.DESDisks.Value = append(x.DESDisks.Value, cvm.Disk{DataSecurityEncryptionType: cvm.EncryptDataDisk})
		}, "", nil, "", Compliant, ""},
		{"41", "2048", key(func(k *cvm.Key) { k.Bits = 2048 }), "", []string{"pass key-size-2048"}, "", Compliant, ""},
		{"41", "2048, 3072 wanted", key(func(k *cvm.Key) { k.Bits = 2048 }), "rules: {key-size: {minBits: 3072}}", fails("key-size-2048"), NeedsDeallocation, NonCompliant, keyURL},
		{"41", "3072, 4096 wanted", func(p) {}, "rules: {key-size: {minBits: 4096}}", fails("key-size-below-policy"), NeedsDeallocation, NonCompliant, keyURL},
		{"42", "software", key(func(k *cvm.Key) { k.Type = "RSA" }), "", fails("key-not-hsm"), NeedsDeallocation, NonCompliant, keyURL},
		{"43", "EC", key(func(k *cvm.Key) { k.Type, k.Bits = "EC-HSM", 0 }), "", fails("key-wrong-type"), NeedsDeallocation, NonCompliant, keyURL},
		{"44", "not exportable", key(func(k *cvm.Key) { k.Exportable = cvm.False }), "", fails("key-not-exportable"), NeedsDeallocation, NonCompliant, keyURL},
		{"44", "exportable absent", key(func(k *cvm.Key) { k.Exportable = cvm.Unread }), "", fails("key-not-exportable"), NeedsDeallocation, NonCompliant, keyURL},
		{"45", "no policy", key(func(k *cvm.Key) { k.Policy = cvm.ReleasePolicy{} }), "", fails("key-no-release-policy"), NeedsDeallocation, NonCompliant, keyURL},
		{"46", "policy unreadable", key(func(k *cvm.Key) { k.Policy = cvm.ReleasePolicy{Present: true, Problem: "x"} }), "", []string{"unknown key-policy-unreadable"}, "", Unknown, keyURL},
		{"47", "weak", policy(strings.ReplaceAll(draft, "azure-compliant-cvm", "azure-signed-uvm")), "", fails("key-policy-weak"), NeedsDeallocation, NonCompliant, keyURL},
		{"47", "weak and mutable", func(x p) {
			policy(strings.ReplaceAll(draft, "azure-compliant-cvm", "azure-signed-uvm"))(x)
			x.Key.Value.Policy.Immutable = false
		}, "", []string{"fail key-policy-weak", "pass key-policy-mutable"}, InPlace, NonCompliant, keyURL},
		{"48", "foreign", policy(strings.Replace(draft, `"anyOf":[`, `"anyOf":[{"authority":"https://attest.example.org","allOf":[{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"}]},`, 1)), "", fails("key-policy-foreign-authority"), NeedsDeallocation, NonCompliant, keyURL},
		{"48", "unlisted", policy(strings.Replace(draft, `"anyOf":[`, `"anyOf":[{"authority":"https://sharedxyz.xyz.attest.azure.net","allOf":[{"claim":"x-ms-compliance-status","equals":"azure-compliant-cvm"}]},`, 1)), "", []string{"unknown key-policy-authority-unlisted"}, "", Unknown, keyURL},
		{"49", "region missing", policy(cvm.DraftReleasePolicy("https://sharedweu.weu.attest.azure.net")), "", fails("key-policy-region-missing"), NeedsDeallocation, NonCompliant, keyURL},
		{"50", "TEE missing", policy(strings.Replace(draft, `"allOf":[`, `"allOf":[{"claim":"x-ms-attestation-type","equals":"tdxvm"},`, 1)), "", fails("key-policy-tee-missing"), NeedsDeallocation, NonCompliant, keyURL},
		{"51", "guest dialect", policy(strings.ReplaceAll(draft, `"x-ms-`, `"x-ms-isolation-tee.x-ms-`)), "", fails("key-policy-weak", "key-policy-guest-dialect"), NeedsDeallocation, NonCompliant, keyURL},
		{"52", "mutable", key(func(k *cvm.Key) { k.Policy.Immutable = false }), "", []string{"pass key-policy-mutable"}, "", Compliant, ""},
		{"52", "mutable, and policy forbids", key(func(k *cvm.Key) { k.Policy.Immutable = false }), "rules: {key-policy-immutable: enforce}", []string{"pass key-policy-mutable", "fail key-policy-mutable"}, "", NonCompliant, ""},
		{"53", "disabled", key(func(k *cvm.Key) { k.Enabled = cvm.False }), "", fails("key-disabled"), NeedsPerson, NonCompliant, keyURL},
		{"54", "expired", key(func(k *cvm.Key) { k.Expires = now }), "", fails("key-expired"), NeedsDeallocation, NonCompliant, keyURL},
		{"55", "near expiry", key(func(k *cvm.Key) { k.Expires = days(30) }), "", []string{"pass key-near-expiry"}, "", Compliant, ""},
		{"55", "not near", key(func(k *cvm.Key) { k.Expires = days(30).Add(time.Second) }), "", nil, "", Compliant, ""},
		{"56", "not yet valid", key(func(k *cvm.Key) { k.NotBefore = now.Add(time.Second) }), "", fails("key-not-yet-valid"), NeedsPerson, NonCompliant, keyURL},
		{"56", "valid from now", key(func(k *cvm.Key) { k.NotBefore = now }), "", nil, "", Compliant, ""},
		{"57", "no expiry", key(func(k *cvm.Key) { k.Expires = time.Time{} }), "", []string{"pass key-no-expiry"}, "", Compliant, ""},
		{"57", "no expiry, one wanted", key(func(k *cvm.Key) { k.Expires = time.Time{} }), "rules: {key-expiry: {required: true}}", fails("key-no-expiry"), InPlace, NonCompliant, keyURL},
		{"58", "no unwrap", key(func(k *cvm.Key) { k.Ops = []string{"WRAPKEY"} }), "", fails("key-ops-missing"), InPlace, NonCompliant, keyURL},
		{"59", "key gone", func(x p) { x.Key = cvm.NotThere[cvm.Key]() }, "", fails("key-deleted"), InPlace, NonCompliant, keyURL},
		{"60", "key unreadable", func(x p) { x.Key = cvm.NotRead[cvm.Key]("key-unreadable", "Microsoft.KeyVault/vaults/keys/read", "") }, "", []string{"unknown key-unreadable"}, "", Unknown, keyURL},
		{"61", "newer version", key(func(k *cvm.Key) { k.NewerVersion = "ff" }), "", []string{"pass key-version-behind"}, "", Compliant, ""},
		{"62", "certificate", key(func(k *cvm.Key) { k.Managed = true }), "", fails("key-certificate-backed"), NeedsDeallocation, NonCompliant, keyURL},
		{"-", "attributes not read", key(func(k *cvm.Key) {
			k.AttributesRead, k.Enabled, k.Exportable, k.Expires = false, cvm.Unread, cvm.Unread, time.Time{}
		}), "", []string{"unknown key-attributes-unread"}, "", Unknown, keyURL},
		{"64", "vault Standard", vault(func(v *cvm.Vault) { v.SKU = "standard" }), "", fails("vault-not-premium"), NeedsDeallocation, NonCompliant, kvID},
		{"65", "Managed HSM", vault(func(v *cvm.Vault) { v.HSM, v.SKU, v.RBAC = true, "Standard_B1", cvm.Unread }), "", nil, "", Compliant, ""},
		{"66", "no purge protection", vault(func(v *cvm.Vault) { v.PurgeProtection = cvm.Unread }), "", fails("vault-no-purge-protection"), InPlace, NonCompliant, kvID},
		{"66", "key purgeable", key(func(k *cvm.Key) { k.RecoveryLevel = "Recoverable+Purgeable" }), "", fails("vault-no-purge-protection"), InPlace, NonCompliant, kvID},
		{"66", "key purgeable, vault unread", func(x p) {
			x.Key.Value.RecoveryLevel = "Recoverable+Purgeable"
			x.Vault = cvm.NotRead[cvm.Vault]("vault-unreadable", "a", "")
		}, "", []string{"fail vault-no-purge-protection", "unknown vault-unreadable"}, InPlace, NonCompliant, kvID},
		{"67", "no soft delete", vault(func(v *cvm.Vault) { v.SoftDelete = cvm.False }), "", fails("vault-no-soft-delete"), InPlace, NonCompliant, kvID},
		{"67", "soft delete not shown", vault(func(v *cvm.Vault) { v.SoftDelete = cvm.Unread }), "", nil, "", Compliant, ""},
		{"68", "vault elsewhere", vault(func(v *cvm.Vault) { v.Location = "westeurope" }), "", fails("vault-region-mismatch"), NeedsDeallocation, NonCompliant, kvID},
		{"68", "HSM extended", vault(func(v *cvm.Vault) {
			v.HSM, v.Location, v.ExtraRegions = true, "westeurope", []string{"northeurope"}
		}), "", []string{"unknown vault-region-mismatch"}, "", Unknown, kvID},
		{"69", "set's identity denied", rights(func(r *cvm.Rights) { r.DESIdentity = []string{"get"} }), "", fails("des-identity-denied"), InPlace, NonCompliant, sse},
		{"69", "all", rights(func(r *cvm.Rights) { r.DESIdentity = []string{"all"} }), "", nil, "", Compliant, ""},
		{"70", "orchestrator denied", rights(func(r *cvm.Rights) { r.Orchestrator = []string{"get"} }), "", fails("orchestrator-denied"), InPlace, NonCompliant, sse},
		{"70", "orchestrator without get, access policies", rights(func(r *cvm.Rights) { r.Model = "access-policies" }), "", fails("orchestrator-denied"), InPlace, NonCompliant, sse},
		{"70", "orchestrator not named", rights(func(r *cvm.Rights) { r.Orchestrator, r.OrchestratorKnown = nil, false }), "", nil, "", Compliant, ""},
		{"71", "orchestrator missing", rights(func(r *cvm.Rights) { r.OrchestratorMissing = true }), "", fails("orchestrator-missing"), NeedsPerson, NonCompliant, sse},
		{"72", "closed vault", vault(func(v *cvm.Vault) { v.Bypass = "None" }), "", []string{"pass vault-unreachable-by-platform"}, "", Compliant, ""},
		{"72", "closed by public access", vault(func(v *cvm.Vault) { v.DefaultAction, v.Bypass, v.PublicAccess = "", "", "Disabled" }), "", []string{"pass vault-unreachable-by-platform"}, "", Compliant, ""},
		{"73", "rights unreadable", func(x p) { x.Rights = cvm.NotRead[cvm.Rights]("rights-unreadable", "a", "") }, "", []string{"unknown rights-unreadable"}, "", Unknown, sse},
		{"73", "rights not asked", func(x p) { x.Rights = cvm.NotRead[cvm.Rights]("not-asked", "", "") }, "", nil, "", Compliant, ""},
		{"73a", "others unwrap", rights(func(r *cvm.Rights) { r.OtherUnwrap = []string{"x"} }), "", []string{"pass key-unwrap-broad"}, "", Compliant, ""},
		{"74", "data disk on a platform key", data(func(d *cvm.DataDiskFacts) { d.Disk.Value.EncryptionType = "EncryptionAtRestWithPlatformKey" }), "", fails("data-disk-platform-key"), NeedsDeallocation, NonCompliant, ""},
		{"75", "double encryption", data(func(d *cvm.DataDiskFacts) { d.Disk.Value.EncryptionType = cvm.DESTypeDouble }), "", nil, "", Compliant, ""},
		{"76", "data disk on the confidential set", data(func(d *cvm.DataDiskFacts) { d.Disk.Value.SSEDES, d.DES = desID, cvm.Fact[cvm.DES]{} }), "", fails("des-wrong-type"), NeedsDeallocation, NonCompliant, sse},
		{"76", "data disk on another confidential set", data(func(d *cvm.DataDiskFacts) { d.DES.Value.Type = cvm.DESTypeConfidential }), "", fails("des-wrong-type"), NeedsDeallocation, NonCompliant, string(sseID)},
		{"76a", "confidential data disk", func(x p) {
			x.DataDisks[0].Ref.SecurityEncryptionType = cvm.EncryptDataDisk
			x.VM.Value.Extensions = append(x.VM.Value.Extensions, cvm.Extension{Publisher: "Microsoft.Azure.Security.ConfidentialDiskEncryption", Type: "CDELinux", ProvisioningState: "Succeeded"})
		}, "", nil, "", Compliant, ""},
		{"76a", "its extension missing", data(func(d *cvm.DataDiskFacts) { d.Ref.SecurityEncryptionType = cvm.EncryptDataDisk }), "", []string{"unknown data-disk-extension-not-ready"}, "", Unknown, ""},
		{"76a", "another value", data(func(d *cvm.DataDiskFacts) { d.Ref.SecurityEncryptionType = "New" }), "", []string{"unknown security-encryption-type-unread"}, "", Unknown, ""},
		{"77", "ADE on the data disk", data(func(d *cvm.DataDiskFacts) { d.Disk.Value.ADETainted = true }), "", fails("data-disk-ade-tainted"), NeedsRecreate, NonCompliant, ""},
		{"78", "temp disk", vm(func(v *cvm.VM) { v.Size = "Standard_DC4ads_v5" }), "rules: {temp-disk-confidential: enforce}", fails("temp-disk-not-confidential"), InPlace, NonCompliant, ""},
		{"78", "temp disk encrypted", vm(func(v *cvm.VM) {
			v.Size = "Standard_DC4ads_v5"
			v.Extensions = append(v.Extensions, cvm.Extension{Publisher: "Microsoft.Azure.Security", Type: "AzureDiskEncryptionForLinux", ProvisioningState: "Succeeded"})
		}), "rules: {temp-disk-confidential: enforce}", nil, "", Compliant, ""},
		{"78", "no temp disk", func(p) {}, "rules: {temp-disk-confidential: enforce}", nil, "", Compliant, ""},
		{"79", "not encrypted at host", func(p) {}, "rules: {encryption-at-host: audit}", fails("encryption-at-host-off"), NeedsDeallocation, NonCompliant, ""},
		{"79", "encrypted at host", vm(func(v *cvm.VM) { v.EncryptionAtHost = cvm.True }), "rules: {encryption-at-host: audit}", nil, "", Compliant, ""},
		{"80", "extension absent", vm(func(v *cvm.VM) { v.Extensions = nil }), "", fails("attestation-extension-absent"), InPlace, NonCompliant, ""},
		{"80", "extension failed", vm(func(v *cvm.VM) {
			v.Extensions = []cvm.Extension{v.Extensions[0]}
			v.Extensions[0].ProvisioningState = "Failed"
		}), "", fails("attestation-extension-failed"), InPlace, NonCompliant, ""},
		{"80", "extension not ready", vm(func(v *cvm.VM) {
			v.Extensions = []cvm.Extension{v.Extensions[0]}
			v.Extensions[0].HandlerStatus = "NotReady"
		}), "", fails("attestation-extension-not-ready"), InPlace, NonCompliant, ""},
		{"81", "agent not ready", vm(func(v *cvm.VM) { v.AgentReady = cvm.False }), "", []string{"unknown agent-not-ready"}, "", Unknown, ""},
		{"-", "stopped VM", vm(func(v *cvm.VM) { v.Power, v.AgentReady = "deallocated", cvm.Unread }), "", nil, "", Compliant, ""},
		{"-", "VM unreadable", func(x p) { x.VM = cvm.NotRead[cvm.VM]("vm-unreadable", "a", "") }, "", []string{"unknown vm-unreadable"}, "", Unknown, ""},
		{"-", "disk unreadable", func(x p) { x.OSDisk = cvm.NotRead[cvm.Disk]("disk-unreadable", "a", "") }, "", []string{"unknown disk-unreadable"}, "", Unknown, ""},
		{"-", "set unreadable", func(x p) { x.DES = cvm.NotRead[cvm.DES]("des-unreadable", "a", "") }, "", []string{"unknown des-unreadable"}, "", Unknown, sse},
		{"-", "set not captured", func(x p) { x.DES = cvm.NotRead[cvm.DES]("not-captured", "", "") }, "", []string{"unknown not-captured"}, "", Unknown, sse},
		{"-", "vault unreadable", func(x p) { x.Vault = cvm.NotRead[cvm.Vault]("vault-unreadable", "a", "") }, "", []string{"unknown vault-unreadable"}, "", Unknown, kvID},
		{"-", "two faults", func(x p) { x.VM.Value.SecureBoot, x.Key.Value.Enabled, x.Key.Value.Expires = cvm.False, cvm.False, now }, "", fails("secure-boot-off", "key-disabled", "key-expired"), "", NonCompliant, ""},
		{"-", "fault beside an unknown", func(x p) {
			x.VM.Value.SecureBoot = cvm.False
			x.Key = cvm.NotRead[cvm.Key]("key-unreadable", "a", "")
		}, "", []string{"fail secure-boot-off", "unknown key-unreadable"}, "", NonCompliant, ""},
		{"-", "unknown on a rule that is off", func(x p) { x.VM.Value.SecureBoot = cvm.Unread }, "rules: {secure-boot: off}", nil, "", Compliant, ""},
	}
}

func TestTruthTable(t *testing.T) {
	for _, c := range truthTable() {
		name := fmt.Sprintf("row %s, %s", c.row, c.what)
		p := compliant()
		c.change(&p)
		d := Embedded()
		if c.doc != "" {
			d = mustParse(t, head+c.doc)
		}
		v := Judge(p, d, now)
		want := c.want
		if got := said(v.Findings); !same(got, want) || v.Value != c.value {
			t.Errorf("%s: %s %q\nwant %s %q", name, v.Value, got, c.value, want)
			continue
		}
		if len(want) == 0 {
			continue
		}
		state, reason, _ := strings.Cut(want[0], " ")
		f := find(v.Findings, reason)
		if c.class != "" && f.Class != c.class || c.object != "" && f.Object != c.object || string(f.State) != state {
			t.Errorf("%s: class %q object %q state %q, want %q %q", name, f.Class, f.Object, f.State, c.class, c.object)
		}
		if f.Text == "" || f.Severity == "" || f.Doc == "" || f.Rule == "" || f.State == cvm.Pass && f.Class != ClassNone {
			t.Errorf("%s: %+v", name, f)
		}
	}
}
