package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"cvmguard/internal/config"
	"cvmguard/internal/policy"
)

// documentFor is the policy document that a command works with: the file that
// was named, as it stands, else the one in force by the settings.
func documentFor(file string, cfg config.Config) (*policy.Document, error) {
	if file != "" {
		return readDocument(file)
	}
	if cfg.PolicyPath != "" {
		doc, err := readDocument(cfg.PolicyPath)
		if err != nil {
			return nil, err
		}
		return withMode(doc, cfg.Mode), nil
	}
	return withMode(policy.Embedded(), cfg.Mode), nil
}

// readDocument reads a policy document. What is wrong with it is a *badDocument.
func readDocument(file string) (*policy.Document, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the policy document: %w; give the path of a YAML document that you may read", err)
	}
	doc, err := policy.Parse(text)
	var parse *policy.ParseError
	if errors.As(err, &parse) {
		return nil, &badDocument{file, parse.Faults}
	}
	return doc, err
}

// badDocument is a policy document with faults.
type badDocument struct {
	file   string
	faults []policy.Fault
}

// Error has a line for each fault, as compilers write them.
func (b *badDocument) Error() string {
	var s strings.Builder
	for _, f := range b.faults {
		s.WriteString(b.line(f) + "\n")
	}
	fmt.Fprintf(&s, "the policy document %q can't be used; correct the places named", b.file)
	return s.String()
}

func (b *badDocument) line(f policy.Fault) string {
	at := b.file
	if f.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", at, f.Line, f.Column)
	}
	if f.Path != "" {
		at += ": " + f.Path
	}
	return at + ": " + f.Text
}
