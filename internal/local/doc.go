// Package local is the local world put together: storage (Azurite), a simulated
// Azure with guests in it (azuresim), a stand-in for the Functions host (devhost),
// and between them the very binary that is deployed, from dist/.
//
// It promises that the handler under it runs unchanged: the same binary, the same
// wire, real storage, Azure's real host names; only what a name leads to, the
// trust roots and the times are the local world's, and every record says
// `development`. It is for `cvmguard dev`, the benchmark and tests, and for people
// who write policies; it is never linked into what is shipped.
package local
