package remedy

import (
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// Names of what was before, beside BeforeKey.
const (
	beforeValue     = "value"          // a tag's value, "" for no such tag
	beforeRotation  = "auto-rotation"  // true or false
	beforePolicy    = "release-policy" // the policy's JSON text
	beforeExtension = "extension"      // "" for none
	beforeGranted   = "granted"        // key operations, with commas between them
	beforeEncrypted = "encryption"     // a data disk's encryption type
)

// argUndoes is the argument of a reverse step that names, by the loop's key of it,
// the step that is undone; argUndoneOn is the object whose step that was.
const (
	argUndoes   = "undoes"
	argUndoneOn = "object"
	argWas      = "was" // what the undone step had brought about
)

// Undoes says which step a reverse step undoes: the loop's key of it, and the
// object whose own turns would take it again.
func (s Step) Undoes() (key, object string, ok bool) {
	return s.Args[argUndoes], s.Args[argUndoneOn], s.Args[argUndoes] != "" && s.Args[argUndoneOn] != ""
}

// UndoInput is what the undoing of a step is planned by.
type UndoInput struct {
	Record       string // the name of the step's record
	Object       string // whose step it was
	Subscription string // of the operation
	Step         Step   // as it was recorded
	Key          string // the loop's key of the step
	Policy       *policy.Document
	Now          time.Time
	By           string
}

// PlanUndo plans the step that takes back another one. It is pure. Where no way
// back exists the error is fault.Blocked and says why, and what a person can do.
// The undoing of set-des-key is a rotation, which PlanRotation plans.
func PlanUndo(in UndoInput) (Operation, error) {
	s := in.Step
	reverse := Step{Class: policy.InPlace, Target: s.Target, Disturbs: DisturbsNone,
		Undo: "Let cvmguard take the step " + string(s.Kind) + " again: cvmguard brakes resume --vm " + in.Object,
		Args: map[string]string{argUndoes: in.Key, argUndoneOn: in.Object}}
	var why string
	switch s.Kind {
	case Tag, Quarantine:
		why = undoTag(s, &reverse)
	case DisableAutoRotation:
		reverse.Kind, reverse.Does = RestoreAutoRotation, "Switches the set's automatic key rotation on again."
		reverse.Needs = []string{"The set isn't being changed."}
		reverse.Before = map[string]string{beforeRotation: "false"}
		if s.Before[beforeRotation] != "true" {
			why = "the record doesn't say that the rotation was on before"
		}
	case ReplacePolicy:
		why = undoPolicy(s, &reverse)
	default:
		why = noWayBack(s)
	}
	if why != "" {
		next := "put it right by hand"
		if s.Undo != "" {
			next = "by hand: " + s.Undo
		}
		return Operation{}, &fault.Error{Kind: fault.Blocked, Op: "planning the undoing of", Object: in.Record, Code: "no-undo", Err: fmt.Errorf("%s: %s", s.Kind, why), Next: next}
	}
	return Operation{Schema: OperationSchema, Kind: UndoOperation, Object: in.Record, Subscription: strings.ToLower(in.Subscription),
		Made: in.Now.UTC().Truncate(time.Second), MadeBy: in.By, Policy: in.Policy.Hash,
		Why:   fmt.Sprintf("Takes back the step %s on %s.", s.Kind, s.Target),
		Steps: number([]Step{reverse}),
		Notes: []string{"The step that is undone is not taken again by " + in.Object + "'s own turns until a person says so (cvmguard brakes resume). That holds from the approval on, before anything is written."},
		Back:  []string{reverse.Undo}}, nil
}

func undoTag(s Step, reverse *Step) (why string) {
	was, known := s.Before[beforeValue]
	if !known || s.Args[argTag] == "" || s.Args[argRemove] != "" {
		return "the record doesn't say what the tag was before"
	}
	reverse.Kind, reverse.Args[argTag], reverse.Args[argWas] = RestoreTag, s.Args[argTag], s.Args[argValue]
	reverse.Before = map[string]string{beforeValue: s.Args[argValue]}
	reverse.Needs = []string{"The tag is as cvmguard has set it.", "The VM's tags are as they were read (If-Match)."}
	if was == "" {
		reverse.Does, reverse.Args[argRemove] = fmt.Sprintf("Removes the tag %s, which wasn't there before.", s.Args[argTag]), "true"
		return ""
	}
	reverse.Does, reverse.Args[argValue] = fmt.Sprintf("Sets the tag %s to %q, as it was before.", s.Args[argTag], was), was
	return ""
}

func undoPolicy(s Step, reverse *Step) (why string) {
	was := s.Before[beforePolicy]
	if was == "" {
		return "the record doesn't hold the release policy that was there before"
	}
	reverse.Kind, reverse.Does = RestoreReleasePolicy, "Puts the release policy back that the key version had before."
	reverse.Needs = []string{"The release policy is mutable and as cvmguard has set it."}
	reverse.Args[argPolicy], reverse.Args[argWas] = was, s.Args[argPolicy]
	reverse.Before = map[string]string{beforePolicy: s.Args[argPolicy]}
	return ""
}

// noWayBack says why a kind of step isn't undone by a plan.
func noWayBack(s Step) string {
	switch s.Kind {
	case CollectEvidence:
		return "evidence was collected, which changed nothing but the run command's own resource"
	case InstallAttest:
		return "cvmguard holds no right to remove extensions"
	case EncryptTempDisk, EncryptDataDisk:
		return "Azure has no way back from it"
	case EnsureKey, EnsureDES:
		return "cvmguard never deletes keys or disk encryption sets: VMs may hang on them by now"
	case GrantDES, GrantOrchestrator:
		return "cvmguard holds no right to take rights away, and VMs may rest on them by now"
	case Deallocate, Start, MarkDeallocation, MarkDown, ClearMark:
		return "it is a part of a deallocation that cvmguard itself brings to its end"
	case CheckRotation, DeallocateWave, StartWave:
		return "it is a part of a rotation: stop the operation, or undo its step " + string(SetDESKey)
	case RestoreTag, RestoreAutoRotation, RestoreReleasePolicy:
		return "it was an undoing itself: let cvmguard take the step again (cvmguard brakes resume)"
	}
	return "no undo plan exists for this kind of step"
}

// RotatedFrom is the key that a set had before a step changed it, for the rotation
// that undoes it; ok is false for other steps.
func (s Step) RotatedFrom() (des cvm.DESID, key cvm.KeyID, ok bool) {
	if s.Kind != SetDESKey || s.Before[BeforeKey] == "" {
		return "", "", false
	}
	return cvm.DESID(s.Target), cvm.KeyID(s.Before[BeforeKey]), true
}
