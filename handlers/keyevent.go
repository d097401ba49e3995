package handlers

import (
	"context"
	"log/slog"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/ledger"
)

// KeyEvent puts every VM that hangs on a key on the loop, and the key itself.
func KeyEvent(source Source) customhandler.EventFunc {
	return func(ctx context.Context, c customhandler.EventCall) error {
		app, err := source(ctx)
		if err != nil {
			return err
		}
		if c.Event == nil {
			return app.keep(ctx, ledger.SourceKeyEvent, noEvent+c.Problem, c.Whole, "")
		}
		key, cause, drop, err := app.DecideKey(c.Event)
		switch {
		case err != nil:
			return app.keep(ctx, ledger.SourceKeyEvent, err.Error(), c.Event, "")
		case len(c.Event) > maxEvent:
			return app.keep(ctx, ledger.SourceKeyEvent, tooLong(c.Event), c.Event, string(key))
		case drop != "":
			app.Counters.Dropped.Add(1)
			customhandler.LogFrom(ctx).Info("an event that concerns no key", slog.String("why", drop))
			return nil
		}
		n, err := app.Fleet.WakeByKey(ctx, key, cause)
		if err != nil {
			return err
		}
		app.Counters.Queued.Add(int64(n) + 1)
		customhandler.LogFrom(ctx).Info("a key's VMs are on the loop", slog.String("key", string(key)), slog.Int("vms", n))
		return nil
	}
}
