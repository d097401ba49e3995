package cvm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"unicode"

	"cvmguard/internal/fault"
)

// GuestClaims is what a Linux guest says of its root's encryption, picked from
// the Claims of a bundle whose evidence passed: bound to the quote and proven by
// nothing. It is small and holds no value that moves by itself, so that equal
// guests give equal records; the whole claims stay in the evidence.
type GuestClaims struct {
	OS        string `json:"os,omitempty"`      // os-release ID: ubuntu
	Release   string `json:"release,omitempty"` // os-release VERSION_ID: 24.04
	Kernel    string `json:"kernel,omitempty"`  // uname -r
	CloudInit string `json:"cloudInit,omitempty"`

	RootEncrypted Tri `json:"rootEncrypted,omitempty"` // "/" lies on a dm-crypt device
	UbuntuFDE     Tri `json:"ubuntuFDE,omitempty"`     // there is a LUKS partition labelled as Ubuntu's images label the root
	ClearKey      Tri `json:"clearKey,omitempty"`      // a token with the key in clear is in a LUKS header
	KeyFile       Tri `json:"keyFile,omitempty"`       // the key file of the first boot's resize is there
	ResizeSlot    Tri `json:"resizeSlot,omitempty"`    // the key slot of the first boot's resize is there
	Keyslots      int `json:"keyslots,omitempty"`      // of the root's LUKS header; 0 where it wasn't read
	RootFormat    Tri `json:"rootFormat,omitempty"`    // the root's own LUKS header has the label and cipher of Ubuntu's images
	KeyringKey    Tri `json:"keyringKey,omitempty"`    // the kernel holds the key that a reseal needs
	SRKTemplate   Tri `json:"srkTemplate,omitempty"`   // the vTPM is still to be provisioned
	SealedKey     Tri `json:"sealedKey,omitempty"`     // the sealed key is on the ESP

	// Unsealed are what the next boot may load and the root's key isn't sealed to:
	// boot files by name, or a variable of the secure boot policy (dbx, db, KEK, PK).
	// Valid only where BootFiles is True.
	Unsealed []string `json:"unsealed,omitempty"`
	// RebootFor is a kernel that the key is sealed to and that boots next, or a
	// variable of the secure boot policy; "" for none.
	RebootFor string `json:"rebootFor,omitempty"`
	BootFiles Tri    `json:"bootFiles,omitempty"` // True: boot files and trusted assets could be compared
}

// FDEState is how far a guest's root is encrypted and sealed, as it claims.
type FDEState string

// The states.
const (
	FDEActive       FDEState = "active"       // encrypted, sealed, nothing left of the first boot
	FDEInactive     FDEState = "inactive"     // plain, or opened by something else than the sealed key
	FDEProvisioning FDEState = "provisioning" // the first boot isn't done
	FDEUnread       FDEState = "unread"       // the guest couldn't tell
)

// BootEnded says whether cloud-init has ended, well or not: then nothing of the
// first boot is still at work.
func (c GuestClaims) BootEnded() bool {
	return c.CloudInit == "done" || c.CloudInit == "error" || c.CloudInit == "disabled"
}

// FDE is the state that the claims add up to, and why, for a person. While
// cloud-init is at work the resize's slot and key file, a clear key and an
// unprovisioned vTPM may all be on their way to what they should be. A root that is
// plain, or that something else encrypted, is not: it is encrypted before the first
// boot or never.
func (c GuestClaims) FDE() (state FDEState, why string) {
	halfDone := c.ClearKey == True || c.KeyFile == True || c.ResizeSlot == True || c.SRKTemplate == True
	switch {
	case c.RootEncrypted == False && c.UbuntuFDE == True:
		return FDEInactive, "the root file system isn't on an encrypted device, though the disk has a partition that is encrypted as Ubuntu's images have it"
	case c.RootEncrypted == False:
		return FDEInactive, "the root file system isn't on an encrypted device"
	case c.RootFormat == False:
		return FDEInactive, "the root's LUKS header hasn't the label and cipher of Ubuntu's images, so something else encrypted it"
	case halfDone && !c.BootEnded():
		return FDEProvisioning, "cloud-init hasn't ended (" + orDash(c.CloudInit) + ")"
	case c.SealedKey == False:
		return FDEInactive, "the ESP has no sealed key, so something else opened the root"
	case c.SRKTemplate == True:
		return FDEInactive, "the first boot never provisioned the vTPM"
	case c.RootEncrypted == Unread, c.SealedKey == Unread, c.SRKTemplate == Unread:
		return FDEUnread, "the guest couldn't read its mounts or its ESP"
	}
	return FDEActive, "the root file system is encrypted and its key is sealed to the vTPM"
}

func orDash(s string) string {
	if s == "" {
		return "no word of it"
	}
	return s
}

// Names in the claims of Ubuntu's confidential images.
const (
	rootfsLabel   = "cloudimg-rootfs-enc"
	rootfsCipher  = "aes-xts-plain64"
	clearKeyToken = "ubuntu-fde-cloudimg-key"
	resizeSlot    = "10"
	kernelPrefix  = "kernel.efi-"
)

// claimed is what is read of a bundle's guest object.
type claimed struct {
	OSRelease map[string]string `json:"os_release"`
	Kernel    string            `json:"kernel"`
	CloudInit string            `json:"cloud_init"`
	Root      *bool             `json:"root_encrypted"`
	LUKS      []struct {
		Device   string   `json:"device"`
		Label    string   `json:"label"`
		Version  int      `json:"version"`
		Cipher   string   `json:"cipher"`
		Keyslots []string `json:"keyslots"`
		Tokens   []string `json:"tokens"`
	} `json:"luks"`
	DMCrypt []struct {
		Devices []string `json:"devices"`
		Mounts  []string `json:"mounts"`
	} `json:"dm_crypt"`
	KeyFile     *bool         `json:"growpart_key_file"`
	SRKTemplate *bool         `json:"srk_template"`
	SealedKey   *claimedFile  `json:"sealed_key"`
	NoSealedKey *bool         `json:"sealed_key_absent"`
	Trusted     *int          `json:"trusted_assets"`
	ESP         []claimedFile `json:"esp_kernels"`
	Staged      []claimedFile `json:"staged_assets"`
	Booted      string        `json:"booted_kernel"`
	BootNext    *bool         `json:"boot_next"`
	DBXChanged  *bool         `json:"dbx_changed"`
	DBXSealed   *bool         `json:"dbx_resealed"`
	Keys        []string      `json:"keys_changed"`
	KeysSealed  *bool         `json:"keys_resealed"`
	Keyring     *bool         `json:"keyring_key"`
}

type claimedFile struct {
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
	Trusted *bool  `json:"trusted"`
}

// ReadGuestClaims picks what rules rest on from a bundle's claims. A member of the
// wrong type is fault.Invalid: such claims are none. Texts are cut and lists
// bounded, for it is the guest that wrote them.
func ReadGuestClaims(claims Claims) (GuestClaims, error) {
	const op = "reading the guest's claims"
	b, err := json.Marshal(claims)
	if err != nil {
		return GuestClaims{}, fault.New(fault.Invalid, op, "", "they aren't JSON: %w", err)
	}
	var c claimed
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&c); err != nil {
		return GuestClaims{}, fault.New(fault.Invalid, op, "", "they are not what the collector writes: %w", err)
	}
	out := GuestClaims{OS: word(c.OSRelease["ID"]), Release: word(c.OSRelease["VERSION_ID"]), Kernel: word(c.Kernel), CloudInit: word(c.CloudInit),
		RootEncrypted: tri(c.Root), KeyFile: tri(c.KeyFile), SRKTemplate: tri(c.SRKTemplate), KeyringKey: tri(c.Keyring)}
	switch {
	case c.SealedKey != nil:
		out.SealedKey = True
	case c.NoSealedKey != nil && *c.NoSealedKey:
		out.SealedKey = False
	}
	c.headers(&out)
	c.boots(&out)
	return out, nil
}

// headers reads the LUKS headers. What they lack is False only where the root's
// own was read, or where nothing is encrypted at all.
func (c *claimed) headers(out *GuestClaims) {
	var root []string
	for _, m := range c.DMCrypt {
		if slices.Contains(m.Mounts, "/") {
			root = append(root, m.Devices...)
		}
	}
	read := false
	for _, l := range c.LUKS {
		if slices.Contains(l.Tokens, clearKeyToken) {
			out.ClearKey = True
		}
		ubuntu := l.Label == rootfsLabel
		if ubuntu {
			out.UbuntuFDE = True
		}
		if slices.Contains(root, l.Device) && out.RootFormat != False {
			out.RootFormat = False
			if ubuntu && l.Version == 2 && (l.Cipher == "" || l.Cipher == rootfsCipher) {
				out.RootFormat = True
			}
		}
		if l.Version != 2 || len(l.Keyslots) == 0 || !ubuntu && !slices.Contains(root, l.Device) {
			continue // a header that opens has a slot: one without wasn't read
		}
		read = true
		out.Keyslots = max(out.Keyslots, min(len(l.Keyslots), 32))
		if slices.Contains(l.Keyslots, resizeSlot) {
			out.ResizeSlot = True
		}
	}
	if !read && out.RootEncrypted != False {
		return
	}
	for _, t := range []*Tri{&out.UbuntuFDE, &out.ClearKey, &out.ResizeSlot} {
		if *t == Unread {
			*t = False
		}
	}
}

// boots compares what the next boot may load with what nullboot sealed the key to.
// A file that it trusts is one that the key was sealed to before the file was put
// on the ESP; one that is staged, trusted and not yet on the ESP is the work of a
// run that didn't end.
func (c *claimed) boots(out *GuestClaims) {
	if c.Trusted == nil {
		return
	}
	out.BootFiles = True
	installed, read := map[string]bool{}, false
	for _, f := range c.ESP {
		installed[f.SHA256] = true
		read = read || isKernel(base(f.Path))
	}
	if !read {
		out.BootFiles = Unread // it booted from a kernel there, so the ESP wasn't read
	}
	add := func(name string) {
		if name = word(name); name != "" && !slices.Contains(out.Unsealed, name) && len(out.Unsealed) < 8 {
			out.Unsealed = append(out.Unsealed, name)
		}
	}
	newest := ""
	for i, f := range slices.Concat(c.ESP, c.Staged) {
		name := base(f.Path)
		kernel := isKernel(name)
		if !kernel && !strings.HasPrefix(strings.ToLower(name), "shim") {
			continue
		}
		switch {
		case f.Trusted == nil:
			out.BootFiles = Unread
		case !*f.Trusted:
			add(name)
		case i >= len(c.ESP) && read && !installed[f.SHA256]:
			add(name)
		case kernel && (newest == "" || newer(name, newest)):
			newest = name
		}
	}
	changed := func(name string, sealed *bool) {
		if sealed != nil && *sealed {
			out.RebootFor = word(name)
			return
		}
		add(name)
	}
	for _, name := range c.Keys {
		changed(name, c.KeysSealed)
	}
	switch {
	case c.DBXChanged == nil:
		out.BootFiles = Unread // every firmware measures it, so the log or the variable wasn't read
	case *c.DBXChanged:
		changed("dbx", c.DBXSealed)
	}
	if out.BootFiles != True {
		// What is known to be unsealed stays; that nothing is isn't known.
		if len(out.Unsealed) > 0 {
			out.BootFiles = True
		}
		return
	}
	// The kernel that runs, by the loader's word; else by its release, which counts
	// only where the firmware is told to boot another one next.
	booted := strings.ToLower(base(strings.ReplaceAll(c.Booted, `\`, "/")))
	named := strings.HasPrefix(booted, kernelPrefix)
	if !named {
		booted = kernelPrefix + strings.ToLower(c.Kernel)
	}
	if newest != "" && booted != strings.ToLower(newest) && (named || c.BootNext != nil && *c.BootNext) {
		out.RebootFor = word(newest)
	}
}

func isKernel(name string) bool { return strings.HasPrefix(strings.ToLower(name), kernelPrefix) }

func base(path string) string { return path[strings.LastIndex(path, "/")+1:] }

// newer says whether name a is of a later version than b: runs of digits are
// compared as numbers.
func newer(a, b string) bool {
	for a != "" && b != "" {
		x, restA := digits(a)
		y, restB := digits(b)
		if x != "" && y != "" {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return len(x) > len(y)
			}
			if x != y {
				return x > y
			}
			a, b = restA, restB
			continue
		}
		if a[0] != b[0] {
			return a[0] > b[0]
		}
		a, b = a[1:], b[1:]
	}
	return len(a) > len(b)
}

func digits(s string) (run, rest string) {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return s[:n], s[n:]
}

// word is a short text of the guest's, without what a terminal or a page could
// take for more than text.
func word(s string) string {
	out := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) || strings.ContainsRune(`<>&"'`, r) {
			return -1
		}
		return r
	}, s)
	if r := []rune(out); len(r) > 64 {
		out = string(r[:64])
	}
	return out
}

// The values of PCR 12 (SHA-256, hex) that tell how far the initial RAM disk of
// Ubuntu's confidential images came: it measures its epoch, the 32-bit number 0,
// opens the root by the sealed key, and measures the same again so that nothing
// after it can open the key.
var (
	PCR12Epoch  = extended(1)
	PCR12Fenced = extended(2)
)

// extended is a PCR of zeros, extended n times by SHA-256(uint32 0).
func extended(n int) string {
	epoch := sha256.Sum256(make([]byte, 4))
	var pcr [32]byte
	for range n {
		pcr = sha256.Sum256(append(pcr[:], epoch[:]...))
	}
	return hex.EncodeToString(pcr[:])
}
