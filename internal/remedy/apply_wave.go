package remedy

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// A wave is one step on several VMs. Looking says of each whether the effect is
// there; what is sent goes to those that it isn't there for and that aren't in
// motion. So a wave of which a part was sent, by whichever worker, is gone on with.

// waveState is where one VM of a wave stands.
type waveState int

const (
	wavePending waveState = iota // a call is to be sent
	waveMoving
	waveDone
)

// waveLag is how long a call that was taken may stay without any trace on the VM,
// before it is sent again.
const waveLag = time.Minute

// maxWaveTokens bounds what of the operations' tokens is kept, in bytes: they stand
// in a column of the row. A wave without them is looked at on its VMs.
const maxWaveTokens = 12_000

// waveToken is a wave's resume token.
type waveToken struct {
	Sent time.Time         `json:"sent"`
	Ops  map[string]string `json:"ops,omitempty"`  // by VM: its operation's token
	Errs map[string]string `json:"errs,omitempty"` // by VM: why the call was refused for good
	Kind fault.Kind        `json:"kind,omitempty"` // of the first of Errs
}

const waveTokenHead = "wave:"

func (t waveToken) encode() (string, error) {
	size := 0
	for _, op := range t.Ops {
		size += len(op)
	}
	if size > maxWaveTokens {
		t.Ops = nil
	}
	b, err := json.Marshal(t)
	if err != nil {
		return "", fault.New(fault.Bug, "keeping a wave's token", "", "%w", err)
	}
	return waveTokenHead + string(b), nil
}

// waveAct is the act of a wave: how a VM stands, what is in doubt about those to
// which a call is to be sent (nil: nothing), and the call.
func (a *AzureApplier) waveAct(state func(context.Context, Step, cvm.VMID) (waveState, cvm.VM, error),
	doubts func(context.Context, Step, []cvm.VM) ([]string, error), send func(context.Context, cvm.VMID) (Progress, error)) act {
	look := func(ctx context.Context, s Step, _ Secrets) (Progress, error) {
		pending, moving, err := a.standings(ctx, s, state)
		switch {
		case err != nil:
			return Progress{}, err
		case len(pending) == 0 && moving > 0:
			return inMotion(), nil
		case len(pending) == 0:
			return effected(), nil
		case doubts == nil:
			return notThere(), nil
		}
		why, err := doubts(ctx, s, pending)
		if err != nil {
			return Progress{}, err
		}
		if len(why) > 0 {
			return refuse(s, "%s", strings.Join(why, "; ")), nil
		}
		return notThere(), nil
	}
	start := func(ctx context.Context, s Step, _ Secrets) (Progress, error) {
		pending, _, err := a.standings(ctx, s, state)
		if err != nil {
			return Progress{}, err
		}
		return a.sendWave(ctx, pending, send)
	}
	poll := func(ctx context.Context, s Step, token string) (Progress, error) {
		return a.pollWave(ctx, s, token, state)
	}
	return act{look: look, start: start, poll: poll}
}

// standings reads the VMs of a wave. One that is gone is in nobody's way.
func (a *AzureApplier) standings(ctx context.Context, s Step, state func(context.Context, Step, cvm.VMID) (waveState, cvm.VM, error)) (pending []cvm.VM, moving int, err error) {
	list := s.VMs()
	if len(list) == 0 || len(list) > MaxWave {
		return nil, 0, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "the step names %d VMs", len(list))
	}
	for _, id := range list {
		st, vm, err := state(ctx, s, id)
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			return nil, 0, err
		case st == wavePending:
			pending = append(pending, vm)
		case st == waveMoving:
			moving++
		}
	}
	return pending, moving, nil
}

// sendWave sends the call to each VM. What passes by itself ends the sending: the
// rest is sent when the step is looked at again. It is the wave's own error only
// where nothing was sent yet, for a wave of which a part was sent is under way.
// What doesn't pass is told when the others are done.
func (a *AzureApplier) sendWave(ctx context.Context, pending []cvm.VM, send func(context.Context, cvm.VMID) (Progress, error)) (Progress, error) {
	t := waveToken{Ops: map[string]string{}, Errs: map[string]string{}}
	if a.Now != nil {
		t.Sent = a.Now().UTC()
	}
	for i, vm := range pending {
		p, err := send(ctx, vm.ID)
		switch {
		case err != nil && passes(err) && i > len(t.Errs):
			token, terr := t.encode()
			return Progress{State: Underway, Token: token, RetryAfter: max(fault.RetryAfter(err), retryTransition)}, terr
		case err != nil && (passes(err) || ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded)):
			return Progress{}, err
		case err != nil:
			t.refused(vm.ID, err)
		case p.Token != "":
			t.Ops[vm.ID.Fold()] = p.Token
		}
	}
	token, err := t.encode()
	return Progress{State: Underway, Token: token, RetryAfter: retryTransition}, err
}

func (t *waveToken) refused(id cvm.VMID, err error) {
	if t.Errs == nil {
		t.Errs = map[string]string{}
	}
	if len(t.Errs) == 0 {
		t.Kind = fault.KindOf(err)
	}
	text := err.Error()
	t.Errs[id.Fold()] = text[:min(len(text), 300)]
}

// pollWave asks how a wave that was sent stands.
func (a *AzureApplier) pollWave(ctx context.Context, s Step, token string, state func(context.Context, Step, cvm.VMID) (waveState, cvm.VM, error)) (Progress, error) {
	var t waveToken
	text, ours := strings.CutPrefix(token, waveTokenHead)
	if !ours || json.Unmarshal([]byte(text), &t) != nil {
		return Progress{}, fault.New(fault.Blocked, "polling "+string(s.Kind), s.Target, "the stored token isn't a wave's: find out who wrote to the storage account")
	}
	pending, moving, err := a.standings(ctx, s, state)
	if err != nil {
		return Progress{}, err
	}
	if len(pending) == 0 && moving == 0 {
		return effected(), nil
	}
	again := false
	for _, vm := range pending {
		if t.Errs[vm.ID.Fold()] != "" {
			continue
		}
		under, err := a.pollOne(ctx, &t, vm.ID)
		if err != nil {
			return Progress{}, err
		}
		if under {
			moving++
		} else if t.Errs[vm.ID.Fold()] == "" {
			again = true
		}
	}
	if again && a.Now != nil && a.Now().Sub(t.Sent) < waveLag {
		moving++ // it was taken, and isn't to be seen yet
	}
	switch {
	case moving > 0:
		token, err := t.encode()
		return Progress{State: Underway, Token: token, RetryAfter: retryTransition}, err
	case again:
		return notThere(), nil
	}
	var said []string
	for _, vm := range pending {
		said = append(said, vm.ID.Name()+": "+t.Errs[vm.ID.Fold()])
	}
	return Progress{State: Ended, Err: fault.New(t.Kind, "applying "+string(s.Kind), s.Target, "%d of %d VMs: %s", len(pending), len(s.VMs()), strings.Join(said, "; "))}, nil
}

// pollOne asks about one VM's operation: whether it is under way. One that failed is
// noted.
func (a *AzureApplier) pollOne(ctx context.Context, t *waveToken, id cvm.VMID) (under bool, err error) {
	token := t.Ops[id.Fold()]
	if token == "" {
		return false, nil
	}
	p, err := a.Azure.PollOperation(ctx, token)
	switch {
	case fault.Is(err, fault.NotFound): // forgotten: the VM itself says
	case err != nil:
		return false, err
	case p.State == Underway:
		return true, nil
	case p.State == Ended:
		t.refused(id, p.Err)
	}
	return false, nil
}

// downState is how a VM stands that is to be deallocated.
func (a *AzureApplier) downState(ctx context.Context, _ Step, id cvm.VMID) (waveState, cvm.VM, error) {
	vm, err := a.Azure.VM(ctx, id)
	switch {
	case err != nil:
		return wavePending, vm, err
	case vm.Power == powerDeallocated:
		return waveDone, vm, nil
	case vm.Power == "deallocating", vm.Power == "starting", moving(vm.ProvisioningState):
		return waveMoving, vm, nil
	}
	return wavePending, vm, nil
}

// upState is how a VM stands that is to be started.
func (a *AzureApplier) upState(ctx context.Context, _ Step, id cvm.VMID) (waveState, cvm.VM, error) {
	vm, err := a.Azure.VM(ctx, id)
	switch {
	case err != nil:
		return wavePending, vm, err
	case vm.Power == powerRunning:
		return waveDone, vm, nil
	case vm.Power == "deallocating", vm.Power == "starting", moving(vm.ProvisioningState):
		return waveMoving, vm, nil
	}
	return wavePending, vm, nil
}

// waveDoubts reads all that the next start of the VMs rests on, now: with the new
// key, and with the set as it is.
func (a *AzureApplier) waveDoubts(ctx context.Context, s Step, pending []cvm.VM) ([]string, error) {
	az, err := a.rotator(s)
	if err != nil {
		return nil, err
	}
	des, err := az.DES(ctx, cvm.DESID(s.Args[argSetOf]))
	if err != nil {
		return nil, err
	}
	if err := otherKey(des, s); err != nil {
		return nil, err
	}
	in, err := a.newPath(ctx, az, des, cvm.KeyID(s.Args[argKey]))
	if err != nil {
		return nil, err
	}
	also, err := a.onSet(ctx, des.ID)
	if err != nil {
		return nil, err
	}
	if err := in.readUsers(ctx, az, also); err != nil {
		return nil, err
	}
	out := doubts{list: in.Unread}
	planned := strings.Split(s.Args[argUsers], ",")
	for _, vm := range in.VMs {
		out.when(!slices.Contains(planned, userMark(vm.ID)), "%s is on the set by now and not in the plan; stop this operation and plan again", vm.ID.Name())
	}
	in.VMs = pending
	if err := in.readRest(ctx, az); err != nil {
		return nil, err
	}
	in.oldKeyDoubts(&out)
	return append(out.list, in.allVMDoubts()...), nil
}
