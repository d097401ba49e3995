package azure

import (
	"context"
	"net/url"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// Vault reads a key vault or managed HSM: by its ARM id where that is known, else
// by its host, whose id is looked up in Resource Graph once and remembered. The host
// decides: an id that is another vault's (a set's sourceVault beside a key URL of
// elsewhere), or nobody's, is passed over.
func (c *Client) Vault(ctx context.Context, ref cvm.VaultRef) (cvm.Vault, error) {
	if ref.ID != "" {
		v, err := c.vaultByID(ctx, ref.ID)
		if ref.Host == "" || err == nil && strings.EqualFold(v.Host, ref.Host) || err != nil && !fault.Is(err, fault.NotFound) {
			return v, err
		}
	}
	id, err := c.VaultByHost(ctx, ref.Host)
	if err != nil {
		return cvm.Vault{}, err
	}
	v, err := c.vaultByID(ctx, id)
	if fault.Is(err, fault.NotFound) {
		c.vaultIDs.forget(func(k string) bool { return k == strings.ToLower(ref.Host) })
	}
	return v, err
}

func (c *Client) vaultByID(ctx context.Context, id string) (cvm.Vault, error) {
	k := call{op: "reading vault", object: id}
	body, err := c.vaultBody(ctx, k, cvm.VaultID(id))
	return parsed(k, body, err, cvm.ParseVault)
}

func (c *Client) vaultBody(ctx context.Context, k call, id cvm.VaultID) ([]byte, error) {
	at, err := placeOf(id, cvm.ParseVaultID)
	if err != nil {
		return nil, err
	}
	if id.IsHSM() {
		k.op, k.action = "reading managed HSM", typeHSM+"/read"
		cl, err := c.hsms.get(at.sub)
		if err != nil {
			return nil, k.fault(err)
		}
		return rawBody(ctx, k, func(ctx context.Context) error {
			_, err := cl.Get(ctx, at.group, at.name, nil)
			return err
		})
	}
	k.action = typeVault + "/read"
	cl, err := c.vaults.get(at.sub)
	if err != nil {
		return nil, k.fault(err)
	}
	return rawBody(ctx, k, func(ctx context.Context) error {
		_, err := cl.Get(ctx, at.group, at.name, nil)
		return err
	})
}

// VaultByHost gives the ARM id of the key vault or managed HSM that answers at a
// host, from Resource Graph.
func (c *Client) VaultByHost(ctx context.Context, host string) (string, error) {
	k := call{"looking up the vault at", host, "Microsoft.ResourceGraph/resources/read"}
	id, err := c.keyURL(k, cvm.KeyID("https://"+host+"/keys/any"))
	if err != nil {
		return "", &fault.Error{Kind: fault.Invalid, Op: k.op, Object: host, Err: &cause{"not the host of a key vault or managed HSM of this cloud", err}, Next: "give the host of a vault's or HSM's URI"}
	}
	h := id.Host()
	return c.vaultIDs.get(ctx, h, false, func(ctx context.Context) (string, error) {
		// A vault's name is its host's first label (letters, digits and hyphens: no quote can be in it).
		// The URI decides which of those with the name it is.
		name, _, _ := strings.Cut(h, ".")
		query := "resources\n" +
			"| where type =~ 'microsoft.keyvault/vaults' or type =~ 'microsoft.keyvault/managedhsms'\n" +
			"| where name =~ '" + name + "'\n" +
			"| project id, name, type, properties"
		var found string
		err := c.rows(ctx, k, nil, query, func(row map[string]any) error {
			props, ok := row["properties"].(map[string]any)
			if !ok {
				return nil
			}
			for _, uri := range []string{text(props, "vaultUri"), text(props, "hsmUri")} {
				if u, err := url.Parse(uri); err == nil && strings.EqualFold(u.Hostname(), h) {
					found = text(row, "id")
				}
			}
			return nil
		})
		if err != nil {
			return "", err
		}
		if found == "" {
			return "", &fault.Error{Kind: fault.NotFound, Op: k.op, Object: host, Err: &cause{text: "no vault or HSM that this identity can see answers there"},
				Next: "give the function app's identity the Reader role on it, or check the key's URL"}
		}
		return found, nil
	})
}
