package policy

import (
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// Extensions that rules look for.
const (
	extAttestation = "GuestAttestation"
	pubAttestation = "Microsoft.Azure.Security."
	extADE         = "AzureDiskEncryption" // …ForLinux too
	pubADE         = "Microsoft.Azure.Security"
	extDataDisk    = "Microsoft.Azure.Security.ConfidentialDiskEncryption"
)

// judgeDataDisks: rows 74 to 77.
func judgeDataDisks(s *subject) []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	facts := s.p.DataDisks
	if len(facts) == 0 && len(s.vm.DataDisks) == 0 {
		return notApplicable("The VM has no data disks.")
	}
	var list []Finding
	for _, ref := range s.vm.DataDisks {
		read := false
		for _, f := range facts {
			read = read || f.Ref.LUN == ref.LUN && strings.EqualFold(string(f.Ref.ID), string(ref.ID))
		}
		if !read {
			list = append(list, unknown("disk-unreadable", NeedsPerson, fmt.Sprintf("Data disk %s was not read.", ref.Name), "disk "+string(ref.ID)))
		}
	}
	for _, f := range facts {
		list = append(list, s.dataDisk(f)...)
	}
	return orPass(list, "All data disks are under a customer's key.", "dataDisks")
}

func (s *subject) dataDisk(f cvm.DataDiskFacts) []Finding {
	name, fact := f.Ref.Name, "disk "+string(f.Ref.ID)
	if !f.Disk.Known {
		u := unread(f.Disk, "disk-unreadable", "Data disk "+name)
		u.Facts = []string{fact}
		return one(u)
	}
	d := f.Disk.Value
	if d.Shared() { // what is to be done about it takes more VMs down than this
		name += fmt.Sprintf(" (shared: up to %d VMs have it at once)", max(d.MaxShares, len(d.Holders)))
	}
	var list []Finding
	if d.ADETainted {
		list = append(list, fail("data-disk-ade-tainted", NeedsRecreate, fmt.Sprintf("Data disk %s has or had Azure Disk Encryption, so it can't be put under a customer's key; make a new one by an upload copy.", name), fact))
	}
	// The VM and the disk may each say that it is encrypted confidentially.
	types := slices.DeleteFunc([]string{f.Ref.SecurityEncryptionType, d.DataSecurityEncryptionType}, func(t string) bool { return t == "" })
	if len(types) > 0 {
		return append(list, s.confidentialDataDisk(types, name, fact)...)
	}
	switch strings.ToLower(d.EncryptionType) {
	case "encryptionatrestwithplatformkey":
		list = append(list, fail("data-disk-platform-key", NeedsDeallocation, fmt.Sprintf("Data disk %s is under a platform key.", name), fact))
	case "encryptionatrestwithcustomerkey", "encryptionatrestwithplatformandcustomerkeys":
		list = append(list, s.dataDiskSet(f, name, fact)...)
	default:
		list = append(list, unknown("disk-unreadable", NeedsPerson, fmt.Sprintf("Data disk %s shows the encryption type %q, which isn't known.", name, d.EncryptionType), fact))
	}
	return list
}

// dataDiskSet judges the set that a data disk under a customer's key hangs on:
// an ordinary one is good (row 75), a confidential one isn't (row 76).
func (s *subject) dataDiskSet(f cvm.DataDiskFacts, name, fact string) []Finding {
	id := f.Disk.Value.SSEDES
	wrong := fail("des-wrong-type", NeedsDeallocation, fmt.Sprintf("Data disk %s hangs on a disk encryption set of the confidential type, which is for OS disks.", name), fact)
	wrong.Object = string(id)
	switch {
	case id == "":
		return one(unknown("disk-unreadable", NeedsPerson, fmt.Sprintf("Data disk %s is under a customer's key but names no disk encryption set.", name), fact))
	case strings.EqualFold(string(id), string(s.vm.OSDisk.SecureDES)):
		if s.des.Known && !s.confidentialDES() {
			return nil // row 2 speaks of the set
		}
		return one(wrong)
	case f.DES.Known && strings.EqualFold(f.DES.Value.Type, cvm.DESTypeConfidential):
		return one(wrong)
	case f.DES.Known:
		return nil
	}
	u := unread(f.DES, "des-unreadable", "The disk encryption set of data disk "+name)
	u.Facts, u.Object = []string{fact}, string(id)
	if f.DES.Absent {
		u = fail("des-missing", NeedsPerson, fmt.Sprintf("The disk encryption set of data disk %s isn't there; restore access to its key.", name), fact)
		u.Object = string(id)
	}
	return one(u)
}

// confidentialDataDisk: row 76a (preview).
func (s *subject) confidentialDataDisk(types []string, name, fact string) []Finding {
	for _, typ := range types {
		if !strings.EqualFold(typ, cvm.EncryptDataDisk) {
			return one(unknown("security-encryption-type-unread", NeedsPerson, fmt.Sprintf("Data disk %s shows the encryption %q, which isn't known.", name, typ), fact))
		}
	}
	for _, x := range s.vm.Extensions {
		if strings.EqualFold(x.Publisher, extDataDisk) && strings.EqualFold(x.ProvisioningState, "Succeeded") {
			return nil
		}
	}
	return one(unknown("data-disk-extension-not-ready", NeedsPerson, fmt.Sprintf("Data disk %s is to be encrypted confidentially, but the extension that does it hasn't succeeded.", name), fact))
}

// needGuest gives nil where the guest was asked.
func (s *subject) needGuest() []Finding {
	if !s.p.GuestAsked {
		return notAsked("The guest was not asked.")
	}
	return nil
}

func (s *subject) running() bool { return s.vm.Power == "" || s.vm.Power == "running" }

// judgeTempDisk: row 78.
func judgeTempDisk(s *subject) []Finding {
	if list := s.needGuest(); list != nil {
		return list
	}
	if list := s.needCVM(); list != nil {
		return list
	}
	const code = "temp-disk-not-confidential"
	switch cvm.HasLocalDisk(s.vm.Size) {
	case cvm.False:
		return notApplicable("The size has no local disk.")
	case cvm.Unread:
		return one(unknown(code, NeedsPerson, fmt.Sprintf("Whether the size %s has a local disk isn't known.", s.vm.Size), "vm.size"))
	}
	for _, x := range s.vm.Extensions {
		if strings.EqualFold(x.Publisher, pubADE) && strings.HasPrefix(strings.ToLower(x.Type), strings.ToLower(extADE)) && strings.EqualFold(x.ProvisioningState, "Succeeded") {
			return pass("The disk encryption extension has succeeded.", "vm.extensions")
		}
	}
	class, text := InPlace, "The size has a local disk, and the disk encryption extension isn't there or hasn't succeeded."
	if typ, _, _ := s.encryption(); typ != cvm.EncryptDisk {
		class, text = NeedsDeallocation, "The size has a local disk, and the extension that encrypts it isn't offered without a confidential OS disk; resize to a size without one."
	}
	return one(fail(code, class, text, "vm.extensions", "vm.size"))
}

// judgeExtension: row 80.
func judgeExtension(s *subject) []Finding {
	if list := s.needGuest(); list != nil {
		return list
	}
	if list := s.needTPM(); list != nil {
		return list
	}
	noView := one(unknown("agent-not-ready", NeedsPerson, "The VM was read without its instance view.", "vm.instanceView"))
	for _, x := range s.vm.Extensions {
		if !strings.EqualFold(x.Type, extAttestation) || !strings.HasPrefix(strings.ToLower(x.Publisher), strings.ToLower(pubAttestation)) {
			continue
		}
		switch {
		case strings.EqualFold(x.ProvisioningState, "Failed"):
			return one(fail("attestation-extension-failed", InPlace, "The GuestAttestation extension failed; it is put again.", "vm.extensions"))
		case !s.vm.InstanceView:
			return noView
		case !strings.EqualFold(x.ProvisioningState, "Succeeded"):
			return one(fail("attestation-extension-not-ready", InPlace, fmt.Sprintf("The GuestAttestation extension is in state %q.", x.ProvisioningState), "vm.extensions"))
		case !s.running():
			return pass("The GuestAttestation extension is installed; the VM isn't running.", "vm.extensions")
		case s.vm.AgentReady != cvm.True:
			return one(unknown("agent-not-ready", NeedsPerson, "The VM agent isn't ready, so its extensions can't be told.", "vm.agentReady"))
		case !strings.EqualFold(x.HandlerStatus, "Ready"):
			return one(fail("attestation-extension-not-ready", InPlace, fmt.Sprintf("The GuestAttestation extension's handler is %q.", x.HandlerStatus), "vm.extensions"))
		}
		return pass("The GuestAttestation extension is installed and ready.", "vm.extensions")
	}
	if !s.vm.InstanceView {
		return noView
	}
	return one(fail("attestation-extension-absent", InPlace, "The GuestAttestation extension isn't installed.", "vm.extensions"))
}

// needTPM is needVM for rules about VMs that have a vTPM by their kind.
func (s *subject) needTPM() []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	switch s.security {
	case cvm.SecurityUnknown:
		return s.needCVM()
	case cvm.SecurityStandard:
		f := Finding{State: cvm.NotApplicable, Reason: "no-vtpm", Text: "An ordinary VM has no vTPM."}
		return one(f)
	}
	return nil
}

// judgeAgent: row 81. A VM that doesn't run has no agent to be ready.
func judgeAgent(s *subject) []Finding {
	if list := s.needGuest(); list != nil {
		return list
	}
	if list := s.needVM(); list != nil {
		return list
	}
	switch {
	case s.vm.AgentReady == cvm.True:
		return pass("The VM agent is ready.", "vm.agentReady")
	case s.vm.InstanceView && !s.running():
		return notApplicable("The VM isn't running.")
	}
	return one(unknown("agent-not-ready", NeedsPerson, "The VM agent isn't ready: neither extensions nor Run Command work, evidence must be pushed.", "vm.agentReady"))
}

// judgeMAA is the outcome of Microsoft Azure Attestation. It has no call for
// Trusted Launch that cvmguard could make.
func judgeMAA(s *subject) []Finding {
	return s.attestation(func(a cvm.Attestation) cvm.Outcome { return a.MAA }, "attestation.maa",
		cvm.Outcome{State: cvm.NotApplicable, Reason: "maa.none-for-trusted-launch"})
}

// judgeEvidence is the outcome of our own verifier.
func judgeEvidence(s *subject) []Finding {
	return s.attestation(func(a cvm.Attestation) cvm.Outcome { return a.Evidence }, "attestation.evidence", cvm.Outcome{})
}

// attestation maps an outcome to a finding. What failed stays failed however old
// it is; what passed counts only while it is fresh, and under the vendors' roots.
func (s *subject) attestation(pick func(cvm.Attestation) cvm.Outcome, fact string, trustedLaunch cvm.Outcome) []Finding {
	if list := s.needGuest(); list != nil {
		return list
	}
	if !s.doc.Attestation.Asked {
		return notAsked("Policy doesn't ask for attestation.")
	}
	if list := s.needTPM(); list != nil {
		return list
	}
	if s.security == cvm.SecurityTrustedLaunch {
		if trustedLaunch.State != "" {
			return one(Finding{State: trustedLaunch.State, Reason: trustedLaunch.Reason, Text: "There is no such attestation for Trusted Launch."})
		}
		if s.vm.VTPM == cvm.False {
			return one(Finding{State: cvm.NotApplicable, Reason: "no-vtpm", Text: "The VM's vTPM is off."})
		}
	}
	if !s.p.Attestation.Known {
		f := unread(s.p.Attestation, "evidence-not-collected", "attestation")
		f.Class, f.Facts = InPlace, []string{fact}
		if s.p.Attestation.Why.Detail == "" && f.Action == "" {
			f.Text = "No evidence of the guest has been judged yet."
		}
		return one(f)
	}
	a := s.p.Attestation.Value
	o := pick(a)
	f := Finding{State: o.State, Reason: o.Reason, Facts: []string{fact}}
	switch o.State {
	case cvm.Fail:
		f.Class, f.Text = NeedsPerson, fmt.Sprintf("The guest's evidence was refused (%s).", o.Reason)
	case cvm.NotApplicable:
		f.Text = "It doesn't apply to this VM."
	case cvm.Pass:
		f.Text = "The guest's evidence was judged good."
		switch {
		case a.Development && !s.p.AllowDevelopment:
			f.State, f.Reason, f.Class, f.Text = cvm.UnknownState, "attestation-development-roots", NeedsPerson, "The evidence was judged by roots that aren't the vendors'; it doesn't count here."
		case s.p.EvidenceDue, !s.now.Before(a.JudgedAt.Add(s.doc.Attestation.MaxAge)):
			f.State, f.Reason, f.Class, f.Text = cvm.UnknownState, "evidence-stale", InPlace, "The guest's evidence is older than what is asked for."
		}
	default:
		f.State, f.Class, f.Text = cvm.UnknownState, InPlace, fmt.Sprintf("The guest's evidence says nothing certain (%s).", orNone(o.Reason))
		if o.Reason == "" {
			f.Reason = "evidence-not-collected"
		}
	}
	return one(f)
}
