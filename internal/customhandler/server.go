package customhandler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// ServerOptions say how to serve.
type ServerOptions struct {
	Handler http.Handler  // required; a *Mux
	Port    int           // on 127.0.0.1; 0: a free one, see Addr
	Log     *slog.Logger  // nil: discard
	Drain   time.Duration // for what is running when the end comes; 0: 5 s
	// Bind is how long to try while a predecessor's socket still holds the port,
	// as a restarted handler gets the same one; 0: 2 s.
	Bind time.Duration
}

// Server is the handler's HTTP server. It doesn't wait for anything before it
// listens: clients are made by the functions, on first use.
type Server struct {
	opts     ServerOptions
	listener net.Listener

	mu       sync.Mutex
	stopping bool           // guarded by mu: no Add once it is set
	running  sync.WaitGroup // requests in the handler
}

// NewServer makes a server.
func NewServer(opts ServerOptions) *Server {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Drain <= 0 {
		opts.Drain = 5 * time.Second
	}
	if opts.Bind <= 0 {
		opts.Bind = 2 * time.Second
	}
	return &Server{opts: opts}
}

// PortFromEnv is the port that the host names in the environment.
func PortFromEnv(getenv func(string) string) (int, error) {
	for _, name := range []string{"FUNCTIONS_CUSTOMHANDLER_PORT", "FUNCTIONS_HTTPWORKER_PORT"} {
		v := getenv(name)
		if v == "" {
			continue
		}
		port, err := strconv.Atoi(v)
		if err != nil || port < 1 || port > 65535 {
			return 0, fmt.Errorf("%s is %q, which is not a port; the Functions host sets it to a number from 1 to 65535", name, v)
		}
		return port, nil
	}
	return 0, errors.New("FUNCTIONS_CUSTOMHANDLER_PORT is not set; the Functions host sets it, by hand give any free port")
}

// Listen opens the port. Run does so itself if it wasn't done.
func (s *Server) Listen() error {
	if s.listener != nil {
		return nil
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(s.opts.Port))
	for deadline := time.Now().Add(s.opts.Bind); ; time.Sleep(20 * time.Millisecond) {
		l, err := net.Listen("tcp4", addr)
		if err == nil {
			s.listener = l
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return fmt.Errorf("opening the port that the Functions host named: %w; end the process that holds it", err)
		}
	}
}

// Addr is where the server listens, "" before Listen.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Run serves until ctx ends. Then new requests are answered 503, running ones
// get most of the drain time to finish, the rest of it with their contexts
// cancelled to release what they hold, and Run returns nil within the drain
// time, whatever still runs. An error means that the port couldn't be served.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		BaseContext:       func(net.Listener) context.Context { return work },
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    256 << 10, // a forwarded request has its caller's headers
		ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(s.listener) }()
	s.opts.Log.Info("listening", "address", s.Addr())
	select {
	case err := <-served:
		return fmt.Errorf("serving %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	s.drain(cancel)
	// A finished request's answer may still be on its way out: Shutdown waits
	// for that, Close wouldn't.
	last, done := context.WithTimeout(context.WithoutCancel(work), s.opts.Drain/20)
	defer done()
	if srv.Shutdown(last) != nil {
		if err := srv.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.opts.Log.Warn("closing the port", "error", err)
		}
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		s.opts.Log.Warn("the port failed at the end", "error", err)
	}
	return nil
}

func (s *Server) drain(cancel context.CancelFunc) {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() { s.running.Wait(); close(idle) }()
	tail := s.opts.Drain / 5
	if waitFor(idle, s.opts.Drain-tail) {
		s.opts.Log.Info("stopped", "left", "nothing")
		return
	}
	cancel()
	// Short of the whole, so that the process itself ends within it.
	if waitFor(idle, tail*7/10) {
		s.opts.Log.Info("stopped", "left", "nothing", "cancelled", true)
		return
	}
	s.opts.Log.Warn("stopped while invocations were running; their messages come again")
}

func waitFor(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
		return false
	}
}

// serve lets requests in until the server stops.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close")
		if err := writeJSON(w, http.StatusServiceUnavailable, errorBody("this process is stopping")); err != nil {
			s.opts.Log.Warn("the answer could not be sent", "method", r.Method, "error", err)
		}
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	s.opts.Handler.ServeHTTP(w, r)
}
