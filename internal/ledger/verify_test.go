package ledger_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
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

var fullChain = []string{ledger.TypeState, ledger.TypeIntent, ledger.TypeOutcome, ledger.TypeState, ledger.TypeIntent}

func files(recs []ledger.Linked) (out []ledger.RecordFile) {
	for _, r := range recs {
		out = append(out, ledger.RecordFile{Name: "records/" + r.Name, Body: r.Raw})
	}
	return out
}

func TestVerifyGoodChain(t *testing.T) {
	s := memstore.New(nil)
	c := ledger.Chains{Blobs: s.Blobs()}
	recs := write(t, c, nil, fullChain...)
	rep, err := ledger.VerifyChain(t.Context(), c, testChain)
	fatal(t, err)
	if !rep.OK() || len(rep.Unchecked) != 0 || len(rep.Chains) != 1 {
		t.Fatalf("faults %+v, unchecked %q", rep.Faults, rep.Unchecked)
	}
	want := ledger.ChainReport{Chain: testChain, Object: testVM, First: 1, Last: 5, Records: 5, Links: 4, Head: recs[4].Hash, Verdict: "non-compliant"}
	if got := rep.Chains[0]; got.Head != want.Head || got.Links != want.Links || got.Last != 5 || got.Object != testVM || !slices.Equal(got.Open, []int{5}) || got.Verdict != want.Verdict {
		t.Errorf("report %+v", got)
	}
	shuffled := files(recs)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if rep := ledger.VerifyFiles(shuffled...); !rep.OK() || rep.Chains[0].Links != 4 {
		t.Errorf("shuffled: %+v", rep)
	}
	if _, err := ledger.VerifyChain(t.Context(), c, ledger.ChainKey(testSub, cvm.RowKey("x"))); !fault.Is(err, fault.NotFound) {
		t.Errorf("no such chain: %v", err)
	}
	if rep := ledger.VerifyFiles(); rep.OK() {
		t.Error("nothing verifies")
	}
}

func TestVerifyPart(t *testing.T) {
	s := memstore.New(nil)
	c := ledger.Chains{Blobs: s.Blobs()}
	all := files(write(t, c, nil, fullChain...))
	for name, part := range map[string]struct {
		files     []ledger.RecordFile
		unchecked []string
	}{
		"one from the middle": {all[2:3], []string{"records 1 to 2 weren't given", "record 2, the intent of outcome 3, wasn't given"}},
		"with a hole":         {[]ledger.RecordFile{all[0], all[1], all[3]}, []string{"record 3 wasn't given, so the link of record 4"}},
		"the end":             {all[3:], []string{"records 1 to 3"}},
		"one twice":           {append(slices.Clone(all), all[1]), []string{"record 2 was given twice"}},
		"without names":       {[]ledger.RecordFile{{Name: "-", Body: all[0].Body}}, nil},
	} {
		rep := ledger.VerifyFiles(part.files...)
		if !rep.OK() || len(rep.Unchecked) != len(part.unchecked) {
			t.Errorf("%s: faults %+v, unchecked %q", name, rep.Faults, rep.Unchecked)
			continue
		}
		for i, want := range part.unchecked {
			if !strings.Contains(rep.Unchecked[i], want) {
				t.Errorf("%s: unchecked %q, want %q", name, rep.Unchecked[i], want)
			}
		}
	}
	fatal(t, s.Blobs().Delete(t.Context(), ledger.ContainerRecords, testChain+"/00000002.json"))
	rep, err := ledger.VerifyChain(t.Context(), c, testChain)
	fatal(t, err)
	if rep.OK() || rep.Faults[0].Check != "sequence" || rep.Faults[0].Seq != 2 {
		t.Errorf("a record missing from the store: %+v", rep.Faults)
	}
}

// relink writes a chain whose record at is edited and whose links are right.
func relink(t *testing.T, at int, edit func(*ledger.Record)) []ledger.RecordFile {
	t.Helper()
	hash := ""
	var out []ledger.RecordFile
	for i, typ := range fullChain {
		r := record(i+1, typ)
		r.Schema, r.Previous = ledger.RecordSchema, hash
		if r.Seq == at {
			edit(&r)
		}
		body, err := ledger.EncodeRecord(r)
		fatal(t, err)
		hash = ledger.HashBytes(body)
		out = append(out, ledger.RecordFile{Name: ledger.RecordName(testChain, i+1), Body: body})
	}
	return out
}

func TestVerifyFindsFaults(t *testing.T) {
	for name, c := range map[string]struct {
		at    int
		edit  func(*ledger.Record)
		check string
	}{
		"schema":                     {1, func(r *ledger.Record) { r.Schema = "cvmguard.dev/record/v2" }, "schema"},
		"another object":             {2, func(r *ledger.Record) { r.Object = testVM + "2" }, "object"},
		"no object":                  {2, func(r *ledger.Record) { r.Object = "vm1" }, "object"},
		"chain isn't one":            {2, func(r *ledger.Record) { r.Chain = "x" }, "object"},
		"number of another":          {2, func(r *ledger.Record) { r.Seq = 3 }, "name"},
		"number 0":                   {4, func(r *ledger.Record) { r.Seq = 0 }, "sequence"},
		"first with previous":        {1, func(r *ledger.Record) { r.Previous = ledger.HashBytes(nil) }, "sequence"},
		"second without":             {2, func(r *ledger.Record) { r.Previous = "" }, "sequence"},
		"previous of another":        {2, func(r *ledger.Record) { r.Previous = ledger.HashBytes(nil) }, "link"},
		"type unknown":               {4, func(r *ledger.Record) { r.Type = "note" }, "shape"},
		"no posture":                 {4, func(r *ledger.Record) { r.Posture = nil }, "shape"},
		"posture without meaning":    {4, func(r *ledger.Record) { r.Posture = json.RawMessage(`[1]`) }, "shape"},
		"no verdict":                 {4, func(r *ledger.Record) { r.Verdict = nil }, "shape"},
		"state with a step":          {4, func(r *ledger.Record) { r.Step = &tagStep }, "shape"},
		"intent without a step":      {2, func(r *ledger.Record) { r.Step = nil }, "shape"},
		"intent with an outcome":     {2, func(r *ledger.Record) { r.Outcome = &ledger.Outcome{State: remedy.Done} }, "shape"},
		"outcome without its state":  {3, func(r *ledger.Record) { r.Outcome.State = remedy.Running }, "shape"},
		"outcome without an intent":  {3, func(r *ledger.Record) { r.Intent = 0 }, "shape"},
		"no time":                    {4, func(r *ledger.Record) { r.At = time.Time{} }, "shape"},
		"mode unknown":               {3, func(r *ledger.Record) { r.Mode = "dry" }, "shape"},
		"plan for another mode":      {4, func(r *ledger.Record) { r.Plan.Mode = "observe" }, "shape"},
		"verdict too good":           {4, func(r *ledger.Record) { r.Verdict.Value = policy.Compliant }, "verdict"},
		"verdict of other findings":  {4, func(r *ledger.Record) { r.Verdict.Findings = nil }, "verdict"},
		"unknown made non-compliant": {4, func(r *ledger.Record) { r.Verdict.Findings[0].State = cvm.UnknownState }, "verdict"},
		"gone though it's there":     {4, func(r *ledger.Record) { r.Verdict.Value = policy.Gone }, "verdict"},
		"there though it's gone":     {4, func(r *ledger.Record) { r.Posture = posture(true) }, "verdict"},
		"a CVM that is none":         {4, func(r *ledger.Record) { r.Verdict.Value, r.Verdict.Why = policy.NotACVM, "x" }, "verdict"},
		"not a CVM without why":      {4, func(r *ledger.Record) { r.Verdict.Value, r.Verdict.Kind = policy.NotACVM, cvm.KindTrustedLaunch }, "verdict"},
		"state of a finding":         {4, func(r *ledger.Record) { r.Verdict.Findings[1].State = "good" }, "verdict"},
		"another policy":             {4, func(r *ledger.Record) { r.Policy = "p2" }, "verdict"},
		"intent in observe":          {2, func(r *ledger.Record) { r.Mode, r.Plan.Mode = "observe", "observe" }, "intent"},
		"intent outside its plan":    {2, func(r *ledger.Record) { r.Step.Kind = remedy.Deallocate }, "intent"},
		"outcome of a later record":  {3, func(r *ledger.Record) { r.Intent = 4 }, "intent"},
		"outcome of a state":         {3, func(r *ledger.Record) { r.Intent = 1 }, "intent"},
		"outcome of another step":    {3, func(r *ledger.Record) { r.Step.Target = "x" }, "intent"},
		"unmarked development": {4, func(r *ledger.Record) {
			r.Attestation = &cvm.Attestation{Development: true}
		}, "development"},
	} {
		rep := ledger.VerifyFiles(relink(t, c.at, c.edit)...)
		if !slices.ContainsFunc(rep.Faults, func(f ledger.VerifyFault) bool { return f.Check == c.check }) {
			t.Errorf("%s: no fault of %s in %+v", name, c.check, rep.Faults)
		}
	}
	if rep := ledger.VerifyFiles(relink(t, 0, nil)...); !rep.OK() {
		t.Errorf("unchanged: %+v", rep.Faults)
	}
}

func TestVerifyAcceptsEveryVerdict(t *testing.T) {
	for name, edit := range map[string]func(*ledger.Record){
		"gone": func(r *ledger.Record) { r.Posture, r.Verdict.Value = posture(true), policy.Gone },
		"not-a-cvm": func(r *ledger.Record) {
			r.Verdict.Value, r.Verdict.Kind, r.Verdict.Why = policy.NotACVM, cvm.KindStandardGen2, "x"
		},
		"unknown": func(r *ledger.Record) {
			r.Verdict.Value, r.Verdict.Findings[0].State = policy.Unknown, cvm.UnknownState
		},
		"compliant":  func(r *ledger.Record) { r.Verdict.Value, r.Verdict.Findings[0].State = policy.Compliant, cvm.Exempt },
		"in observe": func(r *ledger.Record) { r.Mode, r.Plan.Mode = "observe", "observe" },
	} {
		if rep := ledger.VerifyFiles(relink(t, 4, edit)...); !rep.OK() {
			t.Errorf("%s: %+v", name, rep.Faults)
		}
	}
}

func TestVerifySecondOutcomeAndFork(t *testing.T) {
	fs := relink(t, 4, func(r *ledger.Record) {
		*r = record(4, ledger.TypeOutcome)
		r.Schema, r.Intent = ledger.RecordSchema, 2
		r.Previous = ledger.HashBytes(relink(t, 0, nil)[2].Body)
	})
	if rep := ledger.VerifyFiles(fs[:4]...); len(rep.Faults) != 1 || rep.Faults[0].Check != "intent" || rep.Faults[0].Seq != 4 {
		t.Errorf("a second outcome: %+v", rep.Faults)
	}
	a, b := relink(t, 0, nil), relink(t, 4, func(r *ledger.Record) { r.Version = "v1" })
	b[3].Name = "copy.json"
	if rep := ledger.VerifyFiles(append(a, b[3])...); !slices.ContainsFunc(rep.Faults, func(f ledger.VerifyFault) bool { return f.Check == "sequence" }) {
		t.Errorf("a fork: %+v", rep.Faults)
	}
}

// Whatever single byte of a chain is changed, it shows: in the record itself or
// in the link of the next. (Of the newest record a change of meaning may not
// show: that takes its hash from a row or a checkpoint.)
func TestVerifyFindsEveryChangedByte(t *testing.T) {
	fs := relink(t, 0, nil)[:3]
	r := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		i := r.IntN(2)
		at := r.IntN(len(fs[i].Body))
		changed := slices.Clone(fs)
		changed[i].Body = bytes.Clone(fs[i].Body)
		changed[i].Body[at] ^= byte(1 + r.IntN(255))
		if ledger.VerifyFiles(changed...).OK() {
			t.Fatalf("byte %d of record %d was changed and nothing was found", at, i+1)
		}
	}
}

func TestVerifyForm(t *testing.T) {
	good := relink(t, 0, nil)[0]
	for name, body := range map[string][]byte{
		"empty":           nil,
		"not JSON":        []byte("x"),
		"an array":        []byte("[]"),
		"null":            []byte("null"),
		"cut":             good.Body[:len(good.Body)-9],
		"two objects":     append(bytes.Clone(good.Body), good.Body...),
		"no line feed":    bytes.TrimSpace(good.Body),
		"indented":        append([]byte(" "), good.Body...),
		"unknown member":  bytes.Replace(good.Body, []byte(`{"schema"`), []byte(`{"more":1,"schema"`), 1),
		"member twice":    bytes.Replace(good.Body, []byte(`"mode":"enforce"`), []byte(`"mode":"observe","mode":"enforce"`), 1),
		"other case":      bytes.Replace(good.Body, []byte(`"policy":"p1"`), []byte(`"Policy":"p1"`), 1),
		"time of a zone":  bytes.Replace(good.Body, []byte("2026-11-01T12:01:00Z"), []byte("2026-11-01T13:01:00+01:00"), 1),
		"longer than any": bytes.Repeat([]byte(" "), ledger.MaxRecord+1),
	} {
		if rep := ledger.VerifyFiles(ledger.RecordFile{Name: good.Name, Body: body}); rep.OK() {
			t.Errorf("%s verifies", name)
		}
	}
}
