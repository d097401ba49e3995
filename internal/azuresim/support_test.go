package azuresim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// clock is fixed, so that bodies are the same in every run.
var clock = time.Date(2026, 1, 15, 8, 0, 0, 0, time.UTC)

func start(t *testing.T, o Options) *Sim {
	t.Helper()
	if o.Now == nil {
		o.Now = func() time.Time { return clock }
	}
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	s.SetKnobs(func(k *Knobs) { k.RetryAfter = time.Millisecond })
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func (s *Sim) testOptions(t *testing.T) *arm.ClientOptions {
	t.Helper()
	tr := s.Transport()
	t.Cleanup(tr.CloseIdleConnections)
	return &arm.ClientOptions{DisableRPRegistration: true, ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: tr}, Retry: policy.RetryOptions{MaxRetries: -1},
	}}
}

func compute(t *testing.T, s *Sim, who string) *armcompute.ClientFactory {
	t.Helper()
	f, err := armcompute.NewClientFactory(s.Subscription(), s.Credential(who), s.testOptions(t))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func keysOf(t *testing.T, s *Sim, host, who string) *azkeys.Client {
	t.Helper()
	c, err := azkeys.NewClient("https://"+host, s.Credential(who), &azkeys.ClientOptions{ClientOptions: s.testOptions(t).ClientOptions})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// call sends a request by hand and gives status, headers and body.
func call(t *testing.T, s *Sim, who, method, url string, body any, header ...string) (int, http.Header, doc) {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(j)
	}
	req, err := http.NewRequestWithContext(ctx(t), method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	if who != "" {
		aud := "https://management.azure.com"
		if strings.Contains(url, ".vault.azure.net") {
			aud = "https://vault.azure.net"
		} else if strings.Contains(url, ".managedhsm.azure.net") {
			aud = "https://managedhsm.azure.net"
		}
		tok, _, err := s.token(who, aud)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := s.Transport()
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	d := doc{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &d); err != nil {
			t.Fatalf("%s %s answered %d %q", method, url, resp.StatusCode, raw)
		}
	}
	return resp.StatusCode, resp.Header, d
}

const computeAPI = "?api-version=2026-04-01"

func armURL(id string) string { return "https://management.azure.com" + id + computeAPI }

// wantError checks an SDK error's status and code; status 0 is not compared.
func wantError(t *testing.T, err error, status int, code string) {
	t.Helper()
	var re *azcore.ResponseError
	if !errors.As(err, &re) {
		t.Fatalf("want %d %s, got %v", status, code, err)
	}
	if status != 0 && re.StatusCode != status || re.ErrorCode != code {
		t.Fatalf("want %d %s, got %d %s", status, code, re.StatusCode, re.ErrorCode)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vectors is the folder of Azure bodies beside the repository; tests that need
// it are skipped where it is absent.
func vectors(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	ok(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
	v := filepath.Join(dir, "..", "shared", "vectors", "azure")
	if _, err := os.Stat(v); err != nil {
		t.Skip("the vectors are not beside this repository")
	}
	return v
}

func vector(t *testing.T, name string) doc {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors(t), name))
	ok(t, err)
	d := doc{}
	if err := json.Unmarshal(b, &d); err != nil {
		var a []any
		ok(t, json.Unmarshal(b, &a))
		d, _ = a[0].(doc)
	}
	return d
}

// paths lists the members of a JSON value, dotted; array elements share a path.
func paths(v any, at string, out map[string]bool) map[string]bool {
	if out == nil {
		out = map[string]bool{}
	}
	switch e := v.(type) {
	case doc:
		for k, w := range e {
			paths(w, strings.TrimPrefix(at+"."+k, "."), out)
		}
	case []any:
		for _, w := range e {
			paths(w, at+"[]", out)
		}
		if len(e) == 0 {
			out[at] = true
		}
	default:
		out[at] = true
	}
	return out
}

// sameShape checks that got has every member that want has, but for those named.
func sameShape(t *testing.T, got, want any, but ...string) {
	t.Helper()
	have := paths(got, "", nil)
	for p := range paths(want, "", nil) {
		skip := false
		for _, b := range but {
			skip = skip || p == b || strings.HasPrefix(p, b+".") || strings.HasPrefix(p, b+"[")
		}
		if !skip && !have[p] {
			t.Errorf("the body has no %s", p)
		}
	}
}

// world is a small sound world: a vault, an HSM, their sets and one VM on each.
type world struct {
	key, hsmKey, des, hsmDES, sse, vm string
}

func small(t *testing.T, s *Sim) world {
	t.Helper()
	var w world
	s.AddVault(VaultSpec{Name: "kv-cvm"})
	s.AddHSM(HSMSpec{Name: "hsm-cvm"})
	h, _ := s.Principal(HandlerPrincipal)
	ok(t, s.GrantHSM("hsm-cvm", "/", h.ObjectID, "Managed HSM Crypto Auditor"))
	w.key = must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "cvm-os-key"}))
	w.hsmKey = must[string](t)(s.AddKey(KeySpec{Vault: "hsm-cvm", Name: "cvm-os-key"}))
	data := must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "data-key", NotExportable: true}))
	w.des = must[string](t)(s.AddDES(DESSpec{Name: "des-cvm", Key: w.key}))
	w.hsmDES = must[string](t)(s.AddDES(DESSpec{Name: "des-cvm-hsm", Key: w.hsmKey}))
	w.sse = must[string](t)(s.AddDES(DESSpec{Name: "des-sse", Key: data, Type: "EncryptionAtRestWithCustomerKey"}))
	w.vm = must[string](t)(s.AddVM(VMSpec{Name: "vm-cvm-cmk", DES: w.des, Tags: map[string]string{"env": "example"},
		DataDisks: []DataDiskSpec{{}}, Extensions: []string{"GuestAttestation"}}))
	return w
}
