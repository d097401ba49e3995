// Package truth is the truth table of confidential VMs as data: what Azure's
// bodies show, row by row, and what must be said of it.
//
// rows/*.yaml hold the rows: each has its condition, the findings that it stands
// for, its cure, its source and how certain that is, and the cases by which the
// judge is held to it. bodies/*.json and bases.yaml hold the estates that cases
// start from, as Azure Resource Manager and Key Vault answer a GET; a case changes
// one by a JSON merge patch and by JSON pointers. A case's Estate is read by the
// parsers of package cvm, as a live answer is, into a posture.
//
// It promises that what it gives is complete and well-formed (Load fails
// otherwise) and that an estate is never changed once made. It doesn't judge:
// package policy's tests do, and the page on the rules is written from it. It
// isn't part of what is shipped.
package truth

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	yaml "github.com/goccy/go-yaml"
)

//go:embed rows/*.yaml bases.yaml bodies/*.json
var files embed.FS

// Now is the moment at which cases are judged that name no other.
var Now = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

// Table is the whole: sections with their rows, in order, and what the letters
// and the short names of sources stand for.
type Table struct {
	Sections  []Section
	Sources   []Source          // by name
	Certainty map[string]string // letter -> what it means
}

// Section is a part of the table.
type Section struct {
	Title string `json:"section"`
	Rows  []Row  `json:"rows"`
}

// Source is a short name and what it stands for.
type Source struct {
	Name string `json:"name"`
	What string `json:"what"`
}

// Row is one row.
type Row struct {
	Row       string   `json:"row"`       // "1" to "81", "73a", "76a"; "-" for what has no number
	When      string   `json:"when"`      // the condition
	Says      []Say    `json:"says"`      // what it stands for
	Remedy    string   `json:"remedy"`    // in words, "" for none
	Source    string   `json:"source"`    // names of Sources, and words
	Certainty string   `json:"certainty"` // its letters: D P I U
	Remark    string   `json:"remark"`
	Cases     []Case   `json:"cases"`
	Rules     []string `json:"-"` // whose findings they are, by the cases, in their order
	Classes   []string `json:"-"` // remedy classes of its findings, by the cases
}

// Say is what a row stands for: "compliant", or a finding's state and reason. A
// note is a finding of state pass that carries a reason.
type Say struct {
	State  string // compliant, fail, unknown, note
	Reason string // "" with compliant
}

// UnmarshalText reads "fail key-disabled".
func (s *Say) UnmarshalText(b []byte) error {
	s.State, s.Reason, _ = strings.Cut(string(b), " ")
	if !slices.Contains([]string{"compliant", "fail", "unknown", "note"}, s.State) || (s.State == "compliant") != (s.Reason == "") {
		return fmt.Errorf("%q is not compliant, or one of fail, unknown and note with a reason", b)
	}
	return nil
}

func (s Say) String() string { return strings.TrimSpace(s.State + " " + s.Reason) }

// Case is one case of a row.
type Case struct {
	Row    string          `json:"-"`
	Name   string          `json:"name"`
	Base   string          `json:"base"`   // "" is snp
	Change json.RawMessage `json:"change"` // a merge patch on the base's estate
	Set    map[string]any  `json:"set"`    // values by JSON pointer, after Change
	Drop   []string        `json:"drop"`   // JSON pointers of what is taken away, last
	Policy json.RawMessage `json:"policy"` // a merge patch on the policy document, none for the assumed policy
	At     time.Time       `json:"at"`     // when it is judged, zero for Now
	Orphan bool            `json:"orphan"` // judge the OS disk alone, as one that no VM holds
	// What must come of it, and nothing else beside passes without a reason.
	Verdict  string    `json:"verdict"`
	Findings []Finding `json:"-"`
	Says     map[string]lines
}

// Finding is one finding that a case expects.
type Finding struct {
	Rule, State, Reason, Class string
}

func (f Finding) String() string {
	s := f.Rule + ": " + f.State + " " + f.Reason
	if f.Class != "" {
		s += ", " + f.Class
	}
	return s
}

// lines is a text or a list of texts.
type lines []string

// UnmarshalJSON takes either form.
func (l *lines) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = lines{""}
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

var loaded = sync.OnceValues(load)

// Load reads the table. What it gives is shared: don't change it.
func Load() (*Table, error) { return loaded() }

// Cases are all cases, in the order of the rows.
func (t *Table) Cases() []Case {
	var out []Case
	for _, s := range t.Sections {
		for _, r := range s.Rows {
			out = append(out, r.Cases...)
		}
	}
	return out
}

// about is bases.yaml.
type about struct {
	Groups    map[string][]string        `json:"groups"` // names for several rules
	Certainty map[string]string          `json:"certainty"`
	Sources   []Source                   `json:"sources"`
	Bases     map[string]json.RawMessage `json:"bases"`
}

var readAbout = sync.OnceValues(func() (about, error) {
	var a about
	err := readYAML("bases.yaml", &a)
	return a, err
})

func load() (*Table, error) {
	a, err := readAbout()
	if err != nil {
		return nil, err
	}
	t := &Table{Sources: a.Sources, Certainty: a.Certainty}
	entries, err := files.ReadDir("rows")
	if err != nil {
		return nil, fmt.Errorf("reading the truth table: %w", err)
	}
	for _, e := range entries {
		var s Section
		if err := readYAML("rows/"+e.Name(), &s); err != nil {
			return nil, err
		}
		for i := range s.Rows {
			if err := s.Rows[i].complete(a); err != nil {
				return nil, fmt.Errorf("%s, row %s: %w", e.Name(), s.Rows[i].Row, err)
			}
		}
		t.Sections = append(t.Sections, s)
	}
	return t, nil
}

// readYAML reads a file into v by way of JSON, so that a merge patch stays the
// text that it is. A member that v lacks is an error.
func readYAML(name string, v any) error {
	b, err := files.ReadFile(name)
	if err == nil {
		b, err = yaml.YAMLToJSON(b)
	}
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		err = dec.Decode(v)
	}
	if err != nil {
		return fmt.Errorf("reading %s of the truth table: %w", name, err)
	}
	return nil
}

// complete fills in what follows from the rest and refuses what isn't whole.
func (r *Row) complete(a about) error {
	if r.When == "" || len(r.Says) == 0 || r.Source == "" || len(r.Cases) == 0 {
		return fmt.Errorf("it lacks its condition, its findings, its source or a case")
	}
	for _, letter := range strings.Fields(r.Certainty) {
		if a.Certainty[letter] == "" {
			return fmt.Errorf("certainty %q is none of the letters", letter)
		}
	}
	seen := map[string]bool{}
	for i := range r.Cases {
		c := &r.Cases[i]
		c.Row = r.Row
		if c.Name == "" || c.Verdict == "" || seen[c.Name] {
			return fmt.Errorf("case %q lacks its name or its verdict, or is there twice", c.Name)
		}
		seen[c.Name] = true
		if c.Base == "" {
			c.Base = "snp"
		}
		if c.At.IsZero() {
			c.At = Now
		}
		if err := c.findings(a.Groups); err != nil {
			return fmt.Errorf("case %q: %w", c.Name, err)
		}
		for _, f := range c.Findings {
			if r.stands(f) {
				r.Rules = appendNew(r.Rules, f.Rule)
				r.Classes = appendNew(r.Classes, f.Class)
			}
		}
	}
	return nil
}

// stands says whether a finding is one that the row stands for.
func (r *Row) stands(f Finding) bool {
	state := f.State
	if state == "pass" {
		state = "note"
	}
	return slices.Contains(r.Says, Say{state, f.Reason})
}

// findings turns "rule rule: state reason, class" into findings.
func (c *Case) findings(groups map[string][]string) error {
	for _, names := range slices.Sorted(maps.Keys(c.Says)) {
		var rules []string
		for _, name := range strings.Fields(names) {
			if group, ok := strings.CutPrefix(name, "all-"); ok {
				if groups[group] == nil {
					return fmt.Errorf("there is no group %q", group)
				}
				rules = append(rules, groups[group]...)
				continue
			}
			rules = append(rules, name)
		}
		for _, line := range c.Says[names] {
			said, class, _ := strings.Cut(line, ", ")
			state, reason, ok := strings.Cut(said, " ")
			if !ok || !slices.Contains([]string{"pass", "fail", "unknown"}, state) {
				return fmt.Errorf("%q is not a state and a reason", line)
			}
			for _, rule := range rules {
				c.Findings = append(c.Findings, Finding{rule, state, reason, class})
			}
		}
	}
	return nil
}

func appendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
