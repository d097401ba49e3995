// Package policy judges: it holds the rules, the policy document that says which
// of them are asked and what may be done about them, and the judge that turns a
// posture and a document into a verdict.
//
// It promises that Judge and JudgeShared are pure: equal inputs give equal
// verdicts, findings in the order of the rules; the clock is an argument. It
// fails closed: a fact that an asked rule rests on and that isn't known gives
// unknown, never a pass, but for two rows of the truth table (31: the version of
// a set's disks, 33: the time of its last rotation), which say otherwise. All
// reasons that hold are listed, not the first alone.
//
// It doesn't plan remedies (package remedy), read anything, or judge evidence
// (package attest): it takes the outcome of that and says what it means.
package policy
