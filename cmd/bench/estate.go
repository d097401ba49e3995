//go:build !release

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/devhost"
	"cvmguard/internal/local"
)

// poster is Event Grid's side of the webhook: it keeps its connections.
var poster = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}}

// deliver posts one event to a webhook as Event Grid does and gives the time from
// the first byte sent to the 202.
func deliver(ctx context.Context, webhook string, e azuresim.Event) (time.Duration, error) {
	body, err := json.Marshal([]any{e.EventGrid()})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, webhook, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header["aeg-event-type"] = []string{"Notification"}
	began := time.Now()
	resp, err := poster.Do(req)
	if err != nil {
		return 0, err
	}
	text, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	resp.Body.Close()
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusAccepted {
		return 0, fmt.Errorf("the webhook answered %d, want 202: %s", resp.StatusCode, text)
	}
	return took, nil
}

// path is one key path, from the vault to the disk encryption set.
type path struct{ des string }

// addPath makes a vault, a key in it and a disk encryption set on that key, all
// of them right.
func addPath(s *azuresim.Sim, name string) (path, error) {
	s.AddVault(azuresim.VaultSpec{Name: "kv-" + name})
	key, err := s.AddKey(azuresim.KeySpec{Vault: "kv-" + name, Name: "os-key"})
	if err != nil {
		return path{}, err
	}
	des, err := s.AddDES(azuresim.DESSpec{Name: "des-" + name, Key: key})
	return path{des}, err
}

// addVM makes a confidential VM on a key path, without data disks: what one event
// costs at least.
// addVM makes a confidential VM on a key path, without data disks: Azure is read for
// it no more than for any other. It lacks nothing but evidence.
func addVM(s *azuresim.Sim, name string, p path) (id string, err error) {
	return s.AddVM(azuresim.VMSpec{Name: "vm-" + name, DES: p.des, Extensions: []string{"GuestAttestation"}})
}

// created is the event of a VM's creation.
func created(s *azuresim.Sim, id string) azuresim.Event { return s.VMEvent(id, "write", true) }

// settled waits until the host has made at least `calls` calls since `before` and
// nothing is called or read any more. It asks nothing of storage or handler.
func settled(ctx context.Context, w *local.World, before, calls int) error {
	const still = 300 * time.Millisecond
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	last, since := -1, time.Now()
	for {
		st := w.Host().Stats()
		if sum := st.Invocations + len(w.Sim.Calls()); sum != last || st.Running > 0 {
			last, since = sum, time.Now()
		}
		if st.Invocations-before >= calls && time.Since(since) >= still {
			return nil
		}
		if err := pause(wait, 5*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for %d calls of the handler, %d were made: %w", calls, st.Invocations-before, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reads counts what the handler has read of Azure since the log was emptied:
// Resource Manager and the key plane. Token requests, the key plane's challenges
// (they carry no identity) and other principals' calls don't count.
func reads(s *azuresim.Sim) int {
	n := 0
	for _, c := range s.Calls() {
		if c.Principal == azuresim.HandlerPrincipal && c.Kind == azuresim.KindRead && (c.Plane == azuresim.PlaneARM || c.Plane == azuresim.PlaneKeys) {
			n++
		}
	}
	return n
}

// noopHost runs the no-op handler under a host of its own until stop.
func (b *bench) noopHost(ctx context.Context) (webhook string, stop func(), err error) {
	h, err := devhost.New(devhost.Options{Root: filepath.Dir(b.noop), Env: os.Environ()})
	if err != nil {
		return "", nil, fmt.Errorf("starting a host for the no-op handler: %w", err)
	}
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- h.Run(run) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			b.say("the no-op handler's host: %v", err)
		}
	}
	wait, done := context.WithTimeout(ctx, startLimit)
	defer done()
	if err := h.WaitReady(wait); err != nil {
		stop()
		return "", nil, fmt.Errorf("waiting for the no-op handler: %w", err)
	}
	return h.WebhookURL("vm-event"), stop, nil
}
