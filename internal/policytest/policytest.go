// Package policytest runs the scenarios of policy writers: what is given (bodies as
// Azure answers them, and what no body shows), and what a policy is expected to say
// of it, as verdict, findings and planned steps.
//
// It promises to judge by the code that judges in production: the estate's reader,
// the loop's observer, the judge and the planner, at the scenario's own moment. A
// scenario that can't be run (a file that isn't there, a body that is nothing,
// a policy with faults) is broken, which is neither passed nor failed. No file below
// the folder that ends in .yaml or .yml is passed over but policy documents.
//
// It asks nothing of Azure, writes nothing and runs no loop: what comes of several
// turns, and the brakes, are beyond it.
package policytest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/estate"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// Result is what came of one scenario.
type Result struct {
	File        string       `json:"file"` // from the folder
	Name        string       `json:"name,omitempty"`
	Passed      bool         `json:"passed"`
	Differences []Difference `json:"differences,omitempty"`
	Broken      string       `json:"broken,omitempty"` // why it couldn't be run, "" if it could
}

// Difference is one thing that isn't as it was expected.
type Difference struct {
	VM       string `json:"vm"`
	What     string `json:"what"` // verdict, finding or plan
	Expected string `json:"expected"`
	Found    string `json:"found"`
}

// maxFile bounds a file that is read, in bytes.
const maxFile = 32 << 20

// Run runs every scenario below dir, in the order of their files. doc, if it isn't
// nil, judges in place of the policies that the scenarios name. Its error is about
// dir itself.
func Run(ctx context.Context, dir string, doc *policy.Document) ([]Result, error) {
	const op = "looking for scenarios"
	invalid := func(err error, next string) error {
		return &fault.Error{Kind: fault.Invalid, Op: op, Object: dir, Err: err, Next: next}
	}
	var results []Result
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ext := strings.ToLower(filepath.Ext(path)); ext != ".yaml" && ext != ".yml" {
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := read(path)
		if err == nil && policy.IsDocument(text) {
			return nil
		}
		if name == "." { // dir is the scenario itself
			name = filepath.Base(path)
		}
		r := Result{File: filepath.ToSlash(name)}
		if err == nil {
			r.Name, r.Differences, err = one(ctx, filepath.Dir(path), text, doc)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.Broken, r.Differences = err.Error(), nil
		}
		r.Passed = err == nil && len(r.Differences) == 0
		results = append(results, r)
		return nil
	})
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		return nil, invalid(path.Err, "give a folder that you may read")
	case err != nil:
		return nil, err
	case len(results) == 0:
		return nil, invalid(errors.New("no scenario was found"), "give a folder with scenarios, YAML files with name, at, given and expect")
	}
	return results, nil
}

func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not an ordinary file")
	}
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("it has %d bytes, more than %d", info.Size(), maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Base(path), plain(err))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Base(path), plain(err))
	}
	return b, nil
}

// plain is a file system's error without the path, which the message names.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// faults are a document's or a scenario's, each on its line.
func faults(err error) error {
	var parse *policy.ParseError
	if errors.As(err, &parse) {
		return parse
	}
	return err
}

// one runs a scenario's text, whose paths begin in a folder.
func one(ctx context.Context, folder string, text []byte, doc *policy.Document) (name string, out []Difference, err error) {
	s, err := policy.ParseScenario(text)
	if err != nil {
		return "", nil, faults(err)
	}
	if doc == nil {
		if doc, err = document(folder, s); err != nil {
			return s.Name, nil, err
		}
	}
	given, err := bodies(folder, s.Given)
	if err != nil {
		return s.Name, nil, err
	}
	e := estate.Of(given)
	if all := e.Troubles(); len(all) > 0 {
		return s.Name, nil, fmt.Errorf("given: %s: %s", all[0].File, all[0].Why)
	}
	facts := map[string]policy.VMFacts{}
	for called, f := range s.Given.VMs {
		id, err := find(e, called)
		if err != nil {
			return s.Name, nil, fmt.Errorf("given.vms: %w", err)
		}
		facts[id.Fold()] = f
	}
	for i, x := range s.Expect {
		id, err := find(e, x.VM)
		if err != nil {
			return s.Name, nil, fmt.Errorf("expect.%d: %w", i, err)
		}
		v, plan, err := judge(ctx, e, id, facts[id.Fold()], doc, s.At)
		if err != nil {
			return s.Name, nil, fmt.Errorf("judging %s: %w", id.Name(), err)
		}
		out = append(out, Compare(id.Name(), x, v, plan)...)
	}
	return s.Name, out, nil
}

// document is the policy that a scenario names.
func document(folder string, s *policy.Scenario) (*policy.Document, error) {
	text, from := []byte(s.Policy), "policy"
	switch {
	case s.Policy == "":
		return nil, errors.New("it names no policy; write policy: FILE, or give --policy FILE")
	case !s.Inline():
		var err error
		if text, err = read(filepath.Join(folder, filepath.FromSlash(s.Policy))); err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
		from = s.Policy
	}
	doc, err := policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, faults(err))
	}
	return doc, nil
}

// bodies gathers what is given, by the name under which a trouble is told.
func bodies(folder string, g policy.Given) (map[string][]byte, error) {
	out := map[string][]byte{}
	add := func(name string, body []byte, must bool) error {
		if must {
			if _, used := estate.Of(map[string][]byte{"it": body}).Files(); used == 0 {
				return fmt.Errorf("given: %s is no body that cvmguard knows: a VM, disk, disk encryption set, vault, HSM or key, as Azure answers it", name)
			}
		}
		out[name] = body
		return nil
	}
	if g.Dir != "" {
		root := filepath.Join(folder, filepath.FromSlash(g.Dir))
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.EqualFold(filepath.Ext(path), ".json") {
				return err
			}
			b, err := read(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(folder, path)
			if err != nil {
				return err
			}
			return add(filepath.ToSlash(name), b, false)
		})
		if err != nil {
			return nil, fmt.Errorf("given.dir %q: %w", g.Dir, plain(err))
		}
	}
	for _, f := range g.Files {
		b, err := read(filepath.Join(folder, filepath.FromSlash(f)))
		if err == nil {
			err = add(f, b, true)
		}
		if err != nil {
			return nil, fmt.Errorf("given.files: %w", err)
		}
	}
	for i, b := range g.Bodies {
		if err := add(fmt.Sprintf("given.bodies.%d", i), b, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// find is the one VM that is called so: by id, by name, or by nothing where there
// is one only.
func find(e *estate.Estate, called string) (cvm.VMID, error) {
	var found []cvm.VMID
	var names []string
	for _, id := range e.VMs() {
		names = append(names, id.Name())
		if called == "" || strings.EqualFold(called, string(id)) || strings.EqualFold(called, id.Name()) {
			found = append(found, id)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(names) == 0:
		return "", errors.New("no VM is given")
	case called == "":
		return "", fmt.Errorf("%d VMs are given; say which: %s", len(names), strings.Join(names, ", "))
	case len(found) > 1:
		return "", fmt.Errorf("%d VMs are called %q; give the ARM id", len(found), called)
	}
	return "", fmt.Errorf("no VM that is given is called %q; there are %s", called, strings.Join(names, ", "))
}

// judge does what a check of a captured estate does, with the facts added.
func judge(ctx context.Context, e *estate.Estate, id cvm.VMID, f policy.VMFacts, doc *policy.Document, at time.Time) (policy.Verdict, remedy.Plan, error) {
	p, err := reconcile.Observer{Azure: e, Whole: true, Orchestrator: doc.Orchestrator()}.VM(ctx, id)
	if err != nil {
		return policy.Verdict{}, remedy.Plan{}, err
	}
	add(&p, f, doc, at)
	v := policy.Judge(p, doc, at)
	return v, remedy.ForVM(p, v, doc), nil
}

// claims are what a guest says whose root is sealed, or whose root has one fault.
func claims(fde string) cvm.GuestClaims {
	c := cvm.GuestClaims{CloudInit: "done", RootEncrypted: cvm.True, UbuntuFDE: cvm.True, ClearKey: cvm.False, KeyFile: cvm.False,
		ResizeSlot: cvm.False, Keyslots: 1, SRKTemplate: cvm.False, SealedKey: cvm.True, BootFiles: cvm.True}
	switch fde {
	case "plain":
		c.RootEncrypted, c.SealedKey = cvm.False, cvm.False
	case "key-in-clear":
		c.ClearKey = cvm.True
	case "slot-left":
		c.ResizeSlot = cvm.True
	case "reseal-pending":
		c.Unsealed = []string{"kernel.efi"}
	case "first-boot":
		c.CloudInit, c.ResizeSlot, c.KeyFile = "running", cvm.True, cvm.True
	}
	return c
}

// add gives the posture what no body shows.
func add(p *cvm.Posture, f policy.VMFacts, doc *policy.Document, at time.Time) {
	if f.Attestation != "" {
		p.GuestAsked = true
		outcome := cvm.Outcome{State: cvm.Pass}
		switch f.Attestation {
		case "not-collected":
			p.EvidenceDue = doc.AttestationAsked()
			p.Attestation = cvm.NotRead[cvm.Attestation]("evidence-not-collected", "", "no evidence has come from this VM yet")
		case "fail":
			outcome = cvm.Outcome{State: cvm.Fail, Reason: f.AttestationReason}
			if outcome.Reason == "" {
				outcome.Reason = "quote.signature"
			}
			fallthrough
		default:
			a := cvm.Attestation{MAA: outcome, Evidence: outcome, NonceIssued: at, JudgedAt: at}
			if f.FDE != "" {
				p.Claims = cvm.Known(claims(f.FDE))
				a.PCRs = map[string]string{"12": cvm.PCR12Fenced}
			}
			p.Attestation = cvm.Known(a)
		}
	}
	if r := f.Rights; r != nil {
		rights := cvm.Rights{Model: "rbac", DESIdentity: r.DESIdentity, Orchestrator: r.Orchestrator, OrchestratorKnown: r.Orchestrator != nil}
		if p.Vault.Known && p.Vault.Value.HSM {
			rights.Model = "hsm-local"
		} else if p.Vault.Known && p.Vault.Value.RBAC == cvm.False {
			rights.Model = "access-policies"
		}
		p.Rights = cvm.Known(rights)
	}
	if value, there := doc.ExemptionTagOf(p.VM.Value); there && len(f.TagSetBy) > 0 {
		p.TagSetter = cvm.Known(cvm.TagSetter{Tag: doc.ExemptionTag.Name, Value: value, Principal: strings.ToLower(f.TagSetBy[0]), Others: f.TagSetBy[1:], At: at})
	}
}
