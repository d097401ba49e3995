package hardware

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// PolicyHash is the x-ms-policy-hash of every token here: the digest of the
// simulated providers' default policy.
var PolicyHash = func() string {
	d := sha256.Sum256([]byte("cvmguard simulated default attestation policy"))
	return base64.RawURLEncoding.EncodeToString(d[:])
}()

const (
	tokenLife   = 8 * time.Hour // what Azure's tokens live
	maxMAABody  = 1 << 20
	versionSNP  = "2022-08-01"
	versionTDX  = "2023-04-01-preview"
	compliant   = "azure-compliant-cvm"
	noncomplies = "azure-noncompliant-cvm"
)

// MAA is Microsoft Azure Attestation for the machines of some vendors: every
// shared provider at once, told apart by the request's host
// (shared<code>.<code>.attest.azure.net), each with a certificate of its own.
// It is safe for concurrent use.
type MAA struct {
	vendors *Vendors
	key     *rsa.PrivateKey
	clock   func() time.Time

	mu     sync.Mutex
	issuer func(*http.Request) string
	leaf   map[string]*x509.Certificate // by issuer
	faults map[string][]*injected       // by vmUniqueId in upper case, "" for any
}

// MAAOptions of a service. The zero value is the service as Azure runs it.
type MAAOptions struct {
	Clock func() time.Time // nil is time.Now
	// Issuer is the base URL of the provider that a request is for. Nil takes
	// https:// and the request's host, and answers 404 to hosts of another shape.
	Issuer func(*http.Request) string
}

// NewMAA makes the service that believes in v's machines.
func NewMAA(v *Vendors, o MAAOptions) (*MAA, error) {
	key, err := v.keys.next()
	if err != nil {
		return nil, err
	}
	m := &MAA{vendors: v, key: key, clock: o.Clock, issuer: o.Issuer, leaf: map[string]*x509.Certificate{}, faults: map[string][]*injected{}}
	if m.clock == nil {
		m.clock = time.Now
	}
	if m.issuer == nil {
		m.issuer = sharedIssuer
	}
	return m, nil
}

// sharedIssuer is the base URL of a shared provider, "" if the host is none.
func sharedIssuer(r *http.Request) string {
	host := strings.TrimSuffix(strings.ToLower(r.Host), ":443")
	name, rest, _ := strings.Cut(host, ".")
	code, suffix, _ := strings.Cut(rest, ".")
	if code == "" || name != "shared"+code || !strings.HasPrefix(suffix, "attest.azure.") {
		return ""
	}
	return "https://" + host
}

// ServeHTTP answers the calls that a verifier makes. Errors have Azure's envelope.
func (m *MAA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	issuer := m.issuer(r)
	if issuer == "" {
		refuse(w, http.StatusNotFound, "NotFound", fmt.Sprintf("no attestation provider answers at %q", r.Host))
		return
	}
	version := r.URL.Query().Get("api-version")
	switch route := r.Method + " " + r.URL.Path; {
	case route == "GET /certs":
		m.serveCerts(w, issuer)
	case route == "GET /.well-known/openid-configuration":
		reply(w, http.StatusOK, map[string]any{
			"issuer": issuer, "jwks_uri": issuer + "/certs",
			"response_types_supported":              []string{"token", "none"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
			"claims_supported":                      []string{"iss", "nbf", "exp", "iat", "jti", "x-ms-attestation-type", "x-ms-compliance-status", "x-ms-runtime"},
		})
	case route == "POST /attest/SevSnpVm" && version == versionSNP:
		m.attest(w, r, issuer, m.judgeSNP)
	case route == "POST /attest/TdxVm" && version == versionTDX:
		m.attest(w, r, issuer, m.judgeTDX)
	case strings.HasPrefix(r.URL.Path, "/attest/"):
		refuse(w, http.StatusBadRequest, "UnsupportedApiVersion", fmt.Sprintf("%s with api-version %q is not offered", r.URL.Path, version))
	default:
		refuse(w, http.StatusNotFound, "NotFound", "no such resource")
	}
}

// attest judges evidence and answers with a token, under the faults that were
// asked for.
func (m *MAA) attest(w http.ResponseWriter, r *http.Request, issuer string, judge func([]byte) (*evidence, error)) {
	body, err := readBody(w, r, maxMAABody)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidParameter", err.Error())
		return
	}
	ev, err := judge(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidParameter", err.Error())
		return
	}
	f := m.takeFault(ev.vmUniqueID)
	if f.answer != nil {
		f.answer(w)
		return
	}
	token, err := m.token(issuer, ev, f)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	reply(w, http.StatusOK, map[string]string{"token": token})
}

// leafOf is the provider's signing certificate: self-signed, named after it.
func (m *MAA) leafOf(issuer string) (*x509.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.leaf[issuer]; c != nil {
		return c, nil
	}
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: issuer},
		NotBefore: validFrom, NotAfter: validUntil, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	c, err := issue(t, t, m.key.Public(), m.key)
	if err == nil {
		m.leaf[issuer] = c
	}
	return c, err
}

func kidOf(c *x509.Certificate) string {
	d := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(d[:])
}

func (m *MAA) serveCerts(w http.ResponseWriter, issuer string) {
	c, err := m.leafOf(issuer)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	reply(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
		"kid": kidOf(c), "kty": "RSA", "x5c": []string{base64.StdEncoding.EncodeToString(c.Raw)},
	}}})
}

func reply(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // all that is passed here is plain maps and strings
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return // the caller went away; there is nobody to tell
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	reply(w, status, map[string]any{"error": map[string]string{"code": code, "message": message}})
}
