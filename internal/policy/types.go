package policy

import (
	"time"

	"cvmguard/internal/cvm"
)

// Severity of a finding.
type Severity string

// The severities.
const (
	Info     Severity = "info"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Class is the remedy class: what it takes to put a finding right.
type Class string

// The classes, weakest first. ClassNone is for findings that need no remedy.
const (
	ClassNone         Class = ""
	InPlace           Class = "in-place"
	NeedsDeallocation Class = "needs-deallocation"
	NeedsRecreate     Class = "needs-recreate"
	NeedsPerson       Class = "needs-person"
)

// Effect is what policy lets be done about a rule.
type Effect string

// The effects. Audit reports, Enforce plans steps, Quarantine plans the
// quarantine step too, Off leaves the rule out (state not-asked).
const (
	EffectOff        Effect = "off"
	EffectAudit      Effect = "audit"
	EffectEnforce    Effect = "enforce"
	EffectQuarantine Effect = "quarantine"
)

// Finding is one rule's word on one object. A rule with several reasons has
// several findings.
type Finding struct {
	Rule     string    `json:"rule"`
	State    cvm.State `json:"state"`
	Severity Severity  `json:"severity"`
	Reason   string    `json:"reason"`          // one code of the truth table, "" if none
	Text     string    `json:"text"`            // one sentence for a person
	Facts    []string  `json:"facts,omitempty"` // names of the facts that it rests on
	Class    Class     `json:"class,omitempty"`
	Object   string    `json:"object,omitempty"` // which shared object is at fault: the DES's or vault's ARM id or the versionless key URL; "" for the VM itself
	Action   string    `json:"action,omitempty"` // the missing Azure action
	Doc      string    `json:"doc,omitempty"`
	// Exemption is why the state is exempt, nil for any other state.
	Exemption *ExemptionUse `json:"exemption,omitempty"`
}

// ExemptionUse is an exemption as it left a finding out.
type ExemptionUse struct {
	Owner  string    `json:"owner"`
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"`           // the finding counts again from this moment on
	From   string    `json:"from"`            // FromPolicy or FromTag
	SetBy  string    `json:"setBy,omitempty"` // object id of who set the tag
}

// Where an exemption comes from.
const (
	FromPolicy = "policy"
	FromTag    = "tag"
)

// Value of a verdict.
type Value string

// The verdicts, in the order in which the first that holds is taken.
const (
	Gone         Value = "gone"
	NotACVM      Value = "not-a-cvm"
	NonCompliant Value = "non-compliant"
	Unknown      Value = "unknown"
	Compliant    Value = "compliant"
)

// Verdict is the judge's word on one object at one moment.
type Verdict struct {
	Value      Value     `json:"value"`
	Kind       cvm.Kind  `json:"kind,omitempty"`
	TEE        cvm.TEE   `json:"tee,omitempty"`
	Why        string    `json:"why,omitempty"` // for not-a-cvm
	Findings   []Finding `json:"findings"`
	PolicyHash string    `json:"policyHash"`
	At         time.Time `json:"at"`
}
