package ledger

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// Columns of tables vms and shared that others query by.
const (
	ColID       = "id"
	ColShared   = "shared" // "" for a VM
	ColOwner    = "owner"
	ColVerdict  = "verdict"
	ColNextLook = "nextLook" // "" when none is set
	ColLastSeen = "lastSeen"
	ColDES      = "des" // lower case
	ColKey      = "key" // without version, lower case
	ColVault    = "vault"
	ColRegion   = "region"
	ColGone     = "goneSince"
	ColBraked   = "braked"         // "" when no brake holds it
	ColShadow   = "shadow"         // the shadow policy's verdict, "" where none is set
	ColRefused  = "wouldBeRefused" // "" where Azure Policy would have refused nothing
)

// rowColumns are all columns that this version writes.
var rowColumns = []string{ColID, ColShared, ColOwner, "leaseEnds", "again", "followed", "causes", "evidenceWanted", "pending", "vmId",
	ColVerdict, "kind", "tee", ColRegion, ColDES, ColKey, ColVault, "findings", "plan", "attestation", "policy", "stateHash",
	"compliantSince", ColGone, "transitionSince", "development", ColNextLook, "step", "sends", "hold", "set", "stopped", "tagSetter", ColBraked, ColShadow, ColRefused, "operation", "headSeq", "headHash", "lastEvent", "lastEventAt",
	ColLastSeen, "lastError", "cut"}

// DecodeRow reads a row of table vms or shared. A column that can't be read is a
// fault.Bug that names it: an unreadable row is never an empty one.
func DecodeRow(e Entity) (Row, error) {
	d := columns{op: "reading the row of", object: e.PK + "-" + e.RK, cols: e.Cols}
	r := Row{PK: e.PK, RK: e.RK, ETag: e.ETag,
		ID: e.Cols[ColID], SharedKind: cvm.SharedKind(e.Cols[ColShared]),
		Owner: e.Cols[ColOwner], LeaseEnds: d.moment("leaseEnds"), Again: d.flag("again"), Followed: e.Cols["followed"],
		EvidenceWanted: d.moment("evidenceWanted"), UniqueID: e.Cols["vmId"],
		Verdict: policy.Value(e.Cols[ColVerdict]), Kind: cvm.Kind(e.Cols["kind"]), TEE: cvm.TEE(e.Cols["tee"]), Region: e.Cols[ColRegion],
		DES: cvm.DESID(e.Cols[ColDES]), Key: cvm.KeyID(e.Cols[ColKey]), Vault: e.Cols[ColVault],
		PolicyHash: e.Cols["policy"], StateHash: e.Cols["stateHash"], CompliantSince: d.moment("compliantSince"),
		GoneSince: d.moment(ColGone), TransitionSince: d.moment("transitionSince"), Development: d.flag("development"), NextLook: d.moment(ColNextLook),
		HeadSeq: d.number("headSeq"), HeadHash: e.Cols["headHash"],
		LastEvent: e.Cols["lastEvent"], LastEventAt: d.moment("lastEventAt"), LastSeen: d.moment(ColLastSeen), LastError: e.Cols["lastError"],
		Braked: e.Cols[ColBraked], Shadow: policy.Value(e.Cols[ColShadow])}
	d.document("causes", &r.Causes)
	d.document("pending", &r.Pending)
	d.document("findings", &r.Findings)
	d.document("plan", &r.Plan)
	d.document("attestation", &r.Attestation)
	d.document("step", &r.Step)
	d.document("sends", &r.Sends)
	d.document("hold", &r.Hold)
	d.document("set", &r.Set)
	d.document("stopped", &r.Stopped)
	d.document("tagSetter", &r.TagSetter)
	d.document(ColRefused, &r.WouldBeRefused)
	d.document("operation", &r.Operation)
	d.document("cut", &r.Cut)
	if r.ID == "" {
		d.bad(ColID, fmt.Errorf("every row names its object"))
	}
	switch r.SharedKind {
	case "", cvm.SharedDES, cvm.SharedKey, cvm.SharedVault, cvm.SharedRegion, cvm.SharedOperation:
	default:
		d.bad(ColShared, fmt.Errorf("it isn't a kind of shared object"))
	}
	switch r.Verdict {
	case "", policy.Gone, policy.NotACVM, policy.NonCompliant, policy.Unknown, policy.Compliant:
	default:
		d.bad(ColVerdict, fmt.Errorf("it isn't a verdict"))
	}
	switch r.Shadow {
	case "", policy.Gone, policy.NotACVM, policy.NonCompliant, policy.Unknown, policy.Compliant:
	default:
		d.bad(ColShadow, fmt.Errorf("it isn't a verdict"))
	}
	if (r.HeadSeq == 0) != (r.HeadHash == "") || (r.HeadHash != "" && !IsHash(r.HeadHash)) {
		d.bad("headHash", fmt.Errorf("it doesn't go with a head of sequence %d", r.HeadSeq))
	}
	if r.Owner != "" && r.LeaseEnds.IsZero() {
		d.bad("leaseEnds", fmt.Errorf("owner %q has no end of its lease", r.Owner))
	}
	if r.Step != nil && (r.Step.Step.Kind == "" || r.Step.Intent < 1) {
		d.bad("step", fmt.Errorf("an open step needs its kind and its intent's number"))
	}
	if d.err != nil {
		return Row{}, d.err
	}
	for col, v := range e.Cols {
		if !slices.Contains(rowColumns, col) {
			if r.Extra == nil {
				r.Extra = map[string]string{}
			}
			r.Extra[col] = v
		}
	}
	return r, nil
}

// Entity gives the row's columns. Findings, plan and attestation that would be
// too long for a column are shortened, and Cut (of the entity and of r) names
// them. Anything else that is too long is a fault.Bug: it can't be left out.
func (r *Row) Entity() (Entity, error) {
	e := Entity{PK: r.PK, RK: r.RK, ETag: r.ETag, Cols: maps.Clone(r.Extra)}
	if e.Cols == nil {
		e.Cols = map[string]string{}
	}
	set := func(col, v string) { e.Cols[col] = strings.ToValidUTF8(v, "\uFFFD") }
	set(ColID, r.ID)
	set(ColShared, string(r.SharedKind))
	set(ColOwner, r.Owner)
	set("leaseEnds", TimeText(r.LeaseEnds))
	set("again", strconv.FormatBool(r.Again))
	set("followed", r.Followed)
	set("evidenceWanted", TimeText(r.EvidenceWanted))
	set("vmId", r.UniqueID)
	set(ColVerdict, string(r.Verdict))
	set("kind", string(r.Kind))
	set("tee", string(r.TEE))
	set(ColRegion, r.Region)
	set(ColDES, strings.ToLower(string(r.DES)))
	set(ColKey, strings.ToLower(string(r.Key)))
	set(ColVault, strings.ToLower(r.Vault))
	set("policy", r.PolicyHash)
	set("stateHash", r.StateHash)
	set("compliantSince", TimeText(r.CompliantSince))
	set(ColGone, TimeText(r.GoneSince))
	set("transitionSince", TimeText(r.TransitionSince))
	set("development", strconv.FormatBool(r.Development))
	set(ColNextLook, TimeText(r.NextLook))
	set("headSeq", strconv.Itoa(r.HeadSeq))
	set("headHash", r.HeadHash)
	set("lastEvent", r.LastEvent)
	set("lastEventAt", TimeText(r.LastEventAt))
	set(ColLastSeen, TimeText(r.LastSeen))
	set("lastError", r.LastError)
	set(ColBraked, r.Braked)
	set(ColShadow, string(r.Shadow))

	cut := slices.Clone(r.Cut)
	mark := func(col string, shortened bool) {
		if shortened && !slices.Contains(cut, col) {
			cut = append(cut, col)
		}
	}
	findings, short := fitFindings(r.Findings)
	mark("findings", short)
	plan, short := fitFront(r.Plan)
	mark("plan", short)
	attestation, short := fitAttestation(r.Attestation)
	mark("attestation", short)
	refused, short := fitFront(r.WouldBeRefused)
	mark(ColRefused, short)
	r.Cut = cut
	for _, c := range []struct {
		col   string
		empty bool
		v     any
	}{
		{"causes", len(r.Causes) == 0, utcCauses(r.Causes)},
		{"pending", len(r.Pending) == 0, r.Pending},
		{"findings", len(findings) == 0, findings},
		{"plan", len(plan) == 0, plan},
		{"attestation", attestation == nil, attestation},
		{"step", r.Step == nil, utcStep(r.Step)},
		{"sends", len(r.Sends) == 0, utcSends(r.Sends)},
		{"hold", len(r.Hold) == 0, utcHold(r.Hold)},
		{"set", len(r.Set) == 0, utcSet(r.Set)},
		{"stopped", len(r.Stopped) == 0, utcStopped(r.Stopped)},
		{"tagSetter", r.TagSetter == nil, r.TagSetter},
		{ColRefused, len(refused) == 0, refused},
		{"operation", r.Operation == nil, r.Operation},
		{"cut", len(cut) == 0, cut},
	} {
		text := ""
		if !c.empty {
			b, err := json.Marshal(c.v)
			if err != nil {
				return Entity{}, fault.New(fault.Bug, "writing the row of", r.Chain(), "column %s: %w", c.col, err)
			}
			text = string(b)
		}
		set(c.col, text)
	}
	for col, v := range e.Cols {
		if n := columnUnits(v); n > MaxColumn {
			return Entity{}, fault.New(fault.Bug, "writing the row of", r.Chain(), "column %s has %d characters, the most is %d", col, n, MaxColumn)
		}
	}
	return e, nil
}

// fits says whether a value's JSON fits a column.
func fits(v any) bool {
	b, err := json.Marshal(v)
	return err == nil && columnUnits(string(b)) <= MaxColumn
}

// fitFindings leaves out what counts least, until the rest fits: what doesn't
// bear on the verdict, then what passed, then the last ones.
func fitFindings(all []RowFinding) (kept []RowFinding, cut bool) {
	if fits(all) {
		return all, false
	}
	for _, weigh := range []func(RowFinding) bool{
		func(f RowFinding) bool {
			return f.State == cvm.Pass || f.State == cvm.Fail || f.State == cvm.UnknownState
		},
		func(f RowFinding) bool { return f.State == cvm.Fail || f.State == cvm.UnknownState },
	} {
		kept = nil
		for _, f := range all {
			if weigh(f) {
				kept = append(kept, f)
			}
		}
		if fits(kept) {
			return kept, true
		}
	}
	kept, _ = fitFront(kept)
	return kept, true
}

// fitFront keeps as many of the first elements as fit.
func fitFront[T any](all []T) (kept []T, cut bool) {
	for kept = all; !fits(kept); kept = kept[:len(kept)/2] {
		cut = true
	}
	return kept, cut
}

// fitAttestation leaves out the sentences of the checks, then the checks that
// passed, then all of them.
func fitAttestation(a *cvm.Attestation) (*cvm.Attestation, bool) {
	if a == nil || fits(a) {
		return a, false
	}
	short := *a
	short.Checks = slices.Clone(a.Checks)
	for i := range short.Checks {
		short.Checks[i].Detail = ""
	}
	if fits(short) {
		return &short, true
	}
	short.Checks = slices.DeleteFunc(short.Checks, func(c cvm.Check) bool { return c.State == cvm.Pass || c.State == cvm.NotApplicable })
	if !fits(short) {
		short.Checks = nil
	}
	return &short, true
}

func utcCauses(in []Cause) []Cause {
	out := slices.Clone(in)
	for i := range out {
		out[i].At = out[i].At.UTC().Round(0)
	}
	return out
}

func utcStep(s *OpenStep) *OpenStep {
	if s == nil {
		return nil
	}
	out := *s
	out.Started = s.Started.UTC().Round(0)
	return &out
}

func utcSends(in map[string][]time.Time) map[string][]time.Time {
	out := make(map[string][]time.Time, len(in))
	for key, times := range in {
		for _, t := range times {
			out[key] = append(out[key], t.UTC().Round(0))
		}
	}
	return out
}

func utcHold(in map[string]time.Time) map[string]time.Time {
	out := make(map[string]time.Time, len(in))
	for key, t := range in {
		out[key] = t.UTC().Round(0)
	}
	return out
}
