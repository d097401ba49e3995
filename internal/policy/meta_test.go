package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// One fact of a posture turned unknown never yields compliant. The facts that may be lost are
// those that no asked rule rests on, and those of which the truth table says so.
func TestOneLostFactIsNeverCompliant(t *testing.T) {
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
