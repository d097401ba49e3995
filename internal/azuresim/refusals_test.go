package azuresim

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// refusal is one request that must be refused with the status, code and shape of
// a vector, or with the status and code given.
type refusal struct {
	name, method, url string
	body              any
	vector            string
	status            int
	code              string
}

func checkRefusals(t *testing.T, s *Sim, all []refusal) {
	t.Helper()
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			status, _, body := call(t, s, HandlerPrincipal, r.method, r.url, r.body)
			if r.vector != "" {
				v := vector(t, r.vector)
				r.status, r.code = int(v["_status"].(float64)), str(v, "body", "error", "code")
				sameShape(t, body, v["body"])
				if target := str(v, "body", "error", "target"); target != str(body, "error", "target") {
					t.Errorf("target %q, want %q", str(body, "error", "target"), target)
				}
			}
			if status != r.status || str(body, "error", "code") != r.code {
				t.Errorf("got %d %v, want %d %s", status, body, r.status, r.code)
			}
			if str(body, "error", "message") == "" {
				t.Error("no message")
			}
		})
	}
	if w := s.Writes(HandlerPrincipal); len(w) != 0 {
		t.Errorf("refused writes are marked accepted: %+v", w)
	}
}

func TestChangesOfAVMThatAzureRefuses(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	tl := must[string](t)(s.AddVM(VMSpec{Name: "vm-tl", Kind: "trusted-launch"}))
	eph := must[string](t)(s.AddVM(VMSpec{Name: "vm-eph", Kind: "standard-gen2", EphemeralOS: true}))
	props := func(v any, path ...string) doc {
		d := doc{}
		put(d, v, append([]string{"properties"}, path...)...)
		return d
	}
	disk := strings.Replace(w.vm, "virtualMachines/vm-cvm-cmk", "disks/vm-cvm-cmk-data0", 1)
	osDisk := strings.Replace(w.vm, "virtualMachines/vm-cvm-cmk", "disks/vm-cvm-cmk-os", 1)
	checkRefusals(t, s, []refusal{
		{name: "security type of a CVM", method: "PATCH", url: armURL(w.vm), body: props("TrustedLaunch", "securityProfile", "securityType"), vector: "error-409-propertychange-vm-securitytype.json"},
		{name: "Trusted Launch into a CVM", method: "PATCH", url: armURL(tl), body: props("ConfidentialVM", "securityProfile", "securityType"), vector: "error-409-propertychange-vm-securitytype.json"},
		{name: "confidential OS disk setting", method: "PATCH", url: armURL(w.vm), body: props("VMGuestStateOnly", "storageProfile", "osDisk", "managedDisk", "securityProfile", "securityEncryptionType"), vector: "error-409-propertychange-osdisk-securityprofile.json"},
		{name: "another confidential set", method: "PATCH", url: armURL(w.vm), body: props(w.hsmDES, "storageProfile", "osDisk", "managedDisk", "securityProfile", "diskEncryptionSet", "id"), vector: "error-409-propertychange-osdisk-securityprofile.json"},
		{name: "encryption at host while it runs", method: "PATCH", url: armURL(w.vm), body: props(true, "securityProfile", "encryptionAtHost"), vector: "error-409-operationnotallowed-deallocate-first.json"},
		{name: "secure boot of a CVM", method: "PATCH", url: armURL(w.vm), body: props(false, "securityProfile", "uefiSettings", "secureBootEnabled"), status: 409, code: "PropertyChangeNotAllowed"},
		{name: "a size without a TEE", method: "PATCH", url: armURL(w.vm), body: props("Standard_D4s_v5", "hardwareProfile", "vmSize"), status: 400, code: "InvalidParameter"},
		{name: "image", method: "PATCH", url: armURL(w.vm), body: props("other", "storageProfile", "imageReference", "offer"), status: 409, code: "PropertyChangeNotAllowed"},
		{name: "a body of the wrong type", method: "PATCH", url: armURL(w.vm), body: doc{"tags": "x"}, status: 400, code: "InvalidRequestContent"},
		{name: "no JSON", method: "PATCH", url: armURL(w.vm), body: []byte("{"), status: 400, code: "InvalidRequestContent"},
		{name: "ephemeral OS disk deallocated", method: "POST", url: strings.Replace(armURL(eph), "?", "/deallocate?", 1), status: 409, code: "OperationNotAllowed"},
		{name: "data disk's set while the VM runs", method: "PATCH", url: armURL(disk), body: props(doc{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": w.sse}, "encryption"), status: 409, code: "OperationNotAllowed"},
		{name: "encryption of a confidential OS disk", method: "PATCH", url: armURL(osDisk), body: props(doc{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": w.sse}, "encryption"), status: 409, code: "PropertyChangeNotAllowed"},
		{name: "security profile of a disk", method: "PATCH", url: armURL(osDisk), body: props("TrustedLaunch", "securityProfile", "securityType"), status: 409, code: "PropertyChangeNotAllowed"},
		{name: "no api-version", method: "GET", url: "https://management.azure.com" + w.vm, status: 400, code: "MissingApiVersionParameter"},
		{name: "another subscription", method: "GET", url: "https://management.azure.com/subscriptions/0/resourceGroups/g/providers/Microsoft.Compute/disks/d" + computeAPI, status: 404, code: "SubscriptionNotFound"},
		{name: "a type that is not kept", method: "GET", url: strings.Replace(armURL(disk), "/disks/", "/snapshots/", 1), status: 404, code: "NoSuchRoute"},
		{name: "extension of an absent VM", method: "GET", url: strings.Replace(armURL(w.vm), "vm-cvm-cmk?", "vm-absent/extensions?", 1), status: 404, code: "ParentResourceNotFound"},
	})
}

func TestCreationsThatAzureRefuses(t *testing.T) {
	s := start(t, Options{Location: "northeurope"})
	w := small(t, s)
	must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "off", Disabled: true}))
	weakless := must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "no-policy", NotExportable: true}))
	off := must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "off", Disabled: true}))
	later := must[string](t)(s.AddKey(KeySpec{Vault: "kv-cvm", Name: "later", NotBefore: clock.Add(time.Hour)}))
	base := "https://management.azure.com/subscriptions/" + s.Subscription() + "/resourceGroups/rg-cvm/providers/Microsoft.Compute/"
	request := func(change func(doc)) doc {
		d := vector(t, "req-put-vm-cvm-cmk.json")
		put(d, w.des, "properties", "storageProfile", "osDisk", "managedDisk", "securityProfile", "diskEncryptionSet", "id")
		change(d)
		return d
	}
	secure := []string{"properties", "storageProfile", "osDisk", "managedDisk", "securityProfile"}
	set := func(url string, change ...any) doc {
		d := doc{"location": "northeurope", "identity": doc{"type": "SystemAssigned"},
			"properties": doc{"encryptionType": confidentialDES, "activeKey": doc{"keyUrl": url}}}
		for i := 0; i+1 < len(change); i += 2 {
			put(d, change[i+1], "properties", change[i].(string))
		}
		return d
	}
	vm, des := base+"virtualMachines/vm-x"+computeAPI, base+"diskEncryptionSets/des-x"+computeAPI
	tl := must[string](t)(s.AddVM(VMSpec{Name: "vm-tl", Kind: "trusted-launch"}))
	ok(t, s.Edit(strings.Replace(tl, "virtualMachines/vm-tl", "disks/vm-tl-os", 1), func(b map[string]any) { delete(b, "managedBy") }))
	checkRefusals(t, s, []refusal{
		{name: "no encryption type", method: "PUT", url: vm, body: request(func(d doc) { drop(d, append(secure, "securityEncryptionType")...) }), vector: "error-400-securityencryptiontype-missing.json"},
		{name: "a misspelt encryption type", method: "PUT", url: vm, body: request(func(d doc) { put(d, "diskwithvmgueststate", append(secure, "securityEncryptionType")...) }), status: 400, code: "BadRequest"},
		{name: "an OS disk of another security type", method: "PUT", url: vm, body: request(func(d doc) {
			put(d, "Attach", "properties", "storageProfile", "osDisk", "createOption")
			put(d, strings.Replace(tl, "virtualMachines/vm-tl", "disks/vm-tl-os", 1), "properties", "storageProfile", "osDisk", "managedDisk", "id")
		}), vector: "error-400-osdisk-securitytype-mismatch.json"},
		{name: "a size without a TEE", method: "PUT", url: vm, body: request(func(d doc) { put(d, "Standard_D4s_v5", "properties", "hardwareProfile", "vmSize") }), status: 400, code: "InvalidParameter"},
		{name: "no vTPM", method: "PUT", url: vm, body: request(func(d doc) { put(d, false, "properties", "securityProfile", "uefiSettings", "vTpmEnabled") }), status: 400, code: "BadRequest"},
		{name: "guest state only with a set", method: "PUT", url: vm, body: request(func(d doc) { put(d, "VMGuestStateOnly", append(secure, "securityEncryptionType")...) }), status: 400, code: "BadRequest"},
		{name: "ephemeral vTPM on SEV-SNP", method: "PUT", url: vm, body: request(func(d doc) {
			put(d, "NonPersistedTPM", append(secure, "securityEncryptionType")...)
			drop(d, append(secure, "diskEncryptionSet")...)
		}), status: 400, code: "BadRequest"},
		{name: "a set of the wrong type", method: "PUT", url: vm, body: request(func(d doc) { put(d, w.sse, append(secure, "diskEncryptionSet", "id")...) }), status: 400, code: "BadRequest"},
		{name: "an image that is no CVM image", method: "PUT", url: vm, body: request(func(d doc) {
			put(d, "0001-com-ubuntu-server-jammy", "properties", "storageProfile", "imageReference", "offer")
		}), status: 400, code: "InvalidParameter"},
		{name: "a set on a key without a release policy", method: "PUT", url: des, body: set(weakless), vector: "error-400-key-without-release-policy.json"},
		{name: "a set on a disabled key", method: "PUT", url: des, body: set(off), status: 400, code: "BadRequest"},
		{name: "a set on a key that is not yet valid", method: "PUT", url: des, body: set(later), status: 400, code: "BadRequest"},
		{name: "a set on no key", method: "PUT", url: des, body: set("https://kv-cvm.vault.azure.net/keys/none/0123"), status: 400, code: "BadRequest"},
		{name: "a set on a key without a version", method: "PUT", url: des, body: set(w.key[:strings.LastIndex(w.key, "/")]), status: 400, code: "BadRequest"},
		{name: "a set of no known type", method: "PUT", url: des, body: set(w.key, "encryptionType", "x"), status: 400, code: "InvalidParameter"},
		{name: "the key of a set under a running VM", method: "PATCH", url: armURL(w.des), body: doc{"properties": doc{"activeKey": doc{"keyUrl": w.hsmKey}}}, status: 409, code: "OperationNotAllowed"},
		{name: "a set's type", method: "PATCH", url: armURL(w.des), body: doc{"properties": doc{"encryptionType": "EncryptionAtRestWithCustomerKey"}}, status: 409, code: "PropertyChangeNotAllowed"},
	})
}

func TestRotationWithAllVMsDeallocated(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	next := must[string](t)(s.NewKeyVersion(w.key))
	c := compute(t, s, HandlerPrincipal)
	ok(t, s.DeallocateVM(w.vm))
	patch := armcompute.DiskEncryptionSetUpdate{Properties: &armcompute.DiskEncryptionSetUpdateProperties{
		ActiveKey: &armcompute.KeyForDiskEncryptionSet{KeyURL: &next, SourceVault: &armcompute.SourceVault{ID: to.Ptr(s.idOf("", typeVault, "kv-cvm"))}}}}
	s.SetKnobs(func(k *Knobs) { k.Operation, k.RetryAfter = time.Hour, time.Millisecond })
	_, err := c.NewDiskEncryptionSetsClient().BeginUpdate(ctx(t), "rg-cvm", "des-cvm", patch, nil)
	ok(t, err)
	body, _ := s.Resource(w.des)
	sameShape(t, body, vector(t, "des-rotation-in-progress.json"))
	if len(body["properties"].(doc)["previousKeys"].([]any)) != 1 {
		t.Fatalf("previousKeys is %v", body["properties"].(doc)["previousKeys"])
	}
	sameShape(t, vector(t, "req-patch-des-new-key-version.json"), toDoc(patch))
}

func TestRoleLimitsTheHandler(t *testing.T) {
	role, err := ParseRole([]byte(`{"actions":["Microsoft.Compute/*/read","Microsoft.KeyVault/vaults/read"],"dataActions":["Microsoft.KeyVault/vaults/keys/read"]}`))
	ok(t, err)
	s := start(t, Options{Role: role})
	w := small(t, s)
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	_, err = vms.Get(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	status, _, body := call(t, s, HandlerPrincipal, "PATCH", armURL(w.vm), doc{"tags": doc{}})
	if m := str(body, "error", "message"); status != http.StatusForbidden || str(body, "error", "code") != "AuthorizationFailed" || !strings.Contains(m, "'Microsoft.Compute/virtualMachines/write'") {
		t.Fatalf("%d %v", status, body)
	}
	_, err = vms.BeginDeallocate(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	wantError(t, err, 403, "AuthorizationFailed")
	_, err = vms.BeginDeallocate(ctx(t), "rg-none", "vm", nil) // ARM looks at rights first
	wantError(t, err, 403, "AuthorizationFailed")
	_, err = compute(t, s, AdminPrincipal).NewVirtualMachinesClient().Get(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	s.Deny(HandlerPrincipal, "Microsoft.Compute/virtualMachines/read", "")
	_, err = vms.Get(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	wantError(t, err, 403, "AuthorizationFailed")
	s.Undeny(HandlerPrincipal, "microsoft.compute/virtualMachines/read")
	_, err = vms.Get(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	ok(t, err)
	if len(s.Writes("")) != 0 {
		t.Fatal("a refused write counts as accepted")
	}
}

func TestLinkedResourcesNeedTheirOwnRight(t *testing.T) {
	s := start(t, Options{Role: &Role{Actions: []string{"Microsoft.Compute/disks/*"}}})
	w := small(t, s)
	ok(t, s.DeallocateVM(w.vm))
	disk := strings.Replace(w.vm, "virtualMachines/vm-cvm-cmk", "disks/vm-cvm-cmk-data0", 1)
	body := doc{"properties": doc{"encryption": doc{"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": w.sse}}}
	status, _, got := call(t, s, HandlerPrincipal, "PATCH", armURL(disk), body)
	if status != 403 || str(got, "error", "code") != "LinkedAuthorizationFailed" {
		t.Fatalf("%d %v", status, got)
	}
	status, _, got = call(t, s, AdminPrincipal, "PATCH", armURL(disk), body)
	if status != 202 {
		t.Fatalf("%d %v", status, got)
	}
	now, _ := s.Resource(disk)
	sameShape(t, now, vector(t, "disk-data-sse-cmk.json"))
	vm, _ := s.Resource(w.vm)
	if des := str(list(vm, "properties", "storageProfile", "dataDisks")[0], "managedDisk", "diskEncryptionSet", "id"); !same(des, w.sse) {
		t.Fatalf("the VM shows the set %q", des)
	}
}

func TestSecondOperationIsAConflict(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	s.SetKnobs(func(k *Knobs) {
		k.Operations = map[string]time.Duration{"*/deallocate/action": time.Hour}
		k.RetryAfter = 10 * time.Second
	})
	status, header, _ := call(t, s, HandlerPrincipal, "POST", strings.Replace(armURL(w.vm), "?", "/deallocate?", 1), nil)
	lro := vector(t, "lro-vm-deallocate.json")
	if float64(status) != at(lro, "first", "status") {
		t.Fatal(status)
	}
	for h, v := range at(lro, "first", "headers").(doc) {
		if got := header.Get(h); got == "" || h == "Retry-After" && got != fmt.Sprint(v) {
			t.Errorf("header %s is %q", h, got)
		}
	}
	status, h, poll := call(t, s, HandlerPrincipal, "GET", header.Get("Azure-AsyncOperation"), nil)
	if status != 200 || h.Get("Retry-After") != "10" || poll["status"] != "InProgress" {
		t.Fatalf("%d %v", status, poll)
	}
	sameShape(t, poll, at(lro, "poll").([]any)[0].(doc)["body"])
	if status, _, _ := call(t, s, HandlerPrincipal, "GET", header.Get("Location"), nil); status != 202 {
		t.Fatalf("Location answered %d", status)
	}
	vms := compute(t, s, HandlerPrincipal).NewVirtualMachinesClient()
	_, err := vms.BeginDeallocate(ctx(t), "rg-cvm", "vm-cvm-cmk", nil)
	wantError(t, err, 409, "Conflict")
	_, err = vms.BeginUpdate(ctx(t), "rg-cvm", "vm-cvm-cmk", armcompute.VirtualMachineUpdate{}, nil)
	wantError(t, err, 409, "Conflict")
	other := s.AddPrincipal("other", &Role{Actions: []string{"Microsoft.Compute/virtualMachines/*"}})
	if status, _, _ := call(t, s, other.Name, "GET", header.Get("Azure-AsyncOperation"), nil); status != 403 {
		t.Fatalf("another principal polled the operation: %d", status)
	}
	vm := must[string](t)(s.AddVM(VMSpec{Name: "vm-busy", Kind: "standard-gen2"}))
	ok(t, s.SetTransition(vm, "Updating"))
	_, err = vms.BeginUpdate(ctx(t), "rg-cvm", "vm-busy", armcompute.VirtualMachineUpdate{}, nil)
	wantError(t, err, 409, "Conflict")
	ok(t, s.SetTransition(vm, ""))
	_, err = vms.BeginUpdate(ctx(t), "rg-cvm", "vm-busy", armcompute.VirtualMachineUpdate{}, nil)
	ok(t, err)
}

func TestTokens(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	other := start(t, Options{})
	good, _, err := s.token(HandlerPrincipal, "https://management.azure.com")
	ok(t, err)
	other.tokenKey = []byte("another process's")
	foreign, _, err := other.token(HandlerPrincipal, "https://management.azure.com")
	ok(t, err)
	wrong, _, err := s.token(HandlerPrincipal, "https://vault.azure.net")
	ok(t, err)
	for name, tok := range map[string]string{"none": "", "garbage": "x", "another process's": foreign, "another audience": wrong, "bitten": good[:len(good)-2]} {
		header := []string{"Authorization", "Bearer " + tok}
		if tok == "" {
			header = nil
		}
		if status, h, body := call(t, s, "", "GET", armURL(w.vm), nil, header...); status != 401 || str(body, "error", "code") != "InvalidAuthenticationToken" || h.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: %d %v", name, status, body)
		}
	}
}
