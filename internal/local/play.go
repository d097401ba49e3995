package local

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/azuresim"
)

// quiet is how long nothing may happen for the loop to count as at rest.
const quiet = 400 * time.Millisecond

// Play builds the standard scene and plays its first stages, each to its rest. It
// says on `say` what it does.
func (w *World) Play(ctx context.Context, stages int, say func(format string, args ...any)) (*azuresim.Scene, error) {
	scene, err := azuresim.BuildScene(w.Sim, time.Now())
	if err != nil {
		return nil, err
	}
	w.Sim.Reset() // the world's making is nobody's call
	for stage := range min(stages, len(scene.Stages)) {
		events, err := scene.Play(stage)
		if err != nil {
			return scene, err
		}
		say("stage %q: %d events", scene.Stages[stage], len(events))
		if err := w.Publish(ctx, events); err != nil {
			return scene, err
		}
		if err := w.Rest(ctx, IDs(scene)); err != nil {
			return scene, fmt.Errorf("stage %q: %w", scene.Stages[stage], err)
		}
	}
	return scene, nil
}

// IDs lists a scene's VMs.
func IDs(s *azuresim.Scene) []string {
	out := make([]string, len(s.VMs))
	for i, v := range s.VMs {
		out[i] = v.ID
	}
	return out
}
