package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// checked is a record that was read for verification.
type checked struct {
	name     string
	rec      Record
	hash     string
	readable bool
}

// checkRecord checks a record by itself, in this order:
//
//	json         one JSON object, in the very bytes that EncodeRecord gives it: no
//	             member unknown, twice or spelled otherwise
//	schema       the one that this version knows
//	object       the chain's key is that of the object's id
//	name         the file's name, where it is a record's, agrees
//	sequence     the number is 1 or more, and previous a hash, "" only for the first
//	shape        a known type with what belongs to it and nothing else; mode known
//	verdict      derives from its findings and posture, under the record's policy
//	intent       an intent only in enforce mode, its step in the record's plan; an
//	             outcome names a number before its own
//	development  evidence judged with a development root marks the record
func checkRecord(f RecordFile) (checked, []VerifyFault) {
	c := checked{name: f.Name, hash: HashBytes(f.Body)}
	var faults []VerifyFault
	fail := func(check, format string, args ...any) {
		faults = append(faults, VerifyFault{Name: f.Name, Chain: c.rec.Chain, Seq: c.rec.Seq, Check: check, Text: fmt.Sprintf(format, args...)})
	}
	if len(f.Body) > MaxRecord {
		fail("json", "it has %d bytes, a record has at most %d", len(f.Body), MaxRecord)
		return c, faults
	}
	rec, err := decodeJSON(f.Body)
	if err != nil {
		fail("json", "it isn't one JSON record: %v", err)
		return c, faults
	}
	c.rec = rec
	if rec.Schema != RecordSchema {
		fail("schema", "schema is %q, this version verifies %q", rec.Schema, RecordSchema)
		return c, faults
	}
	if again, err := EncodeRecord(rec); err != nil {
		fail("json", "%v", err)
	} else if !bytes.Equal(again, f.Body) {
		fail("json", "its bytes aren't those that cvmguard writes for this record: a member is unknown, there twice or spelled otherwise; if version %q is newer than this program, verify with it", rec.Version)
	}
	if _, _, ok := SplitChain(rec.Chain); !ok {
		fail("object", "chain %q isn't a chain's key", rec.Chain)
		return c, faults
	}
	if place, err := PlaceOf(rec.Object); err != nil {
		fail("object", "%v", err)
	} else if place.Chain() != rec.Chain {
		fail("object", "chain is %s, but the chain of object %q is %s", rec.Chain, rec.Object, place.Chain())
	}
	if chain, seq, says := nameSays(f.Name); says && (seq != rec.Seq || (chain != "" && chain != rec.Chain)) {
		fail("name", "the record says that it is %s", RecordName(rec.Chain, rec.Seq))
	}
	c.readable = rec.Seq >= 1 && rec.Seq <= maxSeq
	if !c.readable {
		fail("sequence", "sequence %d is outside 1 to %d", rec.Seq, maxSeq)
	} else if (rec.Seq == 1) != (rec.Previous == "") || (rec.Previous != "" && !IsHash(rec.Previous)) {
		fail("sequence", "previous %q can't be that of record %d", rec.Previous, rec.Seq)
	}
	checkShape(rec, fail)
	checkVerdict(rec, fail)
	checkStep(rec, fail)
	if a := rec.Attestation; a != nil && a.Development && !rec.Development {
		fail("development", "its evidence was judged with a root that isn't the vendor's, yet the record isn't marked development")
	}
	return c, faults
}

type failFunc func(check, format string, args ...any)

func checkShape(rec Record, fail failFunc) {
	if rec.At.IsZero() {
		fail("shape", "it has no time")
	}
	if rec.Mode != "observe" && rec.Mode != "enforce" {
		fail("shape", "mode %q is neither observe nor enforce", rec.Mode)
	}
	needs := func(what string, is, want bool) {
		switch {
		case want && !is:
			fail("shape", "a record of type %s has %s, this one has none", rec.Type, what)
		case !want && is:
			fail("shape", "a record of type %s has no %s, this one has", rec.Type, what)
		}
	}
	switch rec.Type {
	case TypeState, TypeIntent:
		needs("posture", len(rec.Posture) > 0, true)
		needs("verdict", rec.Verdict != nil, true)
		needs("step", rec.Step != nil, rec.Type == TypeIntent)
		needs("outcome", rec.Outcome != nil, false)
		needs("number of an intent", rec.Intent != 0, false)
	case TypeOutcome:
		needs("step", rec.Step != nil, true)
		needs("outcome", rec.Outcome != nil, true)
		needs("number of an intent", rec.Intent != 0, true)
	default:
		fail("shape", "type %q isn't state, intent or outcome", rec.Type)
	}
	if o := rec.Outcome; o != nil && o.State != remedy.Done && o.State != remedy.Failed && o.State != remedy.Blocked {
		fail("shape", "outcome %q is neither done, failed nor blocked", o.State)
	}
	if rec.Plan != nil && rec.Plan.Mode != rec.Mode {
		fail("shape", "its plan is for mode %q, the record's mode is %q", rec.Plan.Mode, rec.Mode)
	}
}

// checkVerdict derives the verdict anew: gone, not-a-cvm, non-compliant (any
// fail), unknown (any unknown), compliant; the first that holds.
func checkVerdict(rec Record, fail failFunc) {
	if rec.Verdict == nil {
		return
	}
	v := rec.Verdict
	if v.PolicyHash != rec.Policy {
		fail("verdict", "it was made under policy %q, the record names %q", v.PolicyHash, rec.Policy)
	}
	states := []cvm.State{cvm.Pass, cvm.Fail, cvm.UnknownState, cvm.Exempt, cvm.NotApplicable, cvm.NotAsked}
	derived := policy.Compliant
	for _, f := range v.Findings {
		if !slices.Contains(states, f.State) {
			fail("verdict", "finding %q has the state %q, which there isn't", f.Rule, f.State)
		}
		if f.State == cvm.Fail {
			derived = policy.NonCompliant
		}
		if f.State == cvm.UnknownState && derived == policy.Compliant {
			derived = policy.Unknown
		}
	}
	var posture struct {
		Gone bool `json:"gone"`
	}
	if len(rec.Posture) > 0 {
		if err := json.Unmarshal(rec.Posture, &posture); err != nil {
			fail("shape", "its posture can't be read: %v", err)
			return
		}
	}
	isCVM := strings.HasPrefix(string(v.Kind), "cvm-")
	switch {
	case posture.Gone != (v.Value == policy.Gone):
		fail("verdict", "it is %q, but the posture's gone is %t", v.Value, posture.Gone)
	case v.Value == policy.Gone:
	case v.Value == policy.NotACVM && (isCVM || v.Why == ""):
		fail("verdict", "it is not-a-cvm of a VM of kind %q, because %q", v.Kind, v.Why)
	case v.Value == policy.NotACVM:
	case v.Value != derived:
		fail("verdict", "it is %q, but its findings make %q", v.Value, derived)
	}
}

func checkStep(rec Record, fail failFunc) {
	switch rec.Type {
	case TypeIntent:
		if rec.Mode == "observe" {
			fail("intent", "mode observe changes nothing, yet this is an intent to")
		}
		if rec.Step != nil && rec.Plan != nil && !slices.ContainsFunc(rec.Plan.Steps, rec.Step.Same) {
			fail("intent", "its step, %s on %q, isn't in its plan", rec.Step.Kind, rec.Step.Target)
		}
	case TypeOutcome:
		if rec.Intent >= rec.Seq || rec.Intent < 0 {
			fail("intent", "it is the outcome of record %d, which can't be before record %d", rec.Intent, rec.Seq)
		}
	}
}
