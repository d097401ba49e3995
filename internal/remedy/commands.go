package remedy

import (
	"fmt"
	"regexp"
	"strings"

	"cvmguard/internal/cvm"
)

// Ready commands of the Azure CLI, for a POSIX shell. Every value that came from
// outside goes through quote.

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:=@%+,-]+$`)

// quote makes one word of a shell of any text.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// az joins a command's words, quoting each that isn't a flag of ours.
func az(words ...string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quote(w)
	}
	return "az " + strings.Join(out, " ")
}

func azStart(id cvm.VMID) string      { return az("vm", "start", "--ids", string(id)) }
func azDeallocate(id cvm.VMID) string { return az("vm", "deallocate", "--ids", string(id)) }

func azSetTag(id cvm.VMID, name, value string) string {
	return az("tag", "update", "--operation", "Merge", "--resource-id", string(id), "--tags", name+"="+value)
}

// azRemoveTag removes one tag whatever its value.
func azRemoveTag(id cvm.VMID, name string) string {
	return az("vm", "update", "--ids", string(id), "--remove", "tags."+name)
}

func azUndoRunCommand(id cvm.VMID) string {
	return az("vm", "run-command", "delete", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(),
		"--vm-name", id.Name(), "--run-command-name", RunCommandName, "--yes")
}

func azUndoExtension(id cvm.VMID, name string) string {
	return az("vm", "extension", "delete", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(),
		"--vm-name", id.Name(), "--name", name)
}

func azDiskDES(disk cvm.DiskID, des cvm.DESID) []string {
	if des == "" {
		return nil
	}
	return []string{
		"ENCRYPTION=$(" + az("disk-encryption-set", "show", "--ids", string(des), "--query", "encryptionType", "--output", "tsv") + ")",
		az("disk", "update", "--ids", string(disk), "--disk-encryption-set", string(des)) + ` --encryption-type "$ENCRYPTION"`,
	}
}

func azAutoRotation(des cvm.DESID, on bool) string {
	return az("disk-encryption-set", "update", "--ids", string(des), "--enable-auto-key-rotation", fmt.Sprint(on))
}

// keyScope names a key for the commands: by its vault, whose name is all that the
// CLI wants, and its own name.
type keyScope struct {
	vault          cvm.VaultID // "" where only the host is known
	host           string
	name           string
	accessPolicies bool // the vault is under access policies, not RBAC
}

// scopeOf is the scope of a key of which its URL is known, and the vault if it is.
func scopeOf(key cvm.KeyID, vault cvm.Fact[cvm.Vault]) keyScope {
	k := keyScope{host: key.Host(), name: key.KeyName()}
	if vault.Known {
		k.vault = cvm.VaultID(vault.Value.ID)
		k.accessPolicies = !vault.Value.HSM && vault.Value.RBAC != cvm.True
	}
	return k
}

func (k keyScope) hsm() bool {
	return k.vault.IsHSM() || cvm.KeyID("https://"+k.host+"/keys/k").IsHSM()
}

// store is the vault's or HSM's name.
func (k keyScope) store() string {
	if k.vault != "" {
		return k.vault.Name()
	}
	label, _, _ := strings.Cut(k.host, ".")
	return label
}

// words name the key, or with a version one version of it.
func (k keyScope) words(version string) []string {
	flag := "--vault-name"
	if k.hsm() {
		flag = "--hsm-name"
	}
	words := []string{flag, k.store(), "--name", k.name}
	if version != "" {
		words = append(words, "--version", version)
	}
	return words
}

func azKeyIn(vault cvm.VaultID, name string) []string {
	return keyScope{vault: vault, name: name}.words("")
}

// keyFlags are those of a key that is fit for confidential VMs; its release policy
// is the region's default.
func keyFlags(bits int) []string {
	return []string{"--kty", "RSA-HSM", "--size", fmt.Sprint(bits), "--exportable", "true", "--default-cvm-policy", "--ops", "wrapKey", "unwrapKey"}
}

// create makes a new version of the key, or the key.
func (k keyScope) create(bits int) string {
	return az(append(append([]string{"keyvault", "key", "create"}, k.words("")...), keyFlags(bits)...)...)
}

// newest puts the newest version's URL into the variable KEY_URL.
func (k keyScope) newest() string {
	return "KEY_URL=$(" + az(append(append([]string{"keyvault", "key", "show"}, k.words("")...), "--query", "key.kid", "--output", "tsv")...) + ")"
}

// set changes attributes of one version.
func (k keyScope) set(version string, words ...string) string {
	return az(append(append([]string{"keyvault", "key", "set-attributes"}, k.words(version)...), words...)...)
}

// azCreateDES makes the set of the confidential type on the key in KEY_URL.
func azCreateDES(des cvm.DESID, region, vault string) string {
	words := []string{"disk-encryption-set", "create", "--subscription", des.Subscription(), "--resource-group", des.ResourceGroup(),
		"--name", des.Name(), "--location", region, "--encryption-type", cvm.DESTypeConfidential, "--mi-system-assigned", "true"}
	return az(append(words, sourceVault(vault)...)...) + ` --key-url "$KEY_URL"`
}

// azSetKey points a set at the key in KEY_URL.
func azSetKey(des cvm.DESID, vault string) string {
	words := []string{"disk-encryption-set", "update", "--ids", string(des)}
	return az(append(words, sourceVault(vault)...)...) + ` --key-url "$KEY_URL"`
}

// sourceVault is for Key Vault alone: with a Managed HSM it must be left out.
func sourceVault(vault string) []string {
	if vault == "" || cvm.VaultID(vault).IsHSM() {
		return nil
	}
	return []string{"--source-vault", vault}
}

// The roles that a key's two users need: Key Vault's, and Managed HSM's local ones.
const (
	roleDES         = "Key Vault Crypto Service Encryption User"
	roleRelease     = "Key Vault Crypto Service Release User"
	roleDESHSM      = "Managed HSM Crypto Service Encryption User"
	roleReleaseHSM  = "Managed HSM Crypto Service Release User"
	orchestratorApp = "bf7b6499-ff71-4aa2-97a4-f372087be7f0" // application id of "Confidential VM Orchestrator", the same in every tenant
)

// azGrants gives a set's identity and the orchestrator what they need of a key.
func azGrants(des cvm.DESID, k keyScope) []string {
	return append(azGrantDES(des, k), azGrantRelease(k)...)
}

func azGrantDES(des cvm.DESID, k keyScope) []string {
	return []string{
		"DES_PRINCIPAL=$(" + az("disk-encryption-set", "show", "--ids", string(des), "--query", "identity.principalId", "--output", "tsv") + ")",
		k.grant(`"$DES_PRINCIPAL"`, roleDES, roleDESHSM, "get", "wrapKey", "unwrapKey"),
	}
}

func azGrantRelease(k keyScope) []string {
	return []string{
		"ORCHESTRATOR=$(" + az("ad", "sp", "show", "--id", orchestratorApp, "--query", "id", "--output", "tsv") + ")",
		k.grant(`"$ORCHESTRATOR"`, roleRelease, roleReleaseHSM, "get", "release"),
	}
}

// grant is by the vault's model: RBAC at the key, access policy, or local role.
func (k keyScope) grant(principal, role, roleHSM string, ops ...string) string {
	switch {
	case k.hsm():
		return az("keyvault", "role", "assignment", "create", "--hsm-name", k.store(), "--role", roleHSM,
			"--scope", "/keys/"+k.name) + " --assignee-object-id " + principal + " --assignee-principal-type ServicePrincipal"
	case k.accessPolicies:
		return az(append([]string{"keyvault", "set-policy", "--name", k.store(), "--key-permissions"}, ops...)...) + " --object-id " + principal
	}
	scope := quote(string(k.vault) + "/keys/" + k.name)
	if k.vault == "" {
		scope = `"$(` + az("keyvault", "show", "--name", k.store(), "--query", "id", "--output", "tsv") + `)` + "/keys/" + k.name + `"`
	}
	return az("role", "assignment", "create", "--role", role) + " --scope " + scope +
		" --assignee-object-id " + principal + " --assignee-principal-type ServicePrincipal"
}
