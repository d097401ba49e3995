package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"cvmguard/handlers"
	"cvmguard/internal/reconcile"
)

// brakesCmds are about what holds steps back.
type brakesCmds struct {
	Show    brakesShowCmd    `cmd:"" default:"withargs" help:"Show the breaker, the canary and what is held."`
	Reset   brakesResetCmd   `cmd:"" help:"Let the breaker go again, after it has tripped."`
	Release brakesReleaseCmd `cmd:"" help:"Let all objects follow the canary of the policy in force."`
	Resume  brakesResumeCmd  `cmd:"" help:"Let steps be taken again that were stopped on a VM or a shared object."`
}

// Help is kong's.
func (brakesCmds) Help() string {
	return `The brakes are the policy document's: a breaker on how many VMs are changed within an hour, a canary of a new policy's first VMs, maintenance windows, a limit of steps per VM and day, and values that others change back. What the function app says of them is shown, and what a person says to them is recorded with the name of the key that was used.`
}

type brakesShowCmd struct {
	app
	output
}

// Help is kong's.
func (brakesShowCmd) Help() string {
	return "Exit status 0: the breaker hasn't tripped. 1: it has. 2: it could not be asked."
}

// Run shows.
func (cmd brakesShowCmd) Run(c *console) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	a, err := k.ask(c.ctx, http.MethodGet, "/api/brakes", nil, nil, http.StatusOK)
	if err != nil {
		return err
	}
	var v handlers.BrakesView
	if err := a.decode(&v); err != nil {
		return err
	}
	if cmd.json() {
		if err := c.json(json.RawMessage(a.body)); err != nil {
			return err
		}
	} else {
		showBrakes(c, v)
	}
	if v.Breaker.Tripped {
		return exitStatus(exitNot)
	}
	return nil
}

func showBrakes(c *console, v handlers.BrakesView) {
	g := c.grid("", "")
	row := func(name, value string) {
		if value != "" {
			g.add(name, value)
		}
	}
	b := v.Breaker
	row("policy", v.Policy)
	if b.Tripped {
		row("breaker", "tripped "+moment(b.At))
		row("why", b.Why)
		row("by policy", b.Policy)
	} else {
		row("breaker", "set")
	}
	row("changed within the hour", plural(b.Changed, "object")+" (VMs and shared objects)")
	row("trips above", limitsOf(b))
	if b.ResetAt != nil {
		row("last reset", strings.TrimSpace(moment(b.ResetAt)+" "+b.ResetBy))
	}
	if n := v.Canary; n != nil {
		state := fmt.Sprintf("%d of %s changed", len(n.Places), plural(n.VMs, "VM"))
		switch {
		case n.ReleasedAt != nil:
			state = strings.TrimSpace("released " + moment(n.ReleasedAt) + " " + n.ReleasedBy)
		case n.Ends != nil:
			state += ", the rest follows " + moment(n.Ends) + " if all is well"
		case n.Wait == "":
			state += ", the rest follows when a person releases it"
		}
		row("canary", state)
	}
	g.headless().print(c)
	if n := v.Canary; n != nil && len(n.Places) > 0 {
		c.line("")
		places := c.grid("canary", "changed", "trouble")
		for _, p := range n.Places {
			places.add(p.ID, moment(&p.At), p.Trouble)
		}
		places.print(c)
	}
	if len(v.Held) > 0 {
		c.line("")
		held := c.grid("brake", "object", "step", "why", "next look")
		for _, h := range v.Held {
			if len(h.Stopped) == 0 {
				held.add(h.Brake, h.ID, "", "", moment(h.NextLook))
			}
			for _, s := range h.Stopped {
				held.add(h.Brake, h.ID, s.Step, s.Why, moment(h.NextLook))
			}
		}
		held.print(c)
	}
	if v.More {
		c.say("more objects are held than are listed; see cvmguard vms -o json")
	}
}

// limitsOf tells how many objects may be changed within an hour: by their number,
// and as a share of the VMs, which counts only once enough objects were changed.
func limitsOf(b handlers.BreakerView) string {
	var limits []string
	if b.Most > 0 {
		limits = append(limits, plural(b.Most, "object"))
	}
	if b.Share != "" && b.Share != "0%" {
		share := fmt.Sprintf("%s of the VMs (%d known)", b.Share, b.VMs)
		if b.ShareFrom > 1 {
			share += fmt.Sprintf("; the share counts from %d objects on", b.ShareFrom)
		}
		limits = append(limits, share)
	}
	if len(limits) == 0 {
		return "no limit is set in the policy"
	}
	return strings.Join(limits, ", or ")
}

type brakesResetCmd struct {
	app
	output
}

// Help is kong's.
func (brakesResetCmd) Help() string {
	return "First find out why it tripped (cvmguard brakes) and put the policy right: after the reset the same policy goes on from where it was stopped. What was counted is forgotten, and the objects that were held are put on the loop. A breaker that hasn't tripped isn't reset, and goes on counting. Exit status 0: it was reset. 1: it hasn't tripped."
}

// Run resets.
func (cmd brakesResetCmd) Run(c *console) error {
	return sayToBrakes(c, cmd.app, cmd.output, map[string]string{"reset": reconcile.BrakeBreaker}, "the breaker is set again")
}

type brakesReleaseCmd struct {
	app
	output
}

// Run releases.
func (cmd brakesReleaseCmd) Run(c *console) error {
	return sayToBrakes(c, cmd.app, cmd.output, map[string]string{"release": reconcile.BrakeCanary}, "the canary is released")
}

type brakesResumeCmd struct {
	VM   string `required:"" name:"vm" placeholder:"ID" help:"ARM id of a VM, or the id of a shared object: a disk encryption set, a vault, a key's URL, or <subscription>/regions/<region>."`
	Step string `placeholder:"KIND" help:"This step alone, such as tag; by default all that are stopped there."`
	app
	output
}

// Run resumes.
func (cmd brakesResumeCmd) Run(c *console) error {
	_, vmErr := reconcile.VMObject(cmd.VM)
	if _, err := reconcile.SharedObject(cmd.VM); err != nil && vmErr != nil {
		return badArgument("--vm", cmd.VM, "it is neither a VM's ARM id nor a shared object's id", "--vm "+exampleVM)
	}
	body := map[string]string{"resume": cmd.VM}
	if cmd.Step != "" {
		body["step"] = cmd.Step
	}
	return sayToBrakes(c, cmd.app, cmd.output, body, "the steps may be taken again")
}

func sayToBrakes(c *console, where app, o output, body map[string]string, done string) error {
	k, err := where.client(c)
	if err != nil {
		return err
	}
	k.args = map[string]argument{"resume": {"--vm", "--vm " + exampleVM}, "step": {"--step", "--step tag"}}
	a, err := k.ask(c.ctx, http.MethodPost, "/api/brakes", nil, body, http.StatusAccepted)
	if err != nil {
		return err
	}
	if o.json() {
		return c.json(json.RawMessage(a.body))
	}
	var said struct {
		Enqueued int `json:"enqueued"`
	}
	if err := a.decode(&said); err != nil {
		return err
	}
	c.line("%s, %s put on the loop", done, plural(said.Enqueued, "object"))
	return nil
}
