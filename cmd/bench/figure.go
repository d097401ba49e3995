//go:build !release

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
)

// ReportSchema names the format of a Report.
const ReportSchema = "cvmguard.dev/bench/v1"

// Report is a run, as -o json prints it.
type Report struct {
	Schema   string            `json:"schema"`
	Cores    int               `json:"cores"`
	Go       string            `json:"go"`
	OS       string            `json:"os"`
	Quick    bool              `json:"quick"`
	Settings map[string]string `json:"settings,omitempty"` // of -env
	Seconds  float64           `json:"seconds"`            // how long the bench took
	Figures  []Figure          `json:"figures"`
}

// Figure is one measured number.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`

	Floor      float64 `json:"floor,omitempty"` // in the same unit; 0: none
	FloorIs    string  `json:"floorIs,omitempty"`
	TimesFloor float64 `json:"timesFloor,omitempty"` // Value over Floor

	Goal   string  `json:"goal,omitempty"`
	OfGoal float64 `json:"ofGoal,omitempty"` // what the goal is about, over the goal: 1 is at it
	Met    *bool   `json:"met,omitempty"`    // nil without a goal

	Samples int    `json:"samples,omitempty"`
	Note    string `json:"note,omitempty"`
}

func figure(name, unit string, value float64) Figure {
	return Figure{Name: name, Unit: unit, Value: value}
}

// beside puts a floor under a figure.
func (f Figure) beside(floor float64, what string) Figure {
	f.Floor, f.FloorIs = floor, what
	if floor > 0 {
		f.TimesFloor = f.Value / floor
	}
	return f
}

func (f Figure) timesFloorUnder(limit float64) Figure {
	return f.goal(fmt.Sprintf("under %g× its floor", limit), f.TimesFloor/limit, f.TimesFloor < limit)
}

func (f Figure) under(limit float64) Figure {
	return f.goal(fmt.Sprintf("under %g %s", limit, f.Unit), f.Value/limit, f.Value < limit)
}

func (f Figure) atMost(limit float64) Figure {
	return f.goal(fmt.Sprintf("at most %g", limit), f.Value/limit, f.Value <= limit)
}

func (f Figure) goal(text string, of float64, met bool) Figure {
	f.Goal, f.OfGoal, f.Met = text, of, &met
	return f
}

func (f Figure) of(n int) Figure { f.Samples = n; return f }

func (f Figure) noting(format string, args ...any) Figure {
	f.Note = fmt.Sprintf(format, args...)
	return f
}

// print writes the report for a person or as one JSON document.
func (r Report) print(out io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"figure", "measured", "floor", "ratio", "goal", "of the goal", "n"})
	var notes []string
	mark := func(text string) string {
		if text == "" {
			return ""
		}
		i := slices.Index(notes, text)
		if i < 0 {
			notes = append(notes, text)
			i = len(notes) - 1
		}
		return fmt.Sprintf(" (%d)", i+1)
	}
	for _, f := range r.Figures {
		floor, ratio, of, n := "", "", "", ""
		if f.Floor > 0 {
			floor, ratio = amount(f.Floor, f.Unit)+mark(f.FloorIs), fmt.Sprintf("%.2f×", f.TimesFloor)
		}
		if f.Met != nil {
			of = fmt.Sprintf("%.0f %%", 100*f.OfGoal)
			if !*f.Met {
				of += ", over its goal"
			}
		}
		if f.Samples > 0 {
			n = fmt.Sprint(f.Samples)
		}
		t.AppendRow(table.Row{f.Name + mark(f.Note), amount(f.Value, f.Unit), floor, ratio, f.Goal, of, n})
	}
	t.Render()
	for i, text := range notes {
		fmt.Fprintf(out, "(%d) %s\n", i+1, text)
	}
	quick := ""
	if r.Quick {
		quick = ", few samples (-quick)"
	}
	_, err := fmt.Fprintf(out, "One run on %d cores, %s %s%s, %.0f s.\n", r.Cores, r.Go, r.OS, quick, r.Seconds)
	return err
}

// amount writes a number with three digits that count.
func amount(v float64, unit string) string {
	digits := 2
	switch {
	case v >= 100:
		digits = 0
	case v >= 10:
		digits = 1
	}
	return fmt.Sprintf("%.*f %s", digits, v, unit)
}
