package handlers

import (
	"context"
	"log/slog"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// Reconcile takes one turn of the loop for a queue message.
func Reconcile(source Source) customhandler.QueueFunc {
	return func(ctx context.Context, c customhandler.QueueCall) error {
		app, err := source(ctx)
		if err != nil {
			return err
		}
		m, err := reconcile.DecodeMessage(c.Text)
		if err != nil {
			reason := err.Error()
			if c.Problem != "" {
				reason = c.Problem
			}
			return app.keep(ctx, ledger.SourceQueue, reason, c.Text, "")
		}
		app.Counters.Turns.Add(1)
		if err := app.Loop.Turn(ctx, m); err != nil {
			app.Counters.TurnsFailed.Add(1)
			customhandler.LogFrom(ctx).Warn("a turn failed; its message comes again",
				slog.String("object", m.VM+m.Shared), slog.String("kind", string(fault.KindOf(err))), slog.String("error", err.Error()))
			return err
		}
		return nil
	}
}
