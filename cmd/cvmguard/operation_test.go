package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cvmguard/handlers"
)

// The list of operations has all pages, the newest plan first, and one whose plan is
// lost without a time of its own.
func TestOperationListHasAllPages(t *testing.T) {
	pages := map[string]string{
		"":   `{"operations":[{"hash":"old","kind":"undo","made":"2026-11-01T00:00:00Z","state":"operation-waiting","steps":[]},{"hash":"lost","state":"operation-missing","steps":[]}],"next":"k1"}`,
		"k1": `{"operations":[{"hash":"new","kind":"undo","made":"2026-11-02T00:00:00Z","state":"operation-done","steps":[]}]}`,
	}
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, pages[r.URL.Query().Get("after")])
	}))
	defer app.Close()
	do := func(args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		env := map[string]string{envURL: app.URL, envKey: "hush"}
		if got := run(args, func(k string) string { return env[k] }, &out, &errs); got != 0 {
			t.Fatalf("%v: status %d: %s%s", args, got, out.String(), errs.String())
		}
		return out.String()
	}
	text := do("operation", "list")
	if n, o, l := strings.Index(text, "new "), strings.Index(text, "old "), strings.Index(text, "lost "); n < 0 || o < n || l < o || strings.Contains(text, "0001") {
		t.Errorf("%s", text)
	}
	var all struct {
		Operations []handlers.OperationView `json:"operations"`
	}
	if err := json.Unmarshal([]byte(do("operation", "list", "--output", "json")), &all); err != nil || len(all.Operations) != 3 || all.Operations[0].Hash != "new" {
		t.Errorf("%v, %+v", err, all)
	}
}
