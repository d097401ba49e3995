package policy

import (
	"fmt"
	"strings"

	"cvmguard/internal/cvm"
)

// judgeKind: rows 14 to 19. In rows 16 and 17 not-confidential comes first.
func judgeKind(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	var list []Finding
	switch s.security {
	case cvm.SecurityUnknown:
		list = append(list, unknown("security-type-unread", NeedsPerson,
			fmt.Sprintf("securityType is %q, which isn't known; a newer cvmguard may know it.", s.vm.SecurityType), "vm.securityType"))
	case cvm.SecurityStandard, cvm.SecurityTrustedLaunch:
		kind := cvm.KindWithDisk(s.vm, s.p.OSDisk)
		text := "The VM is " + strings.TrimSuffix(describeKind(kind, s.security), " VM")
		if s.security == cvm.SecurityStandard && kind == cvm.KindUnknown {
			text = "The VM is an ordinary one"
		}
		if s.unwanted {
			text += ", and policy doesn't want it to be a confidential VM: " + s.why + "."
		} else {
			text += " and can't become a confidential VM; create a new one. Policy wants it to be one: " + s.why + "."
		}
		list = append(list, s.recreate("not-confidential", text, "vm.securityType"))
		if kind == cvm.KindStandardGen1 {
			list = append(list, s.recreate("generation-1", "The VM is of generation 1; confidential VMs are of generation 2.", "vm.generation"))
		}
		if tee := cvm.TEEOf(s.vm); tee == cvm.TEESNP || tee == cvm.TEETDX {
			list = append(list, s.recreate("confidential-size-without-cvm", fmt.Sprintf("The size %s is a confidential one, but the VM isn't a confidential VM.", s.vm.Size), "vm.size", "vm.securityType"))
		}
	}
	switch why := cvm.NotACVMSize(s.vm.Size); {
	case s.vm.Size == "": // rows 18 and 19 rest on it
		list = append(list, unknown("vm-unreadable", NeedsPerson, "The VM's size was not in what was read.", "vm.size"))
	case why != "":
		list = append(list, s.recreate("not-a-cvm-size", fmt.Sprintf("The size %s is not a confidential VM size (%s).", s.vm.Size, why), "vm.size"))
	}
	if s.unwanted {
		for i := range list {
			list[i].State, list[i].Class = cvm.NotApplicable, ClassNone
		}
	}
	return orPass(list, "The VM is a confidential VM.", "vm.securityType")
}

// recreate is fail for what only a new VM cures. A scale set's instance is made
// anew from the set's model, so the model is what has to change (row 20).
func (s *subject) recreate(code, text string, facts ...string) Finding {
	if s.vm.ScaleSet != "" {
		text += " The VM is an instance of a scale set: change the set's model, then replace the instance."
	}
	return fail(code, NeedsRecreate, text, facts...)
}

// judgeState: rows 21 to 23. A state that isn't known counts as one in transition.
func judgeState(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	var list []Finding
	switch strings.ToLower(s.vm.ProvisioningState) {
	case "succeeded":
	case "failed":
		list = append(list, note("provisioning-failed", "The VM's last operation failed; the facts are judged as read, a person should look.", "vm.provisioningState"))
	default:
		list = append(list, unknown("in-transition", ClassNone, fmt.Sprintf("The VM is in state %q; look again.", s.vm.ProvisioningState), "vm.provisioningState"))
	}
	if s.vm.OSDisk.Ephemeral {
		list = append(list, note("ephemeral-os", "The OS disk is ephemeral: the VM can't be deallocated, nor its key rotated.", "vm.osDisk"))
	}
	return orPass(list, "The VM is in a settled state.", "vm.provisioningState")
}

// encryption is the VM's securityEncryptionType as a known value; ok is false for
// row 9, whose finding then says it.
func (s *subject) encryption() (typ string, ok bool, row9 []Finding) {
	for _, k := range []string{cvm.EncryptGuestState, cvm.EncryptDisk, cvm.EncryptNoTPM} {
		if strings.EqualFold(s.vm.OSDisk.SecurityEncryptionType, k) {
			return k, true, nil
		}
	}
	return "", false, one(unknown("security-encryption-type-unread", NeedsPerson,
		fmt.Sprintf("securityEncryptionType is %q, which isn't known; read it with a newer API.", s.vm.OSDisk.SecurityEncryptionType), "vm.osDisk.securityEncryptionType"))
}

// judgeOSDisk: rows 1, 5 and 9, and the note of row 29.
func judgeOSDisk(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	var notes []Finding
	if exportable(s.p.OSDisk) {
		notes = append(notes, note("disk-exportable", "The OS disk may be exported; its content stays ciphertext only while nobody else may unwrap with its key.", "osDisk.networkAccessPolicy", "osDisk.diskState"))
	}
	if list := s.needCVM(); list != nil {
		if len(notes) > 0 && list[0].State == cvm.NotApplicable {
			return notes
		}
		return append(list, notes...)
	}
	typ, ok, row9 := s.encryption()
	switch {
	case !ok:
		return append(row9, notes...)
	case typ == cvm.EncryptNoTPM:
		if len(notes) > 0 {
			return notes
		}
		return notApplicable("The VM keeps no vTPM state, which is vtpm-persisted's to judge.")
	case typ == cvm.EncryptGuestState && s.vm.OSDisk.SecureDES == "":
		return append(one(s.recreate("os-disk-not-confidential", "Only the guest state is encrypted; the OS disk's encryption is decided at creation.", "vm.osDisk.securityEncryptionType")), notes...)
	case typ == cvm.EncryptGuestState: // row 6 is os-disk-customer-key's
		return append(one(s.recreate("des-without-disk-encryption", "A confidential disk encryption set is named, but the OS disk isn't encrypted confidentially.", "vm.osDisk.securityEncryptionType", "vm.osDisk.secureDES")), notes...)
	}
	return orPass(notes, "The OS disk is encrypted confidentially.", "vm.osDisk.securityEncryptionType")
}

func exportable(d cvm.Fact[cvm.Disk]) bool {
	return d.Known && (strings.EqualFold(d.Value.NetworkAccessPolicy, "AllowAll") || strings.HasPrefix(strings.ToLower(d.Value.State), "activesas"))
}

// judgeCustomerKey: rows 3, 4, 6 and 10. managedDisk.diskEncryptionSet, which is
// server-side encryption, doesn't count as a customer's key here.
func judgeCustomerKey(s *subject) []Finding {
	if list := s.needCVM(); list != nil {
		return list
	}
	var list []Finding
	ref := s.vm.OSDisk
	typ, ok, row9 := s.encryption()
	switch {
	case !ok:
		list = append(list, row9...)
	case typ == cvm.EncryptDisk && ref.SecureDES == "":
		list = append(list, s.recreate("os-disk-platform-key", "The OS disk is under a platform key; which key it is under is decided at creation.", "vm.osDisk.secureDES"))
	case typ == cvm.EncryptGuestState && ref.SecureDES != "":
		list = append(list, s.recreate("des-without-disk-encryption", "A confidential disk encryption set is named, but the OS disk isn't encrypted confidentially.", "vm.osDisk.securityEncryptionType", "vm.osDisk.secureDES"))
	case typ != cvm.EncryptDisk && ref.SecureDES == "":
		return notApplicable("The OS disk isn't encrypted confidentially, so it has no key of its own.")
	}
	if ref.SecureDES != "" && ref.SSEDES != "" {
		list = append(list, fail("des-both-fields", NeedsPerson, "The OS disk names a disk encryption set twice: a confidential one and one for server-side encryption.", "vm.osDisk.secureDES", "vm.osDisk.sseDES"))
	}
	switch {
	case ref.SecureDES == "" || s.des.Known:
	case s.des.Absent && typ != cvm.EncryptDisk: // row 4 is of a disk that is under the set's key
	case !s.des.Absent:
		list = append(list, s.onDES(unread(s.des, "des-unreadable", "des")))
	default:
		list = append(list, s.onDES(fail("des-missing", NeedsPerson, "The disk encryption set that the OS disk names isn't there; the VM won't boot. Restore access to its key.", "des")))
	}
	if typ == cvm.EncryptNoTPM && len(list) == 0 {
		return notApplicable("The VM keeps no vTPM state, which is vtpm-persisted's to judge; no disk is under the set's key.")
	}
	return orPass(list, "The OS disk is under a customer's key.", "vm.osDisk.secureDES", "des")
}

// judgePersisted: rows 7 and 8.
func judgePersisted(s *subject) []Finding {
	if list := s.needCVM(); list != nil {
		return list
	}
	typ, ok, row9 := s.encryption()
	switch {
	case !ok:
		return row9
	case typ != cvm.EncryptNoTPM:
		return pass("The vTPM keeps its state.", "vm.osDisk.securityEncryptionType")
	case s.tee == cvm.TEESNP || strings.EqualFold(s.vm.OS, "Windows"):
		return one(s.recreate("vtpm-not-persisted-unsupported", "The VM keeps no vTPM state, which is made for Linux on TDX alone.", "vm.osDisk.securityEncryptionType", "vm.size", "vm.os"))
	}
	return one(s.recreate("vtpm-not-persisted", "The VM keeps no vTPM state: neither guest state nor OS disk is encrypted.", "vm.osDisk.securityEncryptionType"))
}

// judgeSecureBoot: rows 12 and 13, and Trusted Launch's own. Without a persisted
// vTPM (rows 7 and 8) secure boot may be either; with a type that isn't known
// (row 9) nobody can say.
func judgeSecureBoot(s *subject) []Finding {
	code, class, list := s.uefi("secure-boot-off", "tl-secure-boot-off")
	if list != nil {
		return list
	}
	if s.security == cvm.SecurityConfidential {
		switch typ, ok, row9 := s.encryption(); {
		case typ == cvm.EncryptNoTPM:
			return notApplicable("The VM keeps no vTPM state; secure boot may be on or off with it.")
		case !ok && s.vm.SecureBoot == cvm.False: // whether it must be on depends on the type
			return row9
		}
	}
	return s.uefiFinding(s.vm.SecureBoot, code, class, "Secure boot", "vm.secureBoot")
}

// judgeVTPM: row 11, and Trusted Launch's own.
func judgeVTPM(s *subject) []Finding {
	code, class, list := s.uefi("vtpm-off", "tl-vtpm-off")
	if list != nil {
		return list
	}
	return s.uefiFinding(s.vm.VTPM, code, class, "The vTPM", "vm.vTpm")
}

func (s *subject) uefi(cvmCode, tlCode string) (code string, class Class, list []Finding) {
	if list := s.needVM(); list != nil {
		return "", "", list
	}
	switch s.security {
	case cvm.SecurityConfidential:
		return cvmCode, NeedsRecreate, nil
	case cvm.SecurityTrustedLaunch:
		return tlCode, NeedsDeallocation, nil
	case cvm.SecurityUnknown:
		return "", "", s.needCVM()
	}
	return "", "", notApplicable("UEFI settings have no effect on an ordinary VM.")
}

func (s *subject) uefiFinding(v cvm.Tri, code string, class Class, what, fact string) []Finding {
	switch {
	case v == cvm.True:
		return pass(what+" is on.", fact)
	case v == cvm.False && class == NeedsRecreate:
		return one(s.recreate(code, what+" is off.", fact))
	case v == cvm.False:
		return one(fail(code, class, what+" is off.", fact))
	}
	return one(unknown("uefi-unread", NeedsPerson, what+" isn't shown by Azure.", fact))
}

// judgeMatch: rows 24 to 26. A break counts after a second read only, for VM and
// disk aren't read at one moment.
func judgeMatch(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	if s.vm.OSDisk.Ephemeral {
		return notApplicable("An ephemeral OS disk is no resource of its own.")
	}
	if !s.p.OSDisk.Known {
		return one(unread(s.p.OSDisk, "disk-unreadable", "osDisk"))
	}
	d := s.p.OSDisk.Value
	mismatch := func(code, text string) Finding {
		if s.p.SecondLook {
			return fail(code, NeedsPerson, text, "vm.osDisk", "osDisk")
		}
		return unknown(code, ClassNone, text+" Both are to be read again.", "vm.osDisk", "osDisk")
	}
	var list []Finding
	want, known := cvm.ExpectedDiskSecurityType(s.vm)
	have := d.SecurityType
	if strings.EqualFold(have, "Standard") {
		have = ""
	}
	isCVM := s.security == cvm.SecurityConfidential
	switch {
	case s.security == cvm.SecurityUnknown:
		list = append(list, s.needCVM()...)
	case !known: // row 9 says it, whatever the disk shows
	case d.HasSecurityProfile && (!cvm.KnownDiskSecurityType(have) || isCVM && d.SecurityType == ""):
		list = append(list, unknown("disk-security-type-unread", NeedsPerson, fmt.Sprintf("The OS disk's securityType is %q, which isn't known.", d.SecurityType), "osDisk.securityType"))
	case isCVM && !d.HasSecurityProfile:
		list = append(list, mismatch("disk-vm-mismatch", "The VM is a confidential VM, but its OS disk shows no security profile."))
	case !isCVM && have == "": // an ordinary disk; for Trusted Launch the profile isn't always shown
	case !strings.EqualFold(have, want):
		list = append(list, mismatch("disk-vm-mismatch", fmt.Sprintf("The VM's settings stand for a disk of type %q, the OS disk shows %q.", want, d.SecurityType)))
	}
	if d.HasSecurityProfile && !strings.EqualFold(string(d.SecureDES), string(s.vm.OSDisk.SecureDES)) {
		list = append(list, mismatch("des-id-mismatch", "VM and OS disk name different disk encryption sets."))
	}
	if !known && len(list) == 0 {
		_, _, row9 := s.encryption()
		return row9
	}
	return orPass(list, "VM and OS disk agree.", "vm.osDisk", "osDisk")
}

// judgeADE: row 27.
func judgeADE(s *subject) []Finding {
	if list := s.needCVM(); list != nil {
		return list
	}
	switch {
	case s.vm.OSDisk.Ephemeral:
		return notApplicable("An ephemeral OS disk is no resource of its own.")
	case !s.p.OSDisk.Known:
		return one(unread(s.p.OSDisk, "disk-unreadable", "osDisk"))
	case s.p.OSDisk.Value.ADE:
		return one(s.recreate("ade-on-os-disk", "The OS disk is encrypted by Azure Disk Encryption, which isn't made for confidential VMs.", "osDisk.ade"))
	}
	return pass("The OS disk has no Azure Disk Encryption.", "osDisk.ade")
}

// judgeExport is row 29 where policy demands it.
func judgeExport(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	switch {
	case s.vm.OSDisk.Ephemeral:
		return notApplicable("An ephemeral OS disk can't be exported.")
	case !s.p.OSDisk.Known:
		return one(unread(s.p.OSDisk, "disk-unreadable", "osDisk"))
	case exportable(s.p.OSDisk):
		return one(fail("disk-exportable", InPlace, "The OS disk may be exported.", "osDisk.networkAccessPolicy", "osDisk.diskState"))
	case s.p.OSDisk.Value.NetworkAccessPolicy == "":
		return one(unknown("disk-exportable", NeedsPerson, "The OS disk's networkAccessPolicy isn't shown.", "osDisk.networkAccessPolicy"))
	}
	return pass("The OS disk can't be exported.", "osDisk.networkAccessPolicy", "osDisk.diskState")
}

// judgeAtHost: row 79. ARM leaves the member out when it is off. Azure refuses to
// switch it on for a VM that has or had Azure Disk Encryption.
func judgeAtHost(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	if s.vm.EncryptionAtHost == cvm.True {
		return pass("Encryption at host is on.", "vm.encryptionAtHost")
	}
	const code = "encryption-at-host-off"
	ade := s.p.OSDisk.Known && s.p.OSDisk.Value.ADETainted
	for _, d := range s.p.DataDisks {
		ade = ade || d.Disk.Known && d.Disk.Value.ADETainted
	}
	if ade {
		return one(s.recreate(code, "Encryption at host is off, and Azure refuses it for a VM that has or had Azure Disk Encryption; create a new one.", "vm.encryptionAtHost", "osDisk.ade", "dataDisks"))
	}
	return one(fail(code, NeedsDeallocation, "Encryption at host is off.", "vm.encryptionAtHost"))
}
