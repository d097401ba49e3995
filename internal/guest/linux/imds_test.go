package linux

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cvmguard/internal/guest"
)

func TestIMDS(t *testing.T) {
	answers := map[string]string{}
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata") != "true" {
			t.Errorf("%s came without the header Metadata", r.URL)
		}
		if r.URL.Path == "/acc/tdquote" {
			var in map[string]string
			body, err := io.ReadAll(r.Body)
			if err != nil || json.Unmarshal(body, &in) != nil || in["report"] != base64.RawURLEncoding.EncodeToString([]byte("report")) {
				t.Errorf("TD quote request %q, %v", body, err)
			}
		}
		w.WriteHeader(status)
		if _, err := io.WriteString(w, answers[r.URL.Path]); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	m := &IMDS{Base: server.URL, Client: server.Client()}
	ctx := context.Background()
	cert, err := json.Marshal(map[string]string{"vcekCert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("der")}))})
	if err != nil {
		t.Fatal(err)
	}
	answers["/metadata/THIM/amd/certification"] = string(cert)
	answers["/acc/tdquote"] = `{"quote":"` + base64.URLEncoding.EncodeToString([]byte("quote")) + `"}`
	answers["/metadata/instance/compute"] = `{"vmId":"u","resourceId":"/subscriptions/s"}`
	if v, err := m.VCEK(ctx); err != nil || string(v) != "der" {
		t.Errorf("VCEK %q, %v", v, err)
	}
	if q, err := m.TDQuote(ctx, []byte("report")); err != nil || string(q) != "quote" {
		t.Errorf("TD quote %q, %v", q, err)
	}
	if id, err := m.VMID(ctx); err != nil || id != "u" {
		t.Errorf("vmId %q, %v", id, err)
	}
	if id, err := m.ResourceID(ctx); err != nil || id != "/subscriptions/s" {
		t.Errorf("resourceId %q, %v", id, err)
	}
	for path := range answers {
		answers[path] = `{}`
	}
	answers["/acc/tdquote"] = `{"quote":"*"}`
	for name, call := range map[string]func() error{
		"VCEK":    func() error { _, err := m.VCEK(ctx); return err },
		"TDQuote": func() error { _, err := m.TDQuote(ctx, []byte("report")); return err },
		"VMID":    func() error { _, err := m.VMID(ctx); return err },
	} {
		status = http.StatusOK
		if err := call(); err == nil {
			t.Errorf("%s took an empty answer", name)
		}
		status = http.StatusNotFound
		if err := call(); !errors.Is(err, guest.ErrAbsent) {
			t.Errorf("%s at 404: %v", name, err)
		}
		status = http.StatusTooManyRequests
		if err := call(); err == nil || errors.Is(err, guest.ErrAbsent) || !strings.Contains(err.Error(), "429") {
			t.Errorf("%s at 429: %v", name, err)
		}
	}
}
