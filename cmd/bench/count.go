//go:build !release

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/local"
)

// Storage calls, by what they do.
const (
	opRowGet     = "row get"
	opRowInsert  = "row insert"
	opRowReplace = "row replace"
	opRowQuery   = "row query"
	opBlobCreate = "blob create"
	opBlobRead   = "blob read"
	opBlobExists = "blob exists"
	opEnqueue    = "enqueue"
	opHost       = "host"   // taking messages and deleting them: the host's, not the handler's
	opSetUp      = "set-up" // making containers, tables and queues, once
)

// opOf names a storage call; one that isn't known is named by service and method.
func opOf(service, method, path, query string) string {
	_, object, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/") // the account
	switch service + " " + method {
	case "table GET":
		if strings.Contains(object, "PartitionKey=") {
			return opRowGet
		}
		return opRowQuery
	case "table POST":
		if object == "Tables" {
			return opSetUp
		}
		return opRowInsert
	case "table PUT":
		return opRowReplace
	case "blob PUT":
		if strings.Contains(query, "restype=container") {
			return opSetUp
		}
		return opBlobCreate
	case "blob GET":
		return opBlobRead
	case "blob HEAD":
		return opBlobExists
	case "queue POST":
		return opEnqueue
	case "queue GET", "queue DELETE":
		return opHost
	case "queue PUT":
		if strings.Contains(object, "/messages/") {
			return opHost
		}
		return opSetUp
	}
	return service + " " + method
}

// counted is a storage account behind proxies that count its calls.
type counted struct {
	azurite *local.Azurite
	servers []*http.Server
	proxied string // connection string

	mu sync.Mutex
	n  map[string]int // guarded by mu; by opOf
}

// newCounted starts an Azurite of its own. The proxies change nothing in a
// request: its signature doesn't cover the port.
func newCounted(ctx context.Context, script string) (c *counted, err error) {
	c = &counted{n: map[string]int{}}
	if c.azurite, err = local.StartAzurite(ctx, script); err != nil {
		return nil, err
	}
	c.proxied = c.azurite.Connection()
	for service, base := range map[string]string{"blob": c.azurite.Blob, "queue": c.azurite.Queue, "table": c.azurite.Table} {
		u, err := url.Parse(base)
		if err != nil {
			c.close()
			return nil, err
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			c.close()
			return nil, fmt.Errorf("opening a port for the counting proxy: %w", err)
		}
		to := &url.URL{Scheme: u.Scheme, Host: u.Host}
		proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to); p.Out.Host = p.In.Host }}
		srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.mu.Lock()
			c.n[opOf(service, r.Method, r.URL.Path, r.URL.RawQuery)]++
			c.mu.Unlock()
			proxy.ServeHTTP(w, r)
		})}
		c.servers = append(c.servers, srv)
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				slog.Error("the counting proxy ended", "service", service, "error", err)
			}
		}()
		c.proxied = strings.Replace(c.proxied, base, "http://"+l.Addr().String()+u.Path, 1)
	}
	return c, nil
}

// take gives the counts and starts anew.
func (c *counted) take() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = map[string]int{}
	return n
}

func (c *counted) close() {
	for _, s := range c.servers {
		if err := s.Close(); err != nil {
			slog.Warn("closing the counting proxy", "error", err)
		}
	}
	c.azurite.Close()
}

// mix is how many storage calls of each kind one event costs the handler.
type mix map[string]float64

// mixOf averages counts over events. The host's own calls and those that set up
// are left out.
func mixOf(counts map[string]int, events int) mix {
	m := mix{}
	for op, n := range counts {
		if op != opHost && op != opSetUp {
			m[op] = float64(n) / float64(events)
		}
	}
	return m
}

func (m mix) sum() (all float64) {
	for _, n := range m {
		all += n
	}
	return all
}

func (m mix) String() string {
	var parts []string
	for _, op := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%.3g %s", m[op], op))
	}
	return strings.Join(parts, ", ")
}

// callsPerEvent counts what one event costs in reads of Azure and in storage
// calls. It measures no time: storage is behind a counting proxy.
func (b *bench) callsPerEvent(ctx context.Context) error {
	c, err := newCounted(ctx, b.azurite)
	if err != nil {
		return err
	}
	defer c.close()
	w, err := b.world(ctx, map[string]string{"AzureWebJobsStorage": c.proxied, "CVMGUARD_CACHE_TTL": "10m"})
	if err != nil {
		return err
	}
	defer w.Close()
	paths := make([]path, b.links)
	for i := range paths {
		if paths[i], err = addPath(w.Sim, fmt.Sprintf("c%d", i)); err != nil {
			return err
		}
	}
	// round lets VMs be created, one on each key path.
	var ids []string
	round := func(name string) (perEvent float64, m mix, err error) {
		ids = ids[:0]
		for i, p := range paths {
			id, err := addVM(w.Sim, fmt.Sprintf("%s-%d", name, i), p)
			if err != nil {
				return 0, nil, err
			}
			ids = append(ids, id)
		}
		return count(ctx, w, c, ids)
	}
	first, _, err := round("first")
	if err != nil {
		return err
	}
	// A new process has an empty cache, while the shared objects' rows are there:
	// what is read now is read for the VM alone.
	if err := restart(ctx, w); err != nil {
		return err
	}
	cold, _, err := round("cold")
	if err != nil {
		return err
	}
	cached, m, err := round("cached")
	if err != nil {
		return err
	}
	_, again, err := count(ctx, w, c, ids)
	if err != nil {
		return err
	}
	b.mix, b.unchanged = m, again
	b.figures = append(b.figures,
		figure("Azure reads per event, every link differs", "reads", cold).atMost(5).of(b.links),
		figure("Azure reads per event, DES, key and vault cached", "reads", cached).atMost(2).of(b.links),
		figure("Azure reads per event, DES, key and vault never seen before", "reads", first).of(b.links).
			noting("with the turns that these shared objects get of their own: once a day for each, not for each event"),
		figure("storage calls per event, VM seen for the first time", "calls", m.sum()).of(b.links).noting("%s", m),
		figure("storage calls per event, VM unchanged", "calls", again.sum()).of(b.links).noting("%s", again))
	return nil
}

// count delivers an event for each VM and counts, by the event, the handler's
// reads of Azure and its storage calls until nothing moves any more.
func count(ctx context.Context, w *local.World, c *counted, ids []string) (perEvent float64, m mix, err error) {
	w.Sim.Reset()
	c.take()
	before := w.Host().Stats().Invocations
	for _, id := range ids {
		if _, err := deliver(ctx, w.Host().WebhookURL("vm-event"), created(w.Sim, id)); err != nil {
			return 0, nil, err
		}
	}
	if err := settled(ctx, w, before, 2*len(ids)); err != nil {
		return 0, nil, err
	}
	return float64(reads(w.Sim)) / float64(len(ids)), mixOf(c.take(), len(ids)), nil
}

// restart kills the handler and waits for the next one.
func restart(ctx context.Context, w *local.World) error {
	starts := w.Host().Stats().Starts
	if err := w.Host().KillHandler(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for w.Host().Stats().Starts == starts {
		if err := pause(wait, time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the killed handler to be started again: %w", err)
		}
	}
	if err := w.Host().WaitReady(wait); err != nil {
		return fmt.Errorf("waiting for the handler that was started again: %w", err)
	}
	return nil
}
