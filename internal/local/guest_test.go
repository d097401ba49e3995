package local_test

import (
	"encoding/json"
	"testing"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/azuresim/hardware"
	"cvmguard/internal/cvm"
	"cvmguard/internal/local"
)

// guarded makes a world with one sound confidential VM.
func guarded(t *testing.T, mode string) (*local.World, string) {
	t.Helper()
	w := world(t, local.Options{Mode: mode})
	w.Sim.AddVault(azuresim.VaultSpec{Name: "kv-guarded"})
	key, err := w.Sim.AddKey(azuresim.KeySpec{Vault: "kv-guarded", Name: "k"})
	if err != nil {
		t.Fatal(err)
	}
	des, err := w.Sim.AddDES(azuresim.DESSpec{Name: "des-guarded", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	id, err := w.Sim.AddVM(azuresim.VMSpec{Name: "vm-guarded", DES: des, Extensions: []string{"GuestAttestation"}})
	if err != nil {
		t.Fatal(err)
	}
	w.Sim.Reset()
	return w, id
}

func announce(t *testing.T, w *local.World, id string) local.RunVM {
	t.Helper()
	if err := w.Publish(t.Context(), []azuresim.Event{w.Sim.VMEvent(id, "write", true)}); err != nil {
		t.Fatal(err)
	}
	return result(t, w, id)
}

func result(t *testing.T, w *local.World, id string) local.RunVM {
	t.Helper()
	rest(t, w, []string{id})
	run, err := w.Result(t.Context(), []string{id}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return run.VMs[0]
}

// TestAGuestPushesItsEvidence: where policy only observes, evidence comes by the
// guest's push alone.
func TestAGuestPushesItsEvidence(t *testing.T) {
	w, id := guarded(t, "observe")
	if v := announce(t, w, id); v.Verdict != "unknown" || v.Attestation.Evidence.Reason != "evidence-not-collected" {
		t.Fatalf("before the push: %s", show(v))
	}
	if err := w.Guest(id).Push(t.Context(), w.Host().URL()); err != nil {
		t.Fatal(err)
	}
	if v := result(t, w, id); v.Verdict != "compliant" || v.Attestation.MAA.State != cvm.Pass || v.Attestation.Evidence.State != cvm.Pass {
		t.Errorf("after the push: %s", show(v))
	}
	if made := w.Sim.Writes(azuresim.HandlerPrincipal); len(made) > 0 {
		t.Errorf("observing wrote: %v", made)
	}
}

// TestBadEvidence has guests and tokens that lie, one to a VM: each is refused
// with its code, through the whole of the local world.
func TestBadEvidence(t *testing.T) {
	w, good := guarded(t, "enforce")
	cases := []struct {
		name          string
		machine       hardware.Fault
		token         hardware.MAAFault
		verdict       string
		evidence, maa string // codes
	}{
		{"other-vm", hardware.FaultOtherVM, "", "non-compliant", "bind.vm", "maa.other-evidence"},
		{"other-ak", hardware.FaultOtherAK, "", "non-compliant", "quote.signature", ""},
		{"old-nonce", hardware.FaultOldNonce, "", "non-compliant", "nonce.unknown", "maa.not-called"},
		{"wrong-nonce", hardware.FaultWrongNonce, "", "non-compliant", "nonce.mismatch", ""},
		{"no-vcek", hardware.FaultNoVCEK, "", "unknown", "", "snp.no-vcek"},
		{"agent-fails", hardware.FaultAgentFails, "", "unknown", "evidence-not-collected", "evidence-not-collected"},
		{"unknown-kid", "", hardware.MAAUnknownKid, "non-compliant", "", "maa.kid"},
		{"foreign-jku", "", hardware.MAAForeignJKU, "non-compliant", "", "maa.jku"},
		{"no-isolation", "", hardware.MAAGuestShape, "non-compliant", "", "maa.type"},
		{"alg-none", "", hardware.MAAAlgNone, "non-compliant", "", "maa.alg-none"},
		{"server-error", "", hardware.MAAServerError, "unknown", "", "maa.unavailable"},
	}
	vm, ok := w.Sim.Resource(good)
	if !ok {
		t.Fatal("the sound VM is gone")
	}
	des := secureDES(t, vm)
	ids := []string{good}
	events := []azuresim.Event{w.Sim.VMEvent(good, "write", true)}
	for _, c := range cases {
		id, err := w.Sim.AddVM(azuresim.VMSpec{Name: "vm-" + c.name, DES: des, Extensions: []string{"GuestAttestation"}})
		if err != nil {
			t.Fatal(err)
		}
		g := w.Guest(id)
		if c.machine != "" {
			g.Machine.SetFaults(c.machine)
		}
		if c.token != "" {
			w.MAA.Inject(g.Machine.Config().VMUniqueID, c.token, 100)
		}
		ids, events = append(ids, id), append(events, w.Sim.VMEvent(id, "write", true))
	}
	if err := w.Publish(t.Context(), events); err != nil {
		t.Fatal(err)
	}
	rest(t, w, ids)
	run, err := w.Result(t.Context(), ids, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if run.VMs[0].Verdict != "compliant" {
		t.Errorf("the sound VM is %s: %s", run.VMs[0].Verdict, show(run.VMs[0].Attestation))
	}
	for i, c := range cases {
		v := run.VMs[i+1]
		if string(v.Verdict) != c.verdict || v.Attestation.Evidence.Reason != c.evidence || v.Attestation.MAA.Reason != c.maa {
			t.Errorf("%s is %s, %+v; want %s by evidence %q, token %q", c.name, v.Verdict, v.Attestation, c.verdict, c.evidence, c.maa)
		}
	}
}

// secureDES is the disk encryption set that a VM's body names for its OS disk.
func secureDES(t *testing.T, vm map[string]any) string {
	t.Helper()
	var body struct {
		Properties struct {
			StorageProfile struct {
				OSDisk struct {
					ManagedDisk struct {
						SecurityProfile struct {
							DiskEncryptionSet struct{ ID string }
						}
					}
				}
			}
		}
	}
	b, err := json.Marshal(vm)
	if err == nil {
		err = json.Unmarshal(b, &body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return body.Properties.StorageProfile.OSDisk.ManagedDisk.SecurityProfile.DiskEncryptionSet.ID
}
