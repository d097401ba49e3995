package azure

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// What stands around a VM: three reads, for which the SDK has modules that would
// bring a hundred times as much.

const (
	networkAPI     = "2024-05-01"
	locksAPI       = "2020-05-01"
	permissionsAPI = "2022-04-01"
	// aroundPages is how many pages of locks or permissions are read at most.
	aroundPages = 20
)

var nicShape = regexp.MustCompile(`(?i)^/subscriptions/[^/?#]+/resourceGroups/[^/?#]+/providers/Microsoft\.Network/networkInterfaces/[^/?#]+$`)

// NetworkInterface reads a network interface.
func (c *Client) NetworkInterface(ctx context.Context, id string) (remedy.NetworkInterface, error) {
	k := call{"reading network interface", id, "Microsoft.Network/networkInterfaces/read"}
	nic := remedy.NetworkInterface{ID: id}
	if !nicShape.MatchString(id) {
		return nic, fault.New(fault.Invalid, k.op, id, "it isn't the ARM id of a network interface")
	}
	var body struct {
		Properties *struct {
			Accelerated bool `json:"enableAcceleratedNetworking"`
		} `json:"properties"`
	}
	if err := c.armGet(ctx, k, "NetworkInterfaces.Get", id, url.Values{"api-version": {networkAPI}}, &body); err != nil {
		return nic, err
	}
	if body.Properties == nil {
		return nic, fault.New(fault.Transient, k.op, id, "the answer has no properties")
	}
	nic.Accelerated = body.Properties.Accelerated
	return nic, nil
}

// Locks reads the management locks that hold at a VM, those of its resource group
// and subscription too.
func (c *Client) Locks(ctx context.Context, id cvm.VMID) ([]remedy.Lock, error) {
	k := call{"reading the locks on", string(id), "Microsoft.Authorization/locks/read"}
	if _, err := placeOf(id, cvm.ParseVMID); err != nil {
		return nil, err
	}
	type lock struct {
		ID         string `json:"id"`
		Properties struct {
			Level string `json:"level"`
		} `json:"properties"`
	}
	list, err := armList[lock](ctx, c, k, "Locks.ListByScope", string(id)+"/providers/Microsoft.Authorization/locks", url.Values{"api-version": {locksAPI}, "$filter": {"atScope()"}})
	if err != nil {
		return nil, err
	}
	out := []remedy.Lock{}
	for _, l := range list {
		if !strings.EqualFold(l.Properties.Level, "NotSpecified") {
			out = append(out, remedy.Lock{ID: l.ID, Level: l.Properties.Level})
		}
	}
	return out, nil
}

// Lacking asks Resource Manager which of the actions this identity may not take on
// a scope. Deny assignments aren't among what it answers by.
func (c *Client) Lacking(ctx context.Context, scope string, actions []string) ([]string, error) {
	k := call{"reading this identity's rights on", scope, "Microsoft.Authorization/permissions/read"}
	if !strings.HasPrefix(scope, "/subscriptions/") || strings.ContainsAny(scope, "?#") {
		return nil, fault.New(fault.Invalid, k.op, scope, "it isn't the ARM id of a resource")
	}
	type granted struct {
		Actions    []string `json:"actions"`
		NotActions []string `json:"notActions"`
	}
	list, err := armList[granted](ctx, c, k, "Permissions.List", scope+"/providers/Microsoft.Authorization/permissions", url.Values{"api-version": {permissionsAPI}})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, action := range actions {
		names := func(pattern string) bool { return actionMatches(pattern, action) }
		if !slices.ContainsFunc(list, func(g granted) bool {
			return slices.ContainsFunc(g.Actions, names) && !slices.ContainsFunc(g.NotActions, names)
		}) {
			out = append(out, action)
		}
	}
	return out, nil
}

// actionMatches says whether an action is one of a pattern's, in which * stands for
// any text, without regard to case.
func actionMatches(pattern, action string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	ok, err := regexp.MatchString("^"+strings.Join(parts, ".*")+"$", strings.ToLower(action))
	return err == nil && ok
}

// armList reads all pages of a list.
func armList[T any](ctx context.Context, c *Client, k call, name, path string, query url.Values) ([]T, error) {
	var out []T
	for range aroundPages {
		var page struct {
			Value    *[]T   `json:"value"`
			NextLink string `json:"nextLink"`
		}
		if err := c.armGet(ctx, k, name, path, query, &page); err != nil {
			return nil, err
		}
		if page.Value == nil {
			return nil, fault.New(fault.Transient, k.op, k.object, "the answer has no list")
		}
		out = append(out, *page.Value...)
		if page.NextLink == "" {
			return out, nil
		}
		next, err := url.Parse(page.NextLink)
		if err != nil {
			return nil, fault.New(fault.Blocked, k.op, k.object, "the next page's address can't be read")
		}
		path, query = next.Path, next.Query() // the host stays Resource Manager's
	}
	return nil, fault.New(fault.Blocked, k.op, k.object, "there are more pages than are read")
}

// armHost is the host of the cloud's Resource Manager.
func (c *Client) armHost(k call) (string, error) {
	home, err := url.Parse(c.cloudConfig().Services[cloud.ResourceManager].Endpoint)
	if err != nil || home.Host == "" {
		return "", fault.New(fault.Bug, k.op, k.object, "the cloud has no Resource Manager endpoint")
	}
	return home.Host, nil
}

// armGet reads one answer of Resource Manager.
func (c *Client) armGet(ctx context.Context, k call, name, path string, query url.Values, into any) error {
	cl, err := c.armClient()
	if err != nil {
		return k.fault(err)
	}
	host, err := c.armHost(k)
	if err != nil {
		return err
	}
	link := (&url.URL{Scheme: "https", Host: host, Path: path, RawQuery: strings.ReplaceAll(query.Encode(), "+", "%20")}).String()
	req, err := runtime.NewRequest(context.WithValue(ctx, runtime.CtxAPINameKey{}, name), http.MethodGet, link)
	if err != nil {
		return fault.New(fault.Bug, k.op, k.object, "making the request: %w", err)
	}
	req.Raw().Header.Set("Accept", "application/json")
	resp, err := cl.Pipeline().Do(req)
	if err != nil {
		return k.fault(err)
	}
	if !runtime.HasStatusCode(resp, http.StatusOK) {
		return k.fault(runtime.NewResponseError(resp))
	}
	body, err := runtime.Payload(resp)
	if err != nil {
		return k.fault(err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fault.New(fault.Transient, k.op, k.object, "the answer isn't the JSON that is expected: %w", err)
	}
	return nil
}
