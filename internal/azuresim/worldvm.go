package azuresim

import (
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"cvmguard/internal/cvm"
)

// VMSpec is a virtual machine with its OS disk.
type VMSpec struct {
	Name, Group, Location string
	Kind                  cvm.Kind // "": cvm-customer-key
	Size                  string   // "": by kind, SEV-SNP for confidential ones
	Image                 string   // publisher:offer:sku; "": by kind, Ubuntu 22.04
	DES                   string   // ARM id; the confidential set for cvm-customer-key, else the ordinary one
	DataDisks             []DataDiskSpec
	Extensions            []string // names: GuestAttestation, AzureDiskEncryptionForLinux
	Tags                  map[string]string
	SecureBootOff         bool
	EncryptionAtHost      bool
	EphemeralOS           bool
	Windows               bool
	AgentNotReady         bool
	Deallocated           bool
	DiskVersion           string    // confidentialVMVersion of a disk under a customer key; "": V1
	Created               time.Time // zero: now
}

// DataDiskSpec is a data disk of a VM.
type DataDiskSpec struct {
	Name string // "": <vm>-data<lun>
	DES  string // ordinary set; "": platform key
	GB   int    // 0: 128
}

// kindShape is how a kind shows in ARM.
var kindShape = map[cvm.Kind]struct {
	security, encryption, generation, size, image string
}{
	cvm.KindStandardGen1:  {"", "", "V1", "Standard_D4s_v5", "Canonical:0001-com-ubuntu-server-jammy:22_04-lts"},
	cvm.KindStandardGen2:  {"", "", "V2", "Standard_D4s_v5", "Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2"},
	cvm.KindTrustedLaunch: {"TrustedLaunch", "", "V2", "Standard_D4s_v5", "Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2"},
	cvm.KindGuestState:    {"ConfidentialVM", "VMGuestStateOnly", "V2", "Standard_DC4as_v5", "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm"},
	cvm.KindPlatformKey:   {"ConfidentialVM", "DiskWithVMGuestState", "V2", "Standard_DC4as_v5", "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm"},
	cvm.KindCustomerKey:   {"ConfidentialVM", "DiskWithVMGuestState", "V2", "Standard_DC4as_v5", "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm"},
	cvm.KindEphemeralTPM:  {"ConfidentialVM", "NonPersistedTPM", "V2", "Standard_DC4es_v6", "Canonical:ubuntu-24_04-lts:cvm"},
}

// AddVM makes a VM that is there and running, with its disks and extensions, and
// gives its ARM id. CreateVM is the same with the event of a creation.
func (s *Sim) AddVM(v VMSpec) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addVM(v)
}

// CreateVM is AddVM and publishes the creation's event, where events are emitted.
func (s *Sim) CreateVM(v VMSpec) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.addVM(v)
	if err == nil {
		s.emit(armEvent{action: typeVM + "/write", target: id, method: "PUT", create: true, correlation: s.id()})
	}
	return id, err
}

func (s *Sim) addVM(v VMSpec) (string, error) {
	kind := v.Kind
	if kind == "" {
		kind = cvm.KindCustomerKey
	}
	shape, ok := kindShape[kind]
	if !ok {
		return "", fmt.Errorf("adding VM %q: the kind %q is not one that can be made", v.Name, kind)
	}
	if kind == cvm.KindCustomerKey && v.DES == "" {
		return "", fmt.Errorf("adding VM %q: its kind needs a disk encryption set", v.Name)
	}
	image := strings.Split(orElse(v.Image, shape.image), ":")
	if len(image) != 3 {
		return "", fmt.Errorf("adding VM %q: the image %q is not publisher:offer:sku", v.Name, v.Image)
	}
	id := s.idOf(v.Group, typeVM, v.Name)
	osType := armcompute.OperatingSystemTypesLinux
	if v.Windows {
		osType = armcompute.OperatingSystemTypesWindows
	}
	managed := &armcompute.ManagedDiskParameters{StorageAccountType: to.Ptr(armcompute.StorageAccountTypesPremiumLRS)}
	if shape.encryption != "" {
		managed.SecurityProfile = &armcompute.VMDiskSecurityProfile{SecurityEncryptionType: to.Ptr(armcompute.SecurityEncryptionTypes(shape.encryption))}
	}
	switch {
	case v.DES == "":
	case kind == cvm.KindCustomerKey:
		managed.SecurityProfile.DiskEncryptionSet = &armcompute.DiskEncryptionSetParameters{ID: to.Ptr(v.DES)}
	default:
		managed.DiskEncryptionSet = &armcompute.DiskEncryptionSetParameters{ID: to.Ptr(v.DES)}
	}
	osDisk := &armcompute.OSDisk{
		OSType: to.Ptr(osType), Name: to.Ptr(v.Name + "-os"), CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesFromImage),
		Caching: to.Ptr(armcompute.CachingTypesReadWrite), ManagedDisk: managed, DeleteOption: to.Ptr(armcompute.DiskDeleteOptionTypesDelete), DiskSizeGB: to.Ptr[int32](30),
	}
	if v.EphemeralOS {
		osDisk.DiffDiskSettings = &armcompute.DiffDiskSettings{Option: to.Ptr(armcompute.DiffDiskOptionsLocal), Placement: to.Ptr(armcompute.DiffDiskPlacementResourceDisk)}
	}
	props := &armcompute.VirtualMachineProperties{
		HardwareProfile:        &armcompute.HardwareProfile{VMSize: to.Ptr(armcompute.VirtualMachineSizeTypes(orElse(v.Size, shape.size)))},
		ProvisioningState:      to.Ptr("Succeeded"),
		VMID:                   to.Ptr(guid("vm", id)),
		AdditionalCapabilities: &armcompute.AdditionalCapabilities{HibernationEnabled: to.Ptr(false)},
		StorageProfile: &armcompute.StorageProfile{
			ImageReference: &armcompute.ImageReference{Publisher: &image[0], Offer: &image[1], SKU: &image[2], Version: to.Ptr("latest"), ExactVersion: to.Ptr("22.04.202501010")},
			OSDisk:         osDisk, DataDisks: []*armcompute.DataDisk{}, DiskControllerType: to.Ptr(armcompute.DiskControllerTypesSCSI),
		},
		OSProfile: &armcompute.OSProfile{
			ComputerName: to.Ptr(v.Name), AdminUsername: to.Ptr("azureuser"), AllowExtensionOperations: to.Ptr(true), Secrets: []*armcompute.VaultSecretGroup{},
			RequireGuestProvisionSignal: to.Ptr(true),
		},
		NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{
			ID:         to.Ptr(strings.Replace(id, "Microsoft.Compute/virtualMachines", "Microsoft.Network/networkInterfaces", 1) + "-nic"),
			Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: to.Ptr(true)},
		}}},
	}
	if !v.Windows {
		props.OSProfile.LinuxConfiguration = &armcompute.LinuxConfiguration{
			DisablePasswordAuthentication: to.Ptr(true), ProvisionVMAgent: to.Ptr(true),
			SSH: &armcompute.SSHConfiguration{PublicKeys: []*armcompute.SSHPublicKey{{
				Path: to.Ptr("/home/azureuser/.ssh/authorized_keys"), KeyData: to.Ptr("ssh-rsa AAAAexample azureuser")}}},
			PatchSettings: &armcompute.LinuxPatchSettings{
				PatchMode: to.Ptr(armcompute.LinuxVMGuestPatchModeImageDefault), AssessmentMode: to.Ptr(armcompute.LinuxPatchAssessmentModeImageDefault)},
		}
	}
	if shape.security != "" {
		props.SecurityProfile = &armcompute.SecurityProfile{
			SecurityType: to.Ptr(armcompute.SecurityTypes(shape.security)),
			UefiSettings: &armcompute.UefiSettings{SecureBootEnabled: to.Ptr(!v.SecureBootOff), VTpmEnabled: to.Ptr(true)},
		}
	}
	if v.EncryptionAtHost {
		if props.SecurityProfile == nil {
			props.SecurityProfile = &armcompute.SecurityProfile{}
		}
		props.SecurityProfile.EncryptionAtHost = to.Ptr(true)
	}
	tags := map[string]*string{}
	for k, t := range v.Tags {
		tags[k] = to.Ptr(t)
	}
	r := s.add(id, typeVM, toDoc(&armcompute.VirtualMachine{
		Location: to.Ptr(region(orElse(v.Location, s.opt.Location))), Tags: tags, Properties: props,
		Identity: &armcompute.VirtualMachineIdentity{
			Type: to.Ptr(armcompute.ResourceIdentityTypeSystemAssigned), PrincipalID: to.Ptr(guid("identity", fold(id))), TenantID: to.Ptr(s.opt.Tenant),
		},
	}))
	created := v.Created
	if created.IsZero() {
		created = s.now()
	}
	r.props()["timeCreated"] = stamp(created)
	r.vm = &vmState{power: "running", generation: shape.generation, agentReady: !v.AgentNotReady, agent: agentVersion, boots: 1}
	r.touch()
	if d := s.osDiskFor(r, toObject(at(r.props(), "storageProfile", "osDisk"))); d != nil && kind == cvm.KindCustomerKey {
		put(d.body, orElse(v.DiskVersion, "V1"), "properties", "securityProfile", "confidentialVMVersion")
	}
	s.addDataDisks(r, v.DataDisks)
	s.addInterfaces(r)
	for _, e := range v.Extensions {
		if err := s.addExtension(r, e); err != nil {
			return "", err
		}
	}
	if v.Deallocated {
		r.vm.power, r.vm.agentReady = "deallocated", false
		s.diskStates(r, "Reserved")
	}
	return id, nil
}

func (s *Sim) addDataDisks(r *resource, disks []DataDiskSpec) {
	var refs []any
	for lun, d := range disks {
		name := orElse(d.Name, fmt.Sprintf("%s-data%d", r.name, lun))
		gb := d.GB
		if gb == 0 {
			gb = 128
		}
		id := r.id[:strings.LastIndex(r.id, "/virtualMachines/")] + "/disks/" + name
		disk := s.newDisk(id, r, diskSpec{createOption: "Empty", sse: d.DES, gb: gb})
		ref := doc{"lun": float64(lun), "name": name, "createOption": "Empty", "caching": "None", "diskSizeGB": float64(gb), "deleteOption": "Detach",
			"toBeDetached": false, "managedDisk": doc{"id": disk.id, "storageAccountType": "Premium_LRS"}}
		if d.DES != "" {
			put(ref, doc{"id": d.DES}, "managedDisk", "diskEncryptionSet")
		}
		refs = append(refs, ref)
	}
	if refs != nil {
		put(r.body, refs, "properties", "storageProfile", "dataDisks")
	}
}

// addExtension installs one of the extensions that the simulator knows.
func (s *Sim) addExtension(vm *resource, name string) error {
	p := &armcompute.VirtualMachineExtensionProperties{AutoUpgradeMinorVersion: to.Ptr(true), ProvisioningState: to.Ptr("Succeeded")}
	switch {
	case strings.EqualFold(name, "GuestAttestation"):
		publisher := "Microsoft.Azure.Security.LinuxAttestation"
		if str(vm.props(), "storageProfile", "osDisk", "osType") == "Windows" {
			publisher = "Microsoft.Azure.Security.WindowsAttestation"
		}
		p.Publisher, p.Type, p.TypeHandlerVersion, p.EnableAutomaticUpgrade = &publisher, to.Ptr("GuestAttestation"), to.Ptr("1.0"), to.Ptr(true)
		p.Settings = map[string]any{"AttestationConfig": map[string]any{
			"MaaSettings":    map[string]any{"maaEndpoint": "", "maaTenantName": "GuestAttestation"},
			"AscSettings":    map[string]any{"ascReportingEndpoint": "", "ascReportingFrequency": ""},
			"useCustomToken": "false", "disableAlerts": "false",
		}}
	case strings.EqualFold(name, "AzureDiskEncryptionForLinux"):
		p.Publisher, p.Type, p.TypeHandlerVersion = to.Ptr("Microsoft.Azure.Security"), to.Ptr("AzureDiskEncryptionForLinux"), to.Ptr("1.4")
		p.EnableAutomaticUpgrade = to.Ptr(false)
		p.Settings = map[string]any{"VolumeType": "Data", "EncryptionOperation": "EnableEncryption"}
	default:
		return fmt.Errorf("adding extension %q: the simulator knows GuestAttestation and AzureDiskEncryptionForLinux", name)
	}
	s.add(vm.id+"/extensions/"+name, typeExtension, toDoc(&armcompute.VirtualMachineExtension{Location: to.Ptr(vm.location()), Properties: p}))
	return nil
}
