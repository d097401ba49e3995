package attest

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"cvmguard/internal/fault"
)

// fakeMAA answers with a token made from the request, as changed by the test.
type fakeMAA struct {
	err, certsErr error
	header        func(map[string]any)
	claims        func(map[string]any)
	keyset        func(keys []map[string]any) any
	stale         bool // the key set shows the key only when asked afresh
	cert          *x509.Certificate
	signer        *rsa.PrivateKey
	raw           func(token string) string
	calls, certs  int
	body          []byte
}

func (m *fakeMAA) AttestSNP(_ context.Context, _ string, body []byte) (string, error) {
	m.calls, m.body = m.calls+1, body
	if m.err != nil {
		return "", m.err
	}
	var in maaSNPRequest
	var rep maaSNPReport
	if err := json.Unmarshal(body, &in); err != nil {
		return "", err
	}
	if err := json.Unmarshal(in.Report, &rep); err != nil {
		return "", err
	}
	r, err := ParseSNPReport(rep.SnpReport)
	if err != nil {
		return "", fault.New(fault.Invalid, "fake", "", "%v", err)
	}
	return m.token(map[string]any{
		"x-ms-attestation-type": "sevsnpvm", "nonce": in.Nonce,
		"x-ms-sevsnpvm-reportdata":        hex.EncodeToString(r.ReportData[:]),
		"x-ms-sevsnpvm-launchmeasurement": hex.EncodeToString(r.Measurement[:]),
		"x-ms-runtime":                    json.RawMessage(in.RuntimeData.Data),
	}), nil
}

func (m *fakeMAA) AttestTDX(_ context.Context, _ string, body []byte) (string, error) {
	m.calls, m.body = m.calls+1, body
	if m.err != nil {
		return "", m.err
	}
	var in maaTDXRequest
	if err := json.Unmarshal(body, &in); err != nil {
		return "", err
	}
	q, err := ParseTDQuote(in.Quote)
	if err != nil {
		return "", fault.New(fault.Invalid, "fake", "", "%v", err)
	}
	return m.token(map[string]any{
		"x-ms-attestation-type": "tdxvm", "nonce": in.Nonce,
		"tdx_report_data": hex.EncodeToString(q.ReportData[:]), "tdx_mrtd": hex.EncodeToString(q.MRTD[:]),
		"x-ms-runtime": json.RawMessage(in.RuntimeData.Data),
	}), nil
}

func (m *fakeMAA) token(claims map[string]any) string {
	head := map[string]any{"alg": "RS256", "typ": "JWT", "kid": "k1", "jku": testBase + "/certs"}
	for k, v := range map[string]any{"iss": testBase, "iat": testNow.Unix(), "nbf": testNow.Unix(), "exp": testNow.Add(8 * time.Hour).Unix(),
		"x-ms-compliance-status": "azure-compliant-cvm", "x-ms-policy-hash": "hash", "x-ms-ver": "1.0"} {
		claims[k] = v
	}
	if m.header != nil {
		m.header(head)
	}
	if m.claims != nil {
		m.claims(claims)
	}
	part := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	signed := part(head) + "." + part(claims)
	signer := m.signer
	if signer == nil {
		signer = maaKey()
	}
	token := signed + "." + base64.RawURLEncoding.EncodeToString(pkcs1(signer, []byte(signed)))
	if m.raw != nil {
		token = m.raw(token)
	}
	return token
}

func (m *fakeMAA) Certs(_ context.Context, _ string, fresh bool) ([]byte, error) {
	m.certs++
	if m.certsErr != nil {
		return nil, m.certsErr
	}
	if m.stale && !fresh {
		return []byte(`{"keys":[]}`), nil
	}
	keys := []map[string]any{{"kty": "RSA", "kid": "k1", "x5c": []string{base64.StdEncoding.EncodeToString(m.cert.Raw)}}}
	var out any = map[string]any{"keys": keys}
	if m.keyset != nil {
		out = map[string]any{"keys": m.keyset(keys)}
	}
	return json.Marshal(out)
}

func newMAA(t testing.TB) *fakeMAA {
	t.Helper()
	return &fakeMAA{cert: certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: testBase}}, nil, &maaKey().PublicKey, maaKey())}
}
