package remedy

import (
	"strings"
	"testing"

	"cvmguard/internal/fault"
)

// undoOf is the plan that takes a step back.
func undoOf(t *testing.T, s Step) (Operation, error) {
	t.Helper()
	return PlanUndo(UndoInput{Record: "chain/00000007", Object: string(vmID), Subscription: "00000000-0000-0000-0000-000000000001", Step: s,
		Key: string(s.Kind) + " " + strings.ToLower(s.Target), Policy: document(t, "enforce"), Now: testNow, By: "jane"})
}

// tagSetting is a step that sets a tag, as it was recorded.
func tagSetting(value, was string) Step {
	return Step{Kind: Tag, Target: string(vmID), Args: map[string]string{argTag: "cvmguard", argValue: value}, Before: map[string]string{beforeValue: was}}
}

func TestUndoOfATag(t *testing.T) {
	for name, c := range map[string]struct {
		was, have string
		gone      bool   // the tag isn't there any more
		want      string // the tag in the end, "" for none
		end       ProgressState
		writes    int
	}{
		"it wasn't there":              {was: "", have: "b", want: "", end: Effected, writes: 1},
		"it had another value":         {was: "a", have: "b", want: "a", end: Effected, writes: 1},
		"somebody else changed it":     {was: "a", have: "c", want: "c", end: Refused},
		"somebody else put it back":    {was: "a", have: "a", want: "a", end: Effected},
		"somebody else took it away":   {was: "a", gone: true, want: "", end: Refused},
		"taken away, it wasn't before": {was: "", gone: true, want: "", end: Effected},
	} {
		t.Run(name, func(t *testing.T) {
			op, err := undoOf(t, tagSetting("b", c.was))
			if err != nil {
				t.Fatal(err)
			}
			s := op.Steps[0]
			if key, on, ok := s.Undoes(); len(op.Steps) != 1 || !ok || key != "tag "+strings.ToLower(string(vmID)) || on != string(vmID) || s.Undo == "" || s.Number() != 1 {
				t.Fatalf("%+v", op.Steps)
			}
			for _, crash := range []bool{false, true} {
				w := newWorld()
				if !c.gone {
					w.vm.Tags["cvmguard"] = c.have
				}
				end := drive(t, w, w.applier(document(t, "enforce")), s, crash && c.writes > 0)
				if end.State != c.end || w.vm.Tags["cvmguard"] != c.want || w.writes["tags"] != c.writes || w.vm.Tags["owner"] != "me" {
					t.Errorf("crash %t: %s (%v), tags %v, %d writes", crash, end.State, end.Err, w.vm.Tags, w.writes["tags"])
				}
			}
		})
	}
}

func TestUndoOfAutoRotation(t *testing.T) {
	op, err := undoOf(t, Step{Kind: DisableAutoRotation, Target: string(desID), Before: map[string]string{beforeRotation: "true"}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	if end := drive(t, w, w.applier(document(t, "enforce")), op.Steps[0], false); end.State != Effected || !w.sets[desID].AutoRotation || w.writes["rotation"] != 1 {
		t.Errorf("%s (%v), %+v", end.State, end.Err, w.sets[desID])
	}
}

func TestUndoOfAReleasePolicy(t *testing.T) {
	was, now := `{"version":"1.0.0","anyOf":[]}`, `{"version":"1.0.0","anyOf":[{"authority":"https://x"}]}`
	op, err := undoOf(t, Step{Kind: ReplacePolicy, Target: string(keyV1), Args: map[string]string{argPolicy: now}, Before: map[string]string{beforePolicy: was}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		have      string
		immutable bool
		end       ProgressState
		writes    int
	}{
		"as it was left":        {now, false, Effected, 1},
		"the same, spaced out":  {strings.ReplaceAll(now, ",", " , "), false, Effected, 1},
		"put back already":      {was, false, Effected, 0},
		"changed since":         {`{"version":"1.0.0"}`, false, Refused, 0},
		"immutable by now":      {now, true, Refused, 0},
		"no JSON, changed":      {`{`, false, Refused, 0},
		"immutable, put back":   {was, true, Effected, 0},
		"not there any more":    {"", false, Refused, 0},
		"immutable and changed": {`{}`, true, Refused, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			k := w.keys[keyV1]
			k.Policy.Decoded, k.Policy.Immutable = c.have, c.immutable
			w.putKey(k)
			end := drive(t, w, w.applier(document(t, "enforce")), op.Steps[0], false)
			if end.State != c.end || w.writes["release-policy"] != c.writes {
				t.Errorf("%s (%v), %v", end.State, end.Err, w.writes)
			}
		})
	}
}

// What has no way back is refused with the reason and with what a person can do;
// so is a record that doesn't say what was before.
func TestNoUndo(t *testing.T) {
	for _, s := range []Step{
		{Kind: CollectEvidence}, {Kind: InstallAttest}, {Kind: EncryptTempDisk}, {Kind: EncryptDataDisk}, {Kind: EnsureKey}, {Kind: EnsureDES}, {Kind: GrantDES},
		{Kind: GrantOrchestrator}, {Kind: Deallocate}, {Kind: Start}, {Kind: CheckRotation}, {Kind: DeallocateWave}, {Kind: StartWave}, {Kind: RestoreTag},
		{Kind: Tag, Args: map[string]string{argTag: "cvmguard"}}, {Kind: Tag, Before: map[string]string{beforeValue: ""}}, {Kind: DisableAutoRotation}, {Kind: ReplacePolicy},
	} {
		s.Target, s.Undo = string(vmID), "az something"
		_, err := undoOf(t, s)
		if !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), "az something") {
			t.Errorf("%s: %v", s.Kind, err)
		}
	}
	if _, key, ok := (Step{Kind: SetDESKey, Target: string(desID), Before: map[string]string{BeforeKey: string(keyV1)}}).RotatedFrom(); !ok || key != keyV1 {
		t.Errorf("set-des-key goes back to %q, %t", key, ok)
	}
}
