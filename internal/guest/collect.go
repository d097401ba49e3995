package guest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
)

const (
	// userDataWait is how long the paravisor may still serve the report from before
	// the user data was written; it makes a new one for a read after 2 s.
	userDataWait = 3 * time.Second

	imdsTries  = 5
	quoteTries = 4       // the first and three more, when a PCR moved in between
	gzipFrom   = 2 << 10 // bytes: logs shorter than this go as they are
)

// Collect makes one bundle, in this order: user data, a wait, the report, (TDX)
// its quote, the logs, the claims, and last the TPM quote over all of it. It
// fails only where the bundle would prove nothing: no readable TPM, no TD quote,
// a VM id that is no GUID. A missing VCEK or log is logged and left out.
func Collect(ctx context.Context, o Options) ([]byte, error) {
	if o.TPM == nil || o.IMDS == nil || o.System == nil {
		return nil, errors.New("collecting evidence: TPM, IMDS and System must be set")
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &attest.Bundle{Version: 1, Nonce: o.Nonce[:]}
	if err := o.hardware(ctx, b); err != nil {
		return nil, err
	}
	if err := o.software(ctx, b); err != nil {
		return nil, err
	}
	if err := o.quote(ctx, b); err != nil {
		return nil, err
	}
	out, err := b.Canonical(false)
	if err != nil {
		return nil, err
	}
	if len(out) > attest.MaxBundle {
		return nil, fmt.Errorf("the bundle has %d bytes, a verifier takes %d; look for an oversized event log or claims", len(out), attest.MaxBundle)
	}
	return out, nil
}

// hardware fills in kind and the hardware's part.
func (o *Options) hardware(ctx context.Context, b *attest.Bundle) error {
	_, err := o.TPM.NVRead(IndexHCLReport)
	if errors.Is(err, ErrAbsent) {
		return o.trustedLaunch(b)
	}
	if err != nil {
		return fmt.Errorf("reading the paravisor's report (NV %#x): %w; run as root, with /dev/tpmrm0 there", IndexHCLReport, err)
	}
	ud := attest.UserData(o.Nonce)
	if err := o.TPM.NVWrite(IndexUserData, ud[:]); err != nil {
		// An old paravisor has no user data: then the quote alone is fresh.
		o.Log.Warn("user data was not taken up; the report may be as old as the boot", "error", err)
	}
	if err := o.Sleep(ctx, userDataWait); err != nil {
		return fmt.Errorf("waiting for a fresh report: %w", err)
	}
	raw, err := o.TPM.NVRead(IndexHCLReport)
	if err != nil {
		return fmt.Errorf("reading the paravisor's report (NV %#x): %w", IndexHCLReport, err)
	}
	hcl, err := attest.ParseHCL(raw)
	if err != nil {
		return fmt.Errorf("the paravisor's report (NV %#x) has a form that this version doesn't know: %w; update cvmguard-guest", IndexHCLReport, err)
	}
	b.HCLReport = raw[:hcl.Length]
	switch hcl.Type {
	case attest.HCLTypeSNP:
		b.Kind = attest.KindSNP
		vcek, err := try(ctx, o, "reading the VCEK", o.IMDS.VCEK)
		if err != nil {
			o.Log.Warn("no VCEK: Microsoft Azure Attestation can't be asked with this bundle", "error", err)
			return nil
		}
		b.VCEK = vcek
	case attest.HCLTypeTDX:
		b.Kind = attest.KindTDX
		quote, err := try(ctx, o, "asking for a TD quote", func(ctx context.Context) ([]byte, error) {
			return o.IMDS.TDQuote(ctx, hcl.Hardware[:attest.TDReportSize])
		})
		if err != nil {
			return fmt.Errorf("asking the metadata service for a TD quote: %w; without it the evidence proves nothing, try again later", err)
		}
		b.TEEQuote = quote
	default:
		return fmt.Errorf("the paravisor's report is of type %d: not SEV-SNP, not TDX", hcl.Type)
	}
	return nil
}

// trustedLaunch is the hardware part of a VM without a paravisor report: the AK's
// certificate.
func (o *Options) trustedLaunch(b *attest.Bundle) error {
	b.Kind = attest.KindTrustedLaunch
	cert, err := o.TPM.NVRead(IndexAKCert)
	if err != nil {
		return fmt.Errorf("reading the AK certificate (NV %#x): %w; this VM has neither a paravisor's report nor a Trusted Launch vTPM", IndexAKCert, err)
	}
	b.AKCert = cert
	return nil
}

// software fills in logs and claims.
func (o *Options) software(ctx context.Context, b *attest.Bundle) error {
	for _, l := range []struct {
		name string
		read func() ([]byte, error)
		to   *attest.Bytes
	}{{"event log", o.System.EventLog, &b.EventLog}, {"IMA log", o.System.IMALog, &b.IMALog}} {
		data, err := l.read()
		switch {
		case errors.Is(err, ErrAbsent) || err == nil && len(data) == 0:
			continue
		case err != nil:
			o.Log.Warn("left out: "+l.name, "error", err)
			continue
		case len(data) > attest.MaxLog:
			o.Log.Warn("left out: "+l.name+" is too long", "bytes", len(data), "most", attest.MaxLog)
			continue
		}
		if *l.to, err = pack(data); err != nil {
			return fmt.Errorf("packing the %s: %w", l.name, err)
		}
	}
	claims := o.System.Claims(ctx)
	claims.CollectedAt = o.Clock().UTC().Truncate(time.Second)
	var err error
	b.Guest, err = claims.object()
	return err
}

// object is the claims as the bundle holds them. They take the way over JSON, so
// that what is hashed here is what a reader will hash.
func (c Claims) object() (cvm.Claims, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding the guest's claims: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var out cvm.Claims
	if err := d.Decode(&out); err != nil {
		return nil, fmt.Errorf("encoding the guest's claims: %w", err)
	}
	return out, nil
}

func pack(log []byte) ([]byte, error) {
	if len(log) < gzipFrom {
		return log, nil
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(log); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// quote has the AK quote over all that the bundle holds so far. Quoting and
// reading PCRs are two commands: if a PCR moved between them, both are made again.
func (o *Options) quote(ctx context.Context, b *attest.Bundle) error {
	rest, err := b.Canonical(true)
	if err != nil {
		return err
	}
	extra, err := attest.ExtraData(o.Nonce, o.VMUniqueID, rest)
	if err != nil {
		return err
	}
	for range quoteTries {
		if err := ctx.Err(); err != nil {
			return err
		}
		message, signature, err := o.TPM.Quote(HandleAK, extra[:], QuotedPCRs())
		if err != nil {
			return fmt.Errorf("quoting by the AK (%#x): %w; is the vTPM on, and is this run as root?", HandleAK, err)
		}
		pcrs, err := o.TPM.PCRs(QuotedPCRs())
		if err != nil {
			return fmt.Errorf("reading PCRs: %w", err)
		}
		quoted, err := attest.ParseTPMQuote(message)
		if err != nil {
			return fmt.Errorf("the TPM's quote: %w", err)
		}
		h := sha256.New()
		values := make(map[string]string, len(pcrs))
		for _, n := range QuotedPCRs() {
			if len(pcrs[n]) != sha256.Size {
				return fmt.Errorf("reading PCRs: PCR %d has %d bytes, want 32 (SHA-256 bank)", n, len(pcrs[n]))
			}
			h.Write(pcrs[n])
			values[strconv.Itoa(n)] = hex.EncodeToString(pcrs[n])
		}
		if bytes.Equal(h.Sum(nil), quoted.Digest) {
			b.TPMQuote = &attest.TPMQuote{Message: message, Signature: signature, PCRs: values}
			return nil
		}
		o.Log.Info("a PCR moved while quoting; quoting again")
	}
	return fmt.Errorf("PCRs moved during each of %d quotes: something measures all the time; try again when the machine is at rest", quoteTries)
}

// try calls the metadata service up to five times, with a doubling wait from one
// second. What is absent isn't asked for twice.
func try(ctx context.Context, o *Options, what string, call func(context.Context) ([]byte, error)) ([]byte, error) {
	wait := time.Second
	for n := 1; ; n++ {
		out, err := call(ctx)
		if err == nil && len(out) == 0 {
			err = errors.New("the answer is empty")
		}
		if err == nil {
			return out, nil
		}
		if errors.Is(err, ErrAbsent) || n == imdsTries {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		o.Log.Info("trying again: "+what, "try", n, "error", err)
		if err := o.Sleep(ctx, wait); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		wait *= 2
	}
}

// sleep waits by a real timer.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
