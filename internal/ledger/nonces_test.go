package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/ledger/memstore"
)

func nonces(s *memstore.Store) ledger.Nonces {
	return ledger.Nonces{Tables: s.Tables(), Evidence: ledger.Evidence{Blobs: s.Blobs()}}
}

var seeded = ledger.NonceRow{VM: testVM, UniqueID: "unique-1", Cause: "r/1", Way: ledger.WayARM, Blob: "b"}

func random() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{7}) }

func TestEvidence(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	e := ledger.Evidence{Blobs: s.Blobs()}
	body := []byte(`{"version":1}`)
	sha, err := e.PutEvidence(ctx, body)
	fatal(t, err)
	if again, err := e.PutEvidence(ctx, body); err != nil || again != sha || sha != ledger.HashBytes(body) {
		t.Errorf("the same again: %s, %v", again, err)
	}
	if got, err := e.GetEvidence(ctx, sha); err != nil || !bytes.Equal(got, body) {
		t.Errorf("read %q, %v", got, err)
	}
	for _, bad := range []string{"", "x", strings.ToUpper(sha), ledger.HashBytes(nil)} {
		if _, err := e.GetEvidence(ctx, bad); !fault.Is(err, fault.NotFound) {
			t.Errorf("reading %q: %v", bad, err)
		}
	}
	for _, bad := range [][]byte{nil, make([]byte, ledger.MaxEvidence+1)} {
		if _, err := e.PutEvidence(ctx, bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("keeping %d bytes: %v", len(bad), err)
		}
	}
	s.Blobs().Overwrite(ledger.ContainerEvidence, ledger.EvidenceName(sha), []byte("forged"))
	if _, err := e.GetEvidence(ctx, sha); !fault.Is(err, fault.Bug) {
		t.Errorf("a forged piece: %v", err)
	}
}

func TestConsume(t *testing.T) {
	good, other := []byte("bundle"), []byte("other bundle")
	const life = 30 * time.Minute
	type try struct {
		vm     cvm.VMID
		bundle []byte
		after  time.Duration
		want   ledger.NonceState
	}
	for name, tries := range map[string][]try{
		"once":                          {{testVM, good, 0, ledger.NonceGood}},
		"in another spelling":           {{cvm.VMID(strings.ToUpper(testVM)), good, 0, ledger.NonceGood}},
		"twice":                         {{testVM, good, 0, ledger.NonceGood}, {testVM, good, time.Minute, ledger.NonceGood}},
		"again when its time is over":   {{testVM, good, 0, ledger.NonceGood}, {testVM, good, life * 9, ledger.NonceGood}},
		"other bytes":                   {{testVM, good, 0, ledger.NonceGood}, {testVM, other, 0, ledger.NonceReused}, {testVM, good, 0, ledger.NonceGood}},
		"other bytes when it's over":    {{testVM, good, 0, ledger.NonceGood}, {testVM, other, life * 9, ledger.NonceReused}},
		"another VM":                    {{testVM + "2", good, 0, ledger.NonceUnknown}, {testVM, good, 0, ledger.NonceGood}},
		"another VM once it's used":     {{testVM, good, 0, ledger.NonceGood}, {testVM + "2", good, 0, ledger.NonceUnknown}},
		"just in time":                  {{testVM, good, life - 1, ledger.NonceGood}},
		"too late":                      {{testVM, good, life, ledger.NonceExpired}},
		"too late, and still not used":  {{testVM, good, life, ledger.NonceExpired}, {testVM, other, 0, ledger.NonceGood}},
		"another VM before the time is": {{testVM + "2", good, life, ledger.NonceUnknown}},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := memstore.New(nil), t.Context()
			n := nonces(s)
			nonce, issued, err := n.IssueNonce(ctx, random(), t0, life, seeded)
			fatal(t, err)
			if len(nonce) != ledger.NonceSize || issued.Hash != ledger.NonceHash(nonce) || !issued.Expires.Equal(t0.Add(life)) {
				t.Fatalf("issued %+v", issued)
			}
			for i, c := range tries {
				state, row, sha, err := n.Consume(ctx, nonce, c.vm, c.bundle, t0.Add(c.after))
				if err != nil || state != c.want || sha != ledger.HashBytes(c.bundle) {
					t.Fatalf("try %d: %s, %v, want %s", i, state, err, c.want)
				}
				kept, err := s.Blobs().Exists(ctx, ledger.ContainerEvidence, ledger.EvidenceName(sha))
				fatal(t, err)
				if state == ledger.NonceGood && (!kept || row.Used != sha || row.Way != ledger.WayARM || row.UniqueID != "unique-1") {
					t.Errorf("try %d: kept %t, row %+v", i, kept, row)
				}
				if (state == ledger.NonceUnknown) != (row == ledger.NonceRow{}) {
					t.Errorf("try %d: %s with the row %+v", i, state, row)
				}
			}
		})
	}
	s := memstore.New(nil)
	if state, _, _, err := nonces(s).Consume(t.Context(), []byte("never issued"), testVM, good, t0); err != nil || state != ledger.NonceUnknown {
		t.Errorf("a nonce that was never issued: %s, %v", state, err)
	}
	if s.Actions() != 0 {
		t.Error("a nonce that was never issued led to a write")
	}
}

// A crash before or after any write must leave a nonce that the same bytes can
// use, and never a used nonce whose evidence isn't kept.
func TestConsumeSurvivesEveryCrash(t *testing.T) {
	crash := errors.New("killed")
	for at := range 3 {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("action %d, after %t", at+1, after), func(t *testing.T) {
				s, ctx := memstore.New(nil), t.Context()
				n := nonces(s)
				nonce, _, err := n.IssueNonce(ctx, random(), t0, time.Hour, seeded)
				fatal(t, err)
				var order []string
				s.Hook = func(a memstore.Action) error {
					if !a.After {
						order = append(order, a.Op)
					}
					if a.N == 2+at && a.After == after {
						return crash
					}
					return nil
				}
				state, _, sha, err := n.Consume(ctx, nonce, testVM, []byte("bundle"), t0)
				if at < 2 && (!errors.Is(err, crash) || state != "") {
					t.Fatalf("crashed: %s, %v", state, err)
				}
				row, rowErr := n.ByHash(ctx, ledger.NonceHash(nonce))
				fatal(t, rowErr)
				if kept, err := s.Blobs().Exists(ctx, ledger.ContainerEvidence, ledger.EvidenceName(sha)); err != nil || (row.Used != "" && !kept) {
					t.Errorf("the nonce is used by %q, evidence kept: %t %v", row.Used, kept, err)
				}
				if got := slices.Compact(order); !slices.Equal(got, []string{"create", "replace"}[:len(got)]) {
					t.Errorf("wrote in the order %q", order)
				}
				if state, _, _, err := n.Consume(ctx, nonce, testVM, []byte("bundle"), t0); err != nil || state != ledger.NonceGood {
					t.Errorf("the same bytes again: %s, %v", state, err)
				}
			})
		}
	}
}

func TestConsumeRace(t *testing.T) {
	s := memstore.New(nil)
	n := nonces(s)
	nonce, _, err := n.IssueNonce(t.Context(), random(), t0, time.Hour, seeded)
	fatal(t, err)
	var good atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			state, _, _, err := n.Consume(t.Context(), nonce, testVM, fmt.Appendf(nil, "bundle %d", i/2), t0)
			switch {
			case err != nil:
				t.Error(err)
			case state == ledger.NonceGood:
				good.Add(1)
			case state != ledger.NonceReused:
				t.Errorf("state %s", state)
			}
		})
	}
	wg.Wait()
	if good.Load() != 2 {
		t.Errorf("%d tries were good, want the two with the same bytes", good.Load())
	}
}

func TestQuota(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	n := nonces(s)
	at := t0.Add(50 * time.Minute)
	for range 3 {
		fatal(t, n.TakeQuota(ctx, testVM, at, 3))
	}
	err := n.TakeQuota(ctx, cvm.VMID(strings.ToUpper(testVM)), at, 3)
	if !fault.Is(err, fault.Throttled) || fault.RetryAfter(err) != 10*time.Minute {
		t.Errorf("the fourth: %v after %s", err, fault.RetryAfter(err))
	}
	fatal(t, n.TakeQuota(ctx, testVM+"2", at, 3))
	fatal(t, n.TakeQuota(ctx, testVM, at.Add(10*time.Minute), 3))
	if s.Calls()["query"] != 0 {
		t.Error("a scan was made")
	}
	var taken atomic.Int32
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if n.TakeQuota(t.Context(), testVM+"3", at, 4) == nil {
				taken.Add(1)
			}
		})
	}
	wg.Wait()
	if taken.Load() > 4 {
		t.Errorf("%d of a quota of 4 were taken", taken.Load())
	}
}

func TestExpire(t *testing.T) {
	s, ctx, r := memstore.New(nil), t.Context(), random()
	n := nonces(s)
	issue := func(at time.Time) []byte {
		nonce, _, err := n.IssueNonce(ctx, r, at, time.Hour, seeded)
		fatal(t, err)
		return nonce
	}
	old, used, young := issue(t0), issue(t0), issue(t0.Add(2*time.Hour))
	if state, _, _, err := n.Consume(ctx, used, testVM, []byte("b"), t0); err != nil || state != ledger.NonceGood {
		t.Fatal(state, err)
	}
	fatal(t, n.TakeQuota(ctx, testVM, t0, 9))
	fatal(t, n.TakeQuota(ctx, testVM, t0.Add(2*time.Hour), 9))
	gone, err := n.Expire(ctx, t0.Add(2*time.Hour))
	if err != nil || gone != 2 {
		t.Errorf("%d rows went, %v; want the old nonce and the old count", gone, err)
	}
	for name, c := range map[string]struct {
		nonce []byte
		there bool
	}{"old": {old, false}, "used": {used, true}, "young": {young, true}} {
		if _, err := n.ByHash(ctx, ledger.NonceHash(c.nonce)); (err == nil) != c.there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNonceRowIsStrict(t *testing.T) {
	for _, col := range []string{"vm", "way", "issued", "expires", "used"} {
		s, ctx := memstore.New(nil), t.Context()
		n := nonces(s)
		_, row, err := n.IssueNonce(ctx, random(), t0, time.Hour, seeded)
		fatal(t, err)
		s.Tables().Corrupt(ledger.TableNonces, "n", row.Hash, func(cols map[string]string) {
			cols[col] = map[bool]string{true: "", false: "?"}[col == "vm"]
		})
		if _, err := n.ByHash(ctx, row.Hash); !fault.Is(err, fault.Bug) || !strings.Contains(err.Error(), "column "+col) {
			t.Errorf("column %s: %v", col, err)
		}
	}
	if _, _, err := nonces(memstore.New(nil)).IssueNonce(t.Context(), bytes.NewReader(make([]byte, 31)), t0, time.Hour, seeded); err == nil {
		t.Error("a nonce of too few random bytes was issued")
	}
}
