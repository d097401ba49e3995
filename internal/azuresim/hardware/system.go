package hardware

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"cvmguard/internal/guest"
)

// EventLog is the firmware's log of this boot.
func (m *Machine) EventLog() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.boot.log), nil
}

// IMALog is absent: the simulated images have no IMA policy.
func (m *Machine) IMALog() ([]byte, error) {
	return nil, fmt.Errorf("IMA log: %w", guest.ErrAbsent)
}

// Claims is what an Ubuntu confidential image says of itself: encrypted and
// sealed, unless a fault says otherwise. Trusted Launch images have a plain root.
func (m *Machine) Claims(context.Context) guest.Claims {
	m.mu.Lock()
	defer m.mu.Unlock()
	yes, no := true, false
	c := guest.Claims{
		OSRelease: map[string]string{
			"ID": "ubuntu", "VERSION_ID": "24.04", "VERSION_CODENAME": "noble", "PRETTY_NAME": "Ubuntu 24.04 LTS (simulated)",
		},
		Kernel:          strings.TrimPrefix(m.cfg.Kernel, "kernel.efi-"),
		CommandLine:     "snapd_recovery_mode=cloudimg-rootfs console=tty1 console=ttyS0 panic=-1",
		RootSource:      "/dev/mapper/cloudimg-rootfs-enc",
		RootFS:          "ext4",
		RootEncrypted:   &yes,
		GrowpartKeyFile: &no,
		SRKTemplate:     &no,
		NullbootAssets:  &yes,
		BootedKernel:    "/EFI/ubuntu/" + m.cfg.Kernel,
		CloudInit:       "done",
	}
	if m.cfg.Kind == TrustedLaunch || m.cfg.PlainRoot || m.faults[FaultNotEncrypted] {
		c.RootSource, c.RootEncrypted, c.SealedKeyAbsent = "/dev/sda1", &no, &yes
		c.CommandLine = "root=PARTUUID=00000000-0000-4000-8000-000000000001 ro console=tty1 console=ttyS0"
		return c
	}
	luks := guest.LUKS{
		Device: "/dev/sda1", Label: "cloudimg-rootfs-enc", UUID: "00000000-0000-4000-8000-0000000000fd", Version: 2,
		HeaderSHA256: m.digest("luks header"), Keyslots: []string{"0"}, KeyslotKDFs: []string{"pbkdf2"}, Cipher: "aes-xts-plain64",
	}
	if m.faults[FaultFirstBoot] || m.faults[FaultSlotLeft] {
		luks.Keyslots, luks.KeyslotKDFs = []string{"0", "10"}, []string{"pbkdf2", "pbkdf2"}
	}
	if m.faults[FaultFirstBoot] {
		c.GrowpartKeyFile, c.CloudInit = &yes, "running"
	}
	if m.faults[FaultClearKey] {
		luks.Tokens = []string{"ubuntu-fde-cloudimg-key"}
	}
	c.LUKS = []guest.LUKS{luks}
	c.DMCrypt = []guest.DMCrypt{{
		Name: "cloudimg-rootfs-enc", UUID: "CRYPT-LUKS2-000000000000400080000000000000fd-cloudimg-rootfs-enc",
		Devices: []string{"/dev/sda1"}, Mounts: []string{"/"},
	}}
	c.SealedKey = &guest.File{
		Path: "/boot/efi/device/fde/cloudimg-rootfs.sealed-key", SHA256: m.digest("sealed key " + m.cfg.Kernel + m.update.sealedTo()), Size: 1234, Modified: m.booted.UTC(),
	}
	m.bootFiles(&c)
	return c
}

// digest is a stable digest for a thing of this machine.
func (m *Machine) digest(what string) string {
	d := sha256.Sum256([]byte(m.cfg.VMUniqueID + "\x00" + what))
	return hex.EncodeToString(d[:])
}
