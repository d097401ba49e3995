package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

func ten() (names []string) {
	for i := range 10 {
		names = append(names, fmt.Sprintf("vm%02d", i))
	}
	return names
}

// Ten VMs on one disk encryption set with a fault: it is repaired once, and its
// outcome puts all ten on the loop before it is recorded.
func TestTenVMsOnOneSet(t *testing.T) {
	w := newWorld(t, ten()...)
	w.des.AutoRotation = true
	l, des := w.loop(t, policy.ModeEnforce), mustShared(t, string(desID))
	woken := -1
	w.store.Hook = func(a memstore.Action) error {
		if a.Op == "create" && !a.After && strings.HasPrefix(a.Name, ledger.ContainerRecords+"/"+des.Chain()) && w.row(t, des).Step != nil {
			woken = 0
			msgs, _ := w.queued(t)
			for _, n := range ten() {
				if slices.ContainsFunc(msgs, func(m Message) bool {
					return strings.EqualFold(m.VM, string(vmIDOf(n))) && m.Cause.Kind == causeShared
				}) {
					woken++
				}
			}
		}
		return nil
	}
	w.announce(t, ten()...)
	w.announce(t, ten()...)
	w.drain(t, l, nil)
	if w.count("des") != 1 || woken != 10 {
		t.Errorf("repaired %d times; %d VMs were on the queue when that was recorded", w.count("des"), woken)
	}
	for _, n := range ten() {
		if r := w.row(t, mustVM(t, n)); r.Verdict != policy.Compliant {
			t.Errorf("%s is %s", n, r.Verdict)
		}
		w.atRest(t, mustVM(t, n))
	}
	w.atRest(t, des)
}

// A VM's turn wakes what it shares when that has no row, an old one, or something
// to be done; else it doesn't.
func TestWhenASharedObjectIsWoken(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	woken := func() (kinds []string) {
		before, _ := w.queued(t)
		if err := l.Turn(t.Context(), w.event("vm1", "look")); err != nil {
			t.Fatal(err)
		}
		after, _ := w.queued(t)
		for _, m := range after {
			if m.Shared != "" && !slices.Contains(before, m) {
				kinds = append(kinds, string(mustShared(t, m.Shared).Kind))
			}
		}
		w.until(t, l, time.Minute)
		slices.Sort(kinds)
		return slices.Compact(kinds)
	}
	if got := woken(); len(got) != 0 {
		t.Errorf("all is well: %v", got)
	}
	w.clock.Advance(l.Settings.SharedAge + time.Minute)
	if got := fmt.Sprint(woken()); got != "[des key vault]" {
		t.Errorf("old: %v", got)
	}
	if got := woken(); len(got) != 0 {
		t.Errorf("looked at again: %v", got)
	}
	w.mu.Lock()
	w.des.AutoRotation = true
	w.mu.Unlock()
	if got := fmt.Sprint(woken()); got != "[des]" {
		t.Errorf("at fault: %v", got)
	}
	w.drain(t, l, nil)
	for _, id := range []string{string(desID), keyName, vaultID} {
		s := mustShared(t, id)
		e, err := w.store.Tables().Get(t.Context(), s.Table, s.PK, s.RK)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Tables().Delete(t.Context(), s.Table, s.PK, s.RK, e.ETag); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(woken()); got != "["+string(s.Kind)+"]" {
			t.Errorf("without a row: %v", got)
		}
		w.until(t, l, 5*time.Minute)
		w.atRest(t, s, o)
	}
	if w.row(t, o).Verdict != policy.Compliant || w.count("des") != 1 {
		t.Errorf("%s, %v", w.row(t, o).Verdict, w.writes)
	}
}

// A shared object's failed repair is held back like any other, and the VMs' turns,
// which wake it each time, change nothing about that.
func TestASharedRepairThatFails(t *testing.T) {
	w := newWorld(t, "vm1", "vm2")
	w.des.AutoRotation = true
	l, des := w.loop(t, policy.ModeEnforce), mustShared(t, string(desID))
	w.ends = func(what string) error {
		if strings.HasPrefix(what, "des") {
			return denied("writing", "des1", "Microsoft.Compute/diskEncryptionSets/write", 1)
		}
		return nil
	}
	w.announce(t, two...)
	w.until(t, l, 40*time.Minute)
	for range 3 {
		w.announce(t, two...)
		w.until(t, l, time.Minute)
	}
	out := w.outcomes(t, des, remedy.DisableAutoRotation)
	if w.count("des") != 1 || len(out) != 1 || out[0].State != remedy.Failed || w.row(t, des).Verdict != policy.NonCompliant {
		t.Errorf("%v, %+v", w.writes, out)
	}
	w.ends = nil
	w.until(t, l, l.Settings.SlowPace)
	w.drain(t, l, nil)
	for _, n := range two {
		if r := w.row(t, mustVM(t, n)); r.Verdict != policy.Compliant || w.count("des") != 2 {
			t.Errorf("%s is %s after %v", n, r.Verdict, w.writes)
		}
	}
}

const regionPolicy = `schemaVersion: 1
name: region
regions:
  westeurope:
    vault: ` + vaultID + `
    key: k1
    des: ` + string(desID) + `
remedy: {grantRights: true}
`

// A region is made ready in the order in which its parts rest on each other, and a
// policy that no longer wants it says so.
func TestARegionIsMadeReady(t *testing.T) {
	w := newWorld(t)
	w.policy = regionPolicy
	w.des, w.key, w.rights.DESIdentity = cvm.DES{}, cvm.Key{}, nil
	l, o := w.loop(t, policy.ModeEnforce), mustShared(t, regionID)
	for range 3 {
		w.send(t, Message{Shared: strings.ToUpper(regionID[:1]) + regionID[1:], Cause: ledger.Cause{Kind: causeSweep, At: w.clock.Now()}})
	}
	w.drain(t, l, nil)
	r := w.row(t, o)
	if got := fmt.Sprint(w.writes); got != "[create-key create-des des1 grant]" || r.Verdict != policy.Compliant || r.Region != "westeurope" {
		t.Errorf("%s after %s: %+v", r.Verdict, got, r.Findings)
	}
	w.atRest(t, o)
	w.policy = ""
	l = w.loop(t, policy.ModeEnforce)
	w.send(t, Message{Shared: regionID, Cause: ledger.Cause{Kind: causeSweep}})
	w.drain(t, l, nil)
	if r := w.row(t, o); r.Verdict != policy.Gone {
		t.Errorf("no longer wanted: %s", r.Verdict)
	}
}

// A region's readiness is put on the loop by its first VM.
func TestAVMWakesItsRegion(t *testing.T) {
	w := newWorld(t, "vm1")
	w.policy = regionPolicy
	w.vms[vmIDOf("vm1")].Location = "westeurope"
	l := w.loop(t, policy.ModeObserve)
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	if r := w.row(t, mustShared(t, regionID)); r.Verdict != policy.Compliant {
		t.Errorf("%s: %+v", r.Verdict, r.Findings)
	}
}

// A vault's or key's fault is a person's to mend; what was mended is seen by its
// own turn, and a shared object too is gone only when Azure says so twice.
func TestAVaultAndAKey(t *testing.T) {
	w, l := compliant(t, "vm1")
	vault, key := mustShared(t, vaultID), mustShared(t, keyURL)
	if key.ID != keyName {
		t.Errorf("the key's object is %s", key.ID)
	}
	look := func(o Object) ledger.Row {
		w.send(t, o.message(ledger.Cause{Kind: causeSweep, At: w.clock.Now()}, time.Time{}))
		w.until(t, l, time.Second)
		return w.row(t, o)
	}
	if r := look(vault); r.Verdict != policy.Compliant || r.Vault != "kv1.vault.azure.net" {
		t.Errorf("%s, host %q", r.Verdict, r.Vault)
	}
	w.vault.PurgeProtection, w.key.Enabled = cvm.False, cvm.False
	if r := look(vault); r.Verdict != policy.NonCompliant {
		t.Errorf("vault: %s", r.Verdict)
	}
	if r := look(key); r.Verdict != policy.NonCompliant {
		t.Errorf("key: %s", r.Verdict)
	}
	w.vault, w.key, w.des = cvm.Vault{}, cvm.Key{}, cvm.DES{}
	for _, o := range []Object{vault, key, mustShared(t, string(desID))} {
		if r := look(o); r.Verdict == policy.Gone || r.GoneSince.IsZero() {
			t.Errorf("%s after one 404: %s", o.Kind, r.Verdict)
		}
	}
	w.until(t, l, time.Minute)
	for _, o := range []Object{vault, key, mustShared(t, string(desID))} {
		if r := w.row(t, o); r.Verdict != policy.Gone {
			t.Errorf("%s after two: %s", o.Kind, r.Verdict)
		}
		w.atRest(t, o)
	}
}

// Whom a shared object's outcome concerns.
func TestDependents(t *testing.T) {
	for _, c := range []struct {
		id   string
		row  ledger.Row
		want string
	}{
		{strings.ToUpper(string(desID)[:40]) + string(desID)[40:], ledger.Row{}, fmt.Sprint(ledger.Filter{Equal: map[string]string{"des": strings.ToLower(string(desID))}})},
		{keyURL, ledger.Row{}, fmt.Sprint(ledger.Filter{Equal: map[string]string{"key": keyName}})},
		{vaultID, ledger.Row{Vault: "kv1.vault.azure.net"}, fmt.Sprint(ledger.Filter{Prefix: map[string]string{"key": "https://kv1.vault.azure.net/"}})},
		{vaultID, ledger.Row{}, ""}, {regionID, ledger.Row{}, ""},
	} {
		o := Object{ID: c.id}
		if s, err := SharedObject(c.id); err == nil {
			o = s
		} else {
			o.Kind = cvm.SharedDES
		}
		f, ok := dependents(o, c.row)
		if ok != (c.want != "") || ok && fmt.Sprint(f) != c.want {
			t.Errorf("%s: %v %t", c.id, f, ok)
		}
	}
}

// A key that can't be read, or isn't there, stops no row on the rights to it.
func TestRightsToAKeyThatCannotBeRead(t *testing.T) {
	for name, err := range map[string]error{
		"denied": &fault.Error{Kind: fault.Denied, Op: "reading key", Action: "Microsoft.KeyVault/vaults/keys/read"},
		"gone":   fault.New(fault.NotFound, "reading key", "k", "404"),
	} {
		w := newWorld(t, "vm01")
		w.deny["Key"] = err
		l, s := w.loop(t, policy.ModeObserve), cvm.SharedPosture{Kind: cvm.SharedDES, ID: string(desID)}
		if err := l.observeDES(t.Context(), Observer{Azure: l.Azure}, &s, desID, policy.Embedded()); err != nil || s.Key.Known || !s.Rights.Known {
			t.Errorf("%s: key %+v, rights %+v, %v", name, s.Key, s.Rights, err)
		}
		o := Observer{Azure: l.Azure, Whole: true}
		if p, err := o.VM(t.Context(), vmIDOf("vm01")); err != nil || p.Key.Known || !p.Rights.Known {
			t.Errorf("%s, all at once: key %+v, rights %+v, %v", name, p.Key, p.Rights, err)
		}
	}
}
