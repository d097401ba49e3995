package linux

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
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
	"unicode/utf16"

	"cvmguard/internal/guest"
)

const (
	espKernelsMax = 64        // boot files on the ESP that are listed
	fileMax       = 512 << 20 // bytes: larger files are named without digest
	logLines      = 20
	textMax       = 4096 // bytes of one text claim
	esp           = "boot/efi"
	loaderGUID    = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // systemd's boot loader variables
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
	g.NullbootAssets = g.exists("var/lib/nullboot/assets")
	if f, err := g.file(esp + "/device/fde/cloudimg-rootfs.sealed-key"); err == nil {
		g.SealedKey = &f
	} else {
		g.missed("sealed key", err)
	}
	g.espKernels()
	g.BootedKernel = g.bootedKernel()
	g.CloudInit = g.cloudInit()
	g.NullbootLog = g.nullbootLog(ctx)
	return g.Claims
}

// gather is one run of Claims.
type gather struct {
	*System
	guest.Claims
	mounted map[string][]string // device number "8:1" -> mount points
}

// missed names what could not be read; what isn't there is no fault.
func (g *gather) missed(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, guest.ErrAbsent) {
		g.Unread = append(g.Unread, what+": "+err.Error())
	}
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

// file gives a file's digest, size and time.
func (g *gather) file(name string) (guest.File, error) {
	out := guest.File{Path: "/" + name}
	f, err := os.Open(g.path(name))
	if err != nil {
		return out, err
	}
	defer func() { g.missed("/"+name, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return out, err
	}
	out.Size, out.Modified = info.Size(), info.ModTime().UTC().Truncate(time.Second)
	if out.Size > fileMax {
		return out, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return out, err
	}
	out.SHA256 = hex.EncodeToString(h.Sum(nil))
	return out, nil
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

// espKernels lists the boot files on the ESP.
func (g *gather) espKernels() {
	var names []string
	err := fs.WalkDir(os.DirFS(g.path(esp)), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && strings.EqualFold(path.Ext(p), ".efi") && len(names) < espKernelsMax {
			names = append(names, p)
		}
		return nil
	})
	g.missed("/"+esp, err)
	for _, name := range names {
		f, err := g.file(esp + "/" + name)
		g.missed("/"+esp+"/"+name, err)
		if err == nil {
			g.ESPKernels = append(g.ESPKernels, f)
		}
	}
}

// bootedKernel is the image that the EFI stub or boot loader says it loaded.
func (g *gather) bootedKernel() string {
	for _, name := range []string{"StubImageIdentifier", "LoaderImageIdentifier"} {
		data, err := g.read("sys/firmware/efi/efivars/"+name+"-"+loaderGUID, textMax)
		if err != nil || len(data) < 4 {
			g.missed(name, err)
			continue
		}
		var units []uint16
		for at := 4; at+1 < len(data); at += 2 { // after 4 bytes of attributes, UTF-16LE
			units = append(units, binary.LittleEndian.Uint16(data[at:]))
		}
		return strings.TrimRight(string(utf16.Decode(units)), "\x00")
	}
	return ""
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
