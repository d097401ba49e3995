// Package reconcile is the loop: claim, observe, judge, plan, record, apply.
//
// It is a controller whose objects are Azure VMs and what VMs share (disk
// encryption sets, keys, vaults, a region's readiness). A message never carries
// work; it says "look at this object", and the truth is read again each time.
// The loop is written once for both sorts of object.
//
// What it promises: one worker holds an object at a time, by a lease on its row;
// an intent is recorded before its act and the outcome after it; a crash between
// any two lines converges on the next delivery; duplicate, late and out-of-order
// messages lead to at most one effect each; nothing waits for Azure inside a
// turn, a long operation's token is stored and looked at again through the queue.
//
// The rules of a turn, by the numbers that the code refers to:
//
//  1. A lease has an owner and an end and is never renewed; the turn's context
//     begins before it and ends before it. Every row write is ETag'd; a holder
//     whose claim is gone, or that slept through its lease, fails its message and
//     calls nobody. A turn that fails gives the rest of its lease up, unless a call
//     may still land whose answer it never had.
//  2. The claim is looked at before due. A worker that finds the object claimed
//     enqueues its message anew, to come after the lease, unless another worker
//     did so for this lease (`followed`); then sets `again` and merges its cause
//     in one write; then lets its message go. If the lease goes before that write,
//     its copy is enough, but for a person's word: with that it starts over.
//  3. Release and the test of `again` are one write. The look that others asked for
//     is never a dry one and remembers nothing.
//  4. Order: intent record, row, call, look-again, row, outcome record, row. An
//     intent that the row doesn't show was never sent; one that it shows without
//     a token may have been: read the resource and adopt what is there. The loop
//     guard counts calls, but for those that were turned away at the door.
//  5. While a step is open a turn only drives it. What failed is held back until
//     its time, what was done isn't done twice in one turn.
//  6. `next look` is one time, carried by its message as `due`: enqueue first,
//     row second. It is brought forward or, once passed, set anew; never put off.
//     A message that comes before its time spends it: the time is then now.
//  7. Evidence is due when no judged bundle has a nonce issued after the newest
//     moment for which evidence is asked, or the last is too old.
//  8. All the times are settings, checked at start.
//  9. Before an intent is recorded the brakes are asked, in this order: what the row
//     and the clock say (contested, step limit, window), the breaker's row, the
//     canary, the count of changed objects. What they hold is shown as blocked, and
//     no intent is written. Right before the call the breaker's row is read again.
//     Who lets a brake go wakes the objects whose rows show it; an object that is
//     newly shown so looks at the brake once more.
//
// A row that is lost is written anew from the object's records by the first message
// that misses it, claimed for one lease as in any rebuild.
//
// What it does not do: it knows no Azure SDK, serves no trigger and renders
// nothing. Its collaborators are the small interfaces in deps.go.
package reconcile
