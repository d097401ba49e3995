package remedy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// What Azure decides at creation a new VM alone puts right. These are the commands
// for that: made for a person to read, adapt and run, never run by cvmguard.

// recreateCommands makes the key path ready, keeps copies of the data disks, makes
// the new VM beside the old one and moves the data disks. The old VM is left.
func recreateCommands(p cvm.Posture, d *policy.Document) []string {
	vm, id := p.VM.Value, p.ID
	name := freshName(id.Name())
	region, named := d.Region(vm.Location)
	var cmds []string
	if named {
		cmds = append(cmds, readyCommands(region, vm.Location)...)
	} else {
		cmds = append(cmds, fmt.Sprintf("# policy names no key path for the region %s: put the id of a disk encryption set of type %s into DES_ID", vm.Location, cvm.DESTypeConfidential),
			`: "${DES_ID:?}"`)
	}
	for _, dd := range vm.DataDisks {
		cmds = append(cmds, az("snapshot", "create", "--subscription", id.Subscription(), "--resource-group", dd.ID.ResourceGroup(),
			"--name", freshName(dd.ID.Name()), "--source", string(dd.ID)))
	}
	cmds = append(cmds, createVM(vm, id, name, string(region.DES))...)
	if len(vm.DataDisks) == 0 {
		return cmds
	}
	cmds = append(cmds, "# when the new VM is compliant: stop the old one and move the data disks", azDeallocate(id))
	for _, dd := range vm.DataDisks {
		cmds = append(cmds, az("vm", "disk", "detach", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(),
			"--vm-name", id.Name(), "--name", dd.ID.Name()))
		if i := slices.IndexFunc(p.DataDisks, func(f cvm.DataDiskFacts) bool { return same(f.Ref.ID, dd.ID) }); i >= 0 && needsDES(p.DataDisks[i]) {
			cmds = append(cmds, azDiskDES(dd.ID, region.DataDES)...)
		}
		cmds = append(cmds, az("vm", "disk", "attach", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(),
			"--vm-name", name, "--name", string(dd.ID), "--lun", strconv.Itoa(dd.LUN)))
	}
	return cmds
}

// readyCommands make a region's key and disk encryption set where they are missing.
func readyCommands(r policy.Region, region string) []string {
	vault := cvm.VaultID(r.Vault)
	show := az(append([]string{"keyvault", "key", "show"}, azKeyIn(vault, r.Key)...)...)
	create := az(append(append([]string{"keyvault", "key", "create"}, azKeyIn(vault, r.Key)...), keyFlags(r.KeyBits)...)...)
	return append([]string{
		show + " --output none || " + create,
		"KEY_URL=$(" + show + " --query key.kid --output tsv)",
		az("disk-encryption-set", "show", "--ids", string(r.DES)) + " --output none || " + azCreateDES(r.DES, region, r.Vault),
	}, azGrants(r.DES, keyScope{vault: vault, name: r.Key})...)
}

func createVM(vm cvm.VM, id cvm.VMID, name, des string) []string {
	var cmds []string
	image, note := imageFor(vm)
	if note != "" {
		cmds = append(cmds, "# "+oneLine(note))
	}
	size, note := sizeFor(vm.Size)
	if note != "" {
		cmds = append(cmds, "# "+oneLine(note))
	}
	words := []string{"vm", "create", "--subscription", id.Subscription(), "--resource-group", id.ResourceGroup(), "--name", name,
		"--location", vm.Location, "--size", size}
	if len(vm.Zones) > 0 {
		words = append(words, "--zone", vm.Zones[0])
	}
	words = append(words, "--security-type", "ConfidentialVM", "--enable-vtpm", "true", "--enable-secure-boot", "true",
		"--os-disk-security-encryption-type", cvm.EncryptDisk, "--admin-username", "azureuser")
	if same(vm.OS, osWindows) {
		words = append(words, "--computer-name", id.Name()[:min(len(id.Name()), 15)])
	} else {
		words = append(words, "--generate-ssh-keys")
	}
	cmd := az(words...)
	if image == "" {
		cmd += ` --image "${IMAGE:?}"`
	} else {
		cmd += " --image " + quote(image)
	}
	if des == "" {
		cmd += ` --os-disk-secure-vm-disk-encryption-set "$DES_ID"`
	} else {
		cmd += " --os-disk-secure-vm-disk-encryption-set " + quote(des)
	}
	return append(cmds, cmd)
}

// freshName is the name of what stands in for a resource: at most 64 characters.
func freshName(name string) string {
	const suffix = "-cvm"
	return name[:min(len(name), 64-len(suffix))] + suffix
}

// ubuntuImages are Canonical's images for confidential VMs, by what the name of an
// ordinary image of the same release holds.
var ubuntuImages = []struct {
	marks []string
	urn   string
	snp   bool // SEV-SNP only
}{
	{[]string{"focal", "20_04", "20.04"}, "Canonical:0001-com-ubuntu-confidential-vm-focal:20_04-lts-cvm:latest", true},
	{[]string{"jammy", "22_04", "22.04"}, "Canonical:0001-com-ubuntu-confidential-vm-jammy:22_04-lts-cvm:latest", false},
	{[]string{"noble", "24_04", "24.04"}, "Canonical:ubuntu-24_04-lts:cvm:latest", false},
}

// imageFor chooses the image for a new VM, "" where a person must; note says why.
func imageFor(vm cvm.VM) (urn, note string) {
	const choose = "set IMAGE to an image whose feature SecurityType is ConfidentialVmSupported"
	img := vm.Image
	name := strings.ToLower(img.Offer + " " + img.SKU)
	switch {
	case img.ID != "" && cvm.SecurityOf(vm) == cvm.SecurityConfidential:
		return img.ID, ""
	case img.ID != "":
		return "", "the VM comes from an image of your own, " + img.ID + ": " + choose
	case strings.Contains(name, "-pro"):
		return "", "the VM runs Ubuntu Pro (" + img.Offer + "): " + choose
	case same(img.Publisher, "Canonical"):
		for _, u := range ubuntuImages {
			if !slices.ContainsFunc(u.marks, func(m string) bool { return strings.Contains(name, m) }) {
				continue
			}
			if u.snp && cvm.TEEOfSize(vm.Size) == cvm.TEETDX {
				return "", "the image of this release is for SEV-SNP only and the size " + vm.Size + " is TDX: " + choose
			}
			return u.urn, ""
		}
	case same(img.Publisher, "MicrosoftWindowsServer") && strings.Contains(name, "2022"):
		return "MicrosoftWindowsServer:windowsserver:2022-datacenter-smalldisk-g2:latest", ""
	case same(img.Publisher, "MicrosoftWindowsServer") && strings.Contains(name, "2019"):
		return "MicrosoftWindowsServer:windowsserver:2019-datacenter-smalldisk-g2:latest", ""
	}
	return "", fmt.Sprintf("no image for confidential VMs is known for %q: %s", strings.Join([]string{img.Publisher, img.Offer, img.SKU}, ":"), choose)
}

var sizeName = regexp.MustCompile(`^standard_([a-z]+)(\d+)(?:-\d+)?([a-z]*)`)

// sizeFor keeps a confidential size, and suggests one like any other size: as many
// CPUs or the next more, memory-rich where it was, a local disk where it had one.
func sizeFor(size string) (suggestion, note string) {
	if cvm.ConfidentialSize(size) {
		return size, ""
	}
	m := sizeName.FindStringSubmatch(strings.ToLower(size))
	if m == nil {
		return "Standard_DC4as_v5", fmt.Sprintf("the size %q isn't known: choose one of the confidential families", size)
	}
	family := "DC"
	if strings.HasPrefix(m[1], "e") || strings.HasPrefix(m[1], "m") {
		family = "EC"
	}
	want, err := strconv.Atoi(m[2])
	steps := []int{2, 4, 8, 16, 32, 48, 64, 96}
	i := slices.IndexFunc(steps, func(n int) bool { return n >= want })
	if err != nil || i < 0 {
		i = len(steps) - 1
	}
	local := ""
	if strings.Contains(m[3], "d") {
		local = "d"
	}
	suggestion = fmt.Sprintf("Standard_%s%da%ss_v5", family, steps[i], local)
	return suggestion, fmt.Sprintf("%s stands in for %s; see that the region offers it: az vm list-skus --size %s", suggestion, size, suggestion)
}
