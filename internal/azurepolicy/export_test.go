package azurepolicy

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

var update = flag.Bool("update", false, "write infra/initiative.json anew")

// inRegions is a policy that names what it wants ready in two regions.
const inRegions = `regions:
  northeurope: {vault: "` + kvID + `", key: os-key, des: "` + string(desID) + `"}
  westeurope: {vault: "` + armRoot + `Microsoft.KeyVault/managedHSMs/hsm-cvm", key: os-key, des: "` + string(desID) + `-we"}
rules: {disk-export: audit, encryption-at-host: enforce, secure-boot: off, vtpm: audit, key-size: {effect: enforce, minBits: 3072}, key-expiry: {effect: enforce, required: true}}
`

// TestTheDeployedInitiativeIsFresh compares the deployment's file with what the
// embedded policy gives now.
func TestTheDeployedInitiativeIsFresh(t *testing.T) {
	i, err := Export(policy.Embedded(), Audit)
	if err != nil {
		t.Fatal(err)
	}
	want, err := i.JSON()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root(t), "infra", "initiative.json")
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("infra/initiative.json is stale; write it anew with `go test ./internal/azurepolicy -run Fresh -update`")
	}
}

func TestTheSamePolicyGivesTheSameBytes(t *testing.T) {
	d := document(t, inRegions)
	var first []byte
	for range 5 {
		i := export(t, d)
		text, err := i.JSON()
		if err != nil {
			t.Fatal(err)
		}
		template, err := i.Template()
		if err != nil {
			t.Fatal(err)
		}
		if text = append(text, template...); first == nil {
			first = text
		}
		if !bytes.Equal(first, text) {
			t.Fatal("two exports of one policy differ")
		}
	}
}

func TestAnEffectThatThereIsnt(t *testing.T) {
	if _, err := Export(policy.Embedded(), "modify"); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "audit or deny") {
		t.Error(err)
	}
}

// TestAzureTakesTheShape checks what Azure Policy demands of definitions and sets
// when they are written.
func TestAzureTakesTheShape(t *testing.T) {
	name := regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
	expression := regexp.MustCompile(`\[parameters\('([A-Za-z]+)'\)\]|length\(parameters\('([A-Za-z]+)'\)\)`)
	for what, lines := range map[string]string{"assumed": "", "regions": inRegions, "nothing wanted": `want: {include: [{name: "a?b*c*"}]}`,
		"brackets": `want: {include: [{name: "[x]"}, {tag: {"a b": "[y*"}}]}`} {
		d := document(t, lines)
		i := export(t, d)
		seen := map[string]bool{}
		for at, def := range i.Definitions {
			p := def.Properties
			text, err := marshal(p.PolicyRule)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case !name.MatchString(def.Name) || seen[strings.ToLower(def.Name)]:
				t.Errorf("%s: name %q isn't valid, or is there twice", what, def.Name)
			case len(p.DisplayName) == 0 || len(p.DisplayName) > 128 || len(p.Description) == 0 || len(p.Description) > 512 || p.PolicyType != "Custom":
				t.Errorf("%s: %s: display name %d, description %d", what, def.Name, len(p.DisplayName), len(p.Description))
			case p.Mode != "Indexed" && p.Mode != "All":
				t.Errorf("%s: %s: mode %q", what, def.Name, p.Mode)
			case p.Mode == "Indexed" && (strings.Contains(string(text), typeKey) || strings.Contains(string(text), typeHKey)):
				t.Errorf("%s: %s: keys have no tags, so mode Indexed never sees them", what, def.Name)
			case len(p.Parameters) > 20 || conditions(p.PolicyRule.If) > 512 || len(p.Metadata.Leaves) > 1024 || len(text) > 1<<20:
				t.Errorf("%s: %s is beyond a limit", what, def.Name)
			case p.Metadata.Rule == "" || p.Metadata.PolicyHash != d.Hash || p.Metadata.Version == "":
				t.Errorf("%s: %s: metadata %+v", what, def.Name, p.Metadata)
			case p.PolicyRule.Then.Effect != "[parameters('effect')]":
				t.Errorf("%s: %s: effect %q", what, def.Name, p.PolicyRule.Then.Effect)
			}
			seen[strings.ToLower(def.Name)] = true
			used := map[string]bool{}
			for _, m := range expression.FindAllStringSubmatch(string(text), -1) {
				used[m[1]+m[2]] = true
			}
			ref := i.Set.Properties.PolicyDefinitions[at]
			if ref.Definition != def.Name || len(ref.Parameters) != len(p.Parameters) {
				t.Errorf("%s: the set's reference %s gives %d parameters to %s, which has %d", what, ref.ID, len(ref.Parameters), def.Name, len(p.Parameters))
			}
			for n, param := range p.Parameters {
				wellFormed(t, what+": "+def.Name, n, param)
				if !used[n] {
					t.Errorf("%s: %s doesn't use its parameter %s, which Azure refuses", what, def.Name, n)
				}
				if given, ok := expression.FindStringSubmatch(ref.Parameters[n].Value), n == paramEffect && ref.Parameters[n].Value == "Audit"; !ok && (given == nil || i.Set.Properties.Parameters[given[1]].Type != param.Type) {
					t.Errorf("%s: the set gives %q to %s of %s", what, ref.Parameters[n].Value, n, def.Name)
				}
			}
			for n := range used {
				if _, ok := p.Parameters[n]; !ok {
					t.Errorf("%s: %s uses %s and hasn't it", what, def.Name, n)
				}
			}
			if def.Properties.PolicyRule.If.AllOf == nil || !strings.Contains(string(text), `"exceptIds"`) && !strings.Contains(string(text), "exceptIds") {
				t.Errorf("%s: %s can't be told to leave a resource alone", what, def.Name)
			}
		}
		s := i.Set.Properties
		refs, given := map[string]bool{}, map[string]bool{}
		for _, r := range s.PolicyDefinitions {
			if refs[r.ID] {
				t.Errorf("%s: reference %s is there twice", what, r.ID)
			}
			refs[r.ID] = true
			for _, v := range r.Parameters {
				if m := expression.FindStringSubmatch(v.Value); m != nil {
					given[m[1]] = true
				}
			}
		}
		for n, param := range s.Parameters {
			wellFormed(t, what+": the set", n, param)
			if !given[n] && n != paramEffect {
				t.Errorf("%s: the set doesn't use its parameter %s", what, n)
			}
		}
		text, err := i.JSON()
		if err != nil || len(text) > 1<<20 || len(s.DisplayName) > 128 || len(s.Description) > 512 || !name.MatchString(i.Set.Name) || len(s.PolicyDefinitions) > 1000 || len(s.Parameters) > 300 {
			t.Errorf("%s: the set is beyond a limit: %v", what, err)
		}
	}
}

func wellFormed(t *testing.T, what, name string, p Parameter) {
	t.Helper()
	ok := p.Metadata.DisplayName != "" && p.Metadata.Description != "" && len(p.Metadata.Description) <= 1024
	switch def := p.DefaultValue.(type) {
	case string:
		ok = ok && p.Type == "String" && slices.Contains(p.AllowedValues, def)
	case []string:
		ok = ok && p.Type == "Array"
	case int:
		ok = ok && p.Type == "Integer"
	default:
		ok = false
	}
	if !ok {
		t.Errorf("%s: parameter %s is %+v", what, name, p)
	}
}

// conditions counts a rule's conditions.
func conditions(c Condition) int {
	n := 1
	for _, part := range append(slices.Clone(c.AllOf), c.AnyOf...) {
		n += conditions(part)
	}
	if c.Not != nil {
		n += conditions(*c.Not)
	}
	if c.Count != nil && c.Count.Where != nil {
		n += conditions(*c.Count.Where)
	}
	return n
}

// TestEveryAliasIsInTheTable reads the exported JSON: no field but those that the
// evaluator knows the place of.
func TestEveryAliasIsInTheTable(t *testing.T) {
	used := map[string]bool{}
	for _, lines := range []string{"", inRegions, `want: {include: [{image: "a:b:c"}, {image: "*x*"}, {size: s}, {tag: {t: v}}, {resourceGroup: g, name: n}]}`} {
		for _, d := range export(t, document(t, lines)).Definitions {
			text, err := marshal(d.Properties.PolicyRule.If)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`"field":"([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
				used[m[1]] = true
			}
		}
	}
	plain := []string{"id", "type", "name", "location", "identity.type", "tags['t']"}
	for field := range used {
		if _, ok := aliases()[field]; !ok && !slices.Contains(plain, field) {
			t.Errorf("%s is a field of no table", field)
		}
	}
	for field := range aliases() {
		if !used[field] {
			t.Errorf("%s is in the table and used by no definition", field)
		}
	}
}

func TestEffectsOfRules(t *testing.T) {
	i := export(t, document(t, inRegions))
	effect := map[string]string{}
	for _, r := range i.Set.Properties.PolicyDefinitions {
		effect[r.ID] = r.Parameters[paramEffect].Value
	}
	for rule, want := range map[string]string{"secure-boot": "", "vtpm": "Audit", "disk-export": "Audit", "vm-kind": "[parameters('effect')]"} {
		if effect[rule] != want {
			t.Errorf("%s has effect %q, want %q", rule, effect[rule], want)
		}
	}
	if def := i.Set.Properties.Parameters[paramEffect].DefaultValue; def != "Deny" {
		t.Errorf("the set's effect is %v", def)
	}
}

func TestWhatPolicyNamesIsHeldTo(t *testing.T) {
	i := export(t, document(t, inRegions))
	hsm := armRoot + "Microsoft.KeyVault/managedHSMs/hsm-cvm"
	other := armRoot + "Microsoft.KeyVault/vaults/other"
	vault := func(location, sku string, purge, soft any) map[string]any {
		p := map[string]any{"sku": map[string]any{"name": sku}, "enablePurgeProtection": purge, "enableSoftDelete": soft}
		return map[string]any{"location": location, "properties": p}
	}
	key := func(k cvm.Key) map[string]any { return keyRequest(k) }
	good := cvm.Key{Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True, Expires: now}
	bad := good
	bad.Type, bad.Exportable, bad.Ops = "RSA", cvm.Unread, []string{"wrapKey"}
	short := good
	short.Bits, short.Enabled = 2048, cvm.False
	unsaid := cvm.Key{Type: "RSA-HSM", Ops: good.Ops, Exportable: cvm.True}
	for _, tt := range []struct {
		what, id string
		body     map[string]any
		want     string
	}{
		{"a good vault", kvID, vault("North Europe", "premium", true, true), ""},
		{"a bad one", strings.ToUpper(kvID), vault("westeurope", "standard", nil, false), "vault-premium vault-purge-protection vault-region vault-soft-delete"},
		{"a vault that is recovered", kvID, map[string]any{"location": "northeurope", "properties": map[string]any{"createMode": "recover"}}, ""},
		{"another vault", other, vault("westeurope", "standard", nil, false), ""},
		{"a good HSM", hsm, vault("westeurope", "Standard_B1", true, nil), ""},
		{"an HSM elsewhere, without purge protection", hsm, vault("northeurope", "Standard_B1", false, nil), "vault-purge-protection vault-region"},
		{"a good set", string(desID), map[string]any{"location": "northeurope", "identity": map[string]any{"type": "SystemAssigned"}, "properties": map[string]any{"encryptionType": cvm.DESTypeConfidential}}, ""},
		{"a bad one", string(desID), map[string]any{"location": "westeurope", "properties": map[string]any{}}, "des-identity des-region des-type"},
		{"an ordinary set", string(sseID), map[string]any{"location": "westeurope", "identity": map[string]any{"type": "SystemAssigned"}, "properties": map[string]any{}}, ""},
		{"a good key", kvID + "/keys/os-key", key(good), ""},
		{"a bad one", kvID + "/keys/os-key", key(bad), "key-exportable key-hsm key-ops"},
		{"a short, disabled one", kvID + "/keys/os-key", key(short), "key-enabled key-size"},
		{"one that says little", kvID + "/keys/os-key", key(unsaid), "key-expiry key-size"},
		{"another key", kvID + "/keys/app-key", key(bad), ""},
		{"a good key in an HSM", hsm + "/keys/os-key", key(good), ""},
		{"a bad one in it", hsm + "/keys/os-key", key(bad), "key-exportable key-hsm key-ops"},
		{"another key in it", hsm + "/keys/app-key", key(bad), ""},
		{"an HSM that is recovered", hsm, map[string]any{"location": "westeurope", "properties": map[string]any{"createMode": "recover"}}, ""},
	} {
		var got []string
		for rule := range hits(t, i, resource(t, tt.id, tt.body)) {
			got = append(got, rule)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: refused by %v, want %q", tt.what, got, tt.want)
		}
	}
}

// TestTheTemplateEvaluatesNothing undoes what a deployment undoes: the rules must
// come out as the initiative has them.
func TestTheTemplateEvaluatesNothing(t *testing.T) {
	i := export(t, document(t, `want: {include: [{name: "[x]"}]}`))
	text, err := i.Template()
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Resources []struct {
			Type, Name string
			DependsOn  []string
			Properties map[string]any
		}
	}
	if err := json.Unmarshal(text, &template); err != nil {
		t.Fatal(err)
	}
	if len(template.Resources) != len(i.Definitions)+1 {
		t.Fatalf("%d resources", len(template.Resources))
	}
	for at, d := range i.Definitions {
		want, err := marshal(d.Properties)
		if err != nil {
			t.Fatal(err)
		}
		var tree any
		if err := json.Unmarshal(want, &tree); err != nil {
			t.Fatal(err)
		}
		if want, err = marshal(tree); err != nil {
			t.Fatal(err)
		}
		have, err := marshal(deployed(t, template.Resources[at].Properties))
		if err != nil || template.Resources[at].Name != d.Name || !bytes.Equal(have, want) {
			t.Errorf("%s becomes %s, want %s", d.Name, have, want)
		}
	}
	if set := template.Resources[len(i.Definitions)]; len(set.DependsOn) != len(i.Definitions) || set.Type != "Microsoft.Authorization/policySetDefinitions" {
		t.Errorf("the set is %s and waits for %d definitions", set.Type, len(set.DependsOn))
	}
}

// deployed is what a deployment makes of a template's value: a text that begins
// with two brackets loses one; one that begins with a single one and ends with
// one is an expression.
func deployed(t *testing.T, v any) any {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "[[") {
			return v[1:]
		}
		if strings.HasPrefix(v, "[") {
			t.Errorf("%s would be evaluated by the deployment", v)
		}
	case []any:
		for i := range v {
			v[i] = deployed(t, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = deployed(t, v[k])
		}
	}
	return v
}

// TestThePageNamesEverything holds docs/prevention.md to the export: every rule
// that has a definition, every kind of reason and every parameter.
func TestThePageNamesEverything(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "prevention.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{OtherResource, DataPlane, Guest, Afterwards, NoAlias, NeverFails, NotSayable, NothingNamed}
	for rule := range makers {
		names = append(names, rule)
	}
	for name := range setParameters(policy.Embedded(), Audit) {
		names = append(names, name)
	}
	for _, name := range names {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/prevention.md doesn't name %s", name)
		}
	}
}
