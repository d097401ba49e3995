package azure

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// The data actions of keys under Key Vault's RBAC.
const (
	actionKeyRead   = "Microsoft.KeyVault/vaults/keys/read"
	actionKeyCreate = "Microsoft.KeyVault/vaults/keys/create/action"
	actionKeyUpdate = "Microsoft.KeyVault/vaults/keys/update/action"
)

// keyAction is a vault's data action, or the managed HSM's name of it.
func keyAction(id cvm.KeyID, action string) string {
	if !id.IsHSM() {
		return action
	}
	return map[string]string{
		actionKeyRead:   "Microsoft.KeyVault/managedHsm/keys/read/action",
		actionKeyCreate: "Microsoft.KeyVault/managedHsm/keys/create",
		actionKeyUpdate: "Microsoft.KeyVault/managedHsm/keys/write/action",
	}[action]
}

func (c *Client) newKeys(host string) (*azkeys.Client, error) {
	base, err := c.baseOptions()
	if err != nil {
		return nil, err
	}
	cred, err := c.credential()
	if err != nil {
		return nil, err
	}
	return azkeys.NewClient("https://"+host, cred, &azkeys.ClientOptions{ClientOptions: base})
}

// Key reads a key's version, the newest if the URL names none.
func (c *Client) Key(ctx context.Context, id cvm.KeyID) (cvm.Key, error) {
	k := call{op: "reading key", object: string(id)}
	id, err := c.keyURL(k, id)
	if err != nil {
		return cvm.Key{}, err
	}
	k.action = keyAction(id, actionKeyRead)
	cl, err := c.keys.get(id.Host())
	if err != nil {
		return cvm.Key{}, k.fault(err)
	}
	// The SDK refuses a bundle whose release policy it can't decode: the bytes serve.
	body, err := rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.GetKey(ctx, id.KeyName(), id.Version(), nil)
		return err
	})
	return parsed(k, body, err, cvm.ParseKey)
}

// policyContentType is what Microsoft's own tools send with a release policy.
const policyContentType = "application/json; charset=utf-8"

// CreateKey makes a new key, or a new version of one that is there, fit for
// confidential VMs: RSA in hardware, exportable under the release policy, for
// wrapping only. The caller has seen to it that it is wanted: each call makes a
// version.
func (c *Client) CreateKey(ctx context.Context, vaultHost, name string, bits int, releasePolicyJSON string, immutable bool) (cvm.Key, error) {
	k := call{op: "creating key", object: "https://" + vaultHost + "/keys/" + name}
	id, err := c.keyURL(k, cvm.KeyID(k.object))
	if err != nil {
		return cvm.Key{}, err
	}
	switch bits {
	case 2048, 3072, 4096:
	default:
		return cvm.Key{}, fault.New(fault.Invalid, k.op, k.object, "a key of %d bits can't wrap disks: give 2048, 3072 or 4096", bits)
	}
	k.action = keyAction(id, actionKeyCreate)
	cl, err := c.keys.get(id.Host())
	if err != nil {
		return cvm.Key{}, k.fault(err)
	}
	body, err := rawBody(once(ctx), k, func(ctx context.Context) error {
		_, err := cl.CreateKey(ctx, id.KeyName(), azkeys.CreateKeyParameters{
			Kty:           to.Ptr(azkeys.KeyTypeRSAHSM),
			KeySize:       to.Ptr(int32(bits)),
			KeyOps:        []*azkeys.KeyOperation{to.Ptr(azkeys.KeyOperationWrapKey), to.Ptr(azkeys.KeyOperationUnwrapKey)},
			KeyAttributes: &azkeys.KeyAttributes{Enabled: to.Ptr(true), Exportable: to.Ptr(true)},
			ReleasePolicy: &azkeys.KeyReleasePolicy{ContentType: to.Ptr(policyContentType), EncodedPolicy: []byte(releasePolicyJSON), Immutable: to.Ptr(immutable)},
		}, nil)
		return err
	})
	c.listeners.changed(k.object)
	return parsed(k, body, err, cvm.ParseKey)
}

// UpdateKeyReleasePolicy replaces the release policy of one key version. The
// service refuses it for an immutable one.
func (c *Client) UpdateKeyReleasePolicy(ctx context.Context, id cvm.KeyID, releasePolicyJSON string) error {
	k := call{op: "replacing the release policy of key", object: string(id)}
	id, err := c.keyURL(k, id)
	if err != nil {
		return err
	}
	if id.Version() == "" {
		return fault.New(fault.Invalid, k.op, k.object, "the URL names no version: a policy belongs to one")
	}
	k.action = keyAction(id, actionKeyUpdate)
	cl, err := c.keys.get(id.Host())
	if err != nil {
		return k.fault(err)
	}
	_, err = rawBody(once(ctx), k, func(ctx context.Context) error {
		_, err := cl.UpdateKey(ctx, id.KeyName(), id.Version(), azkeys.UpdateKeyParameters{
			ReleasePolicy: &azkeys.KeyReleasePolicy{ContentType: to.Ptr(policyContentType), EncodedPolicy: []byte(releasePolicyJSON)},
		}, nil)
		return err
	})
	c.listeners.changed(k.object)
	return err
}
