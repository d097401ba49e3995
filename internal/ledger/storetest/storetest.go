// Package storetest is the contract of the ledger's storage as tests: whoever
// implements ledger.Blobs, ledger.Tables and ledger.Queue runs them.
//
// Run works on a store that others use too: it makes names of its own and leaves
// other blobs and rows alone. It sends one message on the poison queue, which is
// hidden for long. It does not test limits of size that only Azure has, nor what
// a network does.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Store is what is tested. SAS may be nil. HTTP is the client for SAS URLs that
// begin with http; nil is http.DefaultClient.
type Store struct {
	Blobs  ledger.Blobs
	Tables ledger.Tables
	Queue  ledger.Queue
	SAS    ledger.SASBlobs
	HTTP   *http.Client
}

// Run runs every test of the contract as a subtest.
func Run(t *testing.T, s Store) {
	t.Helper()
	t.Run("Blobs", func(t *testing.T) { blobs(t, s) })
	t.Run("BlobList", func(t *testing.T) { blobList(t, s) })
	t.Run("BlobRace", func(t *testing.T) { blobRace(t, s) })
	t.Run("Rows", func(t *testing.T) { rows(t, s) })
	t.Run("RowText", func(t *testing.T) { rowText(t, s) })
	t.Run("RowRace", func(t *testing.T) { rowRace(t, s) })
	t.Run("Query", func(t *testing.T) { query(t, s) })
	t.Run("Queue", func(t *testing.T) { queue(t, s) })
	t.Run("Cancelled", func(t *testing.T) { cancelled(t, s) })
	if s.SAS != nil {
		t.Run("SAS", func(t *testing.T) { sas(t, s) })
	}
}

// fresh is a name that nobody else has.
func fresh(t *testing.T) string {
	t.Helper()
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return "storetest-" + hex.EncodeToString(b[:])
}

func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantKind(t *testing.T, what string, err error, k fault.Kind) {
	t.Helper()
	if !fault.Is(err, k) {
		t.Fatalf("%s: error %v is of kind %q, want %q", what, err, fault.KindOf(err), k)
	}
}

func blobs(t *testing.T, s Store) {
	ctx, name := t.Context(), fresh(t)
	const c = ledger.ContainerInbox
	_, err := s.Blobs.Read(ctx, c, name, 100)
	wantKind(t, "reading an absent blob", err, fault.NotFound)
	if there, err := s.Blobs.Exists(ctx, c, name); err != nil || there {
		t.Fatalf("an absent blob exists: %t, %v", there, err)
	}
	body := []byte("{\"x\":\"\x00\xff<&>\"}\r\n")
	ok(t, "creating", s.Blobs.Create(ctx, c, name, body))
	wantKind(t, "creating again", s.Blobs.Create(ctx, c, name, []byte("other")), fault.Conflict)
	wantKind(t, "creating again with the same bytes", s.Blobs.Create(ctx, c, name, body), fault.Conflict)
	got, err := s.Blobs.Read(ctx, c, name, int64(len(body)))
	ok(t, "reading a blob of exactly the most bytes", err)
	if !bytes.Equal(got, body) {
		t.Fatalf("read %q, wrote %q", got, body)
	}
	_, err = s.Blobs.Read(ctx, c, name, int64(len(body))-1)
	wantKind(t, "reading a blob that is too long", err, fault.Invalid)
	if there, err := s.Blobs.Exists(ctx, c, name); err != nil || !there {
		t.Fatalf("a blob that is there exists: %t, %v", there, err)
	}
	if got, err := s.Blobs.Read(ctx, c, name, 1<<20); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("the second creation changed the blob: %q, %v", got, err)
	}
	ok(t, "deleting", s.Blobs.Delete(ctx, c, name))
	_, err = s.Blobs.Read(ctx, c, name, 100)
	wantKind(t, "reading a deleted blob", err, fault.NotFound)
	ok(t, "creating an empty blob", s.Blobs.Create(ctx, c, name, nil))
	if got, err := s.Blobs.Read(ctx, c, name, 0); err != nil || len(got) != 0 {
		t.Fatalf("reading an empty blob: %q, %v", got, err)
	}
	ok(t, "deleting", s.Blobs.Delete(ctx, c, name))
	if err := s.Blobs.Delete(ctx, c, name); err != nil {
		wantKind(t, "deleting an absent blob, if that is an error", err, fault.NotFound)
	}
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB
	ok(t, "creating 2 MiB", s.Blobs.Create(ctx, c, name, long))
	if got, err := s.Blobs.Read(ctx, c, name, 4<<20); err != nil || !bytes.Equal(got, long) {
		t.Fatalf("reading 2 MiB: %d bytes, %v", len(got), err)
	}
	ok(t, "deleting", s.Blobs.Delete(ctx, c, name))
}

func blobList(t *testing.T, s Store) {
	ctx, prefix := t.Context(), fresh(t)
	const c = ledger.ContainerInbox
	var want []string
	for i := range 12 {
		want = append(want, fmt.Sprintf("%s/%08d.json", prefix, i+1))
	}
	for _, name := range append(slices.Clone(want[5:]), want[:5]...) {
		ok(t, "creating", s.Blobs.Create(ctx, c, name, []byte(name)))
	}
	ok(t, "creating", s.Blobs.Create(ctx, c, prefix+"-other", []byte("x")))
	list := func(stop int) (names []string) {
		ok(t, "listing", s.Blobs.List(ctx, c, prefix+"/", func(name string) bool {
			names = append(names, name)
			return len(names) != stop
		}))
		return names
	}
	if got := list(0); !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	if got := list(3); !slices.Equal(got, want[:3]) {
		t.Errorf("stopped at the third, listed %q", got)
	}
	ok(t, "listing nothing", s.Blobs.List(ctx, c, prefix+"-none/", func(name string) bool {
		t.Errorf("listed %q", name)
		return true
	}))
	for _, name := range append(want, prefix+"-other") {
		ok(t, "deleting", s.Blobs.Delete(ctx, c, name))
	}
}

func blobRace(t *testing.T, s Store) {
	ctx, name := t.Context(), fresh(t)
	won := race(t, func(i int) error {
		return s.Blobs.Create(ctx, ledger.ContainerInbox, name, []byte{byte(i)})
	})
	if got, err := s.Blobs.Read(ctx, ledger.ContainerInbox, name, 9); err != nil || !bytes.Equal(got, []byte{byte(won)}) {
		t.Errorf("worker %d won, the blob is %v, %v", won, got, err)
	}
	ok(t, "deleting", s.Blobs.Delete(ctx, ledger.ContainerInbox, name))
}

// race lets eight workers try the same; one must win, the others hear Conflict.
func race(t *testing.T, try func(i int) error) (winner int) {
	t.Helper()
	var wg sync.WaitGroup
	var wins, last atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			switch err := try(i); {
			case err == nil:
				wins.Add(1)
				last.Store(int32(i))
			case !fault.Is(err, fault.Conflict):
				t.Errorf("a loser heard %v of kind %q, want conflict", err, fault.KindOf(err))
			}
		})
	}
	wg.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of 8 workers won", wins.Load())
	}
	return int(last.Load())
}

func rows(t *testing.T, s Store) {
	ctx, pk := t.Context(), fresh(t)
	const table = ledger.TableNonces
	_, err := s.Tables.Get(ctx, table, pk, "a")
	wantKind(t, "reading an absent row", err, fault.NotFound)
	_, err = s.Tables.Replace(ctx, table, ledger.Entity{PK: pk, RK: "a", ETag: `W/"datetime'2026-01-01T00%3A00%3A00.0000000Z'"`, Cols: map[string]string{"x": "0"}})
	wantKind(t, "replacing an absent row", err, fault.Conflict)
	first, err := s.Tables.Insert(ctx, table, ledger.Entity{PK: pk, RK: "a", Cols: map[string]string{"x": "1", "gone": "soon"}})
	ok(t, "inserting", err)
	if first == "" {
		t.Fatal("inserting gave no ETag")
	}
	_, err = s.Tables.Insert(ctx, table, ledger.Entity{PK: pk, RK: "a", Cols: map[string]string{"x": "2"}})
	wantKind(t, "inserting again", err, fault.Conflict)
	e, err := s.Tables.Get(ctx, table, pk, "a")
	ok(t, "reading", err)
	if e.PK != pk || e.RK != "a" || e.ETag != first || e.Cols["x"] != "1" || len(e.Cols) != 2 {
		t.Fatalf("read %+v, want the row as inserted with ETag %s and its two columns alone", e, first)
	}
	second, err := s.Tables.Replace(ctx, table, ledger.Entity{PK: pk, RK: "a", ETag: first, Cols: map[string]string{"x": "3"}})
	ok(t, "replacing", err)
	if second == "" || second == first {
		t.Fatalf("replacing gave the ETag %q after %q", second, first)
	}
	e, err = s.Tables.Get(ctx, table, pk, "a")
	ok(t, "reading", err)
	if e.ETag != second || e.Cols["x"] != "3" || len(e.Cols) != 1 {
		t.Fatalf("read %+v; a replaced row holds the new columns alone, under ETag %s", e, second)
	}
	_, err = s.Tables.Replace(ctx, table, ledger.Entity{PK: pk, RK: "a", ETag: first, Cols: map[string]string{"x": "4"}})
	wantKind(t, "replacing with a stale ETag", err, fault.Conflict)
	wantKind(t, "deleting with a stale ETag", s.Tables.Delete(ctx, table, pk, "a", first), fault.Conflict)
	for _, etag := range []string{"", "*"} {
		if _, err := s.Tables.Replace(ctx, table, ledger.Entity{PK: pk, RK: "a", ETag: etag, Cols: map[string]string{"x": "5"}}); err == nil {
			t.Fatalf("replacing with the ETag %q succeeded: no write goes without the version that it rests on", etag)
		}
		if err := s.Tables.Delete(ctx, table, pk, "a", etag); err == nil {
			t.Fatalf("deleting with the ETag %q succeeded", etag)
		}
	}
	if e, err = s.Tables.Get(ctx, table, pk, "a"); err != nil || e.Cols["x"] != "3" {
		t.Fatalf("a refused write changed the row: %+v, %v", e, err)
	}
	ok(t, "deleting", s.Tables.Delete(ctx, table, pk, "a", second))
	_, err = s.Tables.Get(ctx, table, pk, "a")
	wantKind(t, "reading a deleted row", err, fault.NotFound)
	wantKind(t, "deleting a deleted row", s.Tables.Delete(ctx, table, pk, "a", second), fault.Conflict)
	_, err = s.Tables.Replace(ctx, table, ledger.Entity{PK: pk, RK: "a", ETag: second, Cols: map[string]string{"x": "6"}})
	wantKind(t, "replacing a deleted row", err, fault.Conflict)
}

func rowText(t *testing.T, s Store) {
	ctx, pk := t.Context(), fresh(t)
	cols := map[string]string{"quote": `it's "x" <&>`, "empty": "", "unicode": "grün 漢 🔑 \u2028", "lines": "a\r\nb\tc",
		"time": ledger.TimeText(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)), "number": "0012", "truth": "true",
		"guid": "11111111-2222-3333-4444-555555555555", "json": `{"a":[1,2,{"b":null}]}`, "long": strings.Repeat("ü", 32_000)}
	etag, err := s.Tables.Insert(ctx, ledger.TableNonces, ledger.Entity{PK: pk, RK: "text", Cols: cols})
	ok(t, "inserting", err)
	got, err := s.Tables.Get(ctx, ledger.TableNonces, pk, "text")
	ok(t, "reading", err)
	for col, want := range cols {
		if got.Cols[col] != want {
			t.Errorf("column %s: %.60q came back as %.60q", col, want, got.Cols[col])
		}
	}
	for col := range got.Cols {
		if _, own := cols[col]; !own {
			t.Errorf("a column %q came back that wasn't written", col)
		}
	}
	ok(t, "deleting", s.Tables.Delete(ctx, ledger.TableNonces, pk, "text", etag))
}

func rowRace(t *testing.T, s Store) {
	ctx, pk := t.Context(), fresh(t)
	var etags [8]string
	insert := func(i int) (err error) {
		etags[i], err = s.Tables.Insert(ctx, ledger.TableNonces, ledger.Entity{PK: pk, RK: "r", Cols: map[string]string{"by": fmt.Sprint(i)}})
		return err
	}
	before := etags[race(t, insert)]
	won := race(t, func(i int) (err error) {
		etags[i], err = s.Tables.Replace(ctx, ledger.TableNonces, ledger.Entity{PK: pk, RK: "r", ETag: before, Cols: map[string]string{"by": fmt.Sprint(i)}})
		return err
	})
	e, err := s.Tables.Get(ctx, ledger.TableNonces, pk, "r")
	ok(t, "reading", err)
	if e.Cols["by"] != fmt.Sprint(won) || e.ETag != etags[won] {
		t.Errorf("worker %d won with ETag %s, the row is %+v", won, etags[won], e)
	}
	race(t, func(int) error { return s.Tables.Delete(ctx, ledger.TableNonces, pk, "r", e.ETag) })
}

func query(t *testing.T, s Store) {
	ctx, pk := t.Context(), fresh(t)
	const table = ledger.TableNonces
	for i, rk := range []string{"d", "a", "c", "b"} {
		cols := map[string]string{"n": fmt.Sprint(i), "kind": "x'y"}
		if rk == "c" {
			cols = map[string]string{"n": fmt.Sprint(i), "other": "1"}
		}
		_, err := s.Tables.Insert(ctx, table, ledger.Entity{PK: pk, RK: rk, Cols: cols})
		ok(t, "inserting", err)
	}
	other, err := s.Tables.Insert(ctx, table, ledger.Entity{PK: pk + "x", RK: "a", Cols: map[string]string{"n": "0", "kind": "x'y"}})
	ok(t, "inserting", err)
	for _, c := range []struct {
		name string
		f    ledger.Filter
		want string
	}{
		{"partition, in order", ledger.Filter{PK: pk}, "abcd"},
		{"equal, with a quote", ledger.Filter{PK: pk, Equal: map[string]string{"kind": "x'y"}}, "abd"},
		{"equal, an absent column never is", ledger.Filter{PK: pk, Equal: map[string]string{"other": ""}}, ""},
		{"below", ledger.Filter{PK: pk, Below: map[string]string{"n": "2"}}, "ad"},
		{"below and equal", ledger.Filter{PK: pk, Below: map[string]string{"n": "3"}, Equal: map[string]string{"other": "1"}}, "c"},
		{"prefix", ledger.Filter{PK: pk, Prefix: map[string]string{"kind": "x'"}}, "abd"},
		{"prefix of the whole", ledger.Filter{PK: pk, Prefix: map[string]string{"kind": "x'y"}}, "abd"},
		{"prefix and below", ledger.Filter{PK: pk, Prefix: map[string]string{"kind": "x"}, Below: map[string]string{"n": "1"}}, "d"},
		{"a range of partitions", ledger.Filter{Prefix: map[string]string{"PartitionKey": pk}, Below: map[string]string{"PartitionKey": pk + "x"}}, "abcd"},
		{"a range of row keys", ledger.Filter{PK: pk, Below: map[string]string{"RowKey": "c"}}, "ab"},
		{"no such partition", ledger.Filter{PK: pk + "none"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			ok(t, "querying", s.Tables.Query(ctx, table, c.f, func(e ledger.Entity) bool {
				if e.PK != pk || e.ETag == "" || e.Cols["n"] == "" {
					t.Errorf("got the row %+v", e)
				}
				got += e.RK
				return true
			}))
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	n := 0
	ok(t, "querying", s.Tables.Query(ctx, table, ledger.Filter{PK: pk}, func(ledger.Entity) bool {
		n++
		return n < 2
	}))
	if n != 2 {
		t.Errorf("stopped at the second row, yielded %d", n)
	}
	var all []ledger.Entity
	ok(t, "querying", s.Tables.Query(ctx, table, ledger.Filter{PK: pk}, func(e ledger.Entity) bool {
		all = append(all, e)
		return true
	}))
	for _, e := range all { // the ETag of a query is one to write by
		ok(t, "deleting by the ETag of a query", s.Tables.Delete(ctx, table, pk, e.RK, e.ETag))
	}
	ok(t, "deleting", s.Tables.Delete(ctx, table, pk+"x", "a", other))
}

func queue(t *testing.T, s Store) {
	ctx := t.Context()
	const long = 7 * 24 * time.Hour
	ok(t, "enqueuing with the longest delay", s.Queue.Enqueue(ctx, ledger.QueuePoison, []byte(`{"storetest":"<&>\u00fc"}`), long))
	if err := s.Queue.Enqueue(ctx, ledger.QueuePoison, []byte("{}"), long+time.Second); err == nil {
		t.Error("a delay of more than 7 days was taken")
	}
	// A queue that isn't there is made, or refused as such: no message vanishes.
	if err := s.Queue.Enqueue(ctx, "storetest-no-such-queue", []byte("{}"), 0); err != nil && !fault.Is(err, fault.NotFound) {
		t.Errorf("a queue that isn't there: %v", err)
	}
}

func cancelled(t *testing.T, s Store) {
	name := fresh(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"create": s.Blobs.Create(ctx, ledger.ContainerInbox, name, []byte("x")),
		"insert": func() error {
			_, err := s.Tables.Insert(ctx, ledger.TableNonces, ledger.Entity{PK: name, RK: "a"})
			return err
		}(),
		"enqueue": s.Queue.Enqueue(ctx, ledger.QueuePoison, []byte("{}"), time.Hour),
		"list":    s.Blobs.List(ctx, ledger.ContainerInbox, name, func(string) bool { return true }),
		"query":   s.Tables.Query(ctx, ledger.TableNonces, ledger.Filter{PK: name}, func(ledger.Entity) bool { return true }),
	} {
		wantKind(t, what+" after its context ended", err, fault.Transient)
	}
	if there, err := s.Blobs.Exists(t.Context(), ledger.ContainerInbox, name); err != nil || there {
		t.Errorf("a creation whose context had ended happened: %t, %v", there, err)
	}
}
