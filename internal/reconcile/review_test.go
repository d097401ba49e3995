package reconcile

import (
	"context"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// A change that never ends doesn't let an old verdict stand: after a while the VM
// is judged as it stands, and looked at ever more seldom.
func TestATransitionThatNeverEnds(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = "Updating" })
	w.send(t, w.event("vm1", "resized"))
	before := w.reads["VM"]
	w.until(t, l, 20*time.Minute)
	if r := w.row(t, o); r.Verdict != policy.Unknown {
		t.Errorf("after 20 minutes it is %s", r.Verdict)
	}
	w.until(t, l, 24*time.Hour)
	if n := w.reads["VM"] - before; n > 60 {
		t.Errorf("it was read %d times in a day", n)
	}
	w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = "Succeeded" })
	w.send(t, w.event("vm1", "done"))
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Compliant || !r.TransitionSince.IsZero() {
		t.Errorf("after it: %s, in transition since %s", r.Verdict, r.TransitionSince)
	}
}

// Anybody who knows a VM's id may push: garbage takes nothing away from what was
// proven, and doesn't stand for evidence that is due.
func TestAPushThatProvesNothing(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	l.Judge = func(_ context.Context, _ []byte, n attest.Nonce, _ attest.Subject, _ attest.Options, now time.Time) attest.Result {
		return attest.Result{Attestation: cvm.Attestation{Evidence: cvm.Outcome{State: cvm.Fail, Reason: "hcl.format"},
			MAA: cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}, NonceIssued: n.Issued, JudgedAt: now, Way: n.Way}}
	}
	was := w.row(t, o)
	writes := len(w.writes)
	nonces := l.nonces()
	nonce, row, err := nonces.IssueNonce(t.Context(), entropy{}, w.clock.Now(), time.Hour, ledger.NonceRow{VM: cvm.VMID(o.ID), UniqueID: was.UniqueID, Way: ledger.WayPush})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := nonces.Consume(t.Context(), nonce, cvm.VMID(o.ID), []byte(`{"garbage":true}`), w.clock.Now()); err != nil {
		t.Fatal(err)
	}
	w.send(t, Message{VM: o.ID, Cause: ledger.Cause{Kind: "evidence", At: w.clock.Now(), Nonce: row.Hash}})
	w.until(t, l, time.Minute)
	r := w.row(t, o)
	if r.Verdict != policy.Compliant || r.HeadSeq != was.HeadSeq || len(w.writes) != writes || len(r.Pending) != 0 {
		t.Errorf("%s, %d records more, %d writes more, pending %v", r.Verdict, r.HeadSeq-was.HeadSeq, len(w.writes)-writes, r.Pending)
	}
}
