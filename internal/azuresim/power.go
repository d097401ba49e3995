package azuresim

import (
	"net/http"
	"strings"
)

func (p armPath) withoutTail() armPath {
	p.tail = ""
	return p
}

func (x *exchange) deallocateVM(p armPath) {
	r := x.find(p.withoutTail(), typeVM)
	if r == nil || x.held(r) {
		return
	}
	if at(r.props(), "storageProfile", "osDisk", "diffDiskSettings") != nil {
		x.fail(http.StatusConflict, "OperationNotAllowed", "Operation 'deallocate' is not supported for VMs or VM Scale Set instances using an ephemeral OS disk.")
		return
	}
	x.power(r, "deallocating", func() *opError {
		r.vm.power, r.vm.agentReady = "deallocated", false
		x.s.diskStates(r, "Reserved")
		return nil
	})
}

func (x *exchange) startVM(p armPath) {
	r := x.find(p.withoutTail(), typeVM)
	if r == nil || x.held(r) {
		return
	}
	if r.vm.power == "running" {
		x.power(r, "running", func() *opError { return nil })
		return
	}
	x.power(r, "starting", func() *opError {
		err := x.s.boot(r)
		if err == nil {
			r.vm.agentReady = true
		}
		return err
	})
}

func (x *exchange) restartVM(p armPath) {
	r := x.find(p.withoutTail(), typeVM)
	if r == nil || x.held(r) {
		return
	}
	if r.vm.power != "running" {
		x.fail(http.StatusConflict, "OperationNotAllowed", "The VM is not running (it is "+r.vm.power+"), so it cannot be restarted.")
		return
	}
	x.power(r, "running", func() *opError { return x.s.boot(r) })
}

// power begins an operation on a VM's power state: 202 without a body.
func (x *exchange) power(r *resource, meanwhile string, apply func() *opError) {
	before, state := r.vm.power, str(r.body, "properties", "provisioningState")
	r.vm.power = meanwhile
	r.setState("Updating")
	x.reply(http.StatusAccepted, nil)
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r,
		apply: func() *opError {
			err := apply()
			r.setState("Succeeded")
			return err
		},
		undo: func() {
			r.vm.power = before
			if r.setState("Failed"); state == "Failed" {
				r.setState(state)
			}
		},
	})
}

// boot lets a VM run: where there is capacity and, for a confidential OS disk
// under a customer key, where that key can be had. The codes for a key that
// cannot be released are not known: ours are KeyVaultAccessForbidden. An expired
// key lets the VM boot, by Key Vault's own rule that unwrap and release go on
// working. Under Sim.mu.
func (s *Sim) boot(r *resource) *opError {
	size := str(r.body, "properties", "hardwareProfile", "vmSize")
	if code := s.exhausted[fold(size)+"@"+region(r.location())]; code != "" {
		return &opError{code, "Allocation failed. We do not have sufficient capacity for the requested VM size in this region."}
	}
	if des := str(r.body, "properties", "storageProfile", "osDisk", "managedDisk", "securityProfile", "diskEncryptionSet", "id"); des != "" {
		if why := s.keyUnusable(des); why != "" {
			return &opError{"KeyVaultAccessForbidden", "The VM cannot boot: " + why}
		}
	}
	r.vm.power = "running"
	r.vm.boots++
	s.diskStates(r, "Attached")
	if b, ok := r.vm.guest.(Booter); ok {
		b.Boot()
	}
	return nil
}

// keyUnusable says why a VM cannot get the key behind a disk encryption set.
func (s *Sim) keyUnusable(des string) string {
	set := s.get(des, typeDES)
	if set == nil {
		return "the disk encryption set " + des + " is gone"
	}
	url := str(set.body, "properties", "activeKey", "keyUrl")
	v, k := s.keyByURL(url)
	switch {
	case k == nil:
		return "the key " + url + " was not found"
	case !yes(k.body, "attributes", "enabled"):
		return "the key " + url + " is disabled"
	}
	identity := str(set.body, "identity", "principalId")
	if why := v.lacks(s, identity, k.name, "get", "wrapKey", "unwrapKey"); why != "" {
		return "the disk encryption set's identity lacks " + why + " on the key"
	}
	orchestrator := s.principals[OrchestratorPrincipal].ObjectID
	if why := v.lacks(s, orchestrator, k.name, "release"); why != "" {
		return "the Confidential VM Orchestrator lacks " + why + " on the key"
	}
	return ""
}

func (s *Sim) diskStates(r *resource, state string) {
	ids := []string{str(r.props(), "storageProfile", "osDisk", "managedDisk", "id")}
	for _, d := range list(r.props(), "storageProfile", "dataDisks") {
		ids = append(ids, str(d, "managedDisk", "id"))
	}
	for _, id := range ids {
		if d := s.get(id, typeDisk); d != nil {
			d.props()["diskState"] = state
		}
	}
}

const agentVersion = "2.9.1.1"

// instanceView is what $expand=instanceView shows. A deallocated VM has no
// agent in it. Under Sim.mu.
func (s *Sim) instanceView(r *resource) doc {
	at1 := s.now().Format("2006-01-02T15:04:05-07:00")
	status := func(code, text string) doc {
		return doc{"code": code, "level": "Info", "displayStatus": text, "time": at1}
	}
	v := doc{"hyperVGeneration": r.vm.generation}
	var disks []any
	if n := str(r.props(), "storageProfile", "osDisk", "name"); n != "" {
		disks = append(disks, doc{"name": n, "statuses": []any{status("ProvisioningState/succeeded", "Provisioning succeeded")}})
	}
	for _, d := range list(r.props(), "storageProfile", "dataDisks") {
		disks = append(disks, doc{"name": str(d, "name"), "statuses": []any{status("ProvisioningState/succeeded", "Provisioning succeeded")}})
	}
	v["disks"] = disks
	state := strings.ToLower(str(r.body, "properties", "provisioningState"))
	v["statuses"] = []any{
		status("ProvisioningState/"+state, "Provisioning "+state),
		doc{"code": "PowerState/" + r.vm.power, "level": "Info", "displayStatus": "VM " + r.vm.power},
	}
	if r.vm.power != "running" {
		return v
	}
	v["computerName"], v["osName"], v["osVersion"] = orElse(str(r.props(), "osProfile", "computerName"), r.name), "ubuntu", "22.04"
	agent := doc{"vmAgentVersion": r.vm.agent, "statuses": []any{
		doc{"code": "ProvisioningState/succeeded", "level": "Info", "displayStatus": "Ready", "message": "Guest Agent is running", "time": at1},
	}}
	if !r.vm.agentReady {
		agent = doc{"vmAgentVersion": "Unknown", "statuses": []any{
			doc{"code": "ProvisioningState/Unavailable", "level": "Warning", "displayStatus": "Not Ready", "message": "VM status blob is found but not yet populated.", "time": at1},
		}}
	}
	var handlers, exts []any
	for _, e := range s.all(typeExtension, r.key) {
		typ := str(e.body, "properties", "publisher") + "." + str(e.body, "properties", "type")
		version := str(e.body, "properties", "typeHandlerVersion") + ".0.0"
		code, text, ready := "ProvisioningState/succeeded", "Provisioning succeeded", "Ready"
		switch st := str(e.body, "properties", "provisioningState"); st {
		case "Succeeded":
		case "Failed":
			code, text, ready = "ProvisioningState/failed/1", "Provisioning failed", "Not Ready"
		default:
			code, text, ready = "ProvisioningState/transitioning", "Transitioning", "Installing"
		}
		handlers = append(handlers, doc{"type": typ, "typeHandlerVersion": version, "status": doc{"code": code, "level": "Info", "displayStatus": ready}})
		exts = append(exts, doc{"name": e.name, "type": typ, "typeHandlerVersion": version, "statuses": []any{
			doc{"code": code, "level": "Info", "displayStatus": text, "message": ""},
		}})
	}
	if r.vm.agentReady && handlers != nil {
		agent["extensionHandlers"], v["extensions"] = handlers, exts
	}
	v["vmAgent"] = agent
	return v
}
