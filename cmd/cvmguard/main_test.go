package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
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
//	azure                     starts a simulated Azure with the standard scene and
//	                          sets the environment for it; $SUB, $GROUP and a
//	                          variable for each VM ($VM_SNP_KV) name what is there
//	azure-fault WHAT          makes it fail: see azureFault
//	azure-reads N PATH        wants that a path was read N times
//	azure-unwritten           wants that nothing was written to it
//	app [KEY]                 starts a function app with two VMs and sets
//	                          CVMGUARD_URL, $VM1, $VM2, $KEY1 and $KEY2
//	app-broken STATUS         starts one that answers with that status and no more
//	app-queue TEXT            wants a message with this text on the app's queue
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			e.Values[worldKey{}] = &world{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "azure": startAzure, "azure-fault": azureFault, "azure-unwritten": azureUnwritten, "azure-reads": azureReads,
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

// world is what a script has started.
type world struct {
	sim *azuresim.Sim
	app *standIn
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world {
	w, ok := ts.Value(worldKey{}).(*world)
	if !ok {
		ts.Fatalf("the script has no world")
	}
	return w
}

func startAzure(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: azure")
	}
	sim, err := azuresim.Start(azuresim.Options{PageSize: 5})
	ts.Check(err)
	ts.Defer(func() { ts.Check(sim.Close()) })
	worldOf(ts).sim = sim
	scene, err := azuresim.BuildScene(sim, time.Now())
	ts.Check(err)
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
}

func azureFault(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: azure-fault WHAT [PATH]")
	}
	path := ""
	if len(args) > 1 {
		path = args[1]
	}
	sim := worldOf(ts).sim
	switch args[0] {
	case "throttle-once":
		sim.Inject(azuresim.Fault{Path: path, Method: http.MethodGet, Status: http.StatusTooManyRequests, RetryAfter: time.Second, Times: 3})
	case "throttle":
		sim.Inject(azuresim.Fault{Path: path, Method: http.MethodGet, Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Hour, Times: -1})
	case "drop":
		sim.Inject(azuresim.Fault{Path: path, Drop: true, Times: -1})
	case "deny":
		sim.Deny(azuresim.HandlerPrincipal, "Microsoft.Compute/virtualMachines/read", path)
	case "no-token":
		ts.Setenv("IDENTITY_HEADER", "wrong")
	case "slow":
		sim.SetKnobs(func(k *azuresim.Knobs) { k.Latency = 350 * time.Millisecond })
	case "delete":
		ts.Check(sim.DeleteVM(path))
	default:
		ts.Fatalf("there is no fault %q", args[0])
	}
}

func azureUnwritten(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: azure-unwritten")
	}
	for _, call := range worldOf(ts).sim.Calls() {
		if call.Kind == azuresim.KindWrite {
			ts.Fatalf("Azure was written to: %s %s", call.Method, call.Path)
		}
	}
}

func azureReads(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: azure-reads N PATH")
	}
	sim := worldOf(ts).sim
	n := 0
	for _, call := range sim.Calls() {
		if call.Kind == azuresim.KindRead && strings.HasSuffix(strings.ToLower(call.Path), strings.ToLower(args[1])) {
			n++
		}
	}
	if strconv.Itoa(n) != args[0] {
		ts.Fatalf("%d reads of %s, want %s", n, args[1], args[0])
	}
}

func startApp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: app [KEY]")
	}
	a, err := newStandIn(strings.Join(args, ""))
	ts.Check(err)
	ts.Defer(a.server.Close)
	worldOf(ts).app = a
	ts.Setenv(envURL, a.server.URL)
	for i, vm := range a.vms {
		ts.Setenv(fmt.Sprintf("VM%d", i+1), vm)
		ts.Setenv(fmt.Sprintf("KEY%d", i+1), chainOf(vm))
	}
}

func startBrokenApp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: app-broken STATUS")
	}
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	server := brokenApp(code)
	ts.Defer(server.Close)
	ts.Setenv(envURL, server.URL)
}

func appQueue(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] app-queue TEXT")
	}
	found := worldOf(ts).app.queued(args[0])
	if found == neg {
		ts.Fatalf("a message with %q on the queue: %t", args[0], found)
	}
}
