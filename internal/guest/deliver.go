package guest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	storageVersion = "2023-11-03" // x-ms-version of the storage calls
	appendBlock    = 4 << 20      // bytes: the most that one append takes
	sendTries      = 4
	maxReply       = 16 << 10
)

// ParseNonce reads a nonce as it is handed about: 64 hex digits, or 43 characters
// of base64url. Its error doesn't show the text.
func ParseNonce(s string) ([32]byte, error) {
	var raw []byte
	var err error
	switch s = strings.TrimSpace(s); len(s) {
	case 64:
		raw, err = hex.DecodeString(s)
	case 43:
		raw, err = base64.RawURLEncoding.DecodeString(s)
	default:
		return [32]byte{}, fmt.Errorf("nonce of %d characters: want 64 hex digits, or 43 of base64url", len(s))
	}
	if err != nil || len(raw) != 32 {
		return [32]byte{}, errors.New("nonce is neither hex nor base64url of 32 bytes")
	}
	return [32]byte(raw), nil
}

// Sender delivers a bundle over HTTP. Its errors never show a URL, since a URL
// here carries a nonce or a SAS.
type Sender struct {
	Client *http.Client                                     // required
	Sleep  func(ctx context.Context, d time.Duration) error // nil: a real timer
}

// reply is what came back of one request.
type reply struct {
	status int
	code   string // x-ms-error-code
	body   []byte
}

// send makes a request until it has an answer that isn't a throttle or a fault of
// the server. again says that an earlier try may have had its effect.
func (s Sender) send(ctx context.Context, what, method, target string, header map[string]string, body []byte) (r reply, again bool, err error) {
	wait := s.Sleep
	if wait == nil {
		wait = sleep
	}
	client := *s.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	delay := time.Second
	for n := 1; ; n++ {
		r, err = once(ctx, &client, method, target, header, body)
		if err == nil && r.status != http.StatusTooManyRequests && r.status < 500 {
			return r, again, nil
		}
		if n == sendTries || ctx.Err() != nil {
			if err != nil {
				return r, again, fmt.Errorf("%s: %w; is the network open to it?", what, err)
			}
			return r, again, fmt.Errorf("%s: the service answered %d %s, %d times; try again later", what, r.status, r.code, n)
		}
		again = true
		if err := wait(ctx, delay); err != nil {
			return r, again, fmt.Errorf("%s: %w", what, err)
		}
		delay *= 2
	}
}

func once(ctx context.Context, client *http.Client, method, target string, header map[string]string, body []byte) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return reply{}, errors.New("the address is not a URL")
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return reply{}, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return reply{resp.StatusCode, resp.Header.Get("x-ms-error-code"), data}, err
}

// Issued is a nonce that cvmguard gave this VM.
type Issued struct {
	Nonce      [32]byte
	Expires    time.Time
	VMUniqueID string
}

// Issue asks cvmguard at base (https://<app>) for a nonce for the VM with an ARM
// id: POST /api/evidence.
func (s Sender) Issue(ctx context.Context, base, armID string) (Issued, error) {
	body, err := json.Marshal(map[string]string{"vm": armID})
	if err != nil {
		return Issued{}, err
	}
	r, _, err := s.send(ctx, "asking cvmguard for a nonce", http.MethodPost, strings.TrimRight(base, "/")+"/api/evidence",
		map[string]string{"Content-Type": "application/json"}, body)
	if err != nil {
		return Issued{}, err
	}
	if r.status != http.StatusCreated {
		return Issued{}, fmt.Errorf("asking cvmguard for a nonce: it answered %d, want 201; check --url and that it knows VM %q", r.status, armID)
	}
	var in struct {
		Nonce   string    `json:"nonce"`
		Expires time.Time `json:"expires"`
		VMID    string    `json:"vmId"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return Issued{}, errors.New("asking cvmguard for a nonce: its answer is not the JSON that was expected; check --url")
	}
	nonce, err := ParseNonce(in.Nonce)
	if err != nil {
		return Issued{}, fmt.Errorf("asking cvmguard for a nonce: %w", err)
	}
	return Issued{nonce, in.Expires, in.VMID}, nil
}

// Push posts a bundle for a nonce: POST /api/evidence/<nonce>, answered by 202.
func (s Sender) Push(ctx context.Context, base string, nonce [32]byte, bundle []byte) error {
	target := strings.TrimRight(base, "/") + "/api/evidence/" + base64.RawURLEncoding.EncodeToString(nonce[:])
	r, _, err := s.send(ctx, "pushing evidence", http.MethodPost, target, map[string]string{"Content-Type": "application/json"}, bundle)
	if err != nil {
		return err
	}
	if r.status != http.StatusAccepted {
		return fmt.Errorf("pushing evidence: cvmguard answered %d, want 202; a nonce is good once and for a short time, start again", r.status)
	}
	return nil
}

// Append creates an append blob by its SAS URL and writes the bundle into it. The
// SAS needs create and add rights only; a blob that is there already is refused.
func (s Sender) Append(ctx context.Context, sas string, bundle []byte) error {
	u, err := url.Parse(sas)
	if err != nil || u.Host == "" {
		return errors.New("the output address is not a URL")
	}
	r, again, err := s.send(ctx, "creating the output blob", http.MethodPut, sas,
		map[string]string{"x-ms-version": storageVersion, "x-ms-blob-type": "AppendBlob", "If-None-Match": "*"}, nil)
	if err != nil {
		return err
	}
	if r.status != http.StatusCreated && !(again && r.status == http.StatusConflict) {
		return fmt.Errorf("creating the output blob: storage answered %d %s; its SAS must allow create and add, and not have ended", r.status, r.code)
	}
	q := u.Query()
	q.Set("comp", "appendblock")
	u.RawQuery = q.Encode()
	for at := 0; at < len(bundle); at += appendBlock {
		block := bundle[at:min(at+appendBlock, len(bundle))]
		r, again, err := s.send(ctx, "appending to the output blob", http.MethodPut, u.String(),
			map[string]string{"x-ms-version": storageVersion, "x-ms-blob-condition-appendpos": fmt.Sprint(at)}, block)
		if err != nil {
			return err
		}
		// A repeated append that finds its place taken has been done by the first try.
		if r.status != http.StatusCreated && !(again && r.status == http.StatusPreconditionFailed) {
			return fmt.Errorf("appending to the output blob: storage answered %d %s", r.status, r.code)
		}
	}
	return nil
}
