package azure

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/config"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

func TestTables(t *testing.T) {
	bothWays(t, func(t *testing.T, c *Client) {
		ctx, tb, name := ctxFor(t), c.Tables(), fresh("rows")
		if _, err := tb.Get(ctx, name, "p", "r"); !fault.Is(err, fault.NotFound) {
			t.Errorf("get: %v", err)
		}
		if err := tb.Query(ctx, name, ledger.Filter{}, func(ledger.Entity) bool { t.Error("a row"); return true }); err != nil {
			t.Errorf("query: %v", err)
		}
		if _, err := tb.Replace(ctx, name, ledger.Entity{PK: "p", RK: "r", ETag: `W/"1"`}); !fault.Is(err, fault.Conflict) {
			t.Errorf("replace of nothing: %v", err)
		}
		e := ledger.Entity{PK: "p", RK: "r", Cols: map[string]string{"a": "it's <&>", "empty": "", "time": ledger.TimeText(time.Unix(1, 2)), "json": `{"x":1}`}}
		etag, err := tb.Insert(ctx, name, e)
		if err != nil || etag == "" {
			t.Fatal(etag, err)
		}
		if _, err := tb.Insert(ctx, name, e); !fault.Is(err, fault.Conflict) {
			t.Errorf("inserted twice: %v", err)
		}
		got, err := tb.Get(ctx, name, "p", "r")
		if err != nil || got.PK != "p" || got.RK != "r" || got.ETag != etag || fmt.Sprint(got.Cols) != fmt.Sprint(e.Cols) {
			t.Fatalf("%+v, %v", got, err)
		}
		got.Cols = map[string]string{"b": "2"}
		second, err := tb.Replace(ctx, name, got)
		if err != nil || second == etag {
			t.Fatal(second, err)
		}
		if _, err := tb.Replace(ctx, name, got); !fault.Is(err, fault.Conflict) {
			t.Errorf("stale: %v", err)
		}
		now, err := tb.Get(ctx, name, "p", "r")
		if err != nil || len(now.Cols) != 1 || now.ETag != second {
			t.Errorf("%+v, %v", now, err)
		}
		if err := tb.Delete(ctx, name, "p", "r", etag); !fault.Is(err, fault.Conflict) {
			t.Errorf("deleted with a stale ETag: %v", err)
		}
		if err := tb.Delete(ctx, name, "p", "r", second); err != nil {
			t.Error(err)
		}
		if err := tb.Delete(ctx, name, "p", "r", second); !fault.Is(err, fault.Conflict) {
			t.Errorf("deleted twice: %v", err)
		}
	})
}

func TestTableFilters(t *testing.T) {
	c := account(t, true)
	ctx, tb, name := ctxFor(t), c.Tables(), fresh("filters")
	for _, e := range []ledger.Entity{
		{PK: "p", RK: "1", Cols: map[string]string{"key": "https://kv/keys/a", "at": "2026-01-01"}},
		{PK: "p", RK: "2", Cols: map[string]string{"key": "https://kv/keys/ab", "at": "2026-01-02"}},
		{PK: "p", RK: "3", Cols: map[string]string{"key": "o'brien", "at": "2026-01-03"}},
		{PK: "q", RK: "1", Cols: map[string]string{"key": "https://kv/keys/b"}},
	} {
		if _, err := tb.Insert(ctx, name, e); err != nil {
			t.Fatal(err)
		}
	}
	for i, tc := range []struct {
		f    ledger.Filter
		want string
	}{
		{ledger.Filter{}, "p1 p2 p3 q1"},
		{ledger.Filter{PK: "p"}, "p1 p2 p3"},
		{ledger.Filter{Equal: map[string]string{"key": "o'brien"}}, "p3"},
		{ledger.Filter{Below: map[string]string{"at": "2026-01-03"}}, "p1 p2"},
		{ledger.Filter{Prefix: map[string]string{"key": "https://kv/keys/a"}}, "p1 p2"},
		{ledger.Filter{Prefix: map[string]string{"key": "https://kv/"}, PK: "q"}, "q1"},
		{ledger.Filter{Prefix: map[string]string{"RowKey": "1"}, Below: map[string]string{"at": "9"}}, "p1"},
		{ledger.Filter{Equal: map[string]string{"key": "x' or 'a' eq 'a"}}, ""},
	} {
		var got []string
		err := tb.Query(ctx, name, tc.f, func(e ledger.Entity) bool { got = append(got, e.PK+e.RK); return true })
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%d: %v, %v; want %s", i, got, err, tc.want)
		}
	}
	if err := tb.Query(ctx, name, ledger.Filter{Equal: map[string]string{"a eq 'x' or b": "1"}}, func(ledger.Entity) bool { return true }); !fault.Is(err, fault.Bug) {
		t.Errorf("a column that is none: %v", err)
	}
	n := 0
	if err := tb.Query(ctx, name, ledger.Filter{}, func(ledger.Entity) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Error(n, err)
	}
}

func TestRowsThatDoNotFit(t *testing.T) {
	tb := New(config.Config{Storage: config.Storage{Account: "a", Key: "aaaa", TableURL: "https://a", BlobURL: "https://a"}}, nil).Tables()
	for name, tc := range map[string]struct {
		e    ledger.Entity
		kind fault.Kind
	}{
		"no key":      {ledger.Entity{PK: "p"}, fault.Bug},
		"a slash":     {ledger.Entity{PK: "p", RK: "a/b"}, fault.Bug},
		"a system's":  {ledger.Entity{PK: "p", RK: "r", Cols: map[string]string{"Timestamp": "x"}}, fault.Bug},
		"no name":     {ledger.Entity{PK: "p", RK: "r", Cols: map[string]string{"a-b": "x"}}, fault.Bug},
		"long column": {ledger.Entity{PK: "p", RK: "r", Cols: map[string]string{"a": strings.Repeat("x", maxColumn+1)}}, fault.Invalid},
	} {
		if _, err := tb.Insert(context.Background(), "t", tc.e); !fault.Is(err, tc.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tb.Replace(context.Background(), "t", ledger.Entity{PK: "p", RK: "r"}); !fault.Is(err, fault.Bug) {
		t.Error("replaced without an ETag")
	}
	if err := tb.Delete(context.Background(), "t", "p", "r", ""); !fault.Is(err, fault.Bug) {
		t.Error("deleted without an ETag")
	}
}
