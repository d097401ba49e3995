package azurepolicy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

var now = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

const (
	armRoot = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg-pay/providers/"
	vmID    = cvm.VMID(armRoot + "Microsoft.Compute/virtualMachines/pay-1")
	diskID  = cvm.DiskID(armRoot + "Microsoft.Compute/disks/pay-1-os")
	desID   = cvm.DESID(armRoot + "Microsoft.Compute/diskEncryptionSets/des-cvm")
	sseID   = cvm.DESID(armRoot + "Microsoft.Compute/diskEncryptionSets/des-sse")
	kvID    = armRoot + "Microsoft.KeyVault/vaults/kv-cvm"
)

// document is a policy document of these lines, with every rule that has a
// definition on.
func document(t testing.TB, lines string) *policy.Document {
	t.Helper()
	text := "schemaVersion: 1\nname: test\n" + lines
	if !strings.Contains(lines, "rules:") {
		text += "\nrules: {disk-export: enforce, encryption-at-host: enforce}\n"
	}
	d, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return d
}

func export(t testing.TB, d *policy.Document) Initiative {
	t.Helper()
	i, err := Export(d, Deny)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// hits are the rules whose definitions take a resource.
func hits(t testing.TB, i Initiative, r Resource) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, d := range i.Definitions {
		hit, err := i.Hits(d, r)
		if err != nil {
			t.Fatal(err)
		}
		if hit {
			out[d.Properties.Metadata.Rule] = true
		}
	}
	return out
}

// states are a rule's findings, "fail code" each.
func states(list []policy.Finding, rule string) (out []string) {
	for _, f := range list {
		if f.Rule == rule {
			out = append(out, strings.TrimSpace(string(f.State)+" "+f.Reason))
		}
	}
	return out
}

// vmBody is a VM as the body of a PUT.
func vmBody(vm cvm.VM) []byte {
	set := func(m map[string]any, path string, v any) {
		if v == nil || v == "" || v == cvm.Unread {
			return
		}
		if tri, ok := v.(cvm.Tri); ok {
			v = tri == cvm.True
		}
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			if m[p] == nil {
				m[p] = map[string]any{}
			}
			m = m[p].(map[string]any)
		}
		m[parts[len(parts)-1]] = v
	}
	body := map[string]any{}
	set(body, "location", vm.Location)
	if len(vm.Tags) > 0 {
		body["tags"] = vm.Tags
	}
	for path, v := range map[string]any{
		"hardwareProfile.vmSize": vm.Size, "securityProfile.securityType": vm.SecurityType, "securityProfile.encryptionAtHost": vm.EncryptionAtHost,
		"securityProfile.uefiSettings.secureBootEnabled": vm.SecureBoot, "securityProfile.uefiSettings.vTpmEnabled": vm.VTPM,
		"storageProfile.imageReference.id": vm.Image.ID, "storageProfile.imageReference.publisher": vm.Image.Publisher,
		"storageProfile.imageReference.offer": vm.Image.Offer, "storageProfile.imageReference.sku": vm.Image.SKU,
		"storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType": vm.OSDisk.SecurityEncryptionType,
		"storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id":   string(vm.OSDisk.SecureDES),
		"storageProfile.osDisk.managedDisk.diskEncryptionSet.id":                   string(vm.OSDisk.SSEDES),
	} {
		set(body, "properties."+path, v)
	}
	var data []any
	for _, d := range vm.DataDisks {
		one := map[string]any{"lun": d.LUN}
		set(one, "managedDisk.id", string(d.ID))
		set(one, "managedDisk.diskEncryptionSet.id", string(d.SSEDES))
		set(one, "managedDisk.securityProfile.securityEncryptionType", d.SecurityEncryptionType)
		data = append(data, one)
	}
	if data != nil {
		set(body, "properties.storageProfile.dataDisks", any(data))
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprint("the body of a test: ", err))
	}
	return text
}

func resource(t testing.TB, id string, body any) Resource {
	t.Helper()
	text, ok := body.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	r, err := NewResource(id, text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// root is the repository's.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}
