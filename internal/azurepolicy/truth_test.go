package azurepolicy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	yaml "github.com/goccy/go-yaml"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
	"cvmguard/internal/policy/truth"
)

// documentOf is the policy that a case is judged by, every rule on that has a
// definition, and what the case's VM hangs on named for its region.
func documentOf(t *testing.T, c truth.Case, p cvm.Posture) *policy.Document {
	t.Helper()
	text, err := yaml.YAMLToJSON(policy.Embedded().Source)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	doc = truth.Merge(doc, map[string]any{"rules": map[string]any{"disk-export": "enforce", "encryption-at-host": "enforce"}})
	if len(c.Policy) > 0 {
		var patch any
		if err := json.Unmarshal(c.Policy, &patch); err != nil {
			t.Fatal(err)
		}
		doc = truth.Merge(doc, patch)
	}
	if p.VM.Known && p.VM.Value.Location != "" && p.DES.Known && p.Vault.Known {
		name := "none"
		if id, err := cvm.ParseKeyID(p.DES.Value.KeyURL); err == nil {
			name = id.KeyName()
		}
		doc = truth.Merge(doc, map[string]any{"regions": map[string]any{p.VM.Value.Location: map[string]any{
			"vault": p.Vault.Value.ID, "key": name, "des": string(p.DES.Value.ID)}}})
	}
	if text, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	return d
}

// TestTheTruthTable holds the definitions to the judge on every case of the truth
// table: Azure's own bodies of the VM, its disks, its set, its vault and its key.
func TestTheTruthTable(t *testing.T) {
	table, err := truth.Load()
	if err != nil {
		t.Fatal(err)
	}
	cases, refusals := 0, map[string]int{}
	for _, c := range table.Cases() {
		e, err := c.Estate()
		if err != nil {
			t.Fatal(err)
		}
		p, err := e.Posture()
		if err != nil || c.Orphan || !p.VM.Known {
			continue // a body that no parser reads, or no VM
		}
		if _, _, uniform := p.VM.Value.ID.Instance(); uniform {
			continue // its model is another resource's request
		}
		cases++
		d := documentOf(t, c, p)
		i, v, got := export(t, d), policy.Judge(p, d, c.At), map[string]bool{}
		for _, r := range requests(t, e, p) {
			maps.Copy(got, hits(t, i, r))
		}
		for rule := range got {
			refusals[rule]++
		}
		for rule := range makers {
			// The judge takes the vault's region from the set, the definition from policy.
			elsewhere := rule == "vault-region" && cvm.FoldRegion(p.DES.Value.Location) != p.VM.Value.Location
			if d.Effect(rule) != policy.EffectOff && !elsewhere {
				agrees(t, "row "+c.Row+", "+c.Name, rule, states(v.Findings, rule), got[rule], beyond(rule, p))
			}
		}
	}
	if cases < 30 {
		t.Errorf("%d cases", cases)
	}
	t.Logf("%d cases; refused: %v", cases, refusals)
}

// requests are the bodies of a case as resources.
func requests(t *testing.T, e truth.Estate, p cvm.Posture) (out []Resource) {
	t.Helper()
	add := func(body any) {
		if m, ok := body.(map[string]any); ok && m["id"] != nil {
			out = append(out, resource(t, fmt.Sprint(m["id"]), body))
		}
	}
	add(e.Get("/vm"))
	if p.OSDisk.Known {
		add(e.Get("/osDisk"))
	}
	for n := 0; e.Get(fmt.Sprintf("/dataDisks/%d", n)) != nil; n++ {
		add(e.Get(fmt.Sprintf("/dataDisks/%d", n)))
	}
	if p.DES.Known {
		add(e.Get("/des"))
	}
	if !p.Vault.Known {
		return out
	}
	add(e.Get("/vault"))
	if p.Key.Known {
		out = append(out, resource(t, p.Vault.Value.ID+"/keys/"+p.Key.Value.ID.KeyName(), keyRequest(p.Key.Value)))
	}
	return out
}

// keyRequest is a key as a template asks Azure Resource Manager for it.
func keyRequest(k cvm.Key) map[string]any {
	attributes, properties := map[string]any{}, map[string]any{"kty": k.Type, "keyOps": k.Ops}
	for name, v := range map[string]cvm.Tri{"enabled": k.Enabled, "exportable": k.Exportable} {
		if v != cvm.Unread {
			attributes[name] = v == cvm.True
		}
	}
	if !k.Expires.IsZero() {
		attributes["exp"] = k.Expires.Unix()
	}
	if k.Bits > 0 {
		properties["keySize"] = k.Bits
	}
	if k.Ops == nil {
		properties["keyOps"] = []string{}
	}
	properties["attributes"] = attributes
	return map[string]any{"properties": properties}
}

// beyond are the faults of a rule that its definition doesn't cover, by what the
// definition says that it leaves out.
func beyond(rule string, p cvm.Posture) func(code string) bool {
	return func(code string) bool {
		switch rule {
		case "os-disk-customer-key":
			return code == "des-missing"
		case "disk-export":
			return !strings.EqualFold(p.OSDisk.Value.NetworkAccessPolicy, "AllowAll")
		case "data-disk-customer-key":
			return code != "data-disk-platform-key"
		case "des-identity":
			return p.DES.Value.IdentityType != "" && !strings.EqualFold(p.DES.Value.IdentityType, "None")
		case "vault-purge-protection":
			return !p.Vault.Known || p.Vault.Value.PurgeProtection == cvm.True // by the key alone
		case "vault-soft-delete":
			return p.Vault.Value.SoftDelete != cvm.False
		case "key-expiry":
			return code != "key-no-expiry"
		}
		if strings.HasPrefix(rule, "key-") {
			return !p.Vault.Known || !p.DES.Known
		}
		// Nothing is named for a region where a part of the key path isn't known.
		return (rule == "des-type" || rule == "des-region" || strings.HasPrefix(rule, "vault-")) && !p.Vault.Known
	}
}

// TestEveryRuleHasADefinitionOrAReason is the list's promise: nothing on is
// passed over in silence.
func TestEveryRuleHasADefinitionOrAReason(t *testing.T) {
	i := export(t, document(t, ""))
	named := map[string]bool{}
	for _, d := range i.Definitions {
		named[d.Properties.Metadata.Rule] = true
	}
	kinds := []string{OtherResource, DataPlane, Guest, Afterwards, NoAlias, NeverFails, NotSayable, NothingNamed}
	for _, n := range i.NotExpressed {
		if named[n.Rule] || !slices.Contains(kinds, n.Kind) || !strings.HasSuffix(n.Why, ".") {
			t.Errorf("%+v", n)
		}
		named[n.Rule] = true
	}
	d := document(t, "")
	for _, r := range policy.Rules() {
		if on := d.Effect(r.ID) != policy.EffectOff; on != named[r.ID] {
			t.Errorf("%s: on %v, told %v", r.ID, on, named[r.ID])
		}
	}
	for rule := range makers {
		if _, ok := policy.RuleByID(rule); !ok {
			t.Errorf("there is no rule %s", rule)
		}
		if _, both := reasons[rule]; both {
			t.Errorf("%s has a definition and a reason for none", rule)
		}
	}
	for rule := range reasons {
		if _, ok := policy.RuleByID(rule); !ok {
			t.Errorf("there is no rule %s", rule)
		}
	}
}
