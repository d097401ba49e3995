package handlers

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
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
		p.Given = p.Given[:200] + "…"
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
