package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"cvmguard/internal/fault"
)

// The record types.
const (
	TypeState   = "state"
	TypeIntent  = "intent"
	TypeOutcome = "outcome"
)

// MaxRecord is the longest record that is written or read, in bytes.
const MaxRecord = 4 << 20

// maxSeq is the last sequence number that fits a record's name.
const maxSeq = 99_999_999

// chainKey is <pk>-<rk>: a partition of lower-case letters, digits, dots and
// dashes, and 26 base32 characters.
var chainKey = regexp.MustCompile(`^[0-9a-z][0-9a-z.-]*-[a-z2-7]{26}$`)

// ChainKey is the key of an object's chain, <pk>-<rk>.
func ChainKey(pk, rk string) string { return pk + "-" + rk }

// SplitChain is the partition and row key of a chain's key; ok is false for any
// other text.
func SplitChain(chain string) (pk, rk string, ok bool) {
	if len(chain) > 200 || !chainKey.MatchString(chain) {
		return "", "", false
	}
	at := strings.LastIndexByte(chain, '-')
	return chain[:at], chain[at+1:], true
}

// RecordName is the blob's name of a record, <chain>/<seq, 8 digits>.json.
func RecordName(chain string, seq int) string { return fmt.Sprintf("%s/%08d.json", chain, seq) }

// ParseRecordName undoes RecordName; ok is false for any other text.
func ParseRecordName(name string) (chain string, seq int, ok bool) {
	chain, file, found := strings.Cut(name, "/")
	digits, isJSON := strings.CutSuffix(file, ".json")
	if !found || !isJSON || len(digits) != 8 {
		return "", 0, false
	}
	seq, err := strconv.Atoi(digits)
	if err != nil || seq < 1 || RecordName(chain, seq) != name {
		return "", 0, false
	}
	if _, _, ok := SplitChain(chain); !ok {
		return "", 0, false
	}
	return chain, seq, true
}

// HashBytes is the hex SHA-256 by which records link and evidence is named.
func HashBytes(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// EncodeRecord gives a record's bytes: one JSON object with its members in the
// order of the struct, maps by key, times of the record, its causes and its
// outcome in UTC, and a line feed. Equal records give equal bytes, and the bytes read back give
// themselves: a record that would not is refused.
func EncodeRecord(r Record) ([]byte, error) {
	r.At = r.At.UTC().Round(0)
	if len(r.Causes) > 0 {
		causes := make([]Cause, len(r.Causes))
		for i, c := range r.Causes {
			c.At = c.At.UTC().Round(0)
			causes[i] = c
		}
		r.Causes = causes
	}
	if r.Outcome != nil {
		o := *r.Outcome
		o.NotBefore = o.NotBefore.UTC().Round(0)
		r.Outcome = &o
	}
	body, err := encodeJSON(r)
	if err != nil {
		return nil, fault.New(fault.Bug, "encoding record", RecordName(r.Chain, r.Seq), "%w", err)
	}
	// Text that isn't UTF-8 is spelled otherwise once it was read. The second
	// spelling lasts.
	back, err := decodeJSON(body)
	if err != nil {
		return nil, fault.New(fault.Bug, "encoding record", RecordName(r.Chain, r.Seq), "it can't be read back: %w", err)
	}
	if body, err = encodeJSON(back); err != nil {
		return nil, fault.New(fault.Bug, "encoding record", RecordName(r.Chain, r.Seq), "%w", err)
	}
	if len(body) > MaxRecord {
		return nil, fault.New(fault.Bug, "encoding record", RecordName(r.Chain, r.Seq), "it has %d bytes, the most is %d", len(body), MaxRecord)
	}
	return body, nil
}

func encodeJSON(r Record) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func decodeJSON(body []byte) (Record, error) {
	var r Record
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&r); err != nil {
		return Record{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Record{}, fmt.Errorf("there is text after the JSON object")
	}
	return r, nil
}

// DecodeRecord reads a record's bytes and checks its schema. Members that it
// doesn't know are passed over; verification (VerifyFiles) is stricter.
func DecodeRecord(body []byte) (Record, error) {
	const op = "reading record"
	if len(body) > MaxRecord {
		return Record{}, fault.New(fault.Invalid, op, "", "it has %d bytes, the most is %d", len(body), MaxRecord)
	}
	r, err := decodeJSON(body)
	if err != nil {
		return Record{}, fault.New(fault.Invalid, op, "", "it isn't one JSON record: %w", err)
	}
	if r.Schema != RecordSchema {
		return Record{}, fault.New(fault.Invalid, op, "", "schema is %q, this program reads %q", r.Schema, RecordSchema)
	}
	return r, nil
}

// Chains reads and extends the chains in container records.
type Chains struct{ Blobs Blobs }

// Linked is a record as it was read, with its bytes, their hash and its name.
type Linked struct {
	Record Record
	Raw    []byte
	Hash   string
	Name   string
}

// Append writes rec as the record rec.Seq of rec.Chain, after the one whose hash
// is prevHash ("" for the first), and answers with its hash and its name, the
// blob's name within container records. It fills Schema and Previous. Errors:
// Conflict when that sequence number holds another record, Bug for a record
// without chain, number or known type. A record that is there already with the
// very same bytes is success: the answer to an earlier try was lost.
func (c Chains) Append(ctx context.Context, rec Record, prevHash string) (hash, name string, err error) {
	rec.Schema, rec.Previous = RecordSchema, prevHash
	name = RecordName(rec.Chain, rec.Seq)
	const op = "adding record"
	if _, _, ok := SplitChain(rec.Chain); !ok || rec.Seq < 1 || rec.Seq > maxSeq {
		return "", "", fault.New(fault.Bug, op, name, "chain %q and sequence %d don't make a record's name", rec.Chain, rec.Seq)
	}
	if (rec.Seq == 1) != (prevHash == "") || (prevHash != "" && !IsHash(prevHash)) {
		return "", "", fault.New(fault.Bug, op, name, "sequence %d can't follow a record with hash %q", rec.Seq, prevHash)
	}
	if rec.Type != TypeState && rec.Type != TypeIntent && rec.Type != TypeOutcome {
		return "", "", fault.New(fault.Bug, op, name, "type %q isn't state, intent or outcome", rec.Type)
	}
	body, err := EncodeRecord(rec)
	if err != nil {
		return "", "", err
	}
	hash = HashBytes(body)
	err = c.Blobs.Create(ctx, ContainerRecords, name, body)
	if fault.Is(err, fault.Conflict) {
		there, readErr := c.Blobs.Read(ctx, ContainerRecords, name, MaxRecord)
		if readErr != nil {
			return "", "", fmt.Errorf("%s %q: reading what is there: %w", op, name, readErr)
		}
		if bytes.Equal(there, body) {
			return hash, name, nil
		}
		return "", "", fault.New(fault.Conflict, op, name, "another record has this number: %w", err)
	}
	if err != nil {
		return "", "", fmt.Errorf("%s %q: %w", op, name, err)
	}
	return hash, name, nil
}

// Read gives one record with its bytes and their hash. Errors: NotFound when it
// isn't there; Bug when it can't be read or isn't the record of that name.
func (c Chains) Read(ctx context.Context, chain string, seq int) (rec Record, raw []byte, hash string, err error) {
	name := RecordName(chain, seq)
	const op = "reading record"
	if _, _, ok := SplitChain(chain); !ok || seq < 1 || seq > maxSeq {
		return Record{}, nil, "", fault.New(fault.NotFound, op, name, "no record can have this name")
	}
	raw, err = c.Blobs.Read(ctx, ContainerRecords, name, MaxRecord)
	if err != nil {
		return Record{}, nil, "", fmt.Errorf("%s %q: %w", op, name, err)
	}
	if rec, err = DecodeRecord(raw); err != nil {
		return Record{}, nil, "", spoilt(op, name, err)
	}
	if rec.Chain != chain || rec.Seq != seq {
		return Record{}, nil, "", spoilt(op, name, fmt.Errorf("it says that it is record %d of %q", rec.Seq, rec.Chain))
	}
	return rec, raw, HashBytes(raw), nil
}

// spoilt is the error for a record in the store that isn't what was written.
func spoilt(op, name string, err error) error {
	return &fault.Error{Kind: fault.Bug, Op: op, Object: name, Err: err,
		Next: "check the chain with `cvmguard verify record` and who may write to the storage account"}
}

// After gives the records that follow number seq, whose hash is hash (0 and ""
// before the first): what a crash between record and row left for the next
// claim. In the usual case there is none and it costs one read. Each must link
// to the one before; Bug if it doesn't.
func (c Chains) After(ctx context.Context, chain string, seq int, hash string) ([]Linked, error) {
	var out []Linked
	for {
		rec, raw, h, err := c.Read(ctx, chain, seq+1)
		if fault.Is(err, fault.NotFound) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		name := RecordName(chain, seq+1)
		if rec.Previous != hash {
			return nil, spoilt("following chain", name, fmt.Errorf("its previous is %q, the record before has %q", rec.Previous, hash))
		}
		out = append(out, Linked{Record: rec, Raw: raw, Hash: h, Name: name})
		seq, hash = seq+1, h
	}
}

// Head gives the newest record, looking from fromSeq on, a number known to exist
// (0 if none is). It reads one record more than it finds. seq is 0 and the
// record empty for a chain without records.
func (c Chains) Head(ctx context.Context, chain string, fromSeq int) (seq int, hash string, rec Record, err error) {
	if fromSeq > 0 {
		if rec, _, hash, err = c.Read(ctx, chain, fromSeq); err != nil {
			return 0, "", Record{}, err
		}
		seq = fromSeq
	}
	after, err := c.After(ctx, chain, seq, hash)
	if err != nil {
		return 0, "", Record{}, err
	}
	if n := len(after); n > 0 {
		last := after[n-1]
		return last.Record.Seq, last.Hash, last.Record, nil
	}
	return seq, hash, rec, nil
}

// List calls yield with the number and name of each record of a chain, in order,
// until it returns false. It reads names only.
func (c Chains) List(ctx context.Context, chain string, yield func(seq int, name string) bool) error {
	if _, _, ok := SplitChain(chain); !ok {
		return nil
	}
	err := c.Blobs.List(ctx, ContainerRecords, chain+"/", func(name string) bool {
		_, seq, ok := ParseRecordName(name)
		return !ok || yield(seq, name)
	})
	if err != nil {
		return fmt.Errorf("listing the records of %q: %w", chain, err)
	}
	return nil
}

// All calls yield with the key of each chain that has a record, once, in order,
// until it returns false. It lists the names of all records.
func (c Chains) All(ctx context.Context, yield func(chain string) bool) error {
	last := ""
	err := c.Blobs.List(ctx, ContainerRecords, "", func(name string) bool {
		chain, _, ok := ParseRecordName(name)
		if !ok || chain == last {
			return true
		}
		last = chain
		return yield(chain)
	})
	if err != nil {
		return fmt.Errorf("listing all chains: %w", err)
	}
	return nil
}

// IsHash says whether a text is a SHA-256 in lower-case hex, as plans and records are named by.
func IsHash(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
