package azure

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"cvmguard/internal/fault"
)

const nicID = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/rg/providers/Microsoft.Network/networkInterfaces/nic1"

// What can't be read for certain is an error, never "nothing stands in the way".
func TestAroundFailsClosed(t *testing.T) {
	ctx := context.Background()
	locks, perms := "GET "+armHost+vmID+"/providers/Microsoft.Authorization/locks", "GET "+armHost+vmID+"/providers/Microsoft.Authorization/permissions"
	for name, answer := range map[string]http.HandlerFunc{
		"no list": jsonBody(200, `{}`), "not JSON": jsonBody(200, `<html>`), "null": jsonBody(200, `{"value":null}`),
		"refused": jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"no"}}`),
	} {
		f := newFake(t)
		f.on("GET "+armHost+nicID, answer)
		f.on(locks, answer)
		f.on(perms, answer)
		c := f.client()
		if _, err := c.NetworkInterface(ctx, nicID); err == nil {
			t.Errorf("%s: a network interface was read", name)
		}
		if _, err := c.Locks(ctx, vmID); err == nil {
			t.Errorf("%s: locks were read", name)
		}
		if _, err := c.Lacking(ctx, vmID, []string{"x/read"}); err == nil {
			t.Errorf("%s: rights were read", name)
		}
	}
	c := newFake(t).client()
	for _, id := range []string{"", "/subscriptions/s/x", nicID + "?a=b", "https://elsewhere" + nicID} {
		if _, err := c.NetworkInterface(ctx, id); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, want it refused", id, err)
		}
	}
	if _, err := c.Lacking(ctx, "https://elsewhere", nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("%v, want it refused", err)
	}
}

// All pages count, and none is asked of another host.
func TestLocksOfAllPages(t *testing.T) {
	f := newFake(t)
	f.on("GET "+armHost+vmID+"/providers/Microsoft.Authorization/locks", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("page") == "" {
			jsonBody(200, `{"value":[{"id":"/a","properties":{"level":"NotSpecified"}},{"id":"/b","properties":{"level":"ReadOnly"}}],"nextLink":"https://elsewhere.example`+r.URL.Path+`?page=2"}`)(w, r)
			return
		}
		jsonBody(200, `{"value":[{"id":"/c","properties":{"level":"CanNotDelete"}}]}`)(w, r)
	})
	got, err := f.client().Locks(context.Background(), vmID)
	if err != nil || len(got) != 2 || got[0].ID != "/b" || got[1].ID != "/c" {
		t.Errorf("%v, %v", got, err)
	}
}

func TestRightsBySomePattern(t *testing.T) {
	f := newFake(t)
	f.on("GET "+armHost+vmID+"/providers/Microsoft.Authorization/permissions",
		jsonBody(200, `{"value":[{"actions":["*"],"notActions":["Microsoft.Compute/*/delete"]},{"actions":["microsoft.compute/virtualMachines/DELETE"],"notActions":[]}]}`))
	got, err := f.client().Lacking(context.Background(), vmID, []string{"Microsoft.Compute/virtualMachines/delete", "Microsoft.Compute/disks/delete", "Microsoft.Compute/disks/write"})
	if err != nil || strings.Join(got, " ") != "Microsoft.Compute/disks/delete" {
		t.Errorf("lacks %v, %v", got, err)
	}
}
