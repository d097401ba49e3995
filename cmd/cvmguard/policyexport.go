package main

import (
	"fmt"
	"os"
	"path/filepath"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/config"
)

type policyExportCmd struct {
	As     string `enum:"azure-policy" required:"" placeholder:"LANGUAGE" help:"azure-policy: an Azure Policy initiative."`
	Policy string `placeholder:"FILE" help:"Document to export, in place of the one in the settings."`
	Effect string `enum:"audit,deny" default:"audit" placeholder:"EFFECT" help:"audit reports, deny refuses. Rules of effect audit are only ever audited; what is off is left out."`
	Out    string `placeholder:"DIR" help:"Write initiative.json, which the deployment in infra/ takes, and azuredeploy.json, a template that makes the definitions and assigns nothing."`
	output
}

// Help is kong's.
func (policyExportCmd) Help() string {
	return "What a rule fails at a VM's creation can be refused before there is a VM. The rules that Azure's aliases can express become definitions, one each; the others are listed with the reason. With -o json the initiative itself is printed. To make it in Azure: cvmguard policy export --as azure-policy --effect deny --out DIR, then az deployment sub create --location REGION --template-file DIR/azuredeploy.json, then assign the initiative cvmguard."
}

// Run exports.
func (cmd policyExportCmd) Run(c *console) error {
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
	initiative, err := azurepolicy.Export(doc, cmd.Effect)
	if err != nil {
		return err
	}
	text, err := initiative.JSON()
	if err != nil {
		return err
	}
	if cmd.Out != "" {
		template, err := initiative.Template()
		if err != nil {
			return err
		}
		if err := writeFiles(cmd.Out, map[string][]byte{"initiative.json": text, "azuredeploy.json": template}); err != nil {
			return err
		}
	}
	if cmd.json() {
		if _, err := c.Write(text); err != nil {
			return exitStatus(exitCannot) // finish says why
		}
		return nil
	}
	cmd.table(c, initiative)
	return nil
}

func (cmd policyExportCmd) table(c *console, i azurepolicy.Initiative) {
	c.line("policy %s, hash %s, effect %s", clean(i.Policy.Name), i.Policy.Hash, i.Effect)
	c.line("")
	g := c.grid("rule", "effect", "what it asks", "what it leaves out")
	for at, d := range i.Definitions {
		effect := i.Effect
		if i.Set.Properties.PolicyDefinitions[at].Parameters["effect"].Value == "Audit" {
			effect = azurepolicy.Audit
		}
		g.add(d.Properties.Metadata.Rule, effect, d.Properties.DisplayName, d.Properties.Metadata.Leaves)
	}
	g.print(c)
	c.line("")
	c.line("%s can't be expressed:", plural(len(i.NotExpressed), "rule"))
	g = c.grid("rule", "because", "why")
	for _, n := range i.NotExpressed {
		g.add(n.Rule, n.Kind, n.Why)
	}
	g.print(c)
	for _, note := range i.Inexact {
		c.line("")
		c.line("%s", clean(note))
	}
	if cmd.Out != "" {
		c.say("wrote %s and %s", filepath.Join(cmd.Out, "initiative.json"), filepath.Join(cmd.Out, "azuredeploy.json"))
	}
}

// writeFiles writes files into a folder, which it makes.
func writeFiles(dir string, files map[string][]byte) error {
	const next = "give a folder that you may write to"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the folder: %w; %s", err, next)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("writing the export: %w; %s", err, next)
		}
	}
	return nil
}
