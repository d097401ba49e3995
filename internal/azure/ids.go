package azure

import (
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// Resource types.
const (
	typeVM    = "Microsoft.Compute/virtualMachines"
	typeDisk  = "Microsoft.Compute/disks"
	typeDES   = "Microsoft.Compute/diskEncryptionSets"
	typeVault = "Microsoft.KeyVault/vaults"
	typeHSM   = "Microsoft.KeyVault/managedHSMs"
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
