package cvm

import "strings"

// Kind is what sort of machine a VM is.
type Kind string

// The kinds.
const (
	KindStandardGen1  Kind = "standard-gen1"
	KindStandardGen2  Kind = "standard-gen2"
	KindTrustedLaunch Kind = "trusted-launch"
	KindGuestState    Kind = "cvm-guest-state-only"
	KindPlatformKey   Kind = "cvm-platform-key"
	KindCustomerKey   Kind = "cvm-customer-key"
	KindEphemeralTPM  Kind = "cvm-ephemeral-vtpm"
	KindUnknown       Kind = "unknown"
)

// TEE is the hardware that a size stands for.
type TEE string

// The TEEs.
const (
	TEESNP     TEE = "sev-snp"
	TEETDX     TEE = "tdx"
	TEENone    TEE = "none"
	TEEUnknown TEE = "unknown"
)

// Security is a VM's securityType as a closed set.
type Security string

// The securities. ARM shows an ordinary VM by an absent type, null or "Standard".
const (
	SecurityStandard      Security = "standard"
	SecurityTrustedLaunch Security = "trusted-launch"
	SecurityConfidential  Security = "confidential"
	SecurityUnknown       Security = "unknown" // a value that this program doesn't know: never Standard
)

// The values of securityEncryptionType that this program knows.
const (
	EncryptGuestState = "VMGuestStateOnly"
	EncryptDisk       = "DiskWithVMGuestState"
	EncryptNoTPM      = "NonPersistedTPM"
	// EncryptDataDisk stands on a data disk whose encryption is confidential (preview).
	EncryptDataDisk = "DataDiskEncryptedWithCustomerKey"
)

// The values of a disk's securityType that this program knows.
const (
	DiskGuestState    = "ConfidentialVM_VMGuestStateOnlyEncryptedWithPlatformKey"
	DiskPlatformKey   = "ConfidentialVM_DiskEncryptedWithPlatformKey"
	DiskCustomerKey   = "ConfidentialVM_DiskEncryptedWithCustomerKey"
	DiskNoTPM         = "ConfidentialVM_NonPersistedTPM"
	DiskTrustedLaunch = "TrustedLaunch"
)

// SecurityOf reads a VM's securityType.
func SecurityOf(vm VM) Security {
	switch strings.ToLower(vm.SecurityType) {
	case "", "standard":
		return SecurityStandard
	case "trustedlaunch":
		return SecurityTrustedLaunch
	case "confidentialvm":
		return SecurityConfidential
	}
	return SecurityUnknown
}

// KindOf is the VM's kind by what ARM shows of the VM alone. An ordinary VM that
// was read without an instance view shows no generation: unknown; KindWithDisk
// then takes the OS disk's.
func KindOf(vm VM) Kind {
	switch SecurityOf(vm) {
	case SecurityTrustedLaunch:
		return KindTrustedLaunch
	case SecurityStandard:
		switch strings.ToUpper(vm.Generation) {
		case "V1":
			return KindStandardGen1
		case "V2":
			return KindStandardGen2
		}
	case SecurityConfidential:
		switch {
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptGuestState):
			return KindGuestState
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptNoTPM):
			return KindEphemeralTPM
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptDisk) && vm.OSDisk.SecureDES != "":
			return KindCustomerKey
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptDisk):
			return KindPlatformKey
		}
	}
	return KindUnknown
}

// KindWithDisk is KindOf with the OS disk's generation where the VM shows none.
func KindWithDisk(vm VM, os Fact[Disk]) Kind {
	if vm.Generation == "" && os.Known {
		vm.Generation = os.Value.Generation
	}
	return KindOf(vm)
}

// ExpectedDiskSecurityType is the securityType that a VM's OS disk must show. ok
// is false where the VM's own values aren't known ones. An ordinary VM's disk
// shows none: "", true.
func ExpectedDiskSecurityType(vm VM) (securityType string, ok bool) {
	switch SecurityOf(vm) {
	case SecurityStandard:
		return "", true
	case SecurityTrustedLaunch:
		return DiskTrustedLaunch, true
	case SecurityConfidential:
		switch {
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptGuestState):
			return DiskGuestState, true
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptNoTPM):
			return DiskNoTPM, true
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptDisk) && vm.OSDisk.SecureDES != "":
			return DiskCustomerKey, true
		case strings.EqualFold(vm.OSDisk.SecurityEncryptionType, EncryptDisk):
			return DiskPlatformKey, true
		}
	}
	return "", false
}

// KnownDiskSecurityType says whether a disk's securityType is one that this
// program knows. "Standard" and "" are the ordinary disk's.
func KnownDiskSecurityType(s string) bool {
	for _, k := range []string{"", "Standard", DiskGuestState, DiskPlatformKey, DiskCustomerKey, DiskNoTPM, DiskTrustedLaunch} {
		if strings.EqualFold(s, k) {
			return true
		}
	}
	return false
}
