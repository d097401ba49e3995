package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cvmguard/internal/fault"
)

// UsedRetention is how long a nonce is kept after its end once a bundle was
// reserved on it or used it. Till then other bytes over it are NonceReused and
// the same bytes good; afterwards both are NonceUnknown, which is a refusal too.
// 90 days are far more than any message or redrive takes to bring a bundle again,
// and keep the table from growing with the age of the estate.
const UsedRetention = 90 * 24 * time.Hour

// maxForgotten bounds how many entries one call of Expire works off, with at most
// three calls to storage each: a few minutes. The rest waits for the next call.
const maxForgotten = 5000

// duePrefix begins the partitions of entries that say which nonces are to be
// looked at: one partition for each hour in which a nonce's time is over, the
// nonce's hash as row key. Rows of nonces are all in one partition, found by
// their hash; to search that for old ones would read it whole.
const duePrefix = "due-"

func duePartition(t time.Time) string { return duePrefix + t.UTC().Format("2006010215") }

// putDue writes the entry by which Expire finds a nonce after end.
func (n Nonces) putDue(ctx context.Context, hash string, end time.Time) error {
	_, err := n.Tables.Insert(ctx, TableNonces, Entity{PK: duePartition(end), RK: hash})
	if fault.Is(err, fault.Conflict) { // it is there already
		return nil
	}
	return err
}

// Expire deletes the rows of unused nonces that expired before the hour of a
// time, those of used and reserved ones UsedRetention later, and counts of hours
// before it; it answers how many rows went. Give it a time some hours back, so
// that a late bundle hears that its nonce expired rather than that it was never
// issued.
//
// The cost follows what is due, not what is kept: a used nonce is looked at twice
// in its life, an unused one once, whatever the size of the table; the partition
// of counts, which holds those of about a day, is read whole. At most
// maxForgotten nonces and as many counts go at once, the oldest nonces first. A
// row that can't be read is left, passed by and named by the error.
func (n Nonces) Expire(ctx context.Context, before time.Time) (int, error) {
	limit := duePartition(before)
	list := func(f Filter) (old []Entity, err error) {
		err = n.Tables.Query(ctx, TableNonces, f, func(e Entity) bool {
			old = append(old, e)
			return len(old) < maxForgotten
		})
		if err != nil {
			return nil, fmt.Errorf("listing expired nonces: %w", err)
		}
		return old, nil
	}
	due, err := list(Filter{Prefix: map[string]string{"PartitionKey": duePrefix}, Below: map[string]string{"PartitionKey": limit}})
	if err != nil {
		return 0, err
	}
	counts, err := list(Filter{PK: quotaPartition, Below: map[string]string{"hour": TimeText(before.Add(-time.Hour))}})
	if err != nil {
		return 0, err
	}
	gone := 0
	var faults []error
	for _, e := range due {
		went, err := n.settle(ctx, e, limit)
		if went {
			gone++
		}
		if fault.Is(err, fault.Bug) {
			faults = append(faults, err)
		} else if err != nil {
			return gone, errors.Join(append(faults, err)...)
		}
	}
	for _, e := range counts {
		went, err := n.forget(ctx, e)
		if err != nil {
			return gone, errors.Join(append(faults, err)...)
		}
		if went {
			gone++
		}
	}
	return gone, errors.Join(faults...)
}

// settle deletes the nonce that an entry names, if its time is over, or puts the
// entry where it will be; went says that the nonce's row was deleted. The entry
// goes last, so that a crash leaves it for the next call.
func (n Nonces) settle(ctx context.Context, due Entity, limit string) (went bool, err error) {
	row, err := n.ByHash(ctx, due.RK)
	switch {
	case fault.Is(err, fault.NotFound): // the work of a call that was cut short
	case err != nil:
		return false, fmt.Errorf("forgetting an expired nonce: %w", err)
	default:
		end := row.Expires
		if row.Reserved != "" || row.Used != "" {
			end = end.Add(UsedRetention)
		}
		if duePartition(end) >= limit {
			if err := n.putDue(ctx, row.Hash, end); err != nil {
				return false, fmt.Errorf("keeping a used nonce: %w", err)
			}
			break
		}
		if went, err = n.forget(ctx, row.entity()); err != nil || !went {
			return false, err
		}
	}
	_, err = n.forget(ctx, due)
	return went, err
}

// forget deletes a row. One that was used or deleted just now isn't ours to delete.
func (n Nonces) forget(ctx context.Context, e Entity) (went bool, err error) {
	err = n.Tables.Delete(ctx, TableNonces, e.PK, e.RK, e.ETag)
	if fault.Is(err, fault.Conflict) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("deleting an expired nonce: %w", err)
	}
	return true, nil
}
