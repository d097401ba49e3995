// Package guest is what runs inside a VM: it collects one evidence bundle.
//
// It reads the paravisor's report, (TDX) has it turned into a quote, reads the
// event log, asks the machine about itself, and last of all has the vTPM's
// attestation key quote the PCRs over a hash of all of that and of the nonce.
// The platform stands behind three small interfaces, TPM, IMDS and System, so
// that a simulated VM runs the same code as a real one; package guest/linux has
// the real ones.
//
// It promises to read only, but for the 64 bytes of user data that it hands to
// the paravisor (NV 0x01400002); never to read or send a key; and never to log
// the nonce. It judges nothing: what is missing is left out of the bundle, and
// the verifier decides what that means.
package guest

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// The TPM handles of an Azure VM.
const (
	IndexHCLReport uint32 = 0x01400001 // the paravisor's report, absent on Trusted Launch
	IndexUserData  uint32 = 0x01400002 // 64 bytes that appear in the next report, defined by the guest
	IndexAKCert    uint32 = 0x01C101D0 // the AK's certificate, DER, may be padded
	HandleAK       uint32 = 0x81000003 // persistent, RSA-2048, restricted signing
)

// QuotedPCRs are the PCRs that Collect quotes, SHA-256 bank: all that tell of
// the boot, without 10, which an IMA policy moves at any moment, and without the
// dynamic-launch ones.
func QuotedPCRs() []int { return []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 23} }

// ErrAbsent says that a thing isn't there, as against unreadable: an NV index
// that isn't defined, a log that the kernel doesn't keep, a service that this
// kind of VM doesn't have.
var ErrAbsent = errors.New("not there")

// TPM is the VM's vTPM. All values are of the SHA-256 bank, PCR lists ascending.
type TPM interface {
	// NVRead gives the whole index, padding included; ErrAbsent if it isn't defined.
	NVRead(index uint32) ([]byte, error)
	// NVWrite writes data at offset 0, defining the index with len(data) if it is absent.
	NVWrite(index uint32, data []byte) error
	// Quote gives a bare TPMS_ATTEST and its signature, raw RSASSA or TPMT_SIGNATURE.
	Quote(handle uint32, extraData []byte, pcrs []int) (message, signature []byte, err error)
	// PCRs gives 32 bytes for each asked PCR.
	PCRs(pcrs []int) (map[int][]byte, error)
}

// IMDS is the instance metadata service, 169.254.169.254.
type IMDS interface {
	// VCEK is the chip's certificate, DER; ErrAbsent where there is none.
	VCEK(ctx context.Context) (vcekDER []byte, err error)
	// TDQuote turns a TDREPORT (1024 bytes) into a TD quote.
	TDQuote(ctx context.Context, tdreport []byte) ([]byte, error)
	// VMID is compute.vmId, the VM's unique id (a GUID).
	VMID(ctx context.Context) (string, error)
}

// ResourceIDer is the optional part of an IMDS that a push needs: the VM's ARM id.
type ResourceIDer interface {
	ResourceID(ctx context.Context) (string, error)
}

// System is the operating system around the collector.
type System interface {
	// EventLog is the TCG event log, IMALog the IMA list; ErrAbsent if none is kept.
	EventLog() ([]byte, error)
	IMALog() ([]byte, error)
	// Claims is what the machine says of itself. It never fails: what could not be
	// read is named in Claims.Unread.
	Claims(ctx context.Context) Claims
}

// Options of one collection. TPM, IMDS, System and VMUniqueID are required.
type Options struct {
	TPM        TPM
	IMDS       IMDS
	System     System
	Nonce      [32]byte
	VMUniqueID string // ARM vmId that the evidence is for

	Sleep func(ctx context.Context, d time.Duration) error // nil: a real timer
	Clock func() time.Time                                 // nil: time.Now; for the claims' time only
	Log   *slog.Logger                                     // nil: discards
}
