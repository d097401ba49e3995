// Package customhandler is the Azure Functions host's wire contract with a
// custom handler, seen from the handler: what the host posts for Event Grid,
// queue, timer and HTTP triggers is decoded into typed calls, and what the
// functions say is encoded as the host wants to read it.
//
// # What it serves
//
//   - GET / answers at once, before any client exists: the host polls it to
//     see that the process lives.
//   - POST /<function> is an invocation: {"Data": {...}, "Metadata": {...}}.
//   - <method> /<prefix>/<route> is the caller's own HTTP request, as hosts
//     send it that forward or proxy. An HTTP function gets the same HTTPCall
//     both ways and can't tell them apart.
//
// # What it promises
//
//   - Facts come from Data. Metadata can be written over by whoever wrote the
//     message or request, so it is used for logs alone.
//   - A value is undone as often as the host wrapped it and never more: an
//     object is the value, a string holds JSON or text, and a string of JSON
//     of a string is that inner text.
//   - An event or queue message whose wrapper can't be read is handed on with
//     the bytes that came, so that it can be kept: a refusal would bring it
//     back for ever and hold up all others. A request on a function's path that
//     is JSON without a Data member never came from the host and is refused.
//   - Every answer is a JSON object with a length and the JSON media type. An
//     empty or null answer makes the host wait for its function timeout and
//     then kill the process; a redirect it would follow; anything but 2xx
//     loses the body.
//   - A panic fails its own invocation alone, with the stack in the log.
//   - Credentials in a request (function keys, tokens, cookies, in headers or
//     in the query, or in headers that repeat the URL) never reach a function
//     or a log.
//   - Server listens on 127.0.0.1 only: nothing authenticates the host to the
//     handler.
//
// # What it does not do
//
// It makes no clients, decides nothing about events or messages, doesn't check
// keys (the host has done so before it calls), and writes no output but the
// HTTP answer: everything else is written by SDK, because the host's output
// bindings mangle text that happens to be base64. It can't catch a panic in a
// goroutine that a function started itself.
package customhandler
