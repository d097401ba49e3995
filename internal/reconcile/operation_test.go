package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

func TestARotation(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2", "vm3")
	l := loop()
	o, _ := f.plan(t, l, 2)
	f.until(t, l, time.Hour)
	if f.count("") != 0 {
		t.Fatalf("written before anybody approved: %v", f.writes)
	}
	f.say(t, o, ledger.CauseApprove)
	f.say(t, o, ledger.CauseApprove)
	f.until(t, l, 10*time.Minute)
	f.done(t, o)
	if !slices.ContainsFunc(f.records(t, mustVM(t, "vm1")), func(r ledger.Linked) bool {
		return slices.ContainsFunc(r.Record.Causes, func(c ledger.Cause) bool { return c.ID == o.ID })
	}) {
		t.Error("no record of the VM names the operation that took it down")
	}
	f.say(t, o, ledger.CauseApprove) // and once more, when all is done
	f.until(t, l, 10*time.Minute)
	f.done(t, o)
	f.atRest(t, o)
}

// done checks that the rotation was carried out, each write once.
func (f *fleet) done(t testing.TB, o Object) {
	t.Helper()
	n := len(f.vms)
	if f.count("deallocate") != n || f.count("start") != n || f.count("des-key") != 1 || f.des.KeyURL != newKeyURL || f.powers() != strings.TrimSpace(strings.Repeat("running ", n)) {
		t.Errorf("%v; the set names %s, the VMs are %s", f.writes, last(f.des.KeyURL), f.powers())
	}
	if r := f.row(t, o); r.Verdict != policy.Compliant {
		t.Errorf("the operation is %s: %+v", r.Verdict, r.Findings)
	}
}

// A worker dies, or an answer is lost, at any point of a rotation: each VM is taken
// down and started once, and the key is set once.
func TestARotationWithCrashes(t *testing.T) {
	run := func(trouble func(f *fleet, at int, name string) error) (*fleet, Object, int) {
		f, loop := newFleet(t, "vm1", "vm2")
		l := loop()
		o, _ := f.plan(t, l, 1)
		f.say(t, o, ledger.CauseApprove)
		at := 0
		point := func(name string) error { at++; return trouble(f, at, name) }
		f.store.Hook = func(a memstore.Action) error {
			return point(fmt.Sprintf("%t %s %s", a.After, a.Op, a.Name))
		}
		f.hook = point
		f.drain(t, l, loop)
		f.quiet()
		return f, o, at
	}
	f, o, points := run(func(*fleet, int, string) error { return nil })
	f.done(t, o)
	stride := 7
	if testing.Short() {
		stride = 25
	}
	for at := 1; at <= points; at += stride {
		f, o, _ := run(func(_ *fleet, n int, name string) error {
			if n == at {
				panic(crash{name})
			}
			return nil
		})
		f.done(t, o)
		f.atRest(t, o)
		if t.Failed() {
			t.Fatalf("killed at point %d of %d", at, points)
		}
	}
}

// Many workers at once, and every word said more than once, do no more than one.
func TestARotationWithManyWorkers(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2", "vm3")
	o, _ := f.plan(t, loop(), 2)
	for range 5 {
		f.say(t, o, ledger.CauseApprove)
	}
	end := f.clock.Now().Add(20 * time.Minute)
	var wg sync.WaitGroup
	for range 6 {
		l := loop()
		wg.Go(func() {
			for f.clock.Now().Before(end) {
				if !f.step(&l, nil) {
					f.clock.Advance(time.Second)
				}
			}
		})
	}
	wg.Wait()
	f.drain(t, loop(), nil)
	f.done(t, o)
	f.atRest(t, o)
}

// The world has changed since the plan was made: nobody is taken down for a
// rotation that would be refused in the end.
func TestAnOldPlan(t *testing.T) {
	says := map[string]string{"the new key has expired": "expired", "a VM is being changed": "vm2"}
	forGood := []string{"the set names a third key", "it names the new one", "there is a VM more", "a VM's OS disk is ephemeral"}
	for name, change := range map[string]func(*fleet){
		"the set names a third key":   func(f *fleet) { f.des.KeyURL = keyName + "/33333333333333333333333333333333" },
		"it names the new one":        func(f *fleet) { f.des.KeyURL = newKeyURL },
		"the new key has expired":     func(f *fleet) { f.newKey.Expires = f.clock.Now().Add(-time.Hour) },
		"the old key is disabled":     func(f *fleet) { f.key.Enabled = cvm.False },
		"the orchestrator has lost":   func(f *fleet) { f.rights.Orchestrator = nil },
		"there is a VM more":          func(f *fleet) { f.create("vm3", 3) },
		"the set rotates by itself":   func(f *fleet) { f.des.AutoRotation = true },
		"a VM is being changed":       func(f *fleet) { f.vms[vmIDOf("vm2")].ProvisioningState = "Updating" },
		"a VM's OS disk is ephemeral": func(f *fleet) { f.vms[vmIDOf("vm2")].OSDisk.Ephemeral = true },
	} {
		t.Run(name, func(t *testing.T) {
			f, loop := newFleet(t, "vm1", "vm2")
			l := loop()
			o, _ := f.plan(t, l, 1)
			f.until(t, l, 24*time.Hour)
			change(f)
			f.say(t, o, ledger.CauseApprove)
			f.until(t, l, 10*time.Minute)
			if f.count("") != 0 {
				t.Errorf("written: %v", f.writes)
			}
			_, hash, err := ledger.ParseOperationID(o.ID)
			if err != nil {
				t.Fatal(err)
			}
			now, err := l.OperationNow(t.Context(), hash)
			if slices.Contains(forGood, name) {
				r := f.row(t, o)
				if err != nil || now.Code != OperationRefused || !strings.Contains(now.Text, "make a new plan") || r.NextLook.After(f.clock.Now()) {
					t.Errorf("it is %s: %s, looked at again at %s, %v", now.Code, now.Text, r.NextLook, err)
				}
				for _, word := range OperationWords() {
					if _, err := l.SayToOperation(t.Context(), hash, word, "jane"); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "make a new plan") {
						t.Errorf("%s: %v", word, err)
					}
				}
				rebuilt, err := ledger.RowOf(f.records(t, o), f.clock.Now())
				if err != nil || rebuilt.Operation == nil || rebuilt.Operation.Void != r.Operation.Void {
					t.Errorf("rebuilt from its records: %+v, %v", rebuilt.Operation, err)
				}
				records := len(f.records(t, o))
				f.until(t, l, 7*24*time.Hour)
				if n := len(f.records(t, o)); n != records {
					t.Errorf("%d records more in a week", n-records)
				}
				f.atRest(t, o)
				return
			}
			if why := now.Failed[ledger.SendKey(now.Plan.Steps[0])]; err != nil || now.Code != OperationFailed || why == "" || !strings.Contains(why, says[name]) {
				t.Errorf("it is %s and says %q, %v", now.Code, why, err)
			}
		})
	}
}

// A VM with an ephemeral OS disk came to the set since: no list of Azure's names it,
// but cvmguard's own books do.
func TestAnEphemeralVMCameSince(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2")
	l := loop()
	o, _ := f.plan(t, l, 1)
	f.create("vm3", 3).OSDisk = cvm.OSDiskRef{Name: "vm3", Ephemeral: true, SecurityEncryptionType: "DiskWithVMGuestState", SecureDES: desID}
	f.announce(t, "vm3")
	f.until(t, l, time.Minute)
	f.say(t, o, ledger.CauseApprove)
	f.until(t, l, 10*time.Minute)
	if f.count("") != 0 {
		t.Errorf("written: %v", f.writes)
	}
}

// The same in the midst of it: no further VM is taken down.
func TestTheWorldChangesDuringARotation(t *testing.T) {
	for name, change := range map[string]func(*fleet){
		"the set names a third key": func(f *fleet) { f.des.KeyURL = keyName + "/33333333333333333333333333333333" },
		"there is a VM more":        func(f *fleet) { f.create("vm4", 4) },
		"the new key is disabled":   func(f *fleet) { f.newKey.Enabled = cvm.False },
		"the set rotates by itself": func(f *fleet) { f.des.AutoRotation = true },
	} {
		t.Run(name, func(t *testing.T) {
			f, loop := newFleet(t, "vm1", "vm2", "vm3")
			l := loop()
			o, _ := f.plan(t, l, 1)
			f.hook = func(when string) error {
				if strings.HasPrefix(when, "after deallocate") {
					f.mu.Lock()
					defer f.mu.Unlock()
					f.hook = nil
					f.mu.Unlock()
					change(f)
					f.mu.Lock()
				}
				return nil
			}
			f.say(t, o, ledger.CauseApprove)
			f.until(t, l, 10*time.Minute)
			if f.count("deallocate") != 1 || f.count("des-key") != 0 {
				t.Errorf("%v", f.writes)
			}
			f.say(t, o, ledger.CauseStop)
			f.until(t, l, 2*time.Hour)
			if !strings.HasPrefix(f.powers(), "running running running") || f.count("start") != 1 {
				t.Errorf("after the stop: %s, %v", f.powers(), f.writes)
			}
		})
	}
}

// A person stops a rotation while the service turns a part of its first wave away:
// no VM is taken down any more, and those that were are started again.
func TestStoppedInTheMidstOfAWave(t *testing.T) {
	for _, word := range []string{ledger.CauseStop, ledger.CausePause} {
		for name, refuse := range map[string]error{
			"throttled": &fault.Error{Kind: fault.Throttled, Op: "deallocating", RetryAfter: time.Minute},
			"in use":    fault.New(fault.Conflict, "deallocating", "", "another operation holds the VM"),
			"lost":      fault.New(fault.Transient, "deallocating", "", "the connection broke"),
		} {
			t.Run(word+" "+name, func(t *testing.T) {
				f, loop := newFleet(t, "vm1", "vm2", "vm3")
				l := loop()
				o, _ := f.plan(t, l, 3)
				f.say(t, o, ledger.CauseApprove)
				f.hook = func(when string) error {
					if when == "before deallocate vm2" {
						return refuse
					}
					return nil
				}
				f.until(t, l, 5*time.Second)
				if got := f.count("deallocate"); got != 1 {
					t.Fatalf("%v", f.writes)
				}
				f.say(t, o, word)
				f.until(t, l, time.Second)
				f.hook = nil
				f.until(t, l, 2*time.Hour)
				if word == ledger.CausePause { // the step that was begun ends, no other is taken
					if f.count("deallocate") != 3 || f.count("des-key") != 0 {
						t.Errorf("%v", f.writes)
					}
					f.say(t, o, ledger.CauseResume)
					f.until(t, l, 10*time.Minute)
					f.done(t, o)
					return
				}
				if f.count("deallocate") != 1 || f.count("des-key") != 0 || f.powers() != "running running running" {
					t.Errorf("%v; the VMs are %s", f.writes, f.powers())
				}
				f.atRest(t, o)
			})
		}
	}
}

// A step that nobody has sent yet, because the service turned it away, isn't sent
// after a pause.
func TestPausedBeforeTheFirstCall(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2")
	l := loop()
	o, _ := f.plan(t, l, 2)
	f.say(t, o, ledger.CauseApprove)
	f.hook = func(when string) error {
		if strings.HasPrefix(when, "before deallocate") {
			return &fault.Error{Kind: fault.Throttled, Op: "deallocating", RetryAfter: time.Minute}
		}
		return nil
	}
	f.until(t, l, 5*time.Second)
	f.say(t, o, ledger.CausePause)
	f.until(t, l, time.Second)
	f.hook = nil
	f.until(t, l, 2*time.Hour)
	if f.count("") != 0 {
		t.Fatalf("%v", f.writes)
	}
	f.say(t, o, ledger.CauseResume)
	f.until(t, l, 10*time.Minute)
	f.done(t, o)
}

// A rotation that was left half done is repeated with all VMs down, and only when
// nobody is at it any more.
func TestAHalfDoneRotation(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*cvm.DES, time.Time)
		want string // of the refusal, "" for a plan
	}{
		"failed, the old key":   {func(d *cvm.DES, _ time.Time) { d.ProvisioningState = "Failed" }, ""},
		"failed, the new key":   {func(d *cvm.DES, _ time.Time) { d.ProvisioningState, d.KeyURL = "Failed", newKeyURL }, ""},
		"some old, the old key": {func(d *cvm.DES, _ time.Time) { d.PreviousKeys = 1 }, ""},
		"some old, for a day": {func(d *cvm.DES, now time.Time) {
			d.PreviousKeys, d.KeyURL, d.LastRotation = 1, newKeyURL, now.Add(-25*time.Hour)
		}, ""},
		"some old, an hour": {func(d *cvm.DES, now time.Time) {
			d.PreviousKeys, d.KeyURL, d.LastRotation = 1, newKeyURL, now.Add(-time.Hour)
		}, "under way"},
		"some old, who knows when": {func(d *cvm.DES, _ time.Time) { d.PreviousKeys, d.KeyURL = 1, newKeyURL }, "under way"},
		"done":                     {func(d *cvm.DES, _ time.Time) { d.KeyURL = newKeyURL }, "already"},
	} {
		t.Run(name, func(t *testing.T) {
			f, loop := newFleet(t, "vm1", "vm2")
			l := loop()
			c.set(&f.des, f.clock.Now())
			if c.want != "" {
				in, err := remedy.ReadRotation(t.Context(), f, desID, newKeyURL, nil, l.Policy, f.clock.Now())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := remedy.PlanRotation(in); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v", err)
				}
				return
			}
			o, op := f.plan(t, l, 1)
			for _, s := range op.Steps {
				if s.Undo == "" {
					t.Errorf("step %s has no undo note", s.Kind)
				}
			}
			f.say(t, o, ledger.CauseApprove)
			f.until(t, l, 10*time.Minute)
			f.done(t, o)
		})
	}
}

// A wave that the service turns away until the window has closed waits for the next
// one; what is begun in a window is brought to its end after it.
func TestAWindowThatCloses(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2")
	f.policy += "brakes: {windows: [{from: \"12:00\", to: \"12:10\"}]}\n"
	l := loop()
	o, _ := f.plan(t, l, 1)
	f.say(t, o, ledger.CauseApprove)
	f.hook = func(when string) error {
		if strings.HasPrefix(when, "before deallocate") {
			return &fault.Error{Kind: fault.Throttled, Op: "deallocating", RetryAfter: 20 * time.Minute}
		}
		return nil
	}
	f.until(t, l, time.Minute)
	f.hook = nil
	f.until(t, l, 12*time.Hour)
	if r := f.row(t, o); f.count("") != 0 || r.Braked != BrakeWindow {
		t.Fatalf("%v, braked by %q", f.writes, r.Braked)
	}
	f.opTime = 30 * time.Minute // longer than the window
	f.until(t, l, 16*time.Hour)
	f.done(t, o)
}

// Two plans for one set, both approved: every VM is taken down once.
func TestTwoRotationsOfOneSet(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2")
	l := loop()
	a, _ := f.plan(t, l, 1)
	f.until(t, l, time.Minute)
	b, _ := f.plan(t, l, 1)
	if a.ID == b.ID {
		t.Fatal("the two plans have one hash")
	}
	f.say(t, a, ledger.CauseApprove)
	f.until(t, l, 8*time.Second)
	f.say(t, b, ledger.CauseApprove)
	f.until(t, l, 20*time.Minute)
	f.done(t, a)
}

// A word of which nothing would come is refused with the reason.
func TestWordsThatAreTooLate(t *testing.T) {
	f, loop := newFleet(t, "vm1")
	l := loop()
	say := func(hash, word string) error {
		_, err := l.SayToOperation(t.Context(), hash, word, "jane")
		f.until(t, l, 10*time.Minute)
		return err
	}
	hashOf := func(o Object) string {
		_, hash, err := ledger.ParseOperationID(o.ID)
		if err != nil {
			t.Fatal(err)
		}
		return hash
	}
	a, _ := f.plan(t, l, 1)
	stopped := hashOf(a)
	if err := say(stopped, ledger.CauseStop); err != nil {
		t.Fatal(err)
	}
	if err := say(stopped, ledger.CauseStop); err != nil {
		t.Errorf("stop, said again: %v", err)
	}
	for _, word := range []string{ledger.CauseApprove, ledger.CausePause, ledger.CauseResume} {
		if err := say(stopped, word); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "make the plan anew") {
			t.Errorf("%s to what was stopped: %v", word, err)
		}
	}
	b, _ := f.plan(t, l, 1)
	done := hashOf(b)
	for _, word := range []string{ledger.CausePause, ledger.CauseResume} {
		if err := say(done, word); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "It waits for a person's approval") {
			t.Errorf("%s before the approval: %v", word, err)
		}
	}
	c, _ := f.plan(t, l, 1)
	// Each word is answered by those before it, whether the loop has met them or not.
	for _, word := range []string{ledger.CauseApprove, ledger.CauseApprove, ledger.CausePause, ledger.CauseResume} {
		if _, err := l.SayToOperation(t.Context(), done, word, "jane"); err != nil {
			t.Fatal(err)
		}
		f.clock.Advance(time.Millisecond)
	}
	f.until(t, l, 10*time.Minute)
	f.done(t, b)
	for _, word := range OperationWords() {
		if err := say(done, word); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "All steps are done") || !strings.Contains(err.Error(), "undo") {
			t.Errorf("%s to what is done: %v", word, err)
		}
	}
	if _, err := l.SayToOperation(t.Context(), hashOf(c), ledger.CauseStop, "jane"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.SayToOperation(t.Context(), hashOf(c), ledger.CauseApprove, "jane"); !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "was stopped") {
		t.Errorf("approved in the moment after the stop: %v", err)
	}
	now, err := l.OperationNow(t.Context(), done)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range now.Plan.Steps {
		if rec, err := l.doneStep(t.Context(), now.Records[ledger.SendKey(s)]); err != nil || !rec.Step.Same(s) {
			t.Errorf("the record of step %d, %q: %v", s.Number(), now.Records[ledger.SendKey(s)], err)
		}
	}
	if err := say(strings.Repeat("0", 64), ledger.CauseApprove); !fault.Is(err, fault.NotFound) {
		t.Errorf("a hash of no plan: %v", err)
	}
	if err := say("123", ledger.CauseApprove); !fault.Is(err, fault.Invalid) {
		t.Errorf("no hash: %v", err)
	}
	l.Policy = document(t, f.policy, policy.ModeObserve)
	if err := say(done, ledger.CauseApprove); !fault.Is(err, fault.Blocked) {
		t.Errorf("in mode observe: %v", err)
	}
}

// VMBody lets the world be what operations are planned by; no plan here asks for it.
func (f *fleet) VMBody(context.Context, cvm.VMID) ([]byte, error) { return nil, errNotHere }

func (f *fleet) NetworkInterface(context.Context, string) (remedy.NetworkInterface, error) {
	return remedy.NetworkInterface{}, errNotHere
}

func (f *fleet) Locks(context.Context, cvm.VMID) ([]remedy.Lock, error) { return nil, errNotHere }

// A step is undone on a person's word, with a death at any point, and isn't taken
// again until a person lets it. What was changed since isn't written over.
func TestAStepIsUndone(t *testing.T) {
	setup := func(t *testing.T) (*fleet, func() *Loop, string) {
		f := &fleet{writer: writer{newWorld(t, "vm1")}}
		loop := func() *Loop {
			l := f.loop(t, policy.ModeEnforce)
			l.Planning = f
			return l
		}
		l := loop()
		f.announce(t, "vm1")
		f.drain(t, l, nil)
		o, name := mustVM(t, "vm1"), ""
		for _, r := range f.records(t, o) {
			if r.Record.Type == ledger.TypeOutcome && r.Record.Step.Kind == remedy.Tag {
				name = r.Name
			}
		}
		_, op, err := l.PlanOperation(t.Context(), OperationAsk{Kind: remedy.UndoOperation, Record: strings.TrimSuffix(name, ".json"), By: "jane"})
		if err != nil {
			t.Fatal(err)
		}
		hash, err := l.operations().Put(t.Context(), op)
		if err != nil {
			t.Fatal(err)
		}
		f.drain(t, l, nil)
		return f, loop, ledger.OperationID(op.Subscription, hash)
	}
	run := func(t *testing.T, trouble func(at int, name string)) int {
		f, loop, id := setup(t)
		o, l, at := mustShared(t, id), loop(), 0
		f.say(t, o, ledger.CauseApprove)
		point := func(name string) error { at++; trouble(at, name); return nil }
		f.store.Hook = func(a memstore.Action) error {
			return point(fmt.Sprintf("%t %s %s", a.After, a.Op, a.Name))
		}
		f.hook = point
		f.drain(t, l, loop)
		f.quiet()
		f.send(t, f.event("vm1", "looked at again"))
		f.drain(t, l, nil)
		vm := mustVM(t, "vm1")
		if r := f.row(t, o); f.count("tags") != 2 || len(f.vms[vm.vm()].Tags) != 0 || r.Verdict != policy.Compliant || len(f.row(t, vm).Stopped) != 1 {
			t.Errorf("%v, tags %v, %s, stopped %v", f.writes, f.vms[vm.vm()].Tags, r.Verdict, f.row(t, vm).Stopped)
		}
		f.atRest(t, o, vm)
		if _, _, err := l.Resume(t.Context(), vm.ID, "", "jane"); err != nil {
			t.Fatal(err)
		}
		f.drain(t, l, nil)
		if f.count("tags") != 3 {
			t.Errorf("after it was resumed: %v", f.writes)
		}
		return at
	}
	points := run(t, func(int, string) {})
	for at := 1; at <= points; at += 6 {
		run(t, func(n int, name string) {
			if n == at {
				panic(crash{name})
			}
		})
		if t.Failed() {
			t.Fatalf("killed at point %d of %d", at, points)
		}
	}
	f, loop, id := setup(t)
	f.change("vm1", func(v *cvm.VM) {
		for name := range v.Tags {
			v.Tags[name] = "somebody's own"
		}
	})
	f.say(t, mustShared(t, id), ledger.CauseApprove)
	f.drain(t, loop(), nil)
	if r := f.row(t, mustShared(t, id)); f.count("tags") != 1 || r.Verdict == policy.Compliant {
		t.Errorf("what was changed since: %v, %s", f.writes, r.Verdict)
	}
}

// A plan whose bytes were changed after they were made isn't carried out.
func TestAPlanThatWasTamperedWith(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2")
	l := loop()
	o, _ := f.plan(t, l, 1)
	_, hash, err := ledger.ParseOperationID(o.ID)
	if err != nil {
		t.Fatal(err)
	}
	body, err := f.store.Blobs().Read(context.Background(), ledger.ContainerPlans, hash+".json", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	f.store.Blobs().Overwrite(ledger.ContainerPlans, hash+".json", []byte(strings.ReplaceAll(string(body), "vm2", "vm9")))
	f.say(t, o, ledger.CauseApprove)
	f.until(t, l, time.Hour)
	if r := f.row(t, o); f.count("") != 0 || !slices.ContainsFunc(r.Findings, func(x ledger.RowFinding) bool { return x.Reason == OperationMissing }) {
		t.Errorf("%v, %+v", f.writes, r.Findings)
	}
}

// The policy in force becomes another one while a step that it decided on couldn't
// be sent yet: it is decided anew.
func TestAnotherPolicyBeforeTheCall(t *testing.T) {
	w := newWorld(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	w.announce(t, "vm1")
	refused := 0
	w.hook = func(when string) error {
		if strings.HasPrefix(when, "before tags") {
			refused++
			return &fault.Error{Kind: fault.Throttled, Op: "tagging", RetryAfter: time.Minute}
		}
		return nil
	}
	w.until(t, l, 30*time.Second)
	if r := w.row(t, mustVM(t, "vm1")); refused == 0 || r.Step == nil || r.Step.Step.Kind != remedy.Tag {
		t.Fatalf("refused %d times, open %+v", refused, r.Step)
	}
	w.hook = nil
	w.policy = "schemaVersion: 1\nname: calm\nmode: enforce\nremedy: {tag: false}\n"
	l = w.loop(t, policy.ModeEnforce)
	w.until(t, l, time.Hour)
	if w.count("tags") != 0 {
		t.Errorf("sent though the policy in force wants no tag: %v", w.writes)
	}
	w.atRest(t, mustVM(t, "vm1"))
}

// One operation whose plan or row can't be used hides none of the others, and says
// itself that it can't; the list comes in pages.
func TestAListOfOperationsWithBadOnes(t *testing.T) {
	f, loop := newFleet(t, "vm1", "vm2", "vm3")
	l := loop()
	want := map[string]string{} // by hash: its state
	add := func(o Object, state string) Object {
		_, hash, err := ledger.ParseOperationID(o.ID)
		if err != nil {
			t.Fatal(err)
		}
		want[hash] = state
		return o
	}
	good, _ := f.plan(t, l, 1)
	add(good, OperationWaiting)
	tampered, _ := f.plan(t, l, 2)
	_, hash, _ := ledger.ParseOperationID(add(tampered, OperationMissing).ID)
	f.store.Blobs().Overwrite(ledger.ContainerPlans, hash+".json", []byte("{}"))
	broken, _ := f.plan(t, l, 3)
	add(broken, OperationUnreadable)
	f.store.Tables().Corrupt(ledger.TableShared, broken.PK, broken.RK, func(cols map[string]string) { cols["causes"] = "{" })
	for i := range 3 {
		gone := mustShared(t, ledger.OperationID(sub, strings.Repeat(fmt.Sprint("a", i), 32)))
		add(gone, OperationMissing)
		f.send(t, gone.message(ledger.Cause{Kind: ledger.CausePlanned, At: f.clock.Now()}, time.Time{}))
	}
	f.drain(t, l, nil)
	for most := 1; most <= len(want)+1; most++ {
		got, after, pages := map[string]string{}, "", 0
		for {
			list, next, err := l.Operations(t.Context(), after, most)
			if err != nil || len(list) > most {
				t.Fatalf("pages of %d: %d of them, %v", most, len(list), err)
			}
			for _, now := range list {
				got[now.Hash] = now.Code
				if now.Text == "" || now.Chain <= after || (now.Code == OperationMissing) == (now.Op.Object != "") {
					t.Errorf("%+v", now)
				}
			}
			if pages++; next == "" {
				break
			}
			after = next
		}
		if !maps.Equal(got, want) || pages != (len(want)+most-1)/most {
			t.Errorf("pages of %d: %d of them, %v, want %v", most, pages, got, want)
		}
	}
	// What passes by itself is no state of an operation's.
	l.Blobs = busyBlobs{l.Blobs}
	if list, _, err := l.Operations(t.Context(), "", 9); !fault.Is(err, fault.Throttled) {
		t.Errorf("%v, %v", list, err)
	}
}

// busyBlobs are those of a storage account that is asked too often to read.
type busyBlobs struct{ ledger.Blobs }

func (busyBlobs) Read(_ context.Context, _, name string, _ int64) ([]byte, error) {
	return nil, fault.New(fault.Throttled, "reading a blob", name, "503")
}

// Where an object can't keep that one more step of its own is stopped, the step isn't
// undone, for the object's own turn would take it again; a person is told what to do.
func TestAnUndoingWithoutRoom(t *testing.T) {
	f := &fleet{writer: writer{newWorld(t, "vm1")}}
	l := f.loop(t, policy.ModeEnforce)
	l.Planning = f
	f.announce(t, "vm1")
	f.drain(t, l, nil)
	vm, name := mustVM(t, "vm1"), ""
	for _, r := range f.records(t, vm) {
		if r.Record.Type == ledger.TypeOutcome && r.Record.Step.Kind == remedy.Tag {
			name = r.Name
		}
	}
	hash, op, err := l.PlanOperation(t.Context(), OperationAsk{Kind: remedy.UndoOperation, Record: strings.TrimSuffix(name, ".json"), By: "jane"})
	if err != nil {
		t.Fatal(err)
	}
	f.drain(t, l, nil)
	row := f.row(t, vm)
	for i := range 50 {
		row.Stop(remedy.Step{Kind: remedy.EncryptDataDisk, Target: fmt.Sprint("disk", i)}, ledger.WhyUndone, f.clock.Now())
	}
	e, err := row.Entity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Tables().Replace(t.Context(), vm.Table, e); err != nil {
		t.Fatal(err)
	}
	o := mustShared(t, ledger.OperationID(op.Subscription, hash))
	f.say(t, o, ledger.CauseApprove)
	f.until(t, l, 10*time.Minute)
	recs := f.records(t, o)
	last := recs[len(recs)-1].Record
	if f.count("tags") != 1 || last.Plan == nil || last.Plan.Steps[0].State != remedy.Blocked || !strings.Contains(last.Plan.Steps[0].Why, "cvmguard brakes resume") {
		t.Fatalf("%v, %+v", f.writes, last.Plan)
	}
	f.atRest(t, o)
	if _, _, err := l.Resume(t.Context(), vm.ID, string(remedy.EncryptDataDisk), "jane"); err != nil {
		t.Fatal(err)
	}
	f.drain(t, l, nil)
	f.say(t, o, ledger.CauseResume)
	f.until(t, l, 10*time.Minute)
	if r := f.row(t, o); f.count("tags") != 2 || r.Verdict != policy.Compliant {
		t.Errorf("with room again: %v, %s %+v", f.writes, r.Verdict, r.Findings)
	}
}
