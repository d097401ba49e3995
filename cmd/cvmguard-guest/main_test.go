package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/guest"
)

const testUID = "26f8bc30-774e-4290-8e7a-535f3b672aee"

// fakeTPM is a Trusted Launch vTPM whose signatures nobody looks at here.
type fakeTPM struct{}

func (fakeTPM) NVRead(index uint32) ([]byte, error) {
	if index == guest.IndexAKCert {
		return []byte("a certificate"), nil
	}
	return nil, guest.ErrAbsent
}
func (fakeTPM) NVWrite(uint32, []byte) error { return nil }
func (fakeTPM) PCRs(pcrs []int) (map[int][]byte, error) {
	out := map[int][]byte{}
	for _, n := range pcrs {
		out[n] = make([]byte, 32)
	}
	return out, nil
}
func (fakeTPM) Quote(_ uint32, extra []byte, pcrs []int) (message, signature []byte, err error) {
	be := binary.BigEndian
	m := be.AppendUint16(be.AppendUint16(be.AppendUint32(nil, 0xFF544347), 0x8018), 0)
	m = append(be.AppendUint16(m, uint16(len(extra))), extra...)
	m = be.AppendUint32(append(m, make([]byte, 25)...), 1)
	m = append(be.AppendUint16(m, 0x0B), 3, 0, 0, 0)
	sum := sha256.Sum256(make([]byte, 32*len(pcrs)))
	return append(be.AppendUint16(m, 32), sum[:]...), []byte("signature"), nil
}

type fakeIMDS struct{}

func (fakeIMDS) VCEK(context.Context) ([]byte, error)            { return nil, guest.ErrAbsent }
func (fakeIMDS) TDQuote(context.Context, []byte) ([]byte, error) { return nil, guest.ErrAbsent }
func (fakeIMDS) VMID(context.Context) (string, error)            { return testUID, nil }
func (fakeIMDS) ResourceID(context.Context) (string, error)      { return "/subscriptions/s/vm", nil }

type fakeSystem struct{}

func (fakeSystem) EventLog() ([]byte, error)           { return nil, guest.ErrAbsent }
func (fakeSystem) IMALog() ([]byte, error)             { return nil, guest.ErrAbsent }
func (fakeSystem) Claims(context.Context) guest.Claims { return guest.Claims{Kernel: "6.8"} }

// vm makes a platform; closed counts how often it was closed.
func vm(client *http.Client, closed *int) func() platform {
	return func() platform {
		return platform{client: client, sleep: func(context.Context, time.Duration) error { return nil },
			options: func(log *slog.Logger) (guest.Options, func() error, error) {
				return guest.Options{TPM: fakeTPM{}, IMDS: fakeIMDS{}, System: fakeSystem{}, Log: log}, func() error { *closed++; return nil }, nil
			}}
	}
}

func TestCommands(t *testing.T) {
	nonce := bytes.Repeat([]byte{0x5A}, 32)
	text := base64.RawURLEncoding.EncodeToString(nonce)
	var pushed, appended []byte
	vmID := testUID
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch {
		case r.URL.Path == "/api/evidence":
			w.WriteHeader(http.StatusCreated)
			if _, err := fmt.Fprintf(w, `{"nonce":%q,"expires":"2026-08-01T00:00:00Z","vmId":%q}`, text, vmID); err != nil {
				t.Error(err)
			}
		case r.URL.Path == "/api/evidence/"+text:
			pushed = body
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Query().Get("sig") == "SECRET":
			appended = append(appended, body...)
			w.WriteHeader(http.StatusCreated)
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "bundle.json")
	env := map[string]string{"NONCE": text, "VM_ID": strings.ToUpper(testUID), "OUT_URL": server.URL + "/incoming/x?sig=SECRET"}
	bad := map[string]string{"NONCE": text, "VM_ID": testUID, "OUT_URL": server.URL + "/incoming/x?sig=OTHERSECRET"}
	isBundle := func(t *testing.T, data []byte) {
		t.Helper()
		b, err := attest.Decode(data)
		if err != nil || b.TPMQuote == nil || b.Guest["kernel"] != "6.8" {
			t.Errorf("not a bundle: %v: %.80s", err, data)
		}
	}
	tests := []struct {
		name   string
		args   string
		env    map[string]string
		status int
		stderr string // part of it
		check  func(t *testing.T, stdout string)
	}{
		{"version", "version", nil, 0, "", func(t *testing.T, out string) {
			if !strings.HasPrefix(out, "cvmguard-guest ") {
				t.Errorf("out %q", out)
			}
		}},
		{"help", "help", nil, 0, "", nil},
		{"collect to stdout", "collect", nil, 0, "", func(t *testing.T, out string) { isBundle(t, []byte(out)) }},
		{"collect to a file", "collect --nonce " + strings.Repeat("5a", 32) + " --vm-id " + testUID + " --out " + file, nil, 0, "", func(t *testing.T, _ string) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			isBundle(t, data)
			if !bytes.Contains(data, []byte(text)) {
				t.Error("the bundle has another nonce")
			}
		}},
		{"collect under Run Command", "collect --from-env", env, 0, "", func(t *testing.T, out string) {
			isBundle(t, appended)
			if !strings.Contains(out, "delivered") {
				t.Errorf("out %q", out)
			}
		}},
		{"push", "push --url " + server.URL, nil, 0, "evidence delivered", func(t *testing.T, _ string) { isBundle(t, pushed) }},
		{"no command", "", nil, 2, "no command given", nil},
		{"unknown command", "prove", nil, 2, `"prove" is not a command`, nil},
		{"unknown flag", "collect --nonse x", nil, 2, "nonse", nil},
		{"stray argument", "collect x", nil, 2, `unexpected "x"`, nil},
		{"bad nonce", "collect --nonce 12", nil, 2, "want 64 hex digits", nil},
		{"mixed", "collect --from-env --out x", env, 2, "no other flag", nil},
		{"environment empty", "collect --from-env", nil, 2, "not set", nil},
		{"SAS refused", "collect --from-env", bad, 1, "storage answered 403", nil},
		{"push without URL", "push", nil, 2, "--url", nil},
		{"file in no folder", "collect --out /no/such/folder/x", nil, 1, "writing the bundle", nil},
		{"VM id no GUID", "collect --vm-id vm1", nil, 1, "not a GUID", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out, errText strings.Builder
			closed := 0
			status := run(context.Background(), strings.Fields(tt.args), func(k string) string { return tt.env[k] }, &out, &errText, vm(server.Client(), &closed))
			if status != tt.status || !strings.Contains(errText.String(), tt.stderr) {
				t.Errorf("status %d, stderr %q; want %d and %q", status, errText.String(), tt.status, tt.stderr)
			}
			if strings.Contains(errText.String(), text) || strings.Contains(errText.String(), "SECRET") {
				t.Errorf("stderr shows a nonce or a SAS: %q", errText.String())
			}
			if tt.check != nil {
				tt.check(t, out.String())
			}
		})
	}
	vmID = "11111111-2222-3333-4444-555555555555"
	var errText strings.Builder
	closed := 0
	if status := run(context.Background(), []string{"push", "--url", server.URL}, os.Getenv, io.Discard, &errText, vm(server.Client(), &closed)); status != 1 || !strings.Contains(errText.String(), "created anew") || closed != 1 {
		t.Errorf("another vmId: status %d, %q, closed %d times", status, errText.String(), closed)
	}
}

// TestNoTPM: on a machine without a vTPM the command says what is missing.
func TestNoTPM(t *testing.T) {
	broken := func() platform {
		p := realPlatform()
		p.options = func(*slog.Logger) (guest.Options, func() error, error) {
			return guest.Options{}, nil, errors.New("opening TPM: not there")
		}
		return p
	}
	var errText strings.Builder
	if status := run(context.Background(), []string{"collect"}, os.Getenv, io.Discard, &errText, broken); status != 1 || !strings.Contains(errText.String(), "opening TPM") {
		t.Errorf("status %d, %q", status, errText.String())
	}
}
