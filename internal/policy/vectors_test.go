package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// built makes a posture of vectors, as `check` would: the guest isn't asked.
// Files that are "" aren't there; the DES's key URL is pointed at the key.
func built(t *testing.T, vm, disk, des, key, vault string) cvm.Posture {
	t.Helper()
	p := cvm.Posture{SecondLook: true, Rights: cvm.NotRead[cvm.Rights]("not-asked", "", ""), DESDisks: cvm.NotRead[[]cvm.Disk]("not-asked", "", "")}
	p.VM = cvm.Known(load(t, vm, cvm.ParseVM))
	p.ID = p.VM.Value.ID
	if disk != "" {
		p.OSDisk = cvm.Known(load(t, disk, cvm.ParseDisk))
	}
	if des != "" {
		p.DES = cvm.Known(load(t, des, cvm.ParseDES))
	}
	if key != "" {
		p.Key = cvm.Known(load(t, key, cvm.ParseKey))
		p.DES.Value.KeyURL = string(p.Key.Value.ID)
	}
	if vault != "" {
		p.Vault = cvm.Known(load(t, vault, cvm.ParseVault))
	}
	for _, ref := range p.VM.Value.DataDisks {
		p.DataDisks = append(p.DataDisks, cvm.DataDiskFacts{Ref: ref, Disk: cvm.Known(load(t, "disk-data-sse-cmk.json", cvm.ParseDisk)), DES: cvm.Known(load(t, "des-sse-cmk.json", cvm.ParseDES))})
	}
	return p
}

const (
	fVM, fDisk, fDES, fKey, fVault = "vm-cvm-cmk.json", "disk-cvm-cmk.json", "des-confidentialvm.json", "key-good.json", "vault-premium.json"
)

func TestVectors(t *testing.T) {
	notes := "pass disk-exportable, pass key-policy-mutable, pass key-no-expiry"
	noKey := "pass disk-exportable"
	for _, c := range []struct {
		vm, disk, des, key, vault string
		kind                      cvm.Kind
		value                     Value
		want                      string
	}{
		{fVM, fDisk, fDES, fKey, fVault, cvm.KindCustomerKey, Compliant, notes},
		{fVM, "disk-cvm-cmk-reserved.json", fDES, "key-good-default-policy.json", fVault, cvm.KindCustomerKey, Compliant, notes},
		{fVM, "disk-cvm-cmk-v2.json", fDES, "key-4096.json", fVault, cvm.KindCustomerKey, Compliant, notes},
		{fVM, fDisk, "des-confidentialvm-mhsm.json", "key-good-mhsm.json", "mhsm.json", cvm.KindCustomerKey, Compliant, notes},
		{"vm-cvm-cmk-datadisk-encryptionathost.json", fDisk, fDES, fKey, fVault, cvm.KindCustomerKey, Compliant, notes},
		{"vm-cvm-tdx-cmk.json", "disk-cvm-tdx-cmk.json", fDES, fKey, fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail des-region-mismatch"},
		{"vm-cvm-pmk.json", "disk-cvm-pmk.json", "", "", "", cvm.KindPlatformKey, NonCompliant, noKey + ", fail os-disk-platform-key"},
		{"vm-cvm-vmgs-only.json", "disk-cvm-vmgs-only.json", "", "", "", cvm.KindGuestState, NonCompliant, noKey + ", fail os-disk-not-confidential"},
		{"vm-cvm-nonpersistedtpm.json", "disk-cvm-nonpersistedtpm.json", "", "", "", cvm.KindEphemeralTPM, NonCompliant, noKey + ", fail vtpm-not-persisted"},
		{"vm-trustedlaunch-gen2.json", "disk-trustedlaunch.json", "", "", "", cvm.KindTrustedLaunch, NonCompliant, noKey + ", fail not-confidential"},
		{"vm-standard-gen1.json", "disk-standard-gen1.json", "", "", "", cvm.KindStandardGen1, NonCompliant, noKey + ", fail not-confidential, fail generation-1"},
		{"vm-standard-gen2-typed.json", "", "", "", "", cvm.KindUnknown, NonCompliant, "fail not-confidential, unknown disk-unreadable"},
		{fVM, "disk-cvm-pmk.json", fDES, fKey, fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail disk-vm-mismatch, fail des-id-mismatch"},
		{fVM, "disk-standard-gen1.json", fDES, fKey, fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail disk-vm-mismatch"},
		{fVM, fDisk, "des-confidentialvm-autorotation.json", fKey, fVault, cvm.KindCustomerKey, Compliant, notes + ", pass des-auto-rotation-unsupported"},
		{fVM, fDisk, "des-rotation-in-progress.json", fKey, fVault, cvm.KindCustomerKey, Unknown, notes + ", unknown rotation-in-progress"},
		{fVM, fDisk, "des-autorotation-error.json", fKey, fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail des-wrong-type, fail des-rotation-error"},
		{fVM, fDisk, "des-sse-cmk.json", fKey, fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail des-wrong-type"},
		{fVM, fDisk, "des-double.json", fKey, fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail des-wrong-type"},
		{fVM, fDisk, fDES, "key-2048.json", fVault, cvm.KindCustomerKey, Compliant, notes + ", pass key-size-2048"},
		{fVM, fDisk, fDES, "key-disabled.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail key-disabled"},
		{fVM, fDisk, fDES, "key-expired.json", fVault, cvm.KindCustomerKey, NonCompliant, "pass disk-exportable, pass key-policy-mutable, fail key-expired"},
		{fVM, fDisk, fDES, "key-near-expiry.json", fVault, cvm.KindCustomerKey, Compliant, "pass disk-exportable, pass key-policy-mutable, pass key-near-expiry"},
		{fVM, fDisk, fDES, "key-not-yet-valid.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail key-not-yet-valid"},
		{fVM, fDisk, fDES, "key-no-policy.json", fVault, cvm.KindCustomerKey, NonCompliant, "pass disk-exportable, pass key-no-expiry, fail key-not-exportable, fail key-no-release-policy"},
		{fVM, fDisk, fDES, "key-not-exportable.json", fVault, cvm.KindCustomerKey, NonCompliant, "pass disk-exportable, pass key-no-expiry, fail key-not-exportable, fail key-no-release-policy"},
		{fVM, fDisk, fDES, "key-software-rsa.json", fVault, cvm.KindCustomerKey, NonCompliant, "pass disk-exportable, pass key-no-expiry, fail key-not-hsm, fail key-not-exportable, fail key-no-release-policy"},
		{fVM, fDisk, fDES, "key-no-wrap-ops.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail key-ops-missing"},
		{fVM, fDisk, fDES, "key-purgeable.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail vault-no-purge-protection"},
		{fVM, fDisk, fDES, "key-guest-skr-policy.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail key-policy-weak, fail key-policy-guest-dialect"},
		{fVM, fDisk, fDES, "key-weak-policy.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail key-policy-weak, fail key-policy-tee-missing"},
		{fVM, fDisk, fDES, "key-foreign-authority.json", fVault, cvm.KindCustomerKey, NonCompliant, notes + ", fail key-policy-foreign-authority, fail key-policy-region-missing"},
		{fVM, fDisk, fDES, fKey, "vault-standard-accesspolicies.json", cvm.KindCustomerKey, NonCompliant, notes + ", fail vault-not-premium, fail vault-no-purge-protection, fail vault-region-mismatch"},
	} {
		v := Judge(built(t, c.vm, c.disk, c.des, c.key, c.vault), Embedded(), now)
		name := strings.Join([]string{c.vm, c.disk, c.des, c.key, c.vault}, " ")
		if got := said(v.Findings); !same(got, strings.Split(c.want, ", ")) || v.Value != c.value || v.Kind != c.kind {
			t.Errorf("%s:\n got %s %s %q\nwant %s %s %q", name, v.Value, v.Kind, got, c.value, c.kind, c.want)
		}
	}
}

func TestVectorsOfTheGuest(t *testing.T) {
	p := built(t, fVM, fDisk, fDES, fKey, fVault)
	p.GuestAsked = true
	b, err := os.ReadFile(filepath.Join(vectors(t), "vm-instanceview-running.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cvm.ParseInstanceView(b, &p.VM.Value); err != nil {
		t.Fatal(err)
	}
	v := Judge(p, Embedded(), now)
	if got := byRule(v.Findings, "guest-attestation-extension") + "; " + byRule(v.Findings, "agent-ready") + "; " + byRule(v.Findings, "attestation.maa"); got != "pass; pass; unknown evidence-not-collected" {
		t.Error(got)
	}
	// The extension's own body says that it is installed, and no more.
	ext := load(t, "ext-guestattestation-linux.json", cvm.ParseExtension)
	p.VM.Value.Extensions = []cvm.Extension{ext}
	if got := byRule(Judge(p, Embedded(), now).Findings, "guest-attestation-extension"); got != "fail attestation-extension-not-ready" {
		t.Error(got)
	}
	p = built(t, fVM, fDisk, fDES, fKey, fVault)
	p.GuestAsked = true
	if b, err = os.ReadFile(filepath.Join(vectors(t), "vm-instanceview-deallocated.json")); err != nil {
		t.Fatal(err)
	}
	if err := cvm.ParseInstanceView(b, &p.VM.Value); err != nil {
		t.Fatal(err)
	}
	if got := byRule(Judge(p, Embedded(), now).Findings, "agent-ready"); got != "not-applicable" {
		t.Error(got)
	}
	// The request for the temporary disk's encryption, once it has succeeded.
	ade := load(t, "ext-ade-cvm-tempdisk-request.json", cvm.ParseExtension)
	ade.ProvisioningState = "Succeeded"
	p.VM.Value.Size, p.VM.Value.Extensions = "Standard_DC4ads_v5", []cvm.Extension{ade}
	if got := byRule(Judge(p, mustParse(t, head+"rules: {temp-disk-confidential: audit}"), now).Findings, "temp-disk-confidential"); got != "pass" {
		t.Error(got)
	}
}

func TestVectorsOfDataDisks(t *testing.T) {
	p := built(t, "vm-cvm-cmk-datadisk-encryptionathost.json", fDisk, fDES, fKey, fVault)
	if got := byRule(Judge(p, Embedded(), now).Findings, "data-disk-customer-key"); got != "pass" {
		t.Error(got)
	}
	p.DataDisks[0].Disk = cvm.Known(load(t, "disk-data-pmk.json", cvm.ParseDisk))
	if got := byRule(Judge(p, Embedded(), now).Findings, "data-disk-customer-key"); got != "fail data-disk-platform-key" {
		t.Error(got)
	}
	if got := byRule(Judge(p, mustParse(t, head+"rules: {encryption-at-host: audit}"), now).Findings, "encryption-at-host"); got != "pass" {
		t.Error(got)
	}
}

// The vault of an HSM's key and the rights of an access-policy vault.
func TestVectorsOfRights(t *testing.T) {
	v := load(t, "vault-standard-accesspolicies.json", cvm.ParseVault)
	s := cvm.SharedPosture{Kind: cvm.SharedDES, ID: string(desID), DES: cvm.Known(load(t, fDES, cvm.ParseDES)), DESDisks: cvm.NotRead[[]cvm.Disk]("not-asked", "", ""),
		Vault: cvm.Known(v), Rights: cvm.Known(cvm.Rights{Model: "access-policies", DESIdentity: v.AccessPolicies[0].Keys, Orchestrator: v.AccessPolicies[1].Keys, OrchestratorKnown: true})}
	verdict := JudgeShared(s, Embedded(), now)
	if byRule(verdict.Findings, "rights-des") != "pass" || byRule(verdict.Findings, "rights-orchestrator") != "pass" || verdict.Value != Compliant {
		t.Errorf("%s %q", verdict.Value, said(verdict.Findings))
	}
}

func TestNoVectorForgotten(t *testing.T) {
	source, err := os.ReadFile("vectors_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"vm-*", "disk-*", "des-*", "vault-*", "mhsm*", "key-*", "ext-*"} {
		names, err := filepath.Glob(filepath.Join(vectors(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			// What hangs on a set is a list of ids, which package cvm reads.
			if base := filepath.Base(n); base != "des-associatedresources.json" && !strings.Contains(string(source), `"`+base+`"`) {
				t.Errorf("%s is in no test", base)
			}
		}
	}
}
