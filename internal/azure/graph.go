package azure

import (
	"context"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// GraphScope is which VMs to list. The zero value is all that the identity sees.
type GraphScope struct {
	Subscriptions []string // subscription ids
	Group         string   // a resource group's name
	Where         string   // a Resource Graph where-clause, without the word where and without pipes
}

// VMRow is one VM of a listing. Resource Graph may be minutes behind.
type VMRow struct {
	ID          cvm.VMID
	Name        string
	Location    string
	UniqueID    string    // properties.vmId
	TimeCreated time.Time // zero if the listing has none
}

// pageSize is the most that Resource Graph gives at once.
const pageSize = 1000

// The tables of Resource Graph that VMs are in: those with an id of their own, which
// instances of flexible scale sets have too, and instances of uniform ones.
var vmTables = []struct{ name, typ string }{
	{"resources", "microsoft.compute/virtualmachines"},
	{"computeresources", "microsoft.compute/virtualmachinescalesets/virtualmachines"},
}

// ListVMs calls yield for each VM in the scope, in the order of ids, page by
// page, and then for each instance of a uniform scale set. It stops at yield's
// first error, which it returns as it is. A listing that the service cut short is
// an error, so that nobody takes it for the whole.
func (c *Client) ListVMs(ctx context.Context, scope GraphScope, yield func(VMRow) error) error {
	k := call{"listing VMs", strings.Join(scope.Subscriptions, ","), "Microsoft.ResourceGraph/resources/read"}
	for _, t := range vmTables {
		query, err := vmQuery(k, scope, t.name, t.typ)
		if err != nil {
			return err
		}
		if err := c.vmRows(ctx, k, scope.Subscriptions, query, yield); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) vmRows(ctx context.Context, k call, subscriptions []string, query string, yield func(VMRow) error) error {
	return c.rows(ctx, k, subscriptions, query, func(row map[string]any) error {
		r := VMRow{ID: cvm.VMID(text(row, "id")), Name: text(row, "name"), Location: strings.ToLower(text(row, "location")), UniqueID: text(row, "vmId")}
		if r.ID == "" {
			return fault.New(fault.Transient, k.op, k.object, "a row of the listing has no id")
		}
		if s := text(row, "timeCreated"); s != "" {
			t, err := time.Parse(time.RFC3339Nano, s)
			if err == nil {
				r.TimeCreated = t
			}
		}
		return yield(r)
	})
}

func vmQuery(k call, scope GraphScope, table, typ string) (string, error) {
	invalid := func(field, given, why, next string) error {
		return &fault.Error{Kind: fault.Invalid, Op: k.op, Object: given, Err: &cause{text: field + " " + why}, Next: next}
	}
	vms := "| where type =~ '" + typ + "'\n"
	q := table + "\n" + vms
	if g := scope.Group; g != "" {
		if len(g) > 90 || strings.ContainsAny(g, "'\"\\\n\r|;/") {
			return "", invalid("group", g, "is not the name of a resource group", "give its name alone, such as rg-cvm")
		}
		q += "| where resourceGroup =~ '" + g + "'\n"
	}
	if w := strings.TrimSpace(scope.Where); w != "" {
		if len(w) > 2000 || strings.ContainsAny(w, "|;") {
			return "", invalid("query", w, "is more than one where-clause", "give one condition without | or ;, such as tags.env =~ 'prod'")
		}
		// On a line of its own, so that a comment ends with it; what comes after makes sure of what comes back.
		q += "| where " + w + "\n" + vms
	}
	return q + "| project id, name, location, vmId = tostring(properties.vmId), timeCreated = tostring(properties.timeCreated)\n| order by id asc", nil
}

// rows runs a query and calls yield for each row of every page.
func (c *Client) rows(ctx context.Context, k call, subscriptions []string, query string, yield func(map[string]any) error) error {
	cl, err := c.graph()
	if err != nil {
		return k.fault(err)
	}
	req := armresourcegraph.QueryRequest{Query: &query, Options: &armresourcegraph.QueryRequestOptions{
		ResultFormat: to.Ptr(armresourcegraph.ResultFormatObjectArray), Top: to.Ptr(int32(pageSize)),
	}}
	for _, s := range subscriptions {
		req.Subscriptions = append(req.Subscriptions, to.Ptr(s))
	}
	for {
		page, err := cl.Resources(ctx, req, nil)
		if err != nil {
			return k.fault(err)
		}
		data, ok := page.Data.([]any)
		if !ok && page.Data != nil {
			return fault.New(fault.Transient, k.op, k.object, "Resource Graph answered with something else than rows")
		}
		for _, d := range data {
			row, ok := d.(map[string]any)
			if !ok {
				return fault.New(fault.Transient, k.op, k.object, "Resource Graph answered with a row that is not an object")
			}
			if err := yield(row); err != nil {
				return err
			}
		}
		if page.SkipToken == nil || *page.SkipToken == "" {
			if page.ResultTruncated != nil && *page.ResultTruncated == armresourcegraph.ResultTruncatedTrue {
				return fault.New(fault.Transient, k.op, k.object, "Resource Graph cut the listing short")
			}
			return nil
		}
		req.Options.SkipToken = page.SkipToken
	}
}

func text(row map[string]any, column string) string {
	s, ok := row[column].(string)
	if !ok {
		return ""
	}
	return s
}
