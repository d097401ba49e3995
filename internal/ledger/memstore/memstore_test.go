package memstore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/storetest"
)

func TestContract(t *testing.T) {
	s := New(nil)
	storetest.Run(t, storetest.Store{Blobs: s.Blobs(), Tables: s.Tables(), Queue: s.Queue(), SAS: s.Blobs()})
}

func TestHookBeforeAndAfter(t *testing.T) {
	s, ctx := New(nil), t.Context()
	var seen []Action
	boom := errors.New("boom")
	var failAt Action
	s.Hook = func(a Action) error {
		seen = append(seen, a)
		if a.N == failAt.N && a.After == failAt.After {
			return boom
		}
		return nil
	}
	failAt = Action{N: 1}
	if err := s.Blobs().Create(ctx, ledger.ContainerRecords, "a", nil); !errors.Is(err, boom) {
		t.Errorf("an error before: %v", err)
	}
	if there, err := s.Blobs().Exists(ctx, ledger.ContainerRecords, "a"); err != nil || there {
		t.Errorf("failed before its effect, yet there: %t %v", there, err)
	}
	failAt = Action{N: 2, After: true}
	if err := s.Blobs().Create(ctx, ledger.ContainerRecords, "a", nil); !errors.Is(err, boom) {
		t.Errorf("an error after: %v", err)
	}
	if there, err := s.Blobs().Exists(ctx, ledger.ContainerRecords, "a"); err != nil || !there {
		t.Errorf("failed after its effect, yet not there: %t %v", there, err)
	}
	if len(seen) != 3 || s.Actions() != 2 || s.Calls()["create"] != 2 || s.Calls()["exists"] != 2 {
		t.Errorf("saw %+v, %d actions, calls %v", seen, s.Actions(), s.Calls())
	}
	s.Hook = func(Action) error { panic("crash") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the hook's panic was swallowed")
			}
		}()
		err := s.Queue().Enqueue(ctx, ledger.QueueReconcile, nil, 0)
		t.Errorf("enqueued after a crash: %v", err)
	}()
	if got := s.Queue().Peek(ledger.QueueReconcile); len(got) != 0 {
		t.Errorf("the crash before the effect left %v", got)
	}
}

func TestQueueReadersSide(t *testing.T) {
	s, ctx := New(nil), t.Context()
	q := s.Queue()
	const name = ledger.QueueReconcile
	for text, delay := range map[string]time.Duration{"late": time.Minute, "now": 0} {
		if err := q.Enqueue(ctx, name, []byte(text), delay); err != nil {
			t.Fatal(err)
		}
	}
	m, ok := q.Dequeue(name, 30*time.Second)
	if !ok || string(m.Text) != "now" || m.Dequeued != 1 {
		t.Fatalf("took %+v, %t", m, ok)
	}
	if _, ok := q.Dequeue(name, time.Second); ok {
		t.Error("took a hidden message")
	}
	s.Clock.Advance(31 * time.Second)
	again, ok := q.Dequeue(name, time.Minute)
	if !ok || again.ID != m.ID || again.Dequeued != 2 {
		t.Fatalf("the hidden message came back as %+v, %t", again, ok)
	}
	if q.Done(name, m) || q.Requeue(name, m, 0) {
		t.Error("a reader whose time was over disposed of the message")
	}
	if !q.Requeue(name, again, 0) {
		t.Error("giving it back failed")
	}
	if again, ok = q.Dequeue(name, time.Minute); !ok || !q.Done(name, again) {
		t.Error("taking it a third time and removing it failed")
	}
	if at, ok := q.Next(name); !ok || at.Sub(s.Clock.Now()) != 29*time.Second {
		t.Errorf("the next message is visible at %s, %t", at, ok)
	}
}

func TestLimits(t *testing.T) {
	s, ctx := New(nil), t.Context()
	for what, e := range map[string]ledger.Entity{
		"slash in key":    {PK: "a/b", RK: "r"},
		"long column":     {PK: "p", RK: "r", Cols: map[string]string{"c": strings.Repeat("x", 32<<10+1)}},
		"name of column":  {PK: "p", RK: "r", Cols: map[string]string{"a-b": ""}},
		"system column":   {PK: "p", RK: "r", Cols: map[string]string{"Timestamp": ""}},
		"empty partition": {RK: "r"},
		"not UTF-8":       {PK: "p", RK: "r", Cols: map[string]string{"c": "\xff"}},
	} {
		if _, err := s.Tables().Insert(ctx, ledger.TableVMs, e); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Blobs().Create(ctx, "no-such", "x", nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown container: %v", err)
	}
	if _, err := s.Tables().Get(ctx, "nosuch", "p", "r"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown table: %v", err)
	}
}

func TestSASURLs(t *testing.T) {
	s, ctx := New(nil), t.Context()
	out, err := s.Blobs().AppendURL(ctx, ledger.ContainerIncoming, "x", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"a", "b"} {
		if err := s.Blobs().Append(ctx, out, []byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Blobs().Get(ctx, out); !fault.Is(err, fault.Denied) {
		t.Errorf("read by an append URL: %v", err)
	}
	in, err := s.Blobs().ReadURL(ctx, ledger.ContainerIncoming, "x", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Blobs().Get(ctx, in); err != nil || string(got) != "ab" {
		t.Errorf("read %q, %v", got, err)
	}
	s.Clock.Advance(time.Minute)
	if _, err := s.Blobs().Get(ctx, in); !fault.Is(err, fault.Denied) {
		t.Errorf("read by a URL whose time is over: %v", err)
	}
}
