package reconcile

import (
	"fmt"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
)

// lose drops the rows of VMs and of what they share.
func (w *world) lose() {
	w.store.Tables().Clear(ledger.TableVMs)
	w.store.Tables().Clear(ledger.TableShared)
}

// rebuilt is what `cvmguard rebuild` does: each row anew from its records, claimed
// for one lease, and its object on the loop.
func (w *world) rebuilt(t testing.TB, l *Loop) {
	t.Helper()
	d := ledger.Rebuilding{Blobs: l.Blobs, Tables: l.Tables, Now: l.Now, Owner: "rebuild-test", Lease: l.Settings.Lease}
	err := d.All(t.Context(), func(chain string, r ledger.Rebuilt, err error) bool {
		if err != nil {
			t.Errorf("%s: %v", chain, err)
			return true
		}
		m := Message{VM: r.Row.ID, Cause: ledger.Cause{Kind: "rebuild", At: w.clock.Now()}}
		if r.Row.SharedKind != "" {
			m.VM, m.Shared = "", r.Row.ID
		}
		w.send(t, m)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The tables are lost between any two lines, while a worker holds an object: once
// they are rebuilt, by a person or by the first message that misses its row, all
// ends as it would have, without a second effect. Left out is what the records
// can't tell: a call is on its way and Azure doesn't show it yet.
func TestTablesThatAreLostAtAnyPoint(t *testing.T) {
	inCall := func(point string) bool {
		return point[:6] == "before" && (point[7:10] == "run" || point[7:10] == "des")
	}
	for _, byPerson := range []bool{true, false} {
		t.Run(fmt.Sprint("by a person ", byPerson), func(t *testing.T) {
			atEvery(t, one, 12, inCall, func(at int) trouble {
				return func(w *world, n int, name string) error {
					if n != at {
						return nil
					}
					store, azure := w.store.Hook, w.hook
					w.quiet()
					w.lose()
					if byPerson {
						w.rebuilt(t, w.loop(t, policy.ModeEnforce))
					} else { // the next sweep finds what has no row
						for _, o := range estate(t, one) {
							w.send(t, o.message(ledger.Cause{Kind: causeSweep, At: w.clock.Now()}, time.Time{}))
						}
					}
					w.store.Hook, w.hook = store, azure
					return nil
				}
			})
		})
	}
}

// At rest, too, a lost table costs no effect: what was proved stays proved.
func TestALostTableAtRest(t *testing.T) {
	w, l := compliant(t, two...)
	n := len(w.writes)
	w.lose()
	w.announce(t, two...)
	w.drain(t, l, nil)
	for _, name := range two {
		r := w.row(t, mustVM(t, name))
		if r.Verdict != policy.Compliant || r.Attestation == nil || r.UniqueID == "" {
			t.Errorf("%s: %s, %+v", name, r.Verdict, r.Attestation)
		}
		w.atRest(t, mustVM(t, name))
	}
	if len(w.writes) != n {
		t.Errorf("wrote %v", w.writes[n:])
	}
	w.until(t, l, 25*time.Hour)
	if got := w.count("run-command"); got != 4 {
		t.Errorf("a day later %d collections were made, not 4", got)
	}
}

// A chain that doesn't hang together stops its object's turns, with the reason.
func TestABrokenChain(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	w.store.Blobs().Overwrite(ledger.ContainerRecords, ledger.RecordName(o.Chain(), 1), []byte(`{"schema":"cvmguard.dev/record/v1"}`))
	w.lose()
	err := l.Turn(t.Context(), w.event("vm1", "look"))
	if !fault.Is(err, fault.Blocked) {
		t.Errorf("%v", err)
	}
	if _, err := w.store.Tables().Get(t.Context(), o.Table, o.PK, o.RK); !fault.Is(err, fault.NotFound) {
		t.Errorf("a row was made: %v", err)
	}
}

// A record that a cut turn left must link to the one that the row knows.
func TestARecordThatDoesNotLink(t *testing.T) {
	w, l := compliant(t, "vm1")
	o := mustVM(t, "vm1")
	r := w.row(t, o)
	foreign := ledger.Record{Type: ledger.TypeState, Object: o.ID, Chain: o.Chain(), Seq: r.HeadSeq + 1, At: w.clock.Now()}
	if _, _, err := l.chains().Append(t.Context(), foreign, ledger.HashBytes([]byte("another"))); err != nil {
		t.Fatal(err)
	}
	w.store.Tables().Corrupt(o.Table, o.PK, o.RK, func(cols map[string]string) {
		cols["owner"], cols["leaseEnds"] = "dead", ledger.TimeText(w.clock.Now().Add(-time.Second))
	})
	if err := l.Turn(t.Context(), w.event("vm1", "look")); !fault.Is(err, fault.Bug) {
		t.Errorf("%v", err)
	}
}

// The policy's text is kept before the first record that names it, once a process.
func TestThePolicyIsKept(t *testing.T) {
	w := newWorld(t, two...)
	l := w.loop(t, policy.ModeEnforce)
	kept, records := 0, 0
	w.store.Hook = func(a memstore.Action) error {
		if a.After || a.Op != "create" {
			return nil
		}
		switch {
		case a.Name == ledger.ContainerPolicy+"/"+l.Policy.Hash+".yaml":
			if kept++; records > 0 && kept == 1 {
				t.Error("a record came first")
			}
		case len(a.Name) > 8 && a.Name[:8] == ledger.ContainerRecords+"/":
			records++
		}
		return nil
	}
	w.announce(t, two...)
	w.drain(t, l, nil)
	if kept != 1 || records == 0 {
		t.Errorf("kept %d times, %d records", kept, records)
	}
	text, err := l.Blobs.Read(t.Context(), ledger.ContainerPolicy, l.Policy.Hash+".yaml", 1<<20)
	if err != nil || string(text) != string(l.Policy.Source) {
		t.Errorf("%v, %d bytes", err, len(text))
	}
	// Another process finds it there.
	other := w.loop(t, policy.ModeEnforce)
	w.send(t, w.rerun("vm1", "again"))
	w.drain(t, other, nil)
	if kept != 2 || !other.policyKept.Load() {
		t.Errorf("tried %d times", kept)
	}
}
