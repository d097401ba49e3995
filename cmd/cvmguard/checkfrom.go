package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/estate"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

// orphan is a confidential OS disk that no VM has (row 28), and its JSON.
type orphan struct {
	ID           cvm.DiskID `json:"id"`
	Name         string     `json:"name"`
	SecurityType string     `json:"securityType"`
	State        string     `json:"state"` // diskState as Azure spells it
	Reason       string     `json:"reason"`
}

// runFrom judges a captured estate: what a live check asks of Azure is read from
// files. It counts as its own second read.
func (cmd checkCmd) runFrom(c *console) error {
	now, err := cmd.moment(c.now)
	if err != nil {
		return err
	}
	keep, err := cmd.narrow()
	if err != nil {
		return err
	}
	cfg, err := config.LoadWithoutStorage(c.getenv)
	if err != nil {
		return err
	}
	doc, err := documentFor(cmd.Policy, cfg)
	if err != nil {
		return err
	}
	captured, err := estate.Open(cmd.From)
	if err != nil {
		return fmt.Errorf("check: --from: %w", err)
	}
	out := checkDoc{NotRead: captured.Troubles()}
	ids, err := cmd.captured(captured, keep)
	if err != nil {
		tellTroubles(c, out.NotRead)
		return err
	}
	if len(cmd.VMs) == 0 {
		for _, d := range captured.Orphans() {
			if !keep(d.ID.Subscription(), d.ID.ResourceGroup()) {
				continue
			}
			for _, f := range policy.JudgeOrphan(d) {
				out.Orphans = append(out.Orphans, orphan{d.ID, d.Name, d.SecurityType, d.State, f.Reason})
			}
		}
	}
	p := c.progress("judging")
	p.total.Store(int64(len(ids)))
	k := &checker{observer: reconcile.Observer{Azure: captured, Whole: true, Orchestrator: doc.Orchestrator()}, doc: doc,
		now: func() time.Time { return now }, done: func() { p.done.Add(1) }}
	results, err := k.all(c.ctx, ids)
	p.stop()
	if err != nil {
		return err
	}
	return cmd.tell(c, out, results)
}

// moment is the time to judge at.
func (cmd checkCmd) moment(now func() time.Time) (time.Time, error) {
	if cmd.At == nil {
		return now(), nil
	}
	t, err := time.Parse(time.RFC3339, *cmd.At)
	if err != nil {
		return t, badArgument("--at", *cmd.At, "it is not a time of RFC 3339, with date, time and zone", "--at 2026-01-15T00:00:00Z")
	}
	return t, nil
}

// narrow says which subscription and group an estate is narrowed to.
func (cmd checkCmd) narrow() (func(sub, group string) bool, error) {
	if len(cmd.VMs) > 0 && cmd.given() {
		return nil, errors.New("check: VM ids and --group or --subscription were given together; give one or the other")
	}
	sub, group, err := cmd.parse()
	return func(s, g string) bool {
		return (sub == "" || strings.EqualFold(s, sub)) && (group == "" || strings.EqualFold(g, group))
	}, err
}

// captured are the VMs of an estate that are asked for: those named, or those in
// the scope. One that was named and isn't there stays, and is told of by its verdict.
func (cmd checkCmd) captured(e *estate.Estate, keep func(sub, group string) bool) ([]cvm.VMID, error) {
	all := e.VMs()
	if len(all) == 0 {
		files, _ := e.Files()
		return nil, fmt.Errorf("check: --from %q: no VM was found in its %d files; give a folder with the bodies of VMs as Azure answers them", cmd.From, files)
	}
	named := map[string]bool{}
	for _, given := range cmd.VMs {
		o, err := parseVM("check: vm-id", given)
		if err != nil {
			return nil, err
		}
		named[cvm.VMID(o.ID).Fold()] = true
	}
	var ids []cvm.VMID
	found := map[string]bool{}
	for _, id := range all {
		if len(named) > 0 && named[id.Fold()] || len(named) == 0 && keep(id.Subscription(), id.ResourceGroup()) {
			ids = append(ids, id)
			found[id.Fold()] = true
		}
	}
	for _, given := range cmd.VMs {
		if !found[strings.ToLower(given)] {
			return nil, fmt.Errorf("check: vm-id %q isn't among the VMs captured in %q; check the id, or capture the VM", given, cmd.From)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("check: none of the %d VMs captured in %q is in that scope; check --group and --subscription", len(all), cmd.From)
	}
	return ids, nil
}

func tellTroubles(c *console, all []estate.Trouble) {
	const shown = 10
	for _, t := range all[:min(len(all), shown)] {
		c.say("%s: %s", t.File, t.Why)
	}
	if n := len(all) - shown; n > 0 {
		c.say("and %d more files that could not be used; -o json lists them all", n)
	}
}

func tellOrphans(c *console, all []orphan) {
	if len(all) == 0 {
		return
	}
	g := c.grid("disk without a VM", "group", "security type", "state")
	for _, d := range all {
		g.add(d.Name, d.ID.ResourceGroup(), d.SecurityType, d.State)
	}
	c.line("")
	g.print(c)
}
