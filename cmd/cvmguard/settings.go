package main

import (
	"errors"
	"slices"
	"strings"

	"cvmguard/internal/config"
)

// The settings that name policy documents.
const (
	envPolicy = "CVMGUARD_POLICY"
	envShadow = "CVMGUARD_SHADOW_POLICY"
)

// policyBeside gives what is wrong with the policy documents beside settings that
// are wrong themselves, so that one start shows everything. nil where no document
// is named, where it is sound, and where the settings' faults speak of it.
func policyBeside(settings error, getenv func(string) string) error {
	var faults config.Faults
	var wrong []error
	for _, setting := range []string{envPolicy, envShadow} {
		file := strings.TrimSpace(getenv(setting))
		if file == "" || errors.As(settings, &faults) && slices.ContainsFunc(faults, func(f config.Fault) bool { return f.Setting == setting }) {
			continue
		}
		_, err := readDocument(file)
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}

// ownPrefix begins the names of cvmguard's own settings.
const ownPrefix = "CVMGUARD_"

// unknownSetting is an environment variable that looks like a setting and is none.
type unknownSetting struct {
	name    string
	nearest string // the setting that was perhaps meant, "" where none is near
}

// String is for a person.
func (u unknownSetting) String() string {
	if u.nearest == "" {
		return u.name + ": there is no such setting, it has no effect. Leave it out."
	}
	return u.name + ": there is no such setting, it has no effect. Did you mean " + u.nearest + "?"
}

// unknownSettings finds them in an environment of NAME=value, in the order of
// their names. Values are not looked at: they may be secrets.
func unknownSettings(environ []string) []unknownSetting {
	known := []string{envURL, envKey}
	for _, s := range config.Settings() {
		if strings.HasPrefix(s.Name, ownPrefix) {
			known = append(known, s.Name)
		}
	}
	var out []unknownSetting
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if len(name) >= len(ownPrefix) && strings.EqualFold(name[:len(ownPrefix)], ownPrefix) && !slices.Contains(known, name) {
			out = append(out, unknownSetting{name, nearest(name, known)})
		}
	}
	slices.SortFunc(out, func(a, b unknownSetting) int { return strings.Compare(a.name, b.name) })
	return out
}

// nearest is the name with the fewest edits to the wrong one's own part, "" where
// more than a third of it, and one letter, would change.
func nearest(wrong string, known []string) string {
	own := strings.ToUpper(wrong[len(ownPrefix):])
	if len(own) > 64 {
		return ""
	}
	best, least := "", len(own)/3+2
	for _, k := range known {
		if d := edits(own, k[len(ownPrefix):]); d < least {
			best, least = k, d
		}
	}
	return best
}

// edits is how many letters must be put in, taken out or changed to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1) // for the part of a so far, by the length of b's
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before, row[j+1] = row[j+1], min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
