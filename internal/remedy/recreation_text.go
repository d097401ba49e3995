package remedy

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

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
	var before, after []string // before and after the deletion of the old VM
	old := ""
	for _, s := range op.Steps {
		switch s.Kind {
		case CheckRecreation:
			before = append(before, "# look first: the disk encryption set, and whether the size is offered",
				az("disk-encryption-set", "show", "--ids", s.Args[argDES], "--query", "encryptionType", "--output", "tsv"),
				az("vm", "list-skus", "--subscription", id.Subscription(), "--location", s.Args[argLocation], "--size", s.Args[argSize], "--output", "table"))
		case KeepParts:
			// The body is of the plan's day, and its lists take the place of the VM's: what
			// was attached since would be detached.
			planned, err := attachedIn(op)
			if err != nil {
				return nil, fault.New(fault.Bug, "writing commands for", op.Object, "%w", err)
			}
			before = append(before, "ATTACHED=$("+az("vm", "show", "--ids", string(id), "--query", attachedQuery, "--output", "tsv")+` | tr '[:upper:]' '[:lower:]' | LC_ALL=C sort | tr '\n' ' ')`,
				`if [ "$ATTACHED" != `+quote(planned)+` ]; then echo "The VM's disks or network interfaces aren't those of the plan; plan again: $ATTACHED" >&2; exit 1; fi`,
				az("rest", "--method", "patch", "--url", string(id)+"?api-version="+vmAPIVersion, "--body", s.Args[argBody]))
		case TakeDown:
			if p := s.Args[argPrincipal]; p != "" {
				before = append(before, az("role", "assignment", "list", "--subscription", id.Subscription(), "--assignee", p, "--all", "--output", "json")+" > "+quote(id.Name()+"-identity-roles.json"))
			}
			before = append(before, azDeallocate(id))
			if disk := s.Args[argSource]; disk != "" {
				before = append(before, "# the disk is kept; a snapshot is a second net, and needs a right on the disk that cvmguard never has",
					az("snapshot", "create", "--subscription", id.Subscription(), "--resource-group", cvm.DiskID(disk).ResourceGroup(),
						"--name", snapshotName(cvm.DiskID(disk)), "--source", disk, "--incremental", "true"))
			}
		case DeleteVM:
			old = s.Args[argVMUnique]
			before = append(before, az("vm", "delete", "--ids", string(id), "--yes"))
		case CreateVM:
			after = append(after, az("deployment", "group", "create", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(), "--template-file", bicep))
		case RestoreExtension:
			after = append(after, s.extensionCommand(id))
		}
	}
	// A second run must not delete the new VM: only the old one is taken away.
	out := []string{"OLD=$(" + az("vm", "show", "--ids", string(id), "--query", "vmId", "--output", "tsv") + " || true)",
		`if [ "$OLD" = ` + quote(old) + " ]; then # the old VM, not yet the new one"}
	for _, line := range before {
		out = append(out, "  "+line)
	}
	return append(append(out, "fi"), after...), nil
}

// attachedQuery lists a VM's OS disk, its data disks with their LUNs and its network
// interfaces, one a line.
const attachedQuery = "[storageProfile.osDisk.managedDisk.id, storageProfile.dataDisks[].join('=', [to_string(lun), managedDisk.id]), networkProfile.networkInterfaces[].id][]"

// attachedIn is what the query would list of the VM as it was planned for: in small
// letters, sorted, each with a space behind it.
func attachedIn(op Operation) (string, error) {
	out := []string{string(OldOSDisk(op))}
	for _, s := range op.Steps {
		if s.Kind != KeepParts {
			continue
		}
		var patch object
		if err := json.Unmarshal([]byte(s.Args[argBody]), &patch); err != nil {
			return "", fmt.Errorf("the body of step %s can't be read: %w", s.Kind, err)
		}
		props := inner(patch, "properties")
		for _, v := range dataDisks(props) {
			d := v.(object)
			out = append(out, fmt.Sprintf("%v=%v", d["lun"], at(d, "managedDisk", "id")))
		}
		for _, v := range interfaces(props) {
			out = append(out, orText(v.(object)["id"], ""))
		}
	}
	for i := range out { // as tr does it
		out[i] = strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}, out[i])
	}
	slices.Sort(out)
	return strings.Join(out, " ") + " ", nil
}

// RecreationScript is a shell script of the commands. It may be run again at any
// point.
func RecreationScript(commands []string) string {
	return "#!/bin/sh\nset -eu\ncd \"$(dirname \"$0\")\"\n" + strings.Join(commands, "\n") + "\n"
}

// extensionCommand installs the extension of a step.
func (s Step) extensionCommand(id cvm.VMID) string {
	words := []string{"vm", "extension", "set", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(), "--vm-name", id.Name(),
		"--name", s.Args[argType], "--extension-instance-name", s.Args[argName], "--publisher", s.Args[argPublisher], "--version", s.Args[argVersion]}
	if set := s.Args[argSettings]; set != "{}" {
		words = append(words, "--settings", set)
	}
	if s.Args[argAuto] == "true" {
		words = append(words, "--enable-auto-upgrade", "true")
	}
	if s.Args[argMinor] != "true" {
		words = append(words, "--no-auto-upgrade-minor-version", "true")
	}
	return az(words...)
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
	fmt.Fprintf(&b, "// %s\n// The old VM must be deleted before, its disks and network interfaces kept.\n\nresource vm 'Microsoft.Compute/virtualMachines@%s' = ", oneLine(op.Why), vmAPIVersion)
	writeBicep(&b, body, "")
	b.WriteString("\n\noutput id string = vm.id\n")
	return b.String(), nil
}

// oneLine keeps a text in the comment that it is written to.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
}

// bicepWords are quoted as names, where a tag may be called so.
var bicepWords = []string{"targetScope", "import", "using", "extends", "extension", "param", "var", "type", "func", "resource", "module", "output", "assert", "metadata",
	"existing", "if", "for", "in", "true", "false", "null"}

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
			if !bicepName.MatchString(k) || slices.Contains(bicepWords, k) {
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
		text := strconv.FormatFloat(v, 'f', -1, 64)
		if strings.Contains(text, ".") { // Bicep has no fractions of its own
			text = "json('" + text + "')"
		}
		b.WriteString(text)
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
