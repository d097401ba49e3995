package config

import (
	"fmt"
	"strings"
)

// Fault is one thing that is wrong with the settings. Given is "" where nothing
// was given or the value is a secret.
type Fault struct {
	Setting string // its name
	Given   string
	Problem string // what is wrong, no full stop
	Fix     string // what to do, one sentence
}

// String is one line.
func (f Fault) String() string {
	given := ""
	if f.Given != "" {
		given = fmt.Sprintf(" (given %q)", f.Given)
	}
	return fmt.Sprintf("%s%s: %s. %s", f.Setting, given, f.Problem, f.Fix)
}

// Faults is everything that is wrong, in the order of Settings.
type Faults []Fault

// Error lists every fault on a line of its own.
func (fs Faults) Error() string {
	var b strings.Builder
	if len(fs) == 1 {
		b.WriteString("one setting is wrong:")
	} else {
		fmt.Fprintf(&b, "%d settings are wrong:", len(fs))
	}
	for _, f := range fs {
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}
