package remedy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"testing"
)

// declaredKinds are the constants of type Kind, as the source has them.
func declaredKinds(t *testing.T) []Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "types.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []Kind
	for _, decl := range file.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if typ, ok := v.Type.(*ast.Ident); !ok || typ.Name != "Kind" {
				continue
			}
			for _, value := range v.Values {
				text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, Kind(text))
			}
		}
	}
	return out
}

// Each kind of step is in the list of all, and somebody has said whether it changes
// anything: one that is forgotten fails here.
func TestWhatEachKindOfStepChanges(t *testing.T) {
	declared := declaredKinds(t)
	if len(declared) < 30 || !slices.Equal(slices.Sorted(slices.Values(declared)), slices.Sorted(slices.Values(Kinds()))) {
		t.Errorf("declared %v\nlisted   %v", declared, Kinds())
	}
	looks, changes := false, true
	want := map[Kind]bool{
		CollectEvidence: looks, CheckRotation: looks, CheckRecreation: looks,
		Recreate: looks, RotateKey: looks, RepairShared: looks, AskPerson: looks,
		InstallAttest: changes, EncryptTempDisk: changes, EncryptDataDisk: changes, Deallocate: changes, Start: changes, Tag: changes, Quarantine: changes,
		MarkDeallocation: changes, MarkDown: changes, ClearMark: changes,
		DisableAutoRotation: changes, ReplacePolicy: changes, GrantDES: changes, GrantOrchestrator: changes, EnsureKey: changes, EnsureDES: changes,
		DeallocateWave: changes, SetDESKey: changes, StartWave: changes,
		KeepParts: changes, TakeDown: changes, DeleteVM: changes, CreateVM: changes, RestoreExtension: changes,
		RestoreTag: changes, RestoreAutoRotation: changes, RestoreReleasePolicy: changes,
	}
	for _, k := range declared {
		if is, said := want[k]; !said || k.Changes() != is {
			t.Errorf("%s: changes %t, said %t %t", k, k.Changes(), said, is)
		}
		delete(want, k)
	}
	if len(want) > 0 || !Kind("of a newer version").Changes() {
		t.Errorf("no kinds: %v", slices.Collect(maps.Keys(want)))
	}
}
