// Package azurepolicy says a cvmguard policy in Azure Policy's language, so that a
// request which the policy would fail is refused before there is a VM.
//
// Export makes an initiative of one definition for each rule that is on and that
// Azure's aliases can express, and lists every other rule that is on with the
// reason why it can't be. The same policy gives the same bytes. What is exported
// is never stricter than the rule that it stands for, where the rule knows the
// answer: a part of the policy's want clause that Azure Policy can't say makes the
// definition narrower, and is listed. Where a rule would say unknown, a definition
// may refuse, for a request can be completed and sent again.
//
// Evaluate is an evaluator of the part of Azure Policy's language that Export
// writes, over ARM's bodies. Refuses asks the same of VMs and disks that were
// already read: an existing VM that the initiative would have refused. One table
// (aliases.go) says for both where an alias is found.
//
// The package is pure: it deploys nothing and reads no clock. It doesn't know
// other definitions than its own, template functions beyond those it writes, nor
// the effects that repair (modify, deployIfNotExists): repair is cvmguard's loop.
package azurepolicy
