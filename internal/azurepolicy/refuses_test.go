package azurepolicy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

func TestRefuses(t *testing.T) {
	good := cvm.VM{ID: vmID, Name: "pay-1", Size: "Standard_DC4as_v5", SecurityType: "ConfidentialVM", SecureBoot: cvm.True, VTPM: cvm.True,
		OSDisk: cvm.OSDiskRef{SecurityEncryptionType: cvm.EncryptDisk, SecureDES: desID}}
	unread := cvm.NotRead[cvm.Disk]("disk-unreadable", "", "")
	exportable := cvm.Known(cvm.Disk{ID: diskID, OSType: "Linux", SecurityType: cvm.DiskCustomerKey, HasSecurityProfile: true, NetworkAccessPolicy: "AllowAll", ADETainted: true, ADE: true})
	d := document(t, "rules: {disk-export: enforce, secure-boot: audit, vtpm: quarantine}\n")
	for _, tt := range []struct {
		what   string
		change func(*cvm.VM)
		disk   cvm.Fact[cvm.Disk]
		want   string
	}{
		{"a good VM", func(*cvm.VM) {}, unread, ""},
		{"an ordinary one", func(v *cvm.VM) { v.SecurityType, v.Size = "", "Standard_D4s_v5" }, unread, "vm-kind"},
		{"platform key", func(v *cvm.VM) { v.OSDisk.SecureDES = "" }, unread, "os-disk-customer-key"},
		{"guest state only", func(v *cvm.VM) { v.OSDisk.SecurityEncryptionType, v.OSDisk.SecureDES = cvm.EncryptGuestState, "" }, unread, "os-disk-confidential"},
		{"what is only audited", func(v *cvm.VM) { v.SecureBoot = cvm.False }, unread, ""},
		{"what is quarantined", func(v *cvm.VM) { v.VTPM = cvm.False }, unread, "vtpm"},
		{"its disk", func(*cvm.VM) {}, exportable, "ade-on-os-disk disk-export"},
		{"an instance of a uniform scale set, by its model", func(v *cvm.VM) {
			v.ID, v.SecurityType = cvm.VMID(armRoot+"Microsoft.Compute/virtualMachineScaleSets/s/virtualMachines/0"), ""
		}, unread, "vm-kind"},
		{"a good instance", func(v *cvm.VM) {
			v.ID = cvm.VMID(armRoot + "Microsoft.Compute/virtualMachineScaleSets/s/virtualMachines/0")
		}, unread, ""},
	} {
		vm := good
		tt.change(&vm)
		list, err := Refuses(d, vm, tt.disk)
		if err != nil {
			t.Fatal(err)
		}
		var rules []string
		for _, r := range list {
			rules = append(rules, r.Rule)
			if r.Definition != "cvmguard-"+r.Rule || !strings.HasPrefix(r.Why, "Azure Policy would have refused the request, for it asks ") {
				t.Errorf("%s: %+v", tt.what, r)
			}
		}
		if got := strings.Join(rules, " "); got != tt.want {
			t.Errorf("%s: refused by %q, want %q", tt.what, got, tt.want)
		}
	}
	vm := good
	vm.OSDisk.SecureDES = ""
	list, err := Refuses(d, vm, unread)
	if err != nil || len(list) != 1 || list[0].Why != `Azure Policy would have refused the request, for it asks "The OS disk is under a customer's key", and `+
		`managedDisk.securityProfile.securityEncryptionType is "DiskWithVMGuestState", managedDisk.securityProfile.diskEncryptionSet.id isn't there, managedDisk.diskEncryptionSet.id isn't there.` {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestWhatWasReadIsWhatTheBodySays compares, over Azure's own bodies, each alias's
// value in the body with that of what was read of it.
func TestWhatWasReadIsWhatTheBodySays(t *testing.T) {
	dir := filepath.Join(root(t), "..", "shared", "vectors", "azure")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("the vectors of Azure's bodies aren't here")
	}
	read := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		body, err := NewResource("", text)
		if err != nil {
			continue
		}
		var of Resource
		name := filepath.Base(file)
		switch {
		case strings.HasPrefix(name, "vm-"):
			vm, err := cvm.ParseVM(text)
			if err != nil {
				continue
			}
			of = OfVM(vm)
		case strings.HasPrefix(name, "disk-"):
			d, err := cvm.ParseDisk(text)
			if err != nil {
				continue
			}
			of = OfDisk(d)
		default:
			continue
		}
		read++
		for alias, a := range aliases() {
			if !strings.HasPrefix(alias, typeOf(body.id())+"/") || a.vm == nil && a.disk == nil || strings.Contains(alias, "GalleryImageId") {
				continue
			}
			want, there, err := body.field(alias)
			if err != nil {
				t.Fatal(err)
			}
			got, has, err := of.field(alias)
			if err != nil || has != there || alias != diskProfile && asText(got) != asText(want) {
				t.Errorf("%s: %s is %q (%v) as read and %q (%v) in the body; %v", name, alias, asText(got), has, asText(want), there, err)
			}
		}
	}
	if read < 10 {
		t.Errorf("only %d bodies were read", read)
	}
}

func TestRefusesOfTheVectors(t *testing.T) {
	dir := filepath.Join(root(t), "..", "shared", "vectors", "azure")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the vectors of Azure's bodies aren't here")
	}
	for file, want := range map[string]string{
		"vm-cvm-cmk.json": "", "vm-cvm-tdx-cmk.json": "", "vm-cvm-pmk.json": "os-disk-customer-key", "vm-cvm-vmgs-only.json": "os-disk-confidential",
		"vm-cvm-nonpersistedtpm.json": "vtpm-persisted", "vm-trustedlaunch-gen2.json": "vm-kind", "vm-standard-gen1.json": "vm-kind",
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		vm, err := cvm.ParseVM(text)
		if err != nil {
			t.Fatal(err)
		}
		list, err := Refuses(policy.Embedded(), vm, cvm.Fact[cvm.Disk]{})
		if err != nil {
			t.Fatal(err)
		}
		var rules []string
		for _, r := range list {
			rules = append(rules, r.Rule)
		}
		if got := strings.Join(rules, " "); got != want {
			t.Errorf("%s: refused by %q, want %q", file, got, want)
		}
	}
}
