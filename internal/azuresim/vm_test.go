package azuresim

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

func TestVMIsReadAsAzureShowsIt(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	got := must[armcompute.VirtualMachinesClientGetResponse](t)(vms.Get(ctx(t), "RG-CVM", "VM-cvm-CMK", &armcompute.VirtualMachinesClientGetOptions{Expand: to.Ptr(armcompute.InstanceViewTypesInstanceView)}))
	p := got.Properties
	switch {
	case *got.ID != w.vm, *got.Etag != `"1"`, *p.SecurityProfile.SecurityType != armcompute.SecurityTypesConfidentialVM,
		*p.StorageProfile.OSDisk.ManagedDisk.SecurityProfile.DiskEncryptionSet.ID != w.des,
		*p.InstanceView.HyperVGeneration != armcompute.HyperVGenerationTypeV2, *p.InstanceView.Statuses[1].Code != "PowerState/running",
		*p.InstanceView.VMAgent.Statuses[0].DisplayStatus != "Ready", len(got.Resources) != 1, *got.Resources[0].Name != "GuestAttestation":
		t.Fatalf("got %+v", got.VirtualMachine)
	}
	_, _, raw := call(t, s, HandlerPrincipal, "GET", armURL(w.vm)+"&$expand=instanceView", nil)
	sameShape(t, raw, vector(t, "vm-cvm-cmk.json"), "properties.storageProfile.dataDisks")
	sameShape(t, at(raw, "properties", "instanceView"), vector(t, "vm-instanceview-running.json"))
	_, err := vms.Get(ctx(t), "rg-cvm", "absent", nil)
	wantError(t, err, 404, "ResourceNotFound")
	_, err = vms.Get(ctx(t), "rg-absent", "vm", nil)
	wantError(t, err, 404, "ResourceGroupNotFound")
}

func TestVMListsInPages(t *testing.T) {
	s := start(t, Options{PageSize: 2})
	small(t, s)
	for _, n := range []string{"a", "b", "c", "d"} {
		must[string](t)(s.AddVM(VMSpec{Name: "vm-" + n, Kind: "standard-gen2", Group: "rg-" + n}))
	}
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	pages, n := 0, 0
	for p := vms.NewListAllPager(nil); p.More(); pages++ {
		page, err := p.NextPage(ctx(t))
		ok(t, err)
		n += len(page.Value)
	}
	if pages != 3 || n != 5 {
		t.Fatalf("got %d VMs in %d pages", n, pages)
	}
	page, err := vms.NewListPager("rg-a", nil).NextPage(ctx(t))
	ok(t, err)
	if len(page.Value) != 1 || *page.Value[0].Name != "vm-a" {
		t.Fatalf("got %d VMs in rg-a", len(page.Value))
	}
}

func TestVMTagsByPatch(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	p, err := vms.BeginUpdate(ctx(t), "rg-cvm", "vm-cvm-cmk", armcompute.VirtualMachineUpdate{Tags: map[string]*string{"a": to.Ptr("1")}},
		&armcompute.VirtualMachinesClientBeginUpdateOptions{IfMatch: to.Ptr(`"1"`)})
	ok(t, err)
	got, err := p.PollUntilDone(ctx(t), nil)
	ok(t, err)
	if len(got.Tags) != 1 || *got.Tags["a"] != "1" || *got.Etag == `"1"` || *got.Properties.ProvisioningState != "Succeeded" {
		t.Fatalf("got tags %v, etag %s, %s", got.Tags, *got.Etag, *got.Properties.ProvisioningState)
	}
	_, err = vms.BeginUpdate(ctx(t), "rg-cvm", "vm-cvm-cmk", armcompute.VirtualMachineUpdate{Tags: map[string]*string{}},
		&armcompute.VirtualMachinesClientBeginUpdateOptions{IfMatch: to.Ptr(`"1"`)})
	wantError(t, err, 412, "PreconditionFailed")
	if n := len(s.Writes(HandlerPrincipal)); n != 1 {
		t.Fatalf("the log has %d accepted writes, want 1: %+v", n, s.Calls())
	}
	_, _, body := call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{}}, "If-Match", `"0"`)
	sameShape(t, body, vector(t, "error-412-etag.json")["body"])
}

func TestVMLifeByRequests(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	c := ctx(t)
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	power := func() string {
		t.Helper()
		v, err := vms.InstanceView(c, "rg-cvm", "vm-cvm-cmk", nil)
		ok(t, err)
		return *v.Statuses[1].Code
	}
	d, err := vms.BeginDeallocate(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = d.PollUntilDone(c, nil)
	ok(t, err)
	disk, _ := s.Resource(w.vm[:len(w.vm)-len("virtualMachines/vm-cvm-cmk")] + "disks/vm-cvm-cmk-os")
	if power() != "PowerState/deallocated" || str(disk, "properties", "diskState") != "Reserved" {
		t.Fatalf("power %s, disk %s", power(), str(disk, "properties", "diskState"))
	}
	_, _, view := call(t, s, HandlerPrincipal, "GET", "https://management.azure.com"+w.vm+"/instanceView"+computeAPI, nil)
	sameShape(t, view, vector(t, "vm-instanceview-deallocated.json"))
	_, err = vms.BeginRestart(c, "rg-cvm", "vm-cvm-cmk", nil)
	wantError(t, err, 409, "OperationNotAllowed")
	st, err := vms.BeginStart(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = st.PollUntilDone(c, nil)
	ok(t, err)
	if power() != "PowerState/running" {
		t.Fatal(power())
	}
	del, err := vms.BeginDelete(c, "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	_, err = del.PollUntilDone(c, nil)
	ok(t, err)
	_, err = vms.Get(c, "rg-cvm", "vm-cvm-cmk", nil)
	wantError(t, err, 404, "ResourceNotFound")
	if _, there := s.Resource(disk["id"].(string)); there {
		t.Fatal("the OS disk outlived its VM's deleteOption Delete")
	}
	data, there := s.Resource(w.vm[:len(w.vm)-len("virtualMachines/vm-cvm-cmk")] + "disks/vm-cvm-cmk-data0")
	if !there || str(data, "properties", "diskState") != "Unattached" || str(data, "managedBy") != "" {
		t.Fatalf("the data disk is %v", data)
	}
}

func TestVMCreatedByRequest(t *testing.T) {
	s := start(t, Options{Location: "northeurope"})
	w := small(t, s)
	req := vector(t, "req-put-vm-cvm-cmk.json")
	url := "https://management.azure.com/subscriptions/" + s.Subscription() + "/resourceGroups/rg-cvm/providers/Microsoft.Compute/virtualMachines/vm-new" + computeAPI
	put(req, w.des, "properties", "storageProfile", "osDisk", "managedDisk", "securityProfile", "diskEncryptionSet", "id")
	put(req, "vm-new-os", "properties", "storageProfile", "osDisk", "name")
	status, header, body := call(t, s, HandlerPrincipal, "PUT", url, req)
	lro := vector(t, "lro-vm-put.json")
	if float64(status) != at(lro, "first", "status") {
		t.Fatalf("status %d: %v", status, body)
	}
	for h := range at(lro, "first", "headers").(doc) {
		if header.Get(h) == "" {
			t.Errorf("the first answer has no %s", h)
		}
	}
	_, _, poll := call(t, s, HandlerPrincipal, "GET", header.Get("Azure-AsyncOperation"), nil)
	sameShape(t, poll, at(lro, "poll").([]any)[1].(doc)["body"])
	_, _, vm := call(t, s, HandlerPrincipal, "GET", url, nil)
	if str(vm, "properties", "provisioningState") != "Succeeded" || str(vm, "properties", "vmId") == "" {
		t.Fatalf("got %v", vm)
	}
	disk, there := s.Resource(str(vm, "properties", "storageProfile", "osDisk", "managedDisk", "id"))
	if !there || str(disk, "properties", "securityProfile", "securityType") != "ConfidentialVM_DiskEncryptedWithCustomerKey" ||
		!same(str(disk, "properties", "securityProfile", "secureVMDiskEncryptionSetId"), w.des) {
		t.Fatalf("the OS disk is %v", disk)
	}
}
