package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

func TestBrakesCommands(t *testing.T) {
	a, err := newStandIn("hush")
	if err != nil {
		t.Fatal(err)
	}
	defer a.server.Close()
	do := func(status int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		env := map[string]string{envURL: a.server.URL, envKey: "hush"}
		if got := run(args, func(k string) string { return env[k] }, &out, &errs); got != status {
			t.Errorf("%v: status %d, not %d: %s%s", args, got, status, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}
	wants := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("it lacks %q: %s", p, text)
			}
		}
	}
	wants(do(0, "brakes"), "breaker", "set", "0 objects (VMs and shared objects)", "500 objects, or 50% of the VMs (2 known); the share counts from 20 objects on")
	wants(do(1, "brakes", "reset"), "it hasn't tripped and holds nothing", "stays; see `cvmguard brakes show`")
	wants(do(1, "brakes", "resume", "--vm", standInVM("vm-bad")), "no such step of it is stopped")
	wants(do(1, "brakes", "release"), "the policy in force has none")
	wants(do(2, "brakes", "resume"), "missing flags: --vm=ID")
	wants(do(2, "brakes", "resume", "--vm", "vm1"), `--vm "vm1": it is neither a VM's ARM id nor a shared object's id`)

	books := ledger.Brakes{Tables: a.store.Tables()}
	ctx := context.Background()
	if _, err := books.Trip(ctx, ledger.Breaker{}, time.Now(), "501 objects would have been changed", 501, "p"); err != nil {
		t.Fatal(err)
	}
	pk, rk, _ := ledger.SplitChain(chainOf(standInVM("vm-bad")))
	e, err := a.store.Tables().Get(ctx, ledger.TableVMs, pk, rk)
	if err != nil {
		t.Fatal(err)
	}
	row, err := ledger.DecodeRow(e)
	if err != nil {
		t.Fatal(err)
	}
	row.Braked, row.Shadow = reconcile.BrakeBreaker, policy.Compliant
	row.WouldBeRefused = []azurepolicy.Refusal{{Rule: "vm-kind", Definition: "cvmguard-vm-kind", Why: "it is no confidential VM"}}
	row.Stop(remedy.Step{Kind: remedy.Tag, Target: row.ID}, ledger.WhyChangedBack, time.Now())
	if e, err = row.Entity(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Tables().Replace(ctx, ledger.TableVMs, e); err != nil {
		t.Fatal(err)
	}
	wants(do(1, "brakes", "show"), "tripped 20", "501 objects would have been changed", "breaker", "vm-bad", "tag", "changed-back")
	var v handlers.BrakesView
	if err := json.Unmarshal([]byte(do(1, "brakes", "-o", "json")), &v); err != nil || !v.Breaker.Tripped || len(v.Held) != 1 || len(v.Held[0].Stopped) != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	wants(do(0, "vms"), "non-compliant (shadow: compliant)")
	if said := do(0, "vms", "--differ"); !strings.Contains(said, "vm-bad") || strings.Contains(said, "vm-good") {
		t.Error(said)
	}
	if said := do(0, "vms", "--refused"); !strings.Contains(said, "vm-bad") || strings.Contains(said, "vm-good") {
		t.Error(said)
	}
	wants(do(2, "vms", standInVM("vm-bad"), "--differ"), "--differ and --refused go with the list")
	wants(do(0, "vms", standInVM("vm-bad")), "braked by", "stopped", "tag (changed-back)", "shadow policy's verdict", "AZURE POLICY WOULD HAVE REFUSED IT BY", "vm-kind", "it is no confidential VM")
	wants(do(1, "brakes", "resume", "--vm", standInVM("vm-bad"), "--step", "quarantine"), `refused --step "quarantine"`, "give one that is: tag")
	wants(do(0, "brakes", "resume", "--vm", standInVM("vm-bad"), "--step", "tag"), "the steps may be taken again, 1 object put on the loop")
	if !a.queued(`"kind":"resume"`) {
		t.Error("nothing was said to the VM's turn")
	}
	row.ETag = ""
	if e, err = a.store.Tables().Get(ctx, ledger.TableVMs, pk, rk); err != nil {
		t.Fatal(err)
	}
	row.ETag = e.ETag
	if e, err = row.Entity(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.store.Tables().Replace(ctx, ledger.TableVMs, e); err != nil {
		t.Fatal(err)
	}
	wants(do(0, "brakes", "reset", "-o", "json"), `"reset": "breaker"`, `"enqueued": 1`)
	wants(do(0, "brakes"), "last reset")
	if b, err := books.Breaker(ctx); err != nil || b.Tripped || b.Epoch != 1 {
		t.Errorf("%+v, %v", b, err)
	}
}

// The breaker's limits are told as the policy has them.
func TestTheBreakersLimitsAreTold(t *testing.T) {
	for want, b := range map[string]handlers.BreakerView{
		"500 objects, or 50% of the VMs (13 known); the share counts from 20 objects on": {Most: 500, Share: "50%", ShareFrom: 20, VMs: 13},
		"1 object":                      {Most: 1, Share: "0%", ShareFrom: 20},
		"10% of the VMs (1 known)":      {Share: "10%", ShareFrom: 1, VMs: 1},
		"no limit is set in the policy": {Share: "0%"},
	} {
		if got := limitsOf(b); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
