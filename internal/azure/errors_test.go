package azure

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cvmguard/internal/fault"
)

func responseError(status int, header http.Header, body string) error {
	if header == nil {
		header = http.Header{}
	}
	req, err := http.NewRequest(http.MethodGet, "https://management.azure.com/x?sig=SECRET", nil)
	if err != nil {
		panic(err)
	}
	return runtime.NewResponseError(&http.Response{StatusCode: status, Status: http.StatusText(status), Header: header,
		Body: io.NopCloser(strings.NewReader(body)), Request: req})
}

func TestErrorKinds(t *testing.T) {
	arm := func(code string) string { return `{"error":{"code":"` + code + `","message":"text"}}` }
	cases := []struct {
		name   string
		status int
		body   string
		kind   fault.Kind
		code   string
		action string
	}{
		{"arm rights", 403, arm("AuthorizationFailed"), fault.Denied, "AuthorizationFailed", "act"},
		{"vault rights", 403, `{"error":{"code":"Forbidden","message":"m","innererror":{"code":"ForbiddenByRbac"}}}`, fault.Denied, "ForbiddenByRbac", "act"},
		{"vault firewall is no right", 403, `{"error":{"code":"Forbidden","message":"m","innererror":{"code":"ForbiddenByFirewall"}}}`, fault.Denied, "ForbiddenByFirewall", ""},
		{"key disabled", 403, `{"error":{"code":"Forbidden","message":"m","innererror":{"code":"KeyDisabled"}}}`, fault.Denied, "KeyDisabled", ""},
		{"refused by azure policy", 403, arm("RequestDisallowedByPolicy"), fault.Blocked, "RequestDisallowedByPolicy", ""},
		{"no token", 401, arm("InvalidAuthenticationToken"), fault.Denied, "InvalidAuthenticationToken", "act"},
		{"gone", 404, arm("ResourceNotFound"), fault.NotFound, "ResourceNotFound", ""},
		{"key gone", 404, arm("KeyNotFound"), fault.NotFound, "KeyNotFound", ""},
		{"head without body", 404, "", fault.NotFound, "", ""},
		{"immutable", 409, arm("PropertyChangeNotAllowed"), fault.Blocked, "PropertyChangeNotAllowed", ""},
		{"power state", 409, arm("OperationNotAllowed"), fault.Blocked, "OperationNotAllowed", ""},
		{"other operation", 409, arm("Conflict"), fault.Conflict, "Conflict", ""},
		{"overlapping", 409, arm("AttachDiskWhileBeingDetached"), fault.Conflict, "AttachDiskWhileBeingDetached", ""},
		{"any in progress", 409, arm("SnapshotCreationInProgress"), fault.Conflict, "SnapshotCreationInProgress", ""},
		{"unknown 409 is not retried at once", 409, arm("SomethingNew"), fault.Transient, "SomethingNew", ""},
		{"no capacity", 409, arm("AllocationFailed"), fault.Blocked, "AllocationFailed", ""},
		{"failed operation", 200, `{"status":"Failed","error":{"code":"ZonalAllocationFailed","message":"m"}}`, fault.Blocked, "ZonalAllocationFailed", ""},
		{"failed operation, unknown", 200, `{"status":"Failed","error":{"code":"VMExtensionProvisioningError","message":"m"}}`, fault.Transient, "VMExtensionProvisioningError", ""},
		{"bad request", 400, arm("BadRequest"), fault.Invalid, "BadRequest", ""},
		{"unknown 400", 400, arm("NewRule"), fault.Invalid, "NewRule", ""},
		{"throttled", 429, arm("SubscriptionRequestsThrottled"), fault.Throttled, "SubscriptionRequestsThrottled", ""},
		{"throttled within", 409, `{"error":{"code":"OperationNotAllowed","message":"m","details":[{"code":"TooManyRequests","target":"HighCostGet"}]}}`, fault.Throttled, "TooManyRequests", ""},
		{"busy", 503, arm("ServerBusy"), fault.Throttled, "ServerBusy", ""},
		{"server", 500, arm("InternalServerError"), fault.Transient, "InternalServerError", ""},
		{"not json", 502, "<html>", fault.Transient, "", ""},
		{"storage xml", 409, `<?xml version="1.0"?><Error><Code>BlobAlreadyExists</Code><Message>m</Message></Error>`, fault.Conflict, "BlobAlreadyExists", ""},
		{"table odata", 412, `{"odata.error":{"code":"UpdateConditionNotSatisfied","message":{"lang":"en","value":"m"}}}`, fault.Conflict, "UpdateConditionNotSatisfied", ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			err := call{"doing", "obj", "act"}.fault(responseError(tc.status, nil, tc.body))
			if fault.KindOf(err) != tc.kind || fault.Code(err) != tc.code || fault.Action(err) != tc.action {
				t.Errorf("kind %q code %q action %q, want %q %q %q\n%v", fault.KindOf(err), fault.Code(err), fault.Action(err), tc.kind, tc.code, tc.action, err)
			}
			var fe *fault.Error
			if !errors.As(err, &fe) || fe.Next == "" {
				t.Errorf("no next step: %v", err)
			}
			if strings.ContainsAny(err.Error(), "\n\r") || strings.Contains(err.Error(), "----") {
				t.Errorf("the text holds the body: %q", err)
			}
		})
	}
}

func TestErrorVectors(t *testing.T) {
	want := map[string]fault.Kind{
		"error-400-key-without-release-policy.json": fault.Invalid, "error-400-osdisk-securitytype-mismatch.json": fault.Invalid,
		"error-400-securityencryptiontype-missing.json": fault.Invalid, "error-409-operationnotallowed-deallocate-first.json": fault.Blocked,
		"error-409-propertychange-osdisk-securityprofile.json": fault.Blocked, "error-409-propertychange-vm-securitytype.json": fault.Blocked,
		"error-412-etag.json": fault.Conflict, "error-429-compute.json": fault.Throttled,
	}
	files, err := filepath.Glob(filepath.Join(vectorDir(t), "error-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no error vectors", err)
	}
	for _, f := range files {
		name := filepath.Base(f)
		t.Run(name, func(t *testing.T) {
			var v struct {
				Status  int             `json:"_status"`
				Headers map[string]any  `json:"_headers"`
				Body    json.RawMessage `json:"body"`
			}
			if err := json.Unmarshal(vector(t, name), &v); err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			for k, val := range v.Headers {
				if s, ok := val.(string); ok {
					h.Set(k, s)
				}
			}
			got := call{op: "doing", object: "obj"}.fault(responseError(v.Status, h, string(v.Body)))
			if fault.KindOf(got) != want[name] || want[name] == "" {
				t.Errorf("%q, want %q: %v", fault.KindOf(got), want[name], got)
			}
			if name == "error-429-compute.json" && (fault.RetryAfter(got) != 20*time.Minute || fault.Code(got) != "TooManyRequests" || !strings.Contains(got.Error(), "HighCostGet30Min")) {
				t.Errorf("wait %s, code %s: %v", fault.RetryAfter(got), fault.Code(got), got)
			}
			if name == "error-409-propertychange-osdisk-securityprofile.json" && !strings.Contains(got.Error(), "osDisk.managedDisk.securityProfile") {
				t.Errorf("the target is lost: %v", got)
			}
		})
	}
}

func TestOtherErrors(t *testing.T) {
	k := call{"doing", "obj", "act"}
	if k.fault(nil) != nil {
		t.Error("nil became an error")
	}
	own := fault.New(fault.Blocked, "a", "b", "c")
	if got := k.fault(own); got != error(own) {
		t.Errorf("an error of ours became %v", got)
	}
	for _, err := range []error{context.Canceled, context.DeadlineExceeded, errors.New("dial tcp: refused"), io.ErrUnexpectedEOF} {
		if got := k.fault(err); !fault.Is(got, fault.Transient) || !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	for _, status := range []int{400, 401, 403} {
		if got := k.fault(&azidentity.AuthenticationFailedError{RawResponse: &http.Response{StatusCode: status}}); !fault.Is(got, fault.Denied) {
			t.Errorf("no token, HTTP %d: %v", status, got)
		}
	}
	if got := k.fault(&azidentity.AuthenticationFailedError{}); !fault.Is(got, fault.Transient) || fault.Code(got) != "AuthenticationFailed" {
		t.Errorf("the identity endpoint wasn't reached: %v", got)
	}
	if got := k.fault(&azidentity.AuthenticationFailedError{RawResponse: &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"7"}}}}); !fault.Is(got, fault.Transient) || fault.RetryAfter(got) != 7*time.Second {
		t.Errorf("token service away: %v", got)
	}
	if got := k.fault(azidentity.NewCredentialUnavailableError("nobody is signed in")); !fault.Is(got, fault.Denied) || fault.Code(got) != "CredentialUnavailable" {
		t.Errorf("no credential: %v", got)
	}
	long := k.fault(responseError(400, nil, `{"error":{"code":"BadRequest","message":"see https://x.blob.core.windows.net/c/b?sig=SECRET now\nand `+strings.Repeat("x", 9999)+`"}}`))
	if s := long.Error(); strings.Contains(s, "SECRET") || len(s) > 600 || strings.Contains(s, "\n") {
		t.Errorf("text of %d bytes: %.300s", len(s), s)
	}
}

func TestRetryAfter(t *testing.T) {
	in := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
	for _, tc := range []struct {
		h, v string
		low  time.Duration
		high time.Duration
	}{{"Retry-After", "10", 10 * time.Second, 10 * time.Second}, {"Retry-After-Ms", "1500", 1500 * time.Millisecond, 1500 * time.Millisecond},
		{"Retry-After", in, 80 * time.Second, 90 * time.Second}, {"Retry-After", "soon", 0, 0}, {"Retry-After", "-4", 0, 0}, {"X-Other", "4", 0, 0}} {
		h := http.Header{}
		h.Set(tc.h, tc.v)
		if d := retryAfter(&http.Response{Header: h}); d < tc.low || d > tc.high {
			t.Errorf("%s: %s is %s", tc.h, tc.v, d)
		}
	}
}
