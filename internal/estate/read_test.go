package estate_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"cvmguard/internal/cvm"
	"cvmguard/internal/estate"
	"cvmguard/internal/estate/estatetest"
	"cvmguard/internal/policy"
)

type body = estatetest.Body

// files are a chain's bodies under names that tests change.
func files(t *testing.T, c *estatetest.Chain) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for name, b := range map[string]body{"vm.json": c.VM, "disk.json": c.Disk, "des.json": c.DES, "key.json": c.Key, "vault.json": c.Vault} {
		if b != nil {
			out[name] = text(t, b)
		}
	}
	for i, b := range c.More {
		out[string(rune('0'+i))+".json"] = text(t, b)
	}
	return out
}

func text(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func onDisk(t *testing.T, all map[string][]byte) *estate.Estate {
	t.Helper()
	dir := t.TempDir()
	for name, b := range all {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e, err := estate.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func utf16LE(b []byte) []byte {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(string(b))) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// A body counts wherever it stands and whatever its file is called.
func TestWhereBodiesStand(t *testing.T) {
	move := func(f map[string][]byte, from, to string) { f[to] = f[from]; delete(f, from) }
	for name, change := range map[string]func(f map[string][]byte, c *estatetest.Chain){
		"as they are": func(map[string][]byte, *estatetest.Chain) {},
		"deep, and without an ending": func(f map[string][]byte, _ *estatetest.Chain) {
			move(f, "vm.json", "a/b c/.d/vm")
			move(f, "key.json", "a/KEY.JSON")
		},
		"beside other files": func(f map[string][]byte, _ *estatetest.Chain) {
			f["README.md"], f["notes.txt"], f["error.json"] = []byte("# an estate"), []byte("kid, id and type"), []byte(`{"error":{"code":"KeyNotFound"}}`)
			f["nic.json"] = []byte(`{"id":"/subscriptions/x/resourceGroups/y/providers/Microsoft.Network/networkInterfaces/z","type":"Microsoft.Network/networkInterfaces"}`)
		},
		"a page": func(f map[string][]byte, c *estatetest.Chain) {
			clear(f)
			f["all.json"] = text(t, body{"value": c.Bodies(), "nextLink": nil})
		},
		"a list": func(f map[string][]byte, c *estatetest.Chain) {
			clear(f)
			f["all"] = text(t, c.Bodies())
		},
		"as shells of Windows write": func(f map[string][]byte, _ *estatetest.Chain) {
			f["vm.json"], f["key.json"] = utf16LE(f["vm.json"]), append([]byte("\xef\xbb\xbf"), f["key.json"]...)
		},
		"without types": func(f map[string][]byte, c *estatetest.Chain) {
			for _, b := range []body{c.VM, c.Disk, c.DES, c.Vault} {
				estatetest.Drop(b, "type")
			}
			f["vm.json"], f["disk.json"], f["des.json"], f["vault.json"] = text(t, c.VM), text(t, c.Disk), text(t, c.DES), text(t, c.Vault)
		},
		"in other letters": func(f map[string][]byte, c *estatetest.Chain) {
			estatetest.Set(c.Disk, "MICROSOFT.COMPUTE/DISKS", "type")
			estatetest.Set(c.DES, strings.ToLower(estatetest.Text(c.DES, "id")), "id")
			estatetest.Set(c.Key, strings.ToUpper(estatetest.Text(c.Key, "key", "kid")), "key", "kid")
			estatetest.Set(c.Vault, strings.ToUpper(estatetest.Text(c.Vault, "properties", "vaultUri")), "properties", "vaultUri")
			f["disk.json"], f["des.json"], f["key.json"], f["vault.json"] = text(t, c.Disk), text(t, c.DES), text(t, c.Key), text(t, c.Vault)
		},
		"twice": func(f map[string][]byte, c *estatetest.Chain) {
			f["again.json"] = text(t, body{"value": c.Bodies()})
			estatetest.Drop(c.VM, "properties", "instanceView")
			estatetest.Set(c.VM, strings.ToUpper(estatetest.Text(c.VM, "name")), "name")
			estatetest.Set(c.VM, `"another"`, "etag")
			f["vm.json"] = text(t, c.VM)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := estatetest.Good(estatetest.Public, 7)
			f := files(t, c)
			change(f, c)
			e := onDisk(t, f)
			if list := e.Troubles(); len(list) > 0 {
				t.Error(list)
			}
			if v := judge(t, e, true, c.ID); v.Value != policy.Compliant {
				t.Errorf("%s for %v", v.Value, reasons(v))
			}
		})
	}
}

// A file that can't be used is named, and what is in it is not captured.
func TestTroubles(t *testing.T) {
	with := func(b body, v any, path ...string) func(*testing.T) []byte {
		return func(t *testing.T) []byte { estatetest.Set(b, v, path...); return text(t, b) }
	}
	without := func(b body, path ...string) func(*testing.T) []byte {
		return func(t *testing.T) []byte { estatetest.Drop(b, path...); return text(t, b) }
	}
	as := func(s string) func(*testing.T) []byte { return func(*testing.T) []byte { return []byte(s) } }
	for _, tt := range []struct {
		name, file string
		content    func(c *estatetest.Chain) func(*testing.T) []byte
		why        string
	}{
		{"no JSON", "disk.json", func(*estatetest.Chain) func(*testing.T) []byte { return as("gone") }, "it is not JSON"},
		{"empty", "key.json", func(*estatetest.Chain) func(*testing.T) []byte { return as("") }, "it is empty"},
		{"cut off", "des.json", func(*estatetest.Chain) func(*testing.T) []byte { return as(`{"id":"/subscriptions/`) }, "unexpected end"},
		{"huge", "vault.json", func(*estatetest.Chain) func(*testing.T) []byte {
			return as("{" + strings.Repeat(" ", 33<<20) + "}")
		}, "put fewer bodies into one file"},
		{"a wrong type", "vm.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return with(c.VM, 4.0, "properties", "hardwareProfile", "vmSize")
		}, "vmSize"},
		{"the CLI's form of a VM", "vm.json", func(c *estatetest.Chain) func(*testing.T) []byte { return without(c.VM, "properties") }, "az rest"},
		{"the CLI's form of a key", "key.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return with(c.Key, "2027-01-01T00:00:00Z", "attributes", "expires")
		}, "az rest"},
		{"a vault without its address", "vault.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return without(c.Vault, "properties", "vaultUri")
		}, "vaultUri"},
		{"too deep", "disk.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return func(t *testing.T) []byte { return text(t, [][][][][]body{{{{{c.Disk}}}}}) }
		}, "more than 4 deep"},
		{"no time", "des.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return with(c.DES, "yesterday", "properties", "lastKeyRotationTimestamp")
		}, "is not a time"},
		{"another disk beside", "disk2.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return with(c.Disk, "Reserved", "properties", "diskState")
		}, "disk.json shows"},
		{"another key beside", "key2.json", func(c *estatetest.Chain) func(*testing.T) []byte {
			return with(c.Key, false, "attributes", "enabled")
		}, "key.json shows"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := estatetest.Good(estatetest.Public, 7)
			f := files(t, c)
			f[tt.file] = tt.content(c)(t)
			f["other.json"] = text(t, body{"id": c.ID + "-2", "properties": body{"securityProfile": body{"securityType": "TrustedLaunch"}}})
			e := onDisk(t, f)
			list := e.Troubles()
			if len(list) != 1 || !strings.HasPrefix(list[0].File, tt.file) || !strings.Contains(list[0].Why, tt.why) {
				t.Errorf("%v", list)
			}
			if len(e.VMs()) != 2 {
				t.Errorf("VMs: %v", e.VMs())
			}
			v := judge(t, e, true, c.ID)
			if got := reasons(v); v.Value != policy.Unknown || !slices.Equal(got, []string{"not-captured"}) {
				t.Errorf("%s for %v", v.Value, got)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, file + "-none", ""} {
		if _, err := estate.Open(dir); err == nil || !strings.Contains(err.Error(), "give a folder") {
			t.Errorf("%q: %v", dir, err)
		}
	}
	dir := t.TempDir()
	for link, to := range map[string]string{"loop": dir, "gone.json": file + "-none"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := estate.Open(dir); err != nil || len(e.Troubles()) != 2 || len(e.VMs()) != 0 {
		t.Errorf("links: %v, %v", e, err)
	}
}

// said is what a rule says, in the form of told.
func said(v policy.Verdict, rule string) string { return told(v)[rule] }

// What is captured beside the chain: versions of a key, deleted keys, what hangs on
// a set, sizes, access policies.
func TestBesideTheChain(t *testing.T) {
	const created = 1760000000.0 // of the key in use
	kid := func(c *estatetest.Chain) string { return estatetest.Text(c.Key, "key", "kid") }
	version := func(c *estatetest.Chain, at float64) body {
		return body{"kid": kid(c) + "f", "attributes": body{"enabled": true, "created": at}}
	}
	deleted := func(c *estatetest.Chain) body {
		return body{"recoveryId": "https://x/deletedkeys/cvm-os-key", "deletedDate": created, "key": c.Key["key"], "attributes": c.Key["attributes"]}
	}
	hangs := func(c *estatetest.Chain, ids ...string) body {
		return body{"id": estatetest.Text(c.DES, "id") + "/associatedResources", "value": append([]string{estatetest.Text(c.Disk, "id")}, ids...)}
	}
	other := func(c *estatetest.Chain) body {
		return body{"id": estatetest.Text(c.Disk, "id") + "-2", "properties": body{"diskState": "Unattached",
			"encryption": body{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": estatetest.Text(c.DES, "id")}}}
	}
	sku := func(capability ...body) body {
		return body{"resourceType": "virtualMachines", "name": "standard_dc4AS_v5", "locations": []string{"NorthEurope"}, "capabilities": append(capability, body{"name": "vCPUs", "value": "4"})}
	}
	for _, tt := range []struct {
		name    string
		change  func(c *estatetest.Chain)
		rule    string
		says    string
		verdict policy.Value
	}{
		{"one version", func(*estatetest.Chain) {}, "key-version", "", policy.Compliant},
		{"a newer version listed", func(c *estatetest.Chain) { c.More = append(c.More, body{"value": []body{version(c, created+1)}}) }, "key-version", "pass key-version-behind; ", policy.Compliant},
		{"an older version", func(c *estatetest.Chain) { c.More = append(c.More, body{"value": []body{version(c, created-1)}}) }, "key-version", "", policy.Compliant},
		{"no version in the set's URL, the newest can't be told", func(c *estatetest.Chain) {
			c.More = append(c.More, version(c, created))
			estatetest.Set(c.DES, kid(c)[:strings.LastIndexByte(kid(c), '/')], "properties", "activeKey", "keyUrl")
		}, "key-available", "unknown not-captured; ", policy.NonCompliant},
		{"deleted", func(c *estatetest.Chain) { c.Key = deleted(c) }, "key-available", "fail key-deleted; ", policy.NonCompliant},
		{"deleted and there", func(c *estatetest.Chain) { c.More = append(c.More, deleted(c)) }, "key-available", "unknown not-captured; ", policy.Unknown},
		{"nothing listed of the set", func(c *estatetest.Chain) { c.More = append(c.More, other(c)) }, "des-use", "", policy.Compliant},
		{"listed", func(c *estatetest.Chain) { c.More = append(c.More, hangs(c)) }, "des-use", "pass ; ", policy.Compliant},
		{"another kind listed", func(c *estatetest.Chain) {
			o := other(c)
			c.More = append(c.More, o, hangs(c, estatetest.Text(o, "id")))
		}, "des-use", "fail des-mixed-use; ", policy.NonCompliant},
		{"the list without its id", func(c *estatetest.Chain) {
			o := other(c)
			c.More = append(c.More, o, body{"value": []string{estatetest.Text(o, "id"), estatetest.Text(c.Disk, "id")}})
		}, "des-use", "fail des-mixed-use; ", policy.NonCompliant},
		{"a listed disk that isn't there", func(c *estatetest.Chain) { c.More = append(c.More, hangs(c, estatetest.Text(other(c), "id"))) }, "des-use", "unknown not-captured; ", policy.Unknown},
		{"sizes", func(c *estatetest.Chain) {
			c.More = append(c.More, body{"value": []body{sku(body{"name": "ConfidentialComputingType", "value": "TDX"})}})
		}, "tee", "tdx", policy.Compliant},
		{"sizes at odds", func(c *estatetest.Chain) {
			c.More = append(c.More, sku(body{"name": "ConfidentialComputingType", "value": "TDX"}), sku())
		}, "tee", "unknown", policy.Compliant},
		{"access policies", func(c *estatetest.Chain) {
			estatetest.Set(c.Vault, false, "properties", "enableRbacAuthorization")
			estatetest.Set(c.Vault, []body{{"objectId": estatetest.Text(c.DES, "identity", "principalId"), "permissions": body{"keys": []string{"Get", "WrapKey", "UnwrapKey"}}}}, "properties", "accessPolicies")
		}, "rights-des", "pass ; ", policy.Compliant},
		{"access policies for somebody else", func(c *estatetest.Chain) {
			estatetest.Set(c.Vault, false, "properties", "enableRbacAuthorization")
			estatetest.Set(c.Vault, []body{{"objectId": "other", "permissions": body{"keys": []string{"all"}}}}, "properties", "accessPolicies")
		}, "rights-des", "fail des-identity-denied; ", policy.NonCompliant},
		{"roles", func(*estatetest.Chain) {}, "rights-des", "", policy.Compliant},
		{"an instance of a scale set shows its size elsewhere", func(c *estatetest.Chain) {
			estatetest.Set(c.VM, "Microsoft.Compute/virtualMachineScaleSets/virtualMachines", "type")
			c.ID = strings.Replace(c.ID, "virtualMachines", "virtualMachineScaleSets", 1) + "/virtualMachines/0"
			estatetest.Set(c.VM, c.ID, "id")
			estatetest.Set(c.VM, body{"name": "Standard_DC4es_v6"}, "sku")
			estatetest.Drop(c.VM, "properties", "hardwareProfile", "vmSize")
		}, "tee", "tdx", policy.Compliant},
		{"an instance view of its own", func(c *estatetest.Chain) {
			estatetest.Drop(c.VM, "properties", "instanceView")
			estatetest.Drop(c.VM, "properties", "securityProfile")
			estatetest.Drop(c.Disk, "properties", "hyperVGeneration")
			c.More = append(c.More, body{"id": c.ID + "/instanceView", "hyperVGeneration": "V1"})
		}, "kind", "standard-gen1", policy.NonCompliant},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := estatetest.Good(estatetest.Public, 7)
			tt.change(c)
			e := onDisk(t, files(t, c))
			if list := e.Troubles(); len(list) > 0 {
				t.Error(list)
			}
			v := judge(t, e, true, c.ID)
			got := map[string]string{"tee": string(v.TEE), "kind": string(v.Kind)}[tt.rule]
			if tt.rule != "tee" && tt.rule != "kind" {
				got = said(v, tt.rule)
			}
			if got != tt.says || v.Value != tt.verdict {
				t.Errorf("%q, %s for %v", got, v.Value, reasons(v))
			}
		})
	}
}

// A confidential OS disk that nobody holds is told of; one that a VM names isn't.
func TestOrphans(t *testing.T) {
	c := estatetest.Good(estatetest.Public, 7)
	estatetest.Set(c.Disk, "Unattached", "properties", "diskState")
	estatetest.Drop(c.Disk, "managedBy")
	f := files(t, c)
	if list := onDisk(t, f).Orphans(); len(list) > 0 {
		t.Errorf("its VM names it: %v", list)
	}
	estatetest.Set(c.Disk, estatetest.Text(c.Disk, "id")+"-left", "id")
	f["left.json"] = text(t, c.Disk)
	list := onDisk(t, f).Orphans()
	if len(list) != 1 || !strings.HasSuffix(string(list[0].ID), "-left") || list[0].SecurityType != cvm.DiskCustomerKey {
		t.Errorf("%v", list)
	}
}

// Whatever stands in a file, reading it ends well, and what it shows can be judged.
func FuzzBody(f *testing.F) {
	c := estatetest.Good(estatetest.Public, 7)
	for _, b := range append(c.Bodies(), body{"value": c.Bodies()}, body{"value": []string{estatetest.Text(c.Disk, "id")}}, body{"kid": "https://a.vault.azure.net/keys/k/1"}) {
		text, err := json.Marshal(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	rest := map[string][]byte{}
	for i, b := range c.Bodies()[1:] {
		text, err := json.Marshal(b)
		if err != nil {
			f.Fatal(err)
		}
		rest[string(rune('a'+i))] = text
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all := map[string][]byte{"x.json": b}
		for name, text := range rest {
			all[name] = text
		}
		e := estate.Of(all)
		for _, id := range e.VMs() {
			if v := judge(t, e, true, string(id)); v.Value == policy.Gone {
				t.Errorf("%s is gone", id)
			}
		}
		e.Orphans()
	})
}

// A listing whose last page isn't there is told of; two instance views that differ
// are used neither; and what is told comes in one order.
func TestPagesAndViews(t *testing.T) {
	const id = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm"
	vm := func(n, more string) []byte {
		return []byte(`{"value":[{"id":"` + id + n + `","type":"Microsoft.Compute/virtualMachines","name":"vm` + n + `","location":"westeurope","properties":{"vmId":"x"}}]` + more + `}`)
	}
	const next = `,"nextLink":"https://management.azure.com/next"`
	if e := estate.Of(map[string][]byte{"a.json": vm("1", next), "b.json": vm("2", "")}); len(e.Troubles()) > 0 {
		t.Errorf("all pages are there: %v", e.Troubles())
	}
	if e := estate.Of(map[string][]byte{"a.json": vm("1", next), "b.json": vm("2", next)}); len(e.Troubles()) != 1 || !strings.Contains(e.Troubles()[0].Why, "nextLink") {
		t.Errorf("the last page isn't there: %v", e.Troubles())
	}
	files := map[string][]byte{}
	for _, n := range []string{"1", "2", "3"} {
		files["vm"+n+".json"] = vm(n, "")
		files["view"+n+"a.json"] = []byte(`{"id":"` + id + n + `/instanceView","hyperVGeneration":"V1"}`)
		files["view"+n+"b.json"] = []byte(`{"id":"` + id + n + `/instanceView","hyperVGeneration":"V2"}`)
	}
	first := estate.Of(files).Troubles()
	for range 20 {
		e := estate.Of(files)
		if !slices.Equal(e.Troubles(), first) || len(first) != 3 {
			t.Fatalf("%v, then %v", first, e.Troubles())
		}
		if g := e.Captured()[0].Generation; g != "" {
			t.Fatalf("one of two views counts: %s", g)
		}
	}
}
