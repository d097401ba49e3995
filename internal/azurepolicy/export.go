package azurepolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// The effects of an initiative: what is done about a request that a rule of effect
// enforce or quarantine would fail. Rules of effect audit are only ever audited.
const (
	Audit = "audit"
	Deny  = "deny"
)

// Initiative is a policy in Azure Policy's language.
type Initiative struct {
	Policy struct {
		Name string `json:"name"`
		Hash string `json:"hash"` // of the document, hex SHA-256
	} `json:"policy"`
	Effect       string         `json:"effect"` // Audit or Deny: the default of the set's parameter
	Definitions  []Definition   `json:"definitions"`
	Set          Set            `json:"set"`
	NotExpressed []NotExpressed `json:"notExpressed"` // rules that are on and have no definition
	Inexact      []string       `json:"inexact"`      // where the want clause is said more narrowly
}

// NotExpressed is a rule that is on and has no definition.
type NotExpressed struct {
	Rule string `json:"rule"`
	Kind string `json:"kind"` // OtherResource, DataPlane, …
	Why  string `json:"why"`  // one sentence
}

// Definition is one Microsoft.Authorization/policyDefinitions.
type Definition struct {
	Name       string               `json:"name"`
	Properties DefinitionProperties `json:"properties"`

	shows []string
}

// DefinitionProperties are a definition's properties as Azure Policy has them.
type DefinitionProperties struct {
	DisplayName string               `json:"displayName"` // 128 characters at most
	Description string               `json:"description"` // 512 characters at most
	PolicyType  string               `json:"policyType"`
	Mode        string               `json:"mode"` // Indexed or All
	Metadata    Metadata             `json:"metadata"`
	Parameters  map[string]Parameter `json:"parameters"`
	PolicyRule  PolicyRule           `json:"policyRule"`
}

// Metadata says where a definition or a set comes from.
type Metadata struct {
	Category   string `json:"category"`
	Version    string `json:"version"`
	Rule       string `json:"cvmguardRule,omitempty"`
	Policy     string `json:"cvmguardPolicy"`
	PolicyHash string `json:"cvmguardPolicyHash"`
	Leaves     string `json:"cvmguardLeavesOut,omitempty"` // what of the rule isn't covered
}

// Parameter of a definition or a set.
type Parameter struct {
	Type     string `json:"type"` // String, Array or Integer
	Metadata struct {
		DisplayName string `json:"displayName"`
		Description string `json:"description"`
	} `json:"metadata"`
	AllowedValues []string `json:"allowedValues,omitempty"`
	DefaultValue  any      `json:"defaultValue"`
}

// PolicyRule is a definition's rule.
type PolicyRule struct {
	If   Condition `json:"if"`
	Then struct {
		Effect string `json:"effect"`
	} `json:"then"`
}

// Set is one Microsoft.Authorization/policySetDefinitions.
type Set struct {
	Name       string        `json:"name"`
	Properties SetProperties `json:"properties"`
}

// SetProperties are a set's properties, but that PolicyDefinitions name their
// definitions by name: their ids depend on where they are deployed.
type SetProperties struct {
	DisplayName       string               `json:"displayName"`
	Description       string               `json:"description"`
	PolicyType        string               `json:"policyType"`
	Metadata          Metadata             `json:"metadata"`
	Parameters        map[string]Parameter `json:"parameters"`
	PolicyDefinitions []Reference          `json:"policyDefinitions"`
}

// Reference is one definition in a set.
type Reference struct {
	ID         string                    `json:"policyDefinitionReferenceId"`
	Definition string                    `json:"definition"` // its name
	Parameters map[string]ParameterValue `json:"parameters"`
}

// ParameterValue is a value that a set gives to a definition.
type ParameterValue struct {
	Value string `json:"value"`
}

// version of the definitions' form, told in their metadata.
const version = "1.0.0"

// Export says a policy in Azure Policy's language. effect is Audit or Deny; any
// other is fault.Invalid. The same document gives the same initiative.
func Export(d *policy.Document, effect string) (Initiative, error) {
	if effect != Audit && effect != Deny {
		return Initiative{}, fault.New(fault.Invalid, "exporting the policy", effect, "the effect is %s or %s", Audit, Deny)
	}
	i := Initiative{Effect: effect, Definitions: []Definition{}, NotExpressed: []NotExpressed{}}
	i.Policy.Name, i.Policy.Hash = d.Name, d.Hash
	p, inexact := prepare(d, false)
	i.Inexact = append([]string{}, inexact...)
	_, ofSets := prepare(d, true)
	for _, line := range ofSets {
		if !slices.Contains(inexact, line) {
			i.Inexact = append(i.Inexact, "scale sets: "+line)
		}
	}
	params := setParameters(d, effect)
	used := map[string]bool{paramEffect: true, paramExcept: true}
	refs := []Reference{}
	for _, r := range policy.Rules() {
		ruleEffect := d.Effect(r.ID)
		if ruleEffect == policy.EffectOff {
			continue
		}
		maker, ok := makers[r.ID]
		if !ok {
			i.NotExpressed = append(i.NotExpressed, unexpressed(r))
			continue
		}
		c, e, why := maker(p)
		if c.never {
			if why == "" {
				why = "Policy wants no VM as a confidential one that Azure Policy could tell by its request."
			}
			i.NotExpressed = append(i.NotExpressed, NotExpressed{r.ID, NothingNamed, why})
			continue
		}
		e.when = c.cond
		def := definition(d, r, e, params)
		i.Definitions = append(i.Definitions, def)
		ref := Reference{ID: r.ID, Definition: def.Name, Parameters: map[string]ParameterValue{
			paramEffect: {parameter(paramEffect)}, paramExcept: {parameter(paramExcept)}}}
		if ruleEffect == policy.EffectAudit {
			ref.Parameters[paramEffect] = ParameterValue{"Audit"}
		}
		for _, name := range e.params {
			used[name] = true
			ref.Parameters[name] = ParameterValue{parameter(name)}
		}
		refs = append(refs, ref)
	}
	maps.DeleteFunc(params, func(name string, _ Parameter) bool { return !used[name] })
	i.Set = Set{Name: "cvmguard", Properties: SetProperties{
		DisplayName: clip("cvmguard: "+d.Name, 128),
		Description: "What cvmguard's policy fails and Azure Policy can tell from a request, so that it is refused or reported before there is a VM.",
		PolicyType:  "Custom", Metadata: metadata(d, "", ""), Parameters: params, PolicyDefinitions: refs}}
	return i, nil
}

func metadata(d *policy.Document, rule, leaves string) Metadata {
	return Metadata{Category: "cvmguard", Version: version, Rule: rule, Policy: clip(d.Name, 1024), PolicyHash: d.Hash, Leaves: clip(leaves, 1024)}
}

func definition(d *policy.Document, r policy.Rule, e expressed, params map[string]Parameter) Definition {
	def := Definition{Name: "cvmguard-" + r.ID, shows: e.shows}
	mode := e.mode
	if mode == "" {
		mode = "Indexed"
	}
	pr := DefinitionProperties{DisplayName: clip("cvmguard: "+r.Title, 128), Description: clip(r.Checks+" "+r.Why, 512), PolicyType: "Custom", Mode: mode,
		Metadata: metadata(d, r.ID, e.leaves), Parameters: map[string]Parameter{}}
	for _, name := range append([]string{paramEffect, paramExcept}, e.params...) {
		param := params[name]
		switch {
		case name == paramEffect:
			param.DefaultValue = "Audit"
		case param.Type == "Array":
			param.DefaultValue = []string{}
		}
		pr.Parameters[name] = param
	}
	// What is left alone comes after the type, which is first.
	left := test("id", "notIn", parameter(paramExcept))
	if e.when.AllOf != nil {
		pr.PolicyRule.If = allOf(slices.Insert(slices.Clone(e.when.AllOf), 1, left)...)
	} else {
		pr.PolicyRule.If = allOf(e.when, left)
	}
	pr.PolicyRule.Then.Effect = parameter(paramEffect)
	def.Properties = pr
	return def
}

// setParameters are all that a set may have, with what the policy in force says as
// their defaults.
func setParameters(d *policy.Document, effect string) map[string]Parameter {
	make1 := func(typ, name, text string, def any) Parameter {
		p := Parameter{Type: typ, DefaultValue: def}
		p.Metadata.DisplayName, p.Metadata.Description = name, text
		return p
	}
	sets, vaults, keys := []string{}, []string{}, []string{}
	for _, region := range slices.Sorted(maps.Keys(d.Regions)) {
		r := d.Regions[region]
		if r.DES != "" {
			sets = append(sets, string(r.DES))
		}
		if r.Vault != "" {
			vaults = append(vaults, r.Vault)
			if r.Key != "" {
				keys = append(keys, r.Vault+"/keys/"+r.Key)
			}
		}
	}
	e := make1("String", "Effect", "Audit reports, Deny refuses, Disabled does neither.", strings.ToUpper(effect[:1])+effect[1:])
	e.AllowedValues = []string{"Audit", "Deny", "Disabled"}
	return map[string]Parameter{
		paramEffect: e,
		paramExcept: make1("Array", "Resources that are left alone",
			"ARM ids. A deny refuses updates of what is there already too: name here what can't be put right yet.", []string{}),
		paramAllowedSets: make1("Array", "Disk encryption sets that OS disks may name",
			"ARM ids; none means any set. Policy itself takes any set that passes its rules."+namesFor(sets), []string{}),
		paramSets:   make1("Array", "Disk encryption sets for confidential OS disks", "ARM ids of the sets that must be of the confidential type.", sets),
		paramVaults: make1("Array", "Vaults that hold keys for disks", "ARM ids of key vaults and Managed HSMs.", vaults),
		paramKeys:   make1("Array", "Keys for disks", "ARM ids of keys in key vaults and Managed HSMs.", keys),
		paramBits:   make1("Integer", "Smallest RSA key", "Bits of the modulus.", max(d.Rules["key-size"].MinBits, 2048)),
	}
}

func namesFor(sets []string) string {
	if len(sets) == 0 {
		return ""
	}
	return clip(" It makes ready: "+strings.Join(sets, ", ")+".", 900)
}

// clip shortens a text to a number of characters.
func clip(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// JSON is the initiative as a document with a line break at its end: what the
// deployment's module reads.
func (i Initiative) JSON() ([]byte, error) { return indented(i) }

func indented(v any) ([]byte, error) {
	text, err := marshal(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}
