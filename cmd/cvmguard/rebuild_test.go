package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/ledger"
)

func TestRebuildPutsObjectsOnTheLoop(t *testing.T) {
	a, err := newStandIn("")
	if err != nil {
		t.Fatal(err)
	}
	defer a.server.Close()
	ctx := t.Context()
	now := time.Now().Add(time.Minute)
	r := rebuilder{rows: ledger.Rebuilding{Blobs: a.store.Blobs(), Tables: a.store.Tables(), Now: func() time.Time { return now }, Owner: "rebuild-1", Lease: time.Minute},
		queue: a.store.Queue()}

	// Rows that are there and readable are kept, and nothing is enqueued.
	got, err := r.rebuild(ctx, nil)
	if err != nil || len(got) != 2 || got[0].Action != ledger.RebuiltKept || got[0].Enqueued || a.queued("rebuild") {
		t.Fatalf("kept: %+v, %v", got, err)
	}
	// Lost ones are written, and their objects are looked at.
	a.store.Tables().Clear(ledger.TableVMs)
	missing := "00000000-0000-0000-0000-0000000000a1-abcdefghijklmnopqrstuvwxyz"
	got, err = r.rebuild(ctx, []string{chainOf(a.vms[1]), missing})
	if err != nil || len(got) != 2 || got[0].Action != ledger.RebuiltCreated || !got[0].Enqueued || got[0].Object != a.vms[1] || got[0].Verdict != "non-compliant" {
		t.Fatalf("created: %+v, %v", got, err)
	}
	if got[1].Action != "failed" || got[1].err == nil || !a.queued(`"kind":"rebuild"`) || a.queued("vm-good") {
		t.Errorf("missing: %+v", got[1])
	}
	if _, err := a.store.Tables().Get(ctx, ledger.TableVMs, standInSub, strings.TrimPrefix(chainOf(a.vms[1]), standInSub+"-")); err != nil {
		t.Error(err)
	}
	var out, said bytes.Buffer
	c := &console{ctx: ctx, stdout: &out, stderr: &said, getenv: func(string) string { return "" }, now: time.Now}
	if status := c.finish(rebuildCmd{}.tell(c, got)); status != exitNot {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(out.String(), "created") || !strings.HasPrefix(said.String(), "cvmguard: ") {
		t.Errorf("stdout %q, stderr %q", out.String(), said.String())
	}

	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := r.rebuild(stopped, nil); err == nil {
		t.Error("an interrupt went unnoticed")
	}
}
