package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// vmsCmd lists VMs, shows one, or its records.
type vmsCmd struct {
	VM           string `arg:"" optional:"" name:"vm" help:"A VM's key or ARM id; without it all VMs are listed. Also the key or id of a shared object (a disk encryption set's or vault's ARM id, a key's URL, <subscription>/regions/<region>) or a plan's hash."`
	Verdict      string `placeholder:"VERDICT" help:"List those with this verdict alone: compliant, non-compliant, unknown, not-a-cvm or gone."`
	Subscription string `placeholder:"ID" help:"List those of this subscription alone."`
	Differ       bool   `help:"List those alone that the shadow policy judges otherwise."`
	Refused      bool   `help:"List those alone that an Azure Policy initiative made from the policy would have refused."`
	Records      bool   `help:"List its records."`
	Seq          int    `placeholder:"N" help:"Print the bytes of its record N, as cvmguard verify record takes them."`
	app
	output
}

// Help is kong's.
func (vmsCmd) Help() string {
	return `What is shown is what the function app last saw and recorded; cvmguard check asks Azure itself.

To verify a VM's records offline, save each in a folder with the VM's key for a name:

	cvmguard vms KEY --seq 1 > KEY/00000001.json
	cvmguard verify record KEY/*.json`
}

// Run asks.
func (cmd vmsCmd) Run(c *console) error {
	if err := cmd.validate(); err != nil {
		return err
	}
	key := ""
	if cmd.VM != "" {
		var err error
		if key, err = objectKey("vms: vm", cmd.VM); err != nil {
			return err
		}
	}
	k, err := cmd.client(c)
	switch {
	case err != nil:
		return err
	case cmd.Seq > 0:
		a, err := k.ask(c.ctx, http.MethodGet, vmPath(key, "records"), url.Values{"seq": {strconv.Itoa(cmd.Seq)}}, nil, http.StatusOK)
		if err != nil {
			return err
		}
		if _, err := c.Write(a.body); err != nil {
			return exitStatus(exitCannot) // finish says why
		}
		return nil
	case cmd.Records:
		return cmd.records(c, k, key)
	case key != "":
		v, raw, err := k.vm(c.ctx, key)
		if err != nil {
			return err
		}
		return showVM(c, cmd.output, v, raw)
	}
	return cmd.list(c, k)
}

func (cmd vmsCmd) validate() error {
	one := cmd.VM != ""
	switch v := policy.Value(cmd.Verdict); {
	case !one && (cmd.Records || cmd.Seq != 0):
		return errors.New("vms: --records and --seq go with one VM; give its key or ARM id")
	case one && (cmd.Verdict != "" || cmd.Subscription != "" || cmd.Differ || cmd.Refused):
		return errors.New("vms: --verdict, --subscription, --differ and --refused go with the list; leave the VM out, or them")
	case cmd.Seq < 0:
		return badArgument("--seq", strconv.Itoa(cmd.Seq), "it must be a record's number, 1 or more", "--seq 1")
	case cmd.Seq > 0 && cmd.Records:
		return errors.New("vms: --seq prints one record and --records lists them; give one of them")
	case cmd.Subscription != "" && !isGUID(cmd.Subscription):
		return badArgument("--subscription", cmd.Subscription, "it must be a subscription's id, a GUID", "--subscription "+exampleSubscription)
	case v != "" && v != policy.Compliant && v != policy.NonCompliant && v != policy.Unknown && v != policy.NotACVM && v != policy.Gone:
		return badArgument("--verdict", cmd.Verdict, "there are compliant, non-compliant, unknown, not-a-cvm and gone", "--verdict non-compliant")
	}
	return nil
}

func vmPath(key string, rest ...string) string {
	return strings.Join(append([]string{"/api/vms", url.PathEscape(key)}, rest...), "/")
}

// vm reads one VM; the answer is the app's own JSON.
func (k *client) vm(ctx context.Context, key string) (v handlers.VMView, a answer, err error) {
	if a, err = k.ask(ctx, http.MethodGet, vmPath(key), nil, nil, http.StatusOK); err != nil {
		return v, a, err
	}
	return v, a, a.decode(&v)
}

// list prints all pages as one list. The JSON of each VM is the app's own.
func (cmd vmsCmd) list(c *console, k *client) error {
	query := url.Values{}
	for name, v := range map[string]string{"verdict": cmd.Verdict, "subscription": strings.ToLower(cmd.Subscription)} {
		if v != "" {
			query.Set(name, v)
		}
	}
	if cmd.Differ {
		query.Set("differ", "true")
	}
	if cmd.Refused {
		query.Set("refused", "true")
	}
	all := struct {
		VMs []json.RawMessage `json:"vms"`
	}{VMs: []json.RawMessage{}}
	for {
		a, err := k.ask(c.ctx, http.MethodGet, "/api/vms", query, nil, http.StatusOK)
		if err != nil {
			return err
		}
		var page struct {
			VMs  []json.RawMessage `json:"vms"`
			Next string            `json:"next"`
		}
		if err := a.decode(&page); err != nil {
			return err
		}
		all.VMs = append(all.VMs, page.VMs...)
		if page.Next == "" || page.Next == query.Get("after") {
			break
		}
		query.Set("after", page.Next)
	}
	if cmd.json() {
		return c.json(all)
	}
	g := c.grid("vm", "region", "kind", "tee", "verdict", "reasons", "attested", "seen", "key")
	for _, raw := range all.VMs {
		var v handlers.VMView
		if err := (answer{body: raw}).decode(&v); err != nil {
			return err
		}
		attested := ""
		if v.Attestation != nil {
			attested = string(v.Attestation.Evidence.State)
		}
		g.add(v.Name, v.Region, v.Kind, v.TEE, verdictWithShadow(v), reasons(v), attested, moment(v.LastSeen), v.Key)
	}
	g.print(c)
	if g.rows == 0 {
		c.say("no VM is known with that; put VMs on the loop with cvmguard rerun")
	}
	return nil
}

// verdictWithShadow marks a verdict that the shadow policy doesn't share.
func verdictWithShadow(v handlers.VMView) string {
	if v.Shadow == "" || v.Shadow == v.Verdict {
		return string(v.Verdict)
	}
	return string(v.Verdict) + " (shadow: " + string(v.Shadow) + ")"
}

// reasons are the codes of what fails or is unknown, each once.
func reasons(v handlers.VMView) string {
	var codes []string
	for _, f := range v.Findings {
		if (f.State == cvm.Fail || f.State == cvm.UnknownState) && !slices.Contains(codes, f.Reason) {
			codes = append(codes, f.Reason)
		}
	}
	return strings.Join(codes, " ")
}

func moment(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func showVM(c *console, o output, v handlers.VMView, raw answer) error {
	if o.json() {
		return c.json(json.RawMessage(raw.body))
	}
	head := c.grid("", "")
	row := func(name string, value any) {
		if fmt.Sprint(value) != "" {
			head.add(name, value)
		}
	}
	row(cmp.Or(string(v.Shared), "vm"), v.ID)
	row("key", v.Key)
	row("kind", v.Kind)
	row("tee", v.TEE)
	row("verdict", v.Verdict)
	row("shadow policy's verdict", v.Shadow)
	row("compliant since", moment(v.CompliantSince))
	if a := v.Attestation; a != nil {
		row("evidence", outcome(a.Evidence))
		row("attestation service", outcome(a.MAA))
		row("nonce issued", a.NonceIssued.UTC().Format(time.RFC3339))
	}
	row("running", v.Running)
	row("braked by", v.Braked)
	for _, s := range v.Stopped {
		row("stopped", s.Step+" ("+s.Why+")")
	}
	row("last seen", moment(v.LastSeen))
	row("next look", moment(v.NextLook))
	row("last error", v.LastError)
	row("records", v.Head.Seq)
	row("head", v.Head.Hash)
	row("shortened here", strings.Join(v.Cut, " "))
	if v.Development {
		row("development", "an endpoint or a trust root is not the vendor's")
	}
	head.headless().print(c)
	findings := c.grid("state", "severity", "rule", "reason", "remedy", "object")
	for _, f := range v.Findings {
		if f.State == cvm.Fail || f.State == cvm.UnknownState || f.State == cvm.Pass && f.Reason != "" {
			findings.add(f.State, f.Severity, f.Rule, f.Reason, f.Class, f.Object)
		}
	}
	plan := c.grid("step", "class", "state")
	for _, s := range v.Plan {
		plan.add(s.Step, s.Class, s.State)
	}
	refused := c.grid("azure policy would have refused it by", "why")
	for _, r := range v.WouldBeRefused {
		refused.add(r.Rule, r.Why)
	}
	for _, g := range []*grid{findings, plan, refused} {
		if g.rows > 0 {
			c.line("")
		}
		g.print(c)
	}
	return nil
}

func outcome(o cvm.Outcome) string {
	if o.Reason == "" {
		return string(o.State)
	}
	return string(o.State) + " (" + o.Reason + ")"
}

// records prints all pages of a VM's records as one list.
func (cmd vmsCmd) records(c *console, k *client, key string) error {
	all := struct {
		Key     string            `json:"key"`
		Head    handlers.HeadView `json:"head"`
		Records []json.RawMessage `json:"records"`
	}{Records: []json.RawMessage{}}
	query := url.Values{}
	for {
		a, err := k.ask(c.ctx, http.MethodGet, vmPath(key, "records"), query, nil, http.StatusOK)
		if err != nil {
			return err
		}
		var page struct {
			Key     string            `json:"key"`
			Head    handlers.HeadView `json:"head"`
			Records []json.RawMessage `json:"records"`
			Next    int               `json:"next"`
		}
		if err := a.decode(&page); err != nil {
			return err
		}
		all.Key, all.Head, all.Records = page.Key, page.Head, append(all.Records, page.Records...)
		next := strconv.Itoa(page.Next)
		if page.Next == 0 || next == query.Get("after") {
			break
		}
		query.Set("after", next)
	}
	if cmd.json() {
		return c.json(all)
	}
	undoable := "" // the name of the first record of a step's outcome
	g := c.grid("record", "at", "type", "mode", "verdict", "step", "outcome", "causes", "hash")
	for _, raw := range all.Records {
		var r handlers.RecordView
		if err := (answer{body: raw}).decode(&r); err != nil {
			return err
		}
		var verdict policy.Value
		var step remedy.Kind
		var came remedy.StepState
		if r.Verdict != nil {
			verdict = r.Verdict.Value
		}
		if r.Step != nil {
			step = r.Step.Kind
		}
		if r.Outcome != nil {
			came = r.Outcome.State
			undoable = cmp.Or(undoable, strings.TrimSuffix(r.Name, ".json"))
		}
		var causes []string
		for _, cause := range r.Causes {
			kind := cause.Kind
			if _, hash, err := ledger.ParseOperationID(cause.ID); err == nil {
				kind = "operation " + hash // a step of it was about the object
			}
			causes = append(causes, kind)
		}
		g.add(r.Seq, moment(&r.At), r.Type, r.Mode, verdict, step, came, strings.Join(causes, " "), r.Hash)
	}
	g.print(c)
	if undoable != "" {
		c.say("cvmguard undo takes a step's record by its name, which is here like %s", undoable)
	}
	return nil
}

// freshCmd is the gate for pipelines.
type freshCmd struct {
	VM     string        `arg:"" name:"vm" help:"A VM's key or ARM id."`
	MaxAge time.Duration `required:"" placeholder:"TIME" help:"How old its attestation may be, such as 24h."`
	app
	output
}

// Help is kong's.
func (freshCmd) Help() string {
	return "Exit status 0: the VM is compliant and its evidence is not older than --max-age. 1: it isn't, with the reason, or nobody knows the VM. 2: it could not be asked."
}

// Run asks.
func (cmd freshCmd) Run(c *console) error {
	if cmd.MaxAge <= 0 {
		return badArgument("--max-age", cmd.MaxAge.String(), "it must be above zero", "--max-age 24h")
	}
	key, err := vmKey("fresh: vm", cmd.VM)
	if err != nil {
		return err
	}
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	a, err := k.ask(c.ctx, http.MethodGet, vmPath(key, "fresh"), url.Values{"max_age": {cmd.MaxAge.String()}}, nil, http.StatusOK, http.StatusPreconditionFailed)
	if err != nil {
		return err
	}
	var said struct {
		Fresh      *bool        `json:"fresh"`
		Verdict    policy.Value `json:"verdict"`
		AttestedAt *time.Time   `json:"attestedAt"`
		Reason     string       `json:"reason"`
	}
	if err := a.decode(&said); err != nil {
		return err
	}
	if said.Fresh == nil || *said.Fresh != (a.status == http.StatusOK) {
		return fmt.Errorf("the function app's answer contradicts itself (HTTP %d); check that --url names a cvmguard function app", a.status)
	}
	switch {
	case cmd.json():
		if err := c.json(json.RawMessage(bytes.TrimSpace(a.body))); err != nil {
			return err
		}
	case *said.Fresh:
		c.line("fresh: attested %s", moment(said.AttestedAt))
	default:
		c.line("not fresh: %s", clean(said.Reason))
	}
	if !*said.Fresh {
		return exitStatus(exitNot)
	}
	return nil
}
