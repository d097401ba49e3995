package remedy

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// NetworkInterface is a network interface, as far as a re-creation asks.
type NetworkInterface struct {
	ID          string
	Accelerated bool // it has accelerated networking
}

// Lock is a management lock.
type Lock struct {
	ID, Level string
}

// Surroundings are what stands around a VM that is to be deleted and made anew:
// Azure would refuse the one or the other only when the VM is down or gone.
type Surroundings struct {
	Interfaces []cvm.Fact[NetworkInterface] // in the VM's order
	Locks      cvm.Fact[[]Lock]             // that hold at the VM, those of its group and subscription too
}

// readSurroundings reads them. body is the VM as ARM shows it.
func readSurroundings(ctx context.Context, az RecreationReader, id cvm.VMID, body []byte) (s Surroundings, err error) {
	for _, nic := range interfaceIDs(body) {
		f, err := factOf(az.NetworkInterface(ctx, nic))("network-interface-unreadable")
		if err != nil {
			return s, err
		}
		s.Interfaces = append(s.Interfaces, f)
	}
	s.Locks, err = factOf(az.Locks(ctx, id))("locks-unreadable")
	return s, err
}

func (s Surroundings) doubts(out *doubts) {
	for i, f := range s.Interfaces {
		if nic, ok := read(out, f, fmt.Sprintf("network interface %d", i)); ok {
			out.when(nic.Accelerated, "the network interface %s has accelerated networking, which confidential VMs don't have: deallocate the VM and switch it off (%s)",
				nic.ID[strings.LastIndex(nic.ID, "/")+1:], az("network", "nic", "update", "--ids", nic.ID, "--accelerated-networking", "false"))
		}
	}
	if locks, ok := read(out, s.Locks, "whether a lock keeps the VM"); ok {
		for _, l := range locks {
			out.when(true, "the lock %s (%s) keeps the VM from being deleted: take it off first (%s)", l.ID[strings.LastIndex(l.ID, "/")+1:], l.Level, az("lock", "delete", "--ids", l.ID))
		}
	}
}

// interfaceIDs are the network interfaces of a VM's body.
func interfaceIDs(body []byte) []string {
	var vm object
	if json.Unmarshal(body, &vm) != nil {
		return nil // the bodies' making says so
	}
	var out []string
	for _, v := range interfaces(inner(vm, "properties")) {
		out = append(out, orText(v.(object)["id"], ""))
	}
	return out
}

// needsOf lists the rights that Azure asks for on what a body names when a VM is
// created of it: "action scope", separated by commas. Images of shared and community
// galleries aren't resources of a subscription: nobody has rights on them.
func needsOf(body object) string {
	var out []string
	need := func(id string, actions ...string) {
		for _, action := range actions {
			if id != "" {
				out = append(out, action+" "+id)
			}
		}
	}
	props := inner(body, "properties")
	for _, v := range interfaces(props) {
		need(orText(v.(object)["id"], ""), "Microsoft.Network/networkInterfaces/join/action")
	}
	for identity := range inner(inner(body, "identity"), "userAssignedIdentities") {
		need(identity, "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action")
	}
	need(orText(at(props, "capacityReservation", "capacityReservationGroup", "id"), ""), "Microsoft.Compute/capacityReservationGroups/deploy/action")
	image := orText(at(props, "storageProfile", "imageReference", "id"), "")
	const version = "Microsoft.Compute/galleries/images/versions/read"
	switch lower := strings.ToLower(image); {
	case strings.Contains(lower, "/galleries/") && strings.Contains(lower, "/versions/"):
		need(image, version)
	case strings.Contains(lower, "/galleries/"): // its newest version
		need(image, "Microsoft.Compute/galleries/images/read", version)
	default:
		need(image, "Microsoft.Compute/images/read")
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// lacking says which rights the re-creation's own steps would be refused for.
// Without them the VM would be taken down and stay down.
func lacking(ctx context.Context, az Recreator, id cvm.VMID, needs string) ([]string, error) {
	const vm = "Microsoft.Compute/virtualMachines"
	asked := []string{string(id)}
	actions := map[string][]string{string(id): {vm + "/write", vm + "/deallocate/action", vm + "/delete", "Microsoft.Compute/disks/write"}}
	for need := range strings.SplitSeq(needs, ",") {
		action, scope, ok := strings.Cut(need, " ")
		if !ok {
			continue
		}
		if _, ok := actions[scope]; !ok {
			asked = append(asked, scope)
		}
		actions[scope] = append(actions[scope], action)
	}
	var out []string
	for _, scope := range asked {
		lack, err := az.Lacking(ctx, scope, actions[scope])
		if err != nil && passes(err) {
			return nil, err
		}
		if err != nil {
			out = append(out, fmt.Sprintf("cvmguard's own rights on %s weren't read (%s)", scope, fault.Action(err)))
			continue
		}
		for _, action := range lack {
			next := "deploy with grantRemedies and grantRecreation, or grant it"
			if strings.HasSuffix(action, "/read") || strings.Contains(action, "capacityReservationGroups") {
				next = "grant it there: few VMs need it, so the deployment doesn't"
			}
			out = append(out, fmt.Sprintf("cvmguard's identity lacks %s on %s: %s", action, scope, next))
		}
	}
	slices.Sort(out)
	return out, nil
}
