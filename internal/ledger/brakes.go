package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// Brakes is table brakes: whether the breaker has tripped, which objects were
// changed within the hour, and which are a policy's canaries.
//
//	PK                      RK                 holds
//	breaker                 state              whether it tripped, why, and who reset it last
//	estate                  vms                how many VMs there are, by the last full sweep
//	changed-<epoch>         9999999999-number  an object that is changed
//	canary-<policy's hash>  0001, 0002 …       a canary's place
//	canary-<policy's hash>  release            that the rest may follow
//
// Changes are numbered, and each number is taken once, by whoever has counted all
// those before it: so any number of workers together change exactly as many objects
// as policy allows. The newest come first, so that the last hour is read and no
// more. A reset begins a new epoch, in which nothing was changed yet.
type Brakes struct{ Tables Tables }

const (
	breakerPartition = "breaker"
	breakerKey       = "state"
	estatePartition  = "estate"
	estateKey        = "vms"
	changedPrefix    = "changed-"

	// ChangedWindow is how far back changes count for the breaker.
	ChangedWindow = time.Hour
	// renewAfter is the age from which an object that is changed again is noted again.
	renewAfter = 5 * time.Minute
	// skew is how far workers' clocks may differ: so much more is read than counts.
	skew = 5 * time.Minute
	// maxAhead is how far ahead of a worker's clock the change before may be dated for
	// its own to be dated after it: the newest come first only as long as a clock that
	// is behind dates none of them back, and one that is days ahead is let be.
	maxAhead = 24 * time.Hour

	maxChange = 9_999_999_999
)

// Breaker is the breaker's state. The zero value is one that never tripped.
type Breaker struct {
	Epoch   int // how often it was reset
	Tripped bool
	At      time.Time // when it tripped
	Why     string    // one sentence
	Count   int       // of objects, that which was too many included
	Policy  string    // hash of the policy by which it tripped
	ResetAt time.Time // the last reset
	ResetBy string

	ETag string // "" when the table has no row of it
}

// Breaker reads the breaker's state. fault.Bug: the row can't be read, and nobody
// knows whether it has tripped.
func (b Brakes) Breaker(ctx context.Context) (Breaker, error) {
	e, err := b.Tables.Get(ctx, TableBrakes, breakerPartition, breakerKey)
	if fault.Is(err, fault.NotFound) {
		return Breaker{}, nil
	}
	if err != nil {
		return Breaker{}, fmt.Errorf("reading the breaker: %w", err)
	}
	d := columns{op: "reading the breaker", object: breakerPartition, cols: e.Cols, next: "reset it with `cvmguard brakes reset` once the table's row is deleted or put right"}
	out := Breaker{Epoch: d.number("epoch"), Tripped: d.flag("tripped"), At: d.moment("at"), Why: e.Cols["why"], Count: d.number("count"),
		Policy: e.Cols["policy"], ResetAt: d.moment("resetAt"), ResetBy: e.Cols["resetBy"], ETag: e.ETag}
	return out, d.err
}

func (b Brakes) writeBreaker(ctx context.Context, s Breaker) (Breaker, error) {
	e := Entity{PK: breakerPartition, RK: breakerKey, ETag: s.ETag, Cols: map[string]string{"epoch": strconv.Itoa(s.Epoch), "tripped": strconv.FormatBool(s.Tripped),
		"at": TimeText(s.At), "why": s.Why, "count": strconv.Itoa(s.Count), "policy": s.Policy, "resetAt": TimeText(s.ResetAt), "resetBy": s.ResetBy}}
	var err error
	if s.ETag == "" {
		s.ETag, err = b.Tables.Insert(ctx, TableBrakes, e)
	} else {
		s.ETag, err = b.Tables.Replace(ctx, TableBrakes, e)
	}
	return s, err
}

// Trip trips the breaker that was read as `was`. Where somebody else tripped or
// reset it meanwhile, their word stands and is the answer.
func (b Brakes) Trip(ctx context.Context, was Breaker, now time.Time, why string, count int, policyHash string) (Breaker, error) {
	s := was
	s.Tripped, s.At, s.Why, s.Count, s.Policy = true, now, why, count, policyHash
	s, err := b.writeBreaker(ctx, s)
	if fault.Is(err, fault.Conflict) {
		return b.Breaker(ctx)
	}
	if err != nil {
		return Breaker{}, fmt.Errorf("tripping the breaker: %w", err)
	}
	return s, nil
}

// Reset lets the breaker go again and forgets what was counted. was is its state
// before; of one that hadn't tripped nothing changes.
func (b Brakes) Reset(ctx context.Context, now time.Time, by string) (was Breaker, err error) {
	for {
		was, err := b.Breaker(ctx)
		if err != nil || !was.Tripped {
			return was, err
		}
		_, err = b.writeBreaker(ctx, Breaker{Epoch: was.Epoch + 1, ResetAt: now, ResetBy: by, ETag: was.ETag})
		if fault.Is(err, fault.Conflict) {
			continue
		}
		if err != nil {
			return was, fmt.Errorf("resetting the breaker: %w", err)
		}
		return was, nil
	}
}

func changedPartition(epoch int) string { return changedPrefix + strconv.Itoa(epoch) }

func changedKey(number int) string { return fmt.Sprintf("%010d", maxChange-number) }

// Changes is what was changed within the hour before a moment.
type Changes struct {
	At      map[string]time.Time // by chain, when it was last noted
	newest  int                  // the newest change's number
	latest  time.Time            // and its time
	counted time.Time
}

// Changes reads what was changed within the hour before now.
func (b Brakes) Changes(ctx context.Context, s Breaker, now time.Time) (Changes, error) {
	c := Changes{At: map[string]time.Time{}, counted: now}
	var bad error
	err := b.Tables.Query(ctx, TableBrakes, Filter{PK: changedPartition(s.Epoch)}, func(e Entity) bool {
		number, err := strconv.Atoi(e.RK)
		at, err2 := ParseTime(e.Cols["at"])
		if bad = errors.Join(err, err2); bad != nil {
			bad = &fault.Error{Kind: fault.Bug, Op: "reading a change", Object: e.RK, Err: bad, Next: "delete the row of that key in partition " + e.PK + " of table " + TableBrakes}
			return false
		}
		if c.newest == 0 {
			c.newest, c.latest = maxChange-number, at
		}
		if chain := e.Cols["chain"]; now.Sub(at) < ChangedWindow && at.After(c.At[chain]) {
			c.At[chain] = at
		}
		return now.Sub(at) < ChangedWindow+skew
	})
	if err == nil {
		err = bad
	}
	if err != nil && !fault.Is(err, fault.NotFound) { // no table: nothing was ever changed
		return Changes{}, fmt.Errorf("reading what was changed within the hour: %w", err)
	}
	return c, nil
}

// With is how many objects were changed, with the one of a chain.
func (c Changes) With(chain string) int {
	if _, ok := c.At[chain]; ok {
		return len(c.At)
	}
	return len(c.At) + 1
}

// Change notes that an object (its chain and id) is about to be changed, as the one
// after those that were read. ok is false when somebody else's came in between: then
// they are to be read anew.
func (b Brakes) Change(ctx context.Context, s Breaker, c Changes, chain, id string) (ok bool, err error) {
	if at, noted := c.At[chain]; noted && c.counted.Sub(at) < renewAfter {
		return true, nil
	}
	at := c.counted
	if c.latest.After(at) && c.latest.Sub(at) < maxAhead {
		at = c.latest
	}
	_, err = b.Tables.Insert(ctx, TableBrakes, Entity{PK: changedPartition(s.Epoch), RK: changedKey(c.newest + 1),
		Cols: map[string]string{"chain": chain, "id": id, "at": TimeText(at)}})
	if fault.Is(err, fault.Conflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("noting the change of %q: %w", id, err)
	}
	return true, nil
}

// SetEstate notes how many VMs there are, as a full sweep found.
func (b Brakes) SetEstate(ctx context.Context, vms int, now time.Time) error {
	for {
		e := Entity{PK: estatePartition, RK: estateKey, Cols: map[string]string{"count": strconv.Itoa(vms), "at": TimeText(now)}}
		there, err := b.Tables.Get(ctx, TableBrakes, estatePartition, estateKey)
		switch {
		case fault.Is(err, fault.NotFound):
			_, err = b.Tables.Insert(ctx, TableBrakes, e)
		case err == nil:
			e.ETag = there.ETag
			_, err = b.Tables.Replace(ctx, TableBrakes, e)
		}
		if err != nil && !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("noting the size of the estate: %w", err)
		}
		if err == nil {
			return nil
		}
	}
}

// Estate is how many VMs the last full sweep found, and when; zero where none did.
func (b Brakes) Estate(ctx context.Context) (vms int, at time.Time, err error) {
	e, err := b.Tables.Get(ctx, TableBrakes, estatePartition, estateKey)
	if fault.Is(err, fault.NotFound) {
		return 0, time.Time{}, nil
	}
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("reading the size of the estate: %w", err)
	}
	d := columns{op: "reading the size of the estate", object: estatePartition, cols: e.Cols, next: "delete the row; the next full sweep writes it anew"}
	vms, at = d.number("count"), d.moment("at")
	return vms, at, d.err
}

// CountVMs counts the VMs in table vms that aren't gone, until there are enough.
func (b Brakes) CountVMs(ctx context.Context, enough int) (int, error) {
	n := 0
	err := b.Tables.Query(ctx, TableVMs, Filter{}, func(e Entity) bool {
		if e.Cols[ColVerdict] != string(policy.Gone) {
			n++
		}
		return n < enough
	})
	if err != nil {
		return 0, fmt.Errorf("counting the VMs: %w", err)
	}
	return n, nil
}

// maxPrunedChanges bounds how many rows one call of Prune deletes.
const maxPrunedChanges = 20_000

// Prune deletes changes that were noted before a time, which count no more. It
// answers how many.
func (b Brakes) Prune(ctx context.Context, before time.Time) (int, error) {
	f := Filter{Prefix: map[string]string{"PartitionKey": changedPrefix}, Below: map[string]string{"at": TimeText(before)}}
	var old []Entity
	err := b.Tables.Query(ctx, TableBrakes, f, func(e Entity) bool {
		old = append(old, e)
		return len(old) < maxPrunedChanges
	})
	if fault.Is(err, fault.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("listing old changes: %w", err)
	}
	n := 0
	for _, e := range old {
		switch derr := b.Tables.Delete(ctx, TableBrakes, e.PK, e.RK, e.ETag); {
		case derr == nil:
			n++
		case !fault.Is(derr, fault.Conflict): // another sweep was quicker
			err = errors.Join(err, derr)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return n, fmt.Errorf("deleting old changes: %w", err)
	}
	return n, nil
}
