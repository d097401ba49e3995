package attest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// SNPReportSize is the size of an SEV-SNP attestation report in bytes.
const SNPReportSize = 1184

// SNPReport holds the fields of an SEV-SNP attestation report that are judged or
// recorded. Raw is the whole; Signed is what the VCEK signs.
type SNPReport struct {
	Version         uint32
	GuestSVN        uint32
	Policy          uint64
	VMPL            uint32
	SigningKey      uint32 // 0 VCEK, 1 VLEK, 7 none
	MaskChipID      bool
	ReportData      [64]byte
	Measurement     [48]byte
	IDKeyDigest     [48]byte
	AuthorKeyDigest [48]byte
	ReportedTCB     [8]byte // components as bytes: never compare as one integer
	Family, Model   uint8   // CPUID, version 3 and later; 0 before
	ChipID          [64]byte
	Raw             []byte
}

// Signed is the part of the report that its signature covers.
func (r SNPReport) Signed() []byte { return r.Raw[:0x2A0] }

// ParseSNPReport reads a report (S1): version 2 to 5, ECDSA P-384 with SHA-384,
// signed by a VCEK, reserved bytes zero.
func ParseSNPReport(b []byte) (SNPReport, error) {
	if len(b) != SNPReportSize {
		return SNPReport{}, fmt.Errorf("SNP report of %d bytes, want %d", len(b), SNPReportSize)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	r := SNPReport{
		Version: u32(0), GuestSVN: u32(4), Policy: binary.LittleEndian.Uint64(b[8:]), VMPL: u32(0x30),
		MaskChipID: u32(0x48)&2 != 0, SigningKey: u32(0x48) >> 2 & 7,
		Family: b[0x188], Model: b[0x189], Raw: b,
	}
	copy(r.ReportData[:], b[0x50:])
	copy(r.Measurement[:], b[0x90:])
	copy(r.IDKeyDigest[:], b[0xE0:])
	copy(r.AuthorKeyDigest[:], b[0x110:])
	copy(r.ReportedTCB[:], b[0x180:])
	copy(r.ChipID[:], b[0x1A0:])
	switch {
	case r.Version < 2 || r.Version > 5:
		return r, fmt.Errorf("SNP report version %d is not 2 to 5", r.Version)
	case u32(0x34) != 1:
		return r, fmt.Errorf("SNP signature algorithm %d is not 1 (ECDSA P-384 with SHA-384)", u32(0x34))
	case r.SigningKey != 0:
		return r, fmt.Errorf("SNP report is signed by key kind %d, not by a VCEK", r.SigningKey)
	case r.Policy&(1<<17) == 0:
		return r, errors.New("SNP guest policy lacks bit 17, which is always one")
	case !allZero(b[0x208:0x2A0]) || !allZero(b[0x2A0+144:]):
		return r, errors.New("SNP report has reserved bytes that are not zero")
	}
	return r, nil
}
