package main

import (
	"encoding/json"
	"errors"
	"strings"

	"cvmguard/internal/config"
	"cvmguard/internal/policy"
)

// policyCmds are about policy documents.
type policyCmds struct {
	Show     policyShowCmd     `cmd:"" help:"Show the policy in force, or a document."`
	Validate policyValidateCmd `cmd:"" help:"Check policy documents; every fault is listed with line and column."`
	Explain  policyExplainCmd  `cmd:"" help:"Explain a rule: what it checks, why, and what to do."`
	Schema   policySchemaCmd   `cmd:"" help:"Print the JSON Schema of policy documents, for editors."`
	Export   policyExportCmd   `cmd:"" help:"Say a policy in Azure Policy's language, so that what it fails is refused before it exists."`
	Test     policyTestCmd     `cmd:"" help:"Run scenarios, given and expect, against policy documents."`
}

type policyShowCmd struct {
	Policy string `placeholder:"FILE" help:"Document to show, in place of the one in the settings."`
	Output string `short:"o" enum:"table,json,yaml" default:"table" placeholder:"FORMAT" help:"table for people, json for programs, yaml for the document as it is written."`
}

// Help is kong's.
func (policyShowCmd) Help() string {
	return "Without --policy it is the policy that the settings put in force: CVMGUARD_POLICY, else the embedded one, in the mode of CVMGUARD_MODE, else its own. To begin a document of your own: cvmguard policy show -o yaml > policy.yaml"
}

// Run shows.
func (cmd policyShowCmd) Run(c *console) error {
	var cfg config.Config
	if cmd.Policy == "" {
		var err error
		if cfg, err = config.LoadWithoutStorage(c.getenv); err != nil {
			return err
		}
	}
	doc, err := documentFor(cmd.Policy, cfg)
	if err != nil {
		return err
	}
	switch cmd.Output {
	case "yaml":
		if _, err := c.Write(doc.Source); err != nil {
			return exitStatus(exitCannot) // finish says why
		}
		return nil
	case "json":
		rules, err := policy.RulesJSON(doc)
		if err != nil {
			return err
		}
		return c.json(struct {
			Name  string          `json:"name"`
			Mode  string          `json:"mode"`
			Hash  string          `json:"hash"`
			Rules json.RawMessage `json:"rules"`
		}{doc.Name, doc.Mode(), doc.Hash, rules})
	}
	c.line("policy %s, mode %s, hash %s", clean(doc.Name), doc.Mode(), doc.Hash)
	c.line("")
	g := c.grid("rule", "effect", "severity", "what it asks")
	for _, r := range policy.Rules() {
		g.add(r.ID, doc.Effect(r.ID), r.Severity, r.Title)
	}
	g.print(c)
	return nil
}

type policyValidateCmd struct {
	Files []string `arg:"" name:"file" help:"Policy documents."`
	output
}

// Help is kong's.
func (policyValidateCmd) Help() string {
	return "Exit status: 0 all are valid, 1 one isn't, 2 one can't be read."
}

type validated struct {
	File   string           `json:"file"`
	Valid  bool             `json:"valid"`
	Name   string           `json:"name,omitempty"`
	Mode   string           `json:"mode,omitempty"`
	Hash   string           `json:"hash,omitempty"`
	Faults []validatedFault `json:"faults"`
}

type validatedFault struct {
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Path   string `json:"path"`
	Text   string `json:"text"`
}

// Run validates.
func (cmd policyValidateCmd) Run(c *console) error {
	all := struct {
		Files []validated `json:"files"`
	}{Files: []validated{}}
	var unreadable []error
	invalid := 0
	for _, file := range cmd.Files {
		doc, err := readDocument(file)
		v := validated{File: file, Faults: []validatedFault{}}
		var bad *badDocument
		switch {
		case errors.As(err, &bad):
			invalid++
			for _, f := range bad.faults {
				v.Faults = append(v.Faults, validatedFault(f))
				if !cmd.json() {
					c.line("%s", clean(bad.line(f)))
				}
			}
		case err != nil:
			unreadable = append(unreadable, err)
			continue
		default:
			v.Valid, v.Name, v.Mode, v.Hash = true, doc.Name, doc.Mode(), doc.Hash
			if !cmd.json() {
				c.line("%s: valid: policy %s, mode %s, hash %s", clean(file), clean(doc.Name), doc.Mode(), doc.Hash)
			}
		}
		all.Files = append(all.Files, v)
	}
	if cmd.json() {
		if err := c.json(all); err != nil {
			return err
		}
	}
	if len(unreadable) > 0 {
		return errors.Join(unreadable...)
	}
	if invalid > 0 {
		c.say("%s of %d not valid; correct the places named", plural(invalid, "document"), len(cmd.Files))
		return exitStatus(exitNot)
	}
	return nil
}

type policyExplainCmd struct {
	Rule string `arg:"" help:"Id of a rule, as cvmguard policy show lists them."`
	output
}

// Run explains.
func (cmd policyExplainCmd) Run(c *console) error {
	text, ok := policy.Explain(cmd.Rule)
	if !ok {
		return errors.New(strings.TrimSuffix(text, "?") + "; cvmguard policy show lists the rules")
	}
	if cmd.json() {
		rule, _ := policy.RuleByID(cmd.Rule)
		return c.json(rule)
	}
	c.line("%s", strings.TrimRight(text, "\n"))
	return nil
}

type policySchemaCmd struct{}

// Run prints the schema.
func (policySchemaCmd) Run(c *console) error {
	if _, err := c.Write(policy.Schema()); err != nil {
		return exitStatus(exitCannot) // finish says why
	}
	return nil
}
