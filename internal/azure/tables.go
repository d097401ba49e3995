package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/data/aztables"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
)

const (
	actionRowRead   = "Microsoft.Storage/storageAccounts/tableServices/tables/entities/read"
	actionRowAdd    = "Microsoft.Storage/storageAccounts/tableServices/tables/entities/add/action"
	actionRowUpdate = "Microsoft.Storage/storageAccounts/tableServices/tables/entities/update/action"
	actionRowDelete = "Microsoft.Storage/storageAccounts/tableServices/tables/entities/delete"
)

// Tables is the account's table service.
type Tables struct{ c *Client }

// Tables gives the table service.
func (c *Client) Tables() *Tables { return &Tables{c} }

func (t *Tables) table(k call, name string) (*aztables.Client, error) {
	svc, err := t.c.storage.tables()
	if err != nil {
		return nil, k.fault(err)
	}
	return svc.NewClient(name), nil
}

// Get reads a row.
func (t *Tables) Get(ctx context.Context, table, pk, rk string) (ledger.Entity, error) {
	k := call{"reading row", table + "/" + pk + "/" + rk, actionRowRead}
	cl, err := t.table(k, table)
	if err != nil {
		return ledger.Entity{}, err
	}
	resp, err := cl.GetEntity(ctx, pk, rk, nil)
	if err != nil {
		return ledger.Entity{}, k.fault(err)
	}
	e, err := decodeRow(k, resp.Value)
	if err == nil && e.ETag == "" {
		e.ETag = string(resp.ETag)
	}
	return e, err
}

// Insert adds a row; Conflict when it is there.
func (t *Tables) Insert(ctx context.Context, table string, e ledger.Entity) (string, error) {
	k := call{"adding row", table + "/" + e.PK + "/" + e.RK, actionRowAdd}
	body, err := encodeRow(k, e)
	if err != nil {
		return "", err
	}
	cl, err := t.table(k, table)
	if err != nil {
		return "", err
	}
	var etag string
	err = t.c.storage.retryMissing(k, "table "+table, "TableNotFound",
		func() error { _, err := cl.CreateTable(ctx, nil); return err },
		func() error {
			resp, err := cl.AddEntity(ctx, body, nil)
			etag = string(resp.ETag)
			return err
		})
	return etag, err
}

// Replace writes a row that has not changed since e was read; Conflict when it
// has, or is gone.
func (t *Tables) Replace(ctx context.Context, table string, e ledger.Entity) (string, error) {
	k := call{"replacing row", table + "/" + e.PK + "/" + e.RK, actionRowUpdate}
	if e.ETag == "" || e.ETag == "*" {
		return "", fault.New(fault.Bug, k.op, k.object, "the row has no ETag of its own: read it first")
	}
	body, err := encodeRow(k, e)
	if err != nil {
		return "", err
	}
	cl, err := t.table(k, table)
	if err != nil {
		return "", err
	}
	etag := azcore.ETag(e.ETag)
	resp, err := cl.UpdateEntity(ctx, body, &aztables.UpdateEntityOptions{IfMatch: &etag, UpdateMode: aztables.UpdateModeReplace})
	if err != nil {
		return "", goneIsConflict(k.fault(err))
	}
	return string(resp.ETag), nil
}

// Delete removes a row that has not changed since etag; Conflict when it has, or
// is gone.
func (t *Tables) Delete(ctx context.Context, table, pk, rk, etag string) error {
	k := call{"deleting row", table + "/" + pk + "/" + rk, actionRowDelete}
	if etag == "" || etag == "*" {
		return fault.New(fault.Bug, k.op, k.object, "no ETag was given: read the row first")
	}
	cl, err := t.table(k, table)
	if err != nil {
		return err
	}
	match := azcore.ETag(etag)
	_, err = cl.DeleteEntity(ctx, pk, rk, &aztables.DeleteEntityOptions{IfMatch: &match})
	return goneIsConflict(k.fault(err))
}

// goneIsConflict: a row that vanished under its reader has changed.
func goneIsConflict(err error) error {
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	return &fault.Error{Kind: fault.Conflict, Op: "writing a row that is gone", Code: fault.Code(err), Err: err, Next: nextByKind[fault.Conflict]}
}

// Query calls yield for each row that the filter selects until it returns false.
// A table that isn't there has no rows.
func (t *Tables) Query(ctx context.Context, table string, f ledger.Filter, yield func(ledger.Entity) bool) error {
	k := call{"querying table", table, actionRowRead}
	odata, err := oDataFilter(k, f)
	if err != nil {
		return err
	}
	cl, err := t.table(k, table)
	if err != nil {
		return err
	}
	opts := &aztables.ListEntitiesOptions{}
	if odata != "" {
		opts.Filter = &odata
	}
	for pager := cl.NewListEntitiesPager(opts); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			if err := k.fault(err); !fault.Is(err, fault.NotFound) {
				return err
			}
			return nil
		}
		for _, raw := range page.Entities {
			e, err := decodeRow(k, raw)
			if err != nil {
				return err
			}
			if !yield(e) {
				return nil
			}
		}
	}
	return nil
}

// columnName is made on first use: its bounded repetition is dear, and the port
// is to be open first.
var columnName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,254}$`) })

// oDataFilter writes a filter as the service reads it, in a fixed order.
func oDataFilter(k call, f ledger.Filter) (string, error) {
	var terms []string
	term := func(column, op, value string) error {
		if !columnName().MatchString(column) {
			return fault.New(fault.Bug, k.op, k.object, "%q is not a column's name", column)
		}
		terms = append(terms, fmt.Sprintf("%s %s '%s'", column, op, strings.ReplaceAll(value, "'", "''")))
		return nil
	}
	each := func(m map[string]string, add func(column, value string) error) error {
		for _, column := range slices.Sorted(maps.Keys(m)) {
			if err := add(column, m[column]); err != nil {
				return err
			}
		}
		return nil
	}
	if f.PK != "" {
		if err := term("PartitionKey", "eq", f.PK); err != nil {
			return "", err
		}
	}
	if err := each(f.Equal, func(c, v string) error { return term(c, "eq", v) }); err != nil {
		return "", err
	}
	if err := each(f.Below, func(c, v string) error { return term(c, "lt", v) }); err != nil {
		return "", err
	}
	err := each(f.Prefix, func(c, v string) error {
		if err := term(c, "ge", v); err != nil {
			return err
		}
		next, ok := afterPrefix(v)
		if !ok {
			return nil
		}
		return term(c, "lt", next)
	})
	return strings.Join(terms, " and "), err
}

// afterPrefix is the least text that comes after everything that begins with p;
// ok is false when there is none.
func afterPrefix(p string) (string, bool) {
	for p != "" {
		r, n := utf8.DecodeLastRuneInString(p)
		p = p[:len(p)-n]
		if r < 0xD7FF { // below what UTF-16 keeps for pairs; ids and times are far below
			return p + string(r+1), true
		}
	}
	return "", false
}

// maxColumn is what a text column holds, in UTF-16 units.
const maxColumn = 32 * 1024

func encodeRow(k call, e ledger.Entity) ([]byte, error) {
	for _, key := range []string{e.PK, e.RK} {
		if key == "" || len(key) > 1024 || strings.ContainsAny(key, "/\\#?\t\n\r") {
			return nil, fault.New(fault.Bug, k.op, k.object, "%q can't be a row's key", key)
		}
	}
	m := make(map[string]string, len(e.Cols)+2)
	for name, v := range e.Cols {
		switch {
		case !columnName().MatchString(name) || name == "PartitionKey" || name == "RowKey" || name == "Timestamp":
			return nil, fault.New(fault.Bug, k.op, k.object, "%q can't be a column's name", name)
		case len(v) > maxColumn && len(utf16.Encode([]rune(v))) > maxColumn:
			return nil, &fault.Error{Kind: fault.Invalid, Op: k.op, Object: k.object, Code: "PropertyValueTooLarge",
				Err: fault.New(fault.Invalid, "", "", "column %s is longer than the 64 KiB that a column holds", name), Next: "keep the text in a blob and its name in the row"}
		}
		m[name] = v
	}
	m["PartitionKey"], m["RowKey"] = e.PK, e.RK
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fault.New(fault.Bug, k.op, k.object, "writing the row: %w", err)
	}
	return b, nil
}

// decodeRow takes text columns; what another program wrote in another type is
// given as its JSON text.
func decodeRow(k call, raw []byte) (ledger.Entity, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return ledger.Entity{}, fault.New(fault.Transient, k.op, k.object, "the service's row is not JSON: %w", err)
	}
	e := ledger.Entity{Cols: map[string]string{}}
	for name, v := range m {
		var s string
		if json.Unmarshal(v, &s) != nil {
			s = string(v)
		}
		switch {
		case name == "PartitionKey":
			e.PK = s
		case name == "RowKey":
			e.RK = s
		case name == "odata.etag":
			e.ETag = s
		case name == "Timestamp", strings.Contains(name, "odata."), strings.Contains(name, "@"):
		default:
			e.Cols[name] = s
		}
	}
	return e, nil
}
