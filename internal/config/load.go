package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Loader is what loading rests on. Nil members are the operating system's own.
type Loader struct {
	Getenv     func(string) string
	Stat       func(path string) error // nil when the path is there
	Executable func() (string, error)
	// NoStorage accepts that no storage account is named, for commands that keep
	// nothing. One that is named is still checked.
	NoStorage bool
}

// Load reads and checks every setting. The error is a Faults.
func Load(getenv func(string) string) (Config, error) {
	return Loader{Getenv: getenv}.Load()
}

// LoadWithoutStorage is Load for commands that need no storage account.
func LoadWithoutStorage(getenv func(string) string) (Config, error) {
	return Loader{Getenv: getenv, NoStorage: true}.Load()
}

// Load reads and checks every setting. The error is a Faults.
func (l Loader) Load() (Config, error) {
	if l.Getenv == nil {
		l.Getenv = os.Getenv
	}
	if l.Stat == nil {
		l.Stat = func(p string) error { _, err := os.Stat(p); return err }
	}
	if l.Executable == nil {
		l.Executable = os.Executable
	}
	r := &reader{Loader: l}
	c := Config{
		Port:            r.number(keyPort, 8080, 1, 65535),
		Mode:            r.oneOf(keyMode, "", "observe", "enforce"),
		PolicyPath:      r.file(keyPolicy),
		ShadowPath:      r.file(keyShadowPolicy),
		ClientID:        r.guid(keyClientID),
		ManagedIdentity: r.get(keyIdentity) != "",
		Lease:           r.duration(keyLease, 90*time.Second, false),
		TurnTimeout:     r.duration(keyTurn, 60*time.Second, false),
		Margin:          r.duration(keyMargin, 10*time.Second, false),
		SlowPace:        r.duration(keySlowPace, time.Hour, false),
		NonceLife:       r.duration(keyNonceLife, 30*time.Minute, false),
		CacheTTL:        r.duration(keyCacheTTL, 60*time.Second, true),
		TransitionWait:  r.duration(keyTransitionWait, 15*time.Second, false),
		MaxPoll:         r.duration(keyMaxPoll, 30*time.Second, false),
		PublicURL:       r.baseURL(keyPublicURL),
		MaxParallel:     r.number(keyMaxParallel, 16, 1, 256),
	}
	c.Cloud = Cloud(r.oneOf(keyCloud, string(Public), string(USGov), string(China)))
	if c.Cloud == "" {
		c.Cloud = Public
	}
	c.LogLevel = r.level()
	c.GuestTool = r.guestTool()
	r.order(c)
	r.development(&c)
	c.Storage = r.storage(c.Cloud)
	if len(r.faults) > 0 {
		rank := map[string]int{}
		for i, s := range Settings() {
			rank[s.Name] = i
		}
		slices.SortStableFunc(r.faults, func(a, b Fault) int { return rank[a.Setting] - rank[b.Setting] })
		return Config{}, r.faults
	}
	return c, nil
}

// reader collects faults while it reads.
type reader struct {
	Loader
	faults Faults
}

func (r *reader) get(key string) string { return strings.TrimSpace(r.Getenv(key)) }

func (r *reader) fault(key, given, problem, fix string) {
	r.faults = append(r.faults, Fault{Setting: key, Given: given, Problem: problem, Fix: fix})
}

func (r *reader) number(key string, def, low, high int) int {
	s := r.get(key)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		r.fault(key, s, fmt.Sprintf("not a number from %d to %d", low, high), fmt.Sprintf("Give one, or leave it out for %d.", def))
		return def
	}
	return n
}

// oneOf compares without regard to case; "" stays "".
func (r *reader) oneOf(key string, allowed ...string) string {
	s := strings.ToLower(r.get(key))
	if s == "" || slices.Contains(allowed, s) {
		return s
	}
	words := slices.DeleteFunc(slices.Clone(allowed), func(w string) bool { return w == "" })
	r.fault(key, r.get(key), "not one of its values", "Give "+strings.Join(words, " or ")+".")
	return ""
}

func (r *reader) duration(key string, def time.Duration, zeroOK bool) time.Duration {
	s := r.get(key)
	if s == "" {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || (d == 0 && !zeroOK) {
		problem := "not a length of time above zero"
		if zeroOK {
			problem = "not a length of time, zero or more"
		}
		r.fault(key, s, problem, fmt.Sprintf("Give one as Go writes it, such as 90s or 1h30m, or leave it out for %s.", defaultOf(key)))
		return def
	}
	return d
}

func (r *reader) file(key string) string {
	p := r.get(key)
	if p == "" {
		return ""
	}
	if err := r.Stat(p); err != nil {
		r.fault(key, p, "no such file can be opened", "Give the path of one that this process may read, or leave it out.")
	}
	return p
}

func (r *reader) guid(key string) string {
	s := r.get(key)
	if s != "" && !isGUID(s) {
		r.fault(key, s, "not a client id", "Give the identity's client id, a GUID such as 00000000-0000-0000-0000-000000000001.")
	}
	return s
}

func (r *reader) baseURL(key string) string {
	s := strings.TrimRight(r.get(key), "/")
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil ||
		(u.Scheme != "https" && !(u.Scheme == "http" && Loopback(u.Hostname()))) {
		r.fault(key, s, "not the base URL of an app", "Give https://HOST without a path (http for loopback addresses only).")
	}
	return s
}

func (r *reader) level() slog.Level {
	switch s := r.oneOf(keyLogLevel, "debug", "info", "warn", "error"); s {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}

// guestTool is only checked when it was set by hand: a command that sends
// nothing to guests runs without it.
func (r *reader) guestTool() string {
	if p := r.file(keyGuestTool); p != "" {
		return p
	}
	exe, err := r.Executable()
	if err != nil {
		r.fault(keyGuestTool, "", "the program's own folder can't be found ("+err.Error()+")", "Set the path by hand.")
		return ""
	}
	return filepath.Join(filepath.Dir(exe), "guest", "cvmguard-guest")
}

// order checks what the loop rests on: a holder's calls end before its lease, and
// a nonce outlives the turn that issued it.
func (r *reader) order(c Config) {
	if c.TurnTimeout >= c.Lease {
		r.fault(keyTurn, r.get(keyTurn), fmt.Sprintf("%snot shorter than the lease (%s)", r.byDefault(keyTurn), r.spelled(keyLease)),
			"Make it shorter, or lengthen "+keyLease+"; leave room for a call that is late.")
	}
	if c.Lease >= c.NonceLife {
		r.fault(keyNonceLife, r.get(keyNonceLife), fmt.Sprintf("%snot longer than the lease (%s)", r.byDefault(keyNonceLife), r.spelled(keyLease)),
			"Lengthen it, or shorten "+keyLease+".")
	}
	const longestHiding = 7 * 24 * time.Hour // a queue message can't be hidden for longer
	for _, t := range []struct {
		key string
		d   time.Duration
	}{{keyLease, c.Lease + c.Margin}, {keySlowPace, c.SlowPace}, {keyTransitionWait, c.TransitionWait}, {keyMaxPoll, c.MaxPoll}} {
		if t.d > longestHiding {
			r.fault(t.key, r.get(t.key), "longer than a queue message can be hidden", "Give at most 7 days (168h).")
		}
	}
}

// spelled is a setting as it was given, else its default.
func (r *reader) spelled(key string) string {
	if s := r.get(key); s != "" {
		return s
	}
	return defaultOf(key)
}

// byDefault begins a problem of a setting that wasn't given.
func (r *reader) byDefault(key string) string {
	if r.get(key) != "" {
		return ""
	}
	return "its default " + defaultOf(key) + " is "
}

// defaultOf is a setting's default as the documentation writes it.
func defaultOf(key string) string {
	for _, s := range Settings() {
		if s.Name == key {
			return s.Default
		}
	}
	return ""
}

func (r *reader) development(c *Config) {
	c.DevAzure, c.DevCA, c.DevRoots = r.get(keyDevAzure), r.file(keyDevCA), r.file(keyDevRoots)
	c.Development = c.DevAzure != "" || c.DevCA != "" || c.DevRoots != ""
	if c.DevAzure != "" {
		host, port, err := net.SplitHostPort(c.DevAzure)
		if n, aerr := strconv.Atoi(port); err != nil || aerr != nil || host == "" || n < 1 || n > 65535 {
			r.fault(keyDevAzure, c.DevAzure, "not an address to dial", "Give HOST:PORT, such as 127.0.0.1:9443.")
		}
	}
	switch {
	case c.DevAzure != "" && c.DevCA == "":
		r.fault(keyDevCA, "", "missing beside "+keyDevAzure, "Name the PEM file of the simulator's certificate authority.")
	case c.DevAzure == "" && c.DevCA != "":
		r.fault(keyDevAzure, "", "missing beside "+keyDevCA, "Give the simulator's HOST:PORT, or leave "+keyDevCA+" out: real Azure needs no authority of yours.")
	}
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range s {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", c) {
				return false
			}
		}
	}
	return true
}

// Loopback says whether a host name or address is this machine's own.
func Loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
