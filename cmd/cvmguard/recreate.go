package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"cvmguard/internal/azure"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

// recreateCmds make a VM anew as a confidential one.
type recreateCmds struct {
	Plan  recreatePlanCmd  `cmd:"" help:"Plan a VM's re-creation: steps, commands and a Bicep file. Changes nothing."`
	Apply recreateApplyCmd `cmd:"" help:"Approve a plan of a re-creation or of its way back: it is carried out."`
	Back  recreateBackCmd  `cmd:"" help:"Plan the way back to the old OS disk."`
}

// Help is kong's.
func (recreateCmds) Help() string {
	return `What Azure decides at a VM's creation (its kind, its OS disk's encryption and key) only a new VM puts right. The plan keeps name, network interfaces, data disks, tags, identities and zone, and makes a new OS disk from an image for confidential VMs; the old OS disk is kept, and with it the way back. It is refused where it can't work or where anything that it rests on can't be read.`
}

type recreatePlanCmd struct {
	VM    string `required:"" name:"vm" placeholder:"ID" help:"ARM id of the VM."`
	Image string `placeholder:"URN" help:"Image of the new OS disk, publisher:offer:sku:version or an ARM id; by default the confidential one of the same release."`
	Size  string `help:"Size of the new VM; by default its own if it is confidential, else one like it."`
	DES   string `name:"des" placeholder:"ID" help:"Disk encryption set of the new OS disk; by default the one that policy wants in the region."`
	Out   string `placeholder:"DIR" help:"Write the commands (recreate.sh) and the Bicep file (recreate.bicep) there."`
	Local bool   `help:"Read Azure with your own sign-in, in place of asking the function app. The plan is not kept, so nobody can carry it out by its hash."`
	app
	output
}

// Run plans.
func (cmd recreatePlanCmd) Run(c *console) error {
	if _, err := cvm.ParseVMID(cmd.VM); err != nil {
		return err
	}
	var hash string
	var op remedy.Operation
	var body []byte
	if cmd.Local {
		var err error
		if op, err = cmd.local(c); err != nil {
			return err
		}
	} else {
		k, err := cmd.client(c)
		if err != nil {
			return err
		}
		ask := map[string]any{"kind": remedy.RecreateOperation, "vm": cmd.VM}
		for name, v := range map[string]string{"image": cmd.Image, "size": cmd.Size, "des": cmd.DES} {
			if v != "" {
				ask[name] = v
			}
		}
		if hash, op, body, err = k.planned(c, ask); err != nil {
			return err
		}
	}
	bicep, err := remedy.RecreationBicep(op)
	if err != nil {
		return err
	}
	commands, err := remedy.RecreationCommands(op, "recreate.bicep")
	if err != nil {
		return err
	}
	if cmd.Out != "" {
		if err := writePlan(cmd.Out, bicep, commands); err != nil {
			return err
		}
		c.say("%s and %s were written", filepath.Join(cmd.Out, "recreate.sh"), filepath.Join(cmd.Out, "recreate.bicep"))
	}
	if cmd.json() {
		if body != nil {
			return tellPlan(c, true, hash, op, body, "")
		}
		return c.json(map[string]any{"operation": op})
	}
	if cmd.Local {
		c.line("%s", clean(op.Why))
		showPlan(c, op)
	} else if err := tellPlan(c, false, hash, op, body, recreateApply); err != nil {
		return err
	}
	if cmd.Out == "" {
		c.line("")
		c.line("The same by hand:")
		for _, l := range commands {
			c.line("  %s", clean(l))
		}
		c.line("")
		c.line("recreate.bicep:")
		if _, err := c.Write([]byte(bicep)); err != nil {
			return exitStatus(exitCannot) // finish says why
		}
	}
	return nil
}

// local plans with the identity that the environment offers.
func (cmd recreatePlanCmd) local(c *console) (remedy.Operation, error) {
	cfg, err := config.LoadWithoutStorage(c.getenv)
	if err != nil {
		return remedy.Operation{}, err
	}
	doc, err := documentFor("", cfg)
	if err != nil {
		return remedy.Operation{}, err
	}
	az := azure.New(cfg, slog.New(slog.DiscardHandler))
	in, err := reconcile.ReadRecreation(c.ctx, az.Reader(checkMemory), az, cvm.VMID(cmd.VM),
		remedy.RecreationOptions{Image: cmd.Image, Size: cmd.Size, DES: cvm.DESID(cmd.DES)}, doc, c.now())
	if err != nil {
		return remedy.Operation{}, err
	}
	return remedy.PlanRecreation(in)
}

// writePlan writes the files; one that is there already is not overwritten.
func writePlan(dir, bicep string, commands []string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making %q: %w", dir, err)
	}
	var bad error
	for name, text := range map[string]string{"recreate.sh": remedy.RecreationScript(commands), "recreate.bicep": bicep} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("writing the plan: %w; name a folder without such a file", err))
			continue
		}
		_, err = f.WriteString(text)
		bad = errors.Join(bad, err, f.Close())
	}
	return bad
}

type recreateApplyCmd struct{ applyCmd }

// Run approves.
func (cmd recreateApplyCmd) Run(c *console) error { return cmd.apply(c, recreateApply) }

type recreateBackCmd struct {
	Plan string `required:"" placeholder:"HASH" help:"Hash of the re-creation's plan."`
	app
	output
}

// Run plans.
func (cmd recreateBackCmd) Run(c *console) error {
	k, err := cmd.client(c)
	if err != nil {
		return err
	}
	hash, op, body, err := k.planned(c, map[string]any{"kind": remedy.UndoOperation, "plan": cmd.Plan})
	if err != nil {
		return err
	}
	return tellPlan(c, cmd.json(), hash, op, body, recreateApply)
}
