package estate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf16"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// maxFile bounds a file, in bytes. A body has a few KiB, a page of a listing a few
// hundred times as much.
const maxFile = 32 << 20

// Open reads all files below dir. Its error is about dir itself; what is wrong with
// a file is one of the Troubles.
func Open(dir string) (*Estate, error) {
	const op = "reading a captured estate"
	bad := func(err error) error {
		return &fault.Error{Kind: fault.Invalid, Op: op, Object: dir, Err: err, Next: "give a folder with captured bodies that you may read"}
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, bad(plain(err))
	case !info.IsDir():
		return nil, bad(errors.New("it is not a folder"))
	}
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, bad(plain(err))
	}
	e := empty()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(root, path)
		if relErr != nil {
			return relErr
		}
		switch {
		case err != nil && path == root:
			return err
		case err != nil:
			e.trouble(name, "it can't be read (%v); what is in it counts as not captured", plain(err))
			return nil
		case d.IsDir():
			return nil
		}
		e.files++
		body, why := content(path)
		switch {
		case why != "":
			e.trouble(name, "%s; what is in it counts as not captured", why)
		case looksLikeJSON(name, body):
			e.file(name, body)
		}
		return nil
	})
	if err != nil {
		return nil, bad(plain(err))
	}
	e.finish()
	return e, nil
}

// plain is a file system's error without the path, which the message names.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// content reads one file as UTF-8. Links are followed to files, not to folders.
func content(path string) (body []byte, why string) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Sprintf("it can't be read (%v)", plain(err))
	case info.IsDir():
		return nil, "it is a link to a folder, which isn't followed"
	case !info.Mode().IsRegular():
		return nil, "it is not an ordinary file"
	case info.Size() > maxFile:
		return nil, fmt.Sprintf("it has %d bytes, more than %d; put fewer bodies into one file", info.Size(), maxFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Sprintf("it can't be read (%v)", plain(err))
	}
	defer f.Close()
	body, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Sprintf("it can't be read (%v)", plain(err))
	case len(body) > maxFile:
		return nil, fmt.Sprintf("it has more than %d bytes; put fewer bodies into one file", maxFile)
	}
	return utf8Of(body), ""
}

// utf8Of takes a byte order mark off. Shells on Windows write UTF-16.
func utf8Of(b []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return b[3:]
	case bytes.HasPrefix(b, []byte("\xff\xfe")):
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte("\xfe\xff")):
		order = binary.BigEndian
	default:
		return b
	}
	units := make([]uint16, 0, len(b)/2)
	for i := 2; i+1 < len(b); i += 2 {
		units = append(units, order.Uint16(b[i:]))
	}
	return []byte(string(utf16.Decode(units)))
}

// looksLikeJSON says whether a file is to be read at all: by its name, or because
// it begins like an object or a list. Others (a README) are passed over.
func looksLikeJSON(name string, body []byte) bool {
	trimmed := bytes.TrimSpace(body)
	return strings.EqualFold(filepath.Ext(name), ".json") || len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
}

// file takes in one file's text.
func (e *Estate) file(name string, text []byte) {
	if err := valid(text); err != nil {
		e.trouble(name, "it is not JSON (%v); what is in it counts as not captured", err)
		return
	}
	if e.value(name, text, 0) {
		e.used++
	}
}

// valid gives the decoder's own word on what isn't JSON.
func valid(text []byte) error {
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("it is empty")
	}
	var any json.RawMessage
	return json.Unmarshal(text, &any)
}

func (e *Estate) trouble(file, format string, args ...any) {
	e.troubles = append(e.troubles, Trouble{File: filepath.ToSlash(file), Why: fmt.Sprintf(format, args...)})
}

func empty() *Estate {
	return &Estate{vms: shelf[cvm.VM]{}, disks: shelf[cvm.Disk]{}, sets: shelf[cvm.DES]{}, vaults: shelf[vaultBody]{}, keys: shelf[cvm.Key]{},
		skus: map[string]cvm.TEE{}, lists: shelf[[]cvm.DiskID]{}, versions: map[string][]version{}, deleted: map[string]string{},
		onSet: map[string][]cvm.DiskID{}, pages: map[string]pages{}, views: map[string]view{}}
}
