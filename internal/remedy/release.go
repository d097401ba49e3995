package remedy

import (
	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// releasePolicyDoubt says what is wrong with a key's release policy for a VM, ""
// for nothing.
func releasePolicyDoubt(key cvm.Key, vm cvm.VM, d *policy.Document) string {
	return releaseFault(key.Policy, vm.Location, cvm.TEEOf(vm), d)
}

// releaseFault is the first thing that makes a release policy unfit for VMs of a
// region; tee "" asks for no TEE in particular.
func releaseFault(p cvm.ReleasePolicy, region string, tee cvm.TEE, d *policy.Document) string {
	q := cvm.PolicyQuestion{Region: region, TEE: tee, ExtraAuthorities: d.Authorities}
	for _, f := range cvm.JudgeReleasePolicy(p, q) {
		if f.State != cvm.Pass {
			return "the key's release policy isn't fit: " + f.Code
		}
	}
	return ""
}

// releasePolicyFor drafts the release policy of a region's keys; ok is false where
// the region's attestation provider isn't known.
func releasePolicyFor(region string) (json string, ok bool) {
	provider, ok := cvm.AttestationProvider(region)
	if !ok {
		return "", false
	}
	return cvm.DraftReleasePolicy(provider), true
}
