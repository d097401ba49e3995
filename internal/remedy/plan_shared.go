package remedy

import (
	"cmp"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// sharedPlanner plans for one object that VMs share.
type sharedPlanner struct {
	*planner
	s cvm.SharedPosture
}

// ForShared plans what is to be done about a disk encryption set, a key, a vault
// or the readiness of a region. It is pure, as ForVM is.
func ForShared(s cvm.SharedPosture, v policy.Verdict, d *policy.Document) Plan {
	pl := &sharedPlanner{planner: newPlanner(v, d), s: s}
	if s.Gone || v.Value == policy.Gone {
		return pl.plan()
	}
	switch s.Kind {
	case cvm.SharedDES:
		pl.autoRotation()
		pl.grants()
	case cvm.SharedKey:
		pl.releasePolicy()
		pl.expiry()
	case cvm.SharedRegion:
		pl.region()
	}
	pl.rest()
	return pl.plan()
}

// autoRotation switches off the automatic rotation of a set for confidential VMs.
func (pl *sharedPlanner) autoRotation() {
	found := pl.failing("des-auto-rotation-unsupported")
	if len(found) == 0 {
		return
	}
	s := Step{Kind: DisableAutoRotation, Target: pl.s.ID, Disturbs: DisturbsNone,
		Does:  "Switches off the set's automatic key rotation, which confidential VMs don't support.",
		Needs: []string{"No rotation is under way.", "All disks on the set are of version V1."},
		Undo:  azAutoRotation(cvm.DESID(pl.s.ID), true), Before: map[string]string{beforeRotation: "true"}, Commands: []string{azAutoRotation(cvm.DESID(pl.s.ID), false)}}
	var out doubts
	out.when(!pl.s.DES.Known, "the set wasn't read")
	if pl.s.DES.Known {
		out.list = append(out.list, rotationDoubts(pl.s.DES.Value)...)
	}
	disks, ok := read(&out, pl.s.DESDisks, "the list of disks on the set")
	for _, disk := range disks {
		out.when(ok && !same(disk.ConfidentialVersion, "V1"), "the disk %s isn't known to be of version V1", disk.Name)
	}
	pl.decide(&s, permit{class: policy.InPlace, word: "disableAutoRotation", given: pl.d.Remedy.DisableAutoRotation}, found, out.list)
	pl.add(s, found)
}

// rotationDoubts say why a set's flag isn't touched now.
func rotationDoubts(des cvm.DES) []string {
	var out doubts
	out.when(des.PreviousKeys > 0, "a key rotation is under way")
	out.when(des.RotationError != "", "the last key rotation failed (%s)", des.RotationError)
	out.when(!same(des.ProvisioningState, "Succeeded"), "the set is %q", des.ProvisioningState)
	return out.list
}

// grants gives the rights on a set's key that are missing.
func (pl *sharedPlanner) grants() {
	if !pl.s.DES.Known || !pl.s.Vault.Known {
		return
	}
	key, err := cvm.ParseKeyID(pl.s.DES.Value.KeyURL)
	if err != nil {
		return
	}
	if found := pl.failing("des-identity-denied"); len(found) > 0 {
		pl.grant(GrantDES, cvm.DESID(pl.s.ID), pl.s.Vault.Value.ID, key, found)
	}
	if found := pl.failing("orchestrator-denied"); len(found) > 0 {
		pl.grant(GrantOrchestrator, cvm.DESID(pl.s.ID), pl.s.Vault.Value.ID, key, found)
	}
}

// grant adds one of the two grants.
func (pl *sharedPlanner) grant(kind Kind, des cvm.DESID, vault string, key cvm.KeyID, found []int) {
	s := pl.grantStep(kind, des, vault, key)
	var out doubts
	out.when(kind == GrantOrchestrator && pl.d.Orchestrator() == "", "policy doesn't name the orchestrator's object id")
	pl.decide(&s, permit{class: policy.InPlace, word: "grantRights", given: pl.d.Remedy.GrantRights}, found, out.list)
	pl.add(s, found)
}

// grantStep is one of the two grants. The set and the key may be still to be made.
func (pl *sharedPlanner) grantStep(kind Kind, des cvm.DESID, vault string, key cvm.KeyID) Step {
	k := scopeOf(key, pl.s.Vault)
	s := Step{Kind: kind, Target: string(des), Disturbs: DisturbsNone,
		Does:     "Lets the disk encryption set's identity get the key and wrap and unwrap with it.",
		Needs:    []string{"The set has an identity.", "cvmguard may grant rights on the key."},
		Undo:     "Remove the assignment, or the permissions, that it adds at the key.",
		Commands: azGrantDES(des, k),
		Args:     map[string]string{argDES: string(des), argKey: string(key.Versionless()), argVault: vault},
		Before:   map[string]string{beforeGranted: strings.Join(pl.s.Rights.Value.DESIdentity, ",")},
	}
	if kind == GrantOrchestrator {
		s.Target = string(key.Versionless())
		s.Before[beforeGranted] = strings.Join(pl.s.Rights.Value.Orchestrator, ",")
		s.Does = "Lets the Confidential VM Orchestrator release the key into attested VMs."
		s.Needs = []string{"Policy names the orchestrator's object id in this tenant.", "cvmguard may grant rights on the key."}
		s.Commands = azGrantRelease(k)
	}
	return s
}

// releasePolicy replaces a key's release policy that lets it out too easily, or
// not to the region's VMs, while it can be changed.
func (pl *sharedPlanner) releasePolicy() {
	reasons := []string{"key-policy-weak", "key-policy-foreign-authority", "key-policy-region-missing", "key-policy-tee-missing"}
	found := pl.findings(func(f policy.Finding) bool {
		return f.State == cvm.Fail && f.Class == policy.InPlace && slices.Contains(reasons, f.Reason)
	})
	if len(found) == 0 || !pl.s.Key.Known {
		return
	}
	key := pl.s.Key.Value
	region := cmp.Or(pl.s.Region, pl.s.Vault.Value.Location)
	s := Step{Kind: ReplacePolicy, Target: string(key.ID), Disturbs: DisturbsNone,
		Does:  "Replaces the key version's release policy by the region's default: compliant confidential VMs alone, by the region's shared attestation provider.",
		Needs: []string{"The policy is mutable.", "The key is used in the vault's region only."},
		Undo:  "Put the former policy back: its text is in this record's posture, under key.releasePolicy.decoded.",
		Args:  map[string]string{argRegion: region}, Before: map[string]string{beforePolicy: key.Policy.Decoded}}
	var out doubts
	out.when(key.Policy.Immutable, "the release policy is immutable")
	out.when(len(pl.failing("key-policy-guest-dialect")) > 0, "the policy is in the guest's own dialect, so the key may be meant for something else")
	v, ok := read(&out, pl.s.Vault, "the vault")
	out.when(ok && len(v.ExtraRegions) > 0, "the HSM serves other regions too, whose VMs the region's default would shut out")
	text, known := releasePolicyFor(region)
	out.when(!known, "the attestation provider of the region %q isn't known", region)
	if known {
		s.Args[argPolicy] = text
		s.Commands = []string{scopeOf(key.ID, pl.s.Vault).set(key.ID.Version(), "--policy", text)}
	}
	pl.decide(&s, permit{class: policy.InPlace, word: "replaceReleasePolicy", given: pl.d.Remedy.ReplaceReleasePolicy}, found, out.list)
	pl.add(s, found)
}

// expiry advises a rotation before the key expires: that is a note, no failure,
// until it has.
func (pl *sharedPlanner) expiry() {
	found := pl.findings(func(f policy.Finding) bool { return f.State == cvm.Pass && f.Reason == "key-near-expiry" })
	if len(found) == 0 {
		return
	}
	s := Step{Kind: RotateKey, Class: policy.NeedsDeallocation, Target: pl.s.ID, Disturbs: DisturbsDeallocate}
	rotate(&s, []policy.Finding{pl.v.Findings[found[0]]}, pl.around())
	s.Does += " The key is near its end: plan a window before."
	pl.advise(s, found, s.Why)
}

// rest advises on what no step answers.
func (pl *sharedPlanner) rest() {
	a := pl.around()
	pl.adviseRest(func(f policy.Finding) route {
		if f.State == cvm.Fail && f.Class == policy.NeedsDeallocation {
			return route{RotateKey, pl.s.ID, policy.NeedsDeallocation}
		}
		return route{AskPerson, pl.s.ID, cmp.Or(f.Class, policy.NeedsPerson)}
	}, func(s *Step, found []policy.Finding) {
		if s.Kind == RotateKey {
			rotate(s, found, a)
			return
		}
		ask(s, found, a)
	})
}

// around is what the commands of advice may name.
func (pl *sharedPlanner) around() around {
	a := around{vault: pl.s.Vault, bits: pl.bits(pl.s.Region)}
	switch {
	case pl.s.Key.Known:
		a.key = pl.s.Key.Value.ID
	case pl.s.Kind == cvm.SharedKey:
		a.key = cvm.KeyID(pl.s.ID)
	}
	if pl.s.DES.Known {
		a.des = pl.s.DES.Value.ID
		if k, err := cvm.ParseKeyID(pl.s.DES.Value.KeyURL); err == nil && a.key == "" {
			a.key = k
		}
	}
	return a
}
