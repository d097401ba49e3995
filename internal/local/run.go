package local

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// RunSchema names the format of a Run.
const RunSchema = "cvmguard.dev/run/v1"

// Run is what `make run FORMAT=json` prints.
type Run struct {
	Schema string `json:"schema"`
	Scene  string `json:"scene"`
	Mode   string `json:"mode"`   // observe or enforce
	Policy string `json:"policy"` // hash of the one in force
	// Story is what a story told, nil of any other scene.
	Story       *RunStory `json:"story,omitempty"`
	VMs         []RunVM   `json:"vms"`
	AzureWrites int       `json:"azureWrites"` // the handler's writes that the simulated Azure accepted
	Inbox       int       `json:"inbox"`       // open letters
	Seconds     float64   `json:"seconds"`
}

// RunStory is a story as it was told.
type RunStory struct {
	About string    `json:"about"`
	Lines []RunLine `json:"lines"` // in the order of their time
}

// RunLine is one line of it: what happened, or what is claimed beside what was seen.
type RunLine struct {
	Seconds float64 `json:"seconds"` // since the story began
	Text    string  `json:"text,omitempty"`
	Claim   string  `json:"claim,omitempty"`
	Seen    string  `json:"seen,omitempty"`
}

// RunVM is one VM of a Run.
type RunVM struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Kind        cvm.Kind       `json:"kind"`
	TEE         cvm.TEE        `json:"tee"`
	Verdict     policy.Value   `json:"verdict"`
	Findings    []RunFinding   `json:"findings"`
	Plan        []RunStep      `json:"plan"`
	Attestation RunAttestation `json:"attestation"`
	Records     []string       `json:"records"`
	Head        RunHead        `json:"head"`
}

// RunFinding is a finding: one reason code, "" if none.
type RunFinding struct {
	Rule   string    `json:"rule"`
	State  cvm.State `json:"state"`
	Reason string    `json:"reason"`
}

// RunStep is a step: those that were taken, by their last outcome, then what is
// still planned, blocked or advised.
type RunStep struct {
	Step  remedy.Kind      `json:"step"`
	Class policy.Class     `json:"class"`
	State remedy.StepState `json:"state"`
}

// RunAttestation is what both verifiers say.
type RunAttestation struct {
	MAA      cvm.Outcome `json:"maa"`
	Evidence cvm.Outcome `json:"evidence"`
}

// RunHead is the end of a VM's chain.
type RunHead struct {
	Seq  int    `json:"seq"`
	Hash string `json:"hash"`
}

// Result reads what the loop wrote about the VMs.
func (w *World) Result(ctx context.Context, vms []string, started time.Time) (Run, error) {
	run := Run{Schema: RunSchema, VMs: []RunVM{}, AzureWrites: len(w.Sim.Writes(azuresim.HandlerPrincipal)),
		Seconds: float64(time.Since(started).Round(100*time.Millisecond)) / float64(time.Second)}
	doc, err := w.policy()
	if err != nil {
		return run, err
	}
	run.Mode, run.Policy = doc.Mode(), doc.Hash
	open, _, err := ledger.Inbox{Blobs: w.Storage.Blobs(), Tables: w.Storage.Tables()}.Count(ctx)
	if err != nil {
		return run, fmt.Errorf("counting the inbox: %w", err)
	}
	run.Inbox = open
	for _, id := range vms {
		vm, err := w.vmResult(ctx, id)
		if err != nil {
			return run, fmt.Errorf("reading the records of %q: %w", id, err)
		}
		run.VMs = append(run.VMs, vm)
	}
	return run, nil
}

func (w *World) vmResult(ctx context.Context, id string) (RunVM, error) {
	o, err := reconcile.VMObject(id)
	if err != nil {
		return RunVM{}, err
	}
	recs, err := w.Chains().After(ctx, o.Chain(), 0, "")
	if err != nil {
		return RunVM{}, err
	}
	vm := RunVM{ID: id, Name: id[strings.LastIndex(id, "/")+1:], Kind: cvm.KindUnknown, TEE: cvm.TEEUnknown, Verdict: policy.Unknown,
		Findings: []RunFinding{}, Plan: []RunStep{}, Records: []string{}}
	var taken []remedy.Step
	var plan remedy.Plan
	for _, r := range recs {
		vm.Records = append(vm.Records, r.Name)
		vm.Head = RunHead{r.Record.Seq, r.Hash}
		if s := r.Record.Step; s != nil {
			taken = note(taken, *s)
		}
		if v := r.Record.Verdict; v != nil {
			vm.Verdict, vm.Findings = v.Value, findings(*v)
			if v.Value != policy.Gone {
				vm.Kind, vm.TEE = v.Kind, v.TEE
			}
			vm.Attestation = RunAttestation{outcome(*v, "attestation.maa"), outcome(*v, "attestation.evidence")}
		}
		if r.Record.Plan != nil {
			plan = *r.Record.Plan
		}
	}
	vm.Plan = steps(taken, plan)
	return vm, nil
}

// note keeps a step's latest state, in the order in which steps were first taken.
func note(taken []remedy.Step, s remedy.Step) []remedy.Step {
	for i := range taken {
		if taken[i].Same(s) {
			taken[i].State = s.State
			return taken
		}
	}
	return append(taken, s)
}

func steps(taken []remedy.Step, plan remedy.Plan) []RunStep {
	out := []RunStep{}
	for _, s := range taken {
		out = append(out, RunStep{s.Kind, s.Class, s.State})
	}
	for _, s := range plan.Steps {
		again := false
		for _, t := range taken {
			again = again || t.Same(s)
		}
		if !again {
			out = append(out, RunStep{s.Kind, s.Class, s.State})
		}
	}
	return out
}

func findings(v policy.Verdict) []RunFinding {
	out := []RunFinding{}
	for _, f := range v.Findings {
		out = append(out, RunFinding{f.Rule, f.State, f.Reason})
	}
	return out
}

// outcome is what a verdict's attestation rule says; a rule that isn't there or
// wasn't asked is unknown.
func outcome(v policy.Verdict, rule string) cvm.Outcome {
	for _, f := range v.Findings {
		if f.Rule == rule && f.State != cvm.NotAsked {
			return cvm.Outcome{State: f.State, Reason: f.Reason}
		}
	}
	return cvm.Outcome{State: cvm.UnknownState, Reason: "not-asked"}
}

// Chain is the key of a VM in the app's URLs, "" for a malformed id.
func Chain(id string) string {
	o, err := reconcile.VMObject(id)
	if err != nil {
		return ""
	}
	return o.Chain()
}
