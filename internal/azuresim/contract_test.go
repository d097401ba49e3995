package azuresim_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/azuresim"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

type echo struct{}

func (echo) Run(_ context.Context, env map[string]string, _ string) (int, string, string) {
	return 0, "nonce " + env["NONCE"], ""
}

// repoRole is all that the deployment grants when every part is opted into.
func repoRole(t *testing.T) *azuresim.Role {
	t.Helper()
	all := &azuresim.Role{}
	for _, name := range []string{"role-read.json", "role.json", "role-remedy.json", "role-access-policies.json", "role-recreate.json"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "infra", name))
		if err != nil {
			t.Fatal(err)
		}
		r, err := azuresim.ParseRole(b)
		if err != nil {
			t.Fatal(err)
		}
		all = all.And(r)
	}
	return all
}

// cvmguard's own client, by managed identity and with the deployment's own role,
// reads and writes all that it has to in the standard scene.
func TestOwnClientInTheScene(t *testing.T) {
	s, err := azuresim.Start(azuresim.Options{Role: repoRole(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.SetKnobs(func(k *azuresim.Knobs) { k.RetryAfter = time.Millisecond })
	sc, err := azuresim.BuildScene(s, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.SetGuests(func(azuresim.VMInfo) azuresim.Guest { return echo{} })
	for _, e := range s.IdentityEnv() {
		k, v, _ := strings.Cut(e, "=")
		t.Setenv(k, v)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := azure.New(config.Config{DevAzure: s.Addr(), DevCA: ca, ManagedIdentity: true, Development: true}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	for _, v := range sc.VMs {
		vm, err := c.VM(ctx, cvm.VMID(v.ID))
		if err != nil {
			t.Fatal(err)
		}
		disk, err := c.Disk(ctx, vm.OSDisk.ID)
		if err != nil {
			t.Fatal(err)
		}
		if k := cvm.KindWithDisk(vm, cvm.Known(disk)); k != v.Kind || cvm.TEEOfSize(vm.Size) != v.TEE {
			t.Errorf("%s: kind %s of TEE %s, want %s of %s", v.Name, k, cvm.TEEOfSize(vm.Size), v.Kind, v.TEE)
		}
		if vm.OSDisk.SecureDES == "" {
			continue
		}
		des, err := c.DES(ctx, vm.OSDisk.SecureDES)
		if err != nil {
			t.Fatal(err)
		}
		key, err := c.Key(ctx, cvm.KeyID(des.KeyURL))
		if v.Name == "vm-closed" {
			if !fault.Is(err, fault.Denied) {
				t.Errorf("the closed key: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		vault, err := c.Vault(ctx, cvm.VaultRef{ID: des.SourceVault, Host: key.ID.Host()})
		if err != nil {
			t.Fatal(err)
		}
		rights, err := c.Rights(ctx, cvm.RightsQuery{Vault: vault, Key: key.ID, DESPrincipal: des.PrincipalID, Orchestrator: s.Orchestrator()})
		if err != nil {
			t.Fatal(err)
		}
		if len(rights.DESIdentity) != 3 || len(rights.Orchestrator) != 1 {
			t.Errorf("%s: rights %+v", v.Name, rights)
		}
	}
	// An instance of a uniform scale set is listed after them, and read by its own id.
	instance := cvm.VMID("/subscriptions/" + s.Subscription() + "/resourceGroups/rg-scene/providers/Microsoft.Compute/virtualMachineScaleSets/pay/virtualMachines/0")
	if err := s.PutResource(map[string]any{"id": string(instance), "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines", "location": "northeurope",
		"tags": map[string]any{"env": "scene"}, "properties": map[string]any{"vmId": "u", "hardwareProfile": map[string]any{"vmSize": "Standard_DC4as_v5"}}}); err != nil {
		t.Fatal(err)
	}
	var rows []azure.VMRow
	if err := c.ListVMs(ctx, azure.GraphScope{Subscriptions: []string{s.Subscription()}, Where: "tags.env =~ 'scene'"}, func(r azure.VMRow) error { rows = append(rows, r); return nil }); err != nil || len(rows) != len(sc.VMs)+1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if last := rows[len(rows)-1]; last.ID.Fold() != instance.Fold() || last.UniqueID != "u" {
		t.Errorf("the last row is %+v", last)
	}
	if vm, err := c.VM(ctx, instance); err != nil || vm.ID.Fold() != instance.Fold() || vm.ScaleSet == "" || vm.Power != "running" || vm.Name != "pay_0" {
		t.Errorf("the instance: %+v, %v", vm, err)
	}
	if w := s.Writes(""); len(w) != 0 {
		t.Fatalf("reading wrote: %+v", w)
	}
	ownWrites(ctx, t, s, c, sc)
}

func ownWrites(ctx context.Context, t *testing.T, s *azuresim.Sim, c *azure.Client, sc *azuresim.Scene) {
	t.Helper()
	done := func(what string) func(remedy.Progress, error) {
		return func(p remedy.Progress, err error) {
			t.Helper()
			for end := time.Now().Add(10 * time.Second); err == nil && p.State == remedy.Underway && p.Token != "" && time.Now().Before(end); {
				p, err = c.PollOperation(ctx, p.Token)
			}
			if err != nil || p.Err != nil || p.State == remedy.Underway {
				t.Fatalf("%s: %+v, %v", what, p, err)
			}
		}
	}
	id := cvm.VMID(sc.VM("vm-snp-hsm").ID)
	vm, err := c.VM(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	done("tags")(c.BeginTags(ctx, id, vm.ETag, map[string]string{"cvmguard-verdict": "compliant"}))
	if _, err := c.BeginTags(ctx, id, vm.ETag, nil); !fault.Is(err, fault.Conflict) {
		t.Fatalf("a stale ETag: %v", err)
	}
	done("extension")(c.BeginExtension(ctx, id, vm.Location, "GuestAttestation", remedy.ExtensionSpec{
		Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation", Version: "1.0", AutoUpgrade: true, AutoUpgradeMinor: true}))
	done("run command")(c.BeginRunCommand(ctx, id, vm.Location, "cvmguard-evidence", remedy.RunCommandSpec{
		Script: "x", TimeoutSeconds: 30, Parameters: map[string]string{"cause": "c1"}, Protected: map[string]string{"NONCE": "n1"}}))
	rc, err := c.RunCommand(ctx, id, "cvmguard-evidence")
	if err != nil || rc.Output != "nonce n1" || rc.ExecutionState != "Succeeded" || rc.Parameters["cause"] != "c1" {
		t.Fatalf("%+v, %v", rc, err)
	}
	done("auto rotation")(c.BeginDESAutoRotation(ctx, cvm.DESID(sc.Auto), false))
	pmk := cvm.VMID(sc.VM("vm-snp-pmk").ID)
	data := cvm.DiskID(strings.Replace(string(pmk), "virtualMachines/vm-snp-pmk", "disks/vm-snp-pmk-data0", 1))
	if _, err := c.BeginDiskDES(ctx, data, cvm.DESID(sc.SSE), cvm.DESTypeSSE); err == nil {
		t.Fatal("a data disk of a running VM changed its set")
	}
	done("deallocate")(c.BeginDeallocate(ctx, pmk))
	done("data disk")(c.BeginDiskDES(ctx, data, cvm.DESID(sc.SSE), cvm.DESTypeSSE))
	done("start")(c.BeginStart(ctx, pmk))

	policy, err := azuresim.GoodPolicy(sc.Location)
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.CreateKey(ctx, sc.Vault+".vault.azure.net", "cvm-new-key", 3072, policy, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.UpdateKeyReleasePolicy(ctx, key.ID, policy); err != nil {
		t.Fatal(err)
	}
	vault, err := c.Vault(ctx, cvm.VaultRef{Host: key.ID.Host()})
	if err != nil {
		t.Fatal(err)
	}
	set := cvm.DESID(strings.Replace(sc.Auto, "des-auto", "des-new", 1))
	done("set")(c.BeginCreateDES(ctx, set, sc.Location, key.ID, vault.ID, nil))
	des, err := c.DES(ctx, set)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []cvm.Grant{{Principal: des.PrincipalID, For: "des"}, {Principal: s.Orchestrator(), For: "orchestrator"}} {
		g.Vault, g.Key = vault, key.ID
		for range 2 { // again: the same outcome
			if err := c.GrantKey(ctx, g); err != nil {
				t.Fatal(err)
			}
		}
	}
	rights, err := c.Rights(ctx, cvm.RightsQuery{Vault: vault, Key: key.ID, DESPrincipal: des.PrincipalID, Orchestrator: s.Orchestrator()})
	if err != nil || len(rights.DESIdentity) != 3 || len(rights.Orchestrator) != 1 {
		t.Fatalf("%+v, %v", rights, err)
	}
	writes, err := c.VMWrites(ctx, id, time.Now().Add(-time.Hour))
	if err != nil || len(writes) != 0 { // all that was written it wrote itself
		t.Fatalf("writes %+v, %v", writes, err)
	}
	if err := s.SetTagAs(azuresim.AdminPrincipal, string(id), "x", "y"); err != nil {
		t.Fatal(err)
	}
	if writes, err = c.VMWrites(ctx, id, time.Now().Add(-time.Hour)); err != nil || len(writes) != 1 || !writes[0].Done {
		t.Fatalf("writes %+v, %v", writes, err)
	}
	if ok, err := c.SizeOffered(ctx, s.Subscription(), sc.Location, vm.Size, nil); err != nil || !ok {
		t.Fatalf("size %s is offered: %v, %v", vm.Size, ok, err)
	}
	around(t, s, c, id)
	unused(t, s)
}

// around reads what stands around a VM that is to be made anew.
func around(t *testing.T, s *azuresim.Sim, c *azure.Client, id cvm.VMID) {
	t.Helper()
	ctx := t.Context()
	nic := strings.Replace(string(id), "Microsoft.Compute/virtualMachines", "Microsoft.Network/networkInterfaces", 1) + "-nic"
	for _, on := range []bool{false, true} {
		s.SetAcceleratedNetworking(string(id), on)
		if got, err := c.NetworkInterface(ctx, nic); err != nil || got.Accelerated != on || got.ID != nic {
			t.Errorf("%+v, %v, want accelerated networking %v", got, err, on)
		}
	}
	if locks, err := c.Locks(ctx, id); err != nil || len(locks) != 0 {
		t.Errorf("locks %v, %v, want none", locks, err)
	}
	group, _, _ := strings.Cut(string(id), "/providers/")
	s.AddLock(group, "keep", "CanNotDelete")
	if locks, err := c.Locks(ctx, id); err != nil || len(locks) != 1 || locks[0].Level != "CanNotDelete" || !strings.HasSuffix(locks[0].ID, "/locks/keep") {
		t.Errorf("locks %v, %v, want that of the group", locks, err)
	}
	actions := []string{"Microsoft.Compute/virtualMachines/delete", "Microsoft.Compute/disks/delete"}
	if lack, err := c.Lacking(ctx, string(id), actions); err != nil || !slices.Equal(lack, actions[1:]) {
		t.Errorf("lacks %v, %v, want what no role holds", lack, err)
	}
	if p, err := c.BeginVMDelete(ctx, id); err == nil {
		t.Errorf("a locked VM's deletion began: %+v", p)
	}
}

// usedElsewhere are actions of the roles that no call of the simulator's log
// names, each with why the deployment grants it.
var usedElsewhere = map[string]string{
	"microsoft.compute/virtualmachinescalesets/virtualmachines/read": "for instances of scale sets",
	"microsoft.compute/locations/operations/read":                    "polling: the operation's URL is Azure's",
	"microsoft.compute/locations/diskoperations/read":                "polling of disks and disk encryption sets",
	"microsoft.authorization/roledefinitions/read":                   "asked for a role that isn't built in",
	"microsoft.keyvault/vaults/accesspolicies/write":                 "for vaults with access policies",
	"microsoft.compute/virtualmachines/extensions/read":              "polling of an extension's installation",
	"microsoft.compute/virtualmachines/delete":                       "re-creation, by an approved plan; the local world's story plays it",
	"microsoft.network/networkinterfaces/join/action":                "re-creation: Azure asks for it where a new VM names a network interface",
	"microsoft.managedidentity/userassignedidentities/assign/action": "re-creation: Azure asks for it where a new VM has such an identity",
}

// unused finds actions that the deployment grants and nothing needs.
func unused(t *testing.T, s *azuresim.Sim) {
	t.Helper()
	used := map[string]bool{}
	for _, c := range s.Calls() {
		used[strings.ToLower(c.Action)] = true
	}
	role := repoRole(t)
	for _, a := range append(role.Actions, role.DataActions...) {
		low := strings.ToLower(a)
		if !used[low] && usedElsewhere[low] == "" {
			t.Errorf("the deployment grants %s, which nothing uses", a)
		}
		for _, never := range []string{"unwrap", "/release", "begingetaccess", "/delete", "*"} {
			if strings.Contains(low, never) && low != "microsoft.compute/virtualmachines/delete" {
				t.Errorf("the deployment grants %s", a)
			}
		}
	}
}
