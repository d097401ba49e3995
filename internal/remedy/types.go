package remedy

import (
	"context"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// Kind of a step: a slug, append only.
type Kind string

// The step kinds. The first group acts on a VM and what is its alone, the second
// on shared objects, the last is advice that nobody but a person carries out.
const (
	CollectEvidence Kind = "collect-evidence"          // PUT runCommands/cvmguard-evidence
	InstallAttest   Kind = "install-guest-attestation" // PUT extensions/GuestAttestation
	EncryptTempDisk Kind = "encrypt-temp-disk"         // PUT extensions/AzureDiskEncryptionForLinux
	EncryptDataDisk Kind = "encrypt-data-disk"         // PATCH disk, VM deallocated
	Deallocate      Kind = "deallocate"
	Start           Kind = "start"
	Tag             Kind = "tag"        // PATCH VM tags: cvmguard-verdict
	Quarantine      Kind = "quarantine" // PATCH VM tags: cvmguard-quarantine

	// A deallocation of ours is framed by a tag, so that a turn that knows nothing
	// but the VM finds out that it has to start it again.
	MarkDeallocation Kind = "mark-deallocation"       // PATCH VM tags: TagDeallocated=MarkPending, before the deallocation
	MarkDown         Kind = "mark-deallocated"        // PATCH VM tags: TagDeallocated=MarkIsDown, once it is deallocated
	ClearMark        Kind = "clear-deallocation-mark" // PATCH VM tags: without TagDeallocated, once it runs again

	DisableAutoRotation Kind = "disable-des-auto-rotation" // PATCH DES
	ReplacePolicy       Kind = "replace-release-policy"    // PATCH key version, mutable policy only
	GrantDES            Kind = "grant-des-identity"
	GrantOrchestrator   Kind = "grant-orchestrator"
	EnsureKey           Kind = "ensure-key"
	EnsureDES           Kind = "ensure-disk-encryption-set"

	// The steps of operations, which a person approved. Of a rotation:
	CheckRotation  Kind = "check-rotation"  // reads once more all that the plan rests on; writes nothing
	DeallocateWave Kind = "deallocate-wave" // some VMs of a disk encryption set
	SetDESKey      Kind = "set-des-key"     // PATCH DES, all its VMs deallocated
	StartWave      Kind = "start-wave"      // some VMs that ran before

	// Of a re-creation, and of the way back from one:
	CheckRecreation  Kind = "check-recreation"  // reads once more all that the plan rests on; writes nothing
	KeepParts        Kind = "keep-parts"        // PATCH VM: disks and interfaces outlive it
	TakeDown         Kind = "take-down"         // deallocate the VM that is replaced
	DeleteVM         Kind = "delete-vm"         // DELETE VM, parts kept
	CreateVM         Kind = "create-vm"         // PUT VM
	RestoreExtension Kind = "restore-extension" // PUT extension on the new VM

	// What undoes a step of cvmguard's own.
	RestoreTag           Kind = "restore-tag"               // PATCH VM tags
	RestoreAutoRotation  Kind = "restore-des-auto-rotation" // PATCH DES
	RestoreReleasePolicy Kind = "restore-release-policy"    // PATCH key version

	Recreate     Kind = "recreate"      // needs-recreate: ready commands
	RotateKey    Kind = "rotate-key"    // needs-deallocation of all VMs on the DES
	RepairShared Kind = "repair-shared" // a shared object's own turn does it; Target names it
	AskPerson    Kind = "ask-person"    // needs-person: what to ask whom
)

// Kinds are all step kinds, in the order above.
func Kinds() []Kind {
	return []Kind{CollectEvidence, InstallAttest, EncryptTempDisk, EncryptDataDisk, Deallocate, Start, Tag, Quarantine,
		MarkDeallocation, MarkDown, ClearMark,
		DisableAutoRotation, ReplacePolicy, GrantDES, GrantOrchestrator, EnsureKey, EnsureDES,
		CheckRotation, DeallocateWave, SetDESKey, StartWave,
		CheckRecreation, KeepParts, TakeDown, DeleteVM, CreateVM, RestoreExtension,
		RestoreTag, RestoreAutoRotation, RestoreReleasePolicy,
		Recreate, RotateKey, RepairShared, AskPerson}
}

// Changes says whether a step of the kind changes anything, which the brakes count.
// The others look alone (evidence is collected by a run command of cvmguard's own,
// which leaves all else as it is) or are advice. A kind that isn't known changes
// something.
func (k Kind) Changes() bool {
	switch k {
	case CollectEvidence, CheckRotation, CheckRecreation, Recreate, RotateKey, RepairShared, AskPerson:
		return false
	}
	return true
}

// StepState is where a step stands.
type StepState string

// The states. A fresh plan has planned, advised and blocked steps only.
const (
	Planned StepState = "planned"
	Running StepState = "running"
	Done    StepState = "done"
	Failed  StepState = "failed"
	Blocked StepState = "blocked" // policy would allow it, a doubt forbids it: Why says which
	Advised StepState = "advised" // above the class that policy allows, or another object's
)

// Disturbs is whom a step disturbs.
type Disturbs string

// The degrees of disturbance.
const (
	DisturbsNone       Disturbs = "none"
	DisturbsRestart    Disturbs = "restart"
	DisturbsDeallocate Disturbs = "deallocate"
	DisturbsRecreate   Disturbs = "recreate"
)

// Step is one thing to do. Equal inputs give byte-equal steps: no times, no
// nonces, no ETags in it.
type Step struct {
	Kind     Kind              `json:"step"`
	Class    policy.Class      `json:"class"`
	State    StepState         `json:"state"`
	Target   string            `json:"target"` // ARM id, key URL or region id
	Rules    []string          `json:"rules,omitempty"`
	Reasons  []string          `json:"reasons,omitempty"`
	Does     string            `json:"does"`            // one sentence
	Needs    []string          `json:"needs,omitempty"` // preconditions, sentences
	Why      string            `json:"why,omitempty"`   // for blocked and advised
	Disturbs Disturbs          `json:"disturbs"`
	Undo     string            `json:"undo,omitempty"`
	Commands []string          `json:"commands,omitempty"` // ready `az` commands, for advice
	Args     map[string]string `json:"args,omitempty"`     // what apply needs beside Target
	// Before is what was read of what the step changes, by name: what an undo plan
	// puts back. A name with an empty value stands for "there was none".
	Before map[string]string `json:"before,omitempty"`
}

// Same says whether two steps are the same act on the same thing.
func (s Step) Same(t Step) bool { return s.Kind == t.Kind && s.Target == t.Target }

// Plan is all that apply may do, in order.
type Plan struct {
	Mode  string `json:"mode"` // observe or enforce
	Steps []Step `json:"steps"`
}

// Secrets is what a collect-evidence step needs and no record may hold.
type Secrets struct {
	Nonce      []byte // 32 bytes
	ToolURL    string // read SAS of tools/<sha256>
	ToolSHA    string // hex
	OutURL     string // create and append SAS of incoming/<random>
	Cause      string // plain parameter: the intent's record name, by which our own run command is known again
	VMUniqueID string
}

// Progress is what Look, Start and Poll answer.
type Progress struct {
	State      ProgressState
	Token      string        // resume token to store; "" while State is Underway means: look at the resource again
	RetryAfter time.Duration // how long to wait before the next Poll, 0 if the service named none
	Err        error         // why, when State is Ended with failure, or Refused
}

// ProgressState is where an act stands.
type ProgressState string

// The states of an act.
const (
	NotThere ProgressState = "not-there" // neither effect nor operation: may be sent
	Underway ProgressState = "underway"
	Effected ProgressState = "effected" // the effect was read on the resource
	Ended    ProgressState = "ended"    // ended with Err
	Refused  ProgressState = "refused"  // a precondition, read again just now, does not hold: don't send
)

// Applier carries out one step. Each method is short (no waiting for Azure) and
// safe to call again.
//
// Look reads the target afresh: is the effect there, is an operation under way,
// does the precondition still hold? For collect-evidence it compares the run
// command's plain parameter `cause` with sec.Cause.
// Start sends the one write. Poll asks the operation behind token; with an empty
// token it looks at the resource. When Poll sees the end it verifies the effect
// by reading the resource before it says Effected.
type Applier interface {
	Look(ctx context.Context, s Step, sec Secrets) (Progress, error)
	Start(ctx context.Context, s Step, sec Secrets) (Progress, error)
	Poll(ctx context.Context, s Step, token string, sec Secrets) (Progress, error)
}

// Azure is what the Applier needs of Azure: single writes that start and return
// at once, and the reads for preconditions. internal/azure implements it. Every
// Begin… returns Progress{Underway, Token} or {Effected} and errors of package
// fault (Conflict for a stale ETag or another operation, Denied with its action,
// Throttled with RetryAfter, Blocked for AllocationFailed, PropertyChangeNotAllowed …).
type Azure interface {
	VM(ctx context.Context, id cvm.VMID) (cvm.VM, error)
	Disk(ctx context.Context, id cvm.DiskID) (cvm.Disk, error)
	DES(ctx context.Context, id cvm.DESID) (cvm.DES, error)
	Key(ctx context.Context, id cvm.KeyID) (cvm.Key, error) // with or without version (newest)
	Vault(ctx context.Context, ref cvm.VaultRef) (cvm.Vault, error)
	Rights(ctx context.Context, q cvm.RightsQuery) (cvm.Rights, error)

	BeginTags(ctx context.Context, id cvm.VMID, etag string, tags map[string]string) (Progress, error) // the full new tag set, If-Match
	BeginExtension(ctx context.Context, id cvm.VMID, location, name string, ext ExtensionSpec) (Progress, error)
	BeginRunCommand(ctx context.Context, id cvm.VMID, location, name string, rc RunCommandSpec) (Progress, error)
	RunCommand(ctx context.Context, id cvm.VMID, name string) (RunCommandView, error) // $expand=instanceView; fault.NotFound
	BeginDeallocate(ctx context.Context, id cvm.VMID) (Progress, error)
	BeginStart(ctx context.Context, id cvm.VMID) (Progress, error)
	BeginDiskDES(ctx context.Context, id cvm.DiskID, des cvm.DESID, encryptionType string) (Progress, error)
	BeginDESAutoRotation(ctx context.Context, id cvm.DESID, on bool) (Progress, error)
	BeginCreateDES(ctx context.Context, id cvm.DESID, location string, key cvm.KeyID, sourceVault string, tags map[string]string) (Progress, error)
	CreateKey(ctx context.Context, vaultHost, name string, bits int, releasePolicyJSON string, immutable bool) (cvm.Key, error)
	UpdateKeyReleasePolicy(ctx context.Context, id cvm.KeyID, releasePolicyJSON string) error
	GrantKey(ctx context.Context, g cvm.Grant) error // RBAC at key scope, access policy or HSM local role, by the vault's model; idempotent

	PollOperation(ctx context.Context, token string) (Progress, error) // refuses a token whose URLs aren't the configured ARM endpoint's
}

// SizeReader is what an Azure may offer beside: whether a VM size can be had.
// Without it a deallocation is refused, for nobody could say that the VM will
// find a place again.
type SizeReader interface {
	// SizeOffered says whether the subscription may start a VM of that size in that
	// region and zones (Resource SKUs, restrictions heeded). It promises no
	// capacity: no call of Azure does.
	SizeOffered(ctx context.Context, subscription, location, size string, zones []string) (bool, error)
}

// ExtensionSpec is a VM extension to install.
type ExtensionSpec struct {
	Publisher, Type, Version      string
	AutoUpgradeMinor, AutoUpgrade bool
	Settings                      map[string]any
}

// RunCommandSpec is a managed Run Command to put.
type RunCommandSpec struct {
	Script         string
	TimeoutSeconds int
	Parameters     map[string]string // readable
	Protected      map[string]string // not returned by Azure
}

// RunCommandView is a managed Run Command as read with its instance view.
type RunCommandView struct {
	ProvisioningState string
	Parameters        map[string]string
	ExecutionState    string // Unknown, Pending, Running, Failed, Succeeded, TimedOut, Canceled
	ExitCode          int
	Output, Error     string // the last 4 KB each: untrusted
}
