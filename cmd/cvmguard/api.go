package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cvmguard/internal/config"
	"cvmguard/internal/fault"
)

// The settings of commands that ask the function app. The key is an environment
// variable alone: a flag would stand in the shell's history and in ps.
const (
	envURL     = "CVMGUARD_URL"
	envKey     = "CVMGUARD_KEY"
	defaultURL = "http://127.0.0.1:7071"
)

// maxAnswer is the longest answer that is read, in bytes: a page of VMs has some
// kilobytes each.
const maxAnswer = 64 << 20

// app are the flags of commands that ask the function app.
type app struct {
	URL string `placeholder:"URL" help:"Base URL of the function app; else CVMGUARD_URL, else http://127.0.0.1:7071. Its key is taken from CVMGUARD_KEY."`
}

// client asks one function app.
type client struct {
	base string // scheme://host[:port]
	key  config.Secret
	http *http.Client
	// args are, by the API's field, the flags and arguments of the command that asks.
	args map[string]argument
}

// argument is how a command names what is a field of the API.
type argument struct{ name, example string }

func (a app) client(c *console) (*client, error) {
	name, given := "--url", a.URL
	if given == "" {
		name, given = envURL, strings.TrimSpace(c.getenv(envURL))
	}
	if given == "" {
		given = defaultURL
	}
	bad := func(wrong string) (*client, error) {
		return nil, badArgument(name, given, wrong, "https://func-cvmguard.azurewebsites.net")
	}
	u, err := url.Parse(given)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return bad("it isn't a URL with http or https")
	case u.User != nil:
		return nil, errors.New(name + ": a name or password stands in the URL; leave it out, the key belongs in " + envKey)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New(name + ": the URL has a query, which is not shown since it may hold a key; give the app's base URL alone, and its key in " + envKey)
	case strings.Trim(u.Path, "/") != "":
		return bad("it has a path; give the app's base URL alone")
	}
	key := config.Secret(strings.TrimSpace(c.getenv(envKey)))
	if key != "" && u.Scheme == "http" && !config.Loopback(u.Hostname()) {
		return bad("the key would be sent in clear; give https, or unset " + envKey)
	}
	return &client{base: u.Scheme + "://" + u.Host, key: key, http: &http.Client{
		Timeout: 60 * time.Second,
		// A redirect could carry the key elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// answer is what the app said.
type answer struct {
	status int
	body   []byte
}

func (a answer) decode(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return fmt.Errorf("the function app's answer can't be read: %w; check that its version is that of this program", err)
	}
	return nil
}

// ask sends a request. Any answer with a status in want is given back; other
// answers are errors, a *refusal where the app refused what was asked for.
func (k *client) ask(ctx context.Context, method, path string, query url.Values, body any, want ...int) (answer, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return answer{}, fmt.Errorf("writing the request: %w", err)
		}
	}
	target := k.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(text))
	if err != nil {
		return answer{}, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "cvmguard/"+version)
	if text != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if k.key != "" {
		req.Header.Set("X-Functions-Key", k.key.Reveal())
	}
	res, err := k.http.Do(req)
	if err != nil {
		return answer{}, k.unreachable(err)
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode}
	if a.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1)); err != nil {
		return answer{}, k.unreachable(err)
	}
	if len(a.body) > maxAnswer {
		return answer{}, fmt.Errorf("the function app's answer is longer than %d MiB; ask for less", maxAnswer>>20)
	}
	for _, w := range want {
		if a.status == w {
			return a, nil
		}
	}
	return a, k.refused(a)
}

func (k *client) unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // without the URL, which is said once
	}
	return fmt.Errorf("the function app at %s can't be reached: %w; start it, or name another with --url or %s", k.base, err, envURL)
}

// refused makes an error of an answer that wasn't wanted. Only what cvmguard
// itself said of the request is a refusal.
func (k *client) refused(a answer) error {
	var body struct {
		Error *struct {
			Field, Given, Message, Example, Code string
		} `json:"error"`
	}
	if json.Unmarshal(a.body, &body) != nil || body.Error == nil || body.Error.Message == "" {
		next := "try again later, or look at the app's log"
		switch a.status {
		case http.StatusUnauthorized, http.StatusForbidden:
			next = "put a function key of the app in " + envKey
		case http.StatusNotFound, http.StatusMethodNotAllowed:
			next = "check that --url names a cvmguard function app"
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			next = "give the URL that it redirects to, such as https in place of http"
		}
		return fmt.Errorf("the function app at %s answered HTTP %d; %s", k.base, a.status, next)
	}
	e := body.Error
	err := &fault.Error{Kind: fault.Kind(e.Code), Op: "the function app refused", Err: errors.New(e.Message)}
	if e.Field != "" {
		err.Op += " " + e.Field
		err.Object = e.Given
	}
	if arg, ok := k.args[e.Field]; ok {
		err.Op = "the function app refused " + arg.name
		if e.Example != "" {
			e.Example = arg.example
		}
	}
	if e.Example != "" {
		err.Next = "for example " + e.Example
	}
	switch {
	case a.status >= 500, a.status == http.StatusTooManyRequests:
		err.Op, err.Next = "the function app failed", "try again later, or look at the app's log"
		return err
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		err.Next = "put a function key of the app in " + envKey
		return err
	}
	return &refusal{err}
}
