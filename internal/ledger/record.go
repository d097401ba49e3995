package ledger

import (
	"encoding/json"
	"time"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// RecordSchema names the record's format.
const RecordSchema = "cvmguard.dev/record/v1"

// Record is one immutable entry of an object's chain: blob
// records/<pk>-<rk>/<seq, 8 digits>.json, written with If-None-Match: *. Its hash
// is the SHA-256 of the blob's bytes; Previous is that of the record before.
type Record struct {
	Schema   string    `json:"schema"`
	Object   string    `json:"object"`   // ARM id, key URL or region id, as read
	Chain    string    `json:"chain"`    // <pk>-<rk>
	Seq      int       `json:"seq"`      // 1 is the first
	Previous string    `json:"previous"` // hex; "" for the first
	At       time.Time `json:"at"`
	Type     string    `json:"type"` // state, intent, outcome
	Causes   []Cause   `json:"causes,omitempty"`
	Version  string    `json:"version"` // of cvmguard
	Policy   string    `json:"policy"`  // hash of the policy in force
	Mode     string    `json:"mode"`

	// type state and intent: what was seen, judged and planned.
	Posture json.RawMessage `json:"posture,omitempty"`
	Verdict *policy.Verdict `json:"verdict,omitempty"`
	Plan    *remedy.Plan    `json:"plan,omitempty"`
	// Attestation as it stood, also inside the posture of a VM.
	Attestation *cvm.Attestation `json:"attestation,omitempty"`

	// type intent and outcome.
	Step    *remedy.Step `json:"step,omitempty"`
	Intent  int          `json:"intent,omitempty"` // an outcome's intent: its seq
	Outcome *Outcome     `json:"outcome,omitempty"`

	// Shadow is the verdict of the shadow policy, which is never applied.
	Shadow *policy.Verdict `json:"shadow,omitempty"`
	// WouldBeRefused is what the policy's Azure Policy initiative would have refused of
	// a VM that is there all the same.
	WouldBeRefused []azurepolicy.Refusal `json:"wouldBeRefused,omitempty"`
	// Operation is how far an approved plan has come.
	Operation *OperationState `json:"operation,omitempty"`

	Development bool `json:"development,omitempty"` // made with endpoints or trust roots that aren't the vendors'
}

// Outcome is what became of a step.
type Outcome struct {
	State   remedy.StepState `json:"state"`          // done, failed, blocked
	Kind    string           `json:"kind,omitempty"` // fault kind
	Code    string           `json:"code,omitempty"`
	Error   string           `json:"error,omitempty"`
	Adopted bool             `json:"adopted,omitempty"` // the effect was found, not sent in this turn
	Bundle  string           `json:"bundle,omitempty"`  // collect-evidence: SHA-256 (hex) of what the guest brought
	// NotBefore is when a step that failed may be sent again.
	NotBefore time.Time `json:"notBefore,omitzero"`
}

// Cause is why an object was looked at.
type Cause struct {
	Kind  string    `json:"kind"`            // event, key-event, health, start, rerun, sweep, evidence, shared, look-again, rebuild, redrive
	At    time.Time `json:"at,omitzero"`     // the event's time, or when a person asked
	ID    string    `json:"id,omitempty"`    // event id or invocation id
	By    string    `json:"by,omitempty"`    // who asked, for reruns: a key's name or a principal, never a secret
	Nonce string    `json:"nonce,omitempty"` // evidence: hex SHA-256 of the nonce
	Fresh bool      `json:"fresh,omitempty"` // evidence is asked for anew from At on (creation is found out by the loop itself)
}

// FromEvent says whether the cause is an event of Azure's.
func (c Cause) FromEvent() bool {
	switch c.Kind {
	case "event", "start", "health", "key-event":
		return true
	}
	return false
}
