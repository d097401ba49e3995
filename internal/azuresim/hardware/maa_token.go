package hardware

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MAAFault is one way in which the service, or one who stands in its place,
// answers wrongly. The code is what a verifier should say.
type MAAFault string

// The service's faults.
const (
	MAAAlgNone       MAAFault = "alg-none"       // unsigned token: maa.alg-none
	MAAAlgHS256      MAAFault = "alg-hs256"      // keyed by a MAC: maa.alg
	MAAUnknownKid    MAAFault = "unknown-kid"    // a key id that /certs doesn't have: maa.kid
	MAAForeignJKU    MAAFault = "foreign-jku"    // names another key set: maa.jku
	MAABadSignature  MAAFault = "bad-signature"  // maa.signature
	MAAForeignIssuer MAAFault = "foreign-issuer" // maa.issuer
	MAANonCompliant  MAAFault = "non-compliant"  // maa.noncompliant
	MAAGuestShape    MAAFault = "guest-shape"    // azurevm and secureboot, no isolation claims: maa.type
	MAAStale         MAAFault = "stale"          // issued two hours ago, still valid: maa.time
	MAAExpired       MAAFault = "expired"        // ended an hour ago: maa.time
	MAAWrongNonce    MAAFault = "wrong-nonce"    // maa.nonce
	MAAOtherEvidence MAAFault = "other-evidence" // of another VM: maa.other-evidence
	MAARefuses       MAAFault = "refuses"        // 400, the evidence is not good
	MAAThrottled     MAAFault = "throttled"      // 429 with Retry-After 2
	MAAServerError   MAAFault = "server-error"   // 500
)

// injected is a fault that waits for its VM.
type injected struct {
	fault MAAFault
	left  int // calls; below zero: for ever
}

// Inject has the next calls for a VM (any VM if vmUniqueID is "") answered
// wrongly; times below one means until Heal.
func (m *MAA) Inject(vmUniqueID string, f MAAFault, times int) {
	if times < 1 {
		times = -1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	key := strings.ToUpper(vmUniqueID)
	m.faults[key] = append(m.faults[key], &injected{f, times})
}

// Heal takes all faults away.
func (m *MAA) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.faults)
}

// effect is what a fault does: to the answer as a whole, to the claims, to the
// header, to the signed text. Nil parts do nothing.
type effect struct {
	answer func(http.ResponseWriter)
	claims func(map[string]any)
	header func(map[string]any)
	sign   func(signed string) []byte
}

// takeFault is the fault for this call; the first that waits, the VM's own first.
func (m *MAA) takeFault(vm string) effect {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range []string{vm, ""} {
		for _, f := range m.faults[key] {
			if f.left == 0 {
				continue
			}
			if f.left > 0 {
				f.left--
			}
			return effects[f.fault]
		}
	}
	return effect{}
}

func set(name string, v any) func(map[string]any) {
	return func(m map[string]any) { m[name] = v }
}

// shift moves a token's times.
func shift(d time.Duration) func(map[string]any) {
	return func(c map[string]any) {
		for _, k := range []string{"iat", "nbf", "exp"} {
			if t, ok := c[k].(int64); ok {
				c[k] = t + int64(d/time.Second)
			}
		}
	}
}

var effects = map[MAAFault]effect{
	MAAAlgNone: {header: set("alg", "none"), sign: func(string) []byte { return nil }},
	MAAAlgHS256: {header: set("alg", "HS256"), sign: func(s string) []byte {
		h := hmac.New(sha256.New, []byte("guess"))
		h.Write([]byte(s))
		return h.Sum(nil)
	}},
	MAAUnknownKid:    {header: set("kid", "bm90LWEta2V5LW9mLXRoaXMtcHJvdmlkZXI")},
	MAAForeignJKU:    {header: set("jku", "https://sharedxyz.xyz.attest.example.net/certs")},
	MAABadSignature:  {sign: func(string) []byte { return make([]byte, 256) }},
	MAAForeignIssuer: {claims: set("iss", "https://sharedxyz.xyz.attest.example.net")},
	MAANonCompliant:  {claims: set("x-ms-compliance-status", noncomplies)},
	MAAStale:         {claims: shift(-2 * time.Hour)},
	MAAExpired:       {claims: shift(-tokenLife - time.Hour)},
	MAAWrongNonce:    {claims: set("nonce", "bm90LXRoZS1ub25jZQ")},
	MAAGuestShape: {claims: func(c map[string]any) {
		for k := range c {
			if strings.HasPrefix(k, "x-ms-sevsnpvm-") || strings.HasPrefix(k, "tdx_") || k == "x-ms-compliance-status" {
				delete(c, k)
			}
		}
		c["x-ms-attestation-type"], c["secureboot"] = "azurevm", true
	}},
	MAAOtherEvidence: {claims: otherEvidence},
	MAARefuses: {answer: func(w http.ResponseWriter) {
		refuse(w, http.StatusBadRequest, "PolicyEvaluationError", "the evidence is not good enough for the provider's policy")
	}},
	MAAThrottled: {answer: func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", strconv.Itoa(2))
		refuse(w, http.StatusTooManyRequests, "TooManyRequests", "slow down")
	}},
	MAAServerError: {answer: func(w http.ResponseWriter) {
		refuse(w, http.StatusInternalServerError, "InternalError", "the simulated service failed")
	}},
}

// otherEvidence makes the token another genuine VM's: its report data, its id,
// its key.
func otherEvidence(c map[string]any) {
	d := sha256.Sum256([]byte("another VM's runtime data"))
	data := hex.EncodeToString(d[:]) + strings.Repeat("0", 64)
	for _, k := range []string{"x-ms-sevsnpvm-reportdata", "tdx_report_data"} {
		if _, ok := c[k]; ok {
			c[k] = data
		}
	}
	runtime, ok := c["x-ms-runtime"].(map[string]any)
	if !ok {
		return
	}
	if cfg, ok := runtime["vm-configuration"].(map[string]any); ok {
		cfg["vmUniqueId"] = "FFFFFFFF-0000-4000-8000-000000000000"
	}
	if keys, ok := runtime["keys"].([]any); ok && len(keys) > 0 {
		if ak, ok := keys[0].(map[string]any); ok {
			ak["n"] = base64.RawURLEncoding.EncodeToString(append([]byte{0xC0}, make([]byte, 255)...))
		}
	}
}

// token is a JWT of the platform shape over what was proven.
func (m *MAA) token(issuer string, ev *evidence, f effect) (string, error) {
	leaf, err := m.leafOf(issuer)
	if err != nil {
		return "", err
	}
	var jti [32]byte
	if _, err := rand.Read(jti[:]); err != nil {
		return "", fmt.Errorf("drawing a token's id: %w", err)
	}
	now := m.clock().Unix()
	header := map[string]any{"alg": "RS256", "jku": issuer + "/certs", "kid": kidOf(leaf), "typ": "JWT"}
	claims := map[string]any{
		"iss": issuer, "iat": now, "nbf": now, "exp": now + int64(tokenLife/time.Second),
		"jti": hex.EncodeToString(jti[:]), "x-ms-policy-hash": PolicyHash, "x-ms-ver": "1.0",
	}
	for k, v := range ev.claims {
		claims[k] = v
	}
	if ev.nonce != nil {
		claims["nonce"] = *ev.nonce
	}
	if f.header != nil {
		f.header(header)
	}
	if f.claims != nil {
		f.claims(claims)
	}
	h, err := json.Marshal(header)
	if err != nil {
		return "", fmt.Errorf("encoding a token's header: %w", err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encoding a token's claims: %w", err)
	}
	enc := base64.RawURLEncoding
	signed := enc.EncodeToString(h) + "." + enc.EncodeToString(c)
	var sig []byte
	if f.sign != nil {
		sig = f.sign(signed)
	} else {
		digest := sha256.Sum256([]byte(signed))
		if sig, err = rsa.SignPKCS1v15(rand.Reader, m.key, crypto.SHA256, digest[:]); err != nil {
			return "", fmt.Errorf("signing a token: %w", err)
		}
	}
	return signed + "." + enc.EncodeToString(sig), nil
}
