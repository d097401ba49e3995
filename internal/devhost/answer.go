package devhost

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// ErrNull is an answer on which the real host neither succeeds nor fails: it
// waits for its function timeout and then kills the process.
var ErrNull = errors.New("the answer is empty or null: the real host would wait for its function timeout and then kill the handler; answer at least {}")

// answer is a handler's answer as the host reads it.
type answer struct {
	outputs map[string]json.RawMessage // nil: there were none
	logs    []string
	value   json.RawMessage // ReturnValue
}

// readAnswer reads an answer to an invocation. An error fails the invocation.
func readAnswer(status int, header http.Header, body []byte) (answer, error) {
	var a answer
	if status < 200 || status > 299 {
		return a, fmt.Errorf("response status code does not indicate success: %d (%s)", status, http.StatusText(status))
	}
	if len(body) == 0 {
		return a, ErrNull
	}
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || media != "application/json" && media != "text/json" {
		return a, fmt.Errorf("unsupported media type %q: answer with Content-Type application/json", header.Get("Content-Type"))
	}
	if string(bytes.TrimSpace(body)) == "null" {
		return a, ErrNull
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return a, fmt.Errorf("the answer is not a JSON object: %w", err)
	}
	for name, v := range members {
		var err error
		switch strings.ToLower(name) {
		case "outputs":
			err = json.Unmarshal(v, &a.outputs)
		case "logs":
			err = json.Unmarshal(v, &a.logs)
		case "returnvalue":
			a.value = v
		}
		if err != nil {
			return a, fmt.Errorf("%s of the answer: %w", name, err)
		}
	}
	return a, nil
}

// output is the value for an output binding, nil if there is none. Names match
// without case; $return is the return value.
func (a answer) output(name string) json.RawMessage {
	if name == "$return" {
		return a.value
	}
	for k, v := range a.outputs {
		if strings.EqualFold(k, name) {
			return v
		}
	}
	return nil
}

// httpResponse is what goes to the caller of a wrapped HTTP function.
type httpResponse struct {
	status int
	header http.Header
	body   []byte
}

// response makes the caller's response of the value of the HTTP output binding.
func (a answer) response(name string) (httpResponse, error) {
	r := httpResponse{status: http.StatusOK, header: http.Header{}}
	raw := a.output(name)
	if raw == nil {
		if a.outputs == nil && name != "$return" {
			r.status = http.StatusNoContent
			return r, nil
		}
		r.body = []byte("{}")
		r.header.Set("Content-Type", "application/json; charset=utf-8")
		return r, nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		raw = []byte(s)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return r, fmt.Errorf("the HTTP output %q is not an object", name)
	}
	find := func(name string) json.RawMessage {
		for k, v := range members {
			if strings.EqualFold(k, name) {
				return v
			}
		}
		return nil
	}
	if code, err := strconv.Atoi(plain(find("statusCode"))); err == nil && code >= 200 && code <= 999 {
		r.status = code
	}
	if b := find("body"); b != nil && string(b) != "null" {
		var s string
		if json.Unmarshal(b, &s) == nil {
			r.body = []byte(s)
			r.header.Set("Content-Type", "text/plain; charset=utf-8")
		} else {
			var indented bytes.Buffer
			if err := json.Indent(&indented, b, "", "  "); err != nil {
				return r, fmt.Errorf("the HTTP output's body: %w", err)
			}
			r.body = indented.Bytes()
			r.header.Set("Content-Type", "application/json; charset=utf-8")
		}
	}
	var headers map[string]json.RawMessage
	if h := find("headers"); h != nil {
		if err := json.Unmarshal(h, &headers); err != nil {
			return r, fmt.Errorf("the HTTP output's headers are not an object: %w", err)
		}
	}
	for k, v := range headers {
		if string(v) == "null" {
			return r, fmt.Errorf("the HTTP output's header %q is null, which breaks the host's answer", k)
		}
		r.header.Set(k, plain(v))
	}
	return r, nil
}

// plain is a JSON value as text: a string's content, else its JSON.
func plain(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// outputValues are the messages that an output value makes: a string that
// happens to be base64 is replaced by its bytes, unless the binding is binary;
// an array is one message an element.
func outputValues(raw json.RawMessage, binary bool) [][]byte {
	var many []json.RawMessage
	if json.Unmarshal(raw, &many) == nil && many != nil {
		var out [][]byte
		for _, one := range many {
			out = append(out, []byte(plain(one)))
		}
		return out
	}
	var s string
	if json.Unmarshal(raw, &s) != nil || string(raw) == "null" {
		if len(raw) == 0 || string(raw) == "null" {
			return nil
		}
		return [][]byte{raw}
	}
	if !binary {
		if b, err := decodeBase64(s); err == nil {
			return [][]byte{b}
		}
	}
	return [][]byte{[]byte(s)}
}

// decodeBase64 reads base64 as .NET does: padded, white space ignored.
func decodeBase64(s string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, s))
}
