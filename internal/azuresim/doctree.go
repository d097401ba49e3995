package azuresim

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// doc is a JSON object as decoded by encoding/json: a resource's body.
type doc = map[string]any

// at walks down a path of member names; nil where one is absent.
func at(v any, path ...string) any {
	for _, p := range path {
		m, ok := v.(doc)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// str is the text at path, "" if there is none.
func str(v any, path ...string) string {
	s, _ := at(v, path...).(string)
	return s
}

// yes says whether the value at path is true.
func yes(v any, path ...string) bool {
	b, _ := at(v, path...).(bool)
	return b
}

// put sets the value at path, making the objects on the way.
func put(d doc, v any, path ...string) {
	for _, p := range path[:len(path)-1] {
		next, ok := d[p].(doc)
		if !ok {
			next = doc{}
			d[p] = next
		}
		d = next
	}
	d[path[len(path)-1]] = v
}

// drop removes the value at path.
func drop(d doc, path ...string) {
	parent, ok := at(d, path[:len(path)-1]...).(doc)
	if ok {
		delete(parent, path[len(path)-1])
	}
}

// copyOf is a deep copy of a JSON value.
func copyOf[T any](v T) T {
	c, _ := deep(v).(T)
	return c
}

func deep(v any) any {
	switch t := v.(type) {
	case doc:
		c := make(doc, len(t))
		for k, e := range t {
			c[k] = deep(e)
		}
		return c
	case []any:
		c := make([]any, len(t))
		for i, e := range t {
			c[i] = deep(e)
		}
		return c
	default:
		return v
	}
}

// merge lays patch over d, as RFC 7386 does: null removes, objects merge, all
// else replaces.
func merge(d, patch doc) {
	for k, v := range patch {
		switch t := v.(type) {
		case nil:
			delete(d, k)
		case doc:
			sub, ok := d[k].(doc)
			if !ok {
				sub = doc{}
				d[k] = sub
			}
			merge(sub, t)
		default:
			d[k] = v
		}
	}
}

// toDoc writes one of the SDK's models as a JSON object. The models write
// themselves; a failure is a fault of this package.
func toDoc(model any) doc {
	b, err := json.Marshal(model)
	if err != nil {
		panic(fmt.Sprintf("azuresim: %T does not write as JSON: %v", model, err))
	}
	d := doc{}
	if err := json.Unmarshal(b, &d); err != nil {
		panic(fmt.Sprintf("azuresim: %T does not write as a JSON object: %v", model, err))
	}
	return d
}

// list is the elements at path that are objects.
func list(v any, path ...string) []doc {
	a, _ := at(v, path...).([]any)
	var out []doc
	for _, e := range a {
		if d, ok := e.(doc); ok {
			out = append(out, d)
		}
	}
	return out
}

func fold(id string) string { return strings.ToLower(strings.TrimRight(id, "/")) }

func same(a, b string) bool {
	return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

func orElse(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

func has(set []string, s string) bool {
	return slices.ContainsFunc(set, func(e string) bool { return strings.EqualFold(e, s) })
}

// stamp is how ARM writes a time.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.0000000-07:00") }

// region is a location's name as ARM compares it: lower case, without spaces.
func region(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
