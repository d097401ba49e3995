package azuresim

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// diskSpec is a managed disk to make for a VM.
type diskSpec struct {
	os, generation, createOption string
	image                        doc
	security, secure, sse        string // security type, confidential set, ordinary set
	version                      string // confidentialVMVersion
	gb                           int
}

// newDisk puts a disk that is attached to vm into the world. Under Sim.mu.
func (s *Sim) newDisk(id string, vm *resource, d diskSpec) *resource {
	p := &armcompute.DiskProperties{
		CreationData:        &armcompute.CreationData{CreateOption: to.Ptr(armcompute.DiskCreateOption(d.createOption))},
		DiskSizeGB:          to.Ptr(int32(d.gb)),
		DiskIOPSReadWrite:   to.Ptr[int64](120),
		DiskMBpsReadWrite:   to.Ptr[int64](25),
		Encryption:          &armcompute.Encryption{Type: to.Ptr(armcompute.EncryptionTypeEncryptionAtRestWithPlatformKey)},
		ProvisioningState:   to.Ptr("Succeeded"),
		DiskState:           to.Ptr(armcompute.DiskStateAttached),
		DiskSizeBytes:       to.Ptr(int64(d.gb) << 30),
		NetworkAccessPolicy: to.Ptr(armcompute.NetworkAccessPolicyAllowAll),
		PublicNetworkAccess: to.Ptr(armcompute.PublicNetworkAccessEnabled),
		Tier:                to.Ptr("P4"),
	}
	if d.os != "" {
		p.OSType = to.Ptr(armcompute.OperatingSystemTypes(d.os))
		p.HyperVGeneration = to.Ptr(armcompute.HyperVGeneration(d.generation))
	}
	if pub := str(d.image, "publisher"); pub != "" {
		p.CreationData.ImageReference = &armcompute.ImageDiskReference{ID: to.Ptr(fmt.Sprintf(
			"/Subscriptions/%s/Providers/Microsoft.Compute/Locations/%s/Publishers/%s/ArtifactTypes/VMImage/Offers/%s/Skus/%s/Versions/%s",
			s.opt.Subscription, vm.location(), pub, str(d.image, "offer"), str(d.image, "sku"), orElse(str(d.image, "exactVersion"), "1.0.0")))}
	}
	if d.sse != "" {
		p.Encryption = &armcompute.Encryption{Type: to.Ptr(armcompute.EncryptionTypeEncryptionAtRestWithCustomerKey), DiskEncryptionSetID: &d.sse}
	}
	if d.security != "" {
		p.SecurityProfile = &armcompute.DiskSecurityProfile{SecurityType: to.Ptr(armcompute.DiskSecurityTypes(d.security))}
		if d.secure != "" && d.security == string(armcompute.DiskSecurityTypesConfidentialVMDiskEncryptedWithCustomerKey) {
			p.SecurityProfile.SecureVMDiskEncryptionSetID = &d.secure
		}
	}
	body := toDoc(&armcompute.Disk{
		Location: to.Ptr(vm.location()), Tags: map[string]*string{}, ManagedBy: to.Ptr(vm.id),
		SKU:        &armcompute.DiskSKU{Name: to.Ptr(armcompute.DiskStorageAccountTypesPremiumLRS), Tier: to.Ptr("Premium")},
		Properties: p,
	})
	put(body, stamp(s.now()), "properties", "timeCreated")
	put(body, guid("disk", id), "properties", "uniqueId")
	if d.version != "" {
		put(body, d.version, "properties", "securityProfile", "confidentialVMVersion")
	}
	body["managedBy"] = vm.id
	return s.add(id, typeDisk, body)
}

func (x *exchange) patchDisk(p armPath) {
	r := x.find(p, typeDisk)
	if r == nil {
		return
	}
	patch, ok := x.decodeAs(&armcompute.DiskUpdate{})
	if !ok || x.held(r) {
		return
	}
	np, _ := patch["properties"].(doc)
	if sec, ok := np["securityProfile"]; ok && differs(at(r.props(), "securityProfile"), sec) {
		x.failTarget(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'securityProfile.securityType' is not allowed.", "securityProfile.securityType")
		return
	}
	if np["encryption"] != nil && x.refuseEncryption(r, np) {
		return
	}
	before := copyOf(r.body)
	if t, ok := patch["tags"].(doc); ok {
		r.body["tags"] = t
	}
	merge(r.props(), np)
	r.setState("Updating")
	x.reply(http.StatusAccepted, copyOf(r.body))
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r,
		apply: func() *opError { r.setState("Succeeded"); x.s.mirrorSet(r); return nil },
		undo:  func() { r.body = before },
	})
}

// refuseEncryption answers for an encryption that the disk cannot get now.
func (x *exchange) refuseEncryption(r *resource, np doc) bool {
	des, typ := str(np, "encryption", "diskEncryptionSetId"), str(np, "encryption", "type")
	now := at(r.props(), "encryption")
	if !differs(now, np["encryption"]) {
		return false
	}
	if strings.HasPrefix(str(r.props(), "securityProfile", "securityType"), "ConfidentialVM") {
		x.failTarget(http.StatusConflict, "PropertyChangeNotAllowed", "Changing property 'encryption' of the OS disk of a Confidential VM is not allowed.", "encryption")
		return true
	}
	if typ == "EncryptionAtRestWithPlatformKey" && str(now, "type") != typ {
		x.failTarget(http.StatusConflict, "PropertyChangeNotAllowed", "A disk under a customer key cannot go back to a platform key.", "encryption.type")
		return true
	}
	if vm := x.s.get(str(r.body, "managedBy"), typeVM); vm != nil && vm.vm.power != "deallocated" {
		x.fail(http.StatusConflict, "OperationNotAllowed", "Disk '"+r.name+"' is attached to the running VM '"+vm.name+
			"'; its encryption settings can be updated only when the disk is unattached or the VM is in deallocated state")
		return true
	}
	if des == "" {
		return false
	}
	if x.refuseLinked(typeDES+"/read", des) {
		return true
	}
	set := x.s.get(des, typeDES)
	switch {
	case set == nil:
		x.fail(http.StatusBadRequest, "BadRequest", "The disk encryption set '"+des+"' was not found.")
	case region(set.location()) != region(r.location()):
		x.fail(http.StatusBadRequest, "BadRequest", "The disk encryption set '"+des+"' is in another location than the disk.")
	case typ != "" && typ != orElse(str(set.body, "properties", "encryptionType"), "EncryptionAtRestWithCustomerKey"):
		x.fail(http.StatusBadRequest, "BadRequest", "The encryption type '"+typ+"' is not that of the disk encryption set '"+des+"'.")
	default:
		return false
	}
	return true
}

// mirrorSet shows a data disk's set in the VM's body, as Azure does.
func (s *Sim) mirrorSet(disk *resource) {
	vm := s.get(str(disk.body, "managedBy"), typeVM)
	des := str(disk.props(), "encryption", "diskEncryptionSetId")
	if vm == nil || des == "" {
		return
	}
	for _, d := range list(vm.props(), "storageProfile", "dataDisks") {
		if same(str(d, "managedDisk", "id"), disk.id) {
			put(d, doc{"id": des}, "managedDisk", "diskEncryptionSet")
		}
	}
}
