package azurepolicy

import (
	"encoding/json"
	"fmt"
	"strings"
)

const (
	templateSchema = "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#"
	authorization  = "Microsoft.Authorization/"
	apiVersion     = "2023-04-01"
)

// Template is an ARM template for a subscription that makes the definitions and
// the set. It assigns nothing.
func (i Initiative) Template() ([]byte, error) {
	type resource struct {
		Type       string   `json:"type"`
		APIVersion string   `json:"apiVersion"`
		Name       string   `json:"name"`
		DependsOn  []string `json:"dependsOn,omitempty"`
		Properties any      `json:"properties"`
	}
	id := func(name string) string {
		return fmt.Sprintf("[subscriptionResourceId('%spolicyDefinitions', '%s')]", authorization, name)
	}
	var resources []resource
	var made []string
	for _, d := range i.Definitions {
		properties, err := escaped(d.Properties)
		if err != nil {
			return nil, err
		}
		resources = append(resources, resource{Type: authorization + "policyDefinitions", APIVersion: apiVersion, Name: d.Name, Properties: properties})
		made = append(made, id(d.Name))
	}
	set, err := escaped(i.Set.Properties)
	if err != nil {
		return nil, err
	}
	refs := []any{}
	for _, r := range i.Set.Properties.PolicyDefinitions {
		values, err := escaped(r.Parameters)
		if err != nil {
			return nil, err
		}
		refs = append(refs, map[string]any{"policyDefinitionReferenceId": r.ID, "policyDefinitionId": id(r.Definition), "parameters": values})
	}
	set["policyDefinitions"] = refs
	resources = append(resources, resource{Type: authorization + "policySetDefinitions", APIVersion: apiVersion, Name: i.Set.Name, DependsOn: made, Properties: set})
	return indented(struct {
		Schema         string     `json:"$schema"`
		ContentVersion string     `json:"contentVersion"`
		Resources      []resource `json:"resources"`
		Outputs        any        `json:"outputs"`
	}{templateSchema, version + ".0", resources, map[string]any{"policySetDefinitionId": map[string]string{
		"type": "string", "value": fmt.Sprintf("[subscriptionResourceId('%spolicySetDefinitions', '%s')]", authorization, i.Set.Name)}}})
}

// escaped is a value as JSON in which no text is an expression of the template:
// those of the rules are Azure Policy's to evaluate.
func escaped(v any) (map[string]any, error) {
	text, err := marshal(v)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("writing the template: %w", err)
	}
	return escape(tree).(map[string]any), nil
}

func escape(v any) any {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "[") {
			return "[" + v
		}
	case []any:
		for i := range v {
			v[i] = escape(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = escape(v[k])
		}
	}
	return v
}
