package azure

import (
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
)

// Counts is how many calls were made to Azure: Resource Manager, Resource Graph,
// key vaults and attestation, not storage and not token requests.
type Counts struct {
	Reads  int64
	Writes int64
	Tries  int64            // requests sent, retries and challenges included
	ByName map[string]int64 // calls by API name, such as "VirtualMachinesClient.Get"
}

// Counts is what was counted since New.
func (c *Client) Counts() Counts { return c.counter.snapshot() }

type counter struct {
	mu sync.Mutex
	n  Counts // guarded by mu
}

func (k *counter) snapshot() Counts {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.n
	out.ByName = maps.Clone(k.n.ByName)
	return out
}

func (k *counter) add(name string, write bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.n.ByName == nil {
		k.n.ByName = map[string]int64{}
	}
	k.n.ByName[name]++
	if write {
		k.n.Writes++
	} else {
		k.n.Reads++
	}
}

// asks are the POSTs that only ask.
var asks = map[string]bool{"Client.Resources": true}

type policyFunc func(*policy.Request) (*http.Response, error)

func (f policyFunc) Do(r *policy.Request) (*http.Response, error) { return f(r) }

// calls counts one for each call, whatever it takes to make it.
func (k *counter) calls() policy.Policy {
	return policyFunc(func(r *policy.Request) (*http.Response, error) {
		name, ok := r.Raw().Context().Value(runtime.CtxAPINameKey{}).(string)
		if !ok {
			name = r.Raw().Method + " " + r.Raw().URL.Host
		}
		m := r.Raw().Method
		k.add(name, m != http.MethodGet && m != http.MethodHead && !asks[name])
		return r.Next()
	})
}

// tries counts each request and shows what the service says is left.
func (k *counter) tries(log *slog.Logger) policy.Policy {
	return policyFunc(func(r *policy.Request) (*http.Response, error) {
		k.mu.Lock()
		k.n.Tries++
		k.mu.Unlock()
		resp, err := r.Next()
		if resp != nil && log.Enabled(r.Raw().Context(), slog.LevelDebug) {
			attrs := []any{slog.String("method", r.Raw().Method), slog.String("host", r.Raw().URL.Host), slog.String("path", r.Raw().URL.Path), slog.Int("status", resp.StatusCode)}
			for h, v := range resp.Header {
				if strings.HasPrefix(h, "X-Ms-Ratelimit-") || h == "X-Ms-Request-Charge" || h == "Retry-After" {
					attrs = append(attrs, slog.String(strings.ToLower(h), strings.Join(v, ",")))
				}
			}
			log.DebugContext(r.Raw().Context(), "azure call", attrs...)
		}
		return resp, err
	})
}
