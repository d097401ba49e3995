package reconcile

import (
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// An instance of a uniform scale set is judged as any VM and nothing is written to
// it: its set's model would undo that.
func TestAnInstanceOfAUniformScaleSet(t *testing.T) {
	w := newWorld(t, "0")
	set := rg + "/providers/Microsoft.Compute/virtualMachineScaleSets/pay"
	id := cvm.VMID(set + "/virtualMachines/0")
	vm := w.vms[vmIDOf("0")]
	vm.ID, vm.Name, vm.ScaleSet, vm.SecureBoot = id, "pay_0", set, cvm.False
	delete(w.vms, vmIDOf("0"))
	w.vms[id] = vm
	o, err := VMObject(string(id))
	if err != nil {
		t.Fatal(err)
	}
	l := w.loop(t, policy.ModeEnforce)
	w.send(t, Message{VM: strings.ToUpper(string(id)), Cause: ledger.Cause{Kind: "sweep", At: w.clock.Now()}})
	w.drain(t, l, nil)
	row := w.row(t, o)
	if row.Verdict != policy.NonCompliant || row.Kind != cvm.KindCustomerKey || len(w.writes) != 0 {
		t.Fatalf("%s, %s, wrote %v", row.Verdict, row.Kind, w.writes)
	}
	w.atRest(t, o)
	var said bool
	for _, r := range w.records(t, o) {
		if r.Record.Plan == nil {
			continue
		}
		for _, s := range r.Record.Plan.Steps {
			said = said || s.Kind == remedy.Recreate && s.Target == set && s.State == remedy.Advised
			if s.State == remedy.Planned {
				t.Errorf("%s is planned on %s", s.Kind, s.Target)
			}
		}
	}
	if !said {
		t.Error("nothing is advised about the set's model")
	}
	// A person may ask for it again, and gone is gone.
	w.send(t, Message{VM: string(id), Cause: ledger.Cause{Kind: "rerun", At: w.clock.Now()}})
	w.drain(t, l, nil)
	if len(w.writes) != 0 {
		t.Errorf("wrote %v", w.writes)
	}
	delete(w.vms, id)
	w.send(t, Message{VM: string(id), Cause: ledger.Cause{Kind: "sweep", At: w.clock.Now()}})
	w.drain(t, l, nil)
	if got := w.row(t, o).Verdict; got != policy.Gone {
		t.Errorf("after its end it is %s", got)
	}
}
