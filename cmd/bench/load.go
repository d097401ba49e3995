//go:build !release

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
)

const mega = 1e6

// What host.json says: the host takes messages in batches, and has a batch and a
// threshold of calls of the reconcile function under way at most.
const (
	batch    = 8
	parallel = batch + 4
)

// verdictAndLoad times verdicts with the links in the cache, then lets many VMs
// be created at once, and reads the handler's memory on the way.
func (b *bench) verdictAndLoad(ctx context.Context) error {
	w, err := b.world(ctx, map[string]string{"CVMGUARD_CACHE_TTL": "10m"})
	if err != nil {
		return err
	}
	defer w.Close()
	pid, err := child("cvmguard")
	if err != nil {
		return err
	}
	started, err := memoryOf(pid)
	if err != nil {
		return err
	}
	if err := b.verdicts(ctx, w, "2 reads", 2); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	rest, err := memoryOf(pid)
	if err != nil {
		return err
	}
	loaded, err := b.load(ctx, w, pid)
	if err != nil {
		return err
	}
	noop, err := b.noopMemory(ctx)
	if err != nil {
		return err
	}
	const is = "the no-op handler, started and asked once"
	b.figures = append(b.figures,
		figure("memory, just started", "MB", started.resident/mega).beside(noop.resident/mega, is).under(60),
		figure("memory at rest", "MB", rest.resident/mega).beside(noop.resident/mega, is).under(60).
			noting("resident, 1 s after %d verdicts, one after the other; %.1f MB of it are heap and stacks, the rest is pages of the program's file", b.fast+b.slow+3, rest.anon/mega),
		figure("memory under load, highest", "MB", loaded.peak/mega).beside(noop.resident/mega, is).under(60).
			noting("highest resident since the start; heap and stacks %.1f MB at most while %d VMs were judged", loaded.anon/mega, 2*b.sizes.load))
	return nil
}

// noopMemory is what the no-op handler has when it answers.
func (b *bench) noopMemory(ctx context.Context) (memory, error) {
	_, stop, err := b.noopHost(ctx)
	if err != nil {
		return memory{}, err
	}
	defer stop()
	pid, err := child("noop")
	if err != nil {
		return memory{}, err
	}
	return memoryOf(pid)
}

// load has many VMs judged at once: first new ones, then the same again, of which
// nothing has changed. It gives the handler's memory: anon is the highest of the
// load, peak that of the process.
func (b *bench) load(ctx context.Context, w *local.World, pid int) (memory, error) {
	p, err := addPath(w.Sim, "load")
	if err != nil {
		return memory{}, err
	}
	ids := make([]string, b.sizes.load+1)
	for i := range ids {
		if ids[i], err = addVM(w.Sim, fmt.Sprintf("load-%d", i), p); err != nil {
			return memory{}, err
		}
	}
	// One VM before the others: its shared objects have rows, and its row and
	// record are the floor's pattern.
	if _, err := b.flood(ctx, w, ids[:1]); err != nil {
		return memory{}, err
	}
	if err := settled(ctx, w, 0, 0); err != nil {
		return memory{}, err
	}
	r, err := newReplay(ctx, w, ids[0])
	if err != nil {
		return memory{}, err
	}
	ids = ids[1:]
	passes := []struct {
		what  string
		mix   mix
		floor time.Duration
	}{{what: "seen for the first time", mix: b.mix}, {what: "unchanged since", mix: b.unchanged}}
	for i := range passes {
		if passes[i].floor, err = r.many(ctx, passes[i].mix, len(ids), parallel); err != nil {
			return memory{}, err
		}
	}
	highest := watch(pid)
	var mem memory
	for i, pass := range passes {
		f, err := b.flood(ctx, w, ids)
		if err != nil {
			highest()
			return mem, err
		}
		n := float64(len(ids))
		if i == 0 {
			b.figures = append(b.figures, figure("event to acknowledgement under load, p99", "ms", f.acks.percentile(0.99)).of(len(ids)).
				noting("eight events at a time, while the loop works on those before"))
		}
		b.figures = append(b.figures, figure("throughput, VMs "+pass.what, "VMs/s", n/f.took.Seconds()).
			beside(n/pass.floor.Seconds(), fmt.Sprintf("more is better: the storage calls of as many events alone, bare, %d events at a time", parallel)).of(len(ids)).
			noting("per VM the handler's own processor time is %s, Azurite's %s; the simulated Azure, the host's stand-in and the bench share the cores",
				amount(f.own.Seconds()*1000/n, "ms"), amount(f.azurite.Seconds()*1000/n, "ms")))
	}
	anon := highest()
	if mem, err = memoryOf(pid); err != nil {
		return mem, err
	}
	mem.anon = anon
	return mem, nil
}

// flooded is what a load took.
type flooded struct {
	took         time.Duration // from the first event to the last verdict
	acks         samples
	own, azurite time.Duration // processor time
}

// flood delivers an event for each VM, eight at a time as Event Grid may, and
// waits until all have been judged since.
func (b *bench) flood(ctx context.Context, w *local.World, ids []string) (f flooded, err error) {
	handler, err := child("cvmguard")
	if err != nil {
		return f, err
	}
	node, err := child("node")
	if err != nil {
		return f, err
	}
	own, err1 := cpuTime(handler)
	azurite, err2 := cpuTime(node)
	if err := errors.Join(err1, err2); err != nil {
		return f, err
	}
	w.Sim.Reset()
	before := w.Host().Stats().Invocations
	began := time.Now()
	if f.acks, err = deliverAll(ctx, w, ids, 8); err != nil {
		return f, err
	}
	for done := false; !done; {
		if time.Since(began) > 90*time.Second {
			return f, fmt.Errorf("%d VMs are not judged after 90 s", len(ids))
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return f, err
		}
		st := w.Host().Stats()
		if st.Running > 0 || st.Invocations-before < 2*len(ids) {
			continue
		}
		f.took = time.Since(began)
		if done, err = allJudged(ctx, w, ids, began); err != nil {
			return f, err
		}
	}
	ownEnd, err1 := cpuTime(handler)
	azuriteEnd, err2 := cpuTime(node)
	f.own, f.azurite = ownEnd-own, azuriteEnd-azurite
	return f, errors.Join(err1, err2)
}

func deliverAll(ctx context.Context, w *local.World, ids []string, workers int) (samples, error) {
	events := make(chan azuresim.Event, len(ids))
	for _, id := range ids {
		events <- created(w.Sim, id)
	}
	close(events)
	webhook := w.Host().WebhookURL("vm-event")
	var mu sync.Mutex
	var acks samples
	var fault error
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for e := range events {
				took, err := deliver(ctx, webhook, e)
				mu.Lock()
				acks.took(took)
				fault = errors.Join(fault, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	return acks, fault
}

// allJudged says whether each VM was looked at since a moment and is released.
func allJudged(ctx context.Context, w *local.World, ids []string, since time.Time) (bool, error) {
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	var bad error
	err := w.Storage.Tables().Query(ctx, ledger.TableVMs, ledger.Filter{}, func(e ledger.Entity) bool {
		row, err := ledger.DecodeRow(e)
		if err != nil {
			bad = err
			return false
		}
		if row.Verdict != "" && row.Owner == "" && row.LastSeen.After(since) {
			delete(want, row.ID)
		}
		return true
	})
	return len(want) == 0, errors.Join(err, bad)
}
