package remedy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// carriedExtension is an extension that can be installed on the new VM as it was:
// it is known to work without settings that Azure doesn't give back.
type carriedExtension struct {
	name     string
	spec     ExtensionSpec
	settings string // JSON
}

// plainExtensions are those that are known to need no protected settings, by type.
var plainExtensions = []string{"GuestAttestation", "AADSSHLoginForLinux", "AzureMonitorLinuxAgent", "AzurePolicyforLinux", "ConfigurationforLinux", "DependencyAgentLinux"}

// extensionsOf sorts the VM's extensions into those that are carried over and
// those that are told as lost.
func extensionsOf(vm object, b *recreationBodies) []carriedExtension {
	var out []carriedExtension
	list, ok := vm["resources"].([]any)
	if !ok {
		return nil
	}
	for _, v := range list {
		e, ok := v.(object)
		if !ok {
			continue
		}
		p := inner(e, "properties")
		kind, name := orText(p["type"], ""), orText(e["name"], "")
		name = name[strings.LastIndex(name, "/")+1:]
		if kind == "" || name == "" {
			continue
		}
		if !slices.Contains(plainExtensions, kind) {
			b.lost = append(b.lost, fmt.Sprintf("The extension %s (%s): its protected settings can't be read. Install it on the new VM anew.", name, kind))
			continue
		}
		settings := "{}"
		if s, ok := p["settings"].(object); ok {
			if text, err := canonical(s); err == nil {
				settings = text
			}
		}
		minor, _ := p["autoUpgradeMinorVersion"].(bool)
		auto, _ := p["enableAutomaticUpgrade"].(bool)
		out = append(out, carriedExtension{name: name, settings: settings, spec: ExtensionSpec{Publisher: orText(p["publisher"], ""), Type: kind,
			Version: orText(p["typeHandlerVersion"], ""), AutoUpgradeMinor: minor, AutoUpgrade: auto}})
	}
	slices.SortFunc(out, func(a, b carriedExtension) int { return strings.Compare(a.name, b.name) })
	return out
}

// The arguments of an extension's step.
const (
	argName      = "name"
	argPublisher = "publisher"
	argType      = "type"
	argVersion   = "version"
	argSettings  = "settings"
	argAuto      = "auto-upgrade"
	argMinor     = "auto-upgrade-minor"
)

func (e carriedExtension) step(vm cvm.VM) Step {
	id := string(vm.ID) + "/extensions/" + e.name
	return Step{Kind: RestoreExtension, Target: id, Disturbs: DisturbsNone, Does: "Installs the extension " + e.name + " on the new VM, with the settings that it had.",
		Undo: azUndoExtension(vm.ID, e.name), Args: map[string]string{argVM: string(vm.ID), argName: e.name, argPublisher: e.spec.Publisher, argType: e.spec.Type,
			argVersion: e.spec.Version, argSettings: e.settings, argAuto: fmt.Sprint(e.spec.AutoUpgrade), argMinor: fmt.Sprint(e.spec.AutoUpgradeMinor)}}
}

// carriedSpec is what a step installs.
func carriedSpec(s Step) (ExtensionSpec, error) {
	spec := ExtensionSpec{Publisher: s.Args[argPublisher], Type: s.Args[argType], Version: s.Args[argVersion],
		AutoUpgrade: s.Args[argAuto] == "true", AutoUpgradeMinor: s.Args[argMinor] == "true"}
	if err := json.Unmarshal([]byte(s.Args[argSettings]), &spec.Settings); err != nil {
		return spec, fmt.Errorf("the extension's settings can't be read: %w", err)
	}
	return spec, nil
}
