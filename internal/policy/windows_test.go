package policy

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestNextOpening(t *testing.T) {
	oslo := zone(t, "Europe/Oslo")
	hm := func(h, m int) time.Duration { return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute }
	night := Window{From: hm(22, 0), To: hm(4, 0), Zone: oslo}
	weekend := Window{Days: []time.Weekday{time.Saturday, time.Sunday}, From: hm(22, 0), To: hm(4, 0), Zone: oslo}
	for name, c := range map[string]struct {
		windows  []Window
		at, want string // in UTC
	}{
		"none":                                   {nil, "2026-11-02 12:00", "2026-11-02 12:00"},
		"before it":                              {[]Window{{From: hm(9, 0), To: hm(10, 30)}}, "2026-11-02 08:00", "2026-11-02 09:00"},
		"at its beginning":                       {[]Window{{From: hm(9, 0), To: hm(10, 30)}}, "2026-11-02 09:00", "2026-11-02 09:00"},
		"in it":                                  {[]Window{{From: hm(9, 0), To: hm(10, 30)}}, "2026-11-02 10:29", "2026-11-02 10:29"},
		"at its end":                             {[]Window{{From: hm(9, 0), To: hm(10, 30)}}, "2026-11-02 10:30", "2026-11-03 09:00"},
		"all day":                                {[]Window{{}}, "2026-11-02 00:00", "2026-11-02 00:00"},
		"all day on one":                         {[]Window{{Days: []time.Weekday{time.Tuesday}}}, "2026-11-04 00:00", "2026-11-10 00:00"},
		"the sooner of two":                      {[]Window{{From: hm(20, 0), To: hm(21, 0)}, {From: hm(15, 0), To: hm(16, 0)}}, "2026-11-02 12:00", "2026-11-02 15:00"},
		"overnight, before midnight":             {[]Window{night}, "2026-11-02 22:00", "2026-11-02 22:00"},
		"overnight, after midnight":              {[]Window{night}, "2026-11-03 02:59", "2026-11-03 02:59"},
		"overnight, over":                        {[]Window{night}, "2026-11-03 03:00", "2026-11-03 21:00"},
		"the weekend's, on Friday":               {[]Window{weekend}, "2026-11-06 22:00", "2026-11-07 21:00"},
		"the weekend's, on Monday":               {[]Window{weekend}, "2026-11-09 02:00", "2026-11-09 02:00"},
		"the weekend's, on Monday too late":      {[]Window{weekend}, "2026-11-09 03:00", "2026-11-14 21:00"},
		"the wall clock is that of summer":       {[]Window{night}, "2026-07-01 19:00", "2026-07-01 20:00"},
		"the night of the short hour":            {[]Window{night}, "2026-03-29 01:59", "2026-03-29 01:59"},
		"which ends by the wall clock":           {[]Window{night}, "2026-03-29 02:00", "2026-03-29 20:00"},
		"the night of the long hour":             {[]Window{night}, "2026-10-25 02:59", "2026-10-25 02:59"},
		"and its end":                            {[]Window{night}, "2026-10-25 03:00", "2026-10-25 21:00"},
		"it begins in the hour that there isn't": {[]Window{{From: hm(2, 30), To: hm(5, 0), Zone: oslo}}, "2026-03-28 23:00", "2026-03-29 01:00"},
		"it ends there":                          {[]Window{{From: hm(1, 0), To: hm(2, 30), Zone: oslo}}, "2026-03-29 01:00", "2026-03-29 23:00"},
		"it lies there":                          {[]Window{{From: hm(2, 10), To: hm(2, 50), Zone: oslo}}, "2026-03-28 23:00", "2026-03-30 00:10"},
		"it lies there, once a week":             {[]Window{{Days: []time.Weekday{time.Sunday}, From: hm(2, 10), To: hm(2, 50), Zone: oslo}}, "2026-03-28 23:00", "2026-04-05 00:10"},
	} {
		at, err := time.Parse("2006-01-02 15:04", c.at)
		if err != nil {
			t.Fatal(err)
		}
		b := Brakes{Windows: c.windows}
		got := b.NextOpening(at)
		if got.Format("2006-01-02 15:04") != c.want || b.InWindow(at) != (c.at == c.want) {
			t.Errorf("%s: at %s the next opening is %s, not %s; open %t", name, c.at, got.Format("2006-01-02 15:04"), c.want, b.InWindow(at))
		}
	}
}

// Whatever the windows and the moment: what is called an opening is open, and
// nothing before it is.
func TestNextOpeningOfAnyWindow(t *testing.T) {
	zones := []*time.Location{time.UTC, zone(t, "Europe/Oslo"), zone(t, "America/New_York"), zone(t, "Australia/Lord_Howe"), zone(t, "Asia/Kolkata"), zone(t, "Pacific/Apia")}
	rapid.Check(t, func(t *rapid.T) {
		minute := rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(0, 1439).Draw(t, "m")) * time.Minute
		})
		var b Brakes
		for range rapid.IntRange(1, 3).Draw(t, "windows") {
			w := Window{From: minute.Draw(t, "from"), To: minute.Draw(t, "to"), Zone: rapid.SampledFrom(zones).Draw(t, "zone")}
			for d := range time.Weekday(7) {
				if rapid.Bool().Draw(t, "day") {
					w.Days = append(w.Days, d)
				}
			}
			b.Windows = append(b.Windows, w)
		}
		at := time.Unix(rapid.Int64Range(1_750_000_000, 1_850_000_000).Draw(t, "at"), 0).UTC()
		next := b.NextOpening(at)
		if next.Before(at) || !b.InWindow(next) || next.Sub(at) > days*24*time.Hour {
			t.Fatalf("at %s: %s, open %t", at, next, b.InWindow(next))
		}
		if gap := next.Sub(at); gap > time.Second {
			for range 20 {
				between := at.Add(time.Duration(rapid.Int64Range(0, int64(gap)-1).Draw(t, "between")))
				if b.InWindow(between) {
					t.Fatalf("at %s: open at %s, before %s", at, between, next)
				}
			}
		}
	})
}
