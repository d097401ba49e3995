package remedy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// tokenVerify begins the resume token of an act whose operation has ended well, or
// that has none, and whose effect isn't to be read yet: Azure's replicas lag. After
// it comes since when. Polling it reads the resource and never sends again.
const tokenVerify = "verify"

// verifyFor is how long what Azure took may stay out of sight: far longer than its
// replicas lag. From then on somebody has changed it back, or the write itself was
// changed on its way in.
const verifyFor = 15 * time.Minute

// CodeNotLasting is the code of an act that Azure carried out and whose effect isn't
// there all the same.
const CodeNotLasting = "not-lasting"

// The waits that are proposed where the service names none.
const (
	retryVerify     = 2 * time.Second // an effect that isn't to be read yet
	retryTransition = 5 * time.Second // a resource that is being changed
)

// AzureApplier applies every kind of step that a plan may hold as planned. It
// keeps nothing between calls, so any worker may go on where another stopped.
type AzureApplier struct {
	// Azure is required. Where it is a SizeReader too, deallocations can be made.
	Azure Azure
	// Policy is required: in mode observe nothing is sent.
	Policy *policy.Document
	// Script makes the shell script of collect-evidence for a collector of this
	// SHA-256 (hex). nil refuses collect-evidence.
	Script func(toolSHA256 string) string
	// Now is the clock by which a key has expired. nil refuses deallocations.
	Now func() time.Time
	// OnSet are the VMs that hang on a disk encryption set by the books: one whose OS
	// disk is ephemeral is in no list of Azure's. nil: Azure's lists are all there is.
	OnSet func(context.Context, cvm.DESID) ([]cvm.VMID, error)
}

// NewApplier makes an applier that lacks Script, Now and OnSet; see there.
func NewApplier(az Azure, d *policy.Document) *AzureApplier {
	return &AzureApplier{Azure: az, Policy: d}
}

var _ Applier = (*AzureApplier)(nil)

// act is how one kind is looked at and sent. look answers in this order: is the
// effect there, is an operation under way, does a precondition fail (Refused),
// else NotThere.
type act struct {
	look  func(context.Context, Step, Secrets) (Progress, error)
	start func(context.Context, Step, Secrets) (Progress, error)
	// poll, where it isn't nil, is for tokens of the kind's own.
	poll func(ctx context.Context, s Step, token string) (Progress, error)
}

func (a *AzureApplier) act(s Step) (act, error) {
	if t, ok := a.operationAct(s); ok {
		return t, nil
	}
	switch s.Kind {
	case CollectEvidence:
		return act{look: a.lookRunCommand, start: a.startRunCommand}, nil
	case InstallAttest, EncryptTempDisk:
		return act{look: a.lookExtension, start: a.startExtension}, nil
	case Tag, Quarantine, MarkDeallocation, MarkDown, ClearMark:
		return act{look: a.lookTags, start: a.startTags}, nil
	case Deallocate:
		return act{look: a.lookDeallocate, start: a.startDeallocate}, nil
	case Start:
		return act{look: a.lookStart, start: a.startStart}, nil
	case EncryptDataDisk:
		return act{look: a.lookDataDisk, start: a.startDataDisk}, nil
	case DisableAutoRotation:
		return act{look: a.lookAutoRotation, start: a.startAutoRotation}, nil
	case ReplacePolicy:
		return act{look: a.lookReleasePolicy, start: a.startReleasePolicy}, nil
	case EnsureKey:
		return act{look: a.lookKey, start: a.startKey}, nil
	case EnsureDES:
		return act{look: a.lookDES, start: a.startDES}, nil
	case GrantDES, GrantOrchestrator:
		return act{look: a.lookGrant, start: a.startGrant}, nil
	}
	return act{}, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "nobody but a person carries out this kind of step")
}

func (a *AzureApplier) onSet(ctx context.Context, id cvm.DESID) ([]cvm.VMID, error) {
	if a.OnSet == nil {
		return nil, nil
	}
	return a.OnSet(ctx, id)
}

// Look reads the target afresh.
func (a *AzureApplier) Look(ctx context.Context, s Step, sec Secrets) (Progress, error) {
	t, err := a.act(s)
	if err != nil {
		return Progress{}, err
	}
	p, err := t.look(ctx, s, sec)
	if fault.Is(err, fault.NotFound) {
		return refused(err), nil // what it acts on, or what that hangs on, is gone
	}
	return p, err
}

// Start sends the one write. It reads what the write needs (an ETag, a region)
// just before. Errors that pass come back as errors; those that don't are the
// act's end.
func (a *AzureApplier) Start(ctx context.Context, s Step, sec Secrets) (Progress, error) {
	t, err := a.act(s)
	if err != nil {
		return Progress{}, err
	}
	if a.Policy == nil || a.Policy.Mode() != modeEnforce {
		return refused(fault.New(fault.Blocked, "applying "+string(s.Kind), s.Target, "policy's mode isn't enforce: nothing is written")), nil
	}
	p, err := t.start(ctx, s, sec)
	if err != nil {
		if passes(err) {
			return Progress{}, err
		}
		return Progress{State: Ended, Err: err}, nil
	}
	if p.State == Underway && p.Token == "" {
		p.Token = a.verifySince(time.Time{}) // it was sent: from now on it is only looked for
	}
	if p.State == Effected {
		return a.verify(ctx, t, s, sec, time.Time{})
	}
	return p, nil
}

// Poll asks how an act stands.
func (a *AzureApplier) Poll(ctx context.Context, s Step, token string, sec Secrets) (Progress, error) {
	t, err := a.act(s)
	if err != nil {
		return Progress{}, err
	}
	if token == "" {
		return a.Look(ctx, s, sec)
	}
	if text, ok := strings.CutPrefix(token, tokenVerify); ok {
		since, err := time.Parse(time.RFC3339, strings.TrimPrefix(text, " "))
		if err != nil {
			since = time.Time{} // it begins anew
		}
		return a.verify(ctx, t, s, sec, since)
	}
	if t.poll != nil {
		return t.poll(ctx, s, token)
	}
	p, err := a.Azure.PollOperation(ctx, token)
	if err != nil {
		return Progress{}, err
	}
	switch p.State {
	case Underway:
		if p.Token == "" {
			p.Token = token
		}
		return p, nil
	case Effected:
		return a.verify(ctx, t, s, sec, time.Time{})
	}
	return p, nil
}

// verifySince is the token of an act that is looked for since a moment, the zero
// time for now.
func (a *AzureApplier) verifySince(since time.Time) string {
	if since.IsZero() && a.Now != nil {
		since = a.Now()
	}
	if since.IsZero() {
		return tokenVerify
	}
	return tokenVerify + " " + since.UTC().Format(time.RFC3339)
}

// verify reads whether the effect of a write that was accepted is there. since is
// when it was looked for first, zero for now.
func (a *AzureApplier) verify(ctx context.Context, t act, s Step, sec Secrets, since time.Time) (Progress, error) {
	p, err := t.look(ctx, s, sec)
	if err != nil {
		if fault.Is(err, fault.NotFound) {
			return Progress{State: Ended, Err: err}, nil
		}
		if passes(err) {
			// The write must not be sent again for a read that failed.
			return Progress{State: Underway, Token: a.verifySince(since), RetryAfter: max(fault.RetryAfter(err), retryVerify)}, nil
		}
		return Progress{}, err
	}
	switch p.State {
	case NotThere:
		if a.Now != nil && !since.IsZero() && a.Now().Sub(since) > verifyFor {
			return Progress{State: Ended, Err: &fault.Error{Kind: fault.Blocked, Op: "applying " + string(s.Kind), Object: s.Target, Code: CodeNotLasting,
				Err:  fmt.Errorf("Azure carried it out, and for %s what it sets isn't there", verifyFor),
				Next: "see in the Activity Log who changes it back, or which Azure Policy changes the write"}}, nil
		}
		return Progress{State: Underway, Token: a.verifySince(since), RetryAfter: retryVerify}, nil
	case Underway:
		p.Token = a.verifySince(time.Time{}) // it is being changed: only then is it looked for
	case Refused:
		p.State = Ended // it was sent, and what it needed has gone since
	}
	return p, nil
}

// passes says whether an error goes away by itself.
func passes(err error) bool {
	switch fault.KindOf(err) {
	case fault.Conflict, fault.Throttled, fault.Transient:
		return true
	}
	return false
}

func refused(err error) Progress { return Progress{State: Refused, Err: err} }

// refuse is a precondition that doesn't hold.
func refuse(s Step, format string, args ...any) Progress {
	return refused(fault.New(fault.Blocked, "applying "+string(s.Kind), s.Target, format, args...))
}

// CodeSuperseded is the code of the refusal that ends an operation for good: what
// stands there now isn't what its plan was made for, and won't become it by waiting.
const CodeSuperseded = "plan-superseded"

// superseded is that refusal.
func superseded(s Step, format string, args ...any) *fault.Error {
	e := fault.New(fault.Blocked, "applying "+string(s.Kind), s.Target, format, args...)
	e.Code, e.Next = CodeSuperseded, "make a new plan"
	return e
}

func effected() Progress { return Progress{State: Effected} }
func notThere() Progress { return Progress{State: NotThere} }
func inMotion() Progress { return Progress{State: Underway, RetryAfter: retryTransition} }

// moving says whether a provisioning state is one of a change that isn't over.
func moving(state string) bool {
	switch strings.ToLower(state) {
	case "creating", "updating", "deleting", "migrating":
		return true
	}
	return false
}

// same compares ARM ids and names as ARM does.
func same[T, U ~string](a T, b U) bool { return strings.EqualFold(string(a), string(b)) }

func vmOf(s Step) cvm.VMID { return cvm.VMID(s.Target) }
