package customhandler

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is a function's trigger.
type Kind string

// The triggers, by their names in function.json.
const (
	EventTrigger Kind = "eventGridTrigger"
	QueueTrigger Kind = "queueTrigger"
	TimerTrigger Kind = "timerTrigger"
	HTTPTrigger  Kind = "httpTrigger"
)

// Limits are what one process may hold at once. The zero value of each field
// means the default that is named.
type Limits struct {
	Parallel int           // invocations at once; 64
	Time     time.Duration // for one invocation by event or queue, waiting for its turn not counted; 60 s
	Long     time.Duration // for one by timer or HTTP: below the front end's 230 s; 220 s
	Body     int64         // an HTTP caller's body, bytes, wrapped or not; 2 MiB
	// Wrapped is an invocation's whole body, bytes; 8 MiB. The host carries most
	// values twice (Data and Metadata) and escapes them up to twice, so that the
	// largest event (1 MiB) and the largest Body fit with room to spare.
	Wrapped int64
}

func (l Limits) timeOf(k Kind) time.Duration {
	if k == TimerTrigger || k == HTTPTrigger {
		return l.Long
	}
	return l.Time
}

func (l Limits) withDefaults() Limits {
	if l.Parallel <= 0 {
		l.Parallel = 64
	}
	if l.Time <= 0 {
		l.Time = 60 * time.Second
	}
	if l.Long <= 0 {
		l.Long = 220 * time.Second
	}
	if l.Body <= 0 {
		l.Body = 2 << 20
	}
	if l.Wrapped <= 0 {
		l.Wrapped = 8 << 20
	}
	return l
}

// Function is a registered function, for comparison with its function.json.
type Function struct {
	Name      string
	Kind      Kind
	Route     string   // HTTP only
	Methods   []string // HTTP only; upper case; empty: all
	Anonymous bool     // HTTP only; the host lets everybody call it
}

// Mux serves the host's calls to the functions that were registered with it.
// Register everything before it serves; it is safe for concurrent use after
// that.
type Mux struct {
	// Limits may be changed until the first request.
	Limits Limits
	// NewID makes an invocation id for a request without one. Nil: random.
	NewID func() string

	log    *slog.Logger
	prefix string
	funcs  map[string]*function
	routed []*function // HTTP functions, the more special route first

	once   sync.Once
	limits Limits        // set by once
	slots  chan struct{} // holds one value for each running invocation
}

type function struct {
	Function
	route Route
	event EventFunc
	queue QueueFunc
	timer TimerFunc
	http  HTTPFunc
}

// NewMux makes a Mux. routePrefix is host.json's extensions.http.routePrefix
// ("" means the host's default, api): no function can have its name, so the
// two families of paths never meet. A nil log discards.
func NewMux(log *slog.Logger, routePrefix string) *Mux {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if routePrefix = strings.Trim(routePrefix, "/"); routePrefix == "" {
		routePrefix = "api"
	}
	return &Mux{log: log, prefix: routePrefix, funcs: map[string]*function{}}
}

// Event registers an Event Grid function.
func (m *Mux) Event(name string, f EventFunc) {
	m.add(&function{Function: Function{Name: name, Kind: EventTrigger}, event: f})
}

// Queue registers a queue function.
func (m *Mux) Queue(name string, f QueueFunc) {
	m.add(&function{Function: Function{Name: name, Kind: QueueTrigger}, queue: f})
}

// Timer registers a timer function.
func (m *Mux) Timer(name string, f TimerFunc) {
	m.add(&function{Function: Function{Name: name, Kind: TimerTrigger}, timer: f})
}

// HTTP registers an HTTP function. route is function.json's ("" means the
// function's name), methods in any case (none means all). anonymous is
// function.json's authLevel: the host enforces it, not the Mux.
func (m *Mux) HTTP(name, route string, methods []string, anonymous bool, f HTTPFunc) {
	if route == "" {
		route = name
	}
	parsed, err := ParseRoute(route)
	if err != nil {
		panic("customhandler: function " + name + ": " + err.Error())
	}
	upper := make([]string, len(methods))
	for i, method := range methods {
		upper[i] = strings.ToUpper(method)
	}
	fn := &function{Function: Function{Name: name, Kind: HTTPTrigger, Route: route, Methods: upper, Anonymous: anonymous},
		route: parsed, http: f}
	m.add(fn)
	m.routed = append(m.routed, fn)
	slices.SortStableFunc(m.routed, func(a, b *function) int { return CompareRoutes(a.route, b.route) })
}

// IsFunctionName says whether the host takes a text for a function's name: a
// letter, then letters, digits, hyphens and underscores, 128 in all.
func IsFunctionName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r != '-' && r != '_' && (r < '0' || r > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// add panics on what is a fault of the program: the names are constants.
func (m *Mux) add(f *function) {
	switch first, _, _ := strings.Cut(m.prefix, "/"); {
	case !IsFunctionName(f.Name) || strings.EqualFold(f.Name, "host"):
		panic(fmt.Sprintf("customhandler: %q is not a name that the host accepts for a function", f.Name))
	case strings.EqualFold(f.Name, first):
		panic(fmt.Sprintf("customhandler: function %q has the name of the route prefix", f.Name))
	case m.funcs[f.Name] != nil:
		panic(fmt.Sprintf("customhandler: function %q is registered twice", f.Name))
	}
	m.funcs[f.Name] = f
}

// Functions lists what was registered, by name.
func (m *Mux) Functions() []Function {
	list := make([]Function, 0, len(m.funcs))
	for _, f := range m.funcs {
		list = append(list, f.Function)
	}
	slices.SortFunc(list, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func (m *Mux) start() {
	m.once.Do(func() {
		m.limits = m.Limits.withDefaults()
		m.slots = make(chan struct{}, m.limits.Parallel)
	})
}

// ServeHTTP serves the host's probe, invocations and raw HTTP requests.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.start()
	path := r.URL.Path
	if path == "/" || path == "" {
		m.send(w, r, http.StatusOK, []byte(`{}`))
		return
	}
	if fn, ok := m.funcs[strings.TrimPrefix(path, "/")]; ok {
		m.serveInvocation(w, r, fn)
		return
	}
	if below, ok := strings.CutPrefix(r.URL.EscapedPath(), "/"+m.prefix+"/"); ok {
		m.serveRaw(w, r, below)
		return
	}
	m.send(w, r, http.StatusNotFound, errorBody("there is no function at this path"))
}

func (m *Mux) send(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if err := writeJSON(w, status, body); err != nil {
		m.log.Warn("the answer could not be sent", "method", r.Method, "error", err)
	}
}

// invocationKey keeps an invocation in a context.
type invocationKey struct{}

type invocation struct {
	meta Meta
	log  *slog.Logger

	mu    sync.Mutex
	notes []string // guarded by mu
}

// LogFrom is the logger of the invocation that ctx belongs to, with its
// function and id; slog.Default outside of one.
func LogFrom(ctx context.Context) *slog.Logger {
	if i, ok := ctx.Value(invocationKey{}).(*invocation); ok {
		return i.log
	}
	return slog.Default()
}

// MetaFrom is the invocation that ctx belongs to, zero outside of one.
func MetaFrom(ctx context.Context) Meta {
	if i, ok := ctx.Value(invocationKey{}).(*invocation); ok {
		return i.meta
	}
	return Meta{}
}

// maxNotes and maxNote keep an answer in kilobytes.
const (
	maxNotes = 50
	maxNote  = 512
)

// Note attaches a line to the invocation that ctx belongs to: the host shows it
// with the invocation (if that succeeds, and if the host wrapped the call).
// What must not be lost goes to the log as well. Outside of an invocation, and
// past the fiftieth line, it does nothing.
func Note(ctx context.Context, format string, args ...any) {
	i, ok := ctx.Value(invocationKey{}).(*invocation)
	if !ok {
		return
	}
	line := fmt.Sprintf(format, args...)
	if len(line) > maxNote {
		line = strings.ToValidUTF8(line[:maxNote], "")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.notes) < maxNotes {
		i.notes = append(i.notes, line)
	}
}

func (i *invocation) lines() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.notes)
}
