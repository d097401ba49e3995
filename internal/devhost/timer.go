package devhost

import (
	"context"
	"time"
)

// location is the zone that schedules are meant in: WEBSITE_TIME_ZONE or TZ
// where the system knows it, else UTC.
func (e environment) location() *time.Location {
	for _, name := range []string{"WEBSITE_TIME_ZONE", "TZ"} {
		if zone := e.get(name); zone != "" {
			if l, err := time.LoadLocation(zone); err == nil {
				return l
			}
		}
	}
	return time.UTC
}

// scaledClock is a clock that runs faster than the real one from a moment on,
// by which schedules are kept; what is sent are real times.
type scaledClock struct {
	origin time.Time
	scale  float64
}

func (c scaledClock) scaled(real time.Time) time.Time {
	return c.origin.Add(time.Duration(float64(real.Sub(c.origin)) * c.scale))
}

func (c scaledClock) real(scaled time.Time) time.Time {
	return c.origin.Add(time.Duration(float64(scaled.Sub(c.origin)) / c.scale))
}

// monitored says whether a timer's times are kept: as asked, but never for one
// that fires more often than once a minute.
func (f *function) monitored(now time.Time) bool {
	if m := f.trigger.UseMonitor; m != nil && !*m {
		return false
	}
	first := f.schedule.next(now)
	return f.schedule.next(first).Sub(first) >= time.Minute
}

// runTimer calls a timer function at its times until ctx ends. There is never
// more than one call at once: what falls into a long call is skipped.
func (in *instance) runTimer(ctx context.Context, f *function) {
	h := in.h
	clock := scaledClock{origin: h.now().In(h.env.location()), scale: h.opts.TimerScale}
	log := h.opts.Log.With("function", f.name)
	fire := func(t tick) {
		if err := in.invokeTick(ctx, f, t); err != nil {
			log.Warn("the tick failed; it isn't repeated", "error", err)
		}
	}
	monitored := f.monitored(clock.origin)
	status := h.timerStatus(f.name)
	status.monitored = monitored
	switch now := h.now(); {
	case monitored && !status.next.IsZero() && status.next.Before(now):
		late := status
		late.pastDue = true
		fire(late)
		status.last, status.updated = now, now
	case f.trigger.RunOnStartup:
		fire(status)
		status.last, status.updated = now, now
	}
	var fired time.Time // on the scaled clock
	for ctx.Err() == nil {
		from := clock.scaled(h.now())
		if from.Before(fired) { // woken a moment early: not twice for one time
			from = fired
		}
		fired = f.schedule.next(from)
		due := clock.real(fired)
		status.next = due
		h.setTimerStatus(f.name, status)
		if !pause(ctx, due.Sub(h.now())) {
			return
		}
		fire(status)
		now := h.now()
		status.last, status.updated = due, now
	}
}

func (h *Host) timerStatus(name string) tick {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.timers[name]
}

func (h *Host) setTimerStatus(name string, t tick) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timers[name] = t
}
