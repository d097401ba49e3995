package guest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
)

const testUID = "26f8bc30-774e-4290-8e7a-535f3b672aee"

var testNow = time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)

var akKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// fakeTPM is a vTPM with a paravisor behind it, which makes a new report for a
// read more than two seconds after the last.
type fakeTPM struct {
	kind     uint32 // HCL type, 0 for Trusted Launch
	now      time.Duration
	userData []byte
	report   []byte
	made     time.Duration
	pcrs     map[int][]byte
	moves    int // how many quotes are followed by a PCR that moves
	calls    []string
	nvWrite  error
}

func newFakeTPM(kind uint32) *fakeTPM {
	f := &fakeTPM{kind: kind, userData: make([]byte, 64), made: -time.Hour, pcrs: map[int][]byte{}}
	for n := range 24 {
		v := sha256.Sum256([]byte{byte(n)})
		f.pcrs[n] = v[:]
	}
	return f
}

func (f *fakeTPM) NVRead(index uint32) ([]byte, error) {
	f.calls = append(f.calls, fmt.Sprintf("read %#x", index))
	switch {
	case index == IndexHCLReport && f.kind != 0:
		if f.now-f.made > 2*time.Second {
			f.report, f.made = f.hcl(), f.now
		}
		return append(bytes.Clone(f.report), make([]byte, 50)...), nil
	case index == IndexAKCert && f.kind == 0:
		return []byte("a certificate"), nil
	}
	return nil, fmt.Errorf("index %#x: %w", index, ErrAbsent)
}

func (f *fakeTPM) NVWrite(index uint32, data []byte) error {
	f.calls = append(f.calls, fmt.Sprintf("write %#x", index))
	if f.nvWrite != nil {
		return f.nvWrite
	}
	f.userData = data
	return nil
}

func (f *fakeTPM) runtime() []byte {
	return []byte(fmt.Sprintf(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":%q}],"vm-configuration":{"secure-boot":true,"vmUniqueId":%q},"user-data":"%x"}`,
		base64.RawURLEncoding.EncodeToString(akKey().N.Bytes()), strings.ToUpper(testUID), f.userData))
}

func (f *fakeTPM) hcl() []byte {
	rt := f.runtime()
	sum := sha256.Sum256(rt)
	le := binary.LittleEndian
	b := make([]byte, attest.HCLRuntime)
	copy(b, "HCLA")
	le.PutUint32(b[4:], 2)
	le.PutUint32(b[8:], uint32(attest.HCLRuntime+len(rt)))
	le.PutUint32(b[12:], 2)
	hw := b[attest.HCLHeaderSize:]
	if f.kind == attest.HCLTypeTDX {
		hw[0] = 0x81
		copy(hw[128:], sum[:])
	} else {
		le.PutUint32(hw, 3)
		le.PutUint64(hw[8:], 0x3001F)
		le.PutUint32(hw[0x34:], 1)
		copy(hw[0x50:], sum[:])
	}
	le.PutUint32(b[1216:], uint32(20+len(rt)))
	le.PutUint32(b[1220:], 1)
	le.PutUint32(b[1224:], f.kind)
	le.PutUint32(b[1228:], 1)
	le.PutUint32(b[1232:], uint32(len(rt)))
	return append(b, rt...)
}

func (f *fakeTPM) Quote(handle uint32, extra []byte, pcrs []int) (message, signature []byte, err error) {
	f.calls = append(f.calls, fmt.Sprintf("quote %#x", handle))
	h := sha256.New()
	bitmap := make([]byte, 3)
	for _, n := range pcrs {
		h.Write(f.pcrs[n])
		bitmap[n/8] |= 1 << (n % 8)
	}
	be := binary.BigEndian
	m := be.AppendUint32(nil, 0xFF544347)
	m = be.AppendUint16(m, 0x8018)
	m = be.AppendUint16(m, 0)
	m = be.AppendUint16(m, uint16(len(extra)))
	m = append(m, extra...)
	m = append(m, make([]byte, 8+4+4+1+8)...)
	m = be.AppendUint32(m, 1)
	m = be.AppendUint16(m, 0x000B)
	m = append(append(m, 3), bitmap...)
	m = be.AppendUint16(m, 32)
	m = append(m, h.Sum(nil)...)
	sum := sha256.Sum256(m)
	signature, err = rsa.SignPKCS1v15(rand.Reader, akKey(), crypto.SHA256, sum[:])
	if f.moves > 0 {
		f.moves--
		next := sha256.Sum256(f.pcrs[12])
		f.pcrs[12] = next[:]
	}
	return m, signature, err
}

func (f *fakeTPM) PCRs(pcrs []int) (map[int][]byte, error) {
	out := map[int][]byte{}
	for _, n := range pcrs {
		out[n] = f.pcrs[n]
	}
	return out, nil
}

type fakeIMDS struct {
	tpm    *fakeTPM
	faults int // how many calls fail first
	err    error
	calls  int
}

func (m *fakeIMDS) VCEK(context.Context) ([]byte, error) { return m.answer([]byte("a VCEK")) }

func (m *fakeIMDS) TDQuote(_ context.Context, tdreport []byte) ([]byte, error) {
	if len(tdreport) != attest.TDReportSize {
		return nil, fmt.Errorf("TDREPORT of %d bytes", len(tdreport))
	}
	le := binary.LittleEndian
	q := make([]byte, 48+584)
	le.PutUint16(q, 4)
	le.PutUint16(q[2:], 2)
	le.PutUint32(q[4:], 0x81)
	copy(q[12:], "\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07")
	copy(q[48+0x208:], tdreport[128:192])
	q = le.AppendUint32(q, 1)
	return m.answer(append(q, 1))
}

func (m *fakeIMDS) VMID(context.Context) (string, error) { return testUID, nil }

func (m *fakeIMDS) answer(b []byte) ([]byte, error) {
	if m.calls++; m.calls <= m.faults {
		return nil, m.err
	}
	return b, nil
}

type fakeSystem struct{ log []byte }

func (s fakeSystem) EventLog() ([]byte, error) { return s.log, nil }
func (s fakeSystem) IMALog() ([]byte, error)   { return nil, ErrAbsent }
func (s fakeSystem) Claims(context.Context) Claims {
	return Claims{Kernel: "6.8.0-azure", CommandLine: "quiet \xff <&>\u2028", Unread: []string{"x"}}
}

func testOptions(t *testing.T, kind uint32) (Options, *fakeTPM, *fakeIMDS) {
	t.Helper()
	tpm := newFakeTPM(kind)
	imds := &fakeIMDS{tpm: tpm, err: errors.New("429")}
	o := Options{TPM: tpm, IMDS: imds, System: fakeSystem{log: bytes.Repeat([]byte("event"), 1000)}, VMUniqueID: testUID,
		Clock: func() time.Time { return testNow },
		Sleep: func(_ context.Context, d time.Duration) error { tpm.now += d; return nil }}
	o.Nonce[5] = 9
	return o, tpm, imds
}

// judge holds a bundle against the verifier that it is made for.
func judge(t *testing.T, bundle []byte, tee cvm.TEE) attest.Result {
	t.Helper()
	n := attest.Nonce{State: attest.NonceGood, VMID: "/vm", UniqueID: testUID, Way: "push"}
	s := attest.Subject{ID: "/vm", UniqueID: testUID, TEE: tee}
	return attest.Judge(context.Background(), bundle, n, s, attest.Options{}, testNow)
}

func TestCollectIsJudgedGood(t *testing.T) {
	for kind, tee := range map[uint32]cvm.TEE{attest.HCLTypeSNP: cvm.TEESNP, attest.HCLTypeTDX: cvm.TEETDX} {
		o, tpm, _ := testOptions(t, kind)
		bundle, err := Collect(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		r := judge(t, bundle, tee)
		if r.Attestation.Evidence.State != cvm.Pass {
			t.Errorf("%s: evidence is %+v: %+v", tee, r.Attestation.Evidence, r.Attestation.Checks)
		}
		if i := slices.IndexFunc(r.Attestation.Checks, func(c cvm.Check) bool { return c.ID == "Q4" }); !strings.Contains(r.Attestation.Checks[i].Detail, "fresh too") {
			t.Errorf("%s: the report was read before the paravisor took up the user data", tee)
		}
		if r.Claims["kernel"] != "6.8.0-azure" || r.Claims["collected_at"] != "2026-08-01T00:00:00Z" {
			t.Errorf("claims: %v", r.Claims)
		}
		b, err := attest.Decode(bundle)
		if err != nil {
			t.Fatal(err)
		}
		if log, err := attest.Unpack(b.EventLog); err != nil || len(log) != 5000 || len(b.EventLog) >= 5000 || b.IMALog != nil {
			t.Errorf("event log: %d bytes packed, %d unpacked, %v", len(b.EventLog), len(log), err)
		}
		if (len(b.VCEK) > 0) != (tee == cvm.TEESNP) || (len(b.TEEQuote) > 0) != (tee == cvm.TEETDX) || b.AKCert != nil {
			t.Errorf("%s: wrong parts: %d VCEK, %d quote, %d AK certificate", tee, len(b.VCEK), len(b.TEEQuote), len(b.AKCert))
		}
		if last := tpm.calls[len(tpm.calls)-1]; last != "quote 0x81000003" {
			t.Errorf("the last command is %q", last)
		}
		if bytes.Contains(bundle, []byte("\n")) {
			t.Error("the bundle has a line break")
		}
	}
}

func TestCollectTrustedLaunch(t *testing.T) {
	o, tpm, _ := testOptions(t, 0)
	bundle, err := Collect(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attest.Decode(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if b.Kind != attest.KindTrustedLaunch || string(b.AKCert) != "a certificate" || b.HCLReport != nil || b.TPMQuote == nil {
		t.Errorf("bundle: %+v", b)
	}
	if slices.Contains(tpm.calls, fmt.Sprintf("write %#x", IndexUserData)) {
		t.Error("user data was written where no paravisor reads it")
	}
}

func TestCollectTroubles(t *testing.T) {
	tests := []struct {
		name   string
		kind   uint32
		change func(o *Options, tpm *fakeTPM, m *fakeIMDS)
		want   string // part of the error, "" for a bundle
		check  func(t *testing.T, b *attest.Bundle, m *fakeIMDS)
	}{
		{"metadata service slow at first", attest.HCLTypeTDX, func(_ *Options, _ *fakeTPM, m *fakeIMDS) { m.faults = 4 }, "",
			func(t *testing.T, b *attest.Bundle, m *fakeIMDS) {
				if m.calls != 5 || b.TEEQuote == nil {
					t.Errorf("%d calls", m.calls)
				}
			}},
		{"no TD quote", attest.HCLTypeTDX, func(_ *Options, _ *fakeTPM, m *fakeIMDS) { m.faults = 99 }, "TD quote", nil},
		{"no VCEK", attest.HCLTypeSNP, func(_ *Options, _ *fakeTPM, m *fakeIMDS) { m.faults = 99 }, "",
			func(t *testing.T, b *attest.Bundle, m *fakeIMDS) {
				if b.VCEK != nil || m.calls != 5 {
					t.Errorf("VCEK %q after %d calls", b.VCEK, m.calls)
				}
			}},
		{"no THIM at all", attest.HCLTypeSNP, func(_ *Options, _ *fakeTPM, m *fakeIMDS) { m.faults, m.err = 99, ErrAbsent }, "",
			func(t *testing.T, _ *attest.Bundle, m *fakeIMDS) {
				if m.calls != 1 {
					t.Errorf("asked %d times for what isn't there", m.calls)
				}
			}},
		{"old paravisor", attest.HCLTypeSNP, func(_ *Options, f *fakeTPM, _ *fakeIMDS) { f.nvWrite = errors.New("locked") }, "", nil},
		{"PCR moves thrice", attest.HCLTypeSNP, func(_ *Options, f *fakeTPM, _ *fakeIMDS) { f.moves = 3 }, "", nil},
		{"PCR moves always", attest.HCLTypeSNP, func(_ *Options, f *fakeTPM, _ *fakeIMDS) { f.moves = 99 }, "PCRs moved", nil},
		{"unknown paravisor", attest.HCLTypeVBS, func(*Options, *fakeTPM, *fakeIMDS) {}, "type 1", nil},
		{"VM id no GUID", attest.HCLTypeSNP, func(o *Options, _ *fakeTPM, _ *fakeIMDS) { o.VMUniqueID = "vm1" }, "not a GUID", nil},
		{"no TPM given", attest.HCLTypeSNP, func(o *Options, _ *fakeTPM, _ *fakeIMDS) { o.TPM = nil }, "must be set", nil},
		{"log too long", attest.HCLTypeSNP, func(o *Options, _ *fakeTPM, _ *fakeIMDS) {
			o.System = fakeSystem{log: make([]byte, attest.MaxLog+1)}
		}, "", func(t *testing.T, b *attest.Bundle, _ *fakeIMDS) {
			if b.EventLog != nil {
				t.Error("a log over the cap is in the bundle")
			}
		}},
		{"stopped", attest.HCLTypeSNP, func(o *Options, _ *fakeTPM, _ *fakeIMDS) {
			o.Sleep = func(context.Context, time.Duration) error { return context.Canceled }
		}, "canceled", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, tpm, imds := testOptions(t, tt.kind)
			var log bytes.Buffer
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			tt.change(&o, tpm, imds)
			bundle, err := Collect(context.Background(), o)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error is %v, want one with %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := attest.Decode(bundle)
			if err != nil {
				t.Fatal(err)
			}
			if tt.check != nil {
				tt.check(t, b, imds)
			}
			tee := cvm.TEESNP
			if tt.kind == attest.HCLTypeTDX {
				tee = cvm.TEETDX
			}
			if r := judge(t, bundle, tee); r.Attestation.Evidence.State != cvm.Pass {
				t.Errorf("evidence is %+v", r.Attestation.Evidence)
			}
			if strings.Contains(log.String(), base64.RawURLEncoding.EncodeToString(o.Nonce[:])) {
				t.Error("the log shows the nonce")
			}
		})
	}
}

func TestRealSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("sleep gave %v", err)
	}
	if err := sleep(context.Background(), 0); err != nil {
		t.Errorf("sleep gave %v", err)
	}
}
