package policy

import (
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

func TestJudgeShared(t *testing.T) {
	p := compliant()
	notAsked := cvm.NotRead[[]cvm.Disk]("not-asked", "", "")
	noRights := cvm.NotRead[cvm.Rights]("not-asked", "", "")
	des := cvm.SharedPosture{Kind: cvm.SharedDES, ID: string(desID), Region: "northeurope", DES: p.DES, DESDisks: p.DESDisks, Key: p.Key, Vault: p.Vault, Rights: p.Rights}
	key := cvm.SharedPosture{Kind: cvm.SharedKey, ID: string(keyID.Versionless()), Region: "northeurope", Key: p.Key, Vault: p.Vault, DESDisks: notAsked, Rights: noRights}
	vault := cvm.SharedPosture{Kind: cvm.SharedVault, ID: kvID, Vault: p.Vault, DESDisks: notAsked, Rights: noRights}
	for _, c := range []struct {
		what   string
		s      cvm.SharedPosture
		change func(*cvm.SharedPosture)
		want   string
		value  Value
		object string
	}{
		{"set", des, func(*cvm.SharedPosture) {}, "", Compliant, ""},
		{"set, auto rotation", des, func(s *cvm.SharedPosture) { s.DES.Value.AutoRotation = true }, "fail des-auto-rotation-unsupported", NonCompliant, string(desID)},
		{"set, auto rotation and disks not read", des, func(s *cvm.SharedPosture) { s.DES.Value.AutoRotation, s.DESDisks = true, notAsked }, "pass des-auto-rotation-unsupported", Compliant, ""},
		{"set, no disks", des, func(s *cvm.SharedPosture) { s.DES.Value.AutoRotation, s.DESDisks = true, cvm.Known([]cvm.Disk{}) }, "pass des-auto-rotation-unsupported", Compliant, ""},
		{"set, rights", des, func(s *cvm.SharedPosture) { s.Rights.Value.DESIdentity = nil }, "fail des-identity-denied", NonCompliant, string(desID)},
		{"set, key's fault isn't its own", des, func(s *cvm.SharedPosture) { s.Key.Value.Enabled = cvm.False }, "", Compliant, ""},
		{"set unread", des, func(s *cvm.SharedPosture) { s.DES = cvm.NotRead[cvm.DES]("des-unreadable", "a", "") }, "unknown des-unreadable", Unknown, string(desID)},
		{"set gone", des, func(s *cvm.SharedPosture) { s.DES, s.Gone = cvm.NotThere[cvm.DES](), true }, "", Gone, ""},
		{"key", key, func(*cvm.SharedPosture) {}, "", Compliant, ""},
		{"key disabled", key, func(s *cvm.SharedPosture) { s.Key.Value.Enabled = cvm.False }, "fail key-disabled", NonCompliant, key.ID},
		{"key's policy", key, func(s *cvm.SharedPosture) { s.Key.Value.Policy = cvm.ReleasePolicy{} }, "fail key-no-release-policy", NonCompliant, key.ID},
		{"key unread", key, func(s *cvm.SharedPosture) { s.Key = cvm.NotRead[cvm.Key]("key-unreadable", "a", "") }, "unknown key-unreadable", Unknown, key.ID},
		{"key gone", key, func(s *cvm.SharedPosture) { s.Key, s.Gone = cvm.NotThere[cvm.Key](), true }, "fail key-deleted", Gone, key.ID},
		{"vault", vault, func(*cvm.SharedPosture) {}, "", Compliant, ""},
		{"vault Standard", vault, func(s *cvm.SharedPosture) { s.Vault.Value.SKU = "standard" }, "fail vault-not-premium", NonCompliant, kvID},
		{"vault unread", vault, func(s *cvm.SharedPosture) { s.Vault = cvm.NotRead[cvm.Vault]("vault-unreadable", "a", "") }, "unknown vault-unreadable", Unknown, kvID},
	} {
		s := c.s
		c.change(&s)
		v := JudgeShared(s, Embedded(), now)
		got := strings.Join(said(v.Findings), ", ")
		if got != c.want || v.Value != c.value {
			t.Errorf("%s: %s %q, want %s %q", c.what, v.Value, got, c.value, c.want)
			continue
		}
		if _, reason, ok := strings.Cut(c.want, " "); ok && c.object != "" && find(v.Findings, reason).Object != c.object {
			t.Errorf("%s: object %q, want %q", c.what, find(v.Findings, reason).Object, c.object)
		}
		for _, f := range v.Findings {
			if r, _ := RuleByID(f.Rule); !r.on(string(s.Kind)) {
				t.Errorf("%s: rule %s isn't on %s", c.what, f.Rule, s.Kind)
			}
		}
	}
}

func TestJudgeRegion(t *testing.T) {
	d := mustParse(t, head+"regions: {northeurope: {vault: "+kvID+", key: cvm-os-key, des: "+string(desID)+"}}")
	p := compliant()
	p.Key.Value.Policy.Decoded = cvm.DraftReleasePolicy("https://sharedneu.neu.attest.azure.net")
	base := cvm.SharedPosture{Kind: cvm.SharedRegion, ID: "00000000-0000-0000-0000-000000000001/regions/northeurope", Region: "northeurope", DES: p.DES, Key: p.Key, Vault: p.Vault, Rights: p.Rights, DESDisks: p.DESDisks}
	for _, c := range []struct {
		what             string
		change           func(*cvm.SharedPosture)
		key, set, rights string
		class            Class
	}{
		{"ready", func(*cvm.SharedPosture) {}, "pass", "pass", "pass", ""},
		{"nothing yet", func(s *cvm.SharedPosture) {
			s.Key, s.DES, s.Rights = cvm.NotThere[cvm.Key](), cvm.NotThere[cvm.DES](), cvm.NotRead[cvm.Rights]("not-asked", "", "")
		}, "fail region-key-missing", "fail region-des-missing", "not-applicable", InPlace},
		{"no vault", func(s *cvm.SharedPosture) {
			s.Vault, s.Key = cvm.NotThere[cvm.Vault](), cvm.Fact[cvm.Key]{}
		}, "fail region-vault-missing", "pass", "not-applicable", NeedsPerson},
		{"vault unread", func(s *cvm.SharedPosture) {
			s.Vault, s.Key = cvm.NotRead[cvm.Vault]("vault-unreadable", "a", ""), cvm.Fact[cvm.Key]{}
		}, "unknown vault-unreadable", "pass", "pass", NeedsPerson},
		{"key weak", func(s *cvm.SharedPosture) { s.Key.Value.Exportable, s.Key.Value.Bits = cvm.False, 0 }, "unknown key-attributes-unread, fail key-not-exportable", "pass", "pass", NeedsPerson},
		{"key unread", func(s *cvm.SharedPosture) { s.Key = cvm.NotRead[cvm.Key]("key-unreadable", "a", "") }, "unknown key-unreadable", "pass", "pass", NeedsPerson},
		{"another key", func(s *cvm.SharedPosture) { s.DES.Value.KeyURL = "https://kv-cvm.vault.azure.net/keys/other/1" }, "pass", "fail region-des-other-key", "pass", NeedsPerson},
		{"ordinary set", func(s *cvm.SharedPosture) { s.DES.Value.Type = cvm.DESTypeSSE }, "pass", "fail des-wrong-type", "pass", NeedsPerson},
		{"rights", func(s *cvm.SharedPosture) { s.Rights.Value.DESIdentity = []string{"get"} }, "pass", "pass", "fail des-identity-denied", InPlace},
	} {
		s := base
		c.change(&s)
		v := JudgeShared(s, d, now)
		set := func(rule string) string {
			var out []string
			for _, part := range strings.Split(byRule(v.Findings, rule), ", ") {
				if len(out) == 0 || out[len(out)-1] != part {
					out = append(out, part)
				}
			}
			return strings.Join(out, ", ")
		}
		key := set("region-key-ready")
		if key != c.key || set("region-des-ready") != c.set || set("region-rights-ready") != c.rights {
			t.Errorf("%s: %q, %q, %q", c.what, key, set("region-des-ready"), set("region-rights-ready"))
		}
		for _, f := range v.Findings {
			if f.State == cvm.Fail && f.Class != c.class {
				t.Errorf("%s: %s has class %q", c.what, f.Reason, f.Class)
			}
		}
	}
	base.Region = "westeurope"
	if v := JudgeShared(base, d, now); v.Value != Compliant || byRule(v.Findings, "region-key-ready") != "not-asked" {
		t.Errorf("a region that policy doesn't name: %s", v.Value)
	}
}

func TestAttestation(t *testing.T) {
	set := func(f func(*cvm.Attestation)) func(*cvm.Posture) {
		return func(p *cvm.Posture) { f(&p.Attestation.Value) }
	}
	trusted := func(p *cvm.Posture) { p.VM.Value.SecurityType = "TrustedLaunch" }
	for _, c := range []struct {
		what          string
		change        func(*cvm.Posture)
		doc           string
		maa, evidence string
	}{
		{"good", func(*cvm.Posture) {}, "", "pass", "pass"},
		{"not asked", func(p *cvm.Posture) { p.GuestAsked = false }, "", "not-asked", "not-asked"},
		{"not asked by policy", func(*cvm.Posture) {}, "attestation: {asked: false}", "not-asked", "not-asked"},
		{"off", func(*cvm.Posture) {}, "rules: {attestation.maa: off}", "not-asked", "pass"},
		{"nothing yet", func(p *cvm.Posture) { p.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "") }, "", "unknown evidence-not-collected", "unknown evidence-not-collected"},
		{"nothing yet, no reason", func(p *cvm.Posture) { p.Attestation = cvm.Fact[cvm.Attestation]{} }, "", "unknown evidence-not-collected", "unknown evidence-not-collected"},
		{"due", func(p *cvm.Posture) { p.EvidenceDue = true }, "", "unknown evidence-stale", "unknown evidence-stale"},
		{"old", set(func(a *cvm.Attestation) { a.JudgedAt = now.Add(-24 * time.Hour) }), "", "unknown evidence-stale", "unknown evidence-stale"},
		{"old for this policy", set(func(a *cvm.Attestation) { a.JudgedAt = now.Add(-time.Hour) }), "attestation: {maxAge: 30m}", "unknown evidence-stale", "unknown evidence-stale"},
		{"failed and due", func(p *cvm.Posture) {
			p.EvidenceDue = true
			p.Attestation.Value.MAA = cvm.Outcome{State: cvm.Fail, Reason: "maa.other-evidence"}
		}, "", "fail maa.other-evidence", "unknown evidence-stale"},
		{"unknown", set(func(a *cvm.Attestation) { a.Evidence = cvm.Outcome{State: cvm.UnknownState, Reason: "snp.no-vcek"} }), "", "pass", "unknown snp.no-vcek"},
		{"no outcome", set(func(a *cvm.Attestation) { a.MAA = cvm.Outcome{} }), "", "unknown evidence-not-collected", "pass"},
		{"odd outcome", set(func(a *cvm.Attestation) { a.MAA = cvm.Outcome{State: cvm.Exempt} }), "", "unknown evidence-not-collected", "pass"},
		{"development", set(func(a *cvm.Attestation) { a.Development = true }), "", "unknown attestation-development-roots", "unknown attestation-development-roots"},
		{"development, allowed", func(p *cvm.Posture) { p.AllowDevelopment = true; p.Attestation.Value.Development = true }, "", "pass", "pass"},
		{"trusted launch", trusted, "", "not-applicable maa.none-for-trusted-launch", "pass"},
		{"trusted launch, vTPM off", func(p *cvm.Posture) { trusted(p); p.VM.Value.VTPM = cvm.False }, "", "not-applicable maa.none-for-trusted-launch", "not-applicable no-vtpm"},
		{"ordinary", func(p *cvm.Posture) { p.VM.Value.SecurityType = "" }, "", "not-applicable no-vtpm", "not-applicable no-vtpm"},
		{"new kind", func(p *cvm.Posture) { p.VM.Value.SecurityType = "X" }, "", "unknown security-type-unread", "unknown security-type-unread"},
		{"VM unread", func(p *cvm.Posture) { p.VM = cvm.Fact[cvm.VM]{} }, "", "unknown vm-unreadable", "unknown vm-unreadable"},
	} {
		p := compliant()
		c.change(&p)
		v := Judge(p, mustParse(t, head+c.doc), now)
		if maa, ev := byRule(v.Findings, "attestation.maa"), byRule(v.Findings, "attestation.evidence"); maa != c.maa || ev != c.evidence {
			t.Errorf("%s: %q, %q", c.what, maa, ev)
		}
		if strings.Contains(c.maa+c.evidence, "unknown") && v.Value == Compliant {
			t.Errorf("%s: compliant", c.what)
		}
	}
}
