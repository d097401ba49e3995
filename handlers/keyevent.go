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
		body := eventBody(c)
		key, cause, drop, err := app.DecideKey(body)
		switch {
		case c.Event == nil:
			return app.keep(ctx, ledger.SourceKeyEvent, "the host's call holds no event: "+c.Problem, body, "")
		case err != nil:
			return app.keep(ctx, ledger.SourceKeyEvent, err.Error(), body, "")
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
