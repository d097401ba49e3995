package remedy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// What Azure decides at creation only a new VM puts right. An operation of kind
// recreate-vm keeps the VM's name, network interfaces, data disks, tags,
// identities and place, and gives it a new OS disk from an image for confidential
// VMs. The old OS disk is kept, and so is the way back to it.

// RecreationOptions are what a person chooses.
type RecreationOptions struct {
	Image string    // publisher:offer:sku:version or an image's ARM id; "": by the VM's own
	Size  string    // "": its own if it is confidential, else one like it
	DES   cvm.DESID // "": the one that policy wants in the region
}

// RecreationInput is all that a re-creation is judged and planned by.
type RecreationInput struct {
	VM      cvm.VM
	Body    []byte // the VM as ARM shows it, with its extensions
	Verdict policy.Verdict
	OSDisk  cvm.Fact[cvm.Disk]
	Data    []cvm.Fact[cvm.Disk] // data disks, in the VM's order
	Options RecreationOptions
	// Path is the key path of the disk encryption set that the new VM is to have.
	Path    KeyPath
	Offered cvm.Fact[bool] // whether the new size is offered
	Around  Surroundings

	Policy *policy.Document
	Now    time.Time
	By     string
}

// Names of a re-creation's arguments and of what was before.
const (
	argVMUnique  = "vmId"    // ARM's unique id of the VM that is replaced
	argBody      = "body"    // the body to put, JSON
	argSource    = "source"  // the old OS disk, which a re-creation leaves behind
	argOldDisk   = "oldDisk" // the same, to which the way back leads
	argNeeds     = "needs"   // rights on what the VM to create names: "action scope", comma
	argLocation  = "location"
	argDigest    = "digest"    // of what the plan rests on
	argPrincipal = "principal" // of the old VM's own identity, "" if it has none
	BeforeBody   = "body"      // the body that brings the VM back on its old OS disk, JSON
	beforeVM     = "vmId"
)

// Doubts lists why the VM isn't to be re-created by an operation, one clause each.
func (in RecreationInput) Doubts() []string {
	out, _, _ := in.prepare()
	return out.list
}

func (in RecreationInput) prepare() (out doubts, c choice, b recreationBodies) {
	vm := in.VM
	out.when(in.Verdict.Value == policy.NotACVM, "policy doesn't want it to be a confidential VM")
	out.when(in.Verdict.Value != policy.NotACVM && !slices.ContainsFunc(in.Verdict.Findings, func(f policy.Finding) bool {
		return f.State == cvm.Fail && f.Class == policy.NeedsRecreate
	}), "nothing that a new VM would mend was found on it")
	out.when(vm.ScaleSet != "", "it belongs to the scale set %s: change the set's model and replace the instance", vm.ScaleSet)
	out.when(vm.OSDisk.Ephemeral, "its OS disk is ephemeral, so it can't be kept: there would be no way back")
	out.when(same(vm.OS, osWindows), "it runs Windows, whose administrator's password can't be read and so not be given to the new VM: make the new VM beside it by the commands of its advice %q, with a password of your own", Recreate)
	out.when(vm.OSDisk.ID == "", "its OS disk isn't a managed disk of its own")
	out.when(moving(vm.ProvisioningState), "it is being changed (%s)", vm.ProvisioningState)
	if d, ok := read(&out, in.OSDisk, "the OS disk"); ok {
		out.when(d.ManagedBy != "" && !same(d.ManagedBy, vm.ID), "its OS disk is attached to %s", d.ManagedBy)
	}
	for i, f := range in.Data {
		if d, ok := read(&out, f, fmt.Sprintf("data disk %d", i)); ok {
			out.when(d.ADE || d.ADETainted, "the data disk %s has Azure Disk Encryption, whose key the new VM doesn't get: decrypt it first", d.Name)
		}
	}
	c = in.choose(&out)
	out.when(c.des != "" && !strings.EqualFold(c.des.Subscription(), vm.ID.Subscription()), "the disk encryption set is in another subscription than the VM, which Azure doesn't take")
	b, err := in.bodies(c)
	if err != nil {
		out.when(true, "%s", err)
		return out, c, b
	}
	for _, why := range b.refused {
		out.when(true, "%s", why)
	}
	next := boot{vm: b.vm, des: in.Path.DES, key: in.Path.Key, vault: in.Path.Vault, rights: in.Path.Rights}
	out.list = append(out.list, next.doubts(in.Policy, in.Now)...)
	if d := in.Path.DES; d.Known {
		out.when(!strings.EqualFold(d.Value.Location, vm.Location), "the disk encryption set is in %s, the VM in %s", d.Value.Location, vm.Location)
	}
	offered, ok := read(&out, in.Offered, "whether the size is offered")
	in.Around.doubts(&out)
	out.when(ok && !offered, "the size %s isn't offered to the subscription in %s, zones %v", c.size, vm.Location, vm.Zones)
	return out, c, b
}

// PlanRecreation plans a VM's re-creation. It is pure. An error is fault.Blocked
// and lists every reason why no operation is made of it: what isn't known is one.
func PlanRecreation(in RecreationInput) (Operation, error) {
	const op = "planning the re-creation of"
	if err := in.Options.check(); err != nil {
		return Operation{}, err
	}
	out, c, b := in.prepare()
	if len(out.list) > 0 {
		return Operation{}, &fault.Error{Kind: fault.Blocked, Op: op, Object: string(in.VM.ID), Code: "recreation-in-doubt",
			Err: fmt.Errorf("%s", strings.Join(out.list, "; ")), Next: "mend what is named, then plan again"}
	}
	vm := in.VM
	o := Operation{Schema: OperationSchema, Kind: RecreateOperation, Object: string(vm.ID), Subscription: strings.ToLower(vm.ID.Subscription()),
		Made: in.Now.UTC().Truncate(time.Second), MadeBy: in.By, Policy: in.Policy.Hash,
		Why:   fmt.Sprintf("Makes %s anew as a confidential VM of size %s from %s, its OS disk under %s.", vm.Name, c.size, c.image, c.des.Name()),
		VMs:   []OperationVM{{ID: vm.ID, Running: vm.Power == powerRunning, Downtime: timeRecreate, Note: "a new VM: new vmId, new vTPM, new OS disk"}},
		Lost:  b.lost,
		Notes: slices.Concat(c.notes, recreationNotes(vm), b.notes),
	}
	rests := restsOn{argDES: string(c.des), argDigest: b.digest, argSize: c.size, argNeeds: b.needs}
	steps := []Step{
		{Kind: CheckRecreation, Target: string(vm.ID), Disturbs: DisturbsNone, Args: rests.and(argLocation, vm.Location),
			Does: "Reads once more all that the plan rests on: the VM as it was planned for, the disk encryption set, its key and rights, the size. Changes nothing."},
		{Kind: KeepParts, Target: string(vm.ID), Disturbs: DisturbsNone, Args: map[string]string{argDigest: b.digest, argBody: b.keep}, // the body is for the script, which compares first
			Does: "Sets the VM's OS disk, data disks and network interfaces to stay when the VM is deleted.", Undo: "Set their deleteOption back, if you want them deleted with the VM."},
		{Kind: TakeDown, Target: string(vm.ID), Disturbs: DisturbsDeallocate, Does: "Deallocates the VM.", Undo: azStart(vm.ID),
			Needs: []string{"All that the plan rests on is good, read just before."}, Args: rests.and(argSource, string(vm.OSDisk.ID), argPrincipal, vm.PrincipalID)},
		{Kind: DeleteVM, Target: string(vm.ID), Disturbs: DisturbsRecreate, Args: rests.and(argVMUnique, vm.UniqueID),
			Does: "Deletes the VM, not its disks and network interfaces.", Needs: []string{"It is deallocated.", "Its disks and network interfaces are set to stay.", "It is still the VM that the plan was made for.", "All that the plan rests on is good, read just before."},
			Undo: "Create the VM on its old OS disk: see how to go back."},
		{Kind: CreateVM, Target: string(vm.ID), Disturbs: DisturbsNone, Args: map[string]string{argBody: b.create, argVMUnique: vm.UniqueID},
			Does: fmt.Sprintf("Creates %s anew, confidential, with its old network interfaces and data disks.", vm.Name), Undo: "Create the VM on its old OS disk: see how to go back.",
			Before: map[string]string{BeforeBody: b.back, beforeVM: vm.UniqueID}},
	}
	for _, e := range b.extensions {
		steps = append(steps, e.step(vm))
	}
	for i := range steps {
		steps[i].Class = policy.NeedsRecreate
	}
	o.Steps = number(steps)
	o.Back = backTold(in, b)
	return o, nil
}

// restsOn are the arguments of the steps that read once more what the plan rests on.
type restsOn map[string]string

// and gives them with others beside, in pairs.
func (r restsOn) and(pairs ...string) map[string]string {
	out := maps.Clone(r)
	for i := 0; i+1 < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

// timeRecreate is by how much a VM's downtime is estimated. Azure promises nothing.
const timeRecreate = 15 * time.Minute

// argSize is the argument that names the new VM's size.
const argSize = "size"

func recreationNotes(vm cvm.VM) []string {
	notes := []string{
		"What lies on the old OS disk is not carried over: the new one is made from the image. The old disk is kept; nobody deletes it but you.",
		"Between the deletion and the creation the VM's name and interfaces are free. If Azure has no capacity for the new size, the operation stops there: go back as told, or choose another size.",
		"Its records go on under the same key; the verdict is of the new VM, by its new vmId.",
		"A public address that is given dynamically changes with the deallocation; a static one stays with its network interface, and so does membership in load balancers.",
	}
	if vm.Power != powerRunning {
		notes = append(notes, fmt.Sprintf("The VM is %s now; the new one runs once it is created.", orText(vm.Power, "not running")))
	}
	if cvm.SecurityOf(vm) == cvm.SecurityConfidential {
		notes = append(notes, "The way back attaches a confidential OS disk to a VM made anew. Nothing that Azure documents says that it can't; nothing promises that it boots.")
	}
	if len(vm.DataDisks) > 0 {
		notes = append(notes, fmt.Sprintf("%d data disks are attached to the new VM as they are; the file system table of the new OS must mount them.", len(vm.DataDisks)))
	}
	return notes
}

// backTold says how to go back.
func backTold(in RecreationInput, b recreationBodies) []string {
	id := in.VM.ID
	return []string{
		"Before the VM is deleted: stop the operation and start the VM: " + azStart(id),
		"After it: cvmguard recreate back --plan HASH makes a plan that deletes the new VM (its OS disk stays) and creates the old one on its old OS disk, with the same interfaces and data disks.",
		"By hand: " + az("vm", "delete", "--ids", string(id), "--yes") + ", then put this body to " + string(id) + " (az rest --method put): " + b.back,
	}
}

// snapshotName is that of the snapshot which a person may make of the old OS disk.
func snapshotName(disk cvm.DiskID) string { return fmt.Sprintf("%.60s-before-cvm", disk.Name()) }

// shortUnique tells a VM's life from another of the same name.
func shortUnique(vmID string) string {
	s := strings.ToLower(strings.ReplaceAll(vmID, "-", ""))
	return s[:min(len(s), 8)]
}

// PlanRecreationBack plans the way back from a re-creation: the new VM is deleted,
// its OS disk stays, and the old VM is created on its own. current is what stands
// at the VM's id now, absent if nothing does; oldDisk is the disk that OldOSDisk
// names.
func PlanRecreationBack(op Operation, current cvm.Fact[cvm.VM], currentBody []byte, oldDisk cvm.Fact[cvm.Disk], d *policy.Document, now time.Time, by string) (Operation, error) {
	const what = "planning the way back of"
	i := slices.IndexFunc(op.Steps, func(s Step) bool { return s.Kind == CreateVM && s.Before[BeforeBody] != "" })
	if op.Kind != RecreateOperation || i < 0 {
		return Operation{}, fault.New(fault.Invalid, what, op.Object, "it isn't a re-creation that can be gone back on; give the hash of one")
	}
	made, old, source := op.Steps[i], op.Steps[i].Before[beforeVM], OldOSDisk(op)
	o := Operation{Schema: OperationSchema, Kind: UndoOperation, Object: op.Object, Subscription: op.Subscription, Made: now.UTC().Truncate(time.Second), MadeBy: by,
		Policy: d.Hash, Why: "Brings " + cvm.VMID(op.Object).Name() + " back on the OS disk that it had before it was made anew.",
		Lost:  []string{"What was written to the new OS disk, which is kept and no longer used.", "The new VM's vTPM and identity."},
		Notes: []string{"The VM is then as it was, with the findings for which it was made anew."},
		Back:  []string{"Plan its re-creation again."}}
	unique := ""
	switch {
	case current.Absent:
	case !current.Known:
		return Operation{}, fault.New(fault.Blocked, what, op.Object, "what stands there now wasn't read (%s); give cvmguard the right, then plan again", current.Why.Code)
	case strings.EqualFold(current.Value.UniqueID, old):
		return Operation{}, fault.New(fault.Blocked, what, op.Object, "the VM is still the old one; start it if it is down: %s", azStart(current.Value.ID))
	case !oldDisk.Known || oldDisk.Value.ManagedBy != "":
		var out doubts
		if disk, ok := read(&out, oldDisk, "the old OS disk "+string(source)); ok {
			out.when(true, "the old OS disk %s is attached to %s", source, disk.ManagedBy)
		}
		return Operation{}, fault.New(fault.Blocked, what, op.Object, "%s: there is nothing to go back to; the new VM is left as it is", strings.Join(out.list, "; "))
	default:
		unique = current.Value.UniqueID
		rests, err := backRestsOn(op, made.Before[BeforeBody], currentBody)
		if err != nil {
			return Operation{}, fault.New(fault.Bug, what, op.Object, "%w", err)
		}
		o.VMs = []OperationVM{{ID: current.Value.ID, Running: current.Value.Power == powerRunning, Downtime: timeRecreate}}
		o.Steps = append(o.Steps,
			Step{Kind: CheckRecreation, Target: op.Object, Disturbs: DisturbsNone, Args: rests.and(),
				Does: "Reads once more all that the way back rests on: the new VM as it is now, the old OS disk, locks, rights, the old size, and the old VM's key path if it was confidential. Changes nothing."},
			Step{Kind: KeepParts, Target: op.Object, Disturbs: DisturbsNone, Args: map[string]string{argDigest: rests[argDigest]}, Does: "Sets the new VM's disks and network interfaces to stay when it is deleted."},
			Step{Kind: TakeDown, Target: op.Object, Disturbs: DisturbsDeallocate, Args: rests.and(), Does: "Deallocates the new VM.", Undo: azStart(current.Value.ID),
				Needs: []string{"All that the way back rests on is good, read just before."}},
			Step{Kind: DeleteVM, Target: op.Object, Disturbs: DisturbsRecreate, Args: rests.and(argVMUnique, unique), Does: "Deletes the new VM, not its disks and network interfaces.",
				Needs: []string{"The old OS disk is there, and attached to no VM.", "All that the way back rests on is good, read just before."}})
	}
	o.Steps = append(o.Steps, Step{Kind: CreateVM, Target: op.Object, Disturbs: DisturbsNone, Does: "Creates the VM on its old OS disk.",
		Args: map[string]string{argBody: made.Before[BeforeBody], argVMUnique: unique}})
	for i := range o.Steps {
		o.Steps[i].Class = policy.NeedsRecreate
		if o.Steps[i].Undo == "" {
			o.Steps[i].Undo = "Make the VM anew once more: plan its re-creation again."
		}
	}
	o.Steps = number(o.Steps)
	return o, nil
}

// backRestsOn is what the way back rests on: body is what creates the old VM,
// current what stands there now.
func backRestsOn(op Operation, body string, current []byte) (restsOn, error) {
	var old object
	if err := json.Unmarshal([]byte(body), &old); err != nil {
		return nil, fmt.Errorf("the old VM's body can't be read: %w", err)
	}
	vm, err := shownAs(cvm.VMID(op.Object), old)
	if err != nil {
		return nil, err
	}
	digest, err := carriedDigest(current)
	if err != nil {
		return nil, err
	}
	r := restsOn{argDigest: digest, argSize: vm.Size, argNeeds: needsOf(old), argOldDisk: string(OldOSDisk(op))}
	if cvm.SecurityOf(vm) == cvm.SecurityConfidential {
		r[argDES] = string(vm.OSDisk.SecureDES)
	}
	return r, nil
}

// OldOSDisk is the OS disk that a re-creation leaves behind, "" if the operation is
// none.
func OldOSDisk(op Operation) cvm.DiskID {
	for _, s := range op.Steps {
		if s.Kind == TakeDown {
			return cvm.DiskID(s.Args[argSource])
		}
	}
	return ""
}

// canonical gives a JSON value's one spelling: members in order, no white space.
func canonical(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("writing a VM's body: %w", err)
	}
	return string(b), nil
}
