package attest

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

func b64(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }

// TestTokenChecks: each M check's negative, and what must not be a negative.
func TestTokenChecks(t *testing.T) {
	head := func(k string, v any) func(*fakeMAA, *Options) {
		return func(m *fakeMAA, _ *Options) {
			m.header = func(h map[string]any) {
				if h[k] = v; v == nil {
					delete(h, k)
				}
			}
		}
	}
	claim := func(k string, v any) func(*fakeMAA, *Options) {
		return func(m *fakeMAA, _ *Options) {
			m.claims = func(c map[string]any) {
				if c[k] = v; v == nil {
					delete(c, k)
				}
			}
		}
	}
	raw := func(f func(string) string) func(*fakeMAA, *Options) {
		return func(m *fakeMAA, _ *Options) { m.raw = f }
	}
	keyset := func(f func(k map[string]any)) func(*fakeMAA, *Options) {
		return func(m *fakeMAA, _ *Options) {
			m.keyset = func(keys []map[string]any) any { f(keys[0]); return keys }
		}
	}
	cert := func(c *x509.Certificate) func(*fakeMAA, *Options) {
		return func(m *fakeMAA, _ *Options) {
			m.cert = certificate(t, c, nil, &maaKey().PublicKey, maaKey())
		}
	}
	at := func(d time.Duration) int64 { return testNow.Add(d).Unix() }
	tests := []struct {
		name   string
		kind   string
		change func(*fakeMAA, *Options)
		id     string // "" for pass
		code   string
	}{
		{"alg none", KindSNP, head("alg", "none"), "M1", "maa.alg-none"},
		{"alg NONE", KindSNP, head("alg", "NONE"), "M1", "maa.alg-none"},
		{"alg HS256", KindSNP, head("alg", "HS256"), "M1", "maa.alg"},
		{"alg PS256", KindSNP, head("alg", "PS256"), "M1", "maa.alg"},
		{"alg missing", KindSNP, head("alg", nil), "M1", "maa.alg"},
		{"typ missing", KindSNP, head("typ", nil), "M1", "maa.format"},
		{"typ other", KindSNP, head("typ", "at+jwt"), "M1", "maa.format"},
		{"crit", KindSNP, head("crit", []string{"exp"}), "M1", "maa.format"},
		{"embedded key", KindSNP, head("jwk", map[string]any{}), "M1", "maa.format"},
		{"embedded certificate", KindSNP, head("x5c", []string{}), "M1", "maa.format"},
		{"two parts", KindSNP, raw(func(s string) string { return s[:strings.LastIndex(s, ".")] }), "M1", "maa.format"},
		{"four parts", KindSNP, raw(func(s string) string { return s + ".x" }), "M1", "maa.format"},
		{"padded part", KindSNP, raw(func(s string) string { return s + "=" }), "M1", "maa.format"},
		{"header member twice", KindSNP, raw(func(s string) string {
			return b64(`{"alg":"RS256","alg":"none","typ":"JWT"}`) + s[strings.Index(s, "."):]
		}), "M1", "maa.format"},
		{"payload not JSON", KindSNP, raw(func(s string) string {
			p := strings.Split(s, ".")
			return p[0] + "." + b64("{") + "." + p[2]
		}), "M1", "maa.format"},
		{"too long", KindSNP, raw(func(s string) string { return s + strings.Repeat("A", maxToken) }), "M1", "maa.format"},
		{"foreign jku", KindSNP, head("jku", "https://evil.example/certs"), "M2", "maa.jku"},
		{"jku of the host with another path", KindSNP, head("jku", testBase+"/certs2"), "M2", "maa.jku"},
		{"jku with the host as user", KindSNP, head("jku", testBase+"@evil.example/certs"), "M2", "maa.jku"},
		{"jku with a query", KindSNP, head("jku", testBase+"/certs?x"), "M2", "maa.jku"},
		{"jku by http", KindSNP, head("jku", strings.Replace(testBase, "https", "http", 1)+"/certs"), "M2", "maa.jku"},
		{"jku missing", KindSNP, head("jku", nil), "M2", "maa.jku"},
		{"jku spelled otherwise", KindSNP, head("jku", "https://SharedNeu.neu.attest.azure.net:443/certs"), "", ""},
		{"unknown kid", KindSNP, head("kid", "k9"), "M3", "maa.kid"},
		{"kid missing", KindSNP, head("kid", nil), "M3", "maa.kid"},
		{"key twice", KindSNP, func(m *fakeMAA, _ *Options) {
			m.keyset = func(k []map[string]any) any { return append(k, k[0]) }
		}, "M3", "maa.kid"},
		{"key without certificate", KindSNP, keyset(func(k map[string]any) { delete(k, "x5c") }), "M3", "maa.kid"},
		{"n of another key", KindSNP, keyset(func(k map[string]any) {
			k["n"] = base64.RawURLEncoding.EncodeToString(otherKey().N.Bytes())
		}), "M3", "maa.kid"},
		{"n and e of the key", KindSNP, keyset(func(k map[string]any) {
			k["n"], k["e"] = base64.RawURLEncoding.EncodeToString(maaKey().N.Bytes()), "AQAB"
		}), "", ""},
		{"key set that is none", KindSNP, func(m *fakeMAA, _ *Options) {
			m.keyset = func([]map[string]any) any { return "x" }
		}, "M3", "maa.kid"},
		{"key known only afresh", KindSNP, func(m *fakeMAA, _ *Options) { m.stale = true }, "", ""},
		{"certificate expired", KindSNP, cert(&x509.Certificate{Subject: pkix.Name{CommonName: testBase},
			NotBefore: testNow.Add(-2 * time.Hour), NotAfter: testNow.Add(-time.Hour)}), "M4", "maa.cert"},
		{"certificate of another host", KindSNP, cert(&x509.Certificate{Subject: pkix.Name{CommonName: "https://evil.example"}}), "M4", "maa.cert"},
		{"certificate with a bare host", KindSNP, cert(&x509.Certificate{Subject: pkix.Name{CommonName: strings.TrimPrefix(testBase, "https://")}}), "", ""},
		{"signed by another key", KindSNP, func(m *fakeMAA, _ *Options) { m.signer = otherKey() }, "M5", "maa.signature"},
		{"payload edited", KindSNP, raw(func(s string) string {
			p := strings.Split(s, ".")
			text, err := base64.RawURLEncoding.DecodeString(p[1])
			if err != nil {
				t.Fatal(err)
			}
			return p[0] + "." + b64(strings.Replace(string(text), "1.0", "1.1", 1)) + "." + p[2]
		}), "M5", "maa.signature"},
		{"other issuer", KindSNP, claim("iss", "https://mine.neu.attest.azure.net"), "M6", "maa.issuer"},
		{"no issuer", KindSNP, claim("iss", nil), "M6", "maa.issuer"},
		{"expired", KindSNP, claim("exp", at(-61*time.Second)), "M6", "maa.time"},
		{"expired within the skew", KindSNP, claim("exp", at(-30*time.Second)), "", ""},
		{"from the future", KindSNP, claim("nbf", at(2*time.Minute)), "M6", "maa.time"},
		{"within the skew", KindSNP, claim("nbf", at(30*time.Second)), "", ""},
		{"too old though it lives", KindSNP, claim("iat", at(-2*time.Hour)), "M6", "maa.time"},
		{"old but allowed", KindSNP, func(m *fakeMAA, o *Options) {
			claim("iat", at(-2*time.Hour))(m, o)
			o.MaxTokenAge = 3 * time.Hour
		}, "", ""},
		{"exp as text", KindSNP, claim("exp", "1800000000"), "M6", "maa.time"},
		{"iat missing", KindSNP, claim("iat", nil), "M6", "maa.time"},
		{"TDX token for SNP", KindSNP, claim("x-ms-attestation-type", "tdxvm"), "M7", "maa.type"},
		{"type missing", KindSNP, claim("x-ms-attestation-type", nil), "M7", "maa.type"},
		{"not compliant", KindSNP, claim("x-ms-compliance-status", "azure-signed-uvm"), "M7", "maa.noncompliant"},
		{"no compliance claim", KindTDX, claim("x-ms-compliance-status", nil), "M7", "maa.noncompliant"},
		{"compliance as a bool", KindTDX, claim("x-ms-compliance-status", true), "M7", "maa.noncompliant"},
		{"other nonce", KindSNP, claim("nonce", "x"), "M8", "maa.nonce"},
		{"no nonce", KindSNP, claim("nonce", nil), "M8", "maa.nonce"},
		{"TDX without nonce, user data tells", KindTDX, claim("nonce", nil), "", ""},
		{"TDX with another nonce", KindTDX, claim("nonce", "x"), "M8", "maa.nonce"},
		{"other report", KindSNP, claim("x-ms-sevsnpvm-reportdata", strings.Repeat("0", 128)), "M9", "maa.other-evidence"},
		{"other measurement", KindSNP, claim("x-ms-sevsnpvm-launchmeasurement", strings.Repeat("0", 96)), "M9", "maa.other-evidence"},
		{"other MRTD", KindTDX, claim("tdx_mrtd", strings.Repeat("0", 96)), "M9", "maa.other-evidence"},
		{"other report data", KindTDX, claim("tdx_report_data", nil), "M9", "maa.other-evidence"},
		{"other AK", KindSNP, func(m *fakeMAA, _ *Options) {
			v := newFakeVM(KindSNP)
			v.ak = otherKey()
			m.claims = func(c map[string]any) { c["x-ms-runtime"] = json.RawMessage(v.runtime()) }
		}, "M9", "maa.other-evidence"},
		{"other VM", KindSNP, func(m *fakeMAA, _ *Options) {
			v := newFakeVM(KindSNP)
			v.uid = otherUID
			m.claims = func(c map[string]any) { c["x-ms-runtime"] = json.RawMessage(v.runtime()) }
		}, "M9", "maa.other-evidence"},
		{"no runtime claims", KindSNP, claim("x-ms-runtime", nil), "M9", "maa.other-evidence"},
		{"policy hash not allowed", KindSNP, func(_ *fakeMAA, o *Options) { o.PolicyHashes = []string{"a"} }, "M10", "maa.policy"},
		{"policy hash allowed", KindSNP, func(_ *fakeMAA, o *Options) { o.PolicyHashes = []string{"a", "hash"} }, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			m := o.MAA.(*fakeMAA)
			tt.change(m, &o)
			r := Judge(context.Background(), encode(t, newFakeVM(tt.kind).bundle(t)), goodNonce(), subject(tt.kind), o, testNow)
			a := r.Attestation
			if tt.id == "" {
				wantOutcome(t, "maa", a.MAA, cvm.Pass, "", a)
				return
			}
			wantOutcome(t, "maa", a.MAA, cvm.Fail, tt.code, a)
			if c := stateOf(a, tt.id); c.State != cvm.Fail || c.Code != tt.code {
				t.Errorf("check %s is %+v, want it failed with %s", tt.id, c, tt.code)
			}
			if len(r.Token) == 0 || a.Token == "" {
				t.Error("a refused token is kept all the same")
			}
			if m.certs > 2 {
				t.Errorf("the key set was read %d times", m.certs)
			}
		})
	}
}

// TestNoIsolationClaims: a signed token that says azurevm and secureboot, but
// nothing of isolation, never satisfies.
func TestNoIsolationClaims(t *testing.T) {
	o := options(t)
	o.MAA.(*fakeMAA).claims = func(c map[string]any) {
		clear(c)
		for k, v := range map[string]any{"iss": testBase, "iat": testNow.Unix(), "nbf": testNow.Unix(), "exp": testNow.Add(time.Hour).Unix(),
			"secureboot": true, "x-ms-attestation-type": "azurevm", "x-ms-azurevm-vmid": testUID, "x-ms-policy-hash": "hash"} {
			c[k] = v
		}
	}
	a := Judge(context.Background(), encode(t, newFakeVM(KindSNP).bundle(t)), goodNonce(), subject(KindSNP), o, testNow).Attestation
	wantOutcome(t, "maa", a.MAA, cvm.Fail, "maa.type", a)
	for _, id := range []string{"M7", "M8", "M9"} {
		if stateOf(a, id).State != cvm.Fail {
			t.Errorf("%s is %s", id, stateOf(a, id).State)
		}
	}
	if a.SecureBoot != nil {
		t.Error("secure boot counts as proven")
	}
}

// TestTDXUserDataDecides: without nonce claim, foreign user data is refused.
func TestTDXUserDataDecides(t *testing.T) {
	o := options(t)
	v := newFakeVM(KindTDX)
	b := v.bundle(t)
	o.MAA.(*fakeMAA).claims = func(c map[string]any) {
		delete(c, "nonce")
		ud := UserData(v.nonce)
		c["x-ms-runtime"] = json.RawMessage(strings.Replace(string(v.runtime()), strings.ToUpper(hex.EncodeToString(ud[:])), strings.Repeat("0", 128), 1))
	}
	a := Judge(context.Background(), encode(t, b), goodNonce(), subject(KindTDX), o, testNow).Attestation
	wantOutcome(t, "maa", a.MAA, cvm.Fail, "maa.nonce", a)
}

// TestPublicGuestToken: a real guest token's claims, of a test host: refused.
func TestPublicGuestToken(t *testing.T) {
	data := readFile(t, filepath.Join(vectors(t), "maa-claims", "snp-windows-claims.json"))
	p, err := members(data)
	if err != nil {
		t.Fatal(err)
	}
	j := &judgement{options: Options{Issuer: testBase}, now: testNow, kind: KindSNP, subject: subject(KindSNP)}
	if f := j.tokenTime(p); f == nil || f.code != "maa.issuer" {
		t.Errorf("M6 says %v, want maa.issuer", f)
	}
	j.options.Issuer = "https://sharedeus.eus.test.attest.azure.net"
	if f := j.tokenTime(p); f == nil || f.code != "maa.time" {
		t.Errorf("M6 says %v, want maa.time", f)
	}
	if f := j.tokenType(p); f == nil || f.code != "maa.type" {
		t.Errorf("M7 says %v, want maa.type: a guest token is not what was asked for", f)
	}
	tee, err := object(p["x-ms-isolation-tee"])
	if err != nil {
		t.Fatal(err)
	}
	if f := j.tokenType(tee); f != nil {
		t.Errorf("the TEE claims have the platform shape, M7 says %v", f.err)
	}
	if _, err := runtimeAK(runtimeClaims(tee)["keys"]); err != nil {
		t.Errorf("an old paravisor's AK, labelled encrypt: %v", err)
	}
}

func FuzzToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add(b64(`{"alg":"RS256","typ":"JWT","kid":"k","jku":"https://h/certs"}`) + "." + b64(`{"iss":"x"}`) + ".AA")
	f.Fuzz(func(t *testing.T, token string) {
		parsed, fault := parseToken(token)
		if fault == nil && (parsed.kid == "" || parsed.payload == nil || !strings.HasPrefix(token, parsed.signed+".")) {
			t.Errorf("accepted, but incomplete: %+v", parsed)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kid":"k","x5c":["AA=="]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, k, err := tokenKey(data, "k"); err == nil && (c == nil || k == nil) {
			t.Error("no key and no error")
		}
	})
}
