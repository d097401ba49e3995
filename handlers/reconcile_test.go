package handlers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

func messageFor(vm string) string {
	return fmt.Sprintf(`{"vm":%q,"cause":{"kind":"event","at":"2026-11-20T10:15:29.5Z","id":"e-1"}}`, vm)
}

// badMessages can't be decoded.
var badMessages = map[string]string{
	"text":             "not json at all",
	"empty":            "",
	"JSON of a string": `"hello"`,
	"a number":         "7",
	"no object":        `{"cause":{"kind":"event"}}`,
	"two objects":      `{"vm":"` + vmNamed("vm1") + `","shared":"` + lowSub + `/regions/westeurope","cause":{"kind":"event"}}`,
	"bad id":           `{"vm":"/subscriptions/1","cause":{"kind":"event"}}`,
	"bad shared id":    `{"shared":"https://evil.example/keys/k","cause":{"kind":"event"}}`,
	"unknown member":   `{"vm":"` + vmNamed("vm1") + `","cause":{"kind":"event"},"dequeueCount":"0"}`,
	"text after it":    messageFor(vmNamed("vm1")) + "x",
	"cut short":        messageFor(vmNamed("vm1"))[:100],
	"bad time":         `{"vm":"` + vmNamed("vm1") + `","cause":{"kind":"event"},"due":"soon"}`,
	"too long":         `{"vm":"` + vmNamed("vm1") + `","cause":{"kind":"` + strings.Repeat("x", 48<<10) + `"}}`,
}

func TestUndecodableMessageGoesToTheInbox(t *testing.T) {
	for _, function := range []string{"reconcile", "poison"} {
		source := map[string]string{"reconcile": ledger.SourceQueue, "poison": ledger.SourcePoison}[function]
		for name, text := range badMessages {
			w := newWorld(t)
			writes := w.writes()
			status := w.message(function, text)
			l := w.letters()
			if status != 200 || writes() != 2 || len(w.queued()) != 0 || len(l) != 1 {
				t.Fatalf("%s, %s: %d, %d writes, %d letters, queued %v", function, name, status, writes(), len(l), w.queued())
			}
			if string(l[0].Body) != text || l[0].Source != source || l[0].Reason == "" || l[0].Object != "" {
				t.Errorf("%s, %s: %+v", function, name, l[0])
			}
			if w.message(function, text) != 200 || len(w.letters()) != 1 {
				t.Errorf("%s, %s: a second letter", function, name)
			}
			w = newWorld(t)
			w.storageFails("insert", "inbox")
			if status := w.message(function, text); status != 500 {
				t.Errorf("%s, %s: %d when it can't be kept", function, name, status)
			}
		}
		// A wrapper that can't be read.
		w := newWorld(t)
		if status := w.post(function, []byte(`{"Data":{"a":"x","b":"y"}}`)); status != 200 {
			t.Errorf("%s: %d", function, status)
		}
		if l := w.letters(); len(l) != 1 || string(l[0].Body) != `{"a":"x","b":"y"}` || !strings.Contains(l[0].Reason, "Data") {
			t.Errorf("%s: %+v", function, l)
		}
	}
}

func TestReconcileTakesATurn(t *testing.T) {
	w := newWorld(t)
	vm := vmNamed("vm1")
	if status := w.message("reconcile", messageFor(vm)); status != 200 {
		t.Fatalf("%d: %s", status, w.logged.String())
	}
	first := w.row(vm)
	// In observe mode evidence comes by push alone, and none has.
	if first.Verdict != policy.Unknown || first.HeadSeq != 1 || first.Owner != "" || first.Key != keyURL {
		t.Errorf("%+v", first)
	}
	if w.app.Counters.Turns.Load() != 1 || w.app.Counters.TurnsFailed.Load() != 0 {
		t.Error("not counted")
	}
	// The same message again changes nothing.
	for range 3 {
		if status := w.message("reconcile", messageFor(vm)); status != 200 {
			t.Fatal(status)
		}
	}
	again := w.row(vm)
	if again.HeadSeq != 1 || again.HeadHash != first.HeadHash || again.Verdict != first.Verdict || len(w.letters()) != 0 {
		t.Errorf("again: %+v", again)
	}
	// Shared objects take turns by the same function.
	for _, m := range w.queued() {
		if m.Shared == "" {
			continue
		}
		if status := w.message("reconcile", string(m.Encode())); status != 200 {
			t.Errorf("%s: %d", m.Shared, status)
		}
	}
	if _, err := w.store.Tables().Get(context.Background(), ledger.TableShared, ledger.KeysPartition, cvm.RowKey(keyURL)); err != nil {
		t.Errorf("the key has no row: %v", err)
	}
}

func TestMissingPermissionIsUnknown(t *testing.T) {
	vm := vmNamed("vm1")
	for method, action := range map[string]string{
		"VM": "Microsoft.Compute/virtualMachines/read", "Disk": "Microsoft.Compute/disks/read",
		"DES": "Microsoft.Compute/diskEncryptionSets/read", "Key": "Microsoft.KeyVault/vaults/keys/read", "Vault": "Microsoft.KeyVault/vaults/read",
	} {
		w := newWorld(t)
		w.azure.fail[method] = &fault.Error{Kind: fault.Denied, Op: "reading", Object: "it", Action: action, Err: fmt.Errorf("403")}
		if status := w.message("reconcile", messageFor(vm)); status != 200 {
			t.Fatalf("%s: %d", method, status)
		}
		row := w.row(vm)
		_, raw, _, err := w.app.Chains.Read(context.Background(), row.Chain(), 1)
		if row.Verdict != policy.Unknown || err != nil || !strings.Contains(string(raw), action) {
			t.Errorf("%s: %s, %v: %s", method, row.Verdict, err, raw)
		}
		slow := w.clock.Now().Add(w.app.SlowPace)
		if !row.NextLook.Equal(slow) {
			t.Errorf("%s: the next look is at %s, not at the slow pace", method, row.NextLook)
		}
		found := false
		for _, q := range w.store.Queue().Peek(ledger.QueueReconcile) {
			m, err := reconcile.DecodeMessage(q.Text)
			found = found || err == nil && m.VM == vm && q.Visible.Equal(slow)
		}
		if !found {
			t.Errorf("%s: nothing on the queue for then: %v", method, w.queued())
		}
	}
}

func TestReconcileFailsWithStorage(t *testing.T) {
	vm := vmNamed("vm1")
	for _, part := range []struct{ op, name string }{{"insert", "vms/"}, {"replace", "vms/"}, {"create", "records/"}, {"enqueue", ""}} {
		w := newWorld(t)
		w.storageFails(part.op, part.name)
		if status := w.message("reconcile", messageFor(vm)); status != 500 || w.app.Counters.TurnsFailed.Load() != 1 {
			t.Errorf("%s %s away: %d", part.op, part.name, status)
		}
		if !strings.Contains(w.logged.String(), "storage is away") || len(w.letters()) != 0 {
			t.Errorf("%s: log %s", part.op, w.logged.String())
		}
		w.storageWorks()
		w.clock.Advance(2 * time.Minute) // the lease of the turn that was cut
		if status := w.message("reconcile", messageFor(vm)); status != 200 || w.row(vm).Verdict != policy.Unknown {
			t.Errorf("%s: %d once it is back", part.op, status)
		}
	}
}

// TestAzureAwayIsNoVerdict: what can't be read for the moment is read again later,
// by a message of its own, and judged then.
func TestAzureAwayIsNoVerdict(t *testing.T) {
	w := newWorld(t)
	vm := vmNamed("vm1")
	w.azure.fail["Disk"] = fault.New(fault.Transient, "reading disk", "d", "503")
	status := w.message("reconcile", messageFor(vm))
	row := w.row(vm)
	if row.Verdict != "" || row.HeadSeq != 0 || !strings.Contains(row.LastError, "503") {
		t.Errorf("%d, verdict %q, last error %q", status, row.Verdict, row.LastError)
	}
	if status != 200 || !row.NextLook.After(w.clock.Now()) {
		t.Fatalf("%d, next look %s", status, row.NextLook)
	}
	var again []reconcile.Message
	for _, m := range w.queued() {
		if m.VM == vm && m.Due.Equal(row.NextLook) {
			again = append(again, m)
		}
	}
	if len(again) != 1 {
		t.Fatalf("queued %+v for the next look at %s", w.queued(), row.NextLook)
	}
	delete(w.azure.fail, "Disk")
	w.clock.Set(row.NextLook)
	if status := w.message("reconcile", string(again[0].Encode())); status != 200 || w.row(vm).Verdict != policy.Unknown || w.row(vm).LastError != "" {
		t.Errorf("once it is back: %d %+v", status, w.row(vm))
	}
}

func TestPoison(t *testing.T) {
	vm := vmNamed("vm1")
	text := fmt.Sprintf(`{"vm":%q,"cause":{"kind":"look-again"},"due":"2026-11-20T10:00:00Z"}`, vm)
	w := newWorld(t)
	w.known(vm, func(r *ledger.Row) { r.LastError = "reading disk \"d\": 503" })
	var order []string
	hookedOrder(w, &order)
	if status := w.message("poison", text); status != 200 {
		t.Fatal(status)
	}
	if got := strings.Join(order, " "); got != "enqueue create insert" {
		t.Errorf("order %s: back on the loop goes first", got)
	}
	q := w.store.Queue().Peek(ledger.QueueReconcile)
	if len(q) != 1 || !q[0].Visible.Equal(w.clock.Now().Add(w.app.SlowPace)) {
		t.Fatalf("queued %+v", q)
	}
	if m := w.queued()[0]; m.VM != vm || !m.Due.IsZero() || m.Cause.Kind != "look-again" {
		t.Errorf("%+v", m)
	}
	l := w.letters()
	if len(l) != 1 || l[0].Source != ledger.SourcePoison || l[0].Object != vm || string(l[0].Body) != text || !strings.Contains(l[0].Reason, `reading disk "d": 503`) {
		t.Errorf("letter %+v", l)
	}
	// Delivered again: one message more, no letter more.
	if status := w.message("poison", text); status != 200 || len(w.letters()) != 1 || len(w.queued()) != 2 {
		t.Errorf("again: %d", status)
	}

	for name, c := range map[string]struct {
		text, why string
		prepare   func(*world)
	}{
		"no row":         {messageFor(vmNamed("other")), "says nothing of why", func(*world) {}},
		"row without":    {messageFor(vm), "says nothing of why", func(w *world) { w.known(vm) }},
		"row unreadable": {messageFor(vm), "can't be read from its row", func(w *world) { w.known(vm); w.spoil(vm) }},
		"a key":          {`{"shared":"` + keyURL + `","cause":{"kind":"key-event"}}`, "says nothing of why", func(*world) {}},
	} {
		w := newWorld(t)
		c.prepare(w)
		if status := w.message("poison", c.text); status != 200 || len(w.queued()) != 1 {
			t.Errorf("%s: %d, %v", name, status, w.queued())
		}
		if l := w.letters(); len(l) != 1 || !strings.Contains(l[0].Reason, c.why) || l[0].Object == "" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	for _, part := range []struct {
		op     string
		queued int
	}{{"enqueue", 0}, {"create", 1}, {"insert", 1}} {
		w := newWorld(t)
		w.storageFails(part.op, "")
		if status := w.message("poison", text); status != 500 || len(w.queued()) != part.queued || w.app.Counters.Kept.Load() != 0 {
			t.Errorf("%s failing: %d, queued %v", part.op, status, w.queued())
		}
	}
}

var errDenied = &fault.Error{Kind: fault.Denied, Op: "reading", Object: "it", Action: "Microsoft.Compute/disks/read", Err: fmt.Errorf("403")}
