package devhost

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// object is a JSON object being put together. Its values are ready for the
// wire.
type object = map[string]any

// body is an invocation's body.
func body(data, metadata object) ([]byte, error) {
	return marshal(object{"Data": data, "Metadata": metadata})
}

// marshal writes JSON as the host does: without escaping <, > and &.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding an invocation: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// text is a text value on the wire: its JSON text, which is then put into a
// JSON string like any other.
func text(s string) (string, error) {
	b, err := marshal(s)
	return string(b), err
}

// date is a date on the wire: whole seconds, rounded down.
func date(t time.Time) string {
	if t.IsZero() {
		return "9999-12-31T23:59:59+00:00"
	}
	return t.UTC().Format("2006-01-02T15:04:05+00:00")
}

// jsonValue is a JSON value on the wire: an object as it is, anything else as
// its text in a string.
func jsonValue(raw json.RawMessage) any {
	if isObject(raw) {
		return raw
	}
	return string(raw)
}

func isObject(raw []byte) bool {
	t := bytes.TrimLeft(raw, " \t\r\n")
	return len(t) > 0 && t[0] == '{'
}

// sys is the binding data that the host adds to every invocation.
func sys(name string, now time.Time, guid string) object {
	return object{"MethodName": name, "UtcNow": now.UTC().Format("2006-01-02T15:04:05.0000000Z"), "RandGuid": guid}
}

// newGUID is a random version 4 GUID.
func newGUID(random io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("making a GUID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// bindingData puts the top-level properties of a JSON object that a sender
// wrote into the metadata, over what is there and without regard to case. It
// does nothing for any other text.
func bindingData(metadata object, sent []byte) error {
	if !isObject(sent) {
		return nil
	}
	var props map[string]json.RawMessage
	if json.Unmarshal(sent, &props) != nil {
		return nil
	}
	for name, raw := range props {
		value, ok, err := netValue(raw)
		if err != nil {
			return err
		}
		if ok {
			set(metadata, name, value)
		}
	}
	return nil
}

// set writes over a key that differs in case only, and leaves out the keys that
// the host leaves out.
func set(metadata object, name string, value any) {
	if strings.HasSuffix(strings.ToLower(name), "trigger") {
		return
	}
	for k := range metadata {
		if strings.EqualFold(k, name) {
			name = k
		}
	}
	metadata[name] = value
}

// netValue is a property as the host carries it: objects stay, arrays and nulls
// are left out, all else becomes a .NET string, dates in the invariant culture.
func netValue(raw json.RawMessage) (any, bool, error) {
	if isObject(raw) {
		return raw, true, nil
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, false, fmt.Errorf("reading a message's property: %w", err)
	}
	var s string
	switch v := v.(type) {
	case string:
		s = v
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			s = t.Format("01/02/2006 15:04:05")
		}
	case bool:
		s = map[bool]string{true: "True", false: "False"}[v]
	case float64:
		s = string(raw)
	default:
		return nil, false, nil
	}
	wire, err := text(s)
	return wire, true, err
}

// queueBody is the invocation for a message whose encoding has been undone.
func queueBody(f *function, m QueueMessage, decoded []byte, sysData object) ([]byte, error) {
	data := object{}
	var err error
	metadata := object{"DequeueCount": fmt.Sprint(m.DequeueCount), "ExpirationTime": date(m.Expires),
		"InsertionTime": date(m.Inserted), "NextVisibleTime": date(m.NextVisible), "sys": sysData}
	for key, s := range map[string]string{"Id": m.ID, "PopReceipt": m.PopReceipt} {
		if metadata[key], err = text(s); err != nil {
			return nil, err
		}
	}
	if data[f.trigger.Name], err = text(string(decoded)); err != nil {
		return nil, err
	}
	if f.trigger.DataType == "binary" {
		data[f.trigger.Name] = base64.StdEncoding.EncodeToString(decoded)
	}
	if err := bindingData(metadata, decoded); err != nil {
		return nil, err
	}
	return body(data, metadata)
}

// eventBody is the invocation for one event, or for several where the trigger's
// cardinality is many.
func eventBody(f *function, events []json.RawMessage, sysData object) ([]byte, error) {
	datas := make([]json.RawMessage, 0, len(events))
	for _, e := range events {
		var v struct {
			Data json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(e, &v); err != nil {
			return nil, fmt.Errorf("reading an event: %w", err)
		}
		if v.Data != nil {
			datas = append(datas, v.Data)
		}
	}
	metadata := object{"sys": sysData}
	if f.trigger.Cardinality != "many" {
		if len(datas) == 1 && string(datas[0]) != "null" {
			metadata["data"] = jsonValue(datas[0])
		}
		return body(object{f.trigger.Name: events[0]}, metadata)
	}
	all, err := marshal(events)
	if err != nil {
		return nil, err
	}
	allData, err := marshal(datas)
	if err != nil {
		return nil, err
	}
	metadata["data"] = string(allData)
	return body(object{f.trigger.Name: string(all)}, metadata)
}

// tick is a timer's state at a call.
type tick struct {
	last, next, updated time.Time
	monitored, pastDue  bool
}

// timerBody is the invocation for a tick.
func timerBody(f *function, t tick, sysData object) ([]byte, error) {
	local := func(t time.Time) string {
		if t.IsZero() {
			return "0001-01-01T00:00:00"
		}
		return t.Format("2006-01-02T15:04:05.9999999-07:00")
	}
	var status any
	if t.monitored {
		status = object{"Last": local(t.last), "Next": local(t.next), "LastUpdated": local(t.updated)}
	}
	timer := object{"Schedule": object{"AdjustForDST": true}, "ScheduleStatus": status, "IsPastDue": t.pastDue}
	return body(object{f.trigger.Name: timer}, object{"sys": sysData})
}

// httpBody is the invocation for a wrapped request. content is nil where the
// host would have lost the body.
func httpBody(f *function, r *http.Request, base string, params map[string]string, identities []object, content []byte, sysData object) ([]byte, error) {
	query, sent := object{}, r.URL.Query()
	for k, v := range sent {
		query[k] = strings.Join(v, ",")
	}
	headers, joined := object{}, object{}
	for k, v := range callerHeaders(r) {
		headers[k] = v
		joined[k] = strings.Join(v, ",")
	}
	metadata := object{"Query": query, "Headers": joined}
	route := object{}
	for _, n := range f.route.Names() {
		v, ok := params[n]
		if !ok {
			route[n] = nil
			continue
		}
		route[n] = v
		wire, err := text(v)
		if err != nil {
			return nil, err
		}
		set(metadata, n, wire)
	}
	for k, v := range sent {
		if strings.EqualFold(k, "code") {
			continue
		}
		wire, err := text(strings.Join(v, ","))
		if err != nil {
			return nil, err
		}
		set(metadata, k, wire)
	}
	req := object{"Url": base + r.URL.RequestURI(), "Method": r.Method, "Query": query, "Headers": headers,
		"Params": route, "Identities": identities}
	if content != nil {
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err == nil && (media == "application/octet-stream" || strings.Contains(media, "multipart/")) {
			req["Body"] = base64.StdEncoding.EncodeToString(content)
		} else {
			req["Body"] = strings.ToValidUTF8(string(content), "\uFFFD")
			if err := bindingData(metadata, content); err != nil {
				return nil, err
			}
		}
	}
	// A caller's own `sys` stays, and the host's goes beside it.
	if _, taken := metadata["sys"]; taken {
		metadata["$sys"] = sysData
	} else {
		metadata["sys"] = sysData
	}
	return body(object{f.trigger.Name: req}, metadata)
}

// callerHeaders are a request's headers with those that net/http keeps apart.
func callerHeaders(r *http.Request) http.Header {
	h := r.Header.Clone()
	h.Set("Host", r.Host)
	if len(r.TransferEncoding) > 0 {
		h["Transfer-Encoding"] = r.TransferEncoding
	}
	return h
}
