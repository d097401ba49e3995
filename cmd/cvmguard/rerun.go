package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/policy"
)

// rerunCmd has the function app look at VMs again.
type rerunCmd struct {
	VM string `arg:"" optional:"" name:"vm-id" help:"ARM id of a VM."`
	scope
	Query   string        `placeholder:"KQL" help:"All VMs that a Resource Graph where-clause takes, such as \"tags.env =~ 'prod'\"."`
	DryRun  bool          `help:"Judge and plan, and write nothing to Azure, whatever the policy's mode."`
	Wait    bool          `help:"Wait until the VM has been looked at, and show the result (one VM only)."`
	Timeout time.Duration `default:"10m" placeholder:"TIME" help:"How long to wait at most (10m)."`
	app
	output
}

// Help is kong's.
func (rerunCmd) Help() string {
	return `The VMs are put on the loop of the function app, and evidence is asked for anew: give one ARM id, or --group, or --subscription, or --query. Without --wait the exit status is 0 as soon as the app has taken the request, and 1 when no VM was found for it.

With --wait it is 0 when the VM turned out compliant, 1 when it didn't, 2 when the time ran out.`
}

// rerunAnswer is the app's answer.
type rerunAnswer struct {
	Enqueued int    `json:"enqueued"`
	DryRun   bool   `json:"dryrun"`
	VM       string `json:"vm,omitempty"`
	Key      string `json:"key,omitempty"`
	Look     string `json:"look"`
}

// Run asks.
func (cmd rerunCmd) Run(c *console) error {
	body, key, err := cmd.body()
	if err != nil {
		return err
	}
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	var before handlers.VMView
	if cmd.Wait {
		if before, _, err = k.vm(c.ctx, key); err != nil && !isRefusal(err) { // refused: it isn't known yet
			return err
		}
	}
	query := url.Values{}
	if cmd.DryRun {
		query.Set("dryrun", "true")
	}
	a, err := k.ask(c.ctx, http.MethodPost, "/api/rerun", query, body, http.StatusAccepted)
	if err != nil {
		return err
	}
	var said rerunAnswer
	if err := a.decode(&said); err != nil {
		return err
	}
	if cmd.Wait {
		return cmd.wait(c, k, key, before)
	}
	if cmd.json() {
		if err := c.json(said); err != nil {
			return err
		}
		return cmd.none(c, said)
	}
	dry := ""
	if said.DryRun {
		dry = " (dry run: nothing is written to Azure)"
	}
	c.line("%s put on the loop%s", plural(said.Enqueued, "VM"), dry)
	if said.Enqueued > 0 {
		c.line("look at %s", clean(said.Look))
	}
	return cmd.none(c, said)
}

// none is the end of a request that found no VM: nothing will be looked at, which
// a script must not take for done.
func (cmd rerunCmd) none(c *console, said rerunAnswer) error {
	if said.Enqueued > 0 {
		return nil
	}
	where, check := "the query takes", "check the query"
	if cmd.Query == "" {
		where, check = "is in subscription "+cmd.Subscription, "check the id"
		if cmd.Group != "" {
			where, check = "is in resource group "+cmd.Group, "check the name"
		}
	}
	c.say("no VM that the function app can see %s; %s, and that the app's identity may read VMs there; one that was just created may be named by its ARM id", where, check)
	return exitStatus(exitNot)
}

// body is the request's, with the VM's key where it is one VM.
func (cmd rerunCmd) body() (body map[string]string, key string, err error) {
	n := 0
	for _, given := range []bool{cmd.VM != "", cmd.given(), cmd.Query != ""} {
		if given {
			n++
		}
	}
	if n != 1 {
		return nil, "", errors.New("rerun: exactly one of a VM id, --group or --subscription, and --query must be given; see cvmguard rerun --help")
	}
	if cmd.Wait && cmd.VM == "" {
		return nil, "", errors.New("rerun: --wait goes with one VM id; look at the others with cvmguard vms")
	}
	switch {
	case cmd.VM != "":
		o, err := parseVM("rerun: vm-id", cmd.VM)
		if err != nil {
			return nil, "", err
		}
		return map[string]string{"vm": cmd.VM}, o.Chain(), nil
	case cmd.Query != "":
		if strings.TrimSpace(cmd.Query) == "" || strings.ContainsAny(cmd.Query, "|;\r\n") || len(cmd.Query) > 2000 {
			return nil, "", badArgument("--query", cmd.Query, "it must be one Resource Graph where-clause on one line, without a pipe or semicolon", `--query "tags.env =~ 'prod'"`)
		}
		return map[string]string{"query": cmd.Query}, "", nil
	}
	sub, group, err := cmd.parse()
	if err != nil {
		return nil, "", err
	}
	body = map[string]string{}
	if sub != "" {
		body["subscription"] = sub
	}
	if group != "" {
		body["group"] = group
	}
	return body, "", nil
}

// wait polls until the VM has been looked at after the request and no step of its
// is open.
func (cmd rerunCmd) wait(c *console, k *client, key string, before handlers.VMView) error {
	p := c.progress("waiting for the VM's turn")
	ctx, cancel := context.WithTimeout(c.ctx, cmd.Timeout)
	defer cancel()
	v, raw, err := settled(ctx, k, key, before)
	p.stop()
	if ctx.Err() != nil && c.ctx.Err() == nil {
		return fmt.Errorf("the VM was not done within %s; look with cvmguard vms %s", cmd.Timeout, key)
	}
	if err != nil {
		return err
	}
	if err := showVM(c, cmd.output, v, raw); err != nil {
		return err
	}
	if v.Verdict != policy.Compliant {
		return exitStatus(exitNot)
	}
	return nil
}

// pollPause is the time between two looks at the app.
const pollPause = 500 * time.Millisecond

func settled(ctx context.Context, k *client, key string, before handlers.VMView) (handlers.VMView, answer, error) {
	tick := time.NewTicker(pollPause)
	defer tick.Stop()
	for {
		v, raw, err := k.vm(ctx, key)
		looked := v.Head.Seq > before.Head.Seq || v.LastSeen != nil && (before.LastSeen == nil || v.LastSeen.After(*before.LastSeen))
		switch {
		case err != nil && !isRefusal(err):
			return v, raw, err
		case err == nil && looked && v.Verdict != "" && v.Running == "":
			return v, raw, nil
		}
		select {
		case <-ctx.Done():
			return v, raw, ctx.Err()
		case <-tick.C:
		}
	}
}

func isRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + one + "s"
}
