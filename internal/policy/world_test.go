package policy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

// now is the moment for which the vectors of keys are made.
var now = time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)

const (
	arm   = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg-cvm/providers/"
	vmID  = cvm.VMID(arm + "Microsoft.Compute/virtualMachines/vm1")
	desID = cvm.DESID(arm + "Microsoft.Compute/diskEncryptionSets/des-cvm")
	sseID = cvm.DESID(arm + "Microsoft.Compute/diskEncryptionSets/des-sse")
	osID  = cvm.DiskID(arm + "Microsoft.Compute/disks/vm1-os")
	kvID  = arm + "Microsoft.KeyVault/vaults/kv-cvm"
	keyID = cvm.KeyID("https://kv-cvm.vault.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff")
)

// compliant is a posture to which every asked rule says pass, without a note.
func compliant() cvm.Posture {
	disk := cvm.Disk{ID: osID, Name: "vm1-os", Location: "northeurope", State: "Attached", SecurityType: cvm.DiskCustomerKey, HasSecurityProfile: true,
		SecureDES: desID, ConfidentialVersion: "V1", EncryptionType: "EncryptionAtRestWithPlatformKey", Generation: "V2", NetworkAccessPolicy: "DenyAll"}
	return cvm.Posture{
		ID: vmID, SecondLook: true, GuestAsked: true,
		VM: cvm.Known(cvm.VM{ID: vmID, Name: "vm1", Location: "northeurope", UniqueID: "u", Size: "Standard_DC4as_v5", ProvisioningState: "Succeeded",
			SecurityType: "ConfidentialVM", SecureBoot: cvm.True, VTPM: cvm.True, Generation: "V2", OS: "Linux",
			OSDisk:       cvm.OSDiskRef{ID: osID, SecurityEncryptionType: cvm.EncryptDisk, SecureDES: desID},
			DataDisks:    []cvm.DataDiskRef{{LUN: 0, ID: osID + "-data", Name: "data0", SSEDES: sseID}},
			InstanceView: true, Power: "running", AgentReady: cvm.True,
			Extensions: []cvm.Extension{{Name: "GuestAttestation", Publisher: "Microsoft.Azure.Security.LinuxAttestation", Type: "GuestAttestation", ProvisioningState: "Succeeded", HandlerStatus: "Ready"}}}),
		OSDisk: cvm.Known(disk),
		DES: cvm.Known(cvm.DES{ID: desID, Name: "des-cvm", Location: "northeurope", Type: cvm.DESTypeConfidential, KeyURL: string(keyID), SourceVault: kvID,
			ProvisioningState: "Succeeded", IdentityType: "SystemAssigned", PrincipalID: "p"}),
		DESDisks: cvm.Known([]cvm.Disk{disk}),
		DataDisks: []cvm.DataDiskFacts{{Ref: cvm.DataDiskRef{LUN: 0, ID: osID + "-data", Name: "data0", SSEDES: sseID},
			Disk: cvm.Known(cvm.Disk{ID: osID + "-data", EncryptionType: cvm.DESTypeSSE, SSEDES: sseID}),
			DES:  cvm.Known(cvm.DES{ID: sseID, Type: cvm.DESTypeSSE})}},
		Key: cvm.Known(cvm.Key{ID: keyID, Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True,
			Expires: now.Add(100 * 24 * time.Hour), RecoveryLevel: "Recoverable", AttributesRead: true,
			Policy: cvm.ReleasePolicy{Present: true, Immutable: true, Decoded: cvm.DraftReleasePolicy("https://sharedneu.neu.attest.azure.net")}}),
		Vault: cvm.Known(cvm.Vault{ID: kvID, Name: "kv-cvm", Host: "kv-cvm.vault.azure.net", Location: "northeurope", SKU: "premium", PurgeProtection: cvm.True,
			SoftDelete: cvm.True, RBAC: cvm.True, DefaultAction: "Deny", Bypass: "AzureServices", PublicAccess: "Enabled"}),
		Rights: cvm.Known(cvm.Rights{Model: "rbac", DESIdentity: []string{"get", "wrapkey", "unwrapkey"}, Orchestrator: []string{"release"}, OrchestratorKnown: true}),
		Attestation: cvm.Known(cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Evidence: cvm.Outcome{State: cvm.Pass}, NonceIssued: now.Add(-time.Hour),
			JudgedAt: now.Add(-time.Hour), Kind: "snp"}),
	}
}

// said are the states and reasons of findings that carry a reason and count or
// are notes, each once, in order of the rules: "fail key-disabled".
func said(list []Finding) []string {
	var out []string
	for _, f := range list {
		if f.Reason == "" || f.State == cvm.NotApplicable || f.State == cvm.NotAsked {
			continue
		}
		if s := string(f.State) + " " + f.Reason; !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func same(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// find is the first finding with a reason.
func find(list []Finding, reason string) Finding {
	for _, f := range list {
		if f.Reason == reason {
			return f
		}
	}
	return Finding{}
}

// byRule is the states and reasons of one rule.
func byRule(list []Finding, rule string) string {
	var out []string
	for _, f := range list {
		if f.Rule == rule {
			out = append(out, strings.TrimSpace(string(f.State)+" "+f.Reason))
		}
	}
	return strings.Join(out, ", ")
}

// vectors is the folder of Azure's bodies beside the repository.
func vectors(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "..", "shared", "vectors", "azure")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the vectors of Azure's bodies are not here: " + dir)
	}
	return dir
}

func load[T any](t testing.TB, name string, parse func([]byte) (T, error)) T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors(t), name))
	if err != nil {
		t.Fatal(err)
	}
	v, err := parse(b)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}
