package attest

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// oidAIK is the key use of an attestation key's certificate (TCG).
var oidAIK = asn1.ObjectIdentifier{2, 23, 133, 8, 3}

// vtpm makes Q0 to Q6.
func (j *judgement) vtpm(expect func(*Bundle, Subject) ([]byte, error)) {
	q := j.bundle.TPMQuote
	if q == nil {
		j.fail("Q3", "quote.format", "the bundle has no quote, so nothing in it is fresh")
		return
	}
	if j.kind == KindTrustedLaunch {
		ak, err := j.trustedLaunchAK()
		switch {
		case err != nil:
			j.fail("Q0", "tl.ak-cert", "%v", err)
			return
		case !madeBy(ak, q.Signature):
			j.fail("Q0", "tl.ak-mismatch", "the quote was not made by the certificate's key")
			return
		}
		j.pass("Q0", "")
		j.runtime.AK = ak
	}
	// Q1: from here on the key is the one from the bound runtime data, or from the
	// certificate; no other is looked at.
	if j.runtime.AK == nil {
		j.fail("Q1", "bind.ak", "there is no proven attestation key")
		return
	}
	j.pass("Q1", "")
	if err := verifyQuoteSignature(j.runtime.AK, q.Message, q.Signature); err != nil {
		j.fail("Q2", "quote.signature", "%v", err)
		return
	}
	j.pass("Q2", "")
	quoted, err := ParseTPMQuote(q.Message)
	if err != nil {
		j.fail("Q3", "quote.format", "%v", err)
		return
	}
	j.quoted = quoted
	j.pass("Q3", "")
	j.checkExtraData(quoted, expect)
	if err := checkSelection(quoted, q.PCRs, j.options.RequiredPCRs); err != nil {
		j.fail("Q5", "quote.selection", "%v", err)
		return
	}
	j.pass("Q5", "")
	if err := checkPCRDigest(quoted, q.PCRs); err != nil {
		j.fail("Q6", "quote.pcr-digest", "%v", err)
		return
	}
	j.pass("Q6", "")
}

// checkExtraData is Q4. Beside it stands whether the report itself was made after
// the nonce: user data that the paravisor took up says so where it is supported.
func (j *judgement) checkExtraData(quoted TPMQuoted, expect func(*Bundle, Subject) ([]byte, error)) {
	want, err := expect(j.bundle, j.subject)
	switch {
	case err != nil && j.subject.UniqueID == "":
		j.unknown("Q4", codeSubject, "ARM's vmId is not known")
		return
	case err != nil:
		j.fail("Q4", "nonce.mismatch", "%v", err)
		return
	case !bytes.Equal(quoted.ExtraData, want):
		j.fail("Q4", "nonce.mismatch", "the quote is not over this nonce, this VM and this bundle")
		return
	}
	detail := ""
	if j.kind != KindTrustedLaunch {
		detail = "the report is as old as the last boot at most: its user data is not of this nonce"
		if ud := UserData([32]byte(j.bundle.Nonce)); bytes.Equal(ud[:], j.runtime.UserData) {
			detail = "the report is fresh too: its user data is of this nonce"
		}
	}
	j.pass("Q4", detail)
}

// trustedLaunchAK is Q0 but for the comparison with the quote's key: the AK
// certificate chains to a pinned Azure vTPM root and is for an attestation key.
func (j *judgement) trustedLaunchAK() (*rsa.PublicKey, error) {
	if len(j.bundle.AKCert) == 0 {
		return nil, errors.New("the bundle has no AK certificate")
	}
	roots := j.options.Roots
	if roots == nil || roots.vtpm == nil {
		return nil, errNoRoots
	}
	cert, key, err := parseAKCert(j.bundle.AKCert)
	if err != nil {
		return nil, err
	}
	intermediates := x509.NewCertPool()
	for _, c := range roots.vtpmCAs {
		intermediates.AddCert(c)
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots: roots.vtpm, Intermediates: intermediates, CurrentTime: j.now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // the use is looked at below
	})
	if err != nil {
		return nil, fmt.Errorf("AK certificate of %q issued by %q: %w", cert.Subject.CommonName, cert.Issuer.CommonName, err)
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidAIK.Equal) {
		return nil, fmt.Errorf("AK certificate of %q is not for an attestation key (%s)", cert.Subject.CommonName, oidAIK)
	}
	return key, nil
}

// checkSelection is Q5: one SHA-256 bank, what policy needs in it, and a PCR list
// that is exactly the selection.
func checkSelection(q TPMQuoted, pcrs map[string]string, required []int) error {
	if q.Selections != 1 || q.Hash != tpmAlgSHA256 {
		return fmt.Errorf("the quote selects %d banks, the first %#x; want one, SHA-256", q.Selections, q.Hash)
	}
	if len(required) == 0 {
		required = []int{0, 1, 2, 3, 4, 5, 6, 7}
	}
	for _, n := range required {
		if !slices.Contains(q.PCRs, n) {
			return fmt.Errorf("PCR %d is not in the quote", n)
		}
	}
	if len(pcrs) != len(q.PCRs) {
		return fmt.Errorf("%d PCR values for %d quoted PCRs", len(pcrs), len(q.PCRs))
	}
	for _, n := range q.PCRs {
		if _, ok := pcrs[strconv.Itoa(n)]; !ok {
			return fmt.Errorf("the value of quoted PCR %d is missing", n)
		}
	}
	return nil
}

// checkPCRDigest is Q6: SHA-256 over the values in index order.
func checkPCRDigest(q TPMQuoted, pcrs map[string]string) error {
	h := sha256.New()
	for _, n := range q.PCRs {
		v, err := hex.DecodeString(pcrs[strconv.Itoa(n)])
		if err != nil || len(v) != sha256.Size {
			return fmt.Errorf("PCR %d is not 32 bytes of hex", n)
		}
		h.Write(v)
	}
	if !bytes.Equal(h.Sum(nil), q.Digest) {
		return errors.New("the PCR values are not those that were quoted")
	}
	return nil
}
