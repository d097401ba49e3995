package customhandler

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// wrappedRequest is an HTTP request inside an invocation. The parts whose shape
// differs between hosts are read one by one.
type wrappedRequest struct {
	URL        string `json:"Url"`
	Method     string
	Query      json.RawMessage // an object, or its text; so are the next two
	Headers    json.RawMessage
	Params     json.RawMessage
	Identities json.RawMessage
	Body       json.RawMessage
}

// decodeHTTP reads an HTTP request out of an invocation's body.
func decodeHTTP(body []byte) (wrappedRequest, error) {
	var q wrappedRequest
	e, err := openEnvelope(body)
	if err != nil {
		return q, err
	}
	v, err := e.trigger("req")
	if err != nil {
		return q, err
	}
	if err := json.Unmarshal(unwrap(v), &q); err != nil {
		// Not err itself: it may quote the request, and that holds keys.
		return q, errors.New("the HTTP request in Data is not an object of the known shape")
	}
	if q.Method == "" {
		return q, errors.New("the HTTP request in Data has no Method")
	}
	return q, nil
}

// call makes the HTTPCall of a wrapped request for a function with this route,
// and says whether a body was announced that isn't there.
func (q wrappedRequest) call(meta Meta, route Route, prefix string) (_ HTTPCall, bodyLost bool, _ error) {
	u, err := url.Parse(q.URL)
	if err != nil {
		return HTTPCall{}, false, errors.New("the URL can't be read") // err would quote it, key and all
	}
	c := HTTPCall{Meta: meta, Method: strings.ToUpper(q.Method), Path: u.Path, Base: base(u.Scheme, u.Host)}
	if c.Query, err = joinQuery(u.RawQuery); err != nil {
		return HTTPCall{}, false, err
	}
	// The Query object says nothing that the URL doesn't, but hand-made requests
	// may have it alone.
	for k, v := range members(q.Query) {
		if s, ok := asString(v); ok && !c.Query.Has(k) && !strings.EqualFold(k, "code") {
			c.Query.Set(k, s)
		}
	}
	c.Params = absentParams(route)
	if below, ok := strings.CutPrefix(u.EscapedPath(), "/"+prefix+"/"); ok {
		if matched, ok := route.Match(below); ok {
			for k, v := range matched {
				c.Params[k] = v
			}
		}
	}
	for k, v := range members(q.Params) { // the host's word goes before ours
		if s, ok := asString(v); ok {
			c.Params[k] = s
		}
	}
	all := http.Header{}
	for k, v := range members(q.Headers) {
		var many []string
		if s, ok := asString(v); ok {
			many = []string{s}
		} else if json.Unmarshal(v, &many) != nil {
			continue
		}
		for _, s := range many {
			all.Add(k, s)
		}
	}
	c.Body = wrappedBody(q.Body, all.Get("Content-Type"))
	c.Chunked = lost(c.Method, all, len(c.Body))
	c.Header = withoutCredentials(all)
	c.Caller = caller(q.Identities)
	return c, c.Chunked && announced(all), nil
}

// members are an object's members, none if v isn't an object or its text.
func members(v json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(unwrap(v), &m) != nil {
		return nil
	}
	return m
}

// rawCall makes the HTTPCall of a forwarded or proxied request whose body has
// been read.
func rawCall(r *http.Request, meta Meta, route Route, matched map[string]string, body []byte) (HTTPCall, error) {
	query, err := joinQuery(r.URL.RawQuery)
	if err != nil {
		return HTTPCall{}, err
	}
	scheme := "http"
	if p := r.Header.Get("X-Forwarded-Proto"); strings.EqualFold(p, "https") || r.TLS != nil {
		scheme = "https"
	}
	c := HTTPCall{Meta: meta, Method: r.Method, Path: r.URL.Path, Query: query, Body: body,
		Params: absentParams(route), Header: withoutCredentials(r.Header), Base: base(scheme, r.Host)}
	for k, v := range matched {
		c.Params[k] = v
	}
	// A body that arrived here in chunks was proxied, not lost.
	c.Chunked = len(r.TransferEncoding) == 0 && lost(c.Method, r.Header, len(body))
	return c, nil
}

func base(scheme, host string) string {
	if scheme == "" || host == "" {
		return ""
	}
	return strings.ToLower(scheme) + "://" + host
}

func absentParams(route Route) map[string]string {
	p := map[string]string{}
	for _, n := range route.Names() {
		p[n] = ""
	}
	return p
}

// joinQuery reads a query with one value a key: hosts that forward join
// repeated values by commas, so that is done for all, and `code`, the function
// key, is dropped. A query that can't be read in full is an error: leaving out
// a pair could turn a dry run into a real one.
func joinQuery(raw string) (url.Values, error) {
	parsed, err := url.ParseQuery(raw)
	if err != nil {
		return nil, errors.New("the query has a pair that can't be read: escape % as %25 and ; as %3B")
	}
	out := make(url.Values, len(parsed))
	for k, v := range parsed {
		if !strings.EqualFold(k, "code") {
			out.Set(k, strings.Join(v, ","))
		}
	}
	return out, nil
}

// wrappedBody is the request's body out of its JSON member: text, or base64
// under the media types that the host takes for binary.
func wrappedBody(v json.RawMessage, contentType string) []byte {
	if len(v) == 0 || string(v) == "null" {
		return nil
	}
	s, ok := asString(v)
	if !ok {
		return v
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		media = strings.ToLower(contentType)
	}
	if media == "application/octet-stream" || strings.Contains(media, "multipart/") {
		if b, err := base64.StdEncoding.DecodeString(s); err == nil {
			return b
		}
	}
	return []byte(s)
}

// lost says that a body may have been lost on the way: none is there, the
// method has one by custom, and no length of zero says that none was sent.
func lost(method string, h http.Header, length int) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return length == 0 && h.Get("Content-Length") != "0"
	}
	return false
}

// announced says that the request's headers promise a body.
func announced(h http.Header) bool {
	n := h.Get("Content-Length")
	return strings.Contains(strings.ToLower(h.Get("Transfer-Encoding")), "chunked") || (n != "" && n != "0")
}

// credentialHeaders carry secrets, repeat the URL with its key, or claim an
// identity that nobody has verified.
var credentialHeaders = map[string]bool{
	"authorization": true, "proxy-authorization": true, "cookie": true, "x-functions-key": true,
	"x-functions-clientid": true, "x-zumo-auth": true, "x-arr-clientcert": true, "x-identity-header": true,
	"referer": true, "x-original-url": true, "x-rewrite-url": true, "x-waws-unencoded-url": true,
}

var credentialPrefixes = []string{"x-ms-token-", "x-ms-client-principal", "x-ms-auth-", "x-azure-functions-"}

func withoutCredentials(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for k, v := range h {
		lower := strings.ToLower(k)
		if credentialHeaders[lower] || slices.ContainsFunc(credentialPrefixes, func(p string) bool { return strings.HasPrefix(lower, p) }) {
			continue
		}
		k = http.CanonicalHeaderKey(k)
		out[k] = append(out[k], v...)
	}
	return out
}

type identity struct {
	AuthenticationType string
	IsAuthenticated    bool
	Name               string
	NameClaimType      string
	Claims             []struct{ Type, Value string }
}

// caller is who asks: the name of an authenticated principal, else the name of
// the function key. Never a key.
func caller(raw json.RawMessage) string {
	var ids []identity
	if json.Unmarshal(unwrap(raw), &ids) != nil {
		return ""
	}
	key := ""
	for _, id := range ids {
		if !id.IsAuthenticated {
			continue
		}
		isKey := id.AuthenticationType == "WebJobsAuthLevel"
		name := id.Name
		for _, c := range id.Claims {
			if isKey && strings.HasSuffix(c.Type, "/functions/claims/keyid") {
				key = c.Value
			}
			if !isKey && name == "" && c.Type == id.NameClaimType {
				name = c.Value
			}
		}
		if !isKey && name != "" {
			return printable(name)
		}
	}
	return printable(key)
}

func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 128 {
		s = string(r[:128])
	}
	return s
}

// refuse is the answer to a call that needs none of the function's code: the
// method is another, or a body was announced and didn't arrive.
func refuse(c HTTPCall, methods []string, bodyLost bool) (HTTPAnswer, bool) {
	if len(methods) > 0 && !slices.Contains(methods, c.Method) {
		a := errorAnswer(http.StatusMethodNotAllowed, "%s isn't served here; use %s", c.Method, strings.Join(methods, " or "))
		a.Header["Allow"] = strings.Join(methods, ", ")
		return a, true
	}
	if bodyLost {
		return errorAnswer(http.StatusLengthRequired,
			"the body was lost on the way: the Functions host drops a body without a Content-Length; send one"), true
	}
	return HTTPAnswer{}, false
}

func tooLong(limit int64) HTTPAnswer {
	return errorAnswer(http.StatusRequestEntityTooLarge, "the body is too long: the limit is %d bytes", limit)
}
