package cvm

import (
	_ "embed"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed images.json
var imagesJSON []byte

// ImageKind is what sort of VM a marketplace image is made for.
type ImageKind string

// The kinds of image.
const (
	ImageCVM           ImageKind = "cvm"            // confidential VMs
	ImageTrustedLaunch ImageKind = "trusted-launch" // generation 2, Trusted Launch, no TEE
)

// CatalogImage is a marketplace image that cvmguard knows.
type CatalogImage struct {
	Publisher string    `json:"publisher"`
	Offer     string    `json:"offer"` // publisher, offer and SKU are patterns of * and ?, without regard to case
	SKU       string    `json:"sku"`
	OS        string    `json:"os"`      // Ubuntu, Ubuntu Pro, Windows Server
	Release   string    `json:"release"` // 22.04, 2022
	Kind      ImageKind `json:"kind"`
	TEEs      []TEE     `json:"tees,omitempty"` // that it boots on; none for Trusted Launch images
	// FDE says whether a confidential OS disk makes the image's root an encrypted
	// one that is sealed to the vTPM, as Ubuntu's confidential images have it.
	FDE bool `json:"fde,omitempty"`
	// SupportEnds is the last day (UTC) of the release's standard support, zero
	// where the catalogue doesn't say.
	SupportEnds time.Time `json:"supportEnds,omitzero"`
	Source      string    `json:"source"` // where it is documented
}

// Name is the image's release for a person, e.g. "Ubuntu 22.04".
func (c CatalogImage) Name() string { return c.OS + " " + c.Release }

// Supports says whether the image boots on a TEE.
func (c CatalogImage) Supports(t TEE) bool { return slices.Contains(c.TEEs, t) }

// OutOfSupport says whether the last day of standard support is past.
func (c CatalogImage) OutOfSupport(now time.Time) bool {
	return !c.SupportEnds.IsZero() && !now.Before(c.SupportEnds.AddDate(0, 0, 1))
}

// UnmarshalJSON reads supportEnds as a day.
func (c *CatalogImage) UnmarshalJSON(b []byte) error {
	type plain CatalogImage
	v := struct {
		*plain
		SupportEnds string `json:"supportEnds"`
	}{plain: (*plain)(c)}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if v.SupportEnds == "" {
		return nil
	}
	var err error
	c.SupportEnds, err = time.Parse(time.DateOnly, v.SupportEnds)
	return err
}

var imageCatalog = sync.OnceValue(func() []CatalogImage {
	var file struct {
		Images []CatalogImage `json:"images"`
	}
	if err := json.Unmarshal(imagesJSON, &file); err != nil {
		panic("cvm: the embedded images.json is broken: " + err.Error())
	}
	return file.Images
})

// CatalogImages are all images of the catalogue.
func CatalogImages() []CatalogImage { return slices.Clone(imageCatalog()) }

// LookupImage finds a marketplace image. ok is false for gallery images and all
// others that the catalogue doesn't have.
func LookupImage(img Image) (c CatalogImage, ok bool) {
	if img.Publisher == "" || img.Offer == "" || img.SKU == "" {
		return CatalogImage{}, false
	}
	for _, c := range imageCatalog() {
		if matchFold(c.Publisher, img.Publisher) && matchFold(c.Offer, img.Offer) && matchFold(c.SKU, img.SKU) {
			return c, true
		}
	}
	return CatalogImage{}, false
}

// ImageOf is the image that a VM was made from: its own reference or, where it
// has none (a VM made from a specialised disk), the one that its OS disk
// remembers. ok is false where neither names one.
func ImageOf(vm VM, os Fact[Disk]) (img Image, ok bool) {
	if vm.Image.Publisher != "" || vm.Image.ID != "" {
		if img, ok := ParseImageID(vm.Image.ID); ok && vm.Image.Publisher == "" {
			return img, true
		}
		return vm.Image, true
	}
	if !os.Known || os.Value.ImageID == "" {
		return Image{}, false
	}
	if img, ok := ParseImageID(os.Value.ImageID); ok {
		return img, true
	}
	return Image{ID: os.Value.ImageID}, true
}

// ParseImageID reads the ARM id of a marketplace image version, as a disk's
// creationData names it:
// /Subscriptions/…/Providers/Microsoft.Compute/Locations/…/Publishers/P/ArtifactTypes/VMImage/Offers/O/Skus/S/Versions/V.
// ok is false for any other id.
func ParseImageID(id string) (img Image, ok bool) {
	parts := strings.Split(strings.TrimPrefix(id, "/"), "/")
	if len(id) > maxIDLength || len(parts)%2 != 0 {
		return Image{}, false
	}
	img.ID = id
	for i := 0; i < len(parts); i += 2 {
		switch value := parts[i+1]; strings.ToLower(parts[i]) {
		case "publishers":
			img.Publisher = value
		case "offers":
			img.Offer = value
		case "skus":
			img.SKU = value
		case "versions":
			img.Version = value
		case "providers":
			if !strings.EqualFold(value, "Microsoft.Compute") {
				return Image{}, false
			}
		case "artifacttypes":
			if !strings.EqualFold(value, "VMImage") {
				return Image{}, false
			}
		}
	}
	if img.Publisher == "" || img.Offer == "" || img.SKU == "" {
		return Image{}, false
	}
	return img, true
}

// matchFold matches a pattern of * and ? without regard to case.
func matchFold(pattern, text string) bool {
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
