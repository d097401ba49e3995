package ledger

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/remedy"
)

// The Contest.Why of a step that is not taken until a person says so.
const (
	WhyChangedBack = "changed-back" // others changed back what it had set, too often
	WhyUndone      = "undone"       // it was undone on a person's word
)

// CodeChangedBack is the Outcome.Code of a step that wasn't sent because others
// had changed back what it had set once too often: the step is stopped by it.
const CodeChangedBack = WhyChangedBack

// maxSet bounds how many set values and stopped steps a row holds, so that they
// fit a column.
const maxSet = 50

// SetsValue says whether a step brings about a value that others might change back
// and that cvmguard would then set again. A deallocation, its marks and a start are
// parts of one undertaking; evidence changes nothing; the steps of an operation are
// taken once.
func SetsValue(s remedy.Step) bool {
	if s.Number() > 0 {
		return false
	}
	switch s.Kind {
	case remedy.InstallAttest, remedy.EncryptTempDisk, remedy.EncryptDataDisk, remedy.Tag, remedy.Quarantine, remedy.DisableAutoRotation,
		remedy.ReplacePolicy, remedy.GrantDES, remedy.GrantOrchestrator, remedy.EnsureKey, remedy.EnsureDES:
		return true
	}
	return false
}

// Fingerprint tells two steps apart by what they bring about: kind, target and
// arguments. It is hex.
func Fingerprint(s remedy.Step) string {
	b, err := json.Marshal(struct {
		Kind   remedy.Kind
		Target string
		Args   map[string]string
	}{s.Kind, strings.ToLower(s.Target), s.Args})
	if err != nil {
		return "" // plain text always encodes
	}
	return HashBytes(b)[:32]
}

// ChangedBack says how often others changed back what the step had set by now. anew:
// the last time, which times includes, isn't counted yet: it was brought about, with
// the same value, at least `lag` ago. Ask it of a step whose effect was just found
// missing.
func (r *Row) ChangedBack(s remedy.Step, now time.Time, lag time.Duration) (times int, anew bool) {
	have, ok := r.Set[SendKey(s)]
	switch {
	case !ok || have.Value != Fingerprint(s):
		return 0, false
	case have.At.IsZero() || now.Sub(have.At) < lag:
		return have.Backs, false
	}
	return have.Backs + 1, true
}

// CountBack notes that what the step had set was changed back. It counts once for
// each time that it was brought about.
func (r *Row) CountBack(s remedy.Step) {
	have, ok := r.Set[SendKey(s)]
	if !ok || have.At.IsZero() {
		return
	}
	have.Backs, have.At = have.Backs+1, time.Time{}
	r.Set[SendKey(s)] = have
}

// Ended takes over what a step's outcome says of values that are contested: what
// was brought about is remembered, and a step that was changed back too often is
// stopped. again says that the step was sent once more though nobody counted, which
// is what a row that is made from records alone goes by.
func (r *Row) Ended(s remedy.Step, out Outcome, at time.Time, again bool) {
	if !SetsValue(s) {
		return
	}
	key, print := SendKey(s), Fingerprint(s)
	have, was := r.Set[key]
	switch {
	case out.State == remedy.Done:
		v := SetValue{Value: print, At: at.UTC().Round(0)}
		if was && have.Value == print {
			v.Backs = have.Backs
			if again && !out.Adopted && !have.At.IsZero() { // else it was counted when it didn't last
				v.Backs++
			}
		}
		r.keepSet(key, v)
	case out.Code == remedy.CodeNotLasting: // changed back before anybody saw it
		v := SetValue{Value: print, Backs: 1}
		if was && have.Value == print {
			v.Backs += have.Backs
		}
		r.keepSet(key, v)
	case out.Code == CodeChangedBack:
		r.CountBack(s)
		r.Stop(s, WhyChangedBack, at)
	}
}

func (r *Row) keepSet(key string, v SetValue) {
	if r.Set == nil {
		r.Set = map[string]SetValue{}
	}
	r.Set[key] = v
	for len(r.Set) > maxSet {
		delete(r.Set, r.oldestSet())
	}
}

func (r *Row) oldestSet() string {
	keys := slices.Sorted(maps.Keys(r.Set))
	return slices.MinFunc(keys, func(a, b string) int { return r.Set[a].At.Compare(r.Set[b].At) })
}

// Stop leaves a step alone until a person says so (Resume), with why (WhyChangedBack
// or WhyUndone). A step that is stopped already stays so as it was. Of more than a
// row can hold the last is refused: such a step is then held up call by call.
func (r *Row) Stop(s remedy.Step, why string, at time.Time) {
	key := SendKey(s)
	r.stop(key, cvm.Contest{Step: string(s.Kind), On: s.Target, Times: r.Set[key].Backs, Since: at.UTC().Round(0), Why: why})
}

func (r *Row) stop(key string, c cvm.Contest) {
	if !r.MayStop(key) {
		return
	}
	if r.Stopped == nil {
		r.Stopped = map[string]cvm.Contest{}
	}
	r.Stopped[key] = c
}

// MayStop says whether a step, by its SendKey, isn't stopped yet and the row has room
// for it.
func (r *Row) MayStop(key string) bool {
	_, there := r.Stopped[key]
	return !there && len(r.Stopped) < maxSet
}

// Resume lets steps be taken again that were stopped at or before a moment: those of
// a kind, all where kind is "". What was set and changed back is forgotten with it.
// It answers how many steps.
func (r *Row) Resume(kind string, at time.Time) int {
	n := 0
	for _, key := range slices.Sorted(maps.Keys(r.Stopped)) {
		if c := r.Stopped[key]; kind == "" && !c.Since.After(at) || kind != "" && c.Step == kind && !c.Since.After(at) {
			delete(r.Stopped, key)
			delete(r.Set, key)
			n++
		}
	}
	return n
}

// Contested are the steps that are stopped, as a posture shows them, in the order
// of their names; nil for none.
func (r *Row) Contested() []cvm.Contest {
	var out []cvm.Contest
	for _, key := range slices.Sorted(maps.Keys(r.Stopped)) {
		out = append(out, r.Stopped[key])
	}
	return out
}

// takeContested takes over which steps a recorded posture says are stopped. One that
// was and is no longer was resumed by a person, and its fight is forgotten.
func (r *Row) takeContested(list []cvm.Contest) {
	stopped := map[string]cvm.Contest{}
	for _, c := range list {
		stopped[SendKey(remedy.Step{Kind: remedy.Kind(c.Step), Target: c.On})] = c
	}
	for key := range r.Stopped {
		if _, still := stopped[key]; !still {
			delete(r.Set, key)
		}
	}
	r.Stopped = nil
	if len(stopped) > 0 {
		r.Stopped = stopped
	}
}

func utcSet(in map[string]SetValue) map[string]SetValue {
	out := make(map[string]SetValue, len(in))
	for key, v := range in {
		v.At = v.At.UTC().Round(0)
		out[key] = v
	}
	return out
}

func utcStopped(in map[string]cvm.Contest) map[string]cvm.Contest {
	out := make(map[string]cvm.Contest, len(in))
	for key, c := range in {
		c.Since = c.Since.UTC().Round(0)
		out[key] = c
	}
	return out
}
