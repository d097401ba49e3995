package devhost

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
)

// wrap calls an HTTP function by an invocation.
func (in *instance) wrap(w http.ResponseWriter, r *http.Request, f *function, params map[string]string, g grant) {
	var content []byte
	if r.ContentLength > 0 { // in chunks: lost, as at the host
		var err error
		if content, err = readLimited(w, r); err != nil {
			return
		}
	}
	s, err := in.sys(f)
	var b []byte
	if err == nil {
		b, err = httpBody(f, r, "http://"+r.Host, params, identities(g), content, s)
	}
	if err != nil {
		in.h.opts.Log.Error("the request can't be wrapped", "function", f.name, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	a, err := in.invoke(r.Context(), f, b)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError) // without the handler's words
		return
	}
	output := ""
	for _, o := range f.outputs {
		if o.Type == "http" {
			output = o.Name
		}
	}
	if output == "" {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	res, err := a.response(output)
	if err != nil {
		in.h.opts.Log.Error("invocation failed", "function", f.name, "error", err)
		in.h.count(func(s *Stats) { s.Failures++ })
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	for k, v := range res.header {
		w.Header()[k] = v
	}
	w.WriteHeader(res.status)
	in.h.write(w, res.body)
}

// identities are those that a wrapped request shows.
func identities(g grant) []object {
	id := object{"AuthenticationType": nil, "IsAuthenticated": false, "Actor": nil, "BootstrapContext": nil, "Claims": []object{}, "Label": nil, "Name": nil,
		"NameClaimType": "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name",
		"RoleClaimType": "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"}
	if g.level == "" {
		return []object{id}
	}
	claim := func(name, value string) object {
		return object{"Issuer": "LOCAL AUTHORITY", "OriginalIssuer": "LOCAL AUTHORITY", "Properties": object{},
			"Type": "http://schemas.microsoft.com/2017/07/functions/claims/" + name, "Value": value, "ValueType": "http://www.w3.org/2001/XMLSchema#string"}
	}
	claims := []object{claim("authlevel", g.level), claim("invoke", "true")}
	if g.keyName != "" {
		claims = append(claims, claim("keyid", g.keyName))
	}
	id["AuthenticationType"], id["IsAuthenticated"], id["Claims"] = "WebJobsAuthLevel", true, claims
	return []object{id}
}

// passOn forwards or proxies a caller's request.
func (in *instance) passOn(w http.ResponseWriter, r *http.Request, mode HTTPMode) {
	h := in.h
	id, err := h.guid()
	if err == nil {
		patience, cancel := context.WithTimeout(r.Context(), 4*h.cfg.startTime)
		defer cancel()
		err = h.awaitReady(patience, true)
	}
	if err != nil {
		h.opts.Log.Error("the request can't be passed on", "path", r.URL.Path, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h.count(func(s *Stats) { s.Invocations++; s.Running++ })
	failed := true
	defer func() {
		h.count(func(s *Stats) {
			s.Running--
			if failed {
				s.Failures++
			}
		})
	}()
	if mode == HTTPProxy {
		failed = false
		proxy := &httputil.ReverseProxy{Transport: in.client.Transport, FlushInterval: -1,
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", strings.TrimPrefix(in.base(), "http://"), p.In.Host
				p.Out.Header.Set("X-Azure-Functions-HostVersion", h.opts.Version)
				p.Out.Header.Set("X-Azure-Functions-InvocationId", id)
			},
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				failed = true
				h.opts.Log.Error("the proxied request failed", "invocation", id, "error", err)
				w.WriteHeader(http.StatusBadGateway)
			}}
		proxy.ServeHTTP(w, r)
		return
	}
	var content []byte
	if r.ContentLength > 0 {
		if content, err = readLimited(w, r); err != nil {
			return
		}
	}
	res, err := in.forward(r, id, content)
	if err != nil {
		h.opts.Log.Error("the forwarded request failed", "invocation", id, "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	failed = false
	for k, v := range res.header {
		if k != "Connection" && k != "Transfer-Encoding" {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(res.status)
	h.write(w, res.body)
}

// forward sends a copy of the request and reads the whole answer.
func (in *instance) forward(r *http.Request, id string, content []byte) (httpResponse, error) {
	ctx := context.WithoutCancel(r.Context())
	if in.h.cfg.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, in.h.cfg.timeout)
		defer cancel()
	}
	pairs := r.URL.Query()
	for k, v := range pairs {
		pairs[k] = []string{strings.Join(v, ",")}
	}
	u := url.URL{Scheme: "http", Host: strings.TrimPrefix(in.base(), "http://"), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: pairs.Encode()}
	var reader io.Reader
	if content != nil {
		reader = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), reader)
	if err != nil {
		return httpResponse{}, err
	}
	req.Host = r.Host
	req.Header = r.Header.Clone()
	for _, hop := range []string{"Connection", "Keep-Alive", "Upgrade", "Te", "Trailer"} {
		req.Header.Del(hop)
	}
	if content == nil {
		req.Header.Del("Content-Type")
		req.Header.Del("Content-Length")
	}
	// Added, not set: a caller's own stand before them.
	req.Header.Add("X-Azure-Functions-HostVersion", in.h.opts.Version)
	req.Header.Add("X-Azure-Functions-InvocationId", id)
	req.Header.Set("User-Agent", strings.TrimSpace(r.UserAgent()+" Azure-Functions-Host/"+in.h.opts.Version))
	res, err := in.plain.Do(req)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			in.killForTimeout()
		}
		return httpResponse{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return httpResponse{status: res.StatusCode, header: res.Header, body: b}, err
}
