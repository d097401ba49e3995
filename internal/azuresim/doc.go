// Package azuresim is a simulated Azure on real TCP ports: for tests, for the
// local world, and for people who want to see what a policy does before it
// meets their estate.
//
// It answers for Azure's own host names (management.azure.com,
// login.microsoftonline.com, <vault>.vault.azure.net, <hsm>.managedhsm.azure.net,
// shared<code>.<code>.attest.azure.net, <topic>.<region>-1.eventgrid.azure.net) on
// one TLS listener: a client keeps the real names, dials Sim.Addr and trusts
// Sim.CAPEM. A second, plain listener is the managed identity endpoint that App
// Service offers (Sim.IdentityEnv) and shows the call log under /sim/calls.
//
// What it promises:
//
//   - Bodies have the member names and nesting of the real service, made with the
//     SDK's own model types; long operations answer as ARM does
//     (Azure-AsyncOperation, Location, Retry-After), listings page by nextLink.
//   - It refuses what Azure refuses: an action that the caller's role lacks (403),
//     a property that is fixed at creation (409 PropertyChangeNotAllowed), a change
//     that needs a deallocated VM (409 OperationNotAllowed), a second operation
//     while one runs (409 Conflict), a stale ETag (412), a confidential disk
//     encryption set on a key without a release policy (400), an exportable key
//     without one, and the throttles of ARM and Compute when asked for.
//   - Every call is in the log, marked as read or write and whether it took effect.
//     World-making by the Go methods (AddVM, ExpireKey …) is not in the log.
//   - A knob can slow, fail, throttle, lose or double anything. The zero value of
//     each is "off".
//
// What it does not do: networks, images, quotas, prices, regions that fail,
// eventual consistency of reads, cryptography with keys (no wrap, sign or
// release), and every resource type that is not named in routes.go: those answer
// 404. It keeps everything in memory. Where the real service's behaviour is not
// known it says so at the place: "our choice" marks a refusal or a text that was
// chosen here.
//
// Guests (what runs inside a VM) and the attestation service are not in this
// package: they are given by SetGuest, SetGuests and SetMAA.
package azuresim
