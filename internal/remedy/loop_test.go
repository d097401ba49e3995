package remedy

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// settle plans and applies until nothing is left to do, as the loop does: a step
// that failed is held for some turns. It gives the steps that were taken.
func settle(t *testing.T, w *world, d *policy.Document, crash func() bool) []string {
	t.Helper()
	a := w.applier(d)
	hold := map[string]int{}
	var took []string
	for turn := range 60 {
		p := planOf(w, d)
		s, ok := p.NextExcept(func(s Step) bool { return hold[string(s.Kind)+s.Target] > turn })
		if !ok && moving(w.vm.ProvisioningState) {
			w.tick() // the loop looks again at a VM in transition
			continue
		}
		if !ok {
			if slices.ContainsFunc(slices.Collect(maps.Values(hold)), func(until int) bool { return until > turn }) {
				continue // it comes again when what is held is due
			}
			return took
		}
		end := drive(t, w, a, s, crash())
		took = append(took, fmt.Sprintf("%s %s", s.Kind, end.State))
		if end.State != Effected {
			hold[string(s.Kind)+s.Target] = turn + 5
		}
	}
	return took
}

func TestDataDisksToTheEnd(t *testing.T) {
	d := document(t, "enforce")
	want := map[string]int{"tags": 4, "deallocate": 1, "disk vm1-data0": 1, "disk vm1-data1": 1, "start": 1}
	for seed := range uint64(50) {
		w := newWorld()
		r := rand.New(rand.NewPCG(seed, 0))
		w.slow = r.IntN(6)
		took := settle(t, w, d, func() bool { return seed > 0 && r.IntN(2) == 0 })
		if !maps.Equal(w.writes, want) || w.vm.Power != powerRunning || len(took) != 8 {
			t.Fatalf("seed %d: writes %v, power %s, steps %q", seed, w.writes, w.vm.Power, took)
		}
		if want := map[string]string{"owner": "me", TagVerdict: "compliant"}; !maps.Equal(w.vm.Tags, want) {
			t.Errorf("seed %d: tags %v", seed, w.vm.Tags)
		}
		for _, id := range []cvm.DiskID{data0ID, data1ID} {
			if w.disks[id].SSEDES != dataDES || w.disks[id].EncryptionType != cvm.DESTypeSSE {
				t.Errorf("seed %d: disk %+v", seed, w.disks[id])
			}
		}
	}
}

// A worker is killed between any two steps: only what the VM bears tells the next
// one how far it got.
func TestDataDisksWhenCutBetweenSteps(t *testing.T) {
	d := document(t, "enforce")
	for stop := range 8 {
		w := newWorld()
		for range stop {
			s, ok := planOf(w, d).NextExcept(nothingHeld)
			if !ok {
				t.Fatal("nothing left to do")
			}
			drive(t, w, w.applier(d), s, false)
		}
		settle(t, w, d, func() bool { return false })
		if w.vm.Power != powerRunning || w.writes["deallocate"] != 1 || w.writes["start"] != 1 || w.writes["tags"] != 4 {
			t.Errorf("cut after %d steps: power %s, writes %v", stop, w.vm.Power, w.writes)
		}
	}
}

// Whatever fails, the VM runs in the end, and is taken down once at most.
func TestDataDisksThatFailBringTheVMBack(t *testing.T) {
	broken := fault.New(fault.Blocked, "changing", "it", "OperationNotAllowed")
	for name, c := range map[string]struct {
		set   func(*world)
		downs int
	}{
		"one disk refused":      {func(w *world) { w.refuse["disk vm1-data0"] = broken }, 1},
		"one disk fails":        {func(w *world) { w.endBadly["disk vm1-data1"] = broken }, 1},
		"both refused":          {func(w *world) { w.refuse["disk vm1-data0"], w.refuse["disk vm1-data1"] = broken, broken }, 1},
		"deallocation refused":  {func(w *world) { w.refuse["deallocate"] = broken }, 0},
		"tags refused":          {func(w *world) { w.refuse["tags"] = broken }, 0},
		"size isn't to be had":  {func(w *world) { w.noSize = true }, 0},
		"data set's key is off": {func(w *world) { k := w.keys[dataKey]; k.Enabled = cvm.False; w.putKey(k) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.set(w)
			took := settle(t, w, document(t, "enforce"), func() bool { return false })
			if w.vm.Power != powerRunning || w.writes["deallocate"] != c.downs || w.writes["start"] != c.downs {
				t.Errorf("power %s, writes %v, steps %q", w.vm.Power, w.writes, took)
			}
		})
	}
}

// A start that finds no capacity is tried again until it does.
func TestStartIsTriedAgain(t *testing.T) {
	w, d := newWorld(), document(t, "enforce")
	w.vm.Tags[TagDeallocated], w.vm.Power = MarkIsDown, powerDeallocated
	w.diskStates("Reserved")
	w.endBadly["start"] = fault.New(fault.Blocked, "starting", string(vmID), "AllocationFailed")
	a := w.applier(d)
	for range 3 {
		s, _ := planOf(w, d).NextExcept(func(s Step) bool { return s.Kind == EncryptDataDisk })
		if s.Kind != Start {
			t.Fatalf("next is %s", s.Kind)
		}
		drive(t, w, a, s, false)
	}
	delete(w.endBadly, "start")
	settle(t, w, d, func() bool { return false })
	if w.vm.Power != powerRunning {
		t.Errorf("the VM is %s", w.vm.Power)
	}
}

func TestObserveWritesNothing(t *testing.T) {
	w := newWorld()
	if took := settle(t, w, document(t, "observe"), func() bool { return false }); len(took) != 0 || len(w.writes) != 0 {
		t.Errorf("took %q, wrote %v", took, w.writes)
	}
}

func TestNextExcept(t *testing.T) {
	chain := []Kind{MarkDeallocation, Deallocate, MarkDown, EncryptDataDisk, Start, ClearMark, Tag}
	down := []Kind{MarkDown, EncryptDataDisk, Start, ClearMark, Tag}
	ready := []Kind{EnsureKey, EnsureDES, GrantDES, GrantOrchestrator}
	for _, c := range []struct {
		plan []Kind
		held []Kind
		want Kind
	}{
		{chain, nil, MarkDeallocation},
		{chain, []Kind{Deallocate}, Tag},
		{chain, []Kind{EncryptDataDisk}, Tag},
		{chain, []Kind{MarkDown}, Tag},
		{chain, []Kind{Start}, Tag},
		{chain[1:], []Kind{EncryptDataDisk}, Tag},
		{chain[1:], nil, Deallocate},
		{down, nil, MarkDown},
		{down, []Kind{MarkDown}, Start},
		{down, []Kind{MarkDown, Start}, Tag},
		{down[1:], []Kind{EncryptDataDisk}, Start},
		{down[1:], []Kind{EncryptDataDisk, Start}, Tag},
		{ready, nil, EnsureKey},
		{ready, []Kind{EnsureKey}, ""},
		{ready[1:], []Kind{EnsureDES}, GrantOrchestrator},
		{[]Kind{CollectEvidence, Tag}, []Kind{CollectEvidence}, Tag},
	} {
		p := Plan{Mode: "enforce"}
		for _, k := range c.plan {
			p.Steps = append(p.Steps, Step{Kind: k, State: Planned})
		}
		p.Steps = append(p.Steps, Step{Kind: Recreate, State: Advised})
		got, ok := p.NextExcept(func(s Step) bool { return slices.Contains(c.held, s.Kind) })
		if got.Kind != c.want || ok != (c.want != "") {
			t.Errorf("%v without %v: %q, want %q", c.plan, c.held, got.Kind, c.want)
		}
		p.Mode = "observe"
		if _, ok := p.NextExcept(func(Step) bool { return false }); ok {
			t.Error("something is to be done in observe mode")
		}
	}
}

func TestLookOfNothingReadsOnly(t *testing.T) {
	for kind, k := range kinds() {
		w := newWorld()
		k.set(w)
		s := k.step
		s.Kind = kind
		if p, err := w.applier(document(t, "enforce")).Look(context.Background(), s, testSecrets); err != nil || p.State != NotThere || len(w.writes) != 0 {
			t.Errorf("%s: %v %v, wrote %v", kind, p, err, w.writes)
		}
	}
}
