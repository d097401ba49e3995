//go:build !release

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/cvm"
	"cvmguard/internal/local"
	"cvmguard/internal/local/story"
	"cvmguard/internal/policy"
)

// devCommands are the commands of the local world, in builds without the tag
// release alone.
type devCommands struct {
	Dev devCmd `cmd:"" help:"The local world: storage, a simulated Azure and a stand-in for the Functions host; confidential VMs are created, guarded and recorded."`
}

type devCmd struct {
	Dist    string        `default:"dist" help:"The staged function app."`
	Infra   string        `default:"infra" help:"Folder with the role definitions."`
	Azurite string        `default:"node_modules/azurite/dist/src/azurite.js" help:"Azurite's script."`
	Scene   string        `default:"main" help:"main: VMs of every kind are created. full: then a restart, a deletion, a drift, an expired key. Or a story, which tells one thing: see --help."`
	Mode    string        `default:"enforce" enum:"enforce,observe" help:"The policy's mode."`
	Policy  string        `help:"A policy document; default: the scene's own."`
	Format  string        `default:"table" enum:"table,json" help:"What is printed on stdout."`
	Once    bool          `help:"Play the scene and exit."`
	Slow    time.Duration `default:"500ms" help:"How long Azure's long-running operations take."`
	Logs    bool          `help:"The handler's and the simulator's logs on stderr."`
}

// devLimit is how long the scene may take to come to rest.
const devLimit = 150 * time.Second

// Help is kong's.
func (*devCmd) Help() string {
	var b strings.Builder
	b.WriteString("Stories:\n\n")
	for _, s := range story.All() {
		fmt.Fprintf(&b, "%s: %s\n\n", s.Name, s.About)
	}
	return b.String()
}

// standard are the scenes that aren't stories, with how many of the stages each
// plays.
var standard = map[string]int{"main": 1, "full": 99}

// Run plays the scene and, without --once, stays up until a signal.
func (d *devCmd) Run(c *console) error {
	started := time.Now()
	stages, isStandard := standard[d.Scene]
	told, isStory := story.ByName(d.Scene)
	if !isStandard && !isStory {
		names := []string{"main", "full"}
		for _, s := range story.All() {
			names = append(names, s.Name)
		}
		return fmt.Errorf("there is no scene %q; give one of %s", d.Scene, strings.Join(names, ", "))
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(c.stderr, "%5.1fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	o := local.Options{Dist: d.Dist, Infra: d.Infra, Azurite: d.Azurite, Mode: d.Mode, Policy: d.Policy, Operation: d.Slow}
	if isStory {
		if d.Mode != policy.ModeEnforce || d.Policy != "" {
			return fmt.Errorf("the story %s has a mode and a policy of its own; leave --mode and --policy out", d.Scene)
		}
		o = told.Options(o)
	}
	if d.Logs {
		o.Output, o.Log = c.stderr, slog.New(slog.NewTextHandler(c.stderr, nil))
	}
	say("starting storage and the simulated Azure")
	w, err := local.Start(c.ctx, o)
	if err != nil {
		return err
	}
	defer w.Close()
	say("starting the handler of %s", d.Dist)
	if err := w.StartHost(c.ctx); err != nil {
		return err
	}
	if err := w.Subscribe(c.ctx); err != nil {
		return err
	}
	play, cancel := context.WithTimeout(c.ctx, devLimit)
	defer cancel()
	var vms []string
	var lines *local.RunStory
	if isStory {
		var s local.RunStory
		vms, s, err = told.Play(play, w, say)
		lines = &s
	} else {
		var scene *azuresim.Scene
		if scene, err = w.Play(play, stages, say); err == nil {
			vms = local.IDs(scene)
		}
	}
	if err != nil {
		return err
	}
	run, err := w.Result(c.ctx, vms, started)
	if err != nil {
		return err
	}
	run.Scene, run.Story = d.Scene, lines
	if d.Format == "json" {
		err = json.NewEncoder(c.stdout).Encode(run)
	} else {
		printRun(c.stdout, run)
	}
	if err != nil || d.Once {
		return err
	}
	fmt.Fprintf(c.stderr, "\nThe local world stays up until Ctrl-C. Try:\n"+
		"  curl -s %[1]s/vms\n  curl -s %[1]s/vms/%[2]s/records\n  curl -s '%[1]s/vms/%[2]s/fresh?max_age=1h'\n"+
		"  curl -s -X POST %[1]s/rerun -d '{\"vm\":\"%[3]s\"}'\n  curl -s %[1]s/inbox\n  curl -s %[1]s/health\n", w.API(), local.Chain(run.VMs[0].ID), run.VMs[0].ID)
	fmt.Fprintf(c.stderr, "\nFor the command line in this world:\n")
	for _, e := range append(w.Env(), "CVMGUARD_URL="+w.Host().URL()) {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(c.stderr, "  export %s='%s'\n", name, value)
	}
	<-c.ctx.Done()
	return nil
}

// printRun is the scene's end for a person.
func printRun(out io.Writer, run local.Run) {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.Style().Options.SeparateRows = true
	t.AppendHeader(table.Row{"VM", "kind", "TEE", "verdict", "why", "steps", "MAA", "evidence", "newest record"})
	for _, v := range run.VMs {
		var why, steps []string
		for _, f := range v.Findings {
			if (f.State == cvm.Fail || f.State == cvm.UnknownState) && !slices.Contains(why, f.Reason) {
				why = append(why, f.Reason)
			}
		}
		for _, s := range v.Plan {
			steps = append(steps, fmt.Sprintf("%s: %s", s.Step, s.State))
		}
		t.AppendRow(table.Row{v.Name, v.Kind, v.TEE, v.Verdict, strings.Join(why, "\n"), strings.Join(steps, "\n"),
			outcomeText(v.Attestation.MAA), outcomeText(v.Attestation.Evidence), shortRecord(v.Records)})
	}
	t.Render()
	fmt.Fprintf(out, "%d writes to Azure, %d letters in the inbox, %.1f s\n", run.AzureWrites, run.Inbox, run.Seconds)
}

func outcomeText(o cvm.Outcome) string {
	if o.Reason == "" {
		return string(o.State)
	}
	return string(o.State) + "\n" + o.Reason
}

// shortRecord is a record's name with the middle of its chain left out.
func shortRecord(names []string) string {
	if len(names) == 0 {
		return ""
	}
	chain, file, _ := strings.Cut(names[len(names)-1], "/")
	return "…" + chain[max(0, len(chain)-8):] + "/" + file
}
