package cvm

import (
	"os"
	"path/filepath"
	"testing"
)

// vectors is the folder of Azure's bodies beside the repository.
func vectors(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "..", "shared", "vectors", "azure")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the vectors of Azure's bodies are not here: " + dir)
	}
	return dir
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seed adds the vectors that match a pattern to a fuzz target, where present.
func seed(f *testing.F, pattern string) {
	names, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "vectors", "azure", pattern))
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// seedText is seed for targets that take text.
func seedText(f *testing.F, pattern string) {
	names, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "vectors", "azure", pattern))
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
}
