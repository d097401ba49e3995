// Package handlers is one file a function: it decodes the trigger's call, calls
// the domain and answers. There is no logic of the domain here.
//
// What it promises: an event or message is acknowledged only when what it names
// is on the loop or its bytes are in the dead-letter inbox; bad input gets an
// answer that names the field, what was given and an example, and changes
// nothing. What it does not do: it makes no clients (they are made on first use
// by whoever gives the App) and knows nothing of how the host wraps a call.
package handlers

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

// App is what the functions call.
type App struct {
	Loop    *reconcile.Loop
	Fleet   *fleet.Fleet
	Decider fleet.Decider
	// DecideKey says which key an event is about (its versionless URL).
	DecideKey func(event []byte) (key cvm.KeyID, cause ledger.Cause, drop string, err error)
	Inbox     ledger.Inbox
	Nonces    ledger.Nonces
	Tables    ledger.Tables
	Chains    ledger.Chains
	Queue     ledger.Queue
	Policy    *policy.Document
	Now       func() time.Time
	Rand      io.Reader
	Version   string
	SlowPace  time.Duration
	NonceLife time.Duration
	// Health asks each dependency, shortly.
	Health   func(ctx context.Context) []Dependency
	Counters Counters
}

// Dependency is one line of the health answer.
type Dependency struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	Said  string `json:"said,omitempty"` // why it isn't
}

// Counters count since the process started.
type Counters struct {
	Queued, Dropped, Kept, Turns, TurnsFailed atomic.Int64
}

// Source gives the App, made on first use. An error fails the invocation, and
// the next one tries anew.
type Source func(ctx context.Context) (*App, error)

// Register puts every function on the mux, under the names and routes of the
// folders under functions/.
func Register(m *customhandler.Mux, app Source) {
	m.Event("vm-event", VMEvent(app))
	m.Event("key-event", KeyEvent(app))
	m.Queue("reconcile", Reconcile(app))
	m.Queue("poison", Poison(app))
	m.Timer("sweep", Sweep(app))
	m.HTTP("rerun", "rerun", []string{"POST"}, false, Rerun(app))
	m.HTTP("vms", "vms/{key?}/{view?}", []string{"GET"}, false, VMs(app))
	m.HTTP("evidence", "evidence/{nonce?}", []string{"POST"}, true, Evidence(app))
	m.HTTP("inbox", "inbox/{id?}/{act?}", []string{"GET", "POST"}, false, Inbox(app))
	m.HTTP("brakes", "brakes", []string{"GET", "POST"}, false, Brakes(app))
	m.HTTP("operations", "operations/{hash?}/{word?}", []string{"GET", "POST"}, false, Operations(app))
	m.HTTP("health", "health", []string{"GET"}, false, Health(app))
}
