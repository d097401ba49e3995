package policy

import (
	"fmt"
	"time"

	"cvmguard/internal/cvm"
)

// image finds the image that the VM was made from in the catalogue. Without an
// entry nothing is known against the VM, and the finding says so: gallery images
// and specialised disks have none.
func (s *subject) image() (cvm.CatalogImage, []Finding) {
	if list := s.needVM(); list != nil {
		return cvm.CatalogImage{}, list
	}
	img, named := cvm.ImageOf(s.vm, s.p.OSDisk)
	if c, ok := cvm.LookupImage(img); ok {
		return c, nil
	}
	text := "Neither the VM nor its OS disk names an image."
	if named {
		text = "The image isn't one that cvmguard's catalogue of marketplace images has."
	}
	return cvm.CatalogImage{}, one(Finding{State: cvm.NotApplicable, Reason: "image-unlisted", Text: text})
}

// judgeImageTEE compares the image's TEEs with that of the VM's size.
func judgeImageTEE(s *subject) []Finding {
	if list := s.needCVM(); list != nil {
		return list
	}
	img, list := s.image()
	if list != nil {
		return list
	}
	const code = "image-tee-unsupported"
	facts := []string{"vm.image", "vm.size"}
	switch {
	case s.tee == cvm.TEENone:
		return notApplicable(fmt.Sprintf("The size %s has no TEE.", s.vm.Size))
	case s.tee == cvm.TEEUnknown && img.Supports(cvm.TEESNP) && img.Supports(cvm.TEETDX), img.Supports(s.tee):
		return pass(fmt.Sprintf("The image %s is made for the VM's TEE.", img.Name()), facts...)
	case len(img.TEEs) == 0:
		return one(fail(code, NeedsRecreate, fmt.Sprintf("The image %s is made for Trusted Launch, not for confidential VMs.", img.Name()), facts...))
	case s.tee == cvm.TEEUnknown:
		return one(unknown(code, NeedsPerson, fmt.Sprintf("The image %s isn't made for every TEE, and which one the size %q has isn't known.", img.Name(), s.vm.Size), facts...))
	}
	return one(fail(code, NeedsRecreate, fmt.Sprintf("The image %s isn't made for the VM's TEE (%s).", img.Name(), s.tee), facts...))
}

// judgeImageSupport looks at the end of the release's standard support.
func judgeImageSupport(s *subject) []Finding {
	img, list := s.image()
	switch {
	case list != nil:
		return list
	case img.SupportEnds.IsZero():
		return notApplicable(fmt.Sprintf("The catalogue doesn't say how long %s is supported.", img.Name()))
	case img.OutOfSupport(s.now):
		return one(fail("image-out-of-support", NeedsPerson, fmt.Sprintf("Standard support of the image's release, %s, ended on %s.",
			img.Name(), img.SupportEnds.Format(time.DateOnly)), "vm.image"))
	}
	return pass(fmt.Sprintf("The image's release, %s, is in standard support until %s.", img.Name(), img.SupportEnds.Format(time.DateOnly)), "vm.image")
}
