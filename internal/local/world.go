package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/azuresim"
	"cvmguard/internal/azuresim/hardware"
	"cvmguard/internal/config"
	"cvmguard/internal/devhost"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// Options of a world. Dist, Infra and Azurite are required.
type Options struct {
	Dist    string // the staged function app
	Infra   string // for the roles: infra/role*.json
	Azurite string // its script, node_modules/azurite/dist/src/azurite.js

	Mode     string            // observe or enforce
	Policy   string            // path of a policy document, "" for the scenes' own
	Edits    [][2]string       // of the scenes' own policy: each first text, which it holds once, becomes the second
	Settings map[string]string // beside and over the world's own, by name
	Events   bool              // simulated Azure publishes its own events, our writes' echoes too

	Operation  time.Duration // how long long-running operations take
	Latency    time.Duration // of every call to the simulated Azure
	Ahead      time.Duration // how far away the next look must be for the loop to be at rest; 0: 1 min
	HidingTime time.Duration // of a message under work, 0: 20 s; the host's own is 10 min
	Output     io.Writer     // the handler's lines; nil: dropped
	Log        *slog.Logger  // of simulator and host; nil: dropped
}

// Settings of the local world: the times are seconds where a deployment's are
// minutes, so that a person sees the end.
func localSettings() map[string]string {
	return map[string]string{
		"CVMGUARD_LEASE": "20s", "CVMGUARD_TURN_TIMEOUT": "15s", "CVMGUARD_MARGIN": "1s", "CVMGUARD_TRANSITION_WAIT": "2s",
		"CVMGUARD_MAX_POLL": "5s", "CVMGUARD_SLOW_PACE": "10m", "CVMGUARD_CACHE_TTL": "5s", "CVMGUARD_LOG_LEVEL": "info",
		"AzureFunctionsJobHost__extensions__queues__visibilityTimeout": "00:00:01",
	}
}

// World is a running local world.
type World struct {
	Sim     *azuresim.Sim
	MAA     *hardware.MAA
	Storage *azure.Client // the world's own view of storage, not the handler's
	Vendors *hardware.Vendors

	opts    Options
	azurite *Azurite
	dir     string
	env     []string
	topic   azuresim.Topic

	mu     sync.Mutex // guards what follows
	host   *devhost.Host
	guests map[string]*hardware.Guest // by guestKey
	hosts  sync.WaitGroup
	stop   context.CancelFunc
}

// Start makes a world: storage, Azure and its guests. The host is started by
// StartHost.
func Start(ctx context.Context, o Options) (w *World, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	// The handler's working folder is dist/, not this process's.
	if o.Dist, err = filepath.Abs(o.Dist); err != nil {
		return nil, err
	}
	if o.Policy != "" {
		if o.Policy, err = filepath.Abs(o.Policy); err != nil {
			return nil, err
		}
	}
	w = &World{opts: o, guests: map[string]*hardware.Guest{}}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "cvmguard-local-"); err != nil {
		return w, err
	}
	if w.azurite, err = StartAzurite(ctx, o.Azurite); err != nil {
		return w, err
	}
	role, err := readRole(o.Infra, o.Mode)
	if err != nil {
		return w, err
	}
	if w.Sim, err = azuresim.Start(azuresim.Options{Role: role, EmitEvents: o.Events, Log: o.Log}); err != nil {
		return w, fmt.Errorf("starting the simulated Azure: %w", err)
	}
	w.Sim.SetKnobs(func(k *azuresim.Knobs) { k.Operation, k.Latency = o.Operation, o.Latency })
	if err := w.equip(); err != nil {
		return w, err
	}
	return w, w.settings()
}

// readRole joins the roles: what the app may always do, what it may do in mode
// enforce, and what a deployment may grant on top.
func readRole(infra, mode string) (*azuresim.Role, error) {
	all := &azuresim.Role{}
	files := []string{"role-read.json", "role.json", "role-remedy.json", "role-access-policies.json", "role-recreate.json"}
	if mode == policy.ModeObserve {
		files = files[:1] // as the deployment does it
	}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(infra, name))
		if err != nil {
			return nil, fmt.Errorf("reading the role: %w", err)
		}
		r, err := azuresim.ParseRole(b)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		all.Actions = append(all.Actions, r.Actions...)
		all.DataActions = append(all.DataActions, r.DataActions...)
	}
	return all, nil
}

// equip gives the simulated Azure its hardware: vendors' roots, attestation
// service, a guest in each VM.
func (w *World) equip() (err error) {
	if w.Vendors, err = hardware.SharedVendors(); err != nil {
		return fmt.Errorf("making the simulated vendors: %w", err)
	}
	if err := os.Mkdir(w.rootsDir(), 0o700); err != nil {
		return err
	}
	if err := w.Vendors.WriteRoots(w.rootsDir()); err != nil {
		return fmt.Errorf("writing the simulated roots: %w", err)
	}
	if w.MAA, err = hardware.NewMAA(w.Vendors, hardware.MAAOptions{}); err != nil {
		return fmt.Errorf("making the simulated attestation service: %w", err)
	}
	w.Sim.SetMAA(w.MAA)
	w.Sim.SetGuests(w.newGuest)
	return os.WriteFile(w.caFile(), w.Sim.CAPEM(), 0o600)
}

func (w *World) rootsDir() string { return filepath.Join(w.dir, "roots") }
func (w *World) caFile() string   { return filepath.Join(w.dir, "ca.pem") }

// newGuest puts a guest on a machine of its own into a VM, once.
func (w *World) newGuest(vm azuresim.VMInfo) azuresim.Guest {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := guestKey(vm)
	if g := w.guests[key]; g != nil {
		return g
	}
	kind := hardware.TrustedLaunch
	switch vm.TEE {
	case "SNP":
		kind = hardware.SNP
	case "TDX":
		kind = hardware.TDX
	}
	m, err := hardware.NewMachine(w.Vendors, hardware.Config{Kind: kind, VMUniqueID: vm.UniqueID, ResourceID: vm.ID,
		SecureBootOff: !vm.SecureBoot, Stateless: vm.Encryption == "NonPersistedTPM", PlainRoot: vm.Encryption != "DiskWithVMGuestState"})
	if err != nil {
		w.opts.Log.Error("a simulated machine could not be made", "vm", vm.ID, "error", err)
		return nil
	}
	g := &hardware.Guest{Machine: m, Client: http.DefaultClient}
	w.guests[key] = g
	return g
}

// guestKey tells VMs apart, one of the same name that was created anew too.
func guestKey(vm azuresim.VMInfo) string {
	return strings.ToLower(vm.ID) + " " + strings.ToLower(vm.UniqueID)
}

// Guest is the simulated guest in a VM, with its machine; nil for a VM that isn't
// there.
func (w *World) Guest(vmID string) *hardware.Guest {
	for _, vm := range w.Sim.VMs() {
		if strings.EqualFold(vm.ID, vmID) && w.newGuest(vm) != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.guests[guestKey(vm)]
		}
	}
	return nil
}

// settings makes the handler's environment and the world's own client of storage.
func (w *World) settings() error {
	all := localSettings()
	all["FUNCTIONS_WORKER_RUNTIME"] = "custom"
	all["AzureWebJobsStorage"] = w.azurite.Connection()
	all["CVMGUARD_DEV_AZURE"], all["CVMGUARD_DEV_CA"], all["CVMGUARD_DEV_ROOTS"] = w.Sim.Addr(), w.caFile(), w.rootsDir()
	if w.opts.Mode != "" {
		all["CVMGUARD_MODE"] = w.opts.Mode
	}
	if w.opts.Policy == "" {
		path, err := w.scenePolicy()
		if err != nil {
			return err
		}
		w.opts.Policy = path
	}
	all["CVMGUARD_POLICY"] = w.opts.Policy
	maps.Copy(all, w.opts.Settings)
	cfg, err := config.LoadWithoutStorage(func(k string) string { return all[k] })
	if err != nil {
		return fmt.Errorf("the local world's settings: %w", err)
	}
	full, err := config.Load(func(k string) string { return all[k] })
	if err != nil {
		return fmt.Errorf("the local world's settings: %w", err)
	}
	cfg.Storage = full.Storage
	w.Storage = azure.New(cfg, w.opts.Log)
	w.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + w.dir}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		w.env = append(w.env, k+"="+all[k])
	}
	w.env = append(w.env, w.Sim.IdentityEnv()...)
	return nil
}

// StartHost starts the host over dist/ and waits until its handler answers. A host
// that stops (after three faults of the handler) is started again, as the
// platform does.
func (w *World) StartHost(ctx context.Context) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	h, err := w.newHost()
	if err != nil {
		stop()
		return err
	}
	w.mu.Lock()
	w.host, w.stop = h, stop
	w.mu.Unlock()
	w.hosts.Add(1)
	// A handler that never answers and ends three times has something to say.
	wait, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("it does not answer within 30 s"))
	defer cancel()
	wait, giveUp := context.WithCancelCause(wait)
	defer giveUp(nil)
	go w.keepHost(run, h, giveUp)
	if err := h.WaitReady(wait); err != nil {
		if cause := context.Cause(wait); cause != nil {
			err = cause
		}
		return fmt.Errorf("starting the handler: %w", err)
	}
	return nil
}

// platformPause is how long the platform takes to start a host that stopped.
const platformPause = 100 * time.Millisecond

func (w *World) newHost() (*devhost.Host, error) {
	h, err := devhost.New(devhost.Options{Root: w.opts.Dist, Env: w.env, Queues: hostQueues{w.Storage.QueueRaw()}, Log: w.opts.Log,
		Stdout: w.opts.Output, Stderr: w.opts.Output, HidingTime: orElse(w.opts.HidingTime, 20*time.Second),
		MaxPolling: 25 * time.Millisecond, KillGrace: 6 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("starting the host: %w", err)
	}
	return h, nil
}

func (w *World) keepHost(ctx context.Context, h *devhost.Host, stopped context.CancelCauseFunc) {
	defer w.hosts.Done()
	for {
		err := h.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, devhost.ErrHostStopped) {
			w.opts.Log.Error("the host ended", "error", err)
			return
		}
		stopped(err) // heard only by who waits for the first answer
		select {
		case <-ctx.Done():
		case <-time.After(platformPause):
		}
	}
}

// Host is the host that runs now.
func (w *World) Host() *devhost.Host {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.host
}

// Env is what a command of cvmguard needs to work in this world: the simulated
// Azure, an identity in it, and storage.
func (w *World) Env() []string {
	out := []string{}
	for _, e := range w.env {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "CVMGUARD_DEV_") || strings.HasPrefix(name, "IDENTITY_") || name == "AzureWebJobsStorage" || name == "CVMGUARD_POLICY" {
			out = append(out, e)
		}
	}
	return out
}

// API is the base URL of the app's HTTP functions.
func (w *World) API() string { return w.Host().URL() + "/api" }

// Chains, Tables and the rest of storage, for readers.
func (w *World) Chains() ledger.Chains { return ledger.Chains{Blobs: w.Storage.Blobs()} }

// Close ends everything.
func (w *World) Close() {
	w.mu.Lock()
	stop, host := w.stop, w.host
	w.mu.Unlock()
	if stop != nil {
		stop()
		w.hosts.Wait()
		host.Close()
	}
	if w.Sim != nil {
		if err := w.Sim.Close(); err != nil {
			w.opts.Log.Warn("closing the simulated Azure", "error", err)
		}
	}
	if w.azurite != nil {
		w.azurite.Close()
	}
	if w.dir != "" {
		if err := os.RemoveAll(w.dir); err != nil {
			w.opts.Log.Warn("removing the world's folder", "error", err)
		}
	}
}

func orElse(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}
