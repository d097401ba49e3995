package remedy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

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
		pick := func(name string) bool { return rapid.IntRange(0, 7).Draw(t, name) == 7 } // rapid favours small numbers
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
