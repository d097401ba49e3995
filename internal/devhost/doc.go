// Package devhost is a local stand-in for the Azure Functions host: it runs a
// staged folder (host.json, function folders, a custom handler's binary) as the
// host would, for the local world, for tests, and for anybody who writes a
// custom handler and has no Azure at hand.
//
// # What it does like the host
//
//   - Starts the handler on a free port with the host's variables, polls GET /
//     until anything answers, restarts it by its exit status (0: never again;
//     200: at once; anything else: at once, and the third within the half hour
//     ends the host) and kills it without grace.
//   - Posts invocations in the host's encoding: text twice encoded, numbers as
//     text, dates in whole seconds, in chunks, absent route parameters as null;
//     Metadata that a message's own properties write over.
//   - Reads answers by the host's rules: the JSON media type, statusCode and
//     not status, text outputs that are base64 replaced by their bytes.
//   - Serves Event Grid's webhook with both handshakes, one invocation an
//     event, all at once, and 500 for all if one fails.
//   - Works queues: hiding time, renewal at its half, dequeue counts, the poison
//     copy before the delete, no sixth call on a poison queue, and messages that
//     aren't base64 moved unread.
//   - Serves HTTP functions wrapped, forwarded or proxied, with function keys if
//     asked to; runs timers if asked to; answers /admin.
//
// # Where it differs, on purpose
//
// An empty or null answer, on which the host hangs until its function timeout,
// is reported as an error at once. Timers keep their state in memory, and there
// is one instance. Output bindings other than HTTP and queue are refused at the
// start. It binds to 127.0.0.1 alone.
//
// It knows no SDK: storage is what QueueReader says. Nothing that ships may
// import it.
package devhost
