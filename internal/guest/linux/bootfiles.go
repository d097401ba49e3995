package linux

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"cvmguard/internal/guest"
)

const (
	bootFilesMax = 64        // boot files that are listed, of each place
	fileMax      = 512 << 20 // bytes: larger files are named without digest
	hashedMax    = 2 << 30   // bytes of all boot files: what comes after is named without digest
	assetsMax    = 1 << 20   // bytes of nullboot's list
	variableMax  = 1 << 20   // bytes of one UEFI variable

	efivars    = "sys/firmware/efi/efivars/"
	globalGUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	imageGUID  = "d719b2cb-3d3a-4596-a3bc-dad00e67656f" // of db and dbx
	loaderGUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // systemd's boot loader variables

	sealedKeyFile = esp + "/device/fde/cloudimg-rootfs.sealed-key"
	fatTick       = 2 * time.Second // what a FAT file system rounds times to
)

// staged are where packages install what nullboot seals to and then puts on the ESP.
var staged = []string{"usr/lib/linux/efi", "usr/lib/nullboot/shim"}

func (g *gather) sealedKey() {
	f, _, err := g.file(sealedKeyFile)
	if err == nil {
		g.SealedKey = &f
		return
	}
	if g.espMounted() && errors.Is(err, fs.ErrNotExist) {
		yes := true
		g.SealedKeyAbsent = &yes
	}
	g.missed("sealed key", err)
}

// bootFiles lists what the next boot may load, on the ESP and staged for it, and
// says of each whether the root's key is sealed to it: by the list that nullboot
// keeps of what it seals to. Where nullboot has never run, the key was sealed when
// the disk was made, to what was on the ESP then.
func (g *gather) bootFiles() {
	trusted, err := g.trustedAssets()
	g.missed("nullboot's assets", err)
	known := err == nil
	if known {
		n := len(trusted)
		g.TrustedAssets = &n
	}
	judge := func(f *guest.File, root string) {
		switch {
		case !known || f.SHA256 == "":
		case len(trusted) > 0:
			is := slices.Contains(trusted, root)
			f.Trusted = &is
		case g.SealedKey != nil:
			is := !f.Modified.After(g.SealedKey.Modified.Add(fatTick))
			f.Trusted = &is
		}
	}
	g.ESPKernels = g.efiFiles(esp, judge)
	for _, dir := range staged {
		for _, f := range g.efiFiles(dir, judge) {
			if len(trusted) == 0 && f.SHA256 != "" && known {
				// A package's file has the time of its build: what counts is the ESP's.
				i := slices.IndexFunc(g.ESPKernels, func(e guest.File) bool { return e.SHA256 == f.SHA256 })
				is := i >= 0 && g.ESPKernels[i].Trusted != nil && *g.ESPKernels[i].Trusted
				f.Trusted = &is
			}
			g.StagedAssets = append(g.StagedAssets, f)
		}
	}
}

// efiFiles lists a folder's EFI programs: kernels, shim and the like.
func (g *gather) efiFiles(dir string, judge func(f *guest.File, root string)) []guest.File {
	var names []string
	err := fs.WalkDir(os.DirFS(g.path(dir)), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type().IsRegular() && isEFI(p) && len(names) < bootFilesMax {
			names = append(names, p)
		}
		return nil
	})
	g.missed("/"+dir, err)
	var out []guest.File
	for _, name := range names {
		f, root, err := g.file(dir + "/" + name)
		g.missed("/"+dir+"/"+name, err)
		if err == nil {
			judge(&f, root)
			out = append(out, f)
		}
	}
	return out
}

func isEFI(p string) bool {
	name := strings.ToLower(path.Base(p))
	return strings.HasSuffix(name, ".efi") || strings.HasSuffix(name, ".efi.signed") || strings.HasPrefix(name, "kernel.efi-")
}

// file gives a file's digest, size and time, and the root of its hash tree.
func (g *gather) file(name string) (out guest.File, root string, err error) {
	out = guest.File{Path: "/" + name}
	f, err := os.Open(g.path(name))
	if err != nil {
		return out, "", err
	}
	defer func() { g.missed("/"+name, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return out, "", err
	}
	if !info.Mode().IsRegular() {
		return out, "", fmt.Errorf("/%s is not a file", name)
	}
	out.Size, out.Modified = info.Size(), info.ModTime().UTC().Truncate(time.Second)
	if out.Size > fileMax || g.hashed+out.Size > hashedMax {
		return out, "", nil
	}
	g.hashed += out.Size
	h := sha256.New()
	root, err = treeRoot(io.TeeReader(io.LimitReader(f, fileMax), h))
	if err != nil {
		return out, "", err
	}
	out.SHA256 = hex.EncodeToString(h.Sum(nil))
	return out, root, nil
}

// treeBlock is the block size of nullboot's hash trees, in bytes.
const treeBlock = 4096

// treeRoot is the root, in hex, of the tree by which nullboot knows a file: the
// SHA-256 of each block of 4096 bytes, the last filled up with zeros; these
// digests, 128 to a block, hashed likewise; and so on until one is left. An empty
// file has none.
func treeRoot(r io.Reader) (string, error) {
	var level []byte
	block := make([]byte, treeBlock)
	for {
		clear(block)
		n, err := io.ReadFull(r, block)
		if n > 0 {
			sum := sha256.Sum256(block)
			level = append(level, sum[:]...)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return "", err
		}
	}
	for len(level) > sha256.Size {
		var next []byte
		for part := range slices.Chunk(level, treeBlock) {
			clear(block)
			copy(block, part)
			sum := sha256.Sum256(block)
			next = append(next, sum[:]...)
		}
		level = next
	}
	return hex.EncodeToString(level), nil
}

// trustedAssets are the roots in nullboot's list, none where it has never run.
func (s *System) trustedAssets() ([]string, error) {
	data, err := s.read("var/lib/nullboot/assets", assetsMax)
	if errors.Is(err, guest.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseAssets(data)
}

// parseAssets reads nullboot's list: {"alg":"sha256","hashes":["<base64>", …]}.
func parseAssets(data []byte) ([]string, error) {
	var list struct {
		Alg    string   `json:"alg"`
		Hashes []string `json:"hashes"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("the list is not readable: %w", err)
	}
	if list.Alg != "sha256" {
		return nil, fmt.Errorf("its algorithm %q is not known", list.Alg)
	}
	out := make([]string, 0, len(list.Hashes))
	for _, h := range list.Hashes {
		raw, err := base64.StdEncoding.DecodeString(h)
		if err != nil || len(raw) != sha256.Size {
			return nil, errors.New("an entry is not a SHA-256 in base64")
		}
		out = append(out, hex.EncodeToString(raw))
	}
	return out, nil
}

// policyVariables are the UEFI variables whose content PCR 7 holds and that may be
// written while the system runs.
var policyVariables = []struct{ name, guid string }{{"PK", globalGUID}, {"KEK", globalGUID}, {"db", imageGUID}, {"dbx", imageGUID}}

// bootPolicy compares the secure boot policy's keys and signatures of now with
// those that were measured at this boot: others give another PCR 7 at the next
// one, to which the key must have been sealed since.
func (g *gather) bootPolicy() {
	log, err := g.EventLog()
	if err != nil {
		g.missed("event log", err)
		return
	}
	measured, err := measuredVariables(log)
	if err != nil {
		g.missed("event log", err)
		return
	}
	for _, v := range policyVariables {
		was, found := measured[v.name]
		if !found {
			continue
		}
		changed, sealed := g.variable(efivars+v.name+"-"+v.guid, was)
		switch {
		case v.name == "dbx":
			g.DBXChanged, g.DBXResealed = changed, sealed
		case changed != nil && *changed:
			g.KeysChanged = append(g.KeysChanged, v.name)
			all := sealed != nil && *sealed && (g.KeysResealed == nil || *g.KeysResealed)
			g.KeysResealed = &all
		}
	}
}

// variable says whether a UEFI variable has another value than was measured and,
// where it has, whether the sealed key was written after it. nil: it can't be told.
func (g *gather) variable(name string, measured []byte) (changed, sealed *bool) {
	data, err := g.read(name, variableMax)
	switch {
	case errors.Is(err, guest.ErrAbsent):
		data = nil
	case err != nil:
		g.missed("/"+name, err)
		return nil, nil
	case len(data) < 4:
		g.missed("/"+name, errors.New("it is shorter than its attributes"))
		return nil, nil
	default:
		data = data[4:]
	}
	is := !bytes.Equal(data, measured)
	if !is || g.SealedKey == nil {
		return &is, nil
	}
	if info, err := os.Stat(g.path(name)); err == nil {
		after := g.SealedKey.Modified.After(info.ModTime())
		sealed = &after
	}
	return &is, sealed
}

// bootedKernel is the image that the EFI stub or boot loader says it loaded.
func (g *gather) bootedKernel() string {
	for _, name := range []string{"StubImageIdentifier", "LoaderImageIdentifier"} {
		data, err := g.read(efivars+name+"-"+loaderGUID, textMax)
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
