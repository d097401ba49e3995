package remedy

import (
	"time"

	"cvmguard/internal/cvm"
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
