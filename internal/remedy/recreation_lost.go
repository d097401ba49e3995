package remedy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// carriedSettings are the properties that a re-creation takes over as they are.
var carriedSettings = []string{"availabilitySet", "proximityPlacementGroup", "diagnosticsProfile", "licenseType", "priority", "evictionPolicy", "billingProfile",
	"capacityReservation", "scheduledEventsProfile", "applicationProfile"}

// settled are the properties that a re-creation settles, or that Azure fills in.
// Any other that a VM has is told as lost: Azure's API grows, this list doesn't.
var settled = []string{"vmId", "provisioningState", "instanceView", "timeCreated", "host", "hostGroup", "virtualMachineScaleSet", "userData",
	"hardwareProfile.vmSize", "storageProfile.imageReference", "storageProfile.osDisk", "storageProfile.dataDisks", "storageProfile.diskControllerType",
	"networkProfile.networkInterfaces", "networkProfile.networkApiVersion", "securityProfile.securityType", "securityProfile.uefiSettings", "securityProfile.encryptionAtHost",
	"osProfile.computerName", "osProfile.adminUsername", "osProfile.adminPassword", "osProfile.customData", "osProfile.allowExtensionOperations", "osProfile.requireGuestProvisionSignal",
	"osProfile.linuxConfiguration", "osProfile.windowsConfiguration"}

// leftOut names the settings of a VM that the new one doesn't get.
func leftOut(props object) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(props)) {
		if slices.Contains(carriedSettings, name) || slices.Contains(settled, name) {
			continue
		}
		group, ok := props[name].(object)
		if !ok {
			if says(props[name]) {
				out = append(out, name)
			}
			continue
		}
		for _, part := range slices.Sorted(maps.Keys(group)) {
			if path := name + "." + part; !slices.Contains(settled, path) && says(group[part]) {
				out = append(out, path)
			}
		}
	}
	return out
}

// says whether a setting says anything: one that is off or empty is as good as not
// there.
func says(v any) bool {
	switch v := v.(type) {
	case nil:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case object:
		return len(v) > 0
	}
	return true
}

// lostWith tells what doesn't come through with a new VM.
func lostWith(old object, vm cvm.VM) []string {
	props := inner(old, "properties")
	out := []string{"What lies on the OS disk and on a temporary disk; the disk is kept.",
		"The vTPM with all that was sealed to it, and keys in the guest.",
		"User data, custom data, protected settings of extensions and passwords, which can't be read.",
		"What hangs on the VM's own id, as it is deleted with it: role assignments, locks, policy exemptions, diagnostic settings, data collection rules, maintenance assignments, Run Commands.",
		"What knows the VM by its vmId, such as Azure Backup and Site Recovery: the old recovery points stay, protection of the new VM must be set up anew."}
	if vm.PrincipalID != "" || strings.Contains(strings.ToLower(orText(at(old, "identity", "type"), "")), "systemassigned") {
		out = append(out, fmt.Sprintf("The system identity's principal %s with its role assignments, access policies and group memberships: the new VM has another; list them before (az role assignment list --assignee %s --all) and give them to the new one.",
			vm.PrincipalID, quote(orText(vm.PrincipalID, "PRINCIPAL"))))
	}
	if gb, ok := at(props, "storageProfile", "osDisk", "diskSizeGB").(float64); ok {
		out = append(out, fmt.Sprintf("The OS disk's size of %.0f GB: the new one is as large as its image. A confidential OS disk is below 128 GB.", gb))
	}
	if names := leftOut(props); len(names) > 0 {
		out = append(out, "These settings of the VM, which aren't carried over: "+strings.Join(names, ", ")+".")
	}
	return out
}

// notesOn tells what of a VM's settings may stand in the way of the new one.
func notesOn(props object) []string {
	var out []string
	for _, group := range []struct{ name, what string }{{"availabilitySet", "availability set"}, {"proximityPlacementGroup", "proximity placement group"}} {
		if id := orText(at(props, group.name, "id"), ""); id != "" {
			out = append(out, fmt.Sprintf("The new VM goes into the same %s (%s), which ties it to hardware near its other members: there may be no confidential hardware there.", group.what, id[strings.LastIndex(id, "/")+1:]))
		}
	}
	if same(orText(props["priority"], ""), "Spot") {
		out = append(out, "It is a spot VM, and the new one too, at the same highest price: there may be no spot capacity of the new size.")
	}
	if same(orText(at(props, "storageProfile", "diskControllerType"), ""), "NVMe") {
		out = append(out, "Its disks are on an NVMe controller, the new VM's on what its size has by default: device names change, so mount by UUID.")
	}
	return out
}

// unfitDisks are the data disks that can't be attached to the new VM as they are.
func unfitDisks(props object) []string {
	var out []string
	list, _ := at(props, "storageProfile", "dataDisks").([]any)
	for _, v := range list {
		d, _ := v.(object)
		name := orText(d["name"], fmt.Sprintf("at LUN %v", d["lun"]))
		switch {
		case orText(at(d, "managedDisk", "id"), "") == "":
			out = append(out, "the data disk "+name+" isn't a managed disk: convert it first (az vm convert)")
		case says(at(d, "managedDisk", "securityProfile")):
			out = append(out, "the data disk "+name+" is encrypted confidentially, and whether another VM can open it isn't known: copy its data")
		}
	}
	return out
}
