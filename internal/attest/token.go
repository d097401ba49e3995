package attest

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

const (
	maxToken    = 64 << 10
	tokenSkew   = 60 * time.Second
	defaultAge  = time.Hour
	compliant   = "azure-compliant-cvm"
	typeSNP     = "sevsnpvm"
	typeTDX     = "tdxvm"
	claimType   = "x-ms-attestation-type"
	claimStatus = "x-ms-compliance-status"
	claimPolicy = "x-ms-policy-hash"
)

// checkFault is a failed check: its number, code and reason.
type checkFault struct {
	id, code string
	err      error
}

func faulted(id, code, format string, args ...any) *checkFault {
	return &checkFault{id, code, fmt.Errorf(format, args...)}
}

// rawToken is a JWT after M1.
type rawToken struct {
	kid, jku  string
	signed    string // header.payload as it came
	payload   map[string]json.RawMessage
	signature []byte
}

// parseToken is M1: a compact JWS whose header is RS256 and typ JWT and which
// brings no key, certificate or critical extension of its own.
func parseToken(token string) (rawToken, *checkFault) {
	var t rawToken
	if len(token) > maxToken {
		return t, faulted("M1", "maa.format", "token of %d bytes is over %d", len(token), maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return t, faulted("M1", "maa.format", "token has %d parts, want 3", len(parts))
	}
	head, err := tokenObject(parts[0])
	if err != nil {
		return t, faulted("M1", "maa.format", "token header: %w", err)
	}
	alg, err := text(head, "alg")
	switch {
	case err != nil:
		return t, faulted("M1", "maa.alg", "token header: %w", err)
	case strings.EqualFold(alg, "none"):
		return t, faulted("M1", "maa.alg-none", "token is not signed (alg %q)", alg)
	case alg != "RS256":
		return t, faulted("M1", "maa.alg", "token alg %q is not RS256", alg)
	}
	if typ, err := text(head, "typ"); err != nil || typ != "JWT" {
		return t, faulted("M1", "maa.format", "token typ %q is not JWT", typ)
	}
	for _, name := range []string{"crit", "jwk", "x5c", "x5u", "b64", "zip", "enc"} {
		if _, there := head[name]; there {
			return t, faulted("M1", "maa.format", "token header has %q, which is refused", name)
		}
	}
	if t.payload, err = tokenObject(parts[1]); err != nil {
		return t, faulted("M1", "maa.format", "token payload: %w", err)
	}
	if t.signature, err = decodeB64(parts[2]); err != nil {
		return t, faulted("M1", "maa.format", "token signature: %w", err)
	}
	if t.jku, err = text(head, "jku"); err != nil {
		return t, faulted("M2", "maa.jku", "token header: %w", err)
	}
	if t.kid, err = text(head, "kid"); err != nil || t.kid == "" {
		return t, faulted("M3", "maa.kid", "token header names no key")
	}
	t.signed = parts[0] + "." + parts[1]
	return t, nil
}

func tokenObject(part string) (map[string]json.RawMessage, error) {
	data, err := decodeB64(part)
	if err != nil {
		return nil, err
	}
	return members(data)
}

// canonicalURL is the one form in which M2, M4 and M6 compare URLs: lower-case
// scheme and host, no default port, no trailing slash; no user, query, fragment.
func canonicalURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", errors.New("not a URL")
	}
	if (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" {
		return "", errors.New("not a plain http(s) URL")
	}
	host := strings.ToLower(u.Host)
	if u.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	}
	return u.Scheme + "://" + host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// sameURL says whether two URLs are the same in canonical form.
func sameURL(a, b string) bool {
	x, errA := canonicalURL(a)
	y, errB := canonicalURL(b)
	return errA == nil && errB == nil && x == y
}

// checkToken makes M1 to M10. M1 to M5 stop at the first fault: what follows
// would rest on an unsigned claim.
func (j *judgement) checkToken(ctx context.Context, token, nonce string) {
	t, f := parseToken(token)
	if f != nil {
		if f.id != "M1" {
			j.pass("M1", "")
		}
		j.fail(f.id, f.code, "%v", f.err)
		return
	}
	j.pass("M1", "")
	if !sameURL(t.jku, j.options.Issuer+"/certs") {
		j.fail("M2", "maa.jku", "the token's key set %q is not the provider's", t.jku)
		return
	}
	j.pass("M2", "")
	leaf, key, ok := j.signingKey(ctx, t.kid)
	if !ok {
		return
	}
	j.pass("M3", "")
	detail, err := checkCertificate(leaf, j.options.Issuer, j.now)
	if err != nil {
		j.fail("M4", "maa.cert", "%v", err)
		return
	}
	j.pass("M4", detail)
	sum := sha256.Sum256([]byte(t.signed))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], t.signature); err != nil {
		j.fail("M5", "maa.signature", "the token's signature is not the key's")
		return
	}
	j.pass("M5", "")

	j.check("M6", j.tokenTime(t.payload))
	j.check("M7", j.tokenType(t.payload))
	detail, f = j.tokenNonce(t.payload, nonce)
	if f == nil {
		j.pass("M8", detail)
	} else {
		j.check("M8", f)
	}
	j.check("M9", j.sameEvidence(t.payload))
	j.tokenPolicy(t.payload)
}

// check adds one entry, passed or failed.
func (j *judgement) check(id string, f *checkFault) {
	if f == nil {
		j.pass(id, "")
		return
	}
	j.fail(id, f.code, "%v", f.err)
}

// tokenTime is M6.
func (j *judgement) tokenTime(p map[string]json.RawMessage) *checkFault {
	iss, err := text(p, "iss")
	if err != nil || !sameURL(iss, j.options.Issuer) {
		return faulted("M6", "maa.issuer", "the token is of issuer %q, not of %q", iss, j.options.Issuer)
	}
	at := map[string]time.Time{}
	for _, name := range []string{"nbf", "iat", "exp"} {
		n, err := number(p, name)
		if err != nil {
			return faulted("M6", "maa.time", "%w", err)
		}
		at[name] = time.Unix(n, 0)
	}
	maxAge := j.options.MaxTokenAge
	if maxAge == 0 {
		maxAge = defaultAge
	}
	switch {
	case at["nbf"].After(j.now.Add(tokenSkew)), at["iat"].After(j.now.Add(tokenSkew)):
		return faulted("M6", "maa.time", "the token is from the future (%s)", at["iat"].UTC().Format(time.RFC3339))
	case !at["exp"].After(j.now.Add(-tokenSkew)):
		return faulted("M6", "maa.time", "the token expired at %s", at["exp"].UTC().Format(time.RFC3339))
	case j.now.Sub(at["iat"]) > maxAge+tokenSkew:
		return faulted("M6", "maa.time", "the token is of %s, older than %s", at["iat"].UTC().Format(time.RFC3339), maxAge)
	}
	return nil
}

// tokenType is M7: the platform shape that was asked for, TEE claims at the top,
// and the status of a compliant CVM. A guest token (azurevm), with or without
// isolation claims, is another answer than the one that was asked for.
func (j *judgement) tokenType(p map[string]json.RawMessage) *checkFault {
	want := typeSNP
	if j.kind == KindTDX {
		want = typeTDX
	}
	if got, err := text(p, claimType); err != nil || got != want {
		return faulted("M7", "maa.type", "the token is of type %q, want %q", got, want)
	}
	if status, err := text(p, claimStatus); err != nil || status != compliant {
		return faulted("M7", "maa.noncompliant", "the compliance status is %q, want %q", status, compliant)
	}
	return nil
}

// tokenNonce is M8. A TDX answer of the preview API that carries no nonce is tied
// by the paravisor's user data instead.
func (j *judgement) tokenNonce(p map[string]json.RawMessage, nonce string) (detail string, f *checkFault) {
	if _, there := p["nonce"]; there || j.kind != KindTDX {
		if got, err := text(p, "nonce"); err != nil || got != nonce {
			return "", faulted("M8", "maa.nonce", "the token is not for this request's nonce")
		}
		return "", nil
	}
	rt, err := object(p["x-ms-runtime"])
	if err != nil {
		return "", faulted("M8", "maa.nonce", "the token has no nonce and no runtime claims")
	}
	got, err := text(rt, "user-data")
	want := UserData([32]byte(j.bundle.Nonce))
	if err != nil || !strings.EqualFold(got, hex.EncodeToString(want[:])) {
		return "", faulted("M8", "maa.nonce", "the token has no nonce, and its user data is not of the bundle's")
	}
	return "the token has no nonce: its user data is of the bundle's", nil
}

// sameEvidence is M9: the token speaks of the very evidence that our own chain
// looked at, and of the VM that was asked about.
func (j *judgement) sameEvidence(p map[string]json.RawMessage) *checkFault {
	const code = "maa.other-evidence"
	want := map[string]string{
		"x-ms-sevsnpvm-reportdata":        hex.EncodeToString(j.report.ReportData[:]),
		"x-ms-sevsnpvm-launchmeasurement": j.measurement(),
	}
	if j.kind == KindTDX {
		want = map[string]string{
			"tdx_report_data": hex.EncodeToString(j.quote.ReportData[:]),
			"tdx_mrtd":        j.measurement(),
		}
	}
	for name, value := range want {
		if got, err := text(p, name); err != nil || !strings.EqualFold(got, value) {
			return faulted("M9", code, "the token's %s is not the evidence's", name)
		}
	}
	ak, err := runtimeAK(runtimeClaims(p)["keys"])
	if err != nil || !ak.Equal(j.runtime.AK) {
		return faulted("M9", code, "the token's attestation key is not the evidence's")
	}
	conf, err := object(runtimeClaims(p)["vm-configuration"])
	if err != nil {
		return faulted("M9", code, "the token has no vm-configuration")
	}
	id, err := text(conf, "vmUniqueId")
	if err != nil || !sameVMID(id, j.runtime.VMUniqueID) || !sameVMID(id, j.subject.UniqueID) {
		return faulted("M9", code, "the token is of VM %q, ARM's vmId is %q", id, j.subject.UniqueID)
	}
	return nil
}

// runtimeClaims is the token's x-ms-runtime, nil if it has none.
func runtimeClaims(p map[string]json.RawMessage) map[string]json.RawMessage {
	rt, err := object(p["x-ms-runtime"])
	if err != nil {
		return nil
	}
	return rt
}

// tokenPolicy is M10: judged where policy names the hashes it accepts, otherwise
// recorded.
func (j *judgement) tokenPolicy(p map[string]json.RawMessage) {
	got, err := text(p, claimPolicy)
	switch {
	case len(j.options.PolicyHashes) == 0:
		j.add("M10", cvm.NotAsked, "", "policy hash "+got)
	case err != nil || !slices.Contains(j.options.PolicyHashes, got):
		j.fail("M10", "maa.policy", "the provider's policy hash %q is not an accepted one", got)
	default:
		j.pass("M10", "policy hash "+got)
	}
}
