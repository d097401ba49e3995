package azuresim

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"
)

// reply answers with a JSON body; nil is no body.
func (x *exchange) reply(status int, body any) {
	x.status = status
	if body == nil {
		x.answer = nil
		return
	}
	b, err := json.Marshal(body)
	if err != nil {
		x.status, b = http.StatusInternalServerError, []byte(`{"error":{"code":"SimulatorFault","message":"the answer could not be written as JSON"}}`)
		x.s.log.Error("answer could not be written as JSON", "path", x.path, "err", err)
	}
	x.answer = b
	x.header.Set("Content-Type", "application/json; charset=utf-8")
}

// fail answers with ARM's error envelope.
func (x *exchange) fail(status int, code, message string) {
	x.reply(status, doc{"error": doc{"code": code, "message": message}})
}

// failTarget is fail with the property at fault.
func (x *exchange) failTarget(status int, code, message, target string) {
	x.reply(status, doc{"error": doc{"code": code, "message": message, "target": target}})
}

// failInner is the key plane's error, with its inner code.
func (x *exchange) failInner(status int, code, message, inner string) {
	e := doc{"code": code, "message": message}
	if inner != "" {
		e["innererror"] = doc{"code": inner}
	}
	x.reply(status, doc{"error": e})
}

// decode reads the body as a JSON object; a false answer has been given.
func (x *exchange) decode() (doc, bool) {
	d := doc{}
	if err := json.Unmarshal(x.body, &d); err != nil {
		x.fail(http.StatusBadRequest, "InvalidRequestContent",
			"The request content was invalid and could not be deserialized: '"+err.Error()+"'.")
		return nil, false
	}
	return d, true
}

// decodeAs checks the body against the SDK's model of it, so that a member of
// the wrong type is refused as the service does.
func (x *exchange) decodeAs(model any) (doc, bool) {
	d, ok := x.decode()
	if !ok {
		return nil, false
	}
	if err := json.Unmarshal(x.body, model); err != nil {
		x.fail(http.StatusBadRequest, "InvalidRequestContent",
			"The request content was invalid and could not be deserialized: '"+err.Error()+"'.")
		return nil, false
	}
	return d, true
}

// retryAfter sets Retry-After in whole seconds (at least 1) and, for clients
// that read it, the same in milliseconds: a simulated hour need not last one.
func retryAfter(h http.Header, d time.Duration) {
	if d <= 0 {
		d = time.Millisecond
	}
	h.Set("Retry-After", strconv.Itoa(max(1, int((d+time.Second-1)/time.Second))))
	if d < time.Second {
		h.Set("x-ms-retry-after-ms", strconv.FormatInt(max(1, d.Milliseconds()), 10))
	}
}

func (x *exchange) query(name string) string { return x.r.URL.Query().Get(name) }

// replay is the request again, with its body unread.
func (x *exchange) replay() *http.Request {
	r := x.r.Clone(x.r.Context())
	r.Body = io.NopCloser(bytes.NewReader(x.body))
	return r
}

// recorder keeps what a handler answers.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.body = append(r.body, b...)
	return len(b), nil
}

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}
