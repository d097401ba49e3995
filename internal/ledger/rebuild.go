package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// Rebuilding writes rows from records. All fields but Force are required.
type Rebuilding struct {
	Blobs  Blobs
	Tables Tables
	Now    func() time.Time
	Owner  string        // who claims the rebuilt rows, e.g. "rebuild-<invocation>"
	Lease  time.Duration // the loop's lease: a turn that the lost row knew of ends within it
	Force  bool          // write rows anew that are there and readable, unless they are claimed
}

// What Rebuild did with a row.
const (
	RebuiltCreated  = "created"
	RebuiltReplaced = "replaced" // it couldn't be read, or Force
	RebuiltKept     = "kept"     // it is there and readable
)

// Rebuilt is a row as it stands after Rebuild. Records is 0 when it was kept.
type Rebuilt struct {
	Row     Row
	Action  string
	Records int
}

// sendWindow is how far back intents count as calls sent, for the loop guard.
const sendWindow = 24 * time.Hour

// Rebuild writes the row of a chain from its records, claimed by Owner for one
// lease, with an intent that has no outcome as an open step without token. What
// records don't hold (messages seen, look-again messages, pushed evidence not yet
// judged) is empty. The caller then enqueues the object; whoever takes the
// message finds the claim and comes again after the lease.
//
// Errors: NotFound when the chain has no record; Blocked when it is broken (a
// number missing, a link that doesn't hold) and nothing can be built on it;
// Conflict when the row is claimed or changed meanwhile.
func (d Rebuilding) Rebuild(ctx context.Context, chain string) (Rebuilt, error) {
	const op = "rebuilding the row of"
	pk, rk, ok := SplitChain(chain)
	if !ok {
		return Rebuilt{}, fault.New(fault.NotFound, op, chain, "it isn't a chain's key")
	}
	recs, err := d.records(ctx, chain)
	if err != nil {
		return Rebuilt{}, fmt.Errorf("%s %q: %w", op, chain, err)
	}
	row, err := RowOf(recs, d.Now())
	if err != nil {
		return Rebuilt{}, err
	}
	if row.PK != pk || row.RK != rk {
		return Rebuilt{}, broken(op, chain, fmt.Errorf("its records are about %q, whose chain is %s", row.ID, row.Chain()))
	}
	row.Owner, row.LeaseEnds = d.Owner, d.Now().Add(d.Lease).UTC()
	out := Rebuilt{Action: RebuiltCreated, Records: len(recs)}
	there, err := d.Tables.Get(ctx, row.Table(), pk, rk)
	switch {
	case err == nil:
		old, decodeErr := DecodeRow(there)
		if decodeErr == nil && !d.Force {
			return Rebuilt{Row: old, Action: RebuiltKept}, nil
		}
		if decodeErr == nil && old.Held(d.Now()) {
			return Rebuilt{}, fault.New(fault.Conflict, op, chain, "it is claimed until %s; try again after that", TimeText(old.LeaseEnds))
		}
		row.ETag, out.Action = there.ETag, RebuiltReplaced
	case !fault.Is(err, fault.NotFound):
		return Rebuilt{}, fmt.Errorf("%s %q: reading it: %w", op, chain, err)
	}
	e, err := row.Entity()
	if err != nil {
		return Rebuilt{}, err
	}
	if out.Action == RebuiltCreated {
		row.ETag, err = d.Tables.Insert(ctx, row.Table(), e)
	} else {
		row.ETag, err = d.Tables.Replace(ctx, row.Table(), e)
	}
	if err != nil {
		return Rebuilt{}, fmt.Errorf("%s %q: writing it: %w", op, chain, err)
	}
	out.Row = row
	return out, nil
}

// All rebuilds the row of every chain and calls yield for each, with what came
// of it or the error, until yield returns false. One bad chain doesn't stop the
// others. Its own error is that of listing the chains.
func (d Rebuilding) All(ctx context.Context, yield func(chain string, r Rebuilt, err error) bool) error {
	var chains []string
	if err := (Chains{d.Blobs}).All(ctx, func(chain string) bool {
		chains = append(chains, chain)
		return true
	}); err != nil {
		return err
	}
	for _, chain := range chains {
		r, err := d.Rebuild(ctx, chain)
		if !yield(chain, r, err) {
			return nil
		}
	}
	return nil
}

// records reads a whole chain and checks that it hangs together.
func (d Rebuilding) records(ctx context.Context, chain string) ([]Linked, error) {
	const op = "reading chain"
	c := Chains{d.Blobs}
	last := 0
	if err := c.List(ctx, chain, func(seq int, _ string) bool {
		last = seq
		return true
	}); err != nil {
		return nil, err
	}
	if last == 0 {
		return nil, fault.New(fault.NotFound, op, chain, "it has no record")
	}
	recs, err := c.After(ctx, chain, 0, "")
	if fault.Is(err, fault.Bug) {
		return nil, broken(op, chain, err)
	}
	if err != nil {
		return nil, err
	}
	if len(recs) < last {
		return nil, broken(op, chain, fmt.Errorf("record %d is missing, record %d is there", len(recs)+1, last))
	}
	return recs, nil
}

func broken(op, chain string, err error) error {
	return &fault.Error{Kind: fault.Blocked, Op: op, Object: chain, Err: err,
		Next: "see with `cvmguard verify record` what is wrong, find out who wrote to container records, and move the chain's blobs away to begin a new one"}
}

// RowOf is the row that a chain's records, from the first on, make at a moment:
// unclaimed, without ETag. Sends has every intent of the last 24 hours, whether
// or not its call was sent: the loop guard rather counts one too many.
func RowOf(recs []Linked, now time.Time) (Row, error) {
	const op = "making a row from records"
	if len(recs) == 0 {
		return Row{}, fault.New(fault.NotFound, op, "", "there is no record")
	}
	place, err := PlaceOf(recs[len(recs)-1].Record.Object)
	if err != nil {
		return Row{}, err
	}
	r := Row{PK: place.PK, RK: place.RK, SharedKind: place.Kind}
	var intent *Linked
	for i, l := range recs {
		rec := l.Record
		for _, c := range rec.Causes {
			if c.Fresh && c.At.After(r.EvidenceWanted) {
				r.EvidenceWanted = c.At
			}
			if c.FromEvent() && c.At.After(r.LastEventAt) {
				r.LastEvent, r.LastEventAt = c.ID, c.At
			}
			r.TakeWord(c)
		}
		r.TakeOperation(rec)
		r.ID, r.Development = rec.Object, rec.Development
		r.HeadSeq, r.HeadHash, r.LastSeen = rec.Seq, l.Hash, rec.At
		switch rec.Type {
		case TypeState, TypeIntent:
			if err := r.take(rec); err != nil {
				return Row{}, fmt.Errorf("%s: %s: %w", op, l.Name, err)
			}
			intent = nil // a turn that observes has no step open: an intent before it was never sent
			if rec.Type == TypeIntent && rec.Step != nil {
				intent = &recs[i]
				if now.Sub(rec.At) < sendWindow {
					r.Sent(*rec.Step, rec.At, sendWindow)
				}
			}
		case TypeOutcome:
			if intent != nil && rec.Intent == intent.Record.Seq {
				intent = nil
			}
			r.takeOutcome(rec)
		}
	}
	if intent != nil {
		r.Step = &OpenStep{Step: *intent.Record.Step, Intent: intent.Record.Seq, Record: intent.Name, Started: intent.Record.At}
	}
	return r, nil
}

// take takes over what a record of type state or intent says.
func (r *Row) take(rec Record) error {
	var p struct {
		Gone   bool                `json:"gone"`
		Region string              `json:"region"` // of a shared object
		VM     cvm.Fact[cvm.VM]    `json:"vm"`
		OSDisk cvm.Fact[cvm.Disk]  `json:"osDisk"`
		DES    cvm.Fact[cvm.DES]   `json:"des"`
		Key    cvm.Fact[cvm.Key]   `json:"key"`
		Vault  cvm.Fact[cvm.Vault] `json:"vault"`

		Contested []cvm.Contest           `json:"contested"`
		TagSetter cvm.Fact[cvm.TagSetter] `json:"tagSetter"`
	}
	if len(rec.Posture) > 0 {
		if err := json.Unmarshal(rec.Posture, &p); err != nil {
			return fault.New(fault.Bug, "reading its posture", "", "%w", err)
		}
	}
	if rec.Verdict != nil {
		plan := remedy.Plan{}
		if rec.Plan != nil {
			plan = *rec.Plan
		}
		r.SetJudgement(*rec.Verdict, plan, rec.At)
	}
	r.TakeAside(rec)
	if r.SharedKind != cvm.SharedOperation {
		r.takeContested(p.Contested)
	}
	if p.Region != "" {
		r.Region = p.Region
	}
	if p.VM.Known {
		r.TagSetter = nil // the log forgets who set it, the record doesn't
		if p.TagSetter.Known {
			r.TagSetter = &p.TagSetter
		}
		vm := p.VM.Value
		if vm.UniqueID != r.UniqueID { // first sight of this vmId asks for evidence
			r.Set = nil
			r.UniqueID = vm.UniqueID
			if rec.At.After(r.EvidenceWanted) {
				r.EvidenceWanted = rec.At
			}
		}
		r.Region = vm.Location
		r.DES = cvm.DESID(strings.ToLower(string(vm.OSDisk.SecureDES)))
		if p.OSDisk.Known && r.DES == "" {
			r.DES = cvm.DESID(strings.ToLower(string(p.OSDisk.Value.SecureDES)))
		}
		switch {
		case p.Key.Known:
			r.Key = versionless(string(p.Key.Value.ID))
		case p.DES.Known:
			r.Key = versionless(p.DES.Value.KeyURL)
		case r.DES == "":
			r.Key = ""
		}
	}
	if p.Vault.Known {
		r.Vault = strings.ToLower(p.Vault.Value.Host)
	}
	if rec.Attestation != nil || p.VM.Known { // of a VM that was read the record says what stood, be it nothing
		r.SetAttestation(rec.Attestation)
		r.Pending = slices.DeleteFunc(r.Pending, func(e PendingEvidence) bool {
			return rec.Attestation != nil && e.Bundle == rec.Attestation.Bundle
		})
	}
	if !p.Gone {
		r.GoneSince = time.Time{}
	} else if r.GoneSince.IsZero() {
		r.GoneSince = rec.At
	}
	hash, err := rec.StateHash()
	r.StateHash = hash
	return err
}

// takeOutcome takes over what an outcome leaves behind: what the guest brought is
// pending, a step that failed is held back until its time.
func (r *Row) takeOutcome(rec Record) {
	if rec.Step == nil || rec.Outcome == nil {
		return
	}
	r.Ended(*rec.Step, *rec.Outcome, rec.At, true)
	if rec.Outcome.State != remedy.Done {
		r.HoldUntil(*rec.Step, rec.Outcome.NotBefore)
		return
	}
	delete(r.Hold, SendKey(*rec.Step))
	if rec.Outcome.Bundle != "" {
		r.AddPending(PendingEvidence{Bundle: rec.Outcome.Bundle})
	}
}

// versionless is a key's URL in lower case without its version: its first five
// parts, https, nothing, host, keys, name.
func versionless(url string) cvm.KeyID {
	parts := strings.Split(strings.ToLower(url), "/")
	return cvm.KeyID(strings.Join(parts[:min(5, len(parts))], "/"))
}
