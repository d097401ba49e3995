package remedy

import (
	"fmt"
	"slices"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// The rules under which a region is made ready.
const (
	ruleRegionKey    = "region-key-ready"
	ruleRegionDES    = "region-des-ready"
	ruleRegionRights = "region-rights-ready"
)

// regionPlanner plans the key path that policy wants ready in a region, in the
// order in which its parts rest on each other. Absent means that it is to be made;
// what wasn't read blocks. What is there and isn't fit is never replaced: a person
// is asked.
type regionPlanner struct {
	*sharedPlanner
	want   policy.Region
	url    cvm.KeyID // versionless
	doubts []string  // about the vault, and about the key that is there
}

// region plans for a region's readiness.
func (pl *sharedPlanner) region() {
	want, ok := pl.d.Region(pl.s.Region)
	if !ok {
		return
	}
	host := cvm.VaultID(want.Vault).Name()
	var out doubts
	if v, ok := read(&out, pl.s.Vault, "the vault that policy names"); ok {
		host = v.Host
		out.list = append(out.list, vaultDoubts(v, pl.s.Region)...)
	}
	if pl.s.Key.Known {
		out.list = append(out.list, keyFaults(pl.s.Key.Value, pl.s.Region, pl.v.At, pl.d)...)
	}
	r := &regionPlanner{sharedPlanner: pl, want: want, url: cvm.KeyID("https://" + host + "/keys/" + want.Key), doubts: out.list}
	r.key()
	pl.releasePolicy()
	if r.set() {
		r.rights()
	}
}

// ready adds one of the steps that make a region ready. It answers the finding
// that says that the thing is missing, and no other: what else is wrong a person
// is asked about.
func (pl *regionPlanner) ready(s Step, rule, word string, given bool, why []string, answers ...string) {
	if pl.d.Effect(rule) == policy.EffectOff {
		return
	}
	pl.decide(&s, permit{class: policy.InPlace, word: word, given: given, rule: rule}, nil, why)
	s.Rules = []string{rule}
	pl.add(s, pl.findings(func(f policy.Finding) bool {
		return f.Rule == rule && f.State == cvm.Fail && slices.Contains(answers, f.Reason)
	}))
}

// key plans the making of the region's key.
func (pl *regionPlanner) key() {
	if pl.s.Key.Known {
		return
	}
	out := doubts{list: slices.Clone(pl.doubts)}
	text, known := releasePolicyFor(pl.s.Region)
	out.when(!known, "the attestation provider of the region %q isn't known", pl.s.Region)
	out.when(pl.s.Vault.Known && !pl.s.Key.Absent, "it wasn't read whether the key is there (%s)", pl.s.Key.Why.Code)
	k := keyScope{vault: cvm.VaultID(pl.want.Vault), name: pl.want.Key}
	pl.ready(Step{Kind: EnsureKey, Target: pl.s.ID, Disturbs: DisturbsNone,
		Does:     fmt.Sprintf("Makes the key %s of %d bits in %s: in the HSM, exportable, with a release policy for confidential VMs of the region.", pl.want.Key, pl.want.KeyBits, k.store()),
		Needs:    []string{"The vault is Premium or a Managed HSM, in the region, with purge protection.", "There is no key of that name."},
		Undo:     az(append([]string{"keyvault", "key", "delete"}, k.words("")...)...),
		Commands: []string{k.create(pl.want.KeyBits)},
		Args: map[string]string{argVault: pl.want.Vault, argKey: pl.want.Key, argBits: fmt.Sprint(pl.want.KeyBits),
			argPolicy: text, argRegion: pl.s.Region},
	}, ruleRegionKey, "ensureRegionKey", pl.d.Remedy.EnsureRegionKey, out.list, "region-key-missing")
}

// set plans the making of the region's disk encryption set; false says that there
// is one which isn't fit.
func (pl *regionPlanner) set() bool {
	if pl.s.DES.Known {
		return len(desFaults(pl.s.DES.Value, pl.url)) == 0
	}
	out := doubts{list: slices.Clone(pl.doubts)}
	out.when(!pl.s.Key.Known && !pl.s.Key.Absent, "it wasn't read whether the key is there (%s)", pl.s.Key.Why.Code)
	out.when(!pl.s.DES.Absent, "it wasn't read whether the set is there (%s)", pl.s.DES.Why.Code)
	k := keyScope{vault: cvm.VaultID(pl.want.Vault), name: pl.want.Key}
	pl.ready(Step{Kind: EnsureDES, Target: string(pl.want.DES), Disturbs: DisturbsNone,
		Does:     fmt.Sprintf("Makes the disk encryption set %s of the confidential type on the key %s.", pl.want.DES.Name(), pl.want.Key),
		Needs:    []string{"The key is there and fit.", "There is no set of that name."},
		Undo:     az("disk-encryption-set", "delete", "--ids", string(pl.want.DES)),
		Commands: []string{k.newest(), azCreateDES(pl.want.DES, pl.s.Region, pl.want.Vault)},
		Args:     map[string]string{argVault: pl.want.Vault, argKey: pl.want.Key, argRegion: pl.s.Region},
	}, ruleRegionDES, "ensureRegionDES", pl.d.Remedy.EnsureRegionDES, out.list, "region-des-missing")
	return true
}

// rights plans the two grants where they are missing or can't be there yet.
func (pl *regionPlanner) rights() {
	out := doubts{list: slices.Clone(pl.doubts)}
	fresh := pl.s.Key.Absent || pl.s.DES.Absent // what is yet to be made has no rights
	r, known := cvm.Rights{}, false
	if !fresh {
		r, known = read(&out, pl.s.Rights, "who has rights on the key")
	}
	if !known || len(missing(r.DESIdentity, desOps)) > 0 {
		s := pl.grantStep(GrantDES, pl.want.DES, pl.want.Vault, pl.url)
		pl.ready(s, ruleRegionRights, "grantRights", pl.d.Remedy.GrantRights, out.list, "des-identity-denied")
	}
	switch {
	case pl.d.Orchestrator() == "" && !fresh:
		return // policy doesn't have its rights looked at
	case r.OrchestratorMissing:
		return // an administrator of the tenant is asked
	}
	out.when(pl.d.Orchestrator() == "", "policy doesn't name the orchestrator's object id")
	out.when(known && !r.OrchestratorKnown, "the orchestrator's rights weren't read")
	if !known || !r.OrchestratorKnown || len(missing(r.Orchestrator, orchestratorOps(r.Model))) > 0 {
		s := pl.grantStep(GrantOrchestrator, pl.want.DES, pl.want.Vault, pl.url)
		pl.ready(s, ruleRegionRights, "grantRights", pl.d.Remedy.GrantRights, out.list, "orchestrator-denied")
	}
}

// keyFaults says what makes a region's key unfit.
func keyFaults(k cvm.Key, region string, at time.Time, d *policy.Document) []string {
	var out doubts
	keyStateDoubts(&out, k, at)
	out.when(!same(k.Type, "RSA-HSM"), "the key is a %q, not an RSA-HSM key", k.Type)
	out.when(k.Exportable != cvm.True, "the key isn't exportable")
	why := releaseFault(k.Policy, region, "", d)
	out.when(why != "", "%s", why)
	return out.list
}

// desFaults says what makes a region's set unfit.
func desFaults(des cvm.DES, key cvm.KeyID) []string {
	var out doubts
	out.when(!same(des.Type, cvm.DESTypeConfidential), "it is of type %s", des.Type)
	used, err := cvm.ParseKeyID(des.KeyURL)
	out.when(err != nil || !same(used.Versionless(), key.Versionless()), "it is on another key, %s", des.KeyURL)
	out.when(same(des.ProvisioningState, "Failed"), "its last update failed")
	return out.list
}

// vaultDoubts says what bars a vault from holding keys for confidential VMs.
func vaultDoubts(v cvm.Vault, region string) []string {
	var out doubts
	out.when(!v.HSM && !same(v.SKU, "premium"), "the vault %s is not Premium", v.Name)
	out.when(v.PurgeProtection != cvm.True, "the vault %s has no purge protection", v.Name)
	out.when(cvm.FoldRegion(v.Location) != cvm.FoldRegion(region), "the vault %s is in the region %s", v.Name, v.Location)
	return out.list
}
