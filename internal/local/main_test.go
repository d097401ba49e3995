package local_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
)

// The tests run the binary that is deployed: it is built here, so that no stale
// dist/ passes for it.
var dist string

const (
	repo    = "../.."
	azurite = repo + "/node_modules/azurite/dist/src/azurite.js"
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "cvmguard-dist-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		dist = dir
		if err := stage(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// stage does what `make dist` does.
func stage(dir string) error {
	for out, pkg := range map[string]string{"cvmguard": "./cmd/cvmguard", "guest/cvmguard-guest": "./cmd/cvmguard-guest"} {
		c := exec.Command("go", "build", "-tags", "release", "-o", filepath.Join(dir, out), pkg)
		c.Dir, c.Env = repo, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", pkg, err, text)
		}
	}
	return exec.Command("cp", "-R", repo+"/functions/.", repo+"/host.json", dir).Run()
}

// world starts a world with its host, subscribed to events.
func world(t *testing.T, o local.Options) *local.World {
	t.Helper()
	if _, err := os.Stat(azurite); err != nil {
		t.Skip("Azurite isn't installed: `npm ci` in the repository's root installs it (make test does)")
	}
	o.Dist, o.Infra, o.Azurite = dist, repo+"/infra", azurite
	if o.Operation == 0 {
		o.Operation = 300 * time.Millisecond
	}
	if testing.Verbose() && os.Getenv("CVMGUARD_TEST_LOG") != "" {
		o.Output = os.Stderr
	}
	w, err := local.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.StartHost(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.Subscribe(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// rest waits for the loop to come to rest.
func rest(t *testing.T, w *local.World, vms []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	if err := w.Rest(ctx, vms); err != nil {
		t.Fatal(err)
	}
}

// histories is what an auditor reads of every object, VMs and shared ones, by its
// folded id: verdicts with their findings, intents and outcomes in their order. A
// verdict that repeats the one before is left out, and so are times and names of
// records.
func histories(t *testing.T, w *local.World) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, chain := range chains(t, w) {
		recs, err := w.Chains().After(t.Context(), chain, 0, "")
		if err != nil {
			t.Fatal(err)
		}
		last := ""
		var lines []string
		for _, r := range recs {
			rec := r.Record
			if v := rec.Verdict; v != nil {
				var fs []string
				for _, f := range v.Findings {
					if f.State != "pass" || f.Reason != "" {
						fs = append(fs, fmt.Sprintf("%s=%s(%s)", f.Rule, f.State, f.Reason))
					}
				}
				if line := string(v.Value) + " " + strings.Join(fs, " "); line != last {
					lines, last = append(lines, line), line
				}
			}
			switch rec.Type {
			case ledger.TypeIntent:
				lines = append(lines, "intent "+string(rec.Step.Kind))
			case ledger.TypeOutcome:
				lines = append(lines, "outcome "+string(rec.Step.Kind)+" "+string(rec.Outcome.State))
			}
		}
		out[strings.ToLower(recs[0].Record.Object)] = lines
	}
	return out
}

func chains(t *testing.T, w *local.World) []string {
	t.Helper()
	var all []string
	if err := w.Chains().All(t.Context(), func(chain string) bool {
		all = append(all, chain)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	return all
}

// writes is the handler's accepted writes, method and path, sorted.
func writes(w *local.World) []string {
	var out []string
	for _, c := range w.Sim.Writes(azuresim.HandlerPrincipal) {
		out = append(out, c.Method+" "+strings.ToLower(c.Path))
	}
	slices.Sort(out)
	return out
}

func show(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}
