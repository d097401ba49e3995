package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

const root = "../.."

func TestThePageIsNotStale(t *testing.T) {
	if err := run(root, true, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
}

func TestAStalePageIsFound(t *testing.T) {
	copied := t.TempDir()
	for _, dir := range []string{policyDir, cvmDir} {
		if err := os.CopyFS(filepath.Join(copied, dir), os.DirFS(filepath.Join(root, dir))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(copied, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if err := run(copied, false, &said); err != nil || !strings.Contains(said.String(), page) {
		t.Fatalf("writing: %v, said %q", err, said.String())
	}
	if err := run(copied, true, &said); err != nil {
		t.Errorf("just written: %v", err)
	}
	file := filepath.Join(copied, filepath.FromSlash(page))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(copied, true, &said); !errors.Is(err, errStale) {
		t.Errorf("changed by hand: %v, want %v", err, errStale)
	}
	if err := run(t.TempDir(), true, &said); err == nil {
		t.Error("without sources: no error")
	}
}

// TestReasonsAreThoseThatTheJudgeGives asks the judge itself where that is easy:
// what it says must be among what was read from its source.
func TestReasonsAreThoseThatTheJudgeGives(t *testing.T) {
	byRule, links, err := reasonsOf(root)
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string][]string{
		"vm-kind":                {"security-type-unread", "not-confidential", "generation-1", "confidential-size-without-cvm", "not-a-cvm-size"},
		"os-disk-customer-key":   {"security-encryption-type-unread", "os-disk-platform-key", "des-both-fields", "des-unreadable", "des-missing"},
		"secure-boot":            {"secure-boot-off", "tl-secure-boot-off", "uefi-unread"},
		"des-auto-rotation":      {"des-auto-rotation-unsupported"},
		"key-enabled":            {"key-disabled", "key-attributes-unread"},
		"temp-disk-confidential": {"temp-disk-not-confidential"},
	} {
		for _, c := range want {
			if !slices.Contains(byRule[rule].own, c) {
				t.Errorf("%s: %s is missing of %v", rule, c, byRule[rule].own)
			}
		}
	}
	for _, c := range []string{"key-no-release-policy", "key-policy-unreadable", "key-policy-weak", "key-policy-mutable"} {
		if !slices.Contains(byRule["key-release-policy"].own, c) {
			t.Errorf("key-release-policy: %s is missing", c)
		}
	}
	for rule, not := range map[string]string{"temp-disk-confidential": "security-encryption-type-unread", "key-hsm": "key-unreadable"} {
		if slices.Contains(byRule[rule].own, not) {
			t.Errorf("%s: %s is not one of its own", rule, not)
		}
	}
	if !slices.Contains(links, "key-unreadable") || slices.Contains(links, "no-vtpm") {
		t.Errorf("links that weren't read: %v", links)
	}
	if g := byRule["region-key-ready"].gathers; !slices.Contains(g, "key-available") || !slices.Contains(g, "vault-region") {
		t.Errorf("region-key-ready gathers %v", g)
	}
	for _, r := range policy.Rules() {
		for _, f := range judged(t, r.ID) {
			if f.Reason != "" && !slices.Contains(byRule[r.ID].own, f.Reason) && !slices.Contains(links, f.Reason) {
				t.Errorf("%s says %s, which was not read from its source", r.ID, f.Reason)
			}
		}
	}
}

// judged is what a rule says of some bare postures.
func judged(t *testing.T, rule string) []policy.Finding {
	t.Helper()
	doc := policy.Embedded()
	vm := cvm.VM{ID: "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1",
		Name: "vm1", Location: "westeurope", Size: "Standard_DC4as_v5", ProvisioningState: "Failed"}
	var out []policy.Finding
	for _, security := range []string{"", "TrustedLaunch", "ConfidentialVM", "Later"} {
		for _, encryption := range []string{"", cvm.EncryptDisk, cvm.EncryptGuestState, cvm.EncryptNoTPM} {
			vm.SecurityType, vm.OSDisk.SecurityEncryptionType = security, encryption
			p := cvm.Posture{ID: vm.ID, VM: cvm.Known(vm), GuestAsked: true}
			out = append(out, policy.Judge(p, doc, time.Time{}).Findings...)
		}
	}
	out = append(out, policy.Judge(cvm.Posture{ID: vm.ID}, doc, time.Time{}).Findings...)
	return slices.DeleteFunc(out, func(f policy.Finding) bool { return f.Rule != rule })
}
