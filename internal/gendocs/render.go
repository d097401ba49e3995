package main

import (
	"bytes"
	"fmt"
	"strings"

	"cvmguard/internal/policy"
)

// generate makes the page.
func generate(root string) ([]byte, error) {
	byRule, links, err := reasonsOf(root)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(head)
	b.WriteString("| rule | asks that | severity | default | judged on | remedy class | reason codes |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	rules := policy.Rules()
	for _, r := range rules {
		said, ok := byRule[r.ID]
		if !ok {
			return nil, fmt.Errorf("rule %q: the function that judges it was not found in %s; is its entry in the table written as the others are?", r.ID, policyDir)
		}
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s | %s | %s | %s | %s |\n", r.ID, anchor(r.ID), r.Title, r.Severity, r.Default,
			strings.Join(r.On, ", "), orNone(string(r.Class)), codes(r, said))
	}
	fmt.Fprintf(&b, "\n## What wasn't read\n\nBefore a rule looks at its own fact it needs the links before it. A link that is there and\nwasn't read makes every rule behind it `unknown` with the link's code:\n%s.\nA fact that was left unread for a stated reason carries that reason's code in its place.\n", ticks(links))
	b.WriteString("\n## The rules one by one\n")
	for _, r := range rules {
		section(&b, r, byRule[r.ID])
	}
	return b.Bytes(), nil
}

const head = `<!-- Written by go run ./internal/gendocs from internal/policy. Don't edit it by hand. -->

# The rules

Every rule looks at facts of one object and gives one finding, or one for each reason
that holds. ` + "`cvmguard policy explain RULE`" + ` prints a rule's text; ` + "`cvmguard policy show`" + ` prints
the effect that each rule has under the policy in force.

- **State** of a finding: ` + "`pass`, `fail`, `unknown`, `exempt`, `not-applicable` or `not-asked`" + `. A
  ` + "`pass`" + ` with a reason code is a note. The verdict is made of ` + "`fail` and `unknown`" + ` alone.
- **Default**: the effect where a policy document doesn't name the rule: ` + "`off`, `audit`,\n  `enforce` or `quarantine`" + `.
- **Judged on**: whose verdict the rule is part of. One that names ` + "`des`, `key`, `vault` or\n  `region`" + ` is judged on the shared object's own turn too.
- **Remedy class**: what it usually takes to put it right. A finding carries its own class.
- **Rows** below are those of the truth table by which the judge is tested.

`

// codes is the cell of a rule's reason codes.
func codes(r policy.Rule, said reasons) string {
	parts := []string{}
	if len(said.own) > 0 {
		parts = append(parts, ticks(said.own))
	}
	if len(said.gathers) > 0 {
		parts = append(parts, "those of "+ticks(said.gathers))
	}
	if r.Needs == policy.NeedsProof {
		parts = append(parts, "the code of the [check](attestation.md) that decided")
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, "; ")
}

func section(b *bytes.Buffer, r policy.Rule, said reasons) {
	fmt.Fprintf(b, "\n### %s\n\n%s.\n\n", r.ID, r.Title)
	for _, l := range [][2]string{
		{"Checks", r.Checks}, {"Why", r.Why}, {"Cure", r.Fix}, {"Rests on", restsOn(r.Needs)}, {"Reason codes", codes(r, said)},
		{"Rows", orNone(r.Rows)}, {"Follows", "<" + r.Doc + ">"},
	} {
		fmt.Fprintf(b, "- **%s**: %s\n", l[0], l[1])
	}
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
