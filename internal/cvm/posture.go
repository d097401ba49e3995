package cvm

import "time"

// Fact is one thing that was read, or the reason why it was not. The zero value
// is "not read, no reason given", which judges as unknown, never as a pass.
type Fact[T any] struct {
	Known  bool    `json:"known"`
	Value  T       `json:"value,omitzero"`
	ETag   string  `json:"etag,omitempty"`   // version that it was read at, "" where the service gives none
	Why    Unknown `json:"why,omitzero"`     // set when !Known
	Absent bool    `json:"absent,omitempty"` // the service said 404 (Known is false)
}

// Unknown is why a fact isn't known.
type Unknown struct {
	Code   string `json:"code,omitempty"`   // a reason code of the truth table, e.g. "key-unreadable"
	Action string `json:"action,omitempty"` // the missing Azure action, if that is the cause
	Detail string `json:"detail,omitempty"` // one sentence
}

// Known makes a known fact.
func Known[T any](v T) Fact[T] { return Fact[T]{Known: true, Value: v} }

// NotRead makes an unknown fact.
func NotRead[T any](code, action, detail string) Fact[T] {
	return Fact[T]{Why: Unknown{Code: code, Action: action, Detail: detail}}
}

// NotThere makes a fact for what the service answered 404 to.
func NotThere[T any]() Fact[T] { return Fact[T]{Absent: true} }

// Posture is all that is known of one VM at one moment. It separates what Azure
// says (ARM), what the key plane says, what the guest proved and what it merely
// claims; a rule names which of them it rests on.
type Posture struct {
	ID   VMID     `json:"id"`
	Gone bool     `json:"gone,omitempty"` // ARM said 404 twice
	VM   Fact[VM] `json:"vm"`

	// ARM. OSDisk of an ephemeral OS disk is the zero Fact with code "ephemeral-os".
	OSDisk    Fact[Disk]      `json:"osDisk"`
	DES       Fact[DES]       `json:"des"`      // the confidential one of the OS disk; zero if the VM names none
	DESDisks  Fact[[]Disk]    `json:"desDisks"` // the disks that hang on DES; read only when a rule needs them, code "not-asked" otherwise
	DataDisks []DataDiskFacts `json:"dataDisks,omitempty"`
	// TakenDown says that cvmguard itself sent a deallocation of this VM lately, by
	// its own books: a tag alone, which others may write, proves nothing.
	TakenDown  bool `json:"takenDown,omitempty"`
	SecondLook bool `json:"secondLook,omitempty"` // VM and OS disk were read twice (rows 24 to 26)

	// The key plane.
	Key    Fact[Key]    `json:"key"`
	Vault  Fact[Vault]  `json:"vault"`
	Rights Fact[Rights] `json:"rights"` // code "not-asked" if it was not read on purpose

	// The guest. Asked is false where nobody can ask it (`check`): then rules on
	// attestation, extensions, agent and temp disk are not-asked.
	GuestAsked  bool              `json:"guestAsked"`
	Attestation Fact[Attestation] `json:"attestation"` // what it proved; code "evidence-not-collected" if nothing came yet
	EvidenceDue bool              `json:"evidenceDue"` // worked out by the loop from the moment for which evidence is wanted
	Claims      Fact[GuestClaims] `json:"claims"`      // what it merely says; code "evidence-not-collected" if no evidence vouches for it

	// TagSetter is who set the tag by which policy lets a VM be exempt; code
	// "not-asked" where the VM has no such tag or policy knows none.
	TagSetter Fact[TagSetter] `json:"tagSetter,omitzero"`
	// Contested are steps whose effect others keep undoing.
	Contested []Contest `json:"contested,omitempty"`

	// AllowDevelopment is true in a local world only: an attestation that was made
	// with other roots than the vendors' then counts. The zero value refuses it.
	AllowDevelopment bool `json:"allowDevelopment,omitempty"`
}

// DataDiskFacts is one data disk, with its disk encryption set if it names one.
type DataDiskFacts struct {
	Ref  DataDiskRef `json:"ref"`
	Disk Fact[Disk]  `json:"disk"`
	DES  Fact[DES]   `json:"des"`
}

// TagSetter is who wrote a tag's value, by the Activity Log: a write event of the
// VM or of its tags at or after which the value was first seen.
type TagSetter struct {
	Tag       string    `json:"tag"`
	Value     string    `json:"value"`     // as it was when the log was read; another value asks anew
	Principal string    `json:"principal"` // object id, lower case
	At        time.Time `json:"at"`        // of the write
	Event     string    `json:"event"`     // the log's event data id
	// The log doesn't say which tag a write changed, so everybody counts who wrote
	// the VM or its tags since the tag's value was last seen absent or different.
	Since  time.Time `json:"since,omitzero"`   // since when
	Others []string  `json:"others,omitempty"` // who else, object ids in lower case, "" for one that the log doesn't name
	// For the object's row alone: when the value was last seen so, and when the log
	// is to be read (again).
	Seen time.Time `json:"seen,omitzero"`
	Next time.Time `json:"next,omitzero"`
}

// Write is one write of a VM or of its tags, by the Activity Log. The log doesn't
// say what it changed.
type Write struct {
	Principal string    // object id in lower case, "" where the log names none
	At        time.Time // of the event
	Event     string    // the log's event data id
	Done      bool      // it succeeded; else it was begun, or failed, and may have had its effect
}

// Contest is a value that cvmguard set and that others changed back: the step is
// no longer taken until a person says so.
type Contest struct {
	Step  string    `json:"step"`   // its kind
	On    string    `json:"target"` // its target
	Times int       `json:"times"`  // how often the value was changed back
	Since time.Time `json:"since"`  // when the step was stopped
	Why   string    `json:"why"`    // "changed-back" or "undone"
}

// SharedKind is the kind of an object that VMs share.
type SharedKind string

// The shared kinds.
const (
	SharedDES    SharedKind = "des"
	SharedKey    SharedKind = "key"
	SharedVault  SharedKind = "vault"
	SharedRegion SharedKind = "region"
	// SharedOperation is a plan that a person approved: <subscription>/operations/<hash>.
	SharedOperation SharedKind = "operation"
)

// SharedPosture is all that is known of one shared object. Fields that the kind
// does not call for are zero.
type SharedPosture struct {
	Kind     SharedKind   `json:"kind"`
	ID       string       `json:"id"` // ARM id, versionless key URL, or <subscription>/regions/<region>
	Region   string       `json:"region,omitempty"`
	Gone     bool         `json:"gone,omitempty"`
	DES      Fact[DES]    `json:"des"`
	DESDisks Fact[[]Disk] `json:"desDisks"`
	Key      Fact[Key]    `json:"key"`
	Vault    Fact[Vault]  `json:"vault"`
	Rights   Fact[Rights] `json:"rights"`
	// Contested is as in Posture.
	Contested []Contest `json:"contested,omitempty"`
}

// Rights is who may do what with a key: of the principals that matter.
type Rights struct {
	// Model is "rbac", "access-policies" or "hsm-local".
	Model string `json:"model"`
	// DESIdentity and Orchestrator list the key operations granted to each, lower
	// case: get wrapkey unwrapkey release. Orchestrator is meaningful only when
	// OrchestratorKnown (policy names its object id).
	DESIdentity       []string `json:"desIdentity"`
	Orchestrator      []string `json:"orchestrator,omitempty"`
	OrchestratorKnown bool     `json:"orchestratorKnown,omitempty"`
	// OrchestratorMissing is set when the directory says that the principal which
	// policy names isn't in the tenant (row 71).
	OrchestratorMissing bool `json:"orchestratorMissing,omitempty"`
	// OtherUnwrap are principals beside the DES identity that may unwrap (row 73a).
	OtherUnwrap []string `json:"otherUnwrap,omitempty"`
}

// Attestation is the outcome of judging one evidence bundle: the proof side of
// a posture, as it stands in the record and in the row.
type Attestation struct {
	MAA      Outcome `json:"maa"`
	Evidence Outcome `json:"evidence"`
	Checks   []Check `json:"checks"` // in the order they were made

	Bundle      string    `json:"bundle"`          // SHA-256 of the bundle's bytes, hex
	Token       string    `json:"token,omitempty"` // SHA-256 of MAA's token, hex; the token itself is under evidence/
	NonceIssued time.Time `json:"nonceIssued"`
	JudgedAt    time.Time `json:"judgedAt"`
	Way         string    `json:"way"`                   // "arm" or "push": how the nonce went out
	Kind        string    `json:"kind"`                  // snp, tdx, trustedlaunch
	Development bool      `json:"development,omitempty"` // a root that isn't the vendor's was used

	// What was proven, for rules and for later comparison.
	SecureBoot   *bool             `json:"secureBoot,omitempty"`   // runtime data, hardware-bound
	TPMPersisted *bool             `json:"tpmPersisted,omitempty"` // runtime data, hardware-bound
	PCRs         map[string]string `json:"pcrs,omitempty"`         // index -> hex, as quoted
	AK           string            `json:"ak,omitempty"`           // SHA-256 of the AK's modulus, hex
	ResetCount   uint32            `json:"resetCount,omitempty"`
	Measurement  string            `json:"measurement,omitempty"` // launch measurement or MRTD, hex

	// Changed are the PCRs that differ from what was proven before, Before is that
	// where this attestation proves nothing itself: filled in by Follow.
	Changed []PCRChange `json:"changed,omitempty"`
	Before  *Measured   `json:"before,omitempty"`

	// Claims is what the guest said in the same bundle: bound to it, proven by
	// nothing. Rules read it as Posture.Claims.
	Claims *GuestClaims `json:"claims,omitempty"`
}

// State of a finding, a check or an attestation outcome.
type State string

// The states. A finding uses all of them, an Outcome the first three and
// NotApplicable.
const (
	Pass          State = "pass"
	Fail          State = "fail"
	UnknownState  State = "unknown"
	Exempt        State = "exempt"
	NotApplicable State = "not-applicable"
	NotAsked      State = "not-asked"
)

// Outcome is a state with one reason code, "" if there is none.
type Outcome struct {
	State  State  `json:"state"`
	Reason string `json:"reason"`
}

// Check is one numbered check of a verifier: S8, Q4, M9 ….
type Check struct {
	ID     string `json:"id"`
	Kind   string `json:"kind"` // "V" verify (genuine?) or "P" validate (wanted?)
	State  State  `json:"state"`
	Code   string `json:"code,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// Claims is what the guest says of itself, bound to the quote and proven by
// nothing. Members are those of the bundle's `guest` object, kept as they came.
type Claims map[string]any
