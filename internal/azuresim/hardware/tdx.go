package hardware

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// The layout of a TDREPORT: 1024 bytes that only the same processor can check.
const (
	tdReportSize     = 1024
	tdReportData     = 128
	tdReportMAC      = 224
	tdReportTCBInfo  = 256 // valid(8) tee_tcb_svn(16) mrseam(48) mrsignerseam(48) attributes(8)
	tdReportInfo     = 512 // attributes(8) xfam(8) mrtd(48) mrconfigid, mrowner, mrownerconfig, rtmr0-3 (48 each)
	tdInfoSize       = 16 + 8*48
	tdReportMACBytes = 32
)

// The layout of a version 4 quote: header, body, then the signature data.
const (
	quoteHeader   = 48
	quoteBody     = 584
	quoteSigned   = quoteHeader + quoteBody // 632: the attestation key signs what is before
	quoteTrailing = 70                      // zero bytes that Azure's service leaves at the end

	bodyTCBSVN  = 0x00
	bodyAttrs   = 0x78
	bodyMRTD    = 0x88
	bodyRTMR0   = 0x148
	bodyData    = 0x208
	tdxTEE      = 0x81
	quoteTypeQE = 6
	quoteTypePC = 5
)

var (
	intelQEVendor = mustHex("939a7233f79c4ca9940a0db3957f0607")
	tdxTCBSVN     = mustHex("03010600000000000000000000000000")
	tdxXFAM       = mustHex("e718060000000000")
	qeSigner      = sha256.Sum256([]byte("cvmguard simulated quoting enclave signer"))
	fmspc         = mustHex("00806f050000")
)

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant of this file is wrong
	}
	return b
}

// platform is one simulated Intel processor with its quoting enclave.
type platform struct {
	mac     [32]byte          // the key of TDREPORT's MAC: never leaves the processor
	attest  *ecdsa.PrivateKey // the quoting enclave's attestation key
	qe      []byte            // QE report, its signature by the PCK, auth data: the fixed part of a quote
	chain   []byte            // PEM: PCK, platform CA, root
	pckCert *x509.Certificate
}

// newPlatform makes a processor, has its PCK certified and its quoting enclave
// vouched for by the PCK.
func (v *Vendors) newPlatform() (*platform, error) {
	p := new(platform)
	if _, err := rand.Read(p.mac[:]); err != nil {
		return nil, fmt.Errorf("drawing a platform's secret: %w", err)
	}
	pck, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a PCK: %w", err)
	}
	if p.attest, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("making an attestation key: %w", err)
	}
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	ext, err := sgxExtension()
	if err != nil {
		return nil, err
	}
	p.pckCert, err = issue(&x509.Certificate{
		SerialNumber: serial, Subject: intelName("Intel SGX PCK Certificate"),
		NotBefore: validFrom, NotAfter: validUntil,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{ext},
	}, v.IntelCA, pck.Public(), v.intelCAKey)
	if err != nil {
		return nil, err
	}
	p.chain = pemOf(p.pckCert.Raw, v.IntelCA.Raw, v.IntelRoot.Raw)

	// The quoting enclave's report names the attestation key that it made.
	auth := make([]byte, 32)
	for i := range auth {
		auth[i] = byte(i)
	}
	pub, err := rawPublic(p.attest)
	if err != nil {
		return nil, err
	}
	qe := make([]byte, 384)
	copy(qe[128:160], qeSigner[:])
	binary.LittleEndian.PutUint16(qe[256:], 2) // ISVPRODID of the TD quoting enclave
	binary.LittleEndian.PutUint16(qe[258:], 6) // ISVSVN
	named := sha256.Sum256(append(bytes.Clone(pub), auth...))
	copy(qe[320:], named[:])
	sig, err := signRaw(pck, qe)
	if err != nil {
		return nil, err
	}
	p.qe = append(append(qe, sig...), byte(len(auth)), byte(len(auth)>>8))
	p.qe = append(p.qe, auth...)
	return p, nil
}

// tdReport is a TDREPORT over data.
func (p *platform) tdReport(data [64]byte, debug bool) []byte {
	r := make([]byte, tdReportSize)
	r[0] = tdxTEE
	copy(r[tdReportData:], data[:])
	copy(r[tdReportTCBInfo:], []byte{0xFF, 0x01, 0x03})
	copy(r[tdReportTCBInfo+8:], tdxTCBSVN)
	copy(r[tdReportTCBInfo+24:], tdxModule[:])
	if debug {
		r[tdReportInfo] = 1
	}
	copy(r[tdReportInfo+8:], tdxXFAM)
	copy(r[tdReportInfo+16:], TDXMeasurement[:])
	copy(r[tdReportMAC:], p.macOf(r))
	return r
}

func (p *platform) macOf(report []byte) []byte {
	h := hmac.New(sha256.New, p.mac[:])
	h.Write(report[:tdReportMAC])
	h.Write(report[tdReportTCBInfo:])
	return h.Sum(nil)
}

// quote turns a TDREPORT of this processor into a version 4 quote, as Azure's
// metadata service does: trailing zeros and all.
func (p *platform) quote(report []byte) ([]byte, error) {
	if len(report) != tdReportSize || report[0] != tdxTEE {
		return nil, errors.New("not a TDREPORT of 1024 bytes")
	}
	if !hmac.Equal(p.macOf(report), report[tdReportMAC:tdReportMAC+tdReportMACBytes]) {
		return nil, errors.New("the TDREPORT was not made by this processor")
	}
	le := binary.LittleEndian
	q := make([]byte, quoteSigned)
	le.PutUint16(q[0:], 4)
	le.PutUint16(q[2:], 2)
	le.PutUint32(q[4:], tdxTEE)
	le.PutUint16(q[8:], 11)
	copy(q[12:], intelQEVendor)
	body := q[quoteHeader:]
	copy(body[bodyTCBSVN:bodyAttrs], report[tdReportTCBInfo+8:tdReportTCBInfo+8+bodyAttrs])
	copy(body[bodyAttrs:], report[tdReportInfo:tdReportInfo+tdInfoSize])
	copy(body[bodyData:], report[tdReportData:tdReportData+64])

	sig, err := signRaw(p.attest, q)
	if err != nil {
		return nil, err
	}
	pub, err := rawPublic(p.attest)
	if err != nil {
		return nil, err
	}
	// Nested: signature, key, certification data (6) that holds the QE's report and
	// in it certification data (5) that holds the chain.
	inner := append(bytes.Clone(p.qe), byte(quoteTypePC), 0)
	inner = le.AppendUint32(inner, uint32(len(p.chain)))
	inner = append(inner, p.chain...)
	data := append(append(sig, pub...), byte(quoteTypeQE), 0)
	data = le.AppendUint32(data, uint32(len(inner)))
	data = append(data, inner...)
	q = le.AppendUint32(q, uint32(len(data)))
	return append(append(q, data...), make([]byte, quoteTrailing)...), nil
}

// signRaw is an ECDSA P-256 signature over SHA-256(b), R and S big-endian.
func signRaw(key *ecdsa.PrivateKey, b []byte) ([]byte, error) {
	digest := sha256.Sum256(b)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing with a simulated Intel key: %w", err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

func verifyRaw(pub *ecdsa.PublicKey, b, sig []byte) bool {
	digest := sha256.Sum256(b)
	return ecdsa.Verify(pub, digest[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
}

// rawPublic is X and Y, 32 bytes each.
func rawPublic(key *ecdsa.PrivateKey) ([]byte, error) {
	b, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding a simulated Intel key: %w", err)
	}
	return b[1:], nil
}

// sgxExtension is the PCK certificate's description of its platform: PPID, TCB,
// PCE id, FMSPC, type, instance and configuration.
func sgxExtension() (pkix.Extension, error) {
	oid := asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	type pair struct {
		ID    asn1.ObjectIdentifier
		Value any
	}
	sub := func(tail ...int) asn1.ObjectIdentifier {
		return append(append(asn1.ObjectIdentifier(nil), oid...), tail...)
	}
	var tcb []pair
	for i := 1; i <= 16; i++ {
		tcb = append(tcb, pair{sub(2, i), 2})
	}
	tcb = append(tcb, pair{sub(2, 17), 11}, pair{sub(2, 18), bytes.Repeat([]byte{2}, 16)})
	instance := make([]byte, 32)
	if _, err := rand.Read(instance); err != nil {
		return pkix.Extension{}, fmt.Errorf("drawing a platform instance id: %w", err)
	}
	all := []pair{
		{sub(1), instance[:16]}, {sub(2), tcb}, {sub(3), []byte{0, 0}}, {sub(4), fmspc},
		{sub(5), asn1.Enumerated(1)}, {sub(6), instance[16:]},
		{sub(7), []pair{{sub(7, 1), true}, {sub(7, 2), false}, {sub(7, 3), true}}},
	}
	der, err := asn1.Marshal(all)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encoding the PCK's SGX extension: %w", err)
	}
	return pkix.Extension{Id: oid, Value: der}, nil
}
