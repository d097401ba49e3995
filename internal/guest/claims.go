package guest

import "time"

// Claims is the bundle's `guest` object: what the machine says of itself, bound
// to the quote and proven by nothing. Root can make it say anything; that is why
// no rule that needs proof rests on it. It holds digests, states and names, never
// a key or a file's content beyond those named here.
type Claims struct {
	CollectedAt   time.Time         `json:"collected_at,omitzero"`
	Collector     string            `json:"collector,omitempty"`  // "cvmguard-guest <version>"
	OSRelease     map[string]string `json:"os_release,omitempty"` // ID, VERSION_ID, VERSION_CODENAME, PRETTY_NAME, IMAGE_ID …
	Kernel        string            `json:"kernel,omitempty"`     // uname -r
	CommandLine   string            `json:"cmdline,omitempty"`    // /proc/cmdline
	RootSource    string            `json:"root_source,omitempty"`
	RootFS        string            `json:"root_fs,omitempty"`
	RootEncrypted *bool             `json:"root_encrypted,omitempty"` // whether "/" lies on a dm-crypt device
	LUKS          []LUKS            `json:"luks,omitempty"`
	DMCrypt       []DMCrypt         `json:"dm_crypt,omitempty"`

	GrowpartKeyFile *bool `json:"growpart_key_file,omitempty"` // /cc_growpart_keydata is there
	SRKTemplate     *bool `json:"srk_template,omitempty"`      // tpm2-srk.tmpl is on the ESP
	SealedKey       *File `json:"sealed_key,omitempty"`        // device/fde/cloudimg-rootfs.sealed-key on the ESP
	SealedKeyAbsent *bool `json:"sealed_key_absent,omitempty"` // true: the ESP was read and has no sealed key
	NullbootAssets  *bool `json:"nullboot_assets,omitempty"`   // /var/lib/nullboot/assets is there

	// TrustedAssets is how many boot files nullboot has sealed the key to, 0 where
	// it has never run; absent where that couldn't be read. File.Trusted rests on it.
	TrustedAssets *int   `json:"trusted_assets,omitempty"`
	StagedAssets  []File `json:"staged_assets,omitempty"` // kernels and shim that packages have installed for nullboot
	BootNext      *bool  `json:"boot_next,omitempty"`     // the firmware is told to boot another entry once
	DBXChanged    *bool  `json:"dbx_changed,omitempty"`   // the forbidden signatures differ from those measured at boot
	DBXResealed   *bool  `json:"dbx_resealed,omitempty"`  // and the sealed key was written after they changed
	// KeysChanged are other variables of the secure boot policy (PK, KEK, db) that
	// differ from those measured at boot; KeysResealed: the sealed key was written
	// after all of them.
	KeysChanged  []string `json:"keys_changed,omitempty"`
	KeysResealed *bool    `json:"keys_resealed,omitempty"`
	KeyringKey   *bool    `json:"keyring_key,omitempty"` // a kernel keyring holds a key of the root's, by its name alone

	ESPKernels   []File   `json:"esp_kernels,omitempty"`   // boot files on the ESP
	BootedKernel string   `json:"booted_kernel,omitempty"` // the ESP path of the loaded image, from the boot loader's variable
	CloudInit    string   `json:"cloud_init,omitempty"`    // done, running, error, disabled, not-run
	NullbootLog  []string `json:"nullboot_log,omitempty"`  // its last lines

	Unread []string `json:"unread,omitempty"` // what could not be read and why
}

// LUKS is a LUKS2 header on a partition: its facts, never its key material.
type LUKS struct {
	Device       string   `json:"device"`
	Label        string   `json:"label,omitempty"`
	UUID         string   `json:"uuid,omitempty"`
	Version      int      `json:"version"`
	HeaderSHA256 string   `json:"header_sha256,omitempty"` // of the binary header and JSON area of the valid copy
	Keyslots     []string `json:"keyslots,omitempty"`      // slot numbers
	KeyslotKDFs  []string `json:"keyslot_kdfs,omitempty"`  // beside Keyslots: pbkdf2, argon2i, argon2id
	Tokens       []string `json:"tokens,omitempty"`        // token types, e.g. ubuntu-fde-cloudimg-key
	Cipher       string   `json:"cipher,omitempty"`        // of segment 0, e.g. aes-xts-plain64
}

// DMCrypt is an open dm-crypt mapping.
type DMCrypt struct {
	Name    string   `json:"name"`
	UUID    string   `json:"uuid,omitempty"` // CRYPT-LUKS2-…
	Devices []string `json:"devices,omitempty"`
	Mounts  []string `json:"mounts,omitempty"`
}

// File is a file's digest and time.
type File struct {
	Path     string    `json:"path"`
	SHA256   string    `json:"sha256,omitempty"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified,omitzero"`
	Trusted  *bool     `json:"trusted,omitempty"` // a boot file: the root's key is sealed to it
}
