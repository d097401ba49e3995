package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cvmguard/internal/config"
)

// The shadow policy is read at the start like the one in force: what is wrong with
// either is all said, and nothing is served.
func TestAShadowPolicyAtTheStart(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("schemaVersion: cvmguard.dev/policy/v1\nrules: {vtmp: enforce}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		want []string
	}{
		"a fault":             {map[string]string{envShadow: bad}, []string{"bad.yaml:2:", `there is no rule "vtmp"`}},
		"no such file":        {map[string]string{envShadow: filepath.Join(dir, "none.yaml")}, []string{"setting " + envShadow, "no such file"}},
		"both":                {map[string]string{envShadow: bad, envPolicy: bad}, []string{"bad.yaml:2:"}},
		"beside other faults": {map[string]string{envShadow: bad, "CVMGUARD_MODE": "mend"}, []string{"CVMGUARD_MODE", `there is no rule "vtmp"`}},
	} {
		c.env["AzureWebJobsStorage"] = "UseDevelopmentStorage=true"
		var out, errs bytes.Buffer
		if status := run([]string{"serve"}, func(k string) string { return c.env[k] }, &out, &errs); status != exitCannot {
			t.Errorf("%s: status %d", name, status)
		}
		for _, w := range c.want {
			if !strings.Contains(errs.String(), w) {
				t.Errorf("%s: it lacks %q: %s", name, w, errs.String())
			}
		}
	}
	if d, err := shadowPolicy(config.Config{}); d != nil || err != nil {
		t.Errorf("none: %v, %v", d, err)
	}
}
