package attest

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

func options(t testing.TB) Options {
	t.Helper()
	return Options{Roots: VendorRoots(), MAA: newMAA(t), Issuer: testBase}
}

func TestJudgeGoodEvidence(t *testing.T) {
	for _, kind := range []string{KindSNP, KindTDX} {
		t.Run(kind, func(t *testing.T) {
			v := newFakeVM(kind)
			b := v.bundle(t)
			r := Judge(context.Background(), encode(t, b), goodNonce(), subject(kind), options(t), testNow)
			a := r.Attestation
			wantOutcome(t, "evidence", a.Evidence, cvm.Pass, "", a)
			wantOutcome(t, "maa", a.MAA, cvm.Pass, "", a)
			if a.SecureBoot == nil || !*a.SecureBoot || a.TPMPersisted == nil || !*a.TPMPersisted {
				t.Errorf("secure boot %v, persisted %v; want both true", a.SecureBoot, a.TPMPersisted)
			}
			if a.Kind != kind || a.ResetCount != 7 || len(a.PCRs) != 15 || len(a.AK) != 64 || a.Measurement == "" {
				t.Errorf("proven facts are incomplete: %+v", a)
			}
			if len(r.Token) == 0 || len(a.Token) != 64 || len(a.Bundle) != 64 || a.Development {
				t.Errorf("token or hashes missing: %+v", a)
			}
			if r.Claims["kernel"] != "6.8" {
				t.Errorf("claims are %v", r.Claims)
			}
			var ids []string
			for _, c := range a.Checks {
				ids = append(ids, c.ID)
			}
			want := "C1 C2 C3 S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 Q1 Q2 Q3 Q4 Q5 Q6 M0 M1 M2 M3 M4 M5 M6 M7 M8 M9 M10"
			if kind == KindTDX {
				want = "C1 C2 C3 T1 T2 T3 T4 T5 T6 T7 T8 Q1 Q2 Q3 Q4 Q5 Q6 M0 M1 M2 M3 M4 M5 M6 M7 M8 M9 M10"
			}
			if got := strings.Join(ids, " "); got != want {
				t.Errorf("checks are\n%s, want\n%s", got, want)
			}
			if c := stateOf(a, "S3"); kind == KindSNP && c.State != cvm.NotAsked {
				t.Errorf("S3 is %s without a hardware verifier", c.State)
			}
			if c := stateOf(a, "Q4"); !strings.Contains(c.Detail, "report is fresh too") {
				t.Errorf("Q4 says %q", c.Detail)
			}
		})
	}
}

// TestJudgeRefusals: what is wrong, and which code says so.
func TestJudgeRefusals(t *testing.T) {
	type world struct {
		v *fakeVM
		b *Bundle
		n Nonce
		s Subject
		o Options
		// raw replaces the bundle's bytes
		raw []byte
	}
	maa := func(w *world) *fakeMAA { return w.o.MAA.(*fakeMAA) }
	tests := []struct {
		name     string
		kind     string
		change   func(t *testing.T, w *world)
		evidence cvm.Outcome
		maa      cvm.Outcome
	}{
		{"malformed bundle", KindSNP, func(_ *testing.T, w *world) { w.raw = []byte(`{"version":1}`) },
			cvm.Outcome{State: cvm.Fail, Reason: "bundle.malformed"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"nonce never issued", KindSNP, func(_ *testing.T, w *world) { w.n.State = NonceUnknown },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.unknown"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"zero nonce state", KindSNP, func(_ *testing.T, w *world) { w.n = Nonce{} },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.unknown"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"stale nonce", KindSNP, func(_ *testing.T, w *world) { w.n.State = NonceExpired },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.expired"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"replay", KindSNP, func(_ *testing.T, w *world) { w.n.State = NonceReused },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.reused"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"nonce of another VM", KindSNP, func(_ *testing.T, w *world) { w.n.VMID += "2" },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.unknown"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"nonce of the VM's predecessor", KindSNP, func(_ *testing.T, w *world) { w.n.UniqueID = otherUID },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.unknown"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"another nonce in the quote", KindSNP, func(_ *testing.T, w *world) { w.b.Nonce[0] ^= 1 },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.mismatch"}, cvm.Outcome{State: cvm.Pass}},
		{"claims edited after the quote", KindSNP, func(_ *testing.T, w *world) { w.b.Guest["kernel"] = "7.0" },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.mismatch"}, cvm.Outcome{State: cvm.Pass}},
		{"log swapped after the quote", KindSNP, func(_ *testing.T, w *world) { w.b.EventLog = Bytes("x") },
			cvm.Outcome{State: cvm.Fail, Reason: "nonce.mismatch"}, cvm.Outcome{State: cvm.Pass}},
		{"another VM's evidence", KindSNP, func(t *testing.T, w *world) { w.v.uid = otherUID; w.b = w.v.bundle(t) },
			cvm.Outcome{State: cvm.Fail, Reason: "bind.vm"}, cvm.Outcome{State: cvm.Fail, Reason: "maa.other-evidence"}},
		{"another VM's evidence, TDX", KindTDX, func(t *testing.T, w *world) { w.v.uid = otherUID; w.b = w.v.bundle(t) },
			cvm.Outcome{State: cvm.Fail, Reason: "bind.vm"}, cvm.Outcome{State: cvm.Fail, Reason: "maa.other-evidence"}},
		{"vmId unknown", KindSNP, func(_ *testing.T, w *world) { w.s.UniqueID = "" },
			cvm.Outcome{State: cvm.UnknownState, Reason: "bind.vm"}, cvm.Outcome{State: cvm.Fail, Reason: "maa.other-evidence"}},
		{"runtime data edited", KindSNP, func(_ *testing.T, w *world) { w.b.HCLReport[len(w.b.HCLReport)-3] ^= 1 },
			cvm.Outcome{State: cvm.Fail, Reason: "bind.runtime"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"no AK in runtime data", KindSNP, func(t *testing.T, w *world) {
			w.v.keys = jwk("HCLTransferKey", &akKey().PublicKey)
			w.b = w.v.bundle(t)
		}, cvm.Outcome{State: cvm.Fail, Reason: "bind.ak"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"AK twice", KindTDX, func(t *testing.T, w *world) {
			w.v.keys = jwk("HCLAkPub", &akKey().PublicKey) + "," + jwk("HCLAkPub", &otherKey().PublicKey)
			w.b = w.v.bundle(t)
		}, cvm.Outcome{State: cvm.Fail, Reason: "bind.ak"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"quote by another AK", KindSNP, func(t *testing.T, w *world) { w.v.ak = otherKey(); w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Fail, Reason: "quote.signature"}, cvm.Outcome{State: cvm.Pass}},
		{"no quote", KindSNP, func(_ *testing.T, w *world) { w.b.TPMQuote = nil },
			cvm.Outcome{State: cvm.Fail, Reason: "quote.format"}, cvm.Outcome{State: cvm.Pass}},
		{"required PCR not quoted", KindSNP, func(t *testing.T, w *world) { w.o.RequiredPCRs = []int{0, 10} },
			cvm.Outcome{State: cvm.Fail, Reason: "quote.selection"}, cvm.Outcome{State: cvm.Pass}},
		{"PCR value missing", KindSNP, func(_ *testing.T, w *world) { delete(w.b.TPMQuote.PCRs, "23") },
			cvm.Outcome{State: cvm.Fail, Reason: "quote.selection"}, cvm.Outcome{State: cvm.Pass}},
		{"PCR value edited", KindSNP, func(_ *testing.T, w *world) { w.b.TPMQuote.PCRs["7"] = strings.Repeat("0", 64) },
			cvm.Outcome{State: cvm.Fail, Reason: "quote.pcr-digest"}, cvm.Outcome{State: cvm.Pass}},
		{"SNP evidence for a TDX VM", KindSNP, func(_ *testing.T, w *world) { w.s.TEE = cvm.TEETDX },
			cvm.Outcome{State: cvm.Fail, Reason: "hcl.kind"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"a VM that is neither", KindSNP, func(_ *testing.T, w *world) { w.s.TEE = cvm.TEENone },
			cvm.Outcome{State: cvm.Fail, Reason: "hcl.kind"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"bundle hints at another kind", KindSNP, func(t *testing.T, w *world) { w.b.Kind = KindTDX; w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Fail, Reason: "hcl.kind"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"no TD quote", KindTDX, func(t *testing.T, w *world) { w.b.TEEQuote = nil; w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Fail, Reason: "tdx.format"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"TD quote of another TDREPORT", KindTDX, func(t *testing.T, w *world) { w.b.TEEQuote[48+0x88] ^= 1; w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Fail, Reason: "bind.runtime"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"report of an unknown version", KindSNP, func(t *testing.T, w *world) { w.b.HCLReport[32] = 9; w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Fail, Reason: "snp.format"}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.not-called"}},
		{"no VCEK", KindSNP, func(t *testing.T, w *world) { w.b.VCEK = nil; w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "snp.no-vcek"}},
		{"unreadable VCEK", KindSNP, func(t *testing.T, w *world) { w.b.VCEK = Bytes("no certificate"); w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "snp.no-vcek"}},
		{"VCEK of an unknown product", KindSNP, func(t *testing.T, w *world) { w.b.VCEK = testVCEK(t, "Venice-A0"); w.v.sign(t, w.b) },
			cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "snp.product"}},
		{"no roots", KindSNP, func(_ *testing.T, w *world) { w.o.Roots = nil },
			cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "snp.product"}},
		{"no provider", KindSNP, func(_ *testing.T, w *world) { w.o.Issuer = "" },
			cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.no-provider"}},
		{"no client", KindSNP, func(_ *testing.T, w *world) { w.o.MAA = nil },
			cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.unavailable"}},
		{"MAA refuses", KindSNP, func(_ *testing.T, w *world) {
			maa(w).err = fault.New(fault.Invalid, "attest", "", "not good")
		}, cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.Fail, Reason: "maa.refused"}},
		{"MAA throttles", KindTDX, func(_ *testing.T, w *world) {
			maa(w).err = fault.New(fault.Throttled, "attest", "", "slow down")
		}, cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.unavailable"}},
		{"MAA away", KindSNP, func(_ *testing.T, w *world) {
			maa(w).err = context.DeadlineExceeded
		}, cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.unavailable"}},
		{"keys away", KindSNP, func(_ *testing.T, w *world) {
			maa(w).certsErr = context.DeadlineExceeded
		}, cvm.Outcome{State: cvm.Pass}, cvm.Outcome{State: cvm.UnknownState, Reason: "maa.unavailable"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{v: newFakeVM(tt.kind), n: goodNonce(), s: subject(tt.kind), o: options(t)}
			w.b = w.v.bundle(t)
			tt.change(t, w)
			if w.raw == nil {
				w.raw = encode(t, w.b)
			}
			r := Judge(context.Background(), w.raw, w.n, w.s, w.o, testNow)
			a := r.Attestation
			wantOutcome(t, "evidence", a.Evidence, tt.evidence.State, tt.evidence.Reason, a)
			wantOutcome(t, "maa", a.MAA, tt.maa.State, tt.maa.Reason, a)
			if a.Evidence.State != cvm.Pass || a.MAA.State != cvm.Pass {
				if a.SecureBoot != nil || a.PCRs != nil || a.AK != "" || a.Measurement != "" {
					t.Errorf("facts count as proven though not both verifiers passed: %+v", a)
				}
			}
			if a.Evidence.State != cvm.Pass && r.Claims != nil {
				t.Error("claims came with evidence that didn't pass")
			}
			if a.MAA.Reason == "maa.not-called" && w.o.MAA != nil && maa(w).calls != 0 {
				t.Error("MAA was called all the same")
			}
		})
	}
}

// TestMAARequest: the chain that is sent is the VCEK with our own ASK and ARK.
func TestMAARequest(t *testing.T) {
	v := newFakeVM(KindSNP)
	v.product = "Genoa-B1"
	o := options(t)
	Judge(context.Background(), encode(t, v.bundle(t)), goodNonce(), subject(KindSNP), o, testNow)
	var in maaSNPRequest
	var rep maaSNPReport
	if err := json.Unmarshal(o.MAA.(*fakeMAA).body, &in); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(in.Report, &rep); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(rep.VcekCertChain, []byte("BEGIN CERTIFICATE")); n != 3 {
		t.Errorf("chain has %d certificates, want VCEK, ASK, ARK", n)
	}
	if !bytes.Equal(rep.SnpReport, v.hardware()) || !bytes.Equal(in.RuntimeData.Data, v.runtime()) || in.RuntimeData.DataType != "JSON" {
		t.Error("report or runtime data are not the bundle's")
	}
	if in.Nonce == "" || strings.Contains(string(o.MAA.(*fakeMAA).body), string(encode(t, &Bundle{Nonce: v.nonce[:]})[20:60])) {
		t.Error("the nonce that MAA sees must be derived")
	}
}

// hardwareSays is a HardwareVerifier that answers one state.
type hardwareSays cvm.State

func (h hardwareSays) VerifyHardware(_ context.Context, in Hardware) []cvm.Check {
	id := "S3"
	if in.Kind == KindTDX {
		id = "T4"
	}
	return []cvm.Check{{ID: id, Kind: "V", State: cvm.State(h), Code: "hw.code"}}
}

func TestHardwareSeam(t *testing.T) {
	v := newFakeVM(KindSNP)
	raw := encode(t, v.bundle(t))
	for state, reason := range map[cvm.State]string{cvm.Pass: "", cvm.Fail: "hw.code", cvm.UnknownState: "hw.code"} {
		o := options(t)
		o.MAA, o.Hardware = nil, hardwareSays(state)
		a := Judge(context.Background(), raw, goodNonce(), subject(KindSNP), o, testNow).Attestation
		wantOutcome(t, "evidence", a.Evidence, state, reason, a)
		if proven := a.SecureBoot != nil; proven != (state == cvm.Pass) {
			t.Errorf("hardware %s: facts proven is %v", state, proven)
		}
		if i := slices.IndexFunc(a.Checks, func(c cvm.Check) bool { return c.ID == "S3" }); a.Checks[i-1].ID != "S1" {
			t.Errorf("S3 stands after %s", a.Checks[i-1].ID)
		}
	}
}

// azureVTPM makes a root, an intermediate and an AK certificate with the given use.
func azureVTPM(t *testing.T, use asn1.ObjectIdentifier) (dir string, akCert []byte) {
	t.Helper()
	ca := func(cn string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	}
	root := certificate(t, ca("root"), nil, &otherKey().PublicKey, otherKey())
	mid := certificate(t, ca("mid"), root, &maaKey().PublicKey, otherKey())
	leaf := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "x.TrustedVM.Azure.windows.net"},
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{use}}, mid, &akKey().PublicKey, maaKey())
	dir = t.TempDir()
	pemFile(t, filepath.Join(dir, "azure-vtpm-root.pem"), root)
	pemFile(t, filepath.Join(dir, "azure-vtpm-mid.pem"), mid)
	return dir, leaf.Raw
}

func TestTrustedLaunch(t *testing.T) {
	dir, cert := azureVTPM(t, oidAIK)
	roots, err := LoadRoots(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, notAIK := azureVTPM(t, asn1.ObjectIdentifier{1, 2, 3})
	tests := []struct {
		name   string
		change func(v *fakeVM, n *Nonce, o *Options)
		state  cvm.State
		reason string
	}{
		{"good", func(*fakeVM, *Nonce, *Options) {}, cvm.Pass, ""},
		{"padded certificate", func(v *fakeVM, _ *Nonce, _ *Options) { v.akCert = append(slices.Clone(v.akCert), 0, 0, 0xFF) }, cvm.Pass, ""},
		{"nonce by push", func(_ *fakeVM, n *Nonce, _ *Options) { n.Way = "push" }, cvm.UnknownState, "tl.nonce-not-by-arm"},
		{"vendor roots", func(_ *fakeVM, _ *Nonce, o *Options) { o.Roots = VendorRoots() }, cvm.Fail, "tl.ak-cert"},
		{"no roots", func(_ *fakeVM, _ *Nonce, o *Options) { o.Roots = nil }, cvm.Fail, "tl.ak-cert"},
		{"no certificate", func(v *fakeVM, _ *Nonce, _ *Options) { v.akCert = nil }, cvm.Fail, "tl.ak-cert"},
		{"garbled certificate", func(v *fakeVM, _ *Nonce, _ *Options) { v.akCert = []byte("xxxx") }, cvm.Fail, "tl.ak-cert"},
		{"another use", func(v *fakeVM, _ *Nonce, _ *Options) { v.akCert = notAIK }, cvm.Fail, "tl.ak-cert"},
		{"another key's quote", func(v *fakeVM, _ *Nonce, _ *Options) { v.ak = otherKey() }, cvm.Fail, "tl.ak-mismatch"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, n, o := newFakeVM(KindTrustedLaunch), goodNonce(), options(t)
			v.akCert, o.Roots = cert, roots
			tt.change(v, &n, &o)
			r := Judge(context.Background(), encode(t, v.bundle(t)), n, subject(KindTrustedLaunch), o, testNow)
			a := r.Attestation
			wantOutcome(t, "evidence", a.Evidence, tt.state, tt.reason, a)
			wantOutcome(t, "maa", a.MAA, cvm.NotApplicable, "maa.none-for-trusted-launch", a)
			if (tt.state == cvm.Pass) != (a.PCRs != nil) {
				t.Errorf("proven PCRs: %v", a.PCRs)
			}
			if want := o.Roots.Development(); a.Development != want {
				t.Errorf("development is %v, want %v", a.Development, want)
			}
			if a.SecureBoot != nil {
				t.Error("a Trusted Launch vTPM says nothing of secure boot in hardware")
			}
		})
	}
	// A quote edited after signing is the right key's: another code.
	v, o := newFakeVM(KindTrustedLaunch), options(t)
	v.akCert, o.Roots = cert, roots
	b := v.bundle(t)
	b.TPMQuote.Message[60] ^= 1
	a := Judge(context.Background(), encode(t, b), goodNonce(), subject(KindTrustedLaunch), o, testNow).Attestation
	wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "quote.signature", a)
	// A CVM can't pass as Trusted Launch, nor the other way round.
	a = Judge(context.Background(), encode(t, v.bundle(t)), goodNonce(), subject(KindSNP), o, testNow).Attestation
	wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "hcl.format", a)
	c := newFakeVM(KindSNP)
	a = Judge(context.Background(), encode(t, c.bundle(t)), goodNonce(), subject(KindTrustedLaunch), o, testNow).Attestation
	wantOutcome(t, "evidence", a.Evidence, cvm.Fail, "hcl.kind", a)
}

func TestUnknownTEETakesEitherKind(t *testing.T) {
	s := subject(KindTDX)
	s.TEE = cvm.TEEUnknown
	a := Judge(context.Background(), encode(t, newFakeVM(KindTDX).bundle(t)), goodNonce(), s, options(t), testNow).Attestation
	wantOutcome(t, "evidence", a.Evidence, cvm.Pass, "", a)
	if a.Kind != KindTDX {
		t.Errorf("kind is %q", a.Kind)
	}
}
