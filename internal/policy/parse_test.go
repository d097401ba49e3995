package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

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
  - {rules: [vtpm], owner: o, reason: r, until: 2027-01-31, scope: {select: {named: x}}, ruels: []}
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
		`7:12: exemptions.1.rules: it needs at least 1 element`, `9:5: exemptions.1.owner: the key "owner" stands here a second time; the first is at 8:5`,
		`exemptions.1: reason, until are missing`, `exemptions.1.scope: it needs at least 1 member`,
		`exemptions.2.rules: it is a string where an array belongs`, `exemptions.2.owner: it is a number where a string belongs`, `exemptions.2.until: "2027-02-30" is not a day`,
		`exemptions.2.scope.resourceGroup: "rg" is not a resource group's ARM id`, `exemptions.2.scope.subscription: "s" doesn't have the form`,
		`exemptions.2.scope.selct: there is no member "selct", did you mean "select"?`,
		`exemptions.3.scope.select.named: there is no member "named", did you mean "name"?`, `exemptions.3.ruels: there is no member "ruels", did you mean "rules"?`,
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
