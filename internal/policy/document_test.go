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
		`7:3: rules.vtpm: the key "vtpm" stands here a second time; the first is at line 6`,
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

// braking is a document's brakes, all of them.
const braking = `
brakes:
  maxSendsPerStepPerDay: 3
  maxStepsPerVMPerDay: 9
  breaker: {vmsPerHour: 10, sharePerHour: 7%, shareFrom: 4}
  maxChangedBack: 1
  windows:
    - {days: [sat, sun], from: "22:00", to: "04:00", zone: Europe/Oslo}
    - {from: 01:30, to: 02:00}
  canary: {vms: 5, wait: 24h}
`

func TestParseBrakes(t *testing.T) {
	d := mustParse(t, head+braking)
	b := d.Brakes
	if b.MaxSendsPerStepPerDay != 3 || b.MaxStepsPerVMPerDay != 9 || b.MaxVMsPerHour != 10 || b.MaxSharePerHour != 7 || b.ShareFrom != 4 || b.MaxChangedBack != 1 ||
		b.Canary != (Canary{5, 24 * time.Hour}) || len(b.Windows) != 2 {
		t.Fatalf("%+v", b)
	}
	w := b.Windows[0]
	if !slices.Equal(w.Days, []time.Weekday{time.Saturday, time.Sunday}) || w.From != 22*time.Hour || w.To != 4*time.Hour || w.Zone.String() != "Europe/Oslo" {
		t.Errorf("%+v", w)
	}
	if w := b.Windows[1]; w.Days != nil || w.From != 90*time.Minute || w.To != 2*time.Hour || w.Zone != time.UTC {
		t.Errorf("%+v", w)
	}
	if e := d.WithMode(ModeEnforce); e.Mode() != ModeEnforce || !strings.Contains(string(e.Source), "Europe/Oslo") || !e.sameBut(mustParse(t, head+braking), ModeEnforce) {
		t.Error("another mode is another document")
	}
	if b := mustParse(t, head+"brakes: {breaker: {sharePerHour: 0%}}\n").Brakes; b.MaxSharePerHour != 0 || b.MaxVMsPerHour != 500 || b.ShareFrom != 20 || b.MaxStepsPerVMPerDay != 40 || b.MaxChangedBack != 2 {
		t.Errorf("%+v", b)
	}
}

// exempting is a document's exemptions and tag.
const exempting = `
exemptions:
  - rules: [secure-boot, key-expiry]
    owner: jane@example.com
    reason: unsigned driver
    until: 2027-01-31
    scope: {vm: /subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg-cvm/providers/Microsoft.Compute/virtualMachines/vm1}
  - rules: [vtpm]
    owner: ops
    reason: "old"
    until: 2025-06-01T12:00:00+02:00
    scope:
      subscription: 00000000-0000-0000-0000-00000000000A
      resourceGroup: /subscriptions/00000000-0000-0000-0000-00000000000A/resourceGroups/rg/
      select: {name: "t*", tag: {env: test}}
  - rules: [key-release-policy]
    owner: keys
    reason: migration
    until: 2027-01-31
    scope: {vm: "https://kv-cvm.vault.azure.net/keys/cvm-os-key/00112233445566778899aabbccddeeff"}
exemptionTag:
  name: cvmguard-exempt
  principals: [00000000-0000-0000-0000-0000000000AB]
`

func TestParseExemptions(t *testing.T) {
	d := mustParse(t, head+exempting)
	if len(d.Exemptions) != 3 {
		t.Fatalf("%+v", d.Exemptions)
	}
	e := d.Exemptions[0]
	if !slices.Equal(e.Rules, []string{"secure-boot", "key-expiry"}) || e.Owner != "jane@example.com" || e.Reason != "unsigned driver" ||
		!e.Until.Equal(time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)) || e.Scope != (ExemptionScope{VM: string(vmID)}) {
		t.Errorf("%+v", e)
	}
	// One that has expired is no fault.
	e = d.Exemptions[1]
	if !e.Until.Equal(time.Date(2025, 6, 1, 10, 0, 0, 0, time.UTC)) || e.Scope.Subscription != "00000000-0000-0000-0000-00000000000a" ||
		e.Scope.ResourceGroup != "/subscriptions/00000000-0000-0000-0000-00000000000A/resourceGroups/rg" || e.Scope.Selector == nil || e.Scope.Selector.Name != "t*" {
		t.Errorf("%+v", e)
	}
	if got := d.Exemptions[2].Scope.VM; got != string(keyID.Versionless()) {
		t.Errorf("the key's version stays: %s", got)
	}
	if d.ExemptionTag.Name != "cvmguard-exempt" || !slices.Equal(d.ExemptionTag.Principals, []string{"00000000-0000-0000-0000-0000000000ab"}) {
		t.Errorf("%+v", d.ExemptionTag)
	}
	if e := d.WithMode(ModeEnforce); !e.sameBut(mustParse(t, head+exempting), ModeEnforce) {
		t.Error("another mode is another document")
	}
}

// Every fault of the newer parts is listed at once, with its place and the nearest
// right name.
func TestParseListsEveryFaultOfExemptionsAndBrakes(t *testing.T) {
	text := `schemaVersion: 1
name: x
mode: enforced
rules: {vtpm: audti, exemptions: of}
exemptions:
  - {rules: [secure-bot, "*", exemptions, vtpm, vtpm], owner: " ", reason: r, until: tomorrow, scope: {vm: vm1}}
  - rules: []
    owner: o
    owner: p
    scope: {}
  - {rules: vtpm, owner: 5, reason: r, until: 2027-02-30, scope: {resourceGroup: rg, subscription: s, selct: {}}}
  - {rules: [vtpm], owner: o, reason: r, until: 2027-01-31, scope: {select: {nmae: x}}, ruels: []}
exemptionTag: {name: cvmguard-verdict, principals: []}
brakes:
  maxStepsPerVMPerDay: 0
  breaker: {vmsPerHour: many, sharePerHour: 101%, shareform: 3}
  maxChangedBack: -1
  windows:
    - {days: [sat, sat, sunday], from: "25:00", to: "04:00", zone: Europe/Olso}
    - {days: [], from: 22:00}
    - {from: "22:00", to: "04:00", zone: Local}
  canary: {wait: 24}
`
	_, err := Parse([]byte(text))
	var pe *ParseError
	if !errors.As(err, &pe) {
		t.Fatal(err)
	}
	for _, want := range []string{
		`3:7: mode: "enforced" is not one of observe, enforce, did you mean "enforce"?`,
		`4:15: rules.vtpm: "audti" is not one of off, audit, enforce, quarantine, did you mean "audit"?`,
		`rules.exemptions: "of" is not one of off, audit, enforce, quarantine, did you mean "off"?`,
		`6:14: exemptions.0.rules.0: there is no rule "secure-bot", did you mean "secure-boot"?`,
		`6:26: exemptions.0.rules.1: "*" is no rule`, `exemptions.0.rules.2: rule "exemptions" judges exemptions`, `exemptions.0.rules.4: rule "vtpm" stands here a second time`,
		`exemptions.0.owner: it is blank`, `exemptions.0.until: "tomorrow" is not a day such as 2027-01-31`, `exemptions.0.scope.vm: "vm1" is not the id of a VM`,
		`7:12: exemptions.1.rules: it needs at least 1 element`, `9:5: exemptions.1.owner: the key "owner" stands here a second time; the first is at line 8`,
		`exemptions.1: reason, until are missing`, `exemptions.1.scope: it needs at least 1 member`,
		`exemptions.2.rules: it is a string where an array belongs`, `exemptions.2.owner: it is a number where a string belongs`, `exemptions.2.until: "2027-02-30" is not a day`,
		`exemptions.2.scope.resourceGroup: "rg" is not a resource group's ARM id`, `exemptions.2.scope.subscription: "s" doesn't have the form`,
		`exemptions.2.scope.selct: there is no member "selct", did you mean "select"?`,
		`exemptions.3.scope.select.nmae: there is no member "nmae", did you mean "name"?`, `exemptions.3.ruels: there is no member "ruels", did you mean "rules"?`,
		`13:22: exemptionTag.name: "cvmguard-verdict" is a tag that cvmguard writes`, `exemptionTag.principals: it needs at least 1 element`,
		`15:24: brakes.maxStepsPerVMPerDay: 0 is less than 1`, `brakes.breaker.vmsPerHour: it is a string where an integer belongs`, `brakes.breaker.sharePerHour: "101%" doesn't have the form`,
		`brakes.breaker.shareform: there is no member "shareform", did you mean "shareFrom"?`, `brakes.maxChangedBack: -1 is less than 1`,
		`brakes.windows.0.days.1: "sat" stands here a second time`, `brakes.windows.0.days.2: "sunday" is not one of mon, tue, wed, thu, fri, sat, sun`,
		`brakes.windows.0.from: "25:00" doesn't have the form`, `brakes.windows.0.zone: "Europe/Olso" is not a time zone such as Europe/Oslo or UTC, did you mean "Europe/Oslo"?`,
		`brakes.windows.1.days: it needs at least 1 element`, `brakes.windows.1: to is missing`, `brakes.windows.2.zone: "Local" is not a time zone`,
		`brakes.canary: vms is missing`, `brakes.canary.wait: it is a number where a string belongs`,
	} {
		if !strings.Contains(pe.Error(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if t.Failed() {
		t.Log("\n" + pe.Error())
	}
}
