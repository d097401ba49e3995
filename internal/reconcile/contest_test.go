package reconcile

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// fight is another enforcer: it takes the tags away a while after they were set,
// round by round, and Azure tells of it.
func (w *world) fight(t testing.TB, l *Loop, rounds int, after time.Duration) {
	t.Helper()
	for i := range rounds {
		w.until(t, l, after)
		w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.event("vm1", fmt.Sprint("taken away", i, w.clock.Now())))
		w.until(t, l, time.Minute)
	}
}

func enforcement(r ledger.Row) (ledger.RowFinding, bool) {
	i := slices.IndexFunc(r.Findings, func(f ledger.RowFinding) bool { return f.Rule == "enforcement" })
	if i < 0 {
		return ledger.RowFinding{}, false
	}
	return r.Findings[i], true
}

func TestTwoEnforcers(t *testing.T) {
	for _, after := range []time.Duration{time.Second, time.Hour} { // one is quick, one slow
		w, l := compliant(t, "vm1")
		o := mustVM(t, "vm1")
		if f, ok := enforcement(w.row(t, o)); !ok || f.State != cvm.Pass {
			t.Errorf("before: %+v", f)
		}
		w.fight(t, l, 1, after)
		if r := w.row(t, o); w.count("tags") != 2 || r.Verdict != policy.Compliant || len(r.Stopped) != 0 || r.Set[ledger.SendKey(remedy.Step{Kind: remedy.Tag, Target: o.ID})].Backs != 1 {
			t.Fatalf("after one round: %v, %s, set %v", w.writes, r.Verdict, r.Set)
		}
		w.fight(t, l, 6, after)
		if got := w.count("tags"); got != 2 {
			t.Fatalf("set %d times though it was changed back twice", got)
		}
		r := w.row(t, o)
		f, _ := enforcement(r)
		if f.State != cvm.Fail || f.Reason != "changed-back" || f.Class != policy.NeedsPerson || r.Verdict != policy.NonCompliant || r.Braked != BrakeContested {
			t.Errorf("%s, %+v, braked by %q", r.Verdict, f, r.Braked)
		}
		c := r.Contested()
		if len(c) != 1 || c[0].Times != 2 || c[0].Why != ledger.WhyChangedBack || c[0].Step != string(remedy.Tag) || c[0].On != o.ID {
			t.Errorf("contested: %+v", c)
		}
		w.stepsBlocked(t, o, "brakes.maxChangedBack")
		out := w.outcomes(t, o, remedy.Tag)
		if end := out[len(out)-1]; len(out) != 3 || end.State != remedy.Blocked || end.Code != ledger.CodeChangedBack {
			t.Errorf("outcomes %+v", out)
		}
		recs := w.records(t, o)
		var p cvm.Posture
		if err := json.Unmarshal(recs[len(recs)-1].Record.Posture, &p); err != nil || len(p.Contested) != 1 || p.Contested[0] != c[0] {
			t.Errorf("the record says %+v, %v", p.Contested, err)
		}
		w.atRest(t, o)

		// A row that is lost and rebuilt doesn't begin the fight anew.
		w.store.Tables().Clear(ledger.TableVMs)
		w.rebuilt(t, l)
		w.until(t, l, 5*time.Minute)
		w.fight(t, l, 2, after)
		if r := w.row(t, o); w.count("tags") != 2 || fmt.Sprint(r.Contested()) != fmt.Sprint(c) {
			t.Fatalf("after the rebuild: %v, contested %+v", w.writes, r.Contested())
		}

		// A person says so: it is set again, and counted anew.
		if _, _, err := l.Resume(t.Context(), o.ID, "start", "jane"); err == nil {
			t.Error("a step that isn't stopped was resumed")
		}
		if _, steps, err := l.Resume(t.Context(), o.ID, "", "jane"); err != nil || len(steps) != 1 {
			t.Fatal(steps, err)
		}
		w.until(t, l, time.Minute)
		if r := w.row(t, o); w.count("tags") != 3 || r.Verdict != policy.Compliant || len(r.Stopped) != 0 || r.Braked != "" {
			t.Errorf("after it was resumed: %v, %s, %v", w.writes, r.Verdict, r.Stopped)
		}
		if !slices.ContainsFunc(w.records(t, o), func(l ledger.Linked) bool {
			return slices.ContainsFunc(l.Record.Causes, func(c ledger.Cause) bool { return c.Kind == ledger.CauseResume && c.By == "jane" })
		}) {
			t.Error("no record says who resumed it")
		}
		w.store.Tables().Clear(ledger.TableVMs)
		w.rebuilt(t, l)
		w.until(t, l, 5*time.Minute)
		w.fight(t, l, 5, after)
		if got := w.count("tags"); got != 4 {
			t.Errorf("the second fight: set %d times in all", got)
		}
		w.atRest(t, o)
	}
}

// The other enforcer is so quick that cvmguard never sees what it has set: that is
// counted all the same, also over a row that is rebuilt in between.
func TestAQuickEnforcer(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t, "vm1")
		l := w.loop(t, policy.ModeEnforce)
		w.announce(t, "vm1")
		o := mustVM(t, "vm1")
		for i := range 6 * 3600 {
			w.until(t, l, time.Second)
			w.mu.Lock()
			w.settle()
			set := w.vms[o.vm()].Tags != nil && w.vms[o.vm()].ProvisioningState == "Succeeded"
			w.mu.Unlock()
			if set {
				w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
				w.send(t, w.event("vm1", fmt.Sprint("taken away", i)))
			}
			if lost && i == 30*60 {
				w.store.Tables().Clear(ledger.TableVMs)
				w.rebuilt(t, l)
			}
		}
		f, _ := enforcement(w.row(t, o))
		if r := w.row(t, o); w.count("tags") != 2 || len(r.Stopped) != 1 || f.State != cvm.Fail || f.Reason != "changed-back" || r.Braked != BrakeContested {
			t.Errorf("lost %t: %v, stopped %v, braked by %q, %+v", lost, w.writes, r.Stopped, r.Braked, f)
		}
		w.atRest(t, o)
	}
}

// vm is the id of a VM's object.
func (o Object) vm() cvm.VMID { return cvm.VMID(o.ID) }

// A row that is rebuilt in the middle of a fight counts what the records say.
func TestAFightOverARebuiltRow(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	w.fight(t, l, 1, time.Hour)
	w.store.Tables().Clear(ledger.TableVMs)
	w.rebuilt(t, l)
	w.until(t, l, 5*time.Minute)
	w.fight(t, l, 3, time.Hour)
	if r := w.row(t, o); w.count("tags") != 2 || len(r.Stopped) != 1 {
		t.Errorf("%v, stopped %v", w.writes, r.Stopped)
	}
}

// What cvmguard itself no longer wants isn't changed back: another value is another
// step.
func TestAnotherValueIsNoFight(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	for i := range 6 {
		w.until(t, l, time.Minute)
		w.change("vm1", func(v *cvm.VM) { v.SecureBoot = []cvm.Tri{cvm.False, cvm.True}[i%2] })
		w.send(t, w.event("vm1", fmt.Sprint("changed", i)))
		w.until(t, l, time.Minute)
	}
	if r := w.row(t, o); len(r.Stopped) != 0 || w.count("tags") != 7 {
		t.Errorf("%v, stopped %v", w.writes, r.Stopped)
	}
	// A new VM of that name has nothing to do with what was set on the old one.
	w.fight(t, l, 4, time.Minute)
	if len(w.row(t, o).Stopped) != 1 {
		t.Fatal("the fight wasn't stopped")
	}
	w.create("vm1", 7)
	w.send(t, w.event("vm1", "created"))
	w.drain(t, l, nil)
	if r := w.row(t, o); len(r.Stopped) != 0 || r.Verdict != policy.Compliant {
		t.Errorf("%s, stopped %v", r.Verdict, r.Stopped)
	}
}

// A step that a person undid is noted and not taken again until a person lets it.
func TestAnUndoneStep(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	key := ledger.SendKey(remedy.Step{Kind: remedy.Tag, Target: o.ID})
	w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
	w.send(t, o.message(ledger.Cause{Kind: ledger.CauseUndone, ID: key, At: w.clock.Now(), By: "jane"}, time.Time{}))
	w.until(t, l, time.Hour)
	f, _ := enforcement(w.row(t, o))
	if r := w.row(t, o); w.count("tags") != 1 || r.Verdict != policy.Compliant || f.State != cvm.Pass || f.Reason != "undone" || r.Braked != BrakeContested {
		t.Errorf("%v, %s, %+v", w.writes, r.Verdict, f)
	}
	if _, _, err := l.Resume(t.Context(), o.ID, string(remedy.Tag), "jane"); err != nil {
		t.Fatal(err)
	}
	w.until(t, l, time.Minute)
	if w.count("tags") != 2 || w.row(t, o).Braked != "" {
		t.Errorf("%v", w.writes)
	}
	w.atRest(t, o)
}

// A shadow policy is judged beside the other, recorded once, and never applied.
func TestAShadowPolicy(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	n := len(w.records(t, o))
	shadow := *l.Policy
	shadow.Hash, shadow.Source = "shadow", []byte("x")
	shadow.Rules = map[string]policy.Setting{"disk-export": {Effect: policy.EffectEnforce}, "encryption-at-host": {Effect: policy.EffectQuarantine}}
	l = w.loop(t, policy.ModeEnforce)
	l.Shadow = &shadow
	for i := range 4 {
		m := w.event("vm1", fmt.Sprint(i))
		m.DryRun = i == 2
		w.send(t, m)
		w.until(t, l, time.Minute)
	}
	recs := w.records(t, o)
	if len(recs) != n+1 || w.count("") != 2 {
		t.Fatalf("%d records more, %v", len(recs)-n, w.writes)
	}
	rec := recs[len(recs)-1].Record
	if rec.Shadow == nil || rec.Shadow.Value != policy.NonCompliant || rec.Shadow.PolicyHash != "shadow" || rec.Verdict.Value != policy.Compliant ||
		!slices.ContainsFunc(rec.Shadow.Findings, func(f policy.Finding) bool { return f.Rule == "encryption-at-host" && f.State == cvm.Fail }) {
		t.Errorf("the record says %+v beside %s", rec.Shadow, rec.Verdict.Value)
	}
	if r := w.row(t, o); r.Shadow != policy.NonCompliant || r.Verdict != policy.Compliant {
		t.Errorf("%s beside %s", r.Shadow, r.Verdict)
	}
	if there, err := w.store.Blobs().Exists(t.Context(), ledger.ContainerPolicy, "shadow.yaml"); err != nil || !there {
		t.Errorf("its text isn't kept: %v", err)
	}
	w.store.Tables().Clear(ledger.TableVMs)
	w.rebuilt(t, l)
	if r := w.row(t, o); r.Shadow != policy.NonCompliant {
		t.Errorf("rebuilt: %q", r.Shadow)
	}
	// Taken away again: one record says so.
	l = w.loop(t, policy.ModeEnforce)
	w.until(t, l, 5*time.Minute)
	w.send(t, w.event("vm1", "without"))
	w.until(t, l, time.Minute)
	if r := w.row(t, o); r.Shadow != "" || len(w.records(t, o)) != n+2 {
		t.Errorf("%q, %d records more", r.Shadow, len(w.records(t, o))-n)
	}
}
