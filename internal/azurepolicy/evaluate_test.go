package azurepolicy

import (
	"encoding/json"
	"testing"

	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

func TestOperators(t *testing.T) {
	r := resource(t, string(vmID), map[string]any{"location": "North Europe", "tags": map[string]any{"Class": "Secret-1"},
		"properties": map[string]any{"securityProfile": map[string]any{"securityType": "ConfidentialVM", "encryptionAtHost": true},
			"hardwareProfile": map[string]any{"vmSize": "Standard_DC16as_v5"}}})
	values := Values{"list": []string{"a", "confidentialvm"}, "n": 3}
	for text, want := range map[string]bool{
		`{"field":"type","equals":"microsoft.compute/VIRTUALMACHINES"}`:                                                true,
		`{"field":"name","like":"PAY-*"}`:                                                                              true,
		`{"field":"location","notEquals":"northeurope"}`:                                                               false,
		`{"field":"tags['class']","contains":"CRET"}`:                                                                  true,
		`{"field":"tags['other']","exists":"false"}`:                                                                   true,
		`{"field":"tags['other']","notEquals":"x"}`:                                                                    true,
		`{"field":"tags['other']","equals":""}`:                                                                        false,
		`{"field":"tags['other']","notIn":["x"]}`:                                                                      true,
		`{"field":"tags['other']","like":"*"}`:                                                                         false,
		`{"value":"[resourceGroup().name]","equals":"RG-Pay"}`:                                                         true,
		`{"field":"Microsoft.Compute/virtualMachines/securityProfile.securityType","in":"[parameters('list')]"}`:       true,
		`{"field":"Microsoft.Compute/virtualMachines/securityProfile.encryptionAtHost","equals":"true"}`:               true,
		`{"field":"Microsoft.Compute/virtualMachines/sku.name","matchInsensitively":"standard_dc##as_v5"}`:             true,
		`{"field":"Microsoft.Compute/virtualMachines/sku.name","matchInsensitively":"standard_dc#as_v5"}`:              false,
		`{"value":"[parameters('n')]","greater":2}`:                                                                    true,
		`{"value":"[parameters('n')]","less":3}`:                                                                       false,
		`{"count":{"field":"Microsoft.Compute/virtualMachines/storageProfile.dataDisks[*]"},"less":1}`:                 true,
		`{"not":{"anyOf":[{"field":"name","equals":"x"},{"allOf":[{"field":"name","equals":"pay-1"}]}]}}`:              false,
		`{"field":"Microsoft.Compute/virtualMachines/securityProfile.uefiSettings.vTpmEnabled","notEquals":"true"}`:    true,
		`{"field":"Microsoft.Compute/virtualMachines/storageProfile.imageReference.id","equals":"[[an escaped text]"}`: false,
	} {
		var c Condition
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := c.Evaluate(r, values)
		if err != nil || got != want {
			t.Errorf("%s: %v, want %v; %v", text, got, want, err)
		}
		again, err := marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Condition
		if err := json.Unmarshal(again, &back); err != nil {
			t.Errorf("%s is written as %s: %v", text, again, err)
		}
	}
}

func TestWhatTheEvaluatorDoesntKnow(t *testing.T) {
	r := resource(t, string(vmID), map[string]any{})
	for _, text := range []string{
		`{"field":"kind","equals":"x"}`, `{"field":"Microsoft.Compute/virtualMachines/priority","equals":"x"}`, `{"field":"name","equals":"[toLower('x')]"}`,
		`{"field":"name","in":"[parameters('none')]"}`, `{"field":"name","in":"x"}`, `{"field":"name","less":3}`, `{"value":"[utcNow()]","equals":"x"}`,
		`{"field":"Microsoft.Compute/virtualMachines/storageProfile.dataDisks[*].managedDisk.id","exists":"true"}`,
		`{"field":"name"}`, `{"field":"name","equals":"a","like":"b"}`, `{"equals":"a"}`, `{"allOf":[],"field":"name","equals":"x"}`, `{"field":"name","match":"x"}`, `[]`, `{"field":"name","equals":{}}`,
		`{"count":{"field":"name"},"less":1}`,
	} {
		var c Condition
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			_, err = c.Evaluate(r, Values{})
		}
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", text, err)
		}
	}
	for id, body := range map[string]string{"": `{}`, string(vmID): `[]`, "/subscriptions/s": `{}`, "x": `{"id":3}`} {
		if _, err := NewResource(id, []byte(body)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q with %s: %v", id, body, err)
		}
	}
}

// FuzzCondition reads any rule and evaluates it: an answer or an error, and what is
// written again reads the same.
func FuzzCondition(f *testing.F) {
	i, err := Export(policy.Embedded(), Deny)
	if err != nil {
		f.Fatal(err)
	}
	for _, d := range i.Definitions {
		text, err := marshal(d.Properties.PolicyRule.If)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(`{"properties":{"storageProfile":{"dataDisks":[{"managedDisk":null},3]}}}`))
	}
	values := Values{}
	for name, p := range i.Set.Properties.Parameters {
		values[name] = p.DefaultValue
	}
	f.Fuzz(func(t *testing.T, rule, body []byte) {
		var c Condition
		if json.Unmarshal(rule, &c) != nil {
			return
		}
		text, err := marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var again Condition
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s is written as %s: %v", rule, text, err)
		}
		r, err := NewResource(string(vmID), body)
		if err != nil {
			return
		}
		first, err1 := c.Evaluate(r, values)
		second, err2 := again.Evaluate(r, values)
		if first != second || (err1 == nil) != (err2 == nil) {
			t.Errorf("%s says %v (%v), written again %v (%v)", rule, first, err1, second, err2)
		}
	})
}
