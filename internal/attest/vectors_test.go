package attest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// vectorEvidence is the public vectors' form.
type vectorEvidence struct {
	TPMQuote struct {
		Message, Signature string
		PCRs               []string
	} `json:"tpm_quote"`
	HCL   string `json:"hcl_report"`
	VCEK  string `json:"vcek"`
	Quote string `json:"td_quote"`
}

func unb64(t testing.TB, s string) []byte {
	t.Helper()
	out, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	out, err := hex.DecodeString(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// vectorBundle turns a vector into a bundle. The nonce is of no meaning: in the
// vectors the quote's extraData is the text "challenge".
func vectorBundle(t testing.TB, path string) *Bundle {
	t.Helper()
	var e vectorEvidence
	if err := json.Unmarshal(readFile(t, path), &e); err != nil {
		t.Fatal(err)
	}
	b := &Bundle{Version: 1, Kind: KindSNP, Nonce: make([]byte, 32), HCLReport: unb64(t, e.HCL), TPMQuote: &TPMQuote{
		Message: unhex(t, e.TPMQuote.Message), Signature: unhex(t, e.TPMQuote.Signature), PCRs: map[string]string{},
	}}
	if e.VCEK != "" {
		b.VCEK = unb64(t, e.VCEK)
	}
	if e.Quote != "" {
		b.Kind, b.TEEQuote = KindTDX, unb64(t, e.Quote)
	}
	for i, v := range e.TPMQuote.PCRs {
		b.TPMQuote.PCRs[strconv.Itoa(i)] = v
	}
	return b
}

// rawNonce makes the verifier expect the nonce itself as extraData.
func rawNonce(s string) func(*Bundle, Subject) ([]byte, error) {
	return func(*Bundle, Subject) ([]byte, error) { return []byte(s), nil }
}

// Unique ids of the VMs that the vectors were taken from.
const (
	snpUID = "26F8BC30-774E-4290-8E7A-535F3B672AEE"
	tdxUID = "6332533D-5649-4D02-8AA7-8F64B7C3EE21"
	snpB   = "911B0EF8-9DBA-48B0-B275-4E4DF2D39252" // of the report of version 2
)

func judgeVector(t *testing.T, b *Bundle, uid, nonce string, o Options) cvm.Attestation {
	t.Helper()
	s := Subject{ID: testVM, UniqueID: uid, TEE: cvm.TEESNP}
	if b.Kind == KindTDX {
		s.TEE = cvm.TEETDX
	}
	n := goodNonce()
	n.UniqueID = uid
	return judgeAgainst(context.Background(), encode(t, b), n, s, o, testNow, rawNonce(nonce)).Attestation
}

func TestPositiveVectors(t *testing.T) {
	dir := vectors(t)
	for _, tt := range []struct {
		name, uid, measurement string
		persisted              *bool
	}{
		{"snp-milan-v1", snpUID, "6a063be9dd79f6", nil},
		{"tdx-v1", tdxUID, "", new(bool)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := vectorBundle(t, filepath.Join(dir, tt.name, "evidence.json"))
			o := Options{Roots: VendorRoots(), Hardware: hardwareSays(cvm.Pass), RequiredPCRs: []int{0, 4, 7, 12}}
			a := judgeVector(t, b, strings.ToLower(tt.uid), "challenge", o)
			wantOutcome(t, "evidence", a.Evidence, cvm.Pass, "", a)
			wantOutcome(t, "maa", a.MAA, cvm.UnknownState, "maa.no-provider", a)
			if a.SecureBoot == nil || !*a.SecureBoot {
				t.Errorf("secure boot is %v, want true", a.SecureBoot)
			}
			if (a.TPMPersisted == nil) != (tt.persisted == nil) || (a.TPMPersisted != nil && *a.TPMPersisted) {
				t.Errorf("persisted is %v, want %v", a.TPMPersisted, tt.persisted)
			}
			if a.PCRs["12"] != "f1a142c53586e7e2223ec74e5f4d1a4942956b1fd9ac78fafcdf85117aa345da" {
				t.Errorf("PCR 12 is %s, want epoch and fence", a.PCRs["12"])
			}
			// The same evidence under another nonce, and for another VM.
			a = judgeVector(t, b, tt.uid, "egnellahc", o)
			wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "nonce.mismatch", a)
			a = judgeVector(t, b, otherUID, "challenge", o)
			wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "bind.vm", a)
			// Replay: the caller found the nonce used.
			n := goodNonce()
			n.State, n.UniqueID = NonceReused, tt.uid
			s := Subject{ID: testVM, UniqueID: tt.uid, TEE: cvm.TEEUnknown}
			a = judgeAgainst(context.Background(), encode(t, b), n, s, o, testNow, rawNonce("challenge")).Attestation
			wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "nonce.reused", a)
		})
	}
}

// TestWorkedNumbers compares the parsers with what is known of the SNP vector.
func TestWorkedNumbers(t *testing.T) {
	dir := vectors(t)
	b := vectorBundle(t, filepath.Join(dir, "snp-milan-v1", "evidence.json"))
	h, err := ParseHCL(b.HCLReport)
	if err != nil {
		t.Fatal(err)
	}
	if h.Version != 1 || len(h.Runtime) != 1110 || h.Length != 2346 || len(b.HCLReport)-h.Length != 254 {
		t.Errorf("HCL report: version %d, runtime %d, length %d of %d", h.Version, len(h.Runtime), h.Length, len(b.HCLReport))
	}
	r, err := ParseSNPReport(h.Hardware)
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != 3 || r.GuestSVN != 10 || r.Policy != 0x3001F || r.VMPL != 0 || r.ReportedTCB != [8]byte{4, 0, 0, 0, 0, 0, 24, 219} ||
		r.Family != 0x19 || r.Model != 0x01 || r.SigningKey != 0 || r.MaskChipID {
		t.Errorf("report: %+v", r)
	}
	q, err := ParseTPMQuote(b.TPMQuote.Message)
	if err != nil {
		t.Fatal(err)
	}
	if string(q.ExtraData) != "challenge" || q.Clock != 3513262 || q.ResetCount != 2 || q.RestartCount != 0 || !q.Safe ||
		q.FirmwareVersion != 0x2020031200120003 || len(q.PCRs) != 24 {
		t.Errorf("quote: %+v", q)
	}
	vcek, err := x509.ParseCertificate(b.VCEK)
	if err != nil {
		t.Fatal(err)
	}
	if product, err := vcekProduct(vcek); err != nil || product != "milan" {
		t.Errorf("VCEK product %q, %v", product, err)
	}
	ask, _, ok := VendorRoots().AMD("Milan")
	if !ok || vcek.CheckSignatureFrom(ask) != nil {
		t.Error("the pinned ASK is not the VCEK's issuer")
	}

	td := vectorBundle(t, filepath.Join(dir, "tdx-v1", "evidence.json"))
	if h, err = ParseHCL(td.HCLReport); err != nil || h.Version != 2 || h.Type != HCLTypeTDX || len(h.Runtime) != 1201 {
		t.Errorf("TDX HCL report: version %d type %d runtime %d, %v", h.Version, h.Type, len(h.Runtime), err)
	}
	tq, err := ParseTDQuote(td.TEEQuote)
	if err != nil {
		t.Fatal(err)
	}
	if tq.Version != 4 || len(tq.Signature) != 4300 || tq.TEETCBSVN[0] != 2 || hex.EncodeToString(tq.XFAM[:]) != "e718060000000000" ||
		tq.Attributes != [8]byte{} || len(td.TEEQuote) != 5006 {
		t.Errorf("TD quote: version %d, signature data %d, %x", tq.Version, len(tq.Signature), tq.XFAM)
	}
}

// TestReportVersion2: an old report without CPUID parses, is bound, and without a
// quote proves nothing fresh.
func TestReportVersion2(t *testing.T) {
	dir := filepath.Join(vectors(t), "snp-milan-report2")
	chain := readFile(t, filepath.Join(dir, "vcek-chain.pem"))
	block, _ := pem.Decode(chain)
	b := &Bundle{Version: 1, Kind: KindSNP, Nonce: make([]byte, 32), HCLReport: readFile(t, filepath.Join(dir, "hcl-report.bin")), VCEK: block.Bytes}
	a := judgeVector(t, b, snpB, "challenge", Options{Roots: VendorRoots()})
	wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "quote.format", a)
	for _, id := range []string{"C1", "C2", "C3", "S1", "S8", "S9", "S10"} {
		if stateOf(a, id).State != cvm.Pass {
			t.Errorf("%s is %+v, want pass", id, stateOf(a, id))
		}
	}
	vcek, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if product, err := vcekProduct(vcek); err != nil || product != "milan" {
		t.Errorf("product of the VCEK is %q, %v", product, err)
	}
}

// TestNegativeVectors: each file fails at the check that its change breaks. Where
// that check is of the hardware's signature chain (reached by Options.Hardware,
// S3, S5, S6, T4), code is "": then only what is reached without it is asserted.
func TestNegativeVectors(t *testing.T) {
	dir := filepath.Join(vectors(t), "negative")
	tests := map[string]struct {
		uid, check, code string
	}{
		// The signature over the report is S6's: all that is reached here is intact.
		"snp-measurement-flipped.json": {snpUID, "", ""},
		// A VCEK of another chip is S5's.
		"snp-vcek-of-another-chip.json":    {snpUID, "", ""},
		"snp-runtime-data-edited.json":     {snpUID, "S8", "bind.runtime"},
		"snp-ak-of-another-vm.json":        {snpB, "Q2", "quote.signature"},
		"snp-quote-signature-flipped.json": {snpUID, "Q2", "quote.signature"},
		"snp-attest-type-certify.json":     {snpUID, "Q2", "quote.signature"},
		"snp-pcr7-edited.json":             {snpUID, "Q6", "quote.pcr-digest"},
		"snp-pcr-list-short.json":          {snpUID, "Q5", "quote.selection"},
		"snp-hcl-size-overflow.json":       {snpUID, "C3", "hcl.format"},
		"snp-hcl-truncated.json":           {snpUID, "C3", "hcl.format"},
		"snp-hcl-unknown-hash.json":        {snpUID, "C3", "hcl.format"},
		"snp-hcl-type-says-tdx.json":       {snpUID, "C3", "hcl.kind"},
		// T4's; the TDREPORT beside the quote gives it away before.
		"tdx-mrtd-flipped.json":          {tdxUID, "T7", "bind.runtime"},
		"tdx-runtime-data-edited.json":   {tdxUID, "T7", "bind.runtime"},
		"tdx-quote-from-another-vm.json": {tdxUID, "Q2", "quote.signature"},
	}
	// Files of another form, each with a test of its own or out of reach: a forged
	// chain (TestForgedRoot), and event logs, whose replay is not judged here.
	elsewhere := map[string]bool{"snp-forged-amd-root.json": true, "eventlog-last-event-dropped.bin": true, "eventlog-ipl-data-edited.bin": true}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		tt, known := tests[f.Name()]
		if !known {
			if !elsewhere[f.Name()] {
				t.Errorf("%s has no test", f.Name())
			}
			continue
		}
		t.Run(f.Name(), func(t *testing.T) {
			a := judgeVector(t, vectorBundle(t, filepath.Join(dir, f.Name())), tt.uid, "challenge", Options{Roots: VendorRoots()})
			if tt.code == "" {
				wantOutcome(t, "evidence", a.Evidence, cvm.Pass, "", a)
				if a.Measurement != "" || a.SecureBoot != nil {
					t.Error("nobody vouched for the hardware, and yet facts count as proven")
				}
				return
			}
			wantOutcome(t, "evidence", a.Evidence, cvm.Fail, tt.code, a)
			for _, c := range a.Checks {
				if c.State == cvm.Fail {
					if c.ID != tt.check {
						t.Errorf("first failing check is %s, want %s", c.ID, tt.check)
					}
					break
				}
			}
		})
	}
}

// TestForgedRoot: a chain that is right in itself under a root of its own. The
// report's form is right; what goes to MAA is never the bundle's ASK or ARK.
func TestForgedRoot(t *testing.T) {
	var e struct {
		Report string `json:"snp_report"`
		VCEK   string `json:"vcek"`
		ASK    string `json:"ask"`
		ARK    string `json:"ark"`
	}
	path := filepath.Join(vectors(t), "negative", "snp-forged-amd-root.json")
	if err := json.Unmarshal(readFile(t, path), &e); err != nil {
		t.Fatal(err)
	}
	der := func(s string) []byte {
		raw, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			raw = unb64(t, s)
		}
		return raw
	}
	r, err := ParseSNPReport(der(e.Report))
	if err != nil {
		t.Fatal(err)
	}
	j := &judgement{bundle: &Bundle{Nonce: make([]byte, 32), VCEK: der(e.VCEK)}, report: r, options: Options{Roots: VendorRoots()}}
	body, code, why := j.snpBody("n")
	if code != "" {
		t.Fatalf("%s: %s", code, why)
	}
	var in maaSNPRequest
	var rep maaSNPReport
	if err := json.Unmarshal(body, &in); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(in.Report, &rep); err != nil {
		t.Fatal(err)
	}
	forged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der(e.ARK)})
	if bytes.Contains(rep.VcekCertChain, forged) {
		t.Error("the forged root is in the chain")
	}
	vcek, err := x509.ParseCertificate(der(e.VCEK))
	if err != nil {
		t.Fatal(err)
	}
	product, err := vcekProduct(vcek)
	if err != nil {
		t.Fatal(err)
	}
	ask, _, ok := VendorRoots().AMD(product)
	if !ok {
		t.Fatalf("no pinned chain for %q", product)
	}
	if vcek.CheckSignatureFrom(ask) == nil {
		t.Error("the forged VCEK chains to AMD's ASK")
	}
}
