package azuresim

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// vmState is what a VM is beside its ARM body.
type vmState struct {
	power      string // running, deallocating, deallocated, starting, stopped
	generation string // V1, V2
	agentReady bool
	agent      string // version
	guest      Guest
	boots      int
	transition *operation // of SetTransition
}

func (x *exchange) getVM(p armPath) {
	if r := x.find(p, typeVM); r != nil {
		x.header.Set("ETag", str(r.body, "etag"))
		x.reply(http.StatusOK, x.shown(r))
		x.expandVM(r)
	}
}

// getScaleSetVM answers for an instance of a uniform scale set. Instances come
// into the world by PutResource alone, and are read alone.
func (x *exchange) getScaleSetVM(p armPath) {
	if r := x.find(p, typeVMSSVM); r != nil {
		x.header.Set("ETag", str(r.body, "etag"))
		x.reply(http.StatusOK, x.shown(r))
		x.expandVM(r)
	}
}

// expandVM adds what $expand asks for to the answer.
func (x *exchange) expandVM(r *resource) {
	switch e := x.query("$expand"); strings.ToLower(e) {
	case "":
	case "instanceview":
		b := x.shown(r)
		put(b, x.s.instanceView(r), "properties", "instanceView")
		x.reply(http.StatusOK, b)
	default:
		x.fail(http.StatusBadRequest, "InvalidParameter", "The value '"+e+"' of parameter $expand is invalid; the simulator knows instanceView.")
	}
}

func (x *exchange) getInstanceView(p armPath) {
	q := p
	q.tail = ""
	if r := x.find(q, typeVM); r != nil {
		x.reply(http.StatusOK, x.s.instanceView(r))
	}
}

// showVM adds to a VM's body what lives elsewhere: its extensions.
func (s *Sim) showVM(r *resource, b doc) {
	var ext []any
	for _, e := range s.all(typeExtension, r.key) {
		ext = append(ext, copyOf(e.body))
	}
	if len(ext) > 0 {
		b["resources"] = ext
	}
}

// frozen are the VM's properties that are fixed at creation, with the path of
// the property that the error names.
var frozen = []struct {
	path   []string
	target string
}{
	{[]string{"storageProfile", "osDisk", "managedDisk", "securityProfile"}, "osDisk.managedDisk.securityProfile"},
	{[]string{"storageProfile", "osDisk", "managedDisk", "id"}, "osDisk.managedDisk.id"},
	{[]string{"storageProfile", "osDisk", "name"}, "osDisk.name"},
	{[]string{"storageProfile", "imageReference", "publisher"}, "imageReference"},
	{[]string{"storageProfile", "imageReference", "offer"}, "imageReference"},
	{[]string{"storageProfile", "imageReference", "sku"}, "imageReference"},
	{[]string{"storageProfile", "imageReference", "id"}, "imageReference"},
	{[]string{"osProfile", "computerName"}, "osProfile.computerName"},
	{[]string{"osProfile", "adminUsername"}, "osProfile.adminUsername"},
}

// refuseChange answers for a property in patch that may not be changed on the
// VM as it stands. A property that patch leaves out, or gives as it is, passes.
func (x *exchange) refuseChange(r *resource, patch doc) bool {
	fixed := func(target string) bool {
		x.failTarget(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property '"+target+"' is not allowed.", target)
		return true
	}
	stop := func(what string) bool {
		x.fail(http.StatusConflict, "OperationNotAllowed", "'"+what+"' can be updated only when VM is in deallocated state")
		return true
	}
	props := r.props()
	if v, ok := at(patch, "location").(string); ok && region(v) != region(r.location()) {
		return fixed("location")
	}
	np, _ := patch["properties"].(doc)
	for _, f := range frozen {
		if differs(at(props, f.path...), at(np, f.path...)) {
			return fixed(f.target)
		}
	}
	stopped := r.vm.power == "deallocated"
	confidential := isConfidential(r.body)
	if v, ok := at(np, "securityProfile", "securityType").(string); ok {
		was := orElse(str(props, "securityProfile", "securityType"), "Standard")
		switch {
		case strings.EqualFold(v, was):
		case r.vm.generation == "V2" && strings.EqualFold(was, "Standard") && strings.EqualFold(v, "TrustedLaunch"):
			if !stopped {
				return stop("securityProfile.securityType")
			}
		default:
			return fixed("securityProfile.securityType")
		}
	}
	// Whether a confidential VM's UEFI settings can be changed is not known: our
	// choice is to refuse.
	if confidential && differs(at(props, "securityProfile", "uefiSettings"), at(np, "securityProfile", "uefiSettings")) {
		return fixed("securityProfile.uefiSettings")
	}
	if v, ok := at(np, "securityProfile", "encryptionAtHost").(bool); ok && v != yes(props, "securityProfile", "encryptionAtHost") && !stopped {
		return stop("securityProfile.encryptionAtHost")
	}
	if d, ok := at(np, "storageProfile", "osDisk", "managedDisk", "diskEncryptionSet").(doc); ok &&
		!same(str(d, "id"), str(props, "storageProfile", "osDisk", "managedDisk", "diskEncryptionSet", "id")) {
		if confidential {
			return fixed("osDisk.managedDisk.diskEncryptionSet")
		}
		if !stopped {
			return stop("osDisk.managedDisk.diskEncryptionSet")
		}
	}
	if v, ok := at(np, "hardwareProfile", "vmSize").(string); ok && !same(v, str(props, "hardwareProfile", "vmSize")) {
		sz, known := sizes[strings.ToLower(v)]
		if !known || confidential != (sz.tee != "") {
			x.failTarget(http.StatusBadRequest, "InvalidParameter", "The VM size '"+v+"' is not one that this VM can be resized to.", "vmSize")
			return true
		}
	}
	return false
}

// differs says whether a patch names a value that is not the present one. What
// the patch leaves out of an object is not compared.
func differs(now, want any) bool {
	switch w := want.(type) {
	case nil:
		return false
	case doc:
		for k, v := range w {
			if differs(at(now, k), v) {
				return true
			}
		}
		return false
	case string:
		n, ok := now.(string)
		return !ok || !same(n, w)
	default:
		return fmt.Sprint(now) != fmt.Sprint(want)
	}
}

func (x *exchange) patchVM(p armPath) {
	r := x.find(p, typeVM)
	if r == nil {
		return
	}
	patch, ok := x.decodeAs(&armcompute.VirtualMachineUpdate{})
	if !ok || x.stale(r) || x.held(r) || x.refuseChange(r, patch) {
		return
	}
	x.updateVM(r, patch, http.StatusOK)
}

// updateVM lays patch over the VM. The new values show at once, as in ARM's own
// answer; the operation's end makes the state Succeeded, or takes them back.
func (x *exchange) updateVM(r *resource, patch doc, status int) {
	before := copyOf(r.body)
	if tags, ok := patch["tags"]; ok { // the whole set, not a merge
		t, isSet := tags.(doc)
		if !isSet {
			t = doc{}
		}
		r.body["tags"] = t
	}
	if np, ok := patch["properties"].(doc); ok {
		delete(np, "provisioningState")
		delete(np, "instanceView")
		merge(r.props(), np)
	}
	if id, ok := patch["identity"].(doc); ok {
		x.s.setIdentity(r, id)
	}
	r.setState("Updating")
	r.touch()
	x.header.Set("ETag", str(r.body, "etag"))
	x.reply(status, x.shown(r))
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r,
		apply: func() *opError { r.setState("Succeeded"); return nil },
		undo: func() {
			r.body = before
			r.touch()
		},
	})
}

// setIdentity gives a resource the managed identity that a body asks for.
func (s *Sim) setIdentity(r *resource, want doc) {
	typ := orElse(str(want, "type"), "None")
	id := doc{"type": typ}
	if strings.Contains(typ, "SystemAssigned") {
		id["principalId"], id["tenantId"] = guid("identity", r.key), s.opt.Tenant
	}
	if ua, ok := want["userAssignedIdentities"].(doc); ok {
		out := doc{}
		for k := range ua {
			out[k] = doc{"principalId": guid("identity", k), "clientId": guid("client", k)}
		}
		id["userAssignedIdentities"] = out
	}
	r.body["identity"] = id
}

func (x *exchange) deleteVM(p armPath) {
	r := x.s.get(p.id(), typeVM)
	if r == nil {
		x.reply(http.StatusNoContent, nil)
		return
	}
	if x.held(r) || x.locked(r) {
		return
	}
	state, power := str(r.body, "properties", "provisioningState"), r.vm.power
	r.setState("Deleting")
	x.reply(http.StatusAccepted, nil)
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r,
		apply: func() *opError { x.s.deleteNow(r); return nil },
		undo:  func() { r.setState(state); r.vm.power = power },
	})
}

// deleteNow removes a VM, its extensions and run commands; disks go or stay by
// their deleteOption. Under Sim.mu.
func (s *Sim) deleteNow(r *resource) {
	for _, c := range s.all(typeRun, r.key) {
		if c.run != nil && c.run.cancel != nil {
			c.run.cancel()
		}
	}
	s.remove(r.key)
	s.releaseInterfaces(r)
	disks := append(list(r.props(), "storageProfile", "dataDisks"), toObject(at(r.props(), "storageProfile", "osDisk")))
	for _, d := range disks {
		disk := s.get(str(d, "managedDisk", "id"), typeDisk)
		switch {
		case disk == nil:
		case strings.EqualFold(str(d, "deleteOption"), "Delete"):
			s.remove(disk.key)
		default:
			delete(disk.body, "managedBy")
			disk.props()["diskState"] = "Unattached"
		}
	}
}

func toObject(v any) doc {
	d, _ := v.(doc)
	return d
}

func isConfidential(vm doc) bool {
	return strings.EqualFold(str(vm, "properties", "securityProfile", "securityType"), "ConfidentialVM")
}
