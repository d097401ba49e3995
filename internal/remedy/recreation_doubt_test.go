package remedy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// begun is a re-creation of which the first steps are taken.
func begun(t *testing.T, s *site, o RecreationOptions, steps int) (Operation, *AzureApplier, *policy.Document) {
	t.Helper()
	d := document(t, "enforce")
	op, err := PlanRecreation(s.input(t, d, o))
	if err != nil {
		t.Fatal(err)
	}
	a := s.applier(d)
	a.Azure = s
	s.take(t, a, op, 0, steps)
	return op, a, d
}

func (s *site) take(t *testing.T, a *AzureApplier, op Operation, from, to int) {
	t.Helper()
	for _, st := range op.Steps[from:to] {
		if p := drive(t, s.world, a, st, false); p.State != Effected {
			t.Fatalf("%s: %s: %v", st.Kind, p.State, p.Err)
		}
	}
}

// refusedFor drives a step that must be refused with nothing sent.
func (s *site) refusedFor(t *testing.T, a *AzureApplier, st Step, wants ...string) {
	t.Helper()
	sent := fmt.Sprint(s.writes)
	p := drive(t, s.world, a, st, false)
	for _, want := range wants {
		if p.State != Refused || !strings.Contains(fmt.Sprint(p.Err), want) {
			t.Errorf("%s: %s: %v, want a refusal that says %q", st.Kind, p.State, p.Err, want)
		}
	}
	if fmt.Sprint(s.writes) != sent {
		t.Errorf("%s: sent %v, had sent %s", st.Kind, s.writes, sent)
	}
}

func (s *site) attach(lun int, name string) {
	storage := inner(inner(s.body, "properties"), "storageProfile")
	list, _ := storage["dataDisks"].([]any)
	storage["dataDisks"] = append(slices.Clone(list), object{"lun": float64(lun), "name": name, "createOption": "Attach", "managedDisk": object{"id": "/subscriptions/x/" + name}})
}

func (s *site) attached() (out []string) {
	list, _ := at(s.body, "properties", "storageProfile", "dataDisks").([]any)
	for _, v := range list {
		out = append(out, fmt.Sprint(v.(object)["name"]))
	}
	return out
}

// A disk that was attached since the plan was made is never detached by a list that
// doesn't know it.
func TestKeepingPartsDetachesNothing(t *testing.T) {
	t.Run("attached before the look", func(t *testing.T) {
		s := newSite(t)
		op, a, _ := begun(t, s, RecreationOptions{}, 1)
		s.attach(2, "new")
		if p, err := a.Look(t.Context(), op.Steps[1], testSecrets); err != nil || p.State != Refused {
			t.Errorf("the look says %s, %v", p.State, err)
		}
		s.refusedFor(t, a, op.Steps[1], "isn't as it was", "make a new plan")
		if got := s.attached(); !slices.Equal(got, []string{"vm1-data0", "new"}) {
			t.Errorf("attached are %q", got)
		}
	})
	t.Run("attached between look and start", func(t *testing.T) {
		s := newSite(t)
		op, a, _ := begun(t, s, RecreationOptions{}, 1)
		if p, err := a.Look(t.Context(), op.Steps[1], testSecrets); err != nil || p.State != NotThere {
			t.Fatal(p, err)
		}
		s.attach(2, "new")
		if p, err := a.Start(t.Context(), op.Steps[1], testSecrets); err != nil || p.State != Refused || len(s.writes) != 0 {
			t.Errorf("%s, %v, sent %v", p.State, err, s.writes)
		}
	})
	t.Run("the PATCH is of the body just read", func(t *testing.T) {
		s := newSite(t)
		op, a, _ := begun(t, s, RecreationOptions{}, 1)
		dataDisk(s)["detachOption"] = "ForceDetach" // nothing that the plan rests on
		s.take(t, a, op, 1, 2)
		if got := dataDisk(s); got["detachOption"] != "ForceDetach" || got["deleteOption"] != "Detach" {
			t.Errorf("the disk's entry is %v", got)
		}
	})
	t.Run("on the way back", func(t *testing.T) {
		s := newSite(t)
		op, a, d := begun(t, s, RecreationOptions{}, 5)
		back := s.back(t, op, d)
		s.take(t, a, back, 0, 1)
		s.attach(2, "new")
		s.refusedFor(t, a, back.Steps[1], "isn't as it was")
	})
}

// What may change while a VM is down, and makes its new one's creation doubtful.
var changesInTheGap = map[string]struct {
	change func(*site)
	want   string
}{
	"the key was disabled":   {func(s *site) { k := s.keys[keyV1]; k.Enabled = cvm.False; s.putKey(k) }, "isn't enabled"},
	"a lock":                 {func(s *site) { s.locks = []Lock{{ID: "/l/keep", Level: "CanNotDelete"}} }, "the lock keep"},
	"no right to join":       {func(s *site) { s.lack = []string{"Microsoft.Network/networkInterfaces/join/action"} }, "lacks Microsoft.Network/networkInterfaces/join/action on /subscriptions/x/nic1"},
	"accelerated networking": {func(s *site) { s.fast = true }, "accelerated networking"},
	"the size went":          {func(s *site) { s.noSize = true }, "isn't offered"},
	"a disk was attached":    {func(s *site) { s.attach(2, "new"); detachAll(s) }, "isn't as it was"},
	"resized": {func(s *site) {
		inner(inner(s.body, "properties"), "hardwareProfile")["vmSize"] = "Standard_D8s_v5"
	}, "isn't as it was"},
}

func detachAll(s *site) {
	for _, v := range at(s.body, "properties", "storageProfile", "dataDisks").([]any) {
		v.(object)["deleteOption"] = "Detach"
	}
}

// A pause between take-down and delete-vm has no end of its own.
func TestAVMIsNotDeletedInDoubt(t *testing.T) {
	for name, c := range changesInTheGap {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			op, a, _ := begun(t, s, RecreationOptions{}, 3)
			c.change(s)
			s.refusedFor(t, a, op.Steps[3], c.want, "mend what is named and resume, or stop the operation, start the VM (az vm start --ids "+string(vmID)+") and plan again")
			if s.gone {
				t.Error("the VM is gone")
			}
		})
	}
}

// back plans the way back from where the site stands.
func (s *site) back(t *testing.T, op Operation, d *policy.Document) Operation {
	t.Helper()
	body, err := s.VMBody(t.Context(), vmID)
	if err != nil {
		t.Fatal(err)
	}
	free := s.disks[osID]
	free.ManagedBy = ""
	s.disks[osID] = free
	out, err := PlanRecreationBack(op, cvm.Known(s.vm), body, cvm.Known(free), d, testNow, "me")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// otherDES is a disk encryption set like the policy's, which a VM had before.
const otherDES = cvm.DESID(sub + "Microsoft.Compute/diskEncryptionSets/des-old")

// confidentialSite is a site whose VM is confidential already, its disk encryption
// set one of its own.
func confidentialSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	old := s.sets[desID]
	old.ID, old.Name = otherDES, "des-old"
	s.sets[otherDES] = old
	props := inner(s.body, "properties")
	inner(props, "hardwareProfile")["vmSize"] = "Standard_DC4as_v5"
	inner(props, "securityProfile")["securityType"] = "ConfidentialVM"
	inner(inner(inner(props, "storageProfile"), "osDisk"), "managedDisk")["securityProfile"] =
		object{"securityEncryptionType": "DiskWithVMGuestState", "diskEncryptionSet": object{"id": string(otherDES)}}
	s.show(t, powerRunning)
	return s
}

// The way back asks what it rests on before the new VM is taken down, and again
// before it is deleted.
func TestTheWayBackIsNotTakenInDoubt(t *testing.T) {
	for name, c := range map[string]struct {
		confidential bool
		change       func(*site)
		want         string
	}{
		"a lock":                     {change: changesInTheGap["a lock"].change, want: "the lock keep"},
		"no right to delete":         {change: func(s *site) { s.lack = []string{"Microsoft.Compute/virtualMachines/delete"} }, want: "lacks Microsoft.Compute/virtualMachines/delete"},
		"no right to join":           {change: changesInTheGap["no right to join"].change, want: "networkInterfaces/join/action"},
		"the size went":              {change: func(s *site) { s.noSize = true }, want: "isn't offered"},
		"the old disk is gone":       {change: func(s *site) { delete(s.disks, osID) }, want: "is gone: there is nothing to go back to"},
		"the old disk is elsewhere":  {change: func(s *site) { d := s.disks[osID]; d.ManagedBy = "/other"; s.disks[osID] = d }, want: "is attached to /other"},
		"the new VM was changed":     {change: changesInTheGap["a disk was attached"].change, want: "isn't as it was"},
		"the old set is gone":        {confidential: true, change: func(s *site) { delete(s.sets, otherDES) }, want: "the disk encryption set isn't there"},
		"the old VM's key is off":    {confidential: true, change: changesInTheGap["the key was disabled"].change, want: "isn't enabled"},
		"networking was accelerated": {confidential: true, change: func(s *site) { s.fast = true }, want: "accelerated networking"},
	} {
		for _, step := range []int{0, 2, 3} {
			t.Run(fmt.Sprintf("%s, step %d", name, step+1), func(t *testing.T) {
				s := newSite(t)
				if c.confidential {
					s = confidentialSite(t)
				}
				d := document(t, "enforce")
				in := s.input(t, d, RecreationOptions{Image: "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm:latest"})
				in.Verdict.Findings = append(in.Verdict.Findings, policy.Finding{State: cvm.Fail, Class: policy.NeedsRecreate})
				in.Verdict.Value = policy.NonCompliant
				op, err := PlanRecreation(in)
				if err != nil {
					t.Fatal(err)
				}
				a := s.applier(d)
				a.Azure = s
				s.take(t, a, op, 0, 5)
				back := s.back(t, op, d)
				var kinds []Kind
				for _, st := range back.Steps {
					kinds = append(kinds, st.Kind)
				}
				if want := []Kind{CheckRecreation, KeepParts, TakeDown, DeleteVM, CreateVM}; !slices.Equal(kinds, want) {
					t.Fatalf("steps %v, want %v", kinds, want)
				}
				s.take(t, a, back, 0, step)
				c.change(s)
				s.refusedFor(t, a, back.Steps[step], c.want)
			})
		}
	}
}

// An ordinary VM is gone back to whatever has become of the new one's key path.
func TestTheWayBackDoesNotNeedTheNewKey(t *testing.T) {
	s := newSite(t)
	op, a, d := begun(t, s, RecreationOptions{}, 5)
	back := s.back(t, op, d)
	delete(s.sets, desID)
	s.fast = true
	s.take(t, a, back, 0, 5)
	if s.vm.SecurityType != "TrustedLaunch" || s.vm.OSDisk.ID != osID {
		t.Errorf("the old VM is %+v", s.vm)
	}
}

// Somebody's VM that took the name in the gap isn't taken for the one that was to be
// created.
func TestAForeignVMIsNotAdopted(t *testing.T) {
	foreigner := func(s *site) {
		s.gone = false
		s.vm.UniqueID, s.vm.ProvisioningState, s.vm.Power = "99999999-0000-0000-0000-000000000000", "Succeeded", powerRunning
	}
	t.Run("there", func(t *testing.T) {
		for name, c := range map[string]struct {
			change func(*cvm.VM)
			want   string
		}{
			"ours":                 {func(*cvm.VM) {}, ""},
			"ordinary":             {func(vm *cvm.VM) { vm.SecurityType = "" }, `its security type is "", not "ConfidentialVM"`},
			"another set":          {func(vm *cvm.VM) { vm.OSDisk.SecureDES = otherDES }, "its disk encryption set is"},
			"under the platform's": {func(vm *cvm.VM) { vm.OSDisk.SecureDES = "" }, "its disk encryption set is"},
			"another disk":         {func(vm *cvm.VM) { vm.OSDisk.Name = "theirs" }, `its OS disk is "theirs", not "vm1-os-11111111"`},
			"another size":         {func(vm *cvm.VM) { vm.Size = "Standard_DC8as_v5" }, "its size is"},
			"another image":        {func(vm *cvm.VM) { vm.Image.Offer = "theirs" }, "its image is"},
			"of an image of one's": {func(vm *cvm.VM) { vm.Image = cvm.Image{ID: "/theirs"} }, "its image is"},
			"failed and foreign":   {func(vm *cvm.VM) { vm.ProvisioningState, vm.SecurityType = "Failed", "TrustedLaunch" }, "somebody created another VM of that name"},
		} {
			s := newSite(t)
			op, a, _ := begun(t, s, RecreationOptions{}, 4)
			created, err := described(vmID, op.Steps[4].Args[argBody])
			if err != nil {
				t.Fatal(err)
			}
			s.vm = created
			foreigner(s)
			c.change(&s.vm)
			if c.want != "" {
				s.refusedFor(t, a, op.Steps[4], c.want, "somebody created another VM of that name", "resume once they have deleted it, or stop the operation")
			} else if p := drive(t, s.world, a, op.Steps[4], false); p.State != Effected {
				t.Errorf("%s: %s: %v", name, p.State, p.Err)
			}
		}
	})
	t.Run("and back", func(t *testing.T) {
		s := newSite(t)
		op, a, d := begun(t, s, RecreationOptions{}, 5)
		back := s.back(t, op, d)
		s.take(t, a, back, 0, 4)
		old, err := described(vmID, back.Steps[4].Args[argBody])
		if err != nil {
			t.Fatal(err)
		}
		s.vm = old
		foreigner(s)
		s.vm.OSDisk.ID = "/somebody/elses/" + cvm.DiskID(osID.Name())
		s.refusedFor(t, a, back.Steps[4], "somebody created another VM of that name: its OS disk is")
		s.vm.OSDisk.ID = osID
		if p := drive(t, s.world, a, back.Steps[4], false); p.State != Effected {
			t.Errorf("%s: %v", p.State, p.Err)
		}
	})
}

// What the new VM is to be made of is asked for before the old one is taken down.
func TestRightsOnWhatTheNewVMNames(t *testing.T) {
	const compute = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/"
	for name, c := range map[string]struct {
		image, group string
		lack         string // "" for none
		want         string
	}{
		"image":                  {image: compute + "images/i", lack: "Microsoft.Compute/images/read", want: "lacks Microsoft.Compute/images/read on " + compute + "images/i: grant it there"},
		"gallery's version":      {image: compute + "galleries/x/images/i/versions/1.0.0", lack: "Microsoft.Compute/galleries/images/versions/read", want: "/versions/1.0.0: grant it there"},
		"gallery's newest":       {image: compute + "galleries/x/images/i", lack: "Microsoft.Compute/galleries/images/read", want: "lacks Microsoft.Compute/galleries/images/read"},
		"gallery's newest's own": {image: compute + "galleries/x/images/i", lack: "Microsoft.Compute/galleries/images/versions/read", want: "lacks Microsoft.Compute/galleries/images/versions/read"},
		"community's":            {image: "/CommunityGalleries/x-1/Images/i/Versions/latest", lack: "Microsoft.Compute/galleries/images/versions/read"},
		"reservation":            {group: compute + "capacityReservationGroups/r", lack: "Microsoft.Compute/capacityReservationGroups/deploy/action", want: compute + "capacityReservationGroups/r: grant it there"},
		"identity":               {lack: "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action", want: "on /subscriptions/x/id1: deploy with"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, step := range []int{0, 2, 3} {
				s := newSite(t)
				if c.group != "" {
					inner(s.body, "properties")["capacityReservation"] = object{"capacityReservationGroup": object{"id": c.group}}
					inner(inner(s.body, "properties"), "hardwareProfile")["vmSize"] = "Standard_DC4as_v5"
					s.show(t, powerRunning)
				}
				op, a, _ := begun(t, s, RecreationOptions{Image: c.image}, step)
				s.lack = []string{c.lack}
				if c.want != "" {
					s.refusedFor(t, a, op.Steps[step], c.want)
				} else {
					s.take(t, a, op, step, step+1)
				}
			}
		})
	}
}

// A plan of a kind that says nothing of what it rests on is taken for one that
// doesn't stand.
func TestAStepWithoutWhatItRestsOnIsRefused(t *testing.T) {
	s := newSite(t)
	op, a, _ := begun(t, s, RecreationOptions{}, 3)
	var st Step
	text, err := json.Marshal(op.Steps[3])
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(st.Args, argDigest)
	s.refusedFor(t, a, st, "isn't as it was")
	st = op.Steps[4]
	st.Args = map[string]string{argVMUnique: op.Steps[4].Args[argVMUnique]}
	if _, err := a.Look(t.Context(), st, testSecrets); !fault.Is(err, fault.Bug) {
		t.Errorf("%v, want a bug", err)
	}
}
