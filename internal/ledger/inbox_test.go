package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
)

func inbox(s *memstore.Store) ledger.Inbox { return ledger.Inbox{Blobs: s.Blobs(), Tables: s.Tables()} }

func letter(body string, at time.Time) ledger.Letter {
	return ledger.Letter{Source: ledger.SourceEvent, Reason: "unknown schema", Body: []byte(body), Tries: 1, At: at, Object: testVM}
}

func TestInbox(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	in := inbox(s)
	big := bytes.Repeat([]byte{0, 1, 0xff}, 1<<19) // 1.5 MiB, not text
	id, err := in.Keep(ctx, letter(string(big), t0))
	fatal(t, err)
	if s.Actions() != 2 {
		t.Errorf("keeping made %d writes", s.Actions())
	}
	got, err := in.Get(ctx, id)
	fatal(t, err)
	if !bytes.Equal(got.Body, big) || got.Reason != "unknown schema" || got.Tries != 1 || !got.At.Equal(t0) || got.Object != testVM || got.Size != len(big) || !got.Open() {
		t.Errorf("got %d bytes and %+v", len(got.Body), ledger.Letter{Reason: got.Reason, At: got.At, Size: got.Size})
	}
	for i, at := range []time.Time{t0, t0.Add(time.Hour), t0.Add(23 * time.Hour), t0.Add(24 * time.Hour), t0.Add(49 * time.Hour), t0.Add(7 * 24 * time.Hour)} {
		if again, err := in.Keep(ctx, letter(string(big), at)); err != nil || again != id {
			t.Errorf("redelivery %d: %s, %v", i, again, err)
		}
	}
	other, err := in.Keep(ctx, letter("{", t0.Add(time.Minute)))
	fatal(t, err)
	queued := letter("{", t0.Add(2*time.Minute))
	queued.Source = ledger.SourceQueue
	third, err := in.Keep(ctx, queued)
	fatal(t, err)
	if open, all, err := in.Count(ctx); open != 3 || all != 3 || err != nil {
		t.Errorf("count %d of %d, %v", open, all, err)
	}
	list := func(limit int, openOnly bool) (ids []string) {
		fatal(t, in.List(ctx, limit, openOnly, func(l ledger.Letter) bool {
			ids = append(ids, l.ID)
			return true
		}))
		return ids
	}
	if got := list(2, false); !slices.Equal(got, []string{third, other}) {
		t.Errorf("newest two: %q", got)
	}
	fatal(t, in.SetOutcome(ctx, other, "redriven", t0.Add(time.Hour)))
	if got := list(9, true); !slices.Equal(got, []string{third, id}) {
		t.Errorf("open: %q", got)
	}
	if got, err := in.Get(ctx, other); err != nil || got.Outcome != "redriven" || !got.OutcomeAt.Equal(t0.Add(time.Hour)) || got.Open() {
		t.Errorf("after its outcome: %+v, %v", got, err)
	}
	back := letter("{", t0.Add(2*time.Hour))
	back.Reason, back.Tries = "still unknown", 5
	if again, err := in.Keep(ctx, back); err != nil || again != other {
		t.Errorf("came back as %s, %v", again, err)
	}
	if got, err := in.Get(ctx, other); err != nil || !got.Open() || got.Times != 1 || got.Reason != "still unknown" || got.Tries != 5 || !got.At.Equal(t0.Add(time.Minute)) {
		t.Errorf("came back: %+v, %v", got, err)
	}
}

func TestInboxRefuses(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	in := inbox(s)
	for _, id := range []string{"", "x", strings.Repeat("0", 32), "../secret", strings.Repeat("0", 33), strings.Repeat("A", 32)} {
		if _, err := in.Get(ctx, id); !fault.Is(err, fault.NotFound) {
			t.Errorf("get %q: %v", id, err)
		}
		if err := in.SetOutcome(ctx, id, "x", t0); !fault.Is(err, fault.NotFound) {
			t.Errorf("outcome of %q: %v", id, err)
		}
	}
	long := letter("x", t0)
	long.Body = make([]byte, ledger.MaxLetter+1)
	if _, err := in.Keep(ctx, long); !fault.Is(err, fault.Invalid) {
		t.Errorf("a long letter: %v", err)
	}
	wordy := letter("x", t0)
	wordy.Reason = strings.Repeat("ü", 100_000) + "\xff"
	id, err := in.Keep(ctx, wordy)
	fatal(t, err)
	s.Tables().Corrupt(ledger.TableInbox, id[:8], id, func(cols map[string]string) { cols["tries"] = "many" })
	if _, err := in.Get(ctx, id); !fault.Is(err, fault.Bug) || !strings.Contains(err.Error(), "column tries") {
		t.Errorf("a spoilt row: %v", err)
	}
	if _, _, err := in.Count(ctx); !fault.Is(err, fault.Bug) {
		t.Errorf("counting with a spoilt row: %v", err)
	}
}

// Whatever write fails, the letter isn't acknowledged, and the next delivery
// leaves exactly one.
func TestKeepSurvivesEveryCrash(t *testing.T) {
	crash := errors.New("killed")
	for at := 1; at <= 2; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("action %d, after %t", at, after), func(t *testing.T) {
				s, ctx := memstore.New(nil), t.Context()
				in := inbox(s)
				s.Hook = func(a memstore.Action) error {
					if a.N == at && a.After == after {
						return crash
					}
					return nil
				}
				if _, err := in.Keep(ctx, letter("{", t0)); !errors.Is(err, crash) {
					t.Fatalf("acknowledged: %v", err)
				}
				id, err := in.Keep(ctx, letter("{", t0.Add(time.Second)))
				fatal(t, err)
				if got, err := in.Get(ctx, id); err != nil || string(got.Body) != "{" {
					t.Errorf("got %q, %v", got.Body, err)
				}
				if open, all, err := in.Count(ctx); open != 1 || all != 1 || err != nil {
					t.Errorf("count %d of %d, %v", open, all, err)
				}
			})
		}
	}
}
