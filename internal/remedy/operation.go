package remedy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// OperationSchema names the format of an operation.
const OperationSchema = "cvmguard.dev/operation/v1"

// OperationKind is what an operation is for.
type OperationKind string

// The kinds.
const (
	RotateKeyOperation OperationKind = "rotate-key"
	RecreateOperation  OperationKind = "recreate-vm"
	UndoOperation      OperationKind = "undo"
)

// Operation is a plan of more than one step that nobody carries out before a
// person has approved it by its hash: the rotation of a key, the re-creation of a
// VM, the undoing of a step. It is made once, from what was read then, and never
// changed: blob plans/<hash>.json holds its bytes, and the hash is their SHA-256.
// The loop takes its steps in order, each only after the one before is done, with
// the intent recorded before and the outcome after.
type Operation struct {
	Schema       string        `json:"schema"`
	Kind         OperationKind `json:"kind"`
	Object       string        `json:"object"`       // the disk encryption set, VM or record that it is about
	Subscription string        `json:"subscription"` // lower case
	Made         time.Time     `json:"made"`
	MadeBy       string        `json:"madeBy,omitempty"`
	Policy       string        `json:"policy"` // hash of the policy that it was made under
	Why          string        `json:"why"`    // one sentence
	Steps        []Step        `json:"steps"`  // all Planned, in order
	// VMs are those that are taken down, with what it costs them.
	VMs   []OperationVM `json:"vms,omitempty"`
	Lost  []string      `json:"lost,omitempty"`  // what doesn't come through, sentences
	Notes []string      `json:"notes,omitempty"` // what a person must know before approving
	Back  []string      `json:"back,omitempty"`  // how to go back, sentences and commands
}

// OperationVM is a VM that an operation takes down.
type OperationVM struct {
	ID       cvm.VMID      `json:"id"`
	Running  bool          `json:"running"`  // it ran when the plan was made, and is started again
	Downtime time.Duration `json:"downtime"` // estimated, nanoseconds
	Note     string        `json:"note,omitempty"`
}

// argStep is the argument that numbers an operation's steps, from 1.
const argStep = "step"

// Number is the step's place in its operation, from 1; 0 for a step of no
// operation.
func (s Step) Number() int {
	n, err := strconv.Atoi(s.Args[argStep])
	if err != nil || n < 1 {
		return 0
	}
	return n
}

// number makes steps those of an operation: planned, and numbered in order. No two
// of them may have the same kind and target, by which the loop tells steps apart.
func number(steps []Step) []Step {
	for i := range steps {
		args := map[string]string{argStep: strconv.Itoa(i + 1)}
		maps.Copy(args, steps[i].Args)
		steps[i].Args, steps[i].State = args, Planned
		if !steps[i].Kind.Changes() {
			steps[i].Undo = "Nothing: it only reads."
		}
	}
	return steps
}

// Standing is how far an operation has come and what people said of it.
type Standing struct {
	Approved, Paused, Stopped bool
	// Void: it was refused for good, and ends as a stopped one does.
	Void bool
	Done func(n int) bool // the n-th step, from 1
	Sent func(Step) bool  // a call of the step was sent, as far as is known
}

// Plan is what may be done about an operation now, by the document in force: what
// is done says so, the first of the others is planned if it is approved and not
// paused, the rest is blocked. The start of VMs doesn't wait for the start of
// others, which may fail for want of capacity. Of a stopped operation nothing is
// left but to start the VMs that it took down.
func (op Operation) Plan(st Standing, d *policy.Document) Plan {
	over := "the operation was stopped"
	if st.Void {
		st.Stopped, over = true, "the operation was refused for good"
	}
	p := Plan{Mode: d.Mode(), Steps: []Step{}}
	before := "" // what the present step comes after, "" for nothing
	for _, s := range op.Steps {
		done := st.Done(s.Number())
		s.State, s.Why = Blocked, ""
		switch {
		case done:
			s.State = Done
		case st.Stopped && (s.Kind != StartWave || !op.tookDown(s, st)):
			s.Why = over
		case st.Stopped:
			s.State = Planned
		case !st.Approved:
			s.Why = "it waits for a person's approval"
		case st.Paused:
			s.Why = "the operation is paused"
		case before != "":
			s.Why = "it comes after step " + before
		default:
			s.State = Planned
		}
		if !done && before == "" && s.Kind != StartWave {
			before = s.Args[argStep]
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

// tookDown says whether the operation deallocated a VM that a step starts.
func (op Operation) tookDown(start Step, st Standing) bool {
	vms := start.VMs()
	for _, s := range op.Steps {
		if s.Kind == DeallocateWave && (st.Done(s.Number()) || st.Sent(s)) &&
			slices.ContainsFunc(s.VMs(), func(id cvm.VMID) bool { return slices.Contains(vms, id) }) {
			return true
		}
	}
	return false
}

// Ended says whether nothing is left to do: all steps are done, or of a stopped
// operation those that start its VMs again.
func (op Operation) Ended(st Standing) bool {
	for _, s := range op.Steps {
		if st.Done(s.Number()) || (st.Stopped || st.Void) && (s.Kind != StartWave || !op.tookDown(s, st)) {
			continue
		}
		return false
	}
	return true
}

// VMs are those that a step of more than one VM is about.
func (s Step) VMs() []cvm.VMID {
	var out []cvm.VMID
	for id := range strings.SplitSeq(s.Args[argVMs], ",") {
		if id != "" {
			out = append(out, cvm.VMID(id))
		}
	}
	return out
}
