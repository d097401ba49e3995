package remedy

import (
	"regexp"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// choice is what a re-creation makes of a VM and its options.
type choice struct {
	image, size string
	des         cvm.DESID
	notes       []string
}

var (
	urnShape   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*:[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?$`)
	imageShape = regexp.MustCompile(`(?i)^/(subscriptions/[^/\s]+/resourceGroups/[^/\s]+/providers/Microsoft\.Compute/(images/[^/\s]+|galleries/[^/\s]+/images/[^/\s]+(/versions/[^/\s]+)?)|(SharedGalleries|CommunityGalleries)/[^/\s]+/Images/[^/\s]+(/Versions/[^/\s]+)?)$`)
	sizeShape  = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// check refuses options that can't be meant: what they say ends in a body that is
// put once the old VM is gone.
func (o RecreationOptions) check() error {
	const op = "planning a re-creation"
	switch {
	case o.Image != "" && !urnShape.MatchString(o.Image) && !imageShape.MatchString(o.Image):
		return fault.New(fault.Invalid, op, "image", "%q is no image; give publisher:offer:sku, publisher:offer:sku:version, or the ARM id of an image or of a gallery's image", o.Image)
	case o.Size != "" && !sizeShape.MatchString(o.Size):
		return fault.New(fault.Invalid, op, "size", "%q is no VM size; give one such as Standard_DC4as_v5", o.Size)
	}
	if o.DES != "" {
		if _, err := cvm.ParseDESID(string(o.DES)); err != nil {
			return err
		}
	}
	return nil
}

// choose settles image, size and disk encryption set. What can't be settled is a
// doubt.
func (in RecreationInput) choose(out *doubts) choice {
	c := choice{image: in.Options.Image, size: in.Options.Size, des: in.Options.DES}
	var note string
	if c.size == "" {
		c.size, note = sizeFor(in.VM.Size)
		c.note(note)
	}
	tee := cvm.TEEOfSize(c.size)
	out.when(tee != cvm.TEESNP && tee != cvm.TEETDX, "the size %s isn't one for confidential VMs: give --size", c.size)
	if c.image == "" {
		sized := in.VM
		sized.Size = c.size
		c.image, note = imageFor(sized)
		if c.image == "" {
			out.when(true, "%s: give --image", strings.ReplaceAll(note, "set IMAGE to", "choose"))
		} else {
			c.note(note)
		}
	}
	if c.image != "" {
		c.fit(out, in, tee)
	}
	if c.des == "" {
		region, ok := in.Policy.Region(in.VM.Location)
		out.when(!ok || region.DES == "", "policy names no disk encryption set for the region %s: give --des", in.VM.Location)
		c.des = region.DES
	}
	return c
}

// fit holds the image against the catalogue: Azure would refuse an unfit one only
// when the old VM is gone.
func (c *choice) fit(out *doubts, in RecreationInput, tee cvm.TEE) {
	img := cvm.Image{}
	if p := strings.Split(c.image, ":"); len(p) >= 3 {
		img.Publisher, img.Offer, img.SKU = p[0], p[1], p[2]
	}
	known, ok := cvm.LookupImage(img)
	if !ok {
		if !same(c.image, in.VM.Image.ID) {
			c.note("cvmguard doesn't know the image " + c.image + ": see before you approve that its feature SecurityType is ConfidentialVmSupported or ConfidentialVM, and that it needs no purchase plan")
		}
		return
	}
	out.when(known.Kind != cvm.ImageCVM, "the image %s (%s) isn't one for confidential VMs: give --image", c.image, known.Name())
	out.when(known.Kind == cvm.ImageCVM && !known.Supports(tee), "the image %s (%s) doesn't boot on %s, which the size %s has: give --image or --size", c.image, known.Name(), tee, c.size)
	out.when(strings.HasPrefix(known.OS, osWindows) != same(in.VM.OS, osWindows), "the image %s (%s) is for another operating system than the VM's: give --image", c.image, known.Name())
	if known.OutOfSupport(in.Now) {
		c.note(known.Name() + " is out of standard support since " + known.SupportEnds.Format("2006-01-02") + "; --image chooses another")
	}
}

func (c *choice) note(text string) {
	if text != "" {
		c.notes = append(c.notes, strings.ToUpper(text[:1])+text[1:]+".")
	}
}
