package policy

import "sync"

// ruleTable is made on first use: nothing is done at start.
var ruleTable = sync.OnceValue(func() []Rule {
	return slicesOf(vmRules(), desRules(), keyRules(), vaultRules(), guestRules(), regionRules(), exemptRules(), imageRules(), guestFDERules(), enforcementRules())
})

func slicesOf(lists ...[]Rule) []Rule {
	var all []Rule
	for _, l := range lists {
		for _, r := range l {
			if r.Default == "" {
				r.Default = EffectEnforce
			}
			all = append(all, r)
		}
	}
	return all
}

func vmRules() []Rule {
	vm := []string{onVM}
	return []Rule{
		{ID: "vm-kind", Title: "The VM is a confidential VM", Severity: High, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docFAQ, On: vm, judge: judgeKind,
			Checks: "securityProfile.securityType is ConfidentialVM where policy wants the VM to be one.",
			Why:    "Only a confidential VM keeps its memory from the host; Trusted Launch and server-side encryption don't.",
			Fix:    "Create a new VM on a confidential size from a confidential image; no VM can be converted."},
		{ID: "vm-state", Title: "The VM is in a settled state", Severity: Medium, Needs: NeedsAzure,
			Doc: docOverview, On: vm, judge: judgeState,
			Checks: "provisioningState is settled; an ephemeral OS disk and a failed provisioning are noted.",
			Why:    "What is read while an operation runs may be of two different moments.",
			Fix:    "Wait for the operation; a person looks into a failed one."},
		{ID: "os-disk-confidential", Title: "The OS disk is encrypted confidentially", Severity: High, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docOverview, On: vm, judge: judgeOSDisk,
			Checks: "securityEncryptionType is DiskWithVMGuestState; a disk that may be exported is noted.",
			Why:    "With guest state alone the OS disk is readable by whoever has the storage.",
			Fix:    "Create the VM anew; it is decided at creation."},
		{ID: "os-disk-customer-key", Title: "The OS disk is under a customer's key", Severity: High, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docFAQ, On: vm, judge: judgeCustomerKey,
			Checks: "managedDisk.securityProfile names a disk encryption set that exists; managedDisk.diskEncryptionSet doesn't count.",
			Why:    "Under a platform key Microsoft decides who may open the disk.",
			Fix:    "Create the VM anew with a disk encryption set of the confidential type; it is decided at creation."},
		{ID: "vtpm-persisted", Title: "The vTPM keeps its state", Severity: Medium, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docFAQ, On: vm, judge: judgePersisted,
			Checks: "securityEncryptionType isn't NonPersistedTPM.",
			Why:    "Such a VM has no encrypted guest state and no encrypted OS disk, and forgets its vTPM at each boot.",
			Fix:    "Create the VM anew, or turn this rule off if a stateless VM is wanted."},
		{ID: "secure-boot", Title: "Secure boot is on", Severity: High, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docTrusted, On: vm, judge: judgeSecureBoot,
			Checks: "uefiSettings.secureBootEnabled is true, for confidential VMs and Trusted Launch.",
			Why:    "Without it anything may boot, and the sealed root key follows what booted.",
			Fix:    "Create a confidential VM anew; on Trusted Launch it can be switched on, deallocated."},
		{ID: "vtpm", Title: "The vTPM is on", Severity: High, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docTrusted, On: vm, judge: judgeVTPM,
			Checks: "uefiSettings.vTpmEnabled is true, for confidential VMs and Trusted Launch.",
			Why:    "Without it there is no measured boot and nothing to attest.",
			Fix:    "Create a confidential VM anew; on Trusted Launch it can be switched on, deallocated."},
		{ID: "disk-vm-match", Title: "VM and OS disk agree", Severity: High, Class: NeedsPerson, Needs: NeedsAzure,
			Doc: docQuickstart, On: vm, judge: judgeMatch,
			Checks: "The OS disk's securityType and disk encryption set are those that the VM's own settings stand for.",
			Why:    "Two views that disagree mean that one of them isn't what it seems.",
			Fix:    "A person finds out which is right."},
		{ID: "ade-on-os-disk", Title: "The OS disk has no Azure Disk Encryption", Severity: Medium, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docDiskKinds, On: vm, judge: judgeADE,
			Checks: "encryptionSettingsCollection isn't enabled on a confidential VM's OS disk.",
			Why:    "Azure Disk Encryption of OS disks isn't made for confidential VMs and can't be undone on Linux.",
			Fix:    "Create the VM anew."},
		{ID: "disk-export", Title: "The OS disk can't be exported", Severity: Low, Class: InPlace, Needs: NeedsAzure, Default: EffectOff,
			Doc: docDisks, On: vm, judge: judgeExport,
			Checks: "networkAccessPolicy isn't AllowAll and no access by SAS is open.",
			Why:    "Who may export the disk and unwrap with its key can open it outside any TEE.",
			Fix:    "Set networkAccessPolicy to DenyAll."},
		{ID: "encryption-at-host", Title: "Encryption at host is on", Severity: Low, Class: NeedsDeallocation, Needs: NeedsAzure, Default: EffectOff,
			Doc: docDiskKinds, On: vm, judge: judgeAtHost,
			Checks: "securityProfile.encryptionAtHost is true.",
			Why:    "It covers caches and the temporary disk at rest; it isn't confidential encryption.",
			Fix:    "Switch it on while the VM is deallocated; refused where Azure Disk Encryption is or was on the VM."},
		{ID: "data-disk-customer-key", Title: "Data disks are under a customer's key", Severity: Medium, Class: NeedsDeallocation, Needs: NeedsAzure,
			Doc: docDisks, On: vm, judge: judgeDataDisks,
			Checks: "Each data disk is encrypted with a customer's key by an ordinary disk encryption set, or confidentially.",
			Why:    "A confidential OS disk doesn't cover data disks.",
			Fix:    "Put the disk on an ordinary disk encryption set while the VM is deallocated; there is no way back to a platform key."},
	}
}

func desRules() []Rule {
	des := []string{onVM, onDES}
	return []Rule{
		{ID: "des-type", Title: "The disk encryption set is of the confidential type", Severity: High, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docQuickstart, On: des, judge: judgeDESType,
			Checks: "encryptionType is ConfidentialVmEncryptedWithCustomerKey.",
			Why:    "A set of another type hands the key to storage, not to the attested guest.",
			Fix:    "Make a set of the confidential type and create the VM anew."},
		{ID: "des-state", Title: "The disk encryption set is in a good state", Severity: Medium, Class: NeedsDeallocation, Needs: NeedsAzure,
			Doc: docRotation, On: des, judge: judgeDESState,
			Checks: "provisioningState is Succeeded.",
			Why:    "A failed update may have left some disks on the old key and some on the new.",
			Fix:    "Repeat the same update with all its VMs deallocated."},
		{ID: "des-auto-rotation", Title: "Automatic key rotation is off", Severity: Medium, Class: InPlace, Needs: NeedsAzure,
			Doc: docRotation, On: des, judge: judgeAutoRotation,
			Checks: "rotationToLatestKeyVersionEnabled is false on a confidential set whose disks are all of version V1; where a disk is of V2, or a version isn't shown, it is noted.",
			Why:    "Rotation without a stop isn't supported for such disks.",
			Fix:    "Set the flag to false; rotate in a window with all VMs of the set deallocated."},
		{ID: "des-rotation", Title: "No key rotation is stuck", Severity: Medium, Class: NeedsPerson, Needs: NeedsAzure,
			Doc: docRotation, On: des, judge: judgeRotation,
			Checks: "autoKeyRotationError is empty, and previousKeys is empty 24 h after the last rotation.",
			Why:    "A rotation that ended half done leaves disks that need the old key.",
			Fix:    "A person reads the error and repeats the update."},
		{ID: "des-identity", Title: "The disk encryption set has its identity", Severity: High, Class: NeedsPerson, Needs: NeedsAzure,
			Doc: docDisks, On: des, judge: judgeIdentity,
			Checks: "The set has a managed identity with a principal.",
			Why:    "Without it nothing can use the key and no VM on it starts.",
			Fix:    "Give the set an identity and the identity its rights on the key."},
		{ID: "des-region", Title: "The disk encryption set is in the VM's region", Severity: Medium, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docDisks, On: des, judge: judgeDESRegion,
			Checks: "location of set and VM are the same.",
			Why:    "Sets work in their own region only.",
			Fix:    "Make a set in the VM's region and create the VM anew."},
		{ID: "des-key-url", Title: "The disk encryption set names a key version", Severity: Medium, Class: NeedsDeallocation, Needs: NeedsAzure,
			Doc: docDisks, On: des, judge: judgeKeyURL,
			Checks: "activeKey.keyUrl is the versioned URL of a key in Key Vault or Managed HSM.",
			Why:    "A set without a version can't say which key its disks need.",
			Fix:    "Set the full URL while all VMs of the set are deallocated."},
		{ID: "des-use", Title: "The disk encryption set serves confidential OS disks alone", Severity: Low, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docRotation, On: des, judge: judgeUse,
			Checks: "No disk of another kind hangs on the set.",
			Why:    "A rotation stalls on disks that can't take part in it.",
			Fix:    "Move the others to a set of their own."},
	}
}
