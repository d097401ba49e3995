package reconcile

import (
	"testing"
	"time"

	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// A VM that the policy's Azure Policy initiative would have refused, and that is
// there all the same, is shown as such: in the record, in the row and after a
// rebuild, for as long as it is so. No verdict and no step comes of it.
func TestAVMThatWouldHaveBeenRefused(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	if r := w.row(t, o); len(r.WouldBeRefused) > 0 {
		t.Fatalf("a compliant VM would be refused: %+v", r.WouldBeRefused)
	}
	n, writes := len(w.records(t, o)), w.count("")
	w.change("vm1", func(v *cvm.VM) { v.SecureBoot = cvm.False })
	turn := func(id string) ledger.Record {
		t.Helper()
		w.send(t, w.event("vm1", id))
		w.until(t, l, time.Minute)
		recs := w.records(t, o)
		return recs[len(recs)-1].Record
	}
	turn("off")
	for _, linked := range w.records(t, o)[n:] {
		if rec := linked.Record; rec.Type == ledger.TypeState && (len(rec.WouldBeRefused) != 1 || rec.WouldBeRefused[0].Rule != "secure-boot" || rec.WouldBeRefused[0].Why == "") {
			t.Errorf("record %d says %+v", rec.Seq, rec.WouldBeRefused)
		}
	}
	if r := w.row(t, o); len(r.WouldBeRefused) != 1 || r.WouldBeRefused[0].Definition != "cvmguard-secure-boot" {
		t.Errorf("the row says %+v", r.WouldBeRefused)
	}
	said := len(w.records(t, o))
	if turn("again"); len(w.records(t, o)) != said {
		t.Error("what was said is said again")
	}
	w.store.Tables().Clear(ledger.TableVMs)
	w.rebuilt(t, l)
	w.until(t, l, 5*time.Minute)
	if r := w.row(t, o); len(r.WouldBeRefused) != 1 {
		t.Errorf("rebuilt: %+v", r.WouldBeRefused)
	}
	w.change("vm1", func(v *cvm.VM) { v.SecureBoot = cvm.True })
	if rec := turn("on"); len(rec.WouldBeRefused) > 0 || len(w.row(t, o).WouldBeRefused) > 0 || w.row(t, o).Verdict != policy.Compliant {
		t.Errorf("put right, and still %+v, %s", rec.WouldBeRefused, w.row(t, o).Verdict)
	}
	if w.count("") > writes+2 { // the tag that says the verdict, twice
		t.Errorf("%v", w.writes)
	}
}

// That nobody can say what Azure Policy would have refused stops no turn: the VM is
// judged, and what its verdict asks for is done.
func TestRefusalsThatCanNotBeSaid(t *testing.T) {
	w := newWorld(t, "vm1")
	l := w.loop(t, policy.ModeEnforce)
	broken, err := azurepolicy.Export(l.Policy, azurepolicy.Deny)
	if err != nil {
		t.Fatal(err)
	}
	broken.Set.Properties.Parameters["odd"] = azurepolicy.Parameter{DefaultValue: 1.5}
	if _, err := broken.Refuses(cvm.VM{ID: vmIDOf("vm1")}, cvm.Fact[cvm.Disk]{}); err == nil {
		t.Fatal("the initiative isn't broken")
	}
	l.initiative.Store(&broken)
	w.announce(t, "vm1")
	w.drain(t, l, nil)
	o := mustVM(t, "vm1")
	if r := w.row(t, o); r.Verdict != policy.Compliant || r.LastError != "" || len(r.WouldBeRefused) != 0 || w.count("tags") != 1 {
		t.Errorf("%s, %q, %+v, written %v", r.Verdict, r.LastError, r.WouldBeRefused, w.writes)
	}
	w.atRest(t, o)
}
