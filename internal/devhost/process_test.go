package devhost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cvmguard/internal/customhandler"
)

// TestMain makes this binary a handler where a test started it as one.
func TestMain(m *testing.M) {
	if mode := os.Getenv("DEVHOST_TEST_HANDLER"); mode != "" {
		os.Exit(runTestHandler(mode, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// runTestHandler is the handler's main. The modes: serve; exits (statuses by
// life, from a file with one line each); silent (never opens the port).
func runTestHandler(mode string, args []string) int {
	fmt.Println("handler begins")
	if mode == "exits" {
		status, err := nextStatus(os.Getenv("STATUS_FILE"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 99
		}
		if status >= 0 {
			fmt.Fprintf(os.Stderr, "ends with %d\nno newline at the end", status)
			return status
		}
	}
	if mode == "silent" {
		time.Sleep(time.Minute)
		return 1
	}
	mux := customhandler.NewMux(nil, "api")
	mux.Queue("reconcile", func(_ context.Context, c customhandler.QueueCall) error {
		switch string(c.Text) {
		case "crash":
			os.Exit(3)
		case "hang":
			time.Sleep(time.Minute)
		}
		return nil
	})
	mux.Event("vm-event", func(context.Context, customhandler.EventCall) error { return nil })
	mux.HTTP("open", "open", nil, true, func(context.Context, customhandler.HTTPCall) customhandler.HTTPAnswer {
		say := map[string]any{"args": args, "dir": must(os.Getwd()), "pid": os.Getpid(), "env": map[string]string{}}
		for _, n := range []string{"FUNCTIONS_CUSTOMHANDLER_PORT", "FUNCTIONS_HTTPWORKER_PORT", "FUNCTIONS_CUSTOMHANDLER_WORKER_ID", "FUNCTIONS_HTTPWORKER_ID", "FUNCTIONS_APP_ROOT_PATH", "SETTING"} {
			say["env"].(map[string]string)[n] = os.Getenv(n)
		}
		return customhandler.HTTPAnswer{Status: 200, Header: map[string]string{"Content-Type": "application/json"}, Body: must(json.Marshal(say))}
	})
	port, err := customhandler.PortFromEnv(os.Getenv)
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := customhandler.NewServer(customhandler.ServerOptions{Handler: mux, Port: port}).Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("handler ends quietly")
	return 0
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// nextStatus takes the first line off a file; -1 (serve) if none is left.
func nextStatus(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	line, rest, _ := strings.Cut(string(b), "\n")
	if line == "" {
		return -1, nil
	}
	if err := os.WriteFile(file, []byte(rest), 0o600); err != nil {
		return 0, err
	}
	return strconv.Atoi(line)
}

// lockedBuffer is a writer that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// processHost makes a host whose handler is this test binary.
func processHost(t *testing.T, mode string, opts Options, more ...string) *Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	hostJSON := fmt.Sprintf(`{"version":"2.0","functionTimeout":"00:00:05","customHandler":{"description":{"defaultExecutablePath":%q,"arguments":["serve","%%SETTING%%","-x=%%UNSET%%"]},
		"initializationTimeout":"00:00:20"},"extensions":{"queues":{"maxPollingInterval":"00:00:00.01"}}}`, self)
	if opts.Root == "" {
		opts.Root = stage(t, hostJSON, plainFunctions)
	}
	opts.Env = append(append(os.Environ(), "DEVHOST_TEST_HANDLER="+mode, "SETTING=two words"), more...)
	if opts.Queues == nil {
		opts.Queues = newMemoryQueues()
	}
	h, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// start runs a host; the function returned ends it and gives Run's error.
func start(t *testing.T, h *Host) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	var once sync.Once
	var err error
	end = func() error {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	t.Cleanup(func() { end() })
	return end
}

func waitReady(t *testing.T, h *Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := h.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

type said struct {
	Args []string
	Dir  string
	PID  int
	Env  map[string]string
}

func ask(t *testing.T, h *Host) said {
	t.Helper()
	res, err := http.Get(h.URL() + "/api/open")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var s said
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		t.Fatalf("%d: %v", res.StatusCode, err)
	}
	return s
}

func TestProcess(t *testing.T) {
	q := newMemoryQueues()
	var out lockedBuffer
	h := processHost(t, "serve", Options{Queues: q, Stdout: &out, KillGrace: 5 * time.Second})
	end := start(t, h)
	waitReady(t, h)
	first := ask(t, h)
	if strings.Join(first.Args, "|") != "serve|two|words|-x=" {
		t.Errorf("arguments %q", first.Args)
	}
	if root, err := filepath.EvalSymlinks(h.opts.Root); err != nil || first.Dir != root || first.Env["FUNCTIONS_APP_ROOT_PATH"] != h.opts.Root {
		t.Errorf("directory %q, root %q, %v", first.Dir, first.Env["FUNCTIONS_APP_ROOT_PATH"], err)
	}
	if p := first.Env["FUNCTIONS_CUSTOMHANDLER_PORT"]; p == "" || p != first.Env["FUNCTIONS_HTTPWORKER_PORT"] || first.Env["SETTING"] != "two words" {
		t.Errorf("environment %v", first.Env)
	}
	// A kill is a fault: started again at once, same port, another worker id.
	if err := h.KillHandler(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second start", func() bool { return h.Stats().Starts == 2 })
	waitReady(t, h)
	second := ask(t, h)
	if second.PID == first.PID || second.Env["FUNCTIONS_CUSTOMHANDLER_PORT"] != first.Env["FUNCTIONS_CUSTOMHANDLER_PORT"] ||
		second.Env["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"] == first.Env["FUNCTIONS_CUSTOMHANDLER_WORKER_ID"] {
		t.Errorf("first %+v\nsecond %+v", first, second)
	}
	// A message that kills the handler is given back, and the other is worked.
	q.put(t, "reconcile", "fine")
	eventually(t, "the message done", func() bool { return q.len("reconcile") == 0 })
	q.put(t, "reconcile", "crash")
	eventually(t, "a third start", func() bool { return h.Stats().Starts == 3 })
	eventually(t, "the message given back", func() bool { return strings.Contains(q.log(), "update reconcile 0s") })
	q.mu.Lock()
	q.queues["reconcile"] = nil // it would kill the third as well
	q.mu.Unlock()
	if err := end(); err != nil {
		t.Errorf("the end: %v", err)
	}
	if !strings.Contains(out.String(), "handler begins\n") {
		t.Errorf("stdout %q", out.String())
	}
	if _, err := http.Get(h.URL()); err == nil {
		t.Error("the port is open after the end")
	}
	if err := h.Run(context.Background()); err == nil {
		t.Error("a closed host ran")
	}
	if err := h.KillHandler(); err == nil {
		t.Error("there was something to kill")
	}
}

func TestGrace(t *testing.T) {
	for _, grace := range []time.Duration{0, 5 * time.Second} {
		var out lockedBuffer
		h := processHost(t, "serve", Options{Stdout: &out, KillGrace: grace})
		end := start(t, h)
		waitReady(t, h)
		if err := end(); err != nil {
			t.Error(err)
		}
		if quiet := strings.Contains(out.String(), "handler ends quietly"); quiet != (grace > 0) {
			t.Errorf("grace %v: quiet end %v", grace, quiet)
		}
	}
}

func TestExitStatus(t *testing.T) {
	statuses := func(lines ...string) string {
		file := filepath.Join(t.TempDir(), "statuses")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		return "STATUS_FILE=" + file
	}
	t.Run("200 and two faults are borne", func(t *testing.T) {
		h := processHost(t, "exits", Options{}, statuses("200", "1", "200", "200", "2"))
		end := start(t, h)
		waitReady(t, h)
		if s := h.Stats(); s.Starts != 6 || s.Faults != 2 {
			t.Errorf("%+v", s)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the third fault stops the host, which may begin anew", func(t *testing.T) {
		var errOut lockedBuffer
		h := processHost(t, "exits", Options{Stderr: &errOut, StartWait: 10 * time.Second}, statuses("1", "1", "7"))
		err := h.Run(context.Background())
		if !errors.Is(err, ErrHostStopped) || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "ends with 7") {
			t.Fatalf("%v", err)
		}
		if s := h.Stats(); s.Starts != 3 || s.Faults != 3 || s.Stops != 1 {
			t.Errorf("%+v", s)
		}
		if strings.Count(errOut.String(), "no newline at the end\n") != 3 {
			t.Errorf("stderr %q", errOut.String())
		}
		answered := make(chan said, 1)
		go func() { answered <- ask(t, h) }() // waits for the host to come back
		end := start(t, h)
		if s := <-answered; s.PID == 0 {
			t.Error("no answer after the host came back")
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	t.Run("0 is for ever", func(t *testing.T) {
		h := processHost(t, "exits", Options{}, statuses("0"))
		end := start(t, h)
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := h.WaitReady(ctx); !errors.Is(err, errDead) {
			t.Errorf("%v", err)
		}
		if w := request(h, "GET", "/api/open", ""); w.Code != 500 {
			t.Errorf("a call of a dead handler: %d", w.Code)
		}
		if err := end(); err != nil || h.Stats().Starts != 1 {
			t.Errorf("%v %+v", err, h.Stats())
		}
	})
	t.Run("no binary", func(t *testing.T) {
		h := processHost(t, "serve", Options{Root: stage(t, plainHostJSON, plainFunctions)})
		if err := h.Run(context.Background()); !errors.Is(err, ErrHostStopped) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a port that stays closed", func(t *testing.T) {
		h := processHost(t, "silent", Options{})
		h.cfg.startTime = 100 * time.Millisecond
		if err := h.Run(context.Background()); !errors.Is(err, ErrHostStopped) || !strings.Contains(err.Error(), "didn't open port") {
			t.Errorf("%v", err)
		}
	})
}

func TestFunctionTimeoutKills(t *testing.T) {
	q := newMemoryQueues()
	h := processHost(t, "serve", Options{Queues: q})
	h.cfg.timeout = 300 * time.Millisecond
	end := start(t, h)
	waitReady(t, h)
	q.put(t, "reconcile", "hang")
	eventually(t, "a second start", func() bool { return h.Stats().Starts >= 2 })
	q.mu.Lock()
	q.queues["reconcile"] = nil
	q.mu.Unlock()
	if s := h.Stats(); s.Faults != 0 {
		t.Errorf("a timeout counts as a fault: %+v", s)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}
