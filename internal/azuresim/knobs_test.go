package azuresim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
)

func TestFaultsStrikeTheNthCall(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	f := s.Inject(Fault{Action: "*/virtualMachines/read", Nth: 2, Times: 2, Status: 503, Code: "ServiceUnavailable"})
	for i, want := range []int{0, 503, 503, 0} {
		_, err := vms.Get(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
		if want == 0 {
			ok(t, err)
			continue
		}
		if wantError(t, err, want, "ServiceUnavailable"); i == 0 {
			t.Fatal("too early")
		}
	}
	if f.Hits() != 2 {
		t.Fatalf("%d hits", f.Hits())
	}
	s.ClearFaults()
	s.Reset()

	// After: the effect is there, the answer is not; the log says so.
	s.Inject(Fault{Method: "PATCH", When: After, Status: 500})
	status, _, _ := call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{"x": "1"}})
	vm, _ := s.Resource(w.vm)
	if n := len(s.Writes(HandlerPrincipal)); status != 500 || str(vm, "tags", "x") != "1" || n != 1 {
		t.Fatalf("status %d, tags %v, %d accepted writes", status, vm["tags"], n)
	}
	// Before: neither.
	s.Inject(Fault{Method: "PATCH", Path: "VM-CVM-CMK"})
	status, _, _ = call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{"x": "2"}})
	vm, _ = s.Resource(w.vm)
	if n := len(s.Writes(HandlerPrincipal)); status != 500 || str(vm, "tags", "x") != "1" || n != 1 {
		t.Fatalf("status %d, tags %v, %d accepted writes", status, vm["tags"], n)
	}
}

func TestDroppedConnection(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.Inject(Fault{Method: "PATCH", When: After, Drop: true})
	tr := s.Transport()
	defer tr.CloseIdleConnections()
	tok, _, err := s.token(HandlerPrincipal, "https://management.azure.com")
	ok(t, err)
	req, err := http.NewRequestWithContext(ctx(t), "PATCH", armURL(w.vm), strings.NewReader(`{"tags":{"x":"1"}}`))
	ok(t, err)
	req.Header.Set("Authorization", "Bearer "+tok)
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err == nil {
		ok(t, resp.Body.Close())
		t.Fatal("the connection was not cut")
	}
	vm, _ := s.Resource(w.vm)
	if c := s.Writes(HandlerPrincipal); str(vm, "tags", "x") != "1" || len(c) != 1 || c[0].Status != 0 {
		t.Fatalf("tags %v, writes %+v", vm["tags"], c)
	}
}

func TestOperationsFailAndAreSlow(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	c := ctx(t)
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	s.SetKnobs(func(k *Knobs) { k.Operation, k.RetryAfter = 20*time.Millisecond, time.Millisecond })
	s.Inject(Fault{Action: "*/deallocate/action", When: Operation, Code: "InternalExecutionError"})
	p, err := vms.BeginDeallocate(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = p.PollUntilDone(c, nil)
	wantError(t, err, 200, "InternalExecutionError")
	if got := s.VMs()[0].Power; got != "running" {
		t.Fatalf("power is %s", got)
	}
	s.Inject(Fault{Action: "*/deallocate/action", When: OperationAfter})
	p, err = vms.BeginDeallocate(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = p.PollUntilDone(c, nil)
	wantError(t, err, 200, "InternalExecutionError")
	if got := s.VMs()[0].Power; got != "deallocated" {
		t.Fatalf("power is %s", got)
	}
	s.SetCapacity("Standard_DC4as_v5", "West Europe", false, "")
	st, err := vms.BeginStart(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = st.PollUntilDone(c, nil)
	wantError(t, err, 200, "AllocationFailed")
	s.SetCapacity("Standard_DC4as_v5", "westeurope", true, "")
	ok(t, s.DisableKey(w.key))
	st, err = vms.BeginStart(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = st.PollUntilDone(c, nil)
	wantError(t, err, 200, "KeyVaultAccessForbidden")
	ok(t, s.EnableKey(w.key))
	st, err = vms.BeginStart(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	tok, err := st.ResumeToken()
	ok(t, err)
	if !strings.Contains(tok, "https://management.azure.com/subscriptions/"+s.Subscription()+"/providers/Microsoft.Compute/locations/westeurope/operations/") {
		t.Fatalf("the resume token is %s", tok)
	}
	_, err = st.PollUntilDone(c, nil)
	ok(t, err)
}

func TestThrottleOfCompute(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetKnobs(func(k *Knobs) { k.Throttle = true })
	n := 0
	for ; n < 60; n++ {
		status, h, body := call(t, s, HandlerPrincipal, "GET", armURL(w.vm), nil)
		if status == 429 {
			v := vector(t, "error-429-compute.json")
			sameShape(t, body, v["body"])
			if body["error"] != nil || body["code"] != at(v, "body", "code") || list(body, "details")[0]["code"] != "TooManyRequests" || h.Get("Retry-After") == "" || h.Get("X-Ms-Ratelimit-Remaining-Resource") == "" {
				t.Fatalf("%v %v", h, body)
			}
			var inner map[string]any
			ok(t, json.Unmarshal([]byte(list(body, "details")[0]["message"].(string)), &inner))
			break
		}
		if h.Get("X-Ms-Ratelimit-Remaining-Subscription-Reads") == "" || h.Get("X-Ms-Ratelimit-Remaining-Resource") == "" {
			t.Fatalf("no rate limit headers: %v", h)
		}
	}
	if n < 36 || n > 40 {
		t.Fatalf("throttled after %d reads of one VM, want 36", n)
	}
	s.SetKnobs(func(k *Knobs) { k.Throttle = false })
	s.Inject(Fault{Status: 429, RetryAfter: time.Minute})
	if status, h, body := call(t, s, HandlerPrincipal, "GET", armURL(w.vm), nil); status != 429 || h.Get("Retry-After") != "60" || body["code"] != "OperationNotAllowed" {
		t.Fatalf("%d %v %v", status, h, body)
	}
}

func TestManagedIdentityEndpoint(t *testing.T) {
	s := start(t, Options{})
	small(t, s)
	for _, e := range s.IdentityEnv() {
		k, v, _ := strings.Cut(e, "=")
		t.Setenv(k, v)
	}
	cred, err := azidentity.NewManagedIdentityCredential(nil)
	ok(t, err)
	tok, err := cred.GetToken(ctx(t), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}})
	ok(t, err)
	status, _, _ := call(t, s, "", "GET", armURL(s.VMs()[0].ID), nil, "Authorization", "Bearer "+tok.Token)
	if status != 200 || !tok.ExpiresOn.After(time.Now()) {
		t.Fatalf("%d, token until %s", status, tok.ExpiresOn)
	}
	resp, err := http.Get(s.PlainURL() + "/msi/token?api-version=2019-08-01&resource=x")
	ok(t, err)
	b, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != 400 {
		t.Fatalf("%d %s %v", resp.StatusCode, b, err)
	}
}

func TestClientSecretByTheLoginHost(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.mu.Lock()
	p := s.principals[HandlerPrincipal]
	s.mu.Unlock()
	opt := s.testOptions(t).ClientOptions
	cred, err := azidentity.NewClientSecretCredential(s.Tenant(), p.ClientID, p.secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: opt})
	ok(t, err)
	tok, err := cred.GetToken(ctx(t), policy.TokenRequestOptions{Scopes: []string{"https://management.azure.com/.default"}})
	ok(t, err)
	if status, _, _ := call(t, s, "", "GET", armURL(w.vm), nil, "Authorization", "Bearer "+tok.Token); status != 200 {
		t.Fatal(status)
	}
}

func TestCallLogHoldsNoSecretAndTellsReadFromWrite(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetMAA(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Host != "sharedweu.weu.attest.azure.net" {
			t.Errorf("host %s", r.Host)
		}
		rw.WriteHeader(http.StatusTeapot)
	}))
	call(t, s, HandlerPrincipal, "GET", w.key+"?api-version=2025-07-01&secret=hunter2", nil)
	call(t, s, HandlerPrincipal, "POST", "https://management.azure.com/providers/Microsoft.ResourceGraph/resources?api-version=2024-04-01", doc{"query": "resources | count"})
	if status, _, _ := call(t, s, "", "POST", "https://sharedweu.weu.attest.azure.net/attest/SevSnpVm?api-version=2022-08-01", doc{}); status != http.StatusTeapot {
		t.Fatal(status)
	}
	call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{}})
	var got []string
	for _, c := range s.Calls() {
		got = append(got, c.Plane+" "+c.Kind+" "+c.Action)
	}
	want := "keys read Microsoft.KeyVault/vaults/keys/read|arm read Microsoft.ResourceGraph/resources/read|attest read attest/SevSnpVm|arm write Microsoft.Compute/virtualMachines/write"
	if strings.Join(got, "|") != want {
		t.Fatalf("got %q", got)
	}
	var b bytes.Buffer
	ok(t, s.WriteCalls(&b))
	for _, secret := range []string{"Bearer", "eyJ", "hunter2"} {
		if strings.Contains(b.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	s.Reset()
	if len(s.Calls()) != 0 {
		t.Fatal("not empty after Reset")
	}
}

func TestLatency(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetKnobs(func(k *Knobs) { k.Latency = 30 * time.Millisecond })
	begun := time.Now()
	call(t, s, HandlerPrincipal, "GET", armURL(w.vm), nil)
	if d := time.Since(begun); d < 30*time.Millisecond {
		t.Fatalf("answered after %s", d)
	}
}

func TestHostsHaveTheirOwnCertificates(t *testing.T) {
	s := start(t, Options{})
	for _, host := range []string{"management.azure.com", "kv.vault.azure.net", "example.com"} {
		status, _, _ := call(t, s, "", "GET", "https://"+host+"/", nil)
		if status == 200 {
			t.Errorf("%s answered %d", host, status)
		}
	}
	if !bytes.Contains(s.CAPEM(), []byte("BEGIN CERTIFICATE")) {
		t.Fatal("no CA")
	}
}

var _ azcore.TokenCredential = credential{}
