package devhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// instance is one life of the host: a port, the handler's processes on it one
// after the other, and the listeners.
type instance struct {
	h      *Host
	port   int
	client *http.Client // wrapped calls: follows redirects
	plain  *http.Client // forwarded calls and probes: doesn't

	mu       sync.Mutex
	process  *os.Process // guarded by mu; nil while none runs
	timedOut bool        // guarded by mu: this process was killed for the function timeout

	probeEvery time.Duration
}

const (
	maxFaults   = 3                // the third stops the host
	faultMemory = 30 * time.Minute // faults further apart don't add up
)

func newInstance(h *Host, port int) *instance {
	t := &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 128, DisableCompression: true}
	return &instance{h: h, port: port, client: &http.Client{Transport: t}, probeEvery: 25 * time.Millisecond,
		plain: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (in *instance) base() string { return "http://127.0.0.1:" + strconv.Itoa(in.port) }

// run keeps the handler running and the listeners beside it, until ctx ends
// (nil) or the third fault (its cause).
func (in *instance) run(ctx context.Context) error {
	in.h.setState(starting)
	listen, stop := context.WithCancel(ctx)
	var listeners sync.WaitGroup
	for _, f := range in.h.functions {
		switch {
		case f.disabled:
		case f.trigger.Type == "queueTrigger":
			listeners.Go(func() { in.listenQueue(listen, f) })
		case f.trigger.Type == "timerTrigger" && in.h.opts.RunTimers:
			listeners.Go(func() { in.runTimer(listen, f) })
		}
	}
	err := in.supervise(ctx)
	in.h.setState(idle) // what waits for the handler gives up
	stop()
	listeners.Wait()
	in.client.CloseIdleConnections()
	return err
}

// supervise starts the handler again and again, by the host's rules for its
// exit status.
func (in *instance) supervise(ctx context.Context) error {
	// The kernel ties the handler's life to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	log := in.h.opts.Log
	var faults []error
	var last time.Time
	for {
		err := in.oneLife(ctx)
		in.client.CloseIdleConnections()
		if ctx.Err() != nil {
			return nil
		}
		in.h.setState(starting)
		in.mu.Lock()
		timedOut := in.timedOut
		in.mu.Unlock()
		var status *exec.ExitError
		switch {
		case err == nil:
			log.Error("the handler ended with exit status 0: the host never starts it again, and every call fails from now on")
			in.h.setState(dead)
			<-ctx.Done()
			return nil
		case timedOut:
			log.Warn("the handler is started again after a function timeout")
			continue
		case errors.As(err, &status) && status.ExitCode() == 200:
			log.Info("the handler asked for a restart (exit status 200)")
			continue
		}
		now := in.h.now()
		if now.Sub(last) > faultMemory {
			faults = nil
		}
		faults, last = append(faults, err), now
		in.h.count(func(s *Stats) { s.Faults++ })
		log.Error("the handler ended by a fault", "fault", len(faults), "error", err)
		if len(faults) >= maxFaults {
			return err
		}
	}
}

// exit is the end of a process; err is nil for status 0.
type exit struct{ err error }

// oneLife runs one process of the handler until it ends (nil for exit status
// 0) or ctx does.
func (in *instance) oneLife(ctx context.Context) error {
	h := in.h
	worker, err := h.guid()
	if err != nil {
		return err
	}
	port := strconv.Itoa(in.port)
	cmd := exec.Command(h.cfg.executable, h.cfg.arguments...)
	cmd.Dir = h.cfg.workDir
	cmd.Env = append(append([]string(nil), h.env...),
		"FUNCTIONS_CUSTOMHANDLER_PORT="+port, "FUNCTIONS_HTTPWORKER_PORT="+port,
		"FUNCTIONS_CUSTOMHANDLER_WORKER_ID="+worker, "FUNCTIONS_HTTPWORKER_ID="+worker,
		"FUNCTIONS_APP_ROOT_PATH="+h.opts.Root)
	stdout := &lineWriter{mu: &h.outMu, to: h.opts.Stdout}
	stderr := &lineWriter{mu: &h.outMu, to: h.opts.Stderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes
	bindLife(cmd)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the handler: %w", err)
	}
	h.count(func(s *Stats) { s.Starts++ })
	in.mu.Lock()
	in.process, in.timedOut = cmd.Process, false
	in.mu.Unlock()
	exited := make(chan exit, 1)
	go func() {
		err := cmd.Wait()
		in.mu.Lock()
		in.process = nil
		in.mu.Unlock()
		stdout.flush()
		stderr.flush()
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil // it ended with status 0, its output stayed open
		}
		exited <- exit{err}
	}()
	if ended, err := in.probe(ctx, exited); ended {
		return describe(err, stderr)
	}
	if ctx.Err() == nil {
		h.setState(ready)
		select {
		case e := <-exited:
			return describe(e.err, stderr)
		case <-ctx.Done():
		}
	}
	in.end(cmd.Process, exited)
	return nil
}

// probe asks GET / until anything answers. Any error but a refused connection
// counts as an answer. A handler that keeps its port closed for too long is
// killed.
func (in *instance) probe(ctx context.Context, exited <-chan exit) (ended bool, err error) {
	timeout := time.NewTimer(in.h.cfg.startTime)
	defer timeout.Stop()
	pause := time.NewTicker(in.probeEvery)
	defer pause.Stop()
	for {
		if err := in.ask(ctx); !errors.Is(err, syscall.ECONNREFUSED) && ctx.Err() == nil {
			return false, nil
		}
		select {
		case e := <-exited:
			return true, e.err
		case <-ctx.Done():
			return false, nil
		case <-timeout.C:
			if err := in.kill(); err != nil {
				in.h.opts.Log.Warn("killing a handler that doesn't start", "error", err)
			}
			<-exited
			return true, fmt.Errorf("the handler didn't open port %d within %v", in.port, in.h.cfg.startTime)
		case <-pause.C:
		}
	}
}

// ask is one probe. A handler that takes the connection and doesn't answer
// holds it up for the function timeout and a minute.
func (in *instance) ask(ctx context.Context) error {
	if t := in.h.cfg.timeout; t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t+time.Minute)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.base()+"/", nil)
	if err != nil {
		return err
	}
	res, err := in.plain.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20))
	return err
}

// describe adds the last lines of stderr to a fault.
func describe(err error, stderr *lineWriter) error {
	if err == nil {
		return nil
	}
	if tail := stderr.tail(); tail != "" {
		return fmt.Errorf("the handler's process: %w; its last lines: %s", err, tail)
	}
	return fmt.Errorf("the handler's process: %w", err)
}

// end ends the process: by SIGTERM first if a grace is set, else at once.
func (in *instance) end(p *os.Process, exited <-chan exit) {
	log := in.h.opts.Log
	if in.h.opts.KillGrace > 0 {
		if err := p.Signal(syscall.SIGTERM); err == nil {
			grace := time.NewTimer(in.h.opts.KillGrace)
			defer grace.Stop()
			select {
			case <-exited:
				return
			case <-grace.C:
				log.Warn("the handler ignored SIGTERM; it is killed", "grace", in.h.opts.KillGrace)
			}
		}
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		log.Warn("killing the handler", "error", err)
	}
	<-exited
}

func (in *instance) kill() error {
	in.mu.Lock()
	p := in.process
	in.mu.Unlock()
	if p == nil {
		return errors.New("killing the handler: none is running")
	}
	if err := p.Kill(); err != nil {
		return fmt.Errorf("killing the handler: %w", err)
	}
	return nil
}

// killForTimeout kills a process that let an invocation run out of time. That
// isn't counted as a fault.
func (in *instance) killForTimeout() {
	in.mu.Lock()
	in.timedOut = true
	in.mu.Unlock()
	if err := in.kill(); err != nil {
		in.h.opts.Log.Warn("after a function timeout", "error", err)
	}
}

// lineWriter passes on whole lines and keeps the last three.
type lineWriter struct {
	mu   *sync.Mutex
	to   io.Writer // nil: drop
	part []byte    // guarded by mu
	last [][]byte  // guarded by mu
}

// maxLine is where a line is cut, so that a handler can't fill the memory.
const maxLine = 64 << 10

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, p...)
	for {
		i := bytes.IndexByte(w.part, '\n')
		if i < 0 && len(w.part) < maxLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(w.part) - 1
		}
		w.line(w.part[:i+1])
		w.part = append([]byte(nil), w.part[i+1:]...)
	}
}

func (w *lineWriter) line(line []byte) {
	if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 {
		w.last = append(w.last, bytes.Clone(trimmed[:min(len(trimmed), 500)]))
		w.last = w.last[max(0, len(w.last)-3):]
	}
	if w.to == nil {
		return
	}
	if _, err := w.to.Write(line); err != nil {
		w.to = nil // a writer that fails once is given up; the handler must not block on it
	}
}

func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.part) > 0 {
		w.line(append(w.part, '\n'))
		w.part = nil
	}
}

func (w *lineWriter) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.Join(w.last, []byte(" | ")))
}
