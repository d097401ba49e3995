package azuresim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The subset of the Kusto language that Resource Graph is asked in here:
//
//	resources (or computeresources)
//	| where <condition>             and or not() ( ) == != =~ !~ < <= > >= in in~ !in
//	                                contains startswith endswith has, and their ! forms
//	| extend name = <expression>
//	| project name, name = <expression>
//	| order by name [asc|desc] | sort by | take n | limit n | count
//
// Expressions: names with . ['x'] [0], 'texts', numbers, true, false, and the
// functions tostring tolower toupper coalesce isempty isnotempty isnull isnotnull
// tobool toint strlen array_length. Anything else is an error that names it.

type kql struct {
	table  string // resources or computeresources
	stages []func([]doc) ([]doc, error)
}

func (q *kql) run(rows []doc) ([]doc, error) {
	var err error
	for _, st := range q.stages {
		if rows, err = st(rows); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

type expr func(doc) any

type kqlParser struct {
	toks []string
	at   int
}

func parseKQL(text string) (*kql, error) {
	toks, err := kqlTokens(text)
	if err != nil {
		return nil, err
	}
	p := &kqlParser{toks: toks}
	q := &kql{table: strings.ToLower(p.next())}
	if q.table != "resources" && q.table != "computeresources" {
		return nil, fmt.Errorf("the table %q is not known, only resources and computeresources are", q.table)
	}
	for p.peek() != "" {
		if t := p.next(); t != "|" {
			return nil, fmt.Errorf("%q stands where a | should", t)
		}
		st, err := p.stage()
		if err != nil {
			return nil, err
		}
		q.stages = append(q.stages, st)
	}
	return q, nil
}

func (p *kqlParser) peek() string {
	if p.at < len(p.toks) {
		return p.toks[p.at]
	}
	return ""
}

func (p *kqlParser) next() string {
	t := p.peek()
	p.at++
	return t
}

func (p *kqlParser) take(word string) bool {
	if strings.EqualFold(p.peek(), word) {
		p.at++
		return true
	}
	return false
}

func (p *kqlParser) stage() (func([]doc) ([]doc, error), error) {
	switch op := strings.ToLower(p.next()); op {
	case "where":
		cond, err := p.or(0)
		if err != nil {
			return nil, err
		}
		return func(rows []doc) ([]doc, error) {
			var out []doc
			for _, r := range rows {
				if truth(cond(r)) {
					out = append(out, r)
				}
			}
			return out, nil
		}, nil
	case "project", "extend":
		return p.columns(op == "project")
	case "order", "sort":
		return p.order()
	case "take", "limit":
		n, err := strconv.Atoi(p.next())
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s needs a number", op)
		}
		return func(rows []doc) ([]doc, error) { return rows[:min(n, len(rows))], nil }, nil
	case "count":
		return func(rows []doc) ([]doc, error) { return []doc{{"Count": len(rows)}}, nil }, nil
	default:
		return nil, fmt.Errorf("the operator %q is not known", op)
	}
}

func (p *kqlParser) columns(project bool) (func([]doc) ([]doc, error), error) {
	type column struct {
		name string
		val  expr
	}
	var cols []column
	for {
		start := p.at
		name := p.next()
		var err error
		c := column{name: name}
		if p.take("=") {
			c.val, err = p.or(0)
		} else {
			p.at = start
			if c.val, err = p.primary(0); err == nil {
				c.name = strings.Join(p.toks[start:p.at], "_") // Kusto's own name for a path
				c.name = strings.ReplaceAll(c.name, "_._", "_")
			}
		}
		if err != nil {
			return nil, err
		}
		cols = append(cols, c)
		if !p.take(",") {
			break
		}
	}
	return func(rows []doc) ([]doc, error) {
		out := make([]doc, len(rows))
		for i, r := range rows {
			n := doc{}
			if !project {
				for k, v := range r {
					n[k] = v
				}
			}
			for _, c := range cols {
				n[c.name] = c.val(r)
			}
			out[i] = n
		}
		return out, nil
	}, nil
}

func (p *kqlParser) order() (func([]doc) ([]doc, error), error) {
	if !p.take("by") {
		return nil, fmt.Errorf("order needs by")
	}
	e, err := p.primary(0)
	if err != nil {
		return nil, err
	}
	sign := -1 // Kusto's default is descending
	switch strings.ToLower(p.peek()) {
	case "asc":
		sign = 1
		p.at++
	case "desc":
		p.at++
	}
	return func(rows []doc) ([]doc, error) {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, func(a, b doc) int {
			return sign * compare(e(a), e(b))
		})
		return rows, nil
	}, nil
}

const kqlDepth = 64 // of parentheses and calls

func (p *kqlParser) or(depth int) (expr, error) {
	if depth > kqlDepth {
		return nil, fmt.Errorf("the condition is nested more than %d deep", kqlDepth)
	}
	left, err := p.and(depth)
	for err == nil && p.take("or") {
		var right expr
		if right, err = p.and(depth); err == nil {
			l := left
			left = func(r doc) any { return truth(l(r)) || truth(right(r)) }
		}
	}
	return left, err
}

func (p *kqlParser) and(depth int) (expr, error) {
	left, err := p.comparison(depth)
	for err == nil && p.take("and") {
		var right expr
		if right, err = p.comparison(depth); err == nil {
			l := left
			left = func(r doc) any { return truth(l(r)) && truth(right(r)) }
		}
	}
	return left, err
}

var kqlCompare = map[string]func(a, b any) bool{
	"==": func(a, b any) bool { return a != nil && compare(a, b) == 0 },
	"!=": func(a, b any) bool { return a == nil || compare(a, b) != 0 },
	"=~": func(a, b any) bool { return strings.EqualFold(asText(a), asText(b)) },
	"!~": func(a, b any) bool { return !strings.EqualFold(asText(a), asText(b)) },
	"<":  func(a, b any) bool { return a != nil && compare(a, b) < 0 },
	"<=": func(a, b any) bool { return a != nil && compare(a, b) <= 0 },
	">":  func(a, b any) bool { return a != nil && compare(a, b) > 0 },
	">=": func(a, b any) bool { return a != nil && compare(a, b) >= 0 },

	"contains":   func(a, b any) bool { return strings.Contains(lower(a), lower(b)) },
	"startswith": func(a, b any) bool { return strings.HasPrefix(lower(a), lower(b)) },
	"endswith":   func(a, b any) bool { return strings.HasSuffix(lower(a), lower(b)) },
	"has":        func(a, b any) bool { return slices.Contains(words(lower(a)), lower(b)) },
}

func (p *kqlParser) comparison(depth int) (expr, error) {
	left, err := p.primary(depth)
	if err != nil {
		return nil, err
	}
	op := strings.ToLower(p.peek())
	neg := strings.HasPrefix(op, "!") && len(op) > 2
	base := op
	if neg {
		base = op[1:]
	}
	if base == "in" || base == "in~" {
		p.at++
		set, err := p.list(depth)
		if err != nil {
			return nil, err
		}
		return func(r doc) any {
			v := left(r)
			found := slices.ContainsFunc(set, func(e expr) bool {
				if base == "in~" {
					return strings.EqualFold(asText(v), asText(e(r)))
				}
				return asText(v) == asText(e(r))
			})
			return found != neg
		}, nil
	}
	f, ok := kqlCompare[base]
	if !ok {
		return left, nil
	}
	p.at++
	right, err := p.primary(depth)
	if err != nil {
		return nil, err
	}
	return func(r doc) any { return f(left(r), right(r)) != neg }, nil
}

func (p *kqlParser) list(depth int) ([]expr, error) {
	if !p.take("(") {
		return nil, fmt.Errorf("a list in parentheses is missing before %q", p.peek())
	}
	var out []expr
	for !p.take(")") {
		e, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
		if !p.take(",") && p.peek() != ")" {
			return nil, fmt.Errorf("%q stands in a list", p.peek())
		}
	}
	return out, nil
}

func compare(a, b any) int {
	x, okX := number(a)
	y, okY := number(b)
	if okX && okY {
		return cmp.Compare(x, y)
	}
	return strings.Compare(asText(a), asText(b))
}
