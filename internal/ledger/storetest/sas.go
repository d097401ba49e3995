package storetest

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/ledger"
)

func sas(t *testing.T, s Store) {
	ctx, name := t.Context(), fresh(t)
	const c = ledger.ContainerIncoming
	ok(t, "creating", s.Blobs.Create(ctx, c, name, []byte("tool")))
	readURL, err := s.SAS.ReadURL(ctx, c, name, 10*time.Minute)
	ok(t, "making a read URL", err)
	appendURL, err := s.SAS.AppendURL(ctx, c, name+"-out", 10*time.Minute)
	ok(t, "making an append URL", err)
	if readURL == appendURL || !strings.Contains(readURL, name) || !strings.Contains(appendURL, name+"-out") {
		t.Fatal("the URLs don't name their blobs")
	}
	if !strings.HasPrefix(readURL, "http") {
		return // a store without a server: the URLs are its own
	}
	client := s.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	call := func(method, url, body string, header map[string]string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		ok(t, "making a request", err)
		for k, v := range header {
			req.Header.Set(k, v)
		}
		resp, err := client.Do(req)
		ok(t, method, err)
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		ok(t, "reading the answer", err)
		ok(t, "closing the answer", resp.Body.Close())
		return resp.StatusCode, string(text)
	}
	isAppend := map[string]string{"x-ms-blob-type": "AppendBlob"}
	if status, text := call(http.MethodGet, readURL, "", nil); status != http.StatusOK || text != "tool" {
		t.Errorf("reading by the read URL: %d %.100q", status, text)
	}
	if status, _ := call(http.MethodPut, readURL, "", isAppend); status != http.StatusForbidden {
		t.Errorf("writing by the read URL: %d, want 403", status)
	}
	if status, text := call(http.MethodPut, appendURL, "", isAppend); status != http.StatusCreated {
		t.Fatalf("creating by the append URL: %d %.200q", status, text)
	}
	for _, part := range []string{"one ", "two"} {
		if status, text := call(http.MethodPut, appendURL+"&comp=appendblock", part, nil); status != http.StatusCreated {
			t.Fatalf("appending by the append URL: %d %.200q", status, text)
		}
	}
	if status, _ := call(http.MethodGet, appendURL, "", nil); status != http.StatusForbidden {
		t.Errorf("reading by the append URL: %d, want 403", status)
	}
	got, err := s.Blobs.Read(ctx, c, name+"-out", 100)
	ok(t, "reading what was appended", err)
	if string(got) != "one two" {
		t.Errorf("appended %q", got)
	}
	ok(t, "deleting", s.Blobs.Delete(ctx, c, name))
	ok(t, "deleting", s.Blobs.Delete(ctx, c, name+"-out"))
}
