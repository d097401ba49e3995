package story

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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

// telling says an operation's steps as they are done, each once and in their order.
type telling struct {
	hash string
	said int
	last handlers.OperationView
}

// look asks how far the operation has come, and says what was done since.
func (o *telling) look(ctx context.Context, s *Stage) error {
	if err := s.Call(ctx, http.MethodGet, "/operations/"+o.hash, nil, &o.last, http.StatusOK); err != nil {
		return err
	}
	for o.said < len(o.last.Steps) && o.last.Steps[o.said].State == remedy.Done {
		s.Say("  step %d, %s: done", o.said+1, o.last.Steps[o.said].Step)
		o.said++
	}
	return nil
}

// ended waits for an operation's end.
func (s *Stage) ended(ctx context.Context, o *telling) error {
	err := s.Until(ctx, "the operation has ended", func() (bool, error) {
		err := o.look(ctx, s)
		return o.last.State == reconcile.OperationDone || o.last.State == reconcile.OperationFailed || o.last.State == reconcile.OperationMissing, err
	})
	if err == nil && o.last.State != reconcile.OperationDone {
		b, merr := json.Marshal(o.last.Steps)
		if merr != nil {
			return merr
		}
		err = fmt.Errorf("%s: %s", o.last.Text, b)
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
		if vm.Running {
			s.Say("  %s is down for about %s", vm.ID.Name(), vm.Downtime)
		} else {
			s.Say("  %s is down and stays so", vm.ID.Name())
		}
	}
	if err := s.Rest(ctx, s.VMs); err != nil {
		return err
	}
	s.Want(s.Writes() == before, "nothing is written before somebody approves the plan", "%d writes", s.Writes()-before)
	other := strings.Repeat("0", len(hash))
	if err := s.Call(ctx, http.MethodPost, "/operations/"+other+"/approve", nil, nil, http.StatusNotFound); err != nil {
		return err
	}
	s.Say("nothing is written before somebody approves it; another hash is no plan")
	o := &telling{hash: hash}
	if err := s.paused(ctx, o, op, des); err != nil {
		return err
	}
	if err := s.word(ctx, hash, "resume"); err != nil {
		return err
	}
	s.Say("a person says: resume")
	if err := s.ended(ctx, o); err != nil {
		return err
	}
	s.Want(strings.EqualFold(s.setKey(des), newer), "the set names "+newer, "%s", s.setKey(des))
	patches := 0
	for _, c := range s.Sim.Writes(azuresim.HandlerPrincipal) {
		if c.Method == http.MethodPatch && strings.HasSuffix(strings.ToLower(c.Path), strings.ToLower(des)) {
			patches++
		}
	}
	s.Want(patches == 1, "the set is written once", "%s", times(patches))
	for i, id := range s.VMs {
		want := "running"
		if i == 2 {
			want = "deallocated"
		}
		s.Want(s.power(id) == want, name(id)+" is "+want+" in the end", "%s", s.power(id))
	}
	for _, id := range s.VMs[:2] {
		if err := s.Expect(ctx, id, "compliant"); err != nil {
			return err
		}
	}
	s.Say("the set names the new version, the two VMs that ran run again and have attested anew, %s stays down", name(s.VMs[2]))
	return nil
}

// firstWave is how long the first wave's deallocation takes: so long that the pause
// is said while it is under way, however slow the machine.
const firstWave = 6 * time.Second

// paused approves a rotation, says pause while its first wave is under way, and wants
// that this wave ends and the second isn't begun.
func (s *Stage) paused(ctx context.Context, o *telling, op remedy.Operation, des string) error {
	waves := slices.DeleteFunc(slices.Clone(op.Steps), func(st remedy.Step) bool { return st.Kind != remedy.DeallocateWave })
	if len(waves) != 2 {
		return fmt.Errorf("the plan has %d waves, not 2", len(waves))
	}
	one, two := waves[0], waves[1]
	slow := func(d map[string]time.Duration) {
		s.Sim.SetKnobs(func(k *azuresim.Knobs) { k.Operations = d })
	}
	slow(map[string]time.Duration{"Microsoft.Compute/virtualMachines/deallocate/action": firstWave})
	if err := s.word(ctx, o.hash, "approve"); err != nil {
		return err
	}
	s.Say("a person says: approve")
	if err := s.Until(ctx, "the first wave is under way", func() (bool, error) {
		err := o.look(ctx, s)
		return s.Writes(one.Target+"/deallocate") > 0, err
	}); err != nil {
		return err
	}
	if err := o.look(ctx, s); err != nil {
		return err
	}
	if err := s.word(ctx, o.hash, "pause"); err != nil {
		return err
	}
	slow(nil)
	s.Say("a person says: pause, while %s goes down (wave 1 of 2)", name(one.Target))
	if err := s.Until(ctx, "the first wave is down and the operation paused", func() (bool, error) {
		err := o.look(ctx, s)
		return o.said >= one.Number() && o.last.State == reconcile.OperationPaused, err
	}); err != nil {
		return err
	}
	if err := s.Rest(ctx, s.VMs); err != nil {
		return err
	}
	writes, key := s.Writes(), s.setKey(des)
	time.Sleep(2 * time.Second)
	if err := o.look(ctx, s); err != nil {
		return err
	}
	s.Want(o.last.State == reconcile.OperationPaused && o.said == one.Number(), fmt.Sprintf("it is paused after step %d, the first wave", one.Number()), "%s, %d of %d steps are done", o.last.State, o.said, len(o.last.Steps))
	s.Want(s.Writes() == writes && s.setKey(des) == key, "nothing more is written while it is paused", "%d writes", s.Writes()-writes)
	for id, want := range map[string]string{one.Target: "deallocated", two.Target: "running"} {
		s.Want(s.power(id) == want, name(id)+" is "+want+" between the waves", "%s", s.power(id))
	}
	s.Say("it is paused between the two waves: %d of %d steps are done, %s is down, %s runs, and nothing more is written", o.said, len(o.last.Steps), name(one.Target), name(two.Target))
	return nil
}

// power is a VM's power state, as the simulated Azure has it.
func (s *Stage) power(id string) string {
	for _, vm := range s.Sim.VMs() {
		if strings.EqualFold(vm.ID, id) {
			return vm.Power
		}
	}
	return ""
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
	ask := map[string]any{"kind": "recreate-vm", "vm": id, "des": des}
	s.Sim.SetAcceleratedNetworking(id, true)
	_, _, err = s.plan(ctx, ask)
	s.Want(err != nil && strings.Contains(err.Error(), "accelerated networking"), "no plan is made for a VM with accelerated networking", "%v", err)
	s.Sim.SetAcceleratedNetworking(id, false)
	s.Say("its network interface has accelerated networking, so no plan is made; its owner switches it off")
	before := s.Writes()
	hash, op, err := s.plan(ctx, ask)
	if err != nil {
		return err
	}
	s.Say("the plan %s…: %s", short(hash), op.Why)
	for _, lost := range op.Lost {
		s.Say("  lost: %s", lost)
	}
	if err := s.Rest(ctx, s.VMs); err != nil {
		return err
	}
	s.Want(s.Writes() == before, "nothing is written before somebody approves the plan", "%d writes", s.Writes()-before)
	oldDisk := remedy.OldOSDisk(op)
	if err := s.word(ctx, hash, "approve"); err != nil {
		return err
	}
	s.Say("a person approves it")
	if err := s.ended(ctx, &telling{hash: hash}); err != nil {
		return err
	}
	if err := s.Expect(ctx, id, "compliant"); err != nil {
		return err
	}
	row, err := s.Row(ctx, id)
	if err != nil {
		return err
	}
	s.Want(row.UniqueID != old.UniqueID, "it is another VM than before", "unique id %s, before %s", row.UniqueID, old.UniqueID)
	s.Want(row.Kind == cvm.KindCustomerKey, "it is a "+string(cvm.KindCustomerKey), "%s", row.Kind)
	s.parts(id, string(oldDisk))
	s.Say("the new VM of the same name is compliant: %s, attested, with its data disk, network interface, extension and tags; the old OS disk %s is kept", row.Kind, oldDisk.Name())
	back, _, err := s.plan(ctx, map[string]any{"kind": "undo", "plan": hash})
	if err != nil {
		return err
	}
	if err := s.word(ctx, back, "approve"); err != nil {
		return err
	}
	if err := s.ended(ctx, &telling{hash: back}); err != nil {
		return err
	}
	if err := s.Expect(ctx, id, "non-compliant", "not-confidential"); err != nil {
		return err
	}
	body, _ := s.Sim.Resource(id)
	disk := text(body, "properties", "storageProfile", "osDisk", "managedDisk", "id")
	s.Want(strings.EqualFold(disk, string(oldDisk)), "the VM is on its old OS disk "+oldDisk.Name(), "%s", name(disk))
	s.Say("and the way back: the old VM runs on its old OS disk again")
	return nil
}

// parts wants that a VM that was made anew has what it had, and that its old OS disk
// is there, attached to nothing.
func (s *Stage) parts(id, oldDisk string) {
	body, _ := s.Sim.Resource(id)
	s.Want(text(body, "tags", "owner") == "payments", "it has its tag owner", "%v", body["tags"])
	var attached []string
	for _, d := range items(body, "properties", "storageProfile", "dataDisks") {
		disk, _ := s.Sim.Resource(text(d, "managedDisk", "id"))
		attached = append(attached, text(disk, "managedBy"))
	}
	s.Want(len(attached) == 1 && strings.EqualFold(attached[0], id), "its data disk is attached to it", "attached to %v", attached)
	var tied []string
	for _, n := range items(body, "properties", "networkProfile", "networkInterfaces") {
		nic, _ := s.Sim.Resource(text(n, "id"))
		tied = append(tied, text(nic, "properties", "virtualMachine", "id"))
	}
	s.Want(len(tied) == 1 && strings.EqualFold(tied[0], id), "its network interface is tied to it", "tied to %v", tied)
	ext, ok := s.Sim.Resource(id + "/extensions/GuestAttestation")
	s.Want(ok && text(ext, "properties", "provisioningState") == "Succeeded", "its extension is there", "%s", text(ext, "properties", "provisioningState"))
	disk, ok := s.Sim.Resource(oldDisk)
	s.Want(ok && text(disk, "managedBy") == "" && text(disk, "properties", "diskState") == "Unattached", "the old OS disk is kept, attached to nothing", "%s", text(disk, "properties", "diskState"))
}

// value follows names through a body.
func value(body map[string]any, path ...string) any {
	var v any = body
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
	}
	return v
}

func text(body map[string]any, path ...string) string {
	s, _ := value(body, path...).(string)
	return s
}

func items(body map[string]any, path ...string) []map[string]any {
	list, _ := value(body, path...).([]any)
	var out []map[string]any
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
