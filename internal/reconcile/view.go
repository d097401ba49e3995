package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// view is what one look saw, thought and wants.
type view struct {
	posture any // cvm.Posture or cvm.SharedPosture, for the record
	vm      *cvm.VM
	verdict policy.Verdict
	plan    remedy.Plan
	att     *cvm.Attestation
	gone    bool     // Azure said twice that it isn't there
	busy    bool     // somebody is changing it
	wake    []string // shared objects to put on the loop
	region  string
	hold    map[string]time.Time // by SendKey: until when a step that failed is held back
	change  func(*ledger.Row)    // what else the row must show
	askLog  time.Time            // when the Activity Log is worth a read
	// operation is how far an operation has come, nil for any other object.
	operation *ledger.OperationState
	renewed   bool             // another VM of the same name than the one that was judged before
	braked    map[string]brake // by SendKey: what is held back, filled in by choose
	shadow    *policy.Verdict  // of the shadow policy, nil where none is set
	refused   []azurepolicy.Refusal
}

// view observes, judges and plans. It answers nil when there is nothing to judge
// now: the object is in transition or not to be read for the moment, and a
// look-again is on its way.
func (l *Loop) view(ctx context.Context, h *held, m Message) (*view, error) {
	doc := l.Policy
	if m.DryRun {
		doc = doc.WithMode("observe")
	}
	fresh := h.fresh || m.Cause.Kind != causeEvent && m.Cause.Kind != causeSweep
	var v *view
	var err error
	switch {
	case h.object.IsVM():
		v, err = l.viewVM(ctx, h, m, doc, fresh)
	case h.object.Kind == cvm.SharedOperation:
		v, err = l.viewOperation(ctx, h, m, doc)
	default:
		v, err = l.viewShared(ctx, h, m, doc)
	}
	var read readError
	if err != nil && errors.As(err, &read) && retryable(err) && ctx.Err() == nil {
		// The message is served: another one comes when Azure may be asked again. A
		// failure of our own storage isn't one of these: it fails the message.
		h.log.Warn("Azure could not be read; it is read again later", slog.String(logError, err.Error()))
		return nil, l.later(ctx, h, m, max(fault.RetryAfter(err), l.Settings.TransitionWait),
			func(r *ledger.Row) { r.LastError = clip(err.Error()) })
	}
	l.judgeShadow(v)
	if err == nil {
		if refused := l.lookAtRefusals(v); refused != nil {
			// No verdict rests on it: the turn goes on.
			h.log.Error("what Azure Policy would have refused of the VM can't be said", slog.String(logError, refused.Error()))
		}
	}
	return v, err
}

// later sets the next look where there is nothing to judge now. A dry run comes
// again itself: the next look would not be dry.
func (l *Loop) later(ctx context.Context, h *held, m Message, wait time.Duration, change func(*ledger.Row)) error {
	if !m.DryRun {
		return l.lookAgain(ctx, h, wait, change)
	}
	if err := l.enqueue(ctx, m, wait); err != nil {
		return err
	}
	return h.save(ctx, change)
}

func (l *Loop) viewVM(ctx context.Context, h *held, m Message, doc *policy.Document, fresh bool) (*view, error) {
	o := Observer{Azure: l.Azure, Fresh: fresh,
		OnDES: func(id cvm.DESID) error {
			return h.note(ctx, string(h.row.DES), id.Fold(), func(r *ledger.Row) { r.DES = cvm.DESID(id.Fold()) })
		},
		OnKey: func(id cvm.KeyID) error {
			k := strings.ToLower(string(id.Versionless()))
			return h.note(ctx, string(h.row.Key), k, func(r *ledger.Row) { r.Key = cvm.KeyID(k) })
		},
	}
	now := l.Now()
	p, err := o.VM(ctx, cvm.VMID(h.object.ID))
	if p.VM.Absent {
		if again, err := l.lookForGone(ctx, h, m, now); again || err != nil {
			return nil, err
		}
		p := cvm.Posture{ID: cvm.VMID(h.object.ID), Gone: true}
		return &view{posture: p, gone: true, verdict: l.stamp(policy.Judge(p, doc, now)), plan: remedy.Plan{Mode: doc.Mode()}, change: func(*ledger.Row) {}}, nil
	}
	if err != nil {
		return nil, err
	}
	// What was judged before was another VM where the unique id differs.
	if h.row.UniqueID == p.VM.Value.UniqueID && inTransition(p) {
		if wait, err := l.awaitTransition(ctx, h, m, now); wait || err != nil {
			return nil, err
		}
	}
	p.GuestAsked, p.AllowDevelopment = true, l.Development
	if !p.VM.Known || h.row.UniqueID == p.VM.Value.UniqueID {
		p.Contested = h.row.Contested()
	}
	p.TakenDown = h.row.SentWithin(remedy.Step{Kind: remedy.Deallocate, Target: string(p.ID)}, now, keepSends) > 0
	v := &view{busy: inTransition(p), hold: h.row.Hold, change: func(*ledger.Row) {}}
	if p.VM.Known {
		v.vm = &p.VM.Value
		v.region = v.vm.Location
		if err := l.observeGuest(ctx, h, doc, &p, v, now); err != nil {
			return nil, err
		}
		if err := l.observeTag(ctx, h, doc, &p, v, now); err != nil {
			return nil, err
		}
	}
	v.posture = p
	v.verdict = l.stamp(policy.Judge(p, doc, now))
	v.plan = remedy.ForVM(p, v.verdict, doc)
	if remedy.WantsRights(p, v.verdict, doc) {
		// Rights are the last doubt before a deallocation: only then are they worth a read.
		if p.Rights, err = l.rightsOf(ctx, p.Vault.Value, p.Key.Value.ID, p.DES.Value, doc); err != nil {
			return nil, err
		}
		v.posture = p
		v.verdict = l.stamp(policy.Judge(p, doc, now))
		v.plan = remedy.ForVM(p, v.verdict, doc)
	}
	v.wake, err = l.sharedToWake(ctx, p, v.plan, doc, now)
	return v, err
}

// transitionMost is how many waits a transition may last before the object is
// judged as it stands: a quarter of an hour by default.
const transitionMost = 60

// awaitTransition leaves an object that somebody is changing, and that was judged
// before, for a later look. It answers false when the object is to be judged: for
// the first time, or because the change lasts too long for its old verdict to
// stand.
func (l *Loop) awaitTransition(ctx context.Context, h *held, m Message, now time.Time) (bool, error) {
	since := h.row.TransitionSince
	if since.IsZero() {
		since = now
	}
	if h.row.Verdict == "" || now.Sub(since) >= transitionMost*l.Settings.TransitionWait {
		return false, nil
	}
	return true, l.later(ctx, h, m, l.transitionPause(since, now), func(r *ledger.Row) {
		r.GoneSince, r.TransitionSince = time.Time{}, since
	})
}

// transitionPause grows with how long a transition has lasted, up to the slow pace.
func (l *Loop) transitionPause(since, now time.Time) time.Duration {
	pause := l.Settings.TransitionWait
	if !since.IsZero() {
		pause = max(pause, now.Sub(since)/2)
	}
	return min(pause, max(l.Settings.SlowPace, l.Settings.TransitionWait))
}

// stamp names the policy in force, which a dry run is judged by too.
func (l *Loop) stamp(v policy.Verdict) policy.Verdict {
	v.PolicyHash = l.Policy.Hash
	return v
}

// note writes a column before what it names is read, if it isn't there yet.
func (h *held) note(ctx context.Context, have, want string, change func(*ledger.Row)) error {
	if have == want {
		return nil
	}
	return h.save(ctx, change)
}

// lookForGone is Azure's 404: the first one only makes the loop look a second
// time, and only one that comes a while later counts; again says so.
func (l *Loop) lookForGone(ctx context.Context, h *held, m Message, now time.Time) (again bool, err error) {
	since := h.row.GoneSince
	if since.IsZero() {
		since = now
	}
	wait := since.Add(l.Settings.TransitionWait).Sub(now)
	if wait <= 0 {
		return false, nil
	}
	return true, l.later(ctx, h, m, wait, func(r *ledger.Row) { r.GoneSince = since })
}

// inTransition says whether the VM or a link of its key path is being changed by
// somebody right now.
func inTransition(p cvm.Posture) bool {
	return p.VM.Known && busy(p.VM.Value.ProvisioningState) || p.DES.Known && busy(p.DES.Value.ProvisioningState)
}

func busy(state string) bool {
	switch strings.ToLower(state) {
	case "creating", "updating", "deleting", "migrating":
		return true
	}
	return false
}

// nextLook is when the object is to be looked at again though nothing happens,
// zero for never.
func (l *Loop) nextLook(h *held, v *view, now time.Time) time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	// What isn't known is asked for again, whatever else has failed; but evidence that
	// hasn't come brings the VM on the loop when it does.
	if v.verdict.Value == policy.Unknown || v.verdict.Value == policy.NonCompliant && slices.ContainsFunc(v.verdict.Findings, func(f policy.Finding) bool {
		return f.State == cvm.UnknownState && !strings.HasPrefix(f.Reason, "evidence-")
	}) {
		sooner(now.Add(l.Settings.SlowPace))
		if v.busy {
			sooner(now.Add(l.transitionPause(h.row.TransitionSince, now)))
		}
	}
	if v.att != nil && l.Policy.AttestationAsked() {
		sooner(v.att.JudgedAt.Add(l.Policy.AttestationMaxAge()))
		if v.att.MAA.Reason == reasonMAAUnavailable {
			sooner(v.att.JudgedAt.Add(l.Settings.SlowPace))
		}
	}
	exemptionLooks(v, sooner)
	for _, b := range v.braked {
		sooner(b.until)
	}
	for _, s := range v.plan.Steps {
		if s.State != remedy.Planned || v.plan.Mode != policy.ModeEnforce {
			continue
		}
		if until := v.hold[ledger.SendKey(s)]; until.After(now) {
			sooner(until)
		}
		if h.done[ledger.SendKey(s)] || l.setLately(h, s, now) {
			sooner(now.Add(l.Settings.TransitionWait)) // it was done just now, and what is read doesn't show it yet
		}
	}
	if !next.IsZero() && !next.After(now) {
		next = now.Add(l.Settings.SlowPace)
	}
	return next
}

// sharedToWake lists the shared objects that the VM's turn puts on the loop: those
// in which it sees something to do, and those whose row is missing or old.
func (l *Loop) sharedToWake(ctx context.Context, p cvm.Posture, plan remedy.Plan, doc *policy.Document, now time.Time) ([]string, error) {
	seen := map[string]bool{}
	var wake []string
	add := func(id string) {
		if k := strings.ToLower(id); !seen[k] {
			seen[k] = true
			wake = append(wake, id)
		}
	}
	for _, s := range plan.Steps {
		if s.Kind == remedy.RepairShared {
			add(s.Target)
		}
	}
	for _, id := range sharedOf(p, doc) {
		o, err := SharedObject(id)
		if err != nil {
			continue // a malformed link is a finding of the VM's own
		}
		row, err := l.readRow(ctx, o)
		switch {
		case fault.Is(err, fault.NotFound):
			add(id)
		case err != nil:
			return nil, err
		case now.Sub(row.LastSeen) > l.Settings.SharedAge:
			add(id)
		}
	}
	return wake, nil
}

// sharedOf lists the shared objects behind a posture.
func sharedOf(p cvm.Posture, doc *policy.Document) []string {
	var ids []string
	if p.DES.Known {
		ids = append(ids, string(p.DES.Value.ID))
		if k, err := cvm.ParseKeyID(p.DES.Value.KeyURL); err == nil {
			ids = append(ids, string(k.Versionless()))
		}
	}
	if p.Vault.Known {
		ids = append(ids, p.Vault.Value.ID)
	}
	if p.VM.Known && doc.HasRegion(p.VM.Value.Location) {
		ids = append(ids, string(cvm.RegionOf(p.ID.Subscription(), p.VM.Value.Location)))
	}
	return ids
}
