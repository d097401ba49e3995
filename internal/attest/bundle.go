package attest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"cvmguard/internal/cvm"
)

// Caps of C1, in bytes after base64 (and, for logs, after gzip too).
const (
	MaxBundle   = 2 << 20
	MaxHCL      = 4 << 10
	MaxQuote    = 16 << 10
	MaxLog      = 1 << 20
	MaxCert     = 64 << 10
	MaxGuest    = 256 << 10
	maxPCRIndex = 23
)

// The kinds of evidence.
const (
	KindSNP           = "snp"
	KindTDX           = "tdx"
	KindTrustedLaunch = "trustedlaunch"
)

// Bytes is a binary member: base64url without padding in JSON, one spelling only.
type Bytes []byte

// MarshalJSON writes base64url without padding.
func (b Bytes) MarshalJSON() ([]byte, error) {
	return json.Marshal(base64.RawURLEncoding.EncodeToString(b))
}

// UnmarshalJSON refuses padding, the other alphabet, stray bits and null.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	if len(data) < 2 || data[0] != '"' {
		return errors.New("not a base64url string")
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	v, err := decodeB64(s)
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// decodeB64 is strict base64url: RawURLEncoding alone would skip line breaks.
func decodeB64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("line break inside base64url")
	}
	v, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("not base64url without padding: %w", err)
	}
	return v, nil
}

// Decode reads a bundle and holds it to C1: version 1, known members only, each
// once and under its cap, nothing after it. Compressed logs are kept as they
// came; that they unpack under their cap is checked.
func Decode(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, fmt.Errorf("bundle of %d bytes is over %d", len(data), MaxBundle)
	}
	m, err := members(data)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	b := &Bundle{}
	binary := map[string]struct {
		to  *Bytes
		max int
	}{
		"hcl_report": {&b.HCLReport, MaxHCL}, "tee_quote": {&b.TEEQuote, MaxQuote},
		"vcek": {&b.VCEK, MaxCert}, "ak_cert": {&b.AKCert, MaxCert},
		"event_log": {&b.EventLog, MaxLog}, "ima_log": {&b.IMALog, MaxLog},
	}
	for name, raw := range m {
		if part, ok := binary[name]; ok {
			if err := decodePart(raw, part.to, part.max); err != nil {
				return nil, fmt.Errorf("bundle member %q: %w", name, err)
			}
			continue
		}
		switch name {
		case "version", "kind":
		case "nonce":
			err = decodePart(raw, &b.Nonce, 32)
			if err == nil && len(b.Nonce) != 32 {
				err = fmt.Errorf("%d bytes, want 32", len(b.Nonce))
			}
		case "tpm_quote":
			b.TPMQuote, err = decodeTPMQuote(raw)
		case "guest":
			b.Guest, err = decodeGuest(raw)
		default:
			err = errors.New("not a member of a version 1 bundle")
		}
		if err != nil {
			return nil, fmt.Errorf("bundle member %q: %w", name, err)
		}
	}
	version, err := number(m, "version")
	if err != nil {
		return nil, fmt.Errorf("bundle version is not 1: %w", err)
	}
	if version != 1 {
		return nil, fmt.Errorf("bundle version is %d, not 1", version)
	}
	b.Version = 1
	if b.Kind, err = text(m, "kind"); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	switch b.Kind {
	case KindSNP, KindTDX, KindTrustedLaunch:
	default:
		return nil, fmt.Errorf("bundle kind %q is none of snp, tdx, trustedlaunch", b.Kind)
	}
	if b.Nonce == nil {
		return nil, errors.New("bundle has no nonce")
	}
	for name, log := range map[string]Bytes{"event_log": b.EventLog, "ima_log": b.IMALog} {
		if _, err := Unpack(log); err != nil {
			return nil, fmt.Errorf("bundle member %q: %w", name, err)
		}
	}
	return b, nil
}

func decodePart(raw json.RawMessage, to *Bytes, max int) error {
	if len(raw) > base64.RawURLEncoding.EncodedLen(max)+2 {
		return fmt.Errorf("over %d bytes", max)
	}
	if err := to.UnmarshalJSON(raw); err != nil {
		return err
	}
	if len(*to) == 0 {
		return errors.New("empty: leave the member out")
	}
	return nil
}

func decodeTPMQuote(raw json.RawMessage) (*TPMQuote, error) {
	m, err := object(raw)
	if err != nil {
		return nil, err
	}
	q := &TPMQuote{PCRs: map[string]string{}}
	for name, part := range m {
		switch name {
		case "message":
			err = decodePart(part, &q.Message, MaxQuote)
		case "signature":
			err = decodePart(part, &q.Signature, MaxQuote)
		case "pcrs":
			q.PCRs, err = decodePCRs(part)
		default:
			err = errors.New("not a member of tpm_quote")
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
	}
	if q.Message == nil || q.Signature == nil {
		return nil, errors.New("needs message and signature")
	}
	return q, nil
}

// decodePCRs reads {"0": 64 lower-case hex digits, …}.
func decodePCRs(raw json.RawMessage) (map[string]string, error) {
	m, err := object(raw)
	if err != nil {
		return nil, err
	}
	pcrs := make(map[string]string, len(m))
	for index := range m {
		n, err := strconv.Atoi(index)
		if err != nil || n < 0 || n > maxPCRIndex || strconv.Itoa(n) != index {
			return nil, fmt.Errorf("PCR index %q is not a number from 0 to %d", index, maxPCRIndex)
		}
		v, err := text(m, index)
		if err != nil {
			return nil, err
		}
		if d, err := hex.DecodeString(v); err != nil || len(d) != sha256.Size || strings.ToLower(v) != v {
			return nil, fmt.Errorf("PCR %d is not 64 lower-case hex digits", n)
		}
		pcrs[index] = v
	}
	return pcrs, nil
}

func decodeGuest(raw json.RawMessage) (cvm.Claims, error) {
	if len(raw) > MaxGuest {
		return nil, fmt.Errorf("over %d bytes", MaxGuest)
	}
	if _, err := object(raw); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber() // so that a number is hashed as it was written
	var c cvm.Claims
	if err := d.Decode(&c); err != nil {
		return nil, err
	}
	return c, nil
}

// Canonical is the bundle's one encoding: members in the order of the struct,
// map keys sorted, no white space, no HTML escapes. withoutQuote leaves tpm_quote
// out: that is what the quote's extraData is over.
func (b *Bundle) Canonical(withoutQuote bool) ([]byte, error) {
	c := *b
	if withoutQuote {
		c.TPMQuote = nil
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(&c); err != nil {
		return nil, fmt.Errorf("encoding bundle: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Unpack gives a log's bytes: gzip (by its magic; neither log can start with it)
// is undone, at most MaxLog bytes long. nil gives nil.
func Unpack(log []byte) ([]byte, error) {
	if len(log) < 2 || log[0] != 0x1f || log[1] != 0x8b {
		return log, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(log))
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	out, err := io.ReadAll(io.LimitReader(z, MaxLog+1))
	if err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	if len(out) > MaxLog {
		return nil, fmt.Errorf("unpacks to more than %d bytes", MaxLog)
	}
	return out, nil
}

// ExtraData is what the quote must carry: SHA-256("cvmguard/v1" 0x00 nonce vmId
// SHA-256(bundle without tpm_quote)). So the quote vouches for every other member.
func ExtraData(nonce [32]byte, vmUniqueID string, canonicalWithoutQuote []byte) ([32]byte, error) {
	id, err := vmIDBytes(vmUniqueID)
	if err != nil {
		return [32]byte{}, err
	}
	rest := sha256.Sum256(canonicalWithoutQuote)
	h := sha256.New()
	h.Write([]byte("cvmguard/v1\x00"))
	h.Write(nonce[:])
	h.Write(id[:])
	h.Write(rest[:])
	return [32]byte(h.Sum(nil)), nil
}

// UserData is what the guest writes to NV 0x01400002 before it reads the report:
// SHA-256("cvmguard/v1/ud" 0x00 nonce), then 32 zero bytes.
func UserData(nonce [32]byte) [64]byte {
	h := sha256.New()
	h.Write([]byte("cvmguard/v1/ud\x00"))
	h.Write(nonce[:])
	var out [64]byte
	copy(out[:], h.Sum(nil))
	return out
}

// vmIDBytes is the one place where a VM's unique id becomes 16 bytes, for guest
// and verifier alike: RFC 4122 order, the bytes as the text shows them from left
// to right (big-endian fields), not the mixed order of a GUID in memory.
func vmIDBytes(id string) ([16]byte, error) {
	var out [16]byte
	if len(id) != 36 || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return out, fmt.Errorf("VM id %q is not a GUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx", id)
	}
	raw, err := hex.DecodeString(id[0:8] + id[9:13] + id[14:18] + id[19:23] + id[24:36])
	if err != nil {
		return out, fmt.Errorf("VM id %q is not a GUID: %w", id, err)
	}
	copy(out[:], raw)
	return out, nil
}

// sameVMID compares two unique ids as GUIDs, without regard to letter case.
func sameVMID(a, b string) bool {
	x, errA := vmIDBytes(a)
	y, errB := vmIDBytes(b)
	return errA == nil && errB == nil && x == y
}
