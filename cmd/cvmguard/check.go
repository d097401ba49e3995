package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/estate"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// checkCmd judges VMs straight from Azure.
type checkCmd struct {
	VMs []string `arg:"" optional:"" name:"vm-id" help:"ARM ids of VMs."`
	scope
	From   string  `placeholder:"DIR" help:"Judge a captured estate: a folder of bodies as Azure answers them. No Azure is needed; VM ids and the scope narrow it."`
	At     *string `placeholder:"TIME" help:"With --from: judge as of this time, such as 2026-01-15T00:00:00Z (default: now)."`
	Policy string  `placeholder:"FILE" help:"Policy document to judge by, in place of the one in the settings."`
	All    bool    `help:"In the table, show every finding, not only those that fail or are unknown."`
	output
}

// Help is kong's.
func (checkCmd) Help() string {
	return `Name VMs by their ARM ids, or take all of a resource group (--group NAME --subscription ID) or of a subscription.

Azure is read with the identity that the environment offers: a managed identity, or whom "az login" signed in. A right that is missing makes what it hides unknown, and the finding names it. What only the guest can prove (attestation, extensions, agent, temp disk) is not asked here; the function app asks it.

With --from nothing is asked of Azure: every body of a VM, disk, disk encryption set, key, vault or Managed HSM is read from a file below DIR, known by its type, id or kid. What isn't there is unknown (not-captured). Files that can't be used are named on stderr, and then the exit status isn't 0.

Exit status: 0 when every VM is compliant, or isn't wanted as a confidential VM; 1 when any is non-compliant or unknown; 2 when any could not be judged (Azure throttled or failed, the VM isn't there), when a listing finds no VM, or when the command could not run.`
}

// checked is one VM's result, and its JSON.
type checked struct {
	ID       cvm.VMID         `json:"id"`
	Name     string           `json:"name"`
	Kind     cvm.Kind         `json:"kind"`
	TEE      cvm.TEE          `json:"tee"`
	Verdict  policy.Value     `json:"verdict"`
	Findings []checkedFinding `json:"findings"`
	Plan     []checkedStep    `json:"plan"`
	// WouldBeRefused is what an initiative made from the policy would have refused.
	WouldBeRefused []azurepolicy.Refusal `json:"wouldBeRefused,omitempty"`

	why string
	err error // it could not be judged
}

type checkedFinding struct {
	Rule     string          `json:"rule"`
	State    cvm.State       `json:"state"`
	Reason   string          `json:"reason"`
	Severity policy.Severity `json:"severity"`
	Text     string          `json:"text"`
}

type checkedStep struct {
	Step  remedy.Kind      `json:"step"`
	Class policy.Class     `json:"class"`
	State remedy.StepState `json:"state"`

	does, why string
}

type notJudged struct {
	ID    cvm.VMID `json:"id"`
	Error string   `json:"error"`
}

const (
	checkParallel = 8                // VMs read at a time
	checkTries    = 4                // of a VM that Azure throttles
	longestWait   = time.Minute      // that a throttled read is waited for
	checkMemory   = 15 * time.Minute // how long a key, set or vault is used for the VMs behind it
)

// Run judges.
func (cmd checkCmd) Run(c *console) error {
	switch {
	case cmd.From != "":
		return cmd.runFrom(c)
	case cmd.At != nil:
		return badArgument("--at", *cmd.At, "it goes with --from: Azure shows what is now", "--from DIR --at 2026-01-15T00:00:00Z")
	}
	ids, err := cmd.ids()
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
	az := azure.New(cfg, slog.New(slog.DiscardHandler))
	p := c.progress("reading Azure")
	listed := len(ids) == 0
	if listed {
		ids, err = cmd.list(c.ctx, az)
	}
	var results []checked
	if err == nil {
		p.total.Store(int64(len(ids)))
		k := &checker{observer: reconcile.Observer{Azure: signedIn{az.Reader(checkMemory)}}, doc: doc, now: c.now, listed: listed, done: func() { p.done.Add(1) }}
		results, err = k.all(c.ctx, ids)
	}
	p.stop()
	if err != nil {
		return err
	}
	return cmd.tell(c, checkDoc{}, results)
}

// ids are the VMs that were named, each once; none where a scope was given.
func (cmd checkCmd) ids() ([]cvm.VMID, error) {
	switch {
	case len(cmd.VMs) > 0 && cmd.given():
		return nil, errors.New("check: VM ids and --group or --subscription were given together; give one or the other")
	case len(cmd.VMs) == 0 && !cmd.given():
		return nil, errors.New("check: nothing was given to check; give VM ids, or --group with --subscription, or --subscription alone")
	}
	sub, group, err := cmd.parse()
	if err != nil {
		return nil, err
	}
	if group != "" && sub == "" {
		return nil, badArgument("--group", cmd.Group, "its subscription is missing", "--group "+cmd.Group+" --subscription "+exampleSubscription)
	}
	seen := map[string]bool{}
	var ids []cvm.VMID
	for _, given := range cmd.VMs {
		o, err := parseVM("check: vm-id", given)
		if err != nil {
			return nil, err
		}
		if id := cvm.VMID(o.ID); !seen[id.Fold()] {
			seen[id.Fold()] = true
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (cmd checkCmd) list(ctx context.Context, az *azure.Client) ([]cvm.VMID, error) {
	sub, group, err := cmd.parse()
	if err != nil {
		return nil, err
	}
	var ids []cvm.VMID
	err = az.ListVMs(ctx, azure.GraphScope{Subscriptions: []string{sub}, Group: group}, func(r azure.VMRow) error {
		id, err := cvm.ParseVMID(string(r.ID))
		if err != nil {
			return err
		}
		ids = append(ids, id)
		return nil
	})
	if noToken(err) {
		return nil, fmt.Errorf("check: listing VMs: %w", errNotSignedIn)
	}
	if err == nil && len(ids) == 0 {
		where := "subscription " + sub
		if group != "" {
			where = "resource group " + group + " of " + where
		}
		err = fmt.Errorf("check: no VM was found in %s; check the name, and that you may read VMs there", where)
	}
	return ids, err
}

// checker judges VMs, a few at a time.
type checker struct {
	observer reconcile.Observer
	doc      *policy.Document
	// initiative is the document's in Azure Policy's language.
	initiative azurepolicy.Initiative // set by all
	now        func() time.Time
	listed     bool   // by Resource Graph, which may be minutes behind
	done       func() // called after each VM
}

// all gives a result for each id, in their order. Its error ends the whole: an
// interrupt, or nobody is signed in.
func (k *checker) all(ctx context.Context, ids []cvm.VMID) ([]checked, error) {
	var err error
	if k.initiative, err = azurepolicy.Export(k.doc, azurepolicy.Deny); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]checked, len(ids))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(checkParallel, len(ids)) {
		wg.Go(func() {
			for i := range next {
				results[i] = k.one(ctx, ids[i])
				if errors.Is(results[i].err, errNotSignedIn) {
					cancel(results[i].err)
				}
				k.done()
			}
		})
	}
	for i := range ids {
		if ctx.Err() != nil {
			break
		}
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return results, nil
}

func (k *checker) one(ctx context.Context, id cvm.VMID) checked {
	out := checked{ID: id, Name: id.Name(), Kind: cvm.KindUnknown, TEE: cvm.TEEUnknown, Findings: []checkedFinding{}, Plan: []checkedStep{}}
	p, err := k.read(ctx, id)
	if fault.Is(err, fault.NotFound) && k.listed {
		p, err = cvm.Posture{ID: id, Gone: true}, nil
	}
	if err != nil {
		out.err = err
		return out
	}
	v := policy.Judge(p, k.doc, k.now())
	out.Verdict, out.why = v.Value, v.Why
	if v.Kind != "" {
		out.Kind, out.TEE = v.Kind, v.TEE
	}
	for _, f := range v.Findings {
		out.Findings = append(out.Findings, checkedFinding{f.Rule, f.State, f.Reason, f.Severity, f.Text})
	}
	if p.VM.Known {
		if out.WouldBeRefused, out.err = k.initiative.Refuses(p.VM.Value, p.OSDisk); out.err != nil {
			return out
		}
	}
	if !p.Gone {
		for _, s := range remedy.ForVM(p, v, k.doc).Steps {
			out.Plan = append(out.Plan, checkedStep{s.Kind, s.Class, s.State, s.Does, s.Why})
		}
	}
	return out
}

// read observes a VM. A 404 counts when it is said twice; a throttle is waited
// for, a few times.
func (k *checker) read(ctx context.Context, id cvm.VMID) (cvm.Posture, error) {
	notThere := false
	for try := 1; ; try++ {
		p, err := k.observer.VM(ctx, id)
		wait := fault.RetryAfter(err)
		switch {
		case fault.Is(err, fault.NotFound) && !notThere:
			notThere = true
			continue
		case !fault.Is(err, fault.Throttled) || wait > longestWait || try == checkTries:
			return p, err
		}
		timer := time.NewTimer(max(wait, 200*time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return p, ctx.Err()
		case <-timer.C:
		}
	}
}

// errNotSignedIn ends a check: for each VM it would be the same.
var errNotSignedIn = errors.New("no token could be had; sign in with az login, or check that the managed identity is assigned and AZURE_CLIENT_ID names it")

// signedIn tells a caller without a token from one without a right: the first
// can't judge anything, the second makes a fact unknown.
type signedIn struct{ reconcile.Azure }

// VM is the first read of each VM.
func (s signedIn) VM(ctx context.Context, id cvm.VMID) (cvm.VM, error) {
	vm, err := s.Azure.VM(ctx, id)
	if noToken(err) {
		err = &fault.Error{Kind: fault.Transient, Op: "reading VM", Object: string(id), Err: errNotSignedIn}
	}
	return vm, err
}

// noToken says whether a call failed before Azure could ask for a right: there is
// no credential, it was refused, or Azure refused without naming an action.
func noToken(err error) bool {
	switch fault.Code(err) {
	case "AuthenticationFailed", "CredentialUnavailable":
		return true
	}
	return fault.Is(err, fault.Denied) && fault.Action(err) == ""
}

// checkDoc is the JSON of a check.
type checkDoc struct {
	VMs       []checked        `json:"vms"`
	Orphans   []orphan         `json:"orphans,omitempty"` // of a captured estate
	NotJudged []notJudged      `json:"notJudged,omitempty"`
	NotRead   []estate.Trouble `json:"notRead,omitempty"` // of a captured estate
}

// tell prints the results and gives the exit status.
func (cmd checkCmd) tell(c *console, doc checkDoc, all []checked) error {
	doc.VMs = []checked{}
	status := exitStatus(exitOK)
	if len(doc.NotRead) > 0 {
		status = exitNot // what is in those files may be anything
	}
	for _, r := range all {
		switch {
		case r.err != nil:
			doc.NotJudged = append(doc.NotJudged, notJudged{r.ID, r.err.Error()})
			continue
		case r.Verdict == policy.NonCompliant || r.Verdict == policy.Unknown:
			status = exitNot
		}
		doc.VMs = append(doc.VMs, r)
	}
	if cmd.json() {
		if err := c.json(doc); err != nil {
			return err
		}
	} else {
		cmd.tables(c, doc.VMs)
		tellOrphans(c, doc.Orphans)
	}
	tellTroubles(c, doc.NotRead)
	if n := len(doc.NotJudged); n > 0 {
		const shown = 10
		for _, r := range doc.NotJudged[:min(n, shown)] {
			c.say("%s", r.Error)
		}
		if n > shown {
			c.say("and %d more; -o json lists them all", n-shown)
		}
		c.say("%d of %d VMs could not be judged; try again, or look at the reasons above", n, len(all))
		return exitStatus(exitCannot)
	}
	if status == exitOK {
		return nil
	}
	return status
}

func (cmd checkCmd) tables(c *console, all []checked) {
	vms := c.grid("vm", "group", "kind", "tee", "verdict")
	findings := c.grid("vm", "state", "severity", "rule", "reason", "what")
	plan := c.grid("vm", "step", "class", "state", "does", "why so")
	refused := c.grid("vm", "azure policy would have refused it by")
	for _, r := range all {
		verdict := any(r.Verdict)
		if r.why != "" {
			verdict = string(r.Verdict) + " (" + r.why + ")"
		}
		vms.add(r.Name, r.ID.ResourceGroup(), r.Kind, r.TEE, verdict)
		for _, f := range cmd.shown(r.Findings) {
			findings.add(r.Name, f.State, f.Severity, f.Rule, f.Reason, f.Text)
		}
		for _, s := range r.Plan {
			plan.add(r.Name, s.Step, s.Class, s.State, s.does, s.why)
		}
		if len(r.WouldBeRefused) > 0 {
			refused.add(r.Name, rulesOf(r.WouldBeRefused))
		}
	}
	vms.print(c)
	for _, g := range []*grid{findings, plan, refused} {
		if g.rows > 0 {
			c.line("")
		}
		g.print(c)
	}
}

// rulesOf are the rules whose definitions would have refused a VM.
func rulesOf(all []azurepolicy.Refusal) string {
	var rules []string
	for _, r := range all {
		rules = append(rules, r.Rule)
	}
	return strings.Join(rules, " ")
}

// shown are the findings for the table. Without --all those with one cause, a
// link that couldn't be read for instance, are one row with the first rule.
func (cmd checkCmd) shown(all []checkedFinding) []checkedFinding {
	if cmd.All {
		return all
	}
	var out []checkedFinding
	same := map[checkedFinding]int{} // how many, by what is the same of them
	at := map[checkedFinding]int{}
	for _, f := range all {
		switch {
		case f.State == cvm.Fail, f.State == cvm.UnknownState, f.State == cvm.Exempt:
		case f.Rule == "exemptions" && f.Reason != "": // one that has ended
		default:
			continue
		}
		cause := checkedFinding{State: f.State, Reason: f.Reason, Text: f.Text}
		if same[cause]++; same[cause] == 1 {
			at[cause] = len(out)
			out = append(out, f)
		}
	}
	for cause, n := range same {
		if n > 1 {
			out[at[cause]].Rule += fmt.Sprintf(" and %d more", n-1)
		}
	}
	return out
}
