package reconcile

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// maxBundle is the longest evidence bundle that is read, in bytes.
const maxBundle = 2 << 20

func (l *Loop) nonces() ledger.Nonces {
	return ledger.Nonces{Tables: l.Tables, Evidence: l.evidence()}
}

func (l *Loop) evidence() ledger.Evidence { return ledger.Evidence{Blobs: l.Blobs} }

// observeGuest adds what the guest proved: evidence that has come in is judged
// here, and whether evidence is due is worked out (rule 7).
func (l *Loop) observeGuest(ctx context.Context, h *held, doc *policy.Document, p *cvm.Posture, v *view, now time.Time) error {
	vm := p.VM.Value
	att, wanted := h.row.Attestation, h.row.EvidenceWanted
	if vm.UniqueID != h.row.UniqueID {
		// First sight of this vmId is what creation means; what another VM of the
		// same name proved says nothing of this one.
		att, wanted = nil, now
		v.change = func(r *ledger.Row) {
			r.UniqueID, r.Attestation = vm.UniqueID, nil
			if wanted.After(r.EvidenceWanted) {
				r.EvidenceWanted = wanted
			}
		}
	}
	seen := slices.Clone(h.row.Pending)
	for _, e := range seen {
		a, err := l.judgeEvidence(ctx, vm, e, att, now)
		if err != nil {
			return err
		}
		if a != nil && (att == nil || !a.NonceIssued.Before(att.NonceIssued)) {
			att = a
		}
	}
	if att != nil && att.MAA.Reason == reasonMAAUnavailable && now.Sub(att.JudgedAt) >= l.Settings.SlowPace {
		a, err := l.judgeEvidence(ctx, vm, ledger.PendingEvidence{Bundle: att.Bundle}, nil, now)
		if err != nil {
			return err
		}
		if a != nil {
			att = a
		}
	}
	change := v.change
	v.change = func(r *ledger.Row) {
		change(r)
		r.Pending = slices.DeleteFunc(r.Pending, func(p ledger.PendingEvidence) bool { return slices.Contains(seen, p) })
	}
	v.att = att
	if att == nil {
		p.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "no evidence has come from this VM yet")
	} else {
		p.Attestation = cvm.Known(*att)
	}
	p.EvidenceDue = doc.AttestationAsked() &&
		(att == nil || att.NonceIssued.Before(wanted) || now.Sub(att.NonceIssued) >= doc.AttestationMaxAge())
	return nil
}

// reasonMAAUnavailable is the one outcome that the same bundle may better.
const reasonMAAUnavailable = "maa.unavailable"

// judgeEvidence judges one bundle; nil when there is nothing new to judge.
func (l *Loop) judgeEvidence(ctx context.Context, vm cvm.VM, e ledger.PendingEvidence, have *cvm.Attestation, now time.Time) (*cvm.Attestation, error) {
	sha := e.Bundle
	if sha == "" {
		row, err := l.nonces().ByHash(ctx, e.Nonce)
		if fault.Is(err, fault.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		sha = row.Used
	}
	if sha == "" || have != nil && have.Bundle == sha {
		return nil, nil
	}
	bundle, err := l.evidence().GetEvidence(ctx, sha)
	if err != nil {
		return nil, fmt.Errorf("reading evidence %s: %w", sha, err)
	}
	n, err := l.consume(ctx, vm, bundle, now)
	if err != nil {
		return nil, err
	}
	s := attest.Subject{ID: vm.ID, UniqueID: vm.UniqueID, Region: vm.Location, Kind: cvm.KindOf(vm), TEE: cvm.TEEOfSize(vm.Size)}
	s.TL = s.Kind == cvm.KindTrustedLaunch
	judge := l.Judge
	if judge == nil {
		judge = attest.Judge
	}
	res := judge(ctx, bundle, n, s, attest.Options{Roots: l.Roots, MAA: l.MAA, Issuer: l.Provider(vm.Location)}, now)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(res.Token) > 0 {
		if _, err := l.evidence().PutEvidence(ctx, res.Token); err != nil {
			return nil, err
		}
	}
	a := res.Attestation
	a.Bundle = sha
	if a.NonceIssued.IsZero() && e.Nonce != "" {
		// A bundle over a nonce that isn't ours answers the one we asked with: it
		// was judged, and isn't asked for again before its time.
		asked, err := l.nonces().ByHash(ctx, e.Nonce)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		a.NonceIssued = asked.Issued
	}
	return &a, nil
}

// consume is check C2 for a bundle's own nonce.
func (l *Loop) consume(ctx context.Context, vm cvm.VM, bundle []byte, now time.Time) (attest.Nonce, error) {
	nonce, err := nonceOf(bundle)
	if err != nil {
		return attest.Nonce{State: attest.NonceUnknown}, nil // C1 says what is wrong with it
	}
	state, row, _, err := l.nonces().Consume(ctx, nonce, vm.ID, bundle, now)
	if err != nil {
		return attest.Nonce{}, fmt.Errorf("consuming the nonce: %w", err)
	}
	return attest.Nonce{State: attest.NonceState(state), VMID: row.VM, UniqueID: row.UniqueID, Issued: row.Issued, Way: row.Way}, nil
}

// nonceOf reads the nonce alone; everything else about a bundle is the verifier's
// to judge.
func nonceOf(bundle []byte) ([]byte, error) {
	var b struct {
		Nonce string `json:"nonce"`
	}
	if err := json.NewDecoder(bytes.NewReader(bundle)).Decode(&b); err != nil {
		return nil, err
	}
	n, err := base64.RawURLEncoding.DecodeString(b.Nonce)
	if err == nil && len(n) != 32 {
		err = fault.New(fault.Invalid, "reading a bundle's nonce", "", "it has %d bytes, not 32", len(n))
	}
	return n, err
}

// prepareEvidence makes what a collection needs: the tool in storage, a nonce for
// this VM and cause whose row is written, and a blob that the guest may append to.
func (l *Loop) prepareEvidence(ctx context.Context, h *held) (sec remedy.Secrets, blob string, err error) {
	sec = h.secrets()
	if sec.ToolSHA, sec.ToolURL, err = l.Tool.Ensure(ctx); err != nil {
		return sec, "", fmt.Errorf("offering the guest's tool: %w", err)
	}
	if blob, err = ledger.NewBlobName(l.Rand); err != nil {
		return sec, "", err
	}
	sec.Nonce, _, err = l.nonces().IssueNonce(ctx, l.Rand, l.Now(), l.Settings.NonceLife, ledger.NonceRow{
		VM: cvm.VMID(h.row.ID), UniqueID: h.row.UniqueID, Cause: sec.Cause, Way: ledger.WayARM, Blob: blob})
	if err != nil {
		return sec, "", err
	}
	sec.OutURL, err = l.SAS.AppendURL(ctx, ledger.ContainerIncoming, blob, l.Settings.NonceLife)
	if err != nil {
		return sec, "", fmt.Errorf("making a URL for the guest's evidence: %w", err)
	}
	return sec, blob, nil
}

// fetchEvidence takes over what the guest appended: kept by its hash and its nonce
// consumed before it is judged.
func (l *Loop) fetchEvidence(ctx context.Context, h *held, out *ledger.Outcome) error {
	blob := h.row.Step.Blob
	bundle, err := l.Blobs.Read(ctx, ledger.ContainerIncoming, blob, maxBundle)
	if fault.Is(err, fault.NotFound) {
		// A turn that was cut short may have taken it over already.
		if n, err := l.nonces().ByHash(ctx, h.row.Step.NonceHash); err == nil && n.Used != "" {
			out.Bundle = n.Used
			return nil
		}
	}
	if fault.Is(err, fault.NotFound) || err == nil && len(bundle) == 0 {
		return fault.New(fault.Blocked, "collecting evidence", h.object.ID, "the run command ended but the guest brought nothing; look at its output on the VM")
	}
	if err != nil {
		return fmt.Errorf("reading what the guest brought: %w", err)
	}
	if out.Bundle, err = l.evidence().PutEvidence(ctx, bundle); err != nil {
		return err
	}
	vm := cvm.VM{ID: cvm.VMID(h.row.ID), UniqueID: h.row.UniqueID}
	if _, err := l.consume(ctx, vm, bundle, l.Now()); err != nil {
		return err
	}
	if err := l.Blobs.Delete(ctx, ledger.ContainerIncoming, blob); err != nil && !fault.Is(err, fault.NotFound) {
		h.log.Warn("the incoming blob stays until it is swept", logError, err.Error())
	}
	return nil
}
