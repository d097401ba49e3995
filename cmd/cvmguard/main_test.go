package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cvmguard/internal/azuresim"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cvmguard": main})
}

// TestScripts runs the scripts in testdata. Beside testscript's own commands
// they have:
//
//	status N cvmguard ARGS…   runs it and wants the exit status N
//	azure [KNOB…]             starts a simulated Azure with the standard scene and
//	                          sets the environment for it; $SUB, $GROUP and a
//	                          variable for each VM ($VM_SNP_KV) name what is there
//	azure-fault WHAT          makes it fail: throttle, drop, deny-vm, no-token
//	azure-unwritten           wants that nothing was written to it
//	app [KEY]                 starts a function app with two VMs and sets
//	                          CVMGUARD_URL, $VM1, $VM2, $KEY1 and $KEY2
//	app-broken STATUS         starts one that answers with that status and no more
//	app-queue TEXT            wants a message with this text on the app's queue
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("COVERAGE", "") // scripts see nothing of the machine's own settings
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "azure": startAzure, "azure-fault": azureFault, "azure-unwritten": azureUnwritten,
			"app": startApp, "app-broken": startBrokenApp, "app-queue": appQueue,
		},
	})
}

func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
	for line := range strings.Lines(ts.ReadFile("stderr")) {
		if !strings.HasPrefix(line, "cvmguard: ") {
			ts.Fatalf("a line on stderr isn't ours: %q", line)
		}
	}
}

// simulated is each script's Azure.
type simulated struct{ sim *azuresim.Sim }

const simKey = "cvmguard's simulated Azure"

func startAzure(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: azure")
	}
	sim, err := azuresim.Start(azuresim.Options{PageSize: 5})
	ts.Check(err)
	ts.Defer(func() { ts.Check(sim.Close()) })
	scene, err := azuresim.BuildScene(sim, time.Now())
	ts.Check(err)
	sim.SetKnobs(func(k *azuresim.Knobs) { k.RetryAfter = time.Second })
	ca := ts.MkAbs("azure-ca.pem")
	ts.Check(os.WriteFile(ca, sim.CAPEM(), 0o600))
	ts.Setenv("CVMGUARD_DEV_AZURE", sim.Addr())
	ts.Setenv("CVMGUARD_DEV_CA", ca)
	for _, e := range sim.IdentityEnv() {
		k, v, _ := strings.Cut(e, "=")
		ts.Setenv(k, v)
	}
	ts.Setenv("SUB", scene.Subscription)
	ts.Setenv("GROUP", scene.Group)
	for _, vm := range scene.VMs {
		ts.Setenv(strings.ToUpper(strings.ReplaceAll(vm.Name, "-", "_")), vm.ID)
	}
	running[filepath.Dir(ca)] = &simulated{sim}
	ts.Defer(func() { delete(running, filepath.Dir(ca)) })
}
