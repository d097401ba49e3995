package internal

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// allowed says which of our own packages each may import, the tests of a package
// aside. What isn't listed may not be imported.
var allowed = map[string][]string{
	"internal/fault":         {},
	"internal/cvm":           {"internal/fault"},
	"internal/policy":        {"internal/cvm", "internal/fault"},
	"internal/policy/truth":  {"internal/cvm", "internal/fault"},
	"internal/azurepolicy":   {"internal/policy", "internal/cvm", "internal/fault"},
	"internal/remedy":        {"internal/cvm", "internal/policy", "internal/fault"},
	"internal/attest":        {"internal/cvm", "internal/fault"},
	"internal/guest":         {"internal/attest", "internal/fault", "internal/cvm"},
	"internal/guest/linux":   {"internal/guest", "internal/attest", "internal/fault", "internal/cvm"},
	"internal/ledger":        {"internal/azurepolicy", "internal/cvm", "internal/policy", "internal/remedy", "internal/fault"},
	"internal/config":        {"internal/fault"},
	"internal/estate":        {"internal/cvm", "internal/fault"},
	"internal/policytest":    {"internal/cvm", "internal/estate", "internal/fault", "internal/policy", "internal/reconcile", "internal/remedy"},
	"internal/gendocs":       {"internal/cvm", "internal/policy", "internal/policy/truth", "internal/remedy", "internal/fault"},
	"internal/customhandler": {"internal/fault"},
	"internal/reconcile":     {"internal/attest", "internal/azurepolicy", "internal/cvm", "internal/fault", "internal/ledger", "internal/policy", "internal/remedy"},
	"internal/fleet":         {"internal/reconcile", "internal/cvm", "internal/fault", "internal/ledger", "internal/policy", "internal/remedy"},
	"internal/azure": {"internal/attest", "internal/config", "internal/cvm", "internal/fault", "internal/ledger", "internal/policy", "internal/reconcile",
		"internal/remedy", "internal/fleet"},
	"handlers": {"internal/attest", "internal/azurepolicy", "internal/customhandler", "internal/cvm", "internal/fault", "internal/fleet", "internal/ledger", "internal/policy",
		"internal/reconcile", "internal/remedy", "internal/azure"},
}

// pure packages do no I/O, read no clock and take no context.
var pure = map[string]bool{"internal/azurepolicy": true, "internal/cvm": true, "internal/policy": true}

// impure are standard packages that a pure one may not import.
var impure = []string{"context", "net", "net/http", "os", "io/fs", "log", "log/slog", "math/rand", "math/rand/v2", "crypto/rand"}

// localWorld is never linked into what is shipped.
var localWorld = []string{"internal/azuresim", "internal/devhost", "internal/ledger/memstore", "internal/ledger/storetest", "internal/local", "internal/local/story", "internal/estate/estatetest", "internal/policy/truth"}

const module = "cvmguard/"

// sources calls f with the folder (from the repo's root) and parsed imports of
// every Go file that isn't a test.
func sources(t *testing.T, f func(dir, file string, imports []string, src []byte)) {
	t.Helper()
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "node_modules" || name == "dist" || name == "bin" || name == "tools" || name != ".." && strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range file.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f(filepath.ToSlash(filepath.Dir(rel)), filepath.ToSlash(rel), imports, src)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsPointOneWay(t *testing.T) {
	seen := map[string]bool{}
	sources(t, func(dir, file string, imports []string, _ []byte) {
		seen[dir] = true
		may, known := allowed[dir]
		for _, i := range imports {
			own, isOwn := strings.CutPrefix(i, module)
			if isOwn && known && !slices.Contains(may, own) {
				t.Errorf("%s imports %s, which %s may not", file, own, dir)
			}
			if pure[dir] && slices.Contains(impure, i) {
				t.Errorf("%s imports %s: %s is pure", file, i, dir)
			}
			if strings.HasPrefix(i, "github.com/Azure/") && dir != "internal/azure" && !strings.HasPrefix(dir, "internal/azuresim") && dir != "internal/local" && !strings.HasPrefix(dir, "cmd/") {
				t.Errorf("%s imports %s: the SDK stops at internal/azure", file, i)
			}
		}
		if !known && strings.HasPrefix(dir, "internal/") && !isLocal(dir) {
			t.Errorf("%s: say in house_test.go what %s may import", file, dir)
		}
	})
	for dir := range allowed {
		if !seen[dir] {
			t.Errorf("house_test.go speaks of %s, which isn't there", dir)
		}
	}
}

func isLocal(dir string) bool {
	return slices.ContainsFunc(localWorld, func(l string) bool { return dir == l || strings.HasPrefix(dir, l+"/") })
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	said := map[string]bool{}
	sources(t, func(dir, _ string, _ []string, src []byte) {
		said[dir] = said[dir] || bytes.Contains(src, []byte("// Package ")) || bytes.Contains(src, []byte("// Command "))
	})
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

// TestTheReleaseIsFreeOfTheLocalWorld asks the go command what the shipped binary
// is made of.
func TestTheReleaseIsFreeOfTheLocalWorld(t *testing.T) {
	for _, cmd := range []string{"cvmguard", "cvmguard-guest"} {
		out, err := exec.Command("go", "list", "-tags", "release", "-deps", "../cmd/"+cmd).CombinedOutput()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, out)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			own, _ := strings.CutPrefix(dep, module)
			if isLocal(own) || dep == "testing" || strings.HasPrefix(dep, "github.com/google/go-sev-guest/testing") {
				t.Errorf("the release of %s links %s", cmd, dep)
			}
		}
	}
}
