package hardware

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// TCB is the four security version numbers of a Milan or Genoa chip. They are
// compared one by one, never as one number.
type TCB struct{ Bootloader, TEE, SNP, Microcode uint8 }

// word is the TCB as the report carries it: bytes 0, 1, 6 and 7 of a
// little-endian word.
func (t TCB) word() uint64 {
	return uint64(t.Bootloader) | uint64(t.TEE)<<8 | uint64(t.SNP)<<48 | uint64(t.Microcode)<<56
}

func tcbOf(w uint64) TCB {
	return TCB{uint8(w), uint8(w >> 8), uint8(w >> 48), uint8(w >> 56)}
}

// DefaultTCB is what a Milan chip in Azure reported in 2025.
var DefaultTCB = TCB{Bootloader: 4, TEE: 0, SNP: 24, Microcode: 219}

// chip is one simulated processor: its id, its endorsement key and the VCEK.
type chip struct {
	id   [64]byte
	tcb  TCB
	key  *ecdsa.PrivateKey
	vcek []byte // DER
}

// oidAMD is the arc of the VCEK's extensions.
var oidAMD = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

func amdOID(tail ...int) asn1.ObjectIdentifier {
	return append(append(asn1.ObjectIdentifier(nil), oidAMD...), tail...)
}

// newChip makes a chip at a TCB and has the ASK endorse it.
func (v *Vendors) newChip(tcb TCB) (*chip, error) {
	c := &chip{tcb: tcb}
	if _, err := rand.Read(c.id[:]); err != nil {
		return nil, fmt.Errorf("drawing a chip id: %w", err)
	}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making a chip's endorsement key: %w", err)
	}
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	exts, err := vcekExtensions(tcb, c.id)
	if err != nil {
		return nil, err
	}
	cert, err := issue(&x509.Certificate{
		SerialNumber: serial, Subject: amdName("SEV-VCEK"),
		NotBefore: validFrom, NotAfter: validUntil,
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
		ExtraExtensions:    exts,
	}, v.ASK, c.key.Public(), v.askKey)
	if err != nil {
		return nil, err
	}
	c.vcek = cert.Raw
	return c, nil
}

// vcekExtensions are AMD's: structure version, product, the version numbers and
// the hardware id, which is raw and not wrapped in an OCTET STRING.
func vcekExtensions(tcb TCB, id [64]byte) ([]pkix.Extension, error) {
	var exts []pkix.Extension
	integer := func(n int, tail ...int) error {
		der, err := asn1.Marshal(n)
		if err != nil {
			return fmt.Errorf("encoding VCEK extension %v: %w", tail, err)
		}
		exts = append(exts, pkix.Extension{Id: amdOID(tail...), Value: der})
		return nil
	}
	product, err := asn1.MarshalWithParams("Milan-B0", "ia5")
	if err != nil {
		return nil, fmt.Errorf("encoding the VCEK's product: %w", err)
	}
	err = errors.Join(
		integer(1, 1), integer(int(tcb.Bootloader), 3, 1), integer(int(tcb.TEE), 3, 2), integer(int(tcb.SNP), 3, 3),
		integer(0, 3, 4), integer(0, 3, 5), integer(0, 3, 6), integer(0, 3, 7), integer(int(tcb.Microcode), 3, 8))
	exts = append(exts,
		pkix.Extension{Id: amdOID(2), Value: product},
		pkix.Extension{Id: amdOID(4), Value: bytes.Clone(id[:])})
	return exts, err
}

// The layout of an SNP attestation report: offsets in its 1184 bytes.
const (
	snpReportSize = 1184
	snpSigned     = 0x2A0 // the signature is over the bytes before it
	snpPolicy     = 0x008
	snpVMPL       = 0x030
	snpTCBNow     = 0x038
	snpData       = 0x050
	snpMeasure    = 0x090
	snpHostData   = 0x0C0
	snpIDKey      = 0x0E0
	snpAuthorKey  = 0x110
	snpReportID   = 0x140
	snpTCB        = 0x180
	snpChipID     = 0x1A0

	policyAzure = 0x3001F // ABI 0.31, SMT allowed, the bit that is always one
	policyDebug = 1 << 19
	guestSVN    = 10
)

// Measurements of the simulated paravisor and the digest of the key that signed
// it: data that a policy may pin.
var (
	SNPMeasurement = sha512.Sum384([]byte("cvmguard simulated SNP paravisor 1"))
	SNPIDKeyDigest = sha512.Sum384([]byte("cvmguard simulated paravisor signing key"))
	TDXMeasurement = sha512.Sum384([]byte("cvmguard simulated TDX paravisor 1"))
	tdxModule      = sha512.Sum384([]byte("cvmguard simulated TDX module 1"))
)

// report is a signed report over data (64 bytes), version 3.
func (c *chip) report(data [64]byte, reportID [32]byte, policy uint64) ([]byte, error) {
	r := make([]byte, snpReportSize)
	le := binary.LittleEndian
	le.PutUint32(r[0x000:], 3)
	le.PutUint32(r[0x004:], guestSVN)
	le.PutUint64(r[snpPolicy:], policy)
	r[0x010], r[0x020] = 1, 2 // FAMILY_ID, IMAGE_ID
	le.PutUint32(r[0x034:], 1)
	le.PutUint64(r[snpTCBNow:], c.tcb.word())
	le.PutUint64(r[0x040:], 0x25) // SMT, ECC, alias check done
	copy(r[snpData:], data[:])
	copy(r[snpMeasure:], SNPMeasurement[:])
	copy(r[snpIDKey:], SNPIDKeyDigest[:])
	copy(r[snpReportID:], reportID[:])
	copy(r[0x160:0x180], bytes.Repeat([]byte{0xFF}, 32)) // no migration agent
	le.PutUint64(r[snpTCB:], c.tcb.word())
	r[0x188], r[0x189], r[0x18A] = 0x19, 0x01, 1 // family, model, stepping: Milan
	copy(r[snpChipID:], c.id[:])
	le.PutUint64(r[0x1E0:], c.tcb.word())
	copy(r[0x1E8:], []byte{29, 55, 1, 0, 29, 55, 1, 0}) // firmware 1.55.29, current and committed
	le.PutUint64(r[0x1F0:], c.tcb.word())

	digest := sha512.Sum384(r[:snpSigned])
	sr, ss, err := ecdsa.Sign(rand.Reader, c.key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing a simulated SNP report: %w", err)
	}
	putLittle(r[snpSigned:snpSigned+72], sr)
	putLittle(r[snpSigned+72:snpSigned+144], ss)
	return r, nil
}

// putLittle writes n little-endian into the whole of dst.
func putLittle(dst []byte, n *big.Int) {
	n.FillBytes(dst)
	reverse(dst)
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

// checkSNP is what the attestation service asks of a report and a VCEK before it
// believes a word of it: the chain to these vendors, the certificate for this
// chip at this TCB, the signature, and privilege level 0.
func (v *Vendors) checkSNP(report []byte, vcek *x509.Certificate) error {
	if len(report) != snpReportSize {
		return fmt.Errorf("the report has %d bytes, want %d", len(report), snpReportSize)
	}
	if err := vcek.CheckSignatureFrom(v.ASK); err != nil {
		return fmt.Errorf("the VCEK is not signed by the SEV CA: %w", err)
	}
	le := binary.LittleEndian
	if n := le.Uint32(report); n < 2 || n > 5 {
		return fmt.Errorf("report version %d is not supported", n)
	}
	certTCB, hwid, err := vcekFacts(vcek)
	if err != nil {
		return err
	}
	if tcbOf(le.Uint64(report[snpTCB:])) != certTCB {
		return errors.New("the VCEK is for another TCB than the report's")
	}
	if !bytes.Equal(hwid, report[snpChipID:snpChipID+64]) {
		return errors.New("the VCEK is another chip's")
	}
	pub, ok := vcek.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the VCEK's key is %T, want P-384", vcek.PublicKey)
	}
	sig := bytes.Clone(report[snpSigned : snpSigned+144])
	reverse(sig[:72])
	reverse(sig[72:])
	digest := sha512.Sum384(report[:snpSigned])
	if !ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:72]), new(big.Int).SetBytes(sig[72:])) {
		return errors.New("the report's signature does not verify")
	}
	if l := le.Uint32(report[snpVMPL:]); l != 0 {
		return fmt.Errorf("the report was asked for at privilege level %d, want 0", l)
	}
	return nil
}

func vcekFacts(c *x509.Certificate) (TCB, []byte, error) {
	var t TCB
	var hwid []byte
	part := map[int]*uint8{1: &t.Bootloader, 2: &t.TEE, 3: &t.SNP, 8: &t.Microcode}
	for _, e := range c.Extensions {
		if len(e.Id) <= len(oidAMD) || !e.Id[:len(oidAMD)].Equal(oidAMD) {
			continue
		}
		switch tail := e.Id[len(oidAMD):]; {
		case len(tail) == 1 && tail[0] == 4:
			hwid = e.Value
		case len(tail) == 2 && tail[0] == 3 && part[tail[1]] != nil:
			var n int
			if rest, err := asn1.Unmarshal(e.Value, &n); err != nil || len(rest) > 0 || n < 0 || n > 255 {
				return TCB{}, nil, fmt.Errorf("VCEK extension %v is not a version number", e.Id)
			}
			*part[tail[1]] = uint8(n)
		}
	}
	if len(hwid) != 64 {
		return TCB{}, nil, errors.New("the VCEK has no hardware id of 64 bytes")
	}
	return t, hwid, nil
}
