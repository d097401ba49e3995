package policy

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cvmguard/internal/cvm"
)

const (
	jane  = "00000000-0000-0000-0000-0000000000ab"
	other = "00000000-0000-0000-0000-0000000000ff"
	// janes is a good tag for a VM whose secure boot is off.
	janes = "rules=secure-boot,key-expiry; until=2027-01-31; owner=jane@example.com; reason=unsigned driver"
)

// tagged is a VM with secure boot off that bears a tag, and who set it.
func tagged(value string, by cvm.Fact[cvm.TagSetter]) cvm.Posture {
	p := compliant()
	p.VM.Value.SecureBoot = cvm.False
	p.VM.Value.Tags = map[string]string{"CVMguard-exempt": value}
	p.TagSetter = by
	return p
}

func setBy(value, who string, others ...string) cvm.Fact[cvm.TagSetter] {
	return cvm.Known(cvm.TagSetter{Tag: "cvmguard-exempt", Value: value, Principal: who, Others: others, At: now})
}

const tagPolicy = "exemptionTag: {name: cvmguard-exempt, principals: [" + jane + "]}\n"

func TestTheTagExempts(t *testing.T) {
	d := mustParse(t, head+tagPolicy)
	expired := strings.Replace(janes, "2027-01-31", "2026-01-15", 1)
	for _, c := range []struct {
		what       string
		value      string
		by         cvm.Fact[cvm.TagSetter]
		verdict    Value
		exemptions string // what the rule says
		secureBoot string
		text       string // a part of the rule's text
	}{
		{"good", janes, setBy(janes, jane), Compliant, "pass", "exempt secure-boot-off", "secure-boot, key-expiry: Exempt by the VM's tag until 2027-01-31, for which jane@example.com answers: unsigned driver."},
		{"capitals in the principal", janes, setBy(janes, strings.ToUpper(jane)), Compliant, "pass", "exempt secure-boot-off", ""},
		{"two who are named", janes, setBy(janes, jane, jane), Compliant, "pass", "exempt secure-boot-off", ""},
		{"somebody else", janes, setBy(janes, other), NonCompliant, "fail exemption-invalid", "fail secure-boot-off", "was set, or may have been, by " + other},
		{"somebody else besides", janes, setBy(janes, jane, other), NonCompliant, "fail exemption-invalid", "fail secure-boot-off", "by " + other},
		{"somebody without a name besides", janes, setBy(janes, jane, ""), NonCompliant, "fail exemption-invalid", "fail secure-boot-off", "whom the Activity Log doesn't name"},
		{"nobody", janes, setBy(janes, ""), NonCompliant, "fail exemption-invalid", "fail secure-boot-off", ""},
		{"not read", janes, cvm.Fact[cvm.TagSetter]{}, NonCompliant, "unknown exemption-invalid", "fail secure-boot-off", "it isn't known who set it."},
		{"no right", janes, cvm.NotRead[cvm.TagSetter]("exemption-invalid", "Microsoft.Insights/eventtypes/values/read", "denied"), NonCompliant, "unknown exemption-invalid", "fail secure-boot-off",
			"denied. Grant Microsoft.Insights/eventtypes/values/read."},
		{"another value's", janes, setBy(janes+"!", jane), NonCompliant, "unknown exemption-invalid", "fail secure-boot-off", "was changed since"},
		{"another tag's", janes, cvm.Known(cvm.TagSetter{Tag: "x", Value: janes, Principal: jane}), NonCompliant, "unknown exemption-invalid", "fail secure-boot-off", ""},
		{"expired", expired, setBy(expired, jane), NonCompliant, "pass exemption-expired", "fail secure-boot-off", "ended on 2026-01-15"},
		{"expired, by nobody knows whom", expired, cvm.Fact[cvm.TagSetter]{}, NonCompliant, "pass exemption-expired", "fail secure-boot-off", ""},
		{"garbage", "yes please", setBy("yes please", jane), NonCompliant, "fail exemption-invalid", "fail secure-boot-off", `The tag cvmguard-exempt can't be read: "yes please" is not a field`},
		{"an unknown rule", strings.Replace(janes, "key-expiry", "key-expire", 1), setBy(janes, jane), NonCompliant, "fail exemption-invalid", "fail secure-boot-off", `did you mean "key-expiry"?`},
	} {
		p := tagged(c.value, c.by)
		v := Judge(p, d, now)
		if got := byRule(v.Findings, "exemptions"); v.Value != c.verdict || got != c.exemptions || byRule(v.Findings, "secure-boot") != c.secureBoot {
			t.Errorf("%s: %s, exemptions %s, secure-boot %s", c.what, v.Value, got, byRule(v.Findings, "secure-boot"))
		}
		for _, f := range v.Findings {
			if f.Rule == "exemptions" && !strings.Contains(f.Text, c.text) {
				t.Errorf("%s: says %q", c.what, f.Text)
			}
			if (f.State == cvm.Exempt) != (f.Exemption != nil) {
				t.Errorf("%s: %+v", c.what, f)
			}
		}
	}
	f := find(Judge(tagged(janes, setBy(janes, jane)), d, now).Findings, "secure-boot-off")
	if x := f.Exemption; x == nil || x.Owner != "jane@example.com" || x.Reason != "unsigned driver" || x.From != FromTag || x.SetBy != jane || f.Class == ClassNone || !strings.Contains(f.Text, "jane@example.com") {
		t.Errorf("%+v", f)
	}
	// The VM without the tag, and a policy without one.
	p := tagged(janes, setBy(janes, jane))
	if got := byRule(Judge(p, Embedded(), now).Findings, "exemptions"); got != "not-applicable" {
		t.Errorf("no tag in policy: %s", got)
	}
	p.VM.Value.Tags = nil
	if v := Judge(p, d, now); byRule(v.Findings, "exemptions") != "pass" || v.Value != NonCompliant {
		t.Errorf("no tag on the VM: %s", byRule(v.Findings, "exemptions"))
	}
	if v := Judge(compliant(), d, now); v.Value != Compliant {
		t.Errorf("nothing to exempt: %s", v.Value)
	}
	p.VM = cvm.NotRead[cvm.VM]("vm-unreadable", "", "")
	if v := Judge(p, d, now); v.Value != Unknown || byRule(v.Findings, "exemptions") != "unknown vm-unreadable" {
		t.Errorf("not read: %s, %s", v.Value, byRule(v.Findings, "exemptions"))
	}
}

// A tag that exempts the rule on exemptions, or a rule that passes, changes nothing.
func TestOnlyWhatCountsIsExempt(t *testing.T) {
	d := mustParse(t, head+exempting)
	v := Judge(compliant(), d, now)
	if v.Value != Compliant || byRule(v.Findings, "secure-boot") != "pass" || byRule(v.Findings, "exemptions") != "pass" {
		t.Errorf("%s: %s, %s", v.Value, byRule(v.Findings, "secure-boot"), byRule(v.Findings, "exemptions"))
	}
	p := compliant()
	p.VM.Value.SecurityType = "TrustedLaunch"
	p.OSDisk.Value.SecurityType = "TrustedLaunch"
	w := mustParse(t, head+exempting+"want: {exclude: [{name: \"*\"}]}\n")
	if v := Judge(p, w, now); v.Value != NotACVM || byRule(v.Findings, "exemptions") != "not-applicable" {
		t.Errorf("not wanted: %s, %s", v.Value, byRule(v.Findings, "exemptions"))
	}
}

func TestTheDocumentExempts(t *testing.T) {
	base := compliant()
	base.VM.Value.SecureBoot = cvm.False
	sub := "00000000-0000-0000-0000-000000000001"
	exempt := func(scope, until, rules string) string {
		return "exemptions:\n  - {rules: [" + rules + "], owner: o, reason: r., until: " + until + ", scope: " + scope + "}\n"
	}
	group := "/subscriptions/" + sub + "/resourceGroups/RG-CVM"
	for _, c := range []struct {
		what, doc, state, rule string
	}{
		{"by id", exempt("{vm: "+strings.ToUpper(string(vmID))+"}", "2027-01-01", "secure-boot"), "exempt secure-boot-off", "pass"},
		{"by group", exempt("{resourceGroup: "+group+"}", "2027-01-01", "secure-boot"), "exempt secure-boot-off", "pass"},
		{"by a group whose name begins so", exempt("{resourceGroup: "+group[:len(group)-1]+"}", "2027-01-01", "secure-boot"), "fail secure-boot-off", "not-applicable"},
		{"by subscription", exempt("{subscription: "+sub+"}", "2027-01-01", "secure-boot"), "exempt secure-boot-off", "pass"},
		{"by selector", exempt("{select: {name: \"vm?\"}}", "2027-01-01", "secure-boot"), "exempt secure-boot-off", "pass"},
		{"by two of which one doesn't hold", exempt("{subscription: "+sub+", select: {name: db*}}", "2027-01-01", "secure-boot"), "fail secure-boot-off", "not-applicable"},
		{"another rule", exempt("{subscription: "+sub+"}", "2027-01-01", "vtpm"), "fail secure-boot-off", "pass"},
		{"at its end", exempt("{subscription: "+sub+"}", "2026-01-15", "secure-boot"), "fail secure-boot-off", "pass exemption-expired"},
		{"a second before", exempt("{subscription: "+sub+"}", "2026-01-15T00:00:01Z", "secure-boot"), "exempt secure-boot-off", "pass"},
		{"another VM's", exempt("{vm: "+string(vmID)+"2}", "2027-01-01", "secure-boot"), "fail secure-boot-off", "not-applicable"},
		{"another VM's, expired", exempt("{vm: "+string(vmID)+"2}", "2025-01-01", "secure-boot"), "fail secure-boot-off", "not-applicable"},
	} {
		v := Judge(base, mustParse(t, head+c.doc), now)
		if got := byRule(v.Findings, "secure-boot"); got != c.state || byRule(v.Findings, "exemptions") != c.rule {
			t.Errorf("%s: %s, exemptions %s", c.what, got, byRule(v.Findings, "exemptions"))
		}
		want := NonCompliant
		if strings.HasPrefix(c.state, "exempt") {
			want = Compliant
		}
		if v.Value != want {
			t.Errorf("%s: %s", c.what, v.Value)
		}
	}
	// Of several the one that holds longest is named.
	two := exempt("{subscription: "+sub+"}", "2027-01-01", "secure-boot") + "  - {rules: [secure-boot], owner: p, reason: s, until: 2028-01-01, scope: {vm: " + string(vmID) + "}}\n"
	if f := find(Judge(base, mustParse(t, head+two), now).Findings, "secure-boot-off"); f.Exemption == nil || f.Exemption.Owner != "p" || f.Exemption.From != FromPolicy {
		t.Errorf("%+v", f)
	}
	// An unknown finding is exempt too.
	p := compliant()
	p.VM.Value.SecureBoot = ""
	if v := Judge(p, mustParse(t, head+exempt("{subscription: "+sub+"}", "2027-01-01", "secure-boot")), now); v.Value != Compliant {
		t.Errorf("unknown: %s, %q", v.Value, said(v.Findings))
	}
	// A VM that can't be read is exempt by its id's parts, never by a selector.
	p = cvm.Posture{ID: vmID, VM: cvm.NotRead[cvm.VM]("vm-unreadable", "", "")}
	all := strings.Join(ruleIDs()[:len(ruleIDs())-1], ", ")
	all = strings.Join(slices.DeleteFunc(strings.Split(all, ", "), func(s string) bool { return s == "exemptions" }), ", ")
	if v := Judge(p, mustParse(t, head+exempt("{resourceGroup: "+group+"}", "2027-01-01", all)), now); v.Value != Compliant && !slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.State == cvm.Exempt }) {
		t.Errorf("not read: %s", v.Value)
	}
	if v := Judge(p, mustParse(t, head+exempt("{select: {name: \"*\"}}", "2027-01-01", all)), now); v.Value != Unknown || slices.ContainsFunc(v.Findings, func(f Finding) bool { return f.State == cvm.Exempt }) {
		t.Errorf("not read, by selector: %s", v.Value)
	}
}

// An exemption that names a shared object covers its fault in its own turn and in
// those of the VMs on it.
func TestSharedObjectsAreExemptByTheirID(t *testing.T) {
	weak := func(k *cvm.Key) { k.Enabled = cvm.False }
	p := compliant()
	weak(&p.Key.Value)
	shared := cvm.SharedPosture{Kind: cvm.SharedKey, ID: string(keyID.Versionless()), Region: "northeurope", Key: p.Key, Vault: p.Vault, DES: p.DES}
	doc := func(scope string) *Document {
		return mustParse(t, head+"exemptions:\n  - {rules: [key-enabled], owner: o, reason: r, until: 2027-01-01, scope: "+scope+"}\n")
	}
	named := doc("{vm: \"" + string(keyID) + "\"}")
	if v := JudgeShared(shared, named, now); byRule(v.Findings, "key-enabled") != "exempt key-disabled" || byRule(v.Findings, "exemptions") != "pass" || v.Value == NonCompliant {
		t.Errorf("the key: %s, %q", v.Value, said(v.Findings))
	}
	if v := Judge(p, named, now); v.Value != Compliant || byRule(v.Findings, "key-enabled") != "exempt key-disabled" || byRule(v.Findings, "exemptions") != "not-applicable" {
		t.Errorf("a VM on it: %s, %q, %s", v.Value, said(v.Findings), byRule(v.Findings, "exemptions"))
	}
	// A scope that names no object isn't the key's.
	wide := doc("{subscription: 00000000-0000-0000-0000-000000000001}")
	if v := JudgeShared(shared, wide, now); v.Value != NonCompliant || byRule(v.Findings, "exemptions") != "not-applicable" {
		t.Errorf("the key, by subscription: %s", v.Value)
	}
	if v := Judge(p, wide, now); v.Value != Compliant {
		t.Errorf("a VM, by subscription: %s", v.Value)
	}
	for _, id := range []string{string(desID), kvID, "00000000-0000-0000-0000-000000000001/regions/northeurope"} {
		if v := Judge(p, doc("{vm: \""+id+"\"}"), now); v.Value != NonCompliant {
			t.Errorf("by %s: %s", id, v.Value)
		}
	}
}

func TestParseExemptionTag(t *testing.T) {
	e, err := ParseExemptionTag(" reason = a=b, c ;owner=o;rules= vtpm , secure-boot;until=2027-01-31T10:00:00+01:00 ")
	if err != nil || e.Reason != "a=b, c" || e.Owner != "o" || !slices.Equal(e.Rules, []string{"vtpm", "secure-boot"}) || !e.Until.Equal(time.Date(2027, 1, 31, 9, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v, %v", e, err)
	}
	for value, want := range map[string]string{
		"": "is not a field", "true": "is not a field", janes + ";": "is not a field", janes + "; owner=x": "field owner stands there a second time",
		strings.Replace(janes, "owner", "ownr", 1):                          `there is no field "ownr", did you mean "owner"?`,
		strings.Replace(janes, "; owner=jane@example.com", "", 1):           "field owner is missing",
		strings.Replace(janes, "jane@example.com", " ", 1):                  "field owner is empty",
		strings.Replace(janes, "2027-01-31", "31.1.2027", 1):                "is not a day",
		strings.Replace(janes, "secure-boot,", "*,", 1):                     `"*" is no rule`,
		strings.Replace(janes, "secure-boot,", ",", 1):                      `there is no rule ""`,
		strings.Replace(janes, "secure-boot", "exemptions", 1):              "can't be left out",
		strings.Replace(janes, "secure-boot", "key-expiry", 1):              "a second time",
		strings.Replace(janes, "unsigned", "un\nsigned", 1):                 "control characters",
		strings.Replace(janes, "unsigned", "un\xffsigned", 1):               "control characters",
		strings.Replace(janes, "unsigned", strings.Repeat("ø", 200), 1):     "characters long, more than 256",
		strings.Replace(janes, "rules=", "Rules=", 1):                       "there is no field",
		"rules=vtpm; until=2027-01-31; owner=o; reason=r; scope=everything": `there is no field "scope"`,
	} {
		if e, err := ParseExemptionTag(value); err == nil || !strings.Contains(err.Error(), want) || len(e.Rules) > 0 && e.Owner != "" && e.Reason != "" {
			t.Errorf("%q: %+v, %v, want %q", value, e, err, want)
		}
	}
}

// Whatever a tag says: an error or a whole exemption, and only known rules.
func FuzzParseExemptionTag(f *testing.F) {
	f.Add(janes)
	f.Add("")
	f.Add("rules=*; until=2027-01-31; owner=o; reason=r")
	f.Add("rules=vtpm;until=2027-01-31T10:00:00Z;owner==;reason=;;")
	d, err := Parse([]byte(head + tagPolicy))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, value string) {
		e, err := ParseExemptionTag(value)
		if err == nil && (len(e.Rules) == 0 || e.Owner == "" || e.Reason == "" || e.Until.IsZero() || utf8.RuneCountInString(value) > 256) {
			t.Fatalf("%q: %+v", value, e)
		}
		for _, r := range e.Rules {
			if _, ok := RuleByID(r); !ok || r == ruleExemptions {
				t.Fatalf("%q exempts from %q", value, r)
			}
		}
		v := Judge(tagged(value, setBy(value, jane)), d, now)
		good := err == nil && now.Before(e.Until) && slices.Contains(e.Rules, "secure-boot")
		if good != (v.Value == Compliant) {
			t.Fatalf("%q: %s, %v", value, v.Value, err)
		}
		if v := Judge(tagged(value, setBy(value, other)), d, now); v.Value != NonCompliant {
			t.Fatalf("%q, set by somebody else: %s", value, v.Value)
		}
	})
}
