package policy

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"cvmguard/internal/policy/truth"
)

// tabled is a case with its estate and what was read of it.
type tabled struct {
	truth.Case
	estate truth.Estate
	parts  truth.Parts
	doc    *Document
}

func (b tabled) String() string { return "row " + b.Row + ", " + b.Name }

func (b tabled) judge(p truth.Parts) Value { return Judge(p.Posture(), b.doc, b.At).Value }

// tabledCases are the table's cases but those of disks that no VM holds.
func tabledCases(t *testing.T) (out []tabled) {
	t.Helper()
	table, err := truth.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range table.Cases() {
		if c.Orphan {
			continue
		}
		b := tabled{Case: c, doc: caseDocument(t, c)}
		if b.estate, err = c.Estate(); err == nil {
			b.parts, err = b.estate.Parts()
		}
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		out = append(out, b)
	}
	return out
}

// inParallel cuts a list in parts that are tried side by side, and gives the sum
// of what each counted.
func inParallel[T any](t *testing.T, list []T, try func(*testing.T, T) int) int {
	const parts = 4
	counts := make([]int, parts)
	t.Run("parts", func(t *testing.T) {
		for i := range parts {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for j := i; j < len(list); j += parts {
					counts[i] += try(t, list[j])
				}
			})
		}
	})
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum
}

// void are the changes that mean nothing where something else is as it is: the
// compliant case, by a place in its estate and what is there ("" for anything; also
// its name, and whether it is a captured one), and
// the bad rows, with a part of the case's name where not all of a row are meant.
var void = []struct{ at, is, rows, why string }{
	{"/captured", "", "31, 80, -:mounts unread, -:PCR 12, -:a data disk, -:none yet, -:a day old, -:development, -:plain root, -:sealed key, -:cloud-init, -:token, -:resize, -:slot 10, -:reseal", "the guest isn't asked, nor what hangs on the set; there is no data disk"},
	{"/releasePolicy", "", "45 46", "the change is of the text for which releasePolicy stands"},
	{"/attestation/kind", "tdx", "50:TDX alone, 50:SEV-SNP in another", "the TEE is the other one"},
	{"/vm/properties/hardwareProfile/vmSize", "Standard_DC8es_v6", "50:TDX alone, 50:SEV-SNP in another", "the TEE is the other one"},
	{"/vault/type", "Microsoft.KeyVault/managedHSMs", "64", "a Managed HSM has no SKU to fall short of"},
	{"/vm/properties/storageProfile/osDisk/osType", "Windows", "-:mounts unread, -:PCR 12, -:image, -:focal, -:plain root, -:token, -:cloud-init, -:sealed key, -:slot 10, -:resize, -:reseal", "its encryption is another, and no image is named"},
	{"/vm/properties/storageProfile/osDisk/diffDiskSettings", "", "24 25 26 27 31, -:the OS disk", "an ephemeral OS disk is no resource"},
	{"/vm/properties/storageProfile/osDisk/createOption", "Attach", "-:focal, -:Trusted Launch, -:plain root", "no image is named whose properties could be known"},
	{"/vm/properties/storageProfile/imageReference/exactVersion", "1.4.0", "-:focal, -:Trusted Launch, -:plain root", "a gallery's image has no entry"},
	{"/des/identity/type", "UserAssigned", "35:without a principal", "its principal stands elsewhere"},
	{"/osDisk/properties/securityProfile/confidentialVMVersion", "V2", "31", "a disk is of V2"},
	{"/name", "a version isn't shown", "31", "a disk may be of V2"},
	{"/name", "what hangs on the set wasn't listed", "31", "a disk may be of V2"},
	{"/name", "no disk hangs on it yet", "31", "a disk may be of V2"},
	{"/name", "a confidential data disk", "31", "a disk may be of V2"},
	{"/name", "policy doesn't name it", "70 71", "nobody knows whose rights to look at"},
	{"/vm/properties/storageProfile/dataDisks/0/managedDisk/securityProfile/securityEncryptionType", "DataDiskEncryptedWithCustomerKey", "74 76 76a", "the disk is encrypted confidentially"},
}

func isVoid(g, b tabled) bool {
	for _, v := range void {
		at := g.estate.Get(v.at)
		switch {
		case v.at == "/name":
			at = g.Name
		case v.at == "/captured" && g.Base == "captured":
			at = true
		}
		if at == nil || v.is != "" && at != v.is {
			continue
		}
		for _, which := range strings.FieldsFunc(v.rows, func(r rune) bool { return r == ',' }) {
			row, part, named := strings.Cut(strings.TrimSpace(which), ":")
			if named && row == b.Row && strings.Contains(b.Name, part) || !named && slices.Contains(strings.Fields(row), b.Row) {
				return true
			}
		}
	}
	return false
}

// One bad fact added to a compliant posture never yields compliant: every bad case
// of the table is laid over every compliant one. A change that the compliant case
// makes void is named.
func TestOneBadFactIsNeverCompliant(t *testing.T) {
	all := tabledCases(t)
	var good, bad []tabled
	for _, c := range all {
		switch {
		case len(c.Policy) > 0:
		case c.Verdict == string(Compliant):
			good = append(good, c)
		case c.Base == "snp":
			bad = append(bad, c)
		}
	}
	n := inParallel(t, good, func(t *testing.T, g tabled) int {
		tried := 0
		for _, b := range bad {
			e, err := b.On(g.estate)
			if err != nil || isVoid(g, b) {
				continue // the place of the bad fact isn't there, or it means nothing there
			}
			p, err := e.Parts()
			if err != nil {
				t.Errorf("%s, then %s: %v", g, b, err)
				continue
			}
			tried++
			late := g
			late.At = b.At
			if v := late.judge(p); v == Compliant {
				t.Errorf("%s, then %s: %s", g, b, v)
			}
		}
		return tried
	})
	t.Logf("%d bad facts on %d compliant cases: %d neighbours", len(bad), len(good), n)
	if n < 14_000 {
		t.Errorf("%d neighbours only", n)
	}
}

// idle are the members of Azure's bodies that may be lost without a compliant VM
// becoming unknown: no asked rule rests on them, or their absence means something
// by itself. Each is a pattern of JSON pointers, of one row's cases alone where it
// names the row, and is used or wrong.
var idle = []struct{ row, pattern, why string }{
	{"20", `/vm/properties/hardwareProfile.*`, "an instance shows its size in sku too"},
	{"33", `/des/properties/previousKeys/0.*`, "row 33"},
	{"58", `/key/key/key_ops/[01]`, "the case's are more than the two that count"},
	{"74", `(/vm/properties/storageProfile/dataDisks/0/managedDisk|/dataDisks/0|/dataDES/0).*`, "the rule is off"},
	{"79", `/vm/properties/securityProfile/encryptionAtHost`, "the rule is off"},
	{"76a", `(/vm/properties/storageProfile/dataDisks/0/managedDisk/securityProfile|/dataDisks/0/properties/encryption|/dataDES/0).*`, "the disk is under an ordinary set too"},
	{"", `/(vm|osDisk|des|vault|dataDisks/0|dataDES/0)/(name|type|etag|instanceId|zones.*|tags.*|sku/tier|managedBy)`, "names, places and tags"},
	{"", `/vm/(identity.*|properties/(vmId|timeCreated|osProfile.*|networkProfile.*|additionalCapabilities.*|virtualMachineScaleSet.*|storageProfile/diskControllerType))`, "no rule rests on it"},
	{"", `/vm/properties/storageProfile/osDisk/(name|createOption|caching|deleteOption|diskSizeGB|osType|managedDisk/storageAccountType|diffDiskSettings/placement)`, "no rule rests on it; osType matters without vTPM state only"},
	{"", `/vm/properties/storageProfile/imageReference.*`, "an image that isn't named, or isn't in the catalogue, says nothing"},
	{"", `/vm/properties/storageProfile/dataDisks`, "a VM without data disks"},
	{"", `/vm/properties/storageProfile/dataDisks/0(/(lun|name|createOption|caching|toBeDetached|deleteOption|diskSizeGB|managedDisk/storageAccountType|managedDisk/diskEncryptionSet.*))?`, "the data disk itself was read, or isn't attached"},
	{"", `/vm/resources.*`, "the instance view shows the extension too"},
	{"", `/instanceView/(osName|osVersion|computerName|hyperVGeneration|disks.*|extensions.*)`, "the VM's own body shows it too"},
	{"", `/instanceView/statuses.*`, "a VM whose power isn't shown counts as running"},
	{"", `/instanceView/vmAgent/(vmAgentVersion|statuses/0/(time|message|level|code)|extensionHandlers/0/(typeHandlerVersion|status/(code|level)))`, "displayStatus says it"},
	{"", `/(osDisk|dataDisks/0)/(location|sku.*|properties/(osType|hyperVGeneration|diskSize.*|diskIOPS.*|diskMBps.*|tier|uniqueId|timeCreated|provisioningState|diskState|creationData.*|networkAccessPolicy|publicNetworkAccess))`, "no rule rests on it, or row 29, a note"},
	{"", `/osDisk/properties/(encryption.*|securityProfile/confidentialVMVersion)`, "the storage layer; row 31"},
	{"", `/(des|dataDES/0)/(identity/tenantId|properties/(rotationToLatestKeyVersionEnabled|previousKeys|lastKeyRotationTimestamp|federatedClientId|activeKey/sourceVault.*))`, "absent means none; row 33; the vault is found by its host"},
	{"", `/des/identity/userAssignedIdentities/.*/clientId`, "the principal counts"},
	{"", `/dataDES/0/(location|identity.*|properties/(encryptionType|activeKey.*|provisioningState))`, "an ordinary set: its type's default is the customer's key, the rest is no rule's"},
	{"", `/key/(tags.*|release_policy/(contentType|immutable)|key/e|attributes/(nbf|exp|created|updated|recoveryLevel|recoverableDays|hsmPlatform))`, "absent means none; rows 52 and 57; the vault shows purge protection"},
	{"", `/vault/(properties/(tenantId|sku/family|softDeleteRetentionInDays|enableSoftDelete|enableRbacAuthorization|accessPolicies.*|enabledFor.*|provisioningState|publicNetworkAccess|networkAcls.*))`, "purge protection needs soft delete; rights were read; row 72 is a note"},
	{"", `/claims/(os_release.*|kernel|cloud_init|keyring_key|booted_kernel|boot_next|dm_crypt.*|luks/0/(device|cipher|keyslots/0)|sealed_key/(size|path)|esp_kernels/0/(size|sha256))`, "no rule rests on it, or PCR 12 decides, or it tells what is at work"},
	{"-", `/claims/(luks(/0(/label)?)?|esp_kernels/.*)`, "the image isn't listed; the other kernel is enough"},
	{"1", `/claims/luks(/0(/label)?)?`, "the image isn't listed"},
	{"", `/vault/(sku.*|properties/(statusMessage|securityDomainProperties.*|regions|privateEndpointConnections|initialAdminObjectIds.*))`, "of a Managed HSM, which has one SKU"},
}

// differs gives the places at which two values are not the same.
func differs(a, b any, at string, out *[]string) {
	switch x := a.(type) {
	case map[string]any:
		if y, ok := b.(map[string]any); ok {
			for k := range x {
				differs(x[k], y[k], at+"/"+k, out)
			}
			for k := range y {
				if _, both := x[k]; !both {
					*out = append(*out, at+"/"+k)
				}
			}
			return
		}
	case []any:
		if y, ok := b.([]any); ok && len(x) == len(y) {
			for i := range x {
				differs(x[i], y[i], fmt.Sprintf("%s/%d", at, i), out)
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) {
		*out = append(*out, at)
	}
}

// links are what leads to a bad fact: without them it isn't seen, for the table says
// nothing of what isn't there. Row 31 is a note where a version isn't shown.
var links = map[string][]string{
	"31": {"/osDisk/properties/securityProfile/confidentialVMVersion"},
	"74": dataDiskLinks, "76": dataDiskLinks, "77": dataDiskLinks,
	"-": {"/vm/properties/storageProfile/imageReference", "/vm/properties/storageProfile/dataDisks"},
}

var dataDiskLinks = []string{"/vm/properties/storageProfile/dataDisks"}

// changed gives the places at which a case isn't its compliant neighbour, the base
// that it is made from.
func (b tabled) changed(t *testing.T) (out []string) {
	t.Helper()
	base, err := truth.Base(b.Base)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range truth.Bodies {
		differs(base.Get("/"+body), b.estate.Get("/"+body), "/"+body, &out)
	}
	return append(out, links[b.Row]...)
}

// One fact turned unknown never yields compliant: in every case every member of
// every body is taken away in turn. Left out are what is idle and, in a bad case,
// what makes it bad.
func TestOneUnknownFactIsNeverCompliant(t *testing.T) {
	patterns := make([]*regexp.Regexp, len(idle))
	used := make([]atomic.Bool, len(idle))
	for i, x := range idle {
		patterns[i] = regexp.MustCompile("^" + x.pattern + "$")
	}
	n := inParallel(t, tabledCases(t), func(t *testing.T, c tabled) int {
		var own []string
		if c.Verdict != string(Compliant) {
			own = c.changed(t)
		}
		tried := 0
		for _, at := range c.estate.Members() {
			if slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(at+"/", p+"/") || strings.HasPrefix(p+"/", at+"/") }) ||
				c.estate.Get("/releasePolicy") != nil && strings.HasPrefix(at, "/key/release_policy") || c.estate.Get("/keyBits") != nil && at == "/key/key/n" {
				continue
			}
			body, _, _ := strings.Cut(at[1:], "/")
			lost, err := c.estate.Drop(at)
			if err != nil {
				t.Fatal(err)
			}
			p, err := c.parts.Again(lost, body)
			if err != nil {
				t.Errorf("%s, without %s: %v", c, at, err)
				continue
			}
			tried++
			if v := c.judge(p); v != Compliant {
				continue
			}
			known := false
			for i, x := range idle {
				if c.Verdict == string(Compliant) && (x.row == "" || x.row == c.Row) && patterns[i].MatchString(at) {
					used[i].Store(true)
					known = true
				}
			}
			if known {
				continue
			}
			t.Errorf("%s, without %s: %s", c, at, Compliant)
		}
		return tried
	})
	for i, x := range idle {
		if !used[i].Load() {
			t.Errorf("%s is called idle and never was", x.pattern)
		}
	}
	t.Logf("%d neighbours", n)
	if n < 100_000 {
		t.Errorf("%d neighbours only", n)
	}
}
