package attest

import (
	"context"
	"time"

	"cvmguard/internal/cvm"
)

// Bundle is one evidence bundle, version 1. Binary members
// are base64url without padding on the wire; unknown members are refused.
type Bundle struct {
	Version   int        `json:"version"`
	Kind      string     `json:"kind"` // snp, tdx, trustedlaunch: a hint, re-derived in C3
	Nonce     Bytes      `json:"nonce"`
	HCLReport Bytes      `json:"hcl_report,omitempty"`
	TEEQuote  Bytes      `json:"tee_quote,omitempty"`
	VCEK      Bytes      `json:"vcek,omitempty"`
	AKCert    Bytes      `json:"ak_cert,omitempty"`
	TPMQuote  *TPMQuote  `json:"tpm_quote,omitempty"`
	EventLog  Bytes      `json:"event_log,omitempty"`
	IMALog    Bytes      `json:"ima_log,omitempty"`
	Guest     cvm.Claims `json:"guest,omitempty"`
}

// TPMQuote is a TPM2_Quote with the PCR values that it is over.
type TPMQuote struct {
	Message   Bytes             `json:"message"`
	Signature Bytes             `json:"signature"`
	PCRs      map[string]string `json:"pcrs"` // decimal index -> hex
}

// Nonce is what the caller knows of the nonce in a bundle (its row in `nonces`),
// after it was consumed. State says what C2 found.
type Nonce struct {
	State    NonceState
	VMID     cvm.VMID
	UniqueID string // ARM vmId at issue
	Issued   time.Time
	Way      string // "arm" or "push"
}

// NonceState is C2's outcome.
type NonceState string

// The outcomes of C2.
const (
	NonceGood    NonceState = "good"
	NonceUnknown NonceState = "unknown" // never issued, or for another VM
	NonceExpired NonceState = "expired"
	NonceReused  NonceState = "reused"
)

// Subject is the VM that the evidence is to be about, as ARM shows it.
type Subject struct {
	ID       cvm.VMID
	UniqueID string // ARM vmId
	Region   string
	Kind     cvm.Kind
	TEE      cvm.TEE
	TL       bool // Trusted Launch
}

// Options of a judgement. The zero value refuses everything that needs a root.
type Options struct {
	Roots        *Roots        // pinned vendor roots, or a development set
	MAA          MAAClient     // nil: maa.unavailable
	Issuer       string        // the provider's base URL for the VM's region; "" gives maa.no-provider
	MaxTokenAge  time.Duration // 0: 1 h
	PolicyHashes []string      // M10: allowed x-ms-policy-hash; empty: recorded, not judged
	RequiredPCRs []int         // Q5: empty means 0-7

	// Hardware judges the hardware's own signature chain. nil: those checks are
	// listed as not-asked.
	Hardware HardwareVerifier
}

// Hardware is what a HardwareVerifier is given: the parts that passed the checks
// on their form.
type Hardware struct {
	Kind   string    // snp or tdx
	Report SNPReport // snp
	VCEK   []byte    // snp: DER, nil if the bundle has none
	Quote  TDQuote   // tdx
	Roots  *Roots
	Now    time.Time
}

// HardwareVerifier makes the checks S2 to S7 or T2 to T6 and answers one entry
// for each, in order. A check that lacks its collateral is unknown, never a pass.
type HardwareVerifier interface {
	VerifyHardware(ctx context.Context, h Hardware) []cvm.Check
}

// Result is a judgement and what came with it.
type Result struct {
	Attestation cvm.Attestation
	Token       []byte     // MAA's token as it came, nil if none did: the caller stores it
	Claims      cvm.Claims // the guest's claims, only if the quote vouches for them
}

// MAAClient is Microsoft Azure Attestation, one provider at a time. base is the
// provider's URL without a trailing slash. Errors are of package fault: Invalid
// for 400 (evidence not good), Throttled, Transient.
type MAAClient interface {
	AttestSNP(ctx context.Context, base string, body []byte) (token string, err error) // POST /attest/SevSnpVm?api-version=2022-08-01
	AttestTDX(ctx context.Context, base string, body []byte) (token string, err error) // POST /attest/TdxVm?api-version=2023-04-01-preview
	Certs(ctx context.Context, base string, fresh bool) (jwks []byte, err error)       // GET /certs; cached ≤ 24 h, fresh refetches (rate-limited)
}
