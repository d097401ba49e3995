package ledger

import (
	"maps"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// Bounds of what a row holds.
const (
	MaxCauses  = 16
	MaxPending = 32
)

// Row is the present state of one object, a VM (table vms) or a shared object
// (table shared): an index over its records, and what the loop needs to go on.
// The zero value of every field means "none yet". Columns are text and named in
// columns of rowcodec.go; a time is written by TimeText.
type Row struct {
	PK, RK string
	ETag   string // "" for a row that isn't in the table yet

	ID         string         // ARM id, key URL or region id, as read
	SharedKind cvm.SharedKind // "" for a VM

	// The claim.
	Owner     string    // who holds it, "" when released
	LeaseEnds time.Time // of Owner
	Again     bool      // somebody wants another look after the present one
	Followed  string    // the lease (owner) for which a follower is queued

	// Why it is looked at next, and what evidence is asked for.
	Causes         []Cause
	EvidenceWanted time.Time         // the newest moment for which evidence is asked
	Pending        []PendingEvidence // came in by push, not judged yet

	// What the last state record said.
	UniqueID       string // ARM vmId
	Verdict        policy.Value
	Kind           cvm.Kind
	TEE            cvm.TEE
	Region         string
	DES            cvm.DESID // lower case
	Key            cvm.KeyID // without version, lower case
	Vault          string    // host, lower case
	Findings       []RowFinding
	Plan           []RowStep
	Attestation    *cvm.Attestation
	PolicyHash     string
	StateHash      string    // Record.StateHash of it
	CompliantSince time.Time // zero unless Verdict is compliant
	GoneSince      time.Time // first 404
	// TransitionSince is since when the object is seen to be changed by somebody,
	// zero when it isn't.
	TransitionSince time.Time
	Development     bool

	// What is being done.
	NextLook time.Time
	Step     *OpenStep
	Sends    map[string][]time.Time // loop guard: by SendKey, when calls were sent
	Hold     map[string]time.Time   // by SendKey: a step that failed isn't sent again before

	// Set is, by SendKey, what cvmguard last brought about there, to know it again
	// when others change it back.
	Set map[string]SetValue
	// Stopped are, by SendKey, steps that are not taken until a person says so.
	Stopped map[string]cvm.Contest
	// TagSetter is who set the exemption tag, once it was found out.
	TagSetter *cvm.Fact[cvm.TagSetter]
	// Braked says which brake holds the object's steps, "" for none.
	Braked string
	// Shadow is the verdict of the shadow policy, "" where none is set.
	Shadow policy.Value
	// WouldBeRefused is what the policy's Azure Policy initiative would have refused.
	WouldBeRefused []azurepolicy.Refusal
	// Operation is how far an approved plan has come; nil for any other object.
	Operation *OperationState

	// The chain's head.
	HeadSeq  int
	HeadHash string

	LastEvent   string // id of the newest event
	LastEventAt time.Time
	LastSeen    time.Time // when a turn last read the object
	LastError   string    // why the last turn failed, "" once one has succeeded

	// Cut names the columns that were too long for the row and hold a part only
	// (findings, plan, attestation). The record has the whole.
	Cut []string
	// Extra holds columns of a newer version of this program, kept as they are.
	Extra map[string]string
}

// OpenStep is the step under way: its intent is recorded, its outcome isn't.
type OpenStep struct {
	Step      remedy.Step `json:"step"`
	Intent    int         `json:"intent"`              // sequence number of the intent record
	Record    string      `json:"record"`              // its name
	Token     string      `json:"token,omitempty"`     // resume token, "" if none was stored
	NonceHash string      `json:"nonceHash,omitempty"` // collect-evidence: the nonce's row
	Blob      string      `json:"blob,omitempty"`      // collect-evidence: in container incoming
	Started   time.Time   `json:"started,omitzero"`
}

// SetValue is an effect that cvmguard brought about.
type SetValue struct {
	Value string `json:"value"` // fingerprint of the step's kind, target and arguments
	// At is when it was brought about last, zero once it was counted as changed back.
	At    time.Time `json:"at,omitzero"`
	Backs int       `json:"backs"` // how often others changed it back since
}

// OperationState is where an operation stands: what its people said and how many
// of its steps are done.
type OperationState struct {
	Approved   time.Time `json:"approved,omitzero"`
	ApprovedBy string    `json:"approvedBy,omitempty"`
	Paused     bool      `json:"paused,omitempty"`
	Stopped    bool      `json:"stopped,omitempty"` // given up: its undo has taken its place
	// Void says why it was refused for good: what its plan was made for isn't there any
	// more. It ends as a stopped one does.
	Void   string    `json:"void,omitempty"`
	SaidAt time.Time `json:"saidAt,omitzero"` // of the newest word of a person
	SaidBy string    `json:"saidBy,omitempty"`
	Done   int       `json:"done"` // steps done, in the plan's order
	// Ahead are steps beyond those that are done all the same, by number from 1: the
	// start of a VM doesn't wait for that of another which failed.
	Ahead []int `json:"ahead,omitempty"`
}

// PendingEvidence is a pushed bundle that waits to be judged.
type PendingEvidence struct {
	Nonce  string `json:"nonce"`  // hex SHA-256 of the nonce
	Bundle string `json:"bundle"` // hex SHA-256 of the bundle, under evidence/
}

// RowFinding is a finding in short.
type RowFinding struct {
	Rule     string          `json:"rule"`
	State    cvm.State       `json:"state"`
	Reason   string          `json:"reason,omitempty"`
	Severity policy.Severity `json:"severity,omitempty"`
	Class    policy.Class    `json:"class,omitempty"`
	Object   string          `json:"object,omitempty"`
}

// RowStep is a planned step in short.
type RowStep struct {
	Step  remedy.Kind      `json:"step"`
	Class policy.Class     `json:"class"`
	State remedy.StepState `json:"state"`
}

// Clone is a copy whose maps and slices can be changed without touching r.
func (r *Row) Clone() Row {
	c := *r
	c.Causes, c.Pending, c.Cut = slices.Clone(r.Causes), slices.Clone(r.Pending), slices.Clone(r.Cut)
	c.Sends, c.Hold, c.Extra = maps.Clone(r.Sends), maps.Clone(r.Hold), maps.Clone(r.Extra)
	for k, v := range c.Sends {
		c.Sends[k] = slices.Clone(v)
	}
	if r.Step != nil {
		step := *r.Step
		c.Step = &step
	}
	c.Set, c.Stopped = maps.Clone(r.Set), maps.Clone(r.Stopped)
	if r.Operation != nil {
		op := *r.Operation
		op.Ahead = slices.Clone(op.Ahead)
		c.Operation = &op
	}
	if r.TagSetter != nil {
		setter := *r.TagSetter
		c.TagSetter = &setter
	}
	return c
}

// Chain is the key of the object's chain, and of a VM in URLs.
func (r *Row) Chain() string { return ChainKey(r.PK, r.RK) }

// Table is the table that the row belongs in.
func (r *Row) Table() string {
	if r.SharedKind == "" {
		return TableVMs
	}
	return TableShared
}

// Held says whether somebody's lease holds the object at a moment.
func (r *Row) Held(now time.Time) bool { return r.Owner != "" && now.Before(r.LeaseEnds) }

// MergeCause adds a cause. One of the same kind, id and nonce is already there
// when an event comes twice: then the later time and Fresh are kept. A fresh
// cause brings EvidenceWanted forward to its time. Of more than MaxCauses the
// oldest go, those that carry neither a nonce nor Fresh first.
func (r *Row) MergeCause(c Cause) {
	c.At = c.At.UTC().Round(0)
	if c.Fresh && c.At.After(r.EvidenceWanted) {
		r.EvidenceWanted = c.At
	}
	for i, old := range r.Causes {
		if old.Kind != c.Kind || old.ID != c.ID || old.Nonce != c.Nonce {
			continue
		}
		if old.At.After(c.At) {
			c.At = old.At
		}
		c.Fresh = c.Fresh || old.Fresh
		if c.By == "" {
			c.By = old.By
		}
		r.Causes[i] = c
		return
	}
	r.Causes = append(r.Causes, c)
	for len(r.Causes) > MaxCauses {
		at := max(0, slices.IndexFunc(r.Causes[:len(r.Causes)-1], func(c Cause) bool { return c.Nonce == "" && !c.Fresh }))
		r.Causes = slices.Delete(r.Causes, at, at+1)
	}
}

// AddPending notes a pushed bundle; one that is there already stays once. Of
// more than MaxPending the oldest go.
func (r *Row) AddPending(p PendingEvidence) {
	if !slices.Contains(r.Pending, p) {
		r.Pending = append(r.Pending, p)
	}
	if n := len(r.Pending); n > MaxPending {
		r.Pending = slices.Clone(r.Pending[n-MaxPending:])
	}
}

// SendKey names a step for the loop guard: its kind and target.
func SendKey(s remedy.Step) string { return string(s.Kind) + " " + strings.ToLower(s.Target) }

// Sent notes that a step's call is about to be sent and forgets sends that are
// older than a window (24 h).
func (r *Row) Sent(s remedy.Step, now time.Time, window time.Duration) {
	for key, times := range r.Sends {
		times = slices.DeleteFunc(slices.Clone(times), func(t time.Time) bool { return now.Sub(t) >= window })
		if len(times) == 0 {
			delete(r.Sends, key)
			continue
		}
		r.Sends[key] = times
	}
	if r.Sends == nil {
		r.Sends = map[string][]time.Time{}
	}
	r.Sends[SendKey(s)] = append(r.Sends[SendKey(s)], now.UTC().Round(0))
}

// StepsWithin is when calls of any step were sent in the window before now, the
// oldest first. Those that change nothing aren't counted.
func (r *Row) StepsWithin(now time.Time, window time.Duration) []time.Time {
	var all []time.Time
	for key, times := range r.Sends {
		if kind, _, _ := strings.Cut(key, " "); !remedy.Kind(kind).Changes() {
			continue
		}
		for _, t := range times {
			if now.Sub(t) < window {
				all = append(all, t)
			}
		}
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

// SentWithin is how often a step's call was sent in the window before now.
func (r *Row) SentWithin(s remedy.Step, now time.Time, window time.Duration) int {
	n := 0
	for _, t := range r.Sends[SendKey(s)] {
		if now.Sub(t) < window {
			n++
		}
	}
	return n
}

// SetJudgement takes verdict and plan over from what is recorded at a moment.
func (r *Row) SetJudgement(v policy.Verdict, p remedy.Plan, at time.Time) {
	if v.Value != policy.Compliant {
		r.CompliantSince = time.Time{}
	} else if r.Verdict != policy.Compliant || r.CompliantSince.IsZero() {
		r.CompliantSince = at.UTC().Round(0)
	}
	r.Verdict, r.Kind, r.TEE, r.PolicyHash = v.Value, v.Kind, v.TEE, v.PolicyHash
	r.Findings, r.Plan = nil, nil
	for _, f := range v.Findings {
		r.Findings = append(r.Findings, RowFinding{Rule: f.Rule, State: f.State, Reason: f.Reason, Severity: f.Severity, Class: f.Class, Object: f.Object})
	}
	for _, s := range p.Steps {
		r.Plan = append(r.Plan, RowStep{Step: s.Kind, Class: s.Class, State: s.State})
	}
	r.Cut = slices.DeleteFunc(r.Cut, func(col string) bool { return col != "attestation" })
}

// TakeAside takes over what a record says beside the verdict: the shadow policy's,
// and what Azure Policy would have refused.
func (r *Row) TakeAside(rec Record) {
	r.Shadow, r.WouldBeRefused = "", rec.WouldBeRefused
	if rec.Shadow != nil {
		r.Shadow = rec.Shadow.Value
	}
}

// HoldUntil holds back a step that failed until a time. The zero time holds back
// nothing: the step was stopped by a brake, which is the one to let it go.
func (r *Row) HoldUntil(s remedy.Step, until time.Time) {
	if until.IsZero() {
		return
	}
	if r.Hold == nil {
		r.Hold = map[string]time.Time{}
	}
	r.Hold[SendKey(s)] = until
}

// SetAttestation takes a judged bundle's outcome over.
func (r *Row) SetAttestation(a *cvm.Attestation) {
	r.Attestation = a
	r.Cut = slices.DeleteFunc(r.Cut, func(col string) bool { return col == "attestation" })
}
