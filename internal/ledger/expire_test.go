package ledger_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
)

// rowsOf is how many rows a table has.
func rowsOf(t *testing.T, s *memstore.Store, table string) (n int) {
	t.Helper()
	fatal(t, s.Tables().Query(t.Context(), table, ledger.Filter{}, func(ledger.Entity) bool {
		n++
		return true
	}))
	return n
}

func TestExpire(t *testing.T) {
	s, ctx, r := memstore.New(nil), t.Context(), random()
	n := nonces(s)
	issue := func(at time.Time) []byte {
		nonce, _, err := n.IssueNonce(ctx, r, at, time.Hour, seeded)
		fatal(t, err)
		return nonce
	}
	old, used, reserved, young := issue(t0), issue(t0), issue(t0), issue(t0.Add(2*time.Hour))
	if state, _, _, err := n.Consume(ctx, used, testVM, []byte("b"), t0); err != nil || state != ledger.NonceGood {
		t.Fatal(state, err)
	}
	s.Hook = func(a memstore.Action) error {
		if a.Op == "create" {
			return errors.New("killed")
		}
		return nil
	}
	if state, _, _, err := n.Consume(ctx, reserved, testVM, []byte("c"), t0); err == nil {
		t.Fatal(state)
	}
	s.Hook = nil
	fatal(t, n.TakeQuota(ctx, testVM, t0, 9))
	fatal(t, n.TakeQuota(ctx, testVM, t0.Add(2*time.Hour), 9))
	expire := func(before time.Time, want int) {
		t.Helper()
		for _, want := range []int{want, 0} {
			if gone, err := n.Expire(ctx, before); err != nil || gone != want {
				t.Errorf("%d rows went, %v; want %d", gone, err, want)
			}
		}
	}
	there := func(nonce []byte, want bool) {
		t.Helper()
		if _, err := n.ByHash(ctx, ledger.NonceHash(nonce)); (err == nil) != want {
			t.Error(err)
		}
	}
	expire(t0.Add(2*time.Hour), 2) // the old nonce and the old count
	there(old, false)
	there(used, true)
	there(reserved, true)
	there(young, true)
	if state, _, _, err := n.Consume(ctx, reserved, testVM, []byte("c"), t0.Add(9*time.Hour)); err != nil || state != ledger.NonceGood {
		t.Errorf("the reserved one is still good: %s, %v", state, err)
	}
	expire(t0.Add(ledger.UsedRetention), 2) // the young nonce and its count
	if state, _, _, err := n.Consume(ctx, used, testVM, []byte("other"), t0.Add(ledger.UsedRetention)); err != nil || state != ledger.NonceReused {
		t.Errorf("within its retention: %s, %v", state, err)
	}
	expire(t0.Add(ledger.UsedRetention+2*time.Hour), 2)
	for _, body := range []string{"b", "other"} {
		if state, _, _, err := n.Consume(ctx, used, testVM, []byte(body), t0); err != nil || state != ledger.NonceUnknown {
			t.Errorf("after its retention: %s, %v", state, err)
		}
	}
	if left := rowsOf(t, s, ledger.TableNonces); left != 0 {
		t.Errorf("%d rows are left", left)
	}
}

// What isn't due is not even read, and a call that is cut short is gone on with.
func TestExpireCostsWhatIsDue(t *testing.T) {
	const due = 5100 // more than one call takes
	s, ctx, r := memstore.New(nil), t.Context(), random()
	n := nonces(s)
	for i := range due + 500 {
		at := t0
		if i >= due {
			at = t0.Add(48 * time.Hour)
		}
		_, _, err := n.IssueNonce(ctx, r, at, time.Hour, seeded)
		fatal(t, err)
	}
	before := t0.Add(24 * time.Hour)
	if gone, err := n.Expire(ctx, before); err != nil || gone != 5000 {
		t.Errorf("%d rows went at once, %v", gone, err)
	}
	gets := s.Calls()["get"]
	if gone, err := n.Expire(ctx, before); err != nil || gone != due-5000 || s.Calls()["get"]-gets != due-5000 {
		t.Errorf("%d rows went then, %v, with %d reads", gone, err, s.Calls()["get"]-gets)
	}
	if left := rowsOf(t, s, ledger.TableNonces); left != 2*500 {
		t.Errorf("%d rows are left", left)
	}
}

// Whatever write of issuing, using or expiring fails, no row stays for good, and a
// nonce that is used meanwhile stays.
func TestExpireSurvivesEveryCrash(t *testing.T) {
	for at := 1; at <= 12; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("action %d, after %t", at, after), func(t *testing.T) {
				s, ctx := memstore.New(nil), t.Context()
				n := nonces(s)
				s.Hook = func(a memstore.Action) error {
					if a.N == at && a.After == after {
						return errors.New("killed")
					}
					return nil
				}
				r, failed := random(), 0
				for i := range 2 {
					nonce, _, err := n.IssueNonce(ctx, r, t0, time.Hour, seeded)
					if err == nil && i == 0 {
						_, _, _, err = n.Consume(ctx, nonce, testVM, []byte("b"), t0)
					}
					if err != nil {
						failed++
					}
				}
				for range 3 {
					for _, before := range []time.Time{t0.Add(3 * time.Hour), t0.Add(ledger.UsedRetention + 3*time.Hour)} {
						if _, err := n.Expire(ctx, before); err != nil {
							failed++
						}
					}
				}
				if failed > 1 || failed == 0 && at <= 11 {
					t.Errorf("%d calls failed", failed)
				}
				if left := rowsOf(t, s, ledger.TableNonces); left != 0 {
					t.Errorf("%d rows are left", left)
				}
			})
		}
	}
	s, ctx := memstore.New(nil), t.Context()
	n := nonces(s)
	nonce, _, err := n.IssueNonce(ctx, random(), t0, time.Hour, seeded)
	fatal(t, err)
	s.Hook = func(a memstore.Action) error {
		if a.Op == "delete-row" && !a.After {
			s.Hook = nil
			_, _, _, err := n.Consume(ctx, nonce, testVM, []byte("b"), t0)
			return err
		}
		return nil
	}
	for range 2 {
		if gone, err := n.Expire(ctx, t0.Add(3*time.Hour)); err != nil || gone != 0 {
			t.Errorf("%d went, %v", gone, err)
		}
	}
	if row, err := n.ByHash(ctx, ledger.NonceHash(nonce)); err != nil || row.Used == "" {
		t.Errorf("used while it was about to go: %+v, %v", row, err)
	}
}

func TestExpirePassesBySpoiltRows(t *testing.T) {
	s, ctx, r := memstore.New(nil), t.Context(), random()
	n := nonces(s)
	_, spoilt, err := n.IssueNonce(ctx, r, t0, time.Hour, seeded)
	fatal(t, err)
	_, _, err = n.IssueNonce(ctx, r, t0.Add(time.Hour), time.Hour, seeded)
	fatal(t, err)
	s.Tables().Corrupt(ledger.TableNonces, "n", spoilt.Hash, func(cols map[string]string) { cols["way"] = "?" })
	if gone, err := n.Expire(ctx, t0.Add(5*time.Hour)); gone != 1 || !fault.Is(err, fault.Bug) || !strings.Contains(err.Error(), spoilt.Hash) {
		t.Errorf("%d went, %v", gone, err)
	}
}
