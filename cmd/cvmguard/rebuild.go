package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"cvmguard/internal/azure"
	"cvmguard/internal/config"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

// rebuildCmd writes rows anew from records.
type rebuildCmd struct {
	Chains []string `arg:"" optional:"" name:"chain" help:"Chains, as their folders under records are named, or a VM's ARM id."`
	All    bool     `help:"Every chain."`
	Force  bool     `help:"Write rows anew that are there and readable too, unless a worker holds them."`
	output
}

// Help is kong's.
func (rebuildCmd) Help() string {
	return `The records are the truth, a table row an index over them: this writes rows that were lost or can't be read. Each row is held for one lease, so that what a lost row knew of has ended, and its object is put on the loop. The storage account is taken from the settings, as cvmguard serve takes it.

Exit status: 0 done, 1 a chain has no records or is broken, or its row is held; 2 storage can't be reached, or the command could not run.`
}

// rebuiltRow is one chain's result, and its JSON.
type rebuiltRow struct {
	Chain    string       `json:"chain"`
	Object   string       `json:"object,omitempty"`
	Action   string       `json:"action"` // created, replaced, kept, failed
	Records  int          `json:"records,omitempty"`
	Verdict  policy.Value `json:"verdict,omitempty"`
	Enqueued bool         `json:"enqueued"`
	Error    string       `json:"error,omitempty"`

	err error
}

// Run rebuilds.
func (cmd rebuildCmd) Run(c *console) error {
	if cmd.All == (len(cmd.Chains) > 0) {
		return errors.New("rebuild: give either --all or chains; a chain is named such as " + exampleKey)
	}
	var chains []string
	for _, given := range cmd.Chains {
		chain, err := vmKey("rebuild: chain", given)
		if err != nil {
			return err
		}
		chains = append(chains, chain)
	}
	cfg, err := config.Load(c.getenv)
	if err != nil {
		return err
	}
	az := azure.New(cfg, slog.New(slog.DiscardHandler))
	r := rebuilder{
		rows:  ledger.Rebuilding{Blobs: az.Blobs(), Tables: az.Tables(), Now: c.now, Owner: "rebuild-" + rand.Text(), Lease: cfg.Lease, Force: cmd.Force},
		queue: az.Queue(),
	}
	p := c.progress("reading records")
	results, err := r.rebuild(c.ctx, chains)
	p.stop()
	if err != nil {
		return fmt.Errorf("rebuilding from the records: %w", err)
	}
	return cmd.tell(c, results)
}

// rebuilder writes rows and puts their objects on the loop.
type rebuilder struct {
	rows  ledger.Rebuilding
	queue ledger.Queue
}

// rebuild takes the chains named, or all where none is. One that fails doesn't
// stop the others.
func (r rebuilder) rebuild(ctx context.Context, chains []string) ([]rebuiltRow, error) {
	results := []rebuiltRow{}
	take := func(chain string, b ledger.Rebuilt, err error) bool {
		out := rebuiltRow{Chain: chain, Object: b.Row.ID, Action: b.Action, Records: b.Records, Verdict: b.Row.Verdict}
		if err == nil && b.Action != ledger.RebuiltKept {
			m := reconcile.Message{VM: b.Row.ID, Cause: ledger.Cause{Kind: "rebuild", At: r.rows.Now().UTC()}}
			if b.Row.SharedKind != "" {
				m.VM, m.Shared = "", b.Row.ID
			}
			if err = r.queue.Enqueue(ctx, ledger.QueueReconcile, m.Encode(), 0); err != nil {
				err = fmt.Errorf("the row of %q is written, but the object isn't on the loop: %w; put it there with cvmguard rerun, or rebuild it with --force", b.Row.ID, err)
			}
			out.Enqueued = err == nil
		}
		if err != nil {
			out.Action, out.Error, out.err = "failed", err.Error(), err
		}
		results = append(results, out)
		return ctx.Err() == nil
	}
	if len(chains) == 0 {
		if err := r.rows.All(ctx, take); err != nil {
			return nil, err
		}
		return results, ctx.Err()
	}
	for _, chain := range chains {
		b, err := r.rows.Rebuild(ctx, chain)
		if !take(chain, b, err) {
			break
		}
	}
	return results, ctx.Err()
}

func (cmd rebuildCmd) tell(c *console, results []rebuiltRow) error {
	if cmd.json() {
		if err := c.json(map[string]any{"chains": results}); err != nil {
			return err
		}
	} else {
		g := c.grid("chain", "action", "records", "verdict", "object")
		for _, r := range results {
			g.add(r.Chain, r.Action, r.Records, r.Verdict, r.Object)
		}
		g.print(c)
	}
	status := exitStatus(exitOK)
	for _, r := range results {
		if r.err == nil {
			continue
		}
		c.fail(r.err)
		switch fault.KindOf(r.err) {
		case fault.NotFound, fault.Blocked, fault.Conflict:
			status = max(status, exitNot)
		default:
			status = exitCannot
		}
	}
	if status == exitOK {
		return nil
	}
	return status
}
