package azuresim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// runState is what a managed Run Command is beside its ARM body.
type runState struct {
	digest string // of the request, secrets included: an identical PUT does not run again
	view   doc    // instanceView
	cancel context.CancelFunc
}

const outputLimit = 4 << 10 // Azure shows the last 4 KiB of output and of error

func (x *exchange) getRunCommand(p armPath) {
	if x.vmOfChild(p) == nil {
		return
	}
	r := x.find(p, typeRun)
	if r == nil {
		return
	}
	b := copyOf(r.body)
	if strings.EqualFold(x.query("$expand"), "instanceView") {
		put(b, copyOf(r.run.view), "properties", "instanceView")
	}
	x.reply(http.StatusOK, b)
}

// command is what a run command's body asks to be done.
type command struct {
	script  string
	env     map[string]string
	timeout time.Duration
	async   bool
	strict  bool // treatFailureAsDeploymentFailure
}

func (x *exchange) putRunCommand(p armPath) {
	vm := x.vmOfChild(p)
	if vm == nil {
		return
	}
	body, ok := x.decodeAs(&armcompute.VirtualMachineRunCommand{})
	if !ok {
		return
	}
	cmd, why := commandOf(body)
	if why != "" {
		x.fail(http.StatusBadRequest, "InvalidParameter", why)
		return
	}
	if x.held(vm) || x.needsRunning(vm) {
		return
	}
	digest, err := digestOf(body)
	if err != nil {
		x.fail(http.StatusBadRequest, "InvalidRequestContent", err.Error())
		return
	}
	old := x.s.get(p.id(), typeRun)
	if old != nil && x.held(old) {
		return
	}
	if old != nil && old.run.digest == digest && str(old.body, "properties", "provisioningState") == "Succeeded" {
		x.reply(http.StatusOK, copyOf(old.body))
		x.begin(&operation{target: old.id, loc: vm.location(), apply: func() *opError { return nil }})
		return
	}
	for _, secret := range []string{"protectedParameters", "runAsPassword"} {
		drop(body, "properties", secret)
	}
	body["location"] = vm.location()
	r := x.s.add(vm.id+"/runCommands/"+p.name(), typeRun, body)
	r.run = &runState{digest: digest, view: doc{"executionState": "Pending", "executionMessage": "", "exitCode": 0, "output": "", "error": ""}}
	status := http.StatusCreated
	r.setState("Creating")
	if old != nil {
		status = http.StatusOK
		r.setState("Updating")
	}
	x.reply(status, copyOf(r.body))
	op := &operation{target: r.id, loc: vm.location(), lock: r, create: old == nil, manual: true, apply: func() *opError { return nil }}
	op.apply = func() *opError {
		r.setState("Succeeded")
		if cmd.strict && str(r.run.view, "executionState") != "Succeeded" && !cmd.async {
			return &opError{"VMRunCommandScriptFailed", "The script of run command '" + r.name + "' did not succeed."}
		}
		return nil
	}
	op.undo = func() { r.setState("Failed") }
	x.begin(op)
	x.s.start(vm, r, op, cmd)
}

// start runs a command in the VM's guest. Under Sim.mu; the guest runs without.
func (s *Sim) start(vm, r *resource, op *operation, cmd command) {
	if s.closed {
		return
	}
	least := s.durationOf(op.action)
	if op.fault != nil && op.fault.When == Operation { // nothing is to be done
		s.after(least, op)
		return
	}
	if !vm.vm.agentReady {
		op.apply = func() *opError {
			return &opError{"VMExtensionProvisioningTimeout", "Provisioning of run command '" + r.name + "' timed out: the VM agent does not report."}
		}
		r.run.view["executionState"] = "Unknown"
		s.after(least, op)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, cmd.timeout)
	r.run.cancel = cancel
	r.run.view["executionState"], r.run.view["startTime"] = "Running", stamp(s.now())
	if cmd.async {
		s.finish(op)
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer cancel()
		begun := time.Now()
		exit, stdout, stderr := 127, "", "no guest was given to this VM"
		if g := s.guestOf(vm); g != nil {
			exit, stdout, stderr = g.Run(ctx, cmd.env, cmd.script)
		}
		state := "Succeeded"
		if exit != 0 {
			state = "Failed"
		}
		// The platform is not quicker than the knob says, however quick the guest.
		if wait := least - time.Since(begun); wait > 0 && ctx.Err() == nil {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
		switch ctx.Err() {
		case context.DeadlineExceeded:
			state = "TimedOut"
		case context.Canceled:
			state = "Canceled"
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed || s.resources[r.key] != r {
			return
		}
		v := r.run.view
		v["executionState"], v["exitCode"], v["endTime"] = state, exit, stamp(s.now())
		v["output"], v["error"] = tail(stdout), tail(stderr)
		s.finish(op)
	}()
}

func tail(s string) string {
	if len(s) > outputLimit {
		return s[len(s)-outputLimit:]
	}
	return s
}

// commandOf reads a run command's body; why is what is wrong with it.
func commandOf(body doc) (c command, why string) {
	p, _ := body["properties"].(doc)
	if str(body, "location") == "" {
		return c, "The location property is required for this definition."
	}
	sources := 0
	for _, k := range []string{"script", "scriptUri", "commandId"} {
		if str(p, "source", k) != "" {
			sources++
		}
	}
	c.script = str(p, "source", "script")
	switch {
	case sources != 1:
		return c, "Exactly one of 'source.script', 'source.scriptUri' and 'source.commandId' must be given."
	case c.script == "":
		return c, "The simulator's guests run 'source.script' only."
	}
	c.env = map[string]string{}
	for _, set := range []string{"parameters", "protectedParameters"} {
		for _, e := range list(p, set) {
			if str(e, "name") == "" {
				return c, "A member of '" + set + "' has no name: the simulator's guests take named parameters only."
			}
			c.env[str(e, "name")] = str(e, "value")
		}
	}
	c.timeout = 90 * time.Minute
	if n, ok := at(p, "timeoutInSeconds").(float64); ok && n > 0 {
		c.timeout = time.Duration(n * float64(time.Second))
	}
	c.async, c.strict = yes(p, "asyncExecution"), yes(p, "treatFailureAsDeploymentFailure")
	return c, ""
}

func digestOf(body doc) (string, error) {
	b, err := json.Marshal(body) // members sorted
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:]), nil
}
