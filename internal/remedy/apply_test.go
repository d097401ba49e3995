package remedy

import (
	"context"
	"encoding/base64"
	"maps"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// kinds are a step of each kind that is applied, with the world in which it is due
// and the write that it makes.
func kinds() map[Kind]struct {
	set   func(*world)
	step  Step
	write string
} {
	vm := string(vmID)
	return map[Kind]struct {
		set   func(*world)
		step  Step
		write string
	}{
		CollectEvidence:  {func(*world) {}, Step{Target: vm}, "run-command"},
		InstallAttest:    {func(w *world) { w.vm.Extensions = nil }, Step{Target: vm}, "extension"},
		EncryptTempDisk:  {func(w *world) { w.vm.Size, w.vm.DataDisks = "Standard_DC4ads_v5", nil }, Step{Target: vm, Args: map[string]string{argVault: vaultID}}, "extension"},
		Tag:              {func(*world) {}, Step{Target: vm, Args: map[string]string{argTag: TagVerdict, argValue: "compliant"}}, "tags"},
		Quarantine:       {func(*world) {}, Step{Target: vm, Args: map[string]string{argTag: "cvmguard-quarantine", argValue: "x"}}, "tags"},
		MarkDeallocation: {func(*world) {}, Step{Target: vm, Args: map[string]string{argTag: TagDeallocated, argValue: MarkPending, argDES: string(dataDES)}}, "tags"},
		MarkDown: {func(w *world) {
			w.vm.Power, w.vm.Tags = powerDeallocated, map[string]string{TagDeallocated: MarkPending}
		},
			Step{Target: vm, Args: map[string]string{argTag: TagDeallocated, argValue: MarkIsDown}}, "tags"},
		ClearMark: {func(w *world) { w.vm.Tags = map[string]string{"CVMguard-Deallocated-For": MarkIsDown} },
			Step{Target: vm, Args: map[string]string{argTag: TagDeallocated, argRemove: "true"}}, "tags"},
		Deallocate: {func(w *world) { w.vm.Tags = map[string]string{TagDeallocated: MarkPending} },
			Step{Target: vm, Args: map[string]string{argDES: string(dataDES)}}, "deallocate"},
		Start: {func(w *world) {
			w.vm.Power, w.vm.Tags = powerDeallocated, map[string]string{TagDeallocated: MarkIsDown}
		}, Step{Target: vm}, "start"},
		EncryptDataDisk: {func(w *world) { w.vm.Power = powerDeallocated; w.diskStates("Reserved") },
			Step{Target: string(data0ID), Args: map[string]string{argVM: vm, argDES: string(dataDES)}}, "disk vm1-data0"},
		DisableAutoRotation: {func(w *world) { d := w.sets[desID]; d.AutoRotation = true; w.sets[desID] = d }, Step{Target: string(desID)}, "rotation"},
		ReplacePolicy: {func(w *world) {
			k := w.keys[keyV1]
			k.Policy.Decoded = strings.Replace(k.Policy.Decoded, "azure-compliant-cvm", "anything", 1)
			w.putKey(k)
		}, Step{Target: string(keyV1), Args: map[string]string{argRegion: "northeurope", argPolicy: mustPolicy()}}, "release-policy"},
		EnsureKey: {func(w *world) { clear(w.keys) }, Step{Target: regionID, Args: map[string]string{argVault: vaultID, argKey: "cvm-os-key",
			argBits: "3072", argPolicy: mustPolicy(), argRegion: "northeurope"}}, "create-key"},
		EnsureDES:         {func(w *world) { delete(w.sets, desID) }, Step{Target: string(desID), Args: map[string]string{argVault: vaultID, argKey: "cvm-os-key", argRegion: "northeurope"}}, "create-des"},
		GrantDES:          {func(w *world) { delete(w.rights, keyURL) }, Step{Target: string(desID), Args: map[string]string{argVault: vaultID, argKey: string(keyURL), argDES: string(desID)}}, "grant des"},
		GrantOrchestrator: {func(w *world) { delete(w.rights, keyURL) }, Step{Target: string(keyURL), Args: map[string]string{argVault: vaultID, argKey: string(keyURL), argDES: string(desID)}}, "grant orchestrator"},
	}
}

func mustPolicy() string { s, _ := releasePolicyFor("northeurope"); return s }

// However a step is cut short, it ends with its effect and one accepted write.
func TestEveryKindConvergesWithOneWrite(t *testing.T) {
	faults := map[string]struct {
		set   func(*world)
		crash bool
	}{
		"plain":               {func(*world) {}, false},
		"at once":             {func(w *world) { w.slow = 0 }, false},
		"very slow":           {func(w *world) { w.slow = 20 }, false},
		"fails before":        {func(w *world) { w.failBefore = 2 }, false},
		"answer lost":         {func(w *world) { w.loseAnswer = 1 }, false},
		"answer lost, slow":   {func(w *world) { w.loseAnswer, w.slow = 1, 15 }, false},
		"killed after":        {func(*world) {}, true},
		"killed after, slow":  {func(w *world) { w.slow = 15 }, true},
		"killed after, quick": {func(w *world) { w.slow = 0 }, true},
	}
	for kind, k := range kinds() {
		for name, f := range faults {
			t.Run(string(kind)+"/"+name, func(t *testing.T) {
				w := newWorld()
				k.set(w)
				f.set(w)
				s := k.step
				s.Kind = kind
				if p := drive(t, w, w.applier(document(t, "enforce")), s, f.crash); p.State != Effected {
					t.Fatalf("ended %s: %v", p.State, p.Err)
				}
				if want := map[string]int{k.write: 1}; !maps.Equal(w.writes, want) {
					t.Errorf("writes %v, want %v", w.writes, want)
				}
				// Again: the effect is found, nothing is sent.
				if p := drive(t, w, w.applier(document(t, "enforce")), s, false); p.State != Effected || w.writes[k.write] != 1 {
					t.Errorf("the second time: %s, writes %v", p.State, w.writes)
				}
			})
		}
	}
}

func TestObserveModeSendsNothing(t *testing.T) {
	for kind, k := range kinds() {
		w := newWorld()
		k.set(w)
		s := k.step
		s.Kind = kind
		p, err := w.applier(document(t, "observe")).Start(context.Background(), s, testSecrets)
		if err != nil || p.State != Refused || len(w.writes) != 0 {
			t.Errorf("%s: %v %v, writes %v", kind, p, err, w.writes)
		}
	}
}

func TestPreconditionsAreReadAgain(t *testing.T) {
	des := func(edit func(*cvm.DES)) func(*world) {
		return func(w *world) { d := w.sets[desID]; edit(&d); w.sets[desID] = d }
	}
	key := func(edit func(*cvm.Key)) func(*world) {
		return func(w *world) { k := w.keys[keyV1]; edit(&k); w.putKey(k) }
	}
	for name, c := range map[string]struct {
		kind Kind
		then func(*world)
		why  string
	}{
		"gone":                      {Tag, func(w *world) { w.vm.ID += "x" }, "404"},
		"deallocate, unmarked":      {Deallocate, func(w *world) { w.vm.Tags = nil }, "tag"},
		"deallocate, stopped":       {Deallocate, func(w *world) { w.vm.Power = "stopped" }, "running"},
		"deallocate, ephemeral":     {Deallocate, func(w *world) { w.vm.OSDisk.Ephemeral = true }, "ephemeral"},
		"deallocate, key off":       {Deallocate, key(func(k *cvm.Key) { k.Enabled = cvm.False }), "enabled"},
		"deallocate, key expired":   {Deallocate, key(func(k *cvm.Key) { k.Expires = testNow.Add(-1) }), "expired"},
		"deallocate, key near end":  {Deallocate, key(func(k *cvm.Key) { k.Expires = testNow.Add(3600e9) }), "expires within"},
		"deallocate, key unread":    {Deallocate, func(w *world) { clear(w.keys) }, "key isn't there"},
		"deallocate, weak policy":   {Deallocate, key(func(k *cvm.Key) { k.Policy.Decoded = "{}" }), "key-policy"},
		"deallocate, rights gone":   {Deallocate, func(w *world) { delete(w.rights, keyURL) }, "lacks"},
		"deallocate, rotating":      {Deallocate, des(func(d *cvm.DES) { d.PreviousKeys = 1 }), "rotation"},
		"deallocate, data set gone": {Deallocate, func(w *world) { delete(w.sets, dataDES) }, "data disks' disk encryption set"},
		"deallocate, data key off": {Deallocate, func(w *world) {
			k := w.keys[dataKey]
			k.Enabled = cvm.False
			w.putKey(k)
		}, "enabled"},
		"deallocate, size gone":  {Deallocate, func(w *world) { w.noSize = true }, "offered"},
		"mark, size gone":        {MarkDeallocation, func(w *world) { w.noSize = true }, "offered"},
		"start, somebody else's": {Start, func(w *world) { w.vm.Tags = nil }, "somebody else"},
		"disk, VM runs":          {EncryptDataDisk, func(w *world) { w.vm.Power = powerRunning }, "deallocated"},
		"disk, attached":         {EncryptDataDisk, func(w *world) { w.diskStates("Attached") }, "deallocated"},
		"disk, tainted":          {EncryptDataDisk, func(w *world) { d := w.disks[data0ID]; d.ADETainted = true; w.disks[data0ID] = d }, "Azure Disk Encryption"},
		"disk, another's":        {EncryptDataDisk, func(w *world) { d := w.disks[data0ID]; d.ManagedBy = "x"; w.disks[data0ID] = d }, "another VM"},
		"disk, shared by now":    {EncryptDataDisk, func(w *world) { d := w.disks[data0ID]; d.Holders = []string{string(vmID), "x"}; w.disks[data0ID] = d }, "another VM"},
		"disk, confidential set": {EncryptDataDisk, func(w *world) { d := w.sets[dataDES]; d.Type = cvm.DESTypeConfidential; w.sets[dataDES] = d }, "server-side"},
		"collect, agent":         {CollectEvidence, func(w *world) { w.vm.AgentReady = cvm.False }, "agent"},
		"collect, Windows":       {CollectEvidence, func(w *world) { w.vm.OS = "Windows" }, "push"},
		"collect, another VM":    {CollectEvidence, func(w *world) { w.vm.UniqueID = "2" }, "another VM"},
		"extension, down":        {InstallAttest, func(w *world) { w.vm.Power = powerDeallocated }, "running"},
		"temp disk, guest state": {EncryptTempDisk, func(w *world) { w.vm.OSDisk.SecurityEncryptionType = cvm.EncryptGuestState; w.vm.OSDisk.SecureDES = "" }, "confidential"},
		"temp disk, data disks":  {EncryptTempDisk, func(w *world) { w.vm.DataDisks = []cvm.DataDiskRef{{ID: data0ID}} }, "data disks"},
		"rotation under way":     {DisableAutoRotation, des(func(d *cvm.DES) { d.PreviousKeys = 1 }), "rotation"},
		"policy immutable":       {ReplacePolicy, key(func(k *cvm.Key) { k.Policy.Immutable = true }), "immutable"},
		"key there, unfit":       {EnsureKey, func(w *world) { w.putKey(cvm.Key{ID: keyV1, Type: "RSA", AttributesRead: true, Enabled: cvm.True}) }, "isn't fit"},
		"key, vault standard": {EnsureKey, func(w *world) {
			v := w.vaults[strings.ToLower(vaultID)]
			v.SKU = "standard"
			w.vaults[strings.ToLower(vaultID)] = v
		}, "Premium"},
		"set there, of another type": {EnsureDES, func(w *world) { w.sets[desID] = w.sets[dataDES] }, "isn't fit"},
		"set, key gone":              {EnsureDES, func(w *world) { clear(w.keys) }, "404"},
		"grant, no identity":         {GrantDES, des(func(d *cvm.DES) { d.PrincipalID = "" }), "identity"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kinds()[c.kind]
			w := newWorld()
			k.set(w)
			c.then(w)
			s := k.step
			s.Kind = c.kind
			p, err := w.applier(document(t, "enforce")).Look(context.Background(), s, testSecrets)
			if err != nil || p.State != Refused || !strings.Contains(p.Err.Error(), c.why) {
				t.Errorf("%s %v, %v; want refused for %q", p.State, p.Err, err, c.why)
			}
		})
	}
}

// plain is an Azure that can't say whether a size is offered.
type plain struct{ Azure }

func TestDeallocationNeedsTheSizeRead(t *testing.T) {
	k := kinds()[Deallocate]
	w := newWorld()
	k.set(w)
	a := w.applier(document(t, "enforce"))
	a.Azure = plain{w}
	s := k.step
	s.Kind = Deallocate
	p, err := a.Look(context.Background(), s, testSecrets)
	if err != nil || p.State != Refused || !strings.Contains(p.Err.Error(), "can't be read whether the size") {
		t.Errorf("%v %v", p, err)
	}
}

func TestRunCommandIsKnownByItsCause(t *testing.T) {
	s := Step{Kind: CollectEvidence, Target: string(vmID)}
	for name, c := range map[string]struct {
		rc   RunCommandView
		want ProgressState
	}{
		"another cause":  {RunCommandView{Parameters: map[string]string{"CAUSE": "chain/1"}, ExecutionState: "Succeeded"}, NotThere},
		"ours, in case":  {RunCommandView{Parameters: map[string]string{"cause": testSecrets.Cause}, ExecutionState: "Succeeded"}, Effected},
		"ours, running":  {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ExecutionState: "Running"}, Underway},
		"ours, pending":  {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ProvisioningState: "Creating"}, Underway},
		"ours, failed":   {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ProvisioningState: "Succeeded", ExecutionState: "Failed", ExitCode: 3, Error: "sig=secret"}, Ended},
		"ours, exit":     {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ExecutionState: "Succeeded", ExitCode: 1}, Ended},
		"ours, time":     {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ExecutionState: "TimedOut"}, Ended},
		"ours, canceled": {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ExecutionState: "Canceled"}, Ended},
		"ours, platform": {RunCommandView{Parameters: map[string]string{"CAUSE": testSecrets.Cause}, ProvisioningState: "Failed", ExecutionState: "Unknown"}, Ended},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.run = &c.rc
			p, err := w.applier(document(t, "enforce")).Look(context.Background(), s, testSecrets)
			if err != nil || p.State != c.want {
				t.Errorf("%v %v, want %s", p, err, c.want)
			}
			if p.Err != nil && strings.Contains(p.Err.Error(), "secret") {
				t.Error("the guest's output is passed on")
			}
		})
	}
}

// spy keeps what was put.
type spy struct {
	*world
	rc  RunCommandSpec
	ext ExtensionSpec
}

func (s *spy) BeginRunCommand(ctx context.Context, id cvm.VMID, location, name string, rc RunCommandSpec) (Progress, error) {
	s.rc = rc
	return s.world.BeginRunCommand(ctx, id, location, name, rc)
}

func (s *spy) BeginExtension(ctx context.Context, id cvm.VMID, location, name string, x ExtensionSpec) (Progress, error) {
	s.ext = x
	return s.world.BeginExtension(ctx, id, location, name, x)
}

func TestRunCommandKeepsSecretsProtected(t *testing.T) {
	w := &spy{world: newWorld()}
	a := w.applier(document(t, "enforce"))
	a.Azure = w
	if _, err := a.Start(context.Background(), Step{Kind: CollectEvidence, Target: string(vmID)}, testSecrets); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"CAUSE": testSecrets.Cause, "VM_ID": testSecrets.VMUniqueID}; !maps.Equal(w.rc.Parameters, want) {
		t.Errorf("readable parameters %v", w.rc.Parameters)
	}
	want := map[string]string{"NONCE": base64.RawURLEncoding.EncodeToString(testSecrets.Nonce), "TOOL_URL": testSecrets.ToolURL, "OUT_URL": testSecrets.OutURL}
	if !maps.Equal(w.rc.Protected, want) || w.rc.TimeoutSeconds != runCommandTimeout || !strings.Contains(w.rc.Script, testSecrets.ToolSHA) {
		t.Errorf("put %+v", w.rc)
	}
	a.Script = nil
	p, err := a.Start(context.Background(), Step{Kind: CollectEvidence, Target: string(vmID)}, testSecrets)
	if err != nil || p.State != Ended || !fault.Is(p.Err, fault.Bug) {
		t.Errorf("without a script: %v %v", p, err)
	}
}

func TestTempDiskExtensionNamesTheVault(t *testing.T) {
	w := &spy{world: newWorld()}
	k := kinds()[EncryptTempDisk]
	k.set(w.world)
	a := w.applier(document(t, "enforce"))
	a.Azure = w
	s := k.step
	s.Kind = EncryptTempDisk
	if _, err := a.Start(context.Background(), s, testSecrets); err != nil {
		t.Fatal(err)
	}
	if w.ext.Type != "AzureDiskEncryptionForLinux" || w.ext.Version != "1.4" || w.ext.AutoUpgrade ||
		w.ext.Settings["KeyVaultURL"] != "https://kv1.vault.azure.net/" || w.ext.Settings["KeyVaultResourceId"] != vaultID {
		t.Errorf("%+v", w.ext)
	}
}

func TestErrorsThatDoNotPassEndTheAct(t *testing.T) {
	ctx := context.Background()
	s := Step{Kind: Start, Target: string(vmID)}
	for kind, ends := range map[fault.Kind]bool{fault.Blocked: true, fault.Denied: true, fault.Invalid: true,
		fault.Conflict: false, fault.Throttled: false, fault.Transient: false} {
		w := newWorld()
		kinds()[Start].set(w)
		w.refuse["start"] = fault.New(kind, "starting", string(vmID), "AllocationFailed")
		p, err := w.applier(document(t, "enforce")).Start(ctx, s, testSecrets)
		if ends && (err != nil || p.State != Ended || !fault.Is(p.Err, kind)) || !ends && !fault.Is(err, kind) {
			t.Errorf("%s: %v %v", kind, p, err)
		}
	}
	w := newWorld()
	kinds()[Start].set(w)
	w.endBadly["start"] = fault.New(fault.Blocked, "starting", string(vmID), "AllocationFailed")
	if p := drive(t, w, w.applier(document(t, "enforce")), s, false); p.State != Ended || !fault.Is(p.Err, fault.Blocked) {
		t.Errorf("a failed operation: %v", p)
	}
}

// Rights that were granted take their time to be seen: they aren't granted again.
func TestGrantsAreNotRepeatedWhileTheyLag(t *testing.T) {
	w := newWorld()
	k := kinds()[GrantDES]
	k.set(w)
	w.lag = 12
	s := k.step
	s.Kind = GrantDES
	if p := drive(t, w, w.applier(document(t, "enforce")), s, false); p.State != Effected || w.writes["grant des"] != 1 {
		t.Errorf("%v, writes %v", p, w.writes)
	}
}

func TestAdviceIsNotApplied(t *testing.T) {
	a := newWorld().applier(document(t, "enforce"))
	for _, kind := range []Kind{Recreate, RotateKey, RepairShared, AskPerson, "no-such"} {
		if _, err := a.Look(context.Background(), Step{Kind: kind}, testSecrets); !fault.Is(err, fault.Bug) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestTagsOfOthersStay(t *testing.T) {
	w := newWorld()
	w.vm.Tags = map[string]string{"owner": "me", "CVMGUARD-VERDICT": "unknown"}
	s := Step{Kind: Tag, Target: string(vmID), Args: map[string]string{argTag: TagVerdict, argValue: "compliant"}}
	drive(t, w, w.applier(document(t, "enforce")), s, false)
	if want := map[string]string{"owner": "me", TagVerdict: "compliant"}; !maps.Equal(w.vm.Tags, want) {
		t.Errorf("tags %v", w.vm.Tags)
	}
}
