package handlers

import (
	"context"
	"net/http"

	"cvmguard/internal/customhandler"
)

// Health answers 200 when every dependency does, else 503, with the version, the
// policy in force and each dependency's state.
func Health(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		app, err := source(ctx)
		if err != nil {
			return answer(http.StatusServiceUnavailable, map[string]any{"ready": false, "error": err.Error()})
		}
		deps := app.Health(ctx)
		ready := true
		for _, d := range deps {
			ready = ready && d.Ready
		}
		k := &app.Counters
		status := http.StatusOK
		if !ready {
			status = http.StatusServiceUnavailable
		}
		return answer(status, map[string]any{"ready": ready, "version": app.Version,
			"policy":       map[string]string{"name": app.Policy.Name, "hash": app.Policy.Hash, "mode": app.Policy.Mode()},
			"dependencies": deps,
			"since": map[string]int64{"queued": k.Queued.Load(), "dropped": k.Dropped.Load(), "kept": k.Kept.Load(),
				"turns": k.Turns.Load(), "turnsFailed": k.TurnsFailed.Load()}})
	}
}
