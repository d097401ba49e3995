package azure

import (
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// Resource types.
const (
	typeVM     = "Microsoft.Compute/virtualMachines"
	typeVMSSVM = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
	typeDisk   = "Microsoft.Compute/disks"
	typeDES    = "Microsoft.Compute/diskEncryptionSets"
	typeVault  = "Microsoft.KeyVault/vaults"
	typeHSM    = "Microsoft.KeyVault/managedHSMs"
)

// named is an ARM id that was read by package cvm.
type named interface {
	Subscription() string
	ResourceGroup() string
	Name() string
}

// place is where a resource is.
type place struct{ sub, group, name string }

// placeOf takes an id apart. Its error shows the right form.
func placeOf[T interface {
	~string
	named
}](id T, parse func(string) (T, error)) (place, error) {
	p, err := parse(string(id))
	if err != nil {
		return place{}, err
	}
	if vm, ok := any(p).(cvm.VMID); ok {
		if set, _, instance := vm.Instance(); instance {
			// Its name isn't a VM's: a call on it would find another resource, or none.
			return place{}, &fault.Error{Kind: fault.Blocked, Op: "addressing VM", Object: string(p), Err: &cause{text: "it is an instance of a uniform scale set, which is changed through the set's model alone"},
				Next: "change the model of " + set + " and bring its instances up to it"}
		}
	}
	return place{p.Subscription(), p.ResourceGroup(), p.Name()}, nil
}

// keyURL reads a key's URL. The host is one of this cloud's key vaults or managed
// HSMs: a token for keys is sent to nobody else.
func (c *Client) keyURL(k call, id cvm.KeyID) (cvm.KeyID, error) {
	id, err := cvm.ParseKeyID(strings.TrimSpace(string(id)))
	if err != nil {
		return "", err
	}
	vault, hsm := c.vaultSuffixes()
	if h := id.Host(); !strings.HasSuffix(h, vault) && !strings.HasSuffix(h, hsm) {
		return "", &fault.Error{Kind: fault.Invalid, Op: k.op, Object: string(id), Err: &cause{text: "the host is not of the cloud that this app is set up for"},
			Next: "check the key's URL, or set CVMGUARD_CLOUD"}
	}
	return id, nil
}

// fold is how ids are compared.
func fold[T ~string](id T) string { return strings.ToLower(strings.TrimRight(string(id), "/")) }
