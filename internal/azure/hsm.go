package azure

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// A managed HSM keeps its roles itself, outside Resource Manager. This is the
// little of its data plane that is needed: list assignments, list roles, assign.

const localRBACAPI = "2025-07-01"

func (c *Client) newLocalRBAC(host string) (*azcore.Client, error) {
	base, err := c.baseOptions()
	if err != nil {
		return nil, err
	}
	cred, err := c.credential()
	if err != nil {
		return nil, err
	}
	// host is one label below the service's own domain: keyURL saw to it.
	_, domain, _ := strings.Cut(host, ".")
	return azcore.NewClient("cvmguard/localrbac", "v1.0.0", runtime.PipelineOptions{
		PerRetry: []policy.Policy{runtime.NewBearerTokenPolicy(cred, []string{"https://" + domain + "/.default"}, nil)},
	}, &base)
}

// localAssignment and localRole are the wire's shapes.
type localAssignment struct {
	Properties struct {
		PrincipalID      string `json:"principalId,omitempty"`
		RoleDefinitionID string `json:"roleDefinitionId,omitempty"`
		Scope            string `json:"scope,omitempty"`
	} `json:"properties"`
}

type localRole struct {
	Name       string `json:"name"` // a GUID
	Properties struct {
		Permissions []struct {
			DataActions    []string `json:"dataActions"`
			NotDataActions []string `json:"notDataActions"`
		} `json:"permissions"`
	} `json:"properties"`
}

// local makes one call to a managed HSM's role API. scope is "" for the HSM
// itself, or /keys/NAME.
func (c *Client) local(ctx context.Context, k call, method, host, link string, body, into any) error {
	cl, err := c.localRBAC.get(host)
	if err != nil {
		return k.fault(err)
	}
	ctx = context.WithValue(ctx, runtime.CtxAPINameKey{}, "ManagedHSM."+k.op)
	req, err := runtime.NewRequest(ctx, method, link)
	if err != nil {
		return fault.New(fault.Bug, k.op, k.object, "making the request: %w", err)
	}
	req.Raw().Header.Set("Accept", "application/json")
	if body != nil {
		if err := runtime.MarshalAsJSON(req, body); err != nil {
			return fault.New(fault.Bug, k.op, k.object, "writing the request: %w", err)
		}
	}
	resp, err := cl.Pipeline().Do(req)
	if err != nil {
		return k.fault(err)
	}
	if !runtime.HasStatusCode(resp, http.StatusOK, http.StatusCreated) {
		return k.fault(runtime.NewResponseError(resp))
	}
	if into == nil {
		return nil
	}
	if err := runtime.UnmarshalAsJSON(resp, into); err != nil {
		return k.fault(err)
	}
	return nil
}

func localURL(host, scope, kind, name, filter string) string {
	link := "https://" + host + "/" + scope + "/providers/Microsoft.Authorization/" + kind
	if name != "" {
		link += "/" + url.PathEscape(name)
	}
	link += "?api-version=" + localRBACAPI
	if filter != "" {
		link += "&%24filter=" + strings.ReplaceAll(url.QueryEscape(filter), "+", "%20")
	}
	return link
}

// localPages reads a listing of a managed HSM to its end and gives each page's
// value. A next page at another host is refused: the token is for this HSM alone.
func (c *Client) localPages(ctx context.Context, k call, host, link string, yield func(value json.RawMessage) error) error {
	for link != "" {
		var page struct {
			Value    json.RawMessage `json:"value"`
			NextLink string          `json:"nextLink"`
		}
		if err := c.local(ctx, k, http.MethodGet, host, link, nil, &page); err != nil {
			return err
		}
		if len(page.Value) == 0 {
			return fault.New(fault.Transient, k.op, k.object, "the HSM's answer has no list")
		}
		if err := yield(page.Value); err != nil {
			return fault.New(fault.Transient, k.op, k.object, "the HSM's answer can't be read: %w", err)
		}
		link = page.NextLink
		if u, err := url.Parse(link); link != "" && (err != nil || u.Scheme != "https" || u.Port() != "" && u.Port() != "443" || !strings.EqualFold(u.Hostname(), host)) {
			return fault.New(fault.Blocked, k.op, k.object, "the HSM's next page is at another host")
		}
	}
	return nil
}

// localRights are a managed HSM's own role assignments. Rights through groups
// can't be asked for there: an assignment to a group shows under the group's id.
func (c *Client) localRights(key cvm.KeyID) source {
	host, scope := key.Host(), "/keys/"+key.KeyName()
	return source{
		scope: scope,
		list: func(ctx context.Context, k call, filter string) ([]assignment, error) {
			k.action = "Microsoft.KeyVault/managedHsm/roleAssignments/read/action"
			var out []assignment
			err := c.localPages(ctx, k, host, localURL(host, scope, "roleAssignments", "", filter), func(value json.RawMessage) error {
				var rows []localAssignment
				if err := json.Unmarshal(value, &rows); err != nil {
					return err
				}
				for _, a := range rows {
					out = append(out, assignment{principal: a.Properties.PrincipalID, role: a.Properties.RoleDefinitionID, scope: a.Properties.Scope})
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
			return out, nil
		},
		ops: func(ctx context.Context, k call, role string) ([]string, error) {
			return c.roleOperations(ctx, host+"|"+fold(role), role, func(ctx context.Context) ([]string, error) {
				k.action = "Microsoft.KeyVault/managedHsm/roleDefinitions/read/action"
				name := role[strings.LastIndexByte(role, '/')+1:]
				var defs []localRole
				err := c.localPages(ctx, k, host, localURL(host, "", "roleDefinitions", "", ""), func(value json.RawMessage) error {
					var rows []localRole
					if err := json.Unmarshal(value, &rows); err != nil {
						return err
					}
					defs = append(defs, rows...)
					return nil
				})
				if err != nil {
					return nil, err
				}
				for _, def := range defs {
					if !strings.EqualFold(def.Name, name) {
						continue
					}
					var perms []permission
					for _, p := range def.Properties.Permissions {
						perms = append(perms, permission{p.DataActions, p.NotDataActions})
					}
					return operations(perms, hsmKeyActions), nil
				}
				return nil, fault.New(fault.Transient, k.op, k.object, "the HSM lists no role %q", role)
			})
		},
	}
}
