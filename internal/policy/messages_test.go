package policy

import (
	"errors"
	"strings"
	"testing"

	"cvmguard/internal/fault"
)

// What people get wrong, and what they are told: these faults and no others, each
// with its place.
func TestWhatAFaultTells(t *testing.T) {
	const (
		anchor = "a policy has no anchors (&) and no aliases (*); write the value out wherever it is meant, in quotes if it begins with such a sign"
		number = " is a number that readers of YAML differ on; write it in plain decimal digits, here 3072"
	)
	bits := func(n string) string { return head + "rules:\n  key-size: {effect: enforce, minBits: " + n + "}\n" }
	for _, c := range []struct {
		what, text string
		want       []string
	}{
		{"no UTF-8", "schemaVersion: 1\nname: caf\xe9\n", []string{"2:10: the byte 0xE9 is not UTF-8; save the document as UTF-8"}},
		{"UTF-16", "\xff\xfes\x00c\x00", []string{"1:1: the document is UTF-16; save it as UTF-8"}},
		{"NUL", head + "want: {include: [{name: \"a\x00b\"}]}\n", []string{"3:27: the character U+0000 can't stand here; take it out"}},
		{"a colour code", head + "é\x1b[31m: 1\n", []string{"3:2: the character U+001B can't stand here; take it out"}},
		{"a mark within", head + "a: \ufeff1\n", []string{"3:4: the character U+FEFF can't stand here; take it out"}},
		{"directive", "%YAML 1.1\n---\n" + head, []string{"1:1: a policy has no directive; take the line out"}},
		{"two documents", head + "---\n" + head, []string{"4:1: a second document begins here; a policy is one"}},
		{"anchor and alias", "schemaVersion: 1\nname: &n x\nwant: {include: [{name: *n}]}\n", []string{"2:7: name: " + anchor, "3:25: want.include.0.name: " + anchor}},
		{"merge", head + "want:\n  <<: {}\n", []string{"4:3: want: a policy has no merge keys (<<); write out what is meant"}},
		{"tag", head + "mode: !!str observe\n", []string{"3:7: mode: a policy has no tags (!); write the value alone, in quotes if it begins with such a sign"}},
		{"hexadecimal", bits("0xC00"), []string{"4:40: rules.key-size.minBits: 0xC00" + number}},
		{"octal", bits("06000"), []string{"4:40: rules.key-size.minBits: 06000" + number}},
		{"newer octal", bits("0o6000"), []string{"4:40: rules.key-size.minBits: 0o6000" + number}},
		{"grouped", bits("3_072"), []string{"4:40: rules.key-size.minBits: 3_072" + number}},
		{"infinity", bits(".inf"), []string{"4:40: rules.key-size.minBits: it is not a number that JSON knows"}},
		{"no number", bits(".NaN"), []string{"4:40: rules.key-size.minBits: it is not a number that JSON knows"}},
		{"tab", head + "rules:\n\tvtpm: audit\n", []string{"4:1: it isn't valid YAML: found character '\t' that cannot start any token; YAML indents by spaces, and this is a tab"}},
		{"indent", head + "rules:\n  vtpm: audit\n vm-kind: audit\n", []string{"5:2: it isn't valid YAML: value is not allowed in this context; look at the indentation and the colons of this line and of the one before"}},
		{"no colon", head + "rules:\n  vtpm:audit\n", []string{"4:3: rules: it is a string where an object belongs; write name: value, with a space after the colon"}},
		{"a number for a key", head + "rules:\n  1: audit\n", []string{`4:3: rules: the key "1" is not plain text; put it in quotes`}},
		{"twice on a line", head + "rules: {vtpm: audit, vtpm: enforce}\n", []string{`3:22: rules.vtpm: the key "vtpm" stands here a second time; the first is at 3:9`}},
		{"nothing there", "mode: observe\n", []string{"1:1: schemaVersion, name are missing"}},
		{"a rule like none", head + "rules: {zzzzzz: audit}\n", []string{`3:9: rules.zzzzzz: there is no rule "zzzzzz"; cvmguard policy show lists the rules`}},
		{"another rule's option", head + "rules: {vtpm: {effect: audit, minBits: 2048}}\n", []string{`3:31: rules.vtpm.minBits: there is no member "minBits"; there are effect`}},
		{"a rule at the top", head + "secure-boot: audit\n", []string{`3:1: secure-boot: there is no member "secure-boot"; it is a rule, and stands under rules`}},
		{"no list", head + "authorities: https://mine.weu.attest.azure.net\n", []string{"3:14: authorities: it is a string where an array belongs; write a list: [a, b], or a line that begins with - for each"}},
		{"a long effect", head + "rules: {vtpm: " + strings.Repeat("é", 60) + "}\n", []string{`3:15: rules.vtpm: "` + strings.Repeat("é", 38) + `…" is not one of off, audit, enforce, quarantine`}},
		{"a selector of nothing", head + "want: {include: [{}]}\n", []string{"3:18: want.include.0: it needs at least 1 member of image, name, resourceGroup, size, tag"}},
		{"a bare duration", head + "rules: {key-expiry: {near: 30}}\n", []string{`3:28: rules.key-expiry.near: it is a number where a string belongs, such as "30d"`}},
		{"a wordy duration", head + "rules: {key-expiry: {near: 30days}}\n", []string{`3:28: rules.key-expiry.near: "30days" doesn't have the form of "30d"`}},
		{"a region's long name", head + "regions: {North Europe: {vault: " + kvID + ", key: k, des: " + string(desID) + "}}\n", []string{
			`3:11: regions.North Europe: "North Europe" is not a region's short name such as northeurope, did you mean "northeurope"?`}},
	} {
		_, err := Parse([]byte(c.text))
		var pe *ParseError
		if !fault.Is(err, fault.Invalid) || !errors.As(err, &pe) || pe.Error() != strings.Join(c.want, "\n") {
			t.Errorf("%s:\n%v\nwant\n%s", c.what, err, strings.Join(c.want, "\n"))
		}
	}
}

// An editor's byte order mark says nothing, nor do line breaks of any system.
func TestWhatEditorsWrite(t *testing.T) {
	for _, text := range []string{"\ufeff" + head, strings.ReplaceAll(head, "\n", "\r\n"), head + "...\n", "---\n" + head, "\ufeffmode: observe\n" + head} {
		d := mustParse(t, text)
		if e := d.WithMode(ModeEnforce); e.Mode() != ModeEnforce || e.Name != d.Name {
			t.Errorf("%q in another mode: %q", text, e.Source)
		}
	}
}
