package cvm

import (
	"strings"
)

// armDiskParameters is managedDisk of an OS or data disk.
type armDiskParameters struct {
	ID       string     `json:"id"`
	SSE      *reference `json:"diskEncryptionSet"`
	Security *struct {
		EncryptionType string     `json:"securityEncryptionType"`
		DES            *reference `json:"diskEncryptionSet"`
	} `json:"securityProfile"`
}

func (m *armDiskParameters) security() (encryptionType string, des DESID) {
	if m == nil || m.Security == nil {
		return "", ""
	}
	return m.Security.EncryptionType, DESID(m.Security.DES.id())
}

type armExtension struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties *struct {
		Publisher         string `json:"publisher"`
		Type              string `json:"type"`
		Version           string `json:"typeHandlerVersion"`
		ProvisioningState string `json:"provisioningState"`
	} `json:"properties"`
}

type armVM struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Location   string            `json:"location"`
	ETag       string            `json:"etag"`
	Tags       map[string]string `json:"tags"`
	Zones      []string          `json:"zones"`
	Identity   *armIdentity      `json:"identity"`
	Resources  []armExtension    `json:"resources"`
	SKU        *armSKU           `json:"sku"` // of a uniform scale set's instance: its size
	Properties *struct {
		VMID              string `json:"vmId"`
		ProvisioningState string `json:"provisioningState"`
		TimeCreated       string `json:"timeCreated"`
		Hardware          struct {
			Size string `json:"vmSize"`
		} `json:"hardwareProfile"`
		Security struct {
			Type             string `json:"securityType"`
			EncryptionAtHost *bool  `json:"encryptionAtHost"`
			UEFI             struct {
				SecureBoot *bool `json:"secureBootEnabled"`
				VTPM       *bool `json:"vTpmEnabled"`
			} `json:"uefiSettings"`
		} `json:"securityProfile"`
		ScaleSet *reference `json:"virtualMachineScaleSet"`
		Storage  struct {
			Image struct {
				ID                      string `json:"id"`
				Publisher               string `json:"publisher"`
				Offer                   string `json:"offer"`
				SKU                     string `json:"sku"`
				Version                 string `json:"version"`
				ExactVersion            string `json:"exactVersion"`
				SharedGalleryImageID    string `json:"sharedGalleryImageId"`
				CommunityGalleryImageID string `json:"communityGalleryImageId"`
			} `json:"imageReference"`
			OSDisk struct {
				Name         string             `json:"name"`
				OSType       string             `json:"osType"`
				CreateOption string             `json:"createOption"`
				ManagedDisk  *armDiskParameters `json:"managedDisk"`
				Diff         *struct {
					Option string `json:"option"`
				} `json:"diffDiskSettings"`
			} `json:"osDisk"`
			DataDisks []struct {
				LUN         int                `json:"lun"`
				Name        string             `json:"name"`
				ManagedDisk *armDiskParameters `json:"managedDisk"`
			} `json:"dataDisks"`
		} `json:"storageProfile"`
		InstanceView *armInstanceView `json:"instanceView"`
	} `json:"properties"`
}

type armStatus struct {
	Code    string `json:"code"`
	Display string `json:"displayStatus"`
}

type armInstanceView struct {
	Generation string `json:"hyperVGeneration"`
	Agent      *struct {
		Version  string      `json:"vmAgentVersion"`
		Statuses []armStatus `json:"statuses"`
		Handlers []struct {
			Type   string     `json:"type"`
			Status *armStatus `json:"status"`
		} `json:"extensionHandlers"`
	} `json:"vmAgent"`
	Extensions []struct {
		Name     string      `json:"name"`
		Type     string      `json:"type"`
		Version  string      `json:"typeHandlerVersion"`
		Statuses []armStatus `json:"statuses"`
	} `json:"extensions"`
	Statuses []armStatus `json:"statuses"`
}

// ParseVM reads the body of a VM's GET, or of a uniform scale set's instance's,
// with or without its instance view.
func ParseVM(body []byte) (VM, error) {
	const op = "reading a VM's body"
	var b armVM
	if err := unmarshal(op, body, &b); err != nil {
		return VM{}, err
	}
	id, err := ParseVMID(b.ID)
	if err != nil {
		return VM{}, err
	}
	vm := VM{ID: id, Name: b.Name, Location: FoldRegion(b.Location), ETag: b.ETag, Tags: b.Tags, Zones: b.Zones}
	if vm.Name == "" {
		vm.Name = id.Name()
	}
	if b.Identity != nil {
		vm.PrincipalID = b.Identity.PrincipalID
	}
	for _, x := range b.Resources {
		if p := x.Properties; p != nil && (x.Type == "" || strings.HasSuffix(strings.ToLower(x.Type), "/virtualmachines/extensions")) {
			vm.Extensions = append(vm.Extensions, Extension{Name: x.Name, Publisher: p.Publisher, Type: p.Type,
				Version: p.Version, ProvisioningState: p.ProvisioningState})
		}
	}
	set, _, instance := id.Instance()
	vm.ScaleSet = set
	p := b.Properties
	if p == nil {
		return vm, nil
	}
	vm.UniqueID, vm.Size, vm.ProvisioningState = p.VMID, p.Hardware.Size, p.ProvisioningState
	if instance && vm.Size == "" && b.SKU != nil {
		vm.Size = b.SKU.Name
	}
	vm.SecurityType, vm.EncryptionAtHost = p.Security.Type, tri(p.Security.EncryptionAtHost)
	vm.SecureBoot, vm.VTPM = tri(p.Security.UEFI.SecureBoot), tri(p.Security.UEFI.VTPM)
	if !instance {
		vm.ScaleSet = p.ScaleSet.id()
	}
	if vm.TimeCreated, err = armTime(op, "timeCreated", p.TimeCreated); err != nil {
		return VM{}, err
	}
	img := p.Storage.Image
	vm.Image = Image{ID: first(img.ID, img.SharedGalleryImageID, img.CommunityGalleryImageID),
		Publisher: img.Publisher, Offer: img.Offer, SKU: img.SKU, Version: first(img.ExactVersion, img.Version)}
	os := p.Storage.OSDisk
	vm.OS = os.OSType
	vm.OSDisk = OSDiskRef{Name: os.Name, CreateOption: os.CreateOption, Ephemeral: os.Diff != nil && os.Diff.Option != ""}
	vm.OSDisk.SecurityEncryptionType, vm.OSDisk.SecureDES = os.ManagedDisk.security()
	if m := os.ManagedDisk; m != nil {
		vm.OSDisk.ID, vm.OSDisk.SSEDES = DiskID(m.ID), DESID(m.SSE.id())
	}
	for _, d := range p.Storage.DataDisks {
		ref := DataDiskRef{LUN: d.LUN, Name: d.Name}
		ref.SecurityEncryptionType, ref.SecureDES = d.ManagedDisk.security()
		if m := d.ManagedDisk; m != nil {
			ref.ID, ref.SSEDES = DiskID(m.ID), DESID(m.SSE.id())
		}
		vm.DataDisks = append(vm.DataDisks, ref)
	}
	if p.InstanceView != nil {
		p.InstanceView.into(&vm)
	}
	return vm, nil
}

// ParseInstanceView adds the body of a VM's instance view to the VM.
func ParseInstanceView(body []byte, vm *VM) error {
	var v armInstanceView
	if err := unmarshal("reading an instance view's body", body, &v); err != nil {
		return err
	}
	v.into(vm)
	return nil
}

func (v *armInstanceView) into(vm *VM) {
	vm.InstanceView = true
	if v.Generation != "" {
		vm.Generation = v.Generation
	}
	for _, s := range v.Statuses {
		if prefix, state, ok := strings.Cut(s.Code, "/"); ok && strings.EqualFold(prefix, "PowerState") {
			vm.Power = strings.ToLower(state)
		}
	}
	for _, x := range v.Extensions {
		vm.extension(x.Name, x.Type, x.Version, x.Statuses)
	}
	if v.Agent == nil {
		if vm.Power == "running" {
			vm.AgentReady = False // a running VM whose agent reports nothing
		}
		return
	}
	vm.AgentVersion, vm.AgentReady = v.Agent.Version, False
	for _, s := range v.Agent.Statuses {
		if strings.EqualFold(s.Display, "Ready") {
			vm.AgentReady = True
		}
	}
	for _, h := range v.Agent.Handlers {
		for i := range vm.Extensions {
			x := &vm.Extensions[i]
			if h.Status != nil && strings.EqualFold(h.Type, x.Publisher+"."+x.Type) {
				x.HandlerStatus = h.Status.Display
			}
		}
	}
}

// extension adds an extension that only the instance view shows; that of the
// resource list wins, for it carries the resource's own state.
func (vm *VM) extension(name, fullType, version string, statuses []armStatus) {
	for _, x := range vm.Extensions {
		if strings.EqualFold(x.Name, name) {
			return
		}
	}
	x := Extension{Name: name, Type: fullType, Version: version}
	if dot := strings.LastIndex(fullType, "."); dot >= 0 {
		x.Publisher, x.Type = fullType[:dot], fullType[dot+1:]
	}
	for _, s := range statuses {
		prefix, state, ok := strings.Cut(s.Code, "/")
		if !ok || !strings.EqualFold(prefix, "ProvisioningState") {
			continue
		}
		state, _, _ = strings.Cut(strings.ToLower(state), "/")
		switch state {
		case "succeeded":
			x.ProvisioningState = "Succeeded"
		case "failed":
			x.ProvisioningState = "Failed"
		default:
			x.ProvisioningState = "Updating"
		}
	}
	vm.Extensions = append(vm.Extensions, x)
}

// ParseExtension reads the body of a VM extension's GET. The handler's state is
// in the VM's instance view alone.
func ParseExtension(body []byte) (Extension, error) {
	var b armExtension
	if err := unmarshal("reading an extension's body", body, &b); err != nil {
		return Extension{}, err
	}
	x := Extension{Name: b.Name}
	if p := b.Properties; p != nil {
		x.Publisher, x.Type, x.Version, x.ProvisioningState = p.Publisher, p.Type, p.Version, p.ProvisioningState
	}
	return x, nil
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}
