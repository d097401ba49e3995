package handlers

import (
	"context"
	"fmt"
	"log/slog"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// maxEvent is the size, in bytes, above which an event is kept and not acted on:
// Event Grid's 1 MiB, less what the host's writing it anew may take off. An event
// of Resource Manager comes nowhere near it.
const maxEvent = 1<<20 - 64<<10

// VMEvent puts the VM that an event is about on the loop: one storage write
// before the answer, two where the event goes to the inbox.
func VMEvent(source Source) customhandler.EventFunc {
	return func(ctx context.Context, c customhandler.EventCall) error {
		app, err := source(ctx)
		if err != nil {
			return err
		}
		if c.Event == nil {
			return app.keep(ctx, ledger.SourceEvent, noEvent+c.Problem, c.Whole, "")
		}
		vm, cause, drop, err := app.Decider.Decide(c.Event)
		switch {
		case err != nil:
			return app.keep(ctx, ledger.SourceEvent, err.Error(), c.Event, "")
		case len(c.Event) > maxEvent:
			return app.keep(ctx, ledger.SourceEvent, tooLong(c.Event), c.Event, string(vm))
		case drop != "":
			app.Counters.Dropped.Add(1)
			customhandler.LogFrom(ctx).Info("an event that concerns no VM", slog.String("why", drop))
			return nil
		}
		if err := fleet.Wake(ctx, app.Queue, reconcile.Message{VM: string(vm), Cause: cause}); err != nil {
			return err
		}
		app.Counters.Queued.Add(1)
		return nil
	}
}

// noEvent begins the reason of a call in which no event could be found.
const noEvent = "the host's call holds no event: "

func tooLong(event []byte) string {
	return fmt.Sprintf("the event has %d bytes, more than any that is acted on (%d)", len(event), maxEvent)
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
