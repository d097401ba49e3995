package cvm

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"unicode"

	"cvmguard/internal/fault"
)

// VMID is an ARM id of a virtual machine, spelled as it came. Two ids are the
// same VM when their Fold is equal.
type VMID string

// DiskID is an ARM id of a managed disk.
type DiskID string

// DESID is an ARM id of a disk encryption set.
type DESID string

// VaultID is an ARM id of a Key Vault or a Managed HSM.
type VaultID string

// KeyID is the URL of a key, https://<host>/keys/<name>[/<version>].
type KeyID string

// RegionID names the readiness of a region: <subscription>/regions/<region>,
// lower case.
type RegionID string

const (
	exampleSub   = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/"
	exampleVM    = exampleSub + "Microsoft.Compute/virtualMachines/vm1"
	exampleDisk  = exampleSub + "Microsoft.Compute/disks/vm1-os"
	exampleDES   = exampleSub + "Microsoft.Compute/diskEncryptionSets/des1"
	exampleVault = exampleSub + "Microsoft.KeyVault/vaults/kv1"
	exampleKey   = "https://kv1.vault.azure.net/keys/key1/00112233445566778899aabbccddeeff"
	exampleArea  = "00000000-0000-0000-0000-000000000001/regions/northeurope"

	maxIDLength = 2048
)

// armSegments are the places in a split ARM id, whose first element is empty.
const (
	segSub = 2 + iota*2
	segGroup
	segProvider
	segName
	segInstance // of an instance of a uniform scale set
	segCount    = segName + 1
)

// ParseVMID accepts exactly one spelling, in any letter case:
// /subscriptions/<guid>/resourceGroups/<group>/providers/Microsoft.Compute/virtualMachines/<name>,
// or that of an instance of a uniform scale set:
// …/providers/Microsoft.Compute/virtualMachineScaleSets/<set>/virtualMachines/<instance>.
// Errors are fault.Invalid and show the right form.
func ParseVMID(s string) (VMID, error) {
	id, child, err := VMIDAtHead(s)
	if err == nil && child != "" {
		return "", idFault("reading a VM id", s, exampleVM, "it goes on after the VM's name with %q", child)
	}
	return id, err
}

// VMIDAtHead takes the VM, or the instance of a uniform scale set, at the head of
// a longer id, such as that of an extension, and what follows it
// ("extensions/x"; "" if nothing does).
func VMIDAtHead(s string) (id VMID, child string, err error) {
	const op = "reading a VM id"
	seg, err := splitARM(op, s, exampleVM)
	if err != nil {
		return "", "", err
	}
	end := segCount
	switch kind := strings.ToLower(seg[segProvider] + "/" + seg[segProvider+1]); {
	case kind == "microsoft.compute/virtualmachines":
	case kind == "microsoft.compute/virtualmachinescalesets" && len(seg) >= segInstance+1 && strings.EqualFold(seg[segInstance-1], "virtualMachines"):
		end = segInstance + 1
	default:
		return "", "", idFault(op, s, exampleVM, "it names a %q, not a virtual machine", seg[segProvider]+"/"+seg[segProvider+1])
	}
	rest := seg[end:]
	if len(rest)%2 != 0 {
		return "", "", idFault(op, s, exampleVM, "what follows the VM's name is not pairs of type and name")
	}
	return VMID(strings.Join(seg[:end], "/")), strings.Join(rest, "/"), nil
}

// ParseDiskID reads a managed disk's ARM id.
func ParseDiskID(s string) (DiskID, error) {
	err := exactly("reading a disk id", s, exampleDisk, "Microsoft.Compute", "disks")
	if err != nil {
		return "", err
	}
	return DiskID(s), nil
}

// ParseDESID reads a disk encryption set's ARM id.
func ParseDESID(s string) (DESID, error) {
	err := exactly("reading a disk encryption set id", s, exampleDES, "Microsoft.Compute", "diskEncryptionSets")
	if err != nil {
		return "", err
	}
	return DESID(s), nil
}

// ParseVaultID reads the ARM id of a Key Vault or of a Managed HSM.
func ParseVaultID(s string) (VaultID, error) {
	err := exactly("reading a vault id", s, exampleVault, "Microsoft.KeyVault", "vaults", "managedHSMs")
	if err != nil {
		return "", err
	}
	return VaultID(s), nil
}

// ParseRegionID reads <subscription>/regions/<region>; it gives it in lower case.
func ParseRegionID(s string) (RegionID, error) {
	sub, region, ok := strings.Cut(s, "/regions/")
	if !ok || !isGUID(sub) || region == "" || FoldRegion(region) != strings.ToLower(region) || !isRegion(FoldRegion(region)) {
		return "", idFault("reading a region id", s, exampleArea, "it is not <subscription>/regions/<region>")
	}
	return RegionOf(sub, region), nil
}

// RegionOf names the readiness of a region in a subscription.
func RegionOf(subscription, region string) RegionID {
	return RegionID(strings.ToLower(subscription) + "/regions/" + FoldRegion(region))
}

// Subscription is the subscription's GUID.
func (id RegionID) Subscription() string { s, _, _ := strings.Cut(string(id), "/"); return s }

// Region is the region's short name.
func (id RegionID) Region() string { _, r, _ := strings.Cut(string(id), "/regions/"); return r }

// FoldRegion gives a region's short name: "West Europe" is westeurope.
func FoldRegion(region string) string {
	return strings.ToLower(strings.ReplaceAll(region, " ", ""))
}

// RowKey is the row key of an object's id: the first 26 characters of the
// lower-case base32 (RFC 4648) of the SHA-256 of the lower-cased id.
func RowKey(id string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(id)))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}

// ChainKey names an object's chain and, for a VM, its place in URLs:
// <partition>-<row key>. The partition of all that belongs to a subscription is
// the subscription's id.
func ChainKey(partition, id string) string { return strings.ToLower(partition) + "-" + RowKey(id) }

// Fold is the id by which two spellings are the same VM.
func (id VMID) Fold() string { return strings.ToLower(string(id)) }

// Subscription is the subscription's GUID as spelled, "" for what isn't an ARM id.
func (id VMID) Subscription() string { return armSegment(string(id), segSub) }

// ResourceGroup is the resource group's name as spelled.
func (id VMID) ResourceGroup() string { return armSegment(string(id), segGroup) }

// Name is the VM's name as spelled; an instance of a uniform scale set is called
// <set>_<instance>, as Azure does.
func (id VMID) Name() string {
	name := armSegment(string(id), segName)
	if _, instance, ok := id.Instance(); ok {
		return name + "_" + instance
	}
	return name
}

// Instance takes the id of a uniform scale set's instance apart: the set's ARM id
// and the instance's. ok is false for every other VM, those of flexible scale sets
// among them, whose ids are a VM's own.
func (id VMID) Instance() (set, instance string, ok bool) {
	seg := strings.Split(string(id), "/")
	if len(seg) != segInstance+1 || !strings.EqualFold(seg[segProvider+1], "virtualMachineScaleSets") || !strings.EqualFold(seg[segInstance-1], "virtualMachines") {
		return "", "", false
	}
	return strings.Join(seg[:segCount], "/"), seg[segInstance], true
}

// ChainKey is the VM's key in URLs and in the ledger.
func (id VMID) ChainKey() string { return ChainKey(id.Subscription(), string(id)) }

// Fold is the id by which two spellings are the same disk.
func (id DiskID) Fold() string { return strings.ToLower(string(id)) }

// Subscription is the subscription's GUID as spelled.
func (id DiskID) Subscription() string { return armSegment(string(id), segSub) }

// ResourceGroup is the resource group's name as spelled.
func (id DiskID) ResourceGroup() string { return armSegment(string(id), segGroup) }

// Name is the disk's name as spelled.
func (id DiskID) Name() string { return armSegment(string(id), segName) }

// Fold is the id by which two spellings are the same disk encryption set.
func (id DESID) Fold() string { return strings.ToLower(string(id)) }

// Subscription is the subscription's GUID as spelled.
func (id DESID) Subscription() string { return armSegment(string(id), segSub) }

// ResourceGroup is the resource group's name as spelled.
func (id DESID) ResourceGroup() string { return armSegment(string(id), segGroup) }

// Name is the disk encryption set's name as spelled.
func (id DESID) Name() string { return armSegment(string(id), segName) }

// Fold is the id by which two spellings are the same vault.
func (id VaultID) Fold() string { return strings.ToLower(string(id)) }

// Subscription is the subscription's GUID as spelled.
func (id VaultID) Subscription() string { return armSegment(string(id), segSub) }

// ResourceGroup is the resource group's name as spelled.
func (id VaultID) ResourceGroup() string { return armSegment(string(id), segGroup) }

// Name is the vault's or HSM's name as spelled.
func (id VaultID) Name() string { return armSegment(string(id), segName) }

// IsHSM says whether the id is a Managed HSM's.
func (id VaultID) IsHSM() bool {
	return strings.EqualFold(armSegment(string(id), segProvider+1), "managedHSMs")
}

// splitARM splits an ARM id of a resource in a resource group and checks its
// head; elements past segCount are its children, checked as names.
func splitARM(op, s, example string) ([]string, error) {
	if len(s) > maxIDLength {
		return nil, idFault(op, s[:64]+"…", example, "it is %d characters long", len(s))
	}
	seg := strings.Split(s, "/")
	if len(seg) < segCount || seg[0] != "" {
		return nil, idFault(op, s, example, "it has not the form of a resource id")
	}
	for i, want := range map[int]string{segSub - 1: "subscriptions", segGroup - 1: "resourceGroups", segProvider - 1: "providers"} {
		if !strings.EqualFold(seg[i], want) {
			return nil, idFault(op, s, example, "%q stands where %q belongs", seg[i], want)
		}
	}
	if !isGUID(seg[segSub]) {
		return nil, idFault(op, s, example, "%q is not a subscription id", seg[segSub])
	}
	for _, name := range seg[segGroup:] {
		if !isARMName(name) {
			return nil, idFault(op, s, example, "%q is not a name", name)
		}
	}
	return seg, nil
}

func exactly(op, s, example, provider string, types ...string) error {
	seg, err := splitARM(op, s, example)
	if err != nil {
		return err
	}
	if len(seg) != segCount {
		return idFault(op, s, example, "it goes on after the resource's name")
	}
	for _, t := range types {
		if strings.EqualFold(seg[segProvider], provider) && strings.EqualFold(seg[segProvider+1], t) {
			return nil
		}
	}
	return idFault(op, s, example, "it names a %q, not a %s/%s", seg[segProvider]+"/"+seg[segProvider+1], provider, strings.Join(types, " or "))
}

// armSegment is one place of an ARM id, "" where there is none.
func armSegment(s string, i int) string {
	seg := strings.Split(s, "/")
	if len(seg) <= i {
		return ""
	}
	return seg[i]
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		switch i {
		case 8, 13, 18, 23:
			if r != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", r) {
				return false
			}
		}
	}
	return true
}

// isARMName takes letters and digits of any script and -_.(). A letter whose
// lower case is an ASCII one (the Kelvin sign) is refused: it would fold two
// names into one.
func isARMName(s string) bool {
	if s == "" || len(s) > 260 || s == "." || s == ".." {
		return false
	}
	for _, r := range s {
		switch {
		case strings.ContainsRune("-_.()", r):
		case r == unicode.ReplacementChar, !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r):
			return false
		case r > unicode.MaxASCII && unicode.ToLower(r) <= unicode.MaxASCII:
			return false
		}
	}
	return true
}

func isRegion(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 40
}

func idFault(op, s, example, format string, args ...any) error {
	e := fault.New(fault.Invalid, op, s, format, args...)
	e.Next = "give an id such as " + example
	return e
}
