package remedy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// Power states as cvm.VM has them.
const (
	powerRunning     = "running"
	powerDeallocated = "deallocated"
)

// expiryMargin is how long a key must still be good for a VM to be deallocated:
// a start that meets an expired key may fail.
const expiryMargin = 24 * time.Hour

// boot is what a VM's next start rests on, as read at one moment. Planning fills
// it from the posture, applying from reads of its own.
type boot struct {
	vm     cvm.VM
	des    cvm.Fact[cvm.DES] // the confidential one
	key    cvm.Fact[cvm.Key]
	vault  cvm.Fact[cvm.Vault]
	rights cvm.Fact[cvm.Rights]
}

// doubts lists why the VM might not start again once it is deallocated, one
// clause each; none means that there is no doubt that can be read. It is closed:
// what wasn't read is a doubt.
func (b boot) doubts(d *policy.Document, at time.Time) []string {
	var out doubts
	vm := b.vm
	out.when(vm.OSDisk.Ephemeral, "the OS disk is ephemeral and would be lost")
	out.when(!vm.OSDisk.Ephemeral && vm.OSDisk.ID == "", "the OS disk wasn't read")
	out.when(vm.ScaleSet != "", "the VM belongs to a scale set, which may act on its own")
	out.when(vm.OSDisk.SSEDES != "", "the OS disk hangs on a server-side disk encryption set whose key isn't looked at")
	out.when(d.Orchestrator() == "", "policy doesn't name the orchestrator's object id, so its right to release the key can't be read")
	switch cvm.SecurityOf(vm) {
	case cvm.SecurityConfidential:
		if vm.OSDisk.SecureDES != "" {
			b.keyDoubts(&out, d, at)
		} else {
			out.when(cvm.KindOf(vm) == cvm.KindUnknown, "the OS disk's security encryption type %q isn't known", vm.OSDisk.SecurityEncryptionType)
		}
	case cvm.SecurityUnknown:
		out.when(true, "the VM's security type %q isn't known", vm.SecurityType)
	}
	return out.list
}

// keyDoubts are those of a confidential OS disk under a customer key.
func (b boot) keyDoubts(out *doubts, d *policy.Document, at time.Time) {
	if des, ok := read(out, b.des, "the disk encryption set"); ok {
		out.when(!same(des.ID, b.vm.OSDisk.SecureDES), "the disk encryption set that was read isn't the VM's")
		out.when(!same(des.Type, cvm.DESTypeConfidential), "the disk encryption set isn't of the type for confidential VMs")
		desDoubts(out, des)
	}
	key, ok := read(out, b.key, "the key")
	if ok {
		keyStateDoubts(out, key, at)
		out.when(!same(key.Type, "RSA-HSM"), "the key is a %q, not an RSA-HSM key", key.Type)
		out.when(key.Exportable != cvm.True, "the key isn't exportable, so it can't be released")
		if why := releasePolicyDoubt(key, b.vm, d); why != "" {
			out.when(true, "%s", why)
		}
	}
	if v, ok := read(out, b.vault, "the vault"); ok {
		out.when(v.ShutsOutPlatform(), "the vault's firewall may keep the platform out")
	}
	if r, ok := read(out, b.rights, "the rights on the key"); ok {
		out.when(len(missing(r.DESIdentity, desOps)) > 0, "the disk encryption set's identity lacks %s", strings.Join(missing(r.DESIdentity, desOps), ", "))
		out.when(!r.OrchestratorKnown, "the orchestrator's rights weren't read")
		lack := missing(r.Orchestrator, orchestratorOps(r.Model))
		out.when(r.OrchestratorKnown && len(lack) > 0, "the Confidential VM Orchestrator lacks %s", strings.Join(lack, ", "))
	}
}

// desDoubts are those of any disk encryption set on which a start rests.
func desDoubts(out *doubts, des cvm.DES) {
	out.when(!same(des.ProvisioningState, "Succeeded"), "the disk encryption set %s is %q", des.Name, des.ProvisioningState)
	out.when(des.PreviousKeys > 0, "a key rotation of the disk encryption set %s is under way", des.Name)
	out.when(des.RotationError != "", "the last key rotation of the disk encryption set %s failed (%s)", des.Name, des.RotationError)
	out.when(des.AutoRotation && same(des.Type, cvm.DESTypeConfidential), "the disk encryption set %s may rotate its key by itself", des.Name)
	out.when(des.PrincipalID == "" && !strings.Contains(strings.ToLower(des.IdentityType), "userassigned"), "the disk encryption set %s has no identity", des.Name)
}

// keyStateDoubts are those of any key that must wrap and unwrap at a start.
func keyStateDoubts(out *doubts, key cvm.Key, at time.Time) {
	out.when(!key.AttributesRead, "the key's attributes weren't read")
	out.when(key.Enabled != cvm.True, "the key isn't enabled")
	out.when(!key.NotBefore.IsZero() && key.NotBefore.After(at), "the key isn't valid yet")
	out.when(!key.Expires.IsZero() && !key.Expires.After(at), "the key has expired")
	out.when(key.Expires.After(at) && key.Expires.Before(at.Add(expiryMargin)), "the key expires within %s", expiryMargin)
	lack := missing(lower(key.Ops), []string{"wrapkey", "unwrapkey"})
	out.when(len(lack) > 0, "the key doesn't permit %s", strings.Join(lack, ", "))
}

// desOps is what a disk encryption set's identity needs of its key.
var desOps = []string{"get", "wrapkey", "unwrapkey"}

// orchestratorOps is what the Confidential VM Orchestrator needs: with access
// policies get too.
func orchestratorOps(model string) []string {
	if model == "access-policies" {
		return []string{"get", "release"}
	}
	return []string{"release"}
}

// doubts collects clauses.
type doubts struct{ list []string }

func (d *doubts) when(is bool, format string, args ...any) {
	if is {
		d.list = append(d.list, fmt.Sprintf(format, args...))
	}
}

// read takes a fact's value, or notes that it isn't known.
func read[T any](out *doubts, f cvm.Fact[T], what string) (v T, ok bool) {
	switch {
	case f.Known:
		return f.Value, true
	case f.Absent:
		out.when(true, "%s isn't there", what)
	case f.Why.Code != "":
		out.when(true, "%s wasn't read (%s)", what, f.Why.Code)
	default:
		out.when(true, "%s wasn't read", what)
	}
	return v, false
}

// missing lists what of want isn't in have; "all" stands for everything.
func missing(have, want []string) []string {
	var out []string
	for _, w := range want {
		if !containsFold(have, w) && !containsFold(have, "all") {
			out = append(out, w)
		}
	}
	return out
}

func containsFold(list []string, want string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), want) })
}

func lower(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToLower(s)
	}
	return out
}
