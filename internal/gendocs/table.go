package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cvmguard/internal/policy"
	"cvmguard/internal/policy/truth"
)

const tableHead = `
## The truth table

What Azure shows, row by row, and what is said of it where policy asks for a confidential OS
disk under a customer's key: %d numbered rows, and what has no number, held to by %d cases.
Each case is an estate of bodies as Azure Resource Manager and Key Vault answer them
(` + "`internal/policy/truth`" + `), with all that must be said of it and nothing beside. The tests
lay every bad case over every compliant one, and take every member of every body away.

- All rows that hold are reported, not the first. A failed row stops no other.
- **Says**: ` + "`fail` and `unknown`" + ` count for the verdict; a *note* is a pass that carries the reason.
- Rows behind a link that isn't there don't apply; behind one that wasn't read they are unknown.
- **Source**, with how certain it is: %s.

`

// renderTable writes the truth table.
func renderTable(b *bytes.Buffer, t *truth.Table) {
	var letters []string
	for _, l := range []string{"D", "P", "I", "U"} {
		letters = append(letters, fmt.Sprintf("**%s** %s", l, t.Certainty[l]))
	}
	rows := 0
	for _, s := range t.Sections {
		for _, r := range s.Rows {
			if r.Row != unnumbered {
				rows++
			}
		}
	}
	fmt.Fprintf(b, tableHead, rows, len(t.Cases()), strings.Join(letters, "; "))
	for _, s := range t.Sections {
		fmt.Fprintf(b, "### %s\n\n| # | where | says | rules | remedy | class | source | cases |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n", s.Title)
		for _, r := range s.Rows {
			when := cell(r.When)
			if r.Remark != "" {
				when += " (" + cell(r.Remark) + ")"
			}
			var says []string
			for _, say := range r.Says {
				says = append(says, saysOf(say))
			}
			source := r.Source
			if r.Certainty != "" {
				source += " (" + r.Certainty + ")"
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %d |\n", r.Row, when, strings.Join(says, ", "), linksTo(r.Rules), orDash(cell(r.Remedy)),
				orDash(strings.Join(r.Classes, ", ")), cell(source), len(r.Cases))
		}
		b.WriteString("\n")
	}
	b.WriteString("Short names of sources: ")
	var names []string
	for _, s := range t.Sources {
		names = append(names, fmt.Sprintf("**%s** %s", s.Name, s.What))
	}
	b.WriteString(strings.Join(names, "; ") + ".\n")
}

// unnumbered stands in place of a number.
const unnumbered = "-"

func saysOf(s truth.Say) string {
	switch s.State {
	case "compliant":
		return "compliant"
	case "note":
		return "*note* `" + s.Reason + "`"
	}
	return s.State + " `" + s.Reason + "`"
}

func cell(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "|", `\|`) }

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// linksTo names rules, each with a link to its section. What is told of a disk that
// no VM holds is no rule's.
func linksTo(rules []string) string {
	var out []string
	for _, r := range rules {
		if _, ok := policy.RuleByID(r); !ok {
			out = append(out, "`"+r+"`")
			continue
		}
		out = append(out, fmt.Sprintf("[`%s`](#%s)", r, anchor(r)))
	}
	return orDash(strings.Join(out, ", "))
}

// rowsOf gives the numbered rows in whose cases a rule speaks, as "45-52, 73a".
func rowsOf(t *truth.Table, rule string) string {
	var rows []string
	for _, s := range t.Sections {
		for _, r := range s.Rows {
			if r.Row != unnumbered && slices.Contains(r.Rules, rule) {
				rows = append(rows, r.Row)
			}
		}
	}
	var out []string
	for i := 0; i < len(rows); {
		j := i + 1
		for j < len(rows) && follows(rows[j-1], rows[j]) {
			j++
		}
		if j-i > 2 {
			out = append(out, rows[i]+"-"+rows[j-1])
		} else {
			out = append(out, rows[i:j]...)
		}
		i = j
	}
	return strings.Join(out, ", ")
}

func follows(a, b string) bool {
	x, err := strconv.Atoi(a)
	y, bad := strconv.Atoi(b)
	return err == nil && bad == nil && y == x+1
}
