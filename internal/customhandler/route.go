package customhandler

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Route is a route in the Functions syntax: literals, {name}, {name?},
// {name:int} and, at the end, {*rest}. Literals compare without case.
type Route struct {
	text string
	segs []segment
}

type segment struct {
	literal        string // "" for a parameter
	name           string
	optional, rest bool
	number         bool
}

// ParseRoute reads a route. What the host knows and cvmguard doesn't use
// (defaults, other constraints, parameters within a segment) is an error that
// names it.
func ParseRoute(text string) (Route, error) {
	r := Route{text: text}
	trimmed := strings.Trim(text, "/")
	if trimmed == "" {
		return r, fmt.Errorf("route %q is empty: give at least one segment", text)
	}
	seen := map[string]bool{}
	for _, part := range strings.Split(trimmed, "/") {
		s, err := parseSegment(part)
		if err != nil {
			return r, fmt.Errorf("route %q: %w", text, err)
		}
		if n := len(r.segs); n > 0 {
			if last := r.segs[n-1]; last.rest || (last.optional && !s.optional) {
				return r, fmt.Errorf("route %q: %q follows a segment that may be absent; put such segments last", text, part)
			}
		}
		if key := strings.ToLower(s.name); key != "" {
			if seen[key] {
				return r, fmt.Errorf("route %q: parameter %q is there twice", text, s.name)
			}
			seen[key] = true
		}
		r.segs = append(r.segs, s)
	}
	return r, nil
}

func parseSegment(part string) (segment, error) {
	if !strings.ContainsAny(part, "{}") {
		if part == "" {
			return segment{}, fmt.Errorf("an empty segment")
		}
		return segment{literal: part}, nil
	}
	inner, ok := strings.CutPrefix(part, "{")
	if !ok {
		return segment{}, fmt.Errorf("segment %q mixes text and a parameter, which is not supported", part)
	}
	if inner, ok = strings.CutSuffix(inner, "}"); !ok {
		return segment{}, fmt.Errorf("segment %q mixes text and a parameter, which is not supported", part)
	}
	s := segment{}
	if inner, s.rest = strings.CutPrefix(inner, "*"); s.rest {
		s.optional = true
	}
	if cut, ok := strings.CutSuffix(inner, "?"); ok {
		inner, s.optional = cut, true
	}
	if name, constraint, ok := strings.Cut(inner, ":"); ok {
		if constraint != "int" {
			return segment{}, fmt.Errorf("segment %q: constraint %q is not supported; use int or none", part, constraint)
		}
		inner, s.number = name, true
	}
	for i, c := range inner {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return segment{}, fmt.Errorf("segment %q: %q is not a parameter's name", part, inner)
		}
	}
	if inner == "" {
		return segment{}, fmt.Errorf("segment %q has no name", part)
	}
	s.name = inner
	return s, nil
}

// String is the route as it was given.
func (r Route) String() string { return r.text }

// Names are the parameters, in order.
func (r Route) Names() []string {
	var names []string
	for _, s := range r.segs {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	return names
}

// Match matches the escaped path below the prefix, without a leading slash. The
// parameters' values are unescaped, but an escaped slash stays escaped, so that
// it can't be taken for a border; an absent optional one is missing in the map.
func (r Route) Match(escaped string) (map[string]string, bool) {
	escaped = strings.TrimSuffix(escaped, "/")
	var parts []string
	if escaped != "" {
		parts = strings.Split(escaped, "/")
	}
	params := map[string]string{}
	for i, s := range r.segs {
		if i >= len(parts) {
			if !s.optional {
				return nil, false
			}
			continue
		}
		if s.rest {
			var rest []string
			for _, p := range parts[i:] {
				v, ok := unescapeSegment(p)
				if !ok {
					return nil, false
				}
				rest = append(rest, v)
			}
			params[s.name] = strings.Join(rest, "/")
			return params, true
		}
		v, ok := unescapeSegment(parts[i])
		switch {
		case !ok || v == "":
			return nil, false
		case s.literal != "":
			if !strings.EqualFold(v, s.literal) {
				return nil, false
			}
		case s.number:
			if _, err := strconv.ParseInt(v, 10, 32); err != nil {
				return nil, false
			}
			params[s.name] = v
		default:
			params[s.name] = v
		}
	}
	return params, len(parts) <= len(r.segs)
}

func unescapeSegment(p string) (string, bool) {
	keep := strings.NewReplacer("%2F", "%252F", "%2f", "%252F").Replace(p)
	v, err := url.PathUnescape(keep)
	return v, err == nil
}

// CompareRoutes orders the more special route first: a literal before a
// parameter before a rest.
func CompareRoutes(a, b Route) int {
	weight := func(s segment) int {
		switch {
		case s.rest:
			return 3
		case s.name != "" && s.number:
			return 1
		case s.name != "":
			return 2
		}
		return 0
	}
	return slices.CompareFunc(a.segs, b.segs, func(x, y segment) int { return weight(x) - weight(y) })
}
