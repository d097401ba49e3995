package hardware

import (
	"fmt"

	"cvmguard/internal/guest"
)

// update is what has been installed in a machine and waits for its next boot.
type update struct {
	kernels   int    // how many there were
	kernel    string // the new one, "" for none
	sealed    bool   // the root's key is sealed to it
	dbx       int    // changes of the forbidden signatures, of this boot
	nextDBX   int    // and of the next
	dbxSeal   bool   // the key is sealed to those of the next
	lockedOut bool   // the last boot didn't open the root
}

// sealedTo tells sealed keys apart.
func (u update) sealedTo() string {
	return fmt.Sprint(u.kernel != "" && u.sealed, u.dbxSeal)
}

// UpdateKernel installs a newer kernel, which the firmware boots next. Unless
// resealed, the root's key isn't sealed to it: evidence shows that it is pending,
// and a restart doesn't open the root (LockedOut).
func (m *Machine) UpdateKernel(resealed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.update.kernels++
	m.update.kernel = fmt.Sprintf("kernel.efi-6.8.0-%d-azure-fde", 1021+9*m.update.kernels)
	m.update.sealed = resealed
}

// RevokeSignatures adds to the firmware's forbidden signatures, which are measured
// at the next boot, and as for UpdateKernel says whether the key was sealed to them.
func (m *Machine) RevokeSignatures(resealed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.update.nextDBX++
	m.update.dbxSeal = resealed
}

// Reseal seals the root's key to all that the next boot loads, as an administrator
// does in the guest, by the recovery key where the machine is locked out.
func (m *Machine) Reseal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.update.sealed, m.update.dbxSeal, m.update.lockedOut = true, true, false
}

// LockedOut says whether the last boot stands at the question for a recovery key:
// then no agent comes up.
func (m *Machine) LockedOut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.update.lockedOut
}

// settleUpdate is the boot into what was installed. The caller holds mu or owns m.
func (m *Machine) settleUpdate() {
	u := &m.update
	sealed := (u.kernel == "" || u.sealed) && (u.dbx == u.nextDBX || u.dbxSeal)
	if u.kernel != "" {
		m.cfg.Kernel = u.kernel
	}
	u.lockedOut = !sealed && m.cfg.Kind != TrustedLaunch && !m.cfg.PlainRoot
	u.kernel, u.sealed, u.dbx, u.dbxSeal = "", false, u.nextDBX, false
}

// bootFiles are the boot files of an encrypted image. The caller holds mu.
func (m *Machine) bootFiles(c *guest.Claims) {
	yes, count := true, 2
	file := func(dir, name string, trusted bool) guest.File {
		return guest.File{Path: dir + name, SHA256: m.digest(name), Size: 62 << 20, Modified: m.booted.UTC(), Trusted: &trusted}
	}
	const esp, kernels, shims = "/boot/efi/EFI/ubuntu/", "/usr/lib/linux/efi/", "/usr/lib/nullboot/shim/"
	c.ESPKernels = []guest.File{file(esp, m.cfg.Kernel, true), file(esp, "shimx64.efi", true)}
	c.StagedAssets = []guest.File{file(kernels, m.cfg.Kernel, true), file(shims, "shimx64.efi.signed", true)}
	c.StagedAssets[1].SHA256 = c.ESPKernels[1].SHA256
	no := false
	c.BootNext, c.DBXChanged = &no, &no
	if u := m.update; u.kernel != "" {
		c.ESPKernels = append(c.ESPKernels, file(esp, u.kernel, u.sealed))
		c.StagedAssets = append(c.StagedAssets, file(kernels, u.kernel, u.sealed))
		c.BootNext = &yes
		if u.sealed {
			count++
		}
	}
	if m.update.dbx != m.update.nextDBX {
		sealed := m.update.dbxSeal
		c.DBXChanged, c.DBXResealed = &yes, &sealed
	}
	c.TrustedAssets = &count
}
