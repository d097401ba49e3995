package reconcile

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
		renewed := h.row.UniqueID != ""
		if renewed {
			v.hold, v.renewed = nil, true // nothing was tried on this VM yet
		}
		v.change = func(r *ledger.Row) {
			r.UniqueID, r.Attestation = vm.UniqueID, nil
			if renewed {
				r.Hold, r.Sends, r.Set, r.Stopped = nil, nil, nil, nil
			}
			if wanted.After(r.EvidenceWanted) {
				r.EvidenceWanted = wanted
			}
		}
	}
	seen := slices.Clone(h.row.Pending)
	for _, e := range seen {
		if vm.UniqueID != h.row.UniqueID {
			n, err := l.nonces().ByHash(ctx, e.Nonce)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			if err == nil && n.UniqueID != vm.UniqueID {
				continue // it was asked of the VM that is no more, and accuses nobody
			}
		}
		a, err := l.judgeEvidence(ctx, vm, e, att, now)
		if err != nil {
			return err
		}
		switch {
		case a == nil || att != nil && a.NonceIssued.Before(att.NonceIssued):
		case e.Bundle == "" && !pushCounts(a, att):
			h.log.Warn("a push that proves nothing was passed over", slog.String("evidence", a.Evidence.Reason), slog.String("maa", a.MAA.Reason), slog.String("bundle", a.Bundle))
		default:
			a.Follow(att)
			att = a
		}
	}
	if att != nil && att.MAA.Reason == reasonMAAUnavailable && now.Sub(att.JudgedAt) >= l.Settings.SlowPace {
		a, err := l.judgeEvidence(ctx, vm, ledger.PendingEvidence{Bundle: att.Bundle}, nil, now)
		if err != nil {
			return err
		}
		if a != nil {
			if a.NonceIssued.IsZero() {
				a.NonceIssued = att.NonceIssued // that of the nonce which it answers, though it isn't over it
			}
			a.Follow(att)
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
	p.Claims = claimsOf(att)
	p.EvidenceDue = doc.AttestationAsked() &&
		(att == nil || att.NonceIssued.Before(wanted) || now.Sub(att.NonceIssued) >= doc.AttestationMaxAge() ||
			// A first boot that wasn't done leaves evidence due, at the slow pace.
			now.Sub(att.NonceIssued) >= l.Settings.SlowPace && policy.Provisioning(*p))
	return nil
}

// claimsOf is what the guest said in the bundle that was judged last, where that
// vouches for it.
func claimsOf(att *cvm.Attestation) cvm.Fact[cvm.GuestClaims] {
	switch {
	case att == nil:
		return cvm.NotRead[cvm.GuestClaims]("evidence-not-collected", "", "no evidence has come from this VM yet")
	case att.Claims == nil:
		return cvm.NotRead[cvm.GuestClaims]("evidence-not-collected", "", "the guest's evidence holds no word of it that counts")
	}
	return cvm.Known(*att.Claims)
}

// pushCounts says whether a pushed bundle says anything about the VM (one that came
// by ARM has its hash in the step's outcome). Anybody may push: a push that doesn't pass was perhaps not the VM's at all, and neither takes away
// what was proven nor stands for evidence that is due. One that only
// Microsoft's service could not be asked about counts where nothing else is known.
func pushCounts(a, have *cvm.Attestation) bool {
	if a.Evidence.State != cvm.Pass {
		return false
	}
	return a.MAA.State == cvm.Pass || a.MAA.State == cvm.NotApplicable || have == nil && a.MAA.Reason == reasonMAAUnavailable
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
		if have != nil && row.Issued.Before(have.NonceIssued) {
			return nil, nil // what is known already is newer
		}
		sha = row.Used
	}
	if sha == "" || have != nil && have.Bundle == sha {
		return nil, nil
	}
	bundle, err := l.evidence().GetEvidence(ctx, sha)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Bug) {
		// It was taken away or changed in the store. It proves nothing, and the VM is
		// judged without it: evidence is due as if it had never come.
		l.log().Error("evidence can't be judged", slog.String(logObject, string(vm.ID)), slog.String(logError, err.Error()))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading evidence %s: %w", sha, err)
	}
	n, err := l.consume(ctx, vm, bundle, now)
	if err != nil {
		return nil, err
	}
	s := attest.Subject{ID: vm.ID, UniqueID: vm.UniqueID, Region: vm.Location, Kind: cvm.KindOf(vm), TEE: cvm.TEEOf(vm)}
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
	if res.Claims != nil {
		if claims, err := cvm.ReadGuestClaims(res.Claims); err == nil {
			a.Claims = &claims
		} else {
			l.log().Warn("the guest's claims are passed over", slog.String(logObject, string(vm.ID)), slog.String(logError, err.Error()))
		}
	}
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
// consumed before it is judged. The blob stays until the outcome is recorded, so
// that a turn that is cut short in between finds it again.
func (l *Loop) fetchEvidence(ctx context.Context, h *held, out *ledger.Outcome) error {
	if h.row.Step.NonceHash == "" {
		if err := l.findIssued(ctx, h); err != nil {
			return err
		}
	}
	var bundle []byte
	if blob := h.row.Step.Blob; blob != "" {
		var err error
		if bundle, err = l.Blobs.Read(ctx, ledger.ContainerIncoming, blob, maxBundle); err != nil && !fault.Is(err, fault.NotFound) {
			return fmt.Errorf("reading what the guest brought: %w", err)
		}
	}
	if len(bundle) == 0 {
		return fault.New(fault.Blocked, "collecting evidence", h.object.ID, "the run command ended but the guest brought nothing; look at its output on the VM")
	}
	sha, err := l.evidence().PutEvidence(ctx, bundle)
	if err != nil {
		return err
	}
	out.Bundle = sha
	_, err = l.consume(ctx, cvm.VM{ID: cvm.VMID(h.row.ID), UniqueID: h.row.UniqueID}, bundle, l.Now())
	return err
}

// findIssued finds the nonce and the blob of a collection whose row was lost and
// rebuilt from records, which hold neither: by the cause that the nonce was issued
// for. Of several the newest counts whose blob the guest has written.
func (l *Loop) findIssued(ctx context.Context, h *held) error {
	var issued []ledger.NonceRow
	var failed error
	f := ledger.Filter{Equal: map[string]string{"cause": h.row.Step.Record}}
	err := l.Tables.Query(ctx, ledger.TableNonces, f, func(e ledger.Entity) bool {
		n, err := l.nonces().ByHash(ctx, e.RK)
		if err == nil && n.Blob != "" {
			issued = append(issued, n)
		}
		failed = err
		return err == nil
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("looking for the nonce of %s: %w", h.row.Step.Record, err)
	}
	slices.SortFunc(issued, func(a, b ledger.NonceRow) int { return b.Issued.Compare(a.Issued) })
	for _, n := range issued {
		there, err := l.Blobs.Exists(ctx, ledger.ContainerIncoming, n.Blob)
		if err != nil {
			return fmt.Errorf("looking for what the guest brought: %w", err)
		}
		if there {
			return h.save(ctx, func(r *ledger.Row) { r.Step.NonceHash, r.Step.Blob = n.Hash, n.Blob })
		}
	}
	return nil
}

// dropIncoming deletes what a guest appended once it is kept as evidence. A blob
// that stays is deleted by the storage account after a day.
func (l *Loop) dropIncoming(ctx context.Context, h *held, blob string) {
	if blob == "" {
		return
	}
	if err := l.Blobs.Delete(ctx, ledger.ContainerIncoming, blob); err != nil && !fault.Is(err, fault.NotFound) {
		h.log.Warn("what the guest brought stays for a day", slog.String(logError, err.Error()))
	}
}
