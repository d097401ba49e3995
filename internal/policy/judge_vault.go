package policy

import (
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// judgePremium: rows 63 to 65.
func judgePremium(s *subject) []Finding {
	if list := s.needVault(); list != nil {
		return list
	}
	v := s.vault.Value
	switch {
	case v.HSM:
		return pass("It is a Managed HSM.", "vault.id")
	case strings.EqualFold(v.SKU, "premium"):
		return pass("The vault is Premium.", "vault.sku")
	case v.SKU == "":
		return one(s.onVault(unknown("vault-unreadable", NeedsPerson, "The vault's SKU was not in what was read.", "vault.sku")))
	}
	return one(s.onVault(fail("vault-not-premium", NeedsDeallocation, fmt.Sprintf("The vault is of SKU %q; a key for confidential VMs needs Premium or a Managed HSM.", v.SKU), "vault.sku")))
}

// judgePurge: row 66. The key's own recovery level counts even where the vault
// can't be read; ARM leaves the vault's member out when it is off.
func judgePurge(s *subject) []Finding {
	purgeable := s.key.Known && strings.Contains(strings.ToLower(s.key.Value.RecoveryLevel), "purgeable")
	list := s.needVault()
	if list != nil && (list[0].State == cvm.NotApplicable || !purgeable) {
		return list
	}
	if purgeable || s.vault.Value.PurgeProtection != cvm.True {
		list = append(list, s.onVault(fail("vault-no-purge-protection", InPlace, "Purge protection is off: a purged key takes its data with it. Switching it on can't be undone, so a person consents.", "vault.purgeProtection", "key.recoveryLevel")))
	}
	return orPass(list, "Purge protection is on.", "vault.purgeProtection", "key.recoveryLevel")
}

// judgeSoftDelete: row 67. A Managed HSM always has it, and so has what has purge
// protection; where the vault doesn't show it, the key's recovery level tells.
func judgeSoftDelete(s *subject) []Finding {
	if list := s.needVault(); list != nil {
		return list
	}
	v := s.vault.Value
	level := ""
	if s.key.Known {
		level = strings.ToLower(s.key.Value.RecoveryLevel)
	}
	off := s.onVault(fail("vault-no-soft-delete", InPlace, "Soft delete is off: a deleted key is gone at once. Switching it on can't be undone, so a person consents.", "vault.softDelete", "key.recoveryLevel"))
	switch {
	case v.SoftDelete == cvm.False, v.SoftDelete == cvm.Unread && level == "purgeable":
		return one(off)
	case v.SoftDelete == cvm.True, v.HSM, v.PurgeProtection == cvm.True, strings.Contains(level, "recoverable"):
		return pass("Soft delete is on.", "vault.softDelete")
	}
	off.State, off.Class, off.Text = cvm.UnknownState, NeedsPerson, "The vault doesn't show whether soft delete is on."
	return one(off)
}

// judgeVaultRegion: row 68. The region is the set's; on a region's readiness the
// region itself.
func judgeVaultRegion(s *subject) []Finding {
	if list := s.needVault(); list != nil {
		return list
	}
	v, region := s.vault.Value, s.region
	if s.des.Known && s.on != onRegion {
		region = s.des.Value.Location
	}
	f := s.onVault(fail("vault-region-mismatch", NeedsDeallocation, fmt.Sprintf("The vault is in %s, not in %s.", v.Location, region), "vault.location", "des.location"))
	region = cvm.FoldRegion(region)
	switch {
	case region == "" && s.on != onVM:
		return notApplicable("The region in which the vault must be isn't known here.")
	case region == "" || v.Location == "":
		f.State, f.Class, f.Text = cvm.UnknownState, NeedsPerson, "A location isn't shown by Azure."
		return one(f)
	case cvm.FoldRegion(v.Location) == region:
		return pass("The regions are the same.", f.Facts...)
	case v.HSM && slices.Contains(v.ExtraRegions, region):
		f.State, f.Class, f.Text = cvm.UnknownState, NeedsPerson, fmt.Sprintf("The Managed HSM is in %s and extended to %s; whether that is enough isn't known.", v.Location, region)
	}
	return one(f)
}

// judgeNetwork: row 72.
func judgeNetwork(s *subject) []Finding {
	if list := s.needVault(); list != nil {
		return list
	}
	if s.vault.Value.ShutsOutPlatform() {
		f := note("vault-unreachable-by-platform", "The vault is closed and doesn't let Azure's trusted services in; disks may not reach their key.", "vault.network")
		f.Severity = Medium
		return one(f)
	}
	return pass("The platform can reach the vault.", "vault.network")
}

// judgeRightsDES: rows 69 and 73.
func judgeRightsDES(s *subject) []Finding {
	if list := s.needRights(); list != nil {
		return list
	}
	if missing := lacking(s.rights.Value.DESIdentity, "get", "wrapkey", "unwrapkey"); missing != "" {
		return one(s.onDES(fail("des-identity-denied", InPlace, "The disk encryption set's identity lacks "+missing+" on the key."+groupsHidden(s.rights.Value), "rights.desIdentity")))
	}
	return pass("The disk encryption set's identity may use the key.", "rights.desIdentity")
}

// judgeRightsOrchestrator: rows 70, 71 and 73. With access policies it needs get
// too.
func judgeRightsOrchestrator(s *subject) []Finding {
	if list := s.needRights(); list != nil {
		return list
	}
	r := s.rights.Value
	switch {
	case !r.OrchestratorKnown:
		return notAsked("Policy doesn't name the orchestrator's object id (orchestratorObjectId).")
	case r.OrchestratorMissing:
		return one(s.onDES(fail("orchestrator-missing", NeedsPerson, "The service principal Confidential VM Orchestrator isn't in this tenant; a tenant admin makes it.", "rights.orchestrator")))
	}
	var need []string
	switch r.Model {
	case "rbac", "hsm-local":
		need = []string{"release"}
	case "access-policies":
		need = []string{"get", "release"}
	default:
		return one(s.onDES(unknown("rights-unreadable", NeedsPerson, fmt.Sprintf("The vault's kind of rights is %q, which isn't known.", r.Model), "rights.model")))
	}
	if missing := lacking(r.Orchestrator, need...); missing != "" {
		return one(s.onDES(fail("orchestrator-denied", InPlace, "The orchestrator lacks "+missing+" on the key; VMs on it don't boot."+groupsHidden(r), "rights.orchestrator")))
	}
	return pass("The orchestrator may release the key.", "rights.orchestrator")
}

// groupsHidden says what can't be seen of rights that are kept by ids alone.
func groupsHidden(r cvm.Rights) string {
	if r.Model == "rbac" {
		return ""
	}
	return " A right given to a group isn't seen here: give it directly."
}

// judgeRightsUnwrap: row 73a.
func judgeRightsUnwrap(s *subject) []Finding {
	if list := s.needRights(); list != nil {
		return list
	}
	if n := len(s.rights.Value.OtherUnwrap); n > 0 {
		f := note("key-unwrap-broad", fmt.Sprintf("%d other principals may unwrap with the key: %s.", n, strings.Join(firstFew(s.rights.Value.OtherUnwrap), ", ")), "rights.otherUnwrap")
		f.Severity = Medium
		return one(f)
	}
	return pass("Nobody else may unwrap with the key.", "rights.otherUnwrap")
}

func firstFew(list []string) []string {
	if len(list) > 5 {
		return append(slices.Clone(list[:5]), "…")
	}
	return list
}

// lacking names the operations that a list hasn't, "" for none. "all" counts for
// every one.
func lacking(have []string, need ...string) string {
	var missing []string
	for _, op := range need {
		if !slices.ContainsFunc(have, func(h string) bool { return strings.EqualFold(h, op) || strings.EqualFold(h, "all") }) {
			missing = append(missing, op)
		}
	}
	return strings.Join(missing, ", ")
}
