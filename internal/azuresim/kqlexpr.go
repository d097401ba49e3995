package azuresim

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// primary is a literal, a call, a condition in parentheses or a path.
func (p *kqlParser) primary(depth int) (expr, error) {
	t := p.next()
	switch {
	case t == "":
		return nil, fmt.Errorf("the query ends too early")
	case t == "(":
		e, err := p.or(depth + 1)
		if err == nil && !p.take(")") {
			err = fmt.Errorf("a ) is missing before %q", p.peek())
		}
		return e, err
	case t[0] == '\'':
		s := t[1:]
		return func(doc) any { return s }, nil
	case t[0] >= '0' && t[0] <= '9' || t[0] == '-' && len(t) > 1:
		n, err := strconv.ParseFloat(t, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", t)
		}
		return func(doc) any { return n }, nil
	case strings.EqualFold(t, "true"), strings.EqualFold(t, "false"):
		b := strings.EqualFold(t, "true")
		return func(doc) any { return b }, nil
	case !isName(t):
		return nil, fmt.Errorf("%q stands where a name or a value should", t)
	case p.peek() == "(":
		return p.call(strings.ToLower(t), depth)
	}
	path := []string{t}
	for {
		switch {
		case p.take("."):
			n := p.next()
			if !isName(n) {
				return nil, fmt.Errorf("%q stands after a dot", n)
			}
			path = append(path, n)
		case p.take("["):
			n := strings.TrimPrefix(p.next(), "'")
			if !p.take("]") {
				return nil, fmt.Errorf("a ] is missing before %q", p.peek())
			}
			path = append(path, n)
		default:
			return func(r doc) any { return walk(r, path) }, nil
		}
	}
}

// walk follows a path; column names ignore case, as Resource Graph's do.
func walk(v any, path []string) any {
	for _, p := range path {
		switch t := v.(type) {
		case doc:
			e, ok := t[p]
			for k, alt := range t {
				if !ok && strings.EqualFold(k, p) {
					e = alt
				}
			}
			v = e
		case []any:
			i, err := strconv.Atoi(p)
			if err != nil || i < 0 || i >= len(t) {
				return nil
			}
			v = t[i]
		default:
			return nil
		}
	}
	return v
}

var kqlCalls = map[string]func([]any) any{
	"tostring": func(a []any) any { return asText(a[0]) },
	"tolower":  func(a []any) any { return lower(a[0]) },
	"toupper":  func(a []any) any { return strings.ToUpper(asText(a[0])) },
	"tobool":   func(a []any) any { return strings.EqualFold(asText(a[0]), "true") },
	"toint": func(a []any) any {
		if n, ok := number(a[0]); ok {
			return float64(int64(n))
		}
		return nil
	},
	"strlen":     func(a []any) any { return float64(len(asText(a[0]))) },
	"isempty":    func(a []any) any { return asText(a[0]) == "" },
	"isnotempty": func(a []any) any { return asText(a[0]) != "" },
	"isnull":     func(a []any) any { return a[0] == nil },
	"isnotnull":  func(a []any) any { return a[0] != nil },
	"not":        func(a []any) any { return !truth(a[0]) },
	"array_length": func(a []any) any {
		if l, ok := a[0].([]any); ok {
			return float64(len(l))
		}
		return nil
	},
	"coalesce": func(a []any) any {
		for _, v := range a {
			if v != nil && asText(v) != "" {
				return v
			}
		}
		return nil
	},
}

func (p *kqlParser) call(name string, depth int) (expr, error) {
	f, ok := kqlCalls[name]
	if !ok {
		return nil, fmt.Errorf("the function %q is not known", name)
	}
	args, err := p.list(depth)
	if err != nil {
		return nil, err
	}
	if len(args) == 0 || len(args) > 1 && name != "coalesce" {
		return nil, fmt.Errorf("the function %q got %d arguments", name, len(args))
	}
	return func(r doc) any {
		vals := make([]any, len(args))
		for i, a := range args {
			vals[i] = a(r)
		}
		return f(vals)
	}, nil
}

func truth(v any) bool { b, ok := v.(bool); return ok && b }

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int:
		return float64(n), true
	default:
		return 0, false
	}
}

func lower(v any) string { return strings.ToLower(asText(v)) }

func asText(v any) string {
	switch t := v.(type) {
	case nil:
		return ""
	case string:
		return t
	case bool:
		return strconv.FormatBool(t)
	default:
		if n, ok := number(v); ok {
			return strconv.FormatFloat(n, 'f', -1, 64)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	}
}

func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

func isName(t string) bool {
	for i, r := range t {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r)) {
			return false
		}
	}
	return t != ""
}

// kqlTokens cuts a query into tokens. A text literal's token begins with ' and
// has no closing quote. Comments (// to the end of the line) are dropped.
func kqlTokens(s string) ([]string, error) {
	var out []string
	if len(s) > 20000 {
		return nil, fmt.Errorf("the query is longer than 20000 characters")
	}
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case strings.HasPrefix(s[i:], "//"):
			n := strings.IndexByte(s[i:], '\n')
			if n < 0 {
				return out, nil
			}
			i += n
		case c == '\'' || c == '"':
			text, n, err := kqlText(s[i:])
			if err != nil {
				return nil, err
			}
			out = append(out, "'"+text)
			i += n
		case strings.ContainsRune("|(),.[]", rune(c)):
			out = append(out, string(c))
			i++
		case strings.ContainsRune("=!<>", rune(c)):
			n := 1
			if i+1 < len(s) && strings.ContainsRune("=~", rune(s[i+1])) {
				n = 2
			} else if c == '!' { // !in, !contains …
				for i+n < len(s) && (isName(s[i+1:i+n+1]) || s[i+n] == '~') {
					n++
				}
			}
			out = append(out, s[i:i+n])
			i += n
		default:
			n := 0
			for i+n < len(s) && (s[i+n] == '_' || s[i+n] == '-' && n == 0 || s[i+n] >= 0x80 || unicode.IsLetter(rune(s[i+n])) || unicode.IsDigit(rune(s[i+n])) ||
				s[i+n] == '.' && c >= '0' && c <= '9') {
				n++
			}
			if n == 0 {
				return nil, fmt.Errorf("the character %q is not expected", c)
			}
			if strings.EqualFold(s[i:i+n], "in") && i+n < len(s) && s[i+n] == '~' {
				n++
			}
			out = append(out, s[i:i+n])
			i += n
		}
	}
	return out, nil
}

func kqlText(s string) (string, int, error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return b.String(), i + 1, nil
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return "", 0, fmt.Errorf("a text has no closing quote")
}
