package hardware

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

// claimed is what a judge reads of the machine's claims.
func claimed(t *testing.T, m *Machine) cvm.GuestClaims {
	t.Helper()
	b, err := json.Marshal(m.Claims(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var c cvm.Claims
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	g, err := cvm.ReadGuestClaims(c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestUpdates(t *testing.T) {
	v, err := SharedVendors()
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMachine(v, Config{Kind: SNP, VMUniqueID: testVMID})
	if err != nil {
		t.Fatal(err)
	}
	pcr := func(n int) string {
		p, err := m.PCRs([]int{n})
		if err != nil {
			t.Fatal(err)
		}
		return string(p[n])
	}
	say := func(what string, unsealed []string, reboot string) {
		t.Helper()
		c := claimed(t, m)
		state, why := c.FDE()
		if !slices.Equal(c.Unsealed, unsealed) || c.RebootFor != reboot || c.BootFiles != cvm.True || state != cvm.FDEActive {
			t.Errorf("%s: unsealed %q, reboot for %q, %s (%s)", what, c.Unsealed, c.RebootFor, state, why)
		}
	}
	say("at first", nil, "")

	// A kernel that the key is sealed to: pending, then booted; PCR 4 tells, 7 doesn't.
	was4, was7 := pcr(4), pcr(7)
	m.UpdateKernel(true)
	say("updated and resealed", nil, "kernel.efi-6.8.0-1030-azure-fde")
	if pcr(4) != was4 {
		t.Error("PCR 4 changed without a boot")
	}
	m.Restart()
	say("restarted", nil, "")
	if pcr(4) == was4 || pcr(7) != was7 || m.LockedOut() {
		t.Error("another kernel booted, and PCRs 4 and 7 don't tell it")
	}

	// One that it isn't sealed to locks the owner out, unless it is resealed in time.
	m.UpdateKernel(false)
	say("updated", []string{"kernel.efi-6.8.0-1039-azure-fde"}, "")
	m.Reseal()
	say("resealed in time", nil, "kernel.efi-6.8.0-1039-azure-fde")
	m.Restart()
	if m.LockedOut() {
		t.Error("locked out, though resealed")
	}
	m.UpdateKernel(false)
	m.Restart()
	if !m.LockedOut() {
		t.Error("the root was opened without its key")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if exit, _, _ := (&Guest{Machine: m}).Run(ctx, nil, ""); exit != 137 {
		t.Errorf("an agent answered with %d", exit)
	}
	m.Reseal()
	say("opened by the recovery key and resealed", nil, "")

	// The forbidden signatures are measured at the next boot.
	m.RevokeSignatures(false)
	say("dbx updated", []string{"dbx"}, "")
	m.RevokeSignatures(true)
	say("dbx updated and resealed", nil, "dbx")
	m.Restart()
	say("restarted", nil, "")
	if pcr(7) == was7 || m.LockedOut() {
		t.Error("PCR 7 doesn't tell of dbx")
	}
}

func TestWhatTheRootIs(t *testing.T) {
	v, err := SharedVendors()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		cfg     Config
		fault   Fault
		state   cvm.FDEState
		fenced  bool
		details func(c cvm.GuestClaims) bool
	}{
		{"sealed", Config{Kind: SNP}, "", cvm.FDEActive, true, func(c cvm.GuestClaims) bool { return c.Keyslots == 1 && c.UbuntuFDE == cvm.True }},
		{"TDX", Config{Kind: TDX}, "", cvm.FDEActive, true, nil},
		{"plain", Config{Kind: SNP, PlainRoot: true}, "", cvm.FDEInactive, false, func(c cvm.GuestClaims) bool { return c.SealedKey == cvm.False }},
		{"Trusted Launch", Config{Kind: TrustedLaunch}, "", cvm.FDEInactive, false, nil},
		{"says that it is plain", Config{Kind: SNP}, FaultNotEncrypted, cvm.FDEInactive, true, nil},
		{"first boot", Config{Kind: SNP}, FaultFirstBoot, cvm.FDEProvisioning, true, nil},
		{"clear key", Config{Kind: SNP}, FaultClearKey, cvm.FDEActive, true, func(c cvm.GuestClaims) bool { return c.ClearKey == cvm.True }},
		{"slot left", Config{Kind: SNP}, FaultSlotLeft, cvm.FDEActive, true, func(c cvm.GuestClaims) bool { return c.ResizeSlot == cvm.True }},
		{"unfenced", Config{Kind: SNP}, FaultUnfenced, cvm.FDEActive, false, nil},
	} {
		tt.cfg.VMUniqueID = testVMID
		m, err := NewMachine(v, tt.cfg)
		if err != nil {
			t.Fatal(err)
		}
		m.SetFaults(tt.fault)
		c := claimed(t, m)
		bundle, err := (&Guest{Machine: m}).Collect(t.Context(), newNonce(t), testVMID)
		if err != nil {
			t.Fatal(err)
		}
		var b struct {
			Quote struct{ PCRs map[string]string } `json:"tpm_quote"`
		}
		if err := json.Unmarshal(bundle, &b); err != nil {
			t.Fatal(err)
		}
		if state, why := c.FDE(); state != tt.state || (b.Quote.PCRs["12"] == cvm.PCR12Fenced) != tt.fenced || tt.details != nil && !tt.details(c) {
			t.Errorf("%s: %s (%s), PCR 12 %s, %+v", tt.name, state, why, b.Quote.PCRs["12"], c)
		}
	}
}
