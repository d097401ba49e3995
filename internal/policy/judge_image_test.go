package policy

import (
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

func image(offer, sku string) cvm.Image {
	return cvm.Image{Publisher: "Canonical", Offer: offer, SKU: sku, Version: "latest"}
}

var (
	focalImage = image("0001-com-ubuntu-confidential-vm-focal", "20_04-lts-cvm")
	jammyImage = image("0001-com-ubuntu-confidential-vm-jammy", "22_04-lts-cvm")
	serverTL   = image("0001-com-ubuntu-server-jammy", "22_04-lts-gen2")
	windows    = cvm.Image{Publisher: "MicrosoftWindowsServer", Offer: "windowsserver", SKU: "2022-datacenter-smalldisk-g2"}
)

func TestImageRules(t *testing.T) {
	const snp, tdx = "Standard_DC4as_v5", "Standard_DC4es_v6"
	old := now.Add(-365 * 24 * time.Hour) // when 20.04 was in support
	for _, tt := range []struct {
		name         string
		change       func(p *cvm.Posture)
		at           time.Time
		tee, support string
		value        Value
	}{
		{"listed, both TEEs", func(p *cvm.Posture) { p.VM.Value.Image = jammyImage }, now, "pass", "pass", Compliant},
		{"listed, TDX", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.Size = jammyImage, tdx }, now, "pass", "pass", Compliant},
		{"focal on SNP, in its time", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.Size = focalImage, snp }, old, "pass", "pass", ""},
		{"focal on SNP", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.Size = focalImage, snp }, now, "pass", "fail image-out-of-support", NonCompliant},
		{"focal on TDX", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.Size = focalImage, tdx }, now, "fail image-tee-unsupported", "fail image-out-of-support", NonCompliant},
		{"focal on an unknown size", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.Size = focalImage, "Standard_DC4xs_v9" }, now, "unknown image-tee-unsupported", "fail image-out-of-support", NonCompliant},
		{"jammy on an unknown size", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.Size = jammyImage, "Standard_DC4xs_v9" }, now, "pass", "pass", ""},
		{"a Trusted Launch image", func(p *cvm.Posture) { p.VM.Value.Image = serverTL }, now, "fail image-tee-unsupported", "pass", NonCompliant},
		{"Windows", func(p *cvm.Posture) { p.VM.Value.Image, p.VM.Value.OS = windows, "Windows" }, now, "pass", "not-applicable", Compliant},
		{"gallery", func(p *cvm.Posture) { p.VM.Value.Image = cvm.Image{ID: "/subscriptions/s/…/galleries/g"} }, now, "not-applicable image-unlisted", "not-applicable image-unlisted", Compliant},
		{"none", func(*cvm.Posture) {}, now, "not-applicable image-unlisted", "not-applicable image-unlisted", Compliant},
		{"a specialised disk that remembers", func(p *cvm.Posture) {
			p.OSDisk.Value.ImageID = "/Subscriptions/s/Providers/Microsoft.Compute/Locations/l/Publishers/canonical/ArtifactTypes/VMImage/Offers/0001-com-ubuntu-confidential-vm-focal/Skus/20_04-lts-cvm/Versions/1"
			p.VM.Value.Size = tdx
		}, now, "fail image-tee-unsupported", "fail image-out-of-support", NonCompliant},
		{"Trusted Launch VM", func(p *cvm.Posture) { p.VM.Value.SecurityType, p.VM.Value.Image = "TrustedLaunch", serverTL }, now, "not-applicable", "pass", NonCompliant},
		{"VM unread", func(p *cvm.Posture) { p.VM = cvm.NotRead[cvm.VM]("vm-unreadable", "a", "") }, now, "unknown vm-unreadable", "unknown vm-unreadable", Unknown},
	} {
		p := compliant()
		p.Claims, p.Attestation.Value.PCRs = goodClaims(), fenced()
		p.Attestation.Value.JudgedAt = tt.at
		tt.change(&p)
		v := Judge(p, Embedded(), tt.at)
		if tee, support := byRule(v.Findings, "image-tee"), byRule(v.Findings, "image-support"); tee != tt.tee || support != tt.support || tt.value != "" && v.Value != tt.value {
			t.Errorf("%s: %q and %q, %s %v", tt.name, tee, support, v.Value, said(v.Findings))
		}
		// What check asks is the same: the image is ARM's word.
		p.GuestAsked = false
		c := Judge(p, Embedded(), tt.at)
		if byRule(c.Findings, "image-tee") != tt.tee || byRule(c.Findings, "image-support") != tt.support {
			t.Errorf("%s: without the guest %v", tt.name, said(c.Findings))
		}
	}
}
