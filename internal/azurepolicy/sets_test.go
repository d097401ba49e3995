package azurepolicy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy/truth"
)

const setID = armRoot + "Microsoft.Compute/virtualMachineScaleSets/set-pay"

// setRequest is a scale set whose model says what a VM's body says. What a model
// can't hold, a data disk that was made before, is left out.
func setRequest(t *testing.T, body map[string]any) map[string]any {
	t.Helper()
	properties, _ := body["properties"].(map[string]any)
	model := map[string]any{"storageProfile": map[string]any{}}
	for _, name := range []string{"securityProfile", "storageProfile"} {
		if properties[name] != nil {
			model[name] = properties[name]
		}
	}
	hardware, _ := properties["hardwareProfile"].(map[string]any)
	return map[string]any{"location": body["location"], "tags": body["tags"], "sku": map[string]any{"name": hardware["vmSize"], "capacity": 3},
		"properties": map[string]any{"orchestrationMode": "Uniform", "virtualMachineProfile": model}}
}

// TestAScaleSetIsHeldToWhatAVMIs asks for each VM of the truth table, and for a
// scale set whose model is that VM: the same rules refuse both.
func TestAScaleSetIsHeldToWhatAVMIs(t *testing.T) {
	table, err := truth.Load()
	if err != nil {
		t.Fatal(err)
	}
	cases, refused := 0, 0
	for _, c := range table.Cases() {
		e, err := c.Estate()
		if err != nil {
			t.Fatal(err)
		}
		p, err := e.Posture()
		body, isBody := e.Get("/vm").(map[string]any)
		if err != nil || !isBody || !p.VM.Known || strings.Contains(string(p.VM.Value.ID), "virtualMachineScaleSets") {
			continue
		}
		cases++
		i := export(t, documentOf(t, c, p))
		want := hits(t, i, resource(t, string(p.VM.Value.ID), body))
		got := hits(t, i, resource(t, setID, setRequest(t, body)))
		if len(p.VM.Value.DataDisks) > 0 { // they are named by id in the VM, and new in the model
			delete(want, "data-disk-customer-key")
			delete(got, "data-disk-customer-key")
		}
		if !maps.Equal(got, want) {
			t.Errorf("row %s, %s: the VM is refused by %v, the set by %v", c.Row, c.Name, slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)))
		}
		refused += len(got)
	}
	if cases < 30 || refused < cases {
		t.Errorf("%d cases, %d refusals", cases, refused)
	}
}

func TestScaleSets(t *testing.T) {
	disk := func(set string) map[string]any {
		m := map[string]any{}
		if set != "" {
			m["diskEncryptionSet"] = map[string]any{"id": set}
		}
		return map[string]any{"lun": 0, "createOption": "Empty", "managedDisk": m}
	}
	model := func(change func(security, storage map[string]any)) map[string]any {
		security := map[string]any{"securityType": "ConfidentialVM", "encryptionAtHost": true, "uefiSettings": map[string]any{"secureBootEnabled": true, "vTpmEnabled": true}}
		storage := map[string]any{"osDisk": map[string]any{"managedDisk": map[string]any{"securityProfile": map[string]any{
			"securityEncryptionType": cvm.EncryptDisk, "diskEncryptionSet": map[string]any{"id": string(desID)}}}}}
		if change != nil {
			change(security, storage)
		}
		return map[string]any{"sku": map[string]any{"name": "Standard_DC4as_v5"}, "tags": map[string]any{"env": "prod"}, "properties": map[string]any{
			"virtualMachineProfile": map[string]any{"securityProfile": security, "storageProfile": storage}}}
	}
	all, some, named := "", `want: {include: [{tag: {env: prod}}]}`, `want: {include: [{name: "web-*"}]}`
	for _, tt := range []struct {
		what, policy string
		body         map[string]any
		want         string
	}{
		{"a good one", all, model(nil), ""},
		{"an ordinary one", all, model(func(s, _ map[string]any) { delete(s, "securityType") }), "vm-kind"},
		{"an ordinary one that is wanted by its tag", some, model(func(s, _ map[string]any) { delete(s, "securityType") }), "vm-kind"},
		{"an ordinary one, and names are wanted", named, model(func(s, _ map[string]any) { delete(s, "securityType") }), ""},
		{"a confidential one without secure boot, and names are wanted", named, model(func(s, _ map[string]any) { s["uefiSettings"] = map[string]any{} }), "secure-boot vtpm"},
		{"data disks", all, model(func(_, s map[string]any) { s["dataDisks"] = []any{disk(string(sseID)), disk("")} }), "data-disk-customer-key"},
		{"data disks under a key", all, model(func(_, s map[string]any) { s["dataDisks"] = []any{disk(string(sseID))} }), ""},
		{"a flexible one without a model", all, map[string]any{"properties": map[string]any{"orchestrationMode": "Flexible", "platformFaultDomainCount": 1}}, ""},
	} {
		got := slices.Sorted(maps.Keys(hits(t, export(t, document(t, tt.policy)), resource(t, setID, tt.body))))
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: refused by %v, want %q", tt.what, got, tt.want)
		}
	}
}
