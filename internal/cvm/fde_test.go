package cvm

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
)

// The values that public evidence of Azure's confidential VMs shows.
func TestPCR12(t *testing.T) {
	if PCR12Epoch != "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969" || PCR12Fenced != "f1a142c53586e7e2223ec74e5f4d1a4942956b1fd9ac78fafcdf85117aa345da" {
		t.Errorf("%s, %s", PCR12Epoch, PCR12Fenced)
	}
}

const goodClaims = `{"os_release":{"ID":"ubuntu","VERSION_ID":"24.04"},"kernel":"6.8.0-1021-azure-fde","cloud_init":"done","root_encrypted":true,
 "luks":[{"device":"/dev/sda1","label":"cloudimg-rootfs-enc","version":2,"keyslots":["0"]}],"dm_crypt":[{"name":"r","devices":["/dev/sda1"],"mounts":["/"]}],
 "growpart_key_file":false,"srk_template":false,"sealed_key":{"path":"/boot/efi/device/fde/cloudimg-rootfs.sealed-key","size":1},"trusted_assets":1,
 "esp_kernels":[{"path":"/boot/efi/EFI/ubuntu/kernel.efi-6.8.0-1021-azure-fde","sha256":"aa","size":1,"trusted":true}],
 "booted_kernel":"\\EFI\\ubuntu\\kernel.efi-6.8.0-1021-azure-fde","boot_next":false,"dbx_changed":false,"unread":["x"]}`

func readClaims(t testing.TB, text string) GuestClaims {
	t.Helper()
	var c Claims
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	g, err := ReadGuestClaims(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestFDEState(t *testing.T) {
	if g := readClaims(t, goodClaims); g.OS != "ubuntu" || g.Release != "24.04" || g.UbuntuFDE != True || g.ClearKey != False || g.Keyslots != 1 || g.BootFiles != True || g.RebootFor != "" {
		t.Errorf("%+v", g)
	}
	for _, tt := range []struct {
		name     string
		from, to string
		want     FDEState
	}{
		{"as it should be", "", "", FDEActive},
		{"cloud-init at work, nothing half done", `"done"`, `"running"`, FDEActive},
		{"plain root", `"root_encrypted":true`, `"root_encrypted":false`, FDEInactive},
		{"plain root, cloud-init at work", `"cloud_init":"done","root_encrypted":true`, `"cloud_init":"running","root_encrypted":false`, FDEInactive},
		{"root under another label", `"label":"cloudimg-rootfs-enc"`, `"label":"mine"`, FDEInactive},
		{"root under another cipher", `"keyslots":["0"]`, `"keyslots":["0"],"cipher":"serpent-cbc-plain"`, FDEInactive},
		{"root under the right cipher", `"keyslots":["0"]`, `"keyslots":["0"],"cipher":"aes-xts-plain64"`, FDEActive},
		{"root in LUKS 1", `"version":2`, `"version":1`, FDEInactive},
		{"the labelled partition isn't the root's", `"mounts":["/"]`, `"mounts":["/data"]`, FDEActive}, // by layers that aren't told: PCR 12 decides
		{"slot 10 while cloud-init is at work", `"cloud_init":"done","root_encrypted":true,
 "luks":[{"device":"/dev/sda1","label":"cloudimg-rootfs-enc","version":2,"keyslots":["0"]}]`, `"cloud_init":"running","root_encrypted":true,
 "luks":[{"device":"/dev/sda1","label":"cloudimg-rootfs-enc","version":2,"keyslots":["0","10"]}]`, FDEProvisioning},
		{"key file, cloud-init not run", `"growpart_key_file":false`, `"growpart_key_file":true,"cloud_init":"not-run"`, FDEProvisioning},
		{"key file, cloud-init failed", `"growpart_key_file":false`, `"growpart_key_file":true,"cloud_init":"error"`, FDEActive},
		{"no sealed key", `"sealed_key":{"path":"/boot/efi/device/fde/cloudimg-rootfs.sealed-key","size":1}`, `"sealed_key_absent":true`, FDEInactive},
		{"sealed key unread", `"sealed_key":{"path":"/boot/efi/device/fde/cloudimg-rootfs.sealed-key","size":1},`, ``, FDEUnread},
		{"vTPM never provisioned", `"srk_template":false`, `"srk_template":true`, FDEInactive},
		{"root unread", `"root_encrypted":true,`, ``, FDEUnread},
	} {
		text := strings.Replace(goodClaims, tt.from, tt.to, 1)
		if tt.from != "" && text == goodClaims {
			t.Fatalf("%s: nothing was replaced", tt.name)
		}
		if state, why := readClaims(t, text).FDE(); state != tt.want || why == "" {
			t.Errorf("%s: %s (%s), want %s", tt.name, state, why, tt.want)
		}
	}
	// An ESP without a kernel was not read, whatever else was.
	g := readClaims(t, strings.Replace(goodClaims, "EFI/ubuntu/kernel.efi-6.8.0-1021-azure-fde\"", "EFI/ubuntu/mmx64.efi\"", 1))
	if g.BootFiles != Unread || len(g.Unsealed) != 0 {
		t.Errorf("no kernel: %+v", g)
	}
	if g := readClaims(t, strings.Replace(goodClaims, `"dbx_changed":false,`, "", 1)); g.BootFiles != Unread {
		t.Errorf("dbx not compared: %+v", g)
	}
	for more, want := range map[string]GuestClaims{
		`"keys_changed":["db","KEK"],"keys_resealed":false,`: {Unsealed: []string{"db", "KEK"}},
		`"keys_changed":["db"],`:                             {Unsealed: []string{"db"}},
		`"keys_changed":["db"],"keys_resealed":true,`:        {RebootFor: "db"},
		`"keyring_key":false,`:                               {KeyringKey: False},
		`"keyring_key":true,`:                                {KeyringKey: True},
	} {
		g := readClaims(t, "{"+more+goodClaims[1:])
		if strings.Join(g.Unsealed, " ") != strings.Join(want.Unsealed, " ") || g.RebootFor != want.RebootFor || g.KeyringKey != want.KeyringKey || g.BootFiles != True {
			t.Errorf("%s: %+v", more, g)
		}
	}
	// What wasn't read is not taken for absent.
	g = readClaims(t, `{"root_encrypted":true}`)
	if g.ClearKey != Unread || g.ResizeSlot != Unread || g.UbuntuFDE != Unread || g.KeyFile != Unread || g.BootFiles != Unread {
		t.Errorf("%+v", g)
	}
	// A clear key in any header is one.
	g = readClaims(t, `{"root_encrypted":true,"luks":[{"device":"/dev/sdb1","version":2,"tokens":["ubuntu-fde-cloudimg-key"]}]}`)
	if g.ClearKey != True || g.ResizeSlot != Unread {
		t.Errorf("%+v", g)
	}
}

func TestClaimsOfTheWrongForm(t *testing.T) {
	for _, text := range []string{`{"root_encrypted":"yes"}`, `{"luks":{}}`, `{"kernel":1}`, `{"os_release":{"ID":5}}`} {
		var c Claims
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Fatal(err)
		}
		if g, err := ReadGuestClaims(c); err == nil {
			t.Errorf("%s gives %+v", text, g)
		}
	}
	g := readClaims(t, `{"kernel":"<b>6.8\u0007&\"'`+strings.Repeat("x", 100)+`"}`)
	if strings.ContainsAny(g.Kernel, "<>&\"'\a") || len(g.Kernel) != 64 {
		t.Errorf("%q", g.Kernel)
	}
}

func FuzzGuestClaims(f *testing.F) {
	f.Add([]byte(goodClaims))
	f.Add([]byte(`{"trusted_assets":0,"staged_assets":[{"path":"kernel.efi-9"},{"path":"kernel.efi-10","trusted":false}],"dbx_changed":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Claims
		if json.Unmarshal(b, &c) != nil {
			return
		}
		g, err := ReadGuestClaims(c)
		if err != nil {
			return
		}
		again, err := ReadGuestClaims(c)
		x, errX := json.Marshal(g)
		y, errY := json.Marshal(again)
		if err != nil || errX != nil || errY != nil || string(x) != string(y) {
			t.Errorf("%s and %s", x, y)
		}
		if len(x) > 2<<12 || len(g.Unsealed) > 8 {
			t.Errorf("%d bytes of %d", len(x), len(b))
		}
		for _, r := range g.Kernel + g.RebootFor + strings.Join(g.Unsealed, "") {
			if !unicode.IsPrint(r) {
				t.Errorf("%+v", g)
			}
		}
		if state, why := g.FDE(); state == "" || why == "" {
			t.Error("no state")
		}
	})
}

func TestNewer(t *testing.T) {
	order := []string{"kernel.efi-5.15.0-1019-azure", "kernel.efi-6.8.0-9-azure", "kernel.efi-6.8.0-1021-azure", "kernel.efi-6.8.0-1030-azure", "kernel.efi-6.11.0-1-azure", "kernel.efi-6.11.0-1-azure-fde"}
	for i, a := range order {
		for j, b := range order {
			if newer(a, b) != (i > j) {
				t.Errorf("newer(%s, %s) is %t", a, b, newer(a, b))
			}
		}
	}
}

func TestFollow(t *testing.T) {
	at := func(day int) time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	att := func(day int, ak, pcr4, pcr7 string) *Attestation {
		a := &Attestation{NonceIssued: at(day), AK: ak, PCRs: map[string]string{"0": "x", "4": pcr4, "7": pcr7}}
		if ak == "" {
			a.PCRs = nil // it proved nothing
		}
		return a
	}
	show := func(a *Attestation) string {
		var out []string
		for _, c := range a.Changed {
			out = append(out, c.PCR+" was "+c.Was+" until "+c.Since.Format("02"))
		}
		return strings.Join(out, ", ")
	}
	var last *Attestation
	for i, tt := range []struct {
		a    *Attestation
		want string
	}{
		{att(1, "k", "a", "s"), ""},
		{att(2, "k", "a", "s"), ""},
		{att(3, "k", "b", "s"), "4 was a until 03"},
		{att(4, "k", "b", "s"), "4 was a until 03"},                   // kept
		{att(5, "", "", ""), "4 was a until 03"},                      // proves nothing: what was known is kept
		{att(6, "k", "b", "t"), "4 was a until 03, 7 was s until 06"}, // and compared with
		{att(7, "k", "c", "t"), "4 was b until 07, 7 was s until 06"},
		{att(8, "another", "d", "u"), ""}, // another vTPM
		{att(9, "another", "d", "u"), ""},
	} {
		tt.a.Follow(last)
		if got := show(tt.a); got != tt.want {
			t.Errorf("day %d: %q, want %q", i+1, got, tt.want)
		}
		last = tt.a
	}
	if a := att(1, "", "", ""); func() bool { a.Follow(att(0, "", "", "")); return a.Before != nil || a.Changed != nil }() {
		t.Errorf("%+v", a)
	}
}
