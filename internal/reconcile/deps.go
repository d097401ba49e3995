package reconcile

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// Azure is what the loop reads of Azure. fresh asks for a read that no cache
// answers. Errors are of package fault; NotFound means that the service said 404.
// A reader that knows the truth table's own code for what it can't give says it by
// a *cvm.UnreadError.
type Azure interface {
	VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) // with instance view
	Disk(ctx context.Context, id cvm.DiskID) (cvm.Disk, error)
	DES(ctx context.Context, id cvm.DESID, fresh bool) (cvm.DES, error)
	DESDisks(ctx context.Context, id cvm.DESID) ([]cvm.DiskID, error)
	Key(ctx context.Context, id cvm.KeyID, fresh bool) (cvm.Key, error) // without a version: the newest
	Vault(ctx context.Context, ref cvm.VaultRef, fresh bool) (cvm.Vault, error)
	Rights(ctx context.Context, q cvm.RightsQuery, fresh bool) (cvm.Rights, error)
}

// Tool gives the guest collector to Run Command: it sees to it that the binary
// is under tools/<sha256> and answers with that hash (hex) and a short read URL.
type Tool interface {
	Ensure(ctx context.Context) (sha256 string, url string, err error)
}

// ActivityLog says who wrote a VM or its tags since a moment, newest first, the
// caller's own writes left out.
type ActivityLog interface {
	VMWrites(ctx context.Context, id cvm.VMID, since time.Time) ([]cvm.Write, error)
}

// Settings are the loop's times and bounds (rule 8). All are required.
type Settings struct {
	Lease          time.Duration // how long a claim holds
	Turn           time.Duration // how long a turn may take; below Lease
	Margin         time.Duration // how long after a lease its follower comes
	SlowPace       time.Duration // between tries at what a person must mend
	NonceLife      time.Duration // above Lease
	TransitionWait time.Duration // before looking again at a VM in transition, or a second time at a 404
	MaxPoll        time.Duration // the longest wait between two polls of an operation
	StepLife       time.Duration // after which an open step that never ends has failed
	SharedAge      time.Duration // a shared object's row older than this is looked at again
}

// DefaultSettings are those of a deployment.
func DefaultSettings() Settings {
	return Settings{Lease: 90 * time.Second, Turn: 60 * time.Second, Margin: 10 * time.Second,
		SlowPace: time.Hour, NonceLife: 30 * time.Minute, TransitionWait: 15 * time.Second,
		MaxPoll: 30 * time.Second, StepLife: 4 * time.Hour, SharedAge: 24 * time.Hour}
}

// Check says all that is wrong with the settings.
func (s Settings) Check() error {
	const op = "checking the loop's times"
	var wrong []error
	for _, t := range []struct {
		name string
		d    time.Duration
	}{{"lease", s.Lease}, {"turn", s.Turn}, {"margin", s.Margin}, {"slow pace", s.SlowPace}, {"nonce life", s.NonceLife},
		{"transition wait", s.TransitionWait}, {"longest poll", s.MaxPoll}, {"step life", s.StepLife}, {"age of shared objects", s.SharedAge}} {
		if t.d <= 0 {
			wrong = append(wrong, fault.New(fault.Invalid, op, t.name, "%s: give a time above zero", t.d))
		}
	}
	if s.Lease <= s.Turn {
		wrong = append(wrong, fault.New(fault.Invalid, op, "lease", "the lease (%s) must be longer than a turn (%s)", s.Lease, s.Turn))
	}
	if s.NonceLife <= s.Lease {
		wrong = append(wrong, fault.New(fault.Invalid, op, "nonce life", "a nonce's life (%s) must be longer than the lease (%s)", s.NonceLife, s.Lease))
	}
	return errors.Join(wrong...)
}

// Loop takes turns. All fields are required but Log and Judge.
type Loop struct {
	Azure   Azure
	Blobs   ledger.Blobs
	SAS     ledger.SASBlobs
	Tables  ledger.Tables
	Queue   ledger.Queue
	Applier remedy.Applier
	// Planning reads what operations rest on, past every cache; nil: none is planned.
	Planning remedy.RecreationReader
	MAA      attest.MAAClient
	// Judge judges a bundle; nil is attest.Judge.
	Judge    func(ctx context.Context, bundle []byte, n attest.Nonce, s attest.Subject, o attest.Options, now time.Time) attest.Result
	Roots    *attest.Roots
	Provider func(region string) string // the attestation provider's base URL, "" if none is known
	Tool     Tool
	Policy   *policy.Document
	// Shadow is judged beside Policy and never applied; nil for none.
	Shadow   *policy.Document
	Settings Settings
	Now      func() time.Time
	Rand     io.Reader
	Log      *slog.Logger
	Version  string
	// Development marks every record: an endpoint or a root isn't the vendor's.
	Development bool

	// Activity is asked who set an exemption tag; nil: nobody can say, and no tag exempts.
	Activity ActivityLog
	// ActivityLag is how far the Activity Log may be behind; 0 is DefaultActivityLag.
	ActivityLag time.Duration

	policyKept atomic.Bool                            // the policy's text is in storage
	initiative atomic.Pointer[azurepolicy.Initiative] // of the policy in force, once it was made
}
