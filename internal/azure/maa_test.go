package azure

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/fault"
)

const maaBase = "https://sharedweu.weu.attest.azure.net"

func TestMAA(t *testing.T) {
	f := newFake(t)
	var query, auth string
	f.on("POST sharedweu.weu.attest.azure.net/attest/SevSnpVm", func(w http.ResponseWriter, r *http.Request) {
		query, auth = r.URL.RawQuery, r.Header.Get("Authorization")
		jsonBody(200, `{"token":"a.b.c"}`)(w, r)
	})
	f.on("POST sharedweu.weu.attest.azure.net/attest/TdxVm", jsonBody(200, `{"token":"d.e.f"}`))
	m := f.client().MAA()
	ctx := context.Background()
	tok, err := m.AttestSNP(ctx, maaBase, []byte(`{"report":"x"}`))
	if err != nil || tok != "a.b.c" || query != "api-version=2022-08-01" || auth != "" || f.lastBody() != `{"report":"x"}` {
		t.Errorf("%q, %v; asked %s with %q", tok, err, query, auth)
	}
	if tok, err := m.AttestTDX(ctx, maaBase, []byte(`{}`)); err != nil || tok != "d.e.f" {
		t.Errorf("%q, %v", tok, err)
	}
	for _, tc := range []struct {
		answer http.HandlerFunc
		kind   fault.Kind
		wait   time.Duration
	}{
		{jsonBody(400, `{"error":{"code":"InvalidParameter","message":"secret evidence"}}`), fault.Invalid, 0},
		{jsonBody(429, `{}`, "Retry-After", "5"), fault.Throttled, 5 * time.Second},
		{jsonBody(500, `{}`), fault.Transient, 0},
		{jsonBody(302, ``, "Location", "https://evil.example.net/"), fault.Transient, 0},
		{jsonBody(401, `{}`), fault.Denied, 0},
		{jsonBody(200, `{"token":""}`), fault.Transient, 0},
		{jsonBody(200, `rubbish`), fault.Transient, 0},
		{jsonBody(200, strings.Repeat(" ", maxToken+1)), fault.Transient, 0},
		{func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault.Transient, 0},
	} {
		f.on("POST sharedweu.weu.attest.azure.net/attest/SevSnpVm", tc.answer)
		_, err := m.AttestSNP(ctx, maaBase, []byte(`{}`))
		if fault.KindOf(err) != tc.kind || fault.RetryAfter(err) != tc.wait || strings.Contains(err.Error(), "secret evidence") {
			t.Errorf("want %q: %q %v", tc.kind, fault.KindOf(err), err)
		}
	}
	for _, call := range f.seen() {
		if strings.Contains(call, "evil") {
			t.Error("a redirect was followed")
		}
	}
	for _, base := range []string{"http://x.weu.attest.azure.net", "https://x.weu.attest.azure.net/path", "https://u@x.weu.attest.azure.net", "rubbish", ""} {
		if _, err := m.Certs(ctx, base, false); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", base, err)
		}
	}
}

func TestMAACerts(t *testing.T) {
	f := newFake(t)
	f.on("GET sharedweu.weu.attest.azure.net/certs", jsonBody(200, `{"keys":[]}`))
	c := f.client()
	now := time.Now()
	c.now = func() time.Time { return now }
	m := c.MAA()
	for i, s := range []struct {
		after time.Duration
		fresh bool
		calls int
	}{
		{0, false, 1}, {23 * time.Hour, false, 1}, {0, true, 2}, {30 * time.Second, true, 2}, // refreshing is paced
		{31 * time.Second, true, 3}, {25 * time.Hour, false, 4},
	} {
		now = now.Add(s.after)
		b, err := m.Certs(context.Background(), maaBase, s.fresh)
		if err != nil || string(b) != `{"keys":[]}` {
			t.Fatal(string(b), err)
		}
		if n := len(f.seen()); n != s.calls {
			t.Errorf("step %d: %d calls, want %d", i, n, s.calls)
		}
	}
	f.on("GET sharedweu.weu.attest.azure.net/certs", jsonBody(503, ``))
	now = now.Add(2 * time.Minute)
	if _, err := m.Certs(context.Background(), maaBase, true); !fault.Is(err, fault.Transient) {
		t.Error(err)
	}
}
