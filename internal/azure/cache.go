package azure

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// cache keeps what was read for a time, at most max entries, the longest unused
// going first. Readers that miss at the same time share one call. A value whose
// reading began before an invalidation is given to whom asked but not kept.
type cache[V any] struct {
	ttl time.Duration
	max int
	now func() time.Time

	mu      sync.Mutex
	gen     uint64                   // guarded by mu; counts invalidations
	entries map[string]*list.Element // guarded by mu; values are *entry[V]
	order   *list.List               // guarded by mu; most recently used first
	flights map[string]*flight[V]    // guarded by mu
}

type entry[V any] struct {
	key   string
	value V
	at    time.Time
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func newCache[V any](ttl time.Duration, max int, now func() time.Time) *cache[V] {
	return &cache[V]{ttl: ttl, max: max, now: now, entries: map[string]*list.Element{}, order: list.New(), flights: map[string]*flight[V]{}}
}

// get gives the kept value, or reads it. fresh reads in any case and keeps what
// it read. Errors aren't kept.
func (c *cache[V]) get(ctx context.Context, key string, fresh bool, read func(context.Context) (V, error)) (V, error) {
	if fresh {
		c.mu.Lock()
		gen := c.gen
		c.mu.Unlock()
		v, err := read(ctx)
		if err == nil {
			c.keep(key, v, gen)
		}
		return v, err
	}
	for {
		c.mu.Lock()
		if e, ok := c.entries[key]; ok {
			if kept := e.Value.(*entry[V]); c.now().Sub(kept.at) < c.ttl {
				c.order.MoveToFront(e)
				c.mu.Unlock()
				return kept.value, nil
			}
			c.drop(e)
		}
		f, flying := c.flights[key]
		if !flying {
			f = &flight[V]{done: make(chan struct{})}
			c.flights[key] = f
		}
		gen := c.gen
		c.mu.Unlock()

		if !flying {
			c.lead(ctx, key, f, gen, read)
			return f.value, f.err
		}
		select {
		case <-ctx.Done():
			var zero V
			return zero, ctx.Err()
		case <-f.done:
		}
		// The one who read may have been called off: then it is our turn.
		if f.err != nil && (errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.DeadlineExceeded)) && ctx.Err() == nil {
			continue
		}
		return f.value, f.err
	}
}

// lead reads for all who wait. Those are let go even if read panics.
func (c *cache[V]) lead(ctx context.Context, key string, f *flight[V], gen uint64, read func(context.Context) (V, error)) {
	f.err = errors.New("the read ended without an answer")
	defer func() {
		if f.err == nil {
			c.keep(key, f.value, gen)
		}
		c.mu.Lock()
		if c.flights[key] == f {
			delete(c.flights, key)
		}
		c.mu.Unlock()
		close(f.done)
	}()
	f.value, f.err = read(ctx)
}

func (c *cache[V]) keep(key string, v V, gen uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen || c.ttl <= 0 {
		return
	}
	if e, ok := c.entries[key]; ok {
		c.drop(e)
	}
	c.entries[key] = c.order.PushFront(&entry[V]{key: key, value: v, at: c.now()})
	for c.order.Len() > c.max {
		c.drop(c.order.Back())
	}
}

// drop takes an entry out; mu is held.
func (c *cache[V]) drop(e *list.Element) {
	delete(c.entries, e.Value.(*entry[V]).key)
	c.order.Remove(e)
}

// forget drops the entries that match and keeps nothing of what is being read,
// whose readers no longer serve those who ask from now on.
func (c *cache[V]) forget(match func(key string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for k, e := range c.entries {
		if match(k) {
			c.drop(e)
		}
	}
	for k := range c.flights {
		if match(k) {
			delete(c.flights, k)
		}
	}
}
