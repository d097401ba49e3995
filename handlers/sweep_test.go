package handlers_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fleet"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
)

func (w *world) queuedNames() string {
	w.t.Helper()
	var names []string
	for _, m := range w.queued() {
		if m.Cause.Kind != "sweep" {
			w.t.Errorf("cause %+v", m.Cause)
		}
		names = append(names, m.VM[strings.LastIndex(m.VM, "/")+1:])
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// anEstate has one VM of each sort.
func anEstate(w *world) {
	now := w.clock.Now()
	seen := func(ago time.Duration) func(*ledger.Row) {
		return func(r *ledger.Row) { r.LastSeen = now.Add(-ago) }
	}
	w.known(vmNamed("fine"), seen(time.Hour))
	w.known(vmNamed("stale"), seen(25*time.Hour))
	w.known(vmNamed("unjudged"), verdict(""))
	w.known(vmNamed("overdue"), seen(2*time.Hour), func(r *ledger.Row) { r.NextLook = now.Add(-20 * time.Minute) })
	w.known(vmNamed("duesoon"), seen(2*time.Hour), func(r *ledger.Row) { r.NextLook = now.Add(-5 * time.Minute) })
	w.known(vmNamed("looked"), seen(time.Minute), func(r *ledger.Row) { r.NextLook = now.Add(-20 * time.Minute) })
	w.known(vmNamed("vanished"), seen(25*time.Hour))
	w.known(vmNamed("vanishing"), seen(time.Hour))
	w.known(vmNamed("gone"), seen(25*time.Hour), verdict(policy.Gone))
	for _, name := range []string{"fine", "stale", "unjudged", "overdue", "duesoon", "looked"} {
		w.lister.vms = append(w.lister.vms, fleet.VM{ID: cvm.VMID(strings.ToLower(vmNamed(name)))})
	}
	w.lister.vms = append(w.lister.vms,
		fleet.VM{ID: cvm.VMID(vmNamed("new")), Created: now.Add(-time.Minute)},
		fleet.VM{ID: cvm.VMID(vmNamed("missed")), Created: now.Add(-time.Hour)},
		fleet.VM{ID: cvm.VMID(vmNamed("ageless"))})
}

func (w *world) sweep() int {
	w.t.Helper()
	return w.invoke("sweep", "timer", []byte(`{"Schedule":{"AdjustForDST":true},"ScheduleStatus":null,"IsPastDue":false}`))
}

// report is what the sweep logged.
func (w *world) report() map[string]any {
	w.t.Helper()
	for line := range strings.Lines(w.logged.String()) {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) == nil && m["listed"] != nil {
			return m
		}
	}
	w.t.Fatalf("no report in the log: %s", w.logged.String())
	return nil
}

func TestSweep(t *testing.T) {
	w := newWorld(t)
	anEstate(w)
	if s := w.sweep(); s != 200 {
		t.Fatalf("%d: %s", s, w.logged.String())
	}
	if got, want := w.queuedNames(), "ageless missed new overdue stale unjudged vanished"; got != want {
		t.Errorf("queued %q, want %q", got, want)
	}
	r := w.report()
	for name, n := range map[string]int{"listed": 9, "new": 3, "missed": 1, "stale": 1, "unjudged": 1, "overdue": 1, "imported": 0, "enqueued": 7} {
		if r[name] != float64(n) {
			t.Errorf("%s: %v, want %d", name, r[name], n)
		}
	}
	if !strings.Contains(w.logged.String(), "a VM that no event announced") {
		t.Error("a missed event isn't in the log")
	}
	// Once a day all of it, but what is known to be gone.
	w = newWorld(t)
	anEstate(w)
	w.clock.Set(time.Date(2026, 11, 21, 3, 7, 0, 0, time.UTC))
	if s := w.sweep(); s != 200 {
		t.Fatal(s)
	}
	if got, want := w.queuedNames(), "ageless duesoon fine looked missed new overdue stale unjudged vanished vanishing"; got != want {
		t.Errorf("full: queued %q, want %q", got, want)
	}
	// A row that can't be read counts as none.
	w = newWorld(t)
	w.known(vmNamed("spoilt"))
	w.spoil(vmNamed("spoilt"))
	w.lister.vms = []fleet.VM{{ID: cvm.VMID(vmNamed("spoilt"))}}
	if s := w.sweep(); s != 200 || w.queuedNames() != "spoilt" {
		t.Errorf("%d %s", s, w.queuedNames())
	}
}

func TestSweepIsCutShort(t *testing.T) {
	w := newWorld(t)
	anEstate(w)
	w.lister.err = errors.New("the listing ends here")
	if err := w.store.Blobs().Create(t.Context(), ledger.ContainerDeadLetter, "a", event(vmNamed("dead"))); err != nil {
		t.Fatal(err)
	}
	if s := w.sweep(); s != 500 || !strings.Contains(w.logged.String(), "the listing ends here") {
		t.Errorf("%d", s)
	}
	// What was listed is on the loop, rows are not taken for gone, and the dead letter is imported all the same.
	var names []string
	for _, m := range w.queued() {
		names = append(names, m.VM[strings.LastIndex(m.VM, "/")+1:])
	}
	if slices.Contains(names, "vanished") || !slices.Contains(names, "dead") || !slices.Contains(names, "missed") {
		t.Errorf("queued %v", names)
	}
	w = newWorld(t)
	anEstate(w)
	w.storageFails("enqueue", "")
	if s := w.sweep(); s != 500 || len(w.queued()) != 0 {
		t.Errorf("with the queue away: %d", s)
	}
	w.storageWorks()
	if s := w.sweep(); s != 200 || w.queuedNames() != "ageless missed new overdue stale unjudged vanished" {
		t.Errorf("the next one: %d %s", s, w.queuedNames())
	}
}

func TestSweepImportsDeadLetters(t *testing.T) {
	vm := vmNamed("vm1")
	key := `{"id":"k-1","eventType":"Microsoft.KeyVault.KeyExpired","subject":"os","eventTime":"2026-11-20T10:00:00Z","data":{"Id":"` + keyURL + `/1"}}`
	long := strings.Repeat("x", 8<<20+1)
	for name, c := range map[string]struct {
		blob   string
		queued int
		kept   []string
		stays  bool
	}{
		"an array":        {"[" + string(event(vm)) + "," + string(event(vmNamed("vm2"))) + "]", 2, nil, false},
		"an object":       {string(event(vm)), 1, nil, false},
		"about a key":     {key, 2, nil, false},
		"other resource":  {string(event(inGroup + "Microsoft.Compute/disks/d")), 0, nil, false},
		"mixed":           {"[" + string(event(vm)) + `,{"hello":1},` + key + "]", 3, []string{`{"hello":1}`}, false},
		"cut short":       {"[" + string(event(vm)), 0, []string{"[" + string(event(vm))}, false},
		"text":            {"hello", 0, []string{"hello"}, false},
		"nothing":         {"", 0, []string{""}, false},
		"an empty array":  {"[]", 0, []string{"[]"}, false},
		"null":            {"null", 0, []string{"null"}, false},
		"longer than any": {long, 0, []string{"TOPIC/2026/11/20/9/a.json"}, true},
	} {
		w := newWorld(t)
		w.known(vmNamed("hangs"))
		w.lister.vms = []fleet.VM{{ID: cvm.VMID(vmNamed("hangs"))}}
		const blob = "TOPIC/2026/11/20/9/a.json"
		if err := w.store.Blobs().Create(t.Context(), ledger.ContainerDeadLetter, blob, []byte(c.blob)); err != nil {
			t.Fatal(err)
		}
		if len(c.kept) == 0 {
			// While the queue is away, the blob stays.
			w.storageFails("enqueue", "")
			if s := w.sweep(); c.queued > 0 && (s != 500 || !w.deadLetter(blob)) {
				t.Errorf("%s: %d with the queue away", name, s)
			}
			w.storageWorks()
		} else {
			w.storageFails("", "inbox/")
			if s := w.sweep(); s != 500 || !w.deadLetter(blob) {
				t.Errorf("%s: %d with the inbox away", name, s)
			}
			w.storageWorks()
		}
		before := len(w.queued())
		var order []string
		hookedOrder(w, &order)
		if s := w.sweep(); s != 200 || w.deadLetter(blob) != c.stays || len(w.queued())-before > c.queued || len(w.queued()) < c.queued {
			t.Errorf("%s: %d, queued %v, %v", name, s, w.queued(), order)
		}
		if !c.stays && len(order) > 0 && order[len(order)-1] != "delete-blob" {
			t.Errorf("%s: order %v", name, order)
		}
		var kept []string
		for _, l := range w.letters() {
			kept = append(kept, string(l.Body))
			if l.Source != ledger.SourceDeadLetter || !strings.Contains(l.Reason, blob) && !strings.Contains(l.Reason, "a.json") {
				t.Errorf("%s: %+v", name, l)
			}
		}
		if !slices.Equal(kept, c.kept) {
			t.Errorf("%s: kept %q, want %q", name, kept, c.kept)
		}
		// Imported once.
		n := len(w.queued())
		if s := w.sweep(); s != 200 || len(w.queued()) != n || len(w.letters()) != len(c.kept) {
			t.Errorf("%s: again %d", name, s)
		}
	}
}

func (w *world) deadLetter(name string) bool {
	w.t.Helper()
	there, err := w.store.Blobs().Exists(w.t.Context(), ledger.ContainerDeadLetter, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return there
}

func TestSweepForgetsOldNonces(t *testing.T) {
	vm := vmNamed("vm1")
	tw := newTwins(t, func(w *world) { w.known(vm) })
	used, unused := issue(t, tw, vm), issue(t, tw, vm)
	if a := tw.do("POST", "/api/evidence/"+used.Nonce, bundleOver(used.Nonce, "")); a.Status != 202 {
		t.Fatalf("%+v", a)
	}
	tw.each(func(w *world) {
		w.clock.Advance(23 * time.Hour)
		if s := w.sweep(); s != 200 {
			t.Fatal(s)
		}
	})
	if a := tw.do("POST", "/api/evidence/"+unused.Nonce, bundleOver(unused.Nonce, "")); a.Status != 410 {
		t.Errorf("within a day a late bundle hears that its nonce expired: %+v", a)
	}
	tw.each(func(w *world) {
		w.clock.Advance(3 * time.Hour)
		if s := w.sweep(); s != 200 {
			t.Fatal(s)
		}
	})
	if a := tw.do("POST", "/api/evidence/"+unused.Nonce, bundleOver(unused.Nonce, "")); a.Status != 404 {
		t.Errorf("after it the row is gone: %+v", a)
	}
	if a := tw.do("POST", "/api/evidence/"+used.Nonce, bundleOver(used.Nonce, " ")); a.Status != 409 {
		t.Errorf("a used one stays: %+v", a)
	}
}

func TestKeyEvent(t *testing.T) {
	keyEvent := func(typ, id string) []byte {
		return fmt.Appendf(nil, `{"id":"k-1","eventType":"Microsoft.KeyVault.%s","subject":"os","eventTime":"2026-11-20T10:00:00Z","data":{"Id":%q,"VaultName":"kv-app","ObjectType":"Key","ObjectName":"os"}}`, typ, id)
	}
	for name, e := range map[string][]byte{
		"new version": keyEvent("KeyNewVersionCreated", keyURL+"/0123456789abcdef0123456789abcdef"),
		"near expiry": keyEvent("KeyNearExpiry", keyURL+"/1"),
		"expired":     keyEvent("KeyExpired", keyURL),
		"other case":  keyEvent("KeyExpired", "https://KV-App.vault.azure.net/keys/OS/1"),
		"by name":     keyEvent("KeyExpired", ""),
	} {
		w := newWorld(t)
		w.known(vmNamed("a"))
		w.known(vmNamed("b"), func(r *ledger.Row) { r.Verdict = policy.Unknown })
		w.known(vmNamed("other"), func(r *ledger.Row) { r.Key = "https://kv-app.vault.azure.net/keys/os2" })
		w.known(vmNamed("none"), func(r *ledger.Row) { r.Key = "" })
		if s := w.invoke("key-event", "event", e); s != 200 {
			t.Fatalf("%s: %d", name, s)
		}
		var got []string
		for _, m := range w.queued() {
			got = append(got, m.VM+m.Shared)
			if m.Cause.Kind != "key-event" || m.Cause.ID != "k-1" || m.Cause.Fresh || m.Cause.At.IsZero() {
				t.Errorf("%s: %+v", name, m.Cause)
			}
		}
		slices.Sort(got[1:])
		if want := []string{keyURL, vmNamed("a"), vmNamed("b")}; !slices.Equal(got, want) {
			t.Errorf("%s: queued %v", name, got)
		}
		if w.app.Counters.Queued.Load() != 3 || len(w.letters()) != 0 {
			t.Errorf("%s: counted %d", name, w.app.Counters.Queued.Load())
		}
		w = newWorld(t)
		w.known(vmNamed("a"))
		n := 0
		w.store.Hook = failFrom(&n, 2)
		if s := w.invoke("key-event", "event", e); s != 500 {
			t.Errorf("%s: %d though a VM could not be queued", name, s)
		}
		w.storageWorks()
		if s := w.invoke("key-event", "event", e); s != 200 || len(w.queued()) != 3 {
			t.Errorf("%s: again %d, %v", name, s, w.queued())
		}
	}
	for name, c := range map[string]struct {
		event []byte
		why   string
	}{
		"a VM":         {event(vmNamed("a")), azure.DropOtherEvent},
		"a secret":     {keyEvent("SecretExpired", keyURL), azure.DropOtherEvent},
		"another host": {keyEvent("KeyExpired", "https://evil.example/keys/os/1"), azure.DropMalformedKey},
	} {
		w := newWorld(t)
		w.known(vmNamed("a"))
		writes := w.writes()
		if s := w.invoke("key-event", "event", c.event); s != 200 || writes() != 0 || !strings.Contains(w.logged.String(), `"why":"`+c.why) || w.app.Counters.Dropped.Load() != 1 {
			t.Errorf("%s: %d, %d writes", name, s, writes())
		}
	}
}
