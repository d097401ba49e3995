package reconcile

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// ubuntu is a guest whose image seals its root: what it claims, and what its vTPM
// proves.
type ubuntu struct {
	claims map[string]any
	pcrs   map[string]string
	ak     string
}

func newUbuntu() *ubuntu {
	return &ubuntu{ak: "key", pcrs: map[string]string{"4": "kernel 1", "7": "policy", "12": cvm.PCR12Fenced}, claims: map[string]any{
		"os_release": map[string]any{"ID": "ubuntu", "VERSION_ID": "22.04"}, "cloud_init": "done", "root_encrypted": true,
		"luks":     []any{map[string]any{"device": "/dev/sda1", "label": "cloudimg-rootfs-enc", "version": 2, "keyslots": []any{"0"}}},
		"dm_crypt": []any{map[string]any{"devices": []any{"/dev/sda1"}, "mounts": []any{"/"}}}, "growpart_key_file": false, "srk_template": false,
		"sealed_key": map[string]any{"path": "k", "modified": "2026-01-01T00:00:00Z"}, "trusted_assets": 1, "dbx_changed": false, "collected_at": "2026-01-01T00:00:00Z",
		"esp_kernels": []any{map[string]any{"path": "/boot/efi/EFI/ubuntu/kernel.efi-6.8.0-1021", "sha256": "aa", "trusted": true}}, "booted_kernel": "kernel.efi-6.8.0-1021"}}
}

// inVM puts the guest into a world's VM, and gives the loop a verifier to which its
// evidence is good.
func (u *ubuntu) inVM(w *world, l *Loop, name string) {
	w.change(name, func(v *cvm.VM) {
		v.Image = cvm.Image{Publisher: "canonical", Offer: "0001-com-ubuntu-confidential-vm-jammy", SKU: "22_04-lts-cvm"}
	})
	l.Judge = func(ctx context.Context, b []byte, n attest.Nonce, s attest.Subject, o attest.Options, now time.Time) attest.Result {
		res := judge(ctx, b, n, s, o, now)
		if res.Attestation.Evidence.State == cvm.Pass {
			res.Claims, res.Attestation.PCRs, res.Attestation.AK = maps.Clone(u.claims), maps.Clone(u.pcrs), u.ak
		}
		return res
	}
}

// fresh asks for evidence anew.
func fresh(t *testing.T, w *world, l *Loop, name, id string) ledger.Row {
	t.Helper()
	w.clock.Advance(time.Minute)
	w.send(t, Message{VM: string(vmIDOf(name)), Cause: ledger.Cause{Kind: "start", ID: id, At: w.clock.Now(), Fresh: true}})
	w.drain(t, l, nil)
	o := mustVM(t, name)
	w.atRest(t, o)
	return w.row(t, o)
}

func saysOf(r ledger.Row) string {
	var out []string
	for _, f := range r.Findings {
		if f.Reason != "" && f.State != cvm.NotApplicable && f.State != cvm.NotAsked && f.Reason != "key-no-expiry" {
			out = append(out, string(f.State)+" "+f.Reason)
		}
	}
	return strings.Join(out, ", ")
}

func TestTheGuestsClaimsAreKept(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o, u := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1"), newUbuntu()
	u.inVM(w, l, "vm1")
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	r := w.row(t, o)
	if r.Verdict != policy.Compliant || saysOf(r) != "" || r.Attestation.Claims == nil || r.Attestation.Claims.UbuntuFDE != cvm.True {
		t.Fatalf("%s, %s, %+v", r.Verdict, saysOf(r), r.Attestation)
	}
	recs := w.records(t, o)
	var p cvm.Posture
	if err := json.Unmarshal(recs[len(recs)-1].Record.Posture, &p); err != nil {
		t.Fatal(err)
	}
	if !p.Claims.Known || p.Claims.Value.RootEncrypted != cvm.True || strings.Contains(string(recs[len(recs)-1].Record.Posture), "2026-01-01T00:00:00Z") {
		t.Errorf("the record's posture has claims %+v", p.Claims)
	}

	// Looking again, and a process that has just started, see the same: no record.
	l2 := w.loop(t, policy.ModeEnforce)
	for i := range 3 {
		w.send(t, Message{VM: string(vmIDOf("vm1")), Cause: ledger.Cause{Kind: causeSweep, ID: fmt.Sprint(i), At: w.clock.Now()}})
		w.drain(t, l2, nil)
	}
	if n := len(w.records(t, o)); n != len(recs) || w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("%d records, were %d", n, len(recs))
	}
}

func TestAKernelUpdateIsFollowed(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o, u := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1"), newUbuntu()
	u.inVM(w, l, "vm1")
	w.announce(t, "vm1")
	w.drain(t, l, nil)

	newKernel := func(trusted bool) {
		u.claims["esp_kernels"] = append(u.claims["esp_kernels"].([]any)[:1:1], map[string]any{"path": "/boot/efi/EFI/ubuntu/kernel.efi-6.8.0-1030", "sha256": "bb", "trusted": trusted})
	}
	newKernel(false)
	if r := fresh(t, w, l, "vm1", "1"); r.Verdict != policy.NonCompliant || saysOf(r) != "fail reseal-pending" {
		t.Errorf("not resealed: %s, %s", r.Verdict, saysOf(r))
	}
	newKernel(true)
	if r := fresh(t, w, l, "vm1", "2"); r.Verdict != policy.Compliant || saysOf(r) != "pass reboot-pending" {
		t.Errorf("resealed: %s, %s", r.Verdict, saysOf(r))
	}
	u.claims["booted_kernel"], u.pcrs["4"] = "kernel.efi-6.8.0-1030", "kernel 2"
	r := fresh(t, w, l, "vm1", "3")
	if r.Verdict != policy.Compliant || saysOf(r) != "pass pcr-changed" || len(r.Attestation.Changed) != 1 || r.Attestation.Changed[0].PCR != "4" || r.Attestation.Changed[0].Was != "kernel 1" {
		t.Errorf("restarted: %s, %s, %+v", r.Verdict, saysOf(r), r.Attestation.Changed)
	}
	since := r.Attestation.Changed[0].Since
	if r = fresh(t, w, l, "vm1", "4"); saysOf(r) != "pass pcr-changed" || !r.Attestation.Changed[0].Since.Equal(since) {
		t.Errorf("once more: %s, %+v", saysOf(r), r.Attestation.Changed)
	}

	// Another VM of the same name has a past of its own.
	w.remove("vm1")
	w.create("vm1", 9)
	u.pcrs["7"] = "another policy"
	u.inVM(w, l, "vm1")
	if r = fresh(t, w, l, "vm1", "5"); r.Verdict != policy.Compliant || saysOf(r) != "" || len(r.Attestation.Changed) != 0 {
		t.Errorf("a new VM: %s, %s, %+v", r.Verdict, saysOf(r), r.Attestation)
	}
	w.atRest(t, o)
}

// A first boot that wasn't done leaves evidence due, at the slow pace.
func TestAFirstBootIsWaitedFor(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o, u := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1"), newUbuntu()
	u.inVM(w, l, "vm1")
	u.claims["cloud_init"], u.claims["growpart_key_file"] = "running", true
	w.announce(t, "vm1")
	w.until(t, l, 50*time.Minute)
	if r := w.row(t, o); r.Verdict != policy.Unknown || !strings.Contains(saysOf(r), "unknown fde-provisioning") || w.count("run-command") != 1 {
		t.Fatalf("%s, %s, %v", r.Verdict, saysOf(r), w.writes)
	}
	w.until(t, l, time.Hour)
	if w.count("run-command") != 2 {
		t.Errorf("collected %d times in two hours", w.count("run-command"))
	}
	u.claims["cloud_init"], u.claims["growpart_key_file"] = "done", false
	w.until(t, l, time.Hour)
	if r := w.row(t, o); r.Verdict != policy.Compliant || saysOf(r) != "" || w.count("run-command") != 3 {
		t.Errorf("%s, %s, collected %d times", r.Verdict, saysOf(r), w.count("run-command"))
	}
	w.until(t, l, 12*time.Hour)
	if w.count("run-command") != 3 {
		t.Errorf("collected %d times, though the first boot is done", w.count("run-command"))
	}
}

// Claims that aren't what the collector writes are none.
func TestClaimsOfAnotherForm(t *testing.T) {
	w := newWorld(t, "vm1")
	l, o, u := w.loop(t, policy.ModeEnforce), mustVM(t, "vm1"), newUbuntu()
	u.inVM(w, l, "vm1")
	u.claims["luks"] = "none of your business"
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Unknown || r.Attestation.Claims != nil || !strings.Contains(saysOf(r), "unknown evidence-not-collected") {
		t.Errorf("%s, %s, %+v", r.Verdict, saysOf(r), r.Attestation)
	}
}
