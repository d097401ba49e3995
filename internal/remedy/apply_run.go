package remedy

import (
	"context"
	"encoding/base64"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// RunCommandName is the one name under which a VM's evidence is collected: a new
// collection overwrites the last, so the resources don't pile up on the VM.
const RunCommandName = "cvmguard-evidence"

// runCommandTimeout is in seconds. The run command is put with asyncExecution
// false, so that the operation behind the resume token ends when the script does
// and a poll of it tells the end. A collection takes seconds; the 300 leave room
// for a slow vTPM, for the collector's download and for a guest that is booting,
// and stay far under a nonce's life.
const runCommandTimeout = 300

// The script's parameters: on Linux each is an environment variable. The first
// two are readable by whoever may read the VM, the others are never returned.
const (
	paramCause   = "CAUSE"
	paramVMID    = "VM_ID"
	paramNonce   = "NONCE"
	paramToolURL = "TOOL_URL"
	paramOutURL  = "OUT_URL"
)

func (a *AzureApplier) lookRunCommand(ctx context.Context, s Step, sec Secrets) (Progress, error) {
	if sec.Cause == "" {
		return Progress{}, fault.New(fault.Bug, "looking for our run command on VM", s.Target, "no cause is given")
	}
	rc, err := a.Azure.RunCommand(ctx, vmOf(s), RunCommandName)
	switch {
	case err == nil && paramOf(rc.Parameters, paramCause) == sec.Cause:
		return runCommandProgress(s, rc), nil
	case err != nil && !fault.Is(err, fault.NotFound):
		return Progress{}, err
	}
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	if sec.VMUniqueID != "" && !same(vm.UniqueID, sec.VMUniqueID) {
		return refuse(s, "another VM has taken the name since: its unique id is %q", vm.UniqueID), nil
	}
	if moving(vm.ProvisioningState) {
		return inMotion(), nil
	}
	if why := notCollectable(vm); why != "" {
		return refuse(s, "%s", why), nil
	}
	return notThere(), nil
}

// runCommandProgress reads our own run command. What the script printed is the
// guest's text and may hold an URL with a signature: it is never passed on.
func runCommandProgress(s Step, rc RunCommandView) Progress {
	failed := func(format string, args ...any) Progress {
		e := fault.New(fault.Transient, "collecting evidence on VM", s.Target, format, args...)
		e.Next = "look at run command " + RunCommandName + " of the VM; it is tried again at the slow pace"
		return Progress{State: Ended, Err: e}
	}
	switch strings.ToLower(rc.ExecutionState) {
	case "succeeded":
		if rc.ExitCode != 0 {
			return failed("the script ended with exit code %d", rc.ExitCode)
		}
		return effected()
	case "failed":
		return failed("the script failed with exit code %d", rc.ExitCode)
	case "timedout":
		return failed("the script took longer than %d s", runCommandTimeout)
	case "canceled":
		return failed("the script was cancelled")
	}
	if same(rc.ProvisioningState, "Failed") || same(rc.ProvisioningState, "Canceled") {
		return failed("the platform could not run the script (%s)", rc.ProvisioningState)
	}
	return inMotion()
}

func (a *AzureApplier) startRunCommand(ctx context.Context, s Step, sec Secrets) (Progress, error) {
	switch {
	case a.Script == nil:
		return Progress{}, fault.New(fault.Bug, "collecting evidence on VM", s.Target, "the applier has no script")
	case sec.Cause == "" || len(sec.Nonce) == 0 || sec.ToolURL == "" || sec.ToolSHA == "" || sec.OutURL == "":
		return Progress{}, fault.New(fault.Bug, "collecting evidence on VM", s.Target, "cause, nonce, tool or output is missing")
	}
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	if sec.VMUniqueID != "" && !same(vm.UniqueID, sec.VMUniqueID) {
		return Progress{}, fault.New(fault.Blocked, "collecting evidence on VM", s.Target, "another VM has taken the name since")
	}
	return a.Azure.BeginRunCommand(ctx, vm.ID, vm.Location, RunCommandName, RunCommandSpec{
		Script:         a.Script(sec.ToolSHA),
		TimeoutSeconds: runCommandTimeout,
		Parameters:     map[string]string{paramCause: sec.Cause, paramVMID: vm.UniqueID},
		Protected: map[string]string{
			paramNonce:   base64.RawURLEncoding.EncodeToString(sec.Nonce),
			paramToolURL: sec.ToolURL,
			paramOutURL:  sec.OutURL,
		},
	})
}

// paramOf finds a parameter whatever its case: the service keeps the names as
// they were given, and nothing says that it always will.
func paramOf(params map[string]string, name string) string {
	for k, v := range params {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// notCollectable says why the collector can't be run in a VM, "" if it can.
func notCollectable(vm cvm.VM) string {
	if why := notReachable(vm); why != "" {
		return why
	}
	if !same(vm.OS, osLinux) {
		return "the collector runs on Linux; have the guest push its evidence"
	}
	return ""
}

// notReachable says why nothing can be done inside a VM, "" if it can.
func notReachable(vm cvm.VM) string {
	switch {
	case vm.Power == "":
		return "it wasn't read whether the VM runs"
	case vm.Power != powerRunning:
		return "the VM isn't running but " + vm.Power
	case vm.AgentReady != cvm.True:
		return "the VM agent isn't ready"
	}
	return ""
}
