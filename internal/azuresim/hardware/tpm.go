package hardware

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"cvmguard/internal/guest"
)

const (
	akCertIndexSize = 4096 // room of the certificate's index; the tail is zero
	maxUserData     = 64
	maxExtraData    = 64
	tpmFirmware     = 0x2020031200120003
)

// NVRead gives a whole index, padding included. Reading the paravisor's report
// has it made anew over the user data of the moment.
func (m *Machine) NVRead(index uint32) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case index == guest.IndexHCLReport && m.cfg.Kind != TrustedLaunch:
		return m.paravisorReport()
	case index == guest.IndexUserData && m.cfg.Kind != TrustedLaunch && m.defined:
		return bytes.Clone(m.userData[:]), nil
	case index == guest.IndexAKCert:
		out := make([]byte, akCertIndexSize)
		copy(out, m.akCert)
		return out, nil
	}
	return nil, fmt.Errorf("NV index %#x: %w", index, guest.ErrAbsent)
}

// NVWrite writes the user data; the other indices are the platform's.
func (m *Machine) NVWrite(index uint32, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if index != guest.IndexUserData {
		return fmt.Errorf("writing NV index %#x: the owner may not write it", index)
	}
	if len(data) > maxUserData {
		return fmt.Errorf("writing NV index %#x: %d bytes, at most %d fit", index, len(data), maxUserData)
	}
	m.userData, m.defined = [64]byte{}, true
	copy(m.userData[:], data)
	return nil
}

// paravisorReport makes the report. The caller holds mu.
func (m *Machine) paravisorReport() ([]byte, error) {
	runtime, err := m.runtimeData()
	if err != nil {
		return nil, err
	}
	r, err := hclReport(m.cfg.Kind, runtime, m.endorse)
	if err == nil && m.faults[FaultRuntimeEdited] {
		i := bytes.Index(r, []byte(`"interactive-console-enabled":true`))
		copy(r[i+len(`"interactive-console-enabled":`):], "TRUE")
	}
	return r, err
}

func (m *Machine) endorse(data [64]byte) ([]byte, error) {
	if m.cfg.Kind == TDX {
		p, err := m.platform()
		if err != nil {
			return nil, err
		}
		return p.tdReport(data, m.faults[FaultDebug]), nil
	}
	c, err := m.chip()
	if err != nil {
		return nil, err
	}
	policy := uint64(policyAzure)
	if m.faults[FaultDebug] {
		policy |= policyDebug
	}
	return c.report(data, m.reportID, policy)
}

// pcr is a PCR's value. The caller holds mu.
func (m *Machine) pcr(i int) []byte {
	if i == fencePCR && m.faults[FaultUnfenced] {
		return make([]byte, sha256.Size)
	}
	return bytes.Clone(m.boot.bank[i][:])
}

// PCRs gives values of the SHA-256 bank.
func (m *Machine) PCRs(pcrs []int) (map[int][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[int][]byte, len(pcrs))
	for _, i := range pcrs {
		if i < 0 || i >= pcrCount {
			return nil, fmt.Errorf("reading PCR %d: there are %d", i, pcrCount)
		}
		out[i] = m.pcr(i)
	}
	return out, nil
}

// Quote has the attestation key sign the PCRs and extraData: a bare TPMS_ATTEST,
// and a TPMT_SIGNATURE of RSASSA with SHA-256.
func (m *Machine) Quote(handle uint32, extraData []byte, pcrs []int) (message, signature []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if handle != guest.HandleAK {
		return nil, nil, fmt.Errorf("quoting with handle %#x: %w", handle, guest.ErrAbsent)
	}
	if len(extraData) > maxExtraData {
		return nil, nil, fmt.Errorf("quoting over %d bytes of extra data: at most %d", len(extraData), maxExtraData)
	}
	extra := bytes.Clone(extraData)
	if m.faults[FaultWrongNonce] && len(extra) > 0 {
		extra[0] ^= 0xFF
	}
	var bitmap [3]byte
	digest := sha256.New()
	for _, i := range pcrs {
		if i < 0 || i >= pcrCount {
			return nil, nil, fmt.Errorf("quoting PCR %d: there are %d", i, pcrCount)
		}
		bitmap[i/8] |= 1 << (i % 8)
	}
	for i := range pcrCount { // in the bank's order, whatever order was asked
		if bitmap[i/8]&(1<<(i%8)) != 0 {
			digest.Write(m.pcr(i))
		}
	}
	key := m.ak
	if m.faults[FaultOtherAK] {
		if key, err = m.vendors.keys.next(); err != nil {
			return nil, nil, err
		}
	}
	message = tpm2.Marshal(tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		Type:            tpm2.TPMSTAttestQuote,
		QualifiedSigner: tpm2.TPM2BName{Buffer: nameOf(&key.PublicKey)},
		ExtraData:       tpm2.TPM2BData{Buffer: extra},
		ClockInfo: tpm2.TPMSClockInfo{
			Clock:      uint64((m.clockBase + m.cfg.Clock().Sub(m.booted)).Milliseconds()),
			ResetCount: m.resets,
			Safe:       true,
		},
		FirmwareVersion: tpmFirmware,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash: tpm2.TPMAlgSHA256, PCRSelect: bitmap[:],
			}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: digest.Sum(nil)},
		}),
	})
	hashed := sha256.Sum256(message)
	raw, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, hashed[:])
	if err != nil {
		return nil, nil, fmt.Errorf("signing a simulated quote: %w", err)
	}
	if m.faults[FaultQuoteSignature] {
		raw[0] ^= 1
	}
	be := binary.BigEndian
	signature = be.AppendUint16(signature, uint16(tpm2.TPMAlgRSASSA))
	signature = be.AppendUint16(signature, uint16(tpm2.TPMAlgSHA256))
	signature = be.AppendUint16(signature, uint16(len(raw)))
	return message, append(signature, raw...), nil
}

// nameOf stands for the key's TPM name: 34 bytes that differ from key to key.
func nameOf(pub *rsa.PublicKey) []byte {
	d := sha256.Sum256(pub.N.Bytes())
	return append([]byte{0, tpmAlgSHA256}, d[:]...)
}
