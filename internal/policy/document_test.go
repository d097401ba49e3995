package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func mustParse(t testing.TB, text string) *Document {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return d
}

const head = "schemaVersion: 1\nname: test\n"

func TestEmbedded(t *testing.T) {
	d := Embedded()
	sum := sha256.Sum256(d.Source)
	if d.Hash != hex.EncodeToString(sum[:]) || d.Mode() != ModeObserve || d != Embedded() {
		t.Errorf("hash %s, mode %s", d.Hash, d.Mode())
	}
	other := map[string]Effect{"disk-export": EffectOff, "encryption-at-host": EffectOff, "key-policy-immutable": EffectOff, "temp-disk-confidential": EffectOff}
	for _, r := range Rules() {
		want := EffectEnforce
		if e, ok := other[r.ID]; ok {
			want = e
		} else if r.Default == EffectAudit { // rules on what isn't ours to change
			want = EffectAudit
		}
		if d.Effect(r.ID) != want || r.Default != want || !strings.Contains(string(d.Source), "\n  "+r.ID+": ") {
			t.Errorf("rule %s: effect %q, default %q", r.ID, d.Effect(r.ID), r.Default)
		}
	}
	if d.Rules["key-size"].MinBits != 2048 || d.Rules["key-expiry"].Required || d.Rules["key-expiry"].Near != 30*24*time.Hour ||
		d.AttestationMaxAge() != 24*time.Hour || !d.AttestationAsked() || d.Brakes.MaxSendsPerStepPerDay != 8 {
		t.Errorf("%+v", d)
	}
	want := Remedy{Allow: InPlace, CollectEvidence: true, InstallGuestAttestation: true, Tag: true, QuarantineTag: "cvmguard-quarantine",
		DisableAutoRotation: true, EnsureRegionKey: true, EnsureRegionDES: true}
	if d.Remedy != want || !d.Want.Wants(cvm.VM{}) {
		t.Errorf("%+v", d.Remedy)
	}
	// What the document spells out are the defaults.
	bare := mustParse(t, head)
	if fmt.Sprint(bare.Rules, bare.Remedy, bare.Attestation, bare.Brakes, bare.Mode()) != fmt.Sprint(d.Rules, d.Remedy, d.Attestation, d.Brakes, d.Mode()) {
		t.Error("a bare document isn't the embedded one")
	}
}

func TestSchemaNamesEveryRule(t *testing.T) {
	var s struct {
		Properties struct {
			Rules struct {
				Properties map[string]json.RawMessage `json:"properties"`
			} `json:"rules"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(s.Properties.Rules.Properties)), slices.Sorted(slices.Values(ruleIDs())); !slices.Equal(got, want) {
		t.Errorf("the schema has %v\nthe table     %v", got, want)
	}
}

func TestParseWhole(t *testing.T) {
	arm := "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/"
	d := mustParse(t, head+`
mode: enforce
want:
  include:
    - {tag: {env: "prod*"}, size: "Standard_DC*"}
    - name: "cvm-?"
  exclude:
    - resourceGroup: sandbox
rules:
  secure-boot: off
  key-size: {effect: audit, minBits: 3072}
  key-expiry: {required: true, near: 2d}
  vm-kind: quarantine
remedy: {allow: needs-deallocation, grantRights: true, tag: false, quarantineTag: stop}
regions:
  northeurope:
    vault: `+arm+`Microsoft.KeyVault/managedHSMs/hsm1
    key: k1
    des: `+arm+`Microsoft.Compute/diskEncryptionSets/d1
    dataDES: `+arm+`Microsoft.Compute/diskEncryptionSets/d2
orchestratorObjectId: 00000000-0000-0000-0000-00000000000A
authorities: ["https://mine.weu.attest.azure.net/"]
attestation: {asked: false, maxAge: 90m}
brakes: {maxSendsPerStepPerDay: 3}
`)
	r, ok := d.Region("North Europe")
	if d.Mode() != ModeEnforce || !ok || r.KeyBits != 3072 || r.Key != "k1" || r.DES.Name() != "d1" || r.DataDES.Name() != "d2" || !d.HasRegion("northeurope") || d.HasRegion("westeurope") ||
		d.Effect("secure-boot") != EffectOff || d.Effect("vm-kind") != EffectQuarantine || d.Effect("vtpm") != EffectEnforce || d.Effect("nope") != EffectOff ||
		d.Rules["key-size"].MinBits != 3072 || d.Effect("key-size") != EffectAudit || d.Effect("key-expiry") != EffectEnforce || !d.Rules["key-expiry"].Required || d.Rules["key-expiry"].Near != 48*time.Hour ||
		d.Remedy.Allow != NeedsDeallocation || !d.Remedy.GrantRights || d.Remedy.Tag || d.Remedy.QuarantineTag != "stop" || d.Orchestrator() != "00000000-0000-0000-0000-00000000000a" ||
		len(d.Authorities) != 1 || d.AttestationAsked() || d.AttestationMaxAge() != 90*time.Minute || d.Brakes.MaxSendsPerStepPerDay != 3 {
		t.Errorf("%+v", d)
	}
	id := cvm.VMID(arm + "Microsoft.Compute/virtualMachines/x")
	for i, c := range []struct {
		vm   cvm.VM
		want bool
	}{
		{cvm.VM{ID: id, Name: "CVM-1"}, true}, {cvm.VM{ID: id, Name: "cvm-10"}, false},
		{cvm.VM{ID: id, Name: "x", Size: "standard_dc4as_v5", Tags: map[string]string{"ENV": "Production"}}, true},
		{cvm.VM{ID: id, Name: "x", Size: "standard_d4as_v5", Tags: map[string]string{"ENV": "Production"}}, false},
		{cvm.VM{ID: id, Name: "x", Size: "standard_dc4as_v5"}, false},
		{cvm.VM{ID: cvm.VMID(strings.Replace(string(id), "/rg/", "/SandBox/", 1)), Name: "cvm-1"}, false},
	} {
		if got := d.Want.Wants(c.vm); got != c.want {
			t.Errorf("%d: wanted %v, want %v", i, got, c.want)
		}
	}
	img := Want{Include: []Selector{{Image: "canonical:*:*cvm"}, {Image: "*/galleries/g/*"}}}
	if !img.Wants(cvm.VM{Image: cvm.Image{Publisher: "Canonical", Offer: "ubuntu-24_04-lts", SKU: "cvm"}}) || !img.Wants(cvm.VM{Image: cvm.Image{ID: "/x/Galleries/G/images/i"}}) || img.Wants(cvm.VM{}) {
		t.Error("images")
	}
}

// Whether policy wants a VM is told with the selector that says so.
func TestWantSaysWhy(t *testing.T) {
	w := Want{Include: []Selector{{Name: "cvm-*"}, {Size: "Standard_DC*as_v5", Tags: map[string]string{"env": "prod*", "a": "b"}}, {Image: "canonical:*:*"}},
		Exclude: []Selector{{ResourceGroup: "sandbox"}}}
	rg := func(group string) cvm.VMID {
		return cvm.VMID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/" + group + "/providers/Microsoft.Compute/virtualMachines/x")
	}
	for _, c := range []struct {
		w      Want
		vm     cvm.VM
		wanted bool
		why    string
	}{
		{w, cvm.VM{ID: rg("rg"), Name: "cvm-1"}, true, "want.include[0] (name cvm-*) takes it"},
		{w, cvm.VM{ID: rg("rg"), Name: "x", Size: "Standard_DC8as_v5", Tags: map[string]string{"A": "b", "Env": "production"}}, true, "want.include[1] (size Standard_DC*as_v5, tag a=b, tag env=prod*) takes it"},
		{w, cvm.VM{ID: rg("rg"), Name: "x", Size: "Standard_DC8ads_v5", Tags: map[string]string{"a": "b", "env": "prod"}}, false, "no selector of want.include takes it"},
		{w, cvm.VM{ID: rg("rg"), Name: "x", Image: cvm.Image{Publisher: "Canonical", Offer: "o", SKU: "s"}}, true, "want.include[2] (image canonical:*:*) takes it"},
		{w, cvm.VM{ID: rg("SandBox"), Name: "cvm-1"}, false, "want.exclude[0] (resourceGroup sandbox) takes it out"},
		{Want{}, cvm.VM{}, true, "want has no include, so every VM that exclude leaves is wanted"},
	} {
		if wanted, why := c.w.Why(c.vm); wanted != c.wanted || why != c.why {
			t.Errorf("%+v: %t, %s", c.vm, wanted, why)
		}
	}
	// The verdict says it, and an image may be known by the OS disk alone.
	doc := mustParse(t, head+"want: {include: [{image: \"canonical:*:22_04-lts-cvm\"}, {name: other}]}")
	p := compliant()
	p.VM.Value.SecurityType, p.VM.Value.Image = "", cvm.Image{}
	if v := Judge(p, doc, now); v.Value != NotACVM || !strings.HasSuffix(v.Why, "no selector of want.include takes it") || !strings.HasSuffix(v.Findings[0].Text, "no selector of want.include takes it.") {
		t.Errorf("%s: %s, %+v", v.Value, v.Why, v.Findings[0])
	}
	p.OSDisk.Value.ImageID = "/Subscriptions/x/Providers/Microsoft.Compute/Locations/weu/Publishers/canonical/ArtifactTypes/VMImage/Offers/jammy/Skus/22_04-lts-cvm/Versions/1"
	v := Judge(p, doc, now)
	i := slices.IndexFunc(v.Findings, func(f Finding) bool { return f.Reason == "not-confidential" })
	if v.Value != NonCompliant || i < 0 || !strings.Contains(v.Findings[i].Text, "want.include[0] (image canonical:*:22_04-lts-cvm)") {
		t.Errorf("%s: %+v", v.Value, v.Findings)
	}
}

// Every fault of a document is listed at once, with its place.
func TestParseListsEveryFault(t *testing.T) {
	text := `schemaVersion: 2
name: ""
mode: enforced
rules:
  secure-bot: enforce
  vtpm: maybe
  vtpm: enforce
  key-size: {effect: enforce, minBits: 1024, minbits: 1}
  key-expiry: {near: soon}
  des-type: [off]
remedies: {}
remedy:
  allow: needs-recreate
  grantRights: "yes"
regions:
  northeurope: {vault: kv, key: k, des: x}
  West Europe: {vault: kv, key: k, des: x}
orchestratorObjectId: me
authorities: [5]
brakes:
  maxSendsPerStepPerDay: 0
want:
  include:
    - {}
    - {names: x}
`
	_, err := Parse([]byte(text))
	var pe *ParseError
	if !fault.Is(err, fault.Invalid) || !errors.As(err, &pe) {
		t.Fatal(err)
	}
	for _, want := range []string{
		`1:16: schemaVersion: 2 must be 1`, `2:7: name: it is empty`, `3:7: mode: "enforced" is not one of observe, enforce`,
		`5:3: rules.secure-bot: there is no rule "secure-bot", did you mean "secure-boot"?`,
		`6:9: rules.vtpm: "maybe" is not one of off, audit, enforce, quarantine`,
		`7:3: rules.vtpm: the key "vtpm" stands here a second time; the first is at 6:3`,
		`8:40: rules.key-size.minBits: 1024 is not one of 2048, 3072, 4096`,
		`8:46: rules.key-size.minbits: there is no member "minbits", did you mean "minBits"?`,
		`9:22: rules.key-expiry.near: "soon" doesn't have the form`,
		`rules.des-type: it is an array where a string or object belongs`,
		`11:1: remedies: there is no member "remedies", did you mean "remedy"?`,
		`13:10: remedy.allow: "needs-recreate" is not one of in-place, needs-deallocation`,
		`14:16: remedy.grantRights: it is a string where a boolean belongs`,
		`17:3: regions.West Europe: "West Europe" is not a region's short name`, `16:24: regions.northeurope.vault: a vault id "kv"`, `16:41: regions.northeurope.des: a disk encryption set id "x"`, `18:23: orchestratorObjectId: "me" doesn't have the form`, `authorities.0: it is a number where a string belongs`,
		`21:26: brakes.maxSendsPerStepPerDay: 0 is less than 1`, `want.include.0: it needs at least 1 member`, `25:8: want.include.1.names: there is no member "names", did you mean "name"?`,
	} {
		if !strings.Contains(pe.Error(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if t.Failed() {
		t.Log("\n" + pe.Error())
	}
	for i := 1; i < len(pe.Faults); i++ {
		if a, b := pe.Faults[i-1], pe.Faults[i]; a.Line > b.Line {
			t.Errorf("%v before %v", a, b)
		}
	}
}

func TestParseSaysWhatIsMissing(t *testing.T) {
	for text, want := range map[string]string{
		"mode: observe\n":                   "schemaVersion, name are missing",
		"schemaVersion: 1\nmode: observe\n": "name is missing",
		"name: production\nmode: observe\n": "schemaVersion is missing",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseSemantics(t *testing.T) {
	for text, want := range map[string]string{
		"regions: {northeurope: {vault: kv, key: k, des: x}}": `regions.northeurope.vault: a vault id "kv"`,
		"authorities: [\"http://x\"]":                         `authorities.0: "http://x" is not a provider's address`,
		"want:":                                               `4:7: want: it is nothing where an object belongs`, "name: again": `4:1: name: the key "name" stands here a second time`,
		"a: &x 1": "no anchor", "a: *x": "a", "? [1]\n: 2": "invalid key", "<<: {}": "<<", "a: !!str 1": "no tag", "1: 2": "not plain text",
		"a: .inf": "", "a: [1": "", "\t- x": "", "---\nb: 1": "second document", "a: " + strings.Repeat("[", 300): "nests too deep",
		"a: " + strings.Repeat("[\n", 3000): "too many brackets", "x: |\n  " + strings.Repeat("y", maxDocument): "bytes long",
	} {
		_, err := Parse([]byte(head + "\n" + text + "\n"))
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	for _, text := range []string{"", "# nothing", "[]", "7", "null", "{}"} {
		if _, err := Parse([]byte(text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWithMode(t *testing.T) {
	for name, text := range map[string]string{
		"embedded": string(Embedded().Source), "no mode": head, "no newline": strings.TrimSuffix(head, "\n"),
		"comment": head + "mode: observe # for now\nrules: {vtpm: off}\n", "flow": `{schemaVersion: 1, name: x, mode: observe}`,
		"JSON": `{"schemaVersion":1,"name":"x","rules":{"vtpm":"audit"}}`, "quoted": head + "\"mode\": 'observe'\n",
		"end": head + "...\n", "in a text": head + "rules:\n  vtpm: off\nmode:   observe\n",
	} {
		d := mustParse(t, text)
		e := d.WithMode(ModeEnforce)
		sum := sha256.Sum256(e.Source)
		if e.Mode() != ModeEnforce || e.Hash == d.Hash || e.Hash != hex.EncodeToString(sum[:]) || e.Effect("vtpm") != d.Effect("vtpm") || d.Mode() != ModeObserve {
			t.Errorf("%s: %s\n%s", name, e.Mode(), e.Source)
		}
		if again := mustParse(t, string(e.Source)); again.Mode() != ModeEnforce {
			t.Errorf("%s: the source says %s", name, again.Mode())
		}
		if back := e.WithMode(ModeObserve); back.Mode() != ModeObserve {
			t.Errorf("%s: not back", name)
		}
	}
	if d := Embedded(); d.WithMode(ModeObserve) != d || !strings.Contains(string(d.WithMode(ModeEnforce).Source), "# The policy that is in force") {
		t.Error("the embedded document loses its comments")
	}
}

func TestExplain(t *testing.T) {
	for _, r := range Rules() {
		text, ok := Explain(r.ID)
		if !ok || !strings.Contains(text, r.Title) || r.Checks == "" || r.Why == "" || r.Fix == "" || r.Doc == "" || len(r.On) == 0 || r.judge == nil {
			t.Errorf("%s: %q", r.ID, text)
		}
	}
	if text, ok := Explain("vtmp"); ok || !strings.Contains(text, `did you mean "vtpm"`) {
		t.Error(text)
	}
	b, err := RulesJSON(Embedded())
	var list []struct{ ID, Effect, Severity, Title string }
	if err != nil || json.Unmarshal(b, &list) != nil || len(list) != len(Rules()) || list[0].ID != "vm-kind" || list[0].Effect != "enforce" || list[0].Title == "" || list[0].Severity != "high" {
		t.Errorf("%s, %v", b, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head))
	f.Add(Embedded().Source)
	f.Add([]byte(`{"schemaVersion":1,"name":"x","rules":{"vtpm":"audit"}}`))
	f.Add([]byte("a: &x [*x]\n? b\n: - - 1\n"))
	f.Add([]byte(head + exempting))
	f.Add([]byte(head + braking))
	f.Add([]byte(head + "exemptions: [{rules: ['*', vtmp], until: soon, scope: {vm: x}}]\nbrakes: {windows: [{from: 9, zone: Local}]}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(text)
		if err != nil {
			if !fault.Is(err, fault.Invalid) || err.Error() == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, mode := range []string{ModeEnforce, ModeObserve} {
			if e := d.WithMode(mode); e.Mode() != mode {
				t.Fatalf("mode %s of %q", e.Mode(), text)
			}
		}
	})
}
