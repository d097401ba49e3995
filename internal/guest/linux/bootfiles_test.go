package linux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"cvmguard/internal/cvm"
	"cvmguard/internal/guest"
)

// eventLog is a log of a separator and of variables as they were measured: dbx,
// and db where more is given.
func eventLog(dbx string, db ...string) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, 1)
	spec = le.AppendUint16(le.AppendUint16(spec, 0x0B), 32)
	spec = append(spec, 0)
	log := le.AppendUint32(le.AppendUint32(nil, 0), evNoAction)
	log = append(log, make([]byte, 20)...)
	log = append(le.AppendUint32(log, uint32(len(spec))), spec...)
	event := func(pcr, kind uint32, data []byte) {
		log = le.AppendUint32(le.AppendUint32(le.AppendUint32(log, pcr), kind), 1)
		log = append(le.AppendUint16(log, 0x0B), make([]byte, 32)...)
		log = append(le.AppendUint32(log, uint32(len(data))), data...)
	}
	variable := func(name, value string) {
		data := make([]byte, 16)
		units := utf16.Encode([]rune(name))
		data = le.AppendUint64(le.AppendUint64(data, uint64(len(units))), uint64(len(value)))
		for _, u := range units {
			data = le.AppendUint16(data, u)
		}
		event(7, evVariable, append(data, value...))
	}
	event(0, 4, make([]byte, 4))
	for _, v := range db {
		variable("db", v)
	}
	variable("dbx", dbx)
	return log
}

func TestMeasuredVariables(t *testing.T) {
	log := eventLog("forbidden", "allowed", "a second time")
	if v, err := measuredVariables(log); err != nil || len(v) != 2 || string(v["dbx"]) != "forbidden" || string(v["db"]) != "allowed" {
		t.Errorf("%q %v", v, err)
	}
	log = eventLog("forbidden")
	// What follows the last event may be filling.
	short := log[:len(log)-len("forbidden")-16-16-6-4-34-12]
	if v, err := measuredVariables(append(slices.Clone(short), bytes.Repeat([]byte{0xFF}, 64)...)); err != nil || len(v) != 0 {
		t.Errorf("a log without variables: %q, %v", v, err)
	}
	for name, b := range map[string][]byte{"empty": nil, "text": []byte("a log of nothing"), "cut": log[:len(log)-3]} {
		if v, err := measuredVariables(b); err == nil || len(v) != 0 {
			t.Errorf("%s: %q, %v", name, v, err)
		}
	}
}

func FuzzMeasuredVariables(f *testing.F) {
	f.Add(eventLog("forbidden"))
	f.Add(eventLog("", "allowed"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := measuredVariables(b)
		for name, v := range list {
			if err != nil || len(v) > len(b) {
				t.Errorf("%q: %d bytes, %v", name, len(v), err)
			}
		}
	})
}

// rootOf is nullboot's hash of a file that needs one inner level at most.
func rootOf(content []byte) []byte {
	var leaves []byte
	for part := range slices.Chunk(content, treeBlock) {
		sum := sha256.Sum256(append(slices.Clone(part), make([]byte, treeBlock-len(part))...))
		leaves = append(leaves, sum[:]...)
	}
	if len(leaves) == 32 {
		return leaves
	}
	sum := sha256.Sum256(append(leaves, make([]byte, treeBlock-len(leaves))...))
	return sum[:]
}

func TestTreeRoot(t *testing.T) {
	for _, size := range []int{1, 4095, 4096, 4097, 128 * 4096} {
		content := bytes.Repeat([]byte{7}, size)
		if got, err := treeRoot(bytes.NewReader(content)); err != nil || got != hex.EncodeToString(rootOf(content)) {
			t.Errorf("%d bytes: %s, %v", size, got, err)
		}
	}
	// 129 leaves make two inner blocks, and those the root.
	content := bytes.Repeat([]byte{7}, 129*4096)
	first, second := rootOf(content[:128*4096]), sha256.Sum256(append(rootOf(content[:4096]), make([]byte, 4096-32)...))
	top := sha256.Sum256(append(append(first, second[:]...), make([]byte, 4096-64)...))
	if got, err := treeRoot(bytes.NewReader(content)); err != nil || got != hex.EncodeToString(top[:]) {
		t.Errorf("129 blocks: %s, %v", got, err)
	}
	if got, err := treeRoot(bytes.NewReader(nil)); err != nil || got != "" {
		t.Errorf("nothing: %q, %v", got, err)
	}
}

func assets(t testing.TB, files ...string) string {
	t.Helper()
	list := struct {
		Alg    string   `json:"alg"`
		Hashes [][]byte `json:"hashes"`
	}{Alg: "sha256"}
	for _, f := range files {
		list.Hashes = append(list.Hashes, rootOf([]byte(f)))
	}
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseAssets(t *testing.T) {
	got, err := parseAssets([]byte(assets(t, "a", "b")))
	if err != nil || len(got) != 2 || got[0] != hex.EncodeToString(rootOf([]byte("a"))) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{``, `[]`, `{"alg":"sha384","hashes":[]}`, `{"alg":"sha256","hashes":["AAAA"]}`, `{"alg":"sha256","hashes":["*"]}`, `{"alg":"sha256","hashes":[1]}`} {
		if _, err := parseAssets([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzAssets(f *testing.F) {
	f.Add([]byte(assets(f, "a", "b")))
	f.Add([]byte(`{"alg":"sha256","hashes":["` + base64.StdEncoding.EncodeToString(make([]byte, 31)) + `"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseAssets(b)
		for _, h := range list {
			if err != nil || len(h) != 64 {
				t.Errorf("%q, %v", h, err)
			}
		}
	})
}

const (
	espMount = "30 26 8:15 / /boot/efi rw,relatime shared:2 - vfat /dev/sda15 rw\n"
	keysOf   = "06496d53 I------     1 perm 0f0b0000     0     0 keyring   .blacklist: empty\n2b1a6f3c I--Q---     1 perm 3f010000     0     0 user      mine:/dev/sda1:aux: 32\n"
	keysWith = keysOf + "1d5c8a9e I--Q---     1 perm 3f010000     0     0 user      ubuntu-fde:/dev/disk/by-partuuid/a1b2:aux: 32\n"

	efiDir  = "boot/efi/EFI/ubuntu/"
	oldName = "kernel.efi-6.8.0-1021-azure-fde"
	newName = "kernel.efi-6.8.0-1030-azure-fde"
)

// settledRoot is an Ubuntu CVM at rest on its old kernel.
func settledRoot(t *testing.T) map[string]string {
	loaded := []byte{7, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(`\EFI\ubuntu\` + oldName)) {
		loaded = binary.LittleEndian.AppendUint16(loaded, u)
	}
	return map[string]string{
		"etc/os-release": "ID=ubuntu\nVERSION_ID=\"24.04\"\n", "proc/sys/kernel/osrelease": "6.8.0-1021-azure-fde\n",
		"proc/self/mountinfo":         "26 1 252:0 / / rw,relatime shared:1 - ext4 /dev/mapper/cloudimg-rootfs rw\n" + espMount,
		"proc/keys":                   keysWith,
		"sys/dev/block/252:0/dm/uuid": "CRYPT-LUKS2-b1f2-cloudimg-rootfs\n", "sys/class/block/dm-0/dm/uuid": "CRYPT-LUKS2-b1f2-cloudimg-rootfs\n",
		"sys/class/block/dm-0/dm/name": "cloudimg-rootfs\n", "sys/class/block/dm-0/dev": "252:0\n", "sys/class/block/dm-0/slaves/sda1/x": "", "sys/class/block/sda1/x": "",
		"dev/sda1":    string(luksHeader(t, `{"keyslots":{"0":{"kdf":{"type":"pbkdf2"}}},"tokens":{},"segments":{"0":{"encryption":"aes-xts-plain64"}}}`)),
		sealedKeyFile: "sealed", efiDir + "shimx64.efi": "shim", efiDir + oldName: "old kernel",
		"usr/lib/nullboot/shim/shimx64.efi.signed": "shim", "usr/lib/nullboot/shim/fbx64.efi": "fallback", "usr/lib/linux/efi/" + oldName: "old kernel",
		"var/lib/nullboot/assets":                           assets(t, "shim", "fallback", "old kernel"),
		"run/cloud-init/result.json":                        `{"v1":{"errors":[]}}`,
		"sys/kernel/security/tpm0/binary_bios_measurements": string(eventLog("forbidden", "allowed")),
		efivars + "dbx-" + imageGUID:                        "\x27\x00\x00\x00forbidden",
		efivars + "db-" + imageGUID:                         "\x27\x00\x00\x00allowed",
		efivars + "LoaderImageIdentifier-" + loaderGUID:     string(loaded),
	}
}

// claimsOf collects from a tree of files and reads what was collected as the
// judge would. The sealed key is as old as sealedAt says, all else is new.
func claimsOf(t *testing.T, files map[string]string, sealedAt time.Duration) (guest.Claims, cvm.GuestClaims) {
	t.Helper()
	root := t.TempDir()
	when := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at := when
		if name == sealedKeyFile {
			at = when.Add(sealedAt)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	s := &System{Root: root, Run: func(context.Context, string, ...string) ([]byte, error) { return nil, nil }}
	c := s.Claims(t.Context())
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var m cvm.Claims
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	read, err := cvm.ReadGuestClaims(m)
	if err != nil {
		t.Fatal(err)
	}
	return c, read
}

// TestBootFiles is the life of a kernel update, as the guest tells it.
func TestBootFiles(t *testing.T) {
	type files = map[string]string
	for _, tt := range []struct {
		name     string
		change   func(f files)
		sealedAt time.Duration
		unsealed string
		reboot   string
		known    cvm.Tri
	}{
		{"at rest", func(files) {}, 0, "", "", cvm.True},
		{"a package has come", func(f files) { f["usr/lib/linux/efi/"+newName] = "new kernel" }, 0, newName, "", cvm.True},
		{"put on the ESP by hand", func(f files) { f[efiDir+newName] = "new kernel" }, 0, newName, "", cvm.True},
		{"another shim", func(f files) { f[efiDir+"shimx64.efi"] = "new shim" }, 0, "shimx64.efi shimx64.efi.signed", "", cvm.True},
		{"trusted, and the work not ended", func(f files) {
			f["usr/lib/linux/efi/"+newName] = "new kernel"
			f["var/lib/nullboot/assets"] = assets(t, "shim", "fallback", "old kernel", "new kernel")
		}, 0, newName, "", cvm.True},
		{"resealed, reboot to come", func(f files) {
			f["usr/lib/linux/efi/"+newName], f[efiDir+newName] = "new kernel", "new kernel"
			f["var/lib/nullboot/assets"] = assets(t, "shim", "fallback", "old kernel", "new kernel")
		}, 0, "", newName, cvm.True},
		{"the same, and the loader is silent", func(f files) {
			f["usr/lib/linux/efi/"+newName], f[efiDir+newName] = "new kernel", "new kernel"
			f["var/lib/nullboot/assets"] = assets(t, "shim", "fallback", "old kernel", "new kernel")
			delete(f, efivars+"LoaderImageIdentifier-"+loaderGUID)
			f[efivars+"BootNext-"+globalGUID] = "\x07\x00\x00\x00\x03\x00"
		}, 0, "", newName, cvm.True},
		{"dbx has changed", func(f files) { f[efivars+"dbx-"+imageGUID] = "\x27\x00\x00\x00forbidden and more" }, -time.Hour, "dbx", "", cvm.True},
		{"dbx has changed, resealed since", func(f files) { f[efivars+"dbx-"+imageGUID] = "\x27\x00\x00\x00forbidden and more" }, time.Hour, "", "dbx", cvm.True},
		{"db has changed", func(f files) { f[efivars+"db-"+imageGUID] = "\x27\x00\x00\x00allowed and more" }, -time.Hour, "db", "", cvm.True},
		{"db has changed, resealed since", func(f files) { f[efivars+"db-"+imageGUID] = "\x27\x00\x00\x00allowed and more" }, time.Hour, "", "db", cvm.True},
		{"db and dbx have changed", func(f files) {
			delete(f, efivars+"db-"+imageGUID)
			delete(f, efivars+"dbx-"+imageGUID)
		}, 0, "db dbx", "", cvm.True},
		{"dbx was emptied", func(f files) { delete(f, efivars+"dbx-"+imageGUID) }, 0, "dbx", "", cvm.True},
		{"nullboot has never run", func(f files) { delete(f, "var/lib/nullboot/assets") }, time.Hour, "", "", cvm.True},
		{"never run, and the ESP is newer than the key", func(f files) { delete(f, "var/lib/nullboot/assets") }, -time.Hour, "shimx64.efi " + oldName + " shimx64.efi.signed", "", cvm.True},
		{"no event log", func(f files) { delete(f, "sys/kernel/security/tpm0/binary_bios_measurements") }, 0, "", "", cvm.Unread},
		{"the list is broken", func(f files) { f["var/lib/nullboot/assets"] = "{" }, 0, "", "", cvm.Unread},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := maps.Clone(settledRoot(t))
			tt.change(f)
			_, c := claimsOf(t, f, tt.sealedAt)
			got, want := strings.Fields(strings.Join(c.Unsealed, " ")), strings.Fields(tt.unsealed)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) || c.RebootFor != tt.reboot || c.BootFiles != tt.known {
				t.Errorf("unsealed %q, reboot for %q, known %q", c.Unsealed, c.RebootFor, c.BootFiles)
			}
			if state, why := c.FDE(); state != cvm.FDEActive {
				t.Errorf("the root is %s: %s", state, why)
			}
		})
	}
}

// TestClaimsSayWhatTheRootIs: what the collector finds on a disk is what the judge
// reads of it.
func TestClaimsSayWhatTheRootIs(t *testing.T) {
	whole, c := claimsOf(t, settledRoot(t), 0)
	if len(whole.Unread) != 0 || c.UbuntuFDE != cvm.True || c.ClearKey != cvm.False || c.ResizeSlot != cvm.False || c.KeyFile != cvm.False || c.Keyslots != 1 || c.SealedKey != cvm.True {
		t.Errorf("%+v, unread %q", c, whole.Unread)
	}
	f := settledRoot(t)
	f["dev/sda1"] = string(luksHeader(t, halfDone))
	f["cc_growpart_keydata"] = "{}"
	delete(f, sealedKeyFile)
	if _, c = claimsOf(t, f, 0); c.ClearKey != cvm.True || c.ResizeSlot != cvm.True || c.KeyFile != cvm.True || c.SealedKey != cvm.False {
		t.Errorf("%+v", c)
	}
	if state, _ := c.FDE(); state != cvm.FDEInactive {
		t.Errorf("without a sealed key: %s", state)
	}
	f["proc/self/mountinfo"] = "26 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + espMount
	f["dev/sda1"] = "a plain file system"
	if _, c = claimsOf(t, f, 0); c.RootEncrypted != cvm.False || c.ClearKey != cvm.False || c.UbuntuFDE != cvm.False {
		t.Errorf("a plain root: %+v", c)
	}
	// An ESP that isn't mounted is an empty folder: nothing is known of what it holds.
	f = settledRoot(t)
	for name := range f {
		if strings.HasPrefix(name, esp) {
			delete(f, name)
		}
	}
	f[esp+"/.keep"] = ""
	f["proc/self/mountinfo"] = strings.TrimSuffix(f["proc/self/mountinfo"], espMount)
	whole, c = claimsOf(t, f, 0)
	if c.SealedKey != cvm.Unread || c.SRKTemplate != cvm.Unread || c.BootFiles != cvm.Unread || len(c.Unsealed) != 0 || len(whole.Unread) != 1 {
		t.Errorf("no ESP: %+v, unread %q", c, whole.Unread)
	}
	if state, _ := c.FDE(); state != cvm.FDEUnread {
		t.Errorf("no ESP: %s", state)
	}
	// The kernel's list of keys tells whether there is one to seal by.
	for keys, want := range map[string]cvm.Tri{
		keysWith: cvm.True, keysOf: cvm.False, "": cvm.False,
		strings.Replace(keysWith, "9e I--", "9e IR-", 1): cvm.False, // revoked
		"ubuntu-fde:x\n": cvm.False,
	} {
		f = settledRoot(t)
		f["proc/keys"] = keys
		if _, c = claimsOf(t, f, 0); c.KeyringKey != want {
			t.Errorf("%q: %q, want %q", keys, c.KeyringKey, want)
		}
	}
	f = settledRoot(t)
	delete(f, "proc/keys")
	if _, c = claimsOf(t, f, 0); c.KeyringKey != cvm.Unread {
		t.Errorf("no list of keys: %q", c.KeyringKey)
	}
	// Nobody reads beyond the budget.
	g := gather{System: &System{Root: t.TempDir()}, hashed: hashedMax}
	if err := os.WriteFile(g.path("x"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if file, root, err := g.file("x"); err != nil || file.SHA256 != "" || root != "" || file.Size != 1 {
		t.Errorf("beyond the budget: %+v %q %v", file, root, err)
	}
}
