// Package cvm knows what an Azure confidential VM is made of: ids, kinds, sizes,
// disks, disk encryption sets, keys, vaults and release policies, and the
// Posture in which all that is known of one VM at one moment is kept.
//
// It promises that the same bytes give the same value: it does no I/O, has no
// clock and changes nothing. Its parsers take Azure's own JSON, accept members
// and values that they don't know, refuse members of the wrong type, and never
// turn "not read" into a value: what ARM leaves out stays out (Tri, Fact). Sizes
// of input, depth of nesting and count of terms are bounded.
//
// It doesn't judge a VM, which is package policy's work, but for one thing: what
// a key's release policy demands, clause by clause (JudgeReleasePolicy).
package cvm
