package policy

import (
	_ "embed"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

//go:embed scenario.schema.json
var scenarioSchemaJSON []byte

var scenarioShape = sync.OnceValues(func() (*shape, error) {
	var s shape
	if err := strictly(scenarioSchemaJSON, &s); err != nil {
		return nil, fault.New(fault.Bug, "reading the scenarios' schema", "scenario.schema.json", "%w", err)
	}
	return &s, nil
})

// Scenario is a test of a policy: what is given, and what the policy is expected to
// say of it.
type Scenario struct {
	Name   string        `json:"name"`
	Policy string        `json:"policy"` // a path, or a document of several lines; "" where the caller gives it
	At     time.Time     `json:"-"`
	Given  Given         `json:"given"`
	Expect []Expectation `json:"expect"`
}

// Given is where a scenario's bodies are, and what no body shows.
type Given struct {
	Dir    string             `json:"dir"`
	Files  []string           `json:"files"`
	Bodies []json.RawMessage  `json:"bodies"`
	VMs    map[string]VMFacts `json:"vms"` // by name or ARM id
}

// VMFacts are facts of a VM that no body shows.
type VMFacts struct {
	Attestation       string `json:"attestation"` // pass, fail, not-collected; "" where nobody has asked the guest
	AttestationReason string `json:"attestationReason"`
	FDE               string `json:"fde"` // what the guest says of its root: sealed, plain, …; "" where that isn't known
	Rights            *struct {
		DESIdentity  []string `json:"desIdentity"`
		Orchestrator []string `json:"orchestrator"`
	} `json:"rights"`
	TagSetBy []string `json:"tagSetBy"`
}

// Expectation is what a policy is expected to say of one VM: what is named must be
// so, what isn't is not asked.
type Expectation struct {
	VM       string            `json:"vm"`
	Verdict  Value             `json:"verdict"`
	Findings []ExpectedFinding `json:"findings"`
	Only     bool              `json:"only"` // nothing else fails, is unknown or is planned
	Plan     []string          `json:"plan"`
}

// ExpectedFinding is a finding's rule, and its state and reason where they matter.
type ExpectedFinding struct {
	Rule   string    `json:"rule"`
	State  cvm.State `json:"state"`
	Reason string    `json:"reason"`
}

// IsDocument says whether a YAML text is meant as a policy document: it has a
// schemaVersion.
func IsDocument(text []byte) bool {
	root, ok := readYAML(text).root.(map[string]any)
	_, has := root["schemaVersion"]
	return ok && has
}

// ParseScenario reads a scenario, YAML or JSON. Its error is fault.Invalid around a
// *ParseError that lists every fault with line and column.
func ParseScenario(text []byte) (*Scenario, error) {
	t := readYAML(text)
	if len(t.faults) == 0 || t.root != nil {
		if err := t.against(scenarioShape); err != nil {
			return nil, err
		}
		t.meaningOfScenario()
	}
	var s *Scenario
	if len(t.faults) == 0 {
		s = t.scenario()
	}
	if len(t.faults) > 0 {
		return nil, &fault.Error{Kind: fault.Invalid, Op: "reading the scenario", Err: &ParseError{Faults: t.sorted()}, Next: "correct the places named"}
	}
	return s, nil
}

func (t *tree) scenario() *Scenario {
	var raw struct {
		Scenario
		At string `json:"at"`
	}
	b, err := json.Marshal(t.root)
	if err == nil {
		err = json.Unmarshal(b, &raw)
	}
	if err == nil {
		raw.Scenario.At, err = time.Parse(time.RFC3339, raw.At)
	}
	if err != nil {
		t.faults = append(t.faults, Fault{Text: "the scenario can't be read: " + err.Error()})
		return nil
	}
	return &raw.Scenario
}

// meaningOfScenario checks what the schema can't say.
func (t *tree) meaningOfScenario() {
	root, _ := t.root.(map[string]any)
	if at, ok := root["at"].(string); ok && at != "" {
		if _, err := time.Parse(time.RFC3339, at); err != nil {
			t.at([]string{"at"}, false, "%q is not a time such as 2026-06-01T00:00:00Z", cut(at))
		}
	}
	if given, ok := root["given"].(map[string]any); ok && len(given) > 0 && given["dir"] == nil && given["files"] == nil && given["bodies"] == nil {
		t.at([]string{"given"}, true, "no body is given: name a dir or files, or write bodies")
	}
	given, _ := root["given"].(map[string]any)
	vms, _ := given["vms"].(map[string]any)
	for name, v := range vms {
		facts, _ := v.(map[string]any)
		if proof := facts["attestation"]; facts["fde"] != nil && (proof == nil || proof == "not-collected") {
			t.at([]string{"given", "vms", name, "fde"}, false, "the guest's word comes with its evidence; write attestation: pass or fail beside it")
		}
	}
	list, _ := root["expect"].([]any)
	for i, e := range list {
		expect, _ := e.(map[string]any)
		path := []string{"expect", strconv.Itoa(i)}
		if len(expect) > 0 && expect["verdict"] == nil && expect["findings"] == nil && expect["plan"] == nil && expect["only"] == nil {
			t.at(path, true, "nothing is expected: name a verdict, findings, or a plan")
		}
		findings, _ := expect["findings"].([]any)
		for j, f := range findings {
			finding, _ := f.(map[string]any)
			id, ok := finding["rule"].(string)
			if _, known := RuleByID(id); ok && id != "" && !known {
				t.at([]string{path[0], path[1], "findings", strconv.Itoa(j), "rule"}, false, "there is no rule %q%s", cut(id), didYouMean(id, ruleIDs()))
			}
		}
	}
}

// Inline says whether Policy is a document itself.
func (s *Scenario) Inline() bool { return strings.Contains(strings.TrimSpace(s.Policy), "\n") }
