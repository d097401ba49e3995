package main

import (
	"bytes"
	"fmt"
	"strings"

	"cvmguard/internal/policy"
	"cvmguard/internal/policy/truth"
)

// generate makes the page.
func generate() ([]byte, error) {
	table, err := truth.Load()
	if err != nil {
		return nil, err
	}
	all, err := play(table)
	if err != nil {
		return nil, err
	}
	byRule, links := reasonsOf(all.findings)
	var b bytes.Buffer
	b.WriteString(head)
	b.WriteString("| rule | asks that | severity | default | judged on | remedy class | reason codes |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	rules := policy.Rules()
	for _, r := range rules {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s | %s | %s | %s | %s |\n", r.ID, anchor(r.ID), r.Title, r.Severity, r.Default,
			strings.Join(r.On, ", "), orNone(string(r.Class)), codes(r, byRule[r.ID]))
	}
	fmt.Fprintf(&b, "\n## What wasn't read\n\nBefore a rule looks at its own fact it needs the links before it. A link that is there and\nwasn't read makes every rule behind it `unknown` with the link's code:\n%s.\nA fact that was left unread for a stated reason carries that reason's code in its place.\n", ticks(links))
	b.WriteString("\n## The rules one by one\n")
	for _, r := range rules {
		section(&b, r, byRule[r.ID], rowsOf(table, r.ID), all.deeds[r.ID])
	}
	renderTable(&b, table)
	return b.Bytes(), nil
}

const head = `<!-- Written by go run ./internal/gendocs from internal/policy and internal/remedy. Don't edit it by hand. -->

# The rules

Every rule looks at facts of one object and gives one finding, or one for each reason
that holds. ` + "`cvmguard policy explain RULE`" + ` prints a rule's text; ` + "`cvmguard policy show`" + ` prints
the effect that each rule has under the policy in force.

- **State** of a finding: ` + "`pass`, `fail`, `unknown`, `exempt`, `not-applicable` or `not-asked`" + `. A
  ` + "`pass`" + ` with a reason code is a note. The verdict is made of ` + "`fail` and `unknown`" + ` alone.
- **Default**: the effect where a policy document doesn't name the rule: ` + "`off`, `audit`,\n  `enforce` or `quarantine`" + `.
- **Judged on**: whose verdict the rule is part of. One that names ` + "`des`, `key`, `vault` or\n  `region`" + ` is judged on the shared object's own turn too.
- **Remedy class**: what it usually takes to put it right. A finding carries its own class.
- **What cvmguard does** is read off the plans that it makes for the cases of the truth table, with everything
  permitted. What is carried out needs mode ` + "`enforce`, an effect `enforce` or `quarantine`" + `, the step's word in
  [` + "`remedy`" + `](policy.md#remedy-what-may-be-done) and no doubt; with effect ` + "`quarantine`" + ` a VM that fails is tagged too (undo: take the tag off).
- **Rows** are those of [the truth table](#the-truth-table) by which the judge is tested.

`

// codes is the cell of a rule's reason codes.
func codes(r policy.Rule, said []string) string {
	if r.Needs == policy.NeedsProof {
		own := said[:0:0]
		for _, c := range said {
			if !strings.Contains(c, ".") {
				own = append(own, c)
			}
		}
		return ticks(own) + "; the code of the [check](attestation.md) that decided"
	}
	if len(said) == 0 {
		return "none"
	}
	return ticks(said)
}

func section(b *bytes.Buffer, r policy.Rule, said []string, rows string, deeds []deed) {
	fmt.Fprintf(b, "\n### %s\n\n%s.\n\n", r.ID, r.Title)
	for _, l := range [][2]string{
		{"Checks", r.Checks}, {"Why", r.Why}, {"Cure", r.Fix}, {"What cvmguard does", doesOf(deeds)}, {"To undo", undoOf(deeds)}, {"To exempt", exemptOf(r)},
		{"Rests on", restsOn(r.Needs)}, {"Reason codes", codes(r, said)},
		{"Rows", orNone(rows)}, {"Follows", "<" + r.Doc + ">"},
	} {
		fmt.Fprintf(b, "- **%s**: %s\n", l[0], l[1])
	}
}

// doesOf says what the plans do about a rule.
func doesOf(deeds []deed) string {
	var taken, advice []string
	for _, d := range deeds {
		if d.taken {
			taken = append(taken, string(d.kind))
		}
		if d.advice && !d.taken {
			advice = append(advice, string(d.kind))
		}
	}
	switch {
	case len(taken) > 0 && len(advice) > 0:
		return "where policy lets it, " + ticks(taken) + "; else, and for the rest, advice with ready commands (" + ticks(advice) + ")"
	case len(taken) > 0:
		return "where policy lets it, " + ticks(taken) + "; else advice with ready commands"
	case len(advice) > 0:
		return "advice with ready commands (" + ticks(advice) + ")"
	}
	return "it is told, and nothing more"
}

func undoOf(deeds []deed) string {
	var out []string
	for _, d := range deeds {
		if d.taken {
			out = append(out, fmt.Sprintf("`%s`: %s", d.kind, undone[d.kind]))
		}
	}
	for _, d := range deeds {
		if !d.taken && strings.HasPrefix(undone[d.kind], "advice; ") {
			out = append(out, fmt.Sprintf("`%s`: %s", d.kind, strings.TrimPrefix(undone[d.kind], "advice; ")))
		}
	}
	if len(out) == 0 {
		return "nothing to undo: cvmguard changes nothing for it"
	}
	return strings.Join(out, "; ")
}

func exemptOf(r policy.Rule) string {
	if !policy.Exemptible(r.ID) {
		return "it can't be exempted; turn it `off` in the policy document"
	}
	text := fmt.Sprintf("`rules: [%s]` in an [exemption](policy.md#exemptions) of the policy document", r.ID)
	switch {
	case len(r.On) == 1 && r.On[0] == "vm":
		return text + fmt.Sprintf(", or `rules=%s` in the VM's [exemption tag](policy.md#exemptiontag-exemptions-on-the-vm)", r.ID)
	case len(r.On) == 1:
		return text + fmt.Sprintf(", with the %s's id as `scope.vm`", r.On[0])
	}
	return text + ", with the shared object's id as `scope.vm` for all that hang on it, or one VM's; the VM's [exemption tag](policy.md#exemptiontag-exemptions-on-the-vm) exempts that VM alone"
}

func restsOn(n policy.Needs) string {
	switch n {
	case policy.NeedsAzure:
		return "what Azure Resource Manager says"
	case policy.NeedsKeys:
		return "what the key plane says"
	case policy.NeedsProof:
		return "what the guest proved"
	case policy.NeedsClaims:
		return "what the guest or its agent says, which is never proof"
	}
	return string(n)
}

// anchor is the heading's, as renderers of Markdown make it.
func anchor(heading string) string {
	return strings.ReplaceAll(strings.ToLower(heading), ".", "")
}

func ticks(list []string) string { return "`" + strings.Join(list, "`, `") + "`" }

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
