package azure

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/fleet"
)

func TestDiskUsers(t *testing.T) {
	const other = group + "Microsoft.Compute/virtualMachines/vm-other"
	for name, tc := range map[string]struct {
		body string
		want []string
	}{
		"attached":     {fmt.Sprintf(`{"id":%q,"managedBy":%q,"properties":{}}`, diskID, vmID), []string{vmID}},
		"shared":       {fmt.Sprintf(`{"id":%q,"managedBy":%q,"managedByExtended":[%q,%q],"properties":{}}`, diskID, vmID, strings.ToUpper(vmID), other), []string{vmID, other}},
		"not attached": {fmt.Sprintf(`{"id":%q,"properties":{}}`, diskID), nil},
	} {
		f := newFake(t)
		f.on("GET "+armHost+diskID, jsonBody(200, tc.body))
		d, got, err := f.client().DiskUsers(context.Background(), diskID)
		if err != nil || !reflect.DeepEqual(got, tc.want) || d.ID != diskID {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	f := newFake(t)
	f.on("GET "+armHost+diskID, jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`))
	if _, _, err := f.client().DiskUsers(context.Background(), diskID); fault.Action(err) != typeDisk+"/read" {
		t.Error(err)
	}
}

func TestKeySets(t *testing.T) {
	body := `{"id":"` + desID + `","properties":{"encryptionType":"ConfidentialVmEncryptedWithCustomerKey","activeKey":{"keyUrl":"` + keyURL + `"},"previousKeys":[{"keyUrl":"` + hsmKey + `"}]}}`
	want := fleet.KeySet{ID: desID, Type: cvm.DESTypeConfidential, Active: keyURL, Previous: []string{hsmKey}}
	f := newFake(t)
	seen := `{"id":"x"}`
	var asked []string
	f.on("POST "+armHost+"/providers/Microsoft.ResourceGraph/resources", func(w http.ResponseWriter, r *http.Request) {
		q, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		asked = append(asked, string(q))
		row := body
		if strings.Contains(string(q), "take 1") {
			row = seen
		}
		jsonBody(200, `{"totalRecords":1,"count":1,"resultTruncated":"false","data":[`+row+`]}`)(w, r)
	})
	f.on("GET "+armHost+desID, jsonBody(200, body))
	c := f.client()
	if got, err := c.KeySet(context.Background(), desID); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	var got []fleet.KeySet
	add := func(s fleet.KeySet) error { got = append(got, s); return nil }
	if err := c.KeySets(context.Background(), []string{subID}, add); err != nil || !reflect.DeepEqual(got, []fleet.KeySet{want}) {
		t.Errorf("%+v, %v", got, err)
	}
	// A subscription of which nothing is seen may have sets all the same.
	seen = ""
	if err := c.KeySets(context.Background(), []string{subID}, add); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	// A row that can't be read is no row that isn't there.
	body = `{"id":"nonsense","properties":{}}`
	if err := c.KeySets(context.Background(), nil, add); err == nil {
		t.Error("a broken row was passed over")
	}
	// Many sets are asked for in several queries.
	var many []cvm.DESID
	for i := range 120 {
		many = append(many, cvm.DESID(fmt.Sprintf("%s-%d", desID, i)))
	}
	asked, body = nil, `{"id":"`+vmID+`"}`
	var users []string
	if err := c.SetUsers(context.Background(), many, func(id string) error { users = append(users, id); return nil }); err != nil || len(asked) != 3 || len(users) != 3 || users[0] != vmID {
		t.Errorf("%d queries, %v, %v", len(asked), users, err)
	}
	if err := c.SetUsers(context.Background(), []cvm.DESID{"x' or true"}, nil); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func TestScaleSetVMs(t *testing.T) {
	const set = group + "Microsoft.Compute/virtualMachineScaleSets/ss"
	f := newFake(t)
	page := 0
	f.on("GET "+armHost+set+"/virtualMachines", func(w http.ResponseWriter, r *http.Request) {
		next := `"https://` + armHost + set + `/virtualMachines?api-version=x&page=2"`
		if page++; page > 1 {
			next = "null"
		}
		jsonBody(200, fmt.Sprintf(`{"value":[{"instanceId":"%d"}],"nextLink":%s}`, page, next))(w, r)
	})
	got, err := f.client().ScaleSetVMs(context.Background(), set)
	if err != nil || !reflect.DeepEqual(got, []cvm.VMID{set + "/virtualMachines/1", set + "/virtualMachines/2"}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", vmID, set + "/", set + "/virtualMachines/1"} {
		if _, err := f.client().ScaleSetVMs(context.Background(), bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	f = newFake(t)
	f.on("GET "+armHost+set+"/virtualMachines", jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"m"}}`))
	if _, err := f.client().ScaleSetVMs(context.Background(), set); fault.Action(err) != typeVMSSVM+"/read" {
		t.Error(err)
	}
	f = newFake(t)
	f.on("GET "+armHost+set+"/virtualMachines", jsonBody(200, `{"value":[{}]}`))
	if got, err := f.client().ScaleSetVMs(context.Background(), set); err == nil {
		t.Errorf("an instance without an id: %v", got)
	}
}
