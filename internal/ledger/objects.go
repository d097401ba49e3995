package ledger

import (
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// KeysPartition is the partition of keys' rows and chains: a key's URL names no
// subscription.
const KeysPartition = "keys"

// Place is where an object's row and chain are.
type Place struct {
	Kind   cvm.SharedKind // "" for a VM
	PK, RK string
}

// Chain is the key of the object's chain.
func (p Place) Chain() string { return ChainKey(p.PK, p.RK) }

// PlaceOf tells from an object's id (a VM's, DES's, vault's or HSM's ARM id, a
// versionless key URL, <subscription>/regions/<region>,
// <subscription>/operations/<hash>; letter case doesn't matter) where its row and chain are. Invalid for any other text.
func PlaceOf(object string) (Place, error) {
	low := strings.ToLower(object)
	p := Place{RK: cvm.RowKey(object)}
	switch seg := strings.Split(low, "/"); {
	case strings.HasPrefix(low, "https://") && len(seg) == 5 && seg[3] == "keys":
		p.Kind, p.PK = cvm.SharedKey, KeysPartition
	case len(seg) == 3 && seg[1] == "regions" && seg[2] != "":
		p.Kind, p.PK = cvm.SharedRegion, seg[0]
	case len(seg) == 3 && seg[1] == operationsSegment && IsHash(seg[2]):
		p.Kind, p.PK = cvm.SharedOperation, seg[0]
	case len(seg) == 9 && seg[0] == "" && seg[1] == "subscriptions" && seg[3] == "resourcegroups" && seg[5] == "providers" && seg[8] != "":
		p.PK = seg[2]
		switch seg[6] + "/" + seg[7] {
		case "microsoft.compute/virtualmachines":
		case "microsoft.compute/diskencryptionsets":
			p.Kind = cvm.SharedDES
		case "microsoft.keyvault/vaults", "microsoft.keyvault/managedhsms":
			p.Kind = cvm.SharedVault
		default:
			p.PK = ""
		}
	}
	if _, _, ok := SplitChain(p.Chain()); !ok {
		return Place{}, fault.New(fault.Invalid, "finding the chain of", object, "it is neither the ARM id of a VM, disk encryption set, vault or HSM, nor a key's URL without version, nor <subscription>/regions/<region>")
	}
	return p, nil
}
