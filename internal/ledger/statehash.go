package ledger

import (
	"bytes"
	"encoding/json"

	"cvmguard/internal/fault"
)

// StateHash is the hex SHA-256 of what a record of type state or intent says of
// its object: posture, verdict, plan, attestation, policy, where one is set the
// shadow policy's verdict, and what would be refused. Two looks that saw and
// concluded the same have the same hash, so that a turn that changed nothing adds
// no record. The moments of looking and judging, the ETags of what was read and
// the mode don't count: a version that moved without a fact is no change, and a
// dry run of an unchanged object is none either.
func (r Record) StateHash() (string, error) {
	const op = "hashing what a record says"
	says := map[string]any{"posture": r.Posture, "verdict": r.Verdict, "plan": r.Plan,
		"attestation": r.Attestation, "policy": r.Policy, "development": r.Development}
	if r.Shadow != nil {
		says["shadow"] = r.Shadow
	}
	if len(r.WouldBeRefused) > 0 {
		says["wouldBeRefused"] = r.WouldBeRefused
	}
	raw, err := json.Marshal(says)
	if err != nil {
		return "", fault.New(fault.Bug, op, RecordName(r.Chain, r.Seq), "its posture isn't JSON: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var said map[string]any
	if err := d.Decode(&said); err != nil {
		return "", fault.New(fault.Bug, op, RecordName(r.Chain, r.Seq), "%w", err)
	}
	settle(said)
	for _, m := range []struct{ in, member string }{{"verdict", "at"}, {"shadow", "at"}, {"plan", "mode"}, {"attestation", "judgedAt"}} {
		if v, ok := said[m.in].(map[string]any); ok {
			delete(v, m.member)
		}
	}
	b, err := json.Marshal(said)
	if err != nil {
		return "", fault.New(fault.Bug, op, RecordName(r.Chain, r.Seq), "%w", err)
	}
	return HashBytes(b), nil
}

// settle takes out of a tree what may differ though nothing changed: of each
// fact (an object with a member "known") its ETag and that of the resource in
// it, and when an attestation was judged.
func settle(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			settle(e)
		}
	case map[string]any:
		if _, isFact := v["known"]; isFact {
			delete(v, "etag")
			if value, ok := v["value"].(map[string]any); ok {
				delete(value, "etag")
				delete(value, "judgedAt")
			}
		}
		for _, e := range v {
			settle(e)
		}
	}
}
