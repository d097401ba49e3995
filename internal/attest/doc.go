// Package attest judges one evidence bundle from a VM: is it genuine, fresh, and
// of this VM?
//
// Two verifiers look at the same bundle. The first is this package's own chain:
//
//	C1 C2 C3   the bundle, its nonce, the paravisor's report
//	S1 … S10   SEV-SNP: the report, the runtime data bound to it, the AK, the VM
//	T1 … T8    TDX: the same by way of a TD quote
//	Q0 … Q6    the vTPM quote by that AK over the nonce and all else in the bundle
//
// The second is Microsoft Azure Attestation: Judge sends it the hardware part of
// the bundle itself (M0) and judges the token that comes back, M1 to M10.
//
// Each check leaves one entry with its number and its reason code, in the order
// in which they were made. The first that fails decides its side's outcome. The
// checks of the hardware's own signature chain, S2 to S7 and T2 to T6, are made
// by Options.Hardware; without one they are listed as not-asked, and then only
// Microsoft's word stands for the hardware: a bundle that passes here and has no
// passing token proves nothing, which is why the proven facts of an Attestation
// stay empty until one of the two has vouched for the hardware.
//
// The package promises to fail closed (what could not be judged is unknown, what
// is malformed fails), to take trust anchors, clock and MAA only as arguments, to
// follow no URL found in evidence or token, and to do no work before it is asked.
// It does not issue or consume nonces, store anything, or decide what a VM should
// look like: that is the caller's and the policy's.
package attest
