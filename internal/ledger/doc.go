// Package ledger keeps what cvmguard found out and did: immutable records in
// hash-linked chains, evidence by its content, nonces, the dead-letter inbox,
// and each object's row.
//
// The record is the truth, the row an index of it. A record is created with
// If-None-Match and never rewritten; it carries the SHA-256 of the bytes of the
// one before, so that a changed, dropped or inserted record shows (VerifyFiles,
// VerifyChain). Writes go record first, row second; a crash between the two is
// repaired by the next claim, which looks for the records after the row's head
// (Chains.After). Rebuild writes a lost row from its records.
//
// What it promises: an encoding that is the same for the same record; every
// write safe to repeat, since a lost answer is repeated by clients and hosts;
// every row write conditional on its ETag; an unreadable row or record is an
// error and never an empty one; every error of a kind of package fault.
//
// What it does not do: it knows no Azure SDK (internal/azure implements the
// interfaces of store.go), takes no decision of the loop, does not judge
// evidence, and can't tell whether the newest record of a chain is the last one
// that was written: a chain cut at its end needs a checkpoint, which is made
// elsewhere, to show.
package ledger
