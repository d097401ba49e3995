package cvm

import (
	"strings"
	"testing"
	"time"
)

func TestImageCatalogIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range CatalogImages() {
		key := strings.ToLower(c.Publisher + ":" + c.Offer + ":" + c.SKU)
		switch {
		case seen[key]:
			t.Errorf("%s is there twice", key)
		case c.OS == "" || c.Release == "" || !strings.HasPrefix(c.Source, "https://"):
			t.Errorf("%s lacks its release or source", key)
		case c.Kind == ImageCVM && len(c.TEEs) == 0, c.Kind == ImageTrustedLaunch && (len(c.TEEs) > 0 || c.FDE), c.Kind != ImageCVM && c.Kind != ImageTrustedLaunch:
			t.Errorf("%s: kind %q with TEEs %v, FDE %t", key, c.Kind, c.TEEs, c.FDE)
		case strings.HasPrefix(c.OS, "Ubuntu") && c.SupportEnds.IsZero():
			t.Errorf("%s: no end of support", key)
		}
		for _, tee := range c.TEEs {
			if tee != TEESNP && tee != TEETDX {
				t.Errorf("%s: TEE %q", key, tee)
			}
		}
		seen[key] = true
	}
}

func TestLookupImage(t *testing.T) {
	for _, tt := range []struct {
		urn, name string
		tees      int
		fde       bool
	}{
		{"Canonical:0001-com-ubuntu-confidential-vm-focal:20_04-lts-cvm", "Ubuntu 20.04", 1, true},
		{"canonical:0001-COM-ubuntu-confidential-vm-jammy:22_04-LTS-cvm", "Ubuntu 22.04", 2, true},
		{"Canonical:Ubuntu-24_04-lts:cvm", "Ubuntu 24.04", 2, true},
		{"Canonical:ubuntu-24_04-lts:ubuntu-pro-cvm", "Ubuntu Pro 24.04", 2, true},
		{"Canonical:0001-com-ubuntu-server-jammy:22_04-lts-gen2", "Ubuntu 22.04", 0, false},
		{"Canonical:ubuntu-26_04-lts:server", "Ubuntu 26.04", 0, false},
		{"MicrosoftWindowsServer:WindowsServer:2022-datacenter-smalldisk-g2", "Windows Server 2022", 2, false},
		{"MicrosoftWindowsServer:windowsserver:2019-Datacenter-smalldisk-g2", "Windows Server 2019", 2, false},
		{"Canonical:0001-com-ubuntu-server-jammy:22_04-lts", "", 0, false}, // generation 1
		{"Canonical:ubuntu-24_04-lts:server-gen1", "", 0, false},
		{"Evil:ubuntu-24_04-lts:cvm", "", 0, false},
		{"::", "", 0, false},
	} {
		p := strings.Split(tt.urn, ":")
		c, ok := LookupImage(Image{Publisher: p[0], Offer: p[1], SKU: p[2]})
		if ok != (tt.name != "") || ok && (c.Name() != tt.name || len(c.TEEs) != tt.tees || c.FDE != tt.fde) {
			t.Errorf("%s: %+v, %t", tt.urn, c, ok)
		}
	}
	focal, _ := LookupImage(Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-confidential-vm-focal", SKU: "20_04-lts-cvm"})
	last := time.Date(2025, 5, 31, 23, 59, 59, 0, time.UTC)
	if focal.Supports(TEETDX) || !focal.Supports(TEESNP) || focal.OutOfSupport(last) || !focal.OutOfSupport(last.Add(time.Second)) {
		t.Errorf("focal: %+v", focal)
	}
	if (CatalogImage{}).OutOfSupport(last) {
		t.Error("an image without a date is out of support")
	}
}

const imageVersionID = "/Subscriptions/00000000-0000-0000-0000-000000000001/Providers/Microsoft.Compute/Locations/northeurope/Publishers/Canonical/ArtifactTypes/VMImage/Offers/0001-com-ubuntu-confidential-vm-jammy/Skus/22_04-lts-cvm/Versions/22.04.202501010"

func TestImageOf(t *testing.T) {
	jammy := Image{Publisher: "Canonical", Offer: "0001-com-ubuntu-confidential-vm-jammy", SKU: "22_04-lts-cvm"}
	gallery := "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/i/versions/1.0.0"
	disk := Known(Disk{ImageID: imageVersionID})
	for _, tt := range []struct {
		name   string
		vm     Image
		disk   Fact[Disk]
		offer  string
		listed bool
	}{
		{"the VM's own", jammy, Fact[Disk]{}, jammy.Offer, true},
		{"the VM's own before the disk's", Image{Publisher: "X", Offer: "Y", SKU: "Z"}, disk, "Y", false},
		{"a specialised disk that remembers", Image{}, disk, jammy.Offer, true},
		{"a gallery image", Image{ID: gallery}, disk, "", false},
		{"a disk from a gallery", Image{}, Known(Disk{ImageID: gallery}), "", false},
		{"nothing", Image{}, Known(Disk{}), "", false},
		{"nothing, disk unread", Image{}, Fact[Disk]{}, "", false},
	} {
		img, _ := ImageOf(VM{Image: tt.vm}, tt.disk)
		if _, listed := LookupImage(img); img.Offer != tt.offer || listed != tt.listed {
			t.Errorf("%s: %+v, listed %t", tt.name, img, listed)
		}
	}
}

func FuzzParseImageID(f *testing.F) {
	f.Add(imageVersionID)
	f.Add("/subscriptions/s/publishers/p/offers/o/skus")
	f.Add("")
	f.Fuzz(func(t *testing.T, id string) {
		img, ok := ParseImageID(id)
		if ok && (img.Publisher == "" || img.Offer == "" || img.SKU == "" || img.ID != id) {
			t.Errorf("%q gives %+v", id, img)
		}
		LookupImage(img)
	})
}
