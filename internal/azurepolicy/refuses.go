package azurepolicy

import (
	"fmt"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// Refusal is a definition that would have refused a VM, or its OS disk.
type Refusal struct {
	Rule       string `json:"rule"`
	Definition string `json:"definition"`
	Why        string `json:"why"` // one sentence
}

// Refuses says what of a policy's initiative, exported with the effect deny, would
// have refused an existing VM or its OS disk, had it been there at the VM's
// creation. Rules that policy only audits refuse nothing. A disk that isn't known
// is refused by nothing. Who asks for many VMs exports once and asks
// Initiative.Refuses.
func Refuses(d *policy.Document, vm cvm.VM, osDisk cvm.Fact[cvm.Disk]) ([]Refusal, error) {
	i, err := Export(d, Deny)
	if err != nil {
		return nil, err
	}
	return i.Refuses(vm, osDisk)
}

// Refuses is Refuses of an initiative that was exported before, whatever its
// effect.
func (i Initiative) Refuses(vm cvm.VM, osDisk cvm.Fact[cvm.Disk]) ([]Refusal, error) {
	resources := []Resource{OfVM(vm)}
	if osDisk.Known {
		resources = append(resources, OfDisk(osDisk.Value))
	}
	var list []Refusal
	for at, def := range i.Definitions {
		if i.Set.Properties.PolicyDefinitions[at].Parameters[paramEffect].Value != parameter(paramEffect) {
			continue
		}
		for _, r := range resources {
			hit, err := i.Hits(def, r)
			if err != nil {
				return nil, err
			}
			if hit {
				list = append(list, Refusal{Rule: def.Properties.Metadata.Rule, Definition: def.Name, Why: def.why(r)})
				break
			}
		}
	}
	return list, nil
}

// Hits says whether a definition of the initiative takes a resource, with the
// values that the set's parameters have by default.
func (i Initiative) Hits(def Definition, r Resource) (bool, error) {
	values := Values{}
	for name, p := range i.Set.Properties.Parameters {
		switch p.DefaultValue.(type) {
		case string, []string, int:
			values[name] = p.DefaultValue
		default:
			return false, fault.New(fault.Invalid, "evaluating the initiative", name, "a default of type %T isn't one that an initiative made by Export has", p.DefaultValue)
		}
	}
	hit, err := def.Properties.PolicyRule.If.Evaluate(r, values)
	if err != nil {
		return false, fmt.Errorf("evaluating definition %s on %q: %w", def.Name, r.id(), err)
	}
	return hit, nil
}

// why names what the resource shows in the fields that the definition is about.
func (d Definition) why(r Resource) string {
	own := typeOf(r.id()) + "/"
	var shown []string
	for _, field := range d.shows {
		switch {
		case strings.EqualFold(own, typeSet+"/"):
			field, _ = ofSet(field)
		case strings.EqualFold(own, typeHKey+"/"):
			field = ofHSM(field)
		}
		short, ofType := strings.CutPrefix(strings.ToLower(field), strings.ToLower(own))
		if strings.HasPrefix(field, "Microsoft.") && !ofType {
			continue
		}
		short = field[len(field)-len(short):]
		if at := strings.LastIndex(short, "managedDisk."); at >= 0 {
			short = short[at:]
		}
		value, there, err := r.field(field)
		switch {
		case err != nil:
		case there:
			shown = append(shown, fmt.Sprintf("%s is %q", short, asText(value)))
		default:
			shown = append(shown, short+" isn't there")
		}
	}
	text := fmt.Sprintf("Azure Policy would have refused the request, for it asks %q", strings.TrimPrefix(d.Properties.DisplayName, "cvmguard: "))
	if len(shown) > 0 {
		text += ", and " + strings.Join(shown, ", ")
	}
	return text + "."
}
