package policy

import (
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

// Provisioning says whether the guest's first boot was not done when its evidence
// was collected, on a VM to whose encryption that matters: then evidence is wanted
// again before it grows old.
func Provisioning(p cvm.Posture) bool {
	s := &subject{on: onVM}
	s.p = p
	if !p.VM.Known || !p.Claims.Known {
		return false
	}
	s.vm, s.security = p.VM.Value, cvm.SecurityOf(p.VM.Value)
	if s.security != cvm.SecurityConfidential || s.canFDE() != nil {
		return false
	}
	state, _ := p.Claims.Value.FDE()
	return state == cvm.FDEProvisioning
}

// canFDE gives nil where the VM's root is one that Ubuntu's images encrypt and
// seal in the guest: on a confidential OS disk, from an image that the catalogue
// says does so, or in a guest that shows the format.
func (s *subject) canFDE() []Finding {
	if strings.EqualFold(s.vm.OS, "Windows") {
		return notApplicable("A Windows guest is encrypted by BitLocker, of which cvmguard reads nothing.")
	}
	if typ, known, _ := s.encryption(); !known || typ != cvm.EncryptDisk {
		return notApplicable("The VM has no confidential OS disk, so its image seals no key.")
	}
	if s.p.Claims.Known && s.p.Claims.Value.UbuntuFDE == cvm.True {
		return nil
	}
	img, list := s.image()
	if list != nil {
		return list
	}
	if !img.FDE {
		return notApplicable(fmt.Sprintf("The image %s doesn't encrypt its root in the guest.", img.Name()))
	}
	return nil
}

// claims gives what the guest says, or what a rule on it says without.
func (s *subject) claims() (cvm.GuestClaims, []Finding) {
	var none cvm.GuestClaims
	if list := s.needGuest(); list != nil {
		return none, list
	}
	if !s.doc.Attestation.Asked {
		return none, notAsked("Policy doesn't ask for attestation, in whose evidence the guest's word comes.")
	}
	if list := s.needCVM(); list != nil {
		return none, list
	}
	if list := s.canFDE(); list != nil {
		return none, list
	}
	if s.p.Claims.Known && s.p.Attestation.Known {
		return s.p.Claims.Value, nil
	}
	why := s.p.Claims
	if why.Known { // what nothing vouches for doesn't count
		why = cvm.Fact[cvm.GuestClaims]{Why: s.p.Attestation.Why}
	}
	f := unread(why, "evidence-not-collected", "claims")
	f.Class, f.Facts = InPlace, []string{"claims"}
	switch a := s.p.Attestation; {
	case a.Known && a.Value.Evidence.State != cvm.Pass:
		f.Reason, f.Class, f.Text = "fde-unproven", NeedsPerson, "The guest's evidence didn't pass, so its word on its disk doesn't count."
	case f.Action == "" && why.Why.Detail == "":
		f.Text = "No evidence with the guest's word on its disk has come yet."
	}
	return none, one(f)
}

// sound turns what would pass into unknown where the evidence behind it doesn't
// count any more. What failed stays failed however old it is.
func (s *subject) sound(f Finding) []Finding {
	if f.State != cvm.Pass || !s.p.Attestation.Known {
		return one(f)
	}
	a := s.p.Attestation.Value
	switch {
	case a.Development && !s.p.AllowDevelopment:
		return one(unknown("attestation-development-roots", NeedsPerson, "The evidence was judged by roots that aren't the vendors'; it doesn't count here.", f.Facts...))
	case s.p.EvidenceDue, !s.now.Before(a.JudgedAt.Add(s.doc.Attestation.MaxAge)):
		return one(unknown("evidence-stale", InPlace, "The guest's evidence is older than what is asked for.", f.Facts...))
	}
	return one(f)
}

func provisioning(why string) Finding {
	return unknown("fde-provisioning", InPlace, fmt.Sprintf("The guest's first boot isn't done: %s. Its evidence is collected again.", why), "claims.cloudInit")
}

func fdeUnread(what string) Finding {
	return unknown("fde-unread", NeedsPerson, fmt.Sprintf("The collector in the guest could not read %s; run it as root.", what), "claims")
}

// judgeFDE: the claims say that the root is encrypted and sealed, and PCR 12 that
// the initial RAM disk which does so ran and shut the key off. Neither alone is
// enough: the claims are root's word, and PCR 12 doesn't tell of the disk.
func judgeFDE(s *subject) []Finding {
	c, list := s.claims()
	if list != nil {
		return list
	}
	state, why := c.FDE()
	switch state {
	case cvm.FDEProvisioning:
		return one(provisioning(why))
	case cvm.FDEInactive:
		return one(fail("fde-not-active", NeedsRecreate, "The guest says that its root isn't encrypted and sealed: "+why+".", "claims.rootEncrypted", "claims.sealedKey"))
	case cvm.FDEUnread:
		return one(fdeUnread("its mounts or its EFI system partition"))
	}
	facts := []string{"claims.rootEncrypted", "claims.sealedKey", "attestation.pcrs.12"}
	open := func(text string) []Finding {
		return one(unknown("fde-unproven", NeedsPerson, "The guest says that its root is encrypted, and "+text, facts...))
	}
	switch pcr := s.p.Attestation.Value.PCRs["12"]; pcr {
	case cvm.PCR12Fenced:
		return s.sound(pass("The guest says that its root is encrypted and sealed, and PCR 12 bears out that the initial RAM disk which opens it ran.", facts...)[0])
	case "":
		return open("no proven value of PCR 12 bears it out.")
	case cvm.PCR12Epoch:
		return open("by PCR 12 the initial RAM disk began to open it and never shut the key off.")
	case strings.Repeat("0", len(pcr)):
		return open("by PCR 12 the initial RAM disk that opens a sealed root never ran.")
	default:
		return open("PCR 12 has a value that cvmguard doesn't know.")
	}
}

// judgeClearKey: a key in clear in a LUKS header or in the file of the first
// boot's resize, once that boot is done.
func judgeClearKey(s *subject) []Finding {
	c, list := s.claims()
	if list != nil {
		return list
	}
	switch {
	case c.ClearKey != cvm.True && c.KeyFile != cvm.True:
	case !c.BootEnded():
		return one(provisioning("the key for the resize of the root is still there"))
	case c.ClearKey == cvm.True:
		return one(fail("fde-key-in-clear", NeedsPerson, "A LUKS header of the guest holds a key to the disk in clear.", "claims.clearKey"))
	default:
		return one(fail("fde-key-in-clear", NeedsPerson, "The guest's file /cc_growpart_keydata holds a key to the disk in clear, though its first boot is done.", "claims.keyFile"))
	}
	if c.ClearKey == cvm.Unread || c.KeyFile == cvm.Unread {
		return one(fdeUnread("the root's LUKS header"))
	}
	return s.sound(pass("The guest says that no key to its disk lies in clear.", "claims.clearKey", "claims.keyFile")[0])
}

// judgeSlotLeft: the key slot of the first boot's resize, once that boot is done.
func judgeSlotLeft(s *subject) []Finding {
	c, list := s.claims()
	if list != nil {
		return list
	}
	switch {
	case c.ResizeSlot == cvm.Unread:
		return one(fdeUnread("the root's LUKS header"))
	case c.ResizeSlot == cvm.False:
		return s.sound(pass("The guest says that the key slot of the first boot's resize is gone.", "claims.resizeSlot")[0])
	case !c.BootEnded():
		return one(provisioning("the key slot for the resize of the root is still there"))
	}
	return one(fail("fde-slot-left", NeedsPerson, "Key slot 10, made for the first boot's resize of the root, is still there.", "claims.resizeSlot"))
}

// judgeReseal: what the next boot may load is what the root's key is sealed to.
func judgeReseal(s *subject) []Finding {
	c, list := s.claims()
	switch {
	case list != nil:
		return list
	case c.RootEncrypted == cvm.False || c.SealedKey == cvm.False:
		return notApplicable("The guest says that it has no sealed key; rule fde-active tells of it.")
	case len(c.Unsealed) > 0:
		next := "Run nullbootctl in the guest first."
		if c.KeyringKey == cvm.False {
			next = "The kernel's keyring has no key to seal it anew by, so nullbootctl can't: take the update back, or have the recovery key at hand, before any restart."
		}
		return one(fail("reseal-pending", NeedsPerson, fmt.Sprintf("The root's key isn't sealed to what the next boot may load (%s): a restart may lock the owner out. %s",
			strings.Join(c.Unsealed, ", "), next), "claims.unsealed", "claims.keyringKey"))
	case c.BootFiles != cvm.True:
		return one(fdeUnread("its boot files, the list of what the key is sealed to or the secure boot policy that was measured"))
	case c.RebootFor != "":
		return s.sound(note("reboot-pending", fmt.Sprintf("An update (%s) waits for a restart, and the root's key is sealed to it.", c.RebootFor), "claims.rebootFor"))
	}
	text := "The guest says that the root's key is sealed to all that the next boot may load."
	if c.KeyringKey == cvm.False {
		text += " The kernel's keyring has no key to seal it anew by: restart the VM before the next kernel or shim update."
	}
	return s.sound(pass(text, "claims.unsealed", "claims.keyringKey")[0])
}

// pcrNoteFor is how long a changed PCR is noted.
const pcrNoteFor = 30 * 24 * time.Hour

// judgeBoot notes PCRs that changed from one attestation to the next.
func judgeBoot(s *subject) []Finding {
	if list := s.needGuest(); list != nil {
		return list
	}
	if !s.doc.Attestation.Asked {
		return notAsked("Policy doesn't ask for attestation.")
	}
	if list := s.needTPM(); list != nil {
		return list
	}
	if !s.p.Attestation.Known || len(s.p.Attestation.Value.PCRs) == 0 {
		return notApplicable("No boot measurement of the VM has been proven.")
	}
	var list []Finding
	for _, c := range s.p.Attestation.Value.Changed {
		if !s.now.Before(c.Since.Add(pcrNoteFor)) {
			continue
		}
		text := fmt.Sprintf("PCR %s has another value than before, since %s: another kernel or shim was booted.", c.PCR, c.Since.UTC().Format(time.RFC3339))
		if c.PCR == "7" {
			text = fmt.Sprintf("PCR 7 has another value than before, since %s: the secure boot policy changed (its state, keys, forbidden signatures or shim's).", c.Since.UTC().Format(time.RFC3339))
		}
		f := note("pcr-changed", text, "attestation.pcrs."+c.PCR)
		if c.PCR == "7" {
			f.Severity = Low
		}
		list = append(list, f)
	}
	return orPass(list, "The boot measured what it measured before.", "attestation.pcrs")
}
