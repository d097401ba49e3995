package policy

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"

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
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // editors of Windows write one
	if f, bad := notText(text); bad {
		t.faults = append(t.faults, f)
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
		if directive, ok := d.Body.(*ast.DirectiveNode); ok {
			t.fault(directive.GetToken(), "", "a policy has no directive; take the line out")
			return t
		}
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
		t.fault(first(docs[1]), "", "a second document begins here; a policy is one")
	}
	return t
}

// notText finds what no YAML text holds: bytes that aren't UTF-8, and characters
// that nobody sees. A reader that drops or replaces them reads another document
// than a person does.
func notText(text []byte) (Fault, bool) {
	if bytes.HasPrefix(text, []byte("\xff\xfe")) || bytes.HasPrefix(text, []byte("\xfe\xff")) {
		return Fault{Line: 1, Column: 1, Text: "the document is UTF-16; save it as UTF-8"}, true
	}
	line, column := 1, 1
	for i, c := range string(text) {
		why := ""
		switch {
		case c == utf8.RuneError && !bytes.HasPrefix(text[i:], []byte("\ufffd")):
			why = fmt.Sprintf("the byte 0x%02X is not UTF-8; save the document as UTF-8", text[i])
		case c < ' ' && c != '\t' && c != '\n' && c != '\r', c >= 0x7f && c < 0xa0 && c != 0x85, c == '\ufeff', c == 0xfffe, c == 0xffff:
			why = fmt.Sprintf("the character %U can't stand here; take it out", c)
		}
		if why != "" {
			return Fault{Line: line, Column: column, Text: why}, true
		}
		if column++; c == '\n' {
			line, column = line+1, 1
		}
	}
	return Fault{}, false
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
		t.fault(se.GetToken(), "", "it isn't valid YAML: %s%s", se.GetMessage(), cure(se.GetMessage()))
		return
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	t.fault(nil, "", "it isn't valid YAML: %s", line)
}

// cure says what the parser's message usually comes from, "" where that says itself.
func cure(message string) string {
	switch {
	case strings.Contains(message, "\t") || strings.Contains(message, "tab character"):
		return "; YAML indents by spaces, and this is a tab"
	case strings.Contains(message, "not allowed in this context") || strings.Contains(message, "unexpected key name") || strings.Contains(message, "non-map value"):
		return "; look at the indentation and the colons of this line and of the one before"
	}
	return ""
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

// faulty is the value of what a fault was already said of.
type faulty struct{}

// first is the token that a node begins with; a mapping's own is its first colon.
func first(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return first(n.Values[0])
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
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
	t.values[where] = placeOf(first(n))
	if len(path) > maxNesting {
		t.fault(first(n), strings.Join(path, "."), "it nests deeper than %d", maxNesting)
		return faulty{}
	}
	refuse := func(format string, args ...any) any {
		t.fault(n.GetToken(), strings.Join(path, "."), format, args...)
		return faulty{}
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
		// 010 is eight to one reader of YAML and ten to another.
		if text := n.GetToken().Value; !decimal().MatchString(text) {
			return refuse("%s is a number that readers of YAML differ on; write it in plain decimal digits, here %v", cut(text), n.Value)
		}
		return n.Value
	case *ast.FloatNode:
		if math.IsNaN(n.Value) || math.IsInf(n.Value, 0) {
			return refuse("it is not a number that JSON knows")
		}
		return n.Value
	case *ast.NanNode, *ast.InfinityNode:
		return refuse("it is not a number that JSON knows")
	case *ast.StringNode:
		return n.Value
	case *ast.LiteralNode:
		return n.Value.Value
	case *ast.AnchorNode, *ast.AliasNode:
		return refuse("a policy has no anchors (&) and no aliases (*); write the value out wherever it is meant, in quotes if it begins with such a sign")
	case *ast.TagNode:
		return refuse("a policy has no tags (!); write the value alone, in quotes if it begins with such a sign")
	}
	return refuse("a policy has no %s; write plain keys, lists and values", strings.ToLower(n.Type().String()))
}

var decimal = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`) })

func (t *tree) mapping(values []*ast.MappingValueNode, path []string) any {
	out := make(map[string]any, len(values))
	for _, kv := range values {
		key, ok := kv.Key.(*ast.StringNode)
		if _, merge := kv.Key.(*ast.MergeKeyNode); merge {
			t.fault(kv.Key.GetToken(), strings.Join(path, "."), "a policy has no merge keys (<<); write out what is meant")
			continue
		}
		if !ok {
			t.fault(kv.Key.GetToken(), strings.Join(path, "."), "the key %q is not plain text; put it in quotes", strings.TrimSpace(kv.Key.String()))
			continue
		}
		sub := append(slices.Clone(path), key.Value)
		where := strings.Join(sub, "\x00")
		if before, twice := t.keys[where]; twice {
			t.fault(key.GetToken(), strings.Join(sub, "."), "the key %q stands here a second time; the first is at %d:%d", key.Value, before.line, before.column)
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
	if len(wrong) > 64 {
		return "" // no slip of the pen
	}
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
