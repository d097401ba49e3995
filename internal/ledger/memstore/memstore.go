// Package memstore is the ledger's storage in memory, for tests.
//
// It promises the semantics of the interfaces in package ledger, errors included,
// as package storetest pins them, and is safe for concurrent use. Beyond them it
// has what tests of crashes need: a clock that a test moves, a queue whose
// messages a test takes, hides and gives back, and a hook before and after each
// action that changes something.
//
// It keeps nothing on disk, has no quotas but the size limits of Azure, and is
// linked into nothing that ships.
package memstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Action is one call that changes something: create, delete-blob, append,
// insert, replace, delete-row, enqueue.
type Action struct {
	N     int    // 1 is the store's first
	After bool   // the effect is there; false: not yet
	Op    string //
	Name  string // container/blob, table/pk/rk or queue
}

// Store holds blobs, rows and messages. Make it with New. Hook may be set while
// nothing else uses the store.
type Store struct {
	// Hook is called before and after each action, outside the store's lock. An
	// error before it means that the action does not happen, one after it that it
	// happened and the caller doesn't hear so: the call answers with the error. A
	// hook that panics simulates a crash at that point.
	Hook func(Action) error
	// Clock gives the time of the queue and of SAS URLs.
	Clock *Clock

	mu       sync.Mutex
	actions  int
	calls    map[string]int
	etags    int
	blobs    map[string]map[string][]byte
	tables   map[string]map[rowKey]ledger.Entity
	queues   map[string][]*message
	messages int
}

// New makes an empty store with all of the ledger's containers, tables and
// queues. A clock of nil is one that stands at a fixed moment in 2026.
func New(clock *Clock) *Store {
	if clock == nil {
		clock = NewClock(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	}
	s := &Store{Clock: clock, calls: map[string]int{}, blobs: map[string]map[string][]byte{},
		tables: map[string]map[rowKey]ledger.Entity{}, queues: map[string][]*message{}}
	for _, c := range []string{ledger.ContainerRecords, ledger.ContainerPlans, ledger.ContainerEvidence, ledger.ContainerPolicy, ledger.ContainerInbox,
		ledger.ContainerIncoming, ledger.ContainerTools, ledger.ContainerDeadLetter, ledger.ContainerCheckpoints} {
		s.blobs[c] = map[string][]byte{}
	}
	for _, t := range []string{ledger.TableVMs, ledger.TableShared, ledger.TableNonces, ledger.TableInbox, ledger.TableBrakes} {
		s.tables[t] = map[rowKey]ledger.Entity{}
	}
	for _, q := range []string{ledger.QueueReconcile, ledger.QueuePoison} {
		s.queues[q] = nil
	}
	return s
}

// Blobs is the store's view as ledger.Blobs and ledger.SASBlobs.
func (s *Store) Blobs() Blobs { return Blobs{s} }

// Tables is the store's view as ledger.Tables.
func (s *Store) Tables() Tables { return Tables{s} }

// Queue is the store's view as ledger.Queue.
func (s *Store) Queue() Queue { return Queue{s} }

// Actions is how many actions were begun.
func (s *Store) Actions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.actions
}

// Calls is how often each operation was called, reads included (read, exists,
// list, get, query), by its name.
func (s *Store) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.calls))
	for op, n := range s.calls {
		out[op] = n
	}
	return out
}

// read runs f, which changes nothing, under the lock.
func (s *Store) read(ctx context.Context, op, name string, f func() error) error {
	if err := alive(ctx, op, name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[op]++
	return f()
}

// act runs f, which changes something, under the lock, between the two calls of
// the hook.
func (s *Store) act(ctx context.Context, op, name string, f func() error) error {
	if err := alive(ctx, op, name); err != nil {
		return err
	}
	s.mu.Lock()
	s.actions++
	s.calls[op]++
	a := Action{N: s.actions, Op: op, Name: name}
	hook := s.Hook
	s.mu.Unlock()
	if hook != nil {
		if err := hook(a); err != nil {
			return err
		}
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if hook != nil {
		a.After = true
		return hook(a)
	}
	return nil
}

func alive(ctx context.Context, op, name string) error {
	if err := ctx.Err(); err != nil {
		return fault.New(fault.Transient, op, name, "%w", err)
	}
	return nil
}

// etag is a fresh ETag. The lock is held.
func (s *Store) etag() string {
	s.etags++
	return fmt.Sprintf(`W/"%d"`, s.etags)
}

// Clock is a clock that a test moves. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock makes a clock that stands at t.
func NewClock(t time.Time) *Clock { return &Clock{now: t.UTC()} }

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock on and gives its new time.
func (c *Clock) Advance(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// Set puts the clock to t, if that isn't back in time.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.now) {
		c.now = t.UTC()
	}
}
