package handlers

import (
	"context"
	"fmt"
	"log/slog"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// maxEvent is the size, in bytes, above which an event is kept in the inbox as
// well: no VM event comes near it.
const maxEvent = 512 << 10

// VMEvent puts the VM that an event is about on the loop: one storage write
// before the answer, two where the event goes to the inbox.
func VMEvent(source Source) customhandler.EventFunc {
	return func(ctx context.Context, c customhandler.EventCall) error {
		app, err := source(ctx)
		if err != nil {
			return err
		}
		body := eventBody(c)
		vm, cause, drop, err := app.Decider.Decide(body)
		if len(body) > maxEvent || c.Event == nil {
			reason := fmt.Sprintf("the event has %d bytes, more than any VM event", len(body))
			if c.Event == nil {
				reason = "the host's call holds no event: " + c.Problem
			}
			if kept := app.keep(ctx, ledger.SourceEvent, reason, body, string(vm)); kept != nil || err != nil || drop != "" || c.Event == nil {
				return kept
			}
		}
		switch {
		case err != nil:
			return app.keep(ctx, ledger.SourceEvent, err.Error(), body, "")
		case drop != "":
			app.Counters.Dropped.Add(1)
			customhandler.LogFrom(ctx).Info("an event that concerns no VM", slog.String("why", drop))
			return nil
		}
		m := reconcile.Message{VM: string(vm), Cause: cause}
		if err := app.Queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), 0); err != nil {
			return fmt.Errorf("putting %q on the loop: %w", vm, err)
		}
		app.Counters.Queued.Add(1)
		return nil
	}
}

func eventBody(c customhandler.EventCall) []byte {
	if c.Event != nil {
		return c.Event
	}
	return c.Whole
}

// keep puts into the inbox what nobody can make sense of. Its error is the only
// reason not to acknowledge.
func (a *App) keep(ctx context.Context, source, reason string, body []byte, object string) error {
	id, err := a.Inbox.Keep(ctx, ledger.Letter{Source: source, Reason: reason, Body: body, At: a.Now(), Object: object})
	if err != nil {
		return fmt.Errorf("keeping what could not be handled: %w", err)
	}
	a.Counters.Kept.Add(1)
	customhandler.LogFrom(ctx).Warn("kept in the inbox", slog.String("letter", id), slog.String("source", source), slog.String("why", reason))
	return nil
}
