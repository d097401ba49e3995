package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

// Codes that are not of one numbered check.
const (
	CodeNotCalled   = "maa.not-called"              // the evidence isn't fit to be shown to MAA
	CodeNoMAAForTL  = "maa.none-for-trusted-launch" // MAA has no call for it
	CodeNoProvider  = "maa.no-provider"             // no provider is known for the region
	CodeUnavailable = "maa.unavailable"             // network, throttle, or no client
	CodeRefused     = "maa.refused"                 // MAA answered 400
	CodeNoVCEK      = "snp.no-vcek"                 // the bundle has none, MAA can't be asked
	codeNotByARM    = "tl.nonce-not-by-arm"         // nothing ties the bundle to the VM
	codeSubject     = "bind.vm"                     // S10, also for a VM whose vmId isn't known
)

// judgement is one run of Judge: checks as they are made, and what they found.
type judgement struct {
	bundle  *Bundle
	nonce   Nonce
	subject Subject
	options Options
	now     time.Time

	checks  []cvm.Check
	kind    string // as C3 found it
	report  SNPReport
	quote   TDQuote
	runtime RuntimeData
	hcl     HCLReport // as C3 found it
	fit     bool      // what MAA would be shown is well-formed and bound
	vouched bool      // our own hardware chain passed
	quoted  TPMQuoted
	res     Result
}

// Judge judges a bundle, in this order: the bundle and its nonce (C1, C2), the
// report's form and kind (C3), the hardware report and what is bound to it (S or
// T), the quote (Q), and then what Microsoft Azure Attestation says (M). now is
// the time of judgement. It returns no error: what went wrong is in the checks.
func Judge(ctx context.Context, bundle []byte, n Nonce, s Subject, o Options, now time.Time) Result {
	return judgeAgainst(ctx, bundle, n, s, o, now, expectedExtraData)
}

// expectedExtraData is what Q4 asks for.
func expectedExtraData(b *Bundle, s Subject) ([]byte, error) {
	rest, err := b.Canonical(true)
	if err != nil {
		return nil, err
	}
	if len(b.Nonce) != 32 {
		return nil, fmt.Errorf("nonce of %d bytes, want 32", len(b.Nonce))
	}
	sum, err := ExtraData([32]byte(b.Nonce), s.UniqueID, rest)
	return sum[:], err
}

// judgeAgainst is Judge with the rule for the expected extraData as an argument:
// public test vectors carry their nonce there in the raw.
func judgeAgainst(ctx context.Context, bundle []byte, n Nonce, s Subject, o Options, now time.Time,
	expect func(*Bundle, Subject) ([]byte, error)) Result {
	j := &judgement{nonce: n, subject: s, options: o, now: now, kind: expectedKind(s)}
	sum := sha256.Sum256(bundle)
	a := &j.res.Attestation
	a.Bundle, a.NonceIssued, a.JudgedAt, a.Way = hex.EncodeToString(sum[:]), n.Issued, now, n.Way
	a.Development = o.Roots.Development()

	j.evidence(ctx, bundle, expect)
	a.Kind = j.kind
	a.Evidence = outcome(j.checks)
	own := len(j.checks)
	a.MAA = j.microsoft(ctx)
	if a.MAA.State == "" {
		a.MAA = outcome(j.checks[own:])
	}
	a.Checks = j.checks
	if a.Evidence.State == cvm.Pass {
		j.res.Claims = j.bundle.Guest
		j.prove()
	}
	return j.res
}

// evidence makes the checks C, S or T, and Q. It stops where what follows could
// not be made at all.
func (j *judgement) evidence(ctx context.Context, raw []byte, expect func(*Bundle, Subject) ([]byte, error)) {
	b, err := Decode(raw)
	if err != nil {
		j.fail("C1", "bundle.malformed", "%v", err)
		return
	}
	j.bundle = b
	j.pass("C1", "")
	fresh := j.checkNonce()
	if !j.checkKind() {
		return
	}
	switch j.kind {
	case KindSNP:
		j.fit = j.snp(ctx)
	case KindTDX:
		j.fit = j.tdx(ctx)
	}
	j.fit = j.fit && fresh
	j.vtpm(expect)
}

// checkNonce is C2. The row has been consumed by the caller; what is left is
// whether it was for this VM as it is today.
func (j *judgement) checkNonce() bool {
	n, s := j.nonce, j.subject
	switch {
	case n.State == NonceExpired:
		j.fail("C2", "nonce.expired", "the nonce's time had passed when the bundle came")
	case n.State == NonceReused:
		j.fail("C2", "nonce.reused", "the nonce was used before by other bytes")
	case n.State != NonceGood:
		j.fail("C2", "nonce.unknown", "the nonce was never issued")
	case !strings.EqualFold(string(n.VMID), string(s.ID)):
		j.fail("C2", "nonce.unknown", "the nonce was issued for another VM")
	case s.UniqueID != "" && !sameVMID(n.UniqueID, s.UniqueID):
		j.fail("C2", "nonce.unknown", "the nonce was issued for vmId %q, the VM of that name is now %q", n.UniqueID, s.UniqueID)
	case s.TL && n.Way != "arm":
		// A Trusted Launch certificate doesn't name the VM: only that the nonce went
		// to the VM through ARM ties the bundle to it.
		j.unknown("C2", codeNotByARM, "Trusted Launch evidence counts only for a nonce delivered through ARM, by Run Command")
		return true
	default:
		j.pass("C2", "")
		return true
	}
	return false
}

// expectedKind is the kind of evidence that a VM must give, "" if either CVM kind
// may come.
func expectedKind(s Subject) string {
	switch {
	case s.TL:
		return KindTrustedLaunch
	case s.TEE == cvm.TEESNP:
		return KindSNP
	case s.TEE == cvm.TEETDX:
		return KindTDX
	}
	return ""
}

// checkKind is C3: the HCL report's form, and its type against what ARM shows.
func (j *judgement) checkKind() bool {
	b, want := j.bundle, expectedKind(j.subject)
	if want == "" && j.subject.TEE != cvm.TEEUnknown {
		j.fail("C3", "hcl.kind", "the VM is neither confidential nor Trusted Launch (TEE %q)", j.subject.TEE)
		return false
	}
	got := KindTrustedLaunch
	if want != KindTrustedLaunch || len(b.HCLReport) > 0 {
		h, err := ParseHCL(b.HCLReport)
		if err != nil {
			j.fail("C3", "hcl.format", "%v", err)
			return false
		}
		j.hcl = h
		switch h.Type {
		case HCLTypeSNP:
			got = KindSNP
		case HCLTypeTDX:
			got = KindTDX
		case HCLTypeTrustedVM:
		default:
			j.fail("C3", "hcl.kind", "an HCL report of type %d is not one of a confidential VM", h.Type)
			return false
		}
		j.res.Attestation.Kind = got
	}
	switch {
	case want != "" && got != want:
		j.fail("C3", "hcl.kind", "the report says %s, the VM is %s", got, want)
	case want == "" && got == KindTrustedLaunch:
		j.fail("C3", "hcl.kind", "a confidential VM's report says %s", got)
	case b.Kind != got:
		j.fail("C3", "hcl.kind", "the bundle says %s, its report %s", b.Kind, got)
	default:
		j.kind = got
		j.pass("C3", "")
		return true
	}
	return false
}

// snp makes S1 and S8 to S10, with S2 to S7 between them by Options.Hardware. It
// says whether report and runtime data are fit for MAA.
func (j *judgement) snp(ctx context.Context) bool {
	var err error
	if j.report, err = ParseSNPReport(j.hcl.Hardware); err != nil {
		j.fail("S1", "snp.format", "%v", err)
		return false
	}
	j.pass("S1", "")
	j.hardware(ctx, Hardware{Kind: KindSNP, Report: j.report, VCEK: j.bundle.VCEK}, "S2", "S3", "S4", "S5", "S6", "S7")
	if !bound(j.report.ReportData, j.hcl.Runtime) {
		j.fail("S8", "bind.runtime", "REPORT_DATA is not the SHA-256 of the runtime data")
		return false
	}
	j.pass("S8", "")
	return j.checkRuntime("S9", "S10")
}

// tdx makes T1, T7 and T8, with T2 to T6 between them by Options.Hardware.
func (j *judgement) tdx(ctx context.Context) bool {
	if len(j.bundle.TEEQuote) == 0 {
		j.fail("T1", "tdx.format", "the bundle has no TD quote")
		return false
	}
	var err error
	if j.quote, err = ParseTDQuote(j.bundle.TEEQuote); err != nil {
		j.fail("T1", "tdx.format", "%v", err)
		return false
	}
	report, err := ParseTDReport(j.hcl.Hardware)
	if err != nil {
		j.fail("T1", "tdx.format", "%v", err)
		return false
	}
	j.pass("T1", "")
	j.hardware(ctx, Hardware{Kind: KindTDX, Quote: j.quote}, "T2", "T3", "T4", "T5", "T6")
	switch {
	case !bound(j.quote.ReportData, j.hcl.Runtime):
		j.fail("T7", "bind.runtime", "the quote's REPORTDATA is not the SHA-256 of the runtime data")
		return false
	case j.quote.ReportData != report.ReportData || j.quote.MRTD != report.MRTD:
		j.fail("T7", "bind.runtime", "the TD quote is not of the TDREPORT in the HCL report (REPORTDATA or MRTD differs)")
		return false
	}
	j.pass("T7", "")
	return j.checkRuntime("T8", "T8")
}

// hardware is the seam for the hardware's own signature chain.
func (j *judgement) hardware(ctx context.Context, h Hardware, ids ...string) {
	if j.options.Hardware == nil {
		for _, id := range ids {
			j.add(id, cvm.NotAsked, "", "left to Microsoft Azure Attestation")
		}
		return
	}
	h.Roots, h.Now = j.options.Roots, j.now
	checks := j.options.Hardware.VerifyHardware(ctx, h)
	j.checks = append(j.checks, checks...)
	j.vouched = len(checks) > 0 && outcome(checks).State == cvm.Pass
}

// bound says whether report data is SHA-256(runtime data) and 32 zero bytes.
func bound(reportData [64]byte, runtime []byte) bool {
	sum := sha256.Sum256(runtime)
	return bytes.Equal(reportData[:32], sum[:]) && allZero(reportData[32:])
}

// checkRuntime is S9 and S10, or T8 for both. The VM's id decides the evidence,
// not what MAA may be shown: M9 compares it again.
func (j *judgement) checkRuntime(akID, vmID string) bool {
	rt, err := ParseRuntimeData(j.hcl.Runtime)
	if err != nil {
		j.fail(akID, "bind.ak", "%v", err)
		return false
	}
	j.runtime = rt
	if akID != vmID {
		j.pass(akID, "")
	}
	switch {
	case j.subject.UniqueID == "":
		j.unknown(vmID, codeSubject, "ARM's vmId is not known")
	case !sameVMID(rt.VMUniqueID, j.subject.UniqueID):
		j.fail(vmID, codeSubject, "the evidence is of VM %q, ARM's vmId is %q", rt.VMUniqueID, j.subject.UniqueID)
	default:
		j.pass(vmID, "")
	}
	return true
}

// prove fills in what rules may rest on: only once the quote holds and the
// hardware (or, for Trusted Launch, Azure's certificate) stands behind its key.
func (j *judgement) prove() {
	a := &j.res.Attestation
	if j.kind != KindTrustedLaunch && !j.vouched && a.MAA.State != cvm.Pass {
		return
	}
	a.SecureBoot, a.TPMPersisted = j.runtime.SecureBoot, j.runtime.TPMPersisted
	a.PCRs = j.bundle.TPMQuote.PCRs
	a.ResetCount = j.quoted.ResetCount
	if j.runtime.AK != nil {
		sum := sha256.Sum256(j.runtime.AK.N.Bytes())
		a.AK = hex.EncodeToString(sum[:])
	}
	a.Measurement = j.measurement()
}

// measurement is the launch measurement or MRTD, hex; "" for Trusted Launch.
func (j *judgement) measurement() string {
	switch j.kind {
	case KindSNP:
		return hex.EncodeToString(j.report.Measurement[:])
	case KindTDX:
		return hex.EncodeToString(j.quote.MRTD[:])
	}
	return ""
}

// outcome is decided by the first check that failed, else by the first that is
// unknown. No check at all is unknown.
func outcome(checks []cvm.Check) cvm.Outcome {
	var firstUnknown *cvm.Check
	for i, c := range checks {
		switch c.State {
		case cvm.Fail:
			return cvm.Outcome{State: cvm.Fail, Reason: c.Code}
		case cvm.Pass, cvm.NotAsked, cvm.NotApplicable:
		default:
			if firstUnknown == nil {
				firstUnknown = &checks[i]
			}
		}
	}
	if len(checks) == 0 {
		return cvm.Outcome{State: cvm.UnknownState}
	}
	if firstUnknown != nil {
		return cvm.Outcome{State: cvm.UnknownState, Reason: firstUnknown.Code}
	}
	return cvm.Outcome{State: cvm.Pass}
}

func (j *judgement) add(id string, state cvm.State, code, detail string) {
	const longest = 400 // evidence and token are quoted in details: keep records small
	if len(detail) > longest {
		detail = strings.ToValidUTF8(detail[:longest], "") + " …"
	}
	kind := "V"
	if id == "M10" {
		kind = "P"
	}
	j.checks = append(j.checks, cvm.Check{ID: id, Kind: kind, State: state, Code: code, Detail: detail})
}

func (j *judgement) pass(id, detail string) { j.add(id, cvm.Pass, "", detail) }

func (j *judgement) fail(id, code, format string, args ...any) {
	j.add(id, cvm.Fail, code, fmt.Sprintf(format, args...))
}

func (j *judgement) unknown(id, code, format string, args ...any) {
	j.add(id, cvm.UnknownState, code, fmt.Sprintf(format, args...))
}

// errNoRoots is for a judgement that was given none.
var errNoRoots = errors.New("no trust roots are set")
