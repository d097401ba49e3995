package hardware

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// The event types that the simulated firmware logs.
const (
	evNoAction      = 0x3
	evSeparator     = 0x4
	evEventTag      = 0x6
	evCRTMVersion   = 0x8
	evIPL           = 0xD
	evVariable      = 0x80000001
	evApplication   = 0x80000003
	evGPT           = 0x80000006
	evAction        = 0x80000007
	evAuthority     = 0x800000E0
	tpmAlgSHA256    = 0x000B
	pcrCount        = 24
	firstDRTM       = 17 // PCRs 17 to 22 start with all bits set
	lastDRTM        = 22
	fencePCR        = 12
	specIDSignature = "Spec ID Event03\x00"
)

// pcrBank is a SHA-256 bank.
type pcrBank [pcrCount][32]byte

func newBank() *pcrBank {
	var b pcrBank
	for i := firstDRTM; i <= lastDRTM; i++ {
		for j := range b[i] {
			b[i][j] = 0xFF
		}
	}
	return &b
}

func (b *pcrBank) extend(pcr int, digest [32]byte) {
	b[pcr] = sha256.Sum256(append(b[pcr][:], digest[:]...))
}

// boot is one boot of a machine: the log that the firmware and the loaders wrote
// and the bank that they left. The log is synthetic, and replays to the bank but
// for PCR 12, which the initial RAM disk extends without logging it.
type boot struct {
	log  []byte
	bank *pcrBank
}

// record extends and logs one event. A nil digest is that of the data.
func (b *boot) record(pcr int, kind uint32, data []byte, digest *[32]byte) {
	d := sha256.Sum256(data)
	if digest != nil {
		d = *digest
	}
	b.bank.extend(pcr, d)
	le := binary.LittleEndian
	b.log = le.AppendUint32(b.log, uint32(pcr))
	b.log = le.AppendUint32(b.log, kind)
	b.log = le.AppendUint32(b.log, 1)
	b.log = le.AppendUint16(b.log, tpmAlgSHA256)
	b.log = append(b.log, d[:]...)
	b.log = le.AppendUint32(b.log, uint32(len(data)))
	b.log = append(b.log, data...)
}

// bootOf is how a machine boots. Its kernel's name stands for the image, so that
// another one gives another PCR 4; dbx counts the changes of the forbidden
// signatures, each of which gives another PCR 7.
func bootOf(cfg Config, dbx int) boot {
	kind, secureBootOff, kernel := cfg.Kind, cfg.SecureBootOff, cfg.Kernel
	b := boot{bank: newBank()}
	b.specID()
	b.record(0, evCRTMVersion, []byte("cvmguard simulated firmware 1\x00"), nil)

	on := byte(1)
	if secureBootOff {
		on = 0
	}
	b.record(7, evVariable, variable("SecureBoot", []byte{on}), nil)
	for _, name := range []string{"PK", "KEK", "db", "dbx"} {
		value := "simulated " + name
		if name == "dbx" && dbx > 0 {
			value += fmt.Sprintf(" and %d more", dbx)
		}
		b.record(7, evVariable, variable(name, []byte(value)), nil)
	}
	b.record(4, evAction, []byte("Calling EFI Application from Boot Option"), nil)
	b.record(5, evGPT, []byte("simulated GPT of "+string(kind)), nil)
	for pcr := range 8 {
		b.record(pcr, evSeparator, make([]byte, 4), nil)
	}
	if !secureBootOff {
		b.record(7, evAuthority, variable("db", []byte("simulated signer of shim")), nil)
	}
	// An application's digest is that of its image, not of the event's text.
	shim, image := sha256.Sum256([]byte("simulated shim")), sha256.Sum256([]byte(kernel))
	b.record(4, evApplication, []byte("shimx64.efi"), &shim)
	if kind == TrustedLaunch { // through GRUB, which tells PCR 8 what it does
		grub := sha256.Sum256([]byte("simulated grub"))
		b.record(4, evApplication, []byte("grubx64.efi"), &grub)
		b.record(8, evIPL, []byte("grub_cmd: linux /"+kernel), nil)
	}
	b.record(4, evApplication, []byte(kernel), &image)
	b.record(9, evEventTag, []byte("simulated initrd of "+kernel), nil)
	b.record(5, evAction, []byte("Exit Boot Services Invocation"), nil)
	b.record(5, evAction, []byte("Exit Boot Services Returned with Success"), nil)

	if kind != TrustedLaunch && !cfg.PlainRoot {
		// The Ubuntu initrd measures its epoch and, after it has unsealed the disk's
		// key, extends the same again, so that nothing later can unseal it.
		epoch := sha256.Sum256(make([]byte, 4))
		b.bank.extend(fencePCR, epoch)
		b.bank.extend(fencePCR, epoch)
	}
	return b
}

// specID is the log's first event, in the old SHA-1 form: it tells which digests
// the others carry.
func (b *boot) specID() {
	le := binary.LittleEndian
	data := []byte(specIDSignature)
	data = le.AppendUint32(data, 0)    // platform class: client
	data = append(data, 0, 2, 0, 2)    // version 2.0, errata 0, UINTN of 8 bytes
	data = le.AppendUint32(data, 1)    // one algorithm
	data = le.AppendUint16(data, 0x0B) // SHA-256
	data = le.AppendUint16(data, 32)
	data = append(data, 0)
	b.log = le.AppendUint32(b.log, 0)
	b.log = le.AppendUint32(b.log, evNoAction)
	b.log = append(b.log, make([]byte, 20)...)
	b.log = le.AppendUint32(b.log, uint32(len(data)))
	b.log = append(b.log, data...)
}

// variable is UEFI_VARIABLE_DATA under the global variable GUID.
func variable(name string, value []byte) []byte {
	le := binary.LittleEndian
	wide := utf16.Encode([]rune(name))
	out := mustHex("61dfe48bca93d211aa0d00e098032b8c")
	out = le.AppendUint64(out, uint64(len(wide)))
	out = le.AppendUint64(out, uint64(len(value)))
	for _, c := range wide {
		out = le.AppendUint16(out, c)
	}
	return append(out, value...)
}
