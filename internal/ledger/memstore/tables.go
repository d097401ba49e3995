package memstore

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

// Tables is a Store's view as table storage.
type Tables struct{ s *Store }

var _ ledger.Tables = Tables{}

type rowKey struct{ pk, rk string }

var columnName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`)

// Get implements ledger.Tables.
func (t Tables) Get(ctx context.Context, table, pk, rk string) (e ledger.Entity, err error) {
	name := table + "/" + pk + "/" + rk
	err = t.s.read(ctx, "get", name, func() error {
		rows, err := t.table("reading row", table, name)
		if err != nil {
			return err
		}
		there, ok := rows[rowKey{pk, rk}]
		if !ok {
			return fault.New(fault.NotFound, "reading row", name, "it isn't there")
		}
		e = clone(there)
		return nil
	})
	return e, err
}

// Insert implements ledger.Tables.
func (t Tables) Insert(ctx context.Context, table string, e ledger.Entity) (etag string, err error) {
	name := table + "/" + e.PK + "/" + e.RK
	err = t.s.act(ctx, "insert", name, func() error {
		rows, err := t.table("inserting row", table, name)
		if err != nil {
			return err
		}
		if err := legal("inserting row", name, e); err != nil {
			return err
		}
		if _, there := rows[rowKey{e.PK, e.RK}]; there {
			return fault.New(fault.Conflict, "inserting row", name, "it is there already")
		}
		etag = t.put(rows, e)
		return nil
	})
	if err != nil {
		return "", err
	}
	return etag, nil
}

// Replace implements ledger.Tables.
func (t Tables) Replace(ctx context.Context, table string, e ledger.Entity) (etag string, err error) {
	name := table + "/" + e.PK + "/" + e.RK
	err = t.s.act(ctx, "replace", name, func() error {
		rows, err := t.table("replacing row", table, name)
		if err != nil {
			return err
		}
		if err := legal("replacing row", name, e); err != nil {
			return err
		}
		if err := matches("replacing row", name, rows, rowKey{e.PK, e.RK}, e.ETag); err != nil {
			return err
		}
		etag = t.put(rows, e)
		return nil
	})
	if err != nil {
		return "", err
	}
	return etag, nil
}

// Delete implements ledger.Tables.
func (t Tables) Delete(ctx context.Context, table, pk, rk, etag string) error {
	name := table + "/" + pk + "/" + rk
	return t.s.act(ctx, "delete-row", name, func() error {
		rows, err := t.table("deleting row", table, name)
		if err != nil {
			return err
		}
		if err := matches("deleting row", name, rows, rowKey{pk, rk}, etag); err != nil {
			return err
		}
		delete(rows, rowKey{pk, rk})
		return nil
	})
}

// Query implements ledger.Tables. It shows the rows as they are when it is
// called, by partition and row key.
func (t Tables) Query(ctx context.Context, table string, f ledger.Filter, yield func(ledger.Entity) bool) error {
	var found []ledger.Entity
	err := t.s.read(ctx, "query", table, func() error {
		rows, err := t.table("querying", table, table)
		for _, e := range rows {
			if selects(f, e) {
				found = append(found, clone(e))
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b ledger.Entity) int {
		if c := strings.Compare(a.PK, b.PK); c != 0 {
			return c
		}
		return strings.Compare(a.RK, b.RK)
	})
	for _, e := range found {
		if !yield(e) {
			return nil
		}
	}
	return nil
}

// Corrupt changes a row behind the ledger's back, for tests of what notices. The
// row gets a new ETag; an absent row is left absent.
func (t Tables) Corrupt(table, pk, rk string, change func(cols map[string]string)) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if e, ok := t.s.tables[table][rowKey{pk, rk}]; ok {
		e = clone(e)
		change(e.Cols)
		t.put(t.s.tables[table], e)
	}
}

// Clear drops all rows of a table, as a lost table is.
func (t Tables) Clear(table string) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	clear(t.s.tables[table])
}

func (t Tables) table(op, table, name string) (map[rowKey]ledger.Entity, error) {
	rows, ok := t.s.tables[table]
	if !ok {
		return nil, fault.New(fault.NotFound, op, name, "there is no table %q", table)
	}
	return rows, nil
}

func (t Tables) put(rows map[rowKey]ledger.Entity, e ledger.Entity) string {
	e = clone(e)
	e.ETag = t.s.etag()
	rows[rowKey{e.PK, e.RK}] = e
	return e.ETag
}

func matches(op, name string, rows map[rowKey]ledger.Entity, k rowKey, etag string) error {
	if etag == "" || etag == "*" {
		return fault.New(fault.Bug, op, name, "ETag %q would match any row: a write must name the one that it read", etag)
	}
	if there, ok := rows[k]; !ok || there.ETag != etag {
		return fault.New(fault.Conflict, op, name, "it has changed or is gone")
	}
	return nil
}

func selects(f ledger.Filter, e ledger.Entity) bool {
	if f.PK != "" && f.PK != e.PK {
		return false
	}
	holds := func(parts map[string]string, cmp func(have, want string) bool) bool {
		for col, want := range parts {
			have, there := e.Cols[col]
			switch col {
			case "PartitionKey":
				have, there = e.PK, true
			case "RowKey":
				have, there = e.RK, true
			}
			if !there || !cmp(have, want) {
				return false
			}
		}
		return true
	}
	return holds(f.Equal, func(a, b string) bool { return a == b }) &&
		holds(f.Below, func(a, b string) bool { return a < b }) &&
		holds(f.Prefix, strings.HasPrefix)
}

func clone(e ledger.Entity) ledger.Entity {
	e.Cols = maps.Clone(e.Cols)
	if e.Cols == nil {
		e.Cols = map[string]string{}
	}
	return e
}

// legal refuses what Azure's table storage refuses: characters of keys, names
// and lengths of columns (64 KiB of UTF-16 each, 1 MiB in all).
func legal(op, name string, e ledger.Entity) error {
	bad := func(format string, args ...any) error { return fault.New(fault.Invalid, op, name, format, args...) }
	for _, key := range []string{e.PK, e.RK} {
		if key == "" || len(key) > 512 || strings.ContainsFunc(key, func(r rune) bool {
			return strings.ContainsRune(`/\#?`, r) || r < 0x20 || (r >= 0x7f && r <= 0x9f)
		}) {
			return bad("%.80q can't be a key", key)
		}
	}
	if len(e.Cols) > 252 {
		return bad("it has %d columns, the most is 252", len(e.Cols))
	}
	total := 0
	for col, v := range e.Cols {
		n := 2 * len(utf16.Encode([]rune(v)))
		total += n + 2*len(col) + 8
		switch {
		case !columnName.MatchString(col) || col == "PartitionKey" || col == "RowKey" || col == "Timestamp":
			return bad("%.80q can't be a column's name", col)
		case !utf8.ValidString(v):
			return bad("column %s isn't UTF-8", col)
		case n > 64<<10:
			return bad("column %s has %d bytes as UTF-16, the most is 65536", col, n)
		}
	}
	if total > 1<<20 {
		return bad("it has %d bytes, the most is 1 MiB", total)
	}
	return nil
}
