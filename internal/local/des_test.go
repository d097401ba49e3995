package local_test

import (
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/local"
)

// TestTwoVMsRepairTheirSetOnce has two VMs on one disk encryption set with a
// fault, judged at the same time by two workers: exactly one PATCH.
func TestTwoVMsRepairTheirSetOnce(t *testing.T) {
	w := world(t, local.Options{Mode: "enforce", Operation: 800 * time.Millisecond})
	w.Sim.AddVault(azuresim.VaultSpec{Name: "kv-shared"})
	key, err := w.Sim.AddKey(azuresim.KeySpec{Vault: "kv-shared", Name: "k"})
	if err != nil {
		t.Fatal(err)
	}
	des, err := w.Sim.AddDES(azuresim.DESSpec{Name: "des-shared", Key: key, AutoRotation: true})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	var events []azuresim.Event
	for _, name := range []string{"vm-one", "vm-two"} {
		id, err := w.Sim.AddVM(azuresim.VMSpec{Name: name, DES: des, Extensions: []string{"GuestAttestation"}})
		if err != nil {
			t.Fatal(err)
		}
		ids, events = append(ids, id), append(events, w.Sim.VMEvent(id, "write", true))
	}
	w.Sim.Reset()
	w.Sim.SetDelivery(azuresim.Delivery{Copies: 3})
	if err := w.Publish(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	rest(t, w, ids)
	patches := 0
	for _, c := range w.Sim.Writes(azuresim.HandlerPrincipal) {
		if c.Method == "PATCH" && strings.Contains(strings.ToLower(c.Path), "/diskencryptionsets/") {
			patches++
		}
	}
	if patches != 1 {
		t.Errorf("%d PATCHes of the set, want 1", patches)
	}
	run, err := w.Result(t.Context(), ids, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range run.VMs {
		if v.Verdict != "compliant" {
			t.Errorf("%s is %s: %s", v.Name, v.Verdict, show(v))
		}
	}
}
