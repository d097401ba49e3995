package attest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// microsoft asks Microsoft Azure Attestation about the hardware part of the
// bundle and judges its token. An outcome without a state leaves it to the M
// checks that were made.
func (j *judgement) microsoft(ctx context.Context) cvm.Outcome {
	unknown := func(code string) cvm.Outcome {
		return cvm.Outcome{State: cvm.UnknownState, Reason: code}
	}
	switch {
	case j.subject.TL:
		return cvm.Outcome{State: cvm.NotApplicable, Reason: CodeNoMAAForTL}
	case !j.fit:
		return unknown(CodeNotCalled)
	case j.options.Issuer == "":
		return unknown(CodeNoProvider)
	case j.options.MAA == nil:
		return unknown(CodeUnavailable)
	}
	nonce := maaNonce(j.bundle.Nonce)
	var token string
	var err error
	if j.kind == KindSNP {
		body, code, why := j.snpBody(nonce)
		if code != "" {
			j.unknown("M0", code, "%s", why)
			return cvm.Outcome{}
		}
		token, err = j.options.MAA.AttestSNP(ctx, j.options.Issuer, body)
	} else {
		body, bodyErr := tdxBody(j.bundle.TEEQuote, j.hcl.Runtime, nonce)
		if bodyErr != nil {
			j.unknown("M0", CodeNotCalled, "%v", bodyErr)
			return cvm.Outcome{}
		}
		token, err = j.options.MAA.AttestTDX(ctx, j.options.Issuer, body)
	}
	switch {
	case fault.Is(err, fault.Invalid):
		j.fail("M0", CodeRefused, "MAA finds the evidence not good: %v", err)
		return cvm.Outcome{}
	case err != nil:
		j.unknown("M0", CodeUnavailable, "asking MAA: %v", err)
		return cvm.Outcome{}
	}
	j.pass("M0", "")
	j.res.Token = []byte(token)
	sum := sha256.Sum256(j.res.Token)
	j.res.Attestation.Token = hex.EncodeToString(sum[:])
	j.checkToken(ctx, token, nonce)
	return cvm.Outcome{}
}

// maaNonce is the nonce that MAA puts into its token: derived from the bundle's,
// so that anyone who has the bundle can compare it and MAA never sees ours.
func maaNonce(bundleNonce []byte) string {
	h := sha256.New()
	h.Write([]byte("cvmguard/v1/maa\x00"))
	h.Write(bundleNonce)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// The request bodies of MAA's hardware endpoints.
type (
	maaRuntimeData struct {
		Data     Bytes  `json:"data"`
		DataType string `json:"dataType"`
	}
	maaSNPRequest struct {
		Report      Bytes          `json:"report"` // a JSON maaSNPReport
		RuntimeData maaRuntimeData `json:"runtimeData"`
		Nonce       string         `json:"nonce"`
	}
	maaSNPReport struct {
		SnpReport     Bytes
		VcekCertChain Bytes // PEM: VCEK, ASK, ARK
	}
	maaTDXRequest struct {
		Quote       Bytes          `json:"quote"`
		RuntimeData maaRuntimeData `json:"runtimeData"`
		Nonce       string         `json:"nonce"`
	}
)

// snpBody makes the body for SevSnpVm: the VCEK from the bundle, ASK and ARK from
// the pinned roots of the product that the VCEK names. A non-empty code says why
// it can't be made.
func (j *judgement) snpBody(nonce string) (body []byte, code, why string) {
	if len(j.bundle.VCEK) == 0 {
		return nil, CodeNoVCEK, "the bundle has no VCEK"
	}
	vcek, err := x509.ParseCertificate(j.bundle.VCEK)
	if err != nil {
		return nil, CodeNoVCEK, fmt.Sprintf("the bundle's VCEK is unreadable: %v", err)
	}
	product, err := vcekProduct(vcek)
	if err != nil {
		return nil, "snp.product", err.Error()
	}
	ask, ark, ok := j.options.Roots.AMD(product)
	if !ok {
		return nil, "snp.product", fmt.Sprintf("no AMD chain is pinned for product %q", product)
	}
	var chain []byte
	for _, c := range []*x509.Certificate{vcek, ask, ark} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	report, err := json.Marshal(maaSNPReport{SnpReport: j.report.Raw, VcekCertChain: chain})
	if err != nil {
		return nil, CodeNotCalled, err.Error()
	}
	body, err = json.Marshal(maaSNPRequest{Report: report, RuntimeData: maaRuntimeData{j.hcl.Runtime, "JSON"}, Nonce: nonce})
	if err != nil {
		return nil, CodeNotCalled, err.Error()
	}
	return body, "", ""
}

// tdxBody makes the body for TdxVm.
func tdxBody(quote, runtime []byte, nonce string) ([]byte, error) {
	return json.Marshal(maaTDXRequest{Quote: quote, RuntimeData: maaRuntimeData{runtime, "JSON"}, Nonce: nonce})
}
