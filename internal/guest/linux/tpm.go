package linux

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"cvmguard/internal/guest"
)

const (
	// DefaultTPM is the kernel's resource-managed TPM device.
	DefaultTPM = "/dev/tpmrm0"

	// nvChunk is what one NV command moves at most, in bytes: some TPMs refuse more.
	nvChunk = 1024
)

// TPM speaks to a TPM 2.0 with empty authorizations. Not safe for concurrent use.
type TPM struct{ t transport.TPM }

var _ guest.TPM = (*TPM)(nil)

// NewTPM is a TPM behind any transport.
func NewTPM(t transport.TPM) *TPM { return &TPM{t} }

// OpenTPM opens a TPM device; close releases it.
func OpenTPM(path string) (t *TPM, closeTPM func() error, err error) {
	c, err := linuxtpm.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening TPM %q: %w; is the vTPM on, and is this run as root?", path, err)
	}
	return &TPM{c}, c.Close, nil
}

// owner authorizes by the owner hierarchy, whose password is empty on Azure.
func owner() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
}

// nvIndex finds an index: its named handle and size.
func (t *TPM) nvIndex(index uint32) (tpm2.NamedHandle, int, error) {
	h := tpm2.TPMHandle(index)
	r, err := tpm2.NVReadPublic{NVIndex: h}.Execute(t.t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return tpm2.NamedHandle{}, 0, fmt.Errorf("NV index %#x: %w", index, guest.ErrAbsent)
	}
	if err != nil {
		return tpm2.NamedHandle{}, 0, fmt.Errorf("NV index %#x: %w", index, err)
	}
	pub, err := r.NVPublic.Contents()
	if err != nil {
		return tpm2.NamedHandle{}, 0, fmt.Errorf("NV index %#x: %w", index, err)
	}
	return tpm2.NamedHandle{Handle: h, Name: r.NVName}, int(pub.DataSize), nil
}

// NVRead reads a whole index by owner authorization, in pieces from offset 0.
func (t *TPM) NVRead(index uint32) ([]byte, error) {
	h, size, err := t.nvIndex(index)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, size)
	for len(out) < size {
		r, err := tpm2.NVRead{
			AuthHandle: owner(), NVIndex: h,
			Size: uint16(min(nvChunk, size-len(out))), Offset: uint16(len(out)),
		}.Execute(t.t)
		if err != nil {
			return nil, fmt.Errorf("reading NV index %#x at %d: %w", index, len(out), err)
		}
		if len(r.Data.Buffer) == 0 {
			return nil, fmt.Errorf("reading NV index %#x at %d: nothing came", index, len(out))
		}
		out = append(out, r.Data.Buffer...)
	}
	return out, nil
}

// NVWrite writes an index by owner authorization, defining it first if need be.
func (t *TPM) NVWrite(index uint32, data []byte) error {
	h, size, err := t.nvIndex(index)
	if errors.Is(err, guest.ErrAbsent) {
		if err = t.nvDefine(index, len(data)); err == nil {
			h, size, err = t.nvIndex(index)
		}
	}
	if err != nil {
		return err
	}
	if size != len(data) {
		return fmt.Errorf("NV index %#x has %d bytes, %d are to be written", index, size, len(data))
	}
	_, err = tpm2.NVWrite{AuthHandle: owner(), NVIndex: h, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}.Execute(t.t)
	if err != nil {
		return fmt.Errorf("writing NV index %#x: %w", index, err)
	}
	return nil
}

func (t *TPM) nvDefine(index uint32, size int) error {
	_, err := tpm2.NVDefineSpace{
		AuthHandle: owner(),
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size),
			Attributes: tpm2.TPMANV{OwnerRead: true, OwnerWrite: true, AuthRead: true, AuthWrite: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
		}),
	}.Execute(t.t)
	if err != nil {
		return fmt.Errorf("defining NV index %#x: %w", index, err)
	}
	return nil
}

// Quote quotes by RSASSA with SHA-256 and gives the raw signature.
func (t *TPM) Quote(handle uint32, extraData []byte, pcrs []int) (message, signature []byte, err error) {
	pub, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(t.t)
	if err != nil {
		return nil, nil, fmt.Errorf("reading key %#x: %w", handle, err)
	}
	r, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: tpm2.TPMHandle(handle), Name: pub.Name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: extraData},
		InScheme: tpm2.TPMTSigScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
		},
		PCRSelect: selection(pcrs),
	}.Execute(t.t)
	if err != nil {
		return nil, nil, fmt.Errorf("quoting by key %#x: %w", handle, err)
	}
	sig, err := r.Signature.Signature.RSASSA()
	if err != nil {
		return nil, nil, fmt.Errorf("quoting by key %#x: %w", handle, err)
	}
	return r.Quoted.Bytes(), sig.Sig.Buffer, nil
}

// PCRs reads SHA-256 PCRs; a TPM gives at most eight at a time.
func (t *TPM) PCRs(pcrs []int) (map[int][]byte, error) {
	out := make(map[int][]byte, len(pcrs))
	for len(out) < len(pcrs) {
		var ask []int
		for _, n := range pcrs {
			if out[n] == nil {
				ask = append(ask, n)
			}
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: selection(ask)}.Execute(t.t)
		if err != nil {
			return nil, fmt.Errorf("reading PCRs %v: %w", ask, err)
		}
		got := selected(r.PCRSelectionOut)
		if len(got) == 0 || len(got) != len(r.PCRValues.Digests) {
			return nil, fmt.Errorf("reading PCRs %v: %d values came for %v; is there a SHA-256 bank?", ask, len(r.PCRValues.Digests), got)
		}
		before := len(out)
		for i, n := range got {
			out[n] = r.PCRValues.Digests[i].Buffer
		}
		if len(out) == before {
			return nil, fmt.Errorf("reading PCRs %v: the TPM gives others", ask)
		}
	}
	return out, nil
}

func selection(pcrs []int) tpm2.TPMLPCRSelection {
	bitmap := make([]byte, 3)
	for _, n := range pcrs {
		bitmap[n/8] |= 1 << (n % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: bitmap}}}
}

func selected(l tpm2.TPMLPCRSelection) []int {
	var out []int
	for _, s := range l.PCRSelections {
		if s.Hash != tpm2.TPMAlgSHA256 {
			continue
		}
		for n := range len(s.PCRSelect) * 8 {
			if s.PCRSelect[n/8]>>(n%8)&1 == 1 {
				out = append(out, n)
			}
		}
	}
	return out
}
