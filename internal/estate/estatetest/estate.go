package estatetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// At is the moment for which the bodies are made.
var At = time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)

// Case is one VM of an estate.
type Case struct {
	Variant
	Chain *Chain
}

// Estate makes n VMs, the variants over and over, each with a chain of its own.
func Estate(cloud string, n int) []Case {
	all := Variants()
	out := make([]Case, n)
	for i := range out {
		v := all[i%len(all)]
		c := Good(cloud, i)
		v.Change(c, i)
		out[i] = Case{v, c}
	}
	return out
}

// Write writes each body into a file of its own below dir, under names that say
// nothing.
func Write(dir string, cases []Case) error {
	n := 0
	for i, c := range cases {
		folder := filepath.Join(dir, fmt.Sprintf("d%02d", i%10), fmt.Sprintf("e%d", i%3))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		for _, b := range c.Chain.Bodies() {
			text, err := json.MarshalIndent(b, "", "  ")
			if err != nil {
				return err
			}
			n++
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%06d.json", n)), text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
