package hardware

import (
	"context"
	"sync"
	"testing"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
)

var rootsOnce struct {
	sync.Once
	roots *attest.Roots
	err   error
}

// developmentRoots takes the simulated roots the way a verifier gets them: from files.
func developmentRoots(t *testing.T) *attest.Roots {
	t.Helper()
	rootsOnce.Do(func() {
		dir := t.TempDir()
		if rootsOnce.err = WriteRoots(dir); rootsOnce.err == nil {
			rootsOnce.roots, rootsOnce.err = attest.LoadRoots(dir)
		}
	})
	if rootsOnce.err != nil {
		t.Fatal(rootsOnce.err)
	}
	return rootsOnce.roots
}

// judge has a machine collect for a nonce and judges what comes.
func judge(t *testing.T, m *Machine, maa *MAA, nonceState attest.NonceState) attest.Result {
	t.Helper()
	roots := developmentRoots(t)
	nonce := newNonce(t)
	bundle, err := (&Guest{Machine: m}).Collect(context.Background(), nonce, testVMID)
	if err != nil {
		t.Fatal(err)
	}
	subject := attest.Subject{ID: testVM, UniqueID: testVMID, Region: "northeurope"}
	switch m.cfg.Kind {
	case SNP:
		subject.TEE = cvm.TEESNP
	case TDX:
		subject.TEE = cvm.TEETDX
	default:
		subject.TEE, subject.TL = cvm.TEENone, true
	}
	return attest.Judge(context.Background(), bundle,
		attest.Nonce{State: nonceState, VMID: testVM, UniqueID: testVMID, Issued: testNow, Way: "arm"},
		subject, attest.Options{Roots: roots, MAA: maaClient{maa}, Issuer: testIssuer}, testNow)
}

func TestGoodMachinesPass(t *testing.T) {
	for _, kind := range []Kind{SNP, TDX, TrustedLaunch} {
		t.Run(string(kind), func(t *testing.T) {
			r := judge(t, machine(t, Config{Kind: kind}), newMAA(t), attest.NonceGood)
			a := r.Attestation
			if a.Evidence.State != cvm.Pass {
				t.Errorf("evidence %+v", a.Evidence)
			}
			wantMAA := cvm.Outcome{State: cvm.Pass}
			if kind == TrustedLaunch {
				wantMAA = cvm.Outcome{State: cvm.NotApplicable, Reason: attest.CodeNoMAAForTL}
			}
			if a.MAA != wantMAA {
				t.Errorf("MAA %+v, want %+v", a.MAA, wantMAA)
			}
			if !a.Development {
				t.Error("simulated roots must mark the result as development")
			}
			for _, c := range a.Checks {
				if c.State == cvm.Fail || c.State == cvm.UnknownState {
					t.Errorf("check %+v", c)
				}
			}
			if kind != TrustedLaunch {
				if a.SecureBoot == nil || !*a.SecureBoot || a.TPMPersisted == nil || !*a.TPMPersisted {
					t.Errorf("secure boot %v, persisted %v: want both true", a.SecureBoot, a.TPMPersisted)
				}
				if got := a.PCRs["12"]; got != "f1a142c53586e7e2223ec74e5f4d1a4942956b1fd9ac78fafcdf85117aa345da" {
					t.Errorf("PCR 12 is %s, not epoch and fence", got)
				}
			}
			if r.Claims["cloud_init"] != "done" {
				t.Errorf("claims %v", r.Claims)
			}
		})
	}
}

func TestMachineFaultsHaveTheirCodes(t *testing.T) {
	unjudged := cvm.Outcome{State: cvm.UnknownState, Reason: attest.CodeNotCalled}
	pass := cvm.Outcome{State: cvm.Pass}
	failed := func(code string) cvm.Outcome { return cvm.Outcome{State: cvm.Fail, Reason: code} }
	maa := newMAA(t)
	machines := map[Kind]*Machine{}
	for _, kind := range []Kind{SNP, TDX, TrustedLaunch} {
		machines[kind] = machine(t, Config{Kind: kind})
	}
	for _, c := range []struct {
		kind          Kind
		fault         Fault
		evidence, maa cvm.Outcome
	}{
		{SNP, FaultWrongNonce, failed("nonce.mismatch"), pass},
		{SNP, FaultOtherAK, failed("quote.signature"), pass},
		{SNP, FaultQuoteSignature, failed("quote.signature"), pass},
		{SNP, FaultRuntimeEdited, failed("bind.runtime"), unjudged},
		{SNP, FaultOtherVM, failed("bind.vm"), failed("maa.other-evidence")},
		{SNP, FaultForeignRoot, pass, failed("maa.refused")},
		{SNP, FaultDebug, pass, failed("maa.noncompliant")},
		{SNP, FaultNoVCEK, pass, cvm.Outcome{State: cvm.UnknownState, Reason: "snp.no-vcek"}},
		{SNP, FaultFirstBoot, pass, pass},
		{SNP, FaultNotEncrypted, pass, pass},
		{TDX, FaultWrongNonce, failed("nonce.mismatch"), pass},
		{TDX, FaultOtherAK, failed("quote.signature"), pass},
		{TDX, FaultRuntimeEdited, failed("bind.runtime"), unjudged},
		{TDX, FaultOtherVM, failed("bind.vm"), failed("maa.other-evidence")},
		{TDX, FaultForeignRoot, pass, failed("maa.refused")},
		{TDX, FaultDebug, pass, failed("maa.noncompliant")},
		{TrustedLaunch, FaultWrongNonce, failed("nonce.mismatch"), cvm.Outcome{State: cvm.NotApplicable, Reason: attest.CodeNoMAAForTL}},
		{TrustedLaunch, FaultOtherAK, failed("tl.ak-mismatch"), cvm.Outcome{State: cvm.NotApplicable, Reason: attest.CodeNoMAAForTL}},
	} {
		t.Run(string(c.kind)+"/"+string(c.fault), func(t *testing.T) {
			m := machines[c.kind]
			m.SetFaults(c.fault)
			a := judge(t, m, maa, attest.NonceGood).Attestation
			if a.Evidence != c.evidence || a.MAA != c.maa {
				t.Errorf("evidence %+v, MAA %+v\nwant     %+v, MAA %+v\nchecks %+v", a.Evidence, a.MAA, c.evidence, c.maa, a.Checks)
			}
		})
	}
	for kind, m := range machines {
		m.SetFaults()
		if a := judge(t, m, maa, attest.NonceGood).Attestation; a.Evidence.State != cvm.Pass {
			t.Errorf("healed %s machine: %+v", kind, a.Evidence)
		}
	}
}

func TestServiceFaultsHaveTheirCodes(t *testing.T) {
	failed := func(code string) cvm.Outcome { return cvm.Outcome{State: cvm.Fail, Reason: code} }
	unknown := func(code string) cvm.Outcome { return cvm.Outcome{State: cvm.UnknownState, Reason: code} }
	maa := newMAA(t)
	machines := map[Kind]*Machine{SNP: machine(t, Config{Kind: SNP}), TDX: machine(t, Config{Kind: TDX})}
	for f, want := range map[MAAFault]cvm.Outcome{
		MAAAlgNone:       failed("maa.alg-none"),
		MAAAlgHS256:      failed("maa.alg"),
		MAAUnknownKid:    failed("maa.kid"),
		MAAForeignJKU:    failed("maa.jku"),
		MAABadSignature:  failed("maa.signature"),
		MAAForeignIssuer: failed("maa.issuer"),
		MAANonCompliant:  failed("maa.noncompliant"),
		MAAGuestShape:    failed("maa.type"),
		MAAStale:         failed("maa.time"),
		MAAExpired:       failed("maa.time"),
		MAAWrongNonce:    failed("maa.nonce"),
		MAAOtherEvidence: failed("maa.other-evidence"),
		MAARefuses:       failed("maa.refused"),
		MAAThrottled:     unknown("maa.unavailable"),
		MAAServerError:   unknown("maa.unavailable"),
	} {
		if _, ok := effects[f]; !ok {
			t.Errorf("fault %q has no effect", f)
		}
		for _, kind := range []Kind{SNP, TDX} {
			t.Run(string(kind)+"/"+string(f), func(t *testing.T) {
				maa.Inject(testVMID, f, 1)
				m := machines[kind]
				a := judge(t, m, maa, attest.NonceGood).Attestation
				if a.MAA != want {
					t.Errorf("MAA %+v, want %+v; checks %+v", a.MAA, want, a.Checks)
				}
				if a.Evidence.State != cvm.Pass {
					t.Errorf("evidence %+v: the bundle itself is good", a.Evidence)
				}
			})
		}
	}
	for kind, m := range machines {
		if a := judge(t, m, maa, attest.NonceGood).Attestation; a.MAA.State != cvm.Pass {
			t.Errorf("%s after all faults: %+v", kind, a.MAA)
		}
	}
}

func TestSecureBootOffShows(t *testing.T) {
	m := machine(t, Config{Kind: SNP, SecureBootOff: true, Stateless: true})
	a := judge(t, m, newMAA(t), attest.NonceGood).Attestation
	if a.SecureBoot == nil || *a.SecureBoot || a.TPMPersisted == nil || *a.TPMPersisted {
		t.Errorf("secure boot %v, persisted %v: want both false", a.SecureBoot, a.TPMPersisted)
	}
	off := a.PCRs["7"]
	m.SetSecureBoot(true)
	m.Restart()
	a = judge(t, m, newMAA(t), attest.NonceGood).Attestation
	if a.SecureBoot == nil || !*a.SecureBoot || a.PCRs["7"] == off || a.ResetCount != 2 {
		t.Errorf("after the restart: secure boot %v, PCR 7 changed %v, resets %d", a.SecureBoot, a.PCRs["7"] != off, a.ResetCount)
	}
}
