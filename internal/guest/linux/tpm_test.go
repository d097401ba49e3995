package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"cvmguard/internal/guest"
)

// wireTPM answers TPM commands as bytes, few as they are: NV indexes, PCRs eight
// at a time, and quotes whose "signature" is a fixed text.
type wireTPM struct {
	nv      map[uint32][]byte
	largest int // the longest NV read that was asked for
	rc      uint32
}

const (
	ccNVDefine   = 0x12A
	ccNVWrite    = 0x137
	ccNVRead     = 0x14E
	ccQuote      = 0x158
	ccNVReadPub  = 0x169
	ccReadPublic = 0x173
	ccPCRRead    = 0x17E
	rcHandle1    = 0x18B // TPM_RC_HANDLE for the first handle
)

func (w *wireTPM) Send(in []byte) ([]byte, error) {
	be := binary.BigEndian
	cc := be.Uint32(in[6:])
	if w.rc != 0 {
		return be.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, w.rc), nil
	}
	plain := func(params []byte) ([]byte, error) {
		out := be.AppendUint32([]byte{0x80, 0x01}, uint32(10+len(params)))
		return append(be.AppendUint32(out, 0), params...), nil
	}
	withAuth := func(params []byte) ([]byte, error) {
		out := be.AppendUint32([]byte{0x80, 0x02}, uint32(14+len(params)+5))
		out = be.AppendUint32(be.AppendUint32(out, 0), uint32(len(params)))
		return append(append(out, params...), 0, 0, 1, 0, 0), nil
	}
	two := func(b []byte) []byte { return append(be.AppendUint16(nil, uint16(len(b))), b...) }
	// after skips handles and the authorization area, to the parameters.
	after := func(handles int) []byte {
		at := 10 + 4*handles
		return in[at+4+int(be.Uint32(in[at:])):]
	}
	switch cc {
	case ccNVReadPub:
		index := be.Uint32(in[10:])
		data, ok := w.nv[index]
		if !ok {
			return be.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, rcHandle1), nil
		}
		pub := tpm2.Marshal(tpm2.TPMSNVPublic{NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(data))})
		return plain(append(two(pub), two([]byte("\x00\x0bname"))...))
	case ccNVDefine:
		p := after(1)
		p = p[2+int(be.Uint16(p)):] // auth value
		pub, err := tpm2.Unmarshal[tpm2.TPMSNVPublic](p[2:])
		if err != nil {
			return nil, err
		}
		if !pub.Attributes.OwnerRead || !pub.Attributes.OwnerWrite {
			return nil, errors.New("the owner could not use the index")
		}
		w.nv[uint32(pub.NVIndex)] = make([]byte, pub.DataSize)
		return withAuth(nil)
	case ccNVWrite:
		p := after(2)
		copy(w.nv[be.Uint32(in[14:])], p[2:2+int(be.Uint16(p))])
		return withAuth(nil)
	case ccNVRead:
		p := after(2)
		size, at := int(be.Uint16(p)), int(be.Uint16(p[2:]))
		w.largest = max(w.largest, size)
		return withAuth(two(w.nv[be.Uint32(in[14:])][at : at+size]))
	case ccReadPublic:
		return plain(append(append(two(nil), two([]byte("\x00\x0bname"))...), two([]byte("\x00\x0bqn"))...))
	case ccPCRRead:
		var digests []byte
		bitmap, n := make([]byte, 3), uint32(0)
		for i := range 24 {
			if in[17+i/8]>>(i%8)&1 == 1 && n < 8 {
				bitmap[i/8] |= 1 << (i % 8)
				digests = append(digests, two(bytes.Repeat([]byte{byte(i + 1)}, 32))...)
				n++
			}
		}
		out := append(be.AppendUint32(nil, 7), 0, 0, 0, 1, 0, 0x0B, 3)
		return plain(append(be.AppendUint32(append(out, bitmap...), n), digests...))
	case ccQuote:
		p := after(1)
		sig := append([]byte{0, 0x14, 0, 0x0B}, two([]byte("signature"))...)
		return withAuth(append(two(p), sig...)) // the parameters, for the test to look at
	}
	return nil, fmt.Errorf("command %#x is not known", cc)
}

func TestTPM(t *testing.T) {
	w := &wireTPM{nv: map[uint32][]byte{guest.IndexHCLReport: bytes.Repeat([]byte("0123456789"), 260)}}
	tpm := NewTPM(w)
	report, err := tpm.NVRead(guest.IndexHCLReport)
	if err != nil || !bytes.Equal(report, w.nv[guest.IndexHCLReport]) || w.largest > 1024 {
		t.Errorf("read %d bytes, in pieces of up to %d, %v", len(report), w.largest, err)
	}
	if _, err := tpm.NVRead(guest.IndexAKCert); !errors.Is(err, guest.ErrAbsent) {
		t.Errorf("an undefined index: %v", err)
	}
	for _, text := range []string{"first", "again"} { // defined, then there
		data := bytes.Repeat([]byte(text), 64)[:64]
		if err := tpm.NVWrite(guest.IndexUserData, data); err != nil || !bytes.Equal(w.nv[guest.IndexUserData], data) {
			t.Errorf("wrote %q, %v", w.nv[guest.IndexUserData], err)
		}
	}
	if err := tpm.NVWrite(guest.IndexUserData, []byte("short")); err == nil {
		t.Error("a write of another size was tried")
	}
	pcrs, err := tpm.PCRs(guest.QuotedPCRs())
	if err != nil || len(pcrs) != 15 || pcrs[23][0] != 24 || pcrs[0][0] != 1 {
		t.Errorf("PCRs: %v, %v", pcrs, err)
	}
	message, signature, err := tpm.Quote(guest.HandleAK, []byte("extra"), []int{0, 23})
	if err != nil || string(signature) != "signature" {
		t.Errorf("signature %q, %v", signature, err)
	}
	// qualifying data, RSASSA with SHA-256, one selection of the SHA-256 bank
	want := "\x00\x05extra" + "\x00\x14\x00\x0b" + "\x00\x00\x00\x01\x00\x0b\x03\x01\x00\x80"
	if string(message) != want {
		t.Errorf("quote was asked with %x, want %x", message, want)
	}
	w.rc = 0x101
	for name, call := range map[string]func() error{
		"NVRead":  func() error { _, err := tpm.NVRead(guest.IndexHCLReport); return err },
		"NVWrite": func() error { return tpm.NVWrite(guest.IndexUserData, make([]byte, 64)) },
		"PCRs":    func() error { _, err := tpm.PCRs([]int{0}); return err },
		"Quote":   func() error { _, _, err := tpm.Quote(guest.HandleAK, nil, []int{0}); return err },
	} {
		if err := call(); err == nil || errors.Is(err, guest.ErrAbsent) {
			t.Errorf("%s at a TPM failure: %v", name, err)
		}
	}
	if _, _, err := OpenTPM(t.TempDir()); err == nil || !strings.Contains(err.Error(), "vTPM") {
		t.Errorf("a folder as TPM: %v", err)
	}
}
