package azurepolicy

import (
	"fmt"
	"strconv"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// The template expressions that Export writes, beside parameters('…').
const (
	groupName     = "[resourceGroup().name]"
	anySetAllowed = "[length(parameters('" + paramAllowedSets + "'))]"
)

// Values are the values of a definition's parameters: text, []string or int.
type Values map[string]any

// Evaluate says whether a condition holds of a resource, as Azure Policy would:
// text compares without regard to case; a member that isn't there holds to the
// negative operators and to exists false alone. What the evaluator doesn't know
// is fault.Invalid.
func (c Condition) Evaluate(r Resource, values Values) (bool, error) {
	switch {
	case c.AllOf != nil, c.AnyOf != nil:
		all := c.AllOf != nil
		for _, part := range append(c.AllOf, c.AnyOf...) {
			holds, err := part.Evaluate(r, values)
			if err != nil || holds != all {
				return holds, err
			}
		}
		return all, nil
	case c.Not != nil:
		holds, err := c.Not.Evaluate(r, values)
		return !holds, err
	}
	have, there, err := c.subject(r, values)
	if err != nil {
		return false, err
	}
	operand := c.Operand
	if text, ok := operand.(string); ok {
		if operand, err = values.resolve(text); err != nil {
			return false, err
		}
	}
	return compare(c.Operator, have, there, operand)
}

// subject is what a test is about; there is false for a member that isn't there.
func (c Condition) subject(r Resource, values Values) (have any, there bool, err error) {
	switch {
	case c.Count != nil:
		n := 0
		elements, err := r.elements(c.Count.Field)
		if err != nil {
			return nil, false, err
		}
		for _, e := range elements {
			holds := true
			if c.Count.Where != nil {
				if holds, err = c.Count.Where.Evaluate(e, values); err != nil {
					return nil, false, err
				}
			}
			if holds {
				n++
			}
		}
		return n, true, nil
	case c.Value == groupName:
		return cvm.VMID(r.id()).ResourceGroup(), true, nil
	case c.Value == anySetAllowed:
		list, ok := values[paramAllowedSets].([]string)
		if !ok {
			return nil, false, unknownParameter(paramAllowedSets)
		}
		return len(list), true, nil
	case c.Value != "":
		have, err := values.resolve(c.Value)
		return have, true, err
	}
	return r.field(c.Field)
}

// resolve gives a parameter's value for its expression, and any other text as it
// is meant.
func (v Values) resolve(text string) (any, error) {
	if literal, ok := strings.CutPrefix(text, "[["); ok {
		return "[" + literal, nil
	}
	if !strings.HasPrefix(text, "[") {
		return text, nil
	}
	name, ok := strings.CutPrefix(text, "[parameters('")
	name, closed := strings.CutSuffix(name, "')]")
	value, known := v[name]
	switch {
	case !ok || !closed:
		return nil, fault.New(fault.Invalid, "evaluating a policy rule", text, "it is an expression that this evaluator doesn't know")
	case !known:
		return nil, unknownParameter(name)
	}
	return value, nil
}

func unknownParameter(name string) error {
	return fault.New(fault.Invalid, "evaluating a policy rule", name, "the parameter has no value")
}

func compare(operator string, have any, there bool, operand any) (bool, error) {
	text := asText(have)
	switch operator {
	case "exists":
		return there == strings.EqualFold(asText(operand), "true"), nil
	case "equals", "notEquals":
		return (there && strings.EqualFold(text, asText(operand))) == (operator == "equals"), nil
	case "in", "notIn":
		list, ok := operand.([]string)
		if !ok {
			break
		}
		found := false
		for _, o := range list {
			found = found || there && strings.EqualFold(text, o)
		}
		return found == (operator == "in"), nil
	case "like":
		return there && oneWildcard(asText(operand), text), nil
	case "matchInsensitively":
		return there && matches(asText(operand), text), nil
	case "contains":
		return there && strings.Contains(strings.ToLower(text), strings.ToLower(asText(operand))), nil
	case "less", "greater":
		limit, ok := operand.(int)
		n, err := strconv.Atoi(text)
		if !ok || there && err != nil {
			break
		}
		return there && (operator == "less" && n < limit || operator == "greater" && n > limit), nil
	}
	return false, fault.New(fault.Invalid, "evaluating a policy rule", operator, "%T doesn't compare with %T by it", have, operand)
}

func asText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// oneWildcard is like: a pattern with one * at most.
func oneWildcard(pattern, text string) bool {
	pattern, text = strings.ToLower(pattern), strings.ToLower(text)
	before, after, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == text
	}
	return len(text) >= len(before)+len(after) && strings.HasPrefix(text, before) && strings.HasSuffix(text, after)
}

// matches is matchInsensitively: # is a digit, ? a letter, . any character.
func matches(pattern, text string) bool {
	p, t := []rune(strings.ToLower(pattern)), []rune(strings.ToLower(text))
	if len(p) != len(t) {
		return false
	}
	for i := range p {
		digit, letter := t[i] >= '0' && t[i] <= '9', t[i] >= 'a' && t[i] <= 'z'
		if !(p[i] == t[i] || p[i] == '.' || p[i] == '#' && digit || p[i] == '?' && letter) {
			return false
		}
	}
	return true
}
