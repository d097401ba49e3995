package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// The parts of a TCG event log that are looked at.
const (
	evNoAction = 0x3
	evVariable = 0x80000001
	pcrPolicy  = 7 // secure boot policy
	eventsMax  = 16384
)

// errLog says that an event log isn't one.
var errLog = errors.New("the event log ends inside an event")

// measuredVariables are the variables of the secure boot policy, by name, as the
// firmware measured them at this boot. The log is the guest's own copy: what is
// read here is a claim.
func measuredVariables(log []byte) (map[string][]byte, error) {
	out := map[string][]byte{}
	r := logReader{b: log}
	// The first event has the old form and tells the digests' sizes.
	r.u32()
	if kind := r.u32(); r.err == nil && kind != evNoAction {
		return nil, fmt.Errorf("the event log begins with an event of type %#x", kind)
	}
	r.take(20)
	spec := logReader{b: r.take(int(r.u32()))}
	spec.take(16 + 4 + 4) // signature, platform class, versions
	sizes := map[uint16]int{}
	for range min(spec.u32(), 16) {
		alg := spec.u16()
		sizes[alg] = int(spec.u16())
	}
	if r.err != nil || spec.err != nil {
		return nil, errLog
	}
	for range eventsMax {
		pcr, kind := r.u32(), r.u32()
		if r.err != nil || pcr == 0xFFFFFFFF {
			return out, nil // the log's end, or the filling after it
		}
		for range min(r.u32(), 16) {
			size, ok := sizes[r.u16()]
			if !ok {
				return out, nil
			}
			r.take(size)
		}
		data := r.take(int(r.u32()))
		if r.err != nil {
			return nil, errLog
		}
		if pcr == pcrPolicy && kind == evVariable {
			name, v, ok := variableData(data)
			if _, twice := out[name]; ok && !twice {
				out[name] = v
			}
		}
	}
	return out, nil
}

// variableData reads a UEFI_VARIABLE_DATA: GUID, lengths of name (in characters)
// and value, name in UTF-16LE, value.
func variableData(data []byte) (name string, value []byte, ok bool) {
	r := logReader{b: data}
	r.take(16)
	chars, size := r.u64(), r.u64()
	if r.err != nil || chars > 256 || size > uint64(len(data)) {
		return "", nil, false
	}
	text := r.take(int(chars) * 2)
	value = r.take(int(size))
	if r.err != nil {
		return "", nil, false
	}
	units := make([]uint16, 0, chars)
	for at := 0; at+1 < len(text); at += 2 {
		units = append(units, binary.LittleEndian.Uint16(text[at:]))
	}
	return string(utf16.Decode(units)), value, true
}

// logReader reads little-endian fields; the first fault sticks.
type logReader struct {
	b   []byte
	err error
}

func (r *logReader) take(n int) []byte {
	if r.err == nil && (n < 0 || len(r.b) < n) {
		r.err = errLog
	}
	if r.err != nil {
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *logReader) u16() uint16 {
	b := r.take(2)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint16(b)
}

func (r *logReader) u32() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

func (r *logReader) u64() uint64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}
