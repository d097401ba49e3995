package ledger_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

func fullRow() ledger.Row {
	yes := true
	return ledger.Row{PK: testSub, RK: cvm.RowKey(testVM), ETag: "e", ID: testVM, Owner: "w1", LeaseEnds: t0.Add(90 * time.Second), Again: true, Followed: "w0",
		Causes:         []ledger.Cause{{Kind: "event", At: t0, ID: "1"}, {Kind: "evidence", Nonce: "ab"}},
		EvidenceWanted: t0, Pending: []ledger.PendingEvidence{{Nonce: "n", Bundle: "b"}},
		UniqueID: "u", Verdict: policy.NonCompliant, Kind: cvm.KindCustomerKey, TEE: cvm.TEESNP, Region: "westeurope",
		DES: cvm.DESID(strings.ToLower(testDES)), Key: "https://v.vault.azure.net/keys/k", Vault: "v.vault.azure.net",
		Findings:    []ledger.RowFinding{{Rule: "os-disk", State: cvm.Fail, Reason: "x", Severity: policy.High, Class: policy.NeedsRecreate, Object: testDES}},
		Plan:        []ledger.RowStep{{Step: remedy.Tag, Class: policy.InPlace, State: remedy.Planned}},
		Attestation: &cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Checks: []cvm.Check{{ID: "S8", Kind: "V", State: cvm.Pass}}, Bundle: "b", JudgedAt: t0, NonceIssued: t0, SecureBoot: &yes, PCRs: map[string]string{"7": "00"}},
		PolicyHash:  "p", StateHash: "s", CompliantSince: t0, GoneSince: t0, TransitionSince: t0, Development: true, NextLook: t0.Add(time.Hour),
		Step:  &ledger.OpenStep{Step: tagStep, Intent: 3, Record: "r", Token: "t", NonceHash: "h", Blob: "b", Started: t0},
		Sends: map[string][]time.Time{"tag x": {t0, t0.Add(1)}}, Hold: map[string]time.Time{"tag y": t0},
		Set:       map[string]ledger.SetValue{"tag x": {Value: "f", At: t0, Backs: 1}},
		Stopped:   map[string]cvm.Contest{"tag z": {Step: "tag", On: testVM, Times: 2, Since: t0, Why: ledger.WhyChangedBack}},
		TagSetter: &cvm.Fact[cvm.TagSetter]{Known: true, Value: cvm.TagSetter{Tag: "t", Value: "v", Principal: "p", At: t0, Event: "e"}},
		Braked:    "window", Shadow: policy.Compliant, WouldBeRefused: []azurepolicy.Refusal{{Rule: "vtpm", Definition: "cvmguard-vtpm", Why: "w"}},
		Operation: &ledger.OperationState{Approved: t0, ApprovedBy: "p", Paused: true, Stopped: true, SaidAt: t0, SaidBy: "p", Done: 1, Ahead: []int{3}},
		HeadSeq:   3, HeadHash: ledger.HashBytes(nil), LastEvent: "1", LastEventAt: t0, LastSeen: t0, LastError: "e", Extra: map[string]string{"later": "kept"}}
}

func TestRowRoundTrip(t *testing.T) {
	for name, r := range map[string]ledger.Row{"full": fullRow(), "bare": {PK: "p", RK: "r", ID: testVM}} {
		e, err := r.Entity()
		fatal(t, err)
		back, err := ledger.DecodeRow(e)
		fatal(t, err)
		if !reflect.DeepEqual(back, r) {
			t.Errorf("%s: wrote\n%+v\nread\n%+v", name, r, back)
		}
	}
	s, r := memstore.New(nil), fullRow()
	e, err := r.Entity()
	fatal(t, err)
	if _, err := s.Tables().Insert(t.Context(), r.Table(), e); err != nil {
		t.Errorf("the table refuses it: %v", err)
	}
	if r.Table() != ledger.TableVMs || r.Chain() != testChain {
		t.Errorf("it belongs in %s, chain %s", r.Table(), r.Chain())
	}
	if r.SharedKind = cvm.SharedKey; r.Table() != ledger.TableShared {
		t.Errorf("a key's row belongs in %s", r.Table())
	}
}

// Every field of Row must be set in fullRow, or the round trip proves nothing of it.
func TestFullRowIsFull(t *testing.T) {
	v := reflect.ValueOf(fullRow())
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "SharedKind" && name != "Cut" {
			t.Errorf("field %s is zero", name)
		}
	}
}

func TestRowIsStrict(t *testing.T) {
	full := fullRow()
	good, err := full.Entity()
	fatal(t, err)
	for col, values := range map[string][]string{
		"id": {""}, "shared": {"disk"}, "verdict": {"good"}, "again": {"yes", "TRUE"}, "development": {"1"},
		"leaseEnds": {"", "2026-11-01", "2026-11-01T12:00:00Z", "x"}, "nextLook": {"tomorrow"}, "lastSeen": {"2026-11-01T12:00:00.000000000+01:00"},
		"headSeq": {"-1", "3.0", "+3", "03", "", "99999999999999999999"}, "headHash": {"", "xyz"},
		"causes": {"{", "{}", `[{"kind":"x","more":1}]`, `[] []`}, "step": {"[]", `{"step":{}}`, `{"intent":1}`}, "sends": {"[]"}, "hold": {"3"},
		"set": {"1", `{"x":{"more":1}}`}, "stopped": {"[]", `{"x":{"why":1}}`}, "tagSetter": {"[]"}, "operation": {"[]"}, "shadow": {"good"}, "wouldBeRefused": {"{}", `[{"more":1}]`},
		"attestation": {"1", `{"unknown":true}`}, "pending": {"x"}, "findings": {"x"}, "plan": {`{"a":1}`}, "cut": {`"x"`},
	} {
		for _, v := range values {
			bad := good
			bad.Cols = maps.Clone(good.Cols)
			bad.Cols[col] = v
			named := "column " + col
			if col == "headSeq" && v == "" {
				named = "column headHash" // no head, yet its hash
			}
			if _, err := ledger.DecodeRow(bad); !fault.Is(err, fault.Bug) || !strings.Contains(err.Error(), named) {
				t.Errorf("%s = %q: %v", col, v, err)
			}
		}
	}
}

func TestLongColumnsAreCut(t *testing.T) {
	r := fullRow()
	long := strings.Repeat("lang ü ", 40)
	r.Findings, r.Plan, r.Attestation.Checks = nil, nil, nil
	for i := range 900 {
		r.Findings = append(r.Findings, ledger.RowFinding{Rule: fmt.Sprint("rule-", i), State: []cvm.State{cvm.Pass, cvm.NotAsked, cvm.Fail}[i%3], Reason: "some-reason"})
		r.Plan = append(r.Plan, ledger.RowStep{Step: remedy.EncryptDataDisk, Class: policy.NeedsDeallocation, State: remedy.Planned})
		r.Attestation.Checks = append(r.Attestation.Checks, cvm.Check{ID: "S8", State: []cvm.State{cvm.Pass, cvm.Fail}[i/800], Detail: long})
	}
	e, err := r.Entity()
	fatal(t, err)
	if _, err := memstore.New(nil).Tables().Insert(t.Context(), r.Table(), e); err != nil {
		t.Fatal(err)
	}
	back, err := ledger.DecodeRow(e)
	fatal(t, err)
	if strings.Join(back.Cut, " ") != "findings plan attestation" {
		t.Errorf("cut %q", back.Cut)
	}
	fails := 0
	for _, f := range back.Findings {
		if f.State == cvm.Fail {
			fails++
		}
	}
	if fails != 300 || len(back.Plan) == 0 || len(back.Attestation.Checks) != 100 {
		t.Errorf("%d of 300 failures, %d steps, %d checks are left", fails, len(back.Plan), len(back.Attestation.Checks))
	}
	back.SetJudgement(policy.Verdict{Value: policy.Compliant}, remedy.Plan{}, t0)
	if strings.Join(back.Cut, " ") != "attestation" {
		t.Errorf("after a new judgement: cut %q", back.Cut)
	}
	back.SetAttestation(nil)
	if len(back.Cut) != 0 {
		t.Errorf("after new evidence: cut %q", back.Cut)
	}
	r = fullRow()
	r.Step.Token = strings.Repeat("x", ledger.MaxColumn+1)
	if _, err := r.Entity(); !fault.Is(err, fault.Bug) || !strings.Contains(err.Error(), "column step") {
		t.Errorf("a token that is too long: %v", err)
	}
}

func TestMergeCause(t *testing.T) {
	r := ledger.Row{ID: testVM}
	r.MergeCause(ledger.Cause{Kind: "event", ID: "1", At: t0})
	r.MergeCause(ledger.Cause{Kind: "event", ID: "1", At: t0.Add(-time.Hour), Fresh: true})
	if len(r.Causes) != 1 || !r.Causes[0].At.Equal(t0) || !r.Causes[0].Fresh || !r.EvidenceWanted.Equal(t0.Add(-time.Hour)) {
		t.Errorf("an event twice: %+v, evidence wanted %s", r.Causes, r.EvidenceWanted)
	}
	r.MergeCause(ledger.Cause{Kind: "evidence", Nonce: "n1", At: t0})
	r.MergeCause(ledger.Cause{Kind: "evidence", Nonce: "n2", At: t0})
	for i := range 40 {
		r.MergeCause(ledger.Cause{Kind: "event", ID: fmt.Sprint("x", i), At: t0})
	}
	text := fmt.Sprint(r.Causes)
	if len(r.Causes) != ledger.MaxCauses || !strings.Contains(text, "n1") || !strings.Contains(text, "n2") || !strings.Contains(text, "x39") || strings.Contains(text, "x3 ") || !r.Causes[0].Fresh {
		t.Errorf("%d causes: %s", len(r.Causes), text)
	}
	for i := range 40 {
		r.MergeCause(ledger.Cause{Kind: "evidence", Nonce: fmt.Sprint("m", i), At: t0})
		r.AddPending(ledger.PendingEvidence{Nonce: fmt.Sprint("m", i)})
		r.AddPending(ledger.PendingEvidence{Nonce: fmt.Sprint("m", i)})
	}
	if len(r.Causes) != ledger.MaxCauses || r.Causes[15].Nonce != "m39" || len(r.Pending) != ledger.MaxPending || r.Pending[31].Nonce != "m39" {
		t.Errorf("%d causes, %d pending: %+v", len(r.Causes), len(r.Pending), r.Causes)
	}
}

func TestSends(t *testing.T) {
	var r ledger.Row
	other := remedy.Step{Kind: remedy.Tag, Target: "y"}
	r.Sent(other, t0, 24*time.Hour)
	r.Sent(tagStep, t0, 24*time.Hour)
	upper := tagStep
	upper.Target = strings.ToUpper(upper.Target)
	r.Sent(upper, t0.Add(23*time.Hour), 24*time.Hour)
	if n := r.SentWithin(tagStep, t0.Add(23*time.Hour), 24*time.Hour); n != 2 {
		t.Errorf("sent %d times", n)
	}
	if n := r.SentWithin(tagStep, t0.Add(24*time.Hour), 24*time.Hour); n != 1 {
		t.Errorf("sent %d times in the window", n)
	}
	clone := r.Clone()
	r.Sent(tagStep, t0.Add(25*time.Hour), 24*time.Hour)
	if len(r.Sends) != 1 || len(r.Sends[ledger.SendKey(tagStep)]) != 2 || len(clone.Sends) != 2 {
		t.Errorf("sends %v, of the clone before %v", r.Sends, clone.Sends)
	}
}

func TestSetJudgement(t *testing.T) {
	var r ledger.Row
	set := func(v policy.Value, at time.Time) { r.SetJudgement(policy.Verdict{Value: v}, remedy.Plan{}, at) }
	set(policy.Compliant, t0)
	set(policy.Compliant, t0.Add(time.Hour))
	if !r.CompliantSince.Equal(t0) {
		t.Errorf("compliant since %s", r.CompliantSince)
	}
	if set(policy.Unknown, t0.Add(2*time.Hour)); !r.CompliantSince.IsZero() {
		t.Errorf("unknown, yet compliant since %s", r.CompliantSince)
	}
	if set(policy.Compliant, t0.Add(3*time.Hour)); !r.CompliantSince.Equal(t0.Add(3 * time.Hour)) {
		t.Errorf("compliant again since %s", r.CompliantSince)
	}
	if !(&ledger.Row{Owner: "x", LeaseEnds: t0}).Held(t0.Add(-1)) || (&ledger.Row{Owner: "x", LeaseEnds: t0}).Held(t0) || (&ledger.Row{LeaseEnds: t0}).Held(t0.Add(-1)) {
		t.Error("who holds a row is wrong")
	}
}

func TestRowRoundTripOfAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		moment := rapid.Custom(func(t *rapid.T) time.Time {
			return time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
		})
		r := fullRow()
		r.Extra = nil
		r.Owner, r.Followed, r.LastEvent, r.UniqueID = text.Draw(t, "owner"), text.Draw(t, "followed"), text.Draw(t, "event"), text.Draw(t, "vmId")
		r.Region, r.PolicyHash, r.Step.Token = text.Draw(t, "region"), text.Draw(t, "policy"), text.Draw(t, "token")
		r.LeaseEnds, r.NextLook, r.Step.Started = moment.Draw(t, "lease"), moment.Draw(t, "next"), moment.Draw(t, "started")
		r.Causes = []ledger.Cause{{Kind: text.Draw(t, "kind"), By: text.Draw(t, "by"), At: moment.Draw(t, "at")}}
		e, err := r.Entity()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ledger.DecodeRow(e)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back, r) {
			t.Fatalf("wrote\n%+v\nread\n%+v", r, back)
		}
	})
}

func FuzzDecodeRow(f *testing.F) {
	r := fullRow()
	e, err := r.Entity()
	fatal(f, err)
	seed, err := json.Marshal(e.Cols)
	fatal(f, err)
	f.Add(seed)
	f.Add([]byte(`{"id":"x","step":"{\"step\":{\"step\":\"tag\"},\"intent\":1}"}`))
	f.Fuzz(func(t *testing.T, cols []byte) {
		e := ledger.Entity{PK: "p", RK: "r"}
		if json.Unmarshal(cols, &e.Cols) != nil {
			return
		}
		r, err := ledger.DecodeRow(e)
		if err != nil {
			if !fault.Is(err, fault.Bug) {
				t.Errorf("kind %q: %v", fault.KindOf(err), err)
			}
			return
		}
		once, err := r.Entity()
		if err != nil {
			return // a column is too long
		}
		back, err := ledger.DecodeRow(once)
		fatal(t, err)
		twice, err := back.Entity()
		fatal(t, err)
		if !maps.Equal(once.Cols, twice.Cols) {
			t.Errorf("written once and twice:\n%v\n%v", once.Cols, twice.Cols)
		}
	})
}
