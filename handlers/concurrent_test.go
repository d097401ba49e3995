package handlers_test

import (
	"sync"
	"testing"

	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

// TestManyAtOnce delivers the same event, message and letter many times at once:
// one record, one letter, and nothing that a second delivery would have lost.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	vm := vmNamed("vm1")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if s := w.invoke("vm-event", "event", event(vm)); s != 200 {
				t.Errorf("vm-event: %d", s)
			}
			if s := w.invoke("vm-event", "event", []byte(`{"hello":"world"}`)); s != 200 {
				t.Errorf("vm-event, odd: %d", s)
			}
			if s := w.message("reconcile", messageFor(vm)); s != 200 {
				t.Errorf("reconcile: %d", s)
			}
			if s := w.message("reconcile", "hello"); s != 200 {
				t.Errorf("reconcile, odd: %d", s)
			}
			if a := w.forwarded(request{method: "GET", target: "/api/health"}); a.Status != 200 {
				t.Errorf("health: %+v", a)
			}
		})
	}
	wg.Wait()
	if n := len(w.letters()); n != 2 {
		t.Errorf("%d letters", n)
	}
	row := w.row(vm)
	if row.HeadSeq != 1 || row.Verdict != policy.Unknown || row.Owner != "" {
		t.Errorf("%+v", row)
	}
	if n := w.app.Counters.Queued.Load(); n != 20 {
		t.Errorf("%d events counted", n)
	}
	// What came while another held the claim has its copy on the queue.
	for _, q := range w.store.Queue().Peek(ledger.QueueReconcile) {
		if len(q.Text) == 0 {
			t.Error("an empty message")
		}
	}
}
