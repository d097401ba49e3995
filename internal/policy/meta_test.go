package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// One bad fact added to a compliant posture never yields compliant, whatever else
// is as it may be. Pairs where the first change takes away what the second rests
// on are named.
func TestOneBadFactIsNeverCompliant(t *testing.T) {
	rows := truthTable()
	shields := map[string]func(bad row) bool{
		"ephemeral OS disk":                 func(r row) bool { return strings.ContainsAny(r.row[:1], "239") || r.row == "-" },
		"stopped VM":                        func(r row) bool { return r.row == "80" || r.row == "81" },
		"auto rotation, one V2":             func(r row) bool { return strings.HasPrefix(r.row, "31") },
		"auto rotation, disks not read":     func(r row) bool { return r.row == "31" || r.row == "39" },
		"orchestrator not named":            func(r row) bool { return r.row == "70" || r.row == "71" },
		"rights not asked":                  func(r row) bool { return strings.HasPrefix(r.row, "69") || strings.HasPrefix(r.row, "7") },
		"confidential data disk on the set": func(r row) bool { return r.row == "31" },
		"Managed HSM":                       func(r row) bool { return r.row == "64" },
		"confidential data disk":            func(r row) bool { return strings.HasPrefix(r.row, "7") },
	}
	pairs := 0
	for _, base := range rows {
		if base.value != Compliant || base.doc != "" {
			continue
		}
		for _, bad := range rows {
			if bad.value == Compliant || bad.doc != "" || shields[base.what] != nil && shields[base.what](bad) {
				continue
			}
			p := compliant()
			base.change(&p)
			bad.change(&p)
			pairs++
			if v := Judge(p, Embedded(), now); v.Value == Compliant {
				t.Errorf("%s (%s), then %s (%s): compliant", base.row, base.what, bad.row, bad.what)
			}
		}
	}
	if pairs < 2000 {
		t.Errorf("%d pairs only", pairs)
	}
}

// A note is added or not, a fault beside it stays.
func TestTwoBadFactsAreBothSaid(t *testing.T) {
	pick := map[string]bool{"12": true, "41": true, "44": true, "53": true, "54": true, "58": true, "62": true, "64": true, "66": true, "69": true, "74": true, "32": true, "35": true}
	var rows []row
	for _, r := range truthTable() {
		if pick[r.row] && r.value == NonCompliant && r.doc == "" && !strings.Contains(r.what, "unread") {
			rows = append(rows, r)
		}
	}
	for _, a := range rows {
		for _, b := range rows {
			p := compliant()
			a.change(&p)
			b.change(&p)
			got := said(Judge(p, Embedded(), now).Findings)
			for _, w := range append(slices.Clone(a.want), b.want...) {
				if !slices.Contains(got, w) {
					t.Errorf("%s and %s: %q is missing in %q", a.what, b.what, w, got)
				}
			}
		}
	}
}

// One fact turned unknown never yields compliant. The facts that may be lost are
// those that no asked rule rests on, and those of which the truth table says so.
func TestOneUnknownFactIsNeverCompliant(t *testing.T) {
	allowed := map[string]string{
		"ID": "a name", "TagSetter": "policy knows no exemption tag", "Claims": "no rule rests on claims", "SecondLook": "nothing disagrees", "DESDisks": "rows 31 and 39 aren't failed on a doubt",
		"VM.ID": "a name", "VM.Name": "a name", "VM.UniqueID": "evidence's own check", "VM.Generation": "a confidential VM is of generation 2", "VM.OS": "matters without vTPM state only",
		"VM.OSDisk.ID": "the disk was read", "VM.Power": "counts as running",
		"VM.DataDisks": "the disks were read",
		"OSDisk.ID":    "a name", "OSDisk.Name": "a name", "OSDisk.Location": "the VM's counts", "OSDisk.State": "row 29 is a note", "OSDisk.ConfidentialVersion": "row 31",
		"OSDisk.EncryptionType": "the storage layer", "OSDisk.Generation": "", "OSDisk.NetworkAccessPolicy": "row 29 is a note",
		"DES.ID": "a name", "DES.Name": "a name", "DES.SourceVault": "the vault was read",
		"Key.ID": "a name", "Key.Expires": "absent is without expiry, row 57", "Key.RecoveryLevel": "the vault shows it", "Key.Policy.Immutable": "row 52 is a note",
		"Vault.ID": "a name", "Vault.Name": "a name", "Vault.Host": "a name", "Vault.SoftDelete": "purge protection needs it", "Vault.RBAC": "rights were read",
		"Vault.DefaultAction": "row 72 is a note", "Vault.Bypass": "row 72 is a note", "Vault.PublicAccess": "row 72 is a note",
		"Rights.OrchestratorKnown": "policy doesn't name it",
		"Attestation.NonceIssued":  "JudgedAt counts", "Attestation.Kind": "",
		"GuestAsked": "not-asked by design of check",
	}
	seen := map[string]bool{}
	tried := 0
	try := func(name string, p cvm.Posture) {
		tried++
		if v := Judge(p, Embedded(), now); v.Value == Compliant {
			seen[name] = true
			if _, ok := allowed[name]; !ok {
				t.Errorf("without %s: compliant", name)
			}
		}
	}
	// Whole facts, then every leaf of every fact's value.
	var walk func(name string, at func(*cvm.Posture) reflect.Value)
	walk = func(name string, at func(*cvm.Posture) reflect.Value) {
		p := compliant()
		v := at(&p)
		if v.Kind() == reflect.Struct && v.Type().Name() != "Time" && v.NumField() > 0 {
			for i := range v.NumField() {
				field := v.Type().Field(i).Name
				sub := strings.TrimPrefix(name+"."+field, ".")
				if isFact(v.Type()) {
					if field != "Value" {
						continue
					}
					sub = name
				}
				walk(sub, func(p *cvm.Posture) reflect.Value { return at(p).Field(i) })
			}
			if isFact(v.Type()) {
				v.SetZero()
				try(name, p)
			}
			return
		}
		if v.IsZero() || !v.CanSet() {
			return
		}
		v.SetZero()
		try(name, p)
	}
	walk("", func(p *cvm.Posture) reflect.Value { return reflect.ValueOf(p).Elem() })
	// Inside the data disk's facts, which stand in a slice.
	for name, change := range map[string]func(*cvm.DataDiskFacts){
		"its disk": func(d *cvm.DataDiskFacts) { d.Disk = cvm.Fact[cvm.Disk]{} }, "its set": func(d *cvm.DataDiskFacts) { d.DES = cvm.Fact[cvm.DES]{} },
		"its encryption": func(d *cvm.DataDiskFacts) { d.Disk.Value.EncryptionType = "" }, "its set's id": func(d *cvm.DataDiskFacts) { d.Disk.Value.SSEDES = "" },
	} {
		p := compliant()
		change(&p.DataDisks[0])
		try("data disk: "+name, p)
	}
	if tried < 60 {
		t.Errorf("%d facts only", tried)
	}
	for name := range allowed {
		if !seen[name] {
			t.Errorf("%s is allowed to be lost and never was", name)
		}
	}
}

func isFact(t reflect.Type) bool { return strings.HasPrefix(t.Name(), "Fact[") }

// Judge changes nothing of its input and gives equal bytes for equal input.
func TestJudgeIsPure(t *testing.T) {
	p := compliant()
	before := fmt.Sprintf("%#v", p)
	a, b := Judge(p, Embedded(), now), Judge(p, Embedded(), now)
	if !reflect.DeepEqual(a, b) || fmt.Sprintf("%#v", p) != before || a.PolicyHash != Embedded().Hash || !a.At.Equal(now) {
		t.Error("not pure")
	}
	if len(a.Findings) < len(Rules())-8 || a.Kind != cvm.KindCustomerKey || a.TEE != cvm.TEESNP {
		t.Errorf("%d findings, %s, %s", len(a.Findings), a.Kind, a.TEE)
	}
	for _, f := range a.Findings {
		if f.State == cvm.NotAsked && f.Rule != "disk-export" && f.Rule != "encryption-at-host" && f.Rule != "key-policy-immutable" && f.Rule != "temp-disk-confidential" && f.Rule != "key-version" {
			t.Errorf("%+v", f)
		}
	}
	if v := Judge(cvm.Posture{}, Embedded(), now); v.Value != Unknown {
		t.Errorf("the zero posture is %s", v.Value)
	}
	if v := Judge(cvm.Posture{Gone: true}, Embedded(), now); v.Value != Gone || len(v.Findings) != 0 {
		t.Errorf("a VM that is gone is %s", v.Value)
	}
}
