package azure

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// wantEvent is what each event vector asks for, by its name without the schema.
var wantEvent = map[string]struct {
	vm    bool
	key   bool
	drop  string
	cause string
	fresh bool
}{
	"event-arn-health-annotated":       {vm: true, cause: "health", fresh: true},
	"event-arn-health-availability":    {vm: true, cause: "health", fresh: true},
	"event-arn-vm-createdorupdated":    {vm: true, cause: "event"},
	"event-arn-vm-deleted":             {vm: true, cause: "event"},
	"event-des-write-success":          {drop: DropOtherResource, cause: "event"},
	"event-key-expired":                {key: true, cause: "key-event"},
	"event-key-nearexpiry":             {key: true, cause: "key-event"},
	"event-key-nearexpiry-docs-quirks": {key: true, cause: "key-event"},
	"event-key-newversion":             {key: true, cause: "key-event"},
	"event-subscription-validation":    {drop: DropOtherEvent, cause: "event"},
	"event-vm-action-deallocate":       {vm: true, cause: "event"},
	"event-vm-action-restart":          {vm: true, cause: "start", fresh: true},
	"event-vm-action-start":            {vm: true, cause: "start", fresh: true},
	"event-vm-delete-success":          {vm: true, cause: "event"},
	"event-vm-extension-write-success": {vm: true, cause: "event"},
	"event-vm-write-failure":           {vm: true, cause: "event"},
	"event-vm-write-success":           {vm: true, cause: "event"},
	"event-vm-write-success-update":    {vm: true, cause: "event"},
	"deadletter-vm-write":              {vm: true, cause: "event"},
}

func eventVectors(t testing.TB) []string {
	var files []string
	for _, p := range []string{"event-*.json", "deadletter-*.json"} {
		m, err := filepath.Glob(filepath.Join(vectorDir(t), p))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, m...)
	}
	return files
}

func TestEventVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range eventVectors(t) {
		name := filepath.Base(f)
		t.Run(name, func(t *testing.T) {
			base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".json"), ".eventgrid"), ".cloudevents")
			want, ok := wantEvent[base]
			if !ok {
				t.Fatal("no expectation for this vector")
			}
			seen[base] = true
			e, err := ParseEvent(vector(t, name))
			if err != nil {
				t.Fatal(err)
			}
			schema := SchemaEventGrid
			if strings.Contains(name, ".cloudevents.") {
				schema = SchemaCloudEvents
			}
			if e.Schema != schema || e.ID == "" || e.Time.Year() != 2026 || e.Topic == "" {
				t.Errorf("%+v", e)
			}
			d := Classify(e)
			if (d.VM != "") != want.vm || (d.Key != "") != want.key || d.Drop != want.drop || d.Cause.Kind != want.cause || d.Cause.Fresh != want.fresh {
				t.Errorf("%+v, want %+v", d, want)
			}
			if want.vm && d.VM.Name() != "vm-cvm-cmk" {
				t.Errorf("VM %q", d.VM)
			}
			if want.key {
				if d.Key != "https://kv-cvm.vault.azure.net/keys/cvm-os-key" || e.Key.Name != "cvm-os-key" || strings.TrimSpace(e.Key.Version) != e.Key.Version {
					t.Errorf("key %q, %+v", d.Key, e.Key)
				}
				if base == "event-key-nearexpiry-docs-quirks" && (e.Key.Expires.Unix() != 1769904000 || e.Key.NotBefore.Unix() != 1767225600) {
					t.Errorf("times %+v", e.Key)
				}
			}
			if !d.Cause.At.Equal(e.Time) || d.Cause.ID != e.ID {
				t.Errorf("cause %+v", d.Cause)
			}
			if strings.HasPrefix(base, "deadletter-") != (e.DeadLetter != nil) {
				t.Fatalf("dead letter %+v", e.DeadLetter)
			}
			if dl := e.DeadLetter; dl != nil && (dl.Reason != "MaxDeliveryAttemptsExceeded" || dl.Attempts != 30 || dl.LastOutcome != "NotFound" || dl.Published.IsZero() || dl.LastAttempt.IsZero()) {
				t.Errorf("%+v", dl)
			}
		})
	}
	for base := range wantEvent {
		if !seen[base] {
			t.Errorf("the vector %s is not there", base)
		}
	}
}

func TestParseEventRefuses(t *testing.T) {
	good := `{"id":"1","eventType":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","eventTime":"2026-01-15T08:01:30Z","data":{}}`
	for name, tc := range map[string]struct{ raw, code string }{
		"empty":            {"", EventNotJSON},
		"text":             {"hello", EventNotJSON},
		"cut short":        {good[:len(good)-9], EventNotJSON},
		"cut array":        {"[" + good, EventNotJSON},
		"number":           {"7", EventUnknownSchema},
		"empty object":     {"{}", EventUnknownSchema},
		"other schema":     {`{"hello":"world"}`, EventUnknownSchema},
		"version alone":    {`{"specversion":"1.0","subject":"x"}`, EventUnknownSchema},
		"no events":        {"[]", EventUnknownSchema},
		"two events":       {"[" + good + "," + good + "]", EventUnknownSchema},
		"no subject":       {`{"id":"1","eventType":"x"}`, EventNoSubject},
		"empty subject":    {`{"id":"1","specversion":"1.0","type":"x","subject":" "}`, EventNoSubject},
		"too long":         {good[:len(good)-1] + `,"x":"` + strings.Repeat("y", MaxEvent) + `"}`, EventTooLong},
		"subject no text":  {`{"id":"1","eventType":"x","subject":{"a":1}}`, EventNoSubject},
		"base64 not valid": {`{"id":"1","specversion":"1.0","type":"x","subject":"s","data_base64":"***"}`, EventUnknownSchema},
	} {
		_, err := ParseEvent([]byte(tc.raw))
		if !fault.Is(err, fault.Invalid) || fault.Code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
		if err != nil && strings.Contains(err.Error(), "world") {
			t.Errorf("%s: the text holds the event: %v", name, err)
		}
	}
	for name, raw := range map[string]string{
		"good":                good,
		"array of one":        "[" + good + "]",
		"data absent":         `{"id":"1","eventType":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `"}`,
		"data of other shape": `{"id":"1","eventType":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","data":[1,2],"eventTime":7}`,
		"data as text":        `{"id":7,"eventType":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","data":"{\"operationName\":\"x\"}"}`,
		"data in base64":      `{"id":"1","specversion":"1.0","type":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","data_base64":"e30="}`,
	} {
		e, err := ParseEvent([]byte(raw))
		if err != nil || Classify(e).VM != vmID {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

func TestClassify(t *testing.T) {
	const (
		write   = "Microsoft.Resources.ResourceWriteSuccess"
		action  = "Microsoft.Resources.ResourceActionSuccess"
		created = "Microsoft.ResourceNotifications.Resources.CreatedOrUpdated"
		health  = "Microsoft.ResourceNotifications.HealthResources.AvailabilityStatusChanged"
	)
	lower := strings.ToLower(vmID)
	for _, tc := range []struct {
		name, typ, subject, operation, uri string
		vm                                 cvm.VMID
		drop                               string
		fresh                              bool
	}{
		{"a VM", write, vmID, "", "", vmID, "", false},
		{"a VM in lower case", write, lower, "", "", cvm.VMID(lower), "", false},
		{"a trailing slash", write, vmID + "/", "", "", vmID, "", false},
		{"write cancelled", "Microsoft.Resources.ResourceWriteCancel", vmID, "", "", vmID, "", false},
		{"delete failed", "Microsoft.Resources.ResourceDeleteFailure", vmID, "", "", vmID, "", false},
		{"start", action, vmID, "Microsoft.Compute/virtualMachines/START/action", "", vmID, "", true},
		{"redeploy", action, vmID, "Microsoft.Compute/virtualMachines/redeploy/action", "", vmID, "", true},
		{"reimage", action, lower, "microsoft.compute/virtualmachines/reimage/action", "", cvm.VMID(lower), "", true},
		{"power off boots nothing", action, vmID, "Microsoft.Compute/virtualMachines/powerOff/action", "", vmID, "", false},
		{"a redeploy that failed boots nothing", "Microsoft.Resources.ResourceActionFailure", vmID, "Microsoft.Compute/virtualMachines/redeploy/action", "", vmID, "", false},
		{"a start that failed boots nothing", "Microsoft.Resources.ResourceActionFailure", vmID, "Microsoft.Compute/virtualMachines/start/action", "", vmID, "", false},
		{"an action run command is about the VM", action, vmID, "Microsoft.Compute/virtualMachines/runCommand/action", "", vmID, "", false},
		{"an extension deleted", "Microsoft.Resources.ResourceDeleteSuccess", vmID + "/extensions/x", "", "", vmID, "", false},
		{"our run command", write, vmID + "/runCommands/cvmguard-evidence", "", "", "", DropRunCommand, false},
		{"its notification", created, vmID + "/runcommands/x", "", "", "", DropRunCommand, false},
		{"a lock on a VM", write, vmID + "/providers/Microsoft.Authorization/locks/l", "", "", "", DropOtherResource, false},
		{"health below a VM", health, vmID + "/providers/Microsoft.ResourceHealth/availabilityStatuses/current", "", "", vmID, "", true},
		{"a disk", write, diskID, "", "", "", DropOtherResource, false},
		{"a group", write, "/subscriptions/" + subID + "/resourceGroups/rg", "", "", "", DropOtherResource, false},
		{"a uniform instance", write, group + "Microsoft.Compute/virtualMachineScaleSets/s", "", "", "", DropScaleSet, false},
		{"a name that is no name", write, group + "Microsoft.Compute/virtualMachines/a b", "", "", "", DropMalformedID, false},
		{"nothing after the type", write, group + "Microsoft.Compute/virtualMachines", "", "", "", DropMalformedID, false},
		{"no id", write, "hello", "", "", "", DropMalformedID, false},
		{"the VM in the data alone", write, "hello", "", vmID, vmID, "", false},
		{"an echo stays an echo", write, vmID + "/runCommands/x", "", vmID, "", DropRunCommand, false},
		{"storage account", created, group + "Microsoft.Storage/storageAccounts/s", "", "", "", DropOtherResource, false},
		{"other type", "Microsoft.Storage.BlobCreated", "/blobServices/default/containers/c/blobs/b", "", "", "", DropOtherEvent, false},
		{"secret", "Microsoft.KeyVault.SecretNearExpiry", "s", "", "", "", DropOtherEvent, false},
		{"key without data", "Microsoft.KeyVault.KeyExpired", "k", "", "", "", DropMalformedKey, false},
	} {
		d := Classify(Event{Type: tc.typ, Subject: tc.subject, Operation: tc.operation, ResourceURI: tc.uri})
		if d.VM != tc.vm || d.Drop != tc.drop || d.Cause.Fresh != tc.fresh || (d.Drop != "") != (d.Why != "") {
			t.Errorf("%s: %+v", tc.name, d)
		}
	}
	for _, tc := range []struct {
		k    KeyEvent
		want cvm.KeyID
	}{
		{KeyEvent{ID: "https://KV-CVM.vault.azure.net/keys/K/1"}, "https://kv-cvm.vault.azure.net/keys/k"},
		{KeyEvent{Vault: "kv-cvm", Name: "k"}, "https://kv-cvm.vault.azure.net/keys/k"},
		{KeyEvent{ID: "https://evil.example.net/keys/k/1"}, ""},
		{KeyEvent{Vault: "kv/../x", Name: "k"}, ""},
	} {
		if d := Classify(Event{Type: "Microsoft.KeyVault.KeyExpired", Subject: "k", Key: &tc.k}); d.Key != tc.want {
			t.Errorf("%+v: %+v", tc.k, d)
		}
	}
}

func TestEventTime(t *testing.T) {
	for s, want := range map[flexible]string{
		"2026-01-15T08:01:30Z":           "2026-01-15T08:01:30Z",
		"2026-01-15T08:01:30+02:00":      "2026-01-15T06:01:30Z",
		"9999-12-31T23:59:59.999999999Z": "9999-12-31T23:59:59.999999999Z",
		"9999-12-31T23:59:59-00:01":      "",
		"0001-01-01T00:00:00+00:01":      "",
		"0000-06-01T00:00:00Z":           "",
		"0000-12-31T23:59:59-00:01":      "0001-01-01T00:00:59Z",
		"10000-01-01T00:00:00Z":          "",
		"":                               "",
		"1768464090":                     "",
	} {
		got := eventTime(s)
		text := ""
		if !got.IsZero() {
			text = got.Format(time.RFC3339Nano)
		}
		if text != want || got.Location() != time.UTC {
			t.Errorf("%q is %s, want %q", s, got, want)
		}
	}
	for s, known := range map[string]bool{"1767225600": true, "253402300799": true, "253402300800": false, "1e300": false, "NaN": false, "-1": false} {
		if got := unixSeconds(s); got.IsZero() == known || got.Year() > 9999 {
			t.Errorf("%s is %s", s, got)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"id":"1","eventType":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","eventTime":"9999-12-31T23:59:59-23:59"}`))
	f.Add([]byte(`{"id":"1","specversion":"1.0","type":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","time":"0001-01-01T00:00:00+23:59","deadLetterReason":"x","publishTime":"0000-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"id":"1","eventType":"Microsoft.KeyVault.KeyExpired","subject":"k","data":{"Id":"https://v.vault.azure.net/keys/k","EXP":1e300}}`))
	f.Add([]byte(`[{"specversion":"1.0","type":"Microsoft.Resources.ResourceWriteSuccess","subject":"` + vmID + `","data":null}]`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ParseEvent(raw)
		if err != nil {
			var fe *fault.Error
			if !errors.As(err, &fe) || fe.Kind != fault.Invalid || fe.Code == "" {
				t.Errorf("refused without a reason: %v", err)
			}
			return
		}
		d := Classify(e)
		n := 0
		for _, set := range []bool{d.VM != "", d.Key != "", d.Drop != ""} {
			if set {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%+v is not one decision", d)
		}
		if d.VM != "" {
			if _, err := cvm.ParseVMID(string(d.VM)); err != nil {
				t.Error(err)
			}
		}
		if _, err := json.Marshal(d.Cause); err != nil {
			t.Error("the cause can't be put on a queue:", err)
		}
		times := []time.Time{e.Time}
		if e.Key != nil {
			times = append(times, e.Key.NotBefore, e.Key.Expires)
		}
		if e.DeadLetter != nil {
			times = append(times, e.DeadLetter.Published, e.DeadLetter.LastAttempt)
		}
		for _, at := range times {
			if at.Location() != time.UTC || at.Year() < 1 || at.Year() > 9999 {
				t.Errorf("%s is not in UTC, or outside the years 1 to 9999", at)
			}
		}
	})
}
