package policy

// Documentation of images and of Ubuntu's encryption in the guest.
const (
	docRelease = "https://ubuntu.com/about/release-cycle"
	docImages  = "https://learn.microsoft.com/azure/confidential-computing/virtual-machine-options"
	docSealing = "https://github.com/canonical/nullboot"
)

func guestFDERules() []Rule {
	vm := []string{onVM}
	return []Rule{
		{ID: "fde-active", Title: "The root is encrypted in the guest and sealed to the vTPM", Severity: High, Class: NeedsRecreate, Needs: NeedsProof,
			Doc: docSealing, On: vm, judge: judgeFDE,
			Checks: "On a confidential OS disk from an image that seals its root, the guest says that the root is encrypted and its key sealed, and PCR 12 bears out that the initial RAM disk which opens it ran.",
			Why:    "Resource Manager's DiskWithVMGuestState is Azure's word; this is the guest's, as far as the vTPM proves it.",
			Fix:    "Create the VM anew from a confidential image: it is decided at creation. While the first boot isn't done, wait."},
		{ID: "fde-key-in-clear", Title: "No key to the disk lies in clear", Severity: Critical, Class: NeedsPerson, Needs: NeedsClaims,
			Doc: docSealing, On: vm, judge: judgeClearKey,
			Checks: "Once the first boot is done, the guest says that no LUKS header has a token with a key and /cc_growpart_keydata is gone.",
			Why:    "Whoever has the disk, a copy or a snapshot opens it with such a key, outside any TEE.",
			Fix:    "A person takes the data off and creates the VM anew: what was readable once is to be taken for known."},
		{ID: "fde-slot-left", Title: "The first boot's key slot is gone", Severity: Medium, Class: NeedsPerson, Needs: NeedsClaims,
			Doc: docSealing, On: vm, judge: judgeSlotLeft,
			Checks: "Once the first boot is done, the guest says that the root's LUKS header has no key slot 10.",
			Why:    "cloud-init resizes the root by a key of its own and only warns when it fails to remove it; that key was in a file.",
			Fix:    "A person removes the slot in the guest: cryptsetup luksKillSlot <partition> 10."},
		{ID: "reseal-pending", Title: "The root's key is sealed to what boots next", Severity: High, Class: NeedsPerson, Needs: NeedsClaims,
			Doc: docSealing, On: vm, judge: judgeReseal,
			Checks: "The guest says that every kernel and shim which may boot next, and the keys and signatures of the secure boot policy in force (PK, KEK, db, dbx), are those that the key was sealed to; an update that was sealed and waits for a restart is noted.",
			Why:    "A restart into something else doesn't open the root: the owner is locked out but for the recovery key.",
			Fix:    "A person runs nullbootctl in the guest, before any restart or deallocation, and looks into why it didn't run."},
		{ID: "boot-measurement", Title: "The boot measures what it measured before", Severity: Low, Class: ClassNone, Needs: NeedsProof,
			Doc: docAttest, On: vm, judge: judgeBoot,
			Checks: "PCR 4 and PCR 7 are those that the VM's last attestation proved; a change is noted for 30 days.",
			Why:    "A new kernel or another secure boot policy should be known to somebody.",
			Fix:    "None where the change was meant; else a person looks into the guest."},
	}
}

func imageRules() []Rule {
	vm := []string{onVM}
	return []Rule{
		{ID: "image-tee", Title: "The image is made for the VM's TEE", Severity: Medium, Class: NeedsRecreate, Needs: NeedsAzure,
			Doc: docImages, On: vm, judge: judgeImageTEE,
			Checks: "The marketplace image that the VM, or its OS disk, was made from supports the TEE of the VM's size; images that the catalogue lacks are passed over.",
			Why:    "An image that isn't made for the TEE may not boot, or not attest, after an update or a resize.",
			Fix:    "Create the VM anew from an image for its TEE."},
		{ID: "image-support", Title: "The image's release is in standard support", Severity: Low, Class: NeedsPerson, Needs: NeedsAzure,
			Doc: docRelease, On: vm, judge: judgeImageSupport,
			Checks: "The last day of standard support of the image's release isn't past; images that the catalogue lacks are passed over.",
			Why:    "A kernel without security updates is inside the trust boundary all the same.",
			Fix:    "A person creates the VM anew from a release in support, or turns the rule off where the release was upgraded in place or is under extended support."},
	}
}
