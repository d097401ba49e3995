package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/attest"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

type tool struct{}

func (tool) Ensure(context.Context) (string, string, error) {
	return strings.Repeat("ab", 32), "https://storage.example/tools/x?sig=1", nil
}

// documents keeps the policy documents that the tests parsed, by mode and text.
var documents sync.Map

func document(t testing.TB, text, mode string) *policy.Document {
	t.Helper()
	if d, ok := documents.Load(mode + text); ok {
		return d.(*policy.Document)
	}
	d := policy.Embedded()
	if text != "" {
		var err error
		if d, err = policy.Parse([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	d = d.WithMode(mode)
	documents.Store(mode+text, d)
	return d
}

// loop makes a worker: a process that has just started.
func (w *world) loop(t testing.TB, mode string) *Loop {
	t.Helper()
	doc := document(t, w.policy, mode)
	ap := remedy.NewApplier(writer{w}, doc)
	ap.Script, ap.Now = func(string) string { return "#!/bin/sh\n" }, w.clock.Now
	return &Loop{Azure: reader{w}, Blobs: w.store.Blobs(), SAS: w.store.Blobs(), Tables: w.store.Tables(), Queue: w.store.Queue(), Applier: ap,
		Provider: func(string) string { return "https://sharedweu.weu.attest.azure.net" }, Tool: tool{}, Policy: doc, Settings: DefaultSettings(), Now: w.clock.Now,
		Rand: entropy{}, Version: "test", Development: true, Judge: judge}
}

// entropy is randomness that needs no system.
type entropy struct{}

func (entropy) Read(p []byte) (int, error) {
	for at := 0; at < len(p); at += 8 {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], rand.Uint64())
		copy(p[at:], b[:])
	}
	return len(p), nil
}

// judge stands for the verifier: good nonce, good evidence.
func judge(_ context.Context, bundle []byte, n attest.Nonce, _ attest.Subject, _ attest.Options, now time.Time) attest.Result {
	a := cvm.Attestation{MAA: cvm.Outcome{State: cvm.Pass}, Evidence: cvm.Outcome{State: cvm.Pass}, NonceIssued: n.Issued, JudgedAt: now, Way: n.Way, Kind: "snp"}
	if n.State != attest.NonceGood {
		a.Evidence = cvm.Outcome{State: cvm.Fail, Reason: "nonce." + string(n.State)}
	}
	sum := sha256.Sum256(bundle)
	a.Bundle = hex.EncodeToString(sum[:])
	return attest.Result{Attestation: a}
}

// crash is what a hook panics with.
type crash struct{ at string }

// The host's way with messages.
const (
	hiding    = 10 * time.Minute // a message whose reader died comes again after it
	retryWait = 30 * time.Second // a message that failed comes again after it
	horizon   = 30 * time.Minute // what comes later than that is none of a test's business
)

// drain plays the host: it delivers messages until nothing is due within the
// horizon. A turn that crashes or fails leaves its message to come again.
func (w *world) drain(t testing.TB, l *Loop, restart func() *Loop) {
	t.Helper()
	w.drainFor(t, l, restart, horizon)
}

func (w *world) drainFor(t testing.TB, l *Loop, restart func() *Loop, far time.Duration) {
	t.Helper()
	q := w.store.Queue()
	for range 5000 {
		if w.step(&l, restart) {
			continue
		}
		at, any := q.Next(ledger.QueueReconcile)
		if !any || at.Sub(w.clock.Now()) > far {
			return
		}
		w.clock.Set(at)
	}
	t.Fatal("the loop does not come to rest")
}

// until delivers what is due up to a time from now, and ends at that time.
func (w *world) until(t testing.TB, l *Loop, d time.Duration) {
	t.Helper()
	end := w.clock.Now().Add(d)
	q := w.store.Queue()
	for range 5000 {
		if w.step(&l, nil) {
			continue
		}
		at, any := q.Next(ledger.QueueReconcile)
		if !any || at.After(end) {
			w.clock.Set(end)
			return
		}
		w.clock.Set(at)
	}
	t.Fatal("the loop does not come to rest")
}

// step delivers one message that is visible; false when none is.
func (w *world) step(l **Loop, restart func() *Loop) bool {
	q := w.store.Queue()
	msg, ok := q.Dequeue(ledger.QueueReconcile, hiding)
	if !ok {
		return false
	}
	w.clock.Advance(5 * time.Millisecond)
	err, crashed := w.deliver(*l, msg.Text)
	switch {
	case crashed:
		*l = restart() // the message stays hidden until its time is over
	case err != nil:
		q.Requeue(ledger.QueueReconcile, msg, retryWait)
	default:
		q.Done(ledger.QueueReconcile, msg)
	}
	return true
}

func (w *world) deliver(l *Loop, text []byte) (err error, crashed bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			crashed = true
		}
	}()
	m, err := DecodeMessage(text)
	if err != nil {
		return err, false
	}
	return l.Turn(context.Background(), m), false
}

// send puts a message on the queue, visible at once.
func (w *world) send(t testing.TB, m Message) {
	t.Helper()
	if err := w.store.Queue().Enqueue(t.Context(), ledger.QueueReconcile, m.Encode(), 0); err != nil {
		t.Fatal(err)
	}
}

// event is a message for an event of a VM, now.
func (w *world) event(name, id string) Message {
	return Message{VM: string(vmIDOf(name)), Cause: ledger.Cause{Kind: causeEvent, At: w.clock.Now(), ID: id}}
}

// rerun is a person's message, which asks for evidence anew.
func (w *world) rerun(name, id string) Message {
	return Message{VM: string(vmIDOf(name)), Cause: ledger.Cause{Kind: "rerun", At: w.clock.Now(), ID: id, Fresh: true}}
}

func (w *world) announce(t testing.TB, names ...string) {
	t.Helper()
	for i, n := range names {
		w.send(t, w.event(n, fmt.Sprint("event-", n, i)))
	}
}

// queued are the messages on the queue, in the order in which they come.
func (w *world) queued(t testing.TB) (out []Message, at []time.Time) {
	t.Helper()
	for _, q := range w.store.Queue().Peek(ledger.QueueReconcile) {
		m, err := DecodeMessage(q.Text)
		if err != nil {
			t.Fatal(err)
		}
		out, at = append(out, m), append(at, q.Visible)
	}
	return out, at
}

// row reads an object's row.
func (w *world) row(t testing.TB, o Object) ledger.Row {
	t.Helper()
	e, err := w.store.Tables().Get(context.Background(), o.Table, o.PK, o.RK)
	if err != nil {
		t.Fatal(err)
	}
	r, err := ledger.DecodeRow(e)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// records are an object's records, their links checked.
func (w *world) records(t testing.TB, o Object) []ledger.Linked {
	t.Helper()
	recs, err := ledger.Chains{Blobs: w.store.Blobs()}.After(context.Background(), o.Chain(), 0, "")
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

// history is what an auditor sees of an object: verdicts and outcomes in their
// order, repetitions of a verdict left out.
func (w *world) history(t testing.TB, o Object) []string {
	t.Helper()
	var out []string
	last := ""
	for _, r := range w.records(t, o) {
		if r.Record.Type == ledger.TypeOutcome {
			out = append(out, "outcome "+string(r.Record.Step.Kind)+" "+string(r.Record.Outcome.State))
			continue
		}
		line := "verdict " + string(r.Record.Verdict.Value)
		if line != last {
			out = append(out, line)
			last = line
		}
	}
	return out
}

// outcomes are an object's outcomes of a kind of step.
func (w *world) outcomes(t testing.TB, o Object, kind remedy.Kind) []ledger.Outcome {
	t.Helper()
	var out []ledger.Outcome
	for _, r := range w.records(t, o) {
		if r.Record.Type == ledger.TypeOutcome && r.Record.Step.Kind == kind {
			out = append(out, *r.Record.Outcome)
		}
	}
	return out
}

// atRest checks what holds of every object when nothing is under way: the claim is
// clean, no step open, the row at the chain's head, and a next look that is still
// to come has its message on the queue.
func (w *world) atRest(t testing.TB, objects ...Object) {
	t.Helper()
	msgs, _ := w.queued(t)
	for _, o := range objects {
		r, recs := w.row(t, o), w.records(t, o)
		if r.Owner != "" || r.Again || r.Followed != "" || !r.LeaseEnds.IsZero() {
			t.Errorf("%s: the claim isn't clean: owner %q until %s, again %t, followed %q", last(o.ID), r.Owner, r.LeaseEnds, r.Again, r.Followed)
		}
		if r.Step != nil {
			t.Errorf("%s: step %s is open", last(o.ID), r.Step.Step.Kind)
		}
		if len(recs) == 0 || recs[len(recs)-1].Hash != r.HeadHash || len(recs) != r.HeadSeq {
			t.Errorf("%s: the row's head is %d, the chain has %d", last(o.ID), r.HeadSeq, len(recs))
		}
		if r.NextLook.After(w.clock.Now()) && !slices.ContainsFunc(msgs, func(m Message) bool {
			own, err := objectOf(m)
			return err == nil && own.RK == o.RK && m.Due.Equal(r.NextLook)
		}) {
			t.Errorf("%s: no message is on its way for the next look at %s", last(o.ID), r.NextLook)
		}
	}
}

func mustVM(t testing.TB, name string) Object {
	t.Helper()
	o, err := VMObject(string(vmIDOf(name)))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustShared(t testing.TB, id string) Object {
	t.Helper()
	o, err := SharedObject(id)
	if err != nil {
		t.Fatal(err)
	}
	return o
}
