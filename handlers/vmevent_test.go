package handlers_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// event is an event in Event Grid's schema about a resource.
func event(subject string) []byte {
	return eventOf("Microsoft.Resources.ResourceWriteSuccess", subject, "")
}

func eventOf(typ, subject, more string) []byte {
	return fmt.Appendf(nil, `{"id":"e-1","eventType":%q,"subject":%q,"eventTime":"2026-11-20T10:15:29.5Z","data":{}%s}`, typ, subject, more)
}

func TestVMEventQueuesTheVM(t *testing.T) {
	vm := vmNamed("vm1")
	for name, c := range map[string]struct {
		event []byte
		cause ledger.Cause
	}{
		"write":           {event(vm), ledger.Cause{Kind: "event", ID: "e-1"}},
		"write failed":    {eventOf("Microsoft.Resources.ResourceWriteFailure", vm, ""), ledger.Cause{Kind: "event", ID: "e-1"}},
		"write cancelled": {eventOf("Microsoft.Resources.ResourceWriteCancel", vm, ""), ledger.Cause{Kind: "event", ID: "e-1"}},
		"delete":          {eventOf("Microsoft.Resources.ResourceDeleteSuccess", vm, ""), ledger.Cause{Kind: "event", ID: "e-1"}},
		"extension":       {event(vm + "/extensions/GuestAttestation"), ledger.Cause{Kind: "event", ID: "e-1"}},
		"notification":    {eventOf("Microsoft.ResourceNotifications.Resources.CreatedOrUpdated", vm, ""), ledger.Cause{Kind: "event", ID: "e-1"}},
		"health":          {eventOf("Microsoft.ResourceNotifications.HealthResources.ResourceAnnotated", vm, ""), ledger.Cause{Kind: "health", ID: "e-1", Fresh: true}},
		"a very long id": {bytes.Replace(event(vm), []byte("e-1"), bytes.Repeat([]byte("x"), 100<<10), 1),
			ledger.Cause{Kind: "event", ID: strings.Repeat("x", 256)}},
		"a time that JSON hasn't": {bytes.Replace(event(vm), []byte("2026-11-20T10:15:29.5Z"), []byte("9999-12-31T23:59:59-12:00"), 1),
			ledger.Cause{Kind: "event", ID: "e-1"}},
		"half a mebibyte": {eventOf("Microsoft.Resources.ResourceWriteSuccess", vm, `,"x":"`+strings.Repeat("x", 512<<10)+`"`),
			ledger.Cause{Kind: "event", ID: "e-1"}},
	} {
		w := newWorld(t)
		status := w.invoke("vm-event", "event", c.event)
		if calls := fmt.Sprint(w.store.Calls()); status != 200 || calls != "map[enqueue:1]" {
			t.Errorf("%s: %d, and storage was asked for %s", name, status, calls)
		}
		if len(w.letters()) != 0 {
			t.Errorf("%s: %+v", name, w.letters())
		}
		q := w.queued()
		if len(q) != 1 || q[0].VM != vm || q[0].Shared != "" || q[0].DryRun || !q[0].Due.IsZero() {
			t.Fatalf("%s: queued %+v", name, q)
		}
		if !strings.HasPrefix(name, "a time") {
			c.cause.At = time.Date(2026, 11, 20, 10, 15, 29, 5e8, time.UTC)
		}
		if q[0].Cause != c.cause {
			t.Errorf("%s: cause %+v, want %+v", name, q[0].Cause, c.cause)
		}
		if n := w.app.Counters.Queued.Load(); n != 1 {
			t.Errorf("%s: counted %d", name, n)
		}
	}
}

func TestVMEventDropsWhatConcernsNoVM(t *testing.T) {
	for name, c := range map[string]struct {
		event []byte
		why   string
	}{
		"disk":            {event(inGroup + "Microsoft.Compute/disks/d1"), azure.DropOtherResource},
		"DES":             {event(inGroup + "Microsoft.Compute/diskEncryptionSets/d1"), azure.DropOtherResource},
		"our run command": {event(vmNamed("vm1") + "/runCommands/cvmguard-evidence"), azure.DropRunCommand},
		"its notification": {eventOf("Microsoft.ResourceNotifications.Resources.CreatedOrUpdated", vmNamed("vm1")+"/runCommands/cvmguard-evidence", ""),
			azure.DropRunCommand},
		"scale set instance": {event(inGroup + "Microsoft.Compute/virtualMachineScaleSets/s"), azure.DropScaleSet},
		"malformed id":       {event("/subscriptions/1/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1"), azure.DropMalformedID},
		"no id":              {event("hello"), azure.DropMalformedID},
		"name with a space":  {event(vmNamed("vm 1")), azure.DropMalformedID},
		"another event":      {eventOf("Microsoft.Storage.BlobCreated", "/blobServices/default/containers/c/blobs/b", ""), azure.DropOtherEvent},
	} {
		w := newWorld(t)
		status := w.invoke("vm-event", "event", c.event)
		if n := w.app.Counters.Dropped.Load(); status != 200 || len(w.store.Calls()) != 0 || n != 1 {
			t.Errorf("%s: %d, %v, %d counted", name, status, w.store.Calls(), n)
		}
		if !strings.Contains(w.logged.String(), `"why":"`+c.why) {
			t.Errorf("%s: the log doesn't say why: %s", name, w.logged.String())
		}
	}
}

// odd are events that nobody can make sense of: the body of the call, the bytes
// that must be in the inbox and what its reason must say.
func odd() map[string]struct{ body, kept, why string } {
	good := string(event(vmNamed("vm1")))
	in := func(v string) string { return `{"Data":{"event":` + v + `},"Metadata":{}}` }
	mebi := good[:len(good)-1] + `,"x":"` + strings.Repeat("x", 1<<20-len(good)-7) + `"}` // 1 MiB to the byte
	longer := good[:len(good)-1] + `,"x":"` + strings.Repeat("x", 1<<20) + `"}`
	shrunk := mebi[:len(mebi)-4000] + `"}` // as a host may write it anew
	cut := good[:len(good)-20]
	return map[string]struct{ body, kept, why string }{
		"unknown schema":       {in(`{"hello": "world"}`), `{"hello": "world"}`, azure.EventUnknownSchema},
		"a number":             {in(`7`), `7`, azure.EventUnknownSchema},
		"no subject":           {in(`{"id":"1","eventType":"Microsoft.Resources.ResourceWriteSuccess","data":{}}`), `{"id":"1","eventType":"Microsoft.Resources.ResourceWriteSuccess","data":{}}`, azure.EventNoSubject},
		"1 MiB":                {in(mebi), mebi, azure.EventTooLong},
		"more than 1 MiB":      {in(longer), longer, azure.EventTooLong},
		"nearly 1 MiB":         {in(shrunk), shrunk, "bytes, more than any"},
		"cut short, as text":   {in(string(quoted(cut))), cut, azure.EventNotJSON},
		"cut short, wrapper":   {in(good)[:200], in(good)[:200], "not whole JSON"},
		"text that isn't JSON": {in(string(quoted("hello, world"))), "hello, world", azure.EventNotJSON},
		"no event in the call": {`{"Data":{"a":{},"b":{}}}`, `{"Data":{"a":{},"b":{}}}`, "holds no event"},
		"an empty event":       {in(`""`), in(`""`), "empty"},
		"nothing in Data":      {`{"Data":null}`, `{"Data":null}`, "holds no event"},
	}
}

func TestEventsThatNobodyUnderstandsAreKept(t *testing.T) {
	t.Parallel()
	for _, function := range []string{"vm-event", "key-event"} {
		source := map[string]string{"vm-event": ledger.SourceEvent, "key-event": ledger.SourceKeyEvent}[function]
		for name, c := range odd() {
			if function == "key-event" && name != "1 MiB" && len(c.body) > 1<<19 {
				continue
			}
			w := newWorld(t)
			status := w.post(function, []byte(c.body))
			if calls := fmt.Sprint(w.store.Calls()); status != 200 || calls != "map[create:1 insert:1]" {
				t.Fatalf("%s, %s: %d, and storage was asked for %s", function, name, status, calls)
			}
			l := w.letters()
			if len(l) != 1 || string(l[0].Body) != c.kept || l[0].Source != source || !strings.Contains(l[0].Reason, c.why) || !l[0].Open() || !l[0].At.Equal(w.clock.Now()) {
				t.Errorf("%s, %s: letter %.300v", function, name, l)
			}
			if w.app.Counters.Kept.Load() != 1 {
				t.Errorf("%s, %s: not counted", function, name)
			}
			// Delivered again, as Event Grid does when the acknowledgement is lost.
			if len(c.body) > 1<<19 {
				continue
			}
			if status := w.post(function, []byte(c.body)); status != 200 || len(w.letters()) != 1 {
				t.Errorf("%s, %s: again %d, %d letters", function, name, status, len(w.letters()))
			}
		}
	}
}

func TestStorageAwayIsNotAcknowledged(t *testing.T) {
	for _, function := range []string{"vm-event", "key-event"} {
		for _, part := range []struct{ op, name string }{{"create", "inbox/"}, {"insert", "inbox/"}} {
			w := newWorld(t)
			w.storageFails(part.op, part.name)
			for name, c := range odd() {
				if len(c.body) > 1<<19 {
					continue // they take the same way, slowly
				}
				if status := w.post(function, []byte(c.body)); status != 500 {
					t.Errorf("%s, %s with %s failing: %d", function, name, part.op, status)
				}
			}
			if len(w.letters()) != 0 || w.app.Counters.Kept.Load() != 0 {
				t.Errorf("%s: %d letters", function, len(w.letters()))
			}
			w.storageWorks()
			n := 0
			for name, c := range odd() {
				if len(c.body) > 1<<19 {
					continue // they take the same way, slowly
				}
				n++
				if status := w.post(function, []byte(c.body)); status != 200 || len(w.letters()) != n {
					t.Errorf("%s, %s: %d and %d letters once storage is back", function, name, status, len(w.letters()))
				}
			}
		}
	}
	w := newWorld(t)
	w.storageFails("enqueue", "")
	if status := w.invoke("vm-event", "event", event(vmNamed("vm1"))); status != 500 || w.app.Counters.Queued.Load() != 0 {
		t.Errorf("with the queue away: %d", status)
	}
	if !strings.Contains(w.logged.String(), "storage is away") || len(w.letters()) != 0 {
		t.Errorf("the log doesn't say why: %s", w.logged.String())
	}
	w.storageWorks()
	if status := w.invoke("vm-event", "event", event(vmNamed("vm1"))); status != 200 || len(w.queued()) != 1 {
		t.Errorf("with the queue back: %d, %v", status, w.queued())
	}
}

func TestOneOfManyEventsFails(t *testing.T) {
	w := newWorld(t)
	body := quoted("[" + string(event(vmNamed("vm1"))) + `,{"hello":1},` + string(event(vmNamed("vm2"))) + "]")
	w.storageFails("create", "inbox/")
	if status := w.invoke("vm-event", "event", body); status != 500 {
		t.Errorf("one can't be kept: %d", status)
	}
	w.storageWorks()
	if status := w.invoke("vm-event", "event", body); status != 200 || len(w.letters()) != 1 || len(w.queued()) != 4 {
		t.Errorf("again: %d, %d letters, %v", status, len(w.letters()), w.queued())
	}
}

func TestClientsThatCannotBeMade(t *testing.T) {
	w := newTwins(t)
	w.each(func(w *world) { w.sourceErr = fault.New(fault.Transient, "making the clients", "", "no token") })
	if s := w.invoke("vm-event", "event", event(vmNamed("vm1"))); s != 500 {
		t.Errorf("vm-event: %d", s)
	}
	if s := w.invoke("key-event", "event", event(vmNamed("vm1"))); s != 500 {
		t.Errorf("key-event: %d", s)
	}
	for _, f := range []string{"reconcile", "poison"} {
		if s := w.message(f, "x"); s != 500 {
			t.Errorf("%s: %d", f, s)
		}
	}
	if s := w.invoke("sweep", "timer", []byte(`{}`)); s != 500 {
		t.Errorf("sweep: %d", s)
	}
	for _, r := range []struct{ method, target, body string }{{"GET", "/api/vms", ""}, {"GET", "/api/health", ""}, {"GET", "/api/inbox", ""},
		{"POST", "/api/rerun", `{"vm":"` + vmNamed("vm1") + `"}`}, {"POST", "/api/evidence", `{"vm":"` + vmNamed("vm1") + `"}`}} {
		if a := w.do(r.method, r.target, r.body); a.Status != 503 {
			t.Errorf("%s: %+v", r.target, a)
		}
	}
	w.each(func(w *world) { w.sourceErr = errors.New("some reason") })
	if a := w.do("GET", "/api/health", ""); a.Status != 503 || !strings.Contains(a.Body, "some reason") || !strings.Contains(a.Body, `"ready":false`) {
		t.Errorf("health: %+v", a)
	}
	w.each(func(w *world) { w.sourceErr = nil })
	if s := w.invoke("vm-event", "event", event(vmNamed("vm1"))); s != 200 || len(w.queued()) != 1 {
		t.Errorf("once they can: %d", s)
	}
}
