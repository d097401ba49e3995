package ledger_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

const (
	testSub = "11111111-2222-3333-4444-555555555555"
	testVM  = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/Vm1"
	testDES = "/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/rg/providers/Microsoft.Compute/diskEncryptionSets/Des1"
)

var (
	t0        = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	testChain = ledger.ChainKey(testSub, cvm.RowKey(testVM))
	tagStep   = remedy.Step{Kind: remedy.Tag, Class: policy.InPlace, State: remedy.Planned, Target: testVM, Does: "Tags the VM.", Disturbs: remedy.DisturbsNone}
)

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func posture(gone bool) json.RawMessage {
	p := cvm.Posture{ID: testVM, Gone: gone}
	if !gone {
		vm := cvm.VM{ID: testVM, UniqueID: "unique-1", Location: "westeurope", ETag: "W/1"}
		vm.OSDisk.SecureDES = testDES
		p.VM = cvm.Known(vm)
		p.VM.ETag = "W/1"
		p.DES = cvm.Known(cvm.DES{ID: testDES, KeyURL: "https://Vault1.vault.azure.net/keys/Key1/0123"})
		p.Key = cvm.NotRead[cvm.Key]("key-unreadable", "", "")
		p.Vault = cvm.Known(cvm.Vault{Host: "vault1.vault.azure.net"})
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return b
}

func finding(state cvm.State) policy.Finding {
	return policy.Finding{Rule: "os-disk", State: state, Severity: policy.High, Reason: "x", Text: "Is <so> & so.", Class: policy.InPlace}
}

// record is record seq of testVM's chain, of a type that fits what is given.
func record(seq int, typ string) ledger.Record {
	r := ledger.Record{Object: testVM, Chain: testChain, Seq: seq, At: t0.Add(time.Duration(seq) * time.Minute), Type: typ, Version: "v0", Policy: "p1", Mode: "enforce",
		Causes: []ledger.Cause{{Kind: "event", ID: fmt.Sprint("e", seq), At: t0}}}
	if typ == ledger.TypeOutcome {
		step := tagStep
		r.Step, r.Intent, r.Outcome = &step, seq-1, &ledger.Outcome{State: remedy.Done}
		return r
	}
	r.Posture = posture(false)
	r.Verdict = &policy.Verdict{Value: policy.NonCompliant, Kind: cvm.KindCustomerKey, TEE: cvm.TEESNP, Findings: []policy.Finding{finding(cvm.Fail), finding(cvm.Pass)}, PolicyHash: "p1", At: r.At}
	r.Plan = &remedy.Plan{Mode: "enforce", Steps: []remedy.Step{tagStep}}
	if typ == ledger.TypeIntent {
		step := tagStep
		r.Step = &step
	}
	return r
}

// write appends records of the types given, from sequence 1 on, after edit.
func write(t testing.TB, c ledger.Chains, edit func(*ledger.Record), types ...string) []ledger.Linked {
	t.Helper()
	hash := ""
	for i, typ := range types {
		r := record(i+1, typ)
		if edit != nil {
			edit(&r)
		}
		var err error
		hash, _, err = c.Append(t.Context(), r, hash)
		fatal(t, err)
	}
	after, err := c.After(t.Context(), testChain, 0, "")
	fatal(t, err)
	return after
}

func TestAppendReadHead(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	c := ledger.Chains{Blobs: s.Blobs()}
	if seq, hash, _, err := c.Head(ctx, testChain, 0); seq != 0 || hash != "" || err != nil {
		t.Errorf("head of nothing: %d %q %v", seq, hash, err)
	}
	recs := write(t, c, nil, ledger.TypeState, ledger.TypeIntent, ledger.TypeOutcome)
	if len(recs) != 3 || recs[1].Record.Previous != recs[0].Hash || recs[2].Name != testChain+"/00000003.json" || recs[0].Record.Schema != ledger.RecordSchema {
		t.Fatalf("wrote %+v", recs)
	}
	rec, raw, hash, err := c.Read(ctx, testChain, 2)
	fatal(t, err)
	if rec.Seq != 2 || !bytes.Equal(raw, recs[1].Raw) || hash != ledger.HashBytes(raw) {
		t.Errorf("read %d %s", rec.Seq, hash)
	}
	for from := range 4 {
		seq, hash, rec, err := c.Head(ctx, testChain, from)
		if err != nil || seq != 3 || hash != recs[2].Hash || rec.Type != ledger.TypeOutcome {
			t.Errorf("head from %d: %d %s %v", from, seq, hash, err)
		}
	}
	var names []string
	fatal(t, c.List(ctx, testChain, func(_ int, name string) bool {
		names = append(names, name)
		return true
	}))
	if want := []string{recs[0].Name, recs[1].Name, recs[2].Name}; !slices.Equal(names, want) {
		t.Errorf("listed %q", names)
	}
	var chains []string
	fatal(t, c.All(ctx, func(chain string) bool {
		chains = append(chains, chain)
		return true
	}))
	if !slices.Equal(chains, []string{testChain}) {
		t.Errorf("chains %q", chains)
	}
	before := s.Calls()["read"]
	if after, err := c.After(ctx, testChain, 3, recs[2].Hash); err != nil || len(after) != 0 || s.Calls()["read"] != before+1 {
		t.Errorf("looking after the head: %v %v, %d reads", after, err, s.Calls()["read"]-before)
	}
}

func TestAppendConflictAndLostAnswer(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	c := ledger.Chains{Blobs: s.Blobs()}
	lost := errors.New("the line went dead")
	s.Hook = func(a memstore.Action) error {
		if a.After && a.N == 1 {
			return lost
		}
		return nil
	}
	if _, _, err := c.Append(ctx, record(1, ledger.TypeState), ""); !errors.Is(err, lost) {
		t.Fatalf("a lost answer: %v", err)
	}
	h1, _, err := c.Append(ctx, record(1, ledger.TypeState), "")
	if err != nil {
		t.Fatalf("the same again: %v", err)
	}
	other := record(1, ledger.TypeState)
	other.Version = "v1"
	if _, _, err := c.Append(ctx, other, ""); !fault.Is(err, fault.Conflict) {
		t.Errorf("another record of this number: %v", err)
	}
	if _, hash, _, err := c.Head(ctx, testChain, 0); err != nil || hash != h1 {
		t.Errorf("the first record changed: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	c, ctx := ledger.Chains{Blobs: memstore.New(nil).Blobs()}, t.Context()
	hash := ledger.HashBytes(nil)
	for name, f := range map[string]func(*ledger.Record, *string){
		"no chain":            func(r *ledger.Record, _ *string) { r.Chain = "" },
		"a path as a chain":   func(r *ledger.Record, _ *string) { r.Chain = "../" + testChain },
		"sequence 0":          func(r *ledger.Record, _ *string) { r.Seq = 0 },
		"sequence too long":   func(r *ledger.Record, prev *string) { r.Seq, *prev = 100_000_000, hash },
		"first with previous": func(_ *ledger.Record, prev *string) { *prev = hash },
		"second without":      func(r *ledger.Record, _ *string) { r.Seq = 2 },
		"previous not a hash": func(r *ledger.Record, prev *string) { r.Seq, *prev = 2, "x" },
		"unknown type":        func(r *ledger.Record, _ *string) { r.Type = "note" },
		"posture not JSON":    func(r *ledger.Record, _ *string) { r.Posture = json.RawMessage("{") },
	} {
		r, prev := record(1, ledger.TypeState), ""
		f(&r, &prev)
		if _, _, err := c.Append(ctx, r, prev); !fault.Is(err, fault.Bug) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBrokenChainIsNoticed(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	c := ledger.Chains{Blobs: s.Blobs()}
	recs := write(t, c, nil, ledger.TypeState, ledger.TypeState, ledger.TypeState)
	s.Blobs().Overwrite(ledger.ContainerRecords, recs[1].Name, bytes.Replace(recs[1].Raw, []byte(`"v0"`), []byte(`"v9"`), 1))
	if _, err := c.After(ctx, testChain, 0, ""); !fault.Is(err, fault.Bug) {
		t.Errorf("a changed record: %v", err)
	}
	if _, err := c.After(ctx, testChain, 2, recs[0].Hash); !fault.Is(err, fault.Bug) {
		t.Errorf("a head that isn't the record before: %v", err)
	}
	s.Blobs().Overwrite(ledger.ContainerRecords, recs[1].Name, recs[0].Raw)
	if _, _, _, err := c.Read(ctx, testChain, 2); !fault.Is(err, fault.Bug) {
		t.Errorf("a record under another's name: %v", err)
	}
	if _, _, _, err := c.Read(ctx, testChain, 7); !fault.Is(err, fault.NotFound) {
		t.Errorf("an absent record: %v", err)
	}
}

func TestEncodingIsDeterministic(t *testing.T) {
	r := record(1, ledger.TypeState)
	r.Schema = ledger.RecordSchema
	a, err := ledger.EncodeRecord(r)
	fatal(t, err)
	r.At = r.At.In(time.FixedZone("", 3600))
	r.Causes[0].At = r.Causes[0].At.In(time.FixedZone("", -3600))
	r.Posture = append([]byte(" \n"), r.Posture...)
	b, err := ledger.EncodeRecord(r)
	fatal(t, err)
	if !bytes.Equal(a, b) {
		t.Errorf("equal records differ:\n%s%s", a, b)
	}
	r.Version = "bad \xff text"
	c, err := ledger.EncodeRecord(r)
	fatal(t, err)
	back, err := ledger.DecodeRecord(c)
	fatal(t, err)
	if again, err := ledger.EncodeRecord(back); err != nil || !bytes.Equal(again, c) {
		t.Errorf("text that isn't UTF-8: read back it gives\n%s, not\n%s (%v)", again, c, err)
	}
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", "x", testChain, testChain + "/1.json", testChain + "/00000000.json", testChain + "/+0000001.json",
		testChain + "/00000001.JSON", "a/" + testChain + "/00000001.json", "/00000001.json", testChain[:20] + "/00000001.json"} {
		if chain, seq, ok := ledger.ParseRecordName(bad); ok {
			t.Errorf("%q is read as %q, %d", bad, chain, seq)
		}
	}
	if chain, seq, ok := ledger.ParseRecordName(testChain + "/00000042.json"); !ok || chain != testChain || seq != 42 {
		t.Errorf("read %q %d %t", chain, seq, ok)
	}
	if pk, rk, ok := ledger.SplitChain(testChain); !ok || pk != testSub || rk != cvm.RowKey(testVM) {
		t.Errorf("split into %q %q %t", pk, rk, ok)
	}
}

func TestPlaceOf(t *testing.T) {
	for id, want := range map[string]ledger.Place{
		testVM:  {PK: testSub},
		testDES: {PK: testSub, Kind: cvm.SharedDES},
		"/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.KeyVault/vaults/v":      {PK: testSub, Kind: cvm.SharedVault},
		"/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.KeyVault/managedHSMs/v": {PK: testSub, Kind: cvm.SharedVault},
		"https://v.vault.azure.net/keys/k": {PK: "keys", Kind: cvm.SharedKey},
		testSub + "/regions/westeurope":    {PK: testSub, Kind: cvm.SharedRegion},
	} {
		want.RK = cvm.RowKey(id)
		if got, err := ledger.PlaceOf(id); err != nil || got != want {
			t.Errorf("%s is at %+v, %v", id, got, err)
		}
	}
	for _, bad := range []string{"", "/", testVM + "/extensions/x", "https://v/keys/k/1", "//regions/x", testSub + "/regions/",
		"/subscriptions//resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/x", "/subscriptions/" + testSub + "/resourceGroups/rg/providers/Microsoft.Compute/disks/d"} {
		if got, err := ledger.PlaceOf(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q is at %+v, %v", bad, got, err)
		}
	}
}

func TestStateHash(t *testing.T) {
	hash := func(edit func(*ledger.Record)) string {
		r := record(1, ledger.TypeState)
		edit(&r)
		h, err := r.StateHash()
		fatal(t, err)
		return h
	}
	base := hash(func(*ledger.Record) {})
	for name, edit := range map[string]func(*ledger.Record){
		"time":    func(r *ledger.Record) { r.At = r.At.Add(time.Hour); r.Verdict.At = r.At },
		"number":  func(r *ledger.Record) { r.Seq, r.Previous = 9, "x" },
		"causes":  func(r *ledger.Record) { r.Causes = nil },
		"type":    func(r *ledger.Record) { r.Type = ledger.TypeIntent },
		"mode":    func(r *ledger.Record) { r.Mode, r.Plan.Mode = "observe", "observe" },
		"an ETag": func(r *ledger.Record) { r.Posture = bytes.ReplaceAll(r.Posture, []byte("W/1"), []byte("W/2")) },
	} {
		if hash(edit) != base {
			t.Errorf("another %s makes another state", name)
		}
	}
	for name, edit := range map[string]func(*ledger.Record){
		"fact": func(r *ledger.Record) {
			r.Posture = bytes.ReplaceAll(r.Posture, []byte("westeurope"), []byte("eastus"))
		},
		"finding":     func(r *ledger.Record) { r.Verdict.Findings[1].State = cvm.UnknownState },
		"plan":        func(r *ledger.Record) { r.Plan.Steps = nil },
		"attestation": func(r *ledger.Record) { r.Attestation = &cvm.Attestation{Bundle: "x"} },
		"policy":      func(r *ledger.Record) { r.Policy = "p2" },
		"development": func(r *ledger.Record) { r.Development = true },
	} {
		if hash(edit) == base {
			t.Errorf("another %s makes no other state", name)
		}
	}
	judged := func(at time.Time) string {
		return hash(func(r *ledger.Record) { r.Attestation = &cvm.Attestation{Bundle: "x", JudgedAt: at} })
	}
	if judged(t0) != judged(t0.Add(time.Hour)) {
		t.Error("judging the same at another time makes another state")
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := record(1, ledger.TypeIntent)
	r.Schema = ledger.RecordSchema
	body, err := ledger.EncodeRecord(r)
	fatal(f, err)
	f.Add(body)
	f.Add([]byte(`{"schema":"cvmguard.dev/record/v1"}`))
	f.Add([]byte(`{"schema":"cvmguard.dev/record/v1","posture":{"known":1,"etag":[]},"at":"0001-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ledger.VerifyFiles(ledger.RecordFile{Name: "x/00000001.json", Body: body})
		r, err := ledger.DecodeRecord(body)
		if err != nil {
			return
		}
		once, err := ledger.EncodeRecord(r)
		if err != nil {
			return // a time or a number that has no JSON
		}
		back, err := ledger.DecodeRecord(once)
		fatal(t, err)
		twice, err := ledger.EncodeRecord(back)
		fatal(t, err)
		if !bytes.Equal(once, twice) {
			t.Errorf("encoded once and twice:\n%s%s", once, twice)
		}
		if _, err := r.StateHash(); err != nil && len(r.Posture) == 0 {
			t.Error(err)
		}
	})
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{testVM, testDES, testChain + "/00000042.json", testChain, "https://v.vault.azure.net/keys/k", testSub + "/regions/westeurope"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ledger.PlaceOf(s); err == nil {
			if pk, rk, ok := ledger.SplitChain(p.Chain()); !ok || pk != p.PK || rk != p.RK {
				t.Errorf("%q is at %+v, whose chain splits into %q, %q, %t", s, p, pk, rk, ok)
			}
		}
		if chain, seq, ok := ledger.ParseRecordName(s); ok && ledger.RecordName(chain, seq) != s {
			t.Errorf("%q is read as %q, %d", s, chain, seq)
		}
	})
}
