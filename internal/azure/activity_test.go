package azure

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

const activityRoute = "GET management.azure.com/subscriptions/" + subID + "/providers/Microsoft.Insights/eventtypes/management/values"

// event is one line of the log, by an object id.
func event(id, at, operation, status, sub, who string) string {
	claims := `"appid":"x"`
	if who != "" {
		claims += `,"` + claimObjectID + `":"` + who + `"`
	}
	return fmt.Sprintf(`{"eventDataId":%q,"eventTimestamp":%q,"operationName":{"value":%q},"status":{"value":%q},"subStatus":{"value":%q},"claims":{%s}}`, id, at, operation, status, sub, claims)
}

func TestVMWrites(t *testing.T) {
	const (
		write, tags = "Microsoft.Compute/virtualMachines/write", "Microsoft.Resources/tags/write"
		own         = "00000000-0000-0000-0000-0000000000C2" // testCred's
	)
	f := newFake(t)
	c := f.client()
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	c.now = func() time.Time { return now }
	var asked []string
	page := 0
	f.on(activityRoute, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, q.Get("$filter"))
		if q.Get("api-version") != "2015-04-01" || !strings.Contains(q.Get("$select"), "claims") {
			t.Errorf("asked %s", r.URL.RawQuery)
		}
		switch {
		case strings.Contains(q.Get("$filter"), "/tags/default'"):
			jsonBody(200, `{"value":[`+event("e5", "2026-06-01T11:59:00.1234567Z", tags, "Succeeded", "", "A")+`,`+event("e2", "2026-06-01T11:00:00Z", write, "Succeeded", "", "b")+`]}`)(w, r)
		case q.Get("$skipToken") == "":
			page++
			jsonBody(200, `{"value":[`+strings.Join([]string{event("e1", "2026-06-01T10:00:00Z", write, "Started", "", "b"), event("e2", "2026-06-01T11:00:00Z", write, "Succeeded", "", "b"),
				event("x1", "2026-06-01T11:00:00Z", "Microsoft.Compute/virtualMachines/restart/action", "Succeeded", "", "c"),
				event("x2", "2026-06-01T11:00:00Z", write, "Failed", "Forbidden", "d"), event("x3", "2026-06-01T11:00:00Z", write, "Succeeded", "", own)}, ",")+
				`],"nextLink":"https://management.azure.com/subscriptions/`+subID+`/providers/microsoft.insights/eventtypes/management/values?api-version=2015-04-01&%24select=claims&%24filter=x&%24skipToken=2"}`)(w, r)
		default:
			jsonBody(200, `{"value":[`+event("e3", "2026-06-01T11:30:00Z", "MICROSOFT.COMPUTE/VIRTUALMACHINES/WRITE", "Failed", "Conflict", "e")+`,`+event("e4", "2026-06-01T11:40:00Z", write, "Succeeded", "", "")+`]}`)(w, r)
		}
	})
	got, err := c.VMWrites(t.Context(), vmID, now.Add(-200*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, w := range got {
		all = append(all, fmt.Sprintf("%s by %q done %t", w.Event, w.Principal, w.Done))
	}
	want := `e5 by "a" done true, e4 by "" done true, e3 by "e" done false, e2 by "b" done true, e1 by "b" done false`
	if strings.Join(all, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(all, ", "), want)
	}
	if !strings.Contains(asked[0], "resourceUri eq '"+vmID+"'") || !strings.Contains(asked[0], "eventTimestamp ge '2026-03-03T13:00:00") || len(asked) != 3 {
		t.Errorf("asked %q", asked)
	}
}

func TestVMWritesRefused(t *testing.T) {
	f := newFake(t)
	c := f.client()
	since := time.Now().Add(-time.Hour)
	f.on(activityRoute, jsonBody(403, `{"error":{"code":"AuthorizationFailed","message":"no"}}`))
	if _, err := c.VMWrites(t.Context(), vmID, since); !fault.Is(err, fault.Denied) || fault.Action(err) != "Microsoft.Insights/eventtypes/values/read" {
		t.Errorf("denied: %v", err)
	}
	f.on(activityRoute, jsonBody(200, `{"value":[{"eventTimestamp":"yesterday"}]}`))
	if w, err := c.VMWrites(t.Context(), vmID, since); err == nil {
		t.Errorf("not its form: %v", w)
	}
	// A page elsewhere would be given the token.
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token was carried elsewhere") }))
	defer elsewhere.Close()
	for _, link := range []string{"https://evil.example.net/x", "http://management.azure.com/x", elsewhere.URL} {
		f.on(activityRoute, jsonBody(200, `{"value":[],"nextLink":"`+link+`"}`))
		if _, err := c.VMWrites(t.Context(), vmID, since); !fault.Is(err, fault.Blocked) {
			t.Errorf("%s: %v", link, err)
		}
	}
	n := len(f.seen())
	set := cvm.VMID(group + "Microsoft.Compute/virtualMachineScaleSets/s/virtualMachines/0")
	if _, err := c.VMWrites(t.Context(), set, since); !fault.Is(err, fault.Blocked) || len(f.seen()) != n {
		t.Errorf("a scale set's instance: %v", err)
	}
}
