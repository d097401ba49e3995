package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// Rule 4: intent record, row with what is needed to find the effect again, call,
// look-again, row, outcome record, row.
func TestTheOrderOfAnAct(t *testing.T) {
	o := mustVM(t, "vm1")
	var order []string
	_, _ = play(t, one, func(w *world, _ int, name string) error {
		when, what, _ := strings.Cut(name, " ")
		if when == "before" && what == "run-command vm1" {
			st := w.row(t, o).Step
			n, err := w.loop(t, policy.ModeEnforce).nonces().ByHash(t.Context(), st.NonceHash)
			if st.Token != "" || err != nil || n.Blob != st.Blob || n.Cause != st.Record || len(w.row(t, o).Sends) != 1 {
				t.Errorf("the row shows %+v, its nonce is %+v, %v", st, n, err)
			}
		}
		switch {
		case when == "before":
		case strings.HasPrefix(what, "create "+ledger.ContainerRecords+"/"+o.Chain()):
			order = append(order, "record")
		case what == "replace "+o.Table+"/"+o.PK+"/"+o.RK:
			order = append(order, "row")
		case what == "run-command vm1":
			order = append(order, "call")
		case what == "enqueue "+ledger.QueueReconcile && slices.Contains(order, "call"):
			order = append(order, "look-again")
		}
		return nil
	})
	got := strings.Join(order, " ")
	// First the claim and what the VM hangs on; then, in the next turn, the claim, the
	// outcome and the row.
	if want := "record row row call look-again row row"; !strings.Contains(got, want) {
		t.Errorf("order %s", got)
	}
	if after := got[strings.Index(got, "call"):]; !strings.Contains(after, "row record row") {
		t.Errorf("after the call: %s", after)
	}
}

// A step that failed is held back until the slow pace, whatever messages come.
func TestAStepThatFails(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.ends = func(what string) error {
		if !strings.HasPrefix(what, "run-command") {
			return nil
		}
		return fault.New(fault.Blocked, "collecting", "vm1", "%s: the extension handler is broken", what)
	}
	w.announce(t, "vm1")
	w.until(t, l, time.Minute)
	out := w.outcomes(t, o, remedy.CollectEvidence)
	if len(out) != 1 || out[0].State != remedy.Failed || out[0].Kind != string(fault.Blocked) || !strings.Contains(out[0].Error, "handler is broken") {
		t.Fatalf("outcomes %+v", out)
	}
	if r := w.row(t, o); r.NextLook.After(out[0].NotBefore) || r.Step != nil {
		t.Errorf("held until %s, next look at %s", out[0].NotBefore, r.NextLook)
	}
	w.ends = nil
	for range 10 {
		w.send(t, w.rerun("vm1", "now!"))
		w.until(t, l, 5*time.Minute)
		if w.count("run-command") != 1 {
			t.Fatalf("sent again %s before its time", out[0].NotBefore.Sub(w.clock.Now()))
		}
	}
	w.until(t, l, 11*time.Minute)
	if out := w.outcomes(t, o, remedy.CollectEvidence); len(out) != 2 || out[1].State != remedy.Done || w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("after the slow pace: %+v, %s", out, w.row(t, o).Verdict)
	}
	if hold := w.row(t, o).Hold; len(hold) != 0 {
		t.Errorf("still held: %v", hold)
	}
	w.atRest(t, o)
}

// The loop guard: an effect that another hand undoes each time is sent so often
// and no more, until the first of the calls is a day old.
func TestTheLoopGuard(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	doc := *l.Policy
	doc.Brakes.MaxChangedBack = 1000 // another brake's business
	l.Policy = &doc
	most := l.Policy.Brakes.MaxSendsPerStepPerDay
	first := w.row(t, o).Sends[ledger.SendKey(remedy.Step{Kind: remedy.Tag, Target: o.ID})][0]
	for range most + 5 {
		w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.event("vm1", "tags were removed"))
		w.until(t, l, time.Minute)
	}
	if got := w.count("tags"); got != most {
		t.Fatalf("sent %d times, the most is %d", got, most)
	}
	outs := w.outcomes(t, o, remedy.Tag)
	end := outs[len(outs)-1]
	if len(outs) != most+1 || end.State != remedy.Failed || end.Kind != string(fault.Blocked) || !strings.Contains(end.Error, fmt.Sprint(most, " times")) {
		t.Errorf("%d outcomes, the last is %+v", len(outs), end)
	}
	if !end.NotBefore.Equal(first.Add(guardWindow)) {
		t.Errorf("held until %s, the first call is a day old at %s", end.NotBefore, first.Add(guardWindow))
	}
	w.until(t, l, end.NotBefore.Sub(w.clock.Now())-time.Minute)
	if w.count("tags") != most || len(w.outcomes(t, o, remedy.Tag)) != most+1 {
		t.Errorf("before that: %d calls, %d outcomes", w.count("tags"), len(w.outcomes(t, o, remedy.Tag)))
	}
	w.until(t, l, 5*time.Minute)
	if w.count("tags") != most+1 {
		t.Errorf("after it: %d calls", w.count("tags"))
	}
}

// A call that is turned away at the door comes again when the service says, and
// doesn't count for the guard.
func TestACallThatIsTurnedAway(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		err   error
		wait  time.Duration
	}{
		"throttled": {3, &fault.Error{Kind: fault.Throttled, Op: "putting", Code: "TooManyRequests", RetryAfter: 7 * time.Minute, Err: errors.New("429")}, 7 * time.Minute},
		"conflict":  {12, fault.New(fault.Conflict, "putting", "", "409: another operation"), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "vm1")
			l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
			tries := 0
			w.hook = func(when string) error {
				if tries++; tries <= c.times {
					return c.err
				}
				return nil
			}
			w.announce(t, "vm1")
			w.until(t, l, 100*time.Millisecond)
			r := w.row(t, o)
			if due := r.NextLook.Sub(w.clock.Now()); r.Step == nil || due > c.wait || due < c.wait-time.Second || len(r.Sends["collect-evidence "+strings.ToLower(o.ID)]) != 0 {
				t.Fatalf("step %+v, next look in %s, sends %v", r.Step, due, r.Sends)
			}
			w.send(t, w.event("vm1", "sooner")) // nobody sends it sooner
			w.until(t, l, 100*time.Millisecond)
			if tries != 1 {
				t.Errorf("%d tries", tries)
			}
			w.until(t, l, 3*time.Hour)
			if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" || w.row(t, o).Verdict != policy.Compliant {
				t.Errorf("%s after %s, %d tries", w.row(t, o).Verdict, got, tries)
			}
		})
	}
}

// A call whose answer is lost: it may land as long as the lease gives it, and what
// it did is adopted.
func TestACallWhoseAnswerIsLost(t *testing.T) {
	lost := fault.New(fault.Transient, "putting", "", "the connection broke")
	t.Run("it had landed", func(t *testing.T) {
		w := newWorld(t, "vm1")
		l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
		w.hook = func(when string) error {
			if when == "after run-command vm1" {
				return lost
			}
			return nil
		}
		w.announce(t, "vm1")
		w.drain(t, l, nil)
		out := w.outcomes(t, o, remedy.CollectEvidence)
		if len(out) != 1 || out[0].State != remedy.Done || !out[0].Adopted || fmt.Sprint(w.writes) != "[run-command vm1 tags vm1]" {
			t.Errorf("%+v, %v", out, w.writes)
		}
		if tag := w.outcomes(t, o, remedy.Tag); len(tag) != 1 || tag[0].Adopted {
			t.Errorf("the tag's outcome is %+v", tag)
		}
	})
	t.Run("it lands later", func(t *testing.T) {
		w := newWorld(t, "vm1")
		l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
		x := &landsLater{Azure: writer{w}, t: t, after: l.Settings.Lease - l.Settings.Turn - 2*time.Second, w: w}
		l.Applier.(*remedy.AzureApplier).Azure = x
		w.announce(t, "vm1", "vm1")
		w.drain(t, l, nil)
		if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" || w.row(t, o).Verdict != policy.Compliant {
			t.Errorf("%s after %s", w.row(t, o).Verdict, got)
		}
	})
}

// landsLater breaks the connection of the first run command, which lands a while
// after.
type landsLater struct {
	remedy.Azure
	t     *testing.T
	w     *world
	after time.Duration
	begun time.Time
	land  func()
}

func (x *landsLater) BeginRunCommand(ctx context.Context, id cvm.VMID, location, name string, rc remedy.RunCommandSpec) (remedy.Progress, error) {
	if !x.begun.IsZero() {
		if x.land != nil {
			x.t.Errorf("put again %s after the first, which is still on its way", x.w.clock.Now().Sub(x.begun))
		}
		return x.Azure.BeginRunCommand(ctx, id, location, name, rc)
	}
	x.begun = x.w.clock.Now()
	x.land = func() {
		if _, err := x.Azure.BeginRunCommand(ctx, id, location, name, rc); err != nil {
			panic(err)
		}
	}
	return remedy.Progress{}, fault.New(fault.Transient, "putting", "", "the connection broke")
}

func (x *landsLater) RunCommand(ctx context.Context, id cvm.VMID, name string) (remedy.RunCommandView, error) {
	if x.land != nil && !x.w.clock.Now().Before(x.begun.Add(x.after)) {
		x.land()
		x.land = nil
	}
	return x.Azure.RunCommand(ctx, id, name)
}

// A step that never ends has failed when its life is over; one that ended while
// nobody looked has not.
func TestAStepsLife(t *testing.T) {
	t.Run("never ends", func(t *testing.T) {
		w, l := compliant(t, "vm1")
		l.Settings.StepLife = 40 * time.Minute
		o := mustVM(t, "vm1")
		w.opTime, w.pace = 1000*time.Hour, time.Hour // polled at the loop's own pace all the same
		w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.event("vm1", "changed"))
		w.until(t, l, l.Settings.StepLife-time.Minute)
		if w.row(t, o).Step == nil {
			t.Fatal("it ended before its life did")
		}
		w.until(t, l, 3*time.Minute)
		outs := w.outcomes(t, o, remedy.Tag)
		if end := outs[len(outs)-1]; w.row(t, o).Step != nil || end.State != remedy.Failed || !strings.Contains(end.Error, l.Settings.StepLife.String()) || w.count("tags") != 2 {
			t.Errorf("%+v after %v", end, w.writes)
		}
	})
	t.Run("ended while nobody looked", func(t *testing.T) {
		w, l := compliant(t, "vm1")
		l.Settings.StepLife = 40 * time.Minute
		o := mustVM(t, "vm1")
		w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.event("vm1", "changed"))
		w.until(t, l, time.Second)
		w.clock.Advance(l.Settings.StepLife + time.Hour) // the function app was down
		w.drain(t, l, nil)
		outs := w.outcomes(t, o, remedy.Tag)
		if end := outs[len(outs)-1]; end.State != remedy.Done || w.count("tags") != 2 {
			t.Errorf("%+v after %v", end, w.writes)
		}
	})
	t.Run("polls that fail", func(t *testing.T) {
		w, l := compliant(t, "vm1")
		l.Settings.StepLife = 40 * time.Minute
		o := mustVM(t, "vm1")
		w.deny["PollOperation"] = fault.New(fault.Transient, "polling", "", "503")
		w.change("vm1", func(v *cvm.VM) { v.Tags = nil })
		w.send(t, w.event("vm1", "changed"))
		w.until(t, l, l.Settings.StepLife-time.Minute)
		if w.row(t, o).Step == nil {
			t.Fatal("it ended before its life did")
		}
		if n := w.reads["PollOperation"]; n > 100 {
			t.Errorf("%d polls in 40 minutes", n)
		}
		w.until(t, l, 3*time.Minute)
		outs := w.outcomes(t, o, remedy.Tag)
		if end := outs[len(outs)-1]; end.State != remedy.Failed || !strings.Contains(end.Error, "503") {
			t.Errorf("%+v", end)
		}
	})
}

// An operation that the service forgot: the resource says how it went.
func TestAnOperationThatIsForgotten(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.deny["PollOperation"] = notFound("operation")
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	if got := fmt.Sprint(w.writes); got != "[run-command vm1 tags vm1]" || w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("%s after %s", w.row(t, o).Verdict, got)
	}
	w.atRest(t, o)
}

// A precondition that doesn't hold any more when the step is to be sent: blocked,
// nothing sent, held back.
func TestAPreconditionThatHasGone(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	w.once(recordOf(o), func() { w.change("vm1", func(v *cvm.VM) { v.AgentReady = cvm.False }) })
	w.announce(t, "vm1")
	w.until(t, l, time.Minute)
	out := w.outcomes(t, o, remedy.CollectEvidence)
	if len(out) != 1 || out[0].State != remedy.Blocked || w.count("run-command") != 0 {
		t.Errorf("%+v, %v", out, w.writes)
	}
	w.change("vm1", func(v *cvm.VM) { v.AgentReady = cvm.True })
	w.until(t, l, l.Settings.SlowPace+time.Minute)
	if w.row(t, o).Verdict != policy.Compliant || w.count("run-command") != 1 {
		t.Errorf("%s, %v", w.row(t, o).Verdict, w.writes)
	}
}

// A read that lags behind an effect that was verified: no hot loop of intents, no
// second call.
func TestAnEffectThatIsSeenLate(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1")
	l.Azure = &laggingTags{Azure: l.Azure, w: w, until: w.clock.Now().Add(2 * time.Minute)}
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	if n := len(w.records(t, o)); w.count("tags") != 1 || n > 30 {
		t.Errorf("%d records, %v", n, w.writes)
	}
	if w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("%s", w.row(t, o).Verdict)
	}
	w.atRest(t, o)
}

// laggingTags reads VMs without their tags until a time.
type laggingTags struct {
	Azure
	w     *world
	until time.Time
}

func (x *laggingTags) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) {
	v, err := x.Azure.VM(ctx, id)
	if x.w.clock.Now().Before(x.until) {
		v.Tags = nil
	}
	return v, err
}
