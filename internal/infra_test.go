package internal

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/azure"
)

// These tests hold the deployment to the code: an event that isn't let through
// is never seen, and a power that is granted too early can be used.

// bicepList are the texts of a list variable of infra/main.bicep.
func bicepList(t *testing.T, name string) []string {
	t.Helper()
	list := regexp.MustCompile(`(?m)^var ` + name + ` = \[\n((?:  '[^']+'\n)+)\]$`).FindStringSubmatch(page(t, "infra/main.bicep"))
	if list == nil {
		t.Fatalf("infra/main.bicep has no list of texts %s", name)
	}
	var out []string
	for _, m := range regexp.MustCompile(`'([^']+)'`).FindAllStringSubmatch(list[1], -1) {
		out = append(out, m[1])
	}
	return out
}

func TestTheDeploymentsVMEventsLeadToAVM(t *testing.T) {
	if !regexp.MustCompile(`key: 'data\.operationName'\s+values: vmOperations\b`).MatchString(page(t, "infra/main.bicep")) {
		t.Fatal("infra/main.bicep doesn't filter VM events by vmOperations")
	}
	operations, types := bicepList(t, "vmOperations"), bicepList(t, "vmEventTypes")
	const vm = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1"
	const stem = "Microsoft.Compute/virtualMachines/"
	for _, op := range operations {
		subject := vm
		rest, ok := strings.CutPrefix(op, stem)
		if !ok {
			// An instance of a uniform scale set.
			rest, ok = strings.CutPrefix(op, "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/")
			subject = strings.Replace(vm, "virtualMachines/vm1", "virtualMachineScaleSets/set1/virtualMachines/0", 1)
		}
		if !ok {
			t.Errorf("%s isn't an operation on a VM", op)
			continue
		}
		if child, _, nested := strings.Cut(rest, "/"); nested && !strings.HasSuffix(rest, "/action") {
			subject += "/" + child + "/GuestAttestation"
		}
		for _, typ := range types {
			raw, err := json.Marshal(map[string]any{
				"id": "1", "topic": vm[:51], "subject": subject, "eventType": typ, "eventTime": "2026-01-02T03:04:05Z", "dataVersion": "2",
				"metadataVersion": "1", "data": map[string]any{"operationName": op, "resourceUri": subject, "status": "Succeeded"},
			})
			if err != nil {
				t.Fatal(err)
			}
			e, err := azure.ParseEvent(raw)
			if err != nil {
				t.Errorf("%s, %s: %v", typ, op, err)
				continue
			}
			if e.Operation != op {
				t.Errorf("%s: the event's operation is read as %q", op, e.Operation)
			}
			if d := azure.Classify(e); string(d.VM) != strings.TrimSuffix(subject, "/extensions/GuestAttestation") || d.Drop != "" {
				t.Errorf("%s, %s: leads to %q, dropped %q (%s)", typ, op, d.VM, d.Drop, d.Why)
			}
		}
	}
	for _, must := range []string{
		"write", "delete", "start/action", "restart/action", "deallocate/action", "powerOff/action",
		"redeploy/action", "reapply/action", "reimage/action", "extensions/write", "extensions/delete",
	} {
		if !slices.Contains(operations, stem+must) {
			t.Errorf("the filter of infra/main.bicep doesn't let %s%s through", stem, must)
		}
	}
	if slices.Contains(operations, stem+"runCommands/write") {
		t.Error("the filter lets run commands through: cvmguard's own echo")
	}
	if len(operations) > 25 {
		t.Errorf("%d operations in one advanced filter; Event Grid takes 25 values", len(operations))
	}
}

// TestTheDeploymentsOtherEventsAreKnown asks of the other subscriptions' types
// that they lead somewhere.
func TestTheDeploymentsOtherEventsAreKnown(t *testing.T) {
	const vm = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1"
	for list, says := range map[string]struct{ subject, data string }{
		"healthEventTypes": {vm + "/providers/Microsoft.ResourceHealth/availabilityStatuses/current", `{}`},
		"keyEventTypes":    {"k1", `{"Id":"https://kv1.vault.azure.net/keys/k1/0123456789abcdef0123456789abcdef","VaultName":"kv1","ObjectType":"Key","ObjectName":"k1","Version":"0123456789abcdef0123456789abcdef"}`},
	} {
		for _, typ := range bicepList(t, list) {
			raw := fmt.Sprintf(`{"id":"1","topic":"/subscriptions/s","subject":%q,"eventType":%q,"eventTime":"2026-01-02T03:04:05Z","dataVersion":"1","metadataVersion":"1","data":%s}`, says.subject, typ, says.data)
			e, err := azure.ParseEvent([]byte(raw))
			if err != nil {
				t.Errorf("%s: %v", typ, err)
				continue
			}
			if d := azure.Classify(e); d.VM == "" && d.Key == "" {
				t.Errorf("%s of %s: dropped, %s (%s)", typ, list, d.Drop, d.Why)
			}
		}
	}
}

// TestTheRolesGrantNoMoreThanTheySay: the role of observe only reads, and none
// holds what cvmguard promises never to do.
func TestTheRolesGrantNoMoreThanTheySay(t *testing.T) {
	seen := map[string]string{}
	for _, file := range []string{"role-read.json", "role.json", "role-remedy.json", "role-access-policies.json", "role-recreate.json"} {
		var role struct{ Actions, DataActions []string }
		if err := json.Unmarshal([]byte(page(t, "infra/"+file)), &role); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, a := range append(role.Actions, role.DataActions...) {
			if other, ok := seen[a]; ok {
				t.Errorf("%s is in %s and in %s", a, other, file)
			}
			seen[a] = file
			lower := strings.ToLower(a)
			if read := strings.HasSuffix(lower, "/read"); read != (file == "role-read.json") {
				t.Errorf("%s is in %s: reads are in role-read.json, and nothing else is", a, file)
			}
			for _, never := range []string{"*", "/delete", "unwrap", "release", "begingetaccess", "decrypt", "/sign"} {
				if strings.Contains(lower, never) && !(file == "role-recreate.json" && a == "Microsoft.Compute/virtualMachines/delete") {
					t.Errorf("%s holds %s", file, a)
				}
			}
		}
	}
	if f := seen["Microsoft.KeyVault/vaults/accessPolicies/write"]; f != "role-access-policies.json" {
		t.Errorf("accessPolicies/write, which no condition narrows, is in %q", f)
	}
	bicep := page(t, "infra/main.bicep")
	for file, when := range map[string]string{
		"role-read.json": "", "role.json": "if (mode == 'enforce') ", "role-remedy.json": "if (mode == 'enforce' && grantRemedies) ",
		"role-access-policies.json": "if (mode == 'enforce' && grantAccessPolicies) ", "role-recreate.json": "if (mode == 'enforce' && grantRecreation) ",
	} {
		before, _, ok := strings.Cut(bicep, "loadJsonContent('"+file+"')")
		head, _, _ := strings.Cut(before[strings.LastIndex(before, "\nmodule ")+1:], "\n")
		if !ok || !strings.HasSuffix(head, " 'modules/role.bicep' = "+when+"{") {
			t.Errorf("%s is assigned by %q, want the condition %q", file, head, when)
		}
	}
	for _, part := range []string{
		`roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {${grantable}} AND`,
		`roleAssignments:PrincipalType] ForAnyOfAnyValues:StringEqualsIgnoreCase {\'ServicePrincipal\'} AND`,
		`roleAssignments:PrincipalId] ForAnyOfAnyValues:GuidNotEquals {${identity.outputs.principalId}}`,
	} {
		if !strings.Contains(bicep, part) {
			t.Errorf("the condition on role assignments lacks %s", part)
		}
	}
}
