package azure

import (
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

func TestOffered(t *testing.T) {
	sku := func(zones []string, restrictions ...*armcompute.ResourceSKURestrictions) *armcompute.ResourceSKU {
		return &armcompute.ResourceSKU{Name: to.Ptr("Standard_DC4as_v5"), Restrictions: restrictions,
			LocationInfo: []*armcompute.ResourceSKULocationInfo{{Location: to.Ptr("westeurope"), Zones: to.SliceOfPtrs(zones...)}}}
	}
	byZone := func(zones ...string) *armcompute.ResourceSKURestrictions {
		return &armcompute.ResourceSKURestrictions{Type: to.Ptr(armcompute.ResourceSKURestrictionsTypeZone),
			RestrictionInfo: &armcompute.ResourceSKURestrictionInfo{Zones: to.SliceOfPtrs(zones...)}}
	}
	here := &armcompute.ResourceSKURestrictions{Type: to.Ptr(armcompute.ResourceSKURestrictionsTypeLocation)}
	for name, c := range map[string]struct {
		sku   *armcompute.ResourceSKU
		zones []string
		want  bool
	}{
		"no zone asked":             {sku(nil), nil, true},
		"the zone is there":         {sku([]string{"1", "2"}), []string{"2"}, true},
		"the zone isn't there":      {sku([]string{"1"}), []string{"2"}, false},
		"restricted in the region":  {sku(nil, here), nil, false},
		"restricted in the zone":    {sku([]string{"1", "2"}, byZone("2")), []string{"2"}, false},
		"restricted in another":     {sku([]string{"1", "2"}, byZone("1")), []string{"2"}, true},
		"restricted without saying": {sku(nil, &armcompute.ResourceSKURestrictions{Type: to.Ptr(armcompute.ResourceSKURestrictionsTypeZone)}), nil, false},
	} {
		if got := offered(c.sku, "westeurope", c.zones); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
