package hardware

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"github.com/google/go-tpm/tpm2"

	"cvmguard/internal/guest"
)

// What another verifier says of a report: chain, signature, and the binding of
// chip and TCB to the certificate.
func TestSNPReportPassesGoSevGuest(t *testing.T) {
	m := machine(t, Config{Kind: SNP})
	hcl, err := m.NVRead(guest.IndexHCLReport)
	if err != nil {
		t.Fatal(err)
	}
	report, err := abi.ReportToProto(hcl[hclHeader : hclHeader+hclHardware])
	if err != nil {
		t.Fatal(err)
	}
	vcek, err := m.VCEK(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	att := &pb.Attestation{Report: report, CertificateChain: &pb.CertificateChain{
		VcekCert: vcek, AskCert: m.vendors.ASK.Raw, ArkCert: m.vendors.ARK.Raw,
	}}
	roots := func(v *Vendors) *verify.Options {
		return &verify.Options{
			DisableCertFetching: true, Now: testNow,
			TrustedRoots: map[string][]*trust.AMDRootCerts{"Milan": {{
				Product: "Milan", ProductLine: "Milan", ProductCerts: &trust.ProductCerts{Ask: v.ASK, Ark: v.ARK},
			}}},
		}
	}
	if err := verify.SnpAttestation(att, roots(m.vendors)); err != nil {
		t.Error(err)
	}
	err = validate.SnpAttestation(att, &validate.Options{
		GuestPolicy: abi.SnpPolicy{SMT: true}, VMPL: new(int),
		MinimumTCB: kds.TCBParts{SnpSpl: 24, BlSpl: 4, UcodeSpl: 219}, MinimumLaunchTCB: kds.TCBParts{SnpSpl: 24},
		PlatformInfo: &abi.SnpPlatformInfo{SMTEnabled: true, ECCEnabled: true, AliasCheckComplete: true},
	})
	if err != nil {
		t.Error(err)
	}
	forged, err := forgers()
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.SnpAttestation(att, roots(forged)); err == nil {
		t.Error("passes under another vendor's roots")
	}
}

func TestHCLReport(t *testing.T) {
	m := machine(t, Config{Kind: SNP})
	ud := bytes.Repeat([]byte{0xAB}, 32)
	if err := m.NVWrite(guest.IndexUserData, ud); err != nil {
		t.Fatal(err)
	}
	r, err := m.NVRead(guest.IndexHCLReport)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	n := int(le.Uint32(r[1232:]))
	if len(r) != 2600 || string(r[:4]) != "HCLA" || int(le.Uint32(r[8:])) != 1236+n || int(le.Uint32(r[1216:])) != 20+n {
		t.Fatalf("sizes: index %d, report %d, data %d, variable %d", len(r), le.Uint32(r[8:]), le.Uint32(r[1216:]), n)
	}
	runtime := r[1236 : 1236+n]
	digest := sha256.Sum256(runtime)
	if !bytes.Equal(r[32+snpData:32+snpData+32], digest[:]) {
		t.Error("report data is not the hash of the runtime data")
	}
	var c runtimeClaims
	if err := json.Unmarshal(runtime, &c); err != nil {
		t.Fatal(err)
	}
	if c.Config.VMUniqueID != strings.ToUpper(testVMID) || !strings.HasPrefix(c.UserData, strings.Repeat("AB", 32)) || len(c.UserData) != 128 {
		t.Errorf("runtime data %s", runtime)
	}
	if len(bytes.Trim(r[1236+n:], "\x00")) != 0 {
		t.Error("the tail is not padding")
	}
}

func TestTDQuote(t *testing.T) {
	m, other := machine(t, Config{Kind: TDX}), machine(t, Config{Kind: TDX})
	ctx := context.Background()
	hcl, err := m.NVRead(guest.IndexHCLReport)
	if err != nil {
		t.Fatal(err)
	}
	report := hcl[hclHeader : hclHeader+tdReportSize]
	q, err := m.TDQuote(ctx, report)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := m.vendors.checkTDX(q)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(parsed.body[bodyMRTD:bodyMRTD+48], TDXMeasurement[:]) || !bytes.Equal(parsed.body[bodyData:], report[tdReportData:tdReportData+64]) {
		t.Error("the quote's body is not the report's")
	}
	if _, err := other.TDQuote(ctx, report); err == nil {
		t.Error("another platform quoted this one's report")
	}
	for _, at := range []int{quoteHeader + bodyMRTD, quoteHeader + bodyData, quoteSigned + 4, quoteSigned + 4 + 64, quoteSigned + 4 + 128 + 6 + 320} {
		bad := bytes.Clone(q)
		bad[at] ^= 1
		if _, err := m.vendors.checkTDX(bad); err == nil {
			t.Errorf("a flipped bit at %d is believed", at)
		}
	}
	forged, err := forgers()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forged.checkTDX(q); err == nil {
		t.Error("passes under another vendor's roots")
	}
}

// A real quote parses and its own signatures hold: the layout is Intel's.
func TestRealTDQuoteHasThisLayout(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(vectors(t), "attest", "tdx-v1", "evidence.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Quote string `json:"td_quote"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	q, err := base64.URLEncoding.DecodeString(v.Quote)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parseTDQuote(q)
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.check(); err != nil {
		t.Error(err)
	}
	if _, err := vendors(t).checkTDX(q); err == nil {
		t.Error("a real quote passes under the simulated roots")
	}
	for _, e := range parsed.chain[0].Extensions {
		if e.Id.String() == "1.2.840.113741.1.13.1" {
			return
		}
	}
	t.Error("the real PCK has no SGX extension where the simulated one has it")
}

func TestQuoteIsATPMQuote(t *testing.T) {
	m := machine(t, Config{Kind: SNP})
	extra := bytes.Repeat([]byte{7}, 32)
	msg, sig, err := m.Quote(guest.HandleAK, extra, []int{7, 0, 12})
	if err != nil {
		t.Fatal(err)
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](msg)
	if err != nil {
		t.Fatal(err)
	}
	info, err := a.Attested.Quote()
	if err != nil {
		t.Fatal(err)
	}
	pcrs, err := m.PCRs([]int{0, 7, 12})
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(bytes.Join([][]byte{pcrs[0], pcrs[7], pcrs[12]}, nil))
	if len(msg) != 145 || !bytes.Equal(a.ExtraData.Buffer, extra) || !bytes.Equal(info.PCRDigest.Buffer, want[:]) || a.ClockInfo.ResetCount != 1 {
		t.Errorf("quote of %d bytes: %+v", len(msg), a)
	}
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](sig)
	if err != nil {
		t.Fatal(err)
	}
	rsassa, err := s.Signature.RSASSA()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(msg)
	if err := rsa.VerifyPKCS1v15(&m.ak.PublicKey, crypto.SHA256, digest[:], rsassa.Sig.Buffer); err != nil {
		t.Error(err)
	}
	if _, _, err := m.Quote(0x81000001, extra, []int{0}); !errors.Is(err, guest.ErrAbsent) {
		t.Errorf("another handle: %v", err)
	}
	if _, _, err := m.Quote(guest.HandleAK, make([]byte, 65), []int{0}); err == nil {
		t.Error("65 bytes of extra data were taken")
	}
	if _, _, err := m.Quote(guest.HandleAK, extra, []int{24}); err == nil {
		t.Error("PCR 24 was quoted")
	}
}

// The log replays to the bank, but for PCR 12, which no firmware event touches.
func TestEventLogReplays(t *testing.T) {
	for _, kind := range []Kind{SNP, TDX, TrustedLaunch} {
		m := machine(t, Config{Kind: kind})
		log, err := m.EventLog()
		if err != nil {
			t.Fatal(err)
		}
		le := binary.LittleEndian
		first := 32 + int(le.Uint32(log[28:]))
		if string(log[32:48]) != "Spec ID Event03\x00" {
			t.Fatalf("first event %q", log[32:48])
		}
		bank := newBank()
		for log = log[first:]; len(log) > 0; {
			pcr, size := int(le.Uint32(log)), int(le.Uint32(log[46:]))
			bank.extend(pcr, [32]byte(log[14:46]))
			log = log[50+size:]
		}
		if kind != TrustedLaunch {
			epoch := sha256.Sum256(make([]byte, 4))
			bank.extend(12, epoch)
			bank.extend(12, epoch)
		}
		if *bank != *m.boot.bank {
			t.Errorf("%s: the log does not replay to the bank", kind)
		}
		pcrs, err := m.PCRs([]int{2, 17})
		if err != nil {
			t.Fatal(err)
		}
		if got := le.Uint32(pcrs[2]); got != 0xfe8c453d { // 3d458cfe…: a separator and nothing else
			t.Errorf("PCR 2 starts with %#x", got)
		}
	}
}

func TestNVIndices(t *testing.T) {
	tl, snp := machine(t, Config{Kind: TrustedLaunch}), machine(t, Config{Kind: SNP})
	if _, err := tl.NVRead(guest.IndexHCLReport); !errors.Is(err, guest.ErrAbsent) {
		t.Errorf("Trusted Launch has a paravisor's report: %v", err)
	}
	if _, err := snp.NVRead(guest.IndexUserData); !errors.Is(err, guest.ErrAbsent) {
		t.Errorf("user data before it was written: %v", err)
	}
	if err := snp.NVWrite(guest.IndexUserData, make([]byte, 65)); err == nil {
		t.Error("65 bytes of user data were taken")
	}
	if err := snp.NVWrite(guest.IndexHCLReport, []byte{1}); err == nil {
		t.Error("the report could be written")
	}
	der, err := tl.NVRead(guest.IndexAKCert)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(bytes.TrimRight(der, "\x00"))
	if err != nil {
		t.Fatal(err)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(tl.vendors.VTPMRoot)
	inter.AddCert(tl.vendors.VTPMCA)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if len(leaf.UnknownExtKeyUsage) != 2 {
		t.Errorf("key usages %v", leaf.UnknownExtKeyUsage)
	}
}

func TestNewMachineRefuses(t *testing.T) {
	for _, cfg := range []Config{{}, {Kind: "sgx", VMUniqueID: testVMID}, {Kind: SNP}} {
		if _, err := NewMachine(vendors(t), cfg); err == nil {
			t.Errorf("%+v was made", cfg)
		}
	}
}

func BenchmarkNewMachine(b *testing.B) {
	v := vendors(b)
	for b.Loop() {
		if _, err := NewMachine(v, Config{Kind: SNP, VMUniqueID: testVMID}); err != nil {
			b.Fatal(err)
		}
	}
}
