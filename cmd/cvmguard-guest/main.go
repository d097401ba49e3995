// Command cvmguard-guest runs inside a VM and collects the evidence that
// cvmguard judges. It is static, needs root, writes nothing but the bundle, and
// never prints a nonce or a SAS.
//
//	cvmguard-guest collect --nonce HEX --out FILE    for trying out
//	cvmguard-guest collect --from-env                under Run Command
//	cvmguard-guest push --url https://APP            where an agent runs it
//	cvmguard-guest version
//
// Exit status: 0 done, 1 it could not be collected or delivered, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"cvmguard/internal/guest"
	"cvmguard/internal/guest/linux"
)

// version is set by the linker; without that the module's own is shown.
var version = ""

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr, realPlatform)
	stop()
	os.Exit(status)
}

const usage = `cvmguard-guest collects the evidence of an Azure VM.

  cvmguard-guest collect [--nonce HEX] [--vm-id GUID] [--out FILE|-]
        write a bundle; without --nonce a random one is used, which no verifier knows
  cvmguard-guest collect --from-env
        take NONCE, VM_ID and OUT_URL (an append blob's SAS) from the environment
  cvmguard-guest push --url https://APP
        ask cvmguard for a nonce for this VM, collect, and send it the bundle
  cvmguard-guest version
`

// usageError is a fault in how the command was called.
type usageError string

func (e usageError) Error() string { return string(e) }

// platform is where the command runs: a real VM, or a test's.
type platform struct {
	options func(log *slog.Logger) (o guest.Options, closeAll func() error, err error)
	client  *http.Client
	sleep   func(context.Context, time.Duration) error
}

func realPlatform() platform {
	return platform{
		client: &http.Client{Timeout: 60 * time.Second},
		options: func(log *slog.Logger) (guest.Options, func() error, error) {
			tpm, closeTPM, err := linux.OpenTPM(linux.DefaultTPM)
			if err != nil {
				return guest.Options{}, nil, err
			}
			return guest.Options{TPM: tpm, IMDS: &linux.IMDS{}, System: &linux.System{Version: ownVersion()}, Log: log}, closeTPM, nil
		},
	}
}

func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer, on func() platform) int {
	err := command(ctx, args, env, stdout, stderr, on)
	if err == nil {
		return 0
	}
	status := exitFailed
	if errors.As(err, new(usageError)) {
		status = exitUsage
	}
	if _, werr := fmt.Fprintf(stderr, "cvmguard-guest: %v\n", err); werr != nil {
		return exitFailed
	}
	return status
}

func command(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer, on func() platform) error {
	if len(args) == 0 {
		return usageError("no command given\n\n" + usage)
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	switch args[0] {
	case "collect":
		return collect(ctx, args[1:], env, stdout, log, on())
	case "push":
		return push(ctx, args[1:], log, on())
	case "version", "--version":
		_, err := fmt.Fprintln(stdout, "cvmguard-guest", ownVersion())
		return err
	case "help", "-h", "--help":
		_, err := io.WriteString(stdout, usage)
		return err
	}
	return usageError(fmt.Sprintf("%q is not a command: collect, push, version\n\n%s", args[0], usage))
}

// flags parses a command's flags, without a word of its own.
func flags(name string, define func(*flag.FlagSet), args []string) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	define(f)
	if err := f.Parse(args); err != nil {
		return usageError(fmt.Sprintf("%s: %v\n\n%s", name, err, usage))
	}
	if f.NArg() > 0 {
		return usageError(fmt.Sprintf("%s: unexpected %q\n\n%s", name, f.Arg(0), usage))
	}
	return nil
}

func collect(ctx context.Context, args []string, env func(string) string, stdout io.Writer, log *slog.Logger, p platform) error {
	var nonce, vmID, out string
	var fromEnv bool
	err := flags("collect", func(f *flag.FlagSet) {
		f.StringVar(&nonce, "nonce", "", "")
		f.StringVar(&vmID, "vm-id", "", "")
		f.StringVar(&out, "out", "-", "")
		f.BoolVar(&fromEnv, "from-env", false, "")
	}, args)
	if err != nil {
		return err
	}
	var outURL string
	if fromEnv {
		if nonce != "" || vmID != "" || out != "-" {
			return usageError("collect: --from-env takes all from the environment, no other flag goes with it")
		}
		nonce, vmID, outURL = env("NONCE"), env("VM_ID"), env("OUT_URL")
		var missing []string
		for name, value := range map[string]string{"NONCE": nonce, "VM_ID": vmID, "OUT_URL": outURL} {
			if value == "" {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return usageError("collect --from-env: not set: " + strings.Join(missing, ", "))
		}
	}
	value, err := nonceOrRandom(nonce)
	if err != nil {
		return usageError("collect: " + err.Error())
	}
	var bundle []byte
	err = withPlatform(p, log, func(o guest.Options) error {
		o.Nonce, o.VMUniqueID = value, vmID
		if vmID == "" {
			if o.VMUniqueID, err = o.IMDS.VMID(ctx); err != nil {
				return fmt.Errorf("asking for this VM's id: %w", err)
			}
		}
		bundle, err = guest.Collect(ctx, o)
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case fromEnv:
		if err := (guest.Sender{Client: p.client, Sleep: p.sleep}).Append(ctx, outURL, bundle); err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "evidence of %d bytes delivered\n", len(bundle))
		return err
	case out == "-":
		_, err = stdout.Write(append(bundle, '\n'))
		return err
	}
	if err := os.WriteFile(out, bundle, 0o600); err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	return nil
}

// withPlatform opens the platform for f and closes it after.
func withPlatform(p platform, log *slog.Logger, f func(o guest.Options) error) (err error) {
	o, closeAll, err := p.options(log)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := closeAll(); err == nil && cerr != nil {
			err = fmt.Errorf("closing the TPM: %w", cerr)
		}
	}()
	if p.sleep != nil {
		o.Sleep = p.sleep
	}
	return f(o)
}

func push(ctx context.Context, args []string, log *slog.Logger, p platform) error {
	var base string
	if err := flags("push", func(f *flag.FlagSet) { f.StringVar(&base, "url", "", "") }, args); err != nil {
		return err
	}
	if !strings.HasPrefix(base, "https://") && !strings.HasPrefix(base, "http://") {
		return usageError(fmt.Sprintf("push: --url is %q, want cvmguard's address, e.g. https://cvmguard.azurewebsites.net", base))
	}
	return withPlatform(p, log, func(o guest.Options) error {
		return pushFrom(ctx, base, o, guest.Sender{Client: p.client, Sleep: p.sleep})
	})
}

func pushFrom(ctx context.Context, base string, o guest.Options, sender guest.Sender) error {
	ids, ok := o.IMDS.(guest.ResourceIDer)
	if !ok {
		return errors.New("push: the metadata service here gives no ARM id")
	}
	armID, err := ids.ResourceID(ctx)
	if err != nil {
		return fmt.Errorf("asking for this VM's ARM id: %w", err)
	}
	vmID, err := o.IMDS.VMID(ctx)
	if err != nil {
		return fmt.Errorf("asking for this VM's id: %w", err)
	}
	issued, err := sender.Issue(ctx, base, armID)
	if err != nil {
		return err
	}
	if issued.VMUniqueID != "" && !strings.EqualFold(issued.VMUniqueID, vmID) {
		return fmt.Errorf("push: cvmguard knows this VM as vmId %q, the metadata service says %q; was it created anew? Try again in a few minutes", issued.VMUniqueID, vmID)
	}
	o.Nonce, o.VMUniqueID = issued.Nonce, vmID
	bundle, err := guest.Collect(ctx, o)
	if err != nil {
		return err
	}
	if err := sender.Push(ctx, base, issued.Nonce, bundle); err != nil {
		return err
	}
	o.Log.Info("evidence delivered", "bytes", len(bundle))
	return nil
}
