package ledger_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
)

// A letter that comes every day is one letter.
func TestALetterADayIsOne(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	in := inbox(s)
	for day := range 7 {
		_, err := in.Keep(ctx, letter("{", t0.AddDate(0, 0, day)))
		fatal(t, err)
	}
	if open, all, err := in.Count(ctx); open != 1 || all != 1 || err != nil {
		t.Errorf("count %d of %d, %v", open, all, err)
	}
}

func TestPrune(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	in := inbox(s)
	ids := map[string]string{}
	for _, name := range []string{"open", "closed long ago", "closed lately", "closed and back"} {
		id, err := in.Keep(ctx, letter(name, t0))
		fatal(t, err)
		ids[name] = id
	}
	fatal(t, in.SetOutcome(ctx, ids["closed long ago"], "dropped", t0))
	fatal(t, in.SetOutcome(ctx, ids["closed and back"], "dropped", t0))
	fatal(t, in.SetOutcome(ctx, ids["closed lately"], "dropped", t0.Add(48*time.Hour)))
	_, err := in.Keep(ctx, letter("closed and back", t0.Add(time.Hour)))
	fatal(t, err)
	for _, want := range []int{1, 0} {
		if gone, err := in.Prune(ctx, t0.Add(24*time.Hour)); err != nil || gone != want {
			t.Errorf("%d letters went, %v, want %d", gone, err, want)
		}
	}
	for name, id := range ids {
		_, err := in.Get(ctx, id)
		there, blobErr := s.Blobs().Exists(ctx, ledger.ContainerInbox, id)
		if want := name != "closed long ago"; blobErr != nil || there != want || (err == nil) != want || err != nil && !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: bytes %t %v, row %v", name, there, blobErr, err)
		}
	}
	if id, err := in.Keep(ctx, letter("closed long ago", t0.Add(72*time.Hour))); err != nil || id != ids["closed long ago"] {
		t.Errorf("comes again: %s, %v", id, err)
	}
	if got, err := in.Get(ctx, ids["closed long ago"]); err != nil || !got.Open() || got.Times != 0 || string(got.Body) != "closed long ago" {
		t.Errorf("came again as %+v, %v", got, err)
	}
}

// The same letter comes at any moment of its pruning, and at any moment of its
// coming the rest of the pruning happens: what was acknowledged has its bytes.
func TestPruneWhileTheLetterComesAgain(t *testing.T) {
	const body = "again"
	prepare := func(t *testing.T) (*memstore.Store, ledger.Inbox, string) {
		s := memstore.New(nil)
		in := inbox(s)
		id, err := in.Keep(t.Context(), letter(body, t0))
		fatal(t, err)
		fatal(t, in.SetOutcome(t.Context(), id, "dropped", t0))
		return s, in, id
	}
	check := func(t *testing.T, in ledger.Inbox, id string) {
		t.Helper()
		if got, err := in.Get(t.Context(), id); err != nil || !got.Open() || string(got.Body) != body {
			t.Errorf("%q, open %t, %v", got.Body, got.Open(), err)
		}
	}
	for _, moment := range []memstore.Action{{Op: "delete-row"}, {Op: "delete-row", After: true}, {Op: "delete-blob"}, {Op: "delete-blob", After: true}} {
		t.Run(fmt.Sprintf("%s, after %t", moment.Op, moment.After), func(t *testing.T) {
			s, in, id := prepare(t)
			s.Hook = func(a memstore.Action) error {
				if a.Op != moment.Op || a.After != moment.After {
					return nil
				}
				s.Hook = nil
				_, err := in.Keep(t.Context(), letter(body, t0.Add(time.Hour)))
				return err
			}
			_, err := in.Prune(t.Context(), t0.Add(24*time.Hour))
			fatal(t, err)
			check(t, in, id)
		})
	}
	// Keep sees the bytes, and row and bytes go before it writes its row.
	s, in, id := prepare(t)
	s.Hook = func(a memstore.Action) error {
		if a.Op != "insert" || a.After {
			return nil
		}
		s.Hook = nil
		_, err := in.Prune(t.Context(), t0.Add(24*time.Hour))
		return err
	}
	_, err := in.Keep(t.Context(), letter(body, t0.Add(time.Hour)))
	fatal(t, err)
	check(t, in, id)
}

func TestPruneSurvivesEveryCrash(t *testing.T) {
	crash := errors.New("killed")
	for at := 1; at <= 2; at++ {
		for _, after := range []bool{false, true} {
			s, ctx := memstore.New(nil), t.Context()
			in := inbox(s)
			id, err := in.Keep(ctx, letter("x", t0))
			fatal(t, err)
			fatal(t, in.SetOutcome(ctx, id, "dropped", t0))
			first := s.Actions()
			s.Hook = func(a memstore.Action) error {
				if a.N == first+at && a.After == after {
					return crash
				}
				return nil
			}
			if _, err := in.Prune(ctx, t0.Add(time.Hour)); !errors.Is(err, crash) {
				t.Errorf("action %d: %v", at, err)
			}
			if _, err := in.Prune(ctx, t0.Add(time.Hour)); err != nil {
				t.Errorf("action %d: %v", at, err)
			}
			if _, all, err := in.Count(ctx); all != 0 || err != nil {
				t.Errorf("action %d: %d letters, %v", at, all, err)
			}
			again, err := in.Keep(ctx, letter("x", t0.Add(2*time.Hour)))
			fatal(t, err)
			if got, err := in.Get(ctx, again); err != nil || string(got.Body) != "x" {
				t.Errorf("action %d: it comes again as %q, %v", at, got.Body, err)
			}
		}
	}
}
