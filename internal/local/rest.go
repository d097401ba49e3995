package local

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/ledger"
)

// Rest waits until the loop is at rest: every event is delivered, each of the VMs
// has a verdict, no object is claimed, has a step open or is to be looked at
// within Options.Ahead, and nothing was called for a while.
func (w *World) Rest(ctx context.Context, vms []string) error {
	ahead := orElse(w.opts.Ahead, time.Minute)
	if err := w.Sim.WaitDelivered(ctx); err != nil {
		return err
	}
	since, last := time.Now(), -1
	why := "nothing was looked at yet"
	for {
		calls := w.Calls()
		busy, err := w.busy(ctx, vms, ahead)
		switch {
		case err != nil:
			return err
		case busy != "":
			why, since = busy, time.Now()
		case calls != last:
			why, since = "calls are being made", time.Now()
		case time.Since(since) >= quiet:
			return nil
		}
		last = calls
		select {
		case <-ctx.Done():
			return fmt.Errorf("the loop does not come to rest: %s: %w", why, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Calls is how many invocations there were, of all hosts.
func (w *World) Calls() int {
	h := w.Host()
	if h == nil {
		return 0
	}
	return h.Stats().Invocations
}

// busy says why the loop is not at rest, "" if it is.
func (w *World) busy(ctx context.Context, vms []string, ahead time.Duration) (string, error) {
	if n := w.Host().Stats().Running; n > 0 {
		return fmt.Sprintf("%d calls are under way", n), nil
	}
	judged := map[string]bool{}
	why := ""
	for _, table := range []string{ledger.TableVMs, ledger.TableShared} {
		var bad error
		now := time.Now()
		err := w.Storage.Tables().Query(ctx, table, ledger.Filter{}, func(e ledger.Entity) bool {
			r, err := ledger.DecodeRow(e)
			if err != nil {
				bad = err
				return false
			}
			judged[strings.ToLower(r.ID)] = r.Verdict != ""
			switch {
			case r.Owner != "":
				why = r.ID + " is claimed"
			case r.Step != nil:
				why = fmt.Sprintf("%s has %s open", r.ID, r.Step.Step.Kind)
			case r.NextLook.After(now) && r.NextLook.Before(now.Add(ahead)):
				why = fmt.Sprintf("%s is looked at again in %s", r.ID, r.NextLook.Sub(now).Round(time.Millisecond))
			case !r.NextLook.After(now) && r.LastSeen.Before(r.NextLook):
				why = r.ID + " is due"
			}
			return true
		})
		if err == nil {
			err = bad
		}
		if err != nil {
			return "", err
		}
	}
	for _, id := range vms {
		if !judged[strings.ToLower(id)] {
			return id + " has no verdict", nil
		}
	}
	return why, nil
}
