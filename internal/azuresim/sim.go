package azuresim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// The identities that every simulated tenant has.
const (
	DefaultSubscription = "00000000-0000-0000-0000-000000000001"
	DefaultTenant       = "00000000-0000-0000-0000-0000000000aa"
	DefaultLocation     = "westeurope"
	// HandlerPrincipal is the name of the principal that IdentityEnv is for.
	HandlerPrincipal = "cvmguard"
	// AdminPrincipal may do everything.
	AdminPrincipal = "admin"
	// OrchestratorPrincipal is the service principal "Confidential VM Orchestrator".
	OrchestratorPrincipal = "Confidential VM Orchestrator"
	// OrchestratorAppID is its application id, the same in every tenant.
	OrchestratorAppID = "bf7b6499-ff71-4aa2-97a4-f372087be7f0"
)

// Options of a simulated Azure. The zero value is one subscription in
// westeurope, no limits for the handler's principal, no events of its own.
type Options struct {
	Now          func() time.Time // nil: time.Now. Times in bodies and judgements; operations and retries run on real time
	Subscription string           // "": DefaultSubscription
	Tenant       string           // "": DefaultTenant
	Location     string           // "": DefaultLocation, used where a spec names none
	Role         *Role            // what the handler's principal may do; nil: everything
	PageSize     int              // of listings; 0: 100
	EmitEvents   bool             // publish Resource Manager events for every control-plane write
	Seed         uint64           // of shuffles; 0: 1
	Log          *slog.Logger     // nil: silent
}

// Sim is a running simulated Azure. All methods may be called at any time from
// any goroutine.
type Sim struct {
	opt  Options
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	log  *slog.Logger

	ca        *authority
	tlsAddr   string
	plainAddr string
	servers   []*http.Server
	tokenKey  []byte

	mu         sync.Mutex // guards everything below
	closed     bool
	mute       bool                 // changes by other hands publish nothing
	resources  map[string]*resource // by folded id
	order      []string             // folded ids in order of creation
	groups     map[string]string    // folded subscription/group -> as spelled
	operations map[string]*operation
	vaults     map[string]*vault // by data plane host
	roles      []*roleAssignment
	principals map[string]*principal
	knobs      Knobs
	faults     []*fault
	denied     []denial
	locks      []lock
	buckets    map[string]*bucket
	exhausted  map[string]string // folded vmSize@location -> error code
	calls      []Call
	callSeq    int
	activity   []activityEvent
	guests     func(VMInfo) Guest
	maa        MAA

	events *eventGrid
}

// Start opens the two listeners on 127.0.0.1 and serves until Close.
func Start(o Options) (*Sim, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Subscription = orElse(o.Subscription, DefaultSubscription)
	o.Tenant = orElse(o.Tenant, DefaultTenant)
	o.Location = orElse(o.Location, DefaultLocation)
	if o.PageSize <= 0 {
		o.PageSize = 100
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ca, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("making the development CA: %w", err)
	}
	key, err := tokenKey()
	if err != nil {
		return nil, fmt.Errorf("making the token key: %w", err)
	}
	s := &Sim{
		opt: o, log: o.Log, ca: ca, tokenKey: key,
		resources: map[string]*resource{}, groups: map[string]string{},
		operations: map[string]*operation{}, vaults: map[string]*vault{},
		principals: map[string]*principal{}, buckets: map[string]*bucket{},
		exhausted: map[string]string{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.events = newEventGrid(s, rand.New(rand.NewPCG(o.Seed, 1)))
	s.addPrincipal(HandlerPrincipal, o.Role, "")
	s.addPrincipal(AdminPrincipal, nil, "")
	s.addPrincipal(OrchestratorPrincipal, &Role{}, OrchestratorAppID)

	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("opening the TLS listener: %w", err)
	}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.stop()
		return nil, errors.Join(fmt.Errorf("opening the identity listener: %w", err), secure.Close())
	}
	s.tlsAddr, s.plainAddr = secure.Addr().String(), plain.Addr().String()
	quiet := slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
	tlsServer := &http.Server{Handler: http.HandlerFunc(s.serve), TLSConfig: ca.serverConfig(), ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	plainServer := &http.Server{Handler: http.HandlerFunc(s.servePlain), ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	s.servers = []*http.Server{tlsServer, plainServer}
	s.goServe(func() error { return tlsServer.ServeTLS(secure, "", "") })
	s.goServe(func() error { return plainServer.Serve(plain) })
	return s, nil
}

func (s *Sim) goServe(f func() error) {
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("simulated Azure stopped serving", "err", err)
		}
	}()
}

// Close stops serving, cancels guests and deliveries and waits for them.
func (s *Sim) Close() error {
	s.mu.Lock()
	s.closed = true
	for _, op := range s.operations {
		if op.timer != nil {
			op.timer.Stop()
		}
	}
	s.mu.Unlock()
	s.stop()
	var errs []error
	for _, srv := range s.servers {
		errs = append(errs, srv.Close())
	}
	s.wg.Wait()
	s.events.client.CloseIdleConnections()
	return errors.Join(errs...)
}

// Addr is the host and port of the TLS listener: where every Azure host name is
// to be dialled.
func (s *Sim) Addr() string { return s.tlsAddr }

// PlainURL is the base URL of the plain listener, without a trailing slash.
func (s *Sim) PlainURL() string { return "http://" + s.plainAddr }

// CAPEM is the certificate of the ephemeral CA that signs every host's leaf.
func (s *Sim) CAPEM() []byte { return s.ca.pem }

// Subscription is the subscription that specs without one are put in.
func (s *Sim) Subscription() string { return s.opt.Subscription }

// Tenant is the tenant's id.
func (s *Sim) Tenant() string { return s.opt.Tenant }

// Transport dials the simulator for every host name and trusts its CA alone.
func (s *Sim) Transport() *http.Transport {
	d := &net.Dialer{Timeout: 5 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return d.DialContext(ctx, network, s.tlsAddr)
		},
		TLSClientConfig:     s.ca.clientConfig(),
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: 16,
	}
}

func (s *Sim) now() time.Time { return s.opt.Now().UTC() }

// exchange is one request on its way through the simulator. Handlers fill in
// the answer; serve writes it, after the faults have had their say.
type exchange struct {
	s          *Sim
	r          *http.Request
	host       string
	path       string // as sent, not cleaned: a Managed HSM's scope may be empty
	body       []byte
	principal  *principal
	plane      string
	action     string // Azure's name of what is asked, "" where there is none
	scope      string // the resource's id, or the vault's for the data plane
	data       bool   // action is a data action
	write      bool
	vault      *vault // of the key plane
	keyName    string
	permission string // of an access policy
	exec       func() // fills the answer; runs under Sim.mu
	open       bool   // runs without Sim.mu (the attestation service)
	free       bool   // needs no permission

	status  int
	header  http.Header
	answer  []byte
	effect  bool // a write that took effect
	dropped bool
	opFault *fault // to hit the operation that exec begins
}

const maxBody = 4 << 20

func (s *Sim) serve(w http.ResponseWriter, r *http.Request) {
	start := s.now()
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	host := strings.ToLower(r.Host)
	if h, _, splitErr := net.SplitHostPort(host); splitErr == nil {
		host = h
	}
	x := &exchange{s: s, r: r, host: host, path: r.URL.Path, body: body, header: http.Header{}}
	switch {
	case err != nil:
		x.fail(http.StatusBadRequest, "BadRequest", "the body could not be read: "+err.Error())
	case len(body) > maxBody:
		x.fail(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the body is longer than 4 MiB")
	default:
		s.route(x)
		s.run(x)
	}
	s.record(x, start)
	if x.dropped {
		panic(http.ErrAbortHandler) // cuts the connection without an answer
	}
	for k, v := range x.header {
		w.Header()[k] = v
	}
	w.WriteHeader(x.status)
	if _, err := w.Write(x.answer); err != nil {
		s.log.Debug("answer not delivered", "path", x.path, "err", err)
	}
}

// route finds out who asks for what and sets exec, or answers at once.
func (s *Sim) route(x *exchange) {
	x.header.Set("x-ms-request-id", s.id())
	_, _, keys := keyHost(x.host)
	switch {
	case slices.Contains(armHosts, x.host):
		x.plane = PlaneARM
		s.routeARM(x)
	case x.host == "login.microsoftonline.com":
		x.plane = PlaneLogin
		s.routeLogin(x)
	case keys:
		x.plane = PlaneKeys
		s.routeKeys(x)
	case strings.HasSuffix(x.host, ".attest.azure.net"):
		x.plane = PlaneAttest
		s.routeMAA(x)
	case strings.HasSuffix(x.host, ".eventgrid.azure.net"):
		x.plane = PlaneEvents
		s.routePublish(x)
	default:
		x.fail(http.StatusNotFound, "HostNotFound", "the simulator does not answer for the host "+x.host)
	}
}

// run passes the routed request through denial, throttle and faults to exec.
func (s *Sim) run(x *exchange) {
	if x.status != 0 || x.exec == nil {
		return
	}
	s.delay(x)
	s.mu.Lock()
	locked := true
	defer func() {
		if locked {
			s.mu.Unlock()
		}
	}()
	if s.throttle(x) || s.refuse(x) {
		return
	}
	before, after, op := s.strike(x)
	if before != nil {
		x.applyFault(before)
		return
	}
	x.opFault = op
	if x.open {
		locked = false
		s.mu.Unlock()
	}
	x.exec()
	x.effect = x.write && x.status < 400
	if after != nil {
		x.header = http.Header{}
		x.applyFault(after)
	}
}

func (s *Sim) routeMAA(x *exchange) {
	x.action = strings.Trim(x.path, "/")
	x.open = true
	x.exec = func() {
		s.mu.Lock()
		h := s.maa
		s.mu.Unlock()
		if h == nil {
			x.fail(http.StatusServiceUnavailable, "ServiceUnavailable", "no attestation service was given to the simulator")
			return
		}
		rec := &recorder{header: http.Header{}}
		h.ServeHTTP(rec, x.replay())
		x.status, x.answer = rec.code(), rec.body
		for k, v := range rec.header {
			x.header[k] = v
		}
	}
}
