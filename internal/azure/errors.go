package azure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"cvmguard/internal/fault"
)

// call is what is being done, to what, and the action that it needs.
type call struct {
	op     string // "reading VM"
	object string
	action string // the Azure action, or the data action of a key
}

// codeKinds is what the service's codes mean, lower case. A code that is not
// here is decided by the status, see kindByStatus.
var codeKinds = map[string]fault.Kind{
	// Fixed at creation, wrong state, no capacity, a lock, a refusal by Azure Policy: a person.
	"propertychangenotallowed": fault.Blocked, "operationnotallowed": fault.Blocked,
	"allocationfailed": fault.Blocked, "zonalallocationfailed": fault.Blocked,
	"overconstrainedallocationrequest": fault.Blocked, "overconstrainedzonalallocationrequest": fault.Blocked,
	"skunotavailable": fault.Blocked, "quotaexceeded": fault.Blocked,
	"keyvaultaccessforbidden": fault.Blocked, "scopelocked": fault.Blocked,
	"requestdisallowedbypolicy": fault.Blocked, "readonlydisabledsubscription": fault.Blocked,
	// Somebody was first.
	"conflict": fault.Conflict, "attachdiskwhilebeingdetached": fault.Conflict, "operationpreempted": fault.Conflict,
	"preconditionfailed": fault.Conflict, "conditionnotmet": fault.Conflict, "updateconditionnotsatisfied": fault.Conflict,
	"anotheroperationinprogress": fault.Conflict, "concurrentupdate": fault.Conflict,
	"blobalreadyexists": fault.Conflict, "entityalreadyexists": fault.Conflict, "containeralreadyexists": fault.Conflict,
	"tablealreadyexists": fault.Conflict, "queuealreadyexists": fault.Conflict, "roleassignmentexists": fault.Conflict,
	"leaseidmissing": fault.Conflict, "leasealreadypresent": fault.Conflict,
	// Going away: it can be made again in a while.
	"containerbeingdeleted": fault.Transient, "tablebeingdeleted": fault.Transient, "queuebeingdeleted": fault.Transient,
	"retryableerror": fault.Transient, "internalserviceerror": fault.Transient, "internalexecutionerror": fault.Transient,
	// Not there.
	"resourcenotfound": fault.NotFound, "notfound": fault.NotFound, "keynotfound": fault.NotFound,
	"resourcegroupnotfound": fault.NotFound, "parentresourcenotfound": fault.NotFound, "subscriptionnotfound": fault.NotFound,
	"blobnotfound": fault.NotFound, "containernotfound": fault.NotFound, "tablenotfound": fault.NotFound, "queuenotfound": fault.NotFound,
	// Rights.
	"authorizationfailed": fault.Denied, "linkedauthorizationfailed": fault.Denied, "forbidden": fault.Denied,
	"accessdenied": fault.Denied, "forbiddenbyrbac": fault.Denied, "forbiddenbypolicy": fault.Denied,
	"forbiddenbyfirewall": fault.Denied, "keydisabled": fault.Denied, "unauthorized": fault.Denied,
	"authorizationpermissionmismatch": fault.Denied, "authorizationfailure": fault.Denied,
	"authenticationfailed": fault.Denied, "insufficientaccountpermissions": fault.Denied,
	// The request.
	"badrequest": fault.Invalid, "badparameter": fault.Invalid, "invalidparameter": fault.Invalid, "invalidrequestformat": fault.Invalid,
	"requestbodytoolarge": fault.Invalid, "propertyvaluetoolarge": fault.Invalid, "entitytoolarge": fault.Invalid,
	// Slow down.
	"toomanyrequests": fault.Throttled, "subscriptionrequeststhrottled": fault.Throttled, "throttled": fault.Throttled,
	"serverbusy": fault.Throttled, "ratelimiting": fault.Throttled,
}

// notARight are the refusals that no role cures.
var notARight = map[string]string{
	"forbiddenbyfirewall": "let the function app's network through the vault's firewall, or give the vault a private endpoint",
	"keydisabled":         "enable the key",
}

var nextByCode = map[string]string{
	"allocationfailed":          "wait for capacity, or choose another size or zone",
	"zonalallocationfailed":     "wait for capacity, or choose another size or zone",
	"skunotavailable":           "choose a size that the region offers",
	"quotaexceeded":             "raise the subscription's quota",
	"scopelocked":               "remove the lock on the resource, or exempt it in policy",
	"requestdisallowedbypolicy": "change the Azure Policy assignment that refused it",
	"propertychangenotallowed":  "re-create the resource with the wanted setting",
	"keyvaultaccessforbidden":   "give the disk encryption set's identity its rights on the key again",
}

var nextByKind = map[fault.Kind]string{
	fault.Invalid:   "correct what the service names",
	fault.NotFound:  "check that the id is right and the resource still there",
	fault.Conflict:  "read it again and decide anew",
	fault.Throttled: "try again after the wait",
	fault.Transient: "try again later",
	fault.Blocked:   "look at the resource in the portal",
}

// serviceError is the shape of errors of Resource Manager and of key vaults.
// Compute's throttles come without the envelope.
type serviceError struct {
	Code       string         `json:"code"`
	Message    string         `json:"message"`
	Target     string         `json:"target"`
	Details    []serviceError `json:"details"`
	InnerError *serviceError  `json:"innererror"`
}

func parseServiceError(body []byte) serviceError {
	var wrapped struct {
		Error *serviceError `json:"error"`
	}
	if json.Unmarshal(body, &wrapped) == nil && wrapped.Error != nil {
		return *wrapped.Error
	}
	var bare serviceError
	if json.Unmarshal(body, &bare) != nil {
		return serviceError{}
	}
	return bare
}

// cause is an error's short text with the service's own error behind it: its
// text would hold the whole body.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.err }

// fault makes an error of package fault out of whatever the SDK gave. nil stays
// nil and an error of package fault stays what it is.
func (k call) fault(err error) error {
	if err == nil {
		return nil
	}
	var done *fault.Error
	if errors.As(err, &done) {
		return err
	}
	out := &fault.Error{Op: k.op, Object: k.object}
	var resp *azcore.ResponseError
	var auth *azidentity.AuthenticationFailedError
	var final interface {
		error
		NonRetriable()
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		out.Kind, out.Err, out.Next = fault.Transient, err, nextByKind[fault.Transient]
	case errors.As(err, &resp):
		k.fromResponse(out, resp)
	case errors.As(err, &auth):
		k.fromAuthentication(out, auth)
	case errors.As(err, &final):
		// The SDK's word for what never goes well: there is no credential here.
		out.Kind, out.Code, out.Err = fault.Denied, "CredentialUnavailable", &cause{firstLine(err.Error()), err}
		out.Next = "give the function app a managed identity, or sign in (az login) where you run the command"
	default:
		// A broken connection, or a body cut short.
		out.Kind, out.Err, out.Next = fault.Transient, &cause{firstLine(err.Error()), err}, nextByKind[fault.Transient]
	}
	return out
}

func (k call) fromAuthentication(out *fault.Error, auth *azidentity.AuthenticationFailedError) {
	out.Kind, out.Code = fault.Denied, "AuthenticationFailed"
	out.Err = &cause{"no token could be had for the function app's identity", auth}
	out.Next = "check that the identity is assigned and AZURE_CLIENT_ID names it"
	r := auth.RawResponse
	if r == nil {
		// Nobody refused: the identity endpoint wasn't reached, or its answer was cut short.
		out.Kind, out.Err = fault.Transient, &cause{"the identity endpoint gave no answer: " + firstLine(auth.Error()), auth}
		out.Next = "try again later; if it stays so, check that the identity is assigned (az login where you run the command)"
		return
	}
	if r.StatusCode == http.StatusTooManyRequests || r.StatusCode >= 500 {
		out.Kind, out.RetryAfter, out.Next = fault.Transient, retryAfter(r), nextByKind[fault.Transient]
	}
}

func (k call) fromResponse(out *fault.Error, resp *azcore.ResponseError) {
	var se serviceError
	if resp.RawResponse != nil {
		if body, err := runtime.Payload(resp.RawResponse); err == nil {
			se = parseServiceError(body)
		}
		out.RetryAfter = retryAfter(resp.RawResponse)
	}
	code := resp.ErrorCode
	if code == "" {
		code = se.Code
	}
	// What lies within is more exact: Forbidden says why, OperationNotAllowed may be a throttle.
	if se.InnerError != nil && se.InnerError.Code != "" {
		code = se.InnerError.Code
	}
	for _, d := range se.Details {
		if codeKinds[strings.ToLower(d.Code)] == fault.Throttled {
			code = d.Code
			if se.Target == "" {
				se.Target = d.Target
			}
		}
	}
	lower := strings.ToLower(code)
	kind, known := codeKinds[lower]
	switch {
	case resp.StatusCode == http.StatusTooManyRequests:
		kind = fault.Throttled
	case known:
	case strings.HasSuffix(lower, "inprogress"):
		kind = fault.Conflict
	default:
		kind = kindByStatus(resp.StatusCode, code)
	}
	out.Kind, out.Code = kind, code
	if kind != fault.Throttled && kind != fault.Transient {
		out.RetryAfter = 0
	}
	text := fmt.Sprintf("HTTP %d", resp.StatusCode)
	if resp.StatusCode < 300 {
		text = "the operation failed" // a poll's own answer was good
	}
	if se.Target != "" {
		text += " at " + firstLine(se.Target)
	}
	if m := firstLine(se.Message); m != "" {
		text += ": " + m
	}
	out.Err = &cause{text, resp}
	out.Next = nextByCode[lower]
	if kind == fault.Denied {
		if next, not := notARight[lower]; not {
			out.Next = next
		} else {
			out.Action = k.action
			out.Next = "give the function app's identity a role with this action there or above"
		}
	}
	if out.Next == "" {
		out.Next = nextByKind[kind]
	}
}

// kindByStatus decides for a code that nobody listed. An operation that failed
// with an unknown code (its poll's status is 200) is Transient: tried again at
// the caller's pace, never taken for success.
func kindByStatus(status int, code string) fault.Kind {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fault.Denied
	case status == http.StatusNotFound, status == http.StatusGone:
		return fault.NotFound
	case status == http.StatusPreconditionFailed, status == http.StatusConflict && code == "":
		return fault.Conflict
	case status == http.StatusRequestTimeout, status == http.StatusConflict:
		return fault.Transient
	case status >= 400 && status < 500:
		return fault.Invalid
	default:
		return fault.Transient
	}
}

// retryAfter is the wait that a response asks for, 0 if none.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil {
		return 0
	}
	for _, h := range []struct {
		name string
		unit time.Duration
	}{{"Retry-After-Ms", time.Millisecond}, {"X-Ms-Retry-After-Ms", time.Millisecond}, {"Retry-After", time.Second}} {
		v := resp.Header.Get(h.name)
		if v == "" {
			continue
		}
		var n int64
		if _, err := fmt.Sscanf(v, "%d", &n); err == nil && n > 0 && n < 1<<31 {
			return time.Duration(n) * h.unit
		}
		if t, err := http.ParseTime(v); err == nil {
			return max(0, time.Until(t))
		}
	}
	return 0
}

// firstLine is at most 240 bytes of a service's text, on one line, with the
// queries of URLs cut off: they may hold a signature.
func firstLine(s string) string {
	var words []string
	for _, w := range strings.Fields(s) {
		if i := strings.Index(w, "?"); i >= 0 && strings.Contains(w[:i], "://") {
			w = w[:i]
		}
		words = append(words, w)
	}
	s = strings.Join(words, " ")
	if len(s) > 240 {
		s = strings.ToValidUTF8(s[:240], "") + "…"
	}
	return strings.TrimSuffix(s, ".")
}
