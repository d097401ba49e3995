package reconcile

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// Rule 7: which causes ask for evidence, and how often.
func TestWhatAsksForEvidence(t *testing.T) {
	cause := func(kind, id string, fresh bool, after time.Duration) func(w *world) Message {
		return func(w *world) Message {
			return Message{VM: string(vmIDOf("vm1")), Cause: ledger.Cause{Kind: kind, ID: id, At: w.clock.Now().Add(after), Fresh: fresh}}
		}
	}
	for _, c := range []struct {
		name string
		send []func(w *world) Message
		want int // collections beside that of creation
	}{
		{"creation alone", nil, 0},
		{"a restart", []func(*world) Message{cause("start", "1", true, 0)}, 1},
		{"a rerun", []func(*world) Message{cause("rerun", "1", true, 0)}, 1},
		{"health", []func(*world) Message{cause("health", "1", true, 0)}, 1},
		{"our own write, come back as an event", []func(*world) Message{cause(causeEvent, "1", false, 0), cause(causeEvent, "2", false, 0)}, 0},
		{"a sweep, a key's event, a shared object", []func(*world) Message{cause(causeSweep, "1", false, 0), cause("key-event", "2", false, 0), cause(causeShared, "3", false, 0)}, 0},
		{"different causes at once", []func(*world) Message{cause("start", "1", true, 0), cause("rerun", "2", true, 0), cause("health", "3", true, 0), cause(causeEvent, "4", false, 0)}, 1},
		{"one that is older than the evidence", []func(*world) Message{cause("start", "1", true, -time.Hour)}, 0},
		// Its duplicates count as now each time: one collection too many, not one after
		// the other until its moment has come.
		{"one of a clock that is ahead", []func(*world) Message{cause("start", "1", true, time.Minute)}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, l := compliant(t, "vm1")
			w.clock.Advance(2 * time.Minute)
			var msgs []Message
			for _, m := range c.send {
				msgs = append(msgs, m(w))
			}
			for range 3 { // each delivered several times
				for _, m := range msgs {
					w.send(t, m)
				}
			}
			w.until(t, l, 20*time.Second)
			for _, m := range msgs { // and once late
				if !m.Cause.At.After(w.clock.Now()) {
					w.send(t, m)
				}
			}
			w.drain(t, l, nil)
			if got := w.count("run-command") - 1; got != c.want {
				t.Errorf("evidence was collected %d times, not %d", got, c.want)
			}
			if r := w.row(t, mustVM(t, "vm1")); r.Verdict != policy.Compliant {
				t.Errorf("verdict %s", r.Verdict)
			}
		})
	}
}

// A cause that comes while a collection runs is merged, and asks once more.
func TestACauseThatComesLate(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.announce(t, "vm1")
	w.until(t, l, 2*time.Second)
	for i := range 3 {
		w.send(t, w.rerun("vm1", fmt.Sprint("r", i)))
	}
	w.until(t, l, 200*time.Millisecond)
	if w.count("run-command") != 1 {
		t.Fatalf("while it runs: %v", w.writes)
	}
	w.drain(t, l, nil)
	if w.count("run-command") != 2 || w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("%v, %s", w.writes, w.row(t, o).Verdict)
	}
	// The records say who asked.
	var by []string
	for _, r := range w.records(t, o) {
		for _, c := range r.Record.Causes {
			by = append(by, c.ID)
		}
	}
	if s := strings.Join(by, " "); !strings.Contains(s, "r0 r1 r2") {
		t.Errorf("causes on record: %s", s)
	}
}

// Evidence that has grown too old is collected anew, by the loop itself.
func TestEvidenceGrowsOld(t *testing.T) {
	w, l := compliant(t, "vm1")
	w.until(t, l, 73*time.Hour)
	if got := w.count("run-command"); got != 4 {
		t.Errorf("collected %d times in three days", got)
	}
	if got := w.count("tags"); got > 7 {
		t.Errorf("tagged %d times", got)
	}
}

// Collections that end without evidence leave it due, at the slow pace.
func TestACollectionThatBringsNothing(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"nothing":              func(w *world) { w.guest = func([]byte) []byte { return nil } },
		"an empty blob":        func(w *world) { w.guest = func([]byte) []byte { return []byte{} } },
		"more than is read":    func(w *world) { w.guest = func([]byte) []byte { return make([]byte, maxBundle+1) } },
		"the first boot's end": func(w *world) { w.runExit = 75 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "vm1")
			l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
			spoil(w)
			w.announce(t, "vm1", "vm1")
			w.until(t, l, 50*time.Minute)
			out := w.outcomes(t, o, remedy.CollectEvidence)
			if w.count("run-command") != 1 || len(out) != 1 || out[0].State != remedy.Failed || w.row(t, o).Verdict != policy.Unknown {
				t.Fatalf("%v, %+v, %s", w.writes, out, w.row(t, o).Verdict)
			}
			w.until(t, l, 14*time.Hour)
			if got, most := w.count("run-command"), l.Policy.Brakes.MaxSendsPerStepPerDay; got != most {
				t.Errorf("%d calls in a day, the guard lets %d through", got, most)
			}
			w.guest, w.runExit = nil, 0
			w.until(t, l, 12*time.Hour)
			if w.row(t, o).Verdict != policy.Compliant {
				t.Errorf("once it brings some: %s", w.row(t, o).Verdict)
			}
			w.atRest(t, o)
		})
	}
}

// What a guest brings that isn't good is judged once, refused, and not asked for
// again at once.
func TestACollectionThatBringsSomethingElse(t *testing.T) {
	foreign := make([]byte, ledger.NonceSize)
	for name, guest := range map[string]func([]byte) []byte{
		"garbage":         func([]byte) []byte { return []byte("\x7fELF garbage") },
		"a foreign nonce": func([]byte) []byte { return bundleOver(foreign) },
		"a short nonce":   func(n []byte) []byte { return bundleOver(n[:5]) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "vm1")
			l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
			w.guest = guest
			judged := 0
			l.Judge = func(ctx context.Context, b []byte, n attest.Nonce, s attest.Subject, o attest.Options, now time.Time) attest.Result {
				judged++
				return judge(ctx, b, n, s, o, now)
			}
			w.announce(t, "vm1", "vm1")
			w.until(t, l, 12*time.Hour)
			r := w.row(t, o)
			if r.Verdict != policy.NonCompliant || w.count("run-command") != 1 || judged != 1 || r.Attestation == nil || r.Attestation.Evidence.Reason != "nonce.unknown" {
				t.Errorf("%s, %v, judged %d times, %+v", r.Verdict, w.writes, judged, r.Attestation)
			}
			w.guest = nil
			w.send(t, w.rerun("vm1", "again"))
			w.drain(t, l, nil)
			if r := w.row(t, o); r.Verdict != policy.Compliant {
				t.Errorf("after a rerun: %s", r.Verdict)
			}
		})
	}
}

// A guest that takes longer than its nonce lives.
func TestANoncesLife(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.opTime, w.pace = l.Settings.NonceLife+10*time.Minute, time.Minute
	w.announce(t, "vm1")
	w.until(t, l, l.Settings.NonceLife+5*time.Minute)
	out := w.outcomes(t, o, remedy.CollectEvidence)
	if len(out) != 1 || out[0].State != remedy.Failed || !strings.Contains(out[0].Error, l.Settings.NonceLife.String()) {
		t.Errorf("%+v", out)
	}
	w.opTime = 5 * time.Second
	w.until(t, l, l.Settings.SlowPace)
	if w.count("run-command") != 2 || w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("%v, %s", w.writes, w.row(t, o).Verdict)
	}
}

// push stores a bundle as the evidence function does, and puts the VM on the loop.
func (w *world) push(t testing.TB, l *Loop, name string) (m Message, sha string) {
	t.Helper()
	id := vmIDOf(name)
	nonce, n, err := l.nonces().IssueNonce(t.Context(), entropy{}, w.clock.Now(), l.Settings.NonceLife,
		ledger.NonceRow{VM: id, UniqueID: w.vms[id].UniqueID, Cause: "push", Way: ledger.WayPush})
	if err != nil {
		t.Fatal(err)
	}
	state, _, sha, err := l.nonces().Consume(t.Context(), nonce, id, bundleOver(nonce), w.clock.Now())
	if err != nil || state != ledger.NonceGood {
		t.Fatal(state, err)
	}
	m = Message{VM: string(id), Cause: ledger.Cause{Kind: "evidence", At: w.clock.Now(), Nonce: n.Hash, ID: sha}}
	w.send(t, m)
	return m, sha
}

// In observe mode nothing is written, and evidence comes by the guest's push.
func TestObserveModeWritesNothing(t *testing.T) {
	w := newWorld(t, "vm1")
	w.des.AutoRotation = true
	l, o := w.loop(t, policy.ModeObserve), mustVM(t, "vm1")
	judged := map[string]int{}
	l.Judge = func(ctx context.Context, b []byte, n attest.Nonce, s attest.Subject, opt attest.Options, now time.Time) attest.Result {
		r := judge(ctx, b, n, s, opt, now)
		judged[r.Attestation.Bundle]++
		return r
	}
	w.announce(t, "vm1", "vm1")
	w.send(t, w.rerun("vm1", "now"))
	w.until(t, l, 3*time.Hour)
	r := w.row(t, o)
	if r.Verdict != policy.NonCompliant || len(r.Plan) == 0 || r.Plan[0].Step != remedy.CollectEvidence {
		t.Errorf("%s, plan %v", r.Verdict, r.Plan)
	}
	older, olderSHA := w.push(t, l, "vm1")
	w.until(t, l, time.Minute)
	newer, sha := w.push(t, l, "vm1")
	for range 2 { // pushes come twice, and late
		w.send(t, newer)
		w.send(t, older)
		w.until(t, l, time.Minute)
	}
	if r := w.row(t, o); r.Attestation == nil || r.Attestation.Bundle != sha || r.Attestation.Way != ledger.WayPush || len(r.Pending) != 0 {
		t.Errorf("attestation %+v, pending %v", r.Attestation, r.Pending)
	}
	if judged[sha] != 1 || judged[olderSHA] != 1 {
		t.Errorf("judged %v", judged)
	}
	if len(w.writes) != 0 {
		t.Errorf("wrote %v", w.writes)
	}
	for _, rec := range w.records(t, o) {
		if rec.Record.Type != ledger.TypeState {
			t.Errorf("record %d is of type %s", rec.Record.Seq, rec.Record.Type)
		}
	}
	w.atRest(t, o, mustShared(t, string(desID)))
}

// A push that comes while a step is open is judged when the step has ended.
func TestAPushWhileAStepIsOpen(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.guest = func([]byte) []byte { return nil }
	w.announce(t, "vm1")
	w.until(t, l, time.Second)
	_, sha := w.push(t, l, "vm1")
	w.until(t, l, 100*time.Millisecond)
	if r := w.row(t, o); r.Step == nil || r.Attestation != nil || len(r.Pending) != 1 {
		t.Fatalf("%+v", r)
	}
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Compliant || r.Attestation.Bundle != sha || w.count("run-command") != 1 {
		t.Errorf("%s, %+v, %v", r.Verdict, r.Attestation, w.writes)
	}
}

// Where Microsoft's service could not be asked, the same bundle is judged again at
// the slow pace, whatever else is wrong with the VM; nothing is collected anew.
func TestMAAIsAway(t *testing.T) {
	for _, failing := range []bool{false, true} {
		w := newWorld(t, "vm1")
		if failing {
			w.vms[vmIDOf("vm1")].SecureBoot = cvm.False
		}
		l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
		away, judged := true, 0
		l.Judge = func(ctx context.Context, b []byte, n attest.Nonce, s attest.Subject, o attest.Options, now time.Time) attest.Result {
			r := judge(ctx, b, n, s, o, now)
			if judged++; away {
				r.Attestation.MAA = cvm.Outcome{State: cvm.UnknownState, Reason: reasonMAAUnavailable}
			}
			return r
		}
		w.announce(t, "vm1")
		w.until(t, l, 10*time.Minute)
		if r := w.row(t, o); judged != 1 || r.Attestation.MAA.Reason != reasonMAAUnavailable || r.Verdict == policy.Compliant {
			t.Fatalf("judged %d times, %s", judged, r.Verdict)
		}
		w.send(t, w.event("vm1", "sooner"))
		w.until(t, l, 3*l.Settings.SlowPace)
		n := judged
		if n != 4 {
			t.Errorf("failing %t: judged %d times in three hours", failing, n)
		}
		away = false
		w.until(t, l, l.Settings.SlowPace+time.Minute)
		want := policy.Compliant
		if failing {
			want = policy.NonCompliant
		}
		r := w.row(t, o)
		if r.Attestation.MAA.State != cvm.Pass || r.Verdict != want || w.count("run-command") != 1 {
			t.Errorf("failing %t: %+v, %s, %v", failing, r.Attestation.MAA, r.Verdict, w.writes)
		}
		w.until(t, l, 3*l.Settings.SlowPace)
		if judged != n+1 {
			t.Errorf("failing %t: judged %d times more", failing, judged-n)
		}
	}
}

// Evidence that is gone from the store, or was changed there, holds nothing up: the
// VM is judged without it and asked anew.
func TestEvidenceThatCannotBeRead(t *testing.T) {
	for _, changed := range []bool{false, true} {
		w, l := compliant(t, "vm1")
		o := mustVM(t, "vm1")
		m, sha := w.push(t, l, "vm1")
		if changed {
			w.store.Blobs().Overwrite(ledger.ContainerEvidence, ledger.EvidenceName(sha), []byte("other"))
		} else if err := w.store.Blobs().Delete(t.Context(), ledger.ContainerEvidence, ledger.EvidenceName(sha)); err != nil {
			t.Fatal(err)
		}
		m.Cause.Fresh = true // the VM was restarted, too
		w.send(t, m)
		w.drain(t, l, nil)
		if r := w.row(t, o); r.Verdict != policy.Compliant || r.Attestation.Bundle == sha || w.count("run-command") != 2 || r.LastError != "" {
			t.Errorf("changed %t: %s, %+v, %v, %q", changed, r.Verdict, r.Attestation, w.writes, r.LastError)
		}
	}
}

// What a collection needs that isn't there: the step ends, and says why.
func TestACollectionWithoutATool(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	l.Tool = &GuestTool{Blobs: w.store.Blobs(), SAS: w.store.Blobs(), Path: t.TempDir() + "/nothing", Life: time.Minute}
	w.announce(t, "vm1")
	w.until(t, l, time.Minute)
	out := w.outcomes(t, o, remedy.CollectEvidence)
	if len(out) != 1 || out[0].State != remedy.Failed || out[0].Kind != string(fault.Blocked) || !strings.Contains(out[0].Error, "CVMGUARD_GUEST_TOOL") || w.count("run-command") != 0 {
		t.Errorf("%+v, %v", out, w.writes)
	}
}
