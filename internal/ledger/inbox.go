package ledger

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cvmguard/internal/fault"
)

// MaxLetter is the longest body that the inbox keeps, in bytes. Event Grid
// delivers at most 1 MiB, a queue message has less.
const MaxLetter = 8 << 20

// The sources of letters.
const (
	SourceEvent      = "event"       // vm-event could not make sense of it
	SourceKeyEvent   = "key-event"   // the same of key-event
	SourceQueue      = "queue"       // a message on reconcile that can't be decoded
	SourcePoison     = "poison"      // a message that failed too often
	SourceDeadLetter = "dead-letter" // Event Grid gave it up
)

// maxReason is how much of a reason is kept, in bytes; likewise of an object's id.
const maxReason = 4 << 10

// letterID is 128 bits of hash. Its first 8 digits are the row's partition.
var letterID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Letter is one dead letter.
type Letter struct {
	ID     string    // 32 hex digits; Keep works it out
	Source string    // where it came from: one of the sources above
	Reason string    // why it is here, a sentence
	Body   []byte    // the bytes as they came; Get alone fills it
	Size   int       // of the body, in bytes
	Tries  int       // how often it had been tried, 0 if unknown
	At     time.Time // when it was kept first
	Object string    // the id that it names, "" if it names none
	Times  int       // how often the same bytes came to be kept again after they had an outcome
	// Outcome is what became of it: "" while a person should look at it.
	Outcome   string
	OutcomeAt time.Time
	ETag      string
}

// Open says whether the letter has no outcome yet.
func (l Letter) Open() bool { return l.Outcome == "" }

// Inbox keeps dead letters: bytes in container inbox, the rest in table inbox.
type Inbox struct {
	Blobs  Blobs
	Tables Tables
}

// LetterID is the id of a letter with these bytes from a source. The same bytes
// from the same source have the same id on whatever day they come, so that a
// redelivery is the same letter.
func LetterID(source string, body []byte) string {
	return HashBytes(append([]byte(source+"\x00"), body...))[:32]
}

// Keep writes a letter, the bytes first and the row second, and answers with its
// id. It takes Source, Reason, Body, Tries, At and Object of l.
//
// Redelivery doesn't multiply letters: the id comes from source and bytes alone,
// and a blob or row that is there already is success. A letter with an outcome
// that comes again, after a redrive that failed, is open again with the new
// reason. Two writes, or three where the bytes were there without a row. Errors:
// Invalid for a body above MaxLetter or without source; else those of the store,
// and then nothing may be acknowledged.
func (in Inbox) Keep(ctx context.Context, l Letter) (id string, err error) {
	const op = "keeping a letter in the inbox"
	if l.Source == "" || l.At.IsZero() || len(l.Body) > MaxLetter {
		return "", fault.New(fault.Invalid, op, l.Source, "it needs a source, a time and a body of at most %d bytes, not %d", MaxLetter, len(l.Body))
	}
	l.ID = LetterID(l.Source, l.Body)
	err = in.Blobs.Create(ctx, ContainerInbox, l.ID, l.Body)
	there := fault.Is(err, fault.Conflict)
	if err != nil && !there {
		return "", fmt.Errorf("%s: writing its bytes: %w", op, err)
	}
	l.Size, l.Times, l.Outcome, l.OutcomeAt, l.ETag = len(l.Body), 0, "", time.Time{}, ""
	_, err = in.Tables.Insert(ctx, TableInbox, l.entity())
	switch {
	case fault.Is(err, fault.Conflict):
		var row Letter
		if row, err = in.row(ctx, l.ID); err == nil {
			err = in.reopen(ctx, row, l)
		}
	case err == nil && there:
		// Bytes without a row: left by a crash, or Prune is about to delete them.
		err = in.putBack(ctx, l.ID, l.Body)
	}
	if err != nil {
		return "", fmt.Errorf("%s: writing its row: %w", op, err)
	}
	return l.ID, nil
}

// putBack writes a letter's bytes if they aren't there.
func (in Inbox) putBack(ctx context.Context, id string, body []byte) error {
	if err := in.Blobs.Create(ctx, ContainerInbox, id, body); err != nil && !fault.Is(err, fault.Conflict) {
		return err
	}
	return nil
}

// reopen lets a letter that had an outcome be seen again; an open one stays as
// it is. A lost ETag race means that somebody else wrote the row in this moment:
// it is read again.
func (in Inbox) reopen(ctx context.Context, row, again Letter) error {
	for range consumeTries {
		if row.Open() {
			return nil
		}
		row.Outcome, row.OutcomeAt = "", time.Time{}
		row.Times++
		row.Reason, row.Tries = again.Reason, max(row.Tries, again.Tries)
		_, err := in.Tables.Replace(ctx, TableInbox, row.entity())
		if err == nil {
			return nil
		}
		if !fault.Is(err, fault.Conflict) {
			return err
		}
		if row, err = in.row(ctx, row.ID); err != nil {
			return err
		}
	}
	return fault.New(fault.Conflict, "opening a letter again", row.ID, "its row changed %d times meanwhile", consumeTries)
}

// Get gives a letter with its bytes, NotFound if there is none.
func (in Inbox) Get(ctx context.Context, id string) (Letter, error) {
	l, err := in.row(ctx, id)
	if err != nil {
		return Letter{}, err
	}
	if l.Body, err = in.Blobs.Read(ctx, ContainerInbox, id, MaxLetter); err != nil {
		return Letter{}, fmt.Errorf("reading the bytes of letter %q: %w", id, err)
	}
	return l, nil
}

func (in Inbox) row(ctx context.Context, id string) (Letter, error) {
	const op = "reading letter"
	if !letterID.MatchString(id) {
		return Letter{}, fault.New(fault.NotFound, op, id, "a letter's id is 32 hex digits in lower case, as in 00112233445566778899aabbccddeeff")
	}
	e, err := in.Tables.Get(ctx, TableInbox, id[:8], id)
	if err != nil {
		return Letter{}, fmt.Errorf("%s: %w", op, err)
	}
	return decodeLetter(e)
}

// List calls yield for the newest letters, at most limit, newest first, without
// their bytes. openOnly leaves out those with an outcome. It reads the whole
// table but holds no more than limit rows.
func (in Inbox) List(ctx context.Context, limit int, openOnly bool, yield func(Letter) bool) error {
	if limit < 1 {
		return nil
	}
	newest := func(a, b Letter) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	}
	var held []Letter
	var bad error
	err := in.Tables.Query(ctx, TableInbox, openFilter(openOnly), func(e Entity) bool {
		l, err := decodeLetter(e)
		if err != nil {
			bad = err
			return false
		}
		if held = append(held, l); len(held) >= 2*limit {
			slices.SortFunc(held, newest)
			held = held[:limit]
		}
		return true
	})
	if err = firstError(bad, err); err != nil {
		return fmt.Errorf("listing the inbox: %w", err)
	}
	slices.SortFunc(held, newest)
	for _, l := range held[:min(limit, len(held))] {
		if !yield(l) {
			return nil
		}
	}
	return nil
}

// Count is how many letters there are, open ones and all.
func (in Inbox) Count(ctx context.Context) (open, all int, err error) {
	var bad error
	err = in.Tables.Query(ctx, TableInbox, Filter{}, func(e Entity) bool {
		l, err := decodeLetter(e)
		if err != nil {
			bad = err
			return false
		}
		all++
		if l.Open() {
			open++
		}
		return true
	})
	if err = firstError(bad, err); err != nil {
		return 0, 0, fmt.Errorf("counting the inbox: %w", err)
	}
	return open, all, nil
}

// SetOutcome writes what became of a letter, a slug such as "redriven" or
// "dropped", and when. Errors: NotFound; Conflict when the row changes all the
// time.
func (in Inbox) SetOutcome(ctx context.Context, id, outcome string, now time.Time) error {
	const op = "setting the outcome of letter"
	if outcome == "" {
		return fault.New(fault.Bug, op, id, "an outcome needs a name")
	}
	for range consumeTries {
		l, err := in.row(ctx, id)
		if err != nil {
			return err
		}
		l.Outcome, l.OutcomeAt = outcome, now.UTC()
		_, err = in.Tables.Replace(ctx, TableInbox, l.entity())
		if err == nil {
			return nil
		}
		if !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("%s %q: %w", op, id, err)
		}
	}
	return fault.New(fault.Conflict, op, id, "its row changed %d times meanwhile", consumeTries)
}

func openFilter(openOnly bool) Filter {
	if !openOnly {
		return Filter{}
	}
	return Filter{Equal: map[string]string{"state": "open"}}
}

func (l Letter) entity() Entity {
	state := "open"
	if !l.Open() {
		state = "closed"
	}
	return Entity{PK: l.ID[:8], RK: l.ID, ETag: l.ETag, Cols: map[string]string{
		"source": l.Source, "reason": clip(l.Reason, maxReason), "object": clip(l.Object, maxReason), "size": strconv.Itoa(l.Size),
		"tries": strconv.Itoa(l.Tries), "times": strconv.Itoa(l.Times), "at": TimeText(l.At),
		"outcome": clip(l.Outcome, maxReason), "outcomeAt": TimeText(l.OutcomeAt), "state": state}}
}

func decodeLetter(e Entity) (Letter, error) {
	l := Letter{ID: e.RK, ETag: e.ETag, Source: e.Cols["source"], Reason: e.Cols["reason"], Object: e.Cols["object"], Outcome: e.Cols["outcome"]}
	d := columns{op: "reading a letter's row", object: e.RK, cols: e.Cols}
	l.Size, l.Tries, l.Times = d.number("size"), d.number("tries"), d.number("times")
	l.At, l.OutcomeAt = d.moment("at"), d.moment("outcomeAt")
	if d.err == nil && !letterID.MatchString(l.ID) {
		d.err = fault.New(fault.Bug, d.op, l.ID, "its row key isn't a letter's id")
	}
	return l, d.err
}

// clip cuts text to at most n bytes, at a character's end.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
