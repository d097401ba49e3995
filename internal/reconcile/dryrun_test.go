package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

func (w *world) dryRun(name string) Message {
	return Message{VM: string(vmIDOf(name)), DryRun: true, Cause: ledger.Cause{Kind: "rerun", At: w.clock.Now(), ID: "dry"}}
}

// A dry run records the plan, sends nothing, puts nobody on the loop that would,
// and leaves the claim clean.
func TestADryRun(t *testing.T) {
	w := newWorld(t, "vm1")
	w.des.AutoRotation = true
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.send(t, w.dryRun("vm1"))
	w.until(t, l, 48*time.Hour)
	recs := w.records(t, o)
	if len(recs) != 1 || recs[0].Record.Mode != policy.ModeObserve || recs[0].Record.Plan == nil || len(recs[0].Record.Plan.Steps) == 0 ||
		recs[0].Record.Policy != l.Policy.Hash || recs[0].Record.Causes[0].ID != "dry" {
		t.Fatalf("%d records: %+v", len(recs), recs)
	}
	if msgs, _ := w.queued(t); len(w.writes) != 0 || len(msgs) != 0 {
		t.Errorf("writes %v, queue %+v", w.writes, msgs)
	}
	w.atRest(t, o)
	dry := fmt.Sprint(recs[0].Record.Plan.Steps)
	w.send(t, w.dryRun("vm1"))
	w.until(t, l, time.Minute)
	if len(w.records(t, o)) != 1 {
		t.Error("a second dry run of the same is recorded")
	}
	// What enforce does then is that plan.
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	recs = w.records(t, o)
	if got := fmt.Sprint(recs[1].Record.Plan.Steps); got != dry || recs[1].Record.Type != ledger.TypeIntent {
		t.Errorf("planned\n%s, then\n%s", dry, got)
	}
	if w.row(t, o).Verdict != policy.Compliant {
		t.Error(w.row(t, o).Verdict)
	}
	n := len(w.records(t, o))
	w.send(t, w.dryRun("vm1"))
	w.until(t, l, time.Minute)
	if len(w.records(t, o)) != n {
		t.Error("a dry run of an object at rest is recorded")
	}
	w.atRest(t, o)
}

// Where there is nothing to judge now a dry run comes again itself, still dry.
func TestADryRunWaits(t *testing.T) {
	for name, c := range map[string]struct {
		hinder, end func(w *world)
		verdict     policy.Value
	}{
		"for an open step": {
			func(w *world) {
				w.clock.Advance(DefaultSettings().TransitionWait) // what was set lately isn't set again at once
				w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
				w.send(t, w.event("vm1", "changed"))
				w.until(t, w.loop(t, policy.ModeEnforce), 20*time.Millisecond)
			}, func(*world) {}, policy.Compliant},
		"for a VM in transition": {
			func(w *world) { w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = "Updating" }) },
			func(w *world) {
				w.change("vm1", func(v *cvm.VM) { v.ProvisioningState, v.SecureBoot = "Succeeded", cvm.False })
			}, policy.NonCompliant},
		"for Azure": {
			func(w *world) { w.deny["VM"] = fault.New(fault.Transient, "reading", "", "503") },
			func(w *world) { delete(w.deny, "VM"); w.change("vm1", func(v *cvm.VM) { v.SecureBoot = cvm.False }) }, policy.NonCompliant},
		"for a second 404": {
			func(w *world) { w.remove("vm1") }, func(*world) {}, policy.Gone},
	} {
		t.Run(name, func(t *testing.T) {
			w, l := compliant(t, "vm1")
			o := mustVM(t, "vm1")
			next := w.row(t, o).NextLook
			c.hinder(w)
			n, wrote := len(w.records(t, o)), len(w.writes)
			w.send(t, w.dryRun("vm1"))
			w.until(t, l, 50*time.Millisecond)
			if len(w.records(t, o)) != n {
				t.Error("it was recorded at once")
			}
			if msgs, _ := w.queued(t); !strings.Contains(fmt.Sprint(msgs), " true}") {
				t.Errorf("it isn't on the queue: %v", msgs)
			}
			c.end(w)
			w.until(t, l, 5*time.Minute)
			r := w.row(t, o)
			if r.Verdict != c.verdict || len(w.writes) != wrote {
				t.Errorf("%s, wrote %v", r.Verdict, w.writes[wrote:])
			}
			if name != "for an open step" && !r.NextLook.Equal(next) {
				t.Errorf("the next look moved from %s to %s", next, r.NextLook)
			}
			w.atRest(t, o)
		})
	}
}

// Another message that comes while a dry run holds the object isn't dry.
func TestADryRunThatIsAskedForMore(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.once(recordOf(o), func() {
		if err := w.loop(t, policy.ModeEnforce).Turn(t.Context(), w.event("vm1", "created")); err != nil {
			t.Error(err)
		}
	})
	if err := l.Turn(t.Context(), w.dryRun("vm1")); err != nil {
		t.Fatal(err)
	}
	if w.count("run-command") != 1 {
		t.Errorf("%v", w.writes)
	}
	w.drain(t, l, nil)
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
		t.Error(got)
	}
	w.atRest(t, o)
}

// A dry run that finds an intent which was never sent, and which nobody goes on
// with, says so on the chain: a rebuild would else take it for one under way.
func TestAnIntentThatIsDropped(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.once(func(a memstore.Action) bool {
		return a.After && a.Op == "create" && strings.HasSuffix(a.Name, "00000001.json")
	}, func() { panic(crash{"after the intent"}) })
	if _, crashed := w.deliver(l, w.event("vm1", "created").Encode()); !crashed {
		t.Fatal("no crash")
	}
	w.quiet()
	w.clock.Advance(l.Settings.Lease)
	if err := l.Turn(t.Context(), w.dryRun("vm1")); err != nil {
		t.Fatal(err)
	}
	recs := w.records(t, o)
	if len(recs) != 2 || recs[0].Record.Type != ledger.TypeIntent || recs[0].Record.Step.Kind != remedy.CollectEvidence || recs[1].Record.Type != ledger.TypeState {
		t.Fatalf("%d records", len(recs))
	}
	if r, err := ledger.RowOf(recs, w.clock.Now()); err != nil || r.Step != nil {
		t.Errorf("a rebuild opens %+v, %v", r.Step, err)
	}
	w.drain(t, l, nil) // the queue is empty: the host brings the crashed message again
	w.send(t, w.event("vm1", "created"))
	w.drain(t, l, nil)
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
		t.Error(got)
	}
	w.atRest(t, o)
}
