package remedy

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

func planOf(w *world, d *policy.Document, edits ...func(*cvm.Posture)) Plan {
	p := w.posture()
	for _, e := range edits {
		e(&p)
	}
	return ForVM(p, policy.Judge(p, d, testNow), d)
}

// lines shows a plan as "kind state" lines.
func lines(p Plan) []string {
	out := []string{}
	for _, s := range p.Steps {
		out = append(out, string(s.Kind)+" "+string(s.State))
	}
	return out
}

func due(p *cvm.Posture) {
	p.EvidenceDue = true
	p.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "")
}

func noDataDisks(w *world) { w.vm.DataDisks = nil }

func TestForVM(t *testing.T) {
	ordinary := func(w *world) {
		noDataDisks(w)
		w.vm.SecurityType, w.vm.SecureBoot, w.vm.VTPM, w.vm.Size = "", "", "", "Standard_D4ds_v5"
		w.vm.OSDisk.SecurityEncryptionType, w.vm.OSDisk.SecureDES = "", ""
		w.vm.Image = cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-server-jammy", SKU: "22_04-lts-gen2"}
		d := w.disks[osID]
		d.SecurityType, d.HasSecurityProfile, d.SecureDES = "", false, ""
		w.disks[osID] = d
	}
	ordinaryPosture := func(p *cvm.Posture) {
		p.DES, p.Key, p.Vault, p.Rights = cvm.Fact[cvm.DES]{}, cvm.Fact[cvm.Key]{}, cvm.Fact[cvm.Vault]{}, cvm.Fact[cvm.Rights]{}
	}
	for name, c := range map[string]struct {
		world   func(*world)
		posture func(*cvm.Posture)
		policy  []string
		want    []string
	}{
		"good":                               {noDataDisks, nil, nil, []string{"tag planned"}},
		"good and tagged":                    {func(w *world) { noDataDisks(w); w.vm.Tags = map[string]string{"Cvmguard-Verdict": "compliant"} }, nil, nil, []string{}},
		"evidence due":                       {noDataDisks, due, nil, []string{"collect-evidence planned", "tag planned"}},
		"evidence due, observing's document": {noDataDisks, due, []string{"collectEvidence: true", "collectEvidence: false"}, []string{"collect-evidence advised", "tag planned"}},
		"evidence not asked":                 {noDataDisks, due, []string{"rules:", "attestation: {asked: false}\nrules:"}, []string{"tag planned"}},
		"evidence due, agent down":           {func(w *world) { noDataDisks(w); w.vm.AgentReady = cvm.False }, due, nil, []string{"collect-evidence blocked", "tag planned", "ask-person advised"}},
		"evidence due, in transition":        {func(w *world) { noDataDisks(w); w.vm.ProvisioningState = "Updating" }, due, nil, []string{"collect-evidence blocked", "tag blocked"}},
		"no extension":                       {func(w *world) { noDataDisks(w); w.vm.Extensions = nil }, nil, nil, []string{"install-guest-attestation planned", "tag planned"}},
		"no extension, audited": {func(w *world) { noDataDisks(w); w.vm.Extensions = nil }, nil, []string{"rules:", "rules:\n  guest-attestation-extension: audit"},
			[]string{"install-guest-attestation advised", "tag planned"}},
		"temp disk": {func(w *world) { noDataDisks(w); w.vm.Size = "Standard_DC4ads_v5" }, nil, nil, []string{"encrypt-temp-disk planned", "tag planned"}},
		"temp disk, data disks too": {func(w *world) { w.vm.Size = "Standard_DC4ads_v5"; w.vm.DataDisks = w.vm.DataDisks[:1] }, nil,
			[]string{"deallocateForDataDisks: true", "deallocateForDataDisks: false"},
			[]string{"encrypt-temp-disk blocked", "deallocate advised", "encrypt-data-disk advised", "start advised", "tag planned"}},
		"data disks": {func(*world) {}, due, nil, []string{"collect-evidence planned", "mark-deallocation planned", "deallocate planned", "mark-deallocated planned",
			"encrypt-data-disk planned", "encrypt-data-disk planned", "start planned", "clear-deallocation-mark planned", "tag planned"}},
		"data disks, rights unread": {func(*world) {}, func(p *cvm.Posture) { p.Rights = cvm.NotRead[cvm.Rights]("not-asked", "", "") }, nil,
			[]string{"mark-deallocation blocked", "deallocate blocked", "mark-deallocated blocked",
				"encrypt-data-disk blocked", "encrypt-data-disk blocked", "start blocked", "clear-deallocation-mark blocked", "tag planned"}},
		"data disks, in place only": {func(*world) {}, nil, []string{"allow: needs-deallocation", "allow: in-place"},
			[]string{"deallocate advised", "encrypt-data-disk advised", "encrypt-data-disk advised", "start advised", "tag planned"}},
		"data disks, no set named": {func(*world) {}, nil, []string{"    dataDES: " + string(dataDES) + "\n", ""},
			[]string{"mark-deallocation blocked", "deallocate blocked", "mark-deallocated blocked",
				"encrypt-data-disk blocked", "encrypt-data-disk blocked", "start blocked", "clear-deallocation-mark blocked", "tag planned"}},
		"data disks, marked": {func(w *world) { w.vm.Tags[TagDeallocated] = MarkPending }, nil, nil, []string{"deallocate planned", "mark-deallocated planned",
			"encrypt-data-disk planned", "encrypt-data-disk planned", "start planned", "clear-deallocation-mark planned", "tag planned"}},
		"taken down": {func(w *world) { w.vm.Tags[TagDeallocated], w.vm.Power = MarkPending, powerDeallocated }, nil, nil, []string{"mark-deallocated planned",
			"encrypt-data-disk planned", "encrypt-data-disk planned", "start planned", "clear-deallocation-mark planned", "tag planned"}},
		"taken down, policy changed": {func(w *world) { w.vm.Tags[TagDeallocated], w.vm.Power = MarkIsDown, powerDeallocated }, nil,
			[]string{"deallocateForDataDisks: true", "deallocateForDataDisks: false"},
			[]string{"encrypt-data-disk advised", "encrypt-data-disk advised", "start planned", "clear-deallocation-mark planned", "tag planned"}},
		"came back undone": {func(w *world) { w.vm.Tags[TagDeallocated] = MarkIsDown }, nil, nil,
			[]string{"encrypt-data-disk blocked", "encrypt-data-disk blocked", "tag planned"}},
		"came back done": {func(w *world) { noDataDisks(w); w.vm.Tags[TagDeallocated] = MarkIsDown }, nil, nil,
			[]string{"clear-deallocation-mark planned", "tag planned"}},
		"somebody else's deallocation": {func(w *world) { w.vm.Power = powerDeallocated }, nil, nil,
			[]string{"encrypt-data-disk planned", "encrypt-data-disk planned", "tag planned"}},
		"stopped half-way": {func(w *world) { w.vm.Tags[TagDeallocated], w.vm.Power = MarkPending, "stopped" }, nil, nil,
			[]string{"start planned", "clear-deallocation-mark planned", "tag planned"}},
		"tainted disk": {func(w *world) {
			w.vm.DataDisks = w.vm.DataDisks[:1]
			d := w.disks[data0ID]
			d.ADETainted = true
			w.disks[data0ID] = d
		}, nil, nil, []string{"tag planned", "recreate advised"}},
		"ordinary":             {ordinary, ordinaryPosture, nil, []string{"tag planned", "recreate advised"}},
		"ordinary, not wanted": {ordinary, ordinaryPosture, []string{"rules:", "want: {include: [{size: \"Standard_DC*\"}]}\nrules:"}, []string{}},
		"ordinary, not wanted any more": {func(w *world) { ordinary(w); w.vm.Tags[TagVerdict] = "non-compliant" }, ordinaryPosture,
			[]string{"rules:", "want: {include: [{size: \"Standard_DC*\"}]}\nrules:"}, []string{"tag planned"}},
		"quarantine":  {ordinary, ordinaryPosture, []string{"rules:", "rules:\n  vm-kind: quarantine"}, []string{"quarantine planned", "tag planned", "recreate advised"}},
		"quarantined": {func(w *world) { noDataDisks(w); w.vm.Tags["cvmguard-quarantine"] = "vm-kind" }, nil, nil, []string{"ask-person advised", "tag planned"}},
		"key expired": {func(w *world) { k := w.keys[keyV1]; k.Expires = testNow; w.putKey(k) }, nil, nil,
			[]string{"mark-deallocation blocked", "deallocate blocked", "mark-deallocated blocked", "encrypt-data-disk blocked", "encrypt-data-disk blocked",
				"start blocked", "clear-deallocation-mark blocked", "tag planned", "rotate-key advised"}},
		"weak policy": {func(w *world) {
			noDataDisks(w)
			k := w.keys[keyV1]
			k.Policy.Decoded = strings.Replace(k.Policy.Decoded, "azure-compliant-cvm", "x", 1)
			w.putKey(k)
		}, nil, nil, []string{"tag planned", "repair-shared advised"}},
		"key unread": {noDataDisks, func(p *cvm.Posture) {
			p.Key = cvm.NotRead[cvm.Key]("key-unreadable", "Microsoft.KeyVault/vaults/keys/read", "403")
		}, nil, []string{"tag planned", "ask-person advised"}},
		"key disabled": {func(w *world) { noDataDisks(w); k := w.keys[keyV1]; k.Enabled = cvm.False; w.putKey(k) }, nil, nil,
			[]string{"tag planned", "ask-person advised"}},
		"gone": {noDataDisks, func(p *cvm.Posture) { p.Gone = true }, nil, []string{}},
		"VM unread": {noDataDisks, func(p *cvm.Posture) {
			p.VM = cvm.NotRead[cvm.VM]("vm-unreadable", "Microsoft.Compute/virtualMachines/read", "403")
		}, nil,
			[]string{"ask-person advised"}},
		"too many tags": {func(w *world) {
			noDataDisks(w)
			for i := range 50 {
				w.vm.Tags[string(rune('a'+i%26))+string(rune('a'+i/26))] = ""
			}
		}, nil, nil, []string{"tag blocked"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.world(w)
			edit := c.posture
			if edit == nil {
				edit = func(*cvm.Posture) {}
			}
			d := document(t, "enforce", c.policy...)
			got := planOf(w, d, edit)
			if !slices.Equal(lines(got), c.want) {
				t.Errorf("got  %q\nwant %q", lines(got), c.want)
				for _, s := range got.Steps {
					t.Logf("%s %s: %s (%v) %s", s.Kind, s.State, s.Why, s.Reasons, s.Does)
				}
			}
			checkPlan(t, w, got, d, edit)
		})
	}
}

// checkPlan is what holds of every plan.
func checkPlan(t interface {
	Helper()
	Errorf(string, ...any)
	Fatal(...any)
}, w *world, got Plan, d *policy.Document, edit func(*cvm.Posture)) {
	t.Helper()
	encode := func(p Plan) []byte {
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if again := planOf(w, d, edit); !bytes.Equal(encode(got), encode(again)) {
		t.Errorf("two plans of equal inputs differ:\n%s\n%s", encode(got), encode(again))
	}
	other := planOf(w, d.WithMode("observe"), edit)
	if other.Mode != "observe" || got.Mode != "enforce" {
		t.Errorf("modes %q and %q", other.Mode, got.Mode)
	}
	other.Mode = got.Mode
	if !bytes.Equal(encode(got), encode(other)) {
		t.Errorf("the plan depends on the mode:\n%s\n%s", encode(got), encode(other))
	}
	p := w.posture()
	edit(&p)
	v := policy.Judge(p, d, testNow)
	answered := map[string]bool{}
	for _, s := range got.Steps {
		for _, r := range s.Reasons {
			answered[r] = true
		}
		if s.Kind == "" || s.Class == "" || s.State == "" || s.Target == "" || s.Does == "" || s.Disturbs == "" {
			t.Errorf("a step lacks something: %+v", s)
		}
		if (s.State == Blocked || s.State == Advised) && s.Why == "" {
			t.Errorf("%s is %s without a why", s.Kind, s.State)
		}
		if s.State != Planned && s.State != Blocked && s.State != Advised {
			t.Errorf("%s is %s", s.Kind, s.State)
		}
		if s.State == Planned && rank(s.Class) > rank(d.Remedy.Allow) && s.Kind != Start {
			t.Errorf("%s is planned above the class that policy allows", s.Kind)
		}
	}
	if v.Value == policy.NotACVM {
		return
	}
	for _, f := range v.Findings {
		if f.State == cvm.Fail && !answered[f.Reason] {
			t.Errorf("nothing answers %s (%s)", f.Rule, f.Reason)
		}
	}
}

// safe says by the facts alone whether a VM under a customer key may be taken down.
func safe(p cvm.Posture, d *policy.Document) bool {
	k, r := p.Key.Value, p.Rights.Value
	good := cvm.JudgeReleasePolicy(k.Policy, cvm.PolicyQuestion{Region: p.VM.Value.Location, TEE: cvm.TEEOfSize(p.VM.Value.Size)})
	good = slices.DeleteFunc(good, func(f cvm.PolicyFault) bool { return f.State == cvm.Pass })
	return p.VM.Known && p.Key.Known && p.DES.Known && p.Vault.Known && p.Rights.Known &&
		k.AttributesRead && k.Enabled == cvm.True && (k.Expires.IsZero() || k.Expires.After(testNow.Add(expiryMargin-1))) && !k.NotBefore.After(testNow) &&
		len(good) == 0 && len(missing(r.DESIdentity, desOps)) == 0 && r.OrchestratorKnown && len(missing(r.Orchestrator, orchestratorOps(r.Model))) == 0 &&
		!p.VM.Value.OSDisk.Ephemeral && p.VM.Value.Power == powerRunning && d.Orchestrator() != "" &&
		p.DES.Value.PreviousKeys == 0 && p.DES.Value.ProvisioningState == "Succeeded"
}

func TestNoDeallocationInDoubt(t *testing.T) {
	d := document(t, "enforce")
	noOrchestrator := document(t, "enforce", "orchestratorObjectId: "+orcheID+"\n", "")
	lax := document(t, "enforce", "rules:", "rules:\n  key-expiry: off\n  key-enabled: off\n  key-release-policy: off\n  rights-des: off\n  rights-orchestrator: off\n  key-available: off\n  des-rotation: off\n  des-state: off")
	planned := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		pick := func(name string) bool { return rapid.IntRange(0, 5).Draw(t, name) == 0 }
		k := w.keys[keyV1]
		if pick("enabled") {
			k.Enabled = rapid.SampledFrom([]cvm.Tri{cvm.False, cvm.Unread}).Draw(t, "enabled as")
		}
		if pick("expires") {
			k.Expires = testNow.Add(time.Duration(rapid.IntRange(-48, 72).Draw(t, "hours")) * time.Hour)
		}
		if pick("nbf") {
			k.NotBefore = testNow.Add(time.Hour)
		}
		if pick("policy") {
			k.Policy.Decoded = rapid.SampledFrom([]string{"", "{}", strings.ReplaceAll(k.Policy.Decoded, "azure-compliant-cvm", "x"),
				cvm.DraftReleasePolicy("https://sharedweu.weu.attest.azure.net")}).Draw(t, "policy as")
		}
		k.AttributesRead = !pick("attributes")
		w.putKey(k)
		r := w.rights[keyURL]
		if pick("des rights") {
			r.DESIdentity = rapid.SampledFrom([][]string{nil, {"get"}, {"all"}, {"get", "wrapkey"}}).Draw(t, "des rights as")
		}
		if pick("orchestrator") {
			r.Orchestrator = rapid.SampledFrom([][]string{nil, {"get"}, {"all"}}).Draw(t, "orchestrator as")
		}
		r.OrchestratorKnown = !pick("orchestrator known")
		if pick("model") {
			r.Model = "access-policies"
		}
		w.rights[keyURL] = r
		s := w.sets[desID]
		if pick("rotating") {
			s.PreviousKeys = 1
		}
		if pick("set") {
			s.ProvisioningState = "Failed"
		}
		w.sets[desID] = s
		w.vm.OSDisk.Ephemeral = pick("ephemeral")
		if pick("power") {
			w.vm.Power = rapid.SampledFrom([]string{"", "stopped", "deallocating", powerDeallocated}).Draw(t, "power as")
		}
		if pick("mark") {
			w.vm.Tags[TagDeallocated] = rapid.SampledFrom([]string{MarkPending, MarkIsDown, "?"}).Draw(t, "mark as")
		}
		unread := rapid.SampledFrom([]string{"", "", "", "", "key", "des", "vault", "rights", "os"}).Draw(t, "unread")
		edit := func(p *cvm.Posture) {
			switch unread {
			case "key":
				p.Key = cvm.NotRead[cvm.Key]("key-unreadable", "a", "")
			case "des":
				p.DES = cvm.NotRead[cvm.DES]("des-unreadable", "a", "")
			case "vault":
				p.Vault = cvm.NotRead[cvm.Vault]("vault-unreadable", "a", "")
			case "rights":
				p.Rights = cvm.NotRead[cvm.Rights]("not-asked", "", "")
			case "os":
				p.OSDisk = cvm.NotRead[cvm.Disk]("disk-unreadable", "a", "")
			}
		}
		doc := rapid.SampledFrom([]*policy.Document{d, d, noOrchestrator, lax}).Draw(t, "document")
		plan := planOf(w, doc, edit)
		checkPlan(t, w, plan, doc, edit)
		p := w.posture()
		edit(&p)
		for _, step := range plan.Steps {
			if step.Kind == Deallocate && step.State == Planned {
				planned++
				if !safe(p, doc) {
					t.Errorf("deallocates in doubt: %+v", step)
				}
			}
		}
	})
	if planned == 0 {
		t.Error("nothing was ever planned: the test tests nothing")
	}
}

func TestWantsRights(t *testing.T) {
	d := document(t, "enforce")
	unread := func(p *cvm.Posture) { p.Rights = cvm.NotRead[cvm.Rights]("not-asked", "", "") }
	for name, c := range map[string]struct {
		edit func(*world)
		want bool
	}{
		"data disks":          {func(*world) {}, true},
		"nothing to do":       {noDataDisks, false},
		"another doubt":       {func(w *world) { w.vm.OSDisk.Ephemeral = true }, false},
		"key would not do it": {func(w *world) { k := w.keys[keyV1]; k.Enabled = cvm.False; w.putKey(k) }, false},
	} {
		w := newWorld()
		c.edit(w)
		p := w.posture()
		if WantsRights(p, policy.Judge(p, d, testNow), d) {
			t.Errorf("%s: wants rights that are known", name)
		}
		unread(&p)
		if got := WantsRights(p, policy.Judge(p, d, testNow), d); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// The commands of advice are words for a shell, whatever names Azure holds.
func TestCommandsParse(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no shell to parse them")
	}
	d := document(t, "enforce", "allow: needs-deallocation", "allow: in-place")
	w := newWorld()
	w.vm.SecurityType, w.vm.Size = "", "Standard_D4ds_v5"
	w.vm.OSDisk.SecurityEncryptionType, w.vm.OSDisk.SecureDES = "", ""
	w.vm.Tags["cvmguard-quarantine"] = `it's "$(mine)"`
	w.vm.Image = cvm.Image{Publisher: "x'; rm -rf /;'", Offer: "o\nrm", SKU: "`s`"}
	var all []string
	for _, s := range planOf(w, d).Steps {
		all = append(all, s.Commands...)
	}
	w = newWorld()
	k := w.keys[keyV1]
	k.Expires, k.Enabled, k.Ops = testNow, cvm.False, nil
	w.putKey(k)
	for _, s := range planOf(w, d).Steps {
		all = append(all, append(s.Commands, s.Undo)...)
	}
	for _, c := range all {
		if strings.ContainsAny(c, "\n\r") {
			t.Errorf("a command of several lines: %q", c)
		}
	}
	cmd := exec.Command(sh, "-n")
	cmd.Stdin = strings.NewReader(strings.Join(all, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, strings.Join(all, "\n"))
	}
}

func TestRecreateCommands(t *testing.T) {
	w := newWorld()
	w.vm.DataDisks = w.vm.DataDisks[:1]
	w.vm.SecurityType, w.vm.Size = "TrustedLaunch", "Standard_E6ds_v5"
	w.vm.OSDisk.SecurityEncryptionType, w.vm.OSDisk.SecureDES = "", ""
	w.vm.Image = cvm.Image{Publisher: "Canonical", Offer: "ubuntu-24_04-lts", SKU: "server"}
	got := strings.Join(recreateCommands(w.posture(), document(t, "enforce")), "\n")
	for _, want := range []string{
		"az keyvault key create --vault-name kv1 --name cvm-os-key --kty RSA-HSM --size 3072 --exportable true --default-cvm-policy --ops wrapKey unwrapKey",
		"--encryption-type ConfidentialVmEncryptedWithCustomerKey",
		"az snapshot create",
		"az vm create --subscription 00000000-0000-0000-0000-000000000001 --resource-group rg --name vm1-cvm --location northeurope --size Standard_EC8ads_v5 --zone 1 --security-type ConfidentialVM --enable-vtpm true --enable-secure-boot true --os-disk-security-encryption-type DiskWithVMGuestState",
		"--image Canonical:ubuntu-24_04-lts:cvm:latest --os-disk-secure-vm-disk-encryption-set " + string(desID),
		"az vm disk attach",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q in\n%s", want, got)
		}
	}
}

func TestSizeAndImage(t *testing.T) {
	for size, want := range map[string]string{
		"Standard_DC4as_v5": "Standard_DC4as_v5", "Standard_EC8eds_v6": "Standard_EC8eds_v6", "Standard_D4s_v5": "Standard_DC4as_v5",
		"Standard_E6ds_v5": "Standard_EC8ads_v5", "Standard_B1s": "Standard_DC2as_v5", "Standard_M416s_v2": "Standard_EC96as_v5",
		"Standard_DC8as_cc_v5": "Standard_DC8as_v5", "Standard_DC4s_v3": "Standard_DC4as_v5", "": "Standard_DC4as_v5",
	} {
		if got, _ := sizeFor(size); got != want {
			t.Errorf("%s: %s, want %s", size, got, want)
		}
	}
	for _, c := range []struct {
		img  cvm.Image
		size string
		want string
	}{
		{cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-server-focal", SKU: "20_04-lts"}, "Standard_D2s_v5", "Canonical:0001-com-ubuntu-confidential-vm-focal:20_04-lts-cvm:latest"},
		{cvm.Image{Publisher: "canonical", Offer: "0001-com-ubuntu-confidential-vm-focal", SKU: "20_04-lts-cvm"}, "Standard_DC2es_v6", ""},
		{cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-server-jammy", SKU: "22_04-lts"}, "Standard_DC2es_v6", "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm:latest"},
		{cvm.Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-pro-jammy", SKU: "pro-22_04-lts"}, "Standard_D2s_v5", ""},
		{cvm.Image{Publisher: "Canonical", Offer: "UbuntuServer", SKU: "18.04-LTS"}, "Standard_D2s_v5", ""},
		{cvm.Image{Publisher: "MicrosoftWindowsServer", Offer: "WindowsServer", SKU: "2022-datacenter"}, "Standard_D2s_v5", "MicrosoftWindowsServer:windowsserver:2022-datacenter-smalldisk-g2:latest"},
		{cvm.Image{ID: "/g/image"}, "Standard_D2s_v5", ""},
		{cvm.Image{}, "Standard_D2s_v5", ""},
	} {
		got, note := imageFor(cvm.VM{Image: c.img, Size: c.size})
		if got != c.want || (got == "") != (note != "") {
			t.Errorf("%+v: %q %q, want %q", c.img, got, note, c.want)
		}
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", "it's", "$(x)", "a b", "`", "\\", "'\\''"} {
		f.Add(s)
	}
	sh, err := exec.LookPath("sh")
	f.Fuzz(func(t *testing.T, s string) {
		if err != nil || strings.ContainsRune(s, 0) {
			return
		}
		out, err := exec.Command(sh, "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("%q became %q (%v)", s, out, err)
		}
	})
}
