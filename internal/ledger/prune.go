package ledger

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/fault"
)

// maxPruned bounds how many letters one call of Prune deletes.
const maxPruned = 1000

// Prune deletes the letters whose outcome was set before a time, bytes and row,
// at most maxPruned of them, and answers how many went. Open letters stay, however
// old. It reads the whole table: call it once a day at most.
//
// A letter that comes again meanwhile is kept: one that is opened again has
// another ETag, and one that is written anew gets its bytes back, from here or
// from Keep, whichever looks later. A crash between row and bytes leaves bytes
// that nothing lists; the same letter finds them if it comes again.
func (in Inbox) Prune(ctx context.Context, before time.Time) (int, error) {
	const op = "pruning the inbox"
	var old []Entity
	// The outcome's time is below any other while it is empty: state rules those out.
	f := Filter{Equal: map[string]string{"state": "closed"}, Below: map[string]string{"outcomeAt": TimeText(before)}}
	err := in.Tables.Query(ctx, TableInbox, f, func(e Entity) bool {
		old = append(old, e)
		return len(old) < maxPruned
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", op, err)
	}
	gone := 0
	for _, e := range old {
		body, err := in.Blobs.Read(ctx, ContainerInbox, e.RK, MaxLetter)
		there := err == nil
		if err != nil && !fault.Is(err, fault.NotFound) {
			return gone, fmt.Errorf("%s: reading the bytes of letter %q: %w", op, e.RK, err)
		}
		err = in.Tables.Delete(ctx, TableInbox, e.PK, e.RK, e.ETag)
		if fault.Is(err, fault.Conflict) {
			continue
		}
		if err != nil {
			return gone, fmt.Errorf("%s: deleting the row of letter %q: %w", op, e.RK, err)
		}
		gone++
		if !there {
			continue
		}
		if err := in.Blobs.Delete(ctx, ContainerInbox, e.RK); err != nil && !fault.Is(err, fault.NotFound) {
			return gone, fmt.Errorf("%s: deleting the bytes of letter %q: %w", op, e.RK, err)
		}
		_, err = in.Tables.Get(ctx, TableInbox, e.PK, e.RK)
		if err == nil { // it came again since its row went
			err = in.putBack(ctx, e.RK, body)
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return gone, fmt.Errorf("%s: looking whether letter %q came again: %w", op, e.RK, err)
		}
	}
	return gone, nil
}
