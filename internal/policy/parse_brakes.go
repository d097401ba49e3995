package policy

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a host may have no time zones of its own, and a document must mean the same on each
)

type rawBrakes struct {
	MaxSends *int `json:"maxSendsPerStepPerDay"`
	MaxSteps *int `json:"maxStepsPerVMPerDay"`
	Breaker  struct {
		VMs       *int   `json:"vmsPerHour"`
		Share     string `json:"sharePerHour"`
		ShareFrom *int   `json:"shareFrom"`
	} `json:"breaker"`
	MaxChangedBack *int `json:"maxChangedBack"`
	Windows        []struct {
		Days []string `json:"days"`
		From string   `json:"from"`
		To   string   `json:"to"`
		Zone string   `json:"zone"`
	} `json:"windows"`
	Canary struct {
		VMs  int    `json:"vms"`
		Wait string `json:"wait"`
	} `json:"canary"`
}

var weekdays = map[string]time.Weekday{"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday,
	"thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday}

func (t *tree) brakes(r rawBrakes) Brakes {
	b := Brakes{MaxSendsPerStepPerDay: or(r.MaxSends, 8), MaxStepsPerVMPerDay: or(r.MaxSteps, 40),
		MaxVMsPerHour: or(r.Breaker.VMs, 500), MaxSharePerHour: 50, ShareFrom: or(r.Breaker.ShareFrom, 20),
		MaxChangedBack: or(r.MaxChangedBack, 2),
		Canary:         Canary{VMs: r.Canary.VMs, Wait: t.duration([]string{"brakes", "canary", "wait"}, r.Canary.Wait, 0)}}
	if share, ok := strings.CutSuffix(r.Breaker.Share, "%"); ok {
		n, err := strconv.Atoi(share)
		if err != nil {
			t.at([]string{"brakes", "breaker", "sharePerHour"}, false, "%q is not a share such as 50%%", cut(r.Breaker.Share))
		}
		b.MaxSharePerHour = n
	}
	for i, w := range r.Windows {
		path := []string{"brakes", "windows", strconv.Itoa(i)}
		out := Window{From: t.timeOfDay(append(path, "from"), w.From), To: t.timeOfDay(append(path, "to"), w.To), Zone: time.UTC}
		for _, d := range w.Days {
			out.Days = append(out.Days, weekdays[d])
		}
		if zone, err := zoneOf(w.Zone); err == nil { // meaning has said what is wrong
			out.Zone = zone
		}
		b.Windows = append(b.Windows, out)
	}
	return b
}

func (t *tree) timeOfDay(path []string, s string) time.Duration {
	at, err := time.Parse("15:04", s)
	if err != nil {
		t.at(path, false, "%q is not a time of the day such as 22:00", cut(s))
		return 0
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute
}

// meaningOfBrakes checks what the schema can't say of windows.
func (t *tree) meaningOfBrakes(root map[string]any) {
	brakes, _ := root["brakes"].(map[string]any)
	windows, _ := brakes["windows"].([]any)
	for i, v := range windows {
		w, _ := v.(map[string]any)
		if zone, ok := w["zone"].(string); ok && zone != "" {
			if _, err := zoneOf(zone); err != nil {
				t.at([]string{"brakes", "windows", strconv.Itoa(i), "zone"}, false, "%v", err)
			}
		}
		days, _ := w["days"].([]any)
		seen := map[any]bool{}
		for j, d := range days {
			if day, ok := d.(string); ok {
				if seen[day] {
					t.at([]string{"brakes", "windows", strconv.Itoa(i), "days", strconv.Itoa(j)}, false, "%q stands here a second time", cut(day))
				}
				seen[day] = true
			}
		}
	}
}

// zones holds each time zone once: two documents with one zone are then equal.
var zones sync.Map

// zoneOf finds a time zone by its name; "" is UTC.
func zoneOf(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	if z, ok := zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "Local" { // the zone of whoever reads it is none
		return nil, errors.New(strconv.Quote(cut(name)) + " is not a time zone such as Europe/Oslo or UTC" + didYouMean(name, nearZones))
	}
	kept, _ := zones.LoadOrStore(name, z)
	return kept.(*time.Location), nil
}

// nearZones are zones that a wrong name may have meant; any other of the IANA
// database is as good.
var nearZones = []string{"UTC", "Europe/London", "Europe/Dublin", "Europe/Lisbon", "Europe/Madrid", "Europe/Paris", "Europe/Brussels", "Europe/Amsterdam",
	"Europe/Berlin", "Europe/Vienna", "Europe/Zurich", "Europe/Rome", "Europe/Warsaw", "Europe/Prague", "Europe/Copenhagen", "Europe/Oslo", "Europe/Stockholm",
	"Europe/Helsinki", "Europe/Athens", "Europe/Istanbul", "Europe/Kyiv", "Africa/Johannesburg", "Africa/Cairo", "Africa/Lagos", "Asia/Dubai", "Asia/Riyadh",
	"Asia/Jerusalem", "Asia/Kolkata", "Asia/Singapore", "Asia/Hong_Kong", "Asia/Shanghai", "Asia/Seoul", "Asia/Tokyo", "Australia/Sydney", "Australia/Melbourne",
	"Australia/Perth", "Pacific/Auckland", "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Toronto", "America/Vancouver",
	"America/Mexico_City", "America/Sao_Paulo", "America/Santiago", "America/Bogota"}
