package remedy

import "slices"

// NextExcept is the first planned step that may be taken now; ok is false when
// there is none or in observe mode. held says which steps may not: they failed a
// short while ago or too often. What follows a held step in the same chain (what
// is done to a VM that is down only makes sense once it is down) is left out
// with it, and a VM isn't taken down while a later step of the chain is held; but
// no other step ever holds back the start of a VM that is down already.
func (p Plan) NextExcept(held func(Step) bool) (Step, bool) {
	if p.Mode != "enforce" {
		return Step{}, false
	}
	left := map[Kind]bool{}
	for _, s := range p.Steps {
		if s.State == Planned && held(s) {
			left[s.Kind] = true
		}
	}
	for _, k := range []Kind{Deallocate, MarkDown, EncryptDataDisk, Start, ClearMark} {
		if left[k] {
			left[MarkDeallocation], left[Deallocate] = true, true
		}
	}
	has := map[Kind]bool{}
	for _, s := range p.Steps {
		has[s.Kind] = has[s.Kind] || s.State == Planned
	}
	for _, s := range p.Steps {
		if s.State != Planned {
			continue
		}
		if held(s) || left[s.Kind] && chainHead[s.Kind] ||
			slices.ContainsFunc(needsBefore[s.Kind], func(k Kind) bool { return left[k] && has[k] }) {
			left[s.Kind] = true
			continue
		}
		return s, true
	}
	return Step{}, false
}

// chainHead are the kinds that begin the taking down of a VM.
var chainHead = map[Kind]bool{MarkDeallocation: true, Deallocate: true}

// needsBefore names the kinds that, where the same plan has them planned, must
// have been done before. A data disk that fails doesn't hold back the start.
var needsBefore = map[Kind][]Kind{
	Deallocate:        {MarkDeallocation},
	MarkDown:          {Deallocate},
	EncryptDataDisk:   {Deallocate, MarkDown},
	Start:             {Deallocate},
	ClearMark:         {Deallocate, Start},
	EnsureDES:         {EnsureKey},
	GrantDES:          {EnsureKey, EnsureDES},
	GrantOrchestrator: {EnsureKey},
}
