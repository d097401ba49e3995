package attest

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// maxKeySet caps a provider's key set in bytes.
const maxKeySet = 1 << 20

// errNoKey says that a key set has no such key.
var errNoKey = errors.New("the provider's key set has no such key")

// tokenKey is M3 within one key set: the key named kid, which must come as a
// certificate; n and e, where given, must be the certificate's.
func tokenKey(jwks []byte, kid string) (*x509.Certificate, *rsa.PublicKey, error) {
	if len(jwks) > maxKeySet {
		return nil, nil, fmt.Errorf("key set of %d bytes is over %d", len(jwks), maxKeySet)
	}
	m, err := members(jwks)
	if err != nil {
		return nil, nil, fmt.Errorf("key set: %w", err)
	}
	var keys []json.RawMessage
	if err := json.Unmarshal(m["keys"], &keys); err != nil {
		return nil, nil, errors.New("key set: keys is not a list")
	}
	var found map[string]json.RawMessage
	for _, raw := range keys {
		k, err := object(raw)
		if err != nil {
			continue // a key that isn't one can't be the one that is looked for
		}
		if id, err := text(k, "kid"); err != nil || id != kid {
			continue
		}
		if found != nil {
			return nil, nil, fmt.Errorf("key set has key %q twice", kid)
		}
		found = k
	}
	if found == nil {
		return nil, nil, errNoKey
	}
	var chain []string
	if err := json.Unmarshal(found["x5c"], &chain); err != nil || len(chain) == 0 {
		return nil, nil, fmt.Errorf("key %q has no certificate", kid)
	}
	der, err := base64.StdEncoding.Strict().DecodeString(chain[0])
	if err != nil {
		return nil, nil, fmt.Errorf("key %q: certificate is not base64", kid)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("key %q: %w", kid, err)
	}
	key, ok := leaf.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < 2048 {
		return nil, nil, fmt.Errorf("key %q is not RSA of 2048 bits or more", kid)
	}
	for name, want := range map[string]*big.Int{"n": key.N, "e": big.NewInt(int64(key.E))} {
		if _, there := found[name]; !there {
			continue
		}
		s, err := text(found, name)
		if err != nil {
			return nil, nil, fmt.Errorf("key %q: %w", kid, err)
		}
		v, err := decodeB64(s)
		if err != nil || new(big.Int).SetBytes(v).Cmp(want) != 0 {
			return nil, nil, fmt.Errorf("key %q: %s is not its certificate's", kid, name)
		}
	}
	return leaf, key, nil
}

// checkCertificate is M4: in its time, and of the configured host. Observed
// leaves are self-signed with the issuer's URL as CN.
func checkCertificate(c *x509.Certificate, issuer string, now time.Time) (detail string, err error) {
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return "", fmt.Errorf("signing certificate is valid from %s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	cn := c.Subject.CommonName
	if !strings.Contains(cn, "://") {
		cn = "https://" + cn
	}
	got, err := url.Parse(cn)
	if err != nil {
		return "", fmt.Errorf("signing certificate's name %q is no URL or host", c.Subject.CommonName)
	}
	want, err := url.Parse(issuer)
	if err != nil || want.Hostname() == "" || !strings.EqualFold(got.Hostname(), want.Hostname()) {
		return "", fmt.Errorf("signing certificate is of %q, not of the provider", c.Subject.CommonName)
	}
	if c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		return "the signing certificate is not self-signed, as others seen are", nil
	}
	return "", nil
}

// signingKey is M3: from the provider's key set, fetched afresh once if the kept
// one doesn't know the key. The token's own URL is never followed.
func (j *judgement) signingKey(ctx context.Context, kid string) (*x509.Certificate, *rsa.PublicKey, bool) {
	for _, fresh := range []bool{false, true} {
		jwks, err := j.options.MAA.Certs(ctx, j.options.Issuer, fresh)
		if err != nil {
			j.unknown("M3", CodeUnavailable, "reading the provider's keys: %v", err)
			return nil, nil, false
		}
		leaf, key, err := tokenKey(jwks, kid)
		if err == nil {
			return leaf, key, true
		}
		if fresh || !errors.Is(err, errNoKey) {
			j.fail("M3", "maa.kid", "key %q: %v", kid, err)
			return nil, nil, false
		}
	}
	return nil, nil, false
}
