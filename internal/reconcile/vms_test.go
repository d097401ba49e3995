package reconcile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// Gone is what Azure says twice, a while apart.
func TestAVMThatIsGone(t *testing.T) {
	for _, sooner := range []time.Duration{0, 5 * time.Second} { // a next look that comes between the two
		w, l := compliant(t, "vm1")
		o := mustVM(t, "vm1")
		if sooner > 0 {
			w.clock.Set(w.row(t, o).NextLook.Add(-sooner))
		}
		w.remove("vm1")
		for range 4 { // duplicates in between don't count
			w.send(t, w.event("vm1", "deleted"))
			w.until(t, l, 3*time.Second)
			if r := w.row(t, o); r.Verdict != policy.Compliant || r.GoneSince.IsZero() {
				t.Fatalf("%s, gone since %s", r.Verdict, r.GoneSince)
			}
			w.atRest(t, o)
		}
		w.until(t, l, 4*time.Second)
		if r := w.row(t, o); r.Verdict != policy.Gone || r.GoneSince.IsZero() {
			t.Errorf("sooner %s: %s, gone since %s", sooner, r.Verdict, r.GoneSince)
		}
		n := len(w.records(t, o))
		w.send(t, w.event("vm1", "deleted again"))
		w.drainFor(t, l, nil, 48*time.Hour)
		if got := len(w.records(t, o)); got != n {
			t.Errorf("%d records more", got-n)
		}
		w.atRest(t, o)
	}
}

// A VM that comes back between the two isn't gone, and the first no longer counts.
func TestAVMThatComesBack(t *testing.T) {
	missing := notFound("vm1")
	for name, between := range map[string]func(w *world, l *Loop){
		"there": func(w *world, l *Loop) {},
		"there, in transition": func(w *world, l *Loop) {
			w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = "Updating" })
		},
		"not to be read": func(w *world, l *Loop) {
			w.deny["Disk"] = denied("reading disk", "d", "Microsoft.Compute/disks/read", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, l := compliant(t, "vm1")
			o := mustVM(t, "vm1")
			w.fail["VM"] = missing
			w.send(t, w.event("vm1", "first 404"))
			w.until(t, l, time.Second)
			if w.row(t, o).GoneSince.IsZero() {
				t.Fatal("the first 404 was not noted")
			}
			between(w, l)
			w.send(t, w.event("vm1", "there"))
			w.until(t, l, 20*time.Second)
			if r := w.row(t, o); !r.GoneSince.IsZero() || r.Verdict == policy.Gone {
				t.Errorf("%s, gone since %s", r.Verdict, r.GoneSince)
			}
			w.deny["VM"] = missing
			w.send(t, w.event("vm1", "second 404"))
			w.until(t, l, time.Second)
			if r := w.row(t, o); r.Verdict == policy.Gone {
				t.Error("gone after one 404 since it was there")
			}
			w.until(t, l, time.Minute)
			if r := w.row(t, o); r.Verdict != policy.Gone {
				t.Errorf("%s after two", r.Verdict)
			}
			// Azure's slip is over: it is there as it was.
			delete(w.deny, "VM")
			delete(w.deny, "Disk")
			w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = "Succeeded" })
			w.send(t, w.event("vm1", "back"))
			w.drain(t, l, nil)
			if r := w.row(t, o); r.Verdict != policy.Compliant || !r.GoneSince.IsZero() || w.count("run-command") != 1 {
				t.Errorf("%s, gone since %s, %v", r.Verdict, r.GoneSince, w.writes)
			}
		})
	}
}

// A VM that is deleted while a step is under way.
func TestAVMDeletedHalfWay(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.announce(t, "vm1")
	w.until(t, l, time.Second)
	if w.row(t, o).Step == nil {
		t.Fatal("no step is open")
	}
	w.remove("vm1")
	w.drain(t, l, nil)
	if got := w.history(t, o); fmt.Sprint(got[len(got)-1]) != "verdict gone" || w.row(t, o).Step != nil {
		t.Errorf("history %v", got)
	}
	// Another one of that name: what failed on the first holds nothing back.
	w.create("vm1", 2)
	w.send(t, w.event("vm1", "created"))
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Compliant || w.count("run-command") != 2 {
		t.Errorf("%s after %v", r.Verdict, w.writes)
	}
	w.atRest(t, o)
}

// Letter case makes no other VM: one row, one chain, no record for the spelling.
func TestAVMInAnyLetterCase(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	n := len(w.records(t, o))
	for _, id := range []string{strings.ToUpper(o.ID), strings.ToLower(o.ID), o.ID} {
		id = strings.Replace(strings.Replace(id, "/SUBSCRIPTIONS/", "/subscriptions/", 1), "/PROVIDERS/", "/providers/", 1)
		m := w.event("vm1", id)
		m.VM = id
		other, err := VMObject(id)
		if err != nil || other.Chain() != o.Chain() || other.RK != o.RK {
			t.Fatalf("%s: %+v, %v", id, other, err)
		}
		w.send(t, m)
		w.drain(t, l, nil)
	}
	if got := len(w.records(t, o)); got != n {
		t.Errorf("%d records more for other spellings", got-n)
	}
	// Azure itself spells it otherwise from now on: that is recorded, once.
	renamed := strings.Replace(o.ID, "/resourceGroups/rg/", "/resourceGroups/RG/", 1)
	w.change("vm1", func(v *cvm.VM) { v.ID = cvm.VMID(renamed) })
	for range 3 {
		w.send(t, w.event("vm1", "renamed"))
		w.drain(t, l, nil)
	}
	if got := len(w.records(t, o)); got != n+1 || w.row(t, o).ID != renamed {
		t.Errorf("%d records more, the row says %s", got-n, w.row(t, o).ID)
	}
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" {
		t.Error(got)
	}
}

// A new VM under an old name: what the old one proved says nothing of it.
func TestANewVMOfTheSameName(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	old := w.row(t, o)
	w.push(t, l, "vm1") // evidence of the old one, which is judged too late
	v := w.create("vm1", 7)
	v.ProvisioningState = "Creating"
	w.send(t, w.event("vm1", "created"))
	w.until(t, l, time.Second)
	if r := w.row(t, o); r.Verdict != policy.Unknown || r.Attestation != nil || r.UniqueID == old.UniqueID {
		t.Errorf("while it is made: %s, attestation %+v", r.Verdict, r.Attestation)
	}
	w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = "Succeeded" })
	for range 3 {
		w.send(t, w.event("vm1", "created"))
	}
	w.drain(t, l, nil)
	r := w.row(t, o)
	if r.Verdict != policy.Compliant || r.Attestation == nil || r.Attestation.Bundle == old.Attestation.Bundle || w.count("run-command") != 2 {
		t.Errorf("%s, %v", r.Verdict, w.writes)
	}
	w.atRest(t, o)
}

// Rule 5: a VM that another hand is changing is recorded only if it has no verdict.
func TestAVMInTransition(t *testing.T) {
	for _, what := range []string{"VM", "DES"} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, "vm1")
			l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
			set := func(state string) {
				if what == "DES" {
					w.des.ProvisioningState = state
					return
				}
				w.change("vm1", func(v *cvm.VM) { v.ProvisioningState = state })
			}
			set("Updating")
			for range 3 {
				w.send(t, w.event("vm1", "being made"))
				w.until(t, l, 2*time.Second)
			}
			r := w.row(t, o)
			if r.Verdict != policy.Unknown || len(w.records(t, o)) != 1 || r.NextLook.Sub(w.clock.Now()) > l.Settings.TransitionWait ||
				!slices.ContainsFunc(r.Findings, func(f ledger.RowFinding) bool { return strings.HasSuffix(f.Reason, "in-transition") }) {
				t.Errorf("%s, %d records, next look in %s, %+v", r.Verdict, len(w.records(t, o)), r.NextLook.Sub(w.clock.Now()), r.Findings)
			}
			if what == "VM" && len(w.writes) != 0 {
				t.Errorf("writes %v", w.writes)
			}
			set("Succeeded")
			w.drain(t, l, nil)
			if r := w.row(t, o); r.Verdict != policy.Compliant {
				t.Fatalf("%s: %+v", r.Verdict, r.Findings)
			}
			n := len(w.records(t, o))
			set("Updating")
			w.send(t, w.event("vm1", "resized"))
			w.until(t, l, 5*time.Minute)
			if got := len(w.records(t, o)); got != n || w.row(t, o).Verdict != policy.Compliant {
				t.Errorf("%d records more, %s", got-n, w.row(t, o).Verdict)
			}
			if due := w.row(t, o).NextLook.Sub(w.clock.Now()); due <= 0 || due > 5*time.Minute {
				t.Errorf("the next look is %s away", due)
			}
			set("Succeeded")
			w.drain(t, l, nil)
			w.atRest(t, o)
		})
	}
}

// No permission: unknown, the missing action named, asked for again at the slow
// pace; and the same each time, whatever else the service says.
func TestWhatMayNotBeRead(t *testing.T) {
	for method, action := range map[string]string{"VM": "Microsoft.Compute/virtualMachines/read", "Disk": "Microsoft.Compute/disks/read",
		"DES": "Microsoft.Compute/diskEncryptionSets/read", "Key": "Microsoft.KeyVault/vaults/keys/read", "Vault": "Microsoft.KeyVault/vaults/read"} {
		for _, failing := range []bool{false, true} { // something else is wrong besides
			t.Run(fmt.Sprint(method, " ", failing), func(t *testing.T) {
				w, l := compliant(t, "vm1")
				o := mustVM(t, "vm1")
				if failing {
					w.change("vm1", func(v *cvm.VM) { v.SecureBoot = cvm.False })
				}
				w.deny[method] = denied("reading", "it", action, 1)
				n := len(w.records(t, o))
				start := w.clock.Now()
				for i := range 4 {
					w.send(t, Message{VM: o.ID, Cause: ledger.Cause{Kind: "rerun", At: start, ID: "r"}})
					w.until(t, l, time.Second)
					w.deny[method] = denied("reading", "it", action, i+2) // another text of the service
				}
				w.until(t, l, time.Minute)
				recs := w.records(t, o)
				r := w.row(t, o)
				want := policy.Unknown
				if failing && method != "VM" {
					want = policy.NonCompliant
				}
				if r.Verdict != want {
					t.Errorf("verdict %s", r.Verdict)
				}
				states := 0
				named := false
				for _, rec := range recs[n:] {
					if rec.Record.Type == ledger.TypeState {
						states++
					}
					if v := rec.Record.Verdict; v != nil {
						named = named || slices.ContainsFunc(v.Findings, func(f policy.Finding) bool {
							return f.State == cvm.UnknownState && f.Action == action && strings.Contains(f.Text, action)
						})
					}
				}
				if !named || states > 2 { // one before the verdict's tag is written, one after
					t.Errorf("%d records of states, the action is named: %t", states, named)
				}
				if due := r.NextLook.Sub(w.clock.Now()); due <= 0 || due > l.Settings.SlowPace {
					t.Errorf("the next look is %s away", due)
				}
				delete(w.deny, method)
				w.change("vm1", func(v *cvm.VM) { v.SecureBoot = cvm.True })
				w.until(t, l, l.Settings.SlowPace)
				w.drain(t, l, nil)
				if r := w.row(t, o); r.Verdict != policy.Compliant {
					t.Errorf("at the slow pace: %s", r.Verdict)
				}
				w.atRest(t, o)
			})
		}
	}
}

// What passes serves the message, records nothing and is read again when the
// service says, or soon.
func TestReadsThatFailForAWhile(t *testing.T) {
	throttled := &fault.Error{Kind: fault.Throttled, Op: "reading", Code: "TooManyRequests", RetryAfter: 7 * time.Minute, Err: fmt.Errorf("429")}
	broken := fault.New(fault.Transient, "reading", "", "the connection broke")
	for _, method := range []string{"VM", "Disk", "DES", "Key", "Vault"} {
		for name, c := range map[string]struct {
			err  error
			wait time.Duration
		}{"throttled": {throttled, 7 * time.Minute}, "broken": {broken, DefaultSettings().TransitionWait}, "conflict": {fault.New(fault.Conflict, "reading", "", "409"), DefaultSettings().TransitionWait}} {
			w, l := compliant(t, "vm1")
			o := mustVM(t, "vm1")
			n := len(w.records(t, o))
			w.change("vm1", func(v *cvm.VM) { v.SecureBoot = cvm.False })
			w.fail[method] = c.err
			if err := l.Turn(t.Context(), w.event("vm1", "changed")); err != nil {
				t.Fatalf("%s %s: %v", method, name, err)
			}
			r := w.row(t, o)
			if r.Verdict != policy.Compliant || len(w.records(t, o)) != n || r.LastError == "" {
				t.Errorf("%s %s: %s, %d records more, last error %q", method, name, r.Verdict, len(w.records(t, o))-n, r.LastError)
			}
			if due := r.NextLook.Sub(w.clock.Now()); due != c.wait {
				t.Errorf("%s %s: the next look is %s away", method, name, due)
			}
			w.atRest(t, o)
			w.drain(t, l, nil)
			if r := w.row(t, o); r.Verdict != policy.NonCompliant || r.LastError != "" {
				t.Errorf("%s %s: %s, %q", method, name, r.Verdict, r.LastError)
			}
		}
	}
}

// VM and OS disk that don't agree are read a second time before it counts; a
// second read that fails is like a first.
func TestTheSecondLook(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		verdict policy.Value
	}{
		"denied": {denied("reading VM", "vm1", "Microsoft.Compute/virtualMachines/read", 1), policy.Unknown},
		"gone":   {notFound("vm1"), policy.Compliant}, // a first 404
	} {
		w, l := compliant(t, "vm1")
		o := mustVM(t, "vm1")
		w.change("vm1", func(v *cvm.VM) { v.OSDisk.SecureDES = "" })
		l.Azure = &secondRead{Azure: l.Azure, err: c.err}
		if err := l.Turn(t.Context(), w.event("vm1", "changed")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := w.row(t, o)
		if v := r.Verdict; v != c.verdict || (name == "gone") == r.GoneSince.IsZero() {
			t.Errorf("%s: %s, gone since %s", name, v, r.GoneSince)
		}
	}
}

// secondRead fails each second read of a VM.
type secondRead struct {
	Azure
	n   int
	err error
}

func (s *secondRead) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) {
	if s.n++; s.n%2 == 0 {
		return cvm.VM{}, s.err
	}
	return s.Azure.VM(ctx, id)
}
