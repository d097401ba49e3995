//go:build !release

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"cvmguard/internal/local"
)

// devCommands are there in development builds alone.
type devCommands struct {
	Dev devCmd `cmd:"" help:"The local world: storage, a simulated Azure and a stand-in for the Functions host; confidential VMs are created, guarded and recorded."`
}

type devCmd struct {
	Dist    string        `default:"dist" help:"The staged function app."`
	Infra   string        `default:"infra" help:"Folder with the role definitions."`
	Azurite string        `default:"node_modules/azurite/dist/src/azurite.js" help:"Azurite's script."`
	Scene   string        `default:"main" enum:"main,full" help:"main: the VMs are created. full: then a restart, a deletion, a drift, an expired key."`
	Mode    string        `default:"enforce" enum:"enforce,observe" help:"The policy's mode."`
	Policy  string        `help:"A policy document; default: the embedded one."`
	Format  string        `default:"table" enum:"table,json" help:"What is printed on stdout."`
	Once    bool          `help:"Play the scene and exit."`
	Slow    time.Duration `default:"500ms" help:"How long Azure's long-running operations take."`
	Verbose bool          `help:"The handler's and the simulator's logs on stderr."`
}

func (d *devCmd) run(stdout, stderr io.Writer) (err error) {
	started := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	say := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%5.1fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
	o := local.Options{Dist: d.Dist, Infra: d.Infra, Azurite: d.Azurite, Mode: d.Mode, Policy: d.Policy, Operation: d.Slow}
	if d.Verbose {
		o.Output, o.Log = stderr, slog.New(slog.NewTextHandler(stderr, nil))
	}
	say("starting storage and the simulated Azure")
	w, err := local.Start(ctx, o)
	if err != nil {
		return err
	}
	defer w.Close()
	say("starting the handler of %s", d.Dist)
	if err := w.StartHost(ctx); err != nil {
		return err
	}
	if err := w.Subscribe(ctx); err != nil {
		return err
	}
	stages := 1
	if d.Scene == "full" {
		stages = 99
	}
	play, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	scene, err := w.Play(play, stages, say)
	if err != nil {
		return err
	}
	run, err := w.Result(ctx, local.IDs(scene), started)
	if err != nil {
		return err
	}
	if d.Format == "json" {
		err = json.NewEncoder(stdout).Encode(run)
	} else {
		printRun(stdout, run)
	}
	if err != nil || d.Once {
		return err
	}
	key := local.Chain(run.VMs[0].ID)
	fmt.Fprintf(stderr, "\nThe local world stays up until Ctrl-C. Try:\n"+
		"  curl -s %[1]s/vms\n  curl -s %[1]s/vms/%[2]s/records\n  curl -s '%[1]s/vms/%[2]s/fresh?max_age=1h'\n"+
		"  curl -s -X POST %[1]s/rerun -d '{\"vm\":\"%[3]s\"}'\n  curl -s %[1]s/health\n", w.API(), key, run.VMs[0].ID)
	<-ctx.Done()
	return nil
}

func printRun(out io.Writer, run local.Run) {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"VM", "kind", "TEE", "verdict", "why", "steps", "MAA", "evidence", "record"})
	for _, v := range run.VMs {
		var why, steps []string
		for _, f := range v.Findings {
			if f.State == "fail" || f.State == "unknown" {
				why = append(why, f.Reason)
			}
		}
		for _, s := range v.Plan {
			steps = append(steps, fmt.Sprintf("%s: %s", s.Step, s.State))
		}
		t.AppendRow(table.Row{v.Name, v.Kind, v.TEE, v.Verdict, strings.Join(why, "\n"), strings.Join(steps, "\n"),
			outcomeText(string(v.Attestation.MAA.State), v.Attestation.MAA.Reason), outcomeText(string(v.Attestation.Evidence.State), v.Attestation.Evidence.Reason),
			lastOf(v.Records)})
		t.AppendSeparator()
	}
	t.Render()
	fmt.Fprintf(out, "%d writes to Azure, %d letters in the inbox, %.1f s\n", run.AzureWrites, run.Inbox, run.Seconds)
}

func outcomeText(state, reason string) string {
	if reason == "" {
		return state
	}
	return state + "\n" + reason
}

func lastOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	n := names[len(names)-1]
	chain, seq, _ := strings.Cut(n, "/")
	return chain[:8] + "…" + chain[max(0, len(chain)-6):] + "/" + strings.TrimSuffix(seq, ".json")
}

// Run implements kong's command.
func (d *devCmd) Run() error { return d.run(os.Stdout, os.Stderr) }
