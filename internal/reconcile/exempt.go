package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

const (
	// DefaultActivityLag is how long after a write the Activity Log surely shows it.
	DefaultActivityLag = 20 * time.Minute
	// activityReach is how far back the log tells everything.
	activityReach = 89 * 24 * time.Hour
	// clockDoubt is how far Azure's clocks and ours may differ.
	clockDoubt = 10 * time.Minute
	// creationDoubt is how long before timeCreated a creation may have been asked for.
	creationDoubt = time.Hour
)

// reasonTagSetter is the reason of a TagSetter that isn't known.
const reasonTagSetter = "exemption-invalid"

// observeTag finds out who set the tag by which policy lets a VM be exempt.
//
// The Activity Log doesn't say which tag a write changed. So everybody counts who
// wrote the VM or its tags since the tag was last seen absent or with another
// value; the row keeps when that was. Where no such moment is known the VM's
// creation is it, and where that is longer ago than the log reaches, nobody can
// say who set the value: it must be set anew. The log is behind by minutes, and
// the very write that matters might not be in it yet: it is read once the lag has
// passed. An answer stays as long as the value does, for the log forgets; what
// isn't known is asked for again at the slow pace.
func (l *Loop) observeTag(ctx context.Context, h *held, doc *policy.Document, p *cvm.Posture, v *view, now time.Time) error {
	vm, have := p.VM.Value, h.row.TagSetter
	name := doc.ExemptionTag.Name
	if have != nil && (vm.UniqueID != h.row.UniqueID || !strings.EqualFold(have.Value.Tag, name)) {
		have = nil // it was another VM's, or another tag's
	}
	p.TagSetter = cvm.NotRead[cvm.TagSetter]("not-asked", "", "")
	if name == "" {
		v.keepTagSetter(nil)
		return nil
	}
	value, there := doc.ExemptionTagOf(vm)
	if !there {
		v.keepTagSetter(&cvm.Fact[cvm.TagSetter]{Value: cvm.TagSetter{Tag: name, Seen: now}})
		return nil
	}
	f := l.firstSight(have, vm, name, value, now)
	f.Value.Seen = now
	if e, err := policy.ParseExemptionTag(value); err != nil || !now.Before(e.Until) {
		v.keepTagSetter(&f) // it exempts from nothing, whoever set it
		return nil
	}
	if !f.Known && !f.Value.Since.IsZero() && l.Activity != nil && !now.Before(f.Value.Next) {
		if err := l.readActivity(ctx, h, vm.ID, &f, now); err != nil {
			return err
		}
	}
	if !f.Known && f.Value.Since.IsZero() {
		f.Why.Detail = "it may be older than the Activity Log reaches. Take it away, and let it be set again once cvmguard has looked at the VM"
	} else if !f.Known && l.Activity == nil {
		f.Why.Detail = "the Activity Log can't be asked here"
	}
	v.keepTagSetter(&f)
	p.TagSetter = f
	if f.Known {
		p.TagSetter.Value.Seen, p.TagSetter.Value.Next = time.Time{}, time.Time{}
		return nil
	}
	p.TagSetter.Value = cvm.TagSetter{} // it changes from look to look, and nothing rests on it
	if !f.Value.Since.IsZero() && l.Activity != nil {
		v.askLog = f.Value.Next
	}
	return nil
}

// firstSight is what the row knows of the value, or what is known at its first
// sight: since when somebody may have set it, and when the log is to be read.
func (l *Loop) firstSight(have *cvm.Fact[cvm.TagSetter], vm cvm.VM, name, value string, now time.Time) cvm.Fact[cvm.TagSetter] {
	if have != nil && have.Value.Value == value {
		return *have
	}
	lag := l.ActivityLag
	if lag <= 0 {
		lag = DefaultActivityLag
	}
	f := cvm.NotRead[cvm.TagSetter](reasonTagSetter, "", "the Activity Log is minutes behind, and is read at "+now.Add(lag).UTC().Format(time.RFC3339))
	f.Value = cvm.TagSetter{Tag: name, Value: value, Next: now.Add(lag)}
	if have != nil {
		f.Value.Since = have.Value.Seen.Add(-clockDoubt)
	}
	if created := vm.TimeCreated.Add(-creationDoubt); !vm.TimeCreated.IsZero() && created.After(f.Value.Since) {
		f.Value.Since = created
	}
	if f.Value.Since.Before(now.Add(-activityReach)) {
		f.Value.Since = time.Time{}
	}
	return f
}

// readActivity asks the log. Only the end of the turn's own time is an error: a log
// that can't be read keeps nobody from guarding the VM.
func (l *Loop) readActivity(ctx context.Context, h *held, id cvm.VMID, f *cvm.Fact[cvm.TagSetter], now time.Time) error {
	asked := f.Value
	if asked.Since.Before(now.Add(-activityReach)) { // it couldn't be read for that long
		f.Value.Since = time.Time{}
		return nil
	}
	writes, err := l.Activity.VMWrites(ctx, id, asked.Since)
	if ctx.Err() != nil || errors.Is(err, context.Canceled) {
		return readError{errors.Join(err, ctx.Err())}
	}
	f.Value.Next = now.Add(l.Settings.SlowPace)
	if err != nil {
		h.log.Warn("the Activity Log could not be read; the exemption tag counts for nothing", slog.String(logError, err.Error()))
		f.Why = cvm.Unknown{Code: reasonTagSetter, Action: fault.Action(err), Detail: "the Activity Log could not be read: " + steady(err)}
		if k := fault.KindOf(err); k == fault.Throttled || k == fault.Transient {
			f.Value.Next = now.Add(min(l.Settings.SlowPace, max(fault.RetryAfter(err), 4*l.Settings.TransitionWait)))
		}
		return nil
	}
	by, ok := whoSet(asked, writes)
	if !ok {
		f.Why = cvm.Unknown{Code: reasonTagSetter, Detail: "the Activity Log shows no write that can have set it"}
		return nil
	}
	*f = cvm.Known(by)
	return nil
}

// whoSet reads the writes since asked.Since: the newest that succeeded stands for
// the one that set the value, and who else may have is named beside. ok is false
// where no write succeeded.
func whoSet(asked cvm.TagSetter, writes []cvm.Write) (by cvm.TagSetter, ok bool) {
	at := slices.IndexFunc(writes, func(w cvm.Write) bool { return w.Done })
	if at < 0 {
		return by, false
	}
	w := writes[at]
	by = cvm.TagSetter{Tag: asked.Tag, Value: asked.Value, Principal: w.Principal, At: w.At, Event: w.Event, Since: asked.Since, Seen: asked.Seen}
	for _, w := range writes {
		if w.Principal != by.Principal && !slices.Contains(by.Others, w.Principal) {
			by.Others = append(by.Others, w.Principal)
		}
	}
	slices.Sort(by.Others)
	return by, true
}

// keepTagSetter has the row remember it.
func (v *view) keepTagSetter(f *cvm.Fact[cvm.TagSetter]) {
	change := v.change
	v.change = func(r *ledger.Row) {
		change(r)
		r.TagSetter = f
	}
}

// exemptionLooks names the moments at which an exemption changes the verdict: when
// it ends, and when who set its tag can be found out.
func exemptionLooks(v *view, sooner func(time.Time)) {
	sooner(v.askLog)
	for _, f := range v.verdict.Findings {
		if f.Exemption != nil {
			sooner(f.Exemption.Until)
		}
	}
}
