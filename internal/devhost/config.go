package devhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// config is host.json with its defaults.
type config struct {
	executable string // absolute, or a name for PATH
	arguments  []string
	workDir    string
	startTime  time.Duration // initializationTimeout
	timeout    time.Duration // functionTimeout; 0: none
	prefix     string
	mode       HTTPMode
	queues     queueConfig
	bundle     map[string]string
}

type queueConfig struct {
	BatchSize         int
	NewBatchThreshold int
	MaxDequeueCount   int
	VisibilityTimeout time.Duration
	MaxPolling        time.Duration
	Base64            bool
}

// hostFile is host.json as written. Names match without case, as at the host.
type hostFile struct {
	Version         string            `json:"version"`
	FunctionTimeout string            `json:"functionTimeout"`
	ExtensionBundle map[string]string `json:"extensionBundle"`
	CustomHandler   *struct {
		Description struct {
			DefaultExecutablePath string   `json:"defaultExecutablePath"`
			WorkingDirectory      string   `json:"workingDirectory"`
			WorkerDirectory       string   `json:"workerDirectory"`
			Arguments             []string `json:"arguments"`
		} `json:"description"`
		Forward               bool            `json:"enableForwardingHttpRequest"`
		Proxy                 bool            `json:"enableProxyingHttpRequest"`
		InitializationTimeout string          `json:"initializationTimeout"`
		HTTP                  json.RawMessage `json:"http"`
	} `json:"customHandler"`
	Extensions struct {
		HTTP struct {
			RoutePrefix *string `json:"routePrefix"`
		} `json:"http"`
		Queues struct {
			BatchSize          *int   `json:"batchSize"`
			NewBatchThreshold  *int   `json:"newBatchThreshold"`
			MaxDequeueCount    *int   `json:"maxDequeueCount"`
			VisibilityTimeout  string `json:"visibilityTimeout"`
			MaxPollingInterval string `json:"maxPollingInterval"`
			MessageEncoding    string `json:"messageEncoding"`
		} `json:"queues"`
	} `json:"extensions"`
}

// overridePrefix starts the settings that stand above host.json.
const overridePrefix = "azurefunctionsjobhost__"

// readConfig reads host.json and the settings that override it, and tells all
// faults at once.
func readConfig(root string, env environment) (config, error) {
	path := filepath.Join(root, "host.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return config{}, fmt.Errorf("reading host.json: %w; give the folder that `make dist` stages", err)
	}
	var tree map[string]any
	if err := json.Unmarshal(text, &tree); err != nil {
		return config{}, fmt.Errorf("host.json is not a JSON object: %w", err)
	}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if rest, ok := strings.CutPrefix(strings.ToLower(name), overridePrefix); ok && rest != "" {
			override(tree, strings.Split(rest, "__"), value)
		}
	}
	merged, err := json.Marshal(tree)
	if err != nil {
		return config{}, fmt.Errorf("joining host.json and its overrides: %w", err)
	}
	var f hostFile
	if err := json.Unmarshal(merged, &f); err != nil {
		return config{}, fmt.Errorf("host.json: %w", err)
	}
	return f.settle(root, env)
}

// override sets one value of host.json; numbers and booleans keep their type.
func override(tree map[string]any, path []string, value string) {
	name := path[0]
	for k := range tree {
		if strings.EqualFold(k, name) {
			name = k
		}
	}
	if len(path) > 1 {
		below, ok := tree[name].(map[string]any)
		if !ok {
			below = map[string]any{}
			tree[name] = below
		}
		override(below, path[1:], value)
		return
	}
	var typed any
	if json.Unmarshal([]byte(value), &typed) == nil {
		switch typed.(type) {
		case float64, bool:
			tree[name] = typed
			return
		}
	}
	tree[name] = value
}

// settle checks what was read and fills in the host's defaults.
func (f hostFile) settle(root string, env environment) (config, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("host.json: "+format, args...)) }
	span := func(name, text string, byDefault time.Duration) time.Duration {
		if text == "" {
			return byDefault
		}
		d, err := parseSpan(text)
		if err != nil {
			fault("%s is %q: %v", name, text, err)
		}
		return d
	}
	number := func(name string, v *int, byDefault, low, high int) int {
		if v == nil {
			return byDefault
		}
		if *v < low || *v > high {
			fault("%s is %d, must be %d to %d", name, *v, low, high)
		}
		return *v
	}
	c := config{prefix: "api", mode: HTTPWrap, workDir: root, bundle: f.ExtensionBundle, startTime: 30 * time.Second}
	if f.Version != "2.0" {
		fault(`version is %q, must be "2.0"`, f.Version)
	}
	if f.FunctionTimeout == "-1" {
		c.timeout = 0
	} else if c.timeout = span("functionTimeout", f.FunctionTimeout, 5*time.Minute); c.timeout < time.Second {
		fault("functionTimeout is %q, must be at least 00:00:01, or -1 for none", f.FunctionTimeout)
	}
	if p := f.Extensions.HTTP.RoutePrefix; p != nil {
		c.prefix = strings.Trim(*p, "/")
	}
	q := f.Extensions.Queues
	c.queues.BatchSize = number("extensions.queues.batchSize", q.BatchSize, 16, 1, 32)
	c.queues.NewBatchThreshold = number("extensions.queues.newBatchThreshold", q.NewBatchThreshold, c.queues.BatchSize/2*runtime.NumCPU(), 0, 1<<16)
	c.queues.MaxDequeueCount = number("extensions.queues.maxDequeueCount", q.MaxDequeueCount, 5, 1, 1<<16)
	c.queues.VisibilityTimeout = span("extensions.queues.visibilityTimeout", q.VisibilityTimeout, 0)
	c.queues.MaxPolling = span("extensions.queues.maxPollingInterval", q.MaxPollingInterval, 2*time.Second)
	switch strings.ToLower(q.MessageEncoding) {
	case "", "base64":
		c.queues.Base64 = true
	case "none":
	default:
		fault("extensions.queues.messageEncoding is %q, must be base64 or none", q.MessageEncoding)
	}
	h := f.CustomHandler
	if h == nil {
		fault("customHandler is missing; give it description.defaultExecutablePath")
		return c, errors.Join(faults...)
	}
	if h.Forward {
		c.mode = HTTPForward
	}
	if h.Proxy {
		c.mode = HTTPProxy
	}
	if h.HTTP != nil && string(h.HTTP) != "null" {
		fault("customHandler.http declares routes, which the host refuses beside function.json files; remove it")
	}
	c.startTime = span("customHandler.initializationTimeout", h.InitializationTimeout, c.startTime)
	d := h.Description
	if d.DefaultExecutablePath == "" {
		fault("customHandler.description.defaultExecutablePath is missing; name the handler's binary")
	}
	c.executable = d.DefaultExecutablePath
	if !filepath.IsAbs(c.executable) {
		if joined := filepath.Join(root, d.WorkerDirectory, c.executable); isFile(joined) {
			c.executable = joined
		}
	}
	if d.WorkingDirectory != "" {
		if c.workDir = d.WorkingDirectory; !filepath.IsAbs(c.workDir) {
			c.workDir = filepath.Join(root, c.workDir)
		}
	}
	// The host joins the arguments by spaces without quoting them.
	c.arguments = splitArguments(env.expand(strings.Join(d.Arguments, " ")))
	return c, errors.Join(faults...)
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// splitArguments splits at spaces outside of double quotes.
func splitArguments(s string) []string {
	var out []string
	var word strings.Builder
	quoted, any := false, false
	for _, r := range s {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case r == ' ' && !quoted:
			if any {
				out = append(out, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(r)
			any = true
		}
	}
	if any {
		out = append(out, word.String())
	}
	return out
}

// parseSpan reads a .NET TimeSpan, [d.]hh:mm:ss[.fraction].
func parseSpan(s string) (time.Duration, error) {
	bad := errors.New("must be a time span like 00:00:30 (hours, minutes, seconds)")
	days := 0
	if head, rest, ok := strings.Cut(s, "."); ok && strings.Contains(rest, ":") {
		n, err := strconv.Atoi(head)
		if err != nil || n < 0 {
			return 0, bad
		}
		days, s = n, rest
	}
	parts := strings.Split(s, ":")
	if len(parts) != 3 || strings.ContainsAny(s, "+-eEx_") {
		return 0, bad
	}
	hours, err1 := strconv.Atoi(parts[0])
	minutes, err2 := strconv.Atoi(parts[1])
	seconds, err3 := strconv.ParseFloat(parts[2], 64)
	if err1 != nil || err2 != nil || err3 != nil || hours < 0 || hours > 23 || minutes < 0 || minutes > 59 || !(seconds >= 0 && seconds < 60) || days > 10000 {
		return 0, bad
	}
	return time.Duration(days)*24*time.Hour + time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute +
		time.Duration(seconds*float64(time.Second)), nil
}

// environment is a list of NAME=value; the last of a name counts.
type environment []string

func (e environment) get(name string) string {
	for i := len(e) - 1; i >= 0; i-- {
		if k, v, _ := strings.Cut(e[i], "="); k == name {
			return v
		}
	}
	return ""
}

// expand replaces %NAME% by the setting, by nothing if it is unset.
func (e environment) expand(s string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "%")
		name, after, closed := strings.Cut(rest, "%")
		if !ok || !closed {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(before)
		b.WriteString(e.get(name))
		s = after
	}
}
