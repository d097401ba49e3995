package local_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
			if _, err := st.Play(ctx, w, t.Logf); err != nil {
				t.Fatal(err)
			}
			verifyChains(t, w)
			if st.Name == "recreation" {
				filesParse(t, w)
			}
		})
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
