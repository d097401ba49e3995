package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// operationCmds are about operations of any kind: plans that the function app
// carries out once a person has approved them.
type operationCmds struct {
	List    operationListCmd `cmd:"" help:"List what was planned, and where each stands."`
	Show    operationShowCmd `cmd:"" help:"Show a plan and how far it has come."`
	Approve approveCmd       `cmd:"" help:"Approve a plan: it is carried out."`
	Pause   pauseCmd         `cmd:"" help:"Let the step under way end, and take no other."`
	Resume  resumeCmd        `cmd:"" help:"Go on after a pause, or try a step that failed at once."`
	Stop    stopCmd          `cmd:"" help:"Give it up; VMs that a rotation took down are started again."`
}

// Help is kong's.
func (operationCmds) Help() string {
	return `A plan is made by cvmguard rotate plan, recreate plan or undo. It never changes, and its hash is that of its bytes: what you approve is what was shown. The function app takes its steps one after another, each with a record before it and after it.`
}

// planOf is the argument that names a plan.
type planOf struct {
	Hash string `arg:"" help:"The plan's hash, 64 hex digits."`
	app
}

type operationListCmd struct {
	app
	output
}

// Run lists.
func (cmd operationListCmd) Run(c *console) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	all := struct {
		Operations []handlers.OperationView `json:"operations"`
	}{Operations: []handlers.OperationView{}}
	query := url.Values{}
	for {
		a, err := k.ask(c.ctx, http.MethodGet, "/api/operations", query, nil, http.StatusOK)
		if err != nil {
			return err
		}
		var page struct {
			Operations []handlers.OperationView `json:"operations"`
			Next       string                   `json:"next"`
		}
		if err := a.decode(&page); err != nil {
			return err
		}
		all.Operations = append(all.Operations, page.Operations...)
		if page.Next == "" || page.Next == query.Get("after") {
			break
		}
		query.Set("after", page.Next)
	}
	slices.SortStableFunc(all.Operations, func(a, b handlers.OperationView) int { return b.Made.Compare(a.Made) }) // each page has an order of its own
	if cmd.json() {
		return c.json(all)
	}
	if len(all.Operations) == 0 {
		c.say("nothing was planned; see cvmguard rotate plan, recreate plan and undo")
	}
	g := c.grid("plan", "kind", "about", "state", "made", "by")
	for _, o := range all.Operations {
		made := ""
		if !o.Made.IsZero() {
			made = moment(&o.Made)
		}
		g.add(o.Hash, o.Kind, clean(o.Object), o.State, made, clean(o.MadeBy))
	}
	g.print(c)
	return nil
}

type operationShowCmd struct {
	planOf
	output
}

// Help is kong's.
func (operationShowCmd) Help() string {
	return "Exit status 0: all steps are done. 1: they aren't."
}

// Run shows.
func (cmd operationShowCmd) Run(c *console) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	v, body, err := k.operation(c, cmd.Hash)
	if err != nil {
		return err
	}
	if cmd.json() {
		if err := c.json(json.RawMessage(body)); err != nil {
			return err
		}
	} else {
		showOperation(c, v)
	}
	if v.State != reconcile.OperationDone {
		return exitStatus(exitNot)
	}
	return nil
}

func (k *client) operation(c *console, hash string) (v handlers.OperationView, body []byte, err error) {
	k.args = hashArgs
	a, err := k.ask(c.ctx, http.MethodGet, "/api/operations/"+url.PathEscape(hash), nil, nil, http.StatusOK)
	if err != nil {
		return v, nil, err
	}
	return v, a.body, a.decode(&v)
}

func showOperation(c *console, v handlers.OperationView) {
	c.line("%s  %s", v.Kind, clean(v.Object))
	c.line("%s", clean(v.Why))
	c.line("")
	c.line("state  %s: %s", v.State, clean(v.Text))
	if v.Approved != nil {
		c.line("approved %s %s", moment(v.Approved), clean(v.ApprovedBy))
	}
	if v.Braked != "" {
		c.line("%s", heldBy(v))
	}
	c.line("")
	g := c.grid("", "step", "state", "disturbs", "does", "why", "record")
	for i, s := range v.Steps {
		why := s.Why
		if s.Retry != nil {
			why = strings.TrimSuffix("failed, tried again "+moment(s.Retry)+": "+s.Why, ": ")
		}
		g.add(i+1, s.Step, s.State, s.Disturbs, clean(s.Does), clean(why), s.Record)
	}
	g.print(c)
	if op := v.Operation; op != nil {
		showPlan(c, *op)
	}
	c.line("")
	c.line("plan %s", v.Hash)
}

// showPlan tells what a person must know before approving.
func showPlan(c *console, op remedy.Operation) {
	if len(op.VMs) > 0 {
		c.line("")
		g := c.grid("VM", "is started again", "estimated downtime", "note")
		for _, vm := range op.VMs {
			again, down := "no", ""
			if vm.Running {
				again, down = "yes", vm.Downtime.Round(time.Minute).String()
			}
			g.add(clean(vm.ID.Name()), again, down, clean(vm.Note))
		}
		g.print(c)
	}
	for _, part := range []struct {
		name string
		list []string
	}{{"Lost", op.Lost}, {"Know before", op.Notes}, {"The way back", op.Back}} {
		if len(part.list) == 0 {
			continue
		}
		c.line("")
		c.line("%s:", part.name)
		for _, s := range part.list {
			c.line("  - %s", clean(s))
		}
	}
}

type approveCmd struct {
	planOf
	waiting
}

// Run approves.
func (cmd approveCmd) Run(c *console) error {
	return sayTo(c, cmd.planOf, ledger.CauseApprove, cmd.waiting)
}

type pauseCmd struct{ planOf }

// Run pauses.
func (cmd pauseCmd) Run(c *console) error {
	return sayTo(c, cmd.planOf, ledger.CausePause, waiting{})
}

type resumeCmd struct {
	planOf
	waiting
}

// Run resumes.
func (cmd resumeCmd) Run(c *console) error {
	return sayTo(c, cmd.planOf, ledger.CauseResume, cmd.waiting)
}

type stopCmd struct{ planOf }

// Run stops.
func (cmd stopCmd) Run(c *console) error {
	return sayTo(c, cmd.planOf, ledger.CauseStop, waiting{})
}

// waiting is the flag of commands that may wait for an operation's end.
type waiting struct {
	Wait time.Duration `placeholder:"TIME" help:"Wait so long for the end, such as 1h, and say each step."`
}

// sayTo says a word to an operation and, where it is wanted, waits for its end.
func sayTo(c *console, p planOf, word string, w waiting) error {
	k, err := p.client(c)
	if err != nil {
		return err
	}
	k.args = hashArgs
	if _, err := k.ask(c.ctx, http.MethodPost, "/api/operations/"+url.PathEscape(p.Hash)+"/"+word, nil, nil, http.StatusAccepted); err != nil {
		return err
	}
	c.say("%s: said; cvmguard operation show %s tells how far it has come", word, p.Hash)
	if w.Wait <= 0 {
		return nil
	}
	return k.follow(c, p.Hash, w.Wait)
}

// follow says each change of an operation until it has ended or the time is over.
func (k *client) follow(c *console, hash string, most time.Duration) error {
	end := c.now().Add(most)
	said := map[int]remedy.StepState{}
	first := true
	for {
		v, _, err := k.operation(c, hash)
		if err != nil {
			return err
		}
		for i, s := range v.Steps {
			if !first && said[i] != s.State && s.State != remedy.Blocked {
				c.say("step %d, %s: %s", i+1, s.Step, s.State)
			}
			said[i] = s.State
		}
		first = false
		switch v.State {
		case reconcile.OperationDone:
			return nil
		case reconcile.OperationStopped, reconcile.OperationRefused, reconcile.OperationFailed, reconcile.OperationMissing:
			c.say("%s", clean(v.Text))
			return exitStatus(exitNot)
		}
		if c.now().After(end) {
			held := ""
			if v.Braked != "" {
				held = " It is " + heldBy(v)
			}
			c.say("it has not ended within %s: %s%s", most, clean(v.Text), held)
			return exitStatus(exitNot)
		}
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

// brakeNext is what a person does about a brake that holds an operation.
var brakeNext = map[string]string{
	reconcile.BrakeBreaker:    "cvmguard brakes show tells why it tripped; cvmguard brakes reset lets it go",
	reconcile.BrakeUnreadable: "put table brakes right, then say cvmguard brakes reset",
	reconcile.BrakeCanary:     "cvmguard brakes show tells how far the canary is; cvmguard brakes release lets the rest follow",
	reconcile.BrakeLimit:      "it goes on by itself a day after the first of those steps",
	reconcile.BrakeWindow:     "it goes on by itself when the next maintenance window opens",
	reconcile.BrakeContested:  "cvmguard brakes show tells what is stopped; cvmguard brakes resume lets it go on",
}

// heldBy tells which brake holds an operation, why, and what to do.
func heldBy(v handlers.OperationView) string {
	text := "held by the brake " + clean(v.Braked)
	for _, s := range v.Steps {
		if s.State == remedy.Blocked && s.Why != "" {
			text += ": " + clean(s.Why)
			break
		}
	}
	next, ok := brakeNext[v.Braked]
	if !ok {
		next = "see cvmguard brakes show"
	}
	return text + "; " + next
}

// exampleDES and the others are what the API's fields are for the commands of plans.
const exampleDES = "/subscriptions/" + exampleSubscription + "/resourceGroups/" + exampleGroup + "/providers/Microsoft.Compute/diskEncryptionSets/des1"

var (
	hashArgs = map[string]argument{"hash": {name: "the plan's hash"}}
	planArgs = map[string]argument{
		"des":    {"--des", "--des " + exampleDES},
		"key":    {"--key", "--key https://kv-cvm.vault.azure.net/keys/os/0123456789abcdef0123456789abcdef"},
		"wave":   {"--wave", "--wave 10"},
		"vm":     {"--vm", "--vm " + exampleVM},
		"image":  {"--image", "--image Canonical:ubuntu-24_04-lts:cvm:latest"},
		"size":   {"--size", "--size Standard_DC4as_v5"},
		"record": {"the record", "cvmguard undo " + exampleKey + "/00000007"},
		"plan":   {name: "--plan"},
	}
)

// planned asks the app for a plan.
func (k *client) planned(c *console, ask map[string]any) (hash string, op remedy.Operation, body []byte, err error) {
	k.args = planArgs
	a, err := k.ask(c.ctx, http.MethodPost, "/api/operations", nil, ask, http.StatusOK)
	if err != nil {
		return "", op, nil, err
	}
	var got struct {
		Hash      string           `json:"hash"`
		Operation remedy.Operation `json:"operation"`
	}
	if err := a.decode(&got); err != nil {
		return "", op, nil, err
	}
	return got.Hash, got.Operation, a.body, nil
}

// tellPlan shows a plan that was just made, and how to approve it.
func tellPlan(c *console, asJSON bool, hash string, op remedy.Operation, body []byte, apply string) error {
	if asJSON {
		return c.json(json.RawMessage(body))
	}
	c.line("%s", clean(op.Why))
	c.line("")
	g := c.grid("", "step", "disturbs", "does")
	for i, s := range op.Steps {
		g.add(i+1, s.Kind, s.Disturbs, clean(s.Does))
	}
	g.print(c)
	showPlan(c, op)
	c.line("")
	c.line("plan %s", hash)
	c.say("nothing is carried out before it is approved: %s", strings.ReplaceAll(apply, "HASH", hash))
	return nil
}

// rotateCmds rotate the key of a disk encryption set.
type rotateCmds struct {
	Plan  rotatePlanCmd  `cmd:"" help:"Plan the rotation of a disk encryption set's key. Changes nothing."`
	Apply rotateApplyCmd `cmd:"" help:"Approve a plan of a rotation: it is carried out."`
}

// Help is kong's.
func (rotateCmds) Help() string {
	return `Confidential VMs can't rotate their key in place: all VMs on the set are deallocated, the set is pointed at the new key version, and those that ran are started again. The plan shows every VM with its estimated downtime, and is refused where anything that the VMs' next start rests on is bad or can't be read.`
}

type rotatePlanCmd struct {
	DES  string `required:"" name:"des" placeholder:"ID" help:"ARM id of the disk encryption set."`
	Key  string `placeholder:"URL" help:"Key version that it is to have; by default the newest of its present key."`
	Wave int    `placeholder:"N" help:"VMs that one step takes down, at most 20; by default 10."`
	app
	output
}

// Run plans.
func (cmd rotatePlanCmd) Run(c *console) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	ask := map[string]any{"kind": remedy.RotateKeyOperation, "des": cmd.DES}
	if cmd.Key != "" {
		ask["key"] = cmd.Key
	}
	if cmd.Wave != 0 {
		ask["wave"] = cmd.Wave
	}
	hash, op, body, err := k.planned(c, ask)
	if err != nil {
		return err
	}
	return tellPlan(c, cmd.json(), hash, op, body, rotateApply)
}

// Commands that carry out plans.
const (
	rotateApply   = "cvmguard rotate apply --plan HASH"
	recreateApply = "cvmguard recreate apply --plan HASH"
	anyApprove    = "cvmguard operation approve HASH"
)

// makes says what a plan does, and which command approves it.
func makes(v handlers.OperationView) (does, command string) {
	vm, err := cvm.ParseVMID(v.Object)
	switch {
	case v.Kind == remedy.RotateKeyOperation:
		return "rotates the key of disk encryption set " + cvm.DESID(v.Object).Name(), rotateApply
	case v.Kind == remedy.RecreateOperation:
		return "makes VM " + cvm.VMID(v.Object).Name() + " anew", recreateApply
	case err == nil:
		return "brings VM " + vm.Name() + " back on the OS disk that it had", recreateApply
	}
	return "undoes the step of record " + v.Object, anyApprove
}

type rotateApplyCmd struct{ applyCmd }

// Run approves.
func (cmd rotateApplyCmd) Run(c *console) error { return cmd.apply(c, rotateApply) }

// applyCmd approves a plan by its hash.
type applyCmd struct {
	Plan string `required:"" placeholder:"HASH" help:"The plan's hash, as it was printed."`
	app
	waiting
}

// apply approves a plan if it is one of the command's own. What a hash names never
// changes, so that nothing can come between the look and the word.
func (cmd applyCmd) apply(c *console, command string) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	v, _, err := k.operation(c, cmd.Plan)
	if err != nil {
		return err
	}
	if does, right := makes(v); right != command {
		return &refusal{fmt.Errorf("this plan %s: use %s", does, strings.ReplaceAll(right, "HASH", v.Hash))}
	}
	return sayTo(c, planOf{Hash: cmd.Plan, app: cmd.app}, ledger.CauseApprove, cmd.waiting)
}

// undoCmd plans the undoing of a step.
type undoCmd struct {
	Record string `arg:"" help:"Name of the record of a step that was done, <key>/<number>, as cvmguard vms KEY --records and cvmguard operation show HASH tell it."`
	app
	output
}

// Help is kong's.
func (undoCmd) Help() string {
	return "Makes a plan that takes the step back, where there is a way: tags, the automatic rotation of a disk encryption set, a release policy, a rotated key, a VM that was made anew. Approve it with cvmguard operation approve HASH. From the approval on cvmguard leaves the undone step alone until cvmguard brakes resume says otherwise."
}

// Run plans.
func (cmd undoCmd) Run(c *console) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	hash, op, body, err := k.planned(c, map[string]any{"kind": remedy.UndoOperation, "record": cmd.Record})
	if err != nil {
		return err
	}
	return tellPlan(c, cmd.json(), hash, op, body, anyApprove)
}
