package hardware

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cvmguard/internal/guest"
)

// snpRequest is the body for SevSnpVm with a machine's evidence.
func snpRequest(t testing.TB, m *Machine, edit func(report, runtime []byte)) []byte {
	t.Helper()
	hcl, err := m.NVRead(guest.IndexHCLReport)
	if err != nil {
		t.Fatal(err)
	}
	vcek, err := m.VCEK(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	report := hcl[hclHeader : hclHeader+hclHardware]
	runtime := bytes.TrimRight(hcl[hclRuntime:], "\x00")
	if edit != nil {
		edit(report, runtime)
	}
	enc := base64.RawURLEncoding.EncodeToString
	inner, err := json.Marshal(map[string]string{"SnpReport": enc(report), "VcekCertChain": enc(pemOf(vcek, m.vendors.ASK.Raw, m.vendors.ARK.Raw))})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"report": enc(inner), "runtimeData": map[string]string{"data": enc(runtime), "dataType": "JSON"}, "nonce": "bm9uY2U",
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestMAABelievesOnlyWhatHolds(t *testing.T) {
	maa, m := newMAA(t), machine(t, Config{Kind: SNP})
	post := func(body []byte) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		maa.ServeHTTP(w, httptest.NewRequest(http.MethodPost, testIssuer+"/attest/SevSnpVm?api-version=2022-08-01", bytes.NewReader(body)))
		return w
	}
	for name, body := range map[string][]byte{
		"measurement":  snpRequest(t, m, func(r, _ []byte) { r[snpMeasure] ^= 1 }),
		"signature":    snpRequest(t, m, func(r, _ []byte) { r[snpSigned] ^= 1 }),
		"runtime":      snpRequest(t, m, func(_, rt []byte) { rt[len(rt)-3] ^= 1 }),
		"chip":         snpRequest(t, m, func(r, _ []byte) { r[snpChipID] ^= 1 }),
		"tcb":          snpRequest(t, m, func(r, _ []byte) { r[snpTCB] ^= 1 }),
		"not JSON":     []byte("report"),
		"empty":        []byte("{}"),
		"short report": []byte(strings.Replace(string(snpRequest(t, m, nil)), `"report":"`, `"report":"e30`, 1)),
	} {
		if w := post(body); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"error":{"code":"`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	w := post(snpRequest(t, m, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	parts := strings.Split(strings.Trim(w.Body.String(), `{}"`), ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if claims["nonce"] != "bm9uY2U" || claims["x-ms-attestation-type"] != "sevsnpvm" || claims["x-ms-policy-hash"] != PolicyHash ||
		claims["iss"] != testIssuer || claims["x-ms-sevsnpvm-microcode-svn"] != 219.0 {
		t.Errorf("claims %s", payload)
	}
}

func TestMAARoutes(t *testing.T) {
	maa := newMAA(t)
	for _, c := range []struct {
		method, url string
		status      int
	}{
		{http.MethodGet, testIssuer + "/certs", 200},
		{http.MethodGet, testIssuer + ":443/certs", 200},
		{http.MethodGet, testIssuer + "/.well-known/openid-configuration", 200},
		{http.MethodGet, "https://sharedweu.weu.attest.azure.net/certs", 200},
		{http.MethodGet, "https://sharedweu.neu.attest.azure.net/certs", 404},
		{http.MethodGet, "https://mine.weu.attest.azure.net/certs", 404},
		{http.MethodGet, testIssuer + "/other", 404},
		{http.MethodPost, testIssuer + "/certs", 404},
		{http.MethodPost, testIssuer + "/attest/SevSnpVm?api-version=2020-10-01", 400},
		{http.MethodPost, testIssuer + "/attest/AzureGuest?api-version=2020-10-01", 400},
	} {
		w := httptest.NewRecorder()
		maa.ServeHTTP(w, httptest.NewRequest(c.method, c.url, strings.NewReader("{}")))
		if w.Code != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.url, w.Code, c.status)
		}
	}
}

func TestProvidersHaveTheirOwnCertificate(t *testing.T) {
	maa := newMAA(t)
	a, err := maa.leafOf(testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	b, err := maa.leafOf("https://sharedweu.weu.attest.azure.net")
	if err != nil {
		t.Fatal(err)
	}
	again, err := maa.leafOf(testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	if kidOf(a) == kidOf(b) || kidOf(a) != kidOf(again) || a.Subject.CommonName != testIssuer || a.CheckSignature(a.SignatureAlgorithm, a.RawTBSCertificate, a.Signature) != nil {
		t.Error("a provider's certificate must be its own, lasting and self-signed")
	}
}

// Whatever a caller sends is answered, and never with a token.
func FuzzMAABodies(f *testing.F) {
	maa, m := newMAA(f), machine(f, Config{Kind: SNP})
	good := snpRequest(f, m, nil)
	f.Add(good)
	f.Add([]byte(`{"report":"e30","runtimeData":{"data":"e30","dataType":"JSON"}}`))
	f.Add([]byte(`{"quote":"BAACAIEAAAA","runtimeData":{"data":"e30","dataType":"JSON"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/attest/SevSnpVm?api-version=2022-08-01", "/attest/TdxVm?api-version=2023-04-01-preview"} {
			w := httptest.NewRecorder()
			maa.ServeHTTP(w, httptest.NewRequest(http.MethodPost, testIssuer+path, bytes.NewReader(body)))
			if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
				t.Errorf("%s: %d", path, w.Code)
			}
		}
	})
}

func FuzzTDQuote(f *testing.F) {
	m := machine(f, Config{Kind: TDX})
	m.mu.Lock()
	p, err := m.platform()
	m.mu.Unlock()
	if err != nil {
		f.Fatal(err)
	}
	q, err := p.quote(p.tdReport([64]byte{1}, false))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q)
	f.Add(q[:700])
	f.Fuzz(func(t *testing.T, b []byte) {
		if parsed, err := parseTDQuote(b); err == nil && len(parsed.chain) == 0 {
			t.Error("a quote without a chain was parsed")
		}
	})
}
