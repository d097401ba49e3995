package cvm

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"cvmguard/internal/fault"
)

type armVault struct {
	ID       string  `json:"id"`
	Name     string  `json:"name"`
	Location string  `json:"location"`
	SKU      *armSKU `json:"sku"`
	// Properties of vaults and managed HSMs alike; each has its own URI.
	Properties *struct {
		SKU               *armSKU `json:"sku"`
		VaultURI          string  `json:"vaultUri"`
		HSMURI            string  `json:"hsmUri"`
		SoftDelete        *bool   `json:"enableSoftDelete"`
		PurgeProtection   *bool   `json:"enablePurgeProtection"`
		RBAC              *bool   `json:"enableRbacAuthorization"`
		ProvisioningState string  `json:"provisioningState"`
		PublicAccess      string  `json:"publicNetworkAccess"`
		Network           struct {
			Bypass  string `json:"bypass"`
			Default string `json:"defaultAction"`
		} `json:"networkAcls"`
		Policies []struct {
			ObjectID      string `json:"objectId"`
			ApplicationID string `json:"applicationId"`
			Permissions   struct {
				Keys []string `json:"keys"`
			} `json:"permissions"`
		} `json:"accessPolicies"`
		Regions []struct {
			Name string `json:"name"`
		} `json:"regions"`
	} `json:"properties"`
}

type armSKU struct {
	Name string `json:"name"`
}

// ParseVault reads the body of a Key Vault's or a Managed HSM's GET.
func ParseVault(body []byte) (Vault, error) {
	const op = "reading a vault's body"
	var b armVault
	if err := unmarshal(op, body, &b); err != nil {
		return Vault{}, err
	}
	id, err := ParseVaultID(b.ID)
	if err != nil {
		return Vault{}, err
	}
	p := b.Properties
	if p == nil {
		return Vault{}, fault.New(fault.Invalid, op, b.ID, "it has no properties")
	}
	v := Vault{ID: string(id), Name: first(b.Name, id.Name()), HSM: id.IsHSM(), Location: FoldRegion(b.Location),
		PurgeProtection: tri(p.PurgeProtection), SoftDelete: tri(p.SoftDelete), RBAC: tri(p.RBAC),
		DefaultAction: p.Network.Default, Bypass: p.Network.Bypass, PublicAccess: p.PublicAccess,
		ProvisioningState: p.ProvisioningState}
	uri, sku := p.VaultURI, p.SKU
	if v.HSM {
		uri, sku = p.HSMURI, b.SKU
	}
	v.Host = hostOf(uri)
	if sku != nil {
		v.SKU = sku.Name
	}
	for _, a := range p.Policies {
		v.AccessPolicies = append(v.AccessPolicies, AccessPolicy{ObjectID: a.ObjectID, ApplicationID: a.ApplicationID, Keys: lowerAll(a.Permissions.Keys)})
	}
	for _, r := range p.Regions {
		v.ExtraRegions = append(v.ExtraRegions, FoldRegion(r.Name))
	}
	return v, nil
}

type keyBundle struct {
	Key *struct {
		ID   string   `json:"kid"`
		Type string   `json:"kty"`
		Ops  []string `json:"key_ops"`
		N    string   `json:"n"`
	} `json:"key"`
	Attributes *struct {
		Enabled       *bool  `json:"enabled"`
		Exportable    *bool  `json:"exportable"`
		NotBefore     *int64 `json:"nbf"`
		Expires       *int64 `json:"exp"`
		Created       *int64 `json:"created"`
		RecoveryLevel string `json:"recoveryLevel"`
	} `json:"attributes"`
	Managed bool            `json:"managed"`
	Policy  json.RawMessage `json:"release_policy"`
}

// ParseKey reads the body of a key's GET (a KeyBundle). A release policy that
// can't be decoded is unreadable alone (ReleasePolicy.Problem): the rest of the
// key is read.
func ParseKey(body []byte) (Key, error) {
	const op = "reading a key's body"
	var b keyBundle
	if err := unmarshal(op, body, &b); err != nil {
		return Key{}, err
	}
	if b.Key == nil {
		return Key{}, fault.New(fault.Invalid, op, "", "it has no key")
	}
	id, err := ParseKeyID(b.Key.ID)
	if err != nil {
		return Key{}, err
	}
	k := Key{ID: id, Type: b.Key.Type, Ops: b.Key.Ops, Bits: modulusBits(b.Key.N), Managed: b.Managed, Policy: decodePolicy(b.Policy)}
	if a := b.Attributes; a != nil {
		k.AttributesRead = true
		k.Enabled, k.Exportable, k.RecoveryLevel = tri(a.Enabled), tri(a.Exportable), a.RecoveryLevel
		k.NotBefore, k.Expires, k.Created = unixTime(a.NotBefore), unixTime(a.Expires), unixTime(a.Created)
	}
	return k, nil
}

// modulusBits is the size of an RSA modulus in base64url, 0 if it can't be read.
func modulusBits(n string) int {
	b, err := decodeAnyBase64(n)
	if err != nil {
		return 0
	}
	return len(bytes.TrimLeft(b, "\x00")) * 8
}

// unixTime keeps a time within what JSON can say (years 0 to 9999).
func unixTime(s *int64) time.Time {
	const first, last = -62167219200, 253402300799
	if s == nil {
		return time.Time{}
	}
	return time.Unix(min(max(*s, first+1), last), 0).UTC()
}

// maxPolicyBytes bounds a decoded release policy; the largest official one is 27 KB.
const maxPolicyBytes = 256 << 10

func decodePolicy(raw json.RawMessage) ReleasePolicy {
	if len(raw) == 0 || string(raw) == "null" {
		return ReleasePolicy{}
	}
	p := ReleasePolicy{Present: true}
	var w struct {
		Data      *string `json:"data"`
		Immutable bool    `json:"immutable"`
	}
	err := json.Unmarshal(raw, &w)
	p.Immutable = w.Immutable
	if err != nil {
		p.Problem = "release_policy is not an object with a text data: " + err.Error()
		return p
	}
	if p.Decoded, p.Problem = policyText(w.Data); p.Problem != "" {
		p.Mutable = !p.Immutable
	}
	return p
}

// policyText is a release policy's JSON text, or why there is none.
func policyText(data *string) (text, problem string) {
	switch {
	case data == nil:
		return "", "release_policy has no data"
	case len(*data) > maxPolicyBytes*4/3+4:
		return "", fmt.Sprintf("release_policy.data is %d characters long", len(*data))
	}
	decoded, err := decodeAnyBase64(*data)
	switch {
	case err != nil:
		return "", "release_policy.data is neither base64 nor base64url"
	case !utf8.Valid(decoded) || !json.Valid(decoded):
		return "", "release_policy.data decodes to something that is not JSON"
	}
	return string(decoded), ""
}

// decodeAnyBase64 reads base64 or base64url, padded or not. Line breaks, which
// the standard decoder skips, are refused.
func decodeAnyBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(strings.IndexAny(s, "\r\n"))
	}
	s = strings.TrimRight(s, "=")
	if b, err := base64.RawURLEncoding.DecodeString(s); err == nil {
		return b, nil
	}
	return base64.RawStdEncoding.DecodeString(s)
}
