package guest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func noWait(context.Context, time.Duration) error { return nil }

func TestParseNonce(t *testing.T) {
	want := [32]byte{1, 2, 3, 31: 9}
	for _, s := range []string{hex.EncodeToString(want[:]), base64.RawURLEncoding.EncodeToString(want[:]), " " + hex.EncodeToString(want[:]) + "\n"} {
		if got, err := ParseNonce(s); err != nil || got != want {
			t.Errorf("%v", err)
		}
	}
	for _, s := range []string{"", "abc", strings.Repeat("z", 64), strings.Repeat("+", 43), hex.EncodeToString(want[:]) + "00"} {
		if _, err := ParseNonce(s); err == nil || (s != "" && strings.Contains(err.Error(), s)) {
			t.Errorf("%q: error is %v; it must be one, and not show the text", s, err)
		}
	}
}

func TestPush(t *testing.T) {
	nonce := [32]byte{7}
	text := base64.RawURLEncoding.EncodeToString(nonce[:])
	busy := 2
	var got []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		switch {
		case busy > 0:
			busy--
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodPost && r.URL.Path == "/api/evidence" && string(body) == `{"vm":"/subscriptions/s"}`:
			w.WriteHeader(http.StatusCreated)
			if _, err := fmt.Fprintf(w, `{"nonce":%q,"expires":"2026-08-01T00:30:00Z","vmId":%q}`, text, testUID); err != nil {
				t.Error(err)
			}
		case r.Method == http.MethodPost && r.URL.Path == "/api/evidence/"+text:
			got = body
			w.WriteHeader(http.StatusAccepted)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	s := Sender{Client: server.Client(), Sleep: noWait}
	issued, err := s.Issue(context.Background(), server.URL+"/", "/subscriptions/s")
	if err != nil || issued.Nonce != nonce || issued.VMUniqueID != testUID || issued.Expires.IsZero() {
		t.Fatalf("issued %+v, %v", issued, err)
	}
	if err := s.Push(context.Background(), server.URL, nonce, []byte("bundle")); err != nil || string(got) != "bundle" {
		t.Errorf("pushed %q, %v", got, err)
	}
	if _, err := s.Issue(context.Background(), server.URL, "/another"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("error is %v", err)
	}
	if err := s.Push(context.Background(), server.URL, [32]byte{8}, nil); err == nil || strings.Contains(err.Error(), "/api/evidence") {
		t.Errorf("error is %v; it must not show the nonce", err)
	}
	busy = 99
	if err := s.Push(context.Background(), server.URL, nonce, nil); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("error is %v", err)
	}
	server.Close()
	if err := s.Push(context.Background(), server.URL, nonce, nil); err == nil || strings.Contains(err.Error(), text) {
		t.Errorf("error is %v; it must not show the nonce", err)
	}
}

// appendBlob is a storage account with one append blob.
type appendBlob struct {
	created bool
	data    []byte
	lose    int // how many answers get lost after their effect
	calls   int
}

func (b *appendBlob) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.calls++
	answer := func(status int, code string) {
		if b.lose > 0 {
			b.lose--
			status = http.StatusInternalServerError
		}
		w.Header().Set("x-ms-error-code", code)
		w.WriteHeader(status)
	}
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil || r.Method != http.MethodPut || r.URL.Query().Get("sig") != "a+b/c=" || r.Header.Get("x-ms-version") == "":
		answer(http.StatusForbidden, "AuthenticationFailed")
	case r.URL.Query().Get("comp") == "":
		if r.Header.Get("x-ms-blob-type") != "AppendBlob" || len(body) != 0 {
			answer(http.StatusBadRequest, "InvalidHeaderValue")
		} else if b.created {
			answer(http.StatusConflict, "BlobAlreadyExists")
		} else {
			b.created = true
			answer(http.StatusCreated, "")
		}
	case r.URL.Query().Get("comp") == "appendblock" && b.created && len(body) > 0 && len(body) <= 4<<20:
		if r.Header.Get("x-ms-blob-condition-appendpos") != fmt.Sprint(len(b.data)) {
			answer(http.StatusPreconditionFailed, "AppendPositionConditionNotMet")
			return
		}
		b.data = append(b.data, body...)
		answer(http.StatusCreated, "")
	default:
		answer(http.StatusBadRequest, "InvalidInput")
	}
}

func TestAppend(t *testing.T) {
	bundle := bytes.Repeat([]byte("x"), 5<<20)
	for lose := range 3 {
		blob := &appendBlob{lose: lose}
		server := httptest.NewServer(blob)
		sas := server.URL + "/incoming/abc?sv=2023-11-03&sp=ca&sig=a%2Bb%2Fc%3D"
		s := Sender{Client: server.Client(), Sleep: noWait}
		if err := s.Append(context.Background(), sas, bundle); err != nil {
			t.Errorf("%d lost answers: %v", lose, err)
		}
		if !bytes.Equal(blob.data, bundle) {
			t.Errorf("%d lost answers: %d bytes arrived of %d", lose, len(blob.data), len(bundle))
		}
		if err := s.Append(context.Background(), sas, bundle); err == nil || !strings.Contains(err.Error(), "BlobAlreadyExists") {
			t.Errorf("a blob that is there: %v", err)
		}
		if err := s.Append(context.Background(), strings.Replace(sas, "sig=a", "sig=b", 1), bundle); err == nil || strings.Contains(err.Error(), "sig") || strings.Contains(err.Error(), "incoming") {
			t.Errorf("error is %v; it must not show the SAS", err)
		}
		server.Close()
		if err := s.Append(context.Background(), sas, bundle); err == nil || strings.Contains(err.Error(), "sig=") {
			t.Errorf("error is %v; it must not show the SAS", err)
		}
	}
	if err := (Sender{Client: http.DefaultClient}).Append(context.Background(), "::", nil); err == nil {
		t.Error("no URL was taken")
	}
}
