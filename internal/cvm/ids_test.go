package cvm

import (
	"strings"
	"testing"

	"cvmguard/internal/fault"
)

const sub = "00000000-0000-0000-0000-000000000001"

func TestParseVMID(t *testing.T) {
	good := "/subscriptions/" + sub + "/resourceGroups/rg-Ä(1)._x/providers/Microsoft.Compute/virtualMachines/vm_1"
	for _, s := range []string{good, strings.ToLower(good), strings.ToUpper(good[:60]) + good[60:]} {
		id, err := ParseVMID(s)
		if err != nil {
			t.Errorf("ParseVMID(%q): %v", s, err)
		}
		if string(id) != s || id.Name() != s[strings.LastIndex(s, "/")+1:] {
			t.Errorf("%q came back as %q, name %q", s, id, id.Name())
		}
	}
	id := VMID(good)
	if id.Subscription() != sub || id.ResourceGroup() != "rg-Ä(1)._x" || id.Fold() != strings.ToLower(good) {
		t.Errorf("parts: %q %q %q", id.Subscription(), id.ResourceGroup(), id.Fold())
	}
	bad := []string{
		"", "vm1", good + "/", good + "/extensions/x", " " + good, good + " ", good[1:], strings.Replace(good, "/", "//", 1),
		strings.Replace(good, sub, "sub", 1), strings.Replace(good, "providers", "provider", 1),
		strings.Replace(good, "virtualMachines", "disks", 1), strings.Replace(good, "Compute", "Storage", 1),
		strings.Replace(good, "vm_1", "", 1), strings.Replace(good, "vm_1", "vm?1", 1), strings.Replace(good, "vm_1", "vm%31", 1),
		strings.Replace(good, "vm_1", "..", 1), strings.Replace(good, "vm_1", "vm\u212a", 1), strings.Replace(good, "vm_1", "vm\x00", 1),
		strings.Replace(good, "virtualMachines/vm_1", "virtualMachineScaleSets/s", 1), strings.Replace(good, "virtualMachines/vm_1", "virtualMachineScaleSets/s/virtualMachines", 1),
		strings.Replace(good, "virtualMachines/vm_1", "virtualMachineScaleSets/s/virtualMachines/..", 1), strings.Replace(good, "virtualMachines/vm_1", "virtualMachineScaleSets/s/virtualMachines/0/extensions/x", 1),
		good + strings.Repeat("x", 3000),
	}
	for _, s := range bad {
		_, err := ParseVMID(s)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseVMID(%q): %v", s, err)
			continue
		}
		if !strings.Contains(err.Error(), "/virtualMachines/vm1") || strings.ContainsAny(err.Error(), "\x00\n") {
			t.Errorf("the error for %q shows no example or isn't quoted: %v", s, err)
		}
	}
}

func TestVMIDAtHead(t *testing.T) {
	vm := "/subscriptions/" + sub + "/resourcegroups/RG/providers/microsoft.compute/virtualmachines/vm1"
	for in, child := range map[string]string{
		vm: "", vm + "/extensions/GuestAttestation": "extensions/GuestAttestation", vm + "/runCommands/x": "runCommands/x",
	} {
		id, got, err := VMIDAtHead(in)
		if err != nil || string(id) != vm || got != child {
			t.Errorf("VMIDAtHead(%q) = %q, %q, %v", in, id, got, err)
		}
	}
	for _, in := range []string{vm + "/extensions", vm + "/extensions/", strings.Replace(vm, "virtualmachines/vm1", "virtualMachineScaleSets/s/roleInstances/0", 1)} {
		if id, _, err := VMIDAtHead(in); err == nil {
			t.Errorf("VMIDAtHead(%q) = %q", in, id)
		}
	}
}

// An instance of a uniform scale set is a VM by another type of id.
func TestInstance(t *testing.T) {
	set := "/subscriptions/" + sub + "/resourcegroups/RG/providers/microsoft.compute/virtualmachinescalesets/Pay"
	instance := set + "/virtualmachines/7"
	for in, child := range map[string]string{instance: "", instance + "/extensions/GuestAttestation": "extensions/GuestAttestation"} {
		id, got, err := VMIDAtHead(in)
		if err != nil || string(id) != instance || got != child {
			t.Errorf("VMIDAtHead(%q) = %q, %q, %v", in, id, got, err)
		}
	}
	id, err := ParseVMID(instance)
	of, n, ok := id.Instance()
	if err != nil || !ok || of != set || n != "7" || id.Name() != "Pay_7" || id.ResourceGroup() != "RG" || id.Subscription() != sub {
		t.Errorf("%q: set %q, instance %q, name %q, %v", id, of, n, id.Name(), err)
	}
	if _, _, ok := VMID(exampleVM).Instance(); ok || VMID(exampleVM).ChainKey() == id.ChainKey() {
		t.Error("a VM of its own is taken for an instance")
	}
}

func TestOtherIDs(t *testing.T) {
	if d, err := ParseDiskID(exampleDisk); err != nil || d.Name() != "vm1-os" || d.Subscription() != sub {
		t.Error(d, err)
	}
	if d, err := ParseDESID(exampleDES); err != nil || d.ResourceGroup() != "rg" || d.Fold() != strings.ToLower(exampleDES) {
		t.Error(d, err)
	}
	hsm := strings.Replace(exampleVault, "vaults/kv1", "managedHSMs/hsm1", 1)
	for in, isHSM := range map[string]bool{exampleVault: false, hsm: true, strings.ToLower(hsm): true} {
		if v, err := ParseVaultID(in); err != nil || v.IsHSM() != isHSM {
			t.Error(in, v, err)
		}
	}
	for _, in := range []string{exampleVM, exampleDES + "/x/y", ""} {
		if v, err := ParseDiskID(in); err == nil || v != "" {
			t.Errorf("ParseDiskID(%q) = %q, %v", in, v, err)
		}
		if v, err := ParseVaultID(in); err == nil || v != "" {
			t.Errorf("ParseVaultID(%q) = %q, %v", in, v, err)
		}
	}
	if r, err := ParseRegionID(strings.ToUpper(sub) + "/regions/northeurope"); err != nil || r.Region() != "northeurope" || r.Subscription() != sub {
		t.Error(r, err)
	}
	for _, in := range []string{"", "x/regions/y", sub + "/regions/", sub + "/regions/a/b", sub + "/region/a", sub + "/regions/North Europe"} {
		if r, err := ParseRegionID(in); err == nil {
			t.Errorf("ParseRegionID(%q) = %q", in, r)
		}
	}
	if FoldRegion("West Europe") != "westeurope" {
		t.Error(FoldRegion("West Europe"))
	}
}

func TestParseKeyID(t *testing.T) {
	for in, want := range map[string]KeyID{
		"https://KV1.vault.azure.net/keys/Key1/00FF":        "https://KV1.vault.azure.net/keys/Key1/00FF",
		"https://kv1.vault.azure.net:443/keys/k":            "https://kv1.vault.azure.net/keys/k",
		"https://h.managedhsm.azure.net/keys/k/1":           "https://h.managedhsm.azure.net/keys/k/1",
		"https://kv.vault.azure.cn/keys/k":                  "https://kv.vault.azure.cn/keys/k",
		"https://kv.vault.usgovcloudapi.net/keys/k":         "https://kv.vault.usgovcloudapi.net/keys/k",
		"https://h.managedhsm.usgovcloudapi.net/keys/k/abc": "https://h.managedhsm.usgovcloudapi.net/keys/k/abc",
	} {
		got, err := ParseKeyID(in)
		if err != nil || got != want {
			t.Errorf("ParseKeyID(%q) = %q, %v", in, got, err)
		}
	}
	k := KeyID("https://KV1.managedhsm.azure.net/keys/Key1/00FF")
	if k.Host() != "kv1.managedhsm.azure.net" || k.KeyName() != "Key1" || k.Version() != "00FF" || !k.IsHSM() ||
		k.Versionless() != "https://kv1.managedhsm.azure.net/keys/Key1" || k.Fold() != strings.ToLower(string(k)) {
		t.Error(k.Host(), k.KeyName(), k.Version(), k.IsHSM(), k.Versionless())
	}
	for _, in := range []string{
		"", "kv", "http://kv.vault.azure.net/keys/k", "https://kv.vault.azure.net/keys", "https://kv.vault.azure.net/keys/",
		"https://kv.vault.azure.net/secrets/k/1", "https://kv.vault.azure.net/keys/k/1/2", "https://kv.vault.azure.net/keys/k/",
		"https://kv.vault.azure.net.example.org/keys/k", "https://a.b.vault.azure.net/keys/k", "https://vault.azure.net/keys/k",
		"https://u@kv.vault.azure.net/keys/k", "https://kv.vault.azure.net:8443/keys/k", "https://kv.vault.azure.net/keys/k?x=1",
		"https://kv.vault.azure.net/keys/k#f", "https://kv.vault.azure.net/keys/%6b", "https://127.0.0.1/keys/k", "://", "https://kv.vault.azure.net:/keys/k",
	} {
		if got, err := ParseKeyID(in); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseKeyID(%q) = %q, %v", in, got, err)
		}
	}
}

// The expected texts were worked out with another tool:
// printf %s ID | sha256sum | xxd -r -p | base32 | tr A-Z a-z | cut -c1-26.
func TestRowKey(t *testing.T) {
	id := "/subscriptions/" + sub + "/resourceGroups/rg-cvm/providers/Microsoft.Compute/virtualMachines/vm-cvm-cmk"
	const want = "ush6y6xcynzw7tshukppdpaoad"
	if got := RowKey(id); got != want || len(got) != 26 {
		t.Errorf("RowKey = %q, want %q", got, want)
	}
	if RowKey(strings.ToUpper(id)) != want {
		t.Error("the row key depends on letter case")
	}
	if got := VMID(id).ChainKey(); got != sub+"-"+want {
		t.Errorf("ChainKey = %q", got)
	}
}

func FuzzVMID(f *testing.F) {
	for _, s := range []string{exampleVM, exampleVM + "/extensions/x", exampleKey, exampleDES, "", "////////"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, child, err := VMIDAtHead(s); err == nil {
			rebuilt := string(id)
			if child != "" {
				rebuilt += "/" + child
			}
			if rebuilt != s {
				t.Fatalf("%q came back as %q", s, rebuilt)
			}
			if again, err := ParseVMID(strings.ToLower(string(id))); err != nil || again.Fold() != id.Fold() {
				t.Fatalf("the folded id of %q is not an id: %v", s, err)
			}
		}
		if k, err := ParseKeyID(s); err == nil {
			if again, err := ParseKeyID(string(k)); err != nil || again != k {
				t.Fatalf("%q came back as %q, %v", k, again, err)
			}
			if _, err := ParseKeyID(string(k.Versionless())); err != nil {
				t.Fatal(err)
			}
		}
	})
}
