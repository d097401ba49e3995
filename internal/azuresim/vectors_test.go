package azuresim

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Every captured body that can be put into the world is served as it was.
func TestCapturedBodiesAreServedUnchanged(t *testing.T) {
	dir := vectors(t)
	count := 0
	for _, pattern := range []string{"vm-*.json", "disk-*.json", "des-*.json", "vault-*.json", "mhsm.json", "key-*.json"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		ok(t, err)
		for _, f := range files {
			name := filepath.Base(f)
			if strings.HasPrefix(name, "vm-instanceview") || name == "des-associatedresources.json" {
				continue
			}
			count++
			t.Run(name, func(t *testing.T) {
				s := start(t, Options{})
				want := vector(t, name)
				url := armURL(str(want, "id"))
				if strings.HasPrefix(name, "key-") {
					ok(t, s.PutResource(vector(t, "vault-premium.json")))
					ok(t, s.PutResource(vector(t, "mhsm.json")))
					ok(t, s.PutKey(want))
					url = str(want, "key", "kid") + "?api-version=2025-07-01"
				} else {
					ok(t, s.PutResource(want))
				}
				status, _, got := call(t, s, AdminPrincipal, "GET", url, nil)
				delete(got, "etag")
				delete(want, "etag")
				if status != 200 || !reflect.DeepEqual(got, want) {
					t.Errorf("%d\n got %v\nwant %v", status, got, want)
				}
			})
		}
	}
	if count < 30 {
		t.Fatalf("only %d vectors", count)
	}
}

// The sets that the simulator makes have the shape of the captured ones.
func TestSetsAreShapedAsAzures(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	double := must[string](t)(s.AddDES(DESSpec{Name: "des-double", Key: w.key, Type: "EncryptionAtRestWithPlatformAndCustomerKeys"}))
	auto := must[string](t)(s.AddDES(DESSpec{Name: "des-auto", Key: w.key, AutoRotation: true}))
	for id, name := range map[string]string{
		w.des: "des-confidentialvm.json", w.hsmDES: "des-confidentialvm-mhsm.json", w.sse: "des-sse-cmk.json",
		double: "des-double.json", auto: "des-confidentialvm-autorotation.json",
	} {
		_, _, got := call(t, s, HandlerPrincipal, "GET", armURL(id), nil)
		want := vector(t, name)
		sameShape(t, got, want)
		for _, p := range [][]string{{"properties", "encryptionType"}, {"identity", "type"}} {
			if at(got, p...) != at(want, p...) {
				t.Errorf("%s: %v is %v", name, p, at(got, p...))
			}
		}
	}
	ok(t, s.Edit(w.sse, func(b map[string]any) {
		put(b, doc{"code": "ManagedServiceIdentityNotFound", "message": "gone"}, "properties", "autoKeyRotationError")
	}))
	_, _, got := call(t, s, HandlerPrincipal, "GET", armURL(w.sse), nil)
	sameShape(t, got, vector(t, "des-autorotation-error.json"))
	_, _, got = call(t, s, HandlerPrincipal, "GET", strings.Replace(armURL(w.des), "?", "/associatedResources?", 1), nil)
	sameShape(t, got, vector(t, "des-associatedresources.json"))
}

// A set is made by request as cvmguard makes it, and then carries a VM.
func TestSetIsCreatedByRequest(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	id := s.idOf("", typeDES, "des-new")
	s.SetKnobs(func(k *Knobs) { k.Operation = 5 * time.Millisecond })
	status, h, body := call(t, s, HandlerPrincipal, "PUT", armURL(id), doc{"location": "West Europe", "identity": doc{"type": "SystemAssigned"},
		"properties": doc{"encryptionType": confidentialDES, "activeKey": doc{"keyUrl": w.key, "sourceVault": doc{"id": s.idOf("", typeVault, "kv-cvm")}}}})
	if status != 202 || str(body, "properties", "provisioningState") != "Creating" {
		t.Fatalf("%d %v", status, body)
	}
	settle(t, s, h.Get("Azure-AsyncOperation"))
	_, _, got := call(t, s, HandlerPrincipal, "GET", armURL(id), nil)
	sameShape(t, got, vector(t, "des-confidentialvm.json"))
	if str(got, "location") != "westeurope" || str(got, "identity", "principalId") == "" {
		t.Fatal(got)
	}
	if why := s.keyUnusable(id); !strings.Contains(why, "identity lacks get") {
		t.Fatalf("a new set has rights: %q", why)
	}
}

// The disk of each kind has the captured disk's shape and security type.
func TestDisksAreShapedAsAzures(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	for name, v := range map[string]VMSpec{
		"disk-cvm-cmk.json": {DES: w.des}, "disk-cvm-cmk-v2.json": {DES: w.des, DiskVersion: "V2"},
		"disk-cvm-cmk-reserved.json": {DES: w.des, Deallocated: true},
		"disk-cvm-tdx-cmk.json":      {DES: w.des, Size: "Standard_DC4es_v6", Image: "Canonical:ubuntu-24_04-lts:cvm"},
		"disk-cvm-pmk.json":          {Kind: "cvm-platform-key"}, "disk-cvm-vmgs-only.json": {Kind: "cvm-guest-state-only"},
		"disk-cvm-nonpersistedtpm.json": {Kind: "cvm-ephemeral-vtpm"}, "disk-trustedlaunch.json": {Kind: "trusted-launch", DES: w.sse},
		"disk-standard-gen1.json": {Kind: "standard-gen1"},
	} {
		t.Run(name, func(t *testing.T) {
			v.Name = strings.TrimSuffix(name, ".json")
			id := must[string](t)(s.AddVM(v))
			want := vector(t, name)
			_, _, got := call(t, s, HandlerPrincipal, "GET", strings.Replace(armURL(id), "virtualMachines/"+v.Name, "disks/"+v.Name+"-os", 1), nil)
			sameShape(t, got, want)
			for _, p := range [][]string{{"properties", "securityProfile", "securityType"}, {"properties", "diskState"},
				{"properties", "hyperVGeneration"}, {"properties", "encryption", "type"}} {
				if at(got, p...) != at(want, p...) {
					t.Errorf("%v is %v, want %v", p, at(got, p...), at(want, p...))
				}
			}
		})
	}
	_, _, got := call(t, s, HandlerPrincipal, "GET", strings.Replace(armURL(w.vm), "virtualMachines/vm-cvm-cmk", "disks/vm-cvm-cmk-data0", 1), nil)
	sameShape(t, got, vector(t, "disk-data-pmk.json"))
	_, _, old := call(t, s, HandlerPrincipal, "GET", strings.Replace("https://management.azure.com"+w.vm, "virtualMachines/vm-cvm-cmk", "disks/vm-cvm-cmk-os", 1)+"?api-version=2025-01-02", nil)
	if at(old, "properties", "securityProfile", "confidentialVMVersion") != nil {
		t.Fatal("an older API version shows the disk's version")
	}
}
