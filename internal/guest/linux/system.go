package linux

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/guest"
)

const (
	logLines = 20
	textMax  = 4096 // bytes of one text claim
	esp      = "boot/efi"

	keyringPrefix = "ubuntu-fde:" // of the names of keys that the initial RAM disk leaves in root's keyring
)

// System reads a Linux system below Root ("" means "/"). Run runs a program for
// its output; nil runs it with a limit of 10 s.
type System struct {
	Root    string
	Version string // of cvmguard-guest
	Run     func(ctx context.Context, name string, args ...string) ([]byte, error)
}

var _ guest.System = (*System)(nil)

// EventLog is the TCG event log that the firmware left.
func (s *System) EventLog() ([]byte, error) {
	return s.read("sys/kernel/security/tpm0/binary_bios_measurements", 4<<20)
}

// IMALog is the IMA measurement list.
func (s *System) IMALog() ([]byte, error) {
	return s.read("sys/kernel/security/ima/binary_runtime_measurements", 4<<20)
}

// Claims gathers what is there; each thing that can't be read is named.
func (s *System) Claims(ctx context.Context) guest.Claims {
	g := gather{System: s, Claims: guest.Claims{Collector: "cvmguard-guest " + s.Version}}
	g.OSRelease = g.osRelease()
	g.Kernel = g.text("proc/sys/kernel/osrelease")
	g.CommandLine = g.text("proc/cmdline")
	g.mounts()
	g.disks()
	g.GrowpartKeyFile = g.exists("cc_growpart_keydata")
	g.SRKTemplate = g.exists(esp+"/device/fde/tpm2-srk.tmpl", esp+"/tpm2-srk.tmpl")
	if t := g.SRKTemplate; t != nil && !*t && !g.espMounted() {
		g.SRKTemplate = nil
		if _, err := os.Stat(g.path(esp)); err == nil {
			g.missed("/"+esp, errors.New("the EFI system partition is not mounted there"))
		}
	}
	g.NullbootAssets = g.exists("var/lib/nullboot/assets")
	g.sealedKey()
	g.bootFiles()
	g.bootPolicy()
	g.KeyringKey = g.keyringKey()
	g.BootedKernel = g.bootedKernel()
	g.BootNext = g.exists(efivars + "BootNext-" + globalGUID)
	g.CloudInit = g.cloudInit()
	g.NullbootLog = g.nullbootLog(ctx)
	return g.Claims
}

// gather is one run of Claims.
type gather struct {
	*System
	guest.Claims
	mounted map[string][]string // device number "8:1" -> mount points
	hashed  int64               // bytes of boot files that were read
}

// missed names what could not be read; what isn't there is no fault.
func (g *gather) missed(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, guest.ErrAbsent) {
		g.Unread = append(g.Unread, what+": "+err.Error())
	}
}

// espMounted says whether the EFI system partition is mounted. Where it isn't, its
// mount point is an empty folder, of which nothing can be told.
func (g *gather) espMounted() bool {
	for _, at := range g.mounted {
		if slices.Contains(at, "/"+esp) {
			return true
		}
	}
	return false
}

// keyringKey says whether a kernel keyring holds a key of the root's, without which
// nullboot can't seal it anew: by the kernel's list of keys, which has names and no
// values.
func (g *gather) keyringKey() *bool {
	data, err := g.read("proc/keys", 1<<20)
	if err != nil {
		g.missed("/proc/keys", err)
		return nil
	}
	found := false
	for line := range strings.Lines(string(data)) {
		// Serial, flags, uses, expiry, rights, owner, group, type, name.
		f := strings.Fields(line)
		found = found || len(f) > 8 && f[7] == "user" && strings.HasPrefix(f[8], keyringPrefix) && !strings.ContainsAny(f[1], "RDNi")
	}
	return &found
}

func (s *System) path(name string) string {
	root := s.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(root, filepath.FromSlash(name))
}

// read gives a file of at most max bytes, guest.ErrAbsent if it isn't there.
func (s *System) read(name string, max int64) ([]byte, error) {
	f, err := os.Open(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("/%s: %w", name, guest.ErrAbsent)
	}
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("/%s has more than %d bytes", name, max)
	}
	return data, err
}

func (g *gather) text(name string) string {
	data, err := g.read(name, textMax)
	g.missed("/"+name, err)
	return strings.TrimSpace(string(data))
}

// exists says whether one of the paths is there; nil if that can't be told.
func (g *gather) exists(names ...string) *bool {
	found := false
	for _, name := range names {
		_, err := os.Lstat(g.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			g.missed("/"+name, err)
			return nil
		}
		found = found || err == nil
	}
	return &found
}

func (g *gather) osRelease() map[string]string {
	data, err := g.read("etc/os-release", 64<<10)
	g.missed("/etc/os-release", err)
	keep := []string{"ID", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME", "IMAGE_ID", "IMAGE_VERSION", "VARIANT_ID"}
	out := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		k, v, ok := strings.Cut(lines.Text(), "=")
		if ok && slices.Contains(keep, k) {
			out[k] = strings.Trim(v, `"'`)
		}
	}
	return out
}

// mounts reads what is mounted where, and how "/" is.
func (g *gather) mounts() {
	g.mounted = map[string][]string{}
	data, err := g.read("proc/self/mountinfo", 1<<20)
	g.missed("/proc/self/mountinfo", err)
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		dash := slices.Index(f, "-")
		if dash < 5 || len(f) < dash+3 {
			continue
		}
		number, at := f[2], f[4]
		g.mounted[number] = append(g.mounted[number], at)
		if at == "/" {
			g.RootFS, g.RootSource = f[dash+1], f[dash+2]
			crypt := g.onCrypt(path.Join("sys/dev/block", number), 0)
			g.RootEncrypted = &crypt
		}
	}
}

// onCrypt says whether a block device is, or lies on, a dm-crypt mapping.
func (g *gather) onCrypt(dev string, depth int) bool {
	if id, err := g.read(dev+"/dm/uuid", textMax); err == nil && strings.HasPrefix(string(id), "CRYPT-") {
		return true
	}
	slaves, err := os.ReadDir(g.path(dev + "/slaves"))
	if err != nil || depth == 8 {
		return false
	}
	for _, slave := range slaves {
		if g.onCrypt("sys/class/block/"+slave.Name(), depth+1) {
			return true
		}
	}
	return false
}

// disks lists LUKS headers and open dm-crypt mappings.
func (g *gather) disks() {
	devices, err := os.ReadDir(g.path("sys/class/block"))
	if err != nil {
		g.missed("/sys/class/block", err)
		return
	}
	for _, d := range devices {
		name := d.Name()
		if strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ram") || strings.HasPrefix(name, "zram") {
			continue
		}
		if strings.HasPrefix(name, "dm-") {
			g.mapping("sys/class/block/" + name)
			continue
		}
		f, err := os.Open(g.path("dev/" + name))
		if err != nil {
			g.missed("/dev/"+name, err)
			continue
		}
		l, err := readLUKS("/dev/"+name, f)
		g.missed("/dev/"+name, f.Close())
		if err == nil {
			g.LUKS = append(g.LUKS, l)
		} else if !errors.Is(err, errNotLUKS) {
			g.missed("LUKS", err)
		}
	}
}

func (g *gather) mapping(dev string) {
	id, err := g.read(dev+"/dm/uuid", textMax)
	if err != nil || !strings.HasPrefix(string(id), "CRYPT-") {
		return
	}
	m := guest.DMCrypt{Name: g.text(dev + "/dm/name"), UUID: strings.TrimSpace(string(id)), Mounts: g.mounted[g.text(dev+"/dev")]}
	slaves, err := os.ReadDir(g.path(dev + "/slaves"))
	g.missed("/"+dev+"/slaves", err)
	for _, s := range slaves {
		m.Devices = append(m.Devices, "/dev/"+s.Name())
	}
	g.DMCrypt = append(g.DMCrypt, m)
}

// cloudInit is done, error, running, disabled or not-run.
func (g *gather) cloudInit() string {
	data, err := g.read("run/cloud-init/result.json", 1<<20)
	if err == nil {
		var r struct {
			V1 struct {
				Errors []string `json:"errors"`
			} `json:"v1"`
		}
		if json.Unmarshal(data, &r) != nil || len(r.V1.Errors) > 0 {
			return "error"
		}
		return "done"
	}
	g.missed("cloud-init", err)
	for file, state := range map[string]string{"run/cloud-init/disabled": "disabled", "run/cloud-init/status.json": "running"} {
		if there := g.exists(file); there != nil && *there {
			return state
		}
	}
	return "not-run"
}

// nullbootLog is the last lines that nullboot wrote to the journal.
func (g *gather) nullbootLog(ctx context.Context) []string {
	run := g.Run
	if run == nil {
		run = runProgram
	}
	out, err := run(ctx, "journalctl", "--no-pager", "--quiet", "--output=short-iso", "--identifier=nullbootctl", fmt.Sprintf("--lines=%d", logLines))
	if err != nil {
		if !errors.Is(err, exec.ErrNotFound) {
			g.missed("nullboot log", err)
		}
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "-- ") {
			continue
		}
		if len(line) > 300 {
			line = line[:300]
		}
		lines = append(lines, line)
	}
	if len(lines) > logLines {
		lines = lines[len(lines)-logLines:]
	}
	return lines
}

func runProgram(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return exec.CommandContext(ctx, name, args...).Output()
}
