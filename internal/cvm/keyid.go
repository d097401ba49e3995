package cvm

import (
	"net/url"
	"strings"
)

// The host suffixes of Key Vault and Managed HSM in the public, China and US
// Government clouds.
var (
	vaultSuffixes = []string{".vault.azure.net", ".vault.azure.cn", ".vault.usgovcloudapi.net"}
	hsmSuffixes   = []string{".managedhsm.azure.net", ".managedhsm.azure.cn", ".managedhsm.usgovcloudapi.net"}
)

// ParseKeyID reads a key's URL, with or without a version. The host must be one
// label under a suffix of Key Vault or Managed HSM; a port of 443 is dropped.
// Errors are fault.Invalid.
func ParseKeyID(s string) (KeyID, error) {
	const op = "reading a key id"
	if len(s) > maxIDLength {
		return "", idFault(op, s[:64]+"…", exampleKey, "it is %d characters long", len(s))
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", idFault(op, s, exampleKey, "it is not a URL")
	}
	if u.Scheme != "https" || u.User != nil || strings.ContainsAny(s, "?#%\\") || u.Port() != "" && u.Port() != "443" || strings.HasSuffix(u.Host, ":") {
		return "", idFault(op, s, exampleKey, "it is not a plain https URL")
	}
	host := u.Hostname()
	if !isVaultHost(host) {
		return "", idFault(op, s, exampleKey, "%q is not a host of Key Vault or Managed HSM", host)
	}
	seg := strings.Split(u.Path, "/")
	if len(seg) < 3 || len(seg) > 4 || seg[0] != "" || !strings.EqualFold(seg[1], "keys") {
		return "", idFault(op, s, exampleKey, "%q is not /keys/<name>[/<version>]", u.Path)
	}
	for _, name := range seg[2:] {
		if !isKeyName(name) {
			return "", idFault(op, s, exampleKey, "%q is not a name or version", name)
		}
	}
	return KeyID("https://" + host + "/keys/" + strings.Join(seg[2:], "/")), nil
}

func isVaultHost(host string) bool {
	low := strings.ToLower(host)
	for _, list := range [][]string{vaultSuffixes, hsmSuffixes} {
		for _, suffix := range list {
			if label, ok := strings.CutSuffix(low, suffix); ok && isKeyName(label) {
				return true
			}
		}
	}
	return false
}

func isKeyName(s string) bool {
	for _, r := range s {
		if r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return false
		}
	}
	return s != "" && len(s) <= 127
}

func (id KeyID) part(i int) string { return armSegment(string(id), i) }

// Fold is the id by which two spellings are the same key version.
func (id KeyID) Fold() string { return strings.ToLower(string(id)) }

// Host is the vault's host, lower case.
func (id KeyID) Host() string { return strings.ToLower(id.part(2)) }

// KeyName is the key's name as spelled.
func (id KeyID) KeyName() string { return id.part(4) }

// Version is the key's version, "" if the URL names none.
func (id KeyID) Version() string { return id.part(5) }

// Versionless is the key's URL without a version, its host in lower case.
func (id KeyID) Versionless() KeyID {
	return KeyID("https://" + id.Host() + "/keys/" + id.KeyName())
}

// IsHSM says whether the key's host is a Managed HSM.
func (id KeyID) IsHSM() bool {
	for _, suffix := range hsmSuffixes {
		if strings.HasSuffix(id.Host(), suffix) {
			return true
		}
	}
	return false
}
