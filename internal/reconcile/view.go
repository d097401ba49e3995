package reconcile

import (
	"context"
	"strings"
	"time"

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
	next    time.Time // the latest moment of the next look, zero for none
	wake    []string  // shared objects to put on the loop
	region  string
	change  func(*ledger.Row) // what else the row must show
}

// view observes, judges and plans. It answers nil when there is nothing to judge
// now: the object is in transition or not to be read for the moment, and a
// look-again is on its way.
func (l *Loop) view(ctx context.Context, h *held, m Message) (*view, error) {
	doc := l.Policy
	if m.DryRun {
		doc = doc.WithMode("observe")
	}
	fresh := m.Cause.Kind != causeEvent && m.Cause.Kind != "sweep"
	var v *view
	var err error
	if h.object.IsVM() {
		v, err = l.viewVM(ctx, h, doc, fresh)
	} else {
		v, err = l.viewShared(ctx, h, doc)
	}
	if err != nil && retryable(err) && ctx.Err() == nil && (fault.Is(err, fault.Throttled) || fault.Is(err, fault.Transient)) && fromAzure(err) {
		// The message is served: another one comes when Azure may be asked again.
		h.log.Warn("Azure could not be read; it is read again later", logError, err.Error())
		return nil, l.lookAgain(ctx, h, max(fault.RetryAfter(err), l.Settings.TransitionWait), func(*ledger.Row) {})
	}
	return v, err
}

// fromAzure tells a classified error of the service from one of our own storage,
// whose failures must fail the message.
func fromAzure(err error) bool { return fault.Code(err) != "" || fault.RetryAfter(err) > 0 }

func (l *Loop) viewVM(ctx context.Context, h *held, doc *policy.Document, fresh bool) (*view, error) {
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
	if fault.Is(err, fault.NotFound) {
		return l.viewGone(ctx, h, doc, now)
	}
	if err != nil {
		return nil, err
	}
	if h.row.Verdict != "" && inTransition(p) {
		return nil, l.lookAgain(ctx, h, l.Settings.TransitionWait, func(*ledger.Row) {})
	}
	p.GuestAsked, p.AllowDevelopment = true, l.Development
	v := &view{change: func(*ledger.Row) {}}
	if p.VM.Known {
		v.vm = &p.VM.Value
		v.region = v.vm.Location
		if err := l.observeGuest(ctx, h, doc, &p, v, now); err != nil {
			return nil, err
		}
	}
	v.posture = p
	v.verdict = policy.Judge(p, doc, now)
	v.verdict.PolicyHash = l.Policy.Hash
	v.plan = remedy.ForVM(p, v.verdict, doc)
	if remedy.WantsRights(p, v.verdict, doc) {
		// Rights are the last doubt before a deallocation: only then are they worth a read.
		if p.Rights, err = l.rightsOf(ctx, p.Vault.Value, p.Key.Value, p.DES.Value, doc); err != nil {
			return nil, err
		}
		v.posture = p
		v.verdict = policy.Judge(p, doc, now)
		v.verdict.PolicyHash = l.Policy.Hash
		v.plan = remedy.ForVM(p, v.verdict, doc)
	}
	v.wake, err = l.sharedToWake(ctx, p, v.plan, doc, now)
	v.next = l.nextLook(h.row, v, now, doc)
	return v, err
}

// note writes a column before what it names is read, if it isn't there yet.
func (h *held) note(ctx context.Context, have, want string, change func(*ledger.Row)) error {
	if have == want {
		return nil
	}
	return h.save(ctx, change)
}

// viewGone is ARM's 404: the first one only makes the loop look a second time.
func (l *Loop) viewGone(ctx context.Context, h *held, doc *policy.Document, now time.Time) (*view, error) {
	if h.row.GoneSince.IsZero() {
		return nil, l.lookAgain(ctx, h, l.Settings.TransitionWait, func(r *ledger.Row) { r.GoneSince = now })
	}
	if now.Sub(h.row.GoneSince) < l.Settings.TransitionWait-time.Millisecond {
		return nil, nil // the look-again is on its way
	}
	p := cvm.Posture{ID: cvm.VMID(h.object.ID), Gone: true}
	v := &view{posture: p, verdict: policy.Judge(p, doc, now), plan: remedy.Plan{Mode: doc.Mode()}, change: func(*ledger.Row) {}}
	return v, nil
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

// nextLook is when the object is to be looked at again though nothing happens.
func (l *Loop) nextLook(row ledger.Row, v *view, now time.Time, doc *policy.Document) time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if v.verdict.Value == policy.Unknown {
		sooner(now.Add(l.Settings.SlowPace))
		if v.vm != nil && busy(v.vm.ProvisioningState) {
			sooner(now.Add(l.Settings.TransitionWait))
		}
	}
	if v.att != nil && doc.AttestationAsked() {
		sooner(v.att.JudgedAt.Add(doc.AttestationMaxAge()))
	}
	for _, s := range v.plan.Steps {
		if s.State == remedy.Planned && v.plan.Mode == "enforce" {
			if until := row.Hold[ledger.SendKey(s)]; until.After(now) {
				sooner(until)
			}
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
		ids = append(ids, strings.ToLower(p.ID.Subscription())+"/regions/"+p.VM.Value.Location)
	}
	return ids
}
