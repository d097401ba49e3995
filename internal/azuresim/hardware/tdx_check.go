package hardware

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
)

// tdQuote is a version 4 quote taken apart.
type tdQuote struct {
	raw       []byte // header and body
	body      []byte
	signature []byte
	key       []byte // the attestation key, X and Y
	qeReport  []byte
	qeSig     []byte
	auth      []byte
	chain     []*x509.Certificate // leaf first
}

// reader cuts a quote into pieces and remembers the first failure.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int, what string) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.err = fmt.Errorf("the quote ends inside its %s", what)
	}
	if r.err != nil {
		return make([]byte, max(0, min(n, 1024)))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u16(what string) int { return int(binary.LittleEndian.Uint16(r.take(2, what))) }
func (r *reader) u32(what string) int { return int(binary.LittleEndian.Uint32(r.take(4, what))) }

// parseTDQuote takes a version 4 quote apart. Zero bytes after it are let pass.
func parseTDQuote(q []byte) (*tdQuote, error) {
	le := binary.LittleEndian
	if len(q) < quoteSigned || len(q) > 16<<10 {
		return nil, fmt.Errorf("a quote of %d bytes", len(q))
	}
	if le.Uint16(q) != 4 || le.Uint16(q[2:]) != 2 || le.Uint32(q[4:]) != tdxTEE || !bytes.Equal(q[12:28], intelQEVendor) {
		return nil, errors.New("not a TDX quote of version 4 with an ECDSA P-256 key by Intel's quoting enclave")
	}
	t := &tdQuote{raw: q[:quoteSigned], body: q[quoteHeader:quoteSigned]}
	r := &reader{b: q[quoteSigned:]}
	data := &reader{b: r.take(r.u32("signature data"), "signature data")}
	if len(bytes.TrimLeft(r.b, "\x00")) > 0 {
		return nil, errors.New("bytes other than zero follow the quote")
	}
	t.signature = data.take(64, "signature")
	t.key = data.take(64, "attestation key")
	kind := data.u16("certification data")
	inner := &reader{b: data.take(data.u32("certification data"), "certification data")}
	t.qeReport = inner.take(384, "QE report")
	t.qeSig = inner.take(64, "QE report's signature")
	t.auth = inner.take(inner.u16("QE authentication data"), "QE authentication data")
	innerKind := inner.u16("certificate chain")
	chain := inner.take(inner.u32("certificate chain"), "certificate chain")
	if err := errors.Join(r.err, data.err, inner.err); err != nil {
		return nil, err
	}
	if kind != quoteTypeQE || innerKind != quoteTypePC {
		return nil, fmt.Errorf("certification data of type %d with %d inside, want 6 with 5", kind, innerKind)
	}
	for len(chain) > 0 {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the quote's certificate chain: %w", err)
		}
		t.chain = append(t.chain, c)
	}
	if len(t.chain) == 0 {
		return nil, errors.New("the quote has no certificate chain")
	}
	return t, nil
}

// check follows the quote's own signatures, from the PCK down to the body. It
// says nothing of who certified the PCK.
func (t *tdQuote) check() error {
	pck, ok := t.chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the PCK's key is %T, want P-256", t.chain[0].PublicKey)
	}
	if !verifyRaw(pck, t.qeReport, t.qeSig) {
		return errors.New("the QE report is not signed by the PCK")
	}
	named := sha256.Sum256(append(bytes.Clone(t.key), t.auth...))
	if !bytes.Equal(t.qeReport[320:352], named[:]) {
		return errors.New("the QE report names another attestation key")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, t.key...))
	if err != nil {
		return fmt.Errorf("reading the attestation key: %w", err)
	}
	if !verifyRaw(key, t.raw, t.signature) {
		return errors.New("the quote is not signed by its attestation key")
	}
	return nil
}

// checkTDX is what the attestation service asks of a quote: that all its
// signatures hold and that its PCK was certified by these vendors.
func (v *Vendors) checkTDX(q []byte) (*tdQuote, error) {
	t, err := parseTDQuote(q)
	if err != nil {
		return nil, err
	}
	if err := t.chain[0].CheckSignatureFrom(v.IntelCA); err != nil {
		return nil, fmt.Errorf("the PCK is not certified by the platform CA: %w", err)
	}
	return t, t.check()
}
