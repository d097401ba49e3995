package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	yaml "github.com/goccy/go-yaml"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy/truth"
)

// caseDocument is the policy that a case is judged by: the embedded one, the
// orchestrator's id named, and what the case changes.
func caseDocument(t *testing.T, c truth.Case) *Document {
	t.Helper()
	if len(c.Policy) == 0 {
		return Embedded()
	}
	text, err := yaml.YAMLToJSON(Embedded().Source)
	if err != nil {
		t.Fatal(err)
	}
	var doc, patch any
	for b, v := range map[string]*any{string(text): &doc, string(c.Policy): &patch} {
		if err := json.Unmarshal([]byte(b), v); err != nil {
			t.Fatal(err)
		}
	}
	text, err = json.Marshal(truth.Merge(doc, patch))
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(text)
	if err != nil {
		t.Fatalf("row %s, %s: %v", c.Row, c.Name, err)
	}
	return d
}

// spoken lists what a verdict says of any consequence: what fails or isn't known, and
// notes.
func spoken(list []Finding) []string {
	var out []string
	for _, f := range list {
		if f.State != cvm.Fail && f.State != cvm.UnknownState && (f.State != cvm.Pass || f.Reason == "") {
			continue
		}
		class := ""
		if f.State != cvm.Pass && f.Class != "" {
			class = ", " + string(f.Class)
		}
		out = append(out, fmt.Sprintf("%s: %s %s%s", f.Rule, f.State, f.Reason, class))
	}
	slices.Sort(out)
	return out
}

func judgeCase(t *testing.T, c truth.Case) (Verdict, cvm.Posture) {
	t.Helper()
	e, err := c.Estate()
	if err != nil {
		t.Fatalf("row %s, %s: %v", c.Row, c.Name, err)
	}
	if c.Orphan {
		parts, err := e.Parts()
		if err != nil || parts.OSDisk == nil {
			t.Fatalf("row %s, %s: no OS disk: %v", c.Row, c.Name, err)
		}
		return Verdict{Value: Compliant, Findings: JudgeOrphan(*parts.OSDisk)}, cvm.Posture{}
	}
	p, err := e.Posture()
	if err != nil {
		t.Fatalf("row %s, %s: %v", c.Row, c.Name, err)
	}
	return Judge(p, caseDocument(t, c), c.At), p
}

// Every row of the table has cases, and the judge says of each what the table says
// and nothing else.
func TestTheTable(t *testing.T) {
	table, err := truth.Load()
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	cases := table.Cases()
	for _, c := range cases {
		have[c.Row] = true
		v, _ := judgeCase(t, c)
		var want []string
		for _, f := range c.Findings {
			line := fmt.Sprintf("%s: %s %s", f.Rule, f.State, f.Reason)
			if f.Class != "" {
				line += ", " + f.Class
			}
			want = append(want, line)
		}
		slices.Sort(want)
		if got := spoken(v.Findings); !slices.Equal(got, want) {
			t.Errorf("row %s, %s:\n got  %s\n want %s", c.Row, c.Name, strings.Join(got, "\n      "), strings.Join(want, "\n      "))
		}
		if string(v.Value) != c.Verdict {
			t.Errorf("row %s, %s: %s, want %s", c.Row, c.Name, v.Value, c.Verdict)
		}
	}
	rows := []string{"73a", "76a"}
	for i := range 81 {
		rows = append(rows, strconv.Itoa(i+1))
	}
	for _, r := range rows {
		if !have[r] {
			t.Errorf("row %s has no case", r)
		}
	}
	t.Logf("%d rows, %d cases", len(have), len(cases))
}
