package azurepolicy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// The parameters of definitions.
const (
	paramEffect      = "effect"
	paramExcept      = "exceptIds"
	paramAllowedSets = "allowedDiskEncryptionSets"
	paramSets        = "confidentialDiskEncryptionSets"
	paramVaults      = "vaults"
	paramKeys        = "keys"
	paramBits        = "minKeyBits"
)

// expressed is a rule in Azure Policy's language.
type expressed struct {
	when   Condition // without the resources that are left alone (paramExcept)
	mode   string    // Indexed, or All for what has neither tags nor location
	params []string  // beside effect and exceptIds
	shows  []string  // the fields that say why
	leaves string    // what of the rule it doesn't cover
}

// policyOf is what definitions are made from.
type policyOf struct {
	doc    *policy.Document
	wanted clause
	sets   bool // the VMs are a scale set's, and the conditions about its model
	// judged takes the VMs that rules on all kinds of VM are about: all but ordinary
	// and Trusted Launch VMs that policy doesn't want as confidential ones.
	judged clause
}

func prepare(d *policy.Document, sets bool) (p policyOf, inexact []string) {
	p.doc, p.sets = d, sets
	p.wanted, inexact = wanted(d.Want, sets)
	p.judged = either(when(allOf(present(vmSecurity), notIn(vmSecurity, "", "Standard", "TrustedLaunch"))), p.wanted)
	return p, inexact
}

// on is a condition on resources of a type, the type first.
func on(typ string, parts ...clause) clause {
	return both(append([]clause{when(equals("type", typ))}, parts...)...)
}

// onMachines is a condition on VMs, and the same on the models of scale sets, whose
// VMs Azure makes without asking Azure Policy. A set without a model is left alone:
// its VMs come one by one.
func onMachines(p policyOf, parts func(policyOf) []clause) clause {
	vms := on(typeVM, parts(p)...)
	p, _ = prepare(p.doc, true)
	sets := both(append([]clause{when(present(setModel))}, parts(p)...)...)
	if !sets.never && !sets.always {
		sets.cond = onFields(sets.cond, func(name string) string { name, _ = ofSet(name); return name })
	}
	return either(vms, on(typeSet, sets))
}

var isCVM = when(equals(vmSecurity, "ConfidentialVM"))

// makers make the definition of a rule. A clause that never holds is no
// definition: why then says why.
var makers = map[string]func(policyOf) (c clause, e expressed, why string){
	"vm-kind": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(p policyOf) []clause {
				return []clause{either(
					both(p.wanted, when(notEquals(vmSecurity, "ConfidentialVM"))),
					both(p.judged, when(notACVMSize())))}
			}),
			expressed{shows: []string{vmSecurity, vmSize}}, ""
	},
	"os-disk-confidential": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(policyOf) []clause {
				return []clause{isCVM, when(notIn(vmEncryption, cvm.EncryptDisk, cvm.EncryptNoTPM))}
			}),
			expressed{shows: []string{vmEncryption}}, ""
	},
	"os-disk-customer-key": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(policyOf) []clause {
				return []clause{isCVM, when(anyOf(
					allOf(equals(vmEncryption, cvm.EncryptDisk), absent(vmSecureDES)),
					allOf(equals(vmEncryption, cvm.EncryptGuestState), present(vmSecureDES)),
					allOf(present(vmSecureDES), present(vmSSEDES)),
					allOf(present(vmSecureDES),
						Condition{Value: anySetAllowed, Operator: "greater", Operand: 0},
						test(vmSecureDES, "notIn", parameter(paramAllowedSets)))))}
			}),
			expressed{params: []string{paramAllowedSets}, shows: []string{vmEncryption, vmSecureDES, vmSSEDES},
				leaves: "Whether the disk encryption set exists is another resource's to say."}, ""
	},
	"vtpm-persisted": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(policyOf) []clause {
			return []clause{isCVM, when(equals(vmEncryption, cvm.EncryptNoTPM))}
		}), expressed{shows: []string{vmEncryption}}, ""
	},
	"secure-boot": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(p policyOf) []clause {
				return []clause{either(both(isCVM, when(notEquals(vmEncryption, cvm.EncryptNoTPM))), trustedLaunch(p)), when(notEquals(vmSecureBoot, "true"))}
			}),
			expressed{shows: []string{vmSecurity, vmSecureBoot}}, ""
	},
	"vtpm": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(p policyOf) []clause {
				return []clause{either(isCVM, trustedLaunch(p)), when(notEquals(vmVTPM, "true"))}
			}),
			expressed{shows: []string{vmSecurity, vmVTPM}}, ""
	},
	"ade-on-os-disk": func(policyOf) (clause, expressed, string) {
		return on(typeDisk, when(allOf(present(diskOS), like(diskSecurity, "ConfidentialVM*"), equals(diskADE, "true")))),
			expressed{shows: []string{diskSecurity, diskADE}, leaves: "What Azure Disk Encryption does from inside the guest is seen afterwards, by the compliance scan."}, ""
	},
	"disk-export": func(p policyOf) (clause, expressed, string) {
		scope, leaves := always, "An OS disk that is made with its VM isn't a request of its own: the compliance scan sees it. Access by SAS comes later."
		if !p.wanted.always {
			scope = when(like(diskSecurity, "ConfidentialVM*"))
			leaves += " As policy doesn't want all VMs, only disks of confidential VMs are held to it."
		}
		return on(typeDisk, when(present(diskOS)), scope, when(anyOf(absent(diskAccess), equals(diskAccess, "AllowAll")))),
			expressed{shows: []string{diskSecurity, diskAccess}, leaves: leaves}, ""
	},
	"encryption-at-host": func(p policyOf) (clause, expressed, string) {
		return onMachines(p, func(p policyOf) []clause {
			return []clause{p.judged, when(notEquals(vmAtHost, "true"))}
		}), expressed{shows: []string{vmAtHost}}, ""
	},
	"data-disk-customer-key": dataDisks,
	"des-type": func(policyOf) (clause, expressed, string) {
		return on(typeDES, when(listed(paramSets)), when(notEquals(desType, cvm.DESTypeConfidential))),
			expressed{params: []string{paramSets}, shows: []string{desType},
				leaves: "Which set a VM names is the VM's to say: only the sets that a parameter lists, by default those of the policy's regions, are held to it."}, ""
	},
	"des-identity": func(policyOf) (clause, expressed, string) {
		return on(typeDES, when(anyOf(absent("identity.type"), equals("identity.type", "None")))),
			expressed{shows: []string{"identity.type"}, leaves: "Whether the identity still has a principal shows after the request."}, ""
	},
	"des-region": func(p policyOf) (clause, expressed, string) {
		return on(typeDES, p.inRegion(func(r policy.Region) string { return string(r.DES) })),
			expressed{shows: []string{"location"}, leaves: onlyRegions}, "Policy names no region's disk encryption set, and a set's request doesn't say where its VMs are."
	},
	"vault-premium": func(policyOf) (clause, expressed, string) {
		return on(typeVault, when(listed(paramVaults)), newVault, when(notEquals(vaultSKU, "premium"))),
			expressed{params: []string{paramVaults}, shows: []string{vaultSKU}, leaves: onlyVaults}, ""
	},
	"vault-purge-protection": func(policyOf) (clause, expressed, string) {
		return either(
				on(typeVault, when(listed(paramVaults)), newVault, when(notEquals(vaultPurge, "true"))),
				on(typeHSM, when(listed(paramVaults)), newHSM, when(notEquals(hsmPurge, "true")))),
			expressed{params: []string{paramVaults}, shows: []string{vaultPurge}, leaves: onlyVaults}, ""
	},
	"vault-soft-delete": func(policyOf) (clause, expressed, string) {
		return on(typeVault, when(listed(paramVaults)), newVault, when(equals(vaultSoft, "false"))),
			expressed{params: []string{paramVaults}, shows: []string{vaultSoft}, leaves: onlyVaults}, ""
	},
	"vault-region": func(p policyOf) (clause, expressed, string) {
		return both(when(anyOf(equals("type", typeVault), equals("type", typeHSM))), p.inRegion(func(r policy.Region) string { return r.Vault })),
			expressed{shows: []string{"location"}, leaves: onlyRegions}, "Policy names no region's vault, and a vault's request doesn't say where the disk encryption sets are."
	},
	"key-hsm": func(policyOf) (clause, expressed, string) {
		return aKey(notEquals(keyType, "RSA-HSM")), keyDefinition(keyType), ""
	},
	"key-size": func(policyOf) (clause, expressed, string) {
		e := keyDefinition(keySize)
		e.params = append(e.params, paramBits)
		// A request without a size gets Azure's own, 2048.
		return aKey(equals(keyType, "RSA-HSM"), anyOf(
			allOf(present(keySize), test(keySize, "less", parameter(paramBits))),
			allOf(absent(keySize), Condition{Value: parameter(paramBits), Operator: "greater", Operand: 2048}))), e, ""
	},
	"key-exportable": func(policyOf) (clause, expressed, string) {
		return aKey(notEquals(keyExportable, "true")), keyDefinition(keyExportable), ""
	},
	"key-enabled": func(policyOf) (clause, expressed, string) {
		return aKey(equals(keyEnabled, "false")), keyDefinition(keyEnabled), ""
	},
	"key-expiry": func(p policyOf) (clause, expressed, string) {
		if !p.doc.Rules["key-expiry"].Required {
			return never, expressed{}, "Policy doesn't demand an expiry date, and a date can't be compared with the moment of the request."
		}
		e := keyDefinition(keyExpires)
		e.leaves += " That a date is past or near shows later."
		return aKey(absent(keyExpires)), e, ""
	},
	"key-ops": func(policyOf) (clause, expressed, string) {
		return aKey(present(keyOps), anyOf(none(keyOp, equals(keyOp, "wrapKey")), none(keyOp, equals(keyOp, "unwrapKey")))), keyDefinition(keyOps), ""
	},
}

const (
	onlyVaults  = "Which vault holds a key for disks is a disk encryption set's to say: only the vaults that a parameter lists, by default those of the policy's regions, are held to it."
	onlyKeys    = "A key that is made through its vault's own API is no request to Azure Resource Manager: only keys made by a template are seen, and of those the ones that a parameter lists, by default those of the policy's regions."
	onlyRegions = "Only what the policy names for a region is held to it."
)

// newVault and newHSM leave out the recovery of what was deleted, whose request says
// nothing.
var (
	newVault = when(notEquals(vaultMode, "recover"))
	newHSM   = when(notEquals(hsmMode, "recover"))
)

func listed(param string) Condition { return test("id", "in", parameter(param)) }

func trustedLaunch(p policyOf) clause {
	return both(when(equals(vmSecurity, "TrustedLaunch")), p.wanted)
}

// aKey is a condition on the keys that a parameter lists, in vaults and in Managed
// HSMs.
func aKey(conds ...Condition) clause {
	parts := []clause{when(listed(paramKeys))}
	for _, c := range conds {
		parts = append(parts, when(c))
	}
	inVault, inHSM := on(typeKey, parts...), both(parts...)
	inHSM.cond = onFields(inHSM.cond, ofHSM)
	return either(inVault, on(typeHKey, inHSM))
}

func keyDefinition(shows string) expressed {
	return expressed{mode: "All", params: []string{paramKeys}, shows: []string{keyType, shows}, leaves: onlyKeys}
}

// inRegion takes what policy names for a region and finds elsewhere.
func (p policyOf) inRegion(id func(policy.Region) string) clause {
	var list []clause
	for _, region := range slices.Sorted(maps.Keys(p.doc.Regions)) {
		if named := id(p.doc.Regions[region]); named != "" {
			list = append(list, when(allOf(equals("id", named), notEquals("location", region))))
		}
	}
	return either(list...)
}

// dataDisks is about two types: a data disk that is made with its VM stands in the
// VM's request, one that was made before in its own.
func dataDisks(p policyOf) (clause, expressed, string) {
	inVM := onMachines(p, func(p policyOf) []clause {
		fresh := []Condition{absent(vmDataSSE), absent(vmDataSecurity)}
		if !p.sets { // a set's model has no disks that were made before
			fresh = append([]Condition{absent(vmDataID)}, fresh...)
		}
		return []clause{p.judged, when(moreThanNone(vmData, allOf(fresh...)))}
	})
	e := expressed{shows: []string{diskEncryption, diskSSEDES}}
	if !p.wanted.always {
		e.leaves = "As policy doesn't want all VMs and a disk's request doesn't name its VM, only disks that are made with their VM are held to it. Whether the set is an ordinary one is another resource's to say."
		return inVM, e, ""
	}
	e.leaves = "A data disk that no VM uses is held to it too. Whether the disk encryption set is an ordinary one is another resource's to say."
	alone := on(typeDisk, when(allOf(absent(diskOS), absent(diskProfile))), when(anyOf(
		equals(diskEncryption, "EncryptionAtRestWithPlatformKey"), allOf(absent(diskEncryption), absent(diskSSEDES)))))
	return either(inVM, alone), e, ""
}

// notACVMSize takes the sizes whose names look like a confidential VM's and that
// aren't one: parents of child VMs, and those for SGX enclaves.
func notACVMSize() Condition {
	var list []Condition
	for _, family := range []string{"DC", "EC"} {
		for _, kind := range []string{"as", "ads"} {
			list = append(list, like(vmSize, "Standard_"+family+"*"+kind+"_cc_v5"))
		}
	}
	for _, digits := range []string{"#", "##"} {
		for _, rest := range []string{"s", "s_v2", "s_v3", "ds_v3"} {
			list = append(list, test(vmSize, "matchInsensitively", "Standard_DC"+digits+rest))
		}
	}
	return anyOf(list...)
}

// unexpressed says why a rule that has no definition has none.
func unexpressed(r policy.Rule) NotExpressed {
	n, ok := reasons[r.ID]
	if !ok {
		n = byNeeds(r)
	}
	n.Rule = r.ID
	return n
}

// The kinds of reason for which a rule has no definition.
const (
	OtherResource = "other-resource" // the answer is in a resource that the request doesn't hold
	DataPlane     = "data-plane"     // the answer is in the vault or HSM; that mode takes Azure's own definitions alone
	Guest         = "guest"          // the answer is the guest's
	Afterwards    = "afterwards"     // the answer comes after the request
	NoAlias       = "no-alias"       // Azure has no alias for it
	NeverFails    = "never-fails"    // the rule notes, it fails nothing
	NotSayable    = "not-sayable"    // the language can't say it
	NothingNamed  = "nothing-named"  // this policy names nothing that it could hold to
)

var reasons = map[string]NotExpressed{
	"vm-state":          {Kind: Afterwards, Why: "Azure sets provisioningState after the request."},
	"disk-vm-match":     {Kind: OtherResource, Why: "The OS disk is another resource, and is there after the request."},
	"des-state":         {Kind: Afterwards, Why: "Azure sets provisioningState after the request."},
	"des-auto-rotation": {Kind: OtherResource, Why: "It is wrong only where all disks of the set are of version V1, which the disks say."},
	"des-rotation":      {Kind: Afterwards, Why: "A rotation and its error come after the request."},
	"des-key-url":       {Kind: NotSayable, Why: "The form of a URL is more than one wildcard can say; Azure itself refuses what is no key's URL."},
	"des-use":           {Kind: OtherResource, Why: "The disks that hang on a set are other resources."},

	"key-available":        {Kind: DataPlane, Why: "Whether a key is still there the vault says."},
	"key-release-policy":   {Kind: NoAlias, Why: "There is no alias for a key's release policy, neither of Azure Resource Manager nor of the vault."},
	"key-policy-immutable": {Kind: NoAlias, Why: "There is no alias for a key's release policy, neither of Azure Resource Manager nor of the vault."},
	"key-version":          {Kind: NeverFails, Why: "It notes a newer version; and which one is in use the disk encryption set says."},
	"key-certificate":      {Kind: DataPlane, Why: "That a key backs a certificate the vault says."},

	"vault-network":       {Kind: NeverFails, Why: "It notes a vault that the platform may not reach; it fails none."},
	"rights-des":          {Kind: OtherResource, Why: "Rights are role assignments or access policies, and follow the set's identity."},
	"rights-orchestrator": {Kind: OtherResource, Why: "Rights are role assignments or access policies."},
	"rights-unwrap":       {Kind: OtherResource, Why: "Rights are role assignments or access policies."},

	"temp-disk-confidential":      {Kind: Afterwards, Why: "An extension is a resource of its own that follows the VM."},
	"guest-attestation-extension": {Kind: Afterwards, Why: "An extension is a resource of its own that follows the VM."},
	"agent-ready":                 {Kind: Guest, Why: "The agent speaks from inside the running VM."},

	"region-key-ready":    {Kind: DataPlane, Why: "A definition is about a resource that is asked for; it can't ask for one that is missing, and a key's state the vault says."},
	"region-des-ready":    {Kind: OtherResource, Why: "A definition is about a resource that is asked for; it can't ask for one that is missing."},
	"region-rights-ready": {Kind: OtherResource, Why: "Rights are role assignments or access policies."},

	"exemptions":  {Kind: OtherResource, Why: "Who set an exemption's tag the Activity Log says, and what it may say cvmguard's policy."},
	"enforcement": {Kind: Afterwards, Why: "That a value was changed back again and again shows over time."},

	"image-tee":     {Kind: NotSayable, Why: "It rests on cvmguard's table of images and sizes, whose patterns need more than one wildcard."},
	"image-support": {Kind: Afterwards, Why: "A release leaves support while the VM lives; the dates are in cvmguard's table of images."},
}

func byNeeds(r policy.Rule) NotExpressed {
	switch r.Needs {
	case policy.NeedsKeys:
		return NotExpressed{Kind: DataPlane, Why: "The vault or the HSM has the answer."}
	case policy.NeedsProof:
		return NotExpressed{Kind: Guest, Why: "Only the running guest can prove it."}
	case policy.NeedsClaims:
		return NotExpressed{Kind: Guest, Why: "Only the running guest can say it."}
	}
	return NotExpressed{Kind: OtherResource, Why: fmt.Sprintf("What it checks isn't in one request: %s", strings.TrimSuffix(r.Checks, ".")+".")}
}
