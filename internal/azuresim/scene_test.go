package azuresim

import (
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"cvmguard/internal/cvm"
)

func TestSceneIsTheWorldThatItSays(t *testing.T) {
	s := start(t, Options{})
	sc, err := BuildScene(s, clock)
	ok(t, err)
	c := compute(t, s, HandlerPrincipal)
	kinds := map[cvm.Kind]int{}
	for _, v := range sc.VMs {
		kinds[v.Kind]++
		status, _, body := call(t, s, HandlerPrincipal, "GET", armURL(v.ID)+"&$expand=instanceView", nil)
		if status != 200 || str(body, "properties", "provisioningState") != "Succeeded" {
			t.Fatalf("%s: %d %v", v.Name, status, body)
		}
		vm := must[armcompute.VirtualMachinesClientGetResponse](t)(c.NewVirtualMachinesClient().Get(ctx(t), sc.Group, v.Name, nil))
		disk := vm.Properties.StorageProfile.OSDisk.ManagedDisk
		d := must[armcompute.DisksClientGetResponse](t)(c.NewDisksClient().Get(ctx(t), sc.Group, v.Name+"-os", nil))
		if !same(*d.ManagedBy, v.ID) || !same(*disk.ID, *d.ID) {
			t.Errorf("%s: the disk is %s of %s", v.Name, *d.ID, *d.ManagedBy)
		}
		if v.Kind == cvm.KindCustomerKey {
			set := *disk.SecurityProfile.DiskEncryptionSet.ID
			if d.Properties.SecurityProfile.SecureVMDiskEncryptionSetID == nil || !same(set, *d.Properties.SecurityProfile.SecureVMDiskEncryptionSetID) ||
				*d.Properties.SecurityProfile.ConfidentialVMVersion != "V1" {
				t.Errorf("%s: disk and VM name different sets", v.Name)
			}
			if why := s.keyUnusable(set); why != "" {
				t.Errorf("%s would not boot: %s", v.Name, why)
			}
		}
		wantTEE := map[cvm.TEE]string{cvm.TEESNP: "SNP", cvm.TEETDX: "TDX", cvm.TEENone: ""}[v.TEE]
		i := slices.IndexFunc(s.VMs(), func(i VMInfo) bool { return i.Name == v.Name })
		if got := s.VMs()[i].TEE; got != wantTEE {
			t.Errorf("%s: TEE %s, want %s", v.Name, got, wantTEE)
		}
	}
	if len(sc.VMs) != 13 || kinds[cvm.KindCustomerKey] != 8 || len(kinds) != 6 {
		t.Fatalf("%d VMs, kinds %v", len(sc.VMs), kinds)
	}
	auto := must[armcompute.DiskEncryptionSetsClientGetResponse](t)(c.NewDiskEncryptionSetsClient().Get(ctx(t), sc.Group, "des-auto", nil))
	if !*auto.Properties.RotationToLatestKeyVersionEnabled {
		t.Fatal("des-auto does not rotate")
	}
	n := 0
	for p := c.NewDiskEncryptionSetsClient().NewListAssociatedResourcesPager(sc.Group, "des-auto", nil); p.More(); {
		page, err := p.NextPage(ctx(t))
		ok(t, err)
		n += len(page.Value)
	}
	if n != 2 {
		t.Fatalf("%d disks on des-auto", n)
	}
	closed := keysOf(t, s, sceneClosed+".vault.azure.net", HandlerPrincipal)
	_, err = closed.GetKey(ctx(t), "cvm-os-key", "", nil)
	wantError(t, err, 403, "Forbidden")
	_, err = keysOf(t, s, sceneHSM+".managedhsm.azure.net", HandlerPrincipal).GetKey(ctx(t), "cvm-os-key", "", nil)
	ok(t, err)
}

func TestSceneIsPlayedInStages(t *testing.T) {
	s := start(t, Options{EmitEvents: true})
	h := newHook(t, nil)
	ok(t, s.Subscribe(ctx(t), Subscription{Name: "a", Topic: TopicSubscription, URL: h.url}))
	sc, err := BuildScene(s, clock)
	ok(t, err)
	var types []string
	for i := range sc.Stages {
		events, err := sc.Play(i)
		ok(t, err)
		for _, e := range events {
			types = append(types, e.Type[strings.LastIndexByte(e.Type, '.')+1:])
		}
	}
	want := strings.Repeat("ResourceWriteSuccess ", 13) + "ResourceActionSuccess ResourceWriteSuccess ResourceWriteSuccess ResourceWriteSuccess ResourceDeleteSuccess KeyExpired"
	if got := strings.Join(types, " "); got != want {
		t.Fatalf("got %s", got)
	}
	if _, there := s.Resource(sc.VM("vm-short-lived").ID); there {
		t.Fatal("vm-short-lived is still there")
	}
	got := must[armcompute.VirtualMachinesClientGetResponse](t)(compute(t, s, HandlerPrincipal).NewVirtualMachinesClient().Get(ctx(t), sc.Group, "vm-tdx-kv", nil))
	if !strings.Contains(*got.ID, "/RG-CVM/") || *to.Ptr(*got.Name) != "vm-tdx-kv" {
		t.Fatalf("the id is %s", *got.ID)
	}
	if i := slices.IndexFunc(s.VMs(), func(i VMInfo) bool { return i.Name == "vm-snp-kv" }); s.VMs()[i].Boots != 2 {
		t.Fatal("vm-snp-kv did not boot again")
	}
	ok(t, s.WaitDelivered(ctx(t)))
	if n := len(h.events()); n != 0 {
		t.Fatalf("the scene's own changes published %d events", n)
	}
	if len(s.Calls()) > 0 && s.Calls()[0].Kind == KindWrite {
		t.Fatal("world-making is in the call log")
	}
	if _, err := sc.Play(9); err == nil {
		t.Fatal("a stage that is not there was played")
	}
}
