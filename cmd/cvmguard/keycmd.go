package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
)

// keyCmds are about the keys of disk encryption sets.
type keyCmds struct {
	Policy keyPolicyCmds `cmd:"" help:"Draft, compare and judge release policies."`
	Blast  keyBlastCmd   `cmd:"" help:"List every VM that hangs on a key, straight from Azure."`
}

const exampleKeyURL = "https://kv-cvm.vault.azure.net/keys/cvm-os-key"

type keyBlastCmd struct {
	Key          string   `required:"" placeholder:"URL" help:"The key's URL; with a version only what names that version."`
	Subscription []string `placeholder:"ID" help:"Look in this subscription alone; may be given several times. By default in all that you may read."`
	output
}

// Help is kong's.
func (keyBlastCmd) Help() string {
	return `Found are the disk encryption sets that name the key (as their active key, or as a previous one during a rotation), the disks on them, and the VMs that have those disks; and VMs and instances of uniform scale sets whose ephemeral OS disk names such a set. A VM in the list won't start when the key is disabled or deleted, and goes down within about an hour if it runs; when the key expires it keeps running, and whether it starts again isn't certain. Data disks with server-side encryption do the same to their VM as the OS disk.

Which sets there are is asked of Resource Graph, which shows what you may read and may be some minutes behind. What couldn't be read is listed, and then the list may be too short.

Exit status: 0 the list is whole; 2 something couldn't be read, or the command could not run.`
}

// Run lists.
func (cmd keyBlastCmd) Run(c *console) error {
	id, err := parseKeyArgument("--key", cmd.Key)
	if err != nil {
		return err
	}
	for _, s := range cmd.Subscription {
		if !isGUID(s) {
			return badArgument("--subscription", s, "it must be a subscription's id, a GUID", "--subscription "+exampleSubscription)
		}
	}
	cfg, err := config.LoadWithoutStorage(c.getenv)
	if err != nil {
		return err
	}
	p := c.progress("reading Azure")
	blast, err := fleet.BlastRadius(c.ctx, azure.New(cfg, slog.New(slog.DiscardHandler)), id, cmd.Subscription, c.now(), pause)
	p.stop()
	switch {
	case noToken(err):
		return fmt.Errorf("key blast: %w", errNotSignedIn)
	case err != nil:
		return fmt.Errorf("key blast: %w", err)
	}
	if cmd.json() {
		if err := c.json(blast); err != nil {
			return err
		}
	} else {
		tellBlast(c, blast)
	}
	if blast.FoundNothing() {
		c.say("there is no such key at %s: it is deleted, or the URL is misspelt, and nothing that could be read names it; check it with `az keyvault key show --id …`", clean(string(id)))
		return exitStatus(exitCannot)
	}
	if n := len(blast.Unread); n > 0 {
		for _, u := range blast.Unread {
			c.say("not read: %s: %s", u.Object, u.Why)
		}
		c.say("%s couldn't be read, so VMs may be missing above; mend the causes and run it again", plural(n, "thing"))
		return exitStatus(exitCannot)
	}
	return nil
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

var blastWords = map[string]string{
	fleet.GoesDown: "goes down within 1 h, no start", fleet.StartsNot: "doesn't start",
	fleet.RunsStartsPerhaps: "keeps running, start uncertain", fleet.StartsPerhaps: "start uncertain",
}

func tellBlast(c *console, b fleet.Blast) {
	versions := c.grid("key version", "state", "expires")
	expires := map[string]string{}
	for _, v := range b.Versions {
		when := "never"
		if v.Expires != nil {
			when = v.Expires.UTC().Format(time.RFC3339)
		} else if v.State == "unread" || v.State == "deleted" {
			when = "not known"
		}
		name := v.ID.Version()
		expires[strings.ToLower(name)] = when
		if name == "" {
			name = "(newest)"
		}
		versions.add(name, v.State, when)
	}
	c.line("key %s", clean(string(b.Key)))
	versions.print(c)
	c.line("")
	vms := c.grid("vm", "runs", "disk", "as", "set", "version", "expires", "when disabled or deleted", "when expired")
	for _, vm := range b.VMs {
		runs := map[cvm.Tri]string{cvm.True: "yes", cvm.False: "no"}[vm.Running]
		if runs == "" {
			runs = "not known"
		}
		for _, d := range vm.Disks {
			as, disk := d.Role, d.ID.Name()
			if d.Previous {
				as += ", previous key"
			}
			if disk == "" {
				disk = "(ephemeral)"
			}
			version := d.Version
			if version == "" {
				version = "(newest)"
			}
			vms.add(vm.ID, runs, disk, as, d.Set.Name(), version, expires[strings.ToLower(d.Version)], blastWords[vm.WhenGone], blastWords[vm.WhenExpired])
		}
	}
	vms.print(c)
	if len(b.VMs) > 0 {
		c.line("")
	}
	running := 0
	for _, vm := range b.VMs {
		if vm.Running != cvm.False {
			running++
		}
	}
	c.line("%s on %s, %d running; %s without a VM", plural(len(b.VMs), "VM"), plural(len(b.Sets), "disk encryption set"), running, plural(len(b.Unattached), "disk"))
}

// parseKeyArgument reads a key's URL; the error names the flag.
func parseKeyArgument(flag, given string) (cvm.KeyID, error) {
	id, err := cvm.ParseKeyID(strings.TrimSpace(given))
	var f *fault.Error
	if errors.As(err, &f) {
		return "", badArgument(flag, given, f.Err.Error(), flag+" "+exampleKeyURL)
	}
	return id, err
}
