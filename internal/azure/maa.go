package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/fault"
)

var _ attest.MAAClient = (*MAA)(nil)

// What is read of the attestation service at most, and how long it is waited for.
const (
	maxToken    = 1 << 20
	maxJWKS     = 1 << 20
	maaTimeout  = 10 * time.Second
	refreshPace = time.Minute // between two unkept reads of one provider's keys
)

// MAA calls Microsoft Azure Attestation. Its calls are anonymous: no token of the
// function app's identity goes there.
type MAA struct{ c *Client }

// MAA is the attestation service by this client's transport.
func (c *Client) MAA() *MAA { return &MAA{c} }

type jwks struct {
	body []byte
	at   time.Time
}

// AttestSNP sends a SEV-SNP report and gives the service's token.
func (m *MAA) AttestSNP(ctx context.Context, base string, body []byte) (string, error) {
	return m.attest(ctx, base, "/attest/SevSnpVm?api-version=2022-08-01", body)
}

// AttestTDX sends a TD quote and gives the service's token.
func (m *MAA) AttestTDX(ctx context.Context, base string, body []byte) (string, error) {
	return m.attest(ctx, base, "/attest/TdxVm?api-version=2023-04-01-preview", body)
}

// Certs gives a provider's signing keys, at most 24 hours old. fresh asks again,
// but not more than once a minute for a provider: a token with an unknown key id
// must not make us a burden to the service.
func (m *MAA) Certs(ctx context.Context, base string, fresh bool) ([]byte, error) {
	read := func(ctx context.Context) (jwks, error) {
		body, err := m.do(ctx, "reading the signing keys of", http.MethodGet, base, "/certs", nil, maxJWKS)
		return jwks{body, m.c.now()}, err
	}
	kept, err := m.c.maaCerts.get(ctx, base, false, read)
	if err == nil && fresh && m.c.now().Sub(kept.at) >= refreshPace {
		kept, err = m.c.maaCerts.get(ctx, base, true, read)
	}
	return kept.body, err
}

func (m *MAA) attest(ctx context.Context, base, path string, body []byte) (string, error) {
	const op = "attesting at"
	answer, err := m.do(ctx, op, http.MethodPost, base, path, body, maxToken)
	if err != nil {
		return "", err
	}
	var a struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(answer, &a); err != nil || a.Token == "" {
		return "", fault.New(fault.Transient, op, base, "the answer holds no token")
	}
	return a.Token, nil
}

// do makes one call. Nothing of a body is put into an error.
func (m *MAA) do(ctx context.Context, op, method, base, path string, body []byte, most int64) ([]byte, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return nil, &fault.Error{Kind: fault.Invalid, Op: op, Object: base, Err: &cause{text: "not the base URL of an attestation provider"}, Next: "give https://NAME.REGION.attest.azure.net without a path"}
	}
	transport, err := m.c.transport()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maaTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fault.New(fault.Bug, op, base, "making the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	name, _, _ := strings.Cut(path, "?")
	m.c.counter.add("MAA "+method+" "+name, false)
	resp, err := transport.Do(req)
	if err != nil {
		return nil, &fault.Error{Kind: fault.Transient, Op: op, Object: base, Err: &cause{"no answer: " + firstLine(err.Error()), err}, Next: "check that the function app may reach the attestation service"}
	}
	answer, readErr := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err := errors.Join(readErr, resp.Body.Close()); err != nil {
		return nil, &fault.Error{Kind: fault.Transient, Op: op, Object: base, Err: &cause{"the answer was cut short", err}, Next: nextByKind[fault.Transient]}
	}
	if int64(len(answer)) > most {
		return nil, fault.New(fault.Transient, op, base, "the answer is longer than %d bytes", most)
	}
	if resp.StatusCode == http.StatusOK {
		return answer, nil
	}
	return nil, maaFault(op, base, resp, answer)
}

func maaFault(op, base string, resp *http.Response, answer []byte) error {
	e := &fault.Error{Kind: fault.Transient, Op: op, Object: base, Code: parseServiceError(answer).Code, Err: &cause{text: "HTTP " + resp.Status}}
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		e.Kind, e.RetryAfter = fault.Throttled, retryAfter(resp)
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		e.Kind, e.Next = fault.Denied, "use the region's shared provider, or let anonymous callers attest at this one"
	case resp.StatusCode == http.StatusNotFound:
		e.Kind, e.Next = fault.NotFound, "check the provider's URL in the policy document"
	case resp.StatusCode == http.StatusRequestTimeout:
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		e.Kind, e.Next = fault.Invalid, "the service does not accept the evidence: look at the bundle's own checks"
	}
	if e.Next == "" {
		e.Next = nextByKind[e.Kind]
	}
	return e
}
