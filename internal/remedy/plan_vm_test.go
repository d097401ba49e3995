package remedy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

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

// shareData0 lets another VM have the first data disk too.
func shareData0(w *world) {
	d := w.disks[data0ID]
	d.MaxShares, d.Holders = 2, []string{string(vmID), sub + "Microsoft.Compute/virtualMachines/vm2"}
	w.disks[data0ID] = d
}

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
		"data disks": {func(*world) {}, nil, nil, []string{"mark-deallocation planned", "deallocate planned", "mark-deallocated planned",
			"encrypt-data-disk planned", "encrypt-data-disk planned", "start planned", "clear-deallocation-mark planned", "tag planned"}},
		"data disks, whether a reseal is due isn't known": {func(*world) {}, due, nil, []string{"collect-evidence planned", "mark-deallocation blocked", "deallocate blocked", "mark-deallocated blocked",
			"encrypt-data-disk blocked", "encrypt-data-disk blocked", "start blocked", "clear-deallocation-mark blocked", "tag planned"}},
		"data disks, a reseal is due": {func(*world) {}, func(p *cvm.Posture) { p.Claims.Value.Unsealed = []string{"dbx"} }, nil,
			[]string{"mark-deallocation blocked", "deallocate blocked", "mark-deallocated blocked", "encrypt-data-disk blocked", "encrypt-data-disk blocked", "start blocked",
				"clear-deallocation-mark blocked", "tag planned", "ask-person advised"}},
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
		"one is shared": {shareData0, nil, nil, []string{"mark-deallocation blocked", "deallocate blocked", "mark-deallocated blocked",
			"encrypt-data-disk blocked", "encrypt-data-disk blocked", "start blocked", "clear-deallocation-mark blocked", "tag planned"}},
		"one is shared, somebody else's deallocation": {func(w *world) { shareData0(w); w.vm.Power = powerDeallocated }, nil, nil,
			[]string{"encrypt-data-disk blocked", "encrypt-data-disk planned", "tag planned"}},
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
		}, nil, nil, []string{"tag blocked", "repair-shared advised"}},
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
