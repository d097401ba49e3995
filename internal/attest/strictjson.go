package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxJSONDepth is far above what a bundle, runtime data, token or key set needs.
const maxJSONDepth = 16

// strictJSON refuses what encoding/json lets pass and what two readers could
// read differently: invalid UTF-8, members given twice, more than one value, deep
// nesting.
func strictJSON(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("not valid UTF-8")
	}
	if !json.Valid(data) {
		return errors.New("not one JSON value")
	}
	type level struct {
		object bool
		isKey  bool // the next string token is a member's name
		seen   map[string]bool
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	// value marks that a value has ended inside the innermost object.
	value := func() {
		if n := len(stack); n > 0 && stack[n-1].object {
			stack[n-1].isKey = true
		}
	}
	for {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if delim, ok := t.(json.Delim); ok {
			switch delim {
			case '{', '[':
				if len(stack) == maxJSONDepth {
					return fmt.Errorf("nested deeper than %d", maxJSONDepth)
				}
				stack = append(stack, level{object: delim == '{', isKey: delim == '{', seen: map[string]bool{}})
			default:
				stack = stack[:len(stack)-1]
				value()
			}
			continue
		}
		if n := len(stack); n > 0 && stack[n-1].object && stack[n-1].isKey {
			name, ok := t.(string)
			if !ok {
				return fmt.Errorf("a member's name is not a string")
			}
			if stack[n-1].seen[name] {
				return fmt.Errorf("member %q is there twice", name)
			}
			stack[n-1].seen[name] = true
			stack[n-1].isKey = false
			continue
		}
		value()
	}
}

// members reads a strict JSON object. Names are matched exactly by the caller.
func members(data []byte) (map[string]json.RawMessage, error) {
	if err := strictJSON(data); err != nil {
		return nil, err
	}
	return object(data)
}

// object is members for a part of a document that was already found strict.
func object(data json.RawMessage) (map[string]json.RawMessage, error) {
	if t := bytes.TrimLeft(data, " \t\r\n"); len(t) == 0 || t[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	return m, nil
}

// text reads a member that must be a JSON string.
func text(m map[string]json.RawMessage, name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", fmt.Errorf("member %q is missing", name)
	}
	if len(raw) == 0 || raw[0] != '"' {
		return "", fmt.Errorf("member %q is not a string", name)
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("member %q: %w", name, err)
	}
	return s, nil
}

// boolean reads an optional member that must be a JSON bool: the text "false"
// is refused, not coerced.
func boolean(m map[string]json.RawMessage, name string) (*bool, error) {
	raw, ok := m[name]
	if !ok {
		return nil, nil
	}
	switch string(raw) {
	case "true", "false":
		v := string(raw) == "true"
		return &v, nil
	}
	return nil, fmt.Errorf("member %q is not true or false", name)
}

// number reads a member that must be a whole JSON number.
func number(m map[string]json.RawMessage, name string) (int64, error) {
	raw, ok := m[name]
	if !ok {
		return 0, fmt.Errorf("member %q is missing", name)
	}
	var n json.Number
	if len(raw) == 0 || raw[0] == '"' {
		return 0, fmt.Errorf("member %q is not a number", name)
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return 0, fmt.Errorf("member %q is not a number", name)
	}
	v, err := n.Int64()
	if err != nil {
		return 0, fmt.Errorf("member %q is not a whole number", name)
	}
	return v, nil
}
