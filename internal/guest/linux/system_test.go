package linux

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"cvmguard/internal/guest"
)

// luksHeader makes a LUKS2 header with a JSON area.
func luksHeader(t testing.TB, area string) []byte {
	t.Helper()
	b := make([]byte, 16384)
	copy(b, luksMagic)
	binary.BigEndian.PutUint16(b[6:], 2)
	binary.BigEndian.PutUint64(b[8:], uint64(len(b)))
	copy(b[24:], "cloudimg-rootfs-enc")
	copy(b[168:], "b1f2-uuid")
	copy(b[luksBinary:], area)
	return b
}

const halfDone = `{"keyslots":{"10":{"type":"luks2","kdf":{"type":"argon2i","salt":"SECRETSALT"}},"0":{"kdf":{"type":"pbkdf2"}}},
 "tokens":{"0":{"type":"ubuntu-fde-cloudimg-key","key":"SECRETKEY"}},"segments":{"0":{"type":"crypt","encryption":"aes-xts-plain64"}}}`

func TestReadLUKS(t *testing.T) {
	l, err := readLUKS("/dev/sda1", bytes.NewReader(luksHeader(t, halfDone)))
	if err != nil {
		t.Fatal(err)
	}
	if l.Version != 2 || l.Label != "cloudimg-rootfs-enc" || l.UUID != "b1f2-uuid" || !slices.Equal(l.Keyslots, []string{"0", "10"}) ||
		!slices.Equal(l.KeyslotKDFs, []string{"pbkdf2", "argon2i"}) || !slices.Equal(l.Tokens, []string{"ubuntu-fde-cloudimg-key"}) ||
		l.Cipher != "aes-xts-plain64" || len(l.HeaderSHA256) != 64 {
		t.Errorf("LUKS facts: %+v", l)
	}
	v1 := make([]byte, 4096)
	copy(v1, luksMagic)
	v1[7] = 1
	copy(v1[8:], "aes")
	copy(v1[40:], "xts-plain64")
	if l, err = readLUKS("/dev/sdb1", bytes.NewReader(v1)); err != nil || l.Version != 1 || l.Cipher != "aes-xts-plain64" {
		t.Errorf("LUKS1: %+v, %v", l, err)
	}
	for name, b := range map[string][]byte{"ext4": make([]byte, 8192), "tiny": []byte("LUKS"), "empty": nil} {
		if _, err := readLUKS("x", bytes.NewReader(b)); !errors.Is(err, errNotLUKS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = readLUKS("x", bytes.NewReader(luksHeader(t, `{"keyslots":"SECRETKEY"`)))
	if err == nil || errors.Is(err, errNotLUKS) || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("garbled JSON: %v", err)
	}
	huge := luksHeader(t, "{}")
	binary.BigEndian.PutUint64(huge[8:], 1<<40)
	if _, err = readLUKS("x", bytes.NewReader(huge)); err == nil {
		t.Error("a header of a terabyte was taken")
	}
}

func FuzzLUKS(f *testing.F) {
	f.Add(luksHeader(f, halfDone))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := readLUKS("x", bytes.NewReader(b)); err == nil && l.Version != 1 && l.Version != 2 {
			t.Errorf("accepted: %+v", l)
		}
	})
}

// ubuntuRoot is a file tree of an Ubuntu CVM in the midst of its first boot.
func ubuntuRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	efi := []byte{7, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(`\EFI\ubuntu\kernel.efi-6.8`)) {
		efi = binary.LittleEndian.AppendUint16(efi, u)
	}
	for name, text := range map[string]string{
		"etc/os-release":              "ID=ubuntu\nVERSION_ID=\"24.04\"\nHOME_URL=\"https://x\"\n",
		"proc/sys/kernel/osrelease":   "6.8.0-1030-azure-fde\n",
		"proc/cmdline":                "snapd_recovery_mode=cloudimg-rootfs console=ttyS0\n",
		"proc/self/mountinfo":         "26 1 252:0 / / rw,relatime shared:1 - ext4 /dev/mapper/cloudimg-rootfs rw\n30 26 8:15 / /boot/efi rw - vfat /dev/sda15 rw\n",
		"sys/dev/block/252:0/dm/uuid": "CRYPT-LUKS2-b1f2-cloudimg-rootfs\n", "sys/class/block/dm-0/dm/uuid": "CRYPT-LUKS2-b1f2-cloudimg-rootfs\n",
		"sys/class/block/dm-0/dm/name": "cloudimg-rootfs\n", "sys/class/block/dm-0/dev": "252:0\n", "sys/class/block/dm-0/slaves/sda1/x": "",
		"sys/class/block/sda1/x": "", "sys/class/block/sda15/x": "", "sys/class/block/loop0/x": "",
		"dev/sda1": string(luksHeader(t, halfDone)), "dev/sda15": "a FAT file system",
		"cc_growpart_keydata":                                        "{\"key\":\"SECRETKEY\"}",
		"boot/efi/device/fde/cloudimg-rootfs.sealed-key":             "sealed",
		"boot/efi/device/fde/tpm2-srk.tmpl":                          "template",
		"boot/efi/EFI/ubuntu/kernel.efi-6.8/KERNEL.EFI":              "a kernel",
		"boot/efi/EFI/ubuntu/readme.txt":                             "text",
		"run/cloud-init/status.json":                                 "{}",
		"sys/kernel/security/tpm0/binary_bios_measurements":          string(eventLog("forbidden")),
		"sys/firmware/efi/efivars/LoaderInfo-" + loaderGUID:          "x",
		"sys/firmware/efi/efivars/StubImageIdentifier-" + loaderGUID: string(efi),
	} {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestClaims(t *testing.T) {
	root := ubuntuRoot(t)
	s := &System{Root: root, Version: "v1", Run: func(context.Context, string, ...string) ([]byte, error) {
		return []byte("-- No entries --\n2026-08-01 nullbootctl[9]: resealed\n"), nil
	}}
	c := s.Claims(context.Background())
	yes := func(b *bool) bool { return b != nil && *b }
	if !yes(c.GrowpartKeyFile) || !yes(c.SRKTemplate) || c.NullbootAssets == nil || *c.NullbootAssets || !yes(c.RootEncrypted) {
		t.Errorf("states: %+v", c)
	}
	if c.OSRelease["VERSION_ID"] != "24.04" || c.OSRelease["HOME_URL"] != "" || c.Kernel != "6.8.0-1030-azure-fde" || c.RootFS != "ext4" ||
		!strings.Contains(c.CommandLine, "snapd_recovery_mode") || c.CloudInit != "running" || c.BootedKernel != `\EFI\ubuntu\kernel.efi-6.8` {
		t.Errorf("texts: %+v", c)
	}
	if len(c.LUKS) != 1 || c.LUKS[0].Device != "/dev/sda1" || len(c.DMCrypt) != 1 || c.DMCrypt[0].Name != "cloudimg-rootfs" ||
		!slices.Equal(c.DMCrypt[0].Mounts, []string{"/"}) || !slices.Equal(c.DMCrypt[0].Devices, []string{"/dev/sda1"}) {
		t.Errorf("disks: %+v %+v", c.LUKS, c.DMCrypt)
	}
	if c.SealedKey == nil || c.SealedKey.Size != 6 || len(c.SealedKey.SHA256) != 64 || len(c.ESPKernels) != 1 || c.ESPKernels[0].Path != "/boot/efi/EFI/ubuntu/kernel.efi-6.8/KERNEL.EFI" {
		t.Errorf("files: %+v %+v", c.SealedKey, c.ESPKernels)
	}
	if !slices.Equal(c.NullbootLog, []string{"2026-08-01 nullbootctl[9]: resealed"}) || len(c.Unread) != 0 {
		t.Errorf("log %q, unread %q", c.NullbootLog, c.Unread)
	}
	text, err := json.Marshal(c)
	if err != nil || strings.Contains(string(text), "SECRET") {
		t.Errorf("the claims hold a secret (%v): %s", err, text)
	}
	if log, err := s.EventLog(); err != nil || !bytes.Equal(log, eventLog("forbidden")) {
		t.Errorf("event log %q, %v", log, err)
	}
	if _, err := s.IMALog(); !errors.Is(err, guest.ErrAbsent) {
		t.Errorf("IMA log: %v", err)
	}
	// cloud-init's ends.
	for text, want := range map[string]string{`{"v1":{"errors":[]}}`: "done", `{"v1":{"errors":["x"]}}`: "error", `{`: "error"} {
		if err := os.WriteFile(filepath.Join(root, "run/cloud-init/result.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if c := s.Claims(context.Background()); c.CloudInit != want {
			t.Errorf("cloud-init is %q, want %q", c.CloudInit, want)
		}
	}
}

func TestClaimsOfABareSystem(t *testing.T) {
	s := &System{Root: t.TempDir(), Run: func(context.Context, string, ...string) ([]byte, error) { return nil, exec.ErrNotFound }}
	c := s.Claims(context.Background())
	if c.CloudInit != "not-run" || c.RootEncrypted != nil || c.GrowpartKeyFile == nil || *c.GrowpartKeyFile || len(c.Unread) != 0 {
		t.Errorf("claims: %+v", c)
	}
	s.Run = func(context.Context, string, ...string) ([]byte, error) { return nil, errors.New("exit status 1") }
	if c := s.Claims(context.Background()); len(c.Unread) != 1 || !strings.Contains(c.Unread[0], "nullboot") {
		t.Errorf("unread: %q", c.Unread)
	}
}

func TestRunProgram(t *testing.T) {
	if _, err := runProgram(context.Background(), "no-such-program-here"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
}
