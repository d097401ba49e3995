package azuresim

import "strings"

// The other clouds' names of Resource Manager and of the key plane. The simulator
// answers to them as to the public cloud's; the identity plane is the same.
var (
	armHosts     = []string{"management.azure.com", "management.usgovcloudapi.net", "management.chinacloudapi.cn"}
	armAudiences = []string{"https://management.azure.com", "https://management.core.windows.net",
		"https://management.core.usgovcloudapi.net", "https://management.core.chinacloudapi.cn"}
	vaultDomains = []string{"vault.azure.net", "vault.usgovcloudapi.net", "vault.azure.cn"}
	hsmDomains   = []string{"managedhsm.azure.net", "managedhsm.usgovcloudapi.net", "managedhsm.azure.cn"}
)

// keyHost says whether a host is a vault's or an HSM's, and for which audience its
// tokens are made out.
func keyHost(host string) (audience string, hsm, ok bool) {
	for i := range vaultDomains {
		if strings.HasSuffix(host, "."+vaultDomains[i]) {
			return "https://" + vaultDomains[i], false, true
		}
		if strings.HasSuffix(host, "."+hsmDomains[i]) {
			return "https://" + hsmDomains[i], true, true
		}
	}
	return "", false, false
}
