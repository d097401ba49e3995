package linux

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cvmguard/internal/guest"
)

const (
	// DefaultIMDS is the metadata service's address, the same in every Azure VM.
	DefaultIMDS = "http://169.254.169.254"

	instanceVersion = "2021-02-01"
	maxIMDS         = 256 << 10 // bytes
)

// IMDS is the instance metadata service over HTTP, without a proxy.
type IMDS struct {
	Base   string       // "" means DefaultIMDS
	Client *http.Client // nil: one without proxy, with a time limit of 15 s
}

var (
	_ guest.IMDS         = (*IMDS)(nil)
	_ guest.ResourceIDer = (*IMDS)(nil)
)

// VCEK is THIM's certificate of this chip.
func (m *IMDS) VCEK(ctx context.Context) ([]byte, error) {
	body, err := m.ask(ctx, http.MethodGet, "/metadata/THIM/amd/certification", nil)
	if err != nil {
		return nil, err
	}
	var in struct {
		VcekCert string `json:"vcekCert"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("metadata service: VCEK answer: %w", err)
	}
	block, _ := pem.Decode([]byte(in.VcekCert))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("metadata service: vcekCert is not a PEM certificate")
	}
	return block.Bytes, nil
}

// TDQuote has a TDREPORT turned into a quote.
func (m *IMDS) TDQuote(ctx context.Context, tdreport []byte) ([]byte, error) {
	in, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(tdreport)})
	if err != nil {
		return nil, err
	}
	body, err := m.ask(ctx, http.MethodPost, "/acc/tdquote", in)
	if err != nil {
		return nil, err
	}
	var out struct {
		Quote string `json:"quote"`
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return nil, fmt.Errorf("metadata service: TD quote answer: %w", err)
	}
	quote, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(out.Quote, "="))
	if err != nil {
		return nil, fmt.Errorf("metadata service: TD quote: %w", err)
	}
	return quote, nil
}

// VMID is the VM's unique id.
func (m *IMDS) VMID(ctx context.Context) (string, error) {
	c, err := m.compute(ctx)
	return c.VMID, err
}

// ResourceID is the VM's ARM id.
func (m *IMDS) ResourceID(ctx context.Context) (string, error) {
	c, err := m.compute(ctx)
	return c.ResourceID, err
}

type compute struct {
	VMID       string `json:"vmId"`
	ResourceID string `json:"resourceId"`
}

func (m *IMDS) compute(ctx context.Context) (compute, error) {
	var c compute
	body, err := m.ask(ctx, http.MethodGet, "/metadata/instance/compute?api-version="+instanceVersion, nil)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, fmt.Errorf("metadata service: instance: %w", err)
	}
	if c.VMID == "" || c.ResourceID == "" {
		return c, errors.New("metadata service: instance has no vmId or no resourceId; is this an Azure VM?")
	}
	return c, nil
}

func (m *IMDS) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	base, client := m.Base, m.Client
	if base == "" {
		base = DefaultIMDS
	}
	if client == nil {
		client = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{Proxy: nil}}
		defer client.CloseIdleConnections()
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("metadata service: %w", err)
	}
	req.Header.Set("Metadata", "true")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("metadata service: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxIMDS))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("metadata service: %w", err)
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
		return nil, fmt.Errorf("metadata service: %s: %w", path, guest.ErrAbsent)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("metadata service: %s answered %d", path, resp.StatusCode)
	}
	return data, nil
}
