package remedy

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

const (
	sub      = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/"
	vmID     = cvm.VMID(sub + "Microsoft.Compute/virtualMachines/vm1")
	osID     = cvm.DiskID(sub + "Microsoft.Compute/disks/vm1-os")
	data0ID  = cvm.DiskID(sub + "Microsoft.Compute/disks/vm1-data0")
	data1ID  = cvm.DiskID(sub + "Microsoft.Compute/disks/vm1-data1")
	desID    = cvm.DESID(sub + "Microsoft.Compute/diskEncryptionSets/des-cvm")
	dataDES  = cvm.DESID(sub + "Microsoft.Compute/diskEncryptionSets/des-data")
	vaultID  = sub + "Microsoft.KeyVault/vaults/kv1"
	keyURL   = cvm.KeyID("https://kv1.vault.azure.net/keys/cvm-os-key")
	keyV1    = keyURL + "/00000000000000000000000000000001"
	dataKey  = cvm.KeyID("https://kv1.vault.azure.net/keys/data-key/00000000000000000000000000000002")
	orcheID  = "00000000-0000-0000-0000-00000000beef"
	regionID = "00000000-0000-0000-0000-000000000001/regions/northeurope"
)

var testNow = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

// document is a policy that lets everything be done, but for what edit changes in
// its text.
func document(t testing.TB, mode string, edits ...string) *policy.Document {
	t.Helper()
	text := `schemaVersion: 1
name: test
mode: ` + mode + `
orchestratorObjectId: ` + orcheID + `
rules:
  temp-disk-confidential: enforce
remedy:
  allow: needs-deallocation
  collectEvidence: true
  installGuestAttestation: true
  encryptTempDisk: true
  deallocateForDataDisks: true
  tag: true
  quarantineTag: cvmguard-quarantine
  disableAutoRotation: true
  replaceReleasePolicy: true
  grantRights: true
  ensureRegionKey: true
  ensureRegionDES: true
regions:
  northeurope:
    vault: ` + vaultID + `
    key: cvm-os-key
    keyBits: 3072
    des: ` + string(desID) + `
    dataDES: ` + string(dataDES) + `
`
	for i := 0; i+1 < len(edits); i += 2 {
		if !strings.Contains(text, edits[i]) {
			t.Fatalf("the test's policy has no %q", edits[i])
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	d, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// world is a small Azure: it counts what it accepts, and can be slow, fail before
// the effect, and lose the answer after it.
type world struct {
	vm     cvm.VM
	disks  map[cvm.DiskID]cvm.Disk
	sets   map[cvm.DESID]cvm.DES
	keys   map[cvm.KeyID]cvm.Key // by versioned URL, and by versionless for the newest
	vaults map[string]cvm.Vault
	rights map[cvm.KeyID]cvm.Rights
	run    *RunCommandView

	slow       int                 // ticks that an operation takes
	failBefore int                 // so many writes fail before the effect
	loseAnswer int                 // so many writes lose their answer
	refuse     map[string]error    // a write that Azure refuses, by kind
	endBadly   map[string]error    // an operation that fails in the end, by kind
	lag        int                 // ticks until rights are to be read
	noSize     bool                // the size isn't offered
	writes     map[string]int      // accepted
	ops        map[string]*worldOp // by token
	seq        int
}

type worldOp struct {
	left int
	end  func()
	err  error
	over bool
}

func newWorld() *world {
	text, _ := releasePolicyFor("northeurope")
	w := &world{
		vm: cvm.VM{ID: vmID, Name: "vm1", Location: "northeurope", UniqueID: "11111111-1111-1111-1111-111111111111", ETag: `"1"`,
			Tags: map[string]string{"owner": "me"}, Zones: []string{"1"}, Size: "Standard_DC4as_v5", ProvisioningState: "Succeeded",
			SecurityType: "ConfidentialVM", SecureBoot: cvm.True, VTPM: cvm.True, Generation: "V2", OS: "Linux",
			Image:        cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-confidential-vm-jammy", SKU: "22_04-lts-cvm", Version: "latest"},
			OSDisk:       cvm.OSDiskRef{ID: osID, Name: "vm1-os", SecurityEncryptionType: cvm.EncryptDisk, SecureDES: desID},
			DataDisks:    []cvm.DataDiskRef{{LUN: 0, ID: data0ID, Name: "vm1-data0"}, {LUN: 1, ID: data1ID, Name: "vm1-data1"}},
			InstanceView: true, Power: powerRunning, AgentReady: cvm.True, AgentVersion: "2.9.1.1",
			Extensions: []cvm.Extension{{Name: "GuestAttestation", Publisher: attestPublisherLinux, Type: attestName, Version: "1.0", ProvisioningState: "Succeeded", HandlerStatus: "Ready"}}},
		disks:  map[cvm.DiskID]cvm.Disk{},
		sets:   map[cvm.DESID]cvm.DES{},
		keys:   map[cvm.KeyID]cvm.Key{},
		vaults: map[string]cvm.Vault{},
		rights: map[cvm.KeyID]cvm.Rights{},
		writes: map[string]int{}, ops: map[string]*worldOp{}, refuse: map[string]error{}, endBadly: map[string]error{},
		slow: 2,
	}
	w.disks[osID] = cvm.Disk{ID: osID, Name: "vm1-os", Location: "northeurope", ManagedBy: string(vmID), ProvisioningState: "Succeeded", State: "Attached",
		SecurityType: cvm.DiskCustomerKey, HasSecurityProfile: true, SecureDES: desID, ConfidentialVersion: "V1", EncryptionType: "EncryptionAtRestWithPlatformKey", Generation: "V2"}
	for _, id := range []cvm.DiskID{data0ID, data1ID} {
		w.disks[id] = cvm.Disk{ID: id, Name: id.Name(), Location: "northeurope", ManagedBy: string(vmID), ProvisioningState: "Succeeded", State: "Attached",
			EncryptionType: "EncryptionAtRestWithPlatformKey"}
	}
	w.sets[desID] = cvm.DES{ID: desID, Name: "des-cvm", Location: "northeurope", Type: cvm.DESTypeConfidential, KeyURL: string(keyV1), SourceVault: vaultID,
		ProvisioningState: "Succeeded", IdentityType: "SystemAssigned", PrincipalID: "p-cvm"}
	w.sets[dataDES] = cvm.DES{ID: dataDES, Name: "des-data", Location: "northeurope", Type: cvm.DESTypeSSE, KeyURL: string(dataKey), SourceVault: vaultID,
		ProvisioningState: "Succeeded", IdentityType: "SystemAssigned", PrincipalID: "p-data"}
	w.putKey(goodKey(keyV1, text))
	data := goodKey(dataKey, "")
	data.Exportable, data.Policy = cvm.False, cvm.ReleasePolicy{}
	w.putKey(data)
	w.vaults[strings.ToLower(vaultID)] = cvm.Vault{ID: vaultID, Name: "kv1", Host: "kv1.vault.azure.net", Location: "northeurope", SKU: "premium",
		PurgeProtection: cvm.True, SoftDelete: cvm.True, RBAC: cvm.True, PublicAccess: "Enabled", ProvisioningState: "Succeeded"}
	w.rights[keyURL] = cvm.Rights{Model: "rbac", DESIdentity: []string{"get", "wrapkey", "unwrapkey"}, Orchestrator: []string{"release"}, OrchestratorKnown: true}
	w.rights[dataKey.Versionless()] = cvm.Rights{Model: "rbac", DESIdentity: []string{"get", "wrapkey", "unwrapkey"}, OrchestratorKnown: true}
	return w
}

func goodKey(id cvm.KeyID, releasePolicy string) cvm.Key {
	return cvm.Key{ID: id, Type: "RSA-HSM", Bits: 3072, Ops: []string{"wrapKey", "unwrapKey"}, Enabled: cvm.True, Exportable: cvm.True,
		RecoveryLevel: "Recoverable+ProtectedSubscription", AttributesRead: true,
		Policy: cvm.ReleasePolicy{Present: releasePolicy != "", Decoded: releasePolicy}}
}

func (w *world) putKey(k cvm.Key) { w.keys[k.ID], w.keys[k.ID.Versionless()] = k, k }

// tick lets a moment pass.
func (w *world) tick() {
	for _, o := range w.ops {
		if o.over {
			continue
		}
		if o.left--; o.left <= 0 {
			o.over = true
			if o.err == nil {
				o.end()
			}
		}
	}
	w.lag = max(w.lag-1, 0)
}

// begin accepts a write: start is seen at once, end when it is over, undo if it
// fails.
func (w *world) begin(kind string, start, end, undo func()) (Progress, error) {
	if w.failBefore > 0 {
		w.failBefore--
		return Progress{}, fault.New(fault.Transient, "writing", kind, "503 before the effect")
	}
	if err := w.refuse[kind]; err != nil {
		return Progress{}, err
	}
	w.writes[kind]++
	w.seq++
	token := fmt.Sprintf("op-%d", w.seq)
	start()
	o := &worldOp{left: w.slow, end: end, err: w.endBadly[kind]}
	if o.err != nil {
		undo()
	}
	w.ops[token] = o
	if w.slow == 0 {
		o.over = true
		end()
	}
	if w.loseAnswer > 0 {
		w.loseAnswer--
		return Progress{}, fault.New(fault.Transient, "writing", kind, "the connection broke after the effect")
	}
	return Progress{State: Underway, Token: token}, nil
}

func (w *world) PollOperation(_ context.Context, token string) (Progress, error) {
	o, ok := w.ops[token]
	switch {
	case !ok:
		return Progress{}, fault.New(fault.NotFound, "polling", token, "no such operation")
	case !o.over:
		return Progress{State: Underway, Token: token, RetryAfter: time.Second}, nil
	case o.err != nil:
		return Progress{State: Ended, Err: o.err}, nil
	}
	return Progress{State: Effected}, nil
}

func (w *world) touch() { w.seq++; w.vm.ETag = fmt.Sprintf("%q", fmt.Sprint(w.seq)) }

func (w *world) VM(_ context.Context, id cvm.VMID) (cvm.VM, error) {
	if id.Fold() != w.vm.ID.Fold() {
		return cvm.VM{}, fault.New(fault.NotFound, "reading VM", string(id), "404")
	}
	vm := w.vm
	vm.Tags = maps.Clone(vm.Tags)
	return vm, nil
}

func find[K comparable, V any](m map[K]V, k K, what string) (V, error) {
	v, ok := m[k]
	if !ok {
		return v, fault.New(fault.NotFound, "reading "+what, fmt.Sprint(k), "404")
	}
	return v, nil
}

func (w *world) Disk(_ context.Context, id cvm.DiskID) (cvm.Disk, error) {
	return find(w.disks, id, "disk")
}
func (w *world) DES(_ context.Context, id cvm.DESID) (cvm.DES, error) { return find(w.sets, id, "set") }
func (w *world) Key(_ context.Context, id cvm.KeyID) (cvm.Key, error) { return find(w.keys, id, "key") }
func (w *world) Vault(_ context.Context, ref cvm.VaultRef) (cvm.Vault, error) {
	for _, v := range w.vaults {
		if strings.EqualFold(v.ID, ref.ID) || ref.ID == "" && v.Host == ref.Host {
			return v, nil
		}
	}
	return cvm.Vault{}, fault.New(fault.NotFound, "reading vault", ref.ID, "404")
}

func (w *world) Rights(_ context.Context, q cvm.RightsQuery) (cvm.Rights, error) {
	r, ok := w.rights[q.Key]
	if !ok || w.lag > 0 {
		r = cvm.Rights{Model: "rbac"}
	}
	r.OrchestratorKnown = q.Orchestrator != ""
	return r, nil
}

func (w *world) SizeOffered(context.Context, string, string, string, []string) (bool, error) {
	return !w.noSize, nil
}

// posture is what the loop would observe.
func (w *world) posture() cvm.Posture {
	fact := func(k cvm.KeyID) cvm.Fact[cvm.Key] {
		if v, ok := w.keys[k]; ok {
			return cvm.Known(v)
		}
		return cvm.NotThere[cvm.Key]()
	}
	vm, _ := w.VM(context.Background(), vmID)
	p := cvm.Posture{ID: vmID, TakenDown: true, VM: cvm.Known(vm), OSDisk: cvm.Known(w.disks[osID]), DES: cvm.Known(w.sets[desID]),
		DESDisks: cvm.NotRead[[]cvm.Disk]("not-asked", "", ""), Key: fact(cvm.KeyID(w.sets[desID].KeyURL)),
		Vault: cvm.Known(w.vaults[strings.ToLower(vaultID)]), Rights: cvm.Known(w.rights[keyURL]), GuestAsked: true,
		Attestation: cvm.Known(cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Evidence: cvm.Outcome{State: cvm.Pass},
			NonceIssued: testNow.Add(-time.Hour), JudgedAt: testNow.Add(-time.Hour), Way: "arm", Kind: "snp", PCRs: map[string]string{"12": cvm.PCR12Fenced}}),
		Claims: cvm.Known(cvm.GuestClaims{CloudInit: "done", RootEncrypted: cvm.True, UbuntuFDE: cvm.True, ClearKey: cvm.False, KeyFile: cvm.False,
			ResizeSlot: cvm.False, SRKTemplate: cvm.False, SealedKey: cvm.True, BootFiles: cvm.True})}
	for _, ref := range w.vm.DataDisks {
		f := cvm.DataDiskFacts{Ref: ref, Disk: cvm.Known(w.disks[ref.ID])}
		if id := w.disks[ref.ID].SSEDES; id != "" {
			f.DES = cvm.Known(w.sets[id])
		}
		p.DataDisks = append(p.DataDisks, f)
	}
	return p
}

func (w *world) applier(d *policy.Document) *AzureApplier {
	a := NewApplier(w, d)
	a.Now = func() time.Time { return testNow }
	a.Script = func(sha string) string { return "#!/bin/sh\n# " + sha }
	return a
}

var testSecrets = Secrets{Nonce: []byte("01234567890123456789012345678901"), ToolURL: "https://st/tools/x?sig=s", ToolSHA: "ab",
	OutURL: "https://st/incoming/x?sig=s", Cause: "chain/00000007", VMUniqueID: "11111111-1111-1111-1111-111111111111"}

// drive drives a step to its end as the loop does. crash loses what was learnt of
// the first call that was sent.
func drive(t testing.TB, w *world, a Applier, s Step, crash bool) Progress {
	t.Helper()
	ctx := context.Background()
	const look = "look"
	token := ""
	for range 60 {
		var p Progress
		var err error
		switch token {
		case "":
			p, err = a.Look(ctx, s, testSecrets)
		case look:
			p, err = a.Poll(ctx, s, "", testSecrets)
		default:
			p, err = a.Poll(ctx, s, token, testSecrets)
		}
		if err == nil && p.State == NotThere {
			p, err = a.Start(ctx, s, testSecrets)
			if crash {
				crash, token = false, ""
				w.tick()
				continue
			}
		}
		if err != nil {
			if !passes(err) {
				t.Fatalf("driving %s: %v", s.Kind, err)
			}
			token = look
			w.tick()
			continue
		}
		switch p.State {
		case Underway:
			if token = p.Token; token == "" {
				token = look
			}
		case Effected, Refused, Ended:
			return p
		default:
			t.Fatalf("driving %s: unexpected %q", s.Kind, p.State)
		}
		w.tick()
	}
	t.Fatalf("driving %s doesn't end", s.Kind)
	return Progress{}
}
