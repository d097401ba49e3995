package handlers_test

import (
	"strings"
	"testing"
)

// What is wrong with a question about operations is told with the field and the
// fix.
func TestOperationsRefuse(t *testing.T) {
	tw := newTwins(t)
	des := `"des":"/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/diskEncryptionSets/des1"`
	for body, want := range map[string]string{
		"":                      "a JSON body is needed",
		"[]":                    "can't be read",
		"{}":                    "it must be rotate-key, recreate-vm or undo",
		`{"kind":"rotate"}`:     "it must be rotate-key, recreate-vm or undo",
		`{"kind":"rotate-key"}`: "it is needed with the kind rotate-key",
		`{"kind":"rotate-key",` + des + `,"vm":"x"}`:                     "it doesn't go with the kind rotate-key",
		`{"kind":"rotate-key",` + des + `,"wave":"two"}`:                 "wave",
		`{"kind":"rotate-key",` + des + `,"waves":2}`:                    "unknown field",
		`{"kind":"recreate-vm"}`:                                         "it is needed with the kind recreate-vm",
		`{"kind":"undo"}`:                                                "give either the record",
		`{"kind":"undo","record":"a","plan":"b"}`:                        "give either the record",
		`{"kind":"undo","record":"` + strings.Repeat("x", 20<<10) + `"}`: "too long",
	} {
		if a := tw.do("POST", "/api/operations", body); a.Status != 400 || !strings.Contains(a.Body, want) {
			t.Errorf("%.80s: %d %.300s", body, a.Status, a.Body)
		}
	}
	hash := strings.Repeat("ab", 32)
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/api/operations/" + hash, 404, hash},
		{"GET", "/api/operations/" + hash + "/approve", 404, "there is nothing here"},
		{"POST", "/api/operations/" + hash, 404, "there is nothing here"},
		{"POST", "/api/operations/" + hash + "/aprove", 404, "it must be one of"},
		{"POST", "/api/operations/" + hash + "/approve", 404, hash},
		{"POST", "/api/operations/123/approve", 400, "64 hex digits"},
		{"GET", "/api/operations?all=1", 400, "all"},
	} {
		if a := tw.do(c.method, c.path, ""); a.Status != c.status || !strings.Contains(a.Body, c.want) {
			t.Errorf("%s %s: %d %.300s", c.method, c.path, a.Status, a.Body)
		}
	}
	if a := tw.do("GET", "/api/operations", ""); a.Status != 200 || !strings.Contains(a.Body, `"operations":[]`) {
		t.Errorf("%+v", a)
	}
}
