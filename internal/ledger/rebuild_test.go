package ledger_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

func rebuilding(s *memstore.Store) ledger.Rebuilding {
	return ledger.Rebuilding{Blobs: s.Blobs(), Tables: s.Tables(), Now: func() time.Time { return t0.Add(time.Hour) }, Owner: "rebuild-1", Lease: 90 * time.Second}
}

func TestRebuild(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	c := ledger.Chains{Blobs: s.Blobs()}
	att := &cvm.Attestation{Bundle: "b1", NonceIssued: t0}
	recs := write(t, c, func(r *ledger.Record) {
		switch r.Seq {
		case 1:
			r.Causes = append(r.Causes, ledger.Cause{Kind: "rerun", At: t0.Add(5 * time.Minute), Fresh: true})
		case 3: // what the guest brought, judged in record 4
			r.Outcome.Bundle = "b1"
		case 4:
			r.Attestation = att
			r.Verdict.Value, r.Verdict.Findings[0].State = policy.Compliant, cvm.Pass
		case 5:
			r.Attestation = att
		case 6:
			r.Outcome.State, r.Outcome.NotBefore = remedy.Failed, t0.Add(2*time.Hour)
		case 7:
			r.Attestation = att
		}
	}, ledger.TypeState, ledger.TypeIntent, ledger.TypeOutcome, ledger.TypeState, ledger.TypeIntent, ledger.TypeOutcome, ledger.TypeIntent)
	got, err := rebuilding(s).Rebuild(ctx, testChain)
	fatal(t, err)
	if got.Action != ledger.RebuiltCreated || got.Records != 7 {
		t.Errorf("%s of %d records", got.Action, got.Records)
	}
	e, err := s.Tables().Get(ctx, ledger.TableVMs, testSub, cvm.RowKey(testVM))
	fatal(t, err)
	r, err := ledger.DecodeRow(e)
	fatal(t, err)
	if r.ETag != got.Row.ETag || r.Owner != "rebuild-1" || !r.LeaseEnds.Equal(t0.Add(time.Hour+90*time.Second)) {
		t.Errorf("claim %q until %s", r.Owner, r.LeaseEnds)
	}
	if r.ID != testVM || r.HeadSeq != 7 || r.HeadHash != recs[6].Hash || r.Verdict != policy.NonCompliant || r.UniqueID != "unique-1" || r.Region != "westeurope" {
		t.Errorf("row %+v", r)
	}
	if r.DES != cvm.DESID(strings.ToLower(testDES)) || r.Key != "https://vault1.vault.azure.net/keys/key1" || r.Vault != "vault1.vault.azure.net" {
		t.Errorf("key path %q %q %q", r.DES, r.Key, r.Vault)
	}
	if r.Step == nil || r.Step.Intent != 7 || r.Step.Token != "" || r.Step.Record != recs[6].Name || r.Step.Step.Kind != remedy.Tag {
		t.Errorf("open step %+v", r.Step)
	}
	if n := r.SentWithin(tagStep, t0.Add(time.Hour), 24*time.Hour); n != 3 {
		t.Errorf("%d sends", n)
	}
	if !r.Hold[ledger.SendKey(tagStep)].Equal(t0.Add(2*time.Hour)) || len(r.Pending) != 0 || r.Attestation == nil || r.Attestation.Bundle != "b1" {
		t.Errorf("hold %v, pending %v, attestation %+v", r.Hold, r.Pending, r.Attestation)
	}
	if !r.EvidenceWanted.Equal(t0.Add(5*time.Minute)) || r.LastEvent != "e1" || !r.CompliantSince.IsZero() {
		t.Errorf("evidence wanted %s, last event %q, compliant since %s", r.EvidenceWanted, r.LastEvent, r.CompliantSince)
	}
	if want, err := recs[6].Record.StateHash(); err != nil || r.StateHash != want {
		t.Errorf("state hash %s, want %s, %v", r.StateHash, want, err)
	}
}

func TestRebuildOpenStep(t *testing.T) {
	for name, c := range map[string]struct {
		types   []string
		intent  int
		pending int
	}{
		"state only":               {[]string{ledger.TypeState}, 0, 0},
		"an intent":                {[]string{ledger.TypeIntent}, 1, 0},
		"an intent with outcome":   {[]string{ledger.TypeIntent, ledger.TypeOutcome}, 0, 1},
		"an intent never sent":     {[]string{ledger.TypeIntent, ledger.TypeState}, 0, 0},
		"another after one unsent": {[]string{ledger.TypeIntent, ledger.TypeIntent}, 2, 0},
	} {
		s := memstore.New(nil)
		write(t, ledger.Chains{Blobs: s.Blobs()}, func(r *ledger.Record) {
			if r.Outcome != nil {
				r.Outcome.Bundle = "b"
			}
		}, c.types...)
		got, err := rebuilding(s).Rebuild(t.Context(), testChain)
		fatal(t, err)
		intent := 0
		if got.Row.Step != nil {
			intent = got.Row.Step.Intent
		}
		if intent != c.intent || len(got.Row.Pending) != c.pending {
			t.Errorf("%s: the open step is that of %d, %d pending", name, intent, len(got.Row.Pending))
		}
	}
}

func TestRebuildOverAnExistingRow(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	write(t, ledger.Chains{Blobs: s.Blobs()}, nil, ledger.TypeState)
	d := rebuilding(s)
	first, err := d.Rebuild(ctx, testChain)
	fatal(t, err)
	if again, err := d.Rebuild(ctx, testChain); err != nil || again.Action != ledger.RebuiltKept || again.Row.ETag != first.Row.ETag {
		t.Errorf("a readable row: %s, %v", again.Action, err)
	}
	d.Force = true
	if _, err := d.Rebuild(ctx, testChain); !fault.Is(err, fault.Conflict) {
		t.Errorf("a claimed row, by force: %v", err)
	}
	d.Now = func() time.Time { return t0.Add(2 * time.Hour) }
	if again, err := d.Rebuild(ctx, testChain); err != nil || again.Action != ledger.RebuiltReplaced {
		t.Errorf("an unclaimed row, by force: %s, %v", again.Action, err)
	}
	d.Force = false
	s.Tables().Corrupt(ledger.TableVMs, testSub, cvm.RowKey(testVM), func(cols map[string]string) { cols["headSeq"] = "x" })
	if again, err := d.Rebuild(ctx, testChain); err != nil || again.Action != ledger.RebuiltReplaced || again.Row.HeadSeq != 1 {
		t.Errorf("an unreadable row: %s, %v", again.Action, err)
	}
}

func TestRebuildRefusesBrokenChains(t *testing.T) {
	for name, spoil := range map[string]func(*memstore.Store, []ledger.Linked){
		"changed": func(s *memstore.Store, recs []ledger.Linked) {
			s.Blobs().Overwrite(ledger.ContainerRecords, recs[0].Name, bytes.Replace(recs[0].Raw, []byte("v0"), []byte("v1"), 1))
		},
		"missing": func(s *memstore.Store, recs []ledger.Linked) {
			fatal(t, s.Blobs().Delete(t.Context(), ledger.ContainerRecords, recs[1].Name))
		},
		"unreadable": func(s *memstore.Store, recs []ledger.Linked) {
			s.Blobs().Overwrite(ledger.ContainerRecords, recs[2].Name, []byte("{"))
		},
	} {
		s := memstore.New(nil)
		recs := write(t, ledger.Chains{Blobs: s.Blobs()}, nil, ledger.TypeState, ledger.TypeState, ledger.TypeState)
		spoil(s, recs)
		if _, err := rebuilding(s).Rebuild(t.Context(), testChain); !fault.Is(err, fault.Blocked) {
			t.Errorf("%s: %v", name, err)
		}
		if s.Calls()["insert"] != 0 {
			t.Errorf("%s: a row was written", name)
		}
	}
	if _, err := rebuilding(memstore.New(nil)).Rebuild(t.Context(), testChain); !fault.Is(err, fault.NotFound) {
		t.Errorf("a chain without records: %v", err)
	}
}

func TestRebuildAll(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	c := ledger.Chains{Blobs: s.Blobs()}
	write(t, c, nil, ledger.TypeState, ledger.TypeState)
	des, err := ledger.PlaceOf(testDES)
	fatal(t, err)
	shared := record(1, ledger.TypeState)
	shared.Object, shared.Chain = testDES, des.Chain()
	shared.Posture = []byte(`{"kind":"des","id":"x","region":"westeurope","gone":true,"des":{"known":false,"absent":true}}`)
	shared.Verdict.Value = policy.Gone
	_, _, err = c.Append(ctx, shared, "")
	fatal(t, err)
	bad := ledger.ChainKey("00000000-0000-0000-0000-000000000000", cvm.RowKey("x"))
	s.Blobs().Overwrite(ledger.ContainerRecords, ledger.RecordName(bad, 1), []byte("{"))
	results := map[string]string{}
	fatal(t, rebuilding(s).All(ctx, func(chain string, r ledger.Rebuilt, err error) bool {
		results[chain] = r.Action + string(fault.KindOf(err))
		return true
	}))
	if len(results) != 3 || results[testChain] != "created" || results[des.Chain()] != "created" || results[bad] != "blocked" {
		t.Errorf("results %v", results)
	}
	e, err := s.Tables().Get(ctx, ledger.TableShared, des.PK, des.RK)
	fatal(t, err)
	r, err := ledger.DecodeRow(e)
	fatal(t, err)
	if r.SharedKind != cvm.SharedDES || r.Region != "westeurope" || r.Verdict != policy.Gone || r.GoneSince.IsZero() || r.DES != "" {
		t.Errorf("the shared object's row: %+v", r)
	}
}
