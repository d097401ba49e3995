package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	yaml "github.com/goccy/go-yaml"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
	"cvmguard/internal/policy/truth"
	"cvmguard/internal/remedy"
)

// deed is what the planner has done about a rule: a step that is carried out where
// policy lets it, or advice alone.
type deed struct {
	kind   remedy.Kind
	taken  bool
	advice bool
}

// undone says of each kind of step how it is undone. A kind that a plan has and this
// lacks is an error.
var undone = map[remedy.Kind]string{
	remedy.CollectEvidence:     "delete the Run Command `cvmguard-evidence`; the evidence is kept",
	remedy.InstallAttest:       "uninstall the extension GuestAttestation",
	remedy.EncryptTempDisk:     "no way back; resize to a size without a temporary disk",
	remedy.EncryptDataDisk:     "no way back to a platform key; the disk can be moved to another set",
	remedy.MarkDeallocation:    "take the tag off",
	remedy.MarkDown:            "take the tag off",
	remedy.ClearMark:           "nothing to undo",
	remedy.Deallocate:          "start the VM",
	remedy.Start:               "deallocate the VM",
	remedy.DisableAutoRotation: "`cvmguard undo RECORD` sets the flag again",
	remedy.ReplacePolicy:       "`cvmguard undo RECORD` puts the former policy back, while the present one is cvmguard's and mutable",
	remedy.GrantDES:            "remove the assignment, or the permissions, that the record names",
	remedy.GrantOrchestrator:   "remove the assignment, or the permissions, that the record names",
	remedy.EnsureKey:           "delete the key, if nothing uses it yet",
	remedy.EnsureDES:           "delete the set, if nothing uses it yet",
	remedy.Recreate:            "advice; `cvmguard recreate back --plan HASH` after a re-creation by cvmguard",
	remedy.RotateKey:           "advice; after a rotation by cvmguard `cvmguard undo RECORD` plans one back to the old version",
	remedy.RepairShared:        "nothing to undo: the shared object's own turn acts",
	remedy.AskPerson:           "nothing to undo: a person acts",
}

// willing is a case's policy with every effect and every word of remedy given, so
// that the plan shows all that may be done.
func willing(c truth.Case) (*policy.Document, error) {
	remedies := map[string]any{"allow": "needs-deallocation", "collectEvidence": true, "installGuestAttestation": true, "encryptTempDisk": true,
		"deallocateForDataDisks": true, "tag": true, "disableAutoRotation": true, "replaceReleasePolicy": true, "grantRights": true,
		"ensureRegionKey": true, "ensureRegionDES": true}
	const sub = "/subscriptions/6d1f2c3a-0000-4000-8000-00000000cafe/resourceGroups/"
	ready := map[string]any{"vault": sub + "rg-keys/providers/Microsoft.KeyVault/vaults/kv-pay", "key": "pay-os", "keyBits": 3072,
		"des": sub + "rg-pay/providers/Microsoft.Compute/diskEncryptionSets/des-pay-cvm", "dataDES": sub + "rg-pay/providers/Microsoft.Compute/diskEncryptionSets/des-pay-data"}
	doc := map[string]any{"schemaVersion": 1, "name": "willing", "mode": "enforce", "remedy": remedies,
		"orchestratorObjectId": "2b1d0f6c-0000-4000-8000-0000000000cf", "regions": map[string]any{"westeurope": ready}}
	if len(c.Policy) > 0 {
		var patch map[string]any
		if err := yaml.Unmarshal(c.Policy, &patch); err != nil {
			return nil, fmt.Errorf("reading the policy of case %q: %w", c.Name, err)
		}
		for k, v := range patch {
			doc[k] = v
		}
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	d, err := policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("the policy of case %q: %w", c.Name, err)
	}
	return d, nil
}

// played is what the truth table's cases gave.
type played struct {
	findings []policy.Finding
	deeds    map[string][]deed // by rule
}

// play has every case of the truth table judged and planned for, the VM and what it
// hangs on.
func play(table *truth.Table) (played, error) {
	out := played{deeds: map[string][]deed{}}
	for _, c := range table.Cases() {
		if c.Orphan {
			continue
		}
		d, err := willing(c)
		if err != nil {
			return out, err
		}
		e, err := c.Estate()
		if err != nil {
			return out, err
		}
		p, err := e.Posture()
		if err != nil {
			return out, fmt.Errorf("case %q: %w", c.Name, err)
		}
		v := policy.Judge(p, d, c.At)
		out.findings = append(out.findings, v.Findings...)
		p.EvidenceDue = p.EvidenceDue || slices.ContainsFunc(v.Findings, func(f policy.Finding) bool {
			return f.Reason == "evidence-not-collected" || f.Reason == "evidence-stale"
		})
		if err := note(out.deeds, remedy.ForVM(p, v, d)); err != nil {
			return out, err
		}
		for _, s := range sharedOf(p) {
			v := policy.JudgeShared(s, d, c.At)
			out.findings = append(out.findings, v.Findings...)
			if err := note(out.deeds, remedy.ForShared(s, v, d)); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// sharedOf is what a VM hangs on, each as on its own turn, and its region: as it is,
// before anything is there, and with another key's set.
func sharedOf(p cvm.Posture) (out []cvm.SharedPosture) {
	if !p.DES.Known || !p.VM.Known {
		return nil
	}
	region := cvm.SharedPosture{Kind: cvm.SharedRegion, ID: p.ID.Subscription() + "/regions/" + p.VM.Value.Location, Region: p.VM.Value.Location,
		DES: p.DES, Key: p.Key, Vault: p.Vault, Rights: p.Rights}
	bare := region
	bare.Key, bare.DES, bare.Rights = cvm.NotThere[cvm.Key](), cvm.NotThere[cvm.DES](), cvm.NotRead[cvm.Rights]("not-asked", "", "")
	gone, other := bare, region
	gone.Vault = cvm.NotThere[cvm.Vault]()
	other.DES.Value.KeyURL = strings.Replace(other.DES.Value.KeyURL, "/keys/", "/keys/other-", 1)
	out = append(out, cvm.SharedPosture{Kind: cvm.SharedDES, ID: string(p.DES.Value.ID), Region: p.VM.Value.Location, DES: p.DES, DESDisks: p.DESDisks,
		Key: p.Key, Vault: p.Vault, Rights: p.Rights}, region, bare, gone, other)
	if p.Key.Known {
		out = append(out, cvm.SharedPosture{Kind: cvm.SharedKey, ID: string(p.Key.Value.ID.Versionless()), Region: p.VM.Value.Location, Key: p.Key, Vault: p.Vault})
	}
	if p.Vault.Known {
		out = append(out, cvm.SharedPosture{Kind: cvm.SharedVault, ID: p.Vault.Value.ID, Region: p.VM.Value.Location, Vault: p.Vault})
	}
	return out
}

// note keeps what a plan does about each rule.
func note(out map[string][]deed, plan remedy.Plan) error {
	for _, s := range plan.Steps {
		for _, rule := range s.Rules {
			if undone[s.Kind] == "" {
				return fmt.Errorf("step kind %q: internal/gendocs/deeds.go doesn't say how it is undone", s.Kind)
			}
			i := slices.IndexFunc(out[rule], func(d deed) bool { return d.kind == s.Kind })
			if i < 0 {
				out[rule] = append(out[rule], deed{kind: s.Kind})
				i = len(out[rule]) - 1
			}
			if s.State == remedy.Advised {
				out[rule][i].advice = true
			} else {
				out[rule][i].taken = true
			}
		}
	}
	return nil
}
