// Package hardware is the confidential hardware of the simulated Azure, and the
// attestation service that believes in it.
//
// It holds three vendors with roots of their own (an AMD look-alike, an Intel
// look-alike and the Azure vTPM look-alike), machines that own a chip, a vTPM
// and a paravisor under these roots, and Microsoft Azure Attestation (MAA) as it
// answers for such machines. A Machine is what package guest reads evidence
// from, by the same code that runs inside a real VM; what it gives has the real
// layouts and real signatures, so a verifier that is given these roots can't
// tell it from hardware, and one that isn't refuses it at the first chain.
//
// It promises that nothing is waved through: MAA here checks chain, signature
// and binding before it signs a token, and each Fault breaks exactly the one
// thing that it names. It does not model side channels, sealing or resets in the
// middle of an operation, and its keys are worthless as keys: they share primes,
// so that a thousand machines can be made in a second or two. Nothing that ships
// may import it.
package hardware
