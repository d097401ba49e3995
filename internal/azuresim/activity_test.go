package azuresim

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// activityOf asks the log as a principal would: status, and operation, object id
// and resource of each event.
func activityOf(t *testing.T, s *Sim, who, filter string) (int, []string) {
	t.Helper()
	tok, _, err := s.token(who, "https://management.azure.com")
	if err != nil {
		t.Fatal(err)
	}
	link := "https://management.azure.com/subscriptions/" + s.Subscription() + "/providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01&%24filter=" + url.QueryEscape(filter)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	tr := s.Transport()
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var page struct {
		Value []struct {
			ResourceID    string
			OperationName struct{ Value string }
			Claims        map[string]string
		}
	}
	if err := json.Unmarshal(b, &page); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	var out []string
	for _, e := range page.Value {
		out = append(out, e.OperationName.Value+" "+e.Claims["http://schemas.microsoft.com/identity/claims/objectidentifier"]+" "+e.ResourceID[strings.LastIndexByte(e.ResourceID, '/')+1:])
	}
	return resp.StatusCode, out
}

func TestTheActivityLog(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	s, err := Start(Options{Now: func() time.Time { return now }, Role: &Role{Actions: []string{"Microsoft.Compute/*"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	sc, err := BuildScene(s, now)
	if err != nil {
		t.Fatal(err)
	}
	id := sc.VM("vm-snp-hsm").ID
	s.LoseActivity("", 0)
	jane := s.AddPrincipal("jane", nil)
	now = now.Add(time.Minute)
	if err := s.SetTagAs("jane", id, "cvmguard-exempt", "x"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetTagAs("nobody", id, "a", "x"); err == nil {
		t.Error("nobody has set a tag")
	}
	now = now.Add(time.Minute)
	if err := s.SetTag(id, "env", "prod"); err != nil {
		t.Fatal(err)
	}
	since := "eventTimestamp ge '2026-06-01T12:00:30Z'"
	if status, _ := activityOf(t, s, HandlerPrincipal, since); status != http.StatusForbidden {
		t.Errorf("without the right: %d", status)
	}
	status, all := activityOf(t, s, AdminPrincipal, since)
	if status != http.StatusOK || len(all) != 2 || all[1] != "Microsoft.Resources/tags/write "+jane.ObjectID+" default" || !strings.HasPrefix(all[0], "Microsoft.Compute/virtualMachines/write ") {
		t.Fatalf("%d, %q", status, all)
	}
	for filter, want := range map[string]int{
		since + " and resourceUri eq '" + id + "'":                                                             1,
		since + " and resourceUri eq '" + strings.ToUpper(id) + "/providers/Microsoft.Resources/tags/default'": 1,
		since + " and eventTimestamp le '2026-06-01T12:01:30Z'":                                                1,
		"eventTimestamp ge '2026-06-01T12:02:30Z'":                                                             0,
	} {
		if _, all := activityOf(t, s, AdminPrincipal, filter); len(all) != want {
			t.Errorf("%s: %q", filter, all)
		}
	}
	for _, filter := range []string{"", "resourceUri eq 'x'", "eventTimestamp ge '2026-01-01T00:00:00Z'", "eventTimestamp ge 'then'"} {
		if status, _ := activityOf(t, s, AdminPrincipal, filter); status != http.StatusBadRequest {
			t.Errorf("%q: %d", filter, status)
		}
	}
	s.LoseActivity(id, 90*time.Second)
	if _, all := activityOf(t, s, AdminPrincipal, since); len(all) != 2 {
		t.Errorf("younger events are gone: %q", all)
	}
	s.LoseActivity(id, 30*time.Second)
	if _, all := activityOf(t, s, AdminPrincipal, since); len(all) != 1 {
		t.Errorf("older events are there: %q", all)
	}
	if err := s.DropTag(id, "cvmguard-exempt"); err != nil {
		t.Fatal(err)
	}
	body, _ := s.Resource(id)
	if _, there := body["tags"].(doc)["cvmguard-exempt"]; there {
		t.Error("the tag is there")
	}
	now = now.Add(90 * 24 * time.Hour)
	if _, all := activityOf(t, s, AdminPrincipal, "eventTimestamp ge '"+now.Add(-89*24*time.Hour-23*time.Hour-59*time.Minute).Format(time.RFC3339)+"'"); len(all) > 2 {
		t.Errorf("%q", all)
	}
}
