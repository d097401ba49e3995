package remedy

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// A reverse step puts back only what still is as cvmguard has left it: what others
// have changed since isn't written over.

func (a *AzureApplier) lookRestoreTag(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	name, remove := s.Args[argTag], s.Args[argRemove] != ""
	have, there := tagOf(vm.Tags, name)
	switch {
	case name == "":
		return Progress{}, fault.New(fault.Bug, "restoring a tag of VM", s.Target, "the step names no tag")
	case moving(vm.ProvisioningState):
		return inMotion(), nil
	case remove && !there, !remove && there && have == s.Args[argValue]:
		return effected(), nil
	case !there:
		return refuse(s, "the tag %s isn't there any more: somebody has removed it", name), nil
	case have != s.Args[argWas]:
		return refuse(s, "the tag %s is %q by now, not %q as the step left it: it was changed since", name, have, s.Args[argWas]), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) lookRestoreRotation(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	des, err := a.Azure.DES(ctx, cvm.DESID(s.Target))
	switch {
	case err != nil:
		return Progress{}, err
	case moving(des.ProvisioningState):
		return inMotion(), nil
	case des.AutoRotation:
		return effected(), nil
	}
	if why := rotationDoubts(des); len(why) > 0 {
		return refuse(s, "%s", why[0]), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startRestoreRotation(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	return a.Azure.BeginDESAutoRotation(ctx, cvm.DESID(s.Target), true)
}

func (a *AzureApplier) lookRestorePolicy(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	key, err := a.Azure.Key(ctx, cvm.KeyID(s.Target))
	switch {
	case err != nil:
		return Progress{}, err
	case s.Args[argPolicy] == "":
		return Progress{}, fault.New(fault.Bug, "restoring the release policy of key", s.Target, "the step holds no policy")
	case sameJSON(key.Policy.Decoded, s.Args[argPolicy]):
		return effected(), nil
	case key.Policy.Immutable:
		return refuse(s, "the release policy is immutable by now"), nil
	case !sameJSON(key.Policy.Decoded, s.Args[argWas]):
		return refuse(s, "the release policy isn't the one that the step left: it was changed since"), nil
	}
	return notThere(), nil
}

// sameJSON says whether two texts are the same JSON value, or the same text.
func sameJSON(a, b string) bool {
	if strings.TrimSpace(a) == strings.TrimSpace(b) {
		return true
	}
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}
