package remedy

import (
	"context"
	"maps"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// Tags. One act serves every kind that sets or removes one tag: Args name it.

func (a *AzureApplier) lookTags(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	name, value, remove := s.Args[argTag], s.Args[argValue], s.Args[argRemove] != ""
	have, there := tagOf(vm.Tags, name)
	switch {
	case name == "":
		return Progress{}, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "the step names no tag")
	case moving(vm.ProvisioningState):
		return inMotion(), nil // tags are seen before the write that set them is over
	case remove && !there, !remove && there && have == value:
		return effected(), nil
	case s.Kind == MarkDeallocation && vm.Power != powerRunning:
		return refuse(s, "the VM isn't running but %q", vm.Power), nil
	case s.Kind == MarkDown && (vm.Power != powerDeallocated || have != MarkPending):
		return refuse(s, "the VM isn't deallocated by cvmguard (power %q, tag %q)", vm.Power, have), nil
	case s.Kind == ClearMark && vm.Power != powerRunning:
		return refuse(s, "the VM isn't running but %q", vm.Power), nil
	case s.Kind == MarkDeallocation:
		// A VM isn't marked for a deallocation that would be refused.
		why, err := a.startDoubts(ctx, s, vm)
		if err != nil {
			return Progress{}, err
		}
		if len(why) > 0 {
			return refuse(s, "it is in doubt that the VM starts again: %s", strings.Join(why, "; ")), nil
		}
	}
	return notThere(), nil
}

func (a *AzureApplier) startTags(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	if vm.ETag == "" {
		return Progress{}, fault.New(fault.Blocked, "tagging VM", s.Target, "Azure gave no ETag, and tags are only written over those that were read")
	}
	tags := maps.Clone(vm.Tags)
	if tags == nil {
		tags = map[string]string{}
	}
	maps.DeleteFunc(tags, func(k, _ string) bool { return strings.EqualFold(k, s.Args[argTag]) })
	if s.Args[argRemove] == "" {
		tags[s.Args[argTag]] = s.Args[argValue]
	}
	return a.Azure.BeginTags(ctx, vm.ID, vm.ETag, tags)
}

// tagOf finds a tag: ARM's tag names know no case.
func tagOf(tags map[string]string, name string) (value string, ok bool) {
	for k, v := range tags {
		if strings.EqualFold(k, name) {
			return v, true
		}
	}
	return "", false
}

// Extensions.

func (a *AzureApplier) lookExtension(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	spec, _, err := extensionSpec(s, vm)
	if err != nil {
		return refused(err), nil
	}
	if x, ok := findExtension(vm, spec.Publisher, spec.Type); ok {
		switch {
		case same(x.ProvisioningState, "Succeeded"):
			return effected(), nil
		case moving(x.ProvisioningState):
			return inMotion(), nil
		}
	}
	if moving(vm.ProvisioningState) {
		return inMotion(), nil
	}
	if why := notReachable(vm); why != "" {
		return refuse(s, "%s", why), nil
	}
	if s.Kind == EncryptTempDisk {
		if why := tempDiskDoubt(vm); why != "" {
			return refuse(s, "%s", why), nil
		}
	}
	return notThere(), nil
}

func (a *AzureApplier) startExtension(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vm, err := a.Azure.VM(ctx, vmOf(s))
	if err != nil {
		return Progress{}, err
	}
	spec, name, err := extensionSpec(s, vm)
	if err != nil {
		return Progress{}, err
	}
	if s.Kind == EncryptTempDisk {
		vault, err := a.Azure.Vault(ctx, cvm.VaultRef{ID: s.Args[argVault]})
		if err != nil {
			return Progress{}, err
		}
		spec.Settings["KeyVaultURL"], spec.Settings["KeyVaultResourceId"] = "https://"+vault.Host+"/", vault.ID
	}
	return a.Azure.BeginExtension(ctx, vm.ID, vm.Location, name, spec)
}

// The extensions that are installed. Linux and Windows differ in publisher, type
// and version.
const (
	attestName           = "GuestAttestation"
	attestPublisherLinux = "Microsoft.Azure.Security.LinuxAttestation"
	attestPublisherWin   = "Microsoft.Azure.Security.WindowsAttestation"
	attestVersion        = "1.0"
	tempDiskPublisher    = "Microsoft.Azure.Security"
	tempDiskTypeLinux    = "AzureDiskEncryptionForLinux"
	tempDiskVersionLinux = "1.4"
	tempDiskTypeWindows  = "AzureDiskEncryption"
	tempDiskVersionWin   = "2.4"
	osLinux              = "Linux"
	osWindows            = "Windows"
)

// extensionSpec is what a step installs on a VM (for the temporary disk without
// the vault, which is read when it is sent), and under which name: that of
// the same extension where it is there already, for Azure allows one per type.
func extensionSpec(s Step, vm cvm.VM) (spec ExtensionSpec, name string, err error) {
	linux := same(vm.OS, osLinux)
	if !linux && !same(vm.OS, osWindows) {
		return spec, "", fault.New(fault.Blocked, "choosing an extension for VM", string(vm.ID), "its operating system was read as %q", vm.OS)
	}
	switch s.Kind {
	case InstallAttest:
		spec = ExtensionSpec{Publisher: attestPublisherWin, Type: attestName, Version: attestVersion,
			AutoUpgradeMinor: true, AutoUpgrade: true, Settings: map[string]any{
				"AttestationConfig": map[string]any{
					// An empty endpoint means the region's shared provider.
					"MaaSettings":    map[string]any{"maaEndpoint": "", "maaTenantName": "GuestAttestation"},
					"AscSettings":    map[string]any{"ascReportingEndpoint": "", "ascReportingFrequency": ""},
					"useCustomToken": "false", "disableAlerts": "false", // texts, as the extension wants them
				}}}
		if linux {
			spec.Publisher = attestPublisherLinux
		}
		name = attestName
	default:
		spec = ExtensionSpec{Publisher: tempDiskPublisher, Type: tempDiskTypeWindows, Version: tempDiskVersionWin,
			AutoUpgradeMinor: true, Settings: map[string]any{
				"VolumeType": "Data", "EncryptionOperation": "EnableEncryption",
			}}
		if linux {
			spec.Type, spec.Version = tempDiskTypeLinux, tempDiskVersionLinux
		}
		name = spec.Type
	}
	if x, ok := findExtension(vm, spec.Publisher, spec.Type); ok {
		name = x.Name
	}
	return spec, name, nil
}

func findExtension(vm cvm.VM, publisher, kind string) (cvm.Extension, bool) {
	for _, x := range vm.Extensions {
		if same(x.Publisher, publisher) && same(x.Type, kind) {
			return x, true
		}
	}
	return cvm.Extension{}, false
}
