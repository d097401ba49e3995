package policytest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// The samples that the documentation points to pass.
func TestTheSamplesPass(t *testing.T) {
	results, err := Run(t.Context(), filepath.Join("..", "..", "docs", "policy-tests"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 3 {
		t.Errorf("%d samples", len(results))
	}
	for _, r := range results {
		if !r.Passed {
			t.Errorf("%s: %s %+v", r.File, r.Broken, r.Differences)
		}
	}
}

// With another policy they say what is different.
func TestAnotherPolicyInTheirPlace(t *testing.T) {
	results, err := Run(t.Context(), filepath.Join("..", "..", "docs", "policy-tests"), policy.Embedded())
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, r := range results {
		if r.Broken != "" {
			t.Errorf("%s: %s", r.File, r.Broken)
		}
		if !r.Passed {
			failed++
		}
	}
	if failed == 0 {
		t.Error("a policy without exemptions passes their scenarios")
	}
}

// dir is a folder with files.
func dir(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	pol  = "schemaVersion: 1\nname: p\n"
	vmid = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1"
	body = `{"id":"` + vmid + `","name":"vm1","type":"Microsoft.Compute/virtualMachines","location":"northeurope","properties":{"vmId":"v","provisioningState":"Succeeded",` +
		`"hardwareProfile":{"vmSize":"Standard_D2s_v5"},"storageProfile":{"osDisk":{"osType":"Linux","managedDisk":{"id":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/disks/d"}}}}}`
	head = "name: n\nat: 2026-06-01T00:00:00Z\n"
)

func TestRun(t *testing.T) {
	given := "given: {files: [vm.json]}\n"
	for name, c := range map[string]struct {
		scenario string
		passed   bool
		says     string // a part of what is broken, or of the differences
	}{
		"passes":              {head + "policy: p.yaml\n" + given + "expect: [{verdict: non-compliant, findings: [{rule: vm-kind, state: fail, reason: not-confidential}]}]\n", true, ""},
		"inline policy":       {head + "policy: |\n  schemaVersion: 1\n  name: q\n  want: {exclude: [{name: vm1}]}\n" + given + "expect: [{vm: vm1, verdict: not-a-cvm}]\n", true, ""},
		"inline body":         {head + "policy: p.yaml\ngiven: {bodies: [" + body + "]}\nexpect: [{vm: " + vmid + ", verdict: non-compliant}]\n", true, ""},
		"a dir":               {head + "policy: p.yaml\ngiven: {dir: .}\nexpect: [{verdict: non-compliant}]\n", true, ""},
		"another verdict":     {head + "policy: p.yaml\n" + given + "expect: [{verdict: compliant}]\n", false, "vm1 verdict: compliant, not non-compliant"},
		"another state":       {head + "policy: p.yaml\n" + given + "expect: [{findings: [{rule: vm-kind, state: pass}]}]\n", false, "vm1 finding: vm-kind pass, not vm-kind fail (not-confidential)"},
		"only":                {head + "policy: p.yaml\n" + given + "expect: [{only: true, findings: [{rule: vm-kind}]}]\n", false, "no other"},
		"a plan":              {head + "policy: p.yaml\n" + given + "expect: [{plan: [tag, deallocate]}]\n", false, "tag, deallocate"},
		"a fault":             {"named: n\nat: then\ngiven: {bodies: [5]}\nexpect: [{verdict: complaint}, {findings: [{rule: vm-knd}]}, {vm: x}]\n", false, `1:1: named: there is no member "named", did you mean "name"?`},
		"a wrong verdict":     {head + "policy: p.yaml\n" + given + "expect: [{verdict: complaint}]\n", false, `did you mean "compliant"?`},
		"a wrong rule":        {head + "policy: p.yaml\n" + given + "expect: [{findings: [{rule: vm-knd}]}]\n", false, `there is no rule "vm-knd", did you mean "vm-kind"?`},
		"nothing expected":    {head + "policy: p.yaml\n" + given + "expect: [{vm: x}]\n", false, "nothing is expected"},
		"no body":             {head + "policy: p.yaml\ngiven: {vms: {vm1: {attestation: pass}}}\nexpect: [{verdict: compliant}]\n", false, "no body is given"},
		"no policy":           {head + given + "expect: [{verdict: compliant}]\n", false, "it names no policy"},
		"no such policy":      {head + "policy: q.yaml\n" + given + "expect: [{verdict: compliant}]\n", false, "policy: reading q.yaml: no such file"},
		"a policy's faults":   {head + "policy: |\n  schemaVersion: 1\n  nam: q\n" + given + "expect: [{verdict: compliant}]\n", false, `2:1: nam: there is no member "nam", did you mean "name"?`},
		"no such file":        {head + "policy: p.yaml\ngiven: {files: [w.json]}\nexpect: [{verdict: compliant}]\n", false, "reading w.json: no such file"},
		"no such dir":         {head + "policy: p.yaml\ngiven: {dir: w}\nexpect: [{verdict: compliant}]\n", false, `given.dir "w": no such file`},
		"a body of nothing":   {head + "policy: p.yaml\ngiven: {bodies: [{a: b}]}\nexpect: [{verdict: compliant}]\n", false, "given: given.bodies.0 is no body that cvmguard knows"},
		"no such VM":          {head + "policy: p.yaml\n" + given + "expect: [{vm: vm2, verdict: compliant}]\n", false, `no VM that is given is called "vm2"; there are vm1`},
		"facts of no such VM": {head + "policy: p.yaml\ngiven: {files: [vm.json], vms: {vm2: {attestation: pass}}}\nexpect: [{verdict: compliant}]\n", false, `no VM that is given is called "vm2"`},
		"two that differ":     {head + "policy: p.yaml\ngiven: {files: [vm.json], bodies: [" + strings.Replace(body, "D2s", "D4s", 1) + "]}\nexpect: [{verdict: compliant}]\n", false, "differently"},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := Run(t.Context(), dir(t, map[string]string{"s.yaml": c.scenario, "p.yaml": pol, "vm.json": body, "README.md": "x"}), nil)
			if err != nil || len(results) != 1 {
				t.Fatalf("%+v, %v", results, err)
			}
			r := results[0]
			said := r.Broken
			for _, d := range r.Differences {
				said += "\n" + d.VM + " " + d.What + ": " + d.Expected + ", not " + d.Found
			}
			if r.Passed != c.passed || !strings.Contains(said, c.says) || r.File != "s.yaml" {
				t.Errorf("passed %t: %s", r.Passed, said)
			}
		})
	}
	for name, path := range map[string]string{"empty": t.TempDir(), "none": filepath.Join(t.TempDir(), "x"), "policies alone": dir(t, map[string]string{"p.yaml": pol})} {
		if _, err := Run(t.Context(), path, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// No step is planned for what is exempt.
func TestNoStepForWhatIsExempt(t *testing.T) {
	scenario := head + `policy: |
  schemaVersion: 1
  name: no extension
  mode: enforce
  exemptions:
    - rules: [guest-attestation-extension]
      owner: jane@example.com
      reason: the image's own agent reports the boot
      until: UNTIL
      scope: {select: {tag: {env: prod}}}
given:
  dir: estate
  vms:
    vm-web: {attestation: pass}
expect:
  - only: true
    plan: [STEPS]
`
	for until, steps := range map[string]string{"2026-07-01": "tag", "2026-05-01": "install-guest-attestation, tag"} {
		text := strings.NewReplacer("UNTIL", until, "STEPS", steps).Replace(scenario)
		_, diffs, err := one(t.Context(), filepath.Join("..", "..", "docs", "policy-tests"), []byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range diffs {
			if d.What == "plan" || strings.HasPrefix(d.Found, "guest-attestation-extension") && until == "2026-07-01" {
				t.Errorf("until %s: %+v", until, d)
			}
		}
	}
}

// What the guest says of its root makes each of the rules on it pass, or fail.
func TestTheGuestsWord(t *testing.T) {
	scenario := head + `policy: |
  schemaVersion: 1
  name: the disk alone
  rules: {secure-boot: off, guest-attestation-extension: off}
given:
  dir: estate
  vms:
    vm-web: {attestation: ATTESTATION, fde: FDE}
expect:
  - verdict: VERDICT
    only: true
    findings: [FINDINGS]
`
	for fde, c := range map[string]struct{ verdict, findings string }{
		"sealed":         {"compliant", "{rule: fde-active, state: pass}, {rule: reseal-pending, state: pass}"},
		"plain":          {"non-compliant", "{rule: fde-active, reason: fde-not-active}"},
		"key-in-clear":   {"non-compliant", "{rule: fde-key-in-clear, state: fail, reason: fde-key-in-clear}"},
		"slot-left":      {"non-compliant", "{rule: fde-slot-left, state: fail, reason: fde-slot-left}"},
		"reseal-pending": {"non-compliant", "{rule: reseal-pending, state: fail}"},
		"first-boot":     {"unknown", "{rule: fde-active, state: unknown, reason: fde-provisioning}, {rule: fde-key-in-clear, reason: fde-provisioning}, {rule: fde-slot-left, reason: fde-provisioning}"},
	} {
		text := strings.NewReplacer("ATTESTATION", "pass", "FDE", fde, "VERDICT", c.verdict, "FINDINGS", c.findings).Replace(scenario)
		_, diffs, err := one(t.Context(), filepath.Join("..", "..", "docs", "policy-tests"), []byte(text), nil)
		if err != nil || len(diffs) > 0 {
			t.Errorf("%s: %+v, %v", fde, diffs, err)
		}
	}
	for text, want := range map[string]string{
		strings.NewReplacer("ATTESTATION", "not-collected", "FDE", "sealed", "VERDICT", "unknown", "FINDINGS", "").Replace(scenario): "10:47: given.vms.vm-web.fde: the guest's word comes with its evidence",
		strings.NewReplacer("ATTESTATION", "pass", "FDE", "seald", "VERDICT", "unknown", "FINDINGS", "").Replace(scenario):           `did you mean "sealed"?`,
	} {
		if _, _, err := one(t.Context(), t.TempDir(), []byte(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestCompare(t *testing.T) {
	v := policy.Verdict{Value: policy.Unknown, Findings: []policy.Finding{{Rule: "a", State: cvm.Pass}, {Rule: "b", State: cvm.Fail, Reason: "x"}, {Rule: "b", State: cvm.UnknownState, Reason: "y"}, {Rule: "c", State: cvm.Exempt, Reason: "z"}}}
	plan := remedy.Plan{Steps: []remedy.Step{{Kind: "one", State: remedy.Planned}, {Kind: "two", State: remedy.Advised}, {Kind: "three", State: remedy.Planned}}}
	find := func(f ...policy.ExpectedFinding) []policy.ExpectedFinding { return f }
	for i, c := range []struct {
		x policy.Expectation
		n int
	}{
		{policy.Expectation{}, 0},
		{policy.Expectation{Verdict: policy.Unknown, Findings: find(policy.ExpectedFinding{Rule: "b"}), Plan: []string{"three"}}, 0},
		{policy.Expectation{Findings: find(policy.ExpectedFinding{Rule: "b"}), Only: true, Plan: []string{"one", "three"}}, 0},
		{policy.Expectation{Findings: find(policy.ExpectedFinding{Rule: "b", Reason: "x"}), Only: true}, 1},
		{policy.Expectation{Findings: find(policy.ExpectedFinding{Rule: "b", State: cvm.Fail, Reason: "y"})}, 1},
		{policy.Expectation{Findings: find(policy.ExpectedFinding{Rule: "nope"})}, 1},
		{policy.Expectation{Only: true}, 2},
		{policy.Expectation{Findings: find(policy.ExpectedFinding{Rule: "b"}), Only: true, Plan: []string{"one"}}, 1},
		{policy.Expectation{Findings: find(policy.ExpectedFinding{Rule: "b"}), Only: true, Plan: []string{}}, 1},
		{policy.Expectation{Plan: []string{"three", "one"}}, 1},
		{policy.Expectation{Plan: []string{"two"}}, 1},
		{policy.Expectation{Verdict: policy.Compliant, Findings: find(policy.ExpectedFinding{Rule: "c", State: cvm.Fail})}, 2},
	} {
		if got := Compare("vm", c.x, v, plan); len(got) != c.n {
			t.Errorf("%d: %+v", i, got)
		}
	}
}

// Whatever a scenario says: it is run or broken, without a crash.
func FuzzScenario(f *testing.F) {
	f.Add(head + "policy: p.yaml\ngiven: {files: [vm.json], vms: {vm1: {attestation: fail, rights: {desIdentity: [get]}, tagSetBy: [x]}}}\nexpect: [{only: true, plan: [tag]}]\n")
	f.Add(head + "given: {bodies: [" + body + "]}\nexpect: [{verdict: compliant}]\n")
	f.Add("expect: [{}]\n")
	folder := f.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "vm.json"), []byte(body), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := policy.ParseScenario([]byte(text))
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		if s.Name == "" || s.At.IsZero() && !strings.Contains(text, "0001") || len(s.Expect) == 0 {
			t.Fatalf("%+v", s)
		}
		if s.Given.Dir != "" || len(s.Given.Files) > 0 {
			return // no walks through the machine
		}
		if _, diffs, err := one(t.Context(), folder, []byte(text), policy.Embedded()); err == nil && len(diffs) > 1000 {
			t.Fatal("too much")
		}
	})
}
