package policy

import (
	"time"

	"cvmguard/internal/cvm"
)

// The modes of a policy. Observe judges and plans but writes nothing to Azure.
const (
	ModeObserve = "observe"
	ModeEnforce = "enforce"
)

// Document is a policy in force. It is made by Parse or Embedded only, complete
// (what the text leaves out has its default) and never changed after.
type Document struct {
	// Hash is the hex SHA-256 of Source: it covers every byte, the mode included.
	Hash   string
	Source []byte

	Name string
	// Want says which VMs are wanted as confidential VMs.
	Want Want
	// Rules holds a setting for every rule of Rules().
	Rules map[string]Setting
	// Remedy says what may be done about a finding.
	Remedy Remedy
	// Regions is what policy wants ready, by the region's short name in lower case.
	Regions map[string]Region
	// OrchestratorObjectID is the object id of the service principal "Confidential
	// VM Orchestrator" in this tenant, "" if the document doesn't say; then its
	// rights are not asked for and no deallocation is planned.
	OrchestratorObjectID string
	// Authorities are attestation providers' URLs that release policies may name
	// beside Microsoft's shared ones.
	Authorities []string
	// Attestation says whether and how often guests are asked for evidence.
	Attestation Attestation
	// Brakes bound what is sent.
	Brakes Brakes
	// Exemptions are those that the document gives.
	Exemptions []Exemption
	// ExemptionTag says whether a VM's tag may exempt it, and who may set it.
	ExemptionTag ExemptionTag

	mode string
}

// Setting is what the document says of one rule.
type Setting struct {
	Effect Effect
	// MinBits is key-size's option: the smallest modulus that passes. Default 2048.
	MinBits int
	// Required is key-expiry's option: a key without an expiry date fails. Default false.
	Required bool
	// Near is key-expiry's option: an expiry within it is noted. Default 30 days.
	Near time.Duration
}

// Remedy is what may be done, each step by its own word. A step is planned only
// if its class is not above Allow and its word is true; else it is advice.
type Remedy struct {
	// Allow is the highest class that is carried out: InPlace (default) or NeedsDeallocation.
	Allow Class
	// On a VM and what is its alone.
	CollectEvidence         bool   // default true: PUT a managed Run Command that collects evidence
	InstallGuestAttestation bool   // default true
	EncryptTempDisk         bool   // default false: guest work by the disk encryption extension
	DeallocateForDataDisks  bool   // default false: deallocate, change data disks' encryption, start
	Tag                     bool   // default true: write the verdict into the VM's tags
	QuarantineTag           string // the tag that the effect quarantine writes; default "cvmguard-quarantine"
	// On what VMs share.
	DisableAutoRotation  bool // default true: PATCH of a disk encryption set's flag
	ReplaceReleasePolicy bool // default false: a mutable weak release policy is replaced
	GrantRights          bool // default false: rights of the set's identity and of the orchestrator
	EnsureRegionKey      bool // default true: make the key that Regions wants
	EnsureRegionDES      bool // default true: make the disk encryption set that Regions wants
}

// Region is what policy wants ready in one region, so that the next VM created
// there can comply.
type Region struct {
	Vault   string    // ARM id of the Key Vault (Premium) or Managed HSM
	Key     string    // the key's name in it
	KeyBits int       // 2048, 3072 (default) or 4096
	DES     cvm.DESID // the set of the confidential type for OS disks
	DataDES cvm.DESID // the ordinary set for data disks, "" if none is wanted
}

// Attestation says whether and how often guests are asked for evidence.
type Attestation struct {
	Asked  bool          // default true
	MaxAge time.Duration // older evidence is due again; default 24 h
}

// Brakes bound what is sent.
type Brakes struct {
	MaxSendsPerStepPerDay int // the same step on the same object within 24 h; default 8
	MaxStepsPerVMPerDay   int // all steps on one object within 24 h, evidence not counted; default 40
	// MaxVMsPerHour and MaxSharePerHour trip the breaker: more objects than that, or a
	// greater part of the VMs known, changed within an hour. It stays open until a
	// person resets it. Collecting evidence changes nothing and isn't counted.
	MaxVMsPerHour   int // default 500
	MaxSharePerHour int // percent, 0 for none; default 50
	// ShareFrom is how many changed objects the share needs before it counts, so that
	// a small estate can be repaired at all; default 20.
	ShareFrom int
	// MaxChangedBack is how often a value that cvmguard set may be changed back by
	// others before it is left alone; default 2.
	MaxChangedBack int
	Windows        []Window // steps that disturb are sent within one of them only; none: at any time
	Canary         Canary
}

// Window is a maintenance window: on the days named, from a time of the day to
// another, which is on the next day where it is not after it.
type Window struct {
	Days     []time.Weekday // none: every day
	From, To time.Duration  // since midnight, wall clock
	Zone     *time.Location // default UTC
}

// Canary lets a new policy change a few VMs first.
type Canary struct {
	VMs  int           // how many; 0: no canary
	Wait time.Duration // how long after the last of them the rest follows by itself; 0: when a person releases it
}

// Exemption leaves rules out for some VMs until a day, with somebody who answers
// for it.
type Exemption struct {
	Rules  []string // ids; none is not all: the document must name them
	Owner  string
	Reason string
	Until  time.Time // expired from this moment on
	Scope  ExemptionScope
}

// ExemptionScope selects what is exempt: all parts given must hold, one must be.
type ExemptionScope struct {
	VM            string // ARM id of a VM, or of a shared object
	ResourceGroup string // ARM id of a resource group
	Subscription  string // id
	Selector      *Selector
}

// ExemptionTag is a tag by which a VM is exempt, if one of the principals set it:
// who did is read from the Activity Log when the tag is first seen.
type ExemptionTag struct {
	Name       string   // of the tag, "" for none (default)
	Principals []string // object ids, lower case
}

// Mode is ModeObserve or ModeEnforce.
func (d *Document) Mode() string { return d.mode }

// Effect is the rule's effect, EffectOff for a rule that there isn't.
func (d *Document) Effect(rule string) Effect {
	if s, ok := d.Rules[rule]; ok {
		return s.Effect
	}
	return EffectOff
}

// Region is what policy wants ready in a region, named in any spelling.
func (d *Document) Region(region string) (Region, bool) {
	r, ok := d.Regions[cvm.FoldRegion(region)]
	return r, ok
}

// HasRegion says whether policy wants anything ready in a region.
func (d *Document) HasRegion(region string) bool { _, ok := d.Region(region); return ok }

// Orchestrator is OrchestratorObjectID.
func (d *Document) Orchestrator() string { return d.OrchestratorObjectID }

// AttestationAsked says whether guests are asked for evidence.
func (d *Document) AttestationAsked() bool { return d.Attestation.Asked }

// AttestationMaxAge is the age from which evidence is due again.
func (d *Document) AttestationMaxAge() time.Duration { return d.Attestation.MaxAge }
