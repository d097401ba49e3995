package remedy

import (
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// Data disks take their customer key only while the VM is deallocated, so this is
// the one repair that takes a VM down. What the VM bears and whether it runs say
// how far it got, whoever was killed in between:
//
//	tag             power        disks left   what is planned
//	-               running      some         mark, deallocate, mark down, disks, start, clear
//	data-disks      running      some         deallocate, mark down, disks, start, clear
//	data-disks      deallocated  any          mark down, disks, start, clear
//	data-disks-down deallocated  any          disks, start, clear
//	either          running      none         clear
//	data-disks-down running      some         nothing more: a person removes the tag to have it tried again
//	-               deallocated  some         disks (somebody else has taken it down and will start it)
//
// A VM that isn't running counts as marked only where cvmguard's own books say that
// it sent a deallocation (Posture.TakenDown): whoever may write tags must not be
// able to have VMs started.
//
// The last but one is why the tag has two values: a VM that was down and came
// back without all its disks done would else be taken down again and again.
//
// In mode observe nothing is written, so a VM that was taken down when the mode
// was changed stays down until a person starts it or the mode is changed back.

// harmless are the reasons of findings that cast no doubt on a VM's next start.
var harmless = []string{
	"data-disk-platform-key", "attestation-extension-absent", "attestation-extension-failed",
	"attestation-extension-not-ready", "evidence-not-collected", "evidence-stale",
	"temp-disk-not-confidential", "encryption-at-host-off", "disk-exportable",
	"image-out-of-support", "fde-key-in-clear", "fde-slot-left",
}

// dataDisks plans the data disks' encryption. wanted is false for a VM that policy
// doesn't want as a CVM: then only what was begun is ended.
func (pl *vmPlanner) dataDisks(wanted bool) {
	mark, marked := tagOf(pl.vm.Tags, TagDeallocated)
	var found []int
	var disks []Step
	if wanted {
		if found = pl.findings(pl.aboutDataDisks); len(found) > 0 {
			disks = pl.diskSteps()
		}
		if len(disks) == 0 {
			found = nil // nothing that could be done about them here
		}
	}
	if !marked && len(found) == 0 {
		return
	}
	down := pl.vm.Power == powerDeallocated
	switch {
	case down && marked && pl.p.TakenDown:
		if mark != MarkIsDown && len(disks) > 0 {
			pl.markStep(MarkDown, MarkIsDown, "Marks the VM as taken down by cvmguard, which will start it again.", found)
		}
		pl.addDisks(disks, found, nil)
		pl.restart(found)
	case down:
		pl.addDisks(disks, found, nil)
	case marked && pl.vm.Power == powerRunning && (len(disks) == 0 || mark != MarkPending && mark != MarkIsDown):
		pl.clearMark(found)
	case marked && pl.vm.Power != powerRunning && pl.vm.Power != "" && pl.p.TakenDown:
		pl.restart(found) // stopped half-way: it comes back whatever else happens
	case marked && pl.vm.Power != powerRunning:
		// Whoever stopped it, it wasn't cvmguard: the tag may be anybody's.
	case marked && mark == MarkIsDown:
		pl.addDisks(disks, found, []string{fmt.Sprintf("it was tried in an earlier deallocation and not finished; remove the tag %s to have it tried again", TagDeallocated)})
	default:
		pl.deallocation(marked, disks, found)
	}
}

// aboutDataDisks selects the findings that this repair is for.
func (pl *vmPlanner) aboutDataDisks(f policy.Finding) bool {
	return f.State == cvm.Fail && (f.Reason == "data-disk-platform-key" || pl.aboutWrongDataDES(f))
}

// aboutWrongDataDES selects the finding on a data disk that hangs on a disk
// encryption set of the confidential type, as against the OS disk's on one of
// another type, which bears the same code.
func (pl *vmPlanner) aboutWrongDataDES(f policy.Finding) bool {
	return f.Reason == "des-wrong-type" && f.Class == policy.NeedsDeallocation
}

// diskSteps has one step for each data disk that isn't under a customer key as it
// should be.
func (pl *vmPlanner) diskSteps() []Step {
	region, _ := pl.d.Region(pl.vm.Location)
	set := "the disk encryption set " + region.DataDES.Name()
	if region.DataDES == "" {
		set = "a disk encryption set for server-side encryption, which policy does not name yet (regions." + pl.vm.Location + ".dataDES)"
	}
	var steps []Step
	for _, dd := range pl.p.DataDisks {
		if !needsDES(dd) {
			continue
		}
		steps = append(steps, Step{Kind: EncryptDataDisk, Target: string(dd.Ref.ID), Disturbs: DisturbsDeallocate,
			Does: fmt.Sprintf("Puts the data disk at LUN %d under the customer key of %s.", dd.Ref.LUN, set),
			Needs: []string{"The VM is deallocated.", "The disk was never under Azure Disk Encryption.",
				"The set is for server-side encryption, and its identity may use its key."},
			Undo:     "None: a disk under a customer key can't go back to a platform key; it can be moved to another disk encryption set.",
			Args:     map[string]string{argVM: string(pl.p.ID), argDES: string(region.DataDES)},
			Before:   map[string]string{beforeEncrypted: dd.Disk.Value.EncryptionType},
			Commands: azDiskDES(dd.Ref.ID, region.DataDES),
		})
	}
	slices.SortFunc(steps, func(a, b Step) int { return strings.Compare(a.Target, b.Target) })
	return steps
}

// needsDES says whether a data disk's server-side encryption is to be changed. A
// disk that wasn't read isn't touched.
func needsDES(dd cvm.DataDiskFacts) bool {
	if !dd.Disk.Known || dd.Disk.Value.ADETainted || same(dd.Ref.SecurityEncryptionType, cvm.EncryptDataDisk) {
		return false
	}
	if !underCustomerKey(dd.Disk.Value) {
		return true
	}
	return dd.DES.Known && same(dd.DES.Value.Type, cvm.DESTypeConfidential)
}

// dataDisksPermit is policy's word for all that this repair needs, its tag too.
func (pl *vmPlanner) dataDisksPermit() permit {
	return permit{class: policy.NeedsDeallocation, word: "deallocateForDataDisks", given: pl.d.Remedy.DeallocateForDataDisks}
}

// deallocation plans the whole of it for a running VM.
func (pl *vmPlanner) deallocation(marked bool, disks []Step, found []int) {
	why := pl.startDoubts()
	at := len(pl.steps)
	if !marked {
		pl.markStep(MarkDeallocation, MarkPending, "Marks the VM before it is deallocated, so that it is started again whatever happens.", found)
	}
	s := Step{Kind: Deallocate, Target: string(pl.p.ID), Disturbs: DisturbsDeallocate,
		Does: "Deallocates the VM for the time that its data disks' encryption is changed.",
		Needs: []string{"Key, disk encryption set, vault and rights are such that the VM starts again.",
			"The VM's size is offered in its region and zones; that there is room for it nobody can promise.",
			"The OS disk isn't ephemeral."},
		Undo:     azStart(pl.p.ID),
		Args:     map[string]string{argDES: pl.dataDES()},
		Commands: []string{azDeallocate(pl.p.ID)}}
	pl.add(s, found)
	pl.markStep(MarkDown, MarkIsDown, "Marks the VM as taken down by cvmguard, which will start it again.", found)
	pl.addDisks(disks, found, nil)
	pl.restart(found)
	for i := at; i < len(pl.steps); i++ {
		pl.decide(&pl.steps[i], pl.dataDisksPermit(), found, why)
	}
	// To a person who does it by hand cvmguard's own marks are no advice.
	rest := pl.steps[at:]
	pl.steps = append(pl.steps[:at:at], slices.DeleteFunc(rest, func(s Step) bool {
		return s.State == Advised && (s.Kind == MarkDeallocation || s.Kind == MarkDown || s.Kind == ClearMark)
	})...)
}

func (pl *vmPlanner) dataDES() string {
	region, _ := pl.d.Region(pl.vm.Location)
	return string(region.DataDES)
}

// startDoubts lists what is in doubt about taking the VM down.
func (pl *vmPlanner) startDoubts() []string {
	var out doubts
	out.when(pl.dataDES() == "", "policy names no disk encryption set for data disks in the region %s", pl.vm.Location)
	out.when(pl.vm.Power != powerRunning, "the VM isn't known to run (power %q)", pl.vm.Power)
	out.list = append(out.list, pl.tagDoubts(TagDeallocated)...)
	b := boot{vm: pl.vm, des: pl.p.DES, key: pl.p.Key, vault: pl.p.Vault, rights: pl.p.Rights}
	out.list = append(out.list, b.doubts(pl.d, pl.v.At)...)
	for _, dd := range pl.p.DataDisks {
		out.when(!dd.Disk.Known, "the data disk at LUN %d wasn't read", dd.Ref.LUN)
		out.list = append(out.list, sharedDoubts(dd)...)
		if dd.Ref.SSEDES != "" || dd.Ref.SecureDES != "" || dd.Disk.Known && dd.Disk.Value.SSEDES != "" {
			if des, ok := read(&out, dd.DES, fmt.Sprintf("the disk encryption set of the data disk at LUN %d", dd.Ref.LUN)); ok {
				desDoubts(&out, des)
			}
		}
	}
	// What an exemption lets pass may keep the VM down all the same.
	for _, f := range pl.v.Findings {
		bad := f.State == cvm.Fail || f.State == cvm.UnknownState || f.State == cvm.Exempt
		// A root whose key may not be sealed to what boots next is a doubt even where
		// nobody could tell.
		if bad && (f.Rule == "reseal-pending" || !slices.Contains(harmless, f.Reason)) && !pl.aboutWrongDataDES(f) {
			out.when(true, "%s is %s (%s)", f.Rule, f.State, f.Reason)
		}
	}
	return uniqInOrder(out.list)
}

// addDisks adds the disks' steps, blocked where doubts are given.
func (pl *vmPlanner) addDisks(disks []Step, found []int, doubts []string) {
	if pl.dataDES() == "" {
		doubts = append(doubts, fmt.Sprintf("policy names no disk encryption set for data disks in the region %s", pl.vm.Location))
	}
	for _, s := range disks {
		why := doubts
		for _, dd := range pl.p.DataDisks {
			if same(string(dd.Ref.ID), s.Target) {
				why = append(slices.Clone(doubts), sharedDoubts(dd)...)
			}
		}
		pl.decide(&s, pl.dataDisksPermit(), found, why)
		pl.add(s, found)
	}
}

// sharedDoubts: a shared disk's encryption is changed only while every VM that may
// have it is down, and the others are nobody's here to take down.
func sharedDoubts(dd cvm.DataDiskFacts) []string {
	if !needsDES(dd) || !dd.Disk.Value.Shared() {
		return nil
	}
	who := "other VMs, all of which must be"
	if n := len(dd.Disk.Value.Holders); n > 1 {
		who = fmt.Sprintf("%d VMs, all of which must be", n)
	}
	return []string{fmt.Sprintf("the data disk at LUN %d is shared by %s deallocated at once; a person does it", dd.Ref.LUN, who)}
}

// restart plans the start of a VM that cvmguard took down. Whatever policy says
// by now, it is started: it is down by our doing.
func (pl *vmPlanner) restart(found []int) {
	s := Step{Kind: Start, Class: policy.NeedsDeallocation, State: Planned, Target: string(pl.p.ID), Disturbs: DisturbsNone,
		Does:  "Starts the VM that cvmguard has deallocated.",
		Needs: []string{"The VM bears the tag " + TagDeallocated + ".", "The region has room for its size."},
		Undo:  azDeallocate(pl.p.ID), Commands: []string{azStart(pl.p.ID)}}
	if pl.vm.Power == "" {
		s.State, s.Why = Blocked, "the VM's power state wasn't read"
	}
	pl.add(s, found)
	pl.clearMark(found)
}

// markStep adds a step that sets the tag of a deallocation.
func (pl *vmPlanner) markStep(kind Kind, value, does string, found []int) {
	s := pl.tagStep(kind, TagDeallocated, value, does)
	s.Undo = azRemoveTag(pl.p.ID, TagDeallocated)
	s.Args[argDES] = pl.dataDES()
	pl.decide(&s, pl.dataDisksPermit(), found, pl.tagDoubts(TagDeallocated))
	pl.add(s, found)
}

// clearMark removes the tag of a deallocation once the VM runs again.
func (pl *vmPlanner) clearMark(found []int) {
	pl.add(Step{Kind: ClearMark, Class: policy.InPlace, State: Planned, Target: string(pl.p.ID), Disturbs: DisturbsNone,
		Does:  "Removes the mark of the deallocation from the VM's tags.",
		Needs: []string{"The VM runs.", "The VM's tags are as they were read (If-Match)."},
		Args:  map[string]string{argTag: TagDeallocated, argRemove: "true"}}, found)
}

func uniqInOrder(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
