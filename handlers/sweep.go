package handlers

import (
	"context"
	"log/slog"

	"cvmguard/internal/customhandler"
)

// fullHour is the hour (UTC) whose sweep puts every VM on the loop.
const fullHour = 3

// Sweep lists the estate hourly, and once a day puts all of it on the loop.
func Sweep(source Source) customhandler.TimerFunc {
	return func(ctx context.Context, c customhandler.TimerCall) error {
		app, err := source(ctx)
		if err != nil {
			return err
		}
		r, err := app.Fleet.Sweep(ctx, c.PastDue || app.Now().UTC().Hour() == fullHour)
		log := customhandler.LogFrom(ctx)
		attrs := []any{slog.Int("listed", r.Listed), slog.Int("new", r.New), slog.Int("missed", r.Missed), slog.Int("stale", r.Stale),
			slog.Int("unjudged", r.Unjudged), slog.Int("overdue", r.Overdue), slog.Int("imported", r.Imported), slog.Int("enqueued", r.Enqueued)}
		if err != nil {
			log.Error("the sweep was cut short; the next one goes on", append(attrs, slog.String("error", err.Error()))...)
			return err
		}
		log.Info("swept", attrs...)
		return nil
	}
}
