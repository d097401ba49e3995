package policy

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Fault is one thing wrong with a policy document.
type Fault struct {
	Line   int    // from 1; 0 where no place can be named
	Column int    // from 1
	Path   string // such as rules.key-size.minBits, "" for the whole
	Text   string
}

// ParseError lists all that is wrong with a policy document, in the order of the
// places.
type ParseError struct {
	Faults []Fault
}

// Error has one line a fault: line:column path: what is wrong.
func (e *ParseError) Error() string {
	var b strings.Builder
	for i, f := range e.Faults {
		if i > 0 {
			b.WriteString("\n")
		}
		if f.Line > 0 {
			fmt.Fprintf(&b, "%d:%d: ", f.Line, f.Column)
		}
		if f.Path != "" {
			b.WriteString(f.Path + ": ")
		}
		b.WriteString(f.Text)
	}
	return b.String()
}

// The bounds of a policy document.
const (
	maxDocument = 256 << 10
	maxNesting  = 24
)

type place struct{ line, column int }

// tree is a YAML document as plain values, with the place of each.
type tree struct {
	root   any
	keys   map[string]place // of a mapping's key, by path
	values map[string]place
	faults []Fault
}

// readYAML turns one YAML document into plain values. Only what JSON can say is
// taken: no anchors, aliases, merges or tags, and no key twice.
func readYAML(text []byte) (t *tree) {
	t = &tree{keys: map[string]place{}, values: map[string]place{}}
	if len(text) > maxDocument {
		t.fault(nil, "", "the document is %d bytes long, more than %d", len(text), maxDocument)
		return t
	}
	if f, deep := tooDeep(text); deep {
		t.faults = append(t.faults, f)
		return t
	}
	defer func() {
		if r := recover(); r != nil { // a parser's fault on odd input is the input's
			t.faults = append(t.faults, Fault{Text: fmt.Sprintf("the document can't be read as YAML: %v", r)})
		}
	}()
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		t.syntax(err)
		return t
	}
	var docs []ast.Node
	for _, d := range file.Docs {
		if d.Body != nil {
			docs = append(docs, d.Body)
		}
	}
	switch len(docs) {
	case 0:
		t.fault(nil, "", "the document is empty")
	case 1:
		t.root = t.value(docs[0], nil)
	default:
		t.fault(docs[1].GetToken(), "", "a second document begins here; a policy is one")
	}
	return t
}

// tooDeep bounds nesting before the parser, which recurses, sees the text.
func tooDeep(text []byte) (Fault, bool) {
	for i, line := range bytes.Split(text, []byte("\n")) {
		trimmed := bytes.TrimLeft(line, " \t")
		if n := bytes.Count(line, []byte("[")) + bytes.Count(line, []byte("{")); n > 200 || len(line)-len(trimmed) > 200 || bytes.Count(line, []byte("- ")) > 200 || bytes.Count(line, []byte("? ")) > 200 {
			return Fault{Line: i + 1, Column: 1, Text: "the line nests too deep"}, true
		}
	}
	open := 0
	for i, c := range text {
		switch c {
		case '[', '{':
			if open++; open > 2000 {
				return Fault{Line: 1 + bytes.Count(text[:i], []byte("\n")), Column: 1, Text: "the document has too many brackets that nest"}, true
			}
		case ']', '}':
			open--
		}
	}
	return Fault{}, false
}

func (t *tree) syntax(err error) {
	var se yaml.Error
	if errors.As(err, &se) && se.GetToken() != nil {
		t.fault(se.GetToken(), "", "%s", se.GetMessage())
		return
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	t.fault(nil, "", "%s", first)
}

func (t *tree) fault(tok *token.Token, path, format string, args ...any) {
	f := Fault{Path: path, Text: fmt.Sprintf(format, args...)}
	if tok != nil && tok.Position != nil {
		f.Line, f.Column = tok.Position.Line, tok.Position.Column
	}
	t.faults = append(t.faults, f)
}

// at adds a fault at the place of a path, or at its nearest parent's.
func (t *tree) at(path []string, key bool, format string, args ...any) {
	f := Fault{Path: strings.Join(path, "."), Text: fmt.Sprintf(format, args...)}
	for n := len(path); n >= 0; n-- {
		p := strings.Join(path[:n], "\x00")
		where, ok := t.values[p]
		if key || n < len(path) {
			if k, has := t.keys[p]; has {
				where, ok = k, true
			}
		}
		if ok {
			f.Line, f.Column = where.line, where.column
			break
		}
	}
	t.faults = append(t.faults, f)
}

func (t *tree) sorted() []Fault {
	sort.SliceStable(t.faults, func(i, j int) bool {
		a, b := t.faults[i], t.faults[j]
		return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
	})
	return t.faults
}

func placeOf(tok *token.Token) place {
	if tok == nil || tok.Position == nil {
		return place{}
	}
	return place{tok.Position.Line, tok.Position.Column}
}

func (t *tree) value(n ast.Node, path []string) any {
	where := strings.Join(path, "\x00")
	if n == nil {
		return nil
	}
	t.values[where] = placeOf(n.GetToken())
	if len(path) > maxNesting {
		t.fault(n.GetToken(), strings.Join(path, "."), "it nests deeper than %d", maxNesting)
		return nil
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return t.mapping(n.Values, path)
	case *ast.MappingValueNode:
		return t.mapping([]*ast.MappingValueNode{n}, path)
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for i, v := range n.Values {
			list = append(list, t.value(v, append(path[:len(path):len(path)], fmt.Sprint(i))))
		}
		return list
	case *ast.NullNode:
		return nil
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode:
		return n.Value
	case *ast.FloatNode:
		if math.IsNaN(n.Value) || math.IsInf(n.Value, 0) {
			t.fault(n.GetToken(), strings.Join(path, "."), "it is not a number that JSON knows")
			return nil
		}
		return n.Value
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	}
	t.fault(n.GetToken(), strings.Join(path, "."), "a policy has no %s; write plain keys, lists and values", strings.ToLower(n.Type().String()))
	return nil
}

func (t *tree) mapping(values []*ast.MappingValueNode, path []string) any {
	out := make(map[string]any, len(values))
	for _, kv := range values {
		key, ok := kv.Key.(*ast.StringNode)
		if !ok {
			t.fault(kv.Key.GetToken(), strings.Join(path, "."), "the key %q is not plain text", strings.TrimSpace(kv.Key.String()))
			continue
		}
		sub := append(slices.Clone(path), key.Value)
		where := strings.Join(sub, "\x00")
		if first, twice := t.keys[where]; twice {
			t.fault(key.GetToken(), strings.Join(sub, "."), "the key %q stands here a second time; the first is at line %d", key.Value, first.line)
			continue
		}
		t.keys[where] = placeOf(key.GetToken())
		out[key.Value] = t.value(kv.Value, sub)
	}
	return out
}

// didYouMean names the nearest of the right names, with a comma before it; ""
// where none is near.
func didYouMean(wrong string, right []string) string {
	best, least := "", 1+len(wrong)/3+1
	for _, r := range right {
		if d := distance(strings.ToLower(wrong), strings.ToLower(r)); d < least {
			best, least = r, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(", did you mean %q?", best)
}

// distance is how many letters are added, left out, changed or swapped with their
// neighbour, over bytes of texts cut to 64.
func distance(a, b string) int {
	a, b = a[:min(len(a), 64)], b[:min(len(b), 64)]
	var before []int // the row above last
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
