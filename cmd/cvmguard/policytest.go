package main

import (
	"fmt"
	"strings"

	"cvmguard/internal/policy"
	"cvmguard/internal/policytest"
)

type policyTestCmd struct {
	Dir    string `arg:"" help:"Folder with scenarios: YAML files with name, at, given and expect."`
	Policy string `placeholder:"FILE" help:"Policy document to test, in place of those that the scenarios name."`
	output
}

// Help is kong's.
func (policyTestCmd) Help() string {
	return "A scenario gives bodies as Azure answers them and says what is expected of the policy: verdict, findings, planned steps. docs/policy.md has the format. No Azure is needed.\n\nExit status: 0 all passed, 1 one failed, 2 one can't be run or there is none."
}

// Run tests.
func (cmd policyTestCmd) Run(c *console) error {
	var doc *policy.Document
	if cmd.Policy != "" {
		var err error
		if doc, err = readDocument(cmd.Policy); err != nil {
			return err
		}
	}
	results, err := policytest.Run(c.ctx, cmd.Dir, doc)
	if err != nil {
		return err
	}
	out := struct {
		Passed    int                 `json:"passed"`
		Failed    int                 `json:"failed"`
		Broken    int                 `json:"broken"`
		Scenarios []policytest.Result `json:"scenarios"`
	}{Scenarios: results}
	for _, r := range results {
		switch {
		case r.Broken != "":
			out.Broken++
		case r.Passed:
			out.Passed++
		default:
			out.Failed++
		}
	}
	if cmd.json() {
		if err := c.json(out); err != nil {
			return err
		}
	} else {
		for _, r := range results {
			tellScenario(c, r)
		}
		c.line("%d passed, %d failed, %d can't be run", out.Passed, out.Failed, out.Broken)
	}
	switch {
	case out.Broken > 0:
		return fmt.Errorf("policy test: %s of %d can't be run; correct what is named", plural(out.Broken, "scenario"), len(results))
	case out.Failed > 0:
		return exitStatus(exitNot)
	}
	return nil
}

func tellScenario(c *console, r policytest.Result) {
	name := r.File
	if r.Name != "" {
		name += ": " + r.Name
	}
	switch {
	case r.Broken != "":
		c.line("BROKEN  %s", clean(name))
		for line := range strings.SplitSeq(r.Broken, "\n") {
			c.line("        %s", clean(line))
		}
	case r.Passed:
		c.line("pass    %s", clean(name))
	default:
		c.line("FAIL    %s", clean(name))
	}
	for _, d := range r.Differences {
		c.line("        %s, %s", clean(d.VM), d.What)
		c.line("          expected  %s", clean(d.Expected))
		c.line("          found     %s", clean(d.Found))
	}
}
