package azuresim

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// fakeGuest counts its runs and answers with what it was given.
type fakeGuest struct {
	mu    sync.Mutex
	runs  int
	boots int
	exit  int
	hold  chan struct{} // nil: at once
}

func (g *fakeGuest) Run(ctx context.Context, env map[string]string, script string) (int, string, string) {
	g.mu.Lock()
	g.runs++
	hold := g.hold
	g.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return 137, "", "killed"
		}
	}
	return g.exit, strings.Repeat("x", outputLimit) + env["PLAIN"] + env["SECRET"] + script, "err"
}

func (g *fakeGuest) Boot() { g.mu.Lock(); defer g.mu.Unlock(); g.boots++ }

func (g *fakeGuest) count() (runs, boots int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.runs, g.boots
}

func runBody(cause string) doc {
	return doc{"location": "westeurope", "properties": doc{
		"source": doc{"script": "echo"}, "timeoutInSeconds": 300, "asyncExecution": false, "treatFailureAsDeploymentFailure": false,
		"parameters":          []any{doc{"name": "PLAIN", "value": cause}},
		"protectedParameters": []any{doc{"name": "SECRET", "value": "s3cret"}},
	}}
}

func runURL(vm, name string) string { return armURL(vm + "/runCommands/" + name) }

// settle polls an operation until it ends.
func settle(t *testing.T, s *Sim, url string) doc {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, _, b := call(t, s, HandlerPrincipal, "GET", url, nil); b["status"] != "InProgress" {
			return b
		}
	}
	t.Fatal("the operation does not end")
	return nil
}

func TestRunCommandRunsTheGuestOnce(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	g := &fakeGuest{}
	if !s.SetGuest(w.vm, g) {
		t.Fatal("no such VM")
	}
	for i, want := range []int{1, 1, 2} { // an identical PUT does not run again, another cause does
		status, h, body := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody(fmt.Sprintf("cause%d", i/2)))
		if status != map[bool]int{true: 201, false: 200}[i == 0] {
			t.Fatalf("put %d: %d %v", i, status, body)
		}
		if end := settle(t, s, h.Get("Azure-AsyncOperation")); end["status"] != "Succeeded" {
			t.Fatal(end)
		}
		if n, _ := g.count(); n != want {
			t.Fatalf("after put %d the guest ran %d times, want %d", i, n, want)
		}
	}
	_, _, plain := call(t, s, HandlerPrincipal, "GET", runURL(w.vm, "rc"), nil)
	if at(plain, "properties", "instanceView") != nil || at(plain, "properties", "protectedParameters") != nil {
		t.Fatalf("GET shows too much: %v", plain)
	}
	_, _, full := call(t, s, HandlerPrincipal, "GET", runURL(w.vm, "rc")+"&$expand=instanceView", nil)
	sameShape(t, full, vector(t, "runcommand-get-expanded.json"), "properties.outputBlobUri", "properties.errorBlobUri", "properties.outputBlobManagedIdentity", "properties.errorBlobManagedIdentity")
	out := str(full, "properties", "instanceView", "output")
	if len(out) != outputLimit || !strings.HasSuffix(out, "cause1s3cretecho") {
		t.Fatalf("output of %d bytes ends in %q", len(out), out[max(0, len(out)-20):])
	}
}

func TestRunCommandOfTheVector(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetGuest(w.vm, &fakeGuest{exit: 1})
	_, h, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "cvmguard-attest"), vector(t, "runcommand-put-request.json"))
	settle(t, s, h.Get("Azure-AsyncOperation"))
	_, _, got := call(t, s, HandlerPrincipal, "GET", runURL(w.vm, "cvmguard-attest")+"&$expand=instanceView", nil)
	want := vector(t, "runcommand-get-script-failed.json")
	sameShape(t, got, want, "properties.outputBlobManagedIdentity", "properties.errorBlobManagedIdentity")
	for _, p := range [][]string{{"properties", "provisioningState"}, {"properties", "instanceView", "executionState"}, {"properties", "instanceView", "exitCode"}} {
		if at(got, p...) != at(want, p...) {
			t.Errorf("%v is %v, want %v", p, at(got, p...), at(want, p...))
		}
	}
}

func TestRunCommandInProgress(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	g := &fakeGuest{hold: make(chan struct{})}
	s.SetGuest(w.vm, g)
	_, h, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody("1"))
	if status, _, b := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody("2")); status != 409 || str(b, "error", "code") != "Conflict" {
		t.Fatalf("%d %v", status, b)
	}
	if status, _, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc2"), runBody("2")); status != 201 {
		t.Fatalf("another run command beside it: %d", status)
	}
	if _, _, b := call(t, s, HandlerPrincipal, "GET", runURL(w.vm, "rc")+"&$expand=instanceView", nil); str(b, "properties", "instanceView", "executionState") != "Running" {
		t.Fatal(b)
	}
	close(g.hold)
	settle(t, s, h.Get("Azure-AsyncOperation"))
	c := compute(t, s, HandlerPrincipal).NewVirtualMachineRunCommandsClient()
	d, err := c.BeginDelete(ctx(t), "rg-cvm", "vm-cvm-cmk", "rc", nil)
	ok(t, err)
	_, err = d.PollUntilDone(ctx(t), nil)
	ok(t, err)
	_, err = c.GetByVirtualMachine(ctx(t), "rg-cvm", "vm-cvm-cmk", "rc", nil)
	wantError(t, err, 404, "ResourceNotFound")
}

func TestRunCommandWithoutARunningAgent(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetGuests(func(VMInfo) Guest { return &fakeGuest{} })
	ok(t, s.SetAgentReady(w.vm, false))
	_, h, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody("1"))
	if end := settle(t, s, h.Get("Azure-AsyncOperation")); end["status"] != "Failed" || str(end, "error", "code") != "VMExtensionProvisioningTimeout" {
		t.Fatal(end)
	}
	ok(t, s.DeallocateVM(w.vm))
	if status, _, b := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), runBody("2")); status != 409 || str(b, "error", "code") != "OperationNotAllowed" {
		t.Fatalf("%d %v", status, b)
	}
	two := runBody("1")
	put(two, "x", "properties", "source", "commandId")
	if status, _, b := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), two); status != 400 || str(b, "error", "code") != "InvalidParameter" {
		t.Fatalf("%d %v", status, b)
	}
}

func TestRunCommandTimesOut(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetGuest(w.vm, &fakeGuest{hold: make(chan struct{})})
	body := runBody("1")
	put(body, 0.05, "properties", "timeoutInSeconds")
	if status, _, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), body); status != 400 {
		t.Fatal("the model takes whole seconds only")
	}
	put(body, 1, "properties", "timeoutInSeconds")
	_, h, _ := call(t, s, HandlerPrincipal, "PUT", runURL(w.vm, "rc"), body)
	settle(t, s, h.Get("Azure-AsyncOperation"))
	if _, _, b := call(t, s, HandlerPrincipal, "GET", runURL(w.vm, "rc")+"&$expand=instanceView", nil); str(b, "properties", "instanceView", "executionState") != "TimedOut" {
		t.Fatal(b)
	}
}

func TestExtensions(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	c := compute(t, s, HandlerPrincipal).NewVirtualMachineExtensionsClient()
	_, _, got := call(t, s, HandlerPrincipal, "GET", armURL(w.vm+"/extensions/GuestAttestation"), nil)
	sameShape(t, got, vector(t, "ext-guestattestation-linux.json"))
	ade := vector(t, "ext-ade-cvm-tempdisk-request.json")
	status, h, body := call(t, s, HandlerPrincipal, "PUT", armURL(w.vm+"/extensions/AzureDiskEncryptionForLinux"), ade)
	if status != 201 {
		t.Fatalf("%d %v", status, body)
	}
	if end := settle(t, s, h.Get("Azure-AsyncOperation")); end["status"] != "Succeeded" {
		t.Fatal(end)
	}
	put(ade, "All", "properties", "settings", "VolumeType")
	_, h, _ = call(t, s, HandlerPrincipal, "PUT", armURL(w.vm+"/extensions/AzureDiskEncryptionForLinux"), ade)
	if end := settle(t, s, h.Get("Azure-AsyncOperation")); end["status"] != "Failed" {
		t.Fatal("an OS volume was encrypted by extension")
	}
	e, err := c.Get(ctx(t), "rg-cvm", "vm-cvm-cmk", "AzureDiskEncryptionForLinux", nil)
	ok(t, err)
	if *e.Properties.ProvisioningState != "Failed" {
		t.Fatal(*e.Properties.ProvisioningState)
	}
	ok(t, s.SetAgentReady(w.vm, false))
	p, err := c.BeginCreateOrUpdate(ctx(t), "rg-cvm", "vm-cvm-cmk", "x", armcompute.VirtualMachineExtension{Location: to.Ptr("westeurope"),
		Properties: &armcompute.VirtualMachineExtensionProperties{Publisher: to.Ptr("p"), Type: to.Ptr("t"), TypeHandlerVersion: to.Ptr("1.0")}}, nil)
	ok(t, err)
	_, err = p.PollUntilDone(ctx(t), nil)
	wantError(t, err, 0, "VMAgentStatusCommunicationError")
}
