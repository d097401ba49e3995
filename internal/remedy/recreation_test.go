package remedy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// site is a world with one VM that ARM shows as a body, which can be deleted and
// created.
type site struct {
	*world
	body    object
	gone    bool
	created []string
	fast    bool     // accelerated networking is on
	locks   []Lock   // on the VM
	lack    []string // actions that the identity lacks
	unread  bool     // network interfaces and locks can't be read
}

const trustedBody = `{"name":"vm1","id":"%s","type":"Microsoft.Compute/virtualMachines","location":"northeurope","zones":["1"],
"tags":{"owner":"me","cvmguard-verdict":"non-compliant"},
"identity":{"type":"SystemAssigned, UserAssigned","principalId":"p","userAssignedIdentities":{"/subscriptions/x/id1":{"clientId":"c"}}},
"properties":{"vmId":"11111111-1111-1111-1111-111111111111","provisioningState":"Succeeded","hardwareProfile":{"vmSize":"Standard_D4s_v5"},
"securityProfile":{"securityType":"TrustedLaunch","uefiSettings":{"secureBootEnabled":true,"vTpmEnabled":true}},
"storageProfile":{"imageReference":{"publisher":"Canonical","offer":"0001-com-ubuntu-server-jammy","sku":"22_04-lts-gen2","version":"latest"},
"osDisk":{"osType":"Linux","name":"vm1-os","createOption":"FromImage","caching":"ReadWrite","deleteOption":"Delete","managedDisk":{"id":"%s","storageAccountType":"Premium_LRS"}},
"dataDisks":[{"lun":1,"name":"vm1-data0","createOption":"Attach","caching":"ReadOnly","managedDisk":{"id":"%s"}}]},
"osProfile":{"computerName":"vm1","adminUsername":"azureuser","linuxConfiguration":{"disablePasswordAuthentication":true,"ssh":{"publicKeys":[{"path":"/home/azureuser/.ssh/authorized_keys","keyData":"ssh-ed25519 AAAA it's ${me}"}]}},"requireGuestProvisionSignal":true},
"networkProfile":{"networkInterfaces":[{"id":"/subscriptions/x/nic1","properties":{"primary":true}}]}},
"resources":[{"name":"AADSSHLoginForLinux","properties":{"publisher":"Microsoft.Azure.ActiveDirectory","type":"AADSSHLoginForLinux","typeHandlerVersion":"1.0","autoUpgradeMinorVersion":true}},
{"name":"setup","properties":{"publisher":"Microsoft.Azure.Extensions","type":"CustomScript","typeHandlerVersion":"2.1"}}]}`

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{world: newWorld()}
	if err := json.Unmarshal(fmt.Appendf(nil, trustedBody, vmID, osID, data0ID), &s.body); err != nil {
		t.Fatal(err)
	}
	s.show(t, powerRunning)
	s.disks[osID] = cvm.Disk{ID: osID, Name: "vm1-os", Location: "northeurope", ManagedBy: string(vmID), SecurityType: "TrustedLaunch", HasSecurityProfile: true}
	return s
}

// show makes the typed VM of the body.
func (s *site) show(t testing.TB, power string) {
	t.Helper()
	text, err := canonical(s.body)
	if err != nil {
		t.Fatal(err)
	}
	if s.vm, err = cvm.ParseVM([]byte(text)); err != nil {
		t.Fatal(err)
	}
	s.vm.Power, s.vm.ETag = power, `"1"`
}

func (s *site) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) {
	if s.gone {
		return cvm.VM{}, fault.New(fault.NotFound, "reading VM", string(id), "404")
	}
	return s.world.VM(ctx, id)
}

func (s *site) VMBody(ctx context.Context, id cvm.VMID) ([]byte, error) {
	if _, err := s.VM(ctx, id); err != nil {
		return nil, err
	}
	text, err := canonical(s.body)
	return []byte(text), err
}

func (s *site) DESDisks(context.Context, cvm.DESID) ([]cvm.DiskID, error) { return nil, nil }

func (s *site) BeginVMPatch(_ context.Context, _ cvm.VMID, etag string, body []byte) (Progress, error) {
	if etag != s.vm.ETag {
		return Progress{}, fault.New(fault.Conflict, "changing VM", "", "412")
	}
	var patch object
	if err := json.Unmarshal(body, &patch); err != nil {
		return Progress{}, err
	}
	return s.begin("patch", func() { s.vm.ProvisioningState = "Updating" }, func() {
		s.vm.ProvisioningState = "Succeeded"
		overlay(s.body, patch)
	}, func() {})
}

// overlay is a merge as ARM makes it: an array takes the place of another.
func overlay(o, patch object) {
	for k, v := range patch {
		if p, ok := v.(object); ok {
			if was, ok := o[k].(object); ok {
				overlay(was, p)
				continue
			}
		}
		o[k] = v
	}
}

func (s *site) BeginDeallocate(context.Context, cvm.VMID) (Progress, error) {
	return s.begin("deallocate", func() { s.vm.Power = "deallocating" }, func() { s.vm.Power = powerDeallocated }, func() {})
}

func (s *site) BeginVMDelete(context.Context, cvm.VMID) (Progress, error) {
	return s.begin("delete", func() { s.vm.ProvisioningState = "Deleting" }, func() { s.gone = true }, func() {})
}

func (s *site) BeginVMCreate(_ context.Context, id cvm.VMID, body []byte) (Progress, error) {
	if !s.gone {
		return Progress{}, fault.New(fault.Conflict, "creating VM", string(id), "412")
	}
	var vm object
	if err := json.Unmarshal(body, &vm); err != nil {
		return Progress{}, err
	}
	s.created = append(s.created, string(body))
	return s.begin("create", func() {
		s.gone = false
		vm["id"], vm["name"], vm["type"] = string(id), "vm1", "Microsoft.Compute/virtualMachines"
		props := inner(vm, "properties")
		props["vmId"], props["provisioningState"] = fmt.Sprintf("22222222-2222-2222-2222-%012d", len(s.created)), "Creating"
		s.body = vm
		text, err := canonical(vm)
		if err == nil {
			s.vm, err = cvm.ParseVM([]byte(text))
		}
		if err != nil {
			panic(err)
		}
		s.vm.Power, s.vm.ETag = "starting", `"1"`
	}, func() {
		s.vm.ProvisioningState, s.vm.Power, s.vm.AgentReady = "Succeeded", powerRunning, cvm.True
		inner(s.body, "properties")["provisioningState"] = "Succeeded"
	}, func() {})
}

func (s *site) BeginExtension(_ context.Context, _ cvm.VMID, _, name string, ext ExtensionSpec) (Progress, error) {
	return s.begin("extension", func() {
		s.vm.Extensions = append(s.vm.Extensions, cvm.Extension{Name: name, Publisher: ext.Publisher, Type: ext.Type, ProvisioningState: "Creating"})
	}, func() { s.vm.Extensions[len(s.vm.Extensions)-1].ProvisioningState = "Succeeded" }, func() {})
}

func (s *site) NetworkInterface(_ context.Context, id string) (NetworkInterface, error) {
	if s.unread {
		return NetworkInterface{}, fault.New(fault.Denied, "reading network interface", id, "403")
	}
	return NetworkInterface{ID: id, Accelerated: s.fast}, nil
}

func (s *site) Locks(_ context.Context, id cvm.VMID) ([]Lock, error) {
	if s.unread {
		return nil, fault.New(fault.Denied, "reading locks", string(id), "403")
	}
	return s.locks, nil
}

func (s *site) Lacking(_ context.Context, _ string, actions []string) ([]string, error) {
	var out []string
	for _, a := range actions {
		if slices.Contains(s.lack, a) {
			out = append(out, a)
		}
	}
	return out, nil
}

var _ Recreator = (*site)(nil)

func (s *site) input(t testing.TB, d *policy.Document, o RecreationOptions) RecreationInput {
	t.Helper()
	v := policy.Judge(cvm.Posture{ID: vmID, VM: cvm.Known(s.vm), OSDisk: cvm.Known(s.disks[osID])}, d, testNow)
	in, err := ReadRecreation(context.Background(), s, vmID, o, v, d, testNow)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestARecreationKeepsWhatCanBeKept(t *testing.T) {
	s := newSite(t)
	op, err := PlanRecreation(s.input(t, document(t, "enforce"), RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []Kind
	for _, st := range op.Steps {
		kinds = append(kinds, st.Kind)
	}
	if want := []Kind{CheckRecreation, KeepParts, TakeDown, DeleteVM, CreateVM, RestoreExtension}; !slices.Equal(kinds, want) {
		t.Fatalf("steps %v, want %v", kinds, want)
	}
	var got object
	create := op.Steps[4]
	if err := json.Unmarshal([]byte(create.Args[argBody]), &got); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]any{
		"location":                                       "northeurope",
		"tags.owner":                                     "me",
		"tags.cvmguard-verdict":                          nil,
		"identity.type":                                  "SystemAssigned, UserAssigned",
		"identity.principalId":                           nil,
		"properties.vmId":                                nil,
		"properties.hardwareProfile.vmSize":              "Standard_DC4as_v5",
		"properties.osProfile.adminUsername":             "azureuser",
		"properties.osProfile.customData":                nil,
		"properties.securityProfile.securityType":        "ConfidentialVM",
		"properties.storageProfile.imageReference.offer": "0001-com-ubuntu-confidential-vm-jammy",
		"properties.storageProfile.osDisk.name":          "vm1-os-11111111",
		"properties.storageProfile.osDisk.deleteOption":  "Detach",
		"properties.storageProfile.osDisk.managedDisk.securityProfile.securityEncryptionType": "DiskWithVMGuestState",
		"properties.storageProfile.osDisk.managedDisk.securityProfile.diskEncryptionSet.id":   string(desID),
	} {
		if v := at(got, strings.Split(path, ".")...); v != want {
			t.Errorf("%s is %v, want %v", path, v, want)
		}
	}
	disks := at(got, "properties", "storageProfile", "dataDisks").([]any)
	if len(disks) != 1 || at(disks[0].(object), "managedDisk", "id") != string(data0ID) || disks[0].(object)["lun"] != 1.0 || disks[0].(object)["createOption"] != "Attach" {
		t.Errorf("data disks: %v", disks)
	}
	var back object
	if err := json.Unmarshal([]byte(create.Before[BeforeBody]), &back); err != nil {
		t.Fatal(err)
	}
	if at(back, "properties", "storageProfile", "osDisk", "managedDisk", "id") != string(osID) || at(back, "properties", "storageProfile", "osDisk", "createOption") != "Attach" ||
		at(back, "properties", "osProfile") != nil || at(back, "properties", "securityProfile", "securityType") != "TrustedLaunch" || at(back, "properties", "hardwareProfile", "vmSize") != "Standard_D4s_v5" {
		t.Errorf("the way back: %s", create.Before[BeforeBody])
	}
	if !slices.ContainsFunc(op.Lost, func(s string) bool { return strings.Contains(s, "setup") }) {
		t.Errorf("an extension with protected settings isn't told as lost: %q", op.Lost)
	}
	again, err := PlanRecreation(s.input(t, document(t, "enforce"), RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(op)
	b, _ := json.Marshal(again)
	if string(a) != string(b) {
		t.Error("the same VM gives two plans")
	}
}

func TestTheBicepIsOneVM(t *testing.T) {
	op, err := PlanRecreation(newSite(t).input(t, document(t, "enforce"), RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	text, err := RecreationBicep(op)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"resource vm 'Microsoft.Compute/virtualMachines@", "  name: 'vm1'\n", `keyData: 'ssh-ed25519 AAAA it\'s \${me}'`, "secureBootEnabled: true", "lun: 1\n", "'/subscriptions/x/id1': {}"} {
		if !strings.Contains(text, want) {
			t.Errorf("the file lacks %q:\n%s", want, text)
		}
	}
	if strings.Count(text, "{") != strings.Count(text, "}") {
		t.Errorf("its braces don't match:\n%s", text)
	}
	commands, err := RecreationCommands(op, "vm1.bicep")
	if err != nil {
		t.Fatal(err)
	}
	order := []string{"  az disk-encryption-set show", "  az vm list-skus", "  az rest --method patch", "  az vm deallocate", "  az snapshot create", "  az vm delete", "fi", "az deployment group create", "az vm extension set"}
	last := -1
	for _, o := range order {
		i := slices.IndexFunc(commands, func(c string) bool { return strings.HasPrefix(c, o) })
		if i <= last {
			t.Errorf("%q is command %d, after %d: %q", o, i, last, commands)
		}
		last = i
	}
}

func dataDisk(s *site) object {
	return at(s.body, "properties", "storageProfile", "dataDisks").([]any)[0].(object)
}

func TestARecreationIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*site)
		doc    []string
		opts   RecreationOptions
		want   string
	}{
		"Windows":                {change: func(s *site) { s.vm.OS = "Windows" }, want: "password"},
		"scale set":              {change: func(s *site) { s.vm.ScaleSet = "/x/vmss1" }, want: "scale set"},
		"ephemeral":              {change: func(s *site) { s.vm.OSDisk.Ephemeral = true }, want: "ephemeral"},
		"an image of one's own":  {change: func(s *site) { s.vm.Image = cvm.Image{ID: "/subscriptions/x/images/mine"} }, want: "--image"},
		"no keys":                {change: func(s *site) { delete(inner(inner(s.body, "properties"), "osProfile"), "linuxConfiguration") }, want: "SSH key"},
		"purchase plan":          {change: func(s *site) { s.body["plan"] = object{"name": "x"} }, want: "purchase plan"},
		"dedicated host":         {change: func(s *site) { inner(s.body, "properties")["host"] = object{"id": "/h"} }, want: "dedicated host"},
		"key disabled":           {change: func(s *site) { k := s.keys[keyV1]; k.Enabled = cvm.False; s.putKey(k) }, want: "isn't enabled"},
		"orchestrator's right":   {change: func(s *site) { r := s.rights[keyURL]; r.Orchestrator = nil; s.rights[keyURL] = r }, want: "Orchestrator lacks"},
		"size not offered":       {change: func(s *site) { s.noSize = true }, want: "isn't offered"},
		"an ordinary size":       {opts: RecreationOptions{Size: "Standard_D4s_v5"}, want: "--size"},
		"no set":                 {doc: []string{"    des: " + string(desID) + "\n", "    des: " + sub + "Microsoft.Compute/diskEncryptionSets/none\n"}, want: "disk encryption set isn't there"},
		"orchestrator not named": {doc: []string{"orchestratorObjectId: " + orcheID + "\n", ""}, want: "orchestrator's object id"},
		"in motion":              {change: func(s *site) { s.vm.ProvisioningState = "Updating" }, want: "being changed"},
		"encrypted data disk":    {change: func(s *site) { d := s.disks[data0ID]; d.ADE = true; s.disks[data0ID] = d }, want: "Azure Disk Encryption"},
		"an ordinary image":      {opts: RecreationOptions{Image: "Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2:latest"}, want: "isn't one for confidential VMs"},
		"an image without TDX": {opts: RecreationOptions{Image: "Canonical:0001-com-ubuntu-confidential-vm-focal:20_04-lts-cvm", Size: "Standard_DC4es_v6"},
			want: "doesn't boot on"},
		"an image of Windows": {opts: RecreationOptions{Image: "MicrosoftWindowsServer:windowsserver:2022-datacenter-smalldisk-g2:latest"}, want: "another operating system"},
		"a set of another subscription": {opts: RecreationOptions{DES: "/subscriptions/99999999-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.Compute/diskEncryptionSets/d"},
			want: "another subscription"},
		"accelerated networking": {change: func(s *site) { s.fast = true }, want: "accelerated networking"},
		"a lock":                 {change: func(s *site) { s.locks = []Lock{{ID: "/l/keep", Level: "CanNotDelete"}} }, want: "the lock keep (CanNotDelete)"},
		"interface unread":       {change: func(s *site) { s.unread = true }, want: "network interface 0 wasn't read"},
		"locks unread":           {change: func(s *site) { s.unread = true }, want: "whether a lock keeps the VM wasn't read"},
		"reserved capacity": {change: func(s *site) {
			inner(s.body, "properties")["capacityReservation"] = object{"capacityReservationGroup": object{"id": "/g"}}
		},
			want: "capacity is reserved"},
		"a disk that isn't managed": {change: func(s *site) { dataDisk(s)["managedDisk"] = nil }, want: "isn't a managed disk"},
		"a confidential data disk": {change: func(s *site) {
			inner(dataDisk(s), "managedDisk")["securityProfile"] = object{"securityEncryptionType": "DataDiskEncryptedWithCustomerKey"}
		}, want: "encrypted confidentially"},
		"not wanted": {doc: []string{"rules:\n", "want: {include: [{name: other}]}\nrules:\n"}, want: "doesn't want it"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if c.change != nil {
				c.change(s)
			}
			_, err := PlanRecreation(s.input(t, document(t, "enforce", c.doc...), c.opts))
			if !fault.Is(err, fault.Blocked) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want a refusal that says %q", err, c.want)
			}
		})
	}
	t.Run("nothing to mend", func(t *testing.T) {
		s := newSite(t)
		in := s.input(t, document(t, "enforce"), RecreationOptions{})
		in.Verdict = policy.Verdict{Value: policy.Compliant}
		if _, err := PlanRecreation(in); err == nil || !strings.Contains(err.Error(), "nothing that a new VM would mend") {
			t.Fatal(err)
		}
	})
}

// Every step is taken once, whatever is lost of its answer, and the way back ends
// where it began.
func TestARecreationThereAndBack(t *testing.T) {
	for crash := -1; crash < 6; crash++ {
		s := newSite(t)
		d := document(t, "enforce")
		op, err := PlanRecreation(s.input(t, d, RecreationOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		a := s.applier(d)
		a.Azure = s
		for i, st := range op.Steps {
			if p := drive(t, s.world, a, st, i == crash); p.State != Effected {
				t.Fatalf("crash %d, %s: %s: %v", crash, st.Kind, p.State, p.Err)
			}
		}
		for kind, n := range s.writes {
			if n != 1 {
				t.Errorf("crash %d: %s was sent %d times", crash, kind, n)
			}
		}
		if s.vm.SecurityType != "ConfidentialVM" || s.vm.OSDisk.SecureDES != desID {
			t.Fatalf("the new VM is %+v", s.vm)
		}
		body, err := s.VMBody(context.Background(), vmID)
		if err != nil {
			t.Fatal(err)
		}
		free := s.disks[osID]
		free.ManagedBy = ""
		s.disks[osID] = free
		back, err := PlanRecreationBack(op, cvm.Known(s.vm), body, cvm.Known(free), d, testNow, "me")
		if err != nil {
			t.Fatal(err)
		}
		for _, st := range back.Steps {
			if p := drive(t, s.world, a, st, false); p.State != Effected {
				t.Fatalf("back, %s: %s: %v", st.Kind, p.State, p.Err)
			}
		}
		if s.vm.SecurityType != "TrustedLaunch" || s.vm.OSDisk.ID != osID || s.vm.Size != "Standard_D4s_v5" {
			t.Fatalf("the old VM is %+v", s.vm)
		}
	}
}

// Of two plans for one VM the second is refused for good once the first is done, and
// while the VM isn't there: no time makes the VM again that it was made for.
func TestASecondRecreationIsSuperseded(t *testing.T) {
	s := newSite(t)
	d := document(t, "enforce")
	op, err := PlanRecreation(s.input(t, d, RecreationOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	a := s.applier(d)
	a.Azure = s
	check := func(when string) {
		t.Helper()
		p := drive(t, s.world, a, op.Steps[0], false)
		if op.Steps[0].Kind != CheckRecreation || p.State != Refused || fault.Code(p.Err) != CodeSuperseded || !strings.Contains(p.Err.Error(), "make a new plan") {
			t.Errorf("%s: %s, %v", when, p.State, p.Err)
		}
	}
	for _, st := range op.Steps {
		if p := drive(t, s.world, a, st, false); p.State != Effected {
			t.Fatalf("%s: %s: %v", st.Kind, p.State, p.Err)
		}
		if st.Kind == DeleteVM {
			check("the VM is deleted")
		}
	}
	check("the VM was made anew")
}

func TestARecreationStopsWhenTheWorldHasChanged(t *testing.T) {
	type c struct {
		step   int
		change func(*site)
		want   string
	}
	for name, c := range map[string]c{
		"the VM was resized":     {0, func(s *site) { inner(inner(s.body, "properties"), "hardwareProfile")["vmSize"] = "Standard_D8s_v5" }, "isn't as it was"},
		"the key went":           {0, func(s *site) { k := s.keys[keyV1]; k.Enabled = cvm.False; s.putKey(k) }, "isn't enabled"},
		"accelerated networking": {0, func(s *site) { s.fast = true }, "accelerated networking"},
		"no right to delete it":  {0, func(s *site) { s.lack = []string{"Microsoft.Compute/virtualMachines/delete"} }, "deploy with grantRemedies and grantRecreation"},
		"a lock before it":       {2, func(s *site) { s.locks = []Lock{{ID: "/l/keep", Level: "CanNotDelete"}} }, "the lock keep"},
		"the key went before it": {2, func(s *site) { k := s.keys[keyV1]; k.Enabled = cvm.False; s.putKey(k) }, "isn't enabled"},
		"it was started again":   {3, func(s *site) { s.vm.Power = powerRunning }, "started it"},
		"a disk would be deleted": {3, func(s *site) {
			inner(inner(inner(s.body, "properties"), "storageProfile"), "osDisk")["deleteOption"] = "Delete"
		}, "would be deleted"},
		"the old VM is still there": {4, func(s *site) {}, "still there"},
		"the creation ended badly": {4, func(s *site) {
			s.vm = cvm.VM{ID: vmID, Name: "vm1", UniqueID: "33333333-3333-3333-3333-333333333333", ProvisioningState: "Failed", SecurityType: "ConfidentialVM",
				Size: "Standard_DC4as_v5", OSDisk: cvm.OSDiskRef{Name: "vm1-os-11111111"}}
		}, "look at its activity log"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			d := document(t, "enforce")
			op, err := PlanRecreation(s.input(t, d, RecreationOptions{}))
			if err != nil {
				t.Fatal(err)
			}
			a := s.applier(d)
			a.Azure = s
			for _, st := range op.Steps[:min(c.step, 3)] {
				if p := drive(t, s.world, a, st, false); p.State != Effected {
					t.Fatalf("%s: %s: %v", st.Kind, p.State, p.Err)
				}
			}
			sent := len(s.writes)
			c.change(s)
			p := drive(t, s.world, a, op.Steps[c.step], false)
			if p.State != Refused || !strings.Contains(fmt.Sprint(p.Err), c.want) {
				t.Fatalf("%s: %v, want a refusal that says %q", p.State, p.Err, c.want)
			}
			if len(s.writes) != sent {
				t.Error("something was sent all the same")
			}
		})
	}
}
