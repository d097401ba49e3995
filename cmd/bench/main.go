//go:build !release

// Command bench measures the published figures of cvmguard, each beside a floor
// that is measured in the same run, so that the ratio means something on any
// machine: cold start, an event's way to its acknowledgement and to its verdict,
// calls to Azure, memory, throughput. docs/figures.md says what each one means.
//
// It runs the staged function app (dist/) in the local world: Azurite, the
// simulated Azure and the stand-in for the Functions host. A figure that misses
// its goal is printed as such and the exit status stays 0: 1 means that something
// could not be measured, 2 that the bench could not begin. It judges nothing but
// the goals that are stated, compares with no other run, and says nothing about
// real Azure or the real host.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"cvmguard/internal/local"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the command's arguments.
type options struct {
	dist, infra, azurite string
	format               string // table or json
	quick                bool
	env                  settings // for the handler, over the bench's own
}

// settings are NAME=VALUE arguments.
type settings map[string]string

func (s settings) String() string { return "" }

// Set implements flag.Value.
func (s settings) Set(v string) error {
	name, value, ok := strings.Cut(v, "=")
	if !ok || name == "" {
		return errors.New("give it as NAME=VALUE, such as GOGC=50")
	}
	s[name] = value
	return nil
}

// sizes say how often each thing is measured.
type sizes struct {
	starts int // of each binary
	acks   int
	links  int // key paths in the count of reads
	fast   int // verdicts without latency, for each state of the cache
	slow   int // with latency
	load   int // VMs in the load
}

var (
	fullSizes  = sizes{starts: 30, acks: 500, links: 10, fast: 100, slow: 50, load: 200}
	quickSizes = sizes{starts: 10, acks: 100, links: 4, fast: 20, slow: 5, load: 60}
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o := options{env: settings{}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.dist, "dist", "dist", "the staged function app (make dist)")
	f.StringVar(&o.infra, "infra", "infra", "folder with the role definitions")
	f.StringVar(&o.azurite, "azurite", "node_modules/azurite/dist/src/azurite.js", "Azurite's script (npm ci)")
	f.StringVar(&o.format, "o", "table", "table, or json for one JSON document")
	f.BoolVar(&o.quick, "quick", false, "fewer samples: under 40 seconds")
	f.Var(o.env, "env", "NAME=VALUE for the handler, to compare settings (GOGC=50); may be repeated")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if err := o.check(f.Args()); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	b, err := newBench(ctx, o, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	defer b.close()
	if err := b.all(ctx); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	if err := b.report().print(stdout, o.format); err != nil {
		fmt.Fprintln(stderr, "bench: printing the figures:", err)
		return 1
	}
	return 0
}

func (o *options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is no argument; see -help", rest[0])
	case o.format != "table" && o.format != "json":
		return fmt.Errorf("-o is %q; give table or json", o.format)
	}
	for _, need := range []struct{ path, fix string }{
		{filepath.Join(o.dist, "cvmguard"), "make dist stages it"},
		{filepath.Join(o.infra, "role.json"), "-infra names the repository's folder infra"},
		{o.azurite, "npm ci installs it"},
	} {
		if _, err := os.Stat(need.path); err != nil {
			return fmt.Errorf("%w; %s", err, need.fix)
		}
	}
	return nil
}

// bench is one run.
type bench struct {
	options
	sizes
	stderr  io.Writer
	started time.Time
	dir     string // for the no-op handler and its function app
	binary  string // dist's cvmguard, absolute
	noop    string // the no-op handler's binary, in a function app of its own
	// Storage calls that one event costs, counted in this run: of a VM that is seen
	// for the first time, and of one that is unchanged.
	mix, unchanged mix
	lines          *verdictLines // of every world's handler
	figures        []Figure
}

func newBench(ctx context.Context, o options, stderr io.Writer) (b *bench, err error) {
	b = &bench{options: o, sizes: fullSizes, stderr: stderr, started: time.Now(), lines: newVerdictLines()}
	if o.quick {
		b.sizes = quickSizes
	}
	if b.binary, err = filepath.Abs(filepath.Join(o.dist, "cvmguard")); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "cvmguard-bench-"); err != nil {
		return nil, err
	}
	if err := b.buildNoop(ctx); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// noopApp is a function app with one function, an event trigger as vm-event's.
var noopApp = map[string]string{
	"host.json":              `{"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "noop"}}}`,
	"vm-event/function.json": `{"bindings": [{"type": "eventGridTrigger", "name": "event", "direction": "in"}]}`,
}

// buildNoop builds the floor's handler with the flags of `make dist`.
func (b *bench) buildNoop(ctx context.Context) error {
	b.noop = filepath.Join(b.dir, "noop.app", "noop")
	for name, text := range noopApp {
		path := filepath.Join(filepath.Dir(b.noop), filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	b.say("building the no-op handler")
	return goBuild(ctx, b.noop, "cvmguard/cmd/bench/noop")
}

func (b *bench) close() {
	if err := os.RemoveAll(b.dir); err != nil {
		b.say("the bench's folder could not be removed: %v", err)
	}
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.stderr, "%5.1fs  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}

// all measures every figure: what needs a quiet machine first.
func (b *bench) all(ctx context.Context) error {
	for _, part := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"cold start", b.coldStart},
		{"event to acknowledgement", b.acknowledged},
		{"calls per event", b.callsPerEvent},
		{"event to verdict, every link read", b.verdictCold},
		{"event to verdict, links in the cache; memory; throughput", b.verdictAndLoad},
	} {
		b.say("%s", part.name)
		if err := part.measure(ctx); err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
	}
	b.say("done")
	return nil
}

// world starts a local world in observe mode with a running handler.
func (b *bench) world(ctx context.Context, own map[string]string) (*local.World, error) {
	all := map[string]string{"CVMGUARD_LOG_LEVEL": "info"}
	for _, from := range []map[string]string{own, b.env} {
		for k, v := range from {
			all[k] = v
		}
	}
	w, err := local.Start(ctx, local.Options{Dist: b.dist, Infra: b.infra, Azurite: b.azurite, Mode: "observe", Settings: all, Output: b.lines})
	if err != nil {
		return nil, fmt.Errorf("starting the local world: %w", err)
	}
	if err := w.StartHost(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (b *bench) report() Report {
	return Report{Schema: ReportSchema, Cores: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH,
		Quick: b.quick, Settings: b.env, Seconds: time.Since(b.started).Seconds(), Figures: b.figures}
}

// goBuild builds one of the module's commands as `make dist` does.
func goBuild(ctx context.Context, out, pkg string) error {
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, text)
	}
	return nil
}
