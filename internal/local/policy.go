package local

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/policy"
)

// scenePolicy writes the scenes' own policy: the embedded one, and beside it a
// region that is to be made ready, with the rights for it.
func (w *World) scenePolicy() (string, error) {
	group := "/subscriptions/" + w.Sim.Subscription() + "/resourceGroups/" + azuresim.DefaultGroup + "/providers/"
	text := string(policy.Embedded().Source)
	edits := [][2]string{
		{"name: assumed\n", "name: scene\n"},
		{"grantRights: false", "grantRights: true"},
		{"regions: {}\n", fmt.Sprintf(`regions:
  westeurope:
    vault: %sMicrosoft.KeyVault/vaults/kv-cvm-weu
    key: cvm-ready-key
    keyBits: 3072
    des: %sMicrosoft.Compute/diskEncryptionSets/des-ready

orchestratorObjectId: %s
`, group, group, w.Sim.Orchestrator())},
	}
	for _, edit := range append(edits, w.opts.Edits...) {
		if strings.Count(text, edit[0]) != 1 {
			return "", fmt.Errorf("making the scene's policy: the embedded one holds %q %d times", edit[0], strings.Count(text, edit[0]))
		}
		text = strings.Replace(text, edit[0], edit[1], 1)
	}
	doc, err := policy.Parse([]byte(text))
	if err != nil {
		return "", fmt.Errorf("making the scene's policy: %w", err)
	}
	path := filepath.Join(w.dir, "policy.yaml")
	return path, os.WriteFile(path, bytes.Clone(doc.Source), 0o600)
}

// policy reads the policy in force, in the mode that stands above its own.
func (w *World) policy() (*policy.Document, error) {
	text, err := os.ReadFile(w.opts.Policy)
	if err != nil {
		return nil, fmt.Errorf("reading the policy in force: %w", err)
	}
	doc, err := policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("reading the policy in force: %w", err)
	}
	if w.opts.Mode != "" {
		doc = doc.WithMode(w.opts.Mode)
	}
	return doc, nil
}
