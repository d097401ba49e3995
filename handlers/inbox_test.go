package handlers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/ledger"
)

type inboxList struct {
	Open, All int
	Letters   []struct {
		ID, Source, Reason, Object, Outcome string
		Size, Tries, Times                  int
		At                                  time.Time
		OutcomeAt                           *time.Time
		Body                                []byte
	}
}

// keep puts a letter into the inbox.
func (w *world) keep(source, object string, body []byte) string {
	w.t.Helper()
	id, err := w.app.Inbox.Keep(context.Background(), ledger.Letter{Source: source, Reason: "for the test", Body: body, At: w.clock.Now(), Object: object, Tries: 5})
	if err != nil {
		w.t.Fatal(err)
	}
	w.clock.Advance(time.Second)
	return id
}

func TestInboxList(t *testing.T) {
	tw := newTwins(t)
	a := tw.do("GET", "/api/inbox", "")
	if a.Status != 200 || a.Body != `{"open":0,"all":0,"letters":[]}` {
		t.Errorf("an empty inbox: %+v", a)
	}
	bytes := []byte{0, 0xff, '"', '<'}
	var first, second string
	tw.each(func(w *world) {
		first = w.keep(ledger.SourceEvent, "", bytes)
		second = w.keep(ledger.SourcePoison, vmNamed("vm1"), []byte(messageFor(vmNamed("vm1"))))
		if err := w.app.Inbox.SetOutcome(context.Background(), first, "dropped", w.clock.Now()); err != nil {
			t.Fatal(err)
		}
	})
	for query, want := range map[string]string{"": second, "?all=false": second, "?all=true": second + " " + first} {
		var l inboxList
		a := tw.do("GET", "/api/inbox"+query, "")
		a.into(t, &l)
		ids := ""
		for _, x := range l.Letters {
			ids += " " + x.ID
			if x.Body != nil {
				t.Error("a listing has no bytes")
			}
		}
		if a.Status != 200 || l.Open != 1 || l.All != 2 || strings.TrimSpace(ids) != want {
			t.Errorf("%s: %+v", query, a)
		}
	}
	var l struct {
		ID, Source, Reason, Outcome string
		Size, Tries                 int
		Body                        []byte
	}
	a = tw.do("GET", "/api/inbox/"+first, "")
	a.into(t, &l)
	if a.Status != 200 || l.ID != first || string(l.Body) != string(bytes) || l.Size != 4 || l.Tries != 5 || l.Outcome != "dropped" || l.Reason != "for the test" {
		t.Errorf("%+v", a)
	}
	for _, c := range []struct {
		method, target string
		status         int
	}{{"GET", "/api/inbox/20261120-00112233445566778899aabbccddeeff", 404}, {"GET", "/api/inbox/x", 404}, {"GET", "/api/inbox/%2e%2e", 404},
		{"GET", "/api/inbox?all=yes", 400}, {"GET", "/api/inbox?open=true", 400}, {"GET", "/api/inbox/" + first + "/redrive", 404}, {"POST", "/api/inbox", 404},
		{"POST", "/api/inbox/" + first, 404}, {"POST", "/api/inbox/" + first + "/delete", 404}, {"POST", "/api/inbox/x/redrive", 404}, {"DELETE", "/api/inbox/" + first, 405}} {
		if a := tw.do(c.method, c.target, ""); a.Status != c.status || len(tw.queued()) != 0 {
			t.Errorf("%s %s: %+v", c.method, c.target, a)
		}
	}
}

// An id that no letter has is told as that, and not as what the store said.
func TestInboxOfAnUnknownLetter(t *testing.T) {
	const id = "00112233445566778899aabbccddeeff"
	tw := newTwins(t)
	for _, r := range [][2]string{{"GET", ""}, {"POST", "/redrive"}, {"GET", ""}} {
		a := tw.do(r[0], "/api/inbox/"+id+r[1], "")
		if p := a.problem(t); a.Status != 404 || p.Field != "id" || p.Given != id || strings.Contains(a.Body, "reading") || !strings.Contains(p.Message, "there is no letter with this id") {
			t.Errorf("%s: %d %s", r, a.Status, a.Body)
		}
	}
}

func TestRedrive(t *testing.T) {
	vm := vmNamed("vm1")
	key := `{"id":"k-1","eventType":"Microsoft.KeyVault.KeyExpired","subject":"os","eventTime":"2026-11-20T10:00:00Z","data":{"Id":"` + keyURL + `/1"}}`
	start := `{"id":"s-1","eventType":"Microsoft.Resources.ResourceActionSuccess","subject":"` + vm + `","data":{"operationName":"Microsoft.Compute/virtualMachines/start/action"}}`
	for name, c := range map[string]struct {
		source string
		body   string
		want   []string // on the loop
		dry    bool
		fresh  bool
	}{
		"message":            {ledger.SourceQueue, messageFor(vm), []string{vm}, false, false},
		"poison":             {ledger.SourcePoison, fmt.Sprintf(`{"vm":%q,"cause":{"kind":"look-again"},"due":"2026-11-20T10:00:00Z"}`, vm), []string{vm}, false, false},
		"poisoned dry run":   {ledger.SourcePoison, fmt.Sprintf(`{"vm":%q,"cause":{"kind":"rerun"},"dryrun":true}`, vm), []string{vm}, true, false},
		"shared object":      {ledger.SourcePoison, `{"shared":"` + keyURL + `","cause":{"kind":"shared"}}`, []string{keyURL}, false, false},
		"event":              {ledger.SourceEvent, string(event(vm)), []string{vm}, false, false},
		"start":              {ledger.SourceEvent, start, []string{vm}, false, true},
		"dead letter":        {ledger.SourceDeadLetter, string(event(vm)), []string{vm}, false, false},
		"key event":          {ledger.SourceKeyEvent, key, []string{keyURL, vmNamed("hangs")}, false, false},
		"dead key event":     {ledger.SourceDeadLetter, key, []string{keyURL, vmNamed("hangs")}, false, false},
		"text":               {ledger.SourceQueue, "hello", nil, false, false},
		"unknown schema":     {ledger.SourceEvent, `{"hello":1}`, nil, false, false},
		"no VM":              {ledger.SourceEvent, string(event(inGroup + "Microsoft.Compute/disks/d")), nil, false, false},
		"no key":             {ledger.SourceKeyEvent, string(event(inGroup + "Microsoft.Compute/disks/d")), nil, false, false},
		"text at key-event":  {ledger.SourceKeyEvent, "hello", nil, false, false},
		"empty dead letter ": {ledger.SourceDeadLetter, "", nil, false, false},
	} {
		tw := newTwins(t)
		var id string
		tw.each(func(w *world) { id = w.keep(c.source, "", []byte(c.body)); w.known(vmNamed("hangs")) })
		a := tw.do("POST", "/api/inbox/"+id+"/redrive", "")
		var queued []string
		for _, m := range tw.queued() {
			queued = append(queued, m.VM+m.Shared)
			if m.Cause.Kind != "redrive" || m.Cause.ID != id || !m.Cause.At.Equal(tw.clock.Now()) || !m.Due.IsZero() || m.DryRun != c.dry || m.Cause.Fresh != c.fresh {
				t.Errorf("%s: %+v", name, m)
			}
		}
		if strings.Join(queued, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s: queued %v, want %v", name, queued, c.want)
		}
		l := tw.letters()[0]
		if c.want == nil {
			if p := a.problem(t); a.Status != 409 || p.Field != "id" || p.Message == "" || !l.Open() {
				t.Errorf("%s: %+v, %+v", name, a, l)
			}
			continue
		}
		if a.Status != 202 || !strings.Contains(a.Body, c.want[0]) || l.Outcome != "redriven" || !l.OutcomeAt.Equal(tw.clock.Now()) {
			t.Errorf("%s: %+v, %+v", name, a, l)
		}
	}
	for _, op := range []string{"enqueue", "replace"} {
		tw := newTwins(t)
		var id string
		tw.each(func(w *world) { id = w.keep(ledger.SourceQueue, "", []byte(messageFor(vm))); w.storageFails(op, "") })
		if a := tw.do("POST", "/api/inbox/"+id+"/redrive", ""); a.Status != 503 || !tw.letters()[0].Open() {
			t.Errorf("%s away: %+v", op, a)
		}
	}
}

func TestInboxFails(t *testing.T) {
	tw := newTwins(t)
	var id string
	tw.each(func(w *world) {
		id = w.keep(ledger.SourceQueue, "", []byte("x"))
		w.store.Tables().Corrupt(ledger.TableInbox, id[:8], id, func(cols map[string]string) { cols["size"] = "many" })
	})
	for _, r := range []string{"/api/inbox", "/api/inbox/" + id} {
		if a := tw.do("GET", r, ""); a.Status != 500 {
			t.Errorf("%s: %+v", r, a)
		}
	}
	if a := tw.do("POST", "/api/inbox/"+id+"/redrive", ""); a.Status != 500 {
		t.Errorf("%+v", a)
	}
}

func TestHealth(t *testing.T) {
	tw := newTwins(t)
	tw.invoke("vm-event", "event", event(vmNamed("vm1")))
	tw.other.invoke("vm-event", "event", event(vmNamed("vm1")))
	var h struct {
		Ready        bool
		Version      string
		Policy       struct{ Name, Hash, Mode string }
		Dependencies []handlers.Dependency
		Since        map[string]int64
	}
	a := tw.do("GET", "/api/health", "")
	a.into(t, &h)
	if a.Status != 200 || !h.Ready || h.Version != "test" || h.Policy.Hash != tw.app.Policy.Hash || h.Policy.Mode != "observe" || len(h.Dependencies) != 1 || h.Since["queued"] != 1 {
		t.Errorf("%+v", a)
	}
	tw.each(func(w *world) {
		w.app.Health = func(context.Context) []handlers.Dependency {
			return []handlers.Dependency{{Name: "storage", Said: "no token"}, {Name: "x", Ready: true}}
		}
	})
	a = tw.do("GET", "/api/health", "")
	a.into(t, &h)
	if a.Status != 503 || h.Ready || len(h.Dependencies) != 2 || h.Dependencies[0].Said != "no token" {
		t.Errorf("%+v", a)
	}
}
