package devhost

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"cvmguard/internal/customhandler"
)

// maxRequest is the host's limit on a caller's body.
const maxRequest = 104857600

// Keys are the host's keys.
type Keys struct {
	Master    string            // for everything, /admin included
	Default   string            // the host key named default: for all functions
	System    string            // for extension webhooks (eventgrid_extension)
	Functions map[string]string // the key named default of one function
}

// filled makes up the keys that are missing.
func (k Keys) filled(random io.Reader) (Keys, error) {
	for _, p := range []*string{&k.Master, &k.Default, &k.System} {
		if *p != "" {
			continue
		}
		var b [24]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return k, fmt.Errorf("making a key: %w", err)
		}
		*p = hex.EncodeToString(b[:])
	}
	return k, nil
}

// Keys are the keys in force, if Options.RequireKeys asks for any.
func (h *Host) Keys() Keys { return h.keys }

// grant is what a request may do, by its key.
type grant struct {
	level   string // "", Function, System, Admin
	keyName string
}

func same(a, b string) bool {
	return b != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// granted finds out whose key a request carries: the header goes before the
// query. Without RequireKeys everybody is Admin, as under Core Tools.
func (h *Host) granted(r *http.Request, f *function) grant {
	if !h.opts.RequireKeys {
		return grant{level: "Admin"}
	}
	key := r.Header.Get("x-functions-key")
	if key == "" {
		key = r.URL.Query().Get("code")
	}
	switch {
	case same(key, h.keys.Master):
		return grant{"Admin", "master"}
	case same(key, h.keys.Default):
		return grant{"Function", "default"}
	case same(key, h.keys.System):
		return grant{"System", "eventgrid_extension"}
	case f != nil && same(key, h.keys.Functions[f.name]):
		return grant{"Function", "default"}
	}
	return grant{}
}

// serve is the host's own port.
func (h *Host) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case path == "/":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		h.write(w, []byte("<!doctype html><title>Functions host stand-in</title><p>The stand-in for the Functions host is up."))
	case path == "/admin/host/ping":
		w.WriteHeader(http.StatusOK)
	case strings.HasPrefix(path, "/admin/"):
		if h.granted(r, nil).level != "Admin" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.serveAdmin(w, r)
	case path == "/runtime/webhooks/eventgrid":
		if l := h.granted(r, nil).level; l != "Admin" && l != "System" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if in, ok := h.up(w, r); ok {
			in.serveEventGrid(w, r)
		}
	default:
		h.serveFunction(w, r)
	}
}

// up waits for an instance, for StartWait at most; then it has answered 503.
func (h *Host) up(w http.ResponseWriter, r *http.Request) (*instance, bool) {
	ctx, cancel := context.WithTimeout(r.Context(), h.opts.StartWait)
	defer cancel()
	for {
		h.mu.Lock()
		in, s, changed := h.inst, h.state, h.changed
		h.mu.Unlock()
		if in != nil && s != idle && s != closed {
			return in, true
		}
		select {
		case <-changed:
			if s != closed {
				continue
			}
		case <-ctx.Done():
		}
		http.Error(w, "Function host is not running.", http.StatusServiceUnavailable)
		return nil, false
	}
}

// serveFunction serves an HTTP function by its route.
func (h *Host) serveFunction(w http.ResponseWriter, r *http.Request) {
	prefix := "/"
	if h.cfg.prefix != "" {
		prefix = "/" + h.cfg.prefix + "/"
	}
	below, ok := strings.CutPrefix(r.URL.EscapedPath(), prefix)
	var f *function
	var params map[string]string
	if ok {
		f, params = h.route(below, r.Method)
	}
	if f == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	g := h.granted(r, f)
	wanted := f.trigger.AuthLevel
	if g.level == "System" || g.level == "" && wanted != "anonymous" || wanted == "admin" && g.level != "Admin" {
		w.WriteHeader(http.StatusUnauthorized) // with an empty body, whatever is wrong with the key
		return
	}
	in, ok := h.up(w, r)
	if !ok {
		return
	}
	if mode := h.cfg.mode; f.httpOnly() && mode != HTTPWrap {
		in.passOn(w, r, mode)
		return
	}
	in.wrap(w, r, f, params, g)
}

// route finds the function of a path and method; the more special route goes
// first.
func (h *Host) route(below, method string) (*function, map[string]string) {
	var best *function
	var params map[string]string
	for _, f := range h.functions {
		if f.disabled || f.trigger.Type != "httpTrigger" || len(f.trigger.Methods) > 0 && !slices.Contains(f.trigger.Methods, method) {
			continue
		}
		p, ok := f.route.Match(below)
		if !ok {
			continue
		}
		if best == nil || customhandler.CompareRoutes(f.route, best.route) < 0 {
			best, params = f, p
		}
	}
	return best, params
}

// readLimited reads a caller's body; if it can't, it has answered.
func readLimited(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		status := http.StatusBadRequest
		var long *http.MaxBytesError
		if errors.As(err, &long) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, err.Error(), status)
	}
	return content, err
}

func (h *Host) write(w http.ResponseWriter, b []byte) {
	if _, err := w.Write(b); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
		h.opts.Log.Warn("an answer could not be sent", "error", err)
	}
}
