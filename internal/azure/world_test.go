package azure

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"cvmguard/internal/config"
)

const (
	subID   = "00000000-0000-0000-0000-000000000001"
	group   = "/subscriptions/" + subID + "/resourceGroups/rg-cvm/providers/"
	vmID    = group + "Microsoft.Compute/virtualMachines/vm-cvm-cmk"
	diskID  = group + "Microsoft.Compute/disks/vm-cvm-cmk-os"
	desID   = group + "Microsoft.Compute/diskEncryptionSets/des-cvm"
	vaultID = group + "Microsoft.KeyVault/vaults/kv-cvm"
	hsmID   = group + "Microsoft.KeyVault/managedHSMs/hsm-cvm"
	keyURL  = "https://kv-cvm.vault.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff"
	hsmKey  = "https://hsm-cvm.managedhsm.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff"
	desOID  = "00000000-0000-4000-8000-0000000000d1"
	orchOID = "00000000-0000-4000-8000-0000000000d2"
)

// repoRoot is the folder with go.mod.
func repoRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}

func vectorDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(repoRoot(t), "..", "shared", "vectors", "azure")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the vectors are not here: ", dir)
	}
	return dir
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorDir(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fakeAzure is a TLS server that stands for every host name.
type fakeAzure struct {
	t      testing.TB
	server *httptest.Server
	caFile string

	mu     sync.Mutex
	routes map[string]http.HandlerFunc // "GET host/path", lower case
	calls  []string                    // the same, in order; challenges left out
	bodies []string
	header []http.Header
}

// authority makes a certificate authority and a leaf for Azure's names.
func authority(t testing.TB) (caPEM []byte, leaf tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"management.azure.com", "*.vault.azure.net", "*.managedhsm.azure.net", "*.weu.attest.azure.net", "*.blob.core.windows.net", "evil.example.net"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newFake(t testing.TB) *fakeAzure {
	t.Helper()
	f := &fakeAzure{t: t, routes: map[string]http.HandlerFunc{}}
	caPEM, leaf := authority(t)
	f.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(f.caFile, caPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{leaf}}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeAzure) serve(w http.ResponseWriter, r *http.Request) {
	host := strings.ToLower(r.Host)
	if strings.Contains(host, ".vault.") && r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-0000000000aa", resource="https://vault.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if strings.Contains(host, ".managedhsm.") && r.Header.Get("Authorization") == "" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-0000000000aa", resource="https://managedhsm.azure.net"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	call := r.Method + " " + host + r.URL.Path
	f.mu.Lock()
	f.calls = append(f.calls, call)
	f.bodies = append(f.bodies, string(body))
	f.header = append(f.header, r.Header.Clone())
	h := f.routes[strings.ToLower(call)]
	f.mu.Unlock()
	if h == nil {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"error":{"code":"ResourceNotFound","message":"no route for `+call+`"}}`)
		return
	}
	h(w, r)
}

// on sets the answer to a call such as "GET management.azure.com/subscriptions/…".
func (f *fakeAzure) on(call string, h http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.routes[strings.ToLower(call)] = h
}

func (f *fakeAzure) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

func (f *fakeAzure) lastBody() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bodies[len(f.bodies)-1]
}

const armHost = "management.azure.com"

// jsonBody answers with a status and a JSON body.
func jsonBody(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// answers gives each of a list in turn, the last one for ever.
func answers(hs ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := hs[min(n, len(hs)-1)]
		n++
		mu.Unlock()
		h(w, r)
	}
}

// testCred gives unsigned tokens, as the emulator accepts them.
type testCred struct{}

func (testCred) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	now := time.Now()
	enc := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	tok := enc(map[string]string{"alg": "none", "typ": "JWT"}) + "." + enc(map[string]any{
		"aud": "https://storage.azure.com", "iss": "https://sts.windows.net/00000000-0000-0000-0000-0000000000aa/", "scope": o.Scopes,
		"nbf": now.Add(-time.Minute).Unix(), "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
		"oid": "00000000-0000-0000-0000-0000000000c2", "tid": "00000000-0000-0000-0000-0000000000aa",
	}) + ".x"
	return azcore.AccessToken{Token: tok, ExpiresOn: now.Add(time.Hour)}, nil
}

// client is a Client whose every Azure host is the fake.
func (f *fakeAzure) client() *Client {
	cfg := config.Config{Cloud: config.Public, DevAzure: f.server.Listener.Addr().String(), DevCA: f.caFile, Development: true}
	c := New(cfg, nil)
	c.credential = func() (azcore.TokenCredential, error) { return testCred{}, nil }
	f.t.Cleanup(func() { closeIdle(f.t, c) })
	return c
}

func closeIdle(t testing.TB, c *Client) {
	h, err := c.transport()
	if err != nil {
		t.Error(err)
		return
	}
	h.CloseIdleConnections()
}
