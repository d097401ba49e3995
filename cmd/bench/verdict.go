//go:build !release

package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
	"cvmguard/internal/reconcile"
)

// slowAzure is the latency of the simulated Azure under which verdicts are timed,
// beside none.
const slowAzure = 50 * time.Millisecond

// verdictCold times verdicts when nothing is cached: five reads, one after the
// other.
func (b *bench) verdictCold(ctx context.Context) error {
	w, err := b.world(ctx, map[string]string{"CVMGUARD_CACHE_TTL": "0"})
	if err != nil {
		return err
	}
	defer w.Close()
	return b.verdicts(ctx, w, "5 reads", 5)
}

// verdicts times events to verdicts at both latencies, each beside its floor.
func (b *bench) verdicts(ctx context.Context, w *local.World, what string, reads int) error {
	noop, stop, err := b.noopHost(ctx)
	if err != nil {
		return err
	}
	defer stop()
	p, err := addPath(w.Sim, "verdict")
	if err != nil {
		return err
	}
	t := &timing{w: w, path: p, noop: noop, lines: b.lines, reads: reads, mix: b.mix}
	for range 3 { // the shared objects get their rows, clients their connections
		if _, err := t.verdict(ctx); err != nil {
			return err
		}
		if err := settled(ctx, w, 0, 0); err != nil {
			return err
		}
	}
	if t.replay, err = newReplay(ctx, w, t.last); err != nil {
		return err
	}
	for _, at := range []struct {
		latency time.Duration
		n       int
	}{{0, b.fast}, {slowAzure, b.slow}} {
		w.Sim.SetKnobs(func(k *azuresim.Knobs) { k.Latency = at.latency })
		var own, floor samples
		for range at.n {
			took, err := t.verdict(ctx)
			if err != nil {
				return err
			}
			own.took(took)
			if took, err = t.floor(ctx); err != nil {
				return err
			}
			floor.took(took)
		}
		w.Sim.SetKnobs(func(k *azuresim.Knobs) { k.Latency = 0 })
		name := fmt.Sprintf("event to verdict, Azure at %d ms, %s, ", at.latency.Milliseconds(), what)
		const is = "the same calls bare, one after the other: delivery to a no-op handler, the storage calls of one event, as many reads of Azure"
		b.figures = append(b.figures,
			figure(name+"p50", "ms", own.percentile(0.5)).beside(floor.percentile(0.5), is).of(at.n).
				noting("until the record is written; the host's pause between two reads of an empty queue, 0 to 30 ms here, is in the figure and not in its floor"),
			figure(name+"p99", "ms", own.percentile(0.99)).beside(floor.percentile(0.99), is).of(at.n))
	}
	return nil
}

// timing times one way after the other in a world.
type timing struct {
	w      *local.World
	path   path
	noop   string
	lines  *verdictLines
	reads  int // of Azure, for one verdict
	mix    mix
	replay *replay
	n      int
	last   string // the newest VM
}

// verdict makes a VM, delivers the event of its creation and waits until the
// record with its verdict is written. It ends when the turn has.
func (t *timing) verdict(ctx context.Context) (time.Duration, error) {
	t.n++
	id, err := addVM(t.w.Sim, fmt.Sprintf("verdict-%d", t.n), t.path)
	if err != nil {
		return 0, err
	}
	t.last = id
	// The host polls its queue: the event must come at any moment between two polls.
	if err := pause(ctx, 30*time.Millisecond+rand.N(30*time.Millisecond)); err != nil {
		return 0, err
	}
	e := created(t.w.Sim, id)
	t.w.Sim.Reset()
	wait := t.lines.expect(id)
	began := time.Now()
	if _, err := deliver(ctx, t.w.Host().WebhookURL("vm-event"), e); err != nil {
		return 0, err
	}
	at, err := wait(ctx)
	if err != nil {
		return 0, err
	}
	for t.w.Host().Stats().Running > 0 {
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
	ok, err := judged(ctx, t.w, id)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("the handler's log says a verdict on %s that its row doesn't show", id)
	}
	return at.Sub(began), nil
}

// judged says whether a VM's row shows a verdict.
func judged(ctx context.Context, w *local.World, id string) (bool, error) {
	o, err := reconcile.VMObject(id)
	if err != nil {
		return false, err
	}
	e, err := w.Storage.Tables().Get(ctx, ledger.TableVMs, o.PK, o.RK)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	row, err := ledger.DecodeRow(e)
	return row.Verdict != "", err
}

// floor makes the calls that a verdict is made of, without a verdict.
func (t *timing) floor(ctx context.Context) (time.Duration, error) {
	e := created(t.w.Sim, t.last)
	began := time.Now()
	if _, err := deliver(ctx, t.noop, e); err != nil {
		return 0, err
	}
	if err := t.replay.once(ctx, t.mix); err != nil {
		return 0, err
	}
	for range t.reads {
		if err := t.replay.read(ctx, t.last); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// arm reads the simulated Azure bare.
type arm struct {
	client *http.Client
	token  string
}

func newARM(ctx context.Context, s *azuresim.Sim) (arm, error) {
	t, err := s.Credential(azuresim.AdminPrincipal).GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://management.core.windows.net//.default"}})
	return arm{&http.Client{Transport: s.Transport(), Timeout: 30 * time.Second}, t.Token}, err
}

// read reads a VM with its instance view.
func (a arm) read(ctx context.Context, vm string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://management.azure.com"+vm+"?api-version=2026-04-01&$expand=instanceView", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reading %s bare: the simulated Azure answered %d", vm, resp.StatusCode)
	}
	return nil
}
