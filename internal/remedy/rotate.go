package remedy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// Confidential VMs can't rotate their key in place: all VMs on a disk encryption
// set are deallocated, the set is pointed at the new key version, and the VMs are
// started again. If one of them isn't deallocated, none gets the new key.

// Bounds of a rotation's waves.
const (
	// MaxWave is the most VMs that one step takes down.
	MaxWave = 20
	// DefaultWave is how many a step takes down where nobody says.
	DefaultWave = 10
	// maxStartWave is the most VMs that are started at once: each start releases the
	// key, and a vault serves no more than about ten releases in ten seconds.
	maxStartWave = 10
)

// The times by which a VM's downtime is estimated. Azure promises none of them.
const (
	timeDeallocate = 3 * time.Minute // a wave, its VMs side by side
	timeSetKey     = 5 * time.Minute
	timeStart      = 3 * time.Minute // a wave
)

// Names of a rotation's arguments, and of what was before.
const (
	argVMs       = "vms"     // ARM ids, with commas between them
	argUsers     = "users"   // the VMs on the set when the plan was made: a digest, or of a wave the mark of each
	argFrom      = "from"    // the key URL that the set named then
	argSetOf     = "set"     // the disk encryption set that is rotated
	BeforeKey    = "key"     // the set's key URL
	beforeRotate = "rotated" // the set's lastKeyRotationTimestamp
)

// KeyPath is what a VM's start rests on beside the VM.
type KeyPath struct {
	DES    cvm.Fact[cvm.DES]
	Key    cvm.Fact[cvm.Key]
	Vault  cvm.Fact[cvm.Vault]
	Rights cvm.Fact[cvm.Rights]
}

// RotationInput is all that the rotation of a disk encryption set's key is judged
// and planned by, as ReadRotation reads it.
type RotationInput struct {
	DES   cvm.DES
	Key   cvm.KeyID // the version that it is to have
	Disks []cvm.Disk
	VMs   []cvm.VM // whose OS or data disks hang on it
	// New is the set's key path with the new key; of DES it has the set as it would
	// be then. Others are those of the other sets that the VMs' OS disks hang on, by
	// folded id.
	New    KeyPath
	Others map[string]KeyPath
	Old    cvm.Fact[cvm.Key]           // the version that it has
	Sizes  map[cvm.VMID]cvm.Fact[bool] // of VMs that run: whether their size is offered
	// Unread are clauses on what hangs on the set and couldn't be read.
	Unread []string

	Policy *policy.Document
	Wave   int // VMs a step, 0 for DefaultWave
	Now    time.Time
	By     string
}

// PlanRotation plans the rotation of a disk encryption set's key. It is pure. An
// error is fault.Blocked and lists every reason why no plan is made: what isn't
// known is one.
func PlanRotation(in RotationInput) (Operation, error) {
	const op = "planning the rotation of"
	if in.Wave < 0 || in.Wave > MaxWave {
		return Operation{}, fault.New(fault.Invalid, op, string(in.DES.ID), "waves of %d VMs: give 1 to %d", in.Wave, MaxWave)
	}
	if why := in.Doubts(); len(why) > 0 {
		return Operation{}, &fault.Error{Kind: fault.Blocked, Op: op, Object: string(in.DES.ID), Code: "rotation-in-doubt",
			Err: fmt.Errorf("%s", strings.Join(why, "; ")), Next: "mend what is named, then plan again"}
	}
	o := Operation{Schema: OperationSchema, Kind: RotateKeyOperation, Object: string(in.DES.ID), Subscription: strings.ToLower(in.DES.ID.Subscription()),
		Made: in.Now.UTC().Truncate(time.Second), MadeBy: in.By, Policy: in.Policy.Hash,
		Why: fmt.Sprintf("Moves the disk encryption set %s, with %d VMs on it, from key %s to %s.", in.DES.Name, len(in.VMs), in.DES.KeyURL, in.Key)}
	undo := "Rotate back to " + in.DES.KeyURL + ", as long as that version is enabled."
	if in.repeats() {
		o.Why = fmt.Sprintf("Repeats the rotation of the disk encryption set %s, with %d VMs on it, to key %s, which was left half done.", in.DES.Name, len(in.VMs), in.Key)
		undo = "Nothing: the set named the key before."
	}
	allocated, running := in.toTakeDown()
	waves := wavesOf(allocated, cmp.Or(in.Wave, DefaultWave))
	o.Steps = append(o.Steps, in.step(CheckRotation, Step{Target: string(in.DES.ID), Disturbs: DisturbsNone,
		Does: "Reads once more all that the plan rests on: the VMs on the set, the new key, rights and sizes. Changes nothing.",
		Args: map[string]string{argUsers: usersDigest(in.users())}}))
	var starts []Step
	var marks []string
	for _, id := range in.users() {
		marks = append(marks, userMark(id))
	}
	for i, w := range waves {
		o.Steps = append(o.Steps, in.step(DeallocateWave, Step{Target: string(w[0].ID), Disturbs: DisturbsDeallocate,
			Does:  fmt.Sprintf("Deallocates %d VMs (wave %d of %d): %s.", len(w), i+1, len(waves), names(w)),
			Needs: []string{"All that the VMs' next start rests on was read just before and is good.", "The VMs' sizes are offered."},
			Undo:  "Stop the operation: the VMs that it took down are started again.",
			Args:  map[string]string{argVMs: ids(w), argUsers: strings.Join(marks, ",")}}))
		for _, s := range wavesOf(filter(w, running), min(cmp.Or(in.Wave, DefaultWave), maxStartWave)) {
			starts = append(starts, in.step(StartWave, Step{Target: string(s[0].ID), Disturbs: DisturbsNone,
				Does:  fmt.Sprintf("Starts the %d VMs that ran before: %s.", len(s), names(s)),
				Needs: []string{"The region has room for their sizes."},
				Undo:  "Deallocate the VMs by hand.",
				Args:  map[string]string{argVMs: ids(s)}}))
		}
	}
	o.Steps = append(o.Steps, in.step(SetDESKey, Step{Target: string(in.DES.ID), Disturbs: DisturbsNone,
		Does:   fmt.Sprintf("Points the set at the key %s; its disks' keys are wrapped anew.", in.Key),
		Needs:  []string{"Every VM on the set is deallocated.", "The set still names the key that it named when the plan was made.", "The old version is enabled until all is done."},
		Undo:   undo,
		Before: map[string]string{BeforeKey: in.DES.KeyURL, beforeRotate: rotatedAt(in.DES)}}))
	o.Steps = number(append(o.Steps, starts...))
	in.tell(&o, waves, running)
	return o, nil
}

// step fills in what all steps of a rotation have in common.
func (in RotationInput) step(kind Kind, s Step) Step {
	s.Kind, s.Class = kind, policy.NeedsDeallocation
	if s.Args == nil {
		s.Args = map[string]string{}
	}
	s.Args[argSetOf], s.Args[argKey], s.Args[argFrom] = string(in.DES.ID), string(in.Key), in.DES.KeyURL
	return s
}

// users are the ids of all VMs on the set.
func (in RotationInput) users() []cvm.VMID {
	var out []cvm.VMID
	for _, vm := range in.VMs {
		out = append(out, vm.ID)
	}
	return out
}

// toTakeDown are the VMs that aren't deallocated, those that run first, each by
// name; running says which of them run.
func (in RotationInput) toTakeDown() (allocated []cvm.VM, running map[cvm.VMID]bool) {
	running = map[cvm.VMID]bool{}
	for _, vm := range in.VMs {
		if vm.Power != powerDeallocated {
			allocated = append(allocated, vm)
			running[vm.ID] = vm.Power == powerRunning
		}
	}
	slices.SortFunc(allocated, func(a, b cvm.VM) int {
		if running[a.ID] != running[b.ID] {
			if running[a.ID] {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID.Fold(), b.ID.Fold())
	})
	return allocated, running
}

// tell says what a person must know before approving.
func (in RotationInput) tell(o *Operation, waves [][]cvm.VM, running map[cvm.VMID]bool) {
	starts := 0
	for i, w := range waves {
		for j, s := range wavesOf(filter(w, running), min(cmp.Or(in.Wave, DefaultWave), maxStartWave)) {
			for _, vm := range s {
				down := time.Duration(len(waves)-i)*timeDeallocate + timeSetKey + time.Duration(starts+j+1)*timeStart
				o.VMs = append(o.VMs, OperationVM{ID: vm.ID, Running: true, Downtime: down})
			}
		}
		starts += len(wavesOf(filter(w, running), min(cmp.Or(in.Wave, DefaultWave), maxStartWave)))
		for _, vm := range w {
			if !running[vm.ID] {
				o.VMs = append(o.VMs, OperationVM{ID: vm.ID, Note: "it is " + vm.Power + " and stays down: it is deallocated and not started"})
			}
		}
	}
	if len(o.VMs) > 0 {
		o.Lost = append(o.Lost, "What lies on the VMs' temporary disks.", "Public addresses of the VMs that aren't static.")
		o.Notes = append(o.Notes,
			fmt.Sprintf("The downtimes are estimates: %s for each wave that is deallocated, %s for the key, %s for each wave that is started. A pause adds its own length.", timeDeallocate, timeSetKey, timeStart),
			"A deallocated VM gives up its place, and Azure promises no capacity for its next start. It costs nothing but its disks and addresses while it is down.")
	}
	o.Notes = append(o.Notes, "Keep the version "+in.DES.KeyURL+" enabled until all steps are done, and as long as there are backups or snapshots that were made under it.")
	if in.DES.PreviousKeys > 0 || same(in.DES.ProvisioningState, "Failed") {
		o.Notes = append(o.Notes, "A rotation of the set is half done. What is planned is the same update again, with all its VMs deallocated.")
	}
	if in.Old.Known && !in.Old.Value.Expires.IsZero() && !in.Old.Value.Expires.After(in.Now) {
		o.Notes = append(o.Notes, "The present version has expired. That doesn't keep its disks' keys from being unwrapped, but don't let it be disabled.")
	}
	if slices.ContainsFunc(in.Disks, func(d cvm.Disk) bool { return same(d.ConfidentialVersion, "V2") }) {
		o.Notes = append(o.Notes, "Some disks are of version V2, for which rotation without a stop is announced. The VMs are deallocated all the same.")
	}
	if other := len(in.VMs) - len(o.VMs); other > 0 {
		o.Notes = append(o.Notes, fmt.Sprintf("%d VMs on the set are deallocated already and stay so.", other))
	}
	o.Back = append(o.Back, "Before the key is changed: stop the operation, and the VMs that it took down are started again on the old key.")
	if !in.repeats() {
		o.Back = append(o.Back, "After it: plan a rotation to "+in.DES.KeyURL+" (cvmguard rotate plan --des "+string(in.DES.ID)+" --key "+in.DES.KeyURL+"), as long as that version is enabled.")
	}
	for _, vm := range o.VMs {
		if vm.Running {
			o.Back = append(o.Back, azStart(vm.ID))
		}
	}
}

// repeats says whether the set is to be pointed at the key that it names already.
func (in RotationInput) repeats() bool { return same(in.DES.KeyURL, in.Key) }

func rotatedAt(des cvm.DES) string {
	if des.LastRotation.IsZero() {
		return ""
	}
	return des.LastRotation.UTC().Format(time.RFC3339)
}

func wavesOf(vms []cvm.VM, size int) [][]cvm.VM {
	var out [][]cvm.VM
	for w := range slices.Chunk(vms, size) {
		out = append(out, w)
	}
	return out
}

func filter(vms []cvm.VM, want map[cvm.VMID]bool) []cvm.VM {
	var out []cvm.VM
	for _, vm := range vms {
		if want[vm.ID] {
			out = append(out, vm)
		}
	}
	return out
}

func ids(vms []cvm.VM) string {
	var out []string
	for _, vm := range vms {
		out = append(out, string(vm.ID))
	}
	return strings.Join(out, ",")
}

func names(vms []cvm.VM) string {
	var out []string
	for _, vm := range vms {
		out = append(out, vm.ID.Name())
	}
	return strings.Join(out, ", ")
}
