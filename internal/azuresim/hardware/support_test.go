package hardware

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

const (
	testHost   = "sharedneu.neu.attest.azure.net"
	testIssuer = "https://" + testHost
	testVMID   = "5f0c2a5e-1f6b-4b7e-9d3a-0a1b2c3d4e5f"
	testVM     = cvm.VMID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm")
)

var testNow = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func testClock() time.Time { return testNow }

func vendors(t testing.TB) *Vendors {
	t.Helper()
	v, err := SharedVendors()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func machine(t testing.TB, cfg Config) *Machine {
	t.Helper()
	if cfg.VMUniqueID == "" {
		cfg.VMUniqueID = testVMID
	}
	cfg.Clock = testClock
	m, err := NewMachine(vendors(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newMAA(t testing.TB) *MAA {
	t.Helper()
	m, err := NewMAA(vendors(t), MAAOptions{Clock: testClock})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newNonce(t testing.TB) (n [32]byte) {
	t.Helper()
	if _, err := rand.Read(n[:]); err != nil {
		t.Fatal(err)
	}
	return n
}

// maaClient calls the simulated service without a network.
type maaClient struct{ maa *MAA }

func (c maaClient) call(method, base, path string, body []byte) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequest(method, base+path, strings.NewReader(string(body)))
	w := httptest.NewRecorder()
	c.maa.ServeHTTP(w, r)
	switch {
	case w.Code == http.StatusOK:
		return w, nil
	case w.Code == http.StatusBadRequest:
		return w, fault.New(fault.Invalid, "attesting", base, "%s", w.Body)
	case w.Code == http.StatusTooManyRequests:
		return w, fault.New(fault.Throttled, "attesting", base, "%s", w.Body)
	}
	return w, fault.New(fault.Transient, "attesting", base, "%d %s", w.Code, w.Body)
}

func (c maaClient) attest(base, path string, body []byte) (string, error) {
	w, err := c.call(http.MethodPost, base, path, body)
	if err != nil {
		return "", err
	}
	token, ok := strings.CutPrefix(w.Body.String(), `{"token":"`)
	if !ok {
		return "", fmt.Errorf("answer %q", w.Body)
	}
	return strings.TrimSuffix(token, `"}`), nil
}

func (c maaClient) AttestSNP(_ context.Context, base string, body []byte) (string, error) {
	return c.attest(base, "/attest/SevSnpVm?api-version=2022-08-01", body)
}

func (c maaClient) AttestTDX(_ context.Context, base string, body []byte) (string, error) {
	return c.attest(base, "/attest/TdxVm?api-version=2023-04-01-preview", body)
}

func (c maaClient) Certs(_ context.Context, base string, _ bool) ([]byte, error) {
	w, err := c.call(http.MethodGet, base, "/certs", nil)
	if err != nil {
		return nil, err
	}
	return w.Body.Bytes(), nil
}

var _ attest.MAAClient = maaClient{}

// vectors is the folder of shared test vectors; the test is skipped without it.
func vectors(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "..", "shared", "vectors")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the shared vectors are not here")
	}
	return dir
}
