package azuresim

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

const confidentialDES = string(armcompute.DiskEncryptionSetTypeConfidentialVMEncryptedWithCustomerKey)

// usersOf lists the disks that hang on a disk encryption set, by either field.
func (s *Sim) usersOf(set *resource) []*resource {
	var out []*resource
	for _, d := range s.all(typeDisk, "") {
		if same(str(d.body, "properties", "securityProfile", "secureVMDiskEncryptionSetId"), set.id) ||
			same(str(d.body, "properties", "encryption", "diskEncryptionSetId"), set.id) {
			out = append(out, d)
		}
	}
	return out
}

func (x *exchange) desDisks(p armPath) {
	r := x.find(p.withoutTail(), typeDES)
	if r == nil {
		return
	}
	var out []any
	for _, d := range x.s.usersOf(r) {
		out = append(out, d.id)
	}
	x.page(out)
}

// refuseKey answers for a key that a disk encryption set of that type cannot
// use. Which service checks what, and when, is not known for certain: here the
// set's creation and update do, and the VM's creation once more.
func (x *exchange) refuseKey(url, desType string) bool {
	bad := func(text string) bool {
		x.fail(http.StatusBadRequest, "BadRequest", text)
		return true
	}
	v, k := x.s.keyByURL(url)
	switch {
	case url == "":
		return bad("Required parameter 'activeKey.keyUrl' is missing (null).")
	case v == nil:
		return bad("The key URL '" + url + "' is not one of a known vault or Managed HSM.")
	case strings.Count(strings.Trim(url, "/"), "/") < 5:
		return bad("The key URL '" + url + "' has no version.")
	case k == nil:
		return bad("The key '" + url + "' was not found.")
	case !yes(k.body, "attributes", "enabled"):
		return bad("The target key is disabled.")
	case !strings.HasPrefix(str(k.body, "key", "kty"), "RSA"):
		return bad("The target key is not an RSA key.")
	}
	if nbf, ok := at(k.body, "attributes", "nbf").(float64); ok && int64(nbf) > x.s.now().Unix() {
		return bad("The target key is not yet valid.")
	}
	if desType != confidentialDES {
		return false
	}
	switch {
	case at(k.body, "release_policy") == nil:
		return bad("The target key has no key release policy")
	case !yes(k.body, "attributes", "exportable"):
		return bad("The target key is not exportable")
	}
	return false
}

func (x *exchange) putDES(p armPath) {
	body, ok := x.decodeAs(&armcompute.DiskEncryptionSet{})
	if !ok {
		return
	}
	if r := x.s.get(p.id(), typeDES); r != nil {
		x.updateDES(r, body)
		return
	}
	typ := orElse(str(body, "properties", "encryptionType"), string(armcompute.DiskEncryptionSetTypeEncryptionAtRestWithCustomerKey))
	switch {
	case str(body, "location") == "":
		x.fail(http.StatusBadRequest, "LocationRequired", "The location property is required for this definition.")
		return
	case typ != confidentialDES && typ != "EncryptionAtRestWithCustomerKey" && typ != "EncryptionAtRestWithPlatformAndCustomerKeys":
		x.failTarget(http.StatusBadRequest, "InvalidParameter", "The value '"+typ+"' of parameter encryptionType is invalid.", "encryptionType")
		return
	case x.refuseKey(str(body, "properties", "activeKey", "keyUrl"), typ):
		return
	}
	if _, known := x.s.groups[fold(p.groupScope())]; !known {
		x.fail(http.StatusNotFound, "ResourceGroupNotFound", "Resource group '"+p.rg+"' could not be found.")
		return
	}
	r := x.s.add(p.canonical(typeDES), typeDES, body)
	r.body["location"] = region(r.location())
	put(r.body, typ, "properties", "encryptionType")
	put(r.body, []any{}, "properties", "previousKeys")
	put(r.body, stamp(x.s.now()), "properties", "lastKeyRotationTimestamp")
	if at(r.props(), "rotationToLatestKeyVersionEnabled") == nil {
		r.props()["rotationToLatestKeyVersionEnabled"] = false
	}
	x.s.setIdentity(r, toObject(body["identity"]))
	r.setState("Creating")
	x.reply(http.StatusAccepted, copyOf(r.body))
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r, create: true,
		apply: func() *opError { r.setState("Succeeded"); return nil },
		undo:  func() { r.setState("Failed") },
	})
}

func (x *exchange) patchDES(p armPath) {
	r := x.find(p, typeDES)
	if r == nil {
		return
	}
	if patch, ok := x.decodeAs(&armcompute.DiskEncryptionSetUpdate{}); ok {
		x.updateDES(r, patch)
	}
}

func (x *exchange) updateDES(r *resource, patch doc) {
	if x.held(r) {
		return
	}
	np, _ := patch["properties"].(doc)
	typ := str(r.body, "properties", "encryptionType")
	if v := str(np, "encryptionType"); v != "" && v != typ {
		x.failTarget(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'encryptionType' is not allowed.", "encryptionType")
		return
	}
	url := str(np, "activeKey", "keyUrl")
	rotates := url != "" && !same(url, str(r.props(), "activeKey", "keyUrl"))
	if rotates && (x.refuseKey(url, typ) || x.refuseLiveRotation(r, typ)) {
		return
	}
	before := copyOf(r.body)
	if t, ok := patch["tags"].(doc); ok {
		r.body["tags"] = t
	}
	if id, ok := patch["identity"].(doc); ok {
		x.s.setIdentity(r, id)
	}
	if rotates {
		r.props()["previousKeys"] = []any{copyOf(at(r.props(), "activeKey"))}
		r.props()["lastKeyRotationTimestamp"] = stamp(x.s.now())
		delete(r.props(), "activeKey") // a key of another vault must not keep the old sourceVault
	}
	merge(r.props(), np)
	r.setState("Updating")
	x.reply(http.StatusAccepted, copyOf(r.body))
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r,
		apply: func() *opError {
			r.props()["previousKeys"] = []any{}
			r.setState("Succeeded")
			return nil
		},
		undo: func() { r.body = before },
	})
}

// refuseLiveRotation answers 409 for a change of the active key of a
// confidential set while a VM on it is not deallocated. What Azure answers then
// is not documented (a refusal, or success that no VM receives): the refusal is
// our choice, because a success without effect would hide the mistake.
func (x *exchange) refuseLiveRotation(set *resource, typ string) bool {
	if typ != confidentialDES {
		return false
	}
	for _, d := range x.s.usersOf(set) {
		if vm := x.s.get(str(d.body, "managedBy"), typeVM); vm != nil && vm.vm.power != "deallocated" {
			x.fail(http.StatusConflict, "OperationNotAllowed", "The active key of disk encryption set '"+set.name+
				"' can be updated only when all Confidential VMs on it are in deallocated state: '"+vm.name+"' is "+vm.vm.power+".")
			return true
		}
	}
	return false
}
