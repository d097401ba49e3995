package handlers_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cvmguard/internal/azure"
	"cvmguard/internal/ledger"
)

// vectors is a folder of vectors beside the repository; the test is skipped when
// it isn't there.
func vectors(t testing.TB, folder string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	v := filepath.Join(dir, "..", "shared", "vectors", folder)
	if _, err := os.Stat(v); err != nil {
		t.Skip("no vectors beside the repository")
	}
	return v
}

// eventVectors says what becomes of each vector (its name without the schema) at
// vm-event and at key-event: the VM or the key that is put on the loop, else the
// reason for which it is dropped.
var eventVectors = map[string]struct{ vmEvent, keyEvent string }{
	"deadletter-vm-write":              {theVM, azure.DropOtherEvent},
	"event-arn-health-annotated":       {theVM, azure.DropOtherEvent},
	"event-arn-health-availability":    {theVM, azure.DropOtherEvent},
	"event-arn-vm-createdorupdated":    {theVM, azure.DropOtherEvent},
	"event-arn-vm-deleted":             {theVM, azure.DropOtherEvent},
	"event-des-write-success":          {azure.DropOtherResource, azure.DropOtherResource},
	"event-key-expired":                {azure.DropOtherEvent, theKey},
	"event-key-nearexpiry":             {azure.DropOtherEvent, theKey},
	"event-key-nearexpiry-docs-quirks": {azure.DropOtherEvent, theKey},
	"event-key-newversion":             {azure.DropOtherEvent, theKey},
	"event-subscription-validation":    {azure.DropOtherEvent, azure.DropOtherEvent},
	"event-vm-action-deallocate":       {theVM, azure.DropOtherEvent},
	"event-vm-action-restart":          {theVM, azure.DropOtherEvent},
	"event-vm-action-start":            {theVM, azure.DropOtherEvent},
	"event-vm-delete-success":          {theVM, azure.DropOtherEvent},
	"event-vm-extension-write-success": {theVM, azure.DropOtherEvent},
	"event-vm-write-failure":           {theVM, azure.DropOtherEvent},
	"event-vm-write-success":           {theVM, azure.DropOtherEvent},
	"event-vm-write-success-update":    {theVM, azure.DropOtherEvent},
}

const (
	theVM  = "/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/rg-cvm/providers/microsoft.compute/virtualmachines/vm-cvm-cmk"
	theKey = "https://kv-cvm.vault.azure.net/keys/cvm-os-key"
)

// TestEventVectors sends every event vector to vm-event and key-event, as an
// object and as text, and drops it into the dead-letter container for the sweep.
func TestEventVectors(t *testing.T) {
	dir := vectors(t, "azure")
	seen := map[string]bool{}
	for _, pattern := range []string{"event-*", "deadletter-*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			base, _, _ := strings.Cut(filepath.Base(file), ".")
			want, known := eventVectors[base]
			if !known {
				t.Errorf("%s: say in eventVectors what becomes of it", filepath.Base(file))
				continue
			}
			seen[base] = true
			t.Run(filepath.Base(file), func(t *testing.T) {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var events []json.RawMessage
				if json.Unmarshal(text, &events) != nil {
					events = []json.RawMessage{text}
				}
				for _, e := range events {
					checkEventVector(t, "vm-event", e, want.vmEvent)
					checkEventVector(t, "vm-event", quoted(string(e)), want.vmEvent)
					checkEventVector(t, "key-event", e, want.keyEvent)
				}
				checkDeadLetter(t, text, want)
			})
		}
	}
	for base := range eventVectors {
		if !seen[base] {
			t.Errorf("the vector %s is not there", base)
		}
	}
}

func checkEventVector(t *testing.T, function string, value []byte, want string) {
	t.Helper()
	w := newWorld(t)
	status := w.invoke(function, "event", value)
	if status != 200 || len(w.letters()) != 0 {
		t.Fatalf("%s: %d, %v", function, status, w.letters())
	}
	checkQueued(t, w, want)
}

func checkQueued(t *testing.T, w *world, want string) {
	t.Helper()
	q := w.queued()
	if want != theVM && want != theKey {
		if len(q) != 0 || !strings.Contains(w.logged.String(), `"why":"`+want) {
			t.Errorf("queued %+v, log %s; it should be dropped for %s", q, w.logged.String(), want)
		}
		return
	}
	if len(q) != 1 || !strings.EqualFold(q[0].VM+q[0].Shared, want) || (q[0].VM != "") != (want == theVM) || q[0].Cause.ID == "" || q[0].Cause.At.Year() != 2026 {
		t.Errorf("queued %+v, want %s", q, want)
	}
}

func checkDeadLetter(t *testing.T, blob []byte, want struct{ vmEvent, keyEvent string }) {
	t.Helper()
	w := newWorld(t)
	if err := w.store.Blobs().Create(t.Context(), ledger.ContainerDeadLetter, "TOPIC/2026/11/20/9/x.json", blob); err != nil {
		t.Fatal(err)
	}
	if status := w.invoke("sweep", "timer", []byte(`{"IsPastDue":false}`)); status != 200 || len(w.letters()) != 0 {
		t.Fatalf("sweep: %d, %v", status, w.letters())
	}
	if there, err := w.store.Blobs().Exists(t.Context(), ledger.ContainerDeadLetter, "TOPIC/2026/11/20/9/x.json"); err != nil || there {
		t.Errorf("the blob is still there: %v %v", there, err)
	}
	if want.keyEvent == theKey {
		want.vmEvent = theKey
	}
	checkQueued(t, w, want.vmEvent)
}

// outcome is what becomes of a case of the host's.
type outcome struct {
	queued []string // what is on the loop afterwards, in any letter case
	inbox  int      // letters
	turn   bool     // a turn was taken
	status int      // of the HTTP function, as its caller sees it
}

var (
	cvmA = []string{"/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/rg-guard/providers/microsoft.compute/virtualmachines/cvm-a"}
	// strict is what becomes of a message with a member that no message of ours has:
	// it isn't understood, and not lost.
	strict = outcome{inbox: 1}
)

// hostVectors says what becomes of each case that the host sends to a handler.
var hostVectors = map[string]outcome{
	"c-eventgrid-resource-notification-vm": {queued: cvmA},
	"c-eventgrid-resource-write-vm":        {queued: cvmA},
	"c-http-forwarded-spoofed-invocation":  {status: 404},
	"c-http-get-vms":                       {status: 404},
	"c-http-post-rerun-route":              {status: 202, queued: cvmA},
	"c-queue-json":                         {turn: true},
	"c-queue-metadata-overwritten":         strict,
	"c-queue-plain-text":                   {inbox: 1},
	"c-timer":                              {},
	"c-timer-first-run-past-due":           {},
	"eventgrid-as-text":                    {queued: cvmA},
	"eventgrid-cloudevent":                 {queued: cvmA},
	"eventgrid-many":                       {queued: cvmA},
	"eventgrid-other-case":                 {queued: cvmA},
	"eventgrid-other-resource":             {},
	"eventgrid-resource-notification":      {queued: cvmA},
	"eventgrid-resource-write":             {queued: cvmA},
	"eventgrid-vm-delete":                  {queued: cvmA},
	"eventgrid-vm-extension":               {queued: cvmA},
	"http-rerun-bad-id-wrapped":            {status: 400},
	"http-rerun-forwarded":                 {status: 202, queued: cvmA},
	"http-rerun-wrapped":                   {status: 202, queued: cvmA},
	"http-vms-get-wrapped":                 {status: 200},
	"ping":                                 {},
	"queue-fifth-try":                      {turn: true},
	"queue-json-object":                    {turn: true},
	"queue-json-text":                      {turn: true},
	"queue-json-twice":                     {turn: true},
	"queue-plain-text":                     {inbox: 1},
	"timer":                                {},
	"timer-no-monitor":                     {},
}

// notOurs are cases for the decoder alone, of the host's own webhook, or of answers.
func notOurs(name string) bool {
	return strings.HasPrefix(name, "c-webhook-") || name == "webhook-cases" || name == "c-answers" || name == "c-queue-host-test"
}

type hostVector struct {
	Request struct {
		Method, Path string
		Headers      map[string]any
		Body         json.RawMessage
		BodyText     *string `json:"body_text"`
	}
	Expect struct {
		Status any
		Inbox  bool
		Queued []string
	}
}

// TestHostVectors sends every case of the host's to the real functions.
func TestHostVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors(t, "host"), "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		want, known := hostVectors[name]
		seen[name] = true
		if !known {
			if !notOurs(name) {
				t.Errorf("%s: say in hostVectors what becomes of it", name)
			}
			continue
		}
		t.Run(name, func(t *testing.T) { checkHostVector(t, file, want) })
	}
	for name := range hostVectors {
		if !seen[name] {
			t.Errorf("the vector %s is not there", name)
		}
	}
}

func checkHostVector(t *testing.T, file string, want outcome) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var v hostVector
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	var body io.Reader
	switch {
	case v.Request.BodyText != nil:
		body = strings.NewReader(*v.Request.BodyText)
	case len(v.Request.Body) > 0 && string(v.Request.Body) != "null":
		body = bytes.NewReader(v.Request.Body)
	}
	req, err := http.NewRequest(v.Request.Method, w.server.URL+v.Request.Path, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, h := range v.Request.Headers {
		if s, ok := h.(string); ok && k != "Host" {
			req.Header.Set(k, s)
		}
	}
	status, _, got := w.send(req)
	if n, ok := v.Expect.Status.(float64); ok && status != int(n) {
		t.Errorf("status %d, want %v: %s", status, n, got)
	}
	if want.status != 0 && !strings.HasPrefix(v.Request.Path, "/api/") {
		var out struct {
			Outputs struct{ Res struct{ StatusCode string } }
		}
		if err := json.Unmarshal(got, &out); err != nil || out.Outputs.Res.StatusCode != strconv.Itoa(want.status) {
			t.Errorf("%s, want status %d (%v)", got, want.status, err)
		}
	} else if want.status != 0 && status != want.status {
		t.Errorf("status %d, want %d", status, want.status)
	}
	var queued []string
	for _, m := range w.queued() {
		if !m.Due.IsZero() || m.Cause.Kind == "shared" {
			continue // a turn's own
		}
		queued = append(queued, strings.ToLower(m.VM+m.Shared))
	}
	queued = slices.Compact(queued) // two events about one VM are two messages
	if !slices.Equal(queued, want.queued) {
		t.Errorf("queued %v, want %v", queued, want.queued)
	}
	if (len(v.Expect.Queued) > 0) && len(want.queued) == 0 || v.Expect.Inbox && want.inbox == 0 {
		t.Errorf("the table says another thing than the vector: %+v", v.Expect)
	}
	if n := len(w.letters()); n != want.inbox {
		t.Errorf("%d letters, want %d: %+v", n, want.inbox, w.letters())
	}
	if n := w.app.Counters.Turns.Load(); (n == 1) != want.turn {
		t.Errorf("%d turns", n)
	}
	if strings.Contains(w.logged.String(), "REDACTED-FUNCTION-KEY") {
		t.Errorf("the log shows the function key: %s", w.logged.String())
	}
}
