package azurepolicy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cvmguard/internal/policy"
)

// clause is a condition that may be settled beforehand.
type clause struct {
	always, never bool
	cond          Condition
}

var (
	always = clause{always: true}
	never  = clause{never: true}
)

func when(c Condition) clause { return clause{cond: c} }

func both(list ...clause) clause {
	var conds []Condition
	for _, c := range list {
		switch {
		case c.never:
			return never
		case !c.always:
			conds = append(conds, c.cond)
		}
	}
	if len(conds) == 0 {
		return always
	}
	return when(allOf(conds...))
}

func either(list ...clause) clause {
	var conds []Condition
	for _, c := range list {
		switch {
		case c.always:
			return always
		case !c.never:
			conds = append(conds, c.cond)
		}
	}
	if len(conds) == 0 {
		return never
	}
	return when(anyOf(conds...))
}

func inverse(c clause) clause {
	switch {
	case c.always:
		return never
	case c.never:
		return always
	}
	return when(not(c.cond))
}

// wanted is the policy's want clause on a VM's request. Where a pattern can't be
// said, the condition takes fewer VMs than the clause, never more: an include
// selector with such a part is left out, and an exclude selector loses the part.
// Each is listed in inexact.
func wanted(w policy.Want, sets bool) (c clause, inexact []string) {
	include := make([]clause, 0, len(w.Include))
	for i, s := range w.Include {
		taken, bad := takes(s, sets)
		if len(bad) > 0 {
			inexact = append(inexact, fmt.Sprintf("want.include[%d] is left out, so that VMs which it alone wants aren't held to: %s", i, strings.Join(bad, "; ")))
			continue
		}
		include = append(include, taken)
	}
	exclude := make([]clause, 0, len(w.Exclude))
	for i, s := range w.Exclude {
		taken, bad := takes(s, sets)
		if len(bad) > 0 {
			inexact = append(inexact, fmt.Sprintf("want.exclude[%d] takes more VMs out than the policy does: %s", i, strings.Join(bad, "; ")))
		}
		exclude = append(exclude, taken)
	}
	c = either(include...)
	if len(w.Include) == 0 {
		c = always
	}
	return both(c, inverse(either(exclude...))), inexact
}

// takes is a selector. bad names the parts that can't be said; they are left out
// of the condition, which then takes more. The model of a scale set doesn't say what
// its VMs will be called.
func takes(s policy.Selector, sets bool) (c clause, bad []string) {
	var parts []clause
	add := func(what, pattern string, part clause, ok bool) {
		if !ok {
			bad = append(bad, fmt.Sprintf("%s %q needs more than one wildcard", what, pattern))
			return
		}
		parts = append(parts, part)
	}
	simple := func(what, pattern string, subject Condition) {
		if pattern != "" {
			part, ok := glob(pattern, subject)
			add(what, pattern, part, ok)
		}
	}
	if sets && strings.Trim(s.Name, "*") != "" {
		bad = append(bad, fmt.Sprintf("name %q is about names that a set gives its VMs later", s.Name))
	} else {
		simple("name", s.Name, Condition{Field: "name"})
	}
	simple("resourceGroup", s.ResourceGroup, Condition{Value: groupName})
	simple("size", s.Size, Condition{Field: vmSize})
	if s.Image != "" {
		part, ok := imageGlob(s.Image)
		add("image", s.Image, part, ok)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Tags)) {
		pattern := s.Tags[name]
		if strings.ContainsAny(name, "'[]") || pattern == "" {
			bad = append(bad, fmt.Sprintf("tag %q can't be named, or an empty value can't be told from a missing tag", name))
			continue
		}
		field := "tags['" + name + "']"
		part, ok := glob(pattern, Condition{Field: field})
		if part.always {
			part = when(present(field))
		}
		add("tag "+name, pattern, part, ok)
	}
	return both(parts...), bad
}

// glob is a pattern of * and ? as one condition: a text without wildcards, one
// with one *, or one between two. Azure Policy has no more.
func glob(pattern string, on Condition) (c clause, ok bool) {
	stars := strings.Count(pattern, "*")
	between, around := strings.CutPrefix(pattern, "*")
	between, closed := strings.CutSuffix(between, "*")
	switch {
	case strings.Trim(pattern, "*") == "" && pattern != "":
		return always, true
	case strings.Contains(pattern, "?"):
		return clause{}, false
	case stars == 0:
		on.Operator, on.Operand = "equals", literal(pattern)
	case stars == 1:
		on.Operator, on.Operand = "like", literal(pattern)
	case stars == 2 && around && closed:
		on.Operator, on.Operand = "contains", literal(between)
	default:
		return clause{}, false
	}
	return when(on), true
}

// imageGlob is a pattern over publisher:offer:sku, or over the image's id. As none
// of the parts holds a colon, each colon of a pattern stands for one of the two.
func imageGlob(pattern string) (c clause, ok bool) {
	colons := strings.Count(pattern, ":")
	parts := strings.Split(pattern, ":")
	if colons == 2 {
		var list []clause
		for i, field := range []string{vmPublisher, vmOffer, vmSKU} {
			part, ok := glob(parts[i], Condition{Field: field})
			if parts[i] == "" || !ok {
				return clause{}, false
			}
			list = append(list, part)
		}
		return both(list...), true
	}
	if colons > 0 {
		return clause{}, false
	}
	id, ok := glob(pattern, Condition{})
	if !ok || id.always {
		return id, ok
	}
	list := []clause{}
	on := func(field string) { c := id.cond; c.Field = field; list = append(list, when(c)) }
	for _, field := range []string{vmImageID, vmImageShared, vmImagePublic} {
		on(field)
	}
	// A text without a colon that stands at the beginning, at the end or anywhere of
	// publisher:offer:sku.
	switch {
	case strings.HasPrefix(pattern, "*") && strings.HasSuffix(pattern, "*"):
		on(vmPublisher)
		on(vmOffer)
		on(vmSKU)
	case strings.HasSuffix(pattern, "*"):
		on(vmPublisher)
	case strings.HasPrefix(pattern, "*"):
		on(vmSKU)
	case strings.Contains(pattern, "*"): // it begins with the one and ends with the other
		before, after, _ := strings.Cut(pattern, "*")
		list = append(list, when(allOf(like(vmPublisher, literal(before)+"*"), like(vmSKU, "*"+after))))
	}
	return either(list...), true
}
