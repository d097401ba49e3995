package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

// goodClaims are those of an Ubuntu confidential VM at rest.
func goodClaims() cvm.Fact[cvm.GuestClaims] {
	return cvm.Known(cvm.GuestClaims{OS: "ubuntu", Release: "22.04", CloudInit: "done", RootEncrypted: cvm.True, UbuntuFDE: cvm.True, ClearKey: cvm.False, KeyFile: cvm.False,
		ResizeSlot: cvm.False, Keyslots: 1, SRKTemplate: cvm.False, SealedKey: cvm.True, BootFiles: cvm.True})
}

func fenced() map[string]string {
	return map[string]string{"4": "a", "7": "b", "12": cvm.PCR12Fenced}
}

// sealed is a compliant VM whose image seals its root, and which says and proves so.
func sealed() cvm.Posture {
	p := compliant()
	p.VM.Value.Image = jammyImage
	p.Claims, p.Attestation.Value.PCRs = goodClaims(), fenced()
	return p
}

var fdeRules = []string{"fde-active", "fde-key-in-clear", "fde-slot-left", "reseal-pending"}

func TestFDERules(t *testing.T) {
	type p = *cvm.Posture
	claims := func(f func(*cvm.GuestClaims)) func(p) { return func(x p) { f(&x.Claims.Value) } }
	pcr12 := func(v string) func(p) { return func(x p) { x.Attestation.Value.PCRs["12"] = v } }
	all := func(s string) [4]string { return [4]string{s, s, s, s} }
	good := all("pass")
	with := func(i int, s string) [4]string { g := good; g[i] = s; return g }
	const na, collect, stale, first = "not-applicable", "unknown evidence-not-collected", "unknown evidence-stale", "unknown fde-provisioning"
	for _, tt := range []struct {
		name   string
		change func(p)
		want   [4]string
		value  Value
	}{
		{"sealed", func(p) {}, good, Compliant},
		{"root plain", claims(func(c *cvm.GuestClaims) {
			c.RootEncrypted, c.UbuntuFDE, c.SealedKey = cvm.False, cvm.False, cvm.False
		}), [4]string{"fail fde-not-active", "pass", "pass", na}, NonCompliant},
		{"root plain, PCR 12 or not", func(x p) { claims(func(c *cvm.GuestClaims) { c.RootEncrypted = cvm.False })(x); pcr12("")(x) }, [4]string{"fail fde-not-active", "pass", "pass", na}, NonCompliant},
		{"no sealed key", claims(func(c *cvm.GuestClaims) { c.SealedKey = cvm.False }), [4]string{"fail fde-not-active", "pass", "pass", na}, NonCompliant},
		{"PCR 12 of zeros", pcr12(strings.Repeat("0", 64)), with(0, "unknown fde-unproven"), Unknown},
		{"PCR 12 not quoted", func(x p) { delete(x.Attestation.Value.PCRs, "12") }, with(0, "unknown fde-unproven"), Unknown},
		{"PCRs not proven", func(x p) { x.Attestation.Value.PCRs = nil }, with(0, "unknown fde-unproven"), Unknown},
		{"the key not shut off", pcr12(cvm.PCR12Epoch), with(0, "unknown fde-unproven"), Unknown},
		{"PCR 12 of another boot", pcr12(strings.Repeat("7", 64)), with(0, "unknown fde-unproven"), Unknown},
		{"first boot at work", claims(func(c *cvm.GuestClaims) { c.CloudInit, c.KeyFile, c.ResizeSlot = "running", cvm.True, cvm.True }), [4]string{first, first, first, "pass"}, Unknown},
		{"first boot at work, clear key", claims(func(c *cvm.GuestClaims) { c.CloudInit, c.ClearKey = "running", cvm.True }), [4]string{first, first, "pass", "pass"}, Unknown},
		{"clear key after it", claims(func(c *cvm.GuestClaims) { c.ClearKey = cvm.True }), with(1, "fail fde-key-in-clear"), NonCompliant},
		{"key file after it", claims(func(c *cvm.GuestClaims) { c.KeyFile = cvm.True }), with(1, "fail fde-key-in-clear"), NonCompliant},
		{"key file after a failed one", claims(func(c *cvm.GuestClaims) { c.KeyFile, c.CloudInit = cvm.True, "error" }), with(1, "fail fde-key-in-clear"), NonCompliant},
		{"slot 10 after it", claims(func(c *cvm.GuestClaims) { c.ResizeSlot = cvm.True }), with(2, "fail fde-slot-left"), NonCompliant},
		{"header unread", claims(func(c *cvm.GuestClaims) { c.ClearKey, c.ResizeSlot = cvm.Unread, cvm.Unread }), [4]string{"pass", "unknown fde-unread", "unknown fde-unread", "pass"}, Unknown},
		{"mounts unread", claims(func(c *cvm.GuestClaims) { c.RootEncrypted = cvm.Unread }), with(0, "unknown fde-unread"), Unknown},
		{"boot files unread", claims(func(c *cvm.GuestClaims) { c.BootFiles = cvm.Unread }), with(3, "unknown fde-unread"), Unknown},
		{"kernel not resealed", claims(func(c *cvm.GuestClaims) { c.Unsealed = []string{"kernel.efi-6.8.0-1030-azure-fde"} }), with(3, "fail reseal-pending"), NonCompliant},
		{"kernel not resealed, and nothing to seal it by", claims(func(c *cvm.GuestClaims) {
			c.Unsealed, c.KeyringKey = []string{"kernel.efi-6.8.0-1030-azure-fde"}, cvm.False
		}), with(3, "fail reseal-pending"), NonCompliant},
		{"root encrypted by something else", claims(func(c *cvm.GuestClaims) { c.RootFormat = cvm.False }), with(0, "fail fde-not-active"), NonCompliant},
		{"root plain while cloud-init is at work", claims(func(c *cvm.GuestClaims) { c.CloudInit, c.RootEncrypted = "running", cvm.False }), [4]string{"fail fde-not-active", "pass", "pass", na}, NonCompliant},
		{"kernel resealed", claims(func(c *cvm.GuestClaims) { c.RebootFor = "kernel.efi-6.8.0-1030-azure-fde" }), with(3, "pass reboot-pending"), Compliant},
		{"one resealed, one not", claims(func(c *cvm.GuestClaims) { c.RebootFor, c.Unsealed = "kernel", []string{"dbx"} }), with(3, "fail reseal-pending"), NonCompliant},
		{"stale", func(x p) { x.EvidenceDue = true }, all(stale), Unknown},
		{"old", func(x p) { x.Attestation.Value.JudgedAt = now.Add(-24 * time.Hour) }, all(stale), Unknown},
		{"stale and bad", func(x p) { x.EvidenceDue = true; x.Claims.Value.Unsealed = []string{"dbx"} }, [4]string{stale, stale, stale, "fail reseal-pending"}, NonCompliant},
		{"development roots", func(x p) { x.Attestation.Value.Development = true }, all("unknown attestation-development-roots"), Unknown},
		{"nothing collected", func(x p) {
			x.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "")
			x.Claims = cvm.NotRead[cvm.GuestClaims]("evidence-not-collected", "", "")
		}, all(collect), Unknown},
		{"claims that nothing vouches for", func(x p) { x.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "") }, all(collect), Unknown},
		{"an attestation of before there were claims", func(x p) { x.Claims = cvm.Fact[cvm.GuestClaims]{} }, all(collect), Unknown},
		{"evidence refused", func(x p) {
			x.Claims, x.Attestation.Value.Evidence = cvm.Fact[cvm.GuestClaims]{}, cvm.Outcome{State: cvm.Fail, Reason: "quote.signature"}
		}, all("unknown fde-unproven"), NonCompliant},
		{"not asked", func(x p) { x.GuestAsked = false }, all("not-asked"), Compliant},
		{"guest state only", func(x p) {
			x.VM.Value.OSDisk.SecurityEncryptionType, x.VM.Value.OSDisk.SecureDES = cvm.EncryptGuestState, ""
		}, all(na), NonCompliant},
		{"Trusted Launch", func(x p) { x.VM.Value.SecurityType = "TrustedLaunch" }, all(na), NonCompliant},
		{"Windows", func(x p) { x.VM.Value.OS = "windows" }, all(na), Compliant},
		{"an image that doesn't seal", func(x p) { x.VM.Value.Image, x.Claims = serverTL, cvm.Fact[cvm.GuestClaims]{} }, all(na), NonCompliant},
		{"an unlisted image", func(x p) { x.VM.Value.Image, x.Claims = cvm.Image{}, cvm.Fact[cvm.GuestClaims]{} }, all(na + " image-unlisted"), Compliant},
		{"an unlisted image whose guest shows the format", func(x p) { x.VM.Value.Image = cvm.Image{}; x.Claims.Value.ClearKey = cvm.True }, with(1, "fail fde-key-in-clear"), NonCompliant},
		{"an unlisted image whose guest shows none", func(x p) { x.VM.Value.Image, x.Claims = cvm.Image{}, cvm.Known(cvm.GuestClaims{}) }, all(na + " image-unlisted"), Compliant},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := sealed()
			tt.change(&p)
			v := Judge(p, Embedded(), now)
			for i, rule := range fdeRules {
				if got := byRule(v.Findings, rule); got != tt.want[i] {
					t.Errorf("%s is %q, want %q", rule, got, tt.want[i])
				}
			}
			if v.Value != tt.value {
				t.Errorf("the verdict is %s, want %s: %v", v.Value, tt.value, said(v.Findings))
			}
			for _, f := range v.Findings {
				if f.Reason != "" && (f.Text == "" || f.State == cvm.Pass && f.Class != ClassNone) {
					t.Errorf("%+v", f)
				}
			}
			if got, want := Provisioning(p), strings.HasSuffix(tt.want[0], "fde-provisioning"); got != want {
				t.Errorf("Provisioning is %t", got)
			}
		})
	}
	off := Judge(sealed(), mustParse(t, head+"attestation: {asked: false}"), now)
	for _, rule := range append(fdeRules, "boot-measurement") {
		if got := byRule(off.Findings, rule); got != "not-asked" {
			t.Errorf("%s is %q where policy doesn't ask", rule, got)
		}
	}
}

func TestBootMeasurement(t *testing.T) {
	days := func(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }
	for _, tt := range []struct {
		name    string
		changed []cvm.PCRChange
		want    string
	}{
		{"the same", nil, "pass"},
		{"another kernel", []cvm.PCRChange{{PCR: "4", Was: "x", Since: days(1)}}, "pass pcr-changed"},
		{"another policy too", []cvm.PCRChange{{PCR: "4", Since: days(1)}, {PCR: "7", Since: days(29)}}, "pass pcr-changed, pass pcr-changed"},
		{"long ago", []cvm.PCRChange{{PCR: "7", Since: days(30)}}, "pass"},
	} {
		p := sealed()
		p.Attestation.Value.Changed = tt.changed
		v := Judge(p, Embedded(), now)
		if got := byRule(v.Findings, "boot-measurement"); got != tt.want || v.Value != Compliant {
			t.Errorf("%s: %q, %s", tt.name, got, v.Value)
		}
		for _, f := range v.Findings {
			if f.Reason == "pcr-changed" && (!strings.Contains(f.Text, "since 202") || (f.Severity == Low) != strings.Contains(f.Text, "PCR 7")) {
				t.Errorf("%+v", f)
			}
		}
	}
	p := sealed()
	p.Attestation.Value.PCRs = nil
	if got := byRule(Judge(p, Embedded(), now).Findings, "boot-measurement"); got != "not-applicable" {
		t.Error(got)
	}
}

// What a person is told to do about a reseal depends on whether the guest can make one.
func TestResealSaysWhatCanBeDone(t *testing.T) {
	text := func(unsealed []string, keyring cvm.Tri) string {
		p := sealed()
		p.Claims.Value.Unsealed, p.Claims.Value.KeyringKey = unsealed, keyring
		for _, f := range Judge(p, Embedded(), now).Findings {
			if f.Rule == "reseal-pending" {
				return f.Text
			}
		}
		return ""
	}
	for _, tt := range []struct {
		unsealed []string
		keyring  cvm.Tri
		want     string
		not      string
	}{
		{[]string{"dbx"}, cvm.True, "Run nullbootctl", "recovery key"},
		{[]string{"dbx"}, cvm.Unread, "Run nullbootctl", "recovery key"},
		{[]string{"dbx"}, cvm.False, "recovery key", "Run nullbootctl"},
		{nil, cvm.True, "sealed to all", "restart the VM"},
		{nil, cvm.False, "restart the VM before the next", "nullbootctl"},
	} {
		if got := text(tt.unsealed, tt.keyring); !strings.Contains(got, tt.want) || strings.Contains(got, tt.not) {
			t.Errorf("%v, %q: %s", tt.unsealed, tt.keyring, got)
		}
	}
}

// No fact about the guest, lost, makes a VM whose image seals its root compliant;
// nor does one that is bad.
func TestALostClaimIsNeverCompliant(t *testing.T) {
	for name, lose := range map[string]func(p *cvm.Posture){
		"claims":        func(p *cvm.Posture) { p.Claims = cvm.Fact[cvm.GuestClaims]{} },
		"PCR 12":        func(p *cvm.Posture) { delete(p.Attestation.Value.PCRs, "12") },
		"RootEncrypted": func(p *cvm.Posture) { p.Claims.Value.RootEncrypted = cvm.Unread },
		"ClearKey":      func(p *cvm.Posture) { p.Claims.Value.ClearKey = cvm.Unread },
		"KeyFile":       func(p *cvm.Posture) { p.Claims.Value.KeyFile = cvm.Unread },
		"ResizeSlot":    func(p *cvm.Posture) { p.Claims.Value.ResizeSlot = cvm.Unread },
		"SRKTemplate":   func(p *cvm.Posture) { p.Claims.Value.SRKTemplate = cvm.Unread },
		"SealedKey":     func(p *cvm.Posture) { p.Claims.Value.SealedKey = cvm.Unread },
		"BootFiles":     func(p *cvm.Posture) { p.Claims.Value.BootFiles = cvm.Unread },
	} {
		p := sealed()
		lose(&p)
		if v := Judge(p, Embedded(), now); v.Value != Unknown {
			t.Errorf("without %s: %s %v", name, v.Value, said(v.Findings))
		}
	}
	if v := Judge(sealed(), Embedded(), now); v.Value != Compliant {
		t.Error(fmt.Sprint(v.Value, said(v.Findings)))
	}
}
