package azure

import (
	"context"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"cvmguard/internal/remedy"
)

var _ remedy.KeyRotator = (*Client)(nil)

// SizeOffered says whether the subscription may use a VM size in a region, and in
// every one of the zones: Resource SKUs, with their restrictions. It promises no
// capacity. The answer is read each time: it is asked before a deallocation only.
func (c *Client) SizeOffered(ctx context.Context, subscription, location, size string, zones []string) (bool, error) {
	k := call{"reading whether a size is offered:", location + " " + size, "Microsoft.Compute/skus/read"}
	cl, err := c.skus.get(subscription)
	if err != nil {
		return false, k.fault(err)
	}
	opts := &armcompute.ResourceSKUsClientListOptions{Filter: to.Ptr("location eq '" + strings.ReplaceAll(location, "'", "''") + "'")}
	for pager := cl.NewListPager(opts); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return false, k.fault(err)
		}
		for _, s := range page.Value {
			if s != nil && strings.EqualFold(deref(s.ResourceType), "virtualMachines") && strings.EqualFold(deref(s.Name), size) {
				return offered(s, location, zones), nil
			}
		}
	}
	return false, nil
}

// offered heeds a size's restrictions: one on the location forbids it there, one
// on zones forbids those.
func offered(s *armcompute.ResourceSKU, location string, zones []string) bool {
	for _, r := range s.Restrictions {
		if r == nil || r.Type == nil {
			continue
		}
		if *r.Type == armcompute.ResourceSKURestrictionsTypeLocation {
			return false
		}
		if r.RestrictionInfo == nil {
			return false // a restriction that isn't understood
		}
		for _, z := range r.RestrictionInfo.Zones {
			if slices.Contains(zones, deref(z)) {
				return false
			}
		}
	}
	have := map[string]bool{}
	for _, l := range s.LocationInfo {
		if l == nil || !strings.EqualFold(deref(l.Location), location) {
			continue
		}
		for _, z := range l.Zones {
			have[deref(z)] = true
		}
	}
	for _, z := range zones {
		if !have[z] {
			return false
		}
	}
	return true
}
