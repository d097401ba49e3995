package policy

import (
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

// Judge turns a VM's posture into a verdict under a document, at a moment. The
// verdict is the first of these that holds:
//
//	gone           ARM said 404 twice
//	not-a-cvm      the VM isn't one and the document doesn't want it to be
//	non-compliant  any finding fails
//	unknown        any finding is unknown
//	compliant
//
// Which rule speaks for which row of the truth table is in docs/rules.md. Row 28 (a
// disk without a VM) is JudgeOrphan's.
//
// A row that is a note is a pass with its reason. Rules behind a link that isn't
// there are not-applicable; behind one that is there and wasn't read they are
// unknown with that link's code.
func Judge(p cvm.Posture, d *Document, now time.Time) Verdict {
	v := Verdict{PolicyHash: d.Hash, At: now.UTC(), Findings: []Finding{}}
	if p.Gone {
		v.Value = Gone
		return v
	}
	s := newSubject(onVM, d, now)
	s.posture(p)
	s.granted = s.exempting()
	if p.VM.Known {
		v.Kind, v.TEE = cvm.KindWithDisk(p.VM.Value, p.OSDisk), cvm.TEEOf(p.VM.Value)
	} else {
		v.Kind, v.TEE = cvm.KindUnknown, cvm.TEEUnknown
	}
	v.Findings = s.findings()
	if s.unwanted {
		v.Value = NotACVM
		v.Why = fmt.Sprintf("it is %s, and policy doesn't want it to be a confidential VM: %s", describeKind(v.Kind, s.security), s.why)
		return v
	}
	v.Value = valueOf(v.Findings)
	return v
}

// JudgeShared judges what VMs share by the same rules, each kind by those that
// name it in Rule.On: a disk encryption set with the rights on its key, a key, a
// vault, or the readiness of a region.
func JudgeShared(p cvm.SharedPosture, d *Document, now time.Time) Verdict {
	v := Verdict{PolicyHash: d.Hash, At: now.UTC()}
	s := newSubject(string(p.Kind), d, now)
	s.sharedPosture(p)
	s.granted = s.exempting()
	v.Findings = s.findings()
	v.Value = valueOf(v.Findings)
	if p.Gone {
		v.Value = Gone
	}
	return v
}

func valueOf(list []Finding) Value {
	v := Compliant
	for _, f := range list {
		switch f.State {
		case cvm.Fail:
			return NonCompliant
		case cvm.UnknownState:
			v = Unknown
		}
	}
	return v
}

func describeKind(k cvm.Kind, sec cvm.Security) string {
	if k == cvm.KindUnknown && sec == cvm.SecurityStandard {
		return "an ordinary VM"
	}
	return "a " + string(k) + " VM"
}

// subject is what rules look at: a posture's parts with the links between them.
type subject struct {
	on  string // the kind of object
	doc *Document
	now time.Time

	p        cvm.Posture // of a VM
	vm       cvm.VM
	security cvm.Security
	unwanted bool   // the VM isn't confidential and policy doesn't want it to be
	why      string // which selector decided that policy wants it to be, or doesn't

	// The key path. linked is false where the VM names no confidential set.
	linked   bool
	desID    cvm.DESID
	des      cvm.Fact[cvm.DES]
	desDisks cvm.Fact[[]cvm.Disk]
	key      cvm.Fact[cvm.Key]
	vault    cvm.Fact[cvm.Vault]
	rights   cvm.Fact[cvm.Rights]
	keyURL   string // as the set names it, or the key's own
	vaultID  string // of a vault's own turn
	region   string // in which the key path must work, "" if it isn't known
	tee      cvm.TEE

	id      string // of the object
	granted grants // what exempts it

	contested []cvm.Contest // steps that aren't taken any more
}

func newSubject(on string, d *Document, now time.Time) *subject {
	return &subject{on: on, doc: d, now: now}
}

func (s *subject) posture(p cvm.Posture) {
	s.id, s.contested = string(p.ID), p.Contested
	s.p, s.des, s.desDisks, s.key, s.vault, s.rights = p, p.DES, p.DESDisks, p.Key, p.Vault, p.Rights
	if !p.VM.Known {
		return
	}
	s.vm = p.VM.Value
	s.security = cvm.SecurityOf(s.vm)
	s.region, s.tee = s.vm.Location, cvm.TEEOf(s.vm)
	s.desID = s.vm.OSDisk.SecureDES
	s.linked = s.desID != ""
	if s.des.Known {
		s.keyURL = s.des.Value.KeyURL
	}
	notCVM := s.security == cvm.SecurityStandard || s.security == cvm.SecurityTrustedLaunch
	asked := s.vm
	if img, ok := cvm.ImageOf(s.vm, p.OSDisk); ok {
		asked.Image = img // of a VM made from a disk its disk remembers it
	}
	var wanted bool
	wanted, s.why = s.doc.Want.Why(asked)
	s.unwanted = notCVM && !wanted
}

func (s *subject) sharedPosture(p cvm.SharedPosture) {
	s.id, s.contested = p.ID, p.Contested
	s.des, s.desDisks, s.key, s.vault, s.rights = p.DES, p.DESDisks, p.Key, p.Vault, p.Rights
	s.linked, s.region = true, p.Region
	switch p.Kind {
	case cvm.SharedDES:
		s.desID = cvm.DESID(p.ID)
	case cvm.SharedKey:
		s.keyURL = p.ID
	case cvm.SharedVault:
		s.vaultID = p.ID
	}
	if p.DES.Known {
		s.desID, s.keyURL = p.DES.Value.ID, p.DES.Value.KeyURL
	}
	if p.Key.Known {
		s.keyURL = string(p.Key.Value.ID)
	}
}

// findings asks every rule that is on and judged on this kind of object.
func (s *subject) findings() []Finding {
	list := []Finding{}
	for _, r := range ruleTable() {
		if !r.on(s.on) {
			continue
		}
		var found []Finding
		switch {
		case s.doc.Effect(r.ID) == EffectOff:
			found = notAsked("Policy has this rule off.")
		case s.unwanted && r.ID != "vm-kind":
			found = notApplicable("The VM isn't a confidential VM, and policy doesn't want it to be one.")
		default:
			found = r.judge(s)
		}
		for _, f := range found {
			f.Rule, f.Doc = r.ID, r.Doc
			if f.Severity == "" {
				f.Severity = r.Severity
			}
			list = append(list, s.exempt(f))
		}
	}
	return list
}

// The makers of findings. Rule, document and, where it isn't set, severity are
// filled in by findings.

func pass(text string, facts ...string) []Finding {
	return []Finding{{State: cvm.Pass, Text: text, Facts: facts}}
}

func note(code, text string, facts ...string) Finding {
	return Finding{State: cvm.Pass, Severity: Info, Reason: code, Text: text, Facts: facts}
}

func fail(code string, class Class, text string, facts ...string) Finding {
	return Finding{State: cvm.Fail, Reason: code, Class: class, Text: text, Facts: facts}
}

func unknown(code string, class Class, text string, facts ...string) Finding {
	return Finding{State: cvm.UnknownState, Reason: code, Class: class, Text: text, Facts: facts}
}

func notApplicable(text string) []Finding {
	return []Finding{{State: cvm.NotApplicable, Text: text}}
}

func notAsked(text string) []Finding {
	return []Finding{{State: cvm.NotAsked, Text: text}}
}

func one(f Finding) []Finding { return []Finding{f} }

// orPass is the list, or a pass where it is empty.
func orPass(list []Finding, text string, facts ...string) []Finding {
	if len(list) == 0 {
		return pass(text, facts...)
	}
	return list
}

// unread is the finding for a fact that isn't known: its own code, or the link's.
func unread[T any](f cvm.Fact[T], code, what string) Finding {
	out := unknown(code, NeedsPerson, what+" was not read.", what)
	if f.Why.Code != "" {
		out.Reason = f.Why.Code
	}
	if f.Why.Detail != "" {
		out.Text = what + " was not read: " + strings.TrimSuffix(f.Why.Detail, ".") + "."
	}
	if f.Absent {
		out.Text = what + " isn't there."
	}
	if f.Why.Action != "" {
		out.Action = f.Why.Action
		out.Text += " Grant " + f.Why.Action + "."
	}
	return out
}

func asked[T any](f cvm.Fact[T]) bool { return f.Known || f.Why.Code != "not-asked" }

// needVM gives the VM, or what a rule on a VM that wasn't read says.
func (s *subject) needVM() []Finding {
	if s.p.VM.Known {
		return nil
	}
	return one(unread(s.p.VM, "vm-unreadable", "vm"))
}

// needCVM is needVM for rules about confidential VMs alone.
func (s *subject) needCVM() []Finding {
	if list := s.needVM(); list != nil {
		return list
	}
	switch s.security {
	case cvm.SecurityConfidential:
		return nil
	case cvm.SecurityUnknown:
		return one(unknown("security-type-unread", NeedsPerson, fmt.Sprintf("securityType is %q, which isn't known.", s.vm.SecurityType), "vm.securityType"))
	}
	return notApplicable("The VM isn't a confidential VM.")
}

// needDES gives nil when the set was read, else what a rule behind it says. A set
// that isn't there is row 4's alone.
func (s *subject) needDES() []Finding {
	if s.on == onVM {
		if list := s.needVM(); list != nil {
			return list
		}
		if s.security == cvm.SecurityStandard || s.security == cvm.SecurityTrustedLaunch || !s.linked {
			return notApplicable("The VM names no confidential disk encryption set.")
		}
	}
	switch {
	case s.des.Known:
		return nil
	case s.des.Absent:
		return notApplicable("The disk encryption set isn't there.")
	}
	f := unread(s.des, "des-unreadable", "des")
	f.Object = string(s.desID)
	return one(f)
}

// needKeyPath is needDES for what lies behind the set: a URL that names no key
// (row 37) ends the path.
func (s *subject) needKeyPath() []Finding {
	if s.on == onKey || s.on == onVault || s.on == onRegion {
		return nil
	}
	if list := s.needDES(); list != nil {
		return list
	}
	if _, err := cvm.ParseKeyID(s.keyURL); err != nil {
		return notApplicable("The disk encryption set names no key.")
	}
	return nil
}

func (s *subject) needKey() []Finding {
	if list := s.needKeyPath(); list != nil {
		return list
	}
	switch {
	case s.key.Known:
		return nil
	case s.key.Absent:
		return notApplicable("The key isn't there.")
	}
	f := unread(s.key, "key-unreadable", "key")
	f.Object = s.keyObject()
	return one(f)
}

// needAttributes is needKey for rules on the key's attributes.
func (s *subject) needAttributes() []Finding {
	if list := s.needKey(); list != nil {
		return list
	}
	if !s.key.Value.AttributesRead {
		return one(s.onKey(unknown("key-attributes-unread", NeedsPerson, "The key's attributes were not in what was read.", "key.attributes")))
	}
	return nil
}

func (s *subject) needVault() []Finding {
	if list := s.needKeyPath(); list != nil {
		return list
	}
	if s.vault.Known {
		return nil
	}
	f := unread(s.vault, "vault-unreadable", "vault")
	f.Object = s.vaultObject()
	return one(f)
}

// besideTheChain is what a rule says whose fact is captured apart from the chain that
// leads to it: what hangs on a set, newer versions, rights. Where the chain wasn't
// captured nobody asks it; the chain's own rules say that it is missing.
func besideTheChain(list []Finding) []Finding {
	if len(list) == 1 && list[0].Reason == "not-captured" {
		return notAsked("What it rests on was not captured.")
	}
	return list
}

func (s *subject) needRights() []Finding {
	if list := s.needKeyPath(); list != nil {
		return besideTheChain(list)
	}
	if s.rights.Known {
		return nil
	}
	if !asked(s.rights) {
		return notAsked("Rights were not read here; the disk encryption set's own turn reads them.")
	}
	f := unread(s.rights, "rights-unreadable", "rights")
	f.Object = string(s.desID)
	return one(f)
}

// The shared objects at fault, as Finding.Object names them.

func (s *subject) onDES(f Finding) Finding { f.Object = string(s.desID); return f }

func (s *subject) onKey(f Finding) Finding { f.Object = s.keyObject(); return f }

func (s *subject) onVault(f Finding) Finding { f.Object = s.vaultObject(); return f }

func (s *subject) keyObject() string {
	if id, err := cvm.ParseKeyID(s.keyURL); err == nil {
		return string(id.Versionless())
	}
	return s.keyURL
}

func (s *subject) vaultObject() string {
	switch {
	case s.vault.Known && s.vault.Value.ID != "":
		return s.vault.Value.ID
	case s.vaultID != "":
		return s.vaultID
	case s.des.Known && s.des.Value.SourceVault != "":
		return s.des.Value.SourceVault
	}
	if id, err := cvm.ParseKeyID(s.keyURL); err == nil {
		return "https://" + id.Host()
	}
	return ""
}
