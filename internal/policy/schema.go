package policy

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cvmguard/internal/fault"
)

//go:embed policy.schema.json
var schemaJSON []byte

// Schema is the JSON Schema of a policy document.
func Schema() []byte { return bytes.Clone(schemaJSON) }

// shape is a schema as it is walked: the keywords that policy.schema.json uses and
// no others. A library would do (the tests hold this walk against one), but those
// that list every fault compile their meta-schemas when the process starts, which
// cost half of the handler's cold start.
type shape struct {
	Ref                  string           `json:"$ref"`
	Type                 oneOrMany        `json:"type"`
	Const                any              `json:"const"`
	Enum                 []any            `json:"enum"`
	Pattern              string           `json:"pattern"`
	Minimum              *float64         `json:"minimum"`
	Maximum              *float64         `json:"maximum"`
	MinLength            int              `json:"minLength"`
	MaxLength            *int             `json:"maxLength"`
	Items                *shape           `json:"items"`
	MinItems             int              `json:"minItems"`
	MaxItems             *int             `json:"maxItems"`
	Properties           map[string]shape `json:"properties"`
	PropertyNames        *shape           `json:"propertyNames"`
	AdditionalProperties *additional      `json:"additionalProperties"`
	MinProperties        int              `json:"minProperties"`
	MaxProperties        *int             `json:"maxProperties"`
	Required             []string         `json:"required"`
	If                   *shape           `json:"if"`
	Then                 *shape           `json:"then"`
	Else                 *shape           `json:"else"`
	Defs                 map[string]shape `json:"$defs"`

	// Words that say nothing about what is allowed. The first example stands in the
	// faults of what hasn't its form.
	Examples    []any  `json:"examples"`
	Schema      string `json:"$schema"`
	ID          string `json:"$id"`
	Title       string `json:"title"`
	Description string `json:"description"`
}

// oneOrMany is a type's name or a list of them.
type oneOrMany []string

// UnmarshalJSON reads either form.
func (o *oneOrMany) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("[")) {
		return json.Unmarshal(b, (*[]string)(o))
	}
	*o = make(oneOrMany, 1)
	return json.Unmarshal(b, &(*o)[0])
}

// additional is false or a schema.
type additional struct {
	refused bool
	shape   *shape
}

// UnmarshalJSON reads either form.
func (a *additional) UnmarshalJSON(b []byte) error {
	if string(b) == "false" {
		a.refused = true
		return nil
	}
	return strictly(b, &a.shape)
}

// strictly refuses keywords that the walk doesn't know: a schema that says more
// than is checked is worse than none.
func strictly(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

var schemaShape = sync.OnceValues(func() (*shape, error) {
	var s shape
	if err := strictly(schemaJSON, &s); err != nil {
		return nil, fault.New(fault.Bug, "reading the policy's schema", "policy.schema.json", "%w", err)
	}
	return &s, nil
})

// validate adds the schema's complaints to the faults.
func (t *tree) validate() error { return t.against(schemaShape) }

func (t *tree) against(schema func() (*shape, error)) error {
	root, err := schema()
	if err != nil {
		return err
	}
	w := walk{t: t, defs: root.Defs}
	w.check(*root, t.root, nil)
	return nil
}

type walk struct {
	t     *tree
	defs  map[string]shape
	quiet bool // asks whether, doesn't complain
	bad   bool
}

func (w *walk) say(path []string, key bool, format string, args ...any) {
	w.bad = true
	if !w.quiet {
		w.t.at(path, key, format, args...)
	}
}

func (w *walk) check(s shape, v any, path []string) {
	if _, said := v.(faulty); said {
		w.bad = true
		return
	}
	if s.Ref != "" {
		w.check(w.defs[strings.TrimPrefix(s.Ref, "#/$defs/")], v, path)
	}
	if got := typeOf(v); len(s.Type) > 0 && !slices.ContainsFunc(s.Type, func(want string) bool { return want == got || want == "number" && got == "integer" }) {
		if got == "integer" { // nobody wanted to know so exactly
			got = "number"
		}
		hint := example(s, ", such as ")
		if got == "string" && slices.Contains(s.Type, "object") {
			hint = "; write name: value, with a space after the colon"
		} else if slices.Contains(s.Type, "array") && got != "null" {
			hint = "; write a list: [a, b], or a line that begins with - for each"
		}
		w.say(path, false, "it is %s where %s belongs%s", article(got), article(strings.Join(s.Type, " or ")), hint)
		return
	}
	if s.Const != nil && !equalJSON(s.Const, v) {
		w.say(path, false, "%s must be %s", shown(v), shown(s.Const))
	}
	if s.Enum != nil && !slices.ContainsFunc(s.Enum, func(e any) bool { return equalJSON(e, v) }) {
		near := ""
		if text, ok := v.(string); ok {
			near = didYouMean(text, texts(s.Enum))
		}
		w.say(path, false, "%s is not one of %s%s", shown(v), list(s.Enum), near)
	}
	switch v := v.(type) {
	case string:
		w.text(s, v, path)
	case []any:
		w.items(s, v, path)
	case map[string]any:
		w.members(s, v, path)
	default:
		w.number(s, v, path)
	}
	if s.If != nil {
		probe := walk{t: w.t, defs: w.defs, quiet: true}
		probe.check(*s.If, v, path)
		if branch := s.Then; !probe.bad && branch != nil {
			w.check(*branch, v, path)
		} else if branch := s.Else; probe.bad && branch != nil {
			w.check(*branch, v, path)
		}
	}
}

func (w *walk) text(s shape, v string, path []string) {
	n := utf8.RuneCountInString(v)
	if n < s.MinLength {
		w.say(path, false, "it is empty")
	}
	if s.MaxLength != nil && n > *s.MaxLength {
		w.say(path, false, "it is %d characters long, more than %d", n, *s.MaxLength)
	}
	if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v) {
		form := example(s, "of ")
		if form == "" {
			form = s.Pattern
		}
		w.say(path, false, "%s doesn't have the form %s", quoted(v), form)
	}
}

func (w *walk) number(s shape, v any, path []string) {
	f, ok := asFloat(v)
	if ok && s.Minimum != nil && f < *s.Minimum {
		w.say(path, false, "%s is less than %s", shown(v), shown(*s.Minimum))
	}
	if ok && s.Maximum != nil && f > *s.Maximum {
		w.say(path, false, "%s is more than %s", shown(v), shown(*s.Maximum))
	}
}

func (w *walk) items(s shape, v []any, path []string) {
	if len(v) < s.MinItems {
		w.say(path, false, "it needs at least %d element", s.MinItems)
	}
	if s.MaxItems != nil && len(v) > *s.MaxItems {
		w.say(path, false, "it has %d elements, more than %d", len(v), *s.MaxItems)
	}
	for i, e := range v {
		if s.Items != nil {
			w.check(*s.Items, e, append(slices.Clone(path), fmt.Sprint(i)))
		}
	}
}

func (w *walk) members(s shape, v map[string]any, path []string) {
	if len(v) < s.MinProperties {
		w.say(path, false, "it needs at least %d member%s", s.MinProperties, choice(" of ", s.Properties))
	}
	if s.MaxProperties != nil && len(v) > *s.MaxProperties {
		w.say(path, false, "it has %d members, more than %d", len(v), *s.MaxProperties)
	}
	var missing []string
	for _, r := range s.Required {
		if _, ok := v[r]; !ok {
			missing = append(missing, r)
		}
	}
	if len(missing) > 0 {
		is := "is"
		if len(missing) > 1 {
			is = "are"
		}
		w.say(path, true, "%s %s missing", strings.Join(missing, ", "), is)
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		sub := append(slices.Clone(path), name)
		if s.PropertyNames != nil {
			probe := walk{t: w.t, defs: w.defs, quiet: true}
			probe.check(*s.PropertyNames, name, sub)
			w.bad = w.bad || probe.bad // what is wrong with a name is meaning's to say
		}
		if p, ok := s.Properties[name]; ok {
			w.check(p, v[name], sub)
			continue
		}
		switch a := s.AdditionalProperties; {
		case a == nil:
		case a.refused:
			what, near := "member", didYouMean(name, slices.Sorted(maps.Keys(s.Properties)))
			switch {
			case len(path) == 1 && path[0] == "rules":
				if what = "rule"; near == "" {
					near = "; cvmguard policy show lists the rules"
				}
			case len(path) == 0 && isRule(name):
				near = "; it is a rule, and stands under rules"
			case near == "":
				near = choice("; there are ", s.Properties)
			}
			w.say(sub, true, "there is no %s %s%s", what, quoted(name), near)
		default:
			w.check(*a.shape, v[name], sub)
		}
	}
}

func isRule(name string) bool { _, ok := RuleByID(name); return ok }

// example is a schema's first, after a word of the caller's.
func example(s shape, after string) string {
	if len(s.Examples) == 0 {
		return ""
	}
	return after + shown(s.Examples[0])
}

// choice names the members that there are, if there are any, after a word of the
// caller's.
func choice(after string, members map[string]shape) string {
	if len(members) == 0 {
		return ""
	}
	return after + strings.Join(slices.Sorted(maps.Keys(members)), ", ")
}

// typeOf is a value's JSON type; a number without a fraction is an integer.
func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	default:
		if f, ok := asFloat(v); ok && f == float64(int64(f)) {
			return "integer"
		}
		return "number"
	}
}

func asFloat(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case int:
		return float64(n), true
	}
	return 0, false
}

// equalJSON compares scalars as JSON does: 1 and 1.0 are one number.
func equalJSON(a, b any) bool {
	if x, ok := asFloat(a); ok {
		y, ok := asFloat(b)
		return ok && x == y
	}
	return typeOf(a) == typeOf(b) && a == b
}
