package policy

import (
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// part is a rule that a region's readiness is made of.
type part struct {
	id    string
	judge func(*subject) []Finding
}

// gather runs rules that are on and keeps what fails or is unknown, each reason
// once, with the rule's name in the text. A fault that only a deallocation or a new VM would
// cure elsewhere is a person's to cure here: no VM hangs on it yet.
func (s *subject) gather(parts ...part) []Finding {
	var list []Finding
	for _, p := range parts {
		if s.doc.Effect(p.id) == EffectOff {
			continue
		}
		for _, f := range p.judge(s) {
			if f.State != cvm.Fail && f.State != cvm.UnknownState || slices.ContainsFunc(list, func(have Finding) bool {
				return have.State == f.State && have.Reason == f.Reason
			}) {
				continue
			}
			if f.Class == NeedsDeallocation || f.Class == NeedsRecreate {
				f.Class = NeedsPerson
			}
			f.Text += " (rule " + p.id + ")"
			list = append(list, f)
		}
	}
	return list
}

// needRegion gives nil where policy wants something ready in the region.
func (s *subject) needRegion() (Region, []Finding) {
	want, ok := s.doc.Region(s.region)
	if !ok {
		return want, notAsked(fmt.Sprintf("Policy wants nothing ready in region %q.", s.region))
	}
	return want, nil
}

func judgeRegionKey(s *subject) []Finding {
	want, list := s.needRegion()
	if list != nil {
		return list
	}
	if s.vault.Absent {
		f := fail("region-vault-missing", NeedsPerson, "The vault that policy names for the region isn't there; make it, or correct the policy.", "vault")
		f.Object = want.Vault
		return one(f)
	}
	if list := s.needVault(); list != nil {
		list[0].Object = want.Vault
		return list
	}
	if s.key.Absent {
		f := fail("region-key-missing", InPlace, fmt.Sprintf("Key %q isn't in the region's vault.", want.Key), "key")
		f.Object = "https://" + s.vault.Value.Host + "/keys/" + want.Key
		list = append(list, f)
	}
	list = append(list, s.gather(
		part{"key-available", skipAbsent(judgeKeyAvailable)}, part{"key-hsm", judgeKeyType}, part{"key-size", judgeKeySize},
		part{"key-exportable", judgeExportable}, part{"key-release-policy", judgeReleasePolicy}, part{"key-enabled", judgeEnabled},
		part{"key-expiry", judgeExpiry}, part{"key-ops", judgeOps}, part{"key-certificate", judgeCertificate},
		part{"vault-premium", judgePremium}, part{"vault-purge-protection", judgePurge},
		part{"vault-soft-delete", judgeSoftDelete}, part{"vault-region", judgeVaultRegion})...)
	return orPass(list, "The region has a key fit for confidential VMs.", "key", "vault")
}

// skipAbsent leaves a key that isn't there to region-key-missing.
func skipAbsent(judge func(*subject) []Finding) func(*subject) []Finding {
	return func(s *subject) []Finding {
		if s.key.Absent {
			return nil
		}
		return judge(s)
	}
}

func judgeRegionDES(s *subject) []Finding {
	want, list := s.needRegion()
	if list != nil {
		return list
	}
	s.desID = want.DES
	if s.des.Absent {
		return one(s.onDES(fail("region-des-missing", InPlace, fmt.Sprintf("Disk encryption set %q isn't there.", want.DES.Name()), "des")))
	}
	if !s.des.Known {
		return one(s.onDES(unread(s.des, "des-unreadable", "des")))
	}
	list = s.gather(part{"des-type", judgeDESType}, part{"des-state", judgeDESState}, part{"des-auto-rotation", judgeAutoRotation},
		part{"des-rotation", judgeRotation}, part{"des-identity", judgeIdentity}, part{"des-region", judgeDESRegion}, part{"des-key-url", judgeKeyURL})
	if id, err := cvm.ParseKeyID(s.des.Value.KeyURL); err == nil && s.vault.Known {
		wanted := "https://" + s.vault.Value.Host + "/keys/" + want.Key
		if !strings.EqualFold(string(id.Versionless()), wanted) {
			list = append(list, s.onDES(fail("region-des-other-key", NeedsPerson, "The region's disk encryption set is on another key than policy names.", "des.keyUrl")))
		}
	}
	return orPass(list, "The region has a disk encryption set for confidential VMs.", "des")
}

func judgeRegionRights(s *subject) []Finding {
	want, list := s.needRegion()
	if list != nil {
		return list
	}
	s.desID = want.DES
	if s.des.Absent || s.vault.Absent || s.key.Absent {
		return notApplicable("There is nothing yet to have rights on, or nobody to have them.")
	}
	if list := s.needRights(); list != nil {
		return list
	}
	list = s.gather(part{"rights-des", judgeRightsDES}, part{"rights-orchestrator", judgeRightsOrchestrator})
	return orPass(list, "The set's identity and the orchestrator have their rights.", "rights")
}
