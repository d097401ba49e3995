package azure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/authorization/armauthorization/v2"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/keyvault/armkeyvault"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/resourcegraph/armresourcegraph"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cvmguard/internal/config"
	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// keyVaultAPI is the management API of vaults and managed HSMs. The one that the
// SDK's module pins retires in February 2027.
const keyVaultAPI = "2026-02-01"

var _ remedy.Azure = (*Client)(nil)

// Client speaks to Azure. It is safe for concurrent use. Make one with New.
type Client struct {
	cfg config.Config
	log *slog.Logger
	now func() time.Time

	counter counter

	// Made on first use.
	transport  func() (*http.Client, error)
	credential func() (azcore.TokenCredential, error)
	armClient  func() (*arm.Client, error)
	graph      func() (*armresourcegraph.Client, error)
	roleDefs   func() (*armauthorization.RoleDefinitionsClient, error)

	vms         lazy[armcompute.VirtualMachinesClient]           // by subscription
	scaleSetVMs lazy[armcompute.VirtualMachineScaleSetVMsClient] // by subscription
	extensions  lazy[armcompute.VirtualMachineExtensionsClient]  // by subscription
	runCommands lazy[armcompute.VirtualMachineRunCommandsClient] // by subscription
	disks       lazy[armcompute.DisksClient]                     // by subscription
	desets      lazy[armcompute.DiskEncryptionSetsClient]        // by subscription
	vaults      lazy[armkeyvault.VaultsClient]                   // by subscription
	hsms        lazy[armkeyvault.ManagedHsmsClient]              // by subscription
	roleAssigns lazy[armauthorization.RoleAssignmentsClient]     // by subscription
	denies      lazy[armauthorization.DenyAssignmentsClient]     // by subscription
	keys        lazy[azkeys.Client]                              // by host
	skus        lazy[armcompute.ResourceSKUsClient]              // by subscription
	localRBAC   lazy[azcore.Client]                              // by host

	vaultIDs  *cache[string]   // ARM id of a vault by its host: it never changes while the vault lives
	roleOps   *cache[[]string] // key operations of a role definition
	maaCerts  *cache[jwks]
	listeners listeners
	storage   storage
}

// New makes a client. It does nothing else: no file is read and nothing is
// dialled before the first call. A nil log discards.
func New(cfg config.Config, log *slog.Logger) *Client {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Client{cfg: cfg, log: log, now: time.Now}
	c.transport = sync.OnceValues(c.newTransport)
	c.credential = sync.OnceValues(func() (azcore.TokenCredential, error) { return c.newCredential(cfg.ClientID) })
	c.armClient = sync.OnceValues(func() (*arm.Client, error) {
		cred, opts, err := c.armOptions()
		if err != nil {
			return nil, err
		}
		return arm.NewClient("cvmguard/operations", "v1.0.0", cred, opts)
	})
	c.graph = sync.OnceValues(func() (*armresourcegraph.Client, error) {
		cred, opts, err := c.armOptions()
		if err != nil {
			return nil, err
		}
		return armresourcegraph.NewClient(cred, opts)
	})
	c.roleDefs = sync.OnceValues(func() (*armauthorization.RoleDefinitionsClient, error) {
		cred, opts, err := c.armOptions()
		if err != nil {
			return nil, err
		}
		return armauthorization.NewRoleDefinitionsClient(cred, opts)
	})
	c.vms.make = bySubscription(c, armcompute.NewVirtualMachinesClient)
	c.scaleSetVMs.make = bySubscription(c, armcompute.NewVirtualMachineScaleSetVMsClient)
	c.extensions.make = bySubscription(c, armcompute.NewVirtualMachineExtensionsClient)
	c.runCommands.make = bySubscription(c, armcompute.NewVirtualMachineRunCommandsClient)
	c.disks.make = bySubscription(c, armcompute.NewDisksClient)
	c.desets.make = bySubscription(c, armcompute.NewDiskEncryptionSetsClient)
	c.skus.make = bySubscription(c, armcompute.NewResourceSKUsClient)
	c.roleAssigns.make = bySubscription(c, armauthorization.NewRoleAssignmentsClient)
	c.denies.make = bySubscription(c, armauthorization.NewDenyAssignmentsClient)
	c.vaults.make = bySubscription(c, withAPI(keyVaultAPI, armkeyvault.NewVaultsClient))
	c.hsms.make = bySubscription(c, withAPI(keyVaultAPI, armkeyvault.NewManagedHsmsClient))
	c.keys.make = c.newKeys
	c.localRBAC.make = c.newLocalRBAC

	clock := func() time.Time { return c.now() }
	c.vaultIDs = newCache[string](time.Hour, 1024, clock)
	c.roleOps = newCache[[]string](time.Hour, 1024, clock)
	c.maaCerts = newCache[jwks](24*time.Hour, 256, clock)
	c.storage.init(c)
	return c
}

// lazy makes one client a key (a subscription, a host), on first use.
type lazy[T any] struct {
	make func(key string) (*T, error)
	mu   sync.Mutex
	made map[string]*T // guarded by mu
}

func (l *lazy[T]) get(key string) (*T, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t, ok := l.made[key]; ok {
		return t, nil
	}
	t, err := l.make(key)
	if err != nil {
		return nil, err
	}
	if l.made == nil {
		l.made = map[string]*T{}
	}
	l.made[key] = t
	return t, nil
}

type armMaker[T any] func(subscription string, cred azcore.TokenCredential, opts *arm.ClientOptions) (*T, error)

func bySubscription[T any](c *Client, make armMaker[T]) func(string) (*T, error) {
	return func(subscription string) (*T, error) {
		cred, opts, err := c.armOptions()
		if err != nil {
			return nil, err
		}
		return make(subscription, cred, opts)
	}
}

func withAPI[T any](version string, make armMaker[T]) armMaker[T] {
	return func(subscription string, cred azcore.TokenCredential, opts *arm.ClientOptions) (*T, error) {
		o := *opts
		o.APIVersion = version
		return make(subscription, cred, &o)
	}
}

// cloudConfig is the configured cloud's endpoints.
func (c *Client) cloudConfig() cloud.Configuration {
	switch c.cfg.Cloud {
	case config.USGov:
		return cloud.AzureGovernment
	case config.China:
		return cloud.AzureChina
	default:
		return cloud.AzurePublic
	}
}

// vaultSuffixes are the host suffixes of key vaults and of managed HSMs.
func (c *Client) vaultSuffixes() (vault, hsm string) {
	switch c.cfg.Cloud {
	case config.USGov:
		return ".vault.usgovcloudapi.net", ".managedhsm.usgovcloudapi.net"
	case config.China:
		return ".vault.azure.cn", ".managedhsm.azure.cn"
	default:
		return ".vault.azure.net", ".managedhsm.azure.net"
	}
}

// newTransport makes the one HTTP client. Under development every name but this
// machine's own is dialled to the simulator, whose authority is the only one
// trusted: real Azure can't be reached by mistake.
func (c *Client) newTransport() (*http.Client, error) {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          128,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       60 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if c.cfg.DevAzure != "" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, _, err := net.SplitHostPort(addr); err == nil && config.Loopback(host) {
				return dialer.DialContext(ctx, network, addr)
			}
			return dialer.DialContext(ctx, network, c.cfg.DevAzure)
		}
	}
	if c.cfg.DevCA != "" {
		pem, err := os.ReadFile(c.cfg.DevCA)
		if err != nil {
			return nil, &fault.Error{Kind: fault.Invalid, Op: "reading the development certificate authority", Object: c.cfg.DevCA, Err: err, Next: "set CVMGUARD_DEV_CA to a readable PEM file"}
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, &fault.Error{Kind: fault.Invalid, Op: "reading the development certificate authority", Object: c.cfg.DevCA, Next: "set CVMGUARD_DEV_CA to a PEM file with a certificate"}
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Transport: t,
		// No service here redirects; a redirect followed could carry a request elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// newCredential is the platform's managed identity where there is one, else the
// default chain (environment, workload identity, command line tools).
func (c *Client) newCredential(clientID string) (azcore.TokenCredential, error) {
	base, err := c.baseOptions()
	if err != nil {
		return nil, err
	}
	base.PerCallPolicies, base.PerRetryPolicies = nil, nil // token requests aren't calls of ours
	if c.cfg.ManagedIdentity {
		o := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: base}
		if clientID != "" {
			o.ID = azidentity.ClientID(clientID)
		}
		return azidentity.NewManagedIdentityCredential(o)
	}
	return azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
		ClientOptions:            base,
		DisableInstanceDiscovery: c.cfg.DevAzure != "",
	})
}

// baseOptions are what every pipeline shares.
func (c *Client) baseOptions() (azcore.ClientOptions, error) {
	t, err := c.transport()
	if err != nil {
		return azcore.ClientOptions{}, err
	}
	return azcore.ClientOptions{
		Cloud:            c.cloudConfig(),
		Transport:        t,
		Retry:            readRetry,
		Telemetry:        policy.TelemetryOptions{ApplicationID: "cvmguard"},
		PerCallPolicies:  []policy.Policy{c.counter.calls()},
		PerRetryPolicies: []policy.Policy{c.counter.tries(c.log)},
	}, nil
}

func (c *Client) armOptions() (azcore.TokenCredential, *arm.ClientOptions, error) {
	base, err := c.baseOptions()
	if err != nil {
		return nil, nil, err
	}
	cred, err := c.credential()
	if err != nil {
		return nil, nil, err
	}
	return cred, &arm.ClientOptions{ClientOptions: base, DisableRPRegistration: true}, nil
}

// readRetry is for a queue worker: what takes longer than a moment comes back as
// an error and becomes a message's delay.
var readRetry = policy.RetryOptions{
	MaxRetries: 2, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: 2 * time.Second, TryTimeout: 15 * time.Second,
}

// once has a write sent a second time only where the service said that it took
// nothing: an answer that got lost may have had its effect.
func once(ctx context.Context) context.Context {
	o := readRetry
	o.ShouldRetry = func(resp *http.Response, err error) bool {
		return err == nil && resp != nil && resp.StatusCode == http.StatusTooManyRequests
	}
	return policy.WithRetryOptions(ctx, o)
}
