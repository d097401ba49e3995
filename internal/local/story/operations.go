package story

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/azuresim"
	"cvmguard/internal/cvm"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// plan asks the app for an operation's plan.
func (s *Stage) plan(ctx context.Context, ask map[string]any) (hash string, op remedy.Operation, err error) {
	var got struct {
		Hash      string           `json:"hash"`
		Operation remedy.Operation `json:"operation"`
	}
	err = s.Call(ctx, http.MethodPost, "/operations", ask, &got, http.StatusOK)
	return got.Hash, got.Operation, err
}

// word says a person's word to an operation.
func (s *Stage) word(ctx context.Context, hash, word string) error {
	return s.Call(ctx, http.MethodPost, "/operations/"+hash+"/"+word, nil, nil, http.StatusAccepted)
}

// ended waits for an operation's end and says its steps as they are done.
func (s *Stage) ended(ctx context.Context, hash string) error {
	said := 0
	var v handlers.OperationView
	err := s.Until(ctx, "the operation has ended", func() (bool, error) {
		if err := s.Call(ctx, http.MethodGet, "/operations/"+hash, nil, &v, http.StatusOK); err != nil {
			return false, err
		}
		for said < len(v.Steps) && v.Steps[said].State == remedy.Done {
			s.Say("  step %d, %s: done", said+1, v.Steps[said].Step)
			said++
		}
		return v.State == reconcile.OperationDone || v.State == reconcile.OperationFailed || v.State == reconcile.OperationMissing, nil
	})
	if err == nil && v.State != reconcile.OperationDone {
		b, merr := json.Marshal(v.Steps)
		if merr != nil {
			return merr
		}
		err = fmt.Errorf("%s: %s", v.Text, b)
	}
	if err != nil {
		return err
	}
	return s.Rest(ctx, s.VMs)
}

// setKey is the key that a disk encryption set names.
func (s *Stage) setKey(des string) string {
	body, _ := s.Sim.Resource(des)
	props, _ := body["properties"].(map[string]any)
	key, _ := props["activeKey"].(map[string]any)
	url, _ := key["keyUrl"].(string)
	return url
}

// rotation: a new key version is made, the rotation planned, approved by its hash,
// paused, resumed and carried out.
func rotation(ctx context.Context, s *Stage) error {
	keyURL, des, err := s.estate(3, azuresim.KeySpec{})
	if err != nil {
		return err
	}
	if err := s.Created(ctx); err != nil {
		return err
	}
	if err := s.Sim.DeallocateVM(s.VMs[2]); err != nil {
		return err
	}
	if err := s.Changed(ctx, s.VMs[2]); err != nil {
		return err
	}
	newer, err := s.Sim.NewKeyVersion(keyURL)
	if err != nil {
		return err
	}
	s.Say("three VMs on one set, %s deallocated by its owner; the key has a new version", name(s.VMs[2]))
	before := s.Writes()
	hash, op, err := s.plan(ctx, map[string]any{"kind": "rotate-key", "des": des, "key": newer, "wave": 1})
	if err != nil {
		return err
	}
	s.Say("the plan %s… has %d steps:", short(hash), len(op.Steps))
	for _, vm := range op.VMs {
		s.Say("  %s is down for about %s", vm.ID.Name(), vm.Downtime)
	}
	if err := s.Rest(ctx, s.VMs); err != nil {
		return err
	}
	s.Want(s.Writes() == before, "%d writes were made before anybody approved the plan", s.Writes()-before)
	for _, w := range []string{"pause", "approve", "resume"} {
		if err := s.word(ctx, hash, w); err != nil {
			return err
		}
		s.Say("a person says: %s", w)
		time.Sleep(1100 * time.Millisecond)
	}
	if err := s.ended(ctx, hash); err != nil {
		return err
	}
	s.Want(strings.EqualFold(s.setKey(des), newer), "the set names %s, not %s", s.setKey(des), newer)
	patches := 0
	for _, c := range s.Sim.Writes(azuresim.HandlerPrincipal) {
		if c.Method == http.MethodPatch && strings.HasSuffix(strings.ToLower(c.Path), strings.ToLower(des)) {
			patches++
		}
	}
	s.Want(patches == 1, "the set was written %d times, not once", patches)
	for i, id := range s.VMs {
		power := ""
		for _, vm := range s.Sim.VMs() {
			if strings.EqualFold(vm.ID, id) {
				power = vm.Power
			}
		}
		want := "running"
		if i == 2 {
			want = "deallocated"
		}
		s.Want(power == want, "%s is %s, not %s", name(id), power, want)
	}
	for _, id := range s.VMs[:2] {
		if err := s.Expect(ctx, id, "compliant"); err != nil {
			return err
		}
	}
	s.Say("the set names the new version, the two VMs that ran run again and have attested anew, %s stays down", name(s.VMs[2]))
	return nil
}

// recreation: a Trusted Launch VM is made anew as a confidential one, by an approved
// plan, and then the way back is taken.
func recreation(ctx context.Context, s *Stage) error {
	_, des, err := s.estate(0, azuresim.KeySpec{})
	if err != nil {
		return err
	}
	sseKey, err := s.Sim.AddKey(azuresim.KeySpec{Vault: vaultName, Name: "data-key", NotExportable: true})
	if err != nil {
		return err
	}
	sse, err := s.Sim.AddDES(azuresim.DESSpec{Name: "des-sse", Key: sseKey, Type: "EncryptionAtRestWithCustomerKey"})
	if err != nil {
		return err
	}
	id, err := s.Add(azuresim.VMSpec{Name: "vm-old", Kind: cvm.KindTrustedLaunch, DataDisks: []azuresim.DataDiskSpec{{DES: sse}}, Extensions: []string{"GuestAttestation"},
		Tags: map[string]string{"owner": "payments"}, Created: time.Now().Add(-time.Hour)})
	if err != nil {
		return err
	}
	s.Sim.Reset()
	if err := s.Created(ctx); err != nil {
		return err
	}
	if err := s.Expect(ctx, id, "non-compliant", "not-confidential"); err != nil {
		return err
	}
	old, err := s.Row(ctx, id)
	if err != nil {
		return err
	}
	s.Say("a Trusted Launch VM with a data disk: non-compliant, and nothing but a new VM can mend it")
	hash, op, err := s.plan(ctx, map[string]any{"kind": "recreate-vm", "vm": id, "des": des})
	if err != nil {
		return err
	}
	s.Say("the plan %s…: %s", short(hash), op.Why)
	if err := s.word(ctx, hash, "approve"); err != nil {
		return err
	}
	if err := s.ended(ctx, hash); err != nil {
		return err
	}
	if err := s.Expect(ctx, id, "compliant"); err != nil {
		return err
	}
	row, err := s.Row(ctx, id)
	if err != nil {
		return err
	}
	s.Want(row.UniqueID != old.UniqueID, "it is the same VM as before")
	s.Say("the new VM of the same name is compliant: %s, attested, with its data disk and tags", row.Kind)
	back, _, err := s.plan(ctx, map[string]any{"kind": "undo", "plan": hash})
	if err != nil {
		return err
	}
	if err := s.word(ctx, back, "approve"); err != nil {
		return err
	}
	if err := s.ended(ctx, back); err != nil {
		return err
	}
	if err := s.Expect(ctx, id, "non-compliant", "not-confidential"); err != nil {
		return err
	}
	s.Say("and the way back: the old VM runs on its old OS disk again")
	return nil
}
