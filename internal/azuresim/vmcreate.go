package azuresim

import (
	"net/http"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

func (x *exchange) putVM(p armPath) {
	body, ok := x.decodeAs(&armcompute.VirtualMachine{})
	if !ok {
		return
	}
	r := x.s.get(p.id(), typeVM)
	if x.stale(r) {
		return
	}
	if r != nil {
		if !x.held(r) && !x.refuseChange(r, body) {
			x.updateVM(r, body, http.StatusOK)
		}
		return
	}
	if x.refuseCreation(body) || x.refuseInterfaces(body) {
		return
	}
	// What Azure fills in.
	sp, _ := at(body, "properties", "storageProfile").(doc)
	os, _ := sp["osDisk"].(doc)
	r = x.s.add(p.canonical(typeVM), typeVM, body)
	r.vm = &vmState{power: "starting", generation: x.s.generationFor(body), agent: agentVersion}
	r.body["location"] = region(r.location())
	put(r.body, guid("vm", x.s.id()), "properties", "vmId")
	put(r.body, stamp(x.s.now()), "properties", "timeCreated")
	if id, ok := body["identity"].(doc); ok {
		x.s.setIdentity(r, id)
	}
	r.setState("Creating")
	r.touch()
	osDisk := x.s.osDiskFor(r, os)
	x.s.attachData(r)
	x.s.addInterfaces(r)
	x.header.Set("ETag", str(r.body, "etag"))
	x.reply(http.StatusCreated, x.shown(r))
	x.begin(&operation{
		target: r.id, loc: r.location(), lock: r, create: true,
		apply: func() *opError {
			err := x.s.boot(r)
			if err != nil {
				return err
			}
			r.setState("Succeeded")
			r.vm.agentReady = true
			if osDisk != nil {
				osDisk.setState("Succeeded")
			}
			return nil
		},
		undo: func() { r.setState("Failed"); r.vm.power = "stopped" },
	})
}

// refuseCreation answers for a creation request that Azure does not accept.
func (x *exchange) refuseCreation(body doc) bool {
	bad := func(code, text string) bool {
		x.fail(http.StatusBadRequest, code, text)
		return true
	}
	size := str(body, "properties", "hardwareProfile", "vmSize")
	sz, known := sizes[strings.ToLower(size)]
	switch {
	case str(body, "location") == "":
		return bad("LocationRequired", "The location property is required for this definition.")
	case !known:
		return bad("InvalidParameter", "The value '"+size+"' provided for the VM size is not valid: the simulator's Resource SKUs do not list it.")
	}
	os, _ := at(body, "properties", "storageProfile", "osDisk").(doc)
	if os == nil {
		return bad("InvalidParameter", "Required parameter 'storageProfile.osDisk' is missing (null).")
	}
	secure, _ := at(os, "managedDisk", "securityProfile").(doc)
	kind := str(secure, "securityEncryptionType")
	des := str(secure, "diskEncryptionSet", "id")
	image := strings.ToLower(str(body, "properties", "storageProfile", "imageReference", "offer") + ":" + str(body, "properties", "storageProfile", "imageReference", "sku"))
	if !isConfidential(body) {
		if secure != nil {
			return bad("BadRequest", "'managedDisk.securityProfile' is for Confidential VMs only.")
		}
		return x.refuseAttach(body, os) || x.refuseLinked(typeDES+"/read", str(os, "managedDisk", "diskEncryptionSet", "id"))
	}
	switch {
	case sz.tee == "":
		return bad("InvalidParameter", "The VM size '"+size+"' is not supported for creation of VMs with 'ConfidentialVM' security type.")
	case kind == "":
		return bad("BadRequest", "Required parameter for Confidential VMs 'managedDisk.securityProfile.securityEncryptionType' is missing (null).")
	case kind != "VMGuestStateOnly" && kind != "DiskWithVMGuestState" && kind != "NonPersistedTPM":
		return bad("BadRequest", "The value '"+kind+"' of 'managedDisk.securityProfile.securityEncryptionType' is not known.")
	case !yes(body, "properties", "securityProfile", "uefiSettings", "vTpmEnabled"):
		return bad("BadRequest", "'securityProfile.uefiSettings.vTpmEnabled' must be true for Confidential VMs.")
	case kind == "NonPersistedTPM" && (sz.tee != "TDX" || strings.EqualFold(str(os, "osType"), "Windows")):
		return bad("BadRequest", "'NonPersistedTPM' is supported for Linux on TDX sizes only.")
	case des != "" && kind != "DiskWithVMGuestState":
		return bad("BadRequest", "'managedDisk.securityProfile.diskEncryptionSet' needs securityEncryptionType DiskWithVMGuestState.")
	case des != "" && str(os, "managedDisk", "diskEncryptionSet", "id") != "":
		return bad("BadRequest", "'managedDisk.diskEncryptionSet' and 'managedDisk.securityProfile.diskEncryptionSet' exclude each other.")
	case strings.HasPrefix(image, "0001-com-ubuntu-server") || strings.Contains(image, "ubuntu") && !strings.Contains(image, "cvm"):
		return bad("InvalidParameter", "The image '"+image+"' is not supported for creation of VMs with 'ConfidentialVM' security type.")
	}
	if x.refuseLinked(typeDES+"/read", des) || x.refuseAttach(body, os) {
		return true
	}
	if des == "" {
		return false
	}
	set := x.s.get(des, typeDES)
	switch {
	case set == nil:
		return bad("BadRequest", "The disk encryption set '"+des+"' was not found.")
	case str(set.body, "properties", "encryptionType") != confidentialDES:
		return bad("BadRequest", "The disk encryption set '"+des+"' is not of type "+confidentialDES+".")
	case region(set.location()) != region(str(body, "location")):
		return bad("BadRequest", "The disk encryption set '"+des+"' is in another location than the VM.")
	}
	return x.refuseKey(str(set.body, "properties", "activeKey", "keyUrl"), confidentialDES)
}

// refuseAttach answers for an existing OS disk that does not fit the VM.
func (x *exchange) refuseAttach(body, os doc) bool {
	if !strings.EqualFold(str(os, "createOption"), "Attach") {
		return false
	}
	d := x.s.get(str(os, "managedDisk", "id"), typeDisk)
	switch {
	case d == nil:
		x.fail(http.StatusBadRequest, "BadRequest", "The OS disk '"+str(os, "managedDisk", "id")+"' was not found.")
	case str(d.body, "managedBy") != "":
		x.fail(http.StatusConflict, "AttachDiskWhileBeingDetached", "The OS disk is attached to '"+str(d.body, "managedBy")+"'.")
	case vmSecurityOf(str(d.body, "properties", "securityProfile", "securityType")) != orElse(str(body, "properties", "securityProfile", "securityType"), "Standard"):
		x.fail(http.StatusBadRequest, "BadRequest", "Security type of VM is not compatible with the security type of attached OS Disk.")
	default:
		return false
	}
	return true
}

// vmSecurityOf is the VM security type that a disk's security type belongs to.
func vmSecurityOf(disk string) string {
	switch {
	case strings.HasPrefix(disk, "ConfidentialVM"):
		return "ConfidentialVM"
	case disk == "":
		return "Standard"
	default:
		return disk
	}
}

// diskSecurity is the disk's security type for a VM's OS disk settings.
func diskSecurity(vmType, encryption, des string) string {
	switch {
	case strings.EqualFold(vmType, "TrustedLaunch"):
		return "TrustedLaunch"
	case !strings.EqualFold(vmType, "ConfidentialVM"):
		return ""
	case encryption == "VMGuestStateOnly":
		return "ConfidentialVM_VMGuestStateOnlyEncryptedWithPlatformKey"
	case encryption == "NonPersistedTPM":
		return "ConfidentialVM_NonPersistedTPM"
	case des != "":
		return "ConfidentialVM_DiskEncryptedWithCustomerKey"
	default:
		return "ConfidentialVM_DiskEncryptedWithPlatformKey"
	}
}

// generationFor is the hypervisor generation that a creation request makes.
func (s *Sim) generationFor(body doc) string {
	if at(body, "properties", "securityProfile", "securityType") != nil && !strings.EqualFold(str(body, "properties", "securityProfile", "securityType"), "Standard") {
		return "V2"
	}
	sku := strings.ToLower(str(body, "properties", "storageProfile", "imageReference", "sku"))
	offer := strings.ToLower(str(body, "properties", "storageProfile", "imageReference", "offer"))
	if strings.Contains(sku, "gen2") || strings.Contains(sku, "-g2") || strings.Contains(offer, "24_04") && !strings.Contains(sku, "gen1") {
		return "V2"
	}
	return "V1"
}

// attachData attaches the existing data disks that a new VM's body names.
func (s *Sim) attachData(vm *resource) {
	for _, d := range list(vm.props(), "storageProfile", "dataDisks") {
		if disk := s.get(str(d, "managedDisk", "id"), typeDisk); disk != nil {
			disk.body["managedBy"] = vm.id
			disk.props()["diskState"] = "Attached"
		}
	}
}

// osDiskFor makes, or attaches, the OS disk that a VM's body asks for, and fills
// in its id.
func (s *Sim) osDiskFor(r *resource, os doc) *resource {
	if strings.EqualFold(str(os, "diffDiskSettings", "option"), "Local") {
		return nil
	}
	if d := s.get(str(os, "managedDisk", "id"), typeDisk); d != nil {
		d.body["managedBy"] = r.id
		d.props()["diskState"] = "Attached"
		return d
	}
	name := orElse(str(os, "name"), r.name+"_OsDisk_1")
	os["name"] = name
	if str(os, "osType") == "" {
		os["osType"] = "Linux"
	}
	id := r.id[:strings.LastIndex(r.id, "/virtualMachines/")] + "/disks/" + name
	put(os, id, "managedDisk", "id")
	des := str(os, "managedDisk", "securityProfile", "diskEncryptionSet", "id")
	return s.newDisk(id, r, diskSpec{
		os: str(os, "osType"), generation: r.vm.generation, createOption: orElse(str(os, "createOption"), "FromImage"),
		image:    toObject(at(r.props(), "storageProfile", "imageReference")),
		security: diskSecurity(str(r.body, "properties", "securityProfile", "securityType"), str(os, "managedDisk", "securityProfile", "securityEncryptionType"), des),
		secure:   des, sse: str(os, "managedDisk", "diskEncryptionSet", "id"), gb: 30,
	})
}
