package remedy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// recreationBodies are the bodies that a re-creation puts, made of the VM as ARM
// shows it, and what they leave out.
type recreationBodies struct {
	create, back, keep string // JSON
	needs              string // rights on what the new VM names, as argNeeds has them
	digest             string // of what is carried over: another one means that the VM was changed since
	vm                 cvm.VM // the new VM as it would be read
	extensions         []carriedExtension
	lost, notes        []string // sentences
	refused            []string // clauses: what makes it impossible
}

// object is a JSON object.
type object = map[string]any

// bodies composes them.
func (in RecreationInput) bodies(c choice) (b recreationBodies, err error) {
	var old object
	if err := json.Unmarshal(in.Body, &old); err != nil {
		return b, fmt.Errorf("the VM's body can't be read: %w", err)
	}
	create := carried(old, &b)
	back := carried(old, &recreationBodies{})
	props, oldProps := inner(create, "properties"), inner(old, "properties")
	props["hardwareProfile"] = object{"vmSize": c.size}
	security := object{"securityType": "ConfidentialVM", "uefiSettings": object{"secureBootEnabled": true, "vTpmEnabled": true}}
	if yes, ok := at(oldProps, "securityProfile", "encryptionAtHost").(bool); ok && yes {
		security["encryptionAtHost"] = true
	}
	props["securityProfile"] = security
	if v, ok := oldProps["capacityReservation"].(object); ok && len(v) > 0 && !same(c.size, in.VM.Size) {
		b.refused = append(b.refused, "its capacity is reserved for the size "+in.VM.Size+", not "+c.size+": take it out of the reservation first (az vm update --ids "+quote(string(in.VM.ID))+" --capacity-reservation-group None, while it is deallocated)")
	}
	storage := inner(props, "storageProfile")
	storage["imageReference"] = imageReference(c.image)
	storage["osDisk"] = object{"name": newDiskName(in.VM), "createOption": "FromImage", "caching": orText(at(oldProps, "storageProfile", "osDisk", "caching"), "ReadWrite"),
		"deleteOption": "Detach", "managedDisk": object{
			"storageAccountType": orText(at(oldProps, "storageProfile", "osDisk", "managedDisk", "storageAccountType"), "Premium_LRS"),
			"securityProfile":    object{"securityEncryptionType": cvm.EncryptDisk, "diskEncryptionSet": object{"id": string(c.des)}}}}
	profile, why := loginOf(oldProps)
	if why != "" {
		b.refused = append(b.refused, why)
	}
	props["osProfile"] = profile

	backProps := inner(back, "properties")
	backProps["hardwareProfile"] = object{"vmSize": in.VM.Size}
	if s, ok := at(oldProps, "securityProfile").(object); ok {
		backProps["securityProfile"] = s
	}
	inner(backProps, "storageProfile")["osDisk"] = object{"createOption": "Attach", "osType": in.VM.OS, "name": in.VM.OSDisk.ID.Name(), "deleteOption": "Detach",
		"caching": orText(at(oldProps, "storageProfile", "osDisk", "caching"), "ReadWrite"), "managedDisk": oldManaged(oldProps)}

	if v, ok := at(oldProps, "storageProfile", "osDisk", "encryptionSettings").(object); ok { // of Azure Disk Encryption
		inner(inner(backProps, "storageProfile"), "osDisk")["encryptionSettings"] = v
	}

	b.extensions = extensionsOf(old, &b)
	b.lost = append(b.lost, lostWith(old, in.VM)...)
	b.notes = append(b.notes, notesOn(oldProps)...)
	if b.create, err = canonical(create); err != nil {
		return b, err
	}
	if b.back, err = canonical(back); err != nil {
		return b, err
	}
	if b.keep, err = keepBody(in.Body); err != nil {
		return b, err
	}
	if b.digest, err = carriedDigest(in.Body); err != nil {
		return b, err
	}
	b.needs = needsOf(create)
	if b.vm, err = shownAs(in.VM.ID, create); err != nil {
		return b, err
	}
	// It is decided by the image and known only then; nothing else rests on it.
	b.vm.OSDisk.ID = cvm.DiskID(strings.Replace(string(in.VM.OSDisk.ID), in.VM.OSDisk.ID.Name(), newDiskName(in.VM), 1))
	return b, nil
}

// oldManaged is the managed disk of the old OS disk as an attached one is put.
func oldManaged(props object) object {
	old := inner(inner(inner(props, "storageProfile"), "osDisk"), "managedDisk")
	out := object{"id": old["id"]}
	if s, ok := old["securityProfile"].(object); ok {
		out["securityProfile"] = s
	}
	return out
}

// carried is what comes through in any case: place, tags, identities, network
// interfaces, data disks, and settings that have no secret.
func carried(old object, b *recreationBodies) object {
	props := object{}
	out := object{"location": old["location"], "properties": props}
	if zones, ok := old["zones"].([]any); ok && len(zones) > 0 {
		out["zones"] = zones
	}
	if tags, ok := old["tags"].(object); ok {
		kept := object{}
		for k, v := range tags {
			if !strings.HasPrefix(strings.ToLower(k), "cvmguard-") { // ours are about the old VM
				kept[k] = v
			}
		}
		out["tags"] = kept
	}
	if id, ok := old["identity"].(object); ok {
		out["identity"] = identityOf(id)
	}
	if plan, ok := old["plan"].(object); ok && len(plan) > 0 {
		b.refused = append(b.refused, "it was made from a marketplace image with a purchase plan, which the new image doesn't have")
	}
	if ext, ok := old["extendedLocation"].(object); ok && len(ext) > 0 {
		b.refused = append(b.refused, "it is in an extended location, where there are no confidential VMs")
	}
	oldProps := inner(old, "properties")
	for _, name := range carriedSettings {
		if v, ok := oldProps[name]; ok && v != nil {
			props[name] = v
		}
	}
	for _, name := range []string{"host", "hostGroup"} {
		if v, ok := oldProps[name].(object); ok && len(v) > 0 {
			b.refused = append(b.refused, "it is on a dedicated host, whose hardware has no confidential VMs")
			break
		}
	}
	if yes, ok := at(oldProps, "additionalCapabilities", "ultraSSDEnabled").(bool); ok && yes {
		b.refused = append(b.refused, "it has ultra disks, which confidential VMs are not known to take")
	}
	b.refused = append(b.refused, unfitDisks(oldProps)...)
	props["networkProfile"] = object{"networkInterfaces": interfaces(oldProps)}
	props["storageProfile"] = object{"dataDisks": dataDisks(oldProps)}
	return out
}

func identityOf(id object) object {
	out := object{"type": id["type"]}
	if users, ok := id["userAssignedIdentities"].(object); ok && len(users) > 0 {
		named := object{}
		for k := range users {
			named[k] = object{}
		}
		out["userAssignedIdentities"] = named
	}
	return out
}

func interfaces(props object) []any {
	out := []any{}
	list, ok := at(props, "networkProfile", "networkInterfaces").([]any)
	if !ok {
		return out
	}
	for _, v := range list {
		nic, ok := v.(object)
		if !ok {
			continue
		}
		p := object{"deleteOption": "Detach"}
		if primary, ok := at(nic, "properties", "primary").(bool); ok {
			p["primary"] = primary
		}
		out = append(out, object{"id": nic["id"], "properties": p})
	}
	return out
}

func dataDisks(props object) []any {
	out := []any{}
	list, ok := at(props, "storageProfile", "dataDisks").([]any)
	if !ok {
		return out
	}
	for _, v := range list {
		d, ok := v.(object)
		if !ok {
			continue
		}
		p := object{"lun": d["lun"], "name": d["name"], "createOption": "Attach", "deleteOption": "Detach",
			"caching": orText(d["caching"], "None"), "managedDisk": object{"id": at(d, "managedDisk", "id")}}
		if yes, ok := d["writeAcceleratorEnabled"].(bool); ok && yes {
			p["writeAcceleratorEnabled"] = true
		}
		out = append(out, p)
	}
	return out
}

// loginOf is how people log in to the new VM: by the same keys. A password can't
// be read.
func loginOf(props object) (profile object, why string) {
	old := inner(props, "osProfile")
	linux, _ := old["linuxConfiguration"].(object)
	keys, _ := at(linux, "ssh", "publicKeys").([]any)
	if len(keys) == 0 {
		return nil, "no SSH key for its administrator is known to Azure, and a password can't be read: make the new VM beside it by the commands of its advice " + string(Recreate)
	}
	cfg := object{"disablePasswordAuthentication": true, "ssh": object{"publicKeys": keys}}
	for _, name := range []string{"provisionVMAgent", "patchSettings", "enableVMAgentPlatformUpdates"} {
		if v, ok := linux[name]; ok {
			cfg[name] = v
		}
	}
	out := object{"computerName": old["computerName"], "adminUsername": old["adminUsername"], "linuxConfiguration": cfg}
	if v, ok := old["allowExtensionOperations"]; ok {
		out["allowExtensionOperations"] = v
	}
	return out, ""
}

// keepBody is the PATCH that makes a VM's disks and interfaces outlive it.
func keepBody(body []byte) (string, error) {
	var old object
	if err := json.Unmarshal(body, &old); err != nil {
		return "", fmt.Errorf("the VM's body can't be read: %w", err)
	}
	props := inner(old, "properties")
	disks := []any{}
	if list, ok := at(props, "storageProfile", "dataDisks").([]any); ok {
		for _, v := range list {
			if d, ok := v.(object); ok {
				disks = append(disks, keptDisk(d))
			}
		}
	}
	storage := object{"osDisk": object{"deleteOption": "Detach"}}
	if len(disks) > 0 {
		storage["dataDisks"] = disks
	}
	return canonical(object{"properties": object{"storageProfile": storage, "networkProfile": object{"networkInterfaces": interfaces(props)}}})
}

// keptDisk is a data disk's entry with only its deleteOption changed: a list in a
// PATCH takes the old one's place, so what it left out would be set back.
func keptDisk(d object) object {
	out, managed := object{}, object{}
	for _, name := range []string{"lun", "name", "createOption", "caching", "writeAcceleratorEnabled", "detachOption"} {
		if v, ok := d[name]; ok && v != nil {
			out[name] = v
		}
	}
	for _, name := range []string{"id", "storageAccountType", "diskEncryptionSet", "securityProfile"} {
		if v, ok := inner(d, "managedDisk")[name]; ok && v != nil {
			managed[name] = v
		}
	}
	out["deleteOption"], out["managedDisk"] = "Detach", managed
	return out
}

// kept says whether a VM's disks and interfaces outlive it, by its body.
func kept(body []byte) (bool, error) {
	var vm object
	if err := json.Unmarshal(body, &vm); err != nil {
		return false, fmt.Errorf("the VM's body can't be read: %w", err)
	}
	props := inner(vm, "properties")
	stays := func(v any) bool { s, ok := v.(string); return ok && strings.EqualFold(s, "Detach") }
	if !stays(at(props, "storageProfile", "osDisk", "deleteOption")) {
		return false, nil
	}
	for _, path := range [][]string{{"storageProfile", "dataDisks"}, {"networkProfile", "networkInterfaces"}} {
		list, _ := at(props, path...).([]any)
		if slices.ContainsFunc(list, func(v any) bool {
			o, _ := v.(object)
			return !stays(o["deleteOption"]) && !stays(at(o, "properties", "deleteOption"))
		}) {
			return false, nil
		}
	}
	return true, nil
}

// imageReference reads publisher:offer:sku:version or an ARM id.
func imageReference(image string) object {
	switch lower := strings.ToLower(image); {
	case strings.HasPrefix(lower, "/sharedgalleries/"):
		return object{"sharedGalleryImageId": image}
	case strings.HasPrefix(lower, "/communitygalleries/"):
		return object{"communityGalleryImageId": image}
	case strings.HasPrefix(image, "/"):
		return object{"id": image}
	}
	p := append(strings.Split(image, ":"), "", "", "", "")
	if p[3] == "" {
		p[3] = "latest"
	}
	return object{"publisher": p[0], "offer": p[1], "sku": p[2], "version": p[3]}
}

// newDiskName is that of the new OS disk: the old one keeps its own.
func newDiskName(vm cvm.VM) string {
	return fmt.Sprintf("%.60s-os-%s", vm.Name, shortUnique(vm.UniqueID))
}

func inner(o object, name string) object {
	v, ok := o[name].(object)
	if !ok {
		return object{}
	}
	return v
}

// at follows names through objects, nil where one isn't there.
func at(o object, path ...string) any {
	var v any = o
	for _, name := range path {
		m, ok := v.(object)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func orText(v any, otherwise string) string {
	if s, ok := v.(string); ok && s != "" {
		return s
	}
	return otherwise
}
