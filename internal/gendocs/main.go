// Command gendocs writes docs/rules.md from the rules and the truth table themselves:
// what each rule asks, why, what is done about it, how to undo that and how to
// exempt from it, and the table, row by row.
//
//	go run ./internal/gendocs            from the repository's root
//	go run ./internal/gendocs -check     exit status 1 when the page is stale
//
// What a rule says of itself comes from package policy. Its reason codes, its rows
// and what is done about it come from the truth table's cases, judged and planned
// for; a test finds the codes in the judge's source that no case gives. It promises
// the same page for the same source. It isn't part of what is shipped.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// page is what is written, below the repository's root.
const page = "docs/rules.md"

func main() {
	check := flag.Bool("check", false, "write nothing; exit status 1 when "+page+" is stale")
	root := flag.String("root", ".", "the repository's root")
	flag.Parse()
	if err := run(*root, *check, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

// errStale is the answer of -check.
var errStale = errors.New(page + " is stale; write it anew with `go run ./internal/gendocs`")

func run(root string, check bool, out io.Writer) error {
	want, err := generate()
	if err != nil {
		return err
	}
	path := filepath.Join(root, filepath.FromSlash(page))
	if check {
		have, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading the page: %w", err)
		}
		if !bytes.Equal(have, want) {
			return errStale
		}
		return nil
	}
	if err := os.WriteFile(path, want, 0o644); err != nil {
		return fmt.Errorf("writing the page: %w", err)
	}
	_, err = fmt.Fprintln(out, "wrote", page)
	return err
}
