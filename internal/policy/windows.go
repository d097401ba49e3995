package policy

import (
	"slices"
	"time"
)

// days is how far ahead an opening is looked for: a window opens on each of its
// days of the week, but where the clocks leave it out.
const days = 15

// InWindow says whether a moment is within a maintenance window; always where there
// is none.
func (b Brakes) InWindow(at time.Time) bool { return b.NextOpening(at).Equal(at) }

// NextOpening is the first moment from `at` on that is within a maintenance window:
// `at` itself where one is open or there is none. It is the zero time where no
// window opens, which windows of at least a minute always do.
//
// A window is of the wall clock of its zone. Where the clocks go forward, what
// begins in the hour that there isn't begins with the next one that there is, and a
// window that lies wholly in that hour is left out on that day; where they go back,
// one that begins or ends in the hour that there is twice may be an hour longer.
func (b Brakes) NextOpening(at time.Time) time.Time {
	if len(b.Windows) == 0 {
		return at
	}
	var next time.Time
	for _, w := range b.Windows {
		if t := w.opening(at); !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// opening is the first moment from `at` on that is within the window.
func (w Window) opening(at time.Time) time.Time {
	zone := w.Zone
	if zone == nil {
		zone = time.UTC
	}
	y, m, d := at.In(zone).Date()
	for i := -1; i <= days; i++ { // yesterday's may last beyond midnight
		day := time.Date(y, m, d+i, 12, 0, 0, 0, zone)
		if len(w.Days) > 0 && !slices.Contains(w.Days, day.Weekday()) {
			continue
		}
		from, to := w.on(y, m, d+i, zone)
		switch {
		case !to.After(from) || !to.After(at):
		case from.After(at):
			return from.UTC()
		default:
			return at
		}
	}
	return time.Time{}
}

// on is the window that begins on a day.
func (w Window) on(y int, m time.Month, d int, zone *time.Location) (from, to time.Time) {
	end := d
	if w.To <= w.From {
		end++
	}
	return wall(y, m, d, w.From, zone), wall(y, m, end, w.To, zone)
}

// wall is the moment of a time of the day.
func wall(y int, m time.Month, d int, at time.Duration, zone *time.Location) time.Time {
	t := time.Date(y, m, d, int(at/time.Hour), int(at%time.Hour/time.Minute), 0, 0, zone)
	if h, min := t.Hour(), t.Minute(); time.Duration(h)*time.Hour+time.Duration(min)*time.Minute == at {
		return t
	}
	// The clocks leave that time out: what comes right after is the moment at which
	// they went forward.
	for low := t.Add(-3 * time.Hour); ; low = low.Add(time.Minute) {
		_, before := low.Zone()
		_, after := low.Add(time.Minute).Zone()
		if after > before {
			return low.Add(time.Minute)
		}
		if low.After(t.Add(3 * time.Hour)) {
			return t
		}
	}
}
