package main

import (
	"bytes"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cvmguard/internal/policy"
	"cvmguard/internal/policy/truth"
)

const root = "../.."

func TestThePageIsNotStale(t *testing.T) {
	if err := run(root, true, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
}

func TestAStalePageIsFound(t *testing.T) {
	copied := t.TempDir()
	if err := os.Mkdir(filepath.Join(copied, "docs"), 0o755); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if err := run(copied, false, &said); err != nil || !strings.Contains(said.String(), page) {
		t.Fatalf("writing: %v, said %q", err, said.String())
	}
	if err := run(copied, true, &said); err != nil {
		t.Errorf("just written: %v", err)
	}
	file := filepath.Join(copied, filepath.FromSlash(page))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(copied, true, &said); !errors.Is(err, errStale) {
		t.Errorf("changed by hand: %v, want %v", err, errStale)
	}
	if err := run(t.TempDir(), true, &said); err == nil {
		t.Error("without the page: no error")
	}
}

// notCodes are texts of the judge that look like reason codes and are none.
var notCodes = []string{"hsm-local", "access-policies", "not-asked", "2006-01-02", "x-ms-compliance-status", "x-ms-attestation-type", "azure-compliant-cvm"}

// Every reason code that is in the judge's source comes out of some case, so that
// the page has it and the table holds the judge to it.
func TestEveryCodeHasACase(t *testing.T) {
	table, err := truth.Load()
	if err != nil {
		t.Fatal(err)
	}
	all, err := play(table)
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]bool{}
	for _, f := range all.findings {
		given[f.Reason] = true
	}
	for _, r := range policy.Rules() {
		given[r.ID] = true
	}
	code := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)+$`)
	files, err := filepath.Glob(root + "/internal/policy/judge*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range append(files, root+"/internal/policy/exempt.go", root+"/internal/cvm/releasepolicy_judge.go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil || !code.MatchString(text) {
				return true
			}
			seen++
			if !given[text] && !slices.Contains(notCodes, text) {
				t.Errorf("%s says %q, and no case gives it: add one to internal/policy/truth/rows", filepath.Base(name), text)
			}
			return true
		})
	}
	if seen < 100 {
		t.Errorf("%d texts only that look like codes", seen)
	}
}
