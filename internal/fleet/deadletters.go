package fleet

import (
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

// maxDeadLetters is how many blobs one sweep takes over; the next goes on.
const maxDeadLetters = 1000

// importDeadLetters takes over what Event Grid gave up: what each event is about
// goes on the loop, what nobody can make sense of goes to the inbox, and only then
// is the blob deleted. It answers with how many blobs it took over.
func (f *Fleet) importDeadLetters(ctx context.Context) (int, error) {
	var names []string
	err := f.Blobs.List(ctx, ledger.ContainerDeadLetter, "", func(name string) bool {
		names = append(names, name)
		return len(names) < maxDeadLetters
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return 0, fmt.Errorf("listing Event Grid's dead letters: %w", err)
	}
	imported := 0
	for _, name := range names {
		body, err := f.Blobs.Read(ctx, ledger.ContainerDeadLetter, name, maxDeadLetter)
		switch {
		case fault.Is(err, fault.NotFound):
			continue
		case fault.Is(err, fault.Invalid):
			// Longer than anything that Event Grid writes: it stays where it is, and
			// the inbox says so.
			l := ledger.Letter{Source: ledger.SourceDeadLetter, Reason: err.Error() + "; it stays in container " + ledger.ContainerDeadLetter, Body: []byte(name), At: f.Now()}
			if _, err := f.Inbox.Keep(ctx, l); err != nil {
				return imported, err
			}
			continue
		case err != nil:
			return imported, fmt.Errorf("reading dead letter %q: %w", name, err)
		}
		for _, event := range split(body) {
			if err := f.takeEvent(ctx, event, "Event Grid gave up delivering it ("+name+")"); err != nil {
				return imported, err
			}
		}
		if err := f.Blobs.Delete(ctx, ledger.ContainerDeadLetter, name); err != nil && !fault.Is(err, fault.NotFound) {
			return imported, fmt.Errorf("deleting dead letter %q: %w", name, err)
		}
		imported++
	}
	return imported, nil
}

// split gives the events of a blob: an array's elements, or the whole text if it
// isn't an array with any.
func split(body []byte) []json.RawMessage {
	var many []json.RawMessage
	if err := json.Unmarshal(body, &many); err == nil && len(many) > 0 {
		return many
	}
	return []json.RawMessage{body}
}

func (f *Fleet) takeEvent(ctx context.Context, event []byte, why string) error {
	vm, cause, drop, err := f.Decider.Decide(event)
	if err == nil && drop != "" { // it may be about a key
		key, cause, other, err := f.Decider.DecideKey(event)
		if err == nil && other == "" {
			_, err = f.WakeByKey(ctx, key, cause)
			return err
		}
	}
	switch {
	case err != nil:
		_, err = f.Inbox.Keep(ctx, ledger.Letter{Source: ledger.SourceDeadLetter, Reason: why + "; " + err.Error(), Body: event, At: f.Now()})
		return err
	case drop != "":
		f.log().Info("a dead letter that concerns neither a VM nor a key", slog.String("why", drop))
		return nil
	}
	return Wake(ctx, f.Queue, reconcile.Message{VM: string(vm), Cause: cause})
}
