package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

const (
	sub    = "00000000-0000-0000-0000-0000000000a1"
	keyURL = "https://kv.vault.azure.net/keys/k"
)

func vmNamed(name string) cvm.VMID {
	return cvm.VMID("/subscriptions/" + sub + "/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/" + name)
}

// listing gives count VMs, then err.
type listing struct {
	count int
	err   error
}

func (l listing) ListVMs(_ context.Context, _ Scope, yield func(VM) error) error {
	for i := range l.count {
		if err := yield(VM{ID: vmNamed(fmt.Sprint("vm", i))}); err != nil {
			return err
		}
	}
	return l.err
}

// words reads an event that is one word: a VM's name, "key", "odd" or any other.
type words struct{}

func (words) Decide(event []byte) (cvm.VMID, ledger.Cause, string, error) {
	switch e := string(event); {
	case strings.HasPrefix(e, "vm"):
		return vmNamed(e), ledger.Cause{Kind: "event", ID: e}, "", nil
	case e == "odd":
		return "", ledger.Cause{}, "", errors.New("nobody can make sense of it")
	}
	return "", ledger.Cause{}, "no VM", nil
}

func (words) DecideKey(event []byte) (cvm.KeyID, ledger.Cause, string, error) {
	if string(event) == "key" {
		return keyURL, ledger.Cause{Kind: "key-event", ID: "k"}, "", nil
	}
	return "", ledger.Cause{}, "no key", nil
}

// newFleet has no log: it is the one field that may be left out.
func newFleet(l Lister) (*Fleet, *memstore.Store) {
	s := memstore.New(nil)
	blobs, tables := s.Blobs(), s.Tables()
	return &Fleet{Lister: l, Decider: words{}, Tables: tables, Queue: s.Queue(), Blobs: blobs, Inbox: ledger.Inbox{Blobs: blobs, Tables: tables},
		Nonces: ledger.Nonces{Tables: tables, Evidence: ledger.Evidence{Blobs: blobs}}, Now: s.Clock.Now, Stale: 24 * time.Hour, Missed: 15 * time.Minute}, s
}

func queued(t *testing.T, s *memstore.Store) []reconcile.Message {
	t.Helper()
	var out []reconcile.Message
	for _, q := range s.Queue().Peek(ledger.QueueReconcile) {
		m, err := reconcile.DecodeMessage(q.Text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func TestRerunPutsNothingOnTheLoopBeforeTheListingIsWhole(t *testing.T) {
	for name, l := range map[string]listing{
		"too many":  {count: MaxRerun + 1},
		"cut short": {count: 3, err: fault.New(fault.Transient, "listing", "", "503")},
		"refused":   {err: fault.New(fault.Invalid, "listing", "", "400")},
	} {
		f, s := newFleet(l)
		n, err := f.Rerun(t.Context(), Scope{}, ledger.Cause{Kind: "rerun"}, false)
		if err == nil || n != 0 || s.Actions() != 0 {
			t.Errorf("%s: %d, %v, %d writes", name, n, err, s.Actions())
		}
		if name == "too many" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "100000")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f, s := newFleet(listing{count: 5})
	s.Hook = func(a memstore.Action) error {
		if a.N == 4 && !a.After {
			return fault.New(fault.Transient, "enqueuing", "", "503")
		}
		return nil
	}
	n, err := f.Rerun(t.Context(), Scope{}, ledger.Cause{Kind: "rerun"}, true)
	// Several are put at a time: what was under way beside the failure may have got through.
	if n > 4 || !fault.Is(err, fault.Transient) || !strings.Contains(err.Error(), fmt.Sprintf("after %d of 5", n)) || len(queued(t, s)) != n {
		t.Errorf("%d, %v", n, err)
	}
	s.Hook = nil
	if n, err := f.Rerun(t.Context(), Scope{}, ledger.Cause{Kind: "rerun"}, true); n != 5 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestWakeCutsWhatNoMessageCarries(t *testing.T) {
	far := time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -3*3600))
	for name, c := range map[string]struct{ in, want ledger.Cause }{
		"as it is":      {ledger.Cause{Kind: "event", ID: "e", At: time.Unix(1, 0).UTC()}, ledger.Cause{Kind: "event", ID: "e", At: time.Unix(1, 0).UTC()}},
		"long id":       {ledger.Cause{Kind: "event", ID: strings.Repeat("é", 40_000)}, ledger.Cause{Kind: "event", ID: strings.Repeat("é", 128)}},
		"odd id":        {ledger.Cause{Kind: "event", ID: "x" + strings.Repeat("é", 200)}, ledger.Cause{Kind: "event", ID: "x" + strings.Repeat("é", 127)}},
		"year 10000":    {ledger.Cause{Kind: "event", At: far}, ledger.Cause{Kind: "event"}},
		"before year 1": {ledger.Cause{Kind: "event", At: time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)}, ledger.Cause{Kind: "event"}},
	} {
		s := memstore.New(nil)
		if err := Wake(t.Context(), s.Queue(), reconcile.Message{VM: string(vmNamed("vm1")), Cause: c.in}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if q := queued(t, s); len(q) != 1 || q[0].Cause != c.want {
			t.Errorf("%s: %+v", name, q)
		}
	}
}

func TestSweepGoesOnAfterAFault(t *testing.T) {
	f, s := newFleet(listing{err: errors.New("the graph is away")})
	for name, event := range map[string]string{"a": "vm7", "b": "key", "c": "odd", "d": "other"} {
		if err := f.Blobs.Create(t.Context(), ledger.ContainerDeadLetter, name, []byte(event)); err != nil {
			t.Fatal(err)
		}
	}
	_, n, err := f.Nonces.IssueNonce(t.Context(), strings.NewReader(strings.Repeat("x", 32)), f.Now().Add(-48*time.Hour), time.Minute,
		ledger.NonceRow{VM: vmNamed("vm1"), UniqueID: "u", Way: ledger.WayPush})
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Sweep(t.Context(), true)
	if err == nil || !strings.Contains(err.Error(), "the graph is away") || r.Imported != 4 || r.OldNonces != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := f.Nonces.ByHash(t.Context(), n.Hash); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old nonce: %v", err)
	}
	if q := queued(t, s); len(q) != 2 || q[0].VM != string(vmNamed("vm7")) || q[1].Shared != keyURL {
		t.Errorf("queued %+v", q)
	}
	if _, all, err := f.Inbox.Count(t.Context()); all != 1 || err != nil {
		t.Errorf("%d letters, %v", all, err)
	}
	// All parts that failed are named.
	s.Tables().Clear(ledger.TableNonces)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = f.Sweep(ctx, false)
	for _, part := range []string{"the rows of the estate", "dead letters", "expired nonces"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
}

// The full sweep notes how many VMs there are, and forgets changes that count no more.
func TestAFullSweepAndTheBrakes(t *testing.T) {
	f, s := newFleet(listing{count: 3})
	for i, v := range []policy.Value{policy.Compliant, policy.Unknown, policy.Gone} {
		row := ledger.Row{PK: sub, RK: cvm.RowKey(string(vmNamed(fmt.Sprint("vm", i)))), ID: string(vmNamed(fmt.Sprint("vm", i))), Verdict: v}
		e, err := row.Entity()
		if err == nil {
			_, err = f.Tables.Insert(t.Context(), ledger.TableVMs, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	books := ledger.Brakes{Tables: s.Tables()}
	for i, age := range []time.Duration{48 * time.Hour, 0} {
		c, err := books.Changes(t.Context(), ledger.Breaker{}, f.Now().Add(-age))
		if err == nil {
			_, err = books.Change(t.Context(), ledger.Breaker{}, c, fmt.Sprint("chain", i), "id")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if r, err := f.Sweep(t.Context(), false); err != nil || r.OldChanges != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if n, _, err := books.Estate(t.Context()); n != 0 || err != nil {
		t.Errorf("after a small sweep: %d, %v", n, err)
	}
	if r, err := f.Sweep(t.Context(), true); err != nil || r.OldChanges != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if n, at, err := books.Estate(t.Context()); n != 2 || !at.Equal(f.Now()) || err != nil {
		t.Errorf("after a full one: %d at %s, %v", n, at, err)
	}
}

func TestSweepCountsWithoutALog(t *testing.T) {
	f, s := newFleet(listing{count: 2})
	r, err := f.Sweep(t.Context(), false)
	if err != nil || r.Listed != 2 || r.New != 2 || r.Missed != 0 || r.Enqueued != 2 || len(queued(t, s)) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := f.Tables.Insert(t.Context(), ledger.TableVMs, ledger.Entity{PK: sub, RK: cvm.RowKey(string(vmNamed("vm0"))), Cols: map[string]string{"headSeq": "many"}}); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Sweep(t.Context(), false); err != nil || r.New != 2 {
		t.Errorf("a spoilt row: %+v, %v", r, err)
	}
	if err := f.Blobs.Create(t.Context(), ledger.ContainerDeadLetter, "a", []byte("other")); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Sweep(t.Context(), false); err != nil || r.Imported != 1 {
		t.Errorf("a dead letter that concerns nobody: %+v, %v", r, err)
	}
}

func TestWakeByKeyFindsItsVMs(t *testing.T) {
	f, s := newFleet(listing{})
	for name, key := range map[string]cvm.KeyID{"a": keyURL, "b": keyURL + "2", "c": ""} {
		id := string(vmNamed(name))
		row := ledger.Row{PK: sub, RK: cvm.RowKey(id), ID: id, Key: key}
		e, err := row.Entity()
		if err == nil {
			_, err = f.Tables.Insert(t.Context(), ledger.TableVMs, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n, err := f.WakeByKey(t.Context(), "https://KV.vault.azure.net/keys/K", ledger.Cause{Kind: "key-event"})
	if q := queued(t, s); n != 1 || err != nil || len(q) != 2 || q[1].VM != string(vmNamed("a")) {
		t.Errorf("%d, %v, %+v", n, err, q)
	}
	s.Hook = func(a memstore.Action) error { return fault.New(fault.Transient, a.Op, a.Name, "away") }
	if n, err := f.WakeByKey(t.Context(), keyURL, ledger.Cause{Kind: "key-event"}); n != 0 || !fault.Is(err, fault.Transient) {
		t.Errorf("%d, %v", n, err)
	}
}

func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"", "[]", "null", `[{"id":"1"},2]`, `{"id":"1"}`, "[", "  [ 1 ]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		events := split(body)
		if len(events) == 0 {
			t.Error("a blob without events would be deleted with nothing kept")
		}
		if len(events) == 1 && string(events[0]) == string(body) {
			return
		}
		n := 0
		for _, e := range events {
			n += len(e)
		}
		if n > len(body) {
			t.Errorf("%d bytes out of %d", n, len(body))
		}
	})
}
