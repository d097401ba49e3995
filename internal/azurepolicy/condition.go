package azurepolicy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"cvmguard/internal/fault"
)

// Condition is a policy rule's if, or a part of it: exactly one of AllOf, AnyOf,
// Not, or a test of Field, Value or Count by Operator.
type Condition struct {
	AllOf []Condition
	AnyOf []Condition
	Not   *Condition

	Field    string // a field or an alias
	Value    string // a template expression, one of those that the evaluator knows
	Count    *Count
	Operator string // one of operators
	Operand  any    // text, []string or int
}

// Count is how many elements of an array hold to Where; nil counts them all.
type Count struct {
	Field string     `json:"field"`
	Where *Condition `json:"where,omitempty"`
}

// operators are those that Export writes and Evaluate knows.
var operators = []string{"equals", "notEquals", "in", "notIn", "like", "matchInsensitively", "contains", "exists", "less", "greater"}

// MarshalJSON writes the condition as Azure Policy has it, in one order of members.
func (c Condition) MarshalJSON() ([]byte, error) {
	type member struct {
		name  string
		value any
	}
	var list []member
	switch {
	case c.AllOf != nil:
		list = []member{{"allOf", c.AllOf}}
	case c.AnyOf != nil:
		list = []member{{"anyOf", c.AnyOf}}
	case c.Not != nil:
		list = []member{{"not", c.Not}}
	case c.Count != nil:
		list = []member{{"count", c.Count}, {c.Operator, c.Operand}}
	case c.Value != "":
		list = []member{{"value", c.Value}, {c.Operator, c.Operand}}
	default:
		list = []member{{"field", c.Field}, {c.Operator, c.Operand}}
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := marshal(m.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", m.name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("writing JSON: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// UnmarshalJSON reads what MarshalJSON writes. Anything else that Azure Policy
// knows is fault.Invalid.
func (c *Condition) UnmarshalJSON(text []byte) error {
	const op = "reading a policy rule"
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return fault.New(fault.Invalid, op, "", "a condition is a JSON object: %w", err)
	}
	*c = Condition{}
	for name, raw := range members {
		var into any
		switch name {
		case "allOf":
			into = &c.AllOf
		case "anyOf":
			into = &c.AnyOf
		case "not":
			into = &c.Not
		case "field":
			into = &c.Field
		case "value":
			into = &c.Value
		case "count":
			into = &c.Count
		default:
			if !slices.Contains(operators, name) || c.Operator != "" {
				return fault.New(fault.Invalid, op, name, "it isn't a member of a condition that this evaluator knows")
			}
			c.Operator = name
			operand, err := readOperand(raw)
			if err != nil {
				return err
			}
			c.Operand = operand
			continue
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return fault.New(fault.Invalid, op, name, "it can't be read: %w", err)
		}
	}
	kinds := 0
	for _, is := range []bool{c.AllOf != nil, c.AnyOf != nil, c.Not != nil, c.Field != "", c.Value != "", c.Count != nil} {
		if is {
			kinds++
		}
	}
	test := c.Field != "" || c.Value != "" || c.Count != nil
	if kinds != 1 || test != (c.Operator != "") {
		return fault.New(fault.Invalid, op, "", "a condition is one of allOf, anyOf, not, or a field, value or count with one operator")
	}
	return nil
}

func readOperand(raw json.RawMessage) (any, error) {
	var text string
	var list []string
	var number int
	switch {
	case json.Unmarshal(raw, &text) == nil:
		return text, nil
	case json.Unmarshal(raw, &list) == nil:
		return list, nil
	case json.Unmarshal(raw, &number) == nil:
		return number, nil
	}
	return nil, fault.New(fault.Invalid, "reading a policy rule", "", "an operand is a text, a list of texts or a whole number, not %.40s", raw)
}

// The makers of conditions.

func test(field, operator string, operand any) Condition {
	return Condition{Field: field, Operator: operator, Operand: operand}
}

func equals(field, text string) Condition    { return test(field, "equals", text) }
func notEquals(field, text string) Condition { return test(field, "notEquals", text) }
func like(field, pattern string) Condition   { return test(field, "like", pattern) }
func present(field string) Condition         { return test(field, "exists", "true") }
func absent(field string) Condition          { return test(field, "exists", "false") }

func notIn(field string, list ...string) Condition { return test(field, "notIn", list) }

func allOf(list ...Condition) Condition {
	if len(list) == 1 {
		return list[0]
	}
	return Condition{AllOf: list}
}

func anyOf(list ...Condition) Condition {
	if len(list) == 1 {
		return list[0]
	}
	return Condition{AnyOf: list}
}

func not(c Condition) Condition { return Condition{Not: &c} }

// moreThanNone is true where any element of an array holds to where.
func moreThanNone(array string, where Condition) Condition {
	return Condition{Count: &Count{Field: array, Where: &where}, Operator: "greater", Operand: 0}
}

// none is true where no element of an array holds to where.
func none(array string, where Condition) Condition {
	return Condition{Count: &Count{Field: array, Where: &where}, Operator: "less", Operand: 1}
}

// onFields is a condition with each field renamed.
func onFields(c Condition, rename func(string) string) Condition {
	each := func(list []Condition) (out []Condition) {
		for _, part := range list {
			out = append(out, onFields(part, rename))
		}
		return out
	}
	c.AllOf, c.AnyOf = each(c.AllOf), each(c.AnyOf)
	if c.Not != nil {
		inner := onFields(*c.Not, rename)
		c.Not = &inner
	}
	if c.Count != nil {
		count := Count{Field: rename(c.Count.Field)}
		if c.Count.Where != nil {
			where := onFields(*c.Count.Where, rename)
			count.Where = &where
		}
		c.Count = &count
	}
	if c.Field != "" {
		c.Field = rename(c.Field)
	}
	return c
}

func parameter(name string) string { return "[parameters('" + name + "')]" }

// literal is a text as a rule's operand: one that begins like an expression is
// escaped.
func literal(text string) string {
	if len(text) > 0 && text[0] == '[' {
		return "[" + text
	}
	return text
}
