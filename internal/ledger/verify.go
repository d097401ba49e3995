package ledger

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"cvmguard/internal/fault"
)

// RecordFile is one record as a file: its name, as given, and its bytes.
type RecordFile struct {
	Name string
	Body []byte
}

// VerifyFault is one thing that is wrong with a record.
type VerifyFault struct {
	Name  string `json:"name"` // of the file or blob
	Chain string `json:"chain,omitempty"`
	Seq   int    `json:"seq,omitempty"`
	Check string `json:"check"` // json, schema, object, name, sequence, link, shape, verdict, intent, development
	Text  string `json:"text"`
}

// ChainReport is what was seen of one chain.
type ChainReport struct {
	Chain   string `json:"chain"`
	Object  string `json:"object"` // as the newest record spells it
	First   int    `json:"first"`
	Last    int    `json:"last"`
	Records int    `json:"records"`
	Links   int    `json:"links"` // links between two records that hold
	Head    string `json:"head"`  // hash of the newest record that was given
	Verdict string `json:"verdict,omitempty"`
	Open    []int  `json:"openIntents,omitempty"` // intents without an outcome: under way, or never sent
}

// Report is the result of a verification: every fault, and what could not be
// checked with what was given. No fault and an empty Unchecked still don't prove
// that nothing came after the newest record; Limits says what is never checked.
type Report struct {
	Records   int           `json:"records"`
	Chains    []ChainReport `json:"chains"`
	Faults    []VerifyFault `json:"faults"`
	Unchecked []string      `json:"unchecked"`
	Limits    []string      `json:"limits"`
}

// OK says whether records were given and nothing is wrong with them.
func (r Report) OK() bool { return r.Records > 0 && len(r.Faults) == 0 }

// verifyLimits is what no verification of records alone can tell.
var verifyLimits = []string{
	"that the newest record given is the last one written: compare its hash with the row's or a checkpoint's head",
	"that the posture is what Azure said, and the findings what the policy makes of it",
	"the evidence itself: records name it by its SHA-256, the bytes are in container evidence",
}

// VerifyFiles verifies record files without any store: all of a chain or any
// part, of one object or several, in any order. Each record by itself is checked
// by checkRecord; then of each chain, in order of its numbers:
//
//	sequence  no number twice with different bytes
//	link      previous is the hash of the record before, if that was given
//	object    all records are about one object
//	intent    an outcome's intent is an intent record for the same step, not
//	          answered by another outcome
//
// Records that were not given leave holes: what they would have shown is listed
// in Unchecked, not among the faults.
func VerifyFiles(files ...RecordFile) Report {
	rep := Report{Chains: []ChainReport{}, Faults: []VerifyFault{}, Unchecked: []string{}, Limits: verifyLimits}
	byChain := map[string][]checked{}
	for _, f := range files {
		rep.Records++
		c, faults := checkRecord(f)
		rep.Faults = append(rep.Faults, faults...)
		if !c.readable {
			rep.Unchecked = append(rep.Unchecked, fmt.Sprintf("%s: its place in a chain, since it can't be read", f.Name))
			continue
		}
		byChain[c.rec.Chain] = append(byChain[c.rec.Chain], c)
	}
	chains := make([]string, 0, len(byChain))
	for chain := range byChain {
		chains = append(chains, chain)
	}
	slices.Sort(chains)
	for _, chain := range chains {
		verifyLinks(&rep, chain, byChain[chain])
	}
	return rep
}

// VerifyChain verifies a whole chain as it is in the store. A number that is
// missing is a fault here. The error is of reading, not of what was read;
// NotFound when the chain has no record.
func VerifyChain(ctx context.Context, c Chains, chain string) (Report, error) {
	var files []RecordFile
	var names []string
	if err := c.List(ctx, chain, func(_ int, name string) bool {
		names = append(names, name)
		return true
	}); err != nil {
		return Report{}, err
	}
	if len(names) == 0 {
		return Report{}, fault.New(fault.NotFound, "verifying chain", chain, "it has no record")
	}
	for _, name := range names {
		body, err := c.Blobs.Read(ctx, ContainerRecords, name, MaxRecord)
		if err != nil {
			return Report{}, fmt.Errorf("verifying chain %q: reading %s: %w", chain, name, err)
		}
		files = append(files, RecordFile{Name: name, Body: body})
	}
	rep := VerifyFiles(files...)
	for i, name := range names {
		if want := RecordName(chain, i+1); name != want {
			rep.Faults = append(rep.Faults, VerifyFault{Name: want, Chain: chain, Seq: i + 1, Check: "sequence",
				Text: fmt.Sprintf("record %d is missing from the store, the next one there is %s", i+1, name)})
			break
		}
	}
	return rep, nil
}

// verifyLinks checks how the records of one chain hang together.
func verifyLinks(rep *Report, chain string, recs []checked) {
	slices.SortStableFunc(recs, func(a, b checked) int { return a.rec.Seq - b.rec.Seq })
	fail := func(c checked, check, format string, args ...any) {
		rep.Faults = append(rep.Faults, VerifyFault{Name: c.name, Chain: chain, Seq: c.rec.Seq, Check: check, Text: fmt.Sprintf(format, args...)})
	}
	unchecked := func(format string, args ...any) {
		rep.Unchecked = append(rep.Unchecked, fmt.Sprintf(chain+": "+format, args...))
	}
	cr := ChainReport{Chain: chain, First: recs[0].rec.Seq}
	if cr.First > 1 {
		unchecked("%s given, so the link of record %d to the one before", notThere(1, cr.First-1), cr.First)
	}
	given := map[int]checked{}
	answered := map[int]checked{}
	open := map[int]bool{}
	for i, c := range recs {
		cr.Records++
		if i > 0 {
			before := recs[i-1]
			switch {
			case before.rec.Seq == c.rec.Seq && before.hash == c.hash:
				unchecked("record %d was given twice (%s and %s), it counts once", c.rec.Seq, before.name, c.name)
				cr.Records--
				continue
			case before.rec.Seq == c.rec.Seq:
				fail(c, "sequence", "another record has number %d too, %s: the chain was forked", c.rec.Seq, before.name)
				continue
			case before.rec.Seq+1 < c.rec.Seq:
				unchecked("%s given, so the link of record %d to the one before", notThere(before.rec.Seq+1, c.rec.Seq-1), c.rec.Seq)
			case c.rec.Previous != before.hash:
				fail(c, "link", "previous is %s, but the hash of record %d is %s: one of them was changed", c.rec.Previous, before.rec.Seq, before.hash)
			default:
				cr.Links++
			}
			if !strings.EqualFold(before.rec.Object, c.rec.Object) {
				fail(c, "object", "it is about %q, the record before about %q", c.rec.Object, before.rec.Object)
			}
		}
		given[c.rec.Seq] = c
		switch c.rec.Type {
		case TypeIntent:
			open[c.rec.Seq] = true
		case TypeOutcome:
			intent, there := given[c.rec.Intent]
			first, twice := answered[c.rec.Intent]
			switch {
			case !there && c.rec.Intent < c.rec.Seq:
				unchecked("record %d, the intent of outcome %d, wasn't given", c.rec.Intent, c.rec.Seq)
			case !there: // its number was found wrong already
			case intent.rec.Type != TypeIntent:
				fail(c, "intent", "it is the outcome of record %d, which is of type %s", c.rec.Intent, intent.rec.Type)
			case intent.rec.Step != nil && c.rec.Step != nil && !intent.rec.Step.Same(*c.rec.Step):
				fail(c, "intent", "its step is %s on %q, the intent's is %s on %q", c.rec.Step.Kind, c.rec.Step.Target, intent.rec.Step.Kind, intent.rec.Step.Target)
			case twice:
				fail(c, "intent", "record %d has an outcome already, record %d", c.rec.Intent, first.rec.Seq)
			}
			if !twice {
				answered[c.rec.Intent] = c
			}
			delete(open, c.rec.Intent)
		}
		if c.rec.Verdict != nil {
			cr.Verdict = string(c.rec.Verdict.Value)
		}
		cr.Last, cr.Head, cr.Object = c.rec.Seq, c.hash, c.rec.Object
	}
	for seq := range open {
		cr.Open = append(cr.Open, seq)
	}
	slices.Sort(cr.Open)
	rep.Chains = append(rep.Chains, cr)
}

// nameSays gives chain and number as a file's name has them: the last two parts
// of its path, or the last alone. ok is false where the name says nothing.
func nameSays(name string) (chain string, seq int, ok bool) {
	name = path.Clean(strings.ReplaceAll(name, `\`, "/"))
	dir, file := path.Split(name)
	if chain, seq, ok = ParseRecordName(path.Base(dir) + "/" + file); ok {
		return chain, seq, true
	}
	const anyChain = "x-aaaaaaaaaaaaaaaaaaaaaaaaaa"
	if _, seq, ok = ParseRecordName(anyChain + "/" + file); ok {
		return "", seq, true
	}
	return "", 0, false
}

// notThere names the records of a span that weren't.
func notThere(from, to int) string {
	if from == to {
		return fmt.Sprintf("record %d wasn't", from)
	}
	return fmt.Sprintf("records %d to %d weren't", from, to)
}
