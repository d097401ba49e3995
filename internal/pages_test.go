package internal

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// skippedDirs hold nothing of ours.
var skippedDirs = []string{"node_modules", "dist", "bin", ".git", ".azurite"}

// walkRepo calls f with every file's path from the repository's root.
func walkRepo(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(skippedDirs, d.Name()) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			rel, err := filepath.Rel("..", path)
			if err != nil {
				return err
			}
			f(filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func page(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// pages are all Markdown pages by their path.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	walkRepo(t, func(path string) {
		if strings.HasSuffix(path, ".md") {
			out[path] = page(t, path)
		}
	})
	return out
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	all := pages(t)
	for path, text := range all {
		for _, m := range link.FindAllStringSubmatch(withoutCode(text), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := path
			if target != "" {
				to = filepath.ToSlash(filepath.Join(filepath.Dir(filepath.FromSlash(path)), filepath.FromSlash(target)))
			}
			if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(to))); err != nil {
				t.Errorf("%s links to %s, which isn't there", path, m[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(all[to]), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", path, m[1], to)
			}
		}
	}
}

// withoutCode is a page without its code blocks.
func withoutCode(text string) string {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inside = !inside
			continue
		}
		if !inside {
			out.WriteString(line)
		}
	}
	return out.String()
}

// anchors are the names of a page's headings, as renderers of Markdown make them.
func anchors(text string) []string {
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	var out []string
	for line := range strings.Lines(withoutCode(text)) {
		if title := strings.TrimLeft(line, "#"); title != line {
			out = append(out, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), ""), " ", "-"))
		}
	}
	return out
}

func TestDecisionsAreNumberedAndListed(t *testing.T) {
	index := page(t, "docs/decisions/README.md")
	n := 0
	entries, err := os.ReadDir("../docs/decisions")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "README.md" {
			continue
		}
		n++
		title, _, _ := strings.Cut(page(t, "docs/decisions/"+e.Name()), "\n")
		_, title, _ = strings.Cut(title, ". ")
		if number := fmt.Sprintf("%04d", n); !strings.HasPrefix(e.Name(), number+"-") || !strings.Contains(index, fmt.Sprintf("| [%s](%s) | %s |", number, e.Name(), title)) {
			t.Errorf("decision %s isn't numbered %s, or the index hasn't its title %q", e.Name(), number, title)
		}
		for _, part := range []string{"**Situation.**", "**Choices.**", "**Choice.**", "**Cost.**"} {
			if !strings.Contains(page(t, "docs/decisions/"+e.Name()), part) {
				t.Errorf("decision %s has no part %s", e.Name(), part)
			}
		}
	}
	if n == 0 {
		t.Error("there are no decisions")
	}
}

// TestNoMachinesPath looks for paths that are somebody's machine's.
func TestNoMachinesPath(t *testing.T) {
	// In pieces, so that this file doesn't hold what it looks for.
	bad := regexp.MustCompile("/" + `(work/(main|shared)|root/[a-z.]|Users/[a-z]|tmp/bash)|` + "[A-Z]:" + `\\Users`)
	walkRepo(t, func(path string) {
		text := page(t, path)
		if strings.ContainsRune(text, 0) {
			return // no text
		}
		if m := bad.FindString(text); m != "" {
			t.Errorf("%s holds a machine's path: %s", path, m)
		}
	})
}
