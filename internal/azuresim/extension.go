package azuresim

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// vmOfChild finds the VM that a child's path is in; a child of an absent VM is
// ParentResourceNotFound, as in Azure.
func (x *exchange) vmOfChild(p armPath) *resource {
	r := x.s.get(p.parent(), typeVM)
	if r == nil {
		x.fail(http.StatusNotFound, "ParentResourceNotFound", "Failed to perform '"+strings.ToLower(x.r.Method)+
			"' on resource(s) of type 'virtualMachines/"+p.pairs[len(p.pairs)-1][0]+"', because the parent resource '"+p.parent()+"' could not be found.")
	}
	return r
}

func (x *exchange) listChildren(p armPath) {
	vm := x.vmOfChild(p)
	if vm == nil {
		return
	}
	typ := typeExtension
	if strings.EqualFold(p.tail, "runCommands") {
		typ = typeRun
	}
	var out []any
	for _, r := range x.s.all(typ, vm.key) {
		out = append(out, copyOf(r.body))
	}
	x.page(out)
}

// needsRunning answers 409 for what the guest agent has to do in a VM that is
// not up.
func (x *exchange) needsRunning(vm *resource) bool {
	if vm.vm.power == "running" {
		return false
	}
	x.fail(http.StatusConflict, "OperationNotAllowed", "Cannot modify extensions in the VM when the VM is not running.")
	return true
}

func (x *exchange) putExtension(p armPath) {
	vm := x.vmOfChild(p)
	if vm == nil {
		return
	}
	body, ok := x.decodeAs(&armcompute.VirtualMachineExtension{})
	if !ok {
		return
	}
	for _, need := range []string{"publisher", "type", "typeHandlerVersion"} {
		if str(body, "properties", need) == "" {
			x.fail(http.StatusBadRequest, "InvalidParameter", "Required parameter '"+need+"' is missing (null).")
			return
		}
	}
	if x.held(vm) || x.needsRunning(vm) {
		return
	}
	drop(body, "properties", "protectedSettings") // never read back
	body["location"] = vm.location()
	status := http.StatusOK
	old := x.s.get(p.id(), typeExtension)
	if old == nil {
		status = http.StatusCreated
	}
	r := x.s.add(vm.id+"/extensions/"+p.name(), typeExtension, body)
	if old != nil {
		r.setState("Updating")
	} else {
		r.setState("Creating")
	}
	x.reply(status, copyOf(r.body))
	x.begin(&operation{
		target: r.id, loc: vm.location(), lock: vm, create: old == nil,
		apply: func() *opError {
			if err := provisionError(vm, r); err != nil {
				return err
			}
			r.setState("Succeeded")
			return nil
		},
		undo: func() { r.setState("Failed") },
	})
}

// provisionError is why an extension's handler would not come up.
func provisionError(vm, ext *resource) *opError {
	if !vm.vm.agentReady {
		return &opError{"VMAgentStatusCommunicationError", "VM '" + vm.name + "' has not reported status for VM agent or extensions."}
	}
	p := ext.props()
	if strings.HasPrefix(strings.ToLower(str(p, "type")), "azurediskencryption") && isConfidential(vm.body) &&
		!strings.EqualFold(str(p, "settings", "VolumeType"), "Data") {
		return &opError{"VMExtensionProvisioningError", "The handler of '" + ext.name + "' failed: on a Confidential VM its VolumeType must be Data."}
	}
	return nil
}

func (x *exchange) deleteChild(p armPath) {
	vm := x.vmOfChild(p)
	if vm == nil {
		return
	}
	r := x.s.resources[fold(p.id())]
	if r == nil {
		x.reply(http.StatusNoContent, nil)
		return
	}
	if x.held(vm) {
		return
	}
	if r.run != nil && r.run.cancel != nil {
		r.run.cancel()
	}
	state := str(r.body, "properties", "provisioningState")
	r.setState("Deleting")
	x.reply(http.StatusAccepted, nil)
	x.begin(&operation{
		target: r.id, loc: vm.location(),
		apply: func() *opError { x.s.remove(r.key); return nil },
		undo:  func() { r.setState(state) },
	})
}
