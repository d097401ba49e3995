package devhost

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// schedule gives the occurrence that follows a time.
type schedule interface {
	next(after time.Time) time.Time
}

// every is a schedule by TimeSpan.
type every time.Duration

func (e every) next(after time.Time) time.Time { return after.Add(time.Duration(e)) }

// cron is an NCRONTAB schedule: a bit for each value of second, minute, hour,
// day, month and weekday. Day and weekday must both fit.
type cron struct{ fields [6]uint64 }

var cronFields = [6]struct {
	name      string
	low, high int
	names     []string
}{
	{"second", 0, 59, nil}, {"minute", 0, 59, nil}, {"hour", 0, 23, nil}, {"day", 1, 31, nil},
	{"month", 1, 12, []string{"", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"weekday", 0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// parseSchedule reads an NCRONTAB expression of six fields (or five, second 0)
// or a TimeSpan.
func parseSchedule(s string) (schedule, error) {
	if strings.Contains(s, ":") {
		d, err := parseSpan(s)
		if err != nil {
			return nil, err
		}
		if d < time.Second {
			return nil, errors.New("must be at least one second")
		}
		return every(d), nil
	}
	parts := strings.Fields(s)
	if len(parts) == 5 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 6 {
		return nil, fmt.Errorf("has %d fields, must have six: second minute hour day month weekday", len(parts))
	}
	var c cron
	for i, part := range parts {
		bits, err := parseField(part, cronFields[i].low, cronFields[i].high, cronFields[i].names)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", cronFields[i].name, part, err)
		}
		c.fields[i] = bits
	}
	if c.next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return nil, errors.New("no date fits it")
	}
	return c, nil
}

// parseField reads a list of values, ranges and steps: 5, 1-5, */10, 3-40/5,
// 5/15 (from 5 on), jan, mon-fri.
func parseField(s string, low, high int, names []string) (uint64, error) {
	value := func(text string) (int, error) {
		for i, n := range names {
			if n != "" && len(text) >= 3 && strings.HasPrefix(strings.ToLower(text), n) {
				return i, nil
			}
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%q is not a value from %d to %d", text, low, high)
		}
		return n, nil
	}
	var bits uint64
	for _, item := range strings.Split(s, ",") {
		span, stepText, stepped := strings.Cut(item, "/")
		step := 1
		if stepped {
			n, err := strconv.Atoi(stepText)
			if err != nil || n < 1 || n > high {
				return 0, fmt.Errorf("%q is not a step", stepText)
			}
			step = n
		}
		from, to := low, high
		if span != "*" {
			first, last, ranged := strings.Cut(span, "-")
			var err error
			if from, err = value(first); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				if to, err = value(last); err != nil {
					return 0, err
				}
			case !stepped:
				to = from
			}
		}
		if from > to {
			return 0, fmt.Errorf("the range %q is backwards", item)
		}
		for v := from; v <= to; v += step {
			bits |= 1 << v
		}
	}
	return bits, nil
}

func (c cron) has(field, v int) bool { return c.fields[field]&(1<<v) != 0 }

// next is the first fitting second after a time, zero if the next nine years
// (two leap days) have none.
func (c cron) next(after time.Time) time.Time {
	t := after.Truncate(time.Second).Add(time.Second)
	for end := after.AddDate(9, 0, 0); t.Before(end); {
		y, mo, d := t.Date()
		h, mi, s := t.Clock()
		switch {
		case !c.has(4, int(mo)):
			t = time.Date(y, mo+1, 1, 0, 0, 0, 0, t.Location())
		case !c.has(3, d) || !c.has(5, int(t.Weekday())):
			t = time.Date(y, mo, d+1, 0, 0, 0, 0, t.Location())
		case !c.has(2, h):
			t = t.Add(time.Hour - time.Duration(mi)*time.Minute - time.Duration(s)*time.Second)
		case !c.has(1, mi):
			t = t.Add(time.Minute - time.Duration(s)*time.Second)
		case !c.has(0, s):
			t = t.Add(time.Second)
		default:
			return t
		}
	}
	return time.Time{}
}
