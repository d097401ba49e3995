package attest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// TDReportSize is the size of a TDREPORT in bytes; in an HCL report zeros follow.
const TDReportSize = 1024

// intelQEVendor is the vendor id of Intel's quoting enclave.
const intelQEVendor = "939a7233f79c4ca9940a0db3957f0607"

// TDReport holds the fields of a TDREPORT that must agree with the quote. Its MAC
// can only be checked by the CPU that made it: nothing here is proven alone.
type TDReport struct {
	ReportData [64]byte
	MRTD       [48]byte
}

// ParseTDReport reads a TDREPORT.
func ParseTDReport(b []byte) (TDReport, error) {
	var r TDReport
	if len(b) < TDReportSize {
		return r, fmt.Errorf("TDREPORT of %d bytes, want %d", len(b), TDReportSize)
	}
	if b[0] != 0x81 {
		return r, fmt.Errorf("TDREPORT type byte %#x is not 0x81", b[0])
	}
	copy(r.ReportData[:], b[128:])
	copy(r.MRTD[:], b[512+16:])
	return r, nil
}

// TDQuote holds the fields of a TD quote's body. The signature is not verified by
// parsing: Signed and Signature are there for whoever does.
type TDQuote struct {
	Version      uint16 // 4 or 5
	TEETCBSVN    [16]byte
	MRSignerSEAM [48]byte
	SEAMAttrs    [8]byte
	Attributes   [8]byte
	XFAM         [8]byte
	MRTD         [48]byte
	ReportData   [64]byte
	Signed       []byte // header and body: what the attestation key signs
	Signature    []byte // the signature data that follows
}

const (
	tdHeader = 48
	tdBody10 = 584
	tdBody15 = 648
)

// ParseTDQuote reads a TD quote, version 4 or 5 (T1): TEE type TDX, ECDSA P-256
// key, Intel's quoting enclave. Zeros may follow the signature data, nothing else.
func ParseTDQuote(b []byte) (TDQuote, error) {
	var q TDQuote
	if len(b) < tdHeader+6 {
		return q, fmt.Errorf("TD quote of %d bytes is shorter than its header", len(b))
	}
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
	q.Version = u16(0)
	if k := u16(2); k != 2 {
		return q, fmt.Errorf("TD quote key type %d is not 2 (ECDSA P-256)", k)
	}
	if t := binary.LittleEndian.Uint32(b[4:]); t != 0x81 {
		return q, fmt.Errorf("TD quote TEE type %#x is not 0x81 (TDX)", t)
	}
	if v := hex.EncodeToString(b[12:28]); v != intelQEVendor {
		return q, fmt.Errorf("TD quote's QE vendor %s is not Intel's", v)
	}
	at, size := tdHeader, tdBody10
	switch q.Version {
	case 4:
	case 5:
		kind, length := u16(tdHeader), binary.LittleEndian.Uint32(b[tdHeader+2:])
		at += 6
		if kind == 3 {
			size = tdBody15
		} else if kind != 2 {
			return q, fmt.Errorf("TD quote body type %d is not 2 or 3 (TDX 1.0, 1.5)", kind)
		}
		if uint64(length) != uint64(size) {
			return q, fmt.Errorf("TD quote body of %d bytes, want %d for type %d", length, size, kind)
		}
	default:
		return q, fmt.Errorf("TD quote version %d is not 4 or 5", q.Version)
	}
	end := at + size
	if len(b) < end+4 {
		return q, fmt.Errorf("TD quote of %d bytes ends inside its body", len(b))
	}
	body := b[at:end]
	copy(q.TEETCBSVN[:], body)
	copy(q.MRSignerSEAM[:], body[0x40:])
	copy(q.SEAMAttrs[:], body[0x70:])
	copy(q.Attributes[:], body[0x78:])
	copy(q.XFAM[:], body[0x80:])
	copy(q.MRTD[:], body[0x88:])
	copy(q.ReportData[:], body[0x208:])
	q.Signed = b[:end]
	n := uint64(binary.LittleEndian.Uint32(b[end:]))
	rest := b[end+4:]
	if n == 0 || n > uint64(len(rest)) {
		return q, fmt.Errorf("TD quote's signature data of %d bytes does not fit the %d left", n, len(rest))
	}
	q.Signature = rest[:n]
	if !allZero(rest[n:]) {
		return q, errors.New("TD quote has bytes after its signature data that are not padding")
	}
	return q, nil
}
