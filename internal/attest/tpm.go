package attest

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

const (
	tpmMagic     = 0xFF544347
	tpmSTQuote   = 0x8018
	tpmAlgSHA256 = 0x000B
	tpmAlgRSASSA = 0x0014
)

// TPMQuoted is a TPMS_ATTEST of type quote.
type TPMQuoted struct {
	ExtraData       []byte
	Clock           uint64 // ms since the TPM was last cleared
	ResetCount      uint32 // rises at each boot
	RestartCount    uint32 // rises at each resume
	Safe            bool
	FirmwareVersion uint64
	PCRs            []int // selected, ascending, SHA-256 bank
	Digest          []byte
	Selections      int    // how many banks were selected
	Hash            uint16 // of the first selection
}

// attestBytes takes the length prefix off where a tool has put one: what is
// signed starts with the magic.
func attestBytes(message []byte) []byte {
	if len(message) >= 6 && binary.BigEndian.Uint32(message) != tpmMagic &&
		int(binary.BigEndian.Uint16(message)) == len(message)-2 && binary.BigEndian.Uint32(message[2:]) == tpmMagic {
		return message[2:]
	}
	return message
}

// ParseTPMQuote reads a TPMS_ATTEST (Q3): magic, type quote, nothing after it.
// A TPM2B length before it is passed over.
func ParseTPMQuote(message []byte) (TPMQuoted, error) {
	var q TPMQuoted
	r := tpmReader{b: attestBytes(message)}
	if m := r.u32(); r.err == nil && m != tpmMagic {
		return q, fmt.Errorf("quote starts with %#x, not with the TPM's magic", m)
	}
	if t := r.u16(); r.err == nil && t != tpmSTQuote {
		return q, fmt.Errorf("attestation of type %#x is not a quote", t)
	}
	r.sized(2 + 64) // qualifiedSigner: a name, of no use without the key's public area
	q.ExtraData = r.sized(64)
	q.Clock = r.u64()
	q.ResetCount = r.u32()
	q.RestartCount = r.u32()
	safe := r.take(1)
	q.FirmwareVersion = r.u64()
	count := r.u32()
	if r.err != nil {
		return q, r.err
	}
	if safe[0] > 1 {
		return q, fmt.Errorf("quote's safe flag is %d", safe[0])
	}
	q.Safe = safe[0] == 1
	if count == 0 || count > 16 {
		return q, fmt.Errorf("quote selects from %d PCR banks", count)
	}
	q.Selections = int(count)
	for i := range int(count) {
		hash, size := r.u16(), r.take(1)
		if r.err != nil {
			return q, r.err
		}
		if size[0] > 4 {
			return q, fmt.Errorf("quote's PCR bitmap has %d bytes", size[0])
		}
		bitmap := r.take(int(size[0]))
		if i > 0 {
			continue
		}
		q.Hash = hash
		for n := range len(bitmap) * 8 {
			if bitmap[n/8]>>(n%8)&1 == 1 {
				q.PCRs = append(q.PCRs, n)
			}
		}
	}
	q.Digest = r.sized(64)
	if r.err != nil {
		return q, r.err
	}
	if len(r.b) != 0 {
		return q, fmt.Errorf("quote has %d trailing bytes", len(r.b))
	}
	return q, nil
}

// tpmReader reads big-endian TPM structures; the first fault sticks.
type tpmReader struct {
	b   []byte
	err error
}

func (r *tpmReader) take(n int) []byte {
	if r.err == nil && len(r.b) < n {
		r.err = errors.New("quote ends inside a field")
	}
	if r.err != nil {
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *tpmReader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *tpmReader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *tpmReader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *tpmReader) sized(max int) []byte {
	n := int(r.u16())
	if r.err == nil && n > max {
		r.err = fmt.Errorf("quote field of %d bytes is over %d", n, max)
	}
	if r.err != nil {
		return nil
	}
	return r.take(n)
}

// rsaSignature gives the 256 bytes of a raw signature or of a TPMT_SIGNATURE,
// whose scheme must be RSASSA with SHA-256.
func rsaSignature(sig []byte) ([]byte, error) {
	const size = 256
	switch len(sig) {
	case size:
		return sig, nil
	case size + 6:
		scheme, hash, n := binary.BigEndian.Uint16(sig), binary.BigEndian.Uint16(sig[2:]), binary.BigEndian.Uint16(sig[4:])
		if scheme != tpmAlgRSASSA || hash != tpmAlgSHA256 || n != size {
			return nil, fmt.Errorf("signature scheme %#x with hash %#x is not RSASSA with SHA-256", scheme, hash)
		}
		return sig[6:], nil
	}
	return nil, fmt.Errorf("signature of %d bytes is neither raw RSA-2048 nor a TPMT_SIGNATURE", len(sig))
}

// verifyQuoteSignature is Q2: RSASSA-PKCS1-v1_5 with SHA-256 over the attest
// bytes as received.
func verifyQuoteSignature(ak *rsa.PublicKey, message, signature []byte) error {
	sig, err := rsaSignature(signature)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(attestBytes(message))
	if err := rsa.VerifyPKCS1v15(ak, crypto.SHA256, sum[:], sig); err != nil {
		return errors.New("the quote's signature is not this AK's")
	}
	return nil
}

// madeBy says whether a signature was made by the private half of key, over
// whatever message: with any other key the padding comes out as noise. It tells
// "another key's quote" from "an edited quote"; it is not a verification.
func madeBy(key *rsa.PublicKey, signature []byte) bool {
	sig, err := rsaSignature(signature)
	if err != nil {
		return false
	}
	m := new(big.Int).Exp(new(big.Int).SetBytes(sig), big.NewInt(int64(key.E)), key.N)
	block := m.FillBytes(make([]byte, key.Size()))
	want := append([]byte{0, 1}, bytes.Repeat([]byte{0xFF}, 202)...) // 256 - 3 - DigestInfo of SHA-256 (51)
	return bytes.HasPrefix(block, want)
}

// parseAKCert reads an AK certificate, which in NV may be padded with zeros or
// 0xFF after its DER.
func parseAKCert(b []byte) (*x509.Certificate, *rsa.PublicKey, error) {
	der, err := trimDER(b)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("AK certificate: %w", err)
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, nil, errors.New("AK certificate's key is not RSA")
	}
	return c, key, checkAK(key)
}

// trimDER cuts a DER sequence with a two-byte length from its padding.
func trimDER(b []byte) ([]byte, error) {
	if len(b) < 4 || b[0] != 0x30 || b[1] != 0x82 {
		return nil, errors.New("not a DER certificate")
	}
	n := 4 + int(binary.BigEndian.Uint16(b[2:]))
	if n > len(b) {
		return nil, fmt.Errorf("certificate says %d bytes, %d are there", n, len(b))
	}
	for _, v := range b[n:] {
		if v != 0 && v != 0xFF {
			return nil, errors.New("certificate is followed by bytes that are not padding")
		}
	}
	return b[:n], nil
}
