package hardware

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/guest"
)

// store is a blob service of one tool and one append blob.
type store struct {
	mu      sync.Mutex
	tool    []byte
	created bool
	blob    []byte
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		w.WriteHeader(http.StatusBadRequest)
	case r.Method == http.MethodGet && r.URL.Path == "/tool":
		w.Write(s.tool)
	case r.Method == http.MethodPut && r.URL.Path == "/out" && r.URL.Query().Get("comp") == "appendblock" && s.created:
		s.blob = append(s.blob, body...)
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut && r.URL.Path == "/out" && r.Header.Get("x-ms-blob-type") == "AppendBlob" && !s.created:
		s.created = true
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusForbidden)
	}
}

func TestGuestRunDoesWhatTheScriptDoes(t *testing.T) {
	st := &store{tool: []byte("the collector's bytes")}
	srv := httptest.NewServer(st)
	defer srv.Close()
	sum := sha256.Sum256(st.tool)
	script := guest.Script(hex.EncodeToString(sum[:]))
	nonce := newNonce(t)
	env := map[string]string{
		"NONCE": base64.RawURLEncoding.EncodeToString(nonce[:]), "TOOL_URL": srv.URL + "/tool?sig=secret",
		"OUT_URL": srv.URL + "/out?sig=secret", "VM_ID": testVMID, "CAUSE": "records/x/1.json",
	}
	with := func(name, value string) map[string]string {
		out := map[string]string{}
		for k, v := range env {
			out[k] = v
		}
		out[name] = value
		return out
	}
	m := machine(t, Config{Kind: SNP})
	g := &Guest{Machine: m, Client: srv.Client()}
	ctx := context.Background()

	for _, c := range []struct {
		name   string
		env    map[string]string
		script string
		exit   int
		says   string
	}{
		{"no nonce", with("NONCE", ""), script, 2, "NONCE is not set"},
		{"bad nonce", with("NONCE", "short"), script, 1, "nonce"},
		{"another tool", env, guest.Script(strings.Repeat("0", 64)), 1, "another SHA-256"},
		{"no digest", env, guest.Script("none"), 1, "names no SHA-256"},
		{"tool refused", with("TOOL_URL", srv.URL+"/nothing?sig=secret"), script, 1, "answered 403"},
		{"output refused", with("OUT_URL", srv.URL+"/nothing?sig=secret"), script, 1, "creating the output blob"},
	} {
		exit, _, stderr := g.Run(ctx, c.env, c.script)
		if exit != c.exit || !strings.Contains(stderr, c.says) || strings.Contains(stderr, "secret") {
			t.Errorf("%s: exit %d, %q; want %d, %q and no signature", c.name, exit, stderr, c.exit, c.says)
		}
	}
	if exit, stdout, stderr := g.Run(ctx, env, script); exit != 0 || stderr != "" {
		t.Fatalf("exit %d, %q, %q", exit, stdout, stderr)
	}
	b, err := attest.Decode(st.blob)
	if err != nil {
		t.Fatal(err)
	}
	if string(b.Nonce) != string(nonce[:]) || b.Kind != "snp" {
		t.Errorf("bundle of kind %q over another nonce", b.Kind)
	}
}

func TestHungGuestEndsWithItsContext(t *testing.T) {
	m := machine(t, Config{Kind: SNP})
	m.SetFaults(FaultHung)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		exit, _, _ := (&Guest{Machine: m}).Run(ctx, nil, "")
		done <- exit
	}()
	select {
	case <-done:
		t.Fatal("it ended by itself")
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	if exit := <-done; exit == 0 {
		t.Error("a killed script succeeded")
	}
}

func TestOldNonceSendsTheSameBytesAgain(t *testing.T) {
	m := machine(t, Config{Kind: SNP})
	g := &Guest{Machine: m}
	ctx := context.Background()
	m.SetFaults(FaultOldNonce)
	nonce := newNonce(t)
	first, err := g.Collect(ctx, nonce, testVMID)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := attest.Decode(first); err != nil || string(b.Nonce) == string(nonce[:]) {
		t.Errorf("without an older bundle the nonce must be its own: %v", err)
	}
	again, err := g.Collect(ctx, newNonce(t), testVMID)
	if err != nil || string(again) != string(first) {
		t.Errorf("the older bundle did not come again: %v", err)
	}
}

func TestPush(t *testing.T) {
	nonce := newNonce(t)
	var got []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/api/evidence":
			w.WriteHeader(http.StatusCreated)
			w.Write([]byte(`{"nonce":"` + base64.RawURLEncoding.EncodeToString(nonce[:]) + `","expires":"2026-08-01T12:30:00Z"}`))
		case "/api/evidence/" + base64.RawURLEncoding.EncodeToString(nonce[:]):
			got = body
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer srv.Close()
	g := &Guest{Machine: machine(t, Config{Kind: TDX, ResourceID: string(testVM)}), Client: srv.Client()}
	if err := g.Push(context.Background(), srv.URL); err != nil {
		t.Fatal(err)
	}
	if b, err := attest.Decode(got); err != nil || b.Kind != "tdx" {
		t.Errorf("pushed %v", err)
	}
}
