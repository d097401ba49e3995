package internal

import (
	"encoding/json"
	"fmt"
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

	"cvmguard/internal/config"
	"cvmguard/internal/policy"
)

// These tests keep the documentation to the code: what is listed in a page must
// be all that there is.

func TestTheREADMEHasEverySetting(t *testing.T) {
	readme := page(t, "README.md")
	listed := 0
	for _, s := range config.Settings() {
		def := ""
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		if row := fmt.Sprintf("| `%s` | %s | %s |", s.Name, def, s.Meaning); !strings.Contains(readme, row+"\n") {
			t.Errorf("the README's table of settings lacks this row:\n%s", row)
		}
		listed++
	}
	_, table, _ := strings.Cut(readme, "| setting | default | meaning |\n| --- | --- | --- |\n")
	if table, _, _ = strings.Cut(table, "\n\n"); len(strings.Split(table, "\n")) != listed {
		t.Errorf("the README's table of settings has %d rows, there are %d settings", len(strings.Split(table, "\n")), listed)
	}
}

func TestTheREADMEHasEveryFunction(t *testing.T) {
	readme := page(t, "README.md")
	folders, err := os.ReadDir("../functions")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range folders {
		_, row, ok := strings.Cut(readme, "\n| `"+f.Name()+"` | ")
		if !ok {
			t.Errorf("the README's table of functions lacks %s", f.Name())
			continue
		}
		row, _, _ = strings.Cut(row, "\n")
		var function struct {
			Bindings []struct {
				Type, Route, QueueName, AuthLevel string
				Methods                           []string
			}
		}
		if err := json.Unmarshal([]byte(page(t, "functions/"+f.Name()+"/function.json")), &function); err != nil {
			t.Fatalf("%s: %v", f.Name(), err)
		}
		for _, b := range function.Bindings {
			says := append(slices.Clone(b.Methods), b.QueueName)
			if b.Route != "" {
				says = append(says, "/api/"+b.Route)
			}
			if b.AuthLevel == "anonymous" {
				says = append(says, b.AuthLevel)
			}
			for _, s := range says {
				if !strings.Contains(strings.ToLower(row), strings.ToLower(s)) {
					t.Errorf("the README's row of function %s doesn't say %q: %s", f.Name(), s, row)
				}
			}
		}
	}
}

func TestThePagesHaveEveryRule(t *testing.T) {
	rules := page(t, "docs/rules.md")
	for _, r := range policy.Rules() {
		if !strings.Contains(rules, "\n### "+r.ID+"\n") || !strings.Contains(rules, "| [`"+r.ID+"`](#") {
			t.Errorf("docs/rules.md lacks rule %s; write it anew with `go run ./internal/gendocs`", r.ID)
		}
	}
}

// TestThePagesHaveEveryAction holds the README to the roles: no power that isn't
// told.
func TestThePagesHaveEveryAction(t *testing.T) {
	readme := page(t, "README.md")
	for _, file := range []string{"infra/role-read.json", "infra/role.json", "infra/role-remedy.json", "infra/role-access-policies.json", "infra/role-recreate.json"} {
		var role struct{ Actions, DataActions []string }
		if err := json.Unmarshal([]byte(page(t, file)), &role); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(role.Actions) == 0 {
			t.Errorf("%s holds no actions", file)
		}
		for _, a := range append(role.Actions, role.DataActions...) {
			if !strings.Contains(readme, "`"+a+"`") {
				t.Errorf("the README doesn't name %s, which %s grants", a, file)
			}
		}
	}
}

// TestTheREADMEHasEveryStepAndWord holds the table of what may be changed to the
// kinds of step and to the policy's words of remedy.
func TestTheREADMEHasEveryStepAndWord(t *testing.T) {
	readme := page(t, "README.md")
	kinds := constantsOfType(t, "remedy/types.go", "Kind")
	if len(kinds) < 10 {
		t.Fatalf("only %d kinds of step were found: %v", len(kinds), kinds)
	}
	for _, k := range kinds {
		if !strings.Contains(readme, "`"+k+"`") {
			t.Errorf("the README doesn't name step %s", k)
		}
	}
	var schema struct {
		Properties struct {
			Remedy struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(page(t, "internal/policy/policy.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	if len(schema.Properties.Remedy.Properties) < 10 {
		t.Fatalf("the schema has %d words of remedy", len(schema.Properties.Remedy.Properties))
	}
	for word := range schema.Properties.Remedy.Properties {
		if !strings.Contains(readme, "`remedy."+word+"`") {
			t.Errorf("the README doesn't name remedy.%s", word)
		}
	}
}

// constantsOfType are the values of a file's text constants of a type.
func constantsOfType(t *testing.T, file, typ string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); ok && of.Name == typ {
			for _, v := range spec.Values {
				out = append(out, literal(v))
			}
		}
		return true
	})
	return out
}

// literal is a text literal's value, "" for anything else.
func literal(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}

// TestThePageOnAttestationHasEveryCode looks for the codes that the verifiers
// give with a check.
func TestThePageOnAttestationHasEveryCode(t *testing.T) {
	text := page(t, "docs/attestation.md")
	check := regexp.MustCompile(`^[CSTQM][0-9]+$`)
	code := regexp.MustCompile(`^(bundle|nonce|hcl|snp|tdx|bind|tl|quote|maa)\.[a-z-]+$`)
	checks, codes := map[string]bool{}, map[string]bool{}
	entries, err := os.ReadDir("attest")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("attest", e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				switch s := literal(e); {
				case check.MatchString(s):
					checks[s] = true
				case code.MatchString(s):
					codes[s] = true
				}
			}
			return true
		})
	}
	if len(checks) < 20 || len(codes) < 30 {
		t.Fatalf("%d checks and %d codes were found in the source", len(checks), len(codes))
	}
	for c := range codes {
		if !strings.Contains(text, "`"+c+"`") {
			t.Errorf("docs/attestation.md lacks code %s", c)
		}
	}
	span := regexp.MustCompile(`([STQ])([0-9]+) to ([STQ])([0-9]+)`)
	for c := range checks {
		told := regexp.MustCompile(`\b` + c + `\b`).MatchString(text)
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			from, err1 := strconv.Atoi(m[2])
			to, err2 := strconv.Atoi(m[4])
			n, err3 := strconv.Atoi(c[1:])
			told = told || err1 == nil && err2 == nil && err3 == nil && m[1] == c[:1] && from <= n && n <= to
		}
		if !told {
			t.Errorf("docs/attestation.md lacks check %s", c)
		}
	}
}

func TestThePageOnArchitectureHasEveryPackage(t *testing.T) {
	text := page(t, "docs/architecture.md")
	seen := map[string]bool{}
	sources(t, func(dir, _ string, _ []string, _ []byte) { seen[dir] = true })
	for dir := range seen {
		if !strings.Contains(text, "`"+dir+"`") {
			t.Errorf("docs/architecture.md lacks package %s", dir)
		}
	}
}

// TestPoliciesInThePagesAreValid reads every whole policy document that a page
// shows.
func TestPoliciesInThePagesAreValid(t *testing.T) {
	found := 0
	for path, text := range pages(t) {
		for _, block := range strings.Split(text, "\n```yaml\n")[1:] {
			block, _, _ = strings.Cut(block, "\n```")
			if !strings.HasPrefix(block, "schemaVersion:") {
				continue
			}
			found++
			if _, err := policy.Parse([]byte(block + "\n")); err != nil {
				t.Errorf("%s shows a policy document that can't be used:\n%v", path, err)
			}
		}
	}
	if found == 0 {
		t.Error("no page shows a policy document")
	}
}
