package policy

import (
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

// RotationTime is how long a rotation may be under way before it is doubted (row 33):
// one that hasn't ended by then is half done, and the same update is sent again.
const RotationTime = 24 * time.Hour

func (s *subject) confidentialDES() bool {
	return strings.EqualFold(s.des.Value.Type, cvm.DESTypeConfidential)
}

// judgeDESType: rows 1 and 2. On a VM they are of an OS disk that is under the
// set's key; without that, rows 6 to 9 say what is wrong.
func judgeDESType(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	if s.on == onVM && !s.confidentialDES() {
		switch typ, ok, row9 := s.encryption(); {
		case !ok:
			return row9
		case typ != cvm.EncryptDisk:
			return notApplicable("The OS disk isn't encrypted confidentially, so it isn't under the set's key.")
		}
	}
	if s.confidentialDES() {
		return pass("The disk encryption set is of the confidential type.", "des.encryptionType")
	}
	return one(s.onDES(fail("des-wrong-type", NeedsRecreate, fmt.Sprintf("The disk encryption set is of type %s, not %s.", s.des.Value.Type, cvm.DESTypeConfidential), "des.encryptionType")))
}

// judgeDESState: row 34. A state that isn't known counts as one in transition.
func judgeDESState(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	switch state := s.des.Value.ProvisioningState; strings.ToLower(state) {
	case "succeeded":
		return pass("The disk encryption set is in a good state.", "des.provisioningState")
	case "failed":
		return one(s.onDES(fail("des-failed", NeedsDeallocation, "The disk encryption set's last update failed; repeat it with its VMs deallocated.", "des.provisioningState")))
	default:
		return one(s.onDES(unknown("des-in-transition", ClassNone, fmt.Sprintf("The disk encryption set is in state %q; look again.", state), "des.provisioningState")))
	}
}

// judgeAutoRotation: rows 30 and 31. A disk whose version isn't shown may be V2,
// for which rotation without a stop is announced: nothing is failed on a doubt.
func judgeAutoRotation(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	if !s.des.Value.AutoRotation || !s.confidentialDES() {
		return pass("Automatic key rotation is off, or the set isn't of the confidential type.", "des.autoRotation")
	}
	const code = "des-auto-rotation-unsupported"
	allV1 := len(s.desDisks.Value) > 0 // where no list was read, the disks that are seen on the set
	for _, d := range s.desDisks.Value {
		allV1 = allV1 && strings.EqualFold(d.ConfidentialVersion, "V1")
	}
	if !allV1 {
		return one(note(code, "Automatic key rotation is on, which isn't supported for disks of version V1; a disk of the set is of V2, or its version isn't known.", "des.autoRotation", "desDisks"))
	}
	return one(s.onDES(fail(code, InPlace, "Automatic key rotation is on, and all disks of the set are of version V1, for which it isn't supported.", "des.autoRotation", "desDisks")))
}

// judgeRotation: rows 32 and 33.
func judgeRotation(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	des := s.des.Value
	var list []Finding
	if des.RotationError != "" {
		list = append(list, s.onDES(fail("des-rotation-error", NeedsPerson, fmt.Sprintf("Automatic key rotation stopped with %q.", des.RotationError), "des.rotationError")))
	}
	if des.PreviousKeys > 0 {
		const code = "rotation-in-progress"
		switch {
		case des.LastRotation.IsZero():
			list = append(list, note(code, "A key rotation is under way; when it began isn't shown.", "des.previousKeys"))
		case s.now.Before(des.LastRotation.Add(RotationTime)):
			list = append(list, note(code, "A key rotation is under way.", "des.previousKeys", "des.lastRotation"))
		default:
			list = append(list, s.onDES(unknown(code, NeedsPerson, "A key rotation has been under way for more than a day; repeat the update.", "des.previousKeys", "des.lastRotation")))
		}
	}
	return orPass(list, "No key rotation is under way.", "des.previousKeys", "des.rotationError")
}

// judgeIdentity: row 35.
func judgeIdentity(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	des := s.des.Value
	var list []Finding
	if des.IdentityType == "" || strings.EqualFold(des.IdentityType, "None") || des.PrincipalID == "" {
		list = append(list, s.onDES(fail("des-identity-missing", NeedsPerson, "The disk encryption set has no managed identity; give it one, and the identity its rights on the key.", "des.identity")))
	}
	if id := des.FederatedClientID; id != "" && !strings.EqualFold(id, "None") {
		list = append(list, note("des-cross-tenant", "The disk encryption set reaches its key through an application of another tenant (federatedClientId); that confidential VMs support this isn't documented.", "des.federatedClientId"))
	}
	return orPass(list, "The disk encryption set has its identity.", "des.identity")
}

// judgeDESRegion: row 36.
func judgeDESRegion(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	return s.sameRegion(s.des.Value.Location, s.onDES(fail("des-region-mismatch", NeedsRecreate, fmt.Sprintf("The disk encryption set is in %s, not in %s.", s.des.Value.Location, s.region), "des.location", "vm.location")))
}

func (s *subject) sameRegion(location string, mismatch Finding) []Finding {
	switch {
	case s.on != onVM && s.region == "":
		return notApplicable("The region in which it must work isn't known here.")
	case location == "" || s.region == "":
		mismatch.State, mismatch.Class, mismatch.Text = cvm.UnknownState, NeedsPerson, "A location isn't shown by Azure."
		return one(mismatch)
	case cvm.FoldRegion(location) != cvm.FoldRegion(s.region):
		return one(mismatch)
	}
	return pass("The regions are the same.", mismatch.Facts...)
}

// judgeKeyURL: rows 37 and 38.
func judgeKeyURL(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return list
	}
	id, err := cvm.ParseKeyID(s.des.Value.KeyURL)
	switch {
	case err != nil:
		return one(s.onDES(fail("key-url-invalid", NeedsPerson, fmt.Sprintf("The disk encryption set's key URL %.200q is not that of a key in Key Vault or Managed HSM.", s.des.Value.KeyURL), "des.keyUrl")))
	case id.Version() == "":
		return one(s.onDES(fail("key-url-versionless", NeedsDeallocation, "The disk encryption set's key URL names no version.", "des.keyUrl")))
	}
	return pass("The disk encryption set names a key version.", "des.keyUrl")
}

// judgeUse: row 39. Three kinds don't go together: confidential OS disks, whose
// VMs can be deallocated for a rotation; those of ephemeral VMs, which can't (they
// are no resources, so only such a VM's own turn sees one); and all others.
func judgeUse(s *subject) []Finding {
	if list := s.needDES(); list != nil {
		return besideTheChain(list)
	}
	if !s.desDisks.Known {
		if !asked(s.desDisks) {
			return notAsked("What hangs on the disk encryption set was not read.")
		}
		return one(s.onDES(unread(s.desDisks, "des-unreadable", "desDisks")))
	}
	ephemeral := s.on == onVM && s.vm.OSDisk.Ephemeral
	typ, _, _ := s.encryption()
	confidential, other, strange := s.on == onVM && !ephemeral && typ == cvm.EncryptDisk, false, ""
	for i := range s.desDisks.Value { // there may be thousands
		d := &s.desDisks.Value[i]
		switch {
		case s.on == onVM && d.ID != "" && strings.EqualFold(string(d.ID), string(s.vm.OSDisk.ID)): // as its VM says; rows 24 and 26 compare them
		case strings.EqualFold(d.SecurityType, cvm.DiskCustomerKey):
			confidential = true
		case strings.EqualFold(d.DataSecurityEncryptionType, cvm.EncryptDataDisk):
		case d.SecurityType != "" && !cvm.KnownDiskSecurityType(d.SecurityType):
			strange = d.SecurityType
		default:
			other = true
		}
	}
	if confidential && other || ephemeral && (confidential || other) {
		return one(s.onDES(fail("des-mixed-use", NeedsRecreate, "Disks of another kind, or of VMs that can't be deallocated, hang on the disk encryption set beside confidential OS disks; a key rotation will stall on them.", "desDisks")))
	}
	if strange != "" {
		return one(s.onDES(unknown("disk-security-type-unread", NeedsPerson, fmt.Sprintf("A disk on the disk encryption set has the securityType %q, which isn't known.", strange), "desDisks")))
	}
	return pass("The disk encryption set serves disks of one kind.", "desDisks")
}
