package remedy

import (
	"os/exec"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// The commands of advice are words for a shell, whatever names Azure holds.
func TestCommandsParse(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell to parse them")
	}
	d := document(t, "enforce", "allow: needs-deallocation", "allow: in-place")
	w := newWorld()
	w.vm.SecurityType, w.vm.Size = "", "Standard_D4ds_v5"
	w.vm.OSDisk.SecurityEncryptionType, w.vm.OSDisk.SecureDES = "", ""
	w.vm.Tags["cvmguard-quarantine"] = `it's "$(mine)"`
	w.vm.Image = cvm.Image{Publisher: "x'; rm -rf /;'", Offer: "o\nrm", SKU: "`s`"}
	var all []string
	for _, s := range planOf(w, d).Steps {
		all = append(all, s.Commands...)
	}
	w = newWorld()
	k := w.keys[keyV1]
	k.Expires, k.Enabled, k.Ops = testNow, cvm.False, nil
	w.putKey(k)
	for _, s := range planOf(w, d).Steps {
		all = append(all, append(s.Commands, s.Undo)...)
	}
	for _, c := range all {
		if strings.ContainsAny(c, "\n\r") {
			t.Errorf("a command of several lines: %q", c)
		}
	}
	cmd := exec.Command(sh, "-n")
	cmd.Stdin = strings.NewReader(strings.Join(all, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, strings.Join(all, "\n"))
	}
}

func TestRecreateCommands(t *testing.T) {
	w := newWorld()
	w.vm.DataDisks = w.vm.DataDisks[:1]
	w.vm.SecurityType, w.vm.Size = "TrustedLaunch", "Standard_E6ds_v5"
	w.vm.OSDisk.SecurityEncryptionType, w.vm.OSDisk.SecureDES = "", ""
	w.vm.Image = cvm.Image{Publisher: "Canonical", Offer: "ubuntu-24_04-lts", SKU: "server"}
	got := strings.Join(recreateCommands(w.posture(), document(t, "enforce")), "\n")
	for _, want := range []string{
		"az keyvault key create --vault-name kv1 --name cvm-os-key --kty RSA-HSM --size 3072 --exportable true --default-cvm-policy --ops wrapKey unwrapKey",
		"--encryption-type ConfidentialVmEncryptedWithCustomerKey",
		"az snapshot create",
		"az vm create --subscription 00000000-0000-0000-0000-000000000001 --resource-group rg --name vm1-cvm --location northeurope --size Standard_EC8ads_v5 --zone 1 --security-type ConfidentialVM --enable-vtpm true --enable-secure-boot true --os-disk-security-encryption-type DiskWithVMGuestState",
		"--image Canonical:ubuntu-24_04-lts:cvm:latest --os-disk-secure-vm-disk-encryption-set " + string(desID),
		"az vm disk attach",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q in\n%s", want, got)
		}
	}
}

func TestSizeAndImage(t *testing.T) {
	for size, want := range map[string]string{
		"Standard_DC4as_v5": "Standard_DC4as_v5", "Standard_EC8eds_v6": "Standard_EC8eds_v6", "Standard_D4s_v5": "Standard_DC4as_v5",
		"Standard_E6ds_v5": "Standard_EC8ads_v5", "Standard_B1s": "Standard_DC2as_v5", "Standard_M416s_v2": "Standard_EC96as_v5",
		"Standard_DC8as_cc_v5": "Standard_DC8as_v5", "Standard_DC4s_v3": "Standard_DC4as_v5", "": "Standard_DC4as_v5",
	} {
		if got, _ := sizeFor(size); got != want {
			t.Errorf("%s: %s, want %s", size, got, want)
		}
	}
	for _, c := range []struct {
		img  cvm.Image
		size string
		want string
	}{
		{cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-server-focal", SKU: "20_04-lts"}, "Standard_D2s_v5", "Canonical:0001-com-ubuntu-confidential-vm-focal:20_04-lts-cvm:latest"},
		{cvm.Image{Publisher: "canonical", Offer: "0001-com-ubuntu-confidential-vm-focal", SKU: "20_04-lts-cvm"}, "Standard_DC2es_v6", ""},
		{cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-server-jammy", SKU: "22_04-lts"}, "Standard_DC2es_v6", "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm:latest"},
		{cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-pro-jammy", SKU: "pro-22_04-lts"}, "Standard_D2s_v5", ""},
		{cvm.Image{Publisher: "Canonical", Offer: "UbuntuServer", SKU: "18.04-LTS"}, "Standard_D2s_v5", ""},
		{cvm.Image{Publisher: "MicrosoftWindowsServer", Offer: "WindowsServer", SKU: "2022-datacenter"}, "Standard_D2s_v5", "MicrosoftWindowsServer:windowsserver:2022-datacenter-smalldisk-g2:latest"},
		{cvm.Image{ID: "/g/image"}, "Standard_D2s_v5", ""},
		{cvm.Image{}, "Standard_D2s_v5", ""},
	} {
		got, note := imageFor(cvm.VM{Image: c.img, Size: c.size})
		if got != c.want || (got == "") != (note != "") {
			t.Errorf("%+v: %q %q, want %q", c.img, got, note, c.want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", "it's", "$(x)", "a b", "`", "\\", "'\\''"} {
		f.Add(s)
	}
	sh, err := exec.LookPath("sh")
	f.Fuzz(func(t *testing.T, s string) {
		if err != nil || strings.ContainsRune(s, 0) {
			return
		}
		out, err := exec.Command(sh, "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q became %q (%v)", s, out, err)
		}
	})
}
