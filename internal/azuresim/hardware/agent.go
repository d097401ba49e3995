package hardware

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"cvmguard/internal/guest"
)

const maxTool = 64 << 20

// Guest is a machine's operating system with the VM agent in it: it carries out
// the script that a managed Run Command brings. It satisfies azuresim.Guest and
// azuresim.Booter.
//
// It doesn't run the script; it does what the script would: check the parameters,
// fetch the collector by TOOL_URL, compare its SHA-256 with the one in the
// script's text, and then, in place of the binary, run guest.Collect in-process
// against the machine and write the bundle to OUT_URL. A script that names no
// digest fails as the real one would.
type Guest struct {
	// Machine is what evidence is read from. Required.
	Machine *Machine
	// Client fetches the tool and writes the bundle. Nil is http.DefaultClient.
	Client *http.Client
	// Sleep waits, for the paravisor and between tries. Nil returns at once.
	Sleep func(ctx context.Context, d time.Duration) error

	mu   sync.Mutex
	last []byte // the bundle sent last, for FaultOldNonce
}

// Boot restarts the machine.
func (g *Guest) Boot() { g.Machine.Restart() }

// UpdateKernel is Machine.UpdateKernel.
func (g *Guest) UpdateKernel(resealed bool) { g.Machine.UpdateKernel(resealed) }

var digestInScript = regexp.MustCompile(`\b[0-9a-f]{64}\b`)

// Run carries a script out and gives its exit status and output.
func (g *Guest) Run(ctx context.Context, env map[string]string, script string) (exit int, stdout, stderr string) {
	switch {
	case g.Machine.has(FaultHung), g.Machine.LockedOut():
		<-ctx.Done()
		return 137, "", "killed\n"
	case g.Machine.has(FaultAgentFails):
		return 1, "", "cvmguard: the simulated agent fails\n"
	}
	for _, name := range []string{"NONCE", "TOOL_URL", "OUT_URL", "VM_ID"} {
		if env[name] == "" {
			return 2, "", fmt.Sprintf("cvmguard: parameter %s is not set\n", name)
		}
	}
	if err := g.fetch(ctx, env["TOOL_URL"], digestInScript.FindString(script)); err != nil {
		return 1, "", fmt.Sprintf("cvmguard: %v\n", err)
	}
	bundle, err := g.collect(ctx, env["NONCE"], env["VM_ID"])
	if err != nil {
		return 1, "", fmt.Sprintf("cvmguard-guest: %v\n", err)
	}
	sender := guest.Sender{Client: g.client(), Sleep: g.sleep}
	if err := sender.Append(ctx, env["OUT_URL"], bundle); err != nil {
		return 1, "", fmt.Sprintf("cvmguard-guest: %v\n", err)
	}
	return 0, fmt.Sprintf("cvmguard-guest: %d bytes of evidence delivered\n", len(bundle)), ""
}

// Push has the guest ask for a nonce by itself and push its evidence to the app
// at base, as `cvmguard-guest push` does.
func (g *Guest) Push(ctx context.Context, base string) error {
	sender := guest.Sender{Client: g.client(), Sleep: g.sleep}
	issued, err := sender.Issue(ctx, base, g.Machine.cfg.ResourceID)
	if err != nil {
		return err
	}
	bundle, err := g.Collect(ctx, issued.Nonce, g.Machine.cfg.VMUniqueID)
	if err != nil {
		return err
	}
	return sender.Push(ctx, base, issued.Nonce, bundle)
}

// Collect is one bundle of the machine for a nonce, under the machine's faults.
func (g *Guest) Collect(ctx context.Context, nonce [32]byte, vmUniqueID string) ([]byte, error) {
	source := g.Machine
	if g.Machine.has(FaultOtherVM) {
		var err error
		if source, err = g.Machine.twin(); err != nil {
			return nil, err
		}
	}
	if g.Machine.has(FaultOldNonce) {
		g.mu.Lock()
		last := g.last
		g.mu.Unlock()
		if last != nil {
			return last, nil
		}
		if _, err := rand.Read(nonce[:]); err != nil {
			return nil, fmt.Errorf("drawing a nonce that nobody issued: %w", err)
		}
	}
	bundle, err := guest.Collect(ctx, guest.Options{
		TPM: source, IMDS: source, System: source, Nonce: nonce, VMUniqueID: vmUniqueID,
		Sleep: g.sleep, Clock: g.Machine.cfg.Clock,
	})
	if err == nil {
		g.mu.Lock()
		g.last = bundle
		g.mu.Unlock()
	}
	return bundle, err
}

func (g *Guest) collect(ctx context.Context, nonceText, vmID string) ([]byte, error) {
	nonce, err := guest.ParseNonce(nonceText)
	if err != nil {
		return nil, err
	}
	return g.Collect(ctx, nonce, vmID)
}

// fetch downloads the tool and refuses one with another digest. Errors don't show
// the URL, which carries a signature.
func (g *Guest) fetch(ctx context.Context, toolURL, want string) error {
	if want == "" {
		return errors.New("the script names no SHA-256 for the collector: not run")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, toolURL, nil)
	if err != nil {
		return errors.New("fetching the collector failed: the address is not a URL")
	}
	resp, err := g.client().Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return fmt.Errorf("fetching the collector failed: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("fetching the collector failed: storage answered %d", resp.StatusCode)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(resp.Body, maxTool)); err != nil {
		return fmt.Errorf("fetching the collector failed: %w", err)
	}
	if hex.EncodeToString(h.Sum(nil)) != want {
		return errors.New("the collector has another SHA-256 than expected: not run")
	}
	return nil
}

func (g *Guest) client() *http.Client {
	if g.Client == nil {
		return http.DefaultClient
	}
	return g.Client
}

func (g *Guest) sleep(ctx context.Context, d time.Duration) error {
	if g.Sleep == nil {
		return ctx.Err()
	}
	return g.Sleep(ctx, d)
}
