package cvm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const (
	rg     = "/subscriptions/" + sub + "/resourceGroups/rg-cvm/providers/"
	desCVM = DESID(rg + "Microsoft.Compute/diskEncryptionSets/des-cvm")
	desSSE = DESID(rg + "Microsoft.Compute/diskEncryptionSets/des-sse")
)

func TestVMVectors(t *testing.T) {
	for _, c := range []struct {
		file, name, location, size, security, enc string
		secure, sse                               DESID
		kind                                      Kind
		tee                                       TEE
		boot, tpm, atHost                         Tri
		dataDisks                                 int
	}{
		{"vm-cvm-cmk.json", "vm-cvm-cmk", "northeurope", "Standard_DC4as_v5", "ConfidentialVM", EncryptDisk, desCVM, "", KindCustomerKey, TEESNP, True, True, Unread, 0},
		{"vm-cvm-pmk.json", "vm-cvm-pmk", "northeurope", "Standard_DC4as_v5", "ConfidentialVM", EncryptDisk, "", "", KindPlatformKey, TEESNP, True, True, Unread, 0},
		{"vm-cvm-vmgs-only.json", "vm-cvm-vmgs", "northeurope", "Standard_DC4ads_v5", "ConfidentialVM", EncryptGuestState, "", "", KindGuestState, TEESNP, True, True, Unread, 0},
		{"vm-cvm-nonpersistedtpm.json", "vm-cvm-npt", "northeurope", "Standard_DC2es_v5", "ConfidentialVM", EncryptNoTPM, "", "", KindEphemeralTPM, TEETDX, False, True, Unread, 0},
		{"vm-cvm-tdx-cmk.json", "vm-tdx-cmk", "westeurope", "", "ConfidentialVM", EncryptDisk, desCVM, "", KindCustomerKey, TEETDX, True, True, Unread, 0},
		{"vm-cvm-cmk-datadisk-encryptionathost.json", "vm-cvm-eah", "northeurope", "Standard_EC8ads_v5", "ConfidentialVM", EncryptDisk, desCVM, "", KindCustomerKey, TEESNP, True, True, True, 1},
		{"vm-trustedlaunch-gen2.json", "vm-tl", "northeurope", "Standard_D4s_v5", "TrustedLaunch", "", "", desSSE, KindTrustedLaunch, TEENone, True, True, Unread, 0},
		{"vm-standard-gen1.json", "vm-std", "northeurope", "Standard_D4s_v5", "", "", "", "", KindUnknown, TEENone, Unread, Unread, Unread, 0},
		{"vm-standard-gen2-typed.json", "vm-std2", "northeurope", "Standard_D4s_v5", "Standard", "", "", "", KindUnknown, TEENone, Unread, Unread, Unread, 0},
	} {
		vm, err := ParseVM(vector(t, c.file))
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		if c.size == "" {
			c.size = vm.Size
		}
		got := []any{vm.Name, vm.Location, vm.Size, vm.SecurityType, vm.OSDisk.SecurityEncryptionType, vm.OSDisk.SecureDES, vm.OSDisk.SSEDES,
			KindOf(vm), TEEOfSize(vm.Size), vm.SecureBoot, vm.VTPM, vm.EncryptionAtHost, len(vm.DataDisks)}
		want := []any{c.name, c.location, c.size, c.security, c.enc, c.secure, c.sse, c.kind, c.tee, c.boot, c.tpm, c.atHost, c.dataDisks}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", c.file, got, want)
		}
		if vm.UniqueID == "" || vm.ETag != `"1"` || vm.ProvisioningState != "Succeeded" || vm.PrincipalID == "" || vm.Tags["env"] != "example" ||
			vm.OS != "Linux" || vm.Image.Publisher != "Canonical" || vm.OSDisk.CreateOption != "FromImage" || vm.InstanceView ||
			!vm.TimeCreated.Equal(time.Date(2026, 1, 15, 8, 0, 0, 0, time.UTC)) || vm.OSDisk.ID == "" || vm.Power != "" {
			t.Errorf("%s: %+v", c.file, vm)
		}
	}
}

func TestInstanceViewVectors(t *testing.T) {
	vm, err := ParseVM(vector(t, "vm-cvm-cmk.json"))
	if err != nil {
		t.Fatal(err)
	}
	running := vm
	if err := ParseInstanceView(vector(t, "vm-instanceview-running.json"), &running); err != nil {
		t.Fatal(err)
	}
	ext := []Extension{{Name: "GuestAttestation", Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation",
		Version: "1.0.0.0", ProvisioningState: "Succeeded", HandlerStatus: "Ready"}}
	if running.Power != "running" || running.AgentReady != True || running.AgentVersion != "2.9.1.1" || running.Generation != "V2" ||
		!running.InstanceView || !reflect.DeepEqual(running.Extensions, ext) {
		t.Errorf("running: %+v", running)
	}
	stopped := vm
	if err := ParseInstanceView(vector(t, "vm-instanceview-deallocated.json"), &stopped); err != nil {
		t.Fatal(err)
	}
	if stopped.Power != "deallocated" || stopped.AgentReady != Unread || stopped.Generation != "V2" || len(stopped.Extensions) != 0 {
		t.Errorf("deallocated: %+v", stopped)
	}
	// The same view inside the VM's body, beside the extension as a resource.
	var body map[string]any
	if err := json.Unmarshal(vector(t, "vm-cvm-cmk.json"), &body); err != nil {
		t.Fatal(err)
	}
	body["properties"].(map[string]any)["instanceView"] = json.RawMessage(vector(t, "vm-instanceview-running.json"))
	body["resources"] = []any{json.RawMessage(vector(t, "ext-guestattestation-linux.json"))}
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := ParseVM(b)
	if err != nil {
		t.Fatal(err)
	}
	ext[0].Version = "1.0"
	if !whole.InstanceView || whole.AgentReady != True || !reflect.DeepEqual(whole.Extensions, ext) {
		t.Errorf("whole: %+v", whole)
	}
}

func TestExtensionVectors(t *testing.T) {
	x, err := ParseExtension(vector(t, "ext-guestattestation-linux.json"))
	want := Extension{Name: "GuestAttestation", Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation", Version: "1.0", ProvisioningState: "Succeeded"}
	if err != nil || x != want {
		t.Errorf("%+v, %v", x, err)
	}
	x, err = ParseExtension(vector(t, "ext-ade-cvm-tempdisk-request.json"))
	want = Extension{Publisher: "Microsoft.Azure.Security", Type: "AzureDiskEncryptionForLinux", Version: "1.4"}
	if err != nil || x != want {
		t.Errorf("%+v, %v", x, err)
	}
}

func TestDiskVectors(t *testing.T) {
	for file, want := range map[string]Disk{
		"disk-cvm-cmk.json":             {State: "Attached", SecurityType: DiskCustomerKey, SecureDES: desCVM},
		"disk-cvm-cmk-reserved.json":    {State: "Reserved", SecurityType: DiskCustomerKey, SecureDES: desCVM},
		"disk-cvm-cmk-v2.json":          {State: "Attached", SecurityType: DiskCustomerKey, SecureDES: desCVM, ConfidentialVersion: "V2"},
		"disk-cvm-tdx-cmk.json":         {State: "Attached", SecurityType: DiskCustomerKey, SecureDES: desCVM, Location: "westeurope"},
		"disk-cvm-pmk.json":             {State: "Attached", SecurityType: DiskPlatformKey},
		"disk-cvm-vmgs-only.json":       {State: "Attached", SecurityType: DiskGuestState},
		"disk-cvm-nonpersistedtpm.json": {State: "Attached", SecurityType: DiskNoTPM},
		"disk-trustedlaunch.json":       {State: "Attached", SecurityType: DiskTrustedLaunch, EncryptionType: DESTypeSSE, SSEDES: desSSE},
		"disk-standard-gen1.json":       {State: "Attached", Generation: "V1"},
		"disk-data-pmk.json":            {State: "Attached", Generation: "-"},
		"disk-data-sse-cmk.json":        {State: "Attached", Generation: "-", EncryptionType: DESTypeSSE, SSEDES: desSSE},
	} {
		d, err := ParseDisk(vector(t, file))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		data := want.Generation == "-"
		want.HasSecurityProfile = want.SecurityType != ""
		want.EncryptionType = first(want.EncryptionType, "EncryptionAtRestWithPlatformKey")
		want.Location = first(want.Location, "northeurope")
		want.NetworkAccessPolicy, want.ProvisioningState = "AllowAll", "Succeeded"
		want.Generation, want.CreateOption, want.OSType = first(want.Generation, "V2"), "FromImage", "Linux"
		if data {
			want.Generation, want.CreateOption, want.OSType = "", "Empty", ""
		}
		if d.ManagedBy == "" || d.Name == "" || d.ID.Name() != d.Name || data != (d.ImageID == "") {
			t.Errorf("%s: %+v", file, d)
		}
		want.ID, want.Name, want.ManagedBy, want.ImageID, want.Tags = d.ID, d.Name, d.ManagedBy, d.ImageID, d.Tags
		if !reflect.DeepEqual(d, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", file, d, want)
		}
	}
}

func TestDESVectors(t *testing.T) {
	const key, old = "https://kv-cvm.vault.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff", "https://kv-cvm.vault.azure.net/keys/cvm-os-key/ffeeddccbbaa99887766554433221100"
	const vault = rg + "Microsoft.KeyVault/vaults/kv-cvm"
	for file, want := range map[string]DES{
		"des-confidentialvm.json":              {Type: DESTypeConfidential, KeyURL: key, SourceVault: vault},
		"des-confidentialvm-mhsm.json":         {Type: DESTypeConfidential, KeyURL: "https://hsm-cvm.managedhsm.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff"},
		"des-confidentialvm-autorotation.json": {Type: DESTypeConfidential, KeyURL: key, SourceVault: vault, AutoRotation: true},
		"des-rotation-in-progress.json":        {Type: DESTypeConfidential, KeyURL: old, SourceVault: vault, PreviousKeys: 1},
		"des-autorotation-error.json":          {Type: DESTypeSSE, KeyURL: key, SourceVault: vault, AutoRotation: true, RotationError: "ManagedServiceIdentityNotFound"},
		"des-sse-cmk.json":                     {Type: DESTypeSSE, KeyURL: key, SourceVault: vault, AutoRotation: true},
		"des-double.json":                      {Type: DESTypeDouble, KeyURL: key, SourceVault: vault},
	} {
		d, err := ParseDES(vector(t, file))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if d.PrincipalID == "" || d.ID.Name() != d.Name {
			t.Errorf("%s: %+v", file, d)
		}
		want.ID, want.Name, want.PrincipalID, want.Location = d.ID, d.Name, d.PrincipalID, "northeurope"
		want.IdentityType, want.ProvisioningState = "SystemAssigned", "Succeeded"
		want.LastRotation = time.Date(2026, 1, 10, 8, 0, 0, 0, time.UTC)
		if d != want {
			t.Errorf("%s:\n got %+v\nwant %+v", file, d, want)
		}
	}
	ids, next, err := ParseAssociated(vector(t, "des-associatedresources.json"))
	if err != nil || len(ids) != 2 || next != "" {
		t.Error(ids, next, err)
	}
	d, err := ParseDES([]byte(`{"id":"` + string(desCVM) + `","properties":{"activeKey":{}},"identity":{"type":"UserAssigned","userAssignedIdentities":{"/b":{"principalId":"pb"},"/a":{"principalId":"pa"}}}}`))
	if err != nil || d.PrincipalID != "pa" || d.Type != DESTypeSSE {
		t.Error(d, err)
	}
}

func TestVaultVectors(t *testing.T) {
	for file, want := range map[string]Vault{
		"vault-premium.json": {ID: rg + "Microsoft.KeyVault/vaults/kv-cvm", Name: "kv-cvm", Host: "kv-cvm.vault.azure.net", Location: "northeurope", SKU: "premium",
			PurgeProtection: True, SoftDelete: True, RBAC: True, DefaultAction: "Deny", Bypass: "AzureServices", PublicAccess: "Enabled", ProvisioningState: "Succeeded"},
		"vault-standard-accesspolicies.json": {ID: rg + "Microsoft.KeyVault/vaults/kv-std", Name: "kv-std", Host: "kv-std.vault.azure.net", Location: "westeurope", SKU: "standard",
			SoftDelete: True, RBAC: False, PublicAccess: "Enabled", ProvisioningState: "Succeeded", AccessPolicies: []AccessPolicy{
				{ObjectID: "00000000-0000-4000-8000-f0f9c90ca6d2", Keys: []string{"get", "wrapkey", "unwrapkey"}},
				{ObjectID: "00000000-0000-4000-8000-11376b7e2acf", Keys: []string{"get", "release"}}}},
		"mhsm.json": {ID: rg + "Microsoft.KeyVault/managedHSMs/hsm-cvm", Name: "hsm-cvm", Host: "hsm-cvm.managedhsm.azure.net", HSM: true, Location: "northeurope", SKU: "Standard_B1",
			PurgeProtection: True, SoftDelete: True, DefaultAction: "Deny", Bypass: "AzureServices", PublicAccess: "Enabled", ProvisioningState: "Succeeded"},
	} {
		v, err := ParseVault(vector(t, file))
		if err != nil || !reflect.DeepEqual(v, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", file, err, v, want)
		}
	}
}

func TestKeyVectors(t *testing.T) {
	base := Key{Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: True, Exportable: True, RecoveryLevel: "Recoverable",
		AttributesRead: true, Created: time.Unix(1767225600, 0).UTC(), Policy: ReleasePolicy{Present: true}}
	for file, change := range map[string]func(*Key){
		"key-good.json":                func(*Key) {},
		"key-good-default-policy.json": func(*Key) {},
		"key-good-mhsm.json":           func(*Key) {},
		"key-2048.json":                func(k *Key) { k.Bits = 2048 },
		"key-4096.json":                func(k *Key) { k.Bits = 4096 },
		"key-disabled.json":            func(k *Key) { k.Enabled = False },
		"key-expired.json": func(k *Key) {
			k.NotBefore, k.Expires = time.Unix(1767225600, 0).UTC(), time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
		},
		"key-near-expiry.json":   func(k *Key) { k.Expires = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC) },
		"key-not-yet-valid.json": func(k *Key) { k.NotBefore = time.Unix(4102444800, 0).UTC() },
		"key-no-policy.json":     func(k *Key) { k.Exportable, k.Policy = False, ReleasePolicy{} },
		"key-not-exportable.json": func(k *Key) {
			k.Exportable, k.Policy = False, ReleasePolicy{}
			k.Ops = []string{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"}
		},
		"key-software-rsa.json":      func(k *Key) { k.Type, k.Exportable, k.Policy = "RSA", Unread, ReleasePolicy{} },
		"key-no-wrap-ops.json":       func(k *Key) { k.Ops = []string{"sign", "verify"} },
		"key-purgeable.json":         func(k *Key) { k.RecoveryLevel = "Recoverable+Purgeable" },
		"key-guest-skr-policy.json":  func(*Key) {},
		"key-weak-policy.json":       func(*Key) {},
		"key-foreign-authority.json": func(*Key) {},
	} {
		k, err := ParseKey(vector(t, file))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		want := base
		change(&want)
		want.ID, want.Policy.Decoded = k.ID, k.Policy.Decoded
		if k.ID.Version() != "00112233445566778899aabbccddeeff" || want.Policy.Present == (k.Policy.Decoded == "") || k.Policy.Problem != "" {
			t.Errorf("%s: %+v", file, k)
		}
		if !reflect.DeepEqual(k, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", file, k, want)
		}
	}
}

// Every vector that holds a resource which this package reads is in a test above.
func TestNoVectorForgotten(t *testing.T) {
	source, err := os.ReadFile("parse_test.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := os.ReadFile("releasepolicy_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"vm-*", "disk-*", "des-*", "vault-*", "mhsm*", "key-*", "ext-*", "release-policy-*"} {
		names, err := filepath.Glob(filepath.Join(vectors(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if name := `"` + filepath.Base(n) + `"`; !strings.Contains(string(source)+string(more), name) {
				t.Errorf("%s is in no test", name)
			}
		}
	}
}

func TestParseRefusesWrongTypes(t *testing.T) {
	vm := `{"id":"` + exampleVM + `","properties":%s}`
	for _, c := range []struct {
		what string
		err  error
	}{
		{"no JSON", second(ParseVM([]byte(`nope`)))}, {"a list", second(ParseVM([]byte(`[]`)))}, {"nothing", second(ParseVM(nil))}, {"null", second(ParseVM([]byte(`null`)))},
		{"no id", second(ParseVM([]byte(`{"properties":{}}`)))},
		{"type a number", second(ParseVM([]byte(strings.Replace(vm, "%s", `{"securityProfile":{"securityType":1}}`, 1))))},
		{"vTpm a text", second(ParseVM([]byte(strings.Replace(vm, "%s", `{"securityProfile":{"uefiSettings":{"vTpmEnabled":"true"}}}`, 1))))},
		{"disk's profile a list", second(ParseDisk([]byte(`{"id":"` + exampleDisk + `","properties":{"securityProfile":[]}}`)))},
		{"disk without properties", second(ParseDisk([]byte(`{"id":"` + exampleDisk + `"}`)))},
		{"set's flag a text", second(ParseDES([]byte(`{"id":"` + exampleDES + `","properties":{"rotationToLatestKeyVersionEnabled":"yes"}}`)))},
		{"set's stamp no time", second(ParseDES([]byte(`{"id":"` + exampleDES + `","properties":{"lastKeyRotationTimestamp":"yesterday"}}`)))},
		{"vault's flag a number", second(ParseVault([]byte(`{"id":"` + exampleVault + `","properties":{"enablePurgeProtection":1}}`)))},
		{"key's exp a text", second(ParseKey([]byte(`{"key":{"kid":"` + exampleKey + `"},"attributes":{"exp":"1"}}`)))},
		{"key's kid elsewhere", second(ParseKey([]byte(`{"key":{"kid":"https://example.org/keys/k/1"}}`)))},
		{"no key", second(ParseKey([]byte(`{}`)))},
	} {
		if c.err == nil {
			t.Errorf("%s: taken", c.what)
		}
	}
	// What isn't known is let be.
	got, err := ParseVM([]byte(strings.Replace(vm, "%s", `{"securityProfile":{"securityType":"Quantum","new":{"a":[1]}},"storageProfile":{"dataDisks":[{"lun":3,"managedDisk":{"securityProfile":{"securityEncryptionType":"DataDiskEncryptedWithCustomerKey","diskEncryptionSet":{"id":"x"}}}}],"osDisk":{"diffDiskSettings":{"option":"Local"}}}}`, 1)))
	if err != nil || SecurityOf(got) != SecurityUnknown || !got.OSDisk.Ephemeral || got.DataDisks[0].LUN != 3 ||
		got.DataDisks[0].SecurityEncryptionType != EncryptDataDisk || got.DataDisks[0].SecureDES != "x" {
		t.Errorf("%+v, %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

// A shared disk is one that more VMs than one may have at once.
func TestASharedDisk(t *testing.T) {
	for body, want := range map[string]bool{
		`"properties":{}`:                               false,
		`"properties":{"maxShares":1}`:                  false,
		`"properties":{"maxShares":2}`:                  true,
		`"managedByExtended":["a","b"],"properties":{}`: true,
		`"managedByExtended":["a"],"properties":{}`:     false,
	} {
		d, err := ParseDisk([]byte(`{"id":"` + exampleDisk + `",` + body + `}`))
		if err != nil || d.Shared() != want {
			t.Errorf("%s: %t, %v", body, d.Shared(), err)
		}
	}
}

func FuzzVM(f *testing.F) {
	seed(f, "vm-*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		vm, err := ParseVM(b)
		if err == nil {
			KindOf(vm)
			roundTrips(t, vm)
		}
		_ = ParseInstanceView(b, &vm)
	})
}

func FuzzDisk(f *testing.F) {
	seed(f, "disk-*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseDisk(b); err == nil {
			roundTrips(t, d)
		}
	})
}

func FuzzDES(f *testing.F) {
	seed(f, "des-*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := ParseDES(b); err == nil {
			roundTrips(t, d)
		}
	})
}

func FuzzVault(f *testing.F) {
	seed(f, "vault-*.json")
	seed(f, "mhsm.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := ParseVault(b); err == nil {
			roundTrips(t, v)
		}
	})
}

func FuzzKey(f *testing.F) {
	seed(f, "key-*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseKey(b)
		if err != nil {
			return
		}
		roundTrips(t, k)
		JudgeReleasePolicy(k.Policy, PolicyQuestion{Region: "northeurope", TEE: TEESNP})
	})
}

// roundTrips says that a record can hold what was read, whatever was read.
func roundTrips[T any](t *testing.T, v T) {
	t.Helper()
	if _, err := json.Marshal(v); err != nil {
		t.Fatalf("a record can't hold it: %v", err)
	}
}
