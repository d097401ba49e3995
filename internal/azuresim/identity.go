package azuresim

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
)

// Principal is who calls: a managed identity or a service principal.
type Principal struct {
	Name     string
	ObjectID string
	ClientID string
}

type principal struct {
	Principal
	role   *Role  // nil: everything
	secret string // of the identity endpoint's header, and client secret at the login host
}

// AddPrincipal makes a principal that may do what role says (nil: everything)
// and what role assignments in the simulated world give it.
func (s *Sim) AddPrincipal(name string, role *Role) Principal {
	return s.addPrincipal(name, role, "")
}

func (s *Sim) addPrincipal(name string, role *Role, appID string) Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	mac := hmac.New(sha256.New, s.tokenKey)
	mac.Write([]byte("secret " + name))
	p := &principal{
		Principal: Principal{Name: name, ObjectID: guid("object", name), ClientID: orElse(appID, guid("client", name))},
		role:      role,
		secret:    base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
	}
	s.principals[name] = p
	return p.Principal
}

// Principal finds a principal by name; ok is false if there is none.
func (s *Sim) Principal(name string) (Principal, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.principals[name]
	if !ok {
		return Principal{}, false
	}
	return p.Principal, true
}

// IdentityEnv is the environment that gives a process the handler's managed
// identity: IDENTITY_ENDPOINT and IDENTITY_HEADER, as App Service sets them.
func (s *Sim) IdentityEnv() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []string{
		"IDENTITY_ENDPOINT=" + s.PlainURL() + "/msi/token",
		"IDENTITY_HEADER=" + s.principals[HandlerPrincipal].secret,
	}
}

// Credential is a credential of the SDK for a principal: for tests and tools in
// the same process.
func (s *Sim) Credential(name string) azcore.TokenCredential { return credential{s, name} }

type credential struct {
	s    *Sim
	name string
}

func (c credential) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if len(o.Scopes) != 1 {
		return azcore.AccessToken{}, fmt.Errorf("getting a simulated token: want one scope, got %q", o.Scopes)
	}
	t, exp, err := c.s.token(c.name, strings.TrimSuffix(o.Scopes[0], "/.default"))
	return azcore.AccessToken{Token: t, ExpiresOn: exp}, err
}

const tokenLife = time.Hour

// tokenKey is one for the process: the SDK's managed identity credential caches
// tokens for the whole process, and a second simulator in it would be asked with
// the first one's.
var tokenKey = sync.OnceValues(func() ([]byte, error) { return randomBytes(32) })

// token makes a bearer token: shaped as Entra's, signed with a key that only
// this process has, so that no other token passes.
func (s *Sim) token(name, audience string) (string, time.Time, error) {
	s.mu.Lock()
	p, ok := s.principals[name]
	s.mu.Unlock()
	if !ok {
		return "", time.Time{}, fmt.Errorf("getting a simulated token: no principal is named %q", name)
	}
	now := time.Now()
	exp := now.Add(tokenLife)
	claims, err := json.Marshal(map[string]any{
		"aud": audience, "iss": "https://sts.windows.net/" + s.opt.Tenant + "/",
		"iat": now.Unix(), "nbf": now.Add(-5 * time.Minute).Unix(), "exp": exp.Unix(),
		"appid": p.ClientID, "oid": p.ObjectID, "sub": p.ObjectID, "tid": s.opt.Tenant,
		"idtyp": "app", "ver": "1.0", "name": name,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("writing a simulated token: %w", err)
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"typ":"JWT","alg":"HS256","kid":"azuresim"}`)) + "." + enc.EncodeToString(claims)
	return text + "." + enc.EncodeToString(s.sign(text)), exp, nil
}

func (s *Sim) sign(text string) []byte {
	mac := hmac.New(sha256.New, s.tokenKey)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// bearer finds who sends the request's token; why says what is wrong with it.
func (x *exchange) bearer(audiences ...string) (p *principal, why string) {
	auth := x.r.Header.Get("Authorization")
	scheme, tok, _ := strings.Cut(auth, " ")
	if auth == "" || !strings.EqualFold(scheme, "Bearer") {
		return nil, "the 'Authorization' header is missing"
	}
	i := strings.LastIndexByte(tok, '.')
	if i < 0 {
		return nil, "the token is not a JWT"
	}
	sig, err := base64.RawURLEncoding.DecodeString(tok[i+1:])
	if err != nil || !hmac.Equal(sig, x.s.sign(tok[:i])) {
		return nil, "the token's signature does not verify"
	}
	_, payload, _ := strings.Cut(tok[:i], ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return nil, "the token's payload is not base64url"
	}
	var c struct {
		Aud  string `json:"aud"`
		Exp  int64  `json:"exp"`
		Name string `json:"name"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, "the token's payload is not JSON"
	}
	if time.Now().Unix() >= c.Exp {
		return nil, "the token is expired"
	}
	if !slices.Contains(audiences, strings.TrimSuffix(c.Aud, "/")) {
		return nil, fmt.Sprintf("the token's audience %q is not one of %q", c.Aud, audiences)
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	p, ok := x.s.principals[c.Name]
	if !ok {
		return nil, "the token's principal is gone"
	}
	return p, ""
}

// servePlain is the managed identity endpoint and a look at the call log.
func (s *Sim) servePlain(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/msi/token":
		s.serveMSI(w, r)
	case "/sim/calls":
		s.writePlain(w, http.StatusOK, s.Calls())
	case "/sim/vms":
		s.writePlain(w, http.StatusOK, s.VMs())
	default:
		s.writePlain(w, http.StatusNotFound, doc{"message": "here are /msi/token, /sim/calls and /sim/vms"})
	}
}

func (s *Sim) serveMSI(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	s.mu.Lock()
	var who *principal
	for _, p := range s.principals {
		if h := r.Header.Get("X-IDENTITY-HEADER"); h != "" && hmac.Equal([]byte(h), []byte(p.secret)) {
			who = p
		}
	}
	s.mu.Unlock()
	fail := func(message string) {
		s.writePlain(w, http.StatusBadRequest, doc{"statusCode": http.StatusBadRequest, "message": message})
	}
	switch {
	case who == nil:
		fail("the X-IDENTITY-HEADER is missing or wrong")
		return
	case q.Get("api-version") != "2019-08-01":
		fail("the api-version must be 2019-08-01")
		return
	case q.Get("resource") == "":
		fail("the resource is missing")
		return
	case q.Get("client_id") != "" && q.Get("client_id") != who.ClientID:
		fail("no identity with this client_id is assigned")
		return
	}
	tok, exp, err := s.token(who.Name, q.Get("resource"))
	if err != nil {
		fail(err.Error())
		return
	}
	s.writePlain(w, http.StatusOK, doc{
		"access_token": tok, "expires_on": strconv.FormatInt(exp.Unix(), 10),
		"resource": q.Get("resource"), "token_type": "Bearer", "client_id": who.ClientID,
	})
}

func (s *Sim) writePlain(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answer not delivered", "err", err)
	}
}

// routeLogin is the part of the login host that a client secret needs.
func (s *Sim) routeLogin(x *exchange) {
	base := "https://login.microsoftonline.com/" + s.opt.Tenant
	switch {
	case strings.HasSuffix(x.path, "/discovery/instance"):
		x.exec = func() {
			x.reply(http.StatusOK, doc{"tenant_discovery_endpoint": base + "/v2.0/.well-known/openid-configuration", "metadata": []any{
				doc{"preferred_network": x.host, "preferred_cache": x.host, "aliases": []any{x.host}},
			}})
		}
	case strings.HasSuffix(x.path, "/.well-known/openid-configuration"):
		x.exec = func() {
			x.reply(http.StatusOK, doc{
				"issuer": base + "/v2.0", "token_endpoint": base + "/oauth2/v2.0/token",
				"authorization_endpoint": base + "/oauth2/v2.0/authorize",
			})
		}
	case strings.HasSuffix(x.path, "/oauth2/v2.0/token") && x.r.Method == http.MethodPost:
		x.open = true
		x.exec = func() { s.clientToken(x) }
	default:
		x.fail(http.StatusNotFound, "NotFound", "the simulator's login host has no "+x.path)
	}
}

func (s *Sim) clientToken(x *exchange) {
	form, err := url.ParseQuery(string(x.body))
	if err != nil || form.Get("grant_type") != "client_credentials" {
		x.reply(http.StatusBadRequest, doc{"error": "unsupported_grant_type", "error_description": "only client_credentials is known here"})
		return
	}
	s.mu.Lock()
	var who *principal
	for _, p := range s.principals {
		if p.ClientID == form.Get("client_id") && hmac.Equal([]byte(p.secret), []byte(form.Get("client_secret"))) {
			who = p
		}
	}
	s.mu.Unlock()
	if who == nil {
		x.reply(http.StatusUnauthorized, doc{"error": "invalid_client", "error_description": "the client id or its secret is wrong"})
		return
	}
	audience := "" // beside it a client asks for openid, profile …
	for _, scope := range strings.Fields(form.Get("scope")) {
		if a, ok := strings.CutSuffix(scope, "/.default"); ok {
			audience = a
		}
	}
	tok, _, err := s.token(who.Name, audience)
	if err != nil {
		x.reply(http.StatusBadRequest, doc{"error": "invalid_request", "error_description": err.Error()})
		return
	}
	x.reply(http.StatusOK, doc{"token_type": "Bearer", "expires_in": int(tokenLife.Seconds()), "access_token": tok})
}

var counter atomic.Uint64

// id is a GUID that no other call has had.
func (s *Sim) id() string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], counter.Add(1))
	return fmt.Sprintf("00000000-0000-4000-8000-%012x", b[2:])
}

// guid is the same GUID for the same name, whatever the run.
func guid(kind, name string) string {
	h := sha256.Sum256([]byte(kind + "\x00" + strings.ToLower(name)))
	h[6], h[8] = h[6]&0x0f|0x40, h[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
