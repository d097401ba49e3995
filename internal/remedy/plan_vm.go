package remedy

import (
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// vmPlanner plans for one VM.
type vmPlanner struct {
	*planner
	p  cvm.Posture
	vm cvm.VM
}

// ForVM plans what is to be done about a VM: steps on the VM and what is its
// alone, in the order in which they are to be taken, then advice. It is pure,
// and the document's mode goes nowhere but into Plan.Mode.
//
// A VM that is gone or couldn't be read has no steps but advice. A VM that
// policy doesn't want to be a CVM is left alone. Each turn plans anew from what
// was read, so a plan that was cut short goes on where the VM stands.
func ForVM(p cvm.Posture, v policy.Verdict, d *policy.Document) Plan {
	pl := &vmPlanner{planner: newPlanner(v, d), p: p}
	if p.Gone || v.Value == policy.Gone {
		return pl.plan()
	}
	if set, _, instance := p.ID.Instance(); instance {
		// Nothing is written to an instance: the set's model would undo it.
		if p.VM.Known {
			pl.vm = p.VM.Value
		}
		if v.Value != policy.NotACVM {
			pl.scaleSetModel(set)
			pl.advice()
		}
		return pl.plan()
	}
	if p.VM.Known {
		pl.vm = p.VM.Value
		wanted := v.Value != policy.NotACVM
		if wanted {
			pl.collect()
			pl.attestExtension()
			pl.tempDisk()
		}
		pl.dataDisks(wanted)
		if wanted {
			pl.quarantine()
		}
		pl.verdictTag(wanted)
		pl.holdInTransition()
	}
	if v.Value != policy.NotACVM {
		pl.advice()
	}
	return pl.plan()
}

// scaleSetModel advises on all that is an instance's own: the model of its scale
// set decides it (row 20 of the truth table).
func (pl *vmPlanner) scaleSetModel(set string) {
	found := pl.findings(func(f policy.Finding) bool {
		return wantsAdvice(f) && (f.Object == "" || same(f.Object, pl.p.ID) || f.Class == policy.NeedsRecreate) && f.Action == ""
	})
	if len(found) == 0 {
		return
	}
	class, disturbs := policy.NeedsPerson, DisturbsNone
	for _, i := range found {
		if pl.v.Findings[i].Class == policy.NeedsRecreate {
			class, disturbs = policy.NeedsRecreate, DisturbsRecreate
		}
	}
	pl.advise(Step{Kind: Recreate, Class: class, Target: set, Disturbs: disturbs,
		Does: "Changes the model of the scale set " + set + ", or makes a new set where the model can't change in what was found, and brings its instances up to it.",
		Needs: []string{"A person has chosen the time: an instance that is brought up to the model restarts or is made anew.",
			"What is decided at creation (security type, confidential OS disk encryption, its disk encryption set) needs a new set."},
		Undo:     "Put the old model back, or scale the old set up again.",
		Commands: []string{az("vmss", "show", "--ids", set, "--query", "virtualMachineProfile"), az("vmss", "list-instances", "--subscription", pl.p.ID.Subscription(), "--resource-group", pl.p.ID.ResourceGroup(), "--name", set[strings.LastIndexByte(set, '/')+1:], "--output", "table")},
	}, found, "it is an instance of a uniform scale set, which is changed through the set's model alone")
}

// WantsRights says whether who may do what with the VM's key is worth reading:
// with it known the plan may deallocate, without it it won't.
func WantsRights(p cvm.Posture, v policy.Verdict, d *policy.Document) bool {
	if p.Rights.Known || !p.Key.Known || !p.Vault.Known {
		return false
	}
	p.Rights = cvm.Known(cvm.Rights{Model: "rbac", DESIdentity: desOps, Orchestrator: []string{"get", "release"}, OrchestratorKnown: true})
	for _, s := range ForVM(p, v, d).Steps {
		if s.Kind == Deallocate && s.State == Planned {
			return true
		}
	}
	return false
}

// collect asks the guest for evidence.
func (pl *vmPlanner) collect() {
	kind := cvm.KindOf(pl.vm)
	if !pl.p.GuestAsked || !pl.p.EvidenceDue || !pl.d.AttestationAsked() {
		return
	}
	if sec := cvm.SecurityOf(pl.vm); sec != cvm.SecurityConfidential && sec != cvm.SecurityTrustedLaunch {
		return // nothing in it can prove anything
	}
	found := pl.findings(func(f policy.Finding) bool {
		return f.Reason == "evidence-not-collected" || f.Reason == "evidence-stale"
	})
	s := Step{Kind: CollectEvidence, Target: string(pl.p.ID), Disturbs: DisturbsNone,
		Does:  "Runs the evidence collector inside the VM by Run Command " + RunCommandName + " and fetches what it brings.",
		Needs: []string{"The VM runs Linux and its agent is ready.", "The VM reaches the storage account over HTTPS."},
		Undo:  azUndoRunCommand(pl.p.ID),
	}
	var out doubts
	out.when(notCollectable(pl.vm) != "", "%s", notCollectable(pl.vm))
	out.when(kind != cvm.KindTrustedLaunch && pl.vm.VTPM == cvm.False, "the VM has no vTPM to quote by")
	pl.decide(&s, permit{class: policy.InPlace, word: "collectEvidence", given: pl.d.Remedy.CollectEvidence, asks: true}, found, out.list)
	pl.add(s, found)
}

// attestExtension installs the GuestAttestation extension.
func (pl *vmPlanner) attestExtension() {
	found := pl.failing("attestation-extension-absent", "attestation-extension-failed")
	if len(found) == 0 {
		return
	}
	s := Step{Kind: InstallAttest, Target: string(pl.p.ID), Disturbs: DisturbsNone,
		Does:  "Installs the extension GuestAttestation, which reports the VM's boot to Defender for Cloud.",
		Needs: []string{"The VM runs and its agent is ready.", "The VM reaches the service tag AzureAttestation."},
		Undo:  azUndoExtension(pl.p.ID, attestName), Before: map[string]string{beforeExtension: ""},
	}
	var out doubts
	out.when(notReachable(pl.vm) != "", "%s", notReachable(pl.vm))
	spec, _, err := extensionSpec(s, pl.vm)
	out.when(err != nil, "the VM's operating system wasn't read")
	if x, ok := findExtension(pl.vm, spec.Publisher, spec.Type); ok {
		s.Before[beforeExtension] = x.Version + " " + x.ProvisioningState
		out.when(moving(x.ProvisioningState), "the extension is %s", x.ProvisioningState)
	}
	pl.decide(&s, permit{class: policy.InPlace, word: "installGuestAttestation", given: pl.d.Remedy.InstallGuestAttestation}, found, out.list)
	pl.add(s, found)
}

// tempDisk has the temporary disk encrypted confidentially by the disk encryption
// extension, which does the guest work.
func (pl *vmPlanner) tempDisk() {
	found := pl.failing("temp-disk-not-confidential")
	if len(found) == 0 {
		return
	}
	name := tempDiskTypeLinux
	if same(pl.vm.OS, osWindows) {
		name = tempDiskTypeWindows
	}
	s := Step{Kind: EncryptTempDisk, Target: string(pl.p.ID), Disturbs: DisturbsNone,
		Does:  "Has the extension " + name + " encrypt the temporary disk inside the VM.",
		Needs: []string{"The VM runs, its agent is ready and its OS disk is confidential.", "The vault is enabled for disk encryption.", "What lies on the temporary disk may be lost."},
		Undo:  "None: resize the VM to a size without a temporary disk instead.",
		Args:  map[string]string{},
	}
	var out doubts
	out.when(notReachable(pl.vm) != "", "%s", notReachable(pl.vm))
	out.when(tempDiskDoubt(pl.vm) != "", "%s", tempDiskDoubt(pl.vm))
	if region, ok := pl.d.Region(pl.vm.Location); ok && region.Vault != "" {
		s.Args[argVault] = region.Vault
	} else {
		out.when(true, "policy names no vault for the region %s", pl.vm.Location)
	}
	out.when(cvm.VaultID(s.Args[argVault]).IsHSM(), "policy names a Managed HSM for the region, and the extension needs a Key Vault")
	pl.decide(&s, permit{class: policy.InPlace, word: "encryptTempDisk", given: pl.d.Remedy.EncryptTempDisk}, found, out.list)
	pl.add(s, found)
}

// tempDiskDoubt says why the temporary disk can't or shouldn't be encrypted by
// extension, "" if it can.
func tempDiskDoubt(vm cvm.VM) string {
	size := strings.ToLower(vm.Size)
	switch kind := cvm.KindOf(vm); {
	case kind != cvm.KindPlatformKey && kind != cvm.KindCustomerKey:
		return "it is offered only where the OS disk is confidential"
	case strings.HasSuffix(size, "_v6"):
		return "sizes of the sixth generation have several raw local disks, which the extension isn't known to handle"
	case len(vm.DataDisks) > 0:
		return "the VM has data disks, which the extension's volume type takes in and would bar from server-side encryption for good"
	}
	return ""
}

// quarantine marks a VM by policy's word.
func (pl *vmPlanner) quarantine() {
	found := pl.findings(func(f policy.Finding) bool {
		return f.State == cvm.Fail && pl.d.Effect(f.Rule) == policy.EffectQuarantine
	})
	name := pl.d.Remedy.QuarantineTag
	have, there := tagOf(pl.vm.Tags, name)
	if name == "" || len(found) == 0 {
		if name != "" && there {
			pl.advise(Step{Kind: AskPerson, Class: policy.NeedsPerson, Target: string(pl.p.ID), Disturbs: DisturbsNone,
				Does: "Asks whether the quarantine may be lifted: nothing that policy quarantines for fails any more.",
				Undo: azSetTag(pl.p.ID, name, have), Commands: []string{azRemoveTag(pl.p.ID, name)},
			}, nil, "cvmguard never lifts a quarantine")
		}
		return
	}
	var rules []string
	for _, i := range found {
		rules = append(rules, pl.v.Findings[i].Rule)
	}
	value := joinWithin(uniq(rules), maxTagValue)
	if there && have == value {
		return
	}
	s := pl.tagStep(Quarantine, name, value, "Marks the VM as quarantined, with the rules that it breaks.")
	pl.decide(&s, permit{class: policy.InPlace, given: true}, found, pl.tagDoubts(name))
	pl.addBeside(s, found)
}

// verdictTag writes the verdict on the VM. It is the last step, so that one write
// follows the last repair. A VM that policy doesn't want is only told if it bears
// a verdict already, which would else be a lie.
func (pl *vmPlanner) verdictTag(wanted bool) {
	have, there := tagOf(pl.vm.Tags, TagVerdict)
	value := string(pl.v.Value)
	if value == "" || have == value || !wanted && !there {
		return
	}
	s := pl.tagStep(Tag, TagVerdict, value, "Writes the verdict into the VM's tags.")
	doubts := pl.tagDoubts(TagVerdict)
	if object := pl.repairUnderway(); object != "" {
		doubts = append(doubts, "the verdict to tag is the one after "+object+" is repaired")
	}
	pl.decide(&s, permit{class: policy.InPlace, word: "tag", given: pl.d.Remedy.Tag, asks: true}, nil, doubts)
	if s.State != Advised { // a tag that policy doesn't want is no advice
		pl.add(s, nil)
	}
}

// repairUnderway names a shared object whose own turn puts right what this VM is
// faulted for, "" if there is none.
func (pl *vmPlanner) repairUnderway() string {
	for _, f := range pl.v.Findings {
		if f.State != cvm.Fail || f.Class != policy.InPlace || !isShared(f.Object) || !pl.enforces(f.Rule) {
			continue
		}
		switch f.Reason {
		case "des-auto-rotation-unsupported":
			if pl.d.Remedy.DisableAutoRotation {
				return f.Object
			}
		case "des-identity-denied", "orchestrator-denied":
			if pl.d.Remedy.GrantRights {
				return f.Object
			}
		case "key-policy-weak", "key-policy-foreign-authority", "key-policy-region-missing", "key-policy-tee-missing":
			if pl.d.Remedy.ReplaceReleasePolicy {
				return f.Object
			}
		}
	}
	return ""
}

// Azure's bounds on tags.
const (
	maxTags     = 50
	maxTagValue = 256
)

func (pl *vmPlanner) tagDoubts(name string) []string {
	var out doubts
	_, there := tagOf(pl.vm.Tags, name)
	out.when(!there && len(pl.vm.Tags) >= maxTags, "the VM bears %d tags, as many as Azure allows", maxTags)
	return out.list
}

// tagStep is a step that sets one tag.
func (pl *vmPlanner) tagStep(kind Kind, name, value, does string) Step {
	undo := azRemoveTag(pl.p.ID, name)
	have, there := tagOf(pl.vm.Tags, name)
	if there {
		undo = azSetTag(pl.p.ID, name, have)
	}
	return Step{Kind: kind, Class: policy.InPlace, Target: string(pl.p.ID), Disturbs: DisturbsNone, Does: does,
		Needs: []string{"The VM's tags are as they were read (If-Match)."},
		Undo:  undo, Args: map[string]string{argTag: name, argValue: value}, Before: map[string]string{beforeValue: have}}
}

// addBeside is add for a step that marks a fault and leaves it: the findings are
// named, but still want an answer.
func (pl *vmPlanner) addBeside(s Step, findings []int) {
	before := map[int]bool{}
	for i := range pl.answered {
		before[i] = true
	}
	pl.add(s, findings)
	pl.answered = before
}

// holdInTransition blocks every planned step of a VM that is being changed.
func (pl *vmPlanner) holdInTransition() {
	if !moving(pl.vm.ProvisioningState) {
		return
	}
	for i, s := range pl.steps {
		if s.State == Planned {
			pl.steps[i].State, pl.steps[i].Why = Blocked, "the VM is "+strings.ToLower(pl.vm.ProvisioningState)
		}
	}
}

// joinWithin joins with commas as many as fit.
func joinWithin(list []string, size int) string {
	out := ""
	for _, s := range list {
		next := s
		if out != "" {
			next = out + "," + s
		}
		if len(next) > size {
			break
		}
		out = next
	}
	return out
}
