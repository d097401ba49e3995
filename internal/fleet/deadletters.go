package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// maxDeadLetter is the longest dead-letter blob that is read, in bytes: Event Grid
// batches at most 1 MiB and adds a few members to each event.
const maxDeadLetter = 8 << 20

// importDeadLetters takes over what Event Grid gave up: each event's VM goes on
// the loop, what nobody can make sense of goes to the inbox, and only then is the
// blob deleted.
func (f *Fleet) importDeadLetters(ctx context.Context) (int, error) {
	var names []string
	err := f.Blobs.List(ctx, ledger.ContainerDeadLetter, "", func(name string) bool {
		names = append(names, name)
		return len(names) < 1000
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return 0, fmt.Errorf("listing Event Grid's dead letters: %w", err)
	}
	for i, name := range names {
		body, err := f.Blobs.Read(ctx, ledger.ContainerDeadLetter, name, maxDeadLetter)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return i, fmt.Errorf("reading dead letter %q: %w", name, err)
		}
		for _, event := range split(body) {
			if err := f.takeEvent(ctx, event, "Event Grid gave up delivering it ("+name+")"); err != nil {
				return i, err
			}
		}
		if err := f.Blobs.Delete(ctx, ledger.ContainerDeadLetter, name); err != nil && !fault.Is(err, fault.NotFound) {
			return i, fmt.Errorf("deleting dead letter %q: %w", name, err)
		}
	}
	return len(names), nil
}

// split gives the events of a blob: an array's elements, an object itself, or the
// whole text if it is neither.
func split(body []byte) []json.RawMessage {
	var many []json.RawMessage
	if err := json.Unmarshal(bytes.TrimSpace(body), &many); err == nil {
		return many
	}
	return []json.RawMessage{body}
}

func (f *Fleet) takeEvent(ctx context.Context, event []byte, why string) error {
	vm, cause, drop, err := f.Decider.Decide(event)
	switch {
	case err != nil:
		_, err = f.Inbox.Keep(ctx, ledger.Letter{Source: ledger.SourceDeadLetter, Reason: why + "; " + err.Error(), Body: event, At: f.Now()})
		return err
	case drop != "":
		f.Log.Info("a dead letter that concerns no VM", slog.String("why", drop))
		return nil
	}
	m := reconcile.Message{VM: string(vm), Cause: cause}
	if err := f.Queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), 0); err != nil {
		return fmt.Errorf("putting %q on the loop: %w", vm, err)
	}
	return nil
}
