package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

const (
	jane  = "00000000-0000-0000-0000-0000000000ab"
	mike  = "00000000-0000-0000-0000-0000000000ac"
	other = "00000000-0000-0000-0000-0000000000ff"
	// janes exempts a VM whose secure boot is off.
	janes = "rules=secure-boot; until=2026-12-24; owner=jane@example.com; reason=unsigned driver"

	tagPolicy = "schemaVersion: 1\nname: tags\nrules: {attestation.maa: off, attestation.evidence: off}\n" +
		"exemptionTag: {name: cvmguard-exempt, principals: [" + jane + ", " + mike + "]}\n"
)

// activityLog is an Activity Log in memory.
type activityLog struct {
	writes []cvm.Write // newest first
	err    error
	asked  []time.Time // since when
}

func (a *activityLog) VMWrites(_ context.Context, _ cvm.VMID, since time.Time) ([]cvm.Write, error) {
	a.asked = append(a.asked, since)
	if a.err != nil {
		return nil, a.err
	}
	var out []cvm.Write
	for _, w := range a.writes {
		if !w.At.Before(since) {
			out = append(out, w)
		}
	}
	return out, nil
}

// tagWorld is a VM with secure boot off that was looked at before it bore a tag.
func tagWorld(t *testing.T) (*world, *Loop, *activityLog, Object) {
	t.Helper()
	w := newWorld(t, "vm1")
	w.policy = tagPolicy
	w.change("vm1", func(vm *cvm.VM) { vm.SecureBoot = cvm.False })
	l := w.loop(t, policy.ModeObserve)
	log := &activityLog{}
	l.Activity = log
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	o := mustVM(t, "vm1")
	if r := w.row(t, o); r.Verdict != policy.NonCompliant || len(log.asked) != 0 {
		t.Fatalf("%s, the log was asked %d times", r.Verdict, len(log.asked))
	}
	return w, l, log, o
}

// setTag sets the tag by somebody's hand, with the event that it brings.
func (w *world) setTag(t *testing.T, log *activityLog, value string, who ...string) {
	t.Helper()
	w.clock.Advance(time.Minute)
	w.change("vm1", func(vm *cvm.VM) { vm.Tags = map[string]string{"CVMGUARD-exempt": value} })
	for _, p := range who {
		w.clock.Advance(time.Second)
		log.writes = slices.Insert(log.writes, 0, cvm.Write{Principal: p, At: w.clock.Now(), Event: "e-" + p, Done: true})
	}
	w.send(t, w.event("vm1", "tag "+value))
}

// lastPosture is the newest record's posture.
func (w *world) lastPosture(t *testing.T, o Object) cvm.Posture {
	t.Helper()
	recs := w.records(t, o)
	var p cvm.Posture
	if err := json.Unmarshal(recs[len(recs)-1].Record.Posture, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func ruleState(r ledger.Row, rule string) string {
	for _, f := range r.Findings {
		if f.Rule == rule {
			return strings.TrimSpace(string(f.State) + " " + f.Reason)
		}
	}
	return ""
}

func TestATagExemptsOnceTheLogHasBeenRead(t *testing.T) {
	w, l, log, o := tagWorld(t)
	before := w.clock.Now()
	w.setTag(t, log, janes, jane)
	w.until(t, l, time.Minute)
	if r := w.row(t, o); r.Verdict != policy.NonCompliant || ruleState(r, "exemptions") != "unknown exemption-invalid" || len(log.asked) != 0 {
		t.Fatalf("before the log can know: %s, %s, asked %d times", r.Verdict, ruleState(r, "exemptions"), len(log.asked))
	}
	records := len(w.records(t, o))
	w.send(t, w.event("vm1", "again")) // a look that changes nothing is no record
	w.until(t, l, time.Minute)
	if n := len(w.records(t, o)); n != records {
		t.Errorf("%d records more", n-records)
	}
	w.until(t, l, DefaultActivityLag)
	r := w.row(t, o)
	if r.Verdict != policy.Compliant || ruleState(r, "secure-boot") != "exempt secure-boot-off" || len(log.asked) != 1 {
		t.Fatalf("%s, secure-boot %s, exemptions %s, asked %d times", r.Verdict, ruleState(r, "secure-boot"), ruleState(r, "exemptions"), len(log.asked))
	}
	// The log was asked from a little before the last look without the tag, no earlier.
	if since := log.asked[0]; since.After(before) || before.Sub(since) > time.Hour {
		t.Errorf("asked since %s, the last look without the tag was before %s", since, before)
	}
	if p := w.lastPosture(t, o); !p.TagSetter.Known || p.TagSetter.Value.Principal != jane || p.TagSetter.Value.Event != "e-"+jane || !p.TagSetter.Value.Seen.IsZero() {
		t.Errorf("the record says %+v", p.TagSetter)
	}
	// It is kept when the log has forgotten, and when the row is lost.
	log.writes = nil
	w.clock.Advance(time.Hour)
	w.send(t, w.event("vm1", "later"))
	w.drain(t, l, nil)
	if err := w.store.Tables().Delete(t.Context(), o.Table, o.PK, o.RK, w.row(t, o).ETag); err != nil {
		t.Fatal(err)
	}
	w.send(t, w.event("vm1", "lost"))
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Compliant || len(log.asked) != 1 {
		t.Errorf("later: %s, %s, asked %d times", r.Verdict, ruleState(r, "exemptions"), len(log.asked))
	}
	// At its end the finding counts again, without anything else having happened.
	w.drainFor(t, l, nil, 60*24*time.Hour)
	if r := w.row(t, o); r.Verdict != policy.NonCompliant || ruleState(r, "exemptions") != "pass exemption-expired" || w.clock.Now().Before(time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("at %s: %s, %s", w.clock.Now(), r.Verdict, ruleState(r, "exemptions"))
	}
}

func TestWhoMaySetTheTag(t *testing.T) {
	for name, c := range map[string]struct {
		who     []string
		change  func(*activityLog)
		rule    string
		verdict policy.Value
	}{
		"two who are named":       {who: []string{mike, jane}, rule: "pass", verdict: policy.Compliant},
		"somebody else":           {who: []string{other}, rule: "fail exemption-invalid", verdict: policy.NonCompliant},
		"somebody else before":    {who: []string{other, jane}, rule: "fail exemption-invalid", verdict: policy.NonCompliant},
		"somebody else after":     {who: []string{jane, other}, rule: "fail exemption-invalid", verdict: policy.NonCompliant},
		"nobody whom it names":    {who: []string{jane, ""}, rule: "fail exemption-invalid", verdict: policy.NonCompliant},
		"no write in the log":     {who: nil, rule: "unknown exemption-invalid", verdict: policy.NonCompliant},
		"a write that was begun":  {who: []string{jane}, change: func(a *activityLog) { a.writes[0].Done = false }, rule: "unknown exemption-invalid", verdict: policy.NonCompliant},
		"somebody else has begun": {who: []string{other, jane}, change: func(a *activityLog) { a.writes[1].Done = false }, rule: "fail exemption-invalid", verdict: policy.NonCompliant},
		"writes long before": {who: []string{jane}, change: func(a *activityLog) {
			a.writes = append(a.writes, cvm.Write{Principal: other, At: a.writes[0].At.Add(-time.Hour), Done: true})
		}, rule: "pass", verdict: policy.Compliant},
	} {
		t.Run(name, func(t *testing.T) {
			w, l, log, o := tagWorld(t)
			w.setTag(t, log, janes, c.who...)
			if c.change != nil {
				c.change(log)
			}
			w.until(t, l, DefaultActivityLag+time.Minute)
			if r := w.row(t, o); r.Verdict != c.verdict || ruleState(r, "exemptions") != c.rule {
				t.Errorf("%s, %s", r.Verdict, ruleState(r, "exemptions"))
			}
		})
	}
}

// What isn't known is asked for again at the slow pace, not at each turn.
func TestTheLogThatCannotBeRead(t *testing.T) {
	w, l, log, o := tagWorld(t)
	log.err = &fault.Error{Kind: fault.Denied, Op: "reading the Activity Log of", Action: "Microsoft.Insights/eventtypes/values/read", Err: errors.New("no")}
	w.setTag(t, log, janes, jane)
	w.until(t, l, DefaultActivityLag+time.Minute)
	if r := w.row(t, o); ruleState(r, "exemptions") != "unknown exemption-invalid" || len(log.asked) != 1 {
		t.Fatalf("%s, asked %d times", ruleState(r, "exemptions"), len(log.asked))
	}
	if p := w.lastPosture(t, o); p.TagSetter.Why.Action != "Microsoft.Insights/eventtypes/values/read" {
		t.Errorf("%+v", p.TagSetter)
	}
	for range 3 {
		w.send(t, w.event("vm1", "in between"))
		w.until(t, l, time.Minute)
	}
	if len(log.asked) != 1 {
		t.Errorf("asked %d times within minutes", len(log.asked))
	}
	log.err = nil
	w.until(t, l, l.Settings.SlowPace+time.Minute)
	if r := w.row(t, o); r.Verdict != policy.Compliant || len(log.asked) != 2 || !log.asked[0].Equal(log.asked[1]) {
		t.Errorf("%s, asked %v", r.Verdict, log.asked)
	}
}

// A throttle keeps nobody from guarding the VM, and is over sooner.
func TestTheLogThatIsBusy(t *testing.T) {
	w, l, log, o := tagWorld(t)
	log.err = &fault.Error{Kind: fault.Throttled, Op: "x", RetryAfter: 2 * time.Minute}
	w.setTag(t, log, janes, jane)
	w.until(t, l, DefaultActivityLag+30*time.Second)
	if r := w.row(t, o); r.Verdict != policy.NonCompliant || r.LastError != "" {
		t.Fatalf("%s, %s", r.Verdict, r.LastError)
	}
	log.err = nil
	w.until(t, l, 3*time.Minute)
	if r := w.row(t, o); r.Verdict != policy.Compliant {
		t.Errorf("%s, %s", r.Verdict, ruleState(r, "exemptions"))
	}
}

// A tag that was there at the first look may be older than the log.
func TestATagThatWasAlwaysThere(t *testing.T) {
	for name, c := range map[string]struct {
		age  time.Duration // of the VM, 0 unknown
		rule string
	}{"an old VM": {200 * 24 * time.Hour, "unknown exemption-invalid"}, "a VM of unknown age": {0, "unknown exemption-invalid"}, "a new VM": {time.Hour, "pass"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "vm1")
			w.policy = tagPolicy
			l := w.loop(t, policy.ModeObserve)
			log := &activityLog{writes: []cvm.Write{{Principal: jane, At: w.clock.Now().Add(-time.Minute), Done: true}}}
			l.Activity = log
			w.change("vm1", func(vm *cvm.VM) {
				vm.SecureBoot, vm.Tags = cvm.False, map[string]string{"cvmguard-exempt": janes}
				if c.age > 0 {
					vm.TimeCreated = w.clock.Now().Add(-c.age)
				}
			})
			w.announce(t, "vm1")
			w.until(t, l, 2*time.Hour)
			o := mustVM(t, "vm1")
			if r := w.row(t, o); ruleState(r, "exemptions") != c.rule {
				t.Errorf("%s, asked %v", ruleState(r, "exemptions"), log.asked)
			}
			if c.rule == "pass" {
				return
			}
			// It is taken away, seen to be away, and set anew.
			w.change("vm1", func(vm *cvm.VM) { vm.Tags = nil })
			w.send(t, w.event("vm1", "taken away"))
			w.until(t, l, time.Hour)
			w.setTag(t, log, janes, jane)
			w.until(t, l, time.Hour)
			if r := w.row(t, o); r.Verdict != policy.Compliant {
				t.Errorf("set anew: %s, %s", r.Verdict, ruleState(r, "exemptions"))
			}
		})
	}
}

// What is known of one VM, or of one value, says nothing of another.
func TestTheSetterIsOfThisVMAndValue(t *testing.T) {
	w, l, log, o := tagWorld(t)
	w.setTag(t, log, janes, jane)
	w.until(t, l, time.Hour)
	w.setTag(t, log, janes+" 2", other)
	w.until(t, l, time.Hour)
	if r := w.row(t, o); r.Verdict != policy.NonCompliant || ruleState(r, "exemptions") != "fail exemption-invalid" {
		t.Errorf("another value by somebody else: %s, %s", r.Verdict, ruleState(r, "exemptions"))
	}
	w.setTag(t, log, janes, jane)
	w.until(t, l, time.Hour)
	if r := w.row(t, o); r.Verdict != policy.Compliant {
		t.Fatalf("set again by Jane: %s, %s", r.Verdict, ruleState(r, "exemptions"))
	}
	// Another VM of the name, with the same tag from the start, by somebody else.
	w.remove("vm1")
	vm := w.create("vm1", 7)
	vm.SecureBoot, vm.TimeCreated, vm.Tags = cvm.False, w.clock.Now(), map[string]string{"cvmguard-exempt": janes}
	log.writes = slices.Insert(log.writes, 0, cvm.Write{Principal: other, At: w.clock.Now(), Done: true})
	w.send(t, w.event("vm1", "created anew"))
	w.until(t, l, time.Hour)
	if r := w.row(t, o); r.Verdict != policy.NonCompliant || ruleState(r, "exemptions") != "fail exemption-invalid" {
		t.Errorf("another VM: %s, %s", r.Verdict, ruleState(r, "exemptions"))
	}
}

// A tag that exempts from nothing isn't worth a read, nor is one where nobody can
// be asked.
func TestTheLogIsAskedOnlyWhereItMatters(t *testing.T) {
	w, l, log, o := tagWorld(t)
	w.setTag(t, log, "please", jane)
	w.until(t, l, time.Hour)
	w.setTag(t, log, strings.Replace(janes, "2026-12-24", "2025-12-24", 1), jane)
	w.until(t, l, time.Hour)
	if len(log.asked) != 0 || ruleState(w.row(t, o), "exemptions") != "pass exemption-expired" {
		t.Errorf("asked %d times, %s", len(log.asked), ruleState(w.row(t, o), "exemptions"))
	}
	l.Activity = nil
	w.setTag(t, log, janes, jane)
	w.until(t, l, time.Hour)
	if r := w.row(t, o); ruleState(r, "exemptions") != "unknown exemption-invalid" {
		t.Error(ruleState(r, "exemptions"))
	}
	l.Policy = document(t, strings.Split(tagPolicy, "exemptionTag")[0], policy.ModeObserve)
	w.send(t, w.event("vm1", "another policy"))
	w.until(t, l, time.Minute)
	if r := w.row(t, o); ruleState(r, "exemptions") != "not-applicable" || r.TagSetter != nil {
		t.Errorf("%s, %+v", ruleState(r, "exemptions"), r.TagSetter)
	}
}
