package policy

import (
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// judgeKeyAvailable: rows 59 and 60.
func judgeKeyAvailable(s *subject) []Finding {
	if list := s.needKeyPath(); list != nil {
		return list
	}
	switch {
	case s.key.Known:
		return pass("The key can be read.", "key")
	case s.key.Absent:
		return one(s.onKey(fail("key-deleted", InPlace, "The key version isn't there; its owner recovers it from the deleted keys, or restores a backup into the same vault.", "key")))
	}
	return one(s.onKey(unread(s.key, "key-unreadable", "key")))
}

// judgeKeyType: rows 40, 42 and 43.
func judgeKeyType(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	switch kty := s.key.Value.Type; strings.ToUpper(kty) {
	case "RSA-HSM":
		return pass("The key is an RSA key in an HSM.", "key.kty")
	case "RSA":
		return one(s.onKey(fail("key-not-hsm", NeedsDeallocation, "The key is kept in software; make a new one in an HSM.", "key.kty")))
	case "":
		return one(s.onKey(unknown("key-attributes-unread", NeedsPerson, "The key's type was not in what was read.", "key.kty")))
	default:
		return one(s.onKey(fail("key-wrong-type", NeedsDeallocation, fmt.Sprintf("The key is of type %s; disks need RSA-HSM.", kty), "key.kty")))
	}
}

// judgeKeySize: row 41, which is of RSA-HSM keys; any other is replaced anyway
// (rows 42 and 43).
func judgeKeySize(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	k, least := s.key.Value, s.doc.Rules["key-size"].MinBits
	switch {
	case k.Type != "" && !strings.EqualFold(k.Type, "RSA-HSM"):
		return notApplicable("The key isn't an RSA key in an HSM.")
	case k.Bits == 0:
		return one(s.onKey(unknown("key-attributes-unread", NeedsPerson, "The key's size was not in what was read.", "key.bits")))
	case k.Bits < 2048 || k.Bits != 2048 && k.Bits < least:
		return one(s.onKey(fail("key-size-below-policy", NeedsDeallocation, fmt.Sprintf("The key has %d bits; policy wants %d.", k.Bits, max(least, 2048)), "key.bits")))
	case k.Bits < least:
		return one(s.onKey(fail("key-size-2048", NeedsDeallocation, fmt.Sprintf("The key has 2048 bits; policy wants %d.", least), "key.bits")))
	case k.Bits == 2048:
		return one(note("key-size-2048", "The key has 2048 bits, the least that disks take.", "key.bits"))
	}
	return pass("The key is long enough.", "key.bits")
}

// judgeExportable: row 44. Azure leaves the member out when it is false.
func judgeExportable(s *subject) []Finding {
	if list := s.needAttributes(); list != nil {
		return list
	}
	if s.key.Value.Exportable == cvm.True {
		return pass("The key can be released.", "key.exportable")
	}
	return one(s.onKey(fail("key-not-exportable", NeedsDeallocation, "The key isn't exportable, so it can't be released; make a new one, it can't be switched on.", "key.exportable")))
}

// judgeReleasePolicy: rows 45 to 52.
func judgeReleasePolicy(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	q := cvm.PolicyQuestion{Region: s.region, TEE: s.tee, ExtraAuthorities: s.doc.Authorities}
	if s.on == onVM && q.Region == "" {
		q.Region = "unread" // asked all the same: a region without a known provider is unknown
	}
	if s.on == onVM && q.TEE == cvm.TEENone {
		q.TEE = cvm.TEEUnknown // a confidential VM has one, whatever its size's name says
	}
	var list []Finding
	for _, p := range cvm.JudgeReleasePolicy(s.key.Value.Policy, q) {
		text := p.Text
		if p.Clause != "" {
			text = strings.TrimSuffix(text, ".") + " (" + p.Clause + ")."
		}
		f := Finding{State: p.State, Severity: Severity(p.Severity), Reason: p.Code, Text: text, Facts: []string{"key.releasePolicy"}}
		switch {
		case p.State == cvm.Pass:
		case p.State == cvm.UnknownState:
			f.Class = NeedsPerson
			f = s.onKey(f)
		case p.Code == "key-no-release-policy" || s.key.Value.Policy.Immutable:
			f.Class = NeedsDeallocation
			f = s.onKey(f)
		default:
			f.Class = InPlace
			f = s.onKey(f)
		}
		list = append(list, f)
	}
	return orPass(list, "The release policy admits compliant confidential VMs only.", "key.releasePolicy")
}

// judgeImmutable is row 52 where policy demands it.
func judgeImmutable(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	switch p := s.key.Value.Policy; {
	case !p.Present:
		return notApplicable("The key has no release policy.")
	case p.Immutable:
		return pass("The release policy can't be changed.", "key.releasePolicy")
	}
	return one(s.onKey(fail("key-policy-mutable", NeedsPerson, "The release policy can be changed by whoever may update the key.", "key.releasePolicy")))
}

// judgeEnabled: row 53.
func judgeEnabled(s *subject) []Finding {
	if list := s.needAttributes(); list != nil {
		return list
	}
	switch s.key.Value.Enabled {
	case cvm.True:
		return pass("The key is enabled.", "key.enabled")
	case cvm.False:
		return one(s.onKey(fail("key-disabled", NeedsPerson, "The key is disabled: no VM on it boots. Enable it; don't deallocate or restart its VMs before.", "key.enabled")))
	}
	return one(s.onKey(unknown("key-attributes-unread", NeedsPerson, "Whether the key is enabled was not in what was read.", "key.enabled")))
}

// judgeExpiry: rows 54 to 57. Expired means exp at or before now, not yet valid
// nbf after it.
func judgeExpiry(s *subject) []Finding {
	if list := s.needAttributes(); list != nil {
		return list
	}
	k, set := s.key.Value, s.doc.Rules["key-expiry"]
	var list []Finding
	switch {
	case k.Expires.IsZero() && set.Required:
		list = append(list, s.onKey(fail("key-no-expiry", InPlace, "The key has no expiry date, and policy wants one; its owner sets it.", "key.exp")))
	case k.Expires.IsZero():
		list = append(list, note("key-no-expiry", "The key has no expiry date; policy doesn't want one.", "key.exp"))
	case !k.Expires.After(s.now):
		list = append(list, s.onKey(fail("key-expired", NeedsDeallocation, "The key expired on "+k.Expires.Format("2006-01-02")+". Don't deallocate its VMs: extend it, or have a new version ready first.", "key.exp")))
	case !k.Expires.After(s.now.Add(set.Near)):
		f := note("key-near-expiry", "The key expires on "+k.Expires.Format("2006-01-02")+"; plan a rotation.", "key.exp")
		f.Severity = Medium
		list = append(list, f)
	}
	if k.NotBefore.After(s.now) {
		list = append(list, s.onKey(fail("key-not-yet-valid", NeedsPerson, "The key isn't valid before "+k.NotBefore.Format("2006-01-02")+".", "key.nbf")))
	}
	return orPass(list, "The key is in time.", "key.exp", "key.nbf")
}

// judgeOps: row 58.
func judgeOps(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	var missing []string
	for _, op := range []string{"wrapKey", "unwrapKey"} {
		if !slices.ContainsFunc(s.key.Value.Ops, func(have string) bool { return strings.EqualFold(have, op) }) {
			missing = append(missing, op)
		}
	}
	if len(missing) > 0 {
		return one(s.onKey(fail("key-ops-missing", InPlace, "The key's operations lack "+strings.Join(missing, " and ")+".", "key.key_ops")))
	}
	return pass("The key may wrap and unwrap.", "key.key_ops")
}

// judgeVersion: row 61.
func judgeVersion(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return besideTheChain(list)
	}
	if s.key.Value.NewerVersion == "" {
		return notAsked("No newer version is known; versions were not listed, or there is none.")
	}
	return one(note("key-version-behind", "The key has a newer version than the one in use.", "key.newerVersion"))
}

// judgeCertificate: row 62.
func judgeCertificate(s *subject) []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	if s.key.Value.Managed {
		return one(s.onKey(fail("key-certificate-backed", NeedsDeallocation, "The key backs a certificate and changes with it.", "key.managed")))
	}
	return pass("The key doesn't back a certificate.", "key.managed")
}
