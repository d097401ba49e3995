// Package remedy plans what is to be done about a verdict, and does it, one step
// at a time.
//
// Planning (ForVM, ForShared) is pure: equal postures, verdicts and policy
// documents give byte-equal plans, and the document's mode changes nothing but
// Plan.Mode. A plan is all that may be done. Its steps are planned where policy
// lets cvmguard do them, advised with ready commands where it doesn't or where
// nobody but a person can, and blocked where policy would and a doubt forbids it.
// Every finding that fails is answered by a step. What isn't known is a doubt: a
// VM that runs is worth more than a VM that is right, so no VM is deallocated
// unless all that its next start rests on was read and is good.
//
// Applying (AzureApplier) carries out one step through the interface Azure, in
// calls that return at once. Each looks at the target first, so that a step whose
// answer was lost, by whichever worker, is found again and not sent twice; reads
// its preconditions again just before the write; and says Effected only for what
// it has read back.
//
// What Azure decides at a VM's creation (security type, the OS disk's encryption
// and key) it doesn't do: it writes the commands for a person. It never deletes
// anything, never replaces a key or a set that is there, never lifts a quarantine,
// and keeps nothing: no state, no clock of its own, no secret.
package remedy
