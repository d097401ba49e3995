package remedy

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// vmAPIVersion is the version with which a re-creation's bodies are put.
const vmAPIVersion = "2025-04-01"

// RecreationCommands are the same way as the operation's, as commands for a person
// with the Azure CLI. bicep is the file that RecreationBicep's text is in.
func RecreationCommands(op Operation, bicep string) ([]string, error) {
	id, err := cvm.ParseVMID(op.Object)
	if err != nil || op.Kind != RecreateOperation {
		return nil, fault.New(fault.Invalid, "writing commands for", op.Object, "it isn't a re-creation; give a plan of kind %s", RecreateOperation)
	}
	var out []string
	for _, s := range op.Steps {
		switch s.Kind {
		case CheckRecreation:
			out = append(out, "# "+s.Does)
		case KeepParts:
			out = append(out, az("rest", "--method", "patch", "--url", string(id)+"?api-version="+vmAPIVersion, "--body", s.Args[argBody]))
		case TakeDown:
			out = append(out, azDeallocate(id))
			if disk := s.Args[argSource]; disk != "" {
				out = append(out, "# the disk is kept; a snapshot is a second net, and needs a right on the disk that cvmguard never has",
					az("snapshot", "create", "--subscription", id.Subscription(), "--resource-group", cvm.DiskID(disk).ResourceGroup(),
						"--name", snapshotName(cvm.DiskID(disk)), "--source", disk, "--incremental", "true"))
			}
		case DeleteVM:
			out = append(out, az("vm", "delete", "--ids", string(id), "--yes"))
		case CreateVM:
			out = append(out, az("deployment", "group", "create", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(), "--template-file", bicep))
		case RestoreExtension:
			words := []string{"vm", "extension", "set", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(), "--vm-name", id.Name(),
				"--name", s.Args[argType], "--extension-instance-name", s.Args[argName], "--publisher", s.Args[argPublisher], "--version", s.Args[argVersion]}
			if set := s.Args[argSettings]; set != "{}" {
				words = append(words, "--settings", set)
			}
			out = append(out, az(words...))
		}
	}
	return out, nil
}

// RecreationBicep is a Bicep file, of resource group scope, that creates the VM
// which the operation creates.
func RecreationBicep(op Operation) (string, error) {
	i := slices.IndexFunc(op.Steps, func(s Step) bool { return s.Kind == CreateVM })
	if i < 0 {
		return "", fault.New(fault.Invalid, "writing Bicep for", op.Object, "it creates no VM; give a re-creation's plan")
	}
	var body object
	if err := json.Unmarshal([]byte(op.Steps[i].Args[argBody]), &body); err != nil {
		return "", fault.New(fault.Bug, "writing Bicep for", op.Object, "%w", err)
	}
	body["name"] = cvm.VMID(op.Object).Name()
	var b strings.Builder
	fmt.Fprintf(&b, "// %s\n// The old VM must be deleted before, its disks and network interfaces kept.\n\nresource vm 'Microsoft.Compute/virtualMachines@%s' = ", op.Why, vmAPIVersion)
	writeBicep(&b, body, "")
	b.WriteString("\n\noutput id string = vm.id\n")
	return b.String(), nil
}

var bicepName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// writeBicep writes a JSON value as Bicep does: members in order, one a line.
func writeBicep(b *strings.Builder, v any, indent string) {
	switch v := v.(type) {
	case object:
		if len(v) == 0 {
			b.WriteString("{}")
			return
		}
		b.WriteString("{\n")
		for _, k := range slices.SortedFunc(maps.Keys(v), bicepOrder) {
			name := k
			if !bicepName.MatchString(k) {
				name = bicepText(k)
			}
			b.WriteString(indent + "  " + name + ": ")
			writeBicep(b, v[k], indent+"  ")
			b.WriteString("\n")
		}
		b.WriteString(indent + "}")
	case []any:
		if len(v) == 0 {
			b.WriteString("[]")
			return
		}
		b.WriteString("[\n")
		for _, e := range v {
			b.WriteString(indent + "  ")
			writeBicep(b, e, indent+"  ")
			b.WriteString("\n")
		}
		b.WriteString(indent + "]")
	case string:
		b.WriteString(bicepText(v))
	case float64:
		b.WriteString(strconv.FormatFloat(v, 'f', -1, 64))
	case bool:
		b.WriteString(strconv.FormatBool(v))
	default:
		b.WriteString("null")
	}
}

// bicepOrder puts a resource's name and place first, as people do.
func bicepOrder(a, b string) int {
	first := []string{"name", "location", "zones", "tags", "identity"}
	i, j := slices.Index(first, a), slices.Index(first, b)
	switch {
	case i >= 0 && j >= 0:
		return i - j
	case i >= 0:
		return -1
	case j >= 0:
		return 1
	}
	return strings.Compare(a, b)
}

// bicepText is a Bicep string: no text in it is taken for an expression.
func bicepText(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "${", `\${`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s)
	return "'" + s + "'"
}
