package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/fault"
)

// problem is the body of every refusal: which field, what was given, what is
// wrong and what would be right.
type problem struct {
	Field   string `json:"field,omitempty"`
	Given   string `json:"given,omitempty"`
	Message string `json:"message"`
	Example string `json:"example,omitempty"`
	Code    string `json:"code,omitempty"`
}

func answer(status int, body any) customhandler.HTTPAnswer {
	b, err := json.Marshal(body)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"message":"the answer could not be encoded"}}`)
	}
	return customhandler.HTTPAnswer{Status: status, Header: map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"}, Body: b}
}

func refuse(status int, p problem) customhandler.HTTPAnswer {
	if len(p.Given) > 200 {
		p.Given = strings.ToValidUTF8(p.Given[:200], "") + "…"
	}
	return answer(status, map[string]problem{"error": p})
}

// failed answers for an error of the domain.
func failed(err error) customhandler.HTTPAnswer {
	status := http.StatusInternalServerError
	switch fault.KindOf(err) {
	case fault.Invalid:
		status = http.StatusBadRequest
	case fault.NotFound:
		status = http.StatusNotFound
	case fault.Conflict:
		status = http.StatusConflict
	case fault.Throttled:
		status = http.StatusTooManyRequests
	case fault.Transient:
		status = http.StatusServiceUnavailable
	}
	a := refuse(status, problem{Message: err.Error(), Code: string(fault.KindOf(err))})
	if wait := fault.RetryAfter(err); wait > 0 {
		a.Header["Retry-After"] = strconv.Itoa(int((wait + time.Second - 1) / time.Second))
	}
	return a
}

var errTrailing = errors.New("there is text after the JSON object")

// decodeBody reads a JSON object strictly: no other member, nothing after it.
func decodeBody(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errTrailing
	}
	return nil
}

// bodyLost answers where a body is needed and the host may have dropped it, as it
// does with one that comes in chunks.
func bodyLost(example string) customhandler.HTTPAnswer {
	return refuse(http.StatusLengthRequired, problem{Field: "body",
		Message: "no body came and no Content-Length: the Functions host drops a body that is sent in chunks; send one with its length", Example: example})
}

// only refuses parameters that aren't in the list.
func only(q url.Values, names ...string) *problem {
	for _, k := range slices.Sorted(maps.Keys(q)) {
		if slices.Contains(names, k) {
			continue
		}
		p := problem{Field: k, Given: q.Get(k), Message: "there is no such parameter, there is none here"}
		if len(names) > 0 {
			p.Message, p.Example = "there is no such parameter; there are "+strings.Join(names, ", "), "?"+names[0]+"="
		}
		return &p
	}
	return nil
}

// flag reads a parameter that is true or false; absent is false.
func flag(q url.Values, name string) (bool, *problem) {
	if !q.Has(name) {
		return false, nil
	}
	switch v := q.Get(name); v {
	case "true":
		return true, nil
	case "false":
		return false, nil
	default:
		return false, &problem{Field: name, Given: v, Message: "it must be true or false", Example: "?" + name + "=true"}
	}
}
