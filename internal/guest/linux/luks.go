package linux

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"cvmguard/internal/guest"
)

const (
	luksBinary  = 4096    // bytes of LUKS2's binary header
	luksMaxSize = 4 << 20 // the largest header that LUKS2 allows
)

var luksMagic = []byte("LUKS\xba\xbe")

// errNotLUKS says that a device doesn't start with a LUKS header.
var errNotLUKS = errors.New("no LUKS header")

// readLUKS reads a LUKS header's facts. The header may hold a key in clear (an
// image that never finished its first boot has one in a token): nothing of its
// text leaves this function but the names and numbers picked here.
func readLUKS(device string, r io.ReaderAt) (guest.LUKS, error) {
	out := guest.LUKS{Device: device}
	head := make([]byte, luksBinary)
	if n, err := r.ReadAt(head, 0); n < 8 || (err != nil && !errors.Is(err, io.EOF)) {
		return out, fmt.Errorf("%s: %w", device, errors.Join(errNotLUKS, err))
	}
	if !bytes.HasPrefix(head, luksMagic) {
		return out, errNotLUKS
	}
	out.Version = int(binary.BigEndian.Uint16(head[6:]))
	if out.Version == 1 {
		out.Cipher = cstring(head[8:40]) + "-" + cstring(head[40:72])
		out.UUID = cstring(head[168:208])
		return out, nil
	}
	size := binary.BigEndian.Uint64(head[8:])
	if out.Version != 2 || size <= luksBinary || size > luksMaxSize {
		return out, fmt.Errorf("%s: LUKS version %d with a header of %d bytes is not known", device, out.Version, size)
	}
	out.Label, out.UUID = cstring(head[24:72]), cstring(head[168:208])
	all := make([]byte, size)
	if _, err := r.ReadAt(all, 0); err != nil {
		return out, fmt.Errorf("%s: reading the LUKS header: %w", device, err)
	}
	sum := sha256.Sum256(all)
	out.HeaderSHA256 = hex.EncodeToString(sum[:])
	text, _, _ := bytes.Cut(all[luksBinary:], []byte{0})
	var area struct {
		Keyslots map[string]struct {
			KDF struct {
				Type string `json:"type"`
			} `json:"kdf"`
		} `json:"keyslots"`
		Tokens map[string]struct {
			Type string `json:"type"`
		} `json:"tokens"`
		Segments map[string]struct {
			Encryption string `json:"encryption"`
		} `json:"segments"`
	}
	if json.Unmarshal(text, &area) != nil {
		// Its error could quote the header's text.
		return out, fmt.Errorf("%s: the LUKS header's JSON is not readable", device)
	}
	for _, slot := range byNumber(area.Keyslots) {
		out.Keyslots = append(out.Keyslots, slot)
		out.KeyslotKDFs = append(out.KeyslotKDFs, area.Keyslots[slot].KDF.Type)
	}
	for _, n := range byNumber(area.Tokens) {
		out.Tokens = append(out.Tokens, area.Tokens[n].Type)
	}
	out.Cipher = area.Segments["0"].Encryption
	return out, nil
}

// byNumber gives a map's keys in the order of their numbers.
func byNumber[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		if errX == nil && errY == nil && x != y {
			return x - y
		}
		return bytes.Compare([]byte(a), []byte(b))
	})
	return keys
}

func cstring(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}
