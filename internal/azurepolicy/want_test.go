package azurepolicy

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// TestWantIsNeverWider draws want clauses and VMs: the condition takes what the
// clause takes, and where a pattern can't be said, fewer and never more.
func TestWantIsNeverWider(t *testing.T) {
	word := func(letters string) *rapid.Generator[string] { return rapid.StringMatching("[" + letters + "]{0,4}") }
	pattern := rapid.OneOf(
		word("ab"), word("ab*"), word("ab*?"), rapid.Just("[a]"),
		rapid.Custom(func(t *rapid.T) string {
			return strings.Join([]string{word("ab*").Draw(t, "p"), word("ab*").Draw(t, "o"), word("ab*").Draw(t, "s")}, ":")
		}))
	value := rapid.OneOf(word("ab"), word("aB"), rapid.Just("[a]"))
	selector := rapid.Custom(func(t *rapid.T) policy.Selector {
		s := policy.Selector{Name: pattern.Draw(t, "name"), ResourceGroup: pattern.Draw(t, "group"), Size: pattern.Draw(t, "size"), Image: pattern.Draw(t, "image")}
		for _, part := range []*string{&s.Name, &s.ResourceGroup, &s.Size, &s.Image} {
			if rapid.Bool().Draw(t, "left out") {
				*part = ""
			}
		}
		if s.Name+s.ResourceGroup+s.Size+s.Image == "" || rapid.Bool().Draw(t, "tagged") {
			s.Tags = map[string]string{rapid.SampledFrom([]string{"t", "T", "it's"}).Draw(t, "tag"): pattern.Draw(t, "value")}
		}
		return s
	})
	nonempty := func(s, other string) string {
		if s == "" {
			return other
		}
		return s
	}
	rapid.Check(t, func(t *rapid.T) {
		w := policy.Want{Include: rapid.SliceOfN(selector, 0, 2).Draw(t, "include"), Exclude: rapid.SliceOfN(selector, 0, 2).Draw(t, "exclude")}
		name, group := nonempty(value.Draw(t, "vm"), "a"), nonempty(value.Draw(t, "rg"), "b")
		vm := cvm.VM{ID: cvm.VMID("/subscriptions/s/resourceGroups/" + group + "/providers/Microsoft.Compute/virtualMachines/" + name), Name: name, Size: value.Draw(t, "vmSize")}
		if rapid.Bool().Draw(t, "gallery") {
			vm.Image.ID = value.Draw(t, "image id")
		} else {
			vm.Image = cvm.Image{Publisher: nonempty(value.Draw(t, "publisher"), "a"), Offer: nonempty(value.Draw(t, "offer"), "a"), SKU: nonempty(value.Draw(t, "sku"), "a")}
		}
		if rapid.Bool().Draw(t, "has tag") {
			vm.Tags = map[string]string{"t": value.Draw(t, "tag value")}
		}
		c, inexact := wanted(w, false)
		want := w.Wants(vm)
		for _, r := range []Resource{OfVM(vm), mustResource(t, string(vm.ID), vmBody(vm))} {
			got := c.always
			if !c.always && !c.never {
				var err error
				if got, err = c.cond.Evaluate(r, nil); err != nil {
					t.Fatal(err)
				}
			}
			if got && !want || want && !got && len(inexact) == 0 && sized(vm) {
				t.Fatalf("%+v\nwants %+v: %v, the condition says %v (inexact %q)", w, vm, want, got, inexact)
			}
		}
	})
}

// sized leaves out VMs that no request makes: without a size or an image's id.
func sized(vm cvm.VM) bool { return vm.Size != "" && (vm.Image.ID != "" || vm.Image.Publisher != "") }

func mustResource(t *rapid.T, id string, body []byte) Resource {
	r, err := NewResource(id, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWantThatCantBeSaidIsListed(t *testing.T) {
	d := document(t, `want: {include: [{name: "a*b*c"}, {name: ok-*}], exclude: [{name: "?x", size: Standard_D*}]}`)
	i := export(t, d)
	if len(i.Inexact) != 5 || !strings.Contains(i.Inexact[3], `scale sets: want.include[1] is left out`) || !strings.Contains(i.Inexact[3], `name "ok-*" is about names that a set gives its VMs later`) || !strings.Contains(i.Inexact[0], `want.include[0] is left out`) || !strings.Contains(i.Inexact[1], `want.exclude[0] takes more VMs out`) {
		t.Errorf("%q", i.Inexact)
	}
	for name, want := range map[string]bool{"ok-1": true, "aXbXc": false} {
		vm := cvm.VM{ID: cvm.VMID(strings.Replace(string(vmID), "pay-1", name, 1)), Name: name, Size: "Standard_E4s_v5"}
		if got := hits(t, i, OfVM(vm))["vm-kind"]; got != want {
			t.Errorf("%s: refused %v, want %v", name, got, want)
		}
	}
	none := export(t, document(t, `want: {include: [{name: "a?b"}]}`))
	if h := hits(t, none, OfVM(cvm.VM{ID: vmID, Size: "Standard_E4s_v5"})); h["vm-kind"] {
		t.Error("a policy whose only selector can't be said refuses a VM")
	}
}

// TestPatterns compares each form of pattern that can be said with the policy's
// own matching, over images, sizes and names that it takes and that it doesn't.
func TestPatterns(t *testing.T) {
	vms := []cvm.VM{}
	for _, img := range []cvm.Image{
		{Publisher: "Canonical", Offer: "ubuntu-24_04-lts", SKU: "cvm"}, {Publisher: "canonical", Offer: "0001-com-ubuntu-confidential-vm-jammy", SKU: "22_04-lts-cvm"},
		{Publisher: "MicrosoftWindowsServer", Offer: "windowsserver", SKU: "2022-datacenter-smalldisk-g2"}, {Publisher: "cvm", Offer: "canonical", SKU: "x"},
		{ID: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/galleries/g1/images/cvm"},
	} {
		for _, size := range []string{"Standard_DC4as_v5", "Standard_D4s_v5", "ab"} {
			vms = append(vms, cvm.VM{ID: vmID, Name: "pay-1", Size: size, Image: img})
		}
	}
	said := 0
	for _, pattern := range []string{"*", "**", "Canonical*", "*cvm", "*cvm*", "canonical*cvm", "/subscriptions/*", "*/images/cvm", "Canonical:*:*", "*:*ubuntu*:*cvm", "canonical:ubuntu-24_04-lts:cvm",
		"*:windowsserver:*", "Standard_DC*", "*as_v5", "*4*", "standard_d4s_v5", "ab*b", "abb*", "canon*cvm", "pay-*", "pay-?", "a*b*c", "a:b", "a:b:c:d", "::", "cvm"} {
		for _, s := range []policy.Selector{{Image: pattern}, {Size: pattern}, {Name: pattern}, {ResourceGroup: pattern}} {
			w := policy.Want{Include: []policy.Selector{s}}
			c, inexact := wanted(w, false)
			if len(inexact) == 0 {
				said++
			}
			for _, vm := range vms {
				got := c.always
				if !c.always && !c.never {
					var err error
					if got, err = c.cond.Evaluate(OfVM(vm), nil); err != nil {
						t.Fatal(err)
					}
				}
				if want := w.Wants(vm); got && !want || want && !got && len(inexact) == 0 {
					t.Errorf("%+v on %s, %+v: %v, want %v", s, vm.Size, vm.Image, got, want)
				}
			}
		}
	}
	if said < 70 {
		t.Errorf("only %d patterns were said", said)
	}
}
