package cvm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"
)

// Bounds of a release policy that is judged. The largest official one nests four
// deep and has about 500 nodes.
const (
	maxPolicyDepth = 32
	maxPolicyNodes = 20_000
	// maxPolicyWork bounds the steps of turning conditions into alternatives; past
	// it a policy is too complex to judge, which is unreadable, not good.
	maxPolicyWork = 50_000
	// maxPolicyTerms bounds the alternatives of one branch.
	maxPolicyTerms = 2_000
)

// condition is a node of a release policy: a claim that must equal a value, or
// several conditions of which any or all must hold.
type condition struct {
	claim  string
	value  string // the JSON text of equals
	any    bool   // for a node with kids: any of them, else all
	kids   []condition
	isLeaf bool
	path   string
}

// branch is one authority with what it must say.
type branch struct {
	authority string
	when      condition
	path      string
}

// term is one alternative of a branch: claims with the values that they must
// have, all of them.
type term map[string]string

// key is a term's comparable text.
func (t term) key() string {
	names := make([]string, 0, len(t))
	for n, v := range t {
		names = append(names, n+"\x00"+v)
	}
	sort.Strings(names)
	return strings.Join(names, "\x01")
}

var policyVersion = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^1\.[0-9]{1,4}(\.[0-9]{1,4})?$`) })

// parsePolicy reads a release policy's JSON text by the grammar of its version
// 1: an anyOf of authorities, each with exactly one of allOf and anyOf.
func parsePolicy(text string) ([]branch, error) {
	if len(text) > maxPolicyBytes {
		return nil, fmt.Errorf("it is %d bytes long, more than %d", len(text), maxPolicyBytes)
	}
	doc, err := strictJSON(text)
	if err != nil {
		return nil, err
	}
	top, ok := doc.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("its top is not an object")
	}
	version, _ := top["version"].(string)
	if !policyVersion().MatchString(version) {
		return nil, fmt.Errorf("its version %q is not 1.x", version)
	}
	for name := range top {
		if name != "version" && name != "anyOf" {
			return nil, fmt.Errorf("its top has a member %q", name)
		}
	}
	list, ok := top["anyOf"].([]any)
	if !ok {
		return nil, fmt.Errorf("its top is not an anyOf of authorities")
	}
	branches := make([]branch, 0, len(list))
	for i, item := range list {
		path := fmt.Sprintf("anyOf[%d]", i)
		obj, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s is not an object", path)
		}
		authority, ok := obj["authority"].(string)
		if !ok {
			return nil, fmt.Errorf("%s has no authority", path)
		}
		rest := make(map[string]any, len(obj))
		for name, v := range obj {
			if name != "authority" {
				rest[name] = v
			}
		}
		if _, leaf := rest["claim"]; leaf {
			return nil, fmt.Errorf("%s has neither allOf nor anyOf", path)
		}
		when, err := parseCondition(rest, path)
		if err != nil {
			return nil, err
		}
		branches = append(branches, branch{authority: authority, when: when, path: path})
	}
	return branches, nil
}

func parseCondition(v any, path string) (condition, error) {
	obj, ok := v.(map[string]any)
	if !ok {
		return condition{}, fmt.Errorf("%s is not an object", path)
	}
	if _, leaf := obj["claim"]; leaf {
		claim, ok := obj["claim"].(string)
		equals, has := obj["equals"]
		if !ok || !has || len(obj) != 2 || claim == "" {
			return condition{}, fmt.Errorf("%s is not a claim with equals alone", path)
		}
		value, err := plainValue(equals)
		if err != nil || strings.ContainsRune(claim, utf8.RuneError) {
			return condition{}, fmt.Errorf("%s compares a claim with what is not a plain value", path)
		}
		return condition{claim: claim, value: value, isLeaf: true, path: path}, nil
	}
	if len(obj) != 1 {
		return condition{}, fmt.Errorf("%s has not exactly one of allOf and anyOf", path)
	}
	for name, v := range obj {
		list, ok := v.([]any)
		if name != "anyOf" && name != "allOf" || !ok {
			return condition{}, fmt.Errorf("%s has %q where a list allOf or anyOf belongs", path, name)
		}
		c := condition{any: name == "anyOf", path: path}
		for i, item := range list {
			kid, err := parseCondition(item, fmt.Sprintf("%s.%s[%d]", path, name, i))
			if err != nil {
				return condition{}, err
			}
			c.kids = append(c.kids, kid)
		}
		return c, nil
	}
	return condition{}, fmt.Errorf("%s is empty", path)
}

// plainValue is the one text of what a claim must equal. What has several spellings
// of one value (1 and 1.0, or a broken surrogate, which decodes to the same rune as
// any other) is refused: two of them would look like two values.
func plainValue(equals any) (string, error) {
	switch v := equals.(type) {
	case bool:
	case string:
		if strings.ContainsRune(v, utf8.RuneError) {
			return "", errors.New("not text")
		}
	case json.Number:
		if v == "-0" || strings.ContainsAny(v.String(), ".eE") {
			return "", errors.New("not an integer")
		}
	default:
		return "", errors.New("not a plain value")
	}
	text, err := json.Marshal(equals)
	return string(text), err
}

// strictJSON decodes one JSON value. A name that an object has twice is refused:
// two readers could take different ones.
func strictJSON(text string) (any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	nodes := 0
	v, err := strictValue(dec, 0, &nodes)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows its JSON value")
	}
	return v, nil
}

func strictValue(dec *json.Decoder, depth int, nodes *int) (any, error) {
	if *nodes++; *nodes > maxPolicyNodes {
		return nil, fmt.Errorf("it has more than %d nodes", maxPolicyNodes)
	}
	if depth > maxPolicyDepth {
		return nil, fmt.Errorf("it nests deeper than %d", maxPolicyDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	switch tok {
	case json.Delim('{'):
		obj := map[string]any{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return nil, fmt.Errorf("it is not JSON: %w", err)
			}
			text, ok := name.(string)
			if !ok {
				return nil, fmt.Errorf("it is not JSON")
			}
			if _, twice := obj[text]; twice {
				return nil, fmt.Errorf("an object has %q twice", text)
			}
			if obj[text], err = strictValue(dec, depth+1, nodes); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return obj, err
	case json.Delim('['):
		list := []any{}
		for dec.More() {
			item, err := strictValue(dec, depth+1, nodes)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err := dec.Token()
		return list, err
	}
	return tok, nil
}

// alternatives turns a condition into terms of which one must hold, those that
// contradict themselves left out. ok is false when the work exceeds its bound.
func (c condition) alternatives(work *int) (terms []term, ok bool) {
	if c.isLeaf {
		return []term{{c.claim: c.value}}, true
	}
	if !c.any {
		terms = []term{{}}
	}
	for _, kid := range c.kids {
		more, ok := kid.alternatives(work)
		if !ok {
			return nil, false
		}
		if c.any {
			terms = append(terms, more...)
		} else if terms, ok = both(terms, more, work); !ok {
			return nil, false
		}
		if *work += len(more); *work > maxPolicyWork {
			return nil, false
		}
	}
	return distinct(terms), true
}

// minimal drops the terms that ask for more than another: any of a and (a and b)
// is a. The terms are distinct, so that only a shorter one can take another's place.
func minimal(terms []term) []term {
	var out []term
	for _, t := range terms {
		if !slices.ContainsFunc(terms, func(u term) bool { return len(u) < len(t) && contains(t, u) }) {
			out = append(out, t)
		}
	}
	return out
}

func contains(t, part term) bool {
	for n, v := range part {
		if have, ok := t[n]; !ok || have != v {
			return false
		}
	}
	return true
}

// both are the terms in which one of a and one of b hold together. A claim has
// one value, so a term that asks for two is dropped.
func both(a, b []term, work *int) ([]term, bool) {
	var out []term
	for _, x := range a {
		for _, y := range b {
			if *work += 1 + len(x) + len(y); *work > maxPolicyWork {
				return nil, false
			}
			t, ok := join(x, y)
			if ok == perhaps {
				return nil, false
			}
			if ok == yes {
				out = append(out, t)
			}
		}
	}
	return distinct(out), true
}

// joined says whether two terms can hold together.
type joined int

const (
	no joined = iota
	perhaps
	yes
)

// join is the term in which both hold. Values that differ in letter case or in
// kind alone (true and "true") may be one to the service: then nobody here can say
// whether the terms contradict each other.
func join(x, y term) (term, joined) {
	t, outcome := make(term, len(x)+len(y)), yes
	for n, v := range x {
		t[n] = v
	}
	for n, v := range y {
		have, ok := t[n]
		switch {
		case ok && have != v && !strings.EqualFold(strings.Trim(have, `"`), strings.Trim(v, `"`)):
			return nil, no
		case ok && have != v:
			outcome = perhaps
		}
		t[n] = v
	}
	return t, outcome
}

func distinct(terms []term) []term {
	seen := make(map[string]bool, len(terms))
	out := terms[:0:0]
	for _, t := range terms {
		if k := t.key(); !seen[k] {
			seen[k] = true
			out = append(out, t)
		}
	}
	return out
}
