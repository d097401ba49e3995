package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/attest"
	"cvmguard/internal/azure"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fleet"
	"cvmguard/internal/guest"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// policyInForce gives the policy document that the settings name. A file is read
// at once; the embedded document is made on first use, so that the port opens
// before a schema is compiled.
func policyInForce(cfg config.Config) (func() (*policy.Document, error), error) {
	read := func() (*policy.Document, error) { return documentFor("", cfg) }
	if cfg.PolicyPath == "" {
		return sync.OnceValues(read), nil
	}
	doc, err := read()
	if err != nil {
		return nil, err
	}
	return func() (*policy.Document, error) { return doc, nil }, nil
}

// shadowPolicy gives the document that is judged beside the one in force, nil where
// the settings name none.
func shadowPolicy(cfg config.Config) (*policy.Document, error) {
	if cfg.ShadowPath == "" {
		return nil, nil
	}
	return readDocument(cfg.ShadowPath)
}

func withMode(d *policy.Document, mode string) *policy.Document {
	if mode == "" || mode == d.Mode() {
		return d
	}
	return d.WithMode(mode)
}

// lazyApp gives the App, made by the first invocation that needs it. A failure is
// not kept: the next invocation tries anew.
func lazyApp(cfg config.Config, doc func() (*policy.Document, error), shadow *policy.Document, log *slog.Logger) handlers.Source {
	var mu sync.Mutex
	var app *handlers.App
	return func(ctx context.Context) (*handlers.App, error) {
		mu.Lock()
		defer mu.Unlock()
		if app != nil {
			return app, nil
		}
		d, err := doc()
		if err != nil {
			return nil, err
		}
		a, err := newApp(ctx, cfg, d, shadow, log)
		if err != nil {
			return nil, fmt.Errorf("making the clients: %w", err)
		}
		app = a
		return app, nil
	}
}

// newApp wires the domain to Azure.
func newApp(ctx context.Context, cfg config.Config, doc, shadow *policy.Document, log *slog.Logger) (*handlers.App, error) {
	roots := attest.VendorRoots()
	if cfg.DevRoots != "" {
		var err error
		if roots, err = attest.LoadRoots(cfg.DevRoots); err != nil {
			return nil, err
		}
	}
	az := azure.New(cfg, log)
	blobs, tables, queue := az.Blobs(), az.Tables(), az.Queue()
	applier := remedy.NewApplier(az, doc)
	applier.Script, applier.Now = guest.Script, time.Now
	inbox := ledger.Inbox{Blobs: blobs, Tables: tables}
	nonces := ledger.Nonces{Tables: tables, Evidence: ledger.Evidence{Blobs: blobs}}
	loop := &reconcile.Loop{
		Azure: az.Reader(cfg.CacheTTL), Blobs: blobs, SAS: blobs, Tables: tables, Queue: queue,
		Applier: applier, MAA: az.MAA(), Roots: roots, Provider: provider,
		Tool:   &reconcile.GuestTool{Blobs: blobs, SAS: blobs, Path: cfg.GuestTool, Life: cfg.NonceLife},
		Policy: doc, Shadow: shadow, Settings: loopSettings(cfg), Now: time.Now, Rand: rand.Reader, Log: log, Version: version, Development: cfg.Development,
	}
	loop.Activity, loop.Planning = az, az
	applier.OnSet = loop.VMsOnSet
	if cfg.DevAzure != "" {
		loop.ActivityLag = cfg.Margin // the simulator's log is never behind
	}
	if err := loop.Settings.Check(); err != nil {
		return nil, err
	}
	return &handlers.App{
		Loop: loop,
		Fleet: &fleet.Fleet{Lister: lister{az}, Decider: decider{}, Tables: tables, Queue: queue, Blobs: blobs, Inbox: inbox, Nonces: nonces,
			Now: time.Now, Stale: 24 * time.Hour, Missed: 15 * time.Minute, Log: log},
		Decider: decider{}, DecideKey: decider{}.DecideKey,
		Inbox: inbox, Nonces: nonces, Tables: tables, Chains: ledger.Chains{Blobs: blobs}, Queue: queue,
		Policy: doc, Now: time.Now, Rand: rand.Reader, Version: version, SlowPace: cfg.SlowPace, NonceLife: cfg.NonceLife,
		Health: func(ctx context.Context) []handlers.Dependency { return health(ctx, az) },
	}, nil
}

func loopSettings(cfg config.Config) reconcile.Settings {
	s := reconcile.DefaultSettings()
	s.Lease, s.Turn, s.Margin = cfg.Lease, cfg.TurnTimeout, cfg.Margin
	s.SlowPace, s.NonceLife, s.TransitionWait, s.MaxPoll = cfg.SlowPace, cfg.NonceLife, cfg.TransitionWait, cfg.MaxPoll
	return s
}

func provider(region string) string {
	url, _ := cvm.AttestationProvider(region)
	return url
}

// lister gives azure's listing in fleet's words.
type lister struct{ az *azure.Client }

var _ fleet.Lister = lister{}

func (l lister) ListVMs(ctx context.Context, s fleet.Scope, yield func(fleet.VM) error) error {
	return l.az.ListVMs(ctx, azure.GraphScope{Subscriptions: s.Subscriptions, Group: s.Group, Where: s.Where}, func(r azure.VMRow) error {
		return yield(fleet.VM{ID: r.ID, Created: r.TimeCreated})
	})
}

// decider gives azure's reading of events in fleet's words.
type decider struct{}

var _ fleet.Decider = decider{}

// Decide implements fleet.Decider.
func (decider) Decide(event []byte) (vm cvm.VMID, cause ledger.Cause, drop string, err error) {
	e, err := azure.ParseEvent(event)
	if err != nil {
		return "", cause, "", err
	}
	d := azure.Classify(e)
	if d.Cause.At.IsZero() {
		d.Cause.At = time.Now() // the event's own time can't be read
	}
	if d.VM == "" && d.Drop == "" {
		d.Drop, d.Why = azure.DropOtherEvent, "it is about a key"
	}
	return d.VM, d.Cause, why(d), nil
}

// DecideKey says which key an event is about.
func (decider) DecideKey(event []byte) (key cvm.KeyID, cause ledger.Cause, drop string, err error) {
	e, err := azure.ParseEvent(event)
	if err != nil {
		return "", cause, "", err
	}
	d := azure.Classify(e)
	if d.Key == "" && d.Drop == "" {
		d.Drop, d.Why = azure.DropOtherEvent, "it is about a VM"
	}
	return d.Key, d.Cause, why(d), nil
}

func why(d azure.Decision) string {
	if d.Drop == "" {
		return ""
	}
	return d.Drop + ": " + d.Why
}

// healthWait bounds one answer of the health function.
const healthWait = 4 * time.Second

func health(ctx context.Context, az *azure.Client) []handlers.Dependency {
	ctx, cancel := context.WithTimeout(ctx, healthWait)
	defer cancel()
	d := handlers.Dependency{Name: "storage", Ready: true}
	if err := az.Ready(ctx); err != nil {
		d.Ready, d.Said = false, err.Error()
	}
	return []handlers.Dependency{d}
}
