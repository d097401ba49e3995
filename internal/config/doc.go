// Package config reads cvmguard's settings from the environment, once, and says
// everything that is wrong with them at once.
//
// It promises that a Config that Load gives back is whole: every time is above
// zero and in the order that the loop rests on (a turn ends before its lease, a
// lease before a nonce), no two settings contradict each other, and every file
// that a setting names was there. What is wrong is a Faults: one line for each
// setting with what to do about it, never the value of a secret.
//
// It knows nothing of Azure's SDK, opens no connection and reads no file beyond
// asking whether one is there. It does not read the policy document, and it does
// not follow changes: an app setting that changes restarts the process.
package config
