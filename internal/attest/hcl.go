package attest

import (
	"encoding/binary"
	"fmt"
)

// The report types of an HCL report.
const (
	HCLTypeVBS       = 1
	HCLTypeSNP       = 2
	HCLTypeTrustedVM = 3
	HCLTypeTDX       = 4
	HCLTypeCCA       = 5
)

// Layout of the HCL report, little-endian. The header is not measured: everything
// in it is the sender's word until the runtime data is found bound to the report.
const (
	HCLHeaderSize   = 32
	HCLHardwareSize = 1184
	hclDataOffset   = HCLHeaderSize + HCLHardwareSize // 1216
	HCLRuntime      = hclDataOffset + 20              // 1236: where runtime data starts
)

// HCLReport is the paravisor's report from NV 0x01400001.
type HCLReport struct {
	Version  uint32
	Type     uint32 // HCLType…
	Hardware []byte // 1184 bytes: an SNP report, or a TDREPORT and zeros
	Runtime  []byte // the runtime data, exactly the bytes that are hashed
	Length   int    // from the header to the end of runtime data; what follows is padding
}

// ParseHCL reads an HCL report (C3). What comes after the runtime data must be
// zero.
func ParseHCL(b []byte) (HCLReport, error) {
	if len(b) < HCLRuntime {
		return HCLReport{}, fmt.Errorf("HCL report of %d bytes is shorter than its headers (%d)", len(b), HCLRuntime)
	}
	if len(b) > MaxHCL {
		return HCLReport{}, fmt.Errorf("HCL report of %d bytes is over %d", len(b), MaxHCL)
	}
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	if string(b[:4]) != "HCLA" {
		return HCLReport{}, fmt.Errorf("HCL report starts with %q, want \"HCLA\"", b[:4])
	}
	r := HCLReport{Version: u32(4), Type: u32(hclDataOffset + 8)}
	if r.Version != 1 && r.Version != 2 {
		return r, fmt.Errorf("HCL report version %d is not known (1 and 2 are)", r.Version)
	}
	if t := u32(12); t != 2 {
		return r, fmt.Errorf("HCL request type %d is not 2 (AK certificate)", t)
	}
	if s := u32(16); s != 0 {
		return r, fmt.Errorf("HCL report carries status %d", s)
	}
	if v := u32(hclDataOffset + 4); v != 1 {
		return r, fmt.Errorf("HCL runtime header version %d is not 1", v)
	}
	if r.Type < HCLTypeVBS || r.Type > HCLTypeCCA {
		return r, fmt.Errorf("HCL report type %d is not known", r.Type)
	}
	if h := u32(hclDataOffset + 12); h != 1 {
		return r, fmt.Errorf("HCL hash type %d is not 1 (SHA-256)", h)
	}
	n := uint64(u32(hclDataOffset + 16)) // 64 bits: no sum below can overflow
	if n == 0 || n > uint64(len(b)-HCLRuntime) {
		return r, fmt.Errorf("HCL runtime data of %d bytes does not fit the %d that follow the headers", n, len(b)-HCLRuntime)
	}
	if got := uint64(u32(hclDataOffset)); got != 20+n {
		return r, fmt.Errorf("HCL data size %d is not 20 + %d", got, n)
	}
	if got := uint64(u32(8)); got != HCLRuntime+n {
		return r, fmt.Errorf("HCL report size %d is not %d + %d", got, HCLRuntime, n)
	}
	r.Length = HCLRuntime + int(n)
	r.Hardware = b[HCLHeaderSize:hclDataOffset]
	r.Runtime = b[HCLRuntime:r.Length]
	if !allZero(b[r.Length:]) {
		return r, fmt.Errorf("HCL report has %d bytes after its runtime data that are not padding", len(b)-r.Length)
	}
	return r, nil
}

func allZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
