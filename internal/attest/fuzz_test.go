package attest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

func FuzzBundle(f *testing.F) {
	// Made by hand: no key is made in a fuzzing worker, which takes long there.
	pcrs := map[string]string{"0": strings.Repeat("0", 64), "12": strings.Repeat("f", 64)}
	f.Add(encode(f, &Bundle{Version: 1, Kind: KindSNP, Nonce: make([]byte, 32), HCLReport: Bytes("HCLA"), VCEK: Bytes("der"),
		TPMQuote: &TPMQuote{Message: Bytes("m"), Signature: Bytes("s"), PCRs: pcrs}, EventLog: gzipped(f, []byte("log")),
		Guest: cvm.Claims{"kernel": "6.8", "n": json.Number("1.50")}}))
	f.Add(encode(f, &Bundle{Version: 1, Kind: KindTDX, Nonce: make([]byte, 32), TEEQuote: Bytes("q"), IMALog: Bytes("i")}))
	f.Add([]byte(`{"version":1,"kind":"snp","nonce":"` + strings.Repeat("A", 43) + `","guest":{"a":[1e5,"\ud800",null]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := Decode(raw)
		if err != nil {
			return
		}
		once, err := b.Canonical(false)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(once)
		if err != nil {
			t.Fatalf("the canonical form is refused: %v", err)
		}
		twice, err := again.Canonical(false)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("canonical form moves (%v):\n%s\n%s", err, once, twice)
		}
	})
}

func FuzzHCL(f *testing.F) {
	f.Add(newFakeVM(KindSNP).hcl())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := ParseHCL(b); err == nil && (h.Length > len(b) || len(h.Hardware) != HCLHardwareSize || len(h.Runtime) == 0) {
			t.Errorf("accepted: %+v of %d bytes", h, len(b))
		}
	})
}

func FuzzSNPReport(f *testing.F) {
	f.Add(newFakeVM(KindSNP).hardware())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseSNPReport(b); err == nil && (r.Version < 2 || len(r.Signed()) != 0x2A0) {
			t.Errorf("accepted: %+v", r)
		}
	})
}

func FuzzTDQuote(f *testing.F) {
	f.Add(newFakeVM(KindTDX).tdQuote(4))
	f.Add(newFakeVM(KindTDX).tdQuote(5))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ParseTDQuote(b); err == nil && len(q.Signed)+4+len(q.Signature) > len(b) {
			t.Errorf("accepted: %+v", q)
		}
		if _, err := ParseTDReport(b); err == nil && len(b) < TDReportSize {
			t.Error("short TDREPORT accepted")
		}
	})
}

func FuzzTPMQuote(f *testing.F) {
	f.Add(tpmsAttest([]byte("x"), []int{0, 1}, make([]byte, 32)))
	raw, err := hex.DecodeString("ff54434780180000")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := ParseTPMQuote(b); err == nil && q.Selections == 0 {
			t.Errorf("accepted: %+v", q)
		}
	})
}

func FuzzRuntimeData(f *testing.F) {
	f.Add(newFakeVM(KindSNP).runtime())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRuntimeData(b); err == nil && r.AK == nil {
			t.Error("accepted without an AK")
		}
	})
}
