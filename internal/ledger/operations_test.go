package ledger_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/remedy"
)

// A plan that couldn't be read again isn't kept.
func TestAPlanThatIsTooLong(t *testing.T) {
	s := memstore.New(nil)
	kept := ledger.Operations{Blobs: s.Blobs()}
	op := remedy.Operation{Schema: remedy.OperationSchema, Kind: remedy.UndoOperation, Object: testVM}
	empty, err := ledger.EncodeOperation(op)
	fatal(t, err)
	const most = 4 << 20
	op.Why = strings.Repeat("x", most-len(empty))
	hash, err := kept.Put(t.Context(), op)
	fatal(t, err)
	if got, err := kept.Get(t.Context(), hash); err != nil || got.Why != op.Why {
		t.Errorf("the longest: %v", err)
	}
	op.Why += "x"
	hash, err = kept.Put(t.Context(), op)
	if !fault.Is(err, fault.Blocked) || hash != "" || !strings.Contains(err.Error(), fmt.Sprint(most)) || !strings.Contains(err.Error(), "plan again") || !strings.Contains(err.Error(), testVM) {
		t.Errorf("%q, %v", hash, err)
	}
	n := 0
	fatal(t, s.Blobs().List(t.Context(), ledger.ContainerPlans, "", func(string) bool { n++; return true }))
	if n != 1 {
		t.Errorf("%d plans are kept", n)
	}
}

// Of each kind of step somebody has said whether it sets a value that others might
// change back: one that is forgotten fails here.
func TestWhichStepsSetAValue(t *testing.T) {
	once, sets := false, true
	want := map[remedy.Kind]bool{
		remedy.InstallAttest: sets, remedy.EncryptTempDisk: sets, remedy.EncryptDataDisk: sets, remedy.Tag: sets, remedy.Quarantine: sets,
		remedy.DisableAutoRotation: sets, remedy.ReplacePolicy: sets, remedy.GrantDES: sets, remedy.GrantOrchestrator: sets, remedy.EnsureKey: sets, remedy.EnsureDES: sets,
		// It changes nothing.
		remedy.CollectEvidence: once, remedy.CheckRotation: once, remedy.CheckRecreation: once,
		remedy.Recreate: once, remedy.RotateKey: once, remedy.RepairShared: once, remedy.AskPerson: once,
		// Parts of one undertaking.
		remedy.MarkDeallocation: once, remedy.Deallocate: once, remedy.MarkDown: once, remedy.Start: once, remedy.ClearMark: once,
		// Of operations, which are taken once.
		remedy.DeallocateWave: once, remedy.SetDESKey: once, remedy.StartWave: once,
		remedy.KeepParts: once, remedy.TakeDown: once, remedy.DeleteVM: once, remedy.CreateVM: once, remedy.RestoreExtension: once,
		remedy.RestoreTag: once, remedy.RestoreAutoRotation: once, remedy.RestoreReleasePolicy: once,
	}
	for _, k := range remedy.Kinds() {
		is, said := want[k]
		if got := ledger.SetsValue(remedy.Step{Kind: k, Target: testVM}); !said || got != is {
			t.Errorf("%s: sets a value: %t, said %t %t", k, got, said, is)
		}
		if ledger.SetsValue(remedy.Step{Kind: k, Target: testVM, Args: map[string]string{"step": "1"}}) {
			t.Errorf("%s sets a value as a step of an operation", k)
		}
		if is && !k.Changes() {
			t.Errorf("%s sets a value and changes nothing", k)
		}
	}
}

// What people have undone doesn't overflow a row either, and what is stopped stays.
func TestManyUndoneSteps(t *testing.T) {
	r := ledger.Row{PK: testSub, RK: cvm.RowKey(testVM), ID: testVM}
	key := func(i int) string { return fmt.Sprint("tag ", testVM, "-", strings.Repeat("x", 80), i) }
	for i := range 300 {
		if room := r.MayStop(key(i)); room != (i < 50) {
			t.Fatalf("room for step %d: %t", i, room)
		}
		r.TakeWord(ledger.Cause{Kind: ledger.CauseUndone, ID: key(i), At: t0})
	}
	if _, err := r.Entity(); err != nil || len(r.Stopped) != 50 || r.Stopped[key(0)].Why != ledger.WhyUndone || r.MayStop(key(0)) {
		t.Errorf("%d stopped: %v", len(r.Stopped), err)
	}
	r.Resume("", t0)
	if !r.MayStop(key(0)) {
		t.Error("no room after all were resumed")
	}
}

// What changes nothing is none of an object's steps of a day.
func TestStepsThatOnlyLookAreNotCounted(t *testing.T) {
	r := ledger.Row{ID: testVM}
	for _, k := range remedy.Kinds() {
		r.Sent(remedy.Step{Kind: k, Target: testVM}, t0, time.Hour)
	}
	n := 0
	for _, k := range remedy.Kinds() {
		if k.Changes() {
			n++
		}
	}
	if got := len(r.StepsWithin(t0, time.Hour)); got != n {
		t.Errorf("%d steps, want %d", got, n)
	}
}
