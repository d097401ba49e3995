package main

import (
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
)

// Where the judge is, below the repository's root.
const (
	policyDir = "internal/policy"
	cvmDir    = "internal/cvm"
)

// reasons are the codes that a rule may give, in the order of the code.
type reasons struct {
	own     []string // its own
	gathers []string // rules whose failures it repeats (a region's readiness)
}

// code is the form of every reason code.
var code = regexp.MustCompile(`^[a-z0-9]+(\.[a-z0-9]+)?(-[a-z0-9]+)+$`)

// source is one package's functions by name, tests aside.
type source struct {
	funcs  map[string]*ast.FuncDecl
	judges map[string]string // rule -> the function that judges it
}

func readSource(dir string) (source, error) {
	s := source{funcs: map[string]*ast.FuncDecl{}, judges: map[string]string{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return s, fmt.Errorf("reading the judge's source: %w; run from the repository's root", err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			return s, fmt.Errorf("reading the judge's source: %w", err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				s.funcs[f.Name.Name] = f
			}
		}
		ast.Inspect(file, s.rule)
	}
	return s, nil
}

// rule notes which function judges a rule, from the rule's literal in the table.
func (s source) rule(n ast.Node) bool {
	lit, ok := n.(*ast.CompositeLit)
	if !ok {
		return true
	}
	id, judge := "", ""
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		switch key, _ := kv.Key.(*ast.Ident); {
		case key == nil:
		case key.Name == "ID":
			id = text(kv.Value)
		case key.Name == "judge":
			if f, ok := kv.Value.(*ast.Ident); ok {
				judge = f.Name
			}
		}
	}
	if id != "" && judge != "" {
		s.judges[id] = judge
	}
	return true
}

// finder walks the functions below one, once each. Those named need… speak of a
// link before the rule's own fact: what they say of a link that wasn't read is
// taken with links alone, all else without it.
type finder struct {
	cvm   source
	links bool
	seen  map[string]bool
	found reasons
}

// reasonsOf reads what each rule may say, and apart from that what any rule says
// of a link before it that wasn't read.
func reasonsOf(root string) (byRule map[string]reasons, links []string, err error) {
	pol, err := readSource(filepath.Join(root, filepath.FromSlash(policyDir)))
	if err != nil {
		return nil, nil, err
	}
	model, err := readSource(filepath.Join(root, filepath.FromSlash(cvmDir)))
	if err != nil {
		return nil, nil, err
	}
	byRule = map[string]reasons{}
	for rule, judge := range pol.judges {
		f := &finder{cvm: model, seen: map[string]bool{}}
		f.walk(pol, judge)
		byRule[rule] = f.found
	}
	f := &finder{cvm: model, links: true, seen: map[string]bool{}}
	var needs []string
	for name := range pol.funcs {
		if isNeed(name) {
			needs = append(needs, name)
		}
	}
	slices.Sort(needs)
	for _, name := range needs {
		f.walk(pol, name)
	}
	slices.Sort(f.found.own)
	return byRule, f.found.own, nil
}

func isNeed(name string) bool { return strings.HasPrefix(name, "need") }

// givers are the functions that take a reason code, and at which arguments.
var givers = map[string][]int{
	"fail": {0}, "unknown": {0}, "note": {0}, "mismatch": {0}, // of package policy
	"unread": {1}, "uefi": {0, 1},
	"add": {0}, // of package cvm, on a release policy
}

func (f *finder) walk(in source, name string) {
	fn, ok := in.funcs[name]
	if !ok || f.seen[name] {
		return
	}
	f.seen[name] = true
	consts := constants(fn)
	unused := map[ast.Node]bool{} // calls whose last result, the findings, is dropped
	ofLinks := isNeed(name)
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			pkg, called := callee(n)
			if ofLinks == f.links {
				for _, i := range givers[called] {
					if i < len(n.Args) {
						f.take(n.Args[i], consts)
					}
				}
			}
			switch {
			case unused[n]:
			case pkg == "cvm":
				f.walk(f.cvm, called)
			default:
				f.walk(in, called)
			}
		case *ast.CompositeLit:
			return f.literal(n, consts)
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Reason" && !f.links {
				f.take(n.Value, consts)
			}
		case *ast.AssignStmt:
			if last, ok := n.Lhs[len(n.Lhs)-1].(*ast.Ident); ok && last.Name == "_" && len(n.Rhs) == 1 {
				unused[n.Rhs[0]] = true
			}
			for i, l := range n.Lhs {
				if sel, ok := l.(*ast.SelectorExpr); ok && sel.Sel.Name == "Reason" && len(n.Lhs) == len(n.Rhs) {
					f.take(n.Rhs[i], consts)
				}
			}
		}
		return true
	})
}

// literal looks at the two kinds of literal that hold a code or a rule as their
// first element. It says whether to look inside.
func (f *finder) literal(n *ast.CompositeLit, consts map[string]string) bool {
	switch typ := n.Type.(type) {
	case *ast.Ident:
		if len(n.Elts) == 0 {
			return true
		}
		switch typ.Name {
		case "part":
			f.found.gathers = append(f.found.gathers, text(n.Elts[0]))
			return false
		case "PolicyFault":
			f.take(n.Elts[0], consts)
		}
	case *ast.ArrayType:
		if of, ok := typ.Elt.(*ast.Ident); !ok || of.Name != "PolicyFault" {
			return true
		}
		for _, e := range n.Elts {
			if inner, ok := e.(*ast.CompositeLit); ok && len(inner.Elts) > 0 {
				f.take(inner.Elts[0], consts)
			}
		}
	}
	return true
}

// take keeps a code that is written out or is a constant; a variable is given its
// code elsewhere.
func (f *finder) take(e ast.Expr, consts map[string]string) {
	said := text(e)
	if id, ok := e.(*ast.Ident); ok {
		said = consts[id.Name]
	}
	if code.MatchString(said) && !slices.Contains(f.found.own, said) {
		f.found.own = append(f.found.own, said)
	}
}

// callee is the name of what is called, and the package that it is of.
func callee(c *ast.CallExpr) (pkg, name string) {
	switch fun := c.Fun.(type) {
	case *ast.Ident:
		return "", fun.Name
	case *ast.SelectorExpr:
		if of, ok := fun.X.(*ast.Ident); ok && of.Name == "cvm" {
			pkg = of.Name
		}
		return pkg, fun.Sel.Name
	}
	return "", ""
}

// constants are the text constants that a function declares.
func constants(fn *ast.FuncDecl) map[string]string {
	out := map[string]string{}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for i, name := range spec.Names {
				if i < len(spec.Values) {
					out[name.Name] = text(spec.Values[i])
				}
			}
		}
		return true
	})
	return out
}

// text is a string literal's value, "" for anything else.
func text(e ast.Expr) string {
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
