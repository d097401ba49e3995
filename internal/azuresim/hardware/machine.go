package hardware

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"sync"
	"time"

	"cvmguard/internal/guest"
)

// Kind is what a machine is made of.
type Kind string

// The kinds, spelled as the bundle spells them.
const (
	SNP           Kind = "snp"
	TDX           Kind = "tdx"
	TrustedLaunch Kind = "trustedlaunch"
)

// Fault is one thing that is wrong with a machine or its agent. Each breaks what
// it names and nothing else; the code is what a verifier should say.
type Fault string

// The faults.
const (
	FaultWrongNonce     Fault = "wrong-nonce"     // the quote is over other bytes: nonce.mismatch
	FaultOldNonce       Fault = "old-nonce"       // the bundle sent before comes again, or one over a nonce that nobody issued: nonce.reused, nonce.unknown
	FaultOtherAK        Fault = "other-ak"        // another VM's key signs the quote: quote.signature, for Trusted Launch tl.ak-mismatch
	FaultOtherVM        Fault = "other-vm"        // all evidence is another genuine VM's: bind.vm
	FaultRuntimeEdited  Fault = "runtime-edited"  // runtime data changed after it was hashed: bind.runtime
	FaultNoVCEK         Fault = "no-vcek"         // the metadata service has no VCEK: snp.no-vcek
	FaultForeignRoot    Fault = "foreign-root"    // the chip is endorsed by another vendor: MAA refuses
	FaultDebug          Fault = "debug"           // the guest may be debugged: MAA calls it not compliant
	FaultHung           Fault = "hung"            // the agent takes the command and never ends
	FaultAgentFails     Fault = "agent-fails"     // the command ends with status 1 at once
	FaultFirstBoot      Fault = "first-boot"      // cloud-init is still at work: a claim
	FaultNotEncrypted   Fault = "not-encrypted"   // the root is plain: a claim
	FaultQuoteSignature Fault = "quote-signature" // a bit of the signature is flipped: quote.signature
	FaultClearKey       Fault = "clear-key"       // a key to the disk lies in clear in its header: a claim
	FaultSlotLeft       Fault = "slot-left"       // the first boot's key slot was never removed: a claim
	FaultUnfenced       Fault = "unfenced"        // PCR 12 is zero: the initial RAM disk that opens a sealed root didn't run
)

// Config is what a machine is. The zero value of each switch is the good state.
type Config struct {
	Kind          Kind   // required
	VMUniqueID    string // required: ARM's properties.vmId
	ResourceID    string // the VM's ARM id, for the metadata service
	SecureBootOff bool
	Stateless     bool             // the vTPM's state is not kept (securityEncryptionType NonPersistedTPM)
	PlainRoot     bool             // the root isn't encrypted in the guest (securityEncryptionType VMGuestStateOnly)
	Kernel        string           // "" is kernel.efi-6.8.0-1021-azure-fde
	TCB           TCB              // zero is DefaultTCB; SNP only
	Clock         func() time.Time // nil is time.Now
}

// Machine is one simulated VM's hardware, paravisor, vTPM and operating system.
// It is safe for concurrent use.
type Machine struct {
	vendors  *Vendors
	cfg      Config
	ak, ek   *rsa.PrivateKey
	akCert   []byte
	reportID [32]byte
	rootCert [32]byte

	mu        sync.Mutex
	faults    map[Fault]bool
	update    update
	boot      boot
	booted    time.Time
	clockBase time.Duration // the TPM clock at the last boot
	resets    uint32
	userData  [64]byte
	defined   bool // NV 0x01400002 is there
	chips     map[bool]*chip
	platforms map[bool]*platform
}

// NewMachine makes a VM that has just booted. Keys are made here (some
// milliseconds); chip and platform at the first report.
func NewMachine(v *Vendors, cfg Config) (*Machine, error) {
	switch {
	case cfg.Kind != SNP && cfg.Kind != TDX && cfg.Kind != TrustedLaunch:
		return nil, fmt.Errorf("machine kind %q is unknown: want %q, %q or %q", cfg.Kind, SNP, TDX, TrustedLaunch)
	case cfg.VMUniqueID == "":
		return nil, fmt.Errorf("machine of kind %q has no VMUniqueID: give ARM's properties.vmId", cfg.Kind)
	}
	if cfg.Kernel == "" {
		cfg.Kernel = "kernel.efi-6.8.0-1021-azure-fde"
	}
	if cfg.TCB == (TCB{}) {
		cfg.TCB = DefaultTCB
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	m := &Machine{
		vendors: v, cfg: cfg, faults: map[Fault]bool{},
		chips: map[bool]*chip{}, platforms: map[bool]*platform{},
	}
	var err error
	if m.ak, err = v.keys.next(); err != nil {
		return nil, err
	}
	if m.ek, err = v.keys.next(); err != nil {
		return nil, err
	}
	if m.akCert, err = v.akCertificate(&m.ak.PublicKey); err != nil {
		return nil, err
	}
	for _, b := range [][]byte{m.reportID[:], m.rootCert[:]} {
		if _, err := rand.Read(b); err != nil {
			return nil, fmt.Errorf("drawing a machine's ids: %w", err)
		}
	}
	m.start()
	return m, nil
}

// Config is what the machine was made with, defaults filled in.
func (m *Machine) Config() Config {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cfg
}

// SetFaults replaces the machine's faults; none heals it.
func (m *Machine) SetFaults(faults ...Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = map[Fault]bool{}
	for _, f := range faults {
		m.faults[f] = true
	}
}

func (m *Machine) has(f Fault) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.faults[f]
}

// Restart boots the machine again: PCRs start afresh, resetCount rises, user data
// is forgotten, the AK stays.
func (m *Machine) Restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.start()
}

// SetSecureBoot changes the firmware's setting; it shows after the next Restart.
func (m *Machine) SetSecureBoot(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cfg.SecureBootOff = !on
}

// start boots. The caller holds mu or owns m.
func (m *Machine) start() {
	now := m.cfg.Clock()
	if !m.booted.IsZero() {
		m.clockBase += now.Sub(m.booted)
	}
	m.booted = now
	m.resets++
	m.userData, m.defined = [64]byte{}, false
	m.settleUpdate()
	m.boot = bootOf(m.cfg, m.update.dbx)
}

// twin is another genuine machine of the same kind: the one whose evidence a
// relaying agent sends.
func (m *Machine) twin() (*Machine, error) {
	cfg := m.Config()
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("drawing another VM's id: %w", err)
	}
	cfg.VMUniqueID = fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:])
	return NewMachine(m.vendors, cfg)
}

// A second set of vendors, who have the real ones' names and not their keys.
var forgers = sync.OnceValues(NewVendors)

// makers are the vendors under whose roots the processor stands: the machine's own,
// or the forgers. The caller holds mu.
func (m *Machine) makers() (*Vendors, bool, error) {
	if !m.faults[FaultForeignRoot] {
		return m.vendors, false, nil
	}
	v, err := forgers()
	return v, true, err
}

func (m *Machine) chip() (*chip, error) {
	v, forged, err := m.makers()
	if err != nil {
		return nil, err
	}
	if m.chips[forged] == nil {
		if m.chips[forged], err = v.newChip(m.cfg.TCB); err != nil {
			return nil, err
		}
	}
	return m.chips[forged], nil
}

func (m *Machine) platform() (*platform, error) {
	v, forged, err := m.makers()
	if err != nil {
		return nil, err
	}
	if m.platforms[forged] == nil {
		if m.platforms[forged], err = v.newPlatform(); err != nil {
			return nil, err
		}
	}
	return m.platforms[forged], nil
}

// VCEK is the chip's certificate, as the metadata service gives it.
func (m *Machine) VCEK(ctx context.Context) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.cfg.Kind != SNP || m.faults[FaultNoVCEK] {
		return nil, fmt.Errorf("VCEK: %w", guest.ErrAbsent)
	}
	c, err := m.chip()
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), c.vcek...), nil
}

// TDQuote has the platform's quoting enclave turn a TDREPORT into a quote.
func (m *Machine) TDQuote(ctx context.Context, tdreport []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.cfg.Kind != TDX {
		return nil, fmt.Errorf("TD quote: %w", guest.ErrAbsent)
	}
	p, err := m.platform()
	if err != nil {
		return nil, err
	}
	return p.quote(tdreport)
}

// VMID is compute.vmId of the metadata service.
func (m *Machine) VMID(ctx context.Context) (string, error) {
	return m.cfg.VMUniqueID, ctx.Err()
}

// ResourceID is compute.resourceId of the metadata service.
func (m *Machine) ResourceID(ctx context.Context) (string, error) {
	return m.cfg.ResourceID, ctx.Err()
}

// A machine is all that the collector asks for.
var (
	_ guest.TPM          = (*Machine)(nil)
	_ guest.IMDS         = (*Machine)(nil)
	_ guest.System       = (*Machine)(nil)
	_ guest.ResourceIDer = (*Machine)(nil)
)
