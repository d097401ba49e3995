package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// commands is the command line. Each command is a struct whose Run method gets
// the console; what it gives back is told by console.finish.
type commands struct {
	Check     checkCmd      `cmd:"" help:"Judge VMs straight from Azure. Changes nothing, needs no storage."`
	Rerun     rerunCmd      `cmd:"" help:"Have the function app look at VMs again."`
	VMs       vmsCmd        `cmd:"" name:"vms" help:"List what the function app knows of VMs, or show one."`
	Fresh     freshCmd      `cmd:"" help:"Ask whether a VM is compliant and was attested lately."`
	Brakes    brakesCmds    `cmd:"" help:"Show what holds steps back; reset the breaker, release the canary, resume a step."`
	Verify    verifyCmds    `cmd:"" help:"Verify the ledger offline."`
	Policy    policyCmds    `cmd:"" help:"Show, check and explain policy documents."`
	Key       keyCmds       `cmd:"" help:"Draft, compare and judge release policies; list what hangs on a key."`
	Rebuild   rebuildCmd    `cmd:"" help:"Write table rows anew from the ledger's records."`
	Rotate    rotateCmds    `cmd:"" help:"Rotate the key of a disk encryption set, by a plan that a person approves."`
	Recreate  recreateCmds  `cmd:"" help:"Make a VM anew as a confidential one, by a plan that a person approves."`
	Undo      undoCmd       `cmd:"" help:"Plan the undoing of a step that cvmguard took."`
	Operation operationCmds `cmd:"" help:"List, show, approve, pause, resume and stop plans."`
	Version   versionCmd    `cmd:"" help:"Print the version."`
	Serve     serveCmd      `cmd:"" help:"Be the custom handler that the Functions host starts."`

	devCommands
}

const about = `cvmguard guards Azure confidential VMs: what they are, how their disks are encrypted and under whose key, and whether they prove it.

Exit status: 0 compliant, or done; 1 not compliant, unknown, or refused; 2 it could not run (arguments, settings, no access).
Results are on stdout, everything else on stderr.`

// run is the command line as a function: its result is the exit status.
func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second interrupt ends the process
	c := &console{ctx: ctx, getenv: getenv, stdout: stdout, stderr: stderr, now: time.Now}
	helped := false
	parser, err := kong.New(&commands{}, kong.Name("cvmguard"), kong.Description(about),
		kong.Writers(c, stderr), kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoAppDescFormat: true}),
		kong.Bind(c))
	if err != nil {
		return c.finish(err)
	}
	parsed, err := parser.Parse(args)
	switch {
	case helped: // kong goes on after it has printed the help
		return c.finish(nil)
	case err != nil:
		return c.finish(usage(args, err))
	}
	return c.finish(parsed.Run())
}

// usage names the command in a complaint about arguments, and says where help is.
func usage(args []string, err error) error {
	var command []string
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		for n := parse.Context.Selected(); n != nil && n.Parent != nil; n = n.Parent {
			command = append([]string{n.Name}, command...)
		}
	}
	name := strings.Join(command, " ")
	text := strings.TrimSuffix(err.Error(), ".")
	if name == "" {
		if len(args) == 0 {
			text = "no command was given"
		}
		return errors.New(text + "; see cvmguard --help")
	}
	return errors.New(name + ": " + text + "; see cvmguard " + name + " --help")
}

// output is the flag of commands that print results.
type output struct {
	Output string `short:"o" enum:"table,json" default:"table" placeholder:"FORMAT" help:"table for people, json for programs."`
}

func (o output) json() bool { return o.Output == "json" }

type serveCmd struct{}

// Help is kong's.
func (serveCmd) Help() string {
	return "The host gives the port in FUNCTIONS_CUSTOMHANDLER_PORT. Settings that are missing or contradict each other are all listed, with the faults of the policy document that they name, and the exit status is 2. A variable that begins with CVMGUARD_ and is no setting is warned of."
}

// Run serves until a signal.
func (serveCmd) Run(c *console) error {
	if status := serve(c.getenv, os.Environ(), c.stderr); status != exitOK {
		return exitStatus(status)
	}
	return nil
}
