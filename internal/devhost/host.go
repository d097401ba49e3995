package devhost

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// HTTPMode is how HTTP functions are called.
type HTTPMode string

// The modes. Forward and proxy hold for functions with no bindings but the
// HTTP trigger and the HTTP output; all others are wrapped.
const (
	HTTPWrap    HTTPMode = "wrap"
	HTTPForward HTTPMode = "forward" // buffered; a body without Content-Length is lost
	HTTPProxy   HTTPMode = "proxy"   // streamed
)

// Options say what to run. Root alone is required, and Queues where a function
// has a queue.
type Options struct {
	Root   string      // folder with host.json and the function folders
	Env    []string    // NAME=value, the whole environment of host and handler; nil: this process's
	Queues QueueReader // storage
	Log    *slog.Logger

	Stdout, Stderr io.Writer // get the handler's lines, whole, one writer never by two at once; nil: dropped

	HidingTime  time.Duration // of a message that is being worked on; 0: 10 min, as the host
	MaxPolling  time.Duration // longest pause between reads of an empty queue; 0: host.json's, else 2 s
	RunTimers   bool          // false: timers run by POST /admin/functions/<name> alone
	TimerScale  float64       // how much faster the timers' clock runs; 0: 1
	RequireKeys bool          // ask for function keys, as Azure does
	Keys        Keys          // with RequireKeys; an empty one is made up, see Host.Keys
	HTTP        HTTPMode      // "": as host.json says
	KillGrace   time.Duration // at the end: SIGTERM, and SIGKILL after so long; 0: SIGKILL at once, as the host
	StartWait   time.Duration // how long a request waits for a host that isn't up; 0: 30 s
	Version     string        // of the host, in headers; "": 4.1036.2.2

	Now  func() time.Time // nil: time.Now
	Rand io.Reader        // for GUIDs and keys; nil: crypto/rand
}

// ErrHostStopped says that the handler ended by a fault for the third time
// within half an hour. In Azure the platform starts a new host then.
var ErrHostStopped = errors.New("the host has stopped: the handler ended by a fault three times")

// Stats are counts since New.
type Stats struct {
	Starts      int // handler processes started
	Faults      int // of them that ended by a fault
	Stops       int // times that the host stopped for it
	Invocations int // calls made of the handler
	Failures    int // of them that failed
	NullAnswers int // of them on which the real host would hang
	Running     int // calls under way now
	Poisoned    int // messages copied to a poison queue
	Ticks       int // timer calls
}

// Host is a host. Make it with New.
type Host struct {
	opts      Options
	env       environment
	cfg       config
	functions map[string]*function
	keys      Keys
	listener  net.Listener
	server    *http.Server
	started   time.Time
	id        string

	outMu  sync.Mutex // one writer at a time for the handler's output
	randMu sync.Mutex // Rand

	mu      sync.Mutex
	state   state         // guarded by mu
	changed chan struct{} // closed at each change of state; guarded by mu
	inst    *instance     // nil while not running; guarded by mu
	serving bool          // guarded by mu
	stats   Stats         // guarded by mu
	timers  map[string]tick
}

type state string

const (
	idle     state = "Stopped"      // no instance
	starting state = "Initializing" // the handler isn't answering yet
	ready    state = "Running"
	dead     state = "Dead" // the handler ended with status 0: it won't come back
	closed   state = "Closed"
)

// New reads the folder and opens a free port on 127.0.0.1. All faults in the
// files are told at once.
func New(opts Options) (*Host, error) {
	if opts.Env == nil {
		opts.Env = os.Environ()
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.HidingTime <= 0 {
		opts.HidingTime = 10 * time.Minute
	}
	if opts.StartWait <= 0 {
		opts.StartWait = 30 * time.Second
	}
	if opts.TimerScale <= 0 {
		opts.TimerScale = 1
	}
	if opts.Version == "" {
		opts.Version = "4.1036.2.2"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	h := &Host{opts: opts, env: environment(opts.Env), state: idle, changed: make(chan struct{}), timers: map[string]tick{}}
	var err1, err2 error
	h.cfg, err1 = readConfig(opts.Root, h.env)
	h.functions, err2 = readFunctions(opts.Root, h.env)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if opts.HTTP != "" {
		h.cfg.mode = opts.HTTP
	}
	if opts.MaxPolling > 0 {
		h.cfg.queues.MaxPolling = opts.MaxPolling
	}
	for _, f := range h.functions {
		usesQueues := f.trigger.Type == "queueTrigger"
		for _, o := range f.outputs {
			usesQueues = usesQueues || o.Type == "queue"
		}
		if usesQueues && opts.Queues == nil {
			return nil, fmt.Errorf("function %q uses a queue; give Options.Queues", f.name)
		}
	}
	var err error
	if h.keys, err = opts.Keys.filled(opts.Rand); err != nil {
		return nil, err
	}
	if h.id, err = newGUID(opts.Rand); err != nil {
		return nil, err
	}
	if h.listener, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("opening a port: %w", err)
	}
	h.server = &http.Server{Handler: http.HandlerFunc(h.serve), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelWarn)}
	h.started = opts.Now()
	return h, nil
}

// URL is where the host serves: http://127.0.0.1:<port>.
func (h *Host) URL() string { return "http://" + h.listener.Addr().String() }

// WebhookURL is where Event Grid delivers events for a function, with the
// system key if keys are asked for.
func (h *Host) WebhookURL(function string) string {
	u := h.URL() + "/runtime/webhooks/eventgrid?functionName=" + function
	if h.opts.RequireKeys {
		u += "&code=" + h.keys.System
	}
	return u
}

// Stats gives the counts.
func (h *Host) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

func (h *Host) count(f func(*Stats)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(&h.stats)
}

func (h *Host) setState(s state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == closed {
		return
	}
	h.state = s
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *Host) now() time.Time { return h.opts.Now() }

func (h *Host) guid() (string, error) {
	h.randMu.Lock()
	defer h.randMu.Unlock()
	return newGUID(h.opts.Rand)
}

// errDead and errStopped end the wait for a handler that won't answer.
var (
	errDead    = errors.New("the handler ended with exit status 0, after which the host never starts it again: connection refused")
	errStopped = errors.New("the host is stopping")
)

// awaitReady waits until the handler answers. duringRun gives up when the
// instance ends; without it a next instance is waited for.
func (h *Host) awaitReady(ctx context.Context, duringRun bool) error {
	for {
		h.mu.Lock()
		s, changed := h.state, h.changed
		h.mu.Unlock()
		switch {
		case s == ready:
			return nil
		case s == dead:
			return errDead
		case s == closed, s == idle && duringRun:
			return errStopped
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the handler: %w", ctx.Err())
		}
	}
}

// WaitReady waits until the handler answers, over restarts of the handler and
// of the host. It fails if ctx ends, the handler has ended for good or the host
// was closed.
func (h *Host) WaitReady(ctx context.Context) error { return h.awaitReady(ctx, false) }

// Run runs the host until ctx ends (nil; the port is closed then) or the
// handler has failed for the third time (ErrHostStopped with the cause; the
// port stays, requests wait for up to StartWait, and Run may be called again,
// as the platform would start a new host). When it returns the handler is gone
// and every queue message in hand has been given back.
func (h *Host) Run(ctx context.Context) error {
	inst, err := h.begin(ctx)
	if err != nil {
		return err
	}
	err = inst.run(ctx)
	h.mu.Lock()
	h.inst = nil
	h.mu.Unlock()
	h.setState(idle)
	if ctx.Err() != nil {
		h.Close()
		return nil
	}
	h.count(func(s *Stats) { s.Stops++ })
	return fmt.Errorf("%w: %w", ErrHostStopped, err)
}

func (h *Host) begin(ctx context.Context) (*instance, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.state == closed:
		return nil, errors.New("this host was closed; make a new one")
	case h.inst != nil:
		return nil, errors.New("this host is running already")
	}
	h.inst = newInstance(h, port)
	if !h.serving {
		h.serving = true
		go func() {
			if err := h.server.Serve(h.listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
				h.opts.Log.Error("the host's port failed", "error", err)
			}
		}()
	}
	return h.inst, nil
}

// Close closes the port of a host that won't be run again. Run does so itself
// when its context ends.
func (h *Host) Close() {
	h.setState(closed)
	// Requests in hand have failed with the handler; a moment for their answers.
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := h.server.Shutdown(last); err != nil {
		if err := h.server.Close(); err != nil {
			h.opts.Log.Warn("closing the host's port", "error", err)
		}
	}
	if err := h.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		h.opts.Log.Warn("closing the host's port", "error", err)
	}
}

// KillHandler kills the handler (SIGKILL), which counts as a fault. It is for
// tests of what survives that. An error means that none is running.
func (h *Host) KillHandler() error {
	h.mu.Lock()
	inst := h.inst
	h.mu.Unlock()
	if inst == nil {
		return errors.New("killing the handler: the host isn't running")
	}
	return inst.kill()
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("choosing a port for the handler: %w", err)
	}
	defer l.Close()
	addr, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("choosing a port for the handler: %w", err)
	}
	return int(addr.Port()), nil
}
