package customhandler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errNotWrapped says that a body is JSON but not an invocation.
var errNotWrapped = errors.New(`the body has no "Data" member, so it is not an invocation by the Functions host`)

// envelope is an invocation's body, opened one level deep.
type envelope struct {
	data map[string]json.RawMessage
	raw  json.RawMessage // the value of Data as it came
	meta json.RawMessage
}

// openEnvelope opens an invocation's body. The error is errNotWrapped if the
// body is well-formed JSON that isn't an invocation; any other error means that
// the wrapper is damaged, and raw holds Data's value if that much was found.
//
// Names are compared with case, unlike encoding/json's way with structs: a
// CloudEvent posted as it is has a "data" member and must not pass for an
// invocation.
func openEnvelope(body []byte) (envelope, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return envelope{}, errNotWrapped
	}
	if !json.Valid(body) {
		return envelope{}, errors.New("the body is not whole JSON")
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(body, &top); err != nil {
		return envelope{}, errNotWrapped // an array, a string, a number
	}
	raw, ok := top["Data"]
	if !ok {
		return envelope{}, errNotWrapped
	}
	e := envelope{raw: raw, meta: top["Metadata"]}
	if err := json.Unmarshal(raw, &e.data); err != nil || e.data == nil {
		return e, errors.New("member Data is not an object")
	}
	return e, nil
}

// trigger is the trigger's value: the member of Data with the binding name
// that cvmguard's functions use for this kind, else Data's only member.
func (e envelope) trigger(name string) (json.RawMessage, error) {
	if v, ok := e.data[name]; ok {
		return v, nil
	}
	if len(e.data) == 1 {
		for _, v := range e.data {
			return v, nil
		}
	}
	names := make([]string, 0, len(e.data))
	for n := range e.data {
		names = append(names, strconv.Quote(n))
	}
	slices.Sort(names)
	return nil, fmt.Errorf("member Data has no member %q and not exactly one other (it has: %s)", name, strings.Join(names, ", "))
}

// unwrap undoes the host's encoding of one value. An object (or anything else
// that isn't a string) is the value. A string's content is parsed as JSON: if
// that yields a string, that is the value's text; if it yields anything else,
// the content is the value; if it fails, the content is the text itself.
func unwrap(v json.RawMessage) []byte {
	s, ok := asString(v)
	if !ok {
		return v
	}
	if t, ok := asString([]byte(s)); ok {
		return []byte(t)
	}
	return []byte(s)
}

// asString is the string that v is in JSON. (Unmarshal alone would take null.)
func asString(v []byte) (string, bool) {
	t := bytes.TrimLeft(v, " \t\r\n")
	if len(t) == 0 || t[0] != '"' {
		return "", false
	}
	var s string
	if json.Unmarshal(t, &s) != nil {
		return "", false
	}
	return s, true
}

// decodeEvents finds the events of an invocation: one, or several where the
// binding has cardinality "many". Each is its bytes as they came, or its text
// where a text came. An empty result with an error means that none was found.
func decodeEvents(body []byte) ([]json.RawMessage, error) {
	e, err := openEnvelope(body)
	if err != nil {
		return nil, err
	}
	v, err := e.trigger("event")
	if err != nil {
		return nil, err
	}
	value := unwrap(v)
	if len(bytes.TrimSpace(value)) == 0 {
		return nil, errors.New("the event is empty")
	}
	var many []json.RawMessage
	if json.Unmarshal(value, &many) != nil || len(many) == 0 {
		return []json.RawMessage{value}, nil
	}
	for i, one := range many {
		if s, ok := asString(one); ok {
			many[i] = json.RawMessage(s)
		}
	}
	return many, nil
}

// decodeQueue is a queue message's text. When the wrapper can't be read, text
// is what came in its place (Data's value, else the whole body) and err says
// why.
func decodeQueue(body []byte) (text []byte, count int, err error) {
	e, err := openEnvelope(body)
	if err == nil {
		var v json.RawMessage
		if v, err = e.trigger("work"); err == nil {
			return unwrap(v), dequeueCount(e.meta), nil
		}
	}
	if e.raw != nil {
		return e.raw, dequeueCount(e.meta), err
	}
	return body, 0, err
}

// dequeueCount reads the host's own count. The host writes it as a number or as
// a number's text. A message with a property of this name replaces it by JSON
// text of a string (quotes within quotes), which is not read: 0, unknown.
func dequeueCount(meta json.RawMessage) int {
	var m map[string]json.RawMessage
	if json.Unmarshal(meta, &m) != nil {
		return 0
	}
	for k, v := range m {
		if !strings.EqualFold(k, "DequeueCount") {
			continue
		}
		s, ok := asString(v)
		if !ok {
			s = string(v)
		}
		if n, err := strconv.Atoi(s); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// decodeTimer reads a tick. What can't be read in it stays zero: a tick is a
// tick, whatever else it says. An error means that there is no Data at all.
func decodeTimer(body []byte) (TimerCall, error) {
	var c TimerCall
	e, err := openEnvelope(body)
	if err != nil {
		return c, err
	}
	v, err := e.trigger("timer")
	if err != nil {
		return c, err
	}
	var t struct {
		IsPastDue      json.RawMessage
		ScheduleStatus json.RawMessage
	}
	if json.Unmarshal(unwrap(v), &t) != nil {
		return c, nil
	}
	late := string(t.IsPastDue)
	if s, ok := asString(t.IsPastDue); ok {
		late = s
	}
	c.PastDue = strings.EqualFold(late, "true")
	var status struct{ Last, Next json.RawMessage }
	if json.Unmarshal(t.ScheduleStatus, &status) == nil {
		c.Last, c.Next = lenientTime(status.Last), lenientTime(status.Next)
	}
	return c, nil
}

// lenientTime reads the host's spellings of a date: with an offset, with Z, or
// with neither (then UTC). The year 1 means never: zero, as does anything else.
func lenientTime(v json.RawMessage) time.Time {
	s, ok := asString(v)
	if !ok {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			if t.Year() <= 1 {
				return time.Time{}
			}
			return t.UTC()
		}
	}
	return time.Time{}
}
