// Package azure is the only place that knows Azure's SDK: virtual machines, disks,
// disk encryption sets, keys, vaults, rights, Resource Graph, Microsoft Azure
// Attestation, storage, and the decoding of events.
//
// What it promises:
//
//   - New does no work. Each client, the credential and the transport are made on
//     first use, so that the process answers before it has spoken to Azure.
//   - Every error is of package fault, decided by the service's code and never by
//     its text. Denied names the action that is missing, Throttled the wait that
//     the service asked for. No error holds a response's body, a token or a
//     signature.
//   - Facts are parsed from the bytes that the service sent (internal/cvm does
//     it), not from the SDK's models, so that a value which the SDK does not know
//     is not lost.
//   - A write is one call that returns at once. What goes on afterwards is a resume
//     token, and PollOperation sends a credential to nobody but the configured
//     Resource Manager: a token with another host in it is refused.
//   - A write is sent once. Only a refusal by throttling is tried again here; what
//     ended without an answer is the caller's to look at before it sends again.
//   - Reads through Reader may be as old as its time to live, never older than a
//     write of ours; reads on Client are always fresh.
//
// What it does not do: it makes no decision about a VM, keeps no state beyond
// caches, never waits for a long-running operation and never deletes a resource.
// Role assignments with a condition are not evaluated and don't count as grants;
// deny assignments are taken into account, and where they hang on a group or a
// condition the rights aren't known. The directory isn't asked: whose members a
// group has is known only where Resource Manager says it.
package azure
