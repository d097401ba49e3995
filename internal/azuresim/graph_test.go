package azuresim

import (
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph"
)

func query(t *testing.T, s *Sim, kql string, top int32) (rows []any, pages int, err error) {
	t.Helper()
	c, err := armresourcegraph.NewClient(s.Credential(HandlerPrincipal), s.testOptions(t))
	ok(t, err)
	req := armresourcegraph.QueryRequest{Query: &kql, Subscriptions: []*string{to.Ptr(s.Subscription())}, Options: &armresourcegraph.QueryRequestOptions{
		Top: &top, ResultFormat: to.Ptr(armresourcegraph.ResultFormatObjectArray)}}
	for {
		page, err := c.Resources(ctx(t), req, nil)
		if err != nil {
			return nil, pages, err
		}
		pages++
		rows = append(rows, page.Data.([]any)...)
		if page.SkipToken == nil {
			return rows, pages, nil
		}
		req.Options.SkipToken = page.SkipToken
	}
}

func TestGraphAnswersTheHandlersQueries(t *testing.T) {
	s := start(t, Options{})
	w := small(t, s)
	for _, n := range []string{"b", "a", "c"} {
		must[string](t)(s.AddVM(VMSpec{Name: "vm-" + n, Kind: "standard-gen2", Group: "rg-Other"}))
	}
	vms := "resources\n| where type =~ 'microsoft.compute/virtualmachines'\n| where tags.env =~ 'EXAMPLE' or resourceGroup =~ 'RG-other' // a comment\n" +
		"| project id, name, location, vmId = tostring(properties.vmId)\n| order by id asc"
	rows, pages, err := query(t, s, vms, 2)
	ok(t, err)
	if len(rows) != 4 || pages != 2 || str(rows[3], "id") != w.vm || str(rows[0], "name") != "vm-a" || str(rows[0], "vmId") == "" {
		t.Fatalf("%d pages of %v", pages, rows)
	}
	rows, _, err = query(t, s, "resources\n| where type in~ ('microsoft.keyvault/vaults', 'microsoft.keyvault/managedhsms')\n| where name =~ 'HSM-cvm'\n"+
		"| extend uri = tolower(tostring(coalesce(properties.vaultUri, properties.hsmUri)))\n| where uri startswith 'https://hsm-cvm.managedhsm.azure.net'\n| project id, uri", 10)
	ok(t, err)
	if len(rows) != 1 || str(rows[0], "uri") != "https://hsm-cvm.managedhsm.azure.net/" {
		t.Fatal(rows)
	}
	for q, want := range map[string]int{
		"Resources | where type == 'microsoft.compute/disks' and isnotempty(properties.securityProfile.secureVMDiskEncryptionSetId) | project id":           1,
		"resources | where properties.storageProfile.dataDisks[0].lun == 0 and properties['extended'].instanceView.powerState.code == 'PowerState/running'": 1,
		"resources | where not(type has 'compute') and name !in ('x') and name !contains 'zzz' | take 2":                                                    2,
		"resources | where (name endswith 'cmk' or name == 'none') and (type != 'a')":                                                                       1,
		"resources | where tobool(properties.securityProfile.uefiSettings.secureBootEnabled) == true | count":                                               1,
	} {
		rows, _, err := query(t, s, q, 100)
		if err != nil || len(rows) != want {
			t.Errorf("%s: %d rows, want %d, %v", q, len(rows), want, err)
		}
	}
	for _, q := range []string{"", "securityresources | count", "resources | summarize count() by type", "resources | where", "resources | where name == ", "resources | where f(name)",
		"resources where x", "resources | where name == 'open", "resources | where a in 'b'", "resources | where name == 'a' 'b'", "resources | take x", "resources | where " + strings.Repeat("(", 100) + "a"} {
		_, _, err := query(t, s, q, 10)
		wantError(t, err, 400, "BadRequest")
	}
}

func TestGraphShowsOnlyWhatTheCallerMayRead(t *testing.T) {
	s := start(t, Options{Role: &Role{Actions: []string{"Microsoft.Compute/virtualMachines/read"}}})
	small(t, s)
	rows, _, err := query(t, s, "resources | project id, type", 100)
	ok(t, err)
	if len(rows) != 1 || str(rows[0], "type") != "microsoft.compute/virtualmachines" {
		t.Fatal(rows)
	}
}

func TestSKUs(t *testing.T) {
	s := start(t, Options{})
	c := compute(t, s, HandlerPrincipal).NewResourceSKUsClient()
	tee := map[string]string{}
	for p := c.NewListPager(nil); p.More(); {
		page, err := p.NextPage(ctx(t))
		ok(t, err)
		for _, v := range page.Value {
			for _, cap := range v.Capabilities {
				if *cap.Name == "ConfidentialComputingType" {
					tee[*v.Name] = *cap.Value
				}
			}
		}
	}
	if tee["Standard_DC4as_v5"] != "SNP" || tee["Standard_DC4es_v6"] != "TDX" || tee["Standard_D4s_v5"] != "" {
		t.Fatal(tee)
	}
	if status, _, _ := call(t, s, HandlerPrincipal, "GET", "https://management.azure.com/subscriptions/"+s.Subscription()+"/providers/Microsoft.Compute/skus?api-version=2021-07-01&$filter=name", nil); status != 400 {
		t.Fatal(status)
	}
}
