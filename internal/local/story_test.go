package local_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/local"
	"cvmguard/internal/local/story"
	"cvmguard/internal/remedy"
)

// Every story happens as it is told, and leaves chains that verify.
func TestStories(t *testing.T) {
	for _, st := range story.All() {
		t.Run(st.Name, func(t *testing.T) {
			w := world(t, st.Options(local.Options{}))
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
			defer cancel()
			vms, told, err := st.Play(ctx, w, t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			documented(t, w, st, vms, told)
			if st.Name == "rotation" {
				inOrder(t, told)
			}
			verifyChains(t, w)
			if st.Name == "recreation" {
				filesParse(t, w)
			}
		})
	}
}

// documented wants that a run's document names mode and policy, and that the story
// has lines of both sorts, in the order of their time.
func documented(t *testing.T, w *local.World, st story.Story, vms []string, told local.RunStory) {
	t.Helper()
	run, err := w.Result(t.Context(), vms, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	row, err := w.Chains().After(t.Context(), local.Chain(vms[0]), 0, "")
	if err != nil {
		t.Fatal(err)
	}
	last := row[len(row)-1].Record
	if run.Schema != local.RunSchema || run.Mode != last.Mode || run.Policy != last.Policy || run.Policy == "" {
		t.Errorf("schema %s, mode %q and policy %q; the record has %q and %q", run.Schema, run.Mode, run.Policy, last.Mode, last.Policy)
	}
	said, claimed := 0, 0
	for i, l := range told.Lines {
		if i > 0 && l.Seconds < told.Lines[i-1].Seconds {
			t.Errorf("line %d is told too late: %+v", i, l)
		}
		if l.Text != "" && l.Claim == "" && l.Seen == "" {
			said++
		} else if l.Text == "" && l.Claim != "" && l.Seen != "" {
			claimed++
		} else {
			t.Errorf("line %d is neither told nor claimed: %+v", i, l)
		}
	}
	if told.About != st.About || said == 0 || claimed == 0 {
		t.Errorf("%q, %d lines, %d claims", told.About, said, claimed)
	}
}

// inOrder wants the rotation told as it happens: the pause between the waves, and
// each step when it is done.
func inOrder(t *testing.T, told local.RunStory) {
	t.Helper()
	want := []string{"a person says: approve", "step 1, check-rotation: done", "a person says: pause", "step 2, deallocate-wave: done", "paused between the two waves",
		"a person says: resume", "step 3, deallocate-wave: done", "set-des-key: done", "start-wave: done", "the set names the new version"}
	for _, l := range told.Lines {
		if len(want) > 0 && strings.Contains(l.Text, want[0]) {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		t.Errorf("not told, or not in this order: %q in %+v", want, told.Lines)
	}
}

// filesParse holds the Bicep file of the story's re-creation to Bicep's grammar, and
// its commands to the shell's.
func filesParse(t *testing.T, w *local.World) {
	t.Helper()
	var all struct {
		Operations []handlers.OperationView `json:"operations"`
	}
	get(t, w.API()+"/operations", &all)
	dir, found := t.TempDir(), 0
	for _, o := range all.Operations {
		if o.Kind != remedy.RecreateOperation {
			continue
		}
		found++
		var v handlers.OperationView
		get(t, w.API()+"/operations/"+o.Hash, &v)
		bicep, err := remedy.RecreationBicep(*v.Operation)
		if err != nil {
			t.Fatal(err)
		}
		commands, err := remedy.RecreationCommands(*v.Operation, "recreate.bicep")
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"recreate.bicep": bicep, "recreate.sh": remedy.RecreationScript(commands)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found != 1 {
		t.Fatalf("%d re-creations were planned, not 1", found)
	}
	for _, words := range [][]string{{"node", "../../tools/bicep-lint.mjs", dir}, {"sh", "-n", filepath.Join(dir, "recreate.sh")}} {
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil { //nolint:gosec // the words are ours
			t.Errorf("%v: %v: %s", words, err, out)
		}
	}
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v: %s", url, resp.StatusCode, err, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatal(err)
	}
}
