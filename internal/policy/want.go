package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// Want says which VMs are wanted as confidential VMs: those that an Include
// selector takes (all, where there is none) and no Exclude selector takes.
type Want struct {
	Include []Selector
	Exclude []Selector
}

// Selector takes a VM when all its parts do; it has at least one. Patterns know
// * (any text) and ? (one character) and ignore case.
type Selector struct {
	Name          string            // of the VM
	ResourceGroup string            // of the VM
	Size          string            // such as Standard_DC4as_v5, or a family's: Standard_DC*as_v5
	Image         string            // publisher:offer:sku, or the image's ARM id
	Tags          map[string]string // name -> pattern of the value; names ignore case
}

// Wants says whether a VM is wanted as a confidential VM.
func (w Want) Wants(vm cvm.VM) bool {
	wanted, _ := w.Why(vm)
	return wanted
}

// Why is Wants with the selector that decided it, for a person.
func (w Want) Why(vm cvm.VM) (wanted bool, why string) {
	for i, s := range w.Exclude {
		if s.takes(vm) {
			return false, fmt.Sprintf("want.exclude[%d] (%s) takes it out", i, s)
		}
	}
	for i, s := range w.Include {
		if s.takes(vm) {
			return true, fmt.Sprintf("want.include[%d] (%s) takes it", i, s)
		}
	}
	if len(w.Include) == 0 {
		return true, "want has no include, so every VM that exclude leaves is wanted"
	}
	return false, "no selector of want.include takes it"
}

// String is the selector's parts, as a document has them.
func (s Selector) String() string {
	var parts []string
	for _, p := range [][2]string{{"name", s.Name}, {"resourceGroup", s.ResourceGroup}, {"size", s.Size}, {"image", s.Image}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Tags)) {
		parts = append(parts, "tag "+name+"="+s.Tags[name])
	}
	return strings.Join(parts, ", ")
}

func (s Selector) takes(vm cvm.VM) bool {
	if s.Name != "" && !glob(s.Name, vm.Name) ||
		s.ResourceGroup != "" && !glob(s.ResourceGroup, vm.ID.ResourceGroup()) ||
		s.Size != "" && !glob(s.Size, vm.Size) {
		return false
	}
	if s.Image != "" && !glob(s.Image, vm.Image.ID) &&
		!glob(s.Image, strings.Join([]string{vm.Image.Publisher, vm.Image.Offer, vm.Image.SKU}, ":")) {
		return false
	}
	for name, pattern := range s.Tags {
		found := false
		for k, v := range vm.Tags {
			found = found || strings.EqualFold(k, name) && glob(pattern, v)
		}
		if !found {
			return false
		}
	}
	return true
}

// glob matches text against a pattern of * and ?, without regard to case, in
// time linear in the product of their lengths.
func glob(pattern, text string) bool {
	p, t := []rune(strings.ToLower(pattern)), []rune(strings.ToLower(text))
	i, j, star, mark := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
