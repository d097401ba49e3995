package customhandler

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// OutputName is the name that the HTTP functions' output binding must have in
// function.json.
const OutputName = "res"

// invocationAnswer is what the host reads from an answer to POST /<function>.
type invocationAnswer struct {
	Outputs     map[string]any `json:"Outputs"`
	Logs        []string       `json:"Logs"`
	ReturnValue any            `json:"ReturnValue"`
}

// httpOutput is the value of an HTTP output binding. Only statusCode is read by
// the host ("status" alone is ignored), headers are one string each, and the
// body is text so that the host sends it on as it is.
type httpOutput struct {
	StatusCode string            `json:"statusCode"`
	Headers    map[string]string `json:"headers"`
	Body       string            `json:"body"`
}

// encodeDone is the answer of a function that succeeded and has no output.
func encodeDone(logs []string) ([]byte, error) {
	return marshalAnswer(invocationAnswer{Outputs: map[string]any{}, Logs: logs})
}

// encodeHTTP is the answer of an HTTP function in wrapped mode. An error means
// that the answer can't be carried: the host takes text only.
func encodeHTTP(a HTTPAnswer, logs []string) ([]byte, error) {
	if !utf8.Valid(a.Body) {
		return nil, fmt.Errorf("the answer's body is not UTF-8 text, which the host can't carry in a wrapped answer")
	}
	return marshalAnswer(invocationAnswer{Logs: logs, Outputs: map[string]any{OutputName: httpOutput{
		StatusCode: strconv.Itoa(a.Status), Headers: a.Header, Body: string(a.Body)}}})
}

func marshalAnswer(a invocationAnswer) ([]byte, error) {
	if a.Logs == nil {
		a.Logs = []string{} // null is allowed, but an array is what every host reads
	}
	return json.Marshal(a)
}

// settle makes an answer fit to send: a status that HTTP has, header values on
// one line each, and a Content-Type, for which the host would otherwise choose.
func settle(a HTTPAnswer) (HTTPAnswer, error) {
	if a.Status < 200 || a.Status > 599 {
		return a, fmt.Errorf("the function answered with status %d, which is not one between 200 and 599", a.Status)
	}
	header := make(map[string]string, len(a.Header)+1)
	for k, v := range a.Header {
		header[http.CanonicalHeaderKey(k)] = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
	}
	if header["Content-Type"] == "" {
		header["Content-Type"] = "text/plain; charset=utf-8"
	}
	a.Header = header
	return a, nil
}

// errorAnswer is an HTTPAnswer that says what was wrong, as {"error": {"message": …}}, the shape of all of cvmguard's refusals.
func errorAnswer(status int, format string, args ...any) HTTPAnswer {
	return HTTPAnswer{Status: status, Header: map[string]string{"Content-Type": "application/json"},
		Body: errorBody(fmt.Sprintf(format, args...))}
}

func errorBody(text string) []byte {
	b, err := json.Marshal(map[string]map[string]string{"error": {"message": text}})
	if err != nil { // a map of strings can't fail to marshal
		return []byte(`{"error":{"message":"internal error"}}`)
	}
	return b
}

// writeJSON sends a JSON object with its length: the host waits for its whole
// timeout on an answer without a body.
func writeJSON(w http.ResponseWriter, status int, body []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}

// writeRaw sends an HTTP function's answer on the caller's own connection.
func writeRaw(w http.ResponseWriter, a HTTPAnswer, head bool) error {
	for k, v := range a.Header {
		w.Header().Set(k, v)
	}
	bodyless := a.Status == http.StatusNoContent || a.Status == http.StatusNotModified
	if !bodyless {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	if bodyless || head {
		return nil
	}
	_, err := w.Write(a.Body)
	return err
}
