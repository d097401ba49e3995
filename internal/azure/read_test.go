package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// estate has one confidential VM with all that it hangs on.
func estate(t *testing.T) *fakeAzure {
	f := newFake(t)
	serve := func(call, file string, check func(r *http.Request)) {
		body := string(vector(t, file))
		f.on(call, func(w http.ResponseWriter, r *http.Request) {
			if check != nil {
				check(r)
			}
			jsonBody(200, body)(w, r)
		})
	}
	query := func(name, want string) func(*http.Request) {
		return func(r *http.Request) {
			if got := r.URL.Query().Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", r.URL.Path, name, got, want)
			}
		}
	}
	serve("GET "+armHost+vmID, "vm-cvm-cmk.json", query("$expand", "instanceView"))
	serve("GET "+armHost+diskID, "disk-cvm-cmk.json", query("api-version", "2026-03-02"))
	serve("GET "+armHost+desID, "des-confidentialvm.json", nil)
	serve("GET "+armHost+vaultID, "vault-premium.json", query("api-version", keyVaultAPI))
	serve("GET "+armHost+hsmID, "mhsm.json", query("api-version", keyVaultAPI))
	serve("GET "+armHost+desID+"/associatedResources", "des-associatedresources.json", nil)
	serve("GET "+strings.TrimPrefix(keyURL, "https://"), "key-good.json", nil)
	serve("GET "+strings.TrimPrefix(hsmKey, "https://"), "key-good-mhsm.json", nil)
	return f
}

func TestNewDoesNothing(t *testing.T) {
	start := time.Now()
	c := New(config.Config{DevCA: "/no/such/file"}, nil)
	if d := time.Since(start); d > 50*time.Millisecond {
		t.Errorf("New took %s", d)
	}
	if _, err := c.VM(context.Background(), vmID); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "CVMGUARD_DEV_CA") {
		t.Errorf("first use: %v", err)
	}
}

func TestFiveReads(t *testing.T) {
	f := estate(t)
	c := f.client()
	r := c.Reader(time.Minute)
	ctx := context.Background()
	look := func() {
		t.Helper()
		vm, err := r.VM(ctx, vmID)
		if err != nil {
			t.Fatal(err)
		}
		disk, err := r.Disk(ctx, vm.OSDisk.ID)
		if err != nil {
			t.Fatal(err)
		}
		des, err := r.DES(ctx, disk.SecureDES, false)
		if err != nil {
			t.Fatal(err)
		}
		key, err := r.Key(ctx, cvm.KeyID(des.KeyURL), false)
		if err != nil {
			t.Fatal(err)
		}
		vault, err := r.Vault(ctx, cvm.VaultRef{ID: des.SourceVault, Host: key.ID.Host()}, false)
		if err != nil {
			t.Fatal(err)
		}
		if vm.Name != "vm-cvm-cmk" || des.Type != cvm.DESTypeConfidential || key.Type != "RSA-HSM" || vault.Name != "kv-cvm" {
			t.Errorf("read %+v %+v %+v %+v", vm, des, key, vault)
		}
	}
	look()
	if n := c.Counts(); n.Reads != 5 || n.Writes != 0 {
		t.Errorf("cold: %+v, want 5 reads", n)
	}
	look()
	if n := c.Counts(); n.Reads != 7 {
		t.Errorf("warm: %d reads, want 2 more", n.Reads)
	}
	if _, err := r.DES(ctx, desID, true); err != nil {
		t.Fatal(err)
	}
	if n := c.Counts(); n.Reads != 8 || n.ByName["DiskEncryptionSetsClient.Get"] != 2 {
		t.Errorf("fresh: %+v", n)
	}
	// The same id in other letters is the same set.
	if _, err := r.DES(ctx, cvm.DESID(strings.ToUpper(desID[:20])+desID[20:]), false); err != nil {
		t.Fatal(err)
	}
	if n := c.Counts().Reads; n != 8 {
		t.Errorf("another spelling cost a read: %d", n)
	}
}

func TestDESDisks(t *testing.T) {
	f := estate(t)
	disks, err := f.client().DESDisks(context.Background(), desID)
	if err != nil || len(disks) != 2 || disks[1].Name() != "vm-tdx-cmk-os" {
		t.Errorf("%v, %v", disks, err)
	}
	f.on("GET "+armHost+desID+"/associatedResources", answers(
		jsonBody(200, `{"value":["`+group+`Microsoft.Compute/disks/d1","`+group+`Microsoft.Compute/snapshots/s1"],"nextLink":"https://management.azure.com`+desID+`/associatedResources?page=2"}`),
		jsonBody(200, `{"value":["`+group+`Microsoft.Compute/disks/d2"]}`)))
	disks, err = f.client().DESDisks(context.Background(), desID)
	if err != nil || len(disks) != 2 || disks[1].Name() != "d2" {
		t.Errorf("two pages: %v, %v", disks, err)
	}
}

// A key whose release policy the SDK's model refuses must still be read.
func TestKeyWithOddReleasePolicy(t *testing.T) {
	f := newFake(t)
	f.on("GET "+strings.TrimPrefix(keyURL, "https://"), jsonBody(200, `{"key":{"kid":"`+keyURL+`","kty":"RSA-HSM","key_ops":["wrapKey"],"n":"AQAB","e":"AQAB"},"attributes":{"enabled":true},"release_policy":{"data":"%%%","contentType":"x"}}`))
	k, err := f.client().Key(context.Background(), keyURL)
	if err != nil || k.Type != "RSA-HSM" || !k.Policy.Present {
		t.Errorf("%+v, %v", k, err)
	}
	f.on("GET "+strings.TrimPrefix(keyURL, "https://"), jsonBody(200, `{"key":{"kid":"`+keyURL))
	if _, err := f.client().Key(context.Background(), keyURL); !fault.Is(err, fault.Transient) {
		t.Errorf("cut short: %v", err)
	}
}

func TestReadRefusals(t *testing.T) {
	f := newFake(t)
	denied := jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"The client does not have authorization."}}`)
	f.on("GET "+armHost+vmID, denied)
	f.on("GET "+armHost+diskID, jsonBody(429, `{"error":{"code":"TooManyRequests","message":"m"}}`, "Retry-After", "37"))
	f.on("GET "+strings.TrimPrefix(keyURL, "https://"), jsonBody(403, `{"error":{"code":"Forbidden","message":"m","innererror":{"code":"AccessDenied"}}}`))
	f.on("GET "+strings.TrimPrefix(hsmKey, "https://"), jsonBody(403, `{"error":{"code":"Forbidden","message":"m"}}`))
	c, ctx := f.client(), context.Background()
	_, err := c.VM(ctx, vmID)
	if !fault.Is(err, fault.Denied) || fault.Action(err) != "Microsoft.Compute/virtualMachines/read" {
		t.Errorf("VM: %v", err)
	}
	before := len(f.seen())
	_, err = c.Disk(ctx, diskID)
	if !fault.Is(err, fault.Throttled) || fault.RetryAfter(err) != 37*time.Second || len(f.seen()) != before+1 {
		t.Errorf("disk: %v after %d tries", err, len(f.seen())-before)
	}
	_, err = c.Key(ctx, keyURL)
	if fault.Action(err) != "Microsoft.KeyVault/vaults/keys/read" {
		t.Errorf("key: %v", err)
	}
	_, err = c.Key(ctx, hsmKey)
	if fault.Action(err) != "Microsoft.KeyVault/managedHsm/keys/read/action" {
		t.Errorf("HSM key: %v", err)
	}
	_, err = c.DES(ctx, desID)
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("DES: %v", err)
	}
	n := len(f.seen())
	for _, id := range []cvm.KeyID{"https://kv.example.net/keys/k", "http://kv-cvm.vault.azure.net/keys/k", "https://kv-cvm.vault.azure.cn/keys/k", "https://kv-cvm.vault.azure.net/secrets/k", "rubbish"} {
		if _, err := c.Key(ctx, id); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, id := range []cvm.VMID{"", "rubbish", diskID, vmID + "/extensions/x"} {
		if _, err := c.VM(ctx, id); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if len(f.seen()) != n {
		t.Error("a malformed id was sent")
	}
}

// A read is tried again after a moment's failure, and a connection that is cut.
func TestReadRetries(t *testing.T) {
	f := estate(t)
	body := string(vector(t, "vm-cvm-cmk.json"))
	f.on("GET "+armHost+vmID, answers(jsonBody(503, `{}`), jsonBody(500, `{}`), jsonBody(200, body)))
	c := f.client()
	if _, err := c.VM(context.Background(), vmID); err != nil {
		t.Fatal(err)
	}
	if n := c.Counts(); n.Reads != 1 || n.Tries != 3 {
		t.Errorf("%+v, want one call of three tries", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.VM(ctx, vmID); !fault.Is(err, fault.Transient) {
		t.Errorf("cancelled: %v", err)
	}
}

func graphPage(rows []map[string]any, skip string) string {
	b, err := json.Marshal(map[string]any{"totalRecords": 3, "count": len(rows), "data": rows, "resultTruncated": "false", "$skipToken": skip})
	if err != nil {
		panic(err)
	}
	return string(b)
}

const graphCall = "POST " + armHost + "/providers/Microsoft.ResourceGraph/resources"

func TestVaultByHost(t *testing.T) {
	f := estate(t)
	f.on(graphCall, jsonBody(200, graphPage([]map[string]any{
		{"id": "/other", "name": "hsm-cvm", "properties": map[string]any{"vaultUri": "https://hsm-cvm.vault.azure.net/"}},
		{"id": hsmID, "name": "hsm-cvm", "properties": map[string]any{"hsmUri": "https://hsm-cvm.managedhsm.azure.net:443/"}},
	}, "")))
	c := f.client()
	for range 2 {
		v, err := c.Vault(context.Background(), cvm.VaultRef{Host: "HSM-cvm.managedhsm.azure.net"})
		if err != nil || !v.HSM || v.ID != hsmID {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if n := c.Counts(); n.ByName["Client.Resources"] != 1 || n.Reads != 3 || n.Writes != 0 {
		t.Errorf("the id was looked up again, or asking counted as a write: %+v", n)
	}
	f.on(graphCall, jsonBody(200, graphPage(nil, "")))
	if _, err := f.client().Vault(context.Background(), cvm.VaultRef{Host: "kv-none.vault.azure.net"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown host: %v", err)
	}
	if _, err := c.Vault(context.Background(), cvm.VaultRef{Host: "x' or 1==1.vault.azure.net"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a host with a quote: %v", err)
	}
}

func TestListVMs(t *testing.T) {
	f := newFake(t)
	row := func(i int) map[string]any {
		return map[string]any{"id": fmt.Sprintf("%s%d", vmID, i), "name": fmt.Sprintf("vm%d", i), "location": "NorthEurope", "vmId": "u", "timeCreated": "2026-01-15T08:00:00.0000000+00:00"}
	}
	instance := map[string]any{"id": strings.Replace(vmID, "virtualMachines/", "virtualMachineScaleSets/s/virtualMachines/", 1), "name": "s_0", "location": "northeurope"}
	var asked []string
	page := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { h(w, r); asked = append(asked, f.lastBody()) }
	}
	f.on(graphCall, answers(page(jsonBody(200, graphPage([]map[string]any{row(1), row(2)}, "next"))), page(jsonBody(200, graphPage([]map[string]any{row(3)}, ""))),
		page(jsonBody(200, graphPage([]map[string]any{instance}, "")))))
	var got []VMRow
	err := f.client().ListVMs(context.Background(), GraphScope{Subscriptions: []string{subID}, Group: "rg-cvm", Where: "tags.env =~ 'prod' // only these"}, func(r VMRow) error {
		got = append(got, r)
		return nil
	})
	if err != nil || len(got) != 4 || got[3].Name != "s_0" || got[2].Name != "vm3" || got[0].Location != "northeurope" || got[0].TimeCreated.IsZero() || got[0].UniqueID != "u" {
		t.Fatalf("%+v, %v", got, err)
	}
	var req struct {
		Query         string
		Subscriptions []string
		Options       map[string]any
	}
	if len(asked) != 3 || !strings.Contains(asked[2], "computeresources") || !strings.Contains(asked[2], "virtualmachinescalesets/virtualmachines") {
		t.Fatalf("asked %q", asked)
	}
	if err := json.Unmarshal([]byte(asked[1]), &req); err != nil {
		t.Fatal(err)
	}
	if req.Options["$skipToken"] != "next" || !slices.Equal(req.Subscriptions, []string{subID}) ||
		!strings.Contains(req.Query, "resourceGroup =~ 'rg-cvm'") || strings.Count(req.Query, "microsoft.compute/virtualmachines") != 2 {
		t.Errorf("asked %+v", req)
	}
	for _, s := range []GraphScope{{Group: "a' or true"}, {Where: "true | project secret"}, {Where: "true; union x"}} {
		if err := f.client().ListVMs(context.Background(), s, func(VMRow) error { return nil }); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	f.on(graphCall, jsonBody(200, `{"data":[],"resultTruncated":"true"}`))
	if err := f.client().ListVMs(context.Background(), GraphScope{}, func(VMRow) error { return nil }); !fault.Is(err, fault.Transient) {
		t.Errorf("a listing cut short passed: %v", err)
	}
	stop := fault.New(fault.Bug, "x", "", "stop")
	f.on(graphCall, jsonBody(200, graphPage([]map[string]any{row(1)}, "")))
	if err := f.client().ListVMs(context.Background(), GraphScope{}, func(VMRow) error { return stop }); err != error(stop) {
		t.Errorf("yield's error became %v", err)
	}
}

func TestRunCommandView(t *testing.T) {
	f := newFake(t)
	f.on("GET "+armHost+vmID+"/runCommands/cvmguard-attest", jsonBody(200, string(vector(t, "runcommand-get-expanded.json"))))
	v, err := f.client().RunCommand(context.Background(), vmID, "cvmguard-attest")
	if err != nil || v.ExecutionState != "Succeeded" || v.Parameters["NONCE"] != "example-nonce" || v.Output == "" || v.ProvisioningState != "Succeeded" {
		t.Errorf("%+v, %v", v, err)
	}
	failed, err := parseRunCommand(vector(t, "runcommand-get-script-failed.json"))
	if err != nil || failed.ExecutionState != "Failed" || failed.ExitCode == 0 {
		t.Errorf("%+v, %v", failed, err)
	}
	if _, err := f.client().RunCommand(context.Background(), vmID, "absent"); !fault.Is(err, fault.NotFound) {
		t.Errorf("absent: %v", err)
	}
}
