package customhandler

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Meta is what every invocation carries, for logs only: a caller may have
// chosen parts of it.
type Meta struct {
	Function   string
	Invocation string
}

// EventCall is one Event Grid event, in either schema, as its bytes reached the
// handler (for a text value: the text, which need not be JSON). Where the host
// delivers several events in one invocation there is one call for each.
type EventCall struct {
	Meta
	Event json.RawMessage // nil when none could be found
	// Whole is the request's body as it came (for the inbox, when Event can't be found in it).
	Whole []byte
	// Problem says why Event is nil, "" otherwise.
	Problem string
}

// QueueCall is one queue message.
type QueueCall struct {
	Meta
	Text         []byte // the message after the host's own encoding is undone
	DequeueCount int    // 0 if unknown; never decide by it
	// Problem says why Text is the wrapper's bytes and not the message, ""
	// when it is the message.
	Problem string
}

// TimerCall is one tick.
type TimerCall struct {
	Meta
	PastDue    bool
	Last, Next time.Time // zero if unknown
}

// HTTPCall is one HTTP request, the same whether the host wrapped or forwarded it.
type HTTPCall struct {
	Meta
	Method  string
	Path    string            // the caller's path, prefix included
	Params  map[string]string // route parameters; an absent optional one is ""
	Query   url.Values        // `code` removed; one value a key, repeated ones joined by commas
	Header  http.Header       // credentials removed
	Body    []byte
	Chunked bool   // Body is empty and the host may have lost it; where a body is needed answer 411
	Caller  string // name of the function key or principal, "" if unknown
	Base    string // scheme://host of the caller's URL, for links
}

// HTTPAnswer is what goes back. Header must hold Content-Type.
type HTTPAnswer struct {
	Status int
	Header map[string]string
	Body   []byte
}

// The handlers by trigger. An error fails the invocation (the host delivers
// again, where it does that).
type (
	EventFunc func(ctx context.Context, c EventCall) error
	QueueFunc func(ctx context.Context, c QueueCall) error
	TimerFunc func(ctx context.Context, c TimerCall) error
	HTTPFunc  func(ctx context.Context, c HTTPCall) HTTPAnswer
)
