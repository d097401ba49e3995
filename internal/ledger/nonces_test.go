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
// use, late too, and never a used nonce whose evidence isn't kept; other bytes get
// no room once a write of the row is done.
func TestConsumeSurvivesEveryCrash(t *testing.T) {
	crash := errors.New("killed")
	for at := range 4 {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("action %d, after %t", at+1, after), func(t *testing.T) {
				s, ctx := memstore.New(nil), t.Context()
				n := nonces(s)
				nonce, _, err := n.IssueNonce(ctx, random(), t0, time.Hour, seeded)
				fatal(t, err)
				first := s.Actions() + 1
				var order []string
				s.Hook = func(a memstore.Action) error {
					if !a.After {
						order = append(order, a.Op)
					}
					if a.N == first+at && a.After == after {
						return crash
					}
					return nil
				}
				state, _, sha, err := n.Consume(ctx, nonce, testVM, []byte("bundle"), t0)
				if at < 3 && (!errors.Is(err, crash) || state != "") {
					t.Fatalf("crashed: %s, %v", state, err)
				}
				row, rowErr := n.ByHash(ctx, ledger.NonceHash(nonce))
				fatal(t, rowErr)
				kept, err := s.Blobs().Exists(ctx, ledger.ContainerEvidence, ledger.EvidenceName(sha))
				if err != nil || row.Used != "" && !kept || kept && row.Reserved != sha {
					t.Errorf("the nonce is reserved for %q and used by %q, evidence kept: %t %v", row.Reserved, row.Used, kept, err)
				}
				if want := []string{"replace", "create", "replace"}; !slices.Equal(order, want[:len(order)]) {
					t.Errorf("wrote in the order %q", order)
				}
				reserved, late := at > 0 || after, t0
				if reserved {
					late = t0.Add(9 * time.Hour) // the time of a reserved nonce doesn't run out
					if state, _, sha, err := n.Consume(ctx, nonce, testVM, []byte("other"), t0); err != nil || state != ledger.NonceReused {
						t.Errorf("other bytes: %s, %v", state, err)
					} else if kept, err := s.Blobs().Exists(ctx, ledger.ContainerEvidence, ledger.EvidenceName(sha)); kept || err != nil {
						t.Errorf("other bytes were kept: %t, %v", kept, err)
					}
				}
				state, row, _, err = n.Consume(ctx, nonce, testVM, []byte("bundle"), late)
				if err != nil || state != ledger.NonceGood || row.Used != sha {
					t.Errorf("the same bytes again: %s, %v", state, err)
				}
				if got, err := n.Evidence.GetEvidence(ctx, sha); err != nil || string(got) != "bundle" {
					t.Errorf("its evidence: %q, %v", got, err)
				}
			})
		}
	}
}

// However many push different bytes over one nonce at once, one piece is kept.
func TestConsumeRace(t *testing.T) {
	for name, c := range map[string]struct{ same, good int }{"all different": {1, 1}, "four times each": {4, 4}} {
		t.Run(name, func(t *testing.T) {
			s := memstore.New(nil)
			n := nonces(s)
			nonce, _, err := n.IssueNonce(t.Context(), random(), t0, time.Hour, seeded)
			fatal(t, err)
			var good atomic.Int32
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range 16 {
				wg.Go(func() {
					<-start
					state, _, _, err := n.Consume(t.Context(), nonce, testVM, fmt.Appendf(nil, "bundle %d", i/c.same), t0)
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
			close(start)
			wg.Wait()
			if int(good.Load()) != c.good {
				t.Errorf("%d tries were good, want %d", good.Load(), c.good)
			}
			var kept []string
			fatal(t, s.Blobs().List(t.Context(), ledger.ContainerEvidence, "", func(name string) bool {
				kept = append(kept, name)
				return true
			}))
			if len(kept) != 1 {
				t.Errorf("%d pieces of evidence are kept: %q", len(kept), kept)
			}
		})
	}
}

// A bundle that can't be kept doesn't take the nonce from one that can.
func TestConsumeRefusesWhatCantBeKept(t *testing.T) {
	s, ctx := memstore.New(nil), t.Context()
	n := nonces(s)
	nonce, _, err := n.IssueNonce(ctx, random(), t0, time.Hour, seeded)
	fatal(t, err)
	for _, bad := range [][]byte{nil, make([]byte, ledger.MaxEvidence+1)} {
		if state, _, _, err := n.Consume(ctx, nonce, testVM, bad, t0); !fault.Is(err, fault.Invalid) || state != "" {
			t.Errorf("%d bytes: %s, %v", len(bad), state, err)
		}
	}
	if state, _, _, err := n.Consume(ctx, nonce, testVM, []byte("bundle"), t0); err != nil || state != ledger.NonceGood {
		t.Errorf("good bytes then: %s, %v", state, err)
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

func TestNonceRowIsStrict(t *testing.T) {
	for _, col := range []string{"vm", "way", "issued", "expires", "reserved", "used"} {
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
