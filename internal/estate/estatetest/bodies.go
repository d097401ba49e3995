package estatetest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// Body is one JSON object.
type Body = map[string]any

// Subscription is where all of it is, but for what says otherwise.
const Subscription = "00000000-0000-0000-0000-000000000001"

// The clouds, as the settings call them.
const (
	Public = "public"
	USGov  = "usgov"
	China  = "china"
)

// cloud is what differs between clouds.
type cloud struct{ region, vault, hsm, provider string }

var clouds = map[string]cloud{
	Public: {"northeurope", "vault.azure.net", "managedhsm.azure.net", "https://sharedneu.neu.attest.azure.net"},
	USGov:  {"usgovvirginia", "vault.usgovcloudapi.net", "managedhsm.usgovcloudapi.net", "https://sharedugv.ugv.attest.azure.us"},
	China:  {"chinanorth3", "vault.azure.cn", "managedhsm.azure.cn", "https://sharedcn3.cn3.attest.azure.cn"},
}

// Chain is a VM with all that it hangs on. A nil body isn't there.
type Chain struct {
	Cloud                     string
	ID                        string // the VM's
	VM, Disk, DES, Key, Vault Body
	More                      []Body // data disks, other sets, other versions of the key
}

// Bodies are all bodies of the chain.
func (c *Chain) Bodies() []Body {
	var all []Body
	for _, b := range append([]Body{c.VM, c.Disk, c.DES, c.Key, c.Vault}, c.More...) {
		if b != nil {
			all = append(all, b)
		}
	}
	return all
}

// IsKey says whether a body is the key plane's.
func IsKey(b Body) bool { _, ok := b["key"]; return ok }

// Copy is a body that can be changed by itself.
func Copy(b Body) Body {
	text, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return parse("%s", text)
}

func parse(format string, args ...any) Body {
	d := json.NewDecoder(bytes.NewReader([]byte(fmt.Sprintf(format, args...))))
	var b Body
	if err := d.Decode(&b); err != nil {
		panic(fmt.Sprintf("estatetest: %v in %s", err, fmt.Sprintf(format, args...)))
	}
	return b
}

// id is an ARM id in the group that all things share.
func id(typ, name string) string {
	return "/subscriptions/" + Subscription + "/resourceGroups/rg-cvm/providers/" + typ + "/" + name
}

// modulus is a number of so many bits in base64url.
func modulus(bits int) string {
	return base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xc5}, bits/8))
}

// Policy is a release policy as a key carries it.
func Policy(authorities ...Body) Body {
	text, err := json.Marshal(Body{"version": "1.0.0", "anyOf": authorities})
	if err != nil {
		panic(err)
	}
	return Body{"contentType": "application/json; charset=utf-8", "data": base64.RawURLEncoding.EncodeToString(text), "immutable": true}
}

// Authority admits compliant confidential VMs by one provider.
func Authority(provider string, more ...Body) Body {
	return Body{"authority": provider, "allOf": append([]Body{{"claim": "x-ms-compliance-status", "equals": "azure-compliant-cvm"}}, more...)}
}

// Good is a compliant confidential VM, number n: SEV-SNP, a confidential OS disk
// under a customer's key in a Premium vault.
func Good(cloudName string, n int) *Chain {
	cl := clouds[cloudName]
	name := fmt.Sprintf("vm-%04d", n)
	c := &Chain{Cloud: cloudName, ID: id("Microsoft.Compute/virtualMachines", name)}
	disk, des := id("Microsoft.Compute/disks", name+"-os"), id("Microsoft.Compute/diskEncryptionSets", name+"-des")
	vault := fmt.Sprintf("kv-%04d", n)
	kid := fmt.Sprintf("https://%s.%s/keys/cvm-os-key/%032x", vault, cl.vault, n+1)
	c.VM = parse(`{"name":%q,"id":%q,"type":"Microsoft.Compute/virtualMachines","location":%q,"tags":{"env":"prod"},
 "properties":{"hardwareProfile":{"vmSize":"Standard_DC4as_v5"},"provisioningState":"Succeeded","vmId":"00000000-0000-4000-8000-%012x",
  "storageProfile":{"imageReference":{"publisher":"Canonical","offer":"ubuntu-24_04-lts","sku":"cvm","version":"latest","exactVersion":"24.04.202501010"},
   "osDisk":{"osType":"Linux","name":"%s-os","createOption":"FromImage","caching":"ReadWrite","managedDisk":{"storageAccountType":"Premium_LRS","id":%q,
     "securityProfile":{"securityEncryptionType":"DiskWithVMGuestState","diskEncryptionSet":{"id":%q}}}},"dataDisks":[]},
  "securityProfile":{"uefiSettings":{"secureBootEnabled":true,"vTpmEnabled":true},"securityType":"ConfidentialVM"},
  "instanceView":{"hyperVGeneration":"V2","statuses":[{"code":"PowerState/running"}],"vmAgent":{"vmAgentVersion":"2.15","statuses":[{"code":"ProvisioningState/succeeded","displayStatus":"Ready"}]}},
  "timeCreated":"2026-01-10T08:00:00.0000000+00:00"}}`, name, c.ID, cl.region, n, name, disk, des)
	c.Disk = parse(`{"name":"%s-os","id":%q,"type":"Microsoft.Compute/disks","location":%q,"managedBy":%q,
 "properties":{"osType":"Linux","hyperVGeneration":"V2","creationData":{"createOption":"FromImage"},"encryption":{"type":"EncryptionAtRestWithPlatformKey"},
  "networkAccessPolicy":"DenyAll","diskState":"Attached","provisioningState":"Succeeded",
  "securityProfile":{"securityType":"ConfidentialVM_DiskEncryptedWithCustomerKey","secureVMDiskEncryptionSetId":%q}}}`, name, disk, cl.region, c.ID, des)
	c.DES = parse(`{"name":"%s-des","id":%q,"type":"Microsoft.Compute/diskEncryptionSets","location":%q,
 "identity":{"type":"SystemAssigned","principalId":"00000000-0000-4000-8000-%012x"},
 "properties":{"activeKey":{"keyUrl":%q,"sourceVault":{"id":%q}},"encryptionType":"ConfidentialVmEncryptedWithCustomerKey","previousKeys":[],
  "rotationToLatestKeyVersionEnabled":false,"provisioningState":"Succeeded","lastKeyRotationTimestamp":"2026-01-10T08:00:00.0000000+00:00"}}`,
		name, des, cl.region, 0xde5000+n, kid, id("Microsoft.KeyVault/vaults", vault))
	c.Key = Body{
		"key":            Body{"kid": kid, "kty": "RSA-HSM", "key_ops": []any{"wrapKey", "unwrapKey"}, "n": modulus(3072), "e": "AQAB"},
		"attributes":     Body{"enabled": true, "exp": 1800000000.0, "created": 1760000000.0, "updated": 1760000000.0, "exportable": true, "recoveryLevel": "Recoverable", "recoverableDays": 90.0},
		"release_policy": Policy(Authority(cl.provider)),
	}
	c.Vault = parse(`{"name":%q,"id":%q,"type":"Microsoft.KeyVault/vaults","location":%q,
 "properties":{"sku":{"family":"A","name":"premium"},"accessPolicies":[],"enableSoftDelete":true,"enableRbacAuthorization":true,"enablePurgeProtection":true,
  "vaultUri":"https://%s.%s/","provisioningState":"Succeeded","publicNetworkAccess":"Enabled","networkAcls":{"bypass":"AzureServices","defaultAction":"Deny"}}}`,
		vault, id("Microsoft.KeyVault/vaults", vault), cl.region, vault, cl.vault)
	return c
}

// OnHSM moves the key into a Managed HSM, whose sets name no source vault.
func (c *Chain) OnHSM(n int) {
	cl := clouds[c.Cloud]
	name := fmt.Sprintf("hsm-%04d", n)
	kid := fmt.Sprintf("https://%s.%s/keys/cvm-os-key/%032x", name, cl.hsm, n+1)
	Set(c.Key, kid, "key", "kid")
	Set(c.DES, Body{"keyUrl": kid}, "properties", "activeKey")
	c.Vault = parse(`{"name":%q,"id":%q,"type":"Microsoft.KeyVault/managedHSMs","location":%q,"sku":{"family":"B","name":"Standard_B1"},
 "properties":{"hsmUri":"https://%s.%s/","enableSoftDelete":true,"enablePurgeProtection":true,"provisioningState":"Succeeded","publicNetworkAccess":"Enabled",
  "networkAcls":{"bypass":"AzureServices","defaultAction":"Deny"},"regions":[]}}`, name, id("Microsoft.KeyVault/managedHSMs", name), cl.region, name, cl.hsm)
}

// Set writes a value into a body; Drop takes one out.
func Set(b Body, v any, path ...string) {
	for _, p := range path[:len(path)-1] {
		next, ok := b[p].(Body)
		if !ok {
			next = Body{}
			b[p] = next
		}
		b = next
	}
	b[path[len(path)-1]] = v
}

// Drop takes a member out of a body.
func Drop(b Body, path ...string) {
	for _, p := range path[:len(path)-1] {
		next, ok := b[p].(Body)
		if !ok {
			return
		}
		b = next
	}
	delete(b, path[len(path)-1])
}

// Text is a member of a body.
func Text(b Body, path ...string) string {
	for _, p := range path[:len(path)-1] {
		b, _ = b[p].(Body)
	}
	s, _ := b[path[len(path)-1]].(string)
	return s
}

// rename gives the VM another id, wherever the chain says it.
func (c *Chain) rename(to string) {
	c.ID = to
	Set(c.VM, to, "id")
	Set(c.VM, to[strings.LastIndexByte(to, '/')+1:], "name")
	if c.Disk != nil {
		Set(c.Disk, to, "managedBy")
	}
}
