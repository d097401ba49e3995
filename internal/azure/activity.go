package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// The Activity Log has no module of the SDK's that does nothing else: this is the
// one call of it that is needed.

const (
	activityAPI = "2015-04-01"
	// activityDays is how far back the log goes; a filter that begins before is refused.
	activityDays  = 90 * 24 * time.Hour
	activityPages = 100
	claimObjectID = "http://schemas.microsoft.com/identity/claims/objectidentifier"
)

// activityEvent is the wire's shape of what is selected.
type activityEvent struct {
	EventDataID    string            `json:"eventDataId"`
	EventTimestamp time.Time         `json:"eventTimestamp"`
	Claims         map[string]string `json:"claims"`
	OperationName  activityText      `json:"operationName"`
	Status         activityText      `json:"status"`
	SubStatus      activityText      `json:"subStatus"`
}

type activityText struct {
	Value string `json:"value"`
}

// VMWrites gives the writes of a VM and of its tags since a moment, newest first,
// from the Activity Log, which goes back 90 days and is minutes behind. Left out is
// what was refused before it could have an effect, and what this identity wrote
// itself: cvmguard's own writes carry the tags over that it read, and fail (If-Match)
// where they have changed meanwhile, so they bring no value in. An event that names
// no object id is one by nobody ("").
func (c *Client) VMWrites(ctx context.Context, id cvm.VMID, since time.Time) ([]cvm.Write, error) {
	k := call{"reading the Activity Log of", string(id), "Microsoft.Insights/eventtypes/values/read"}
	if strings.Contains(id.Fold(), "/virtualmachinescalesets/") {
		return nil, &fault.Error{Kind: fault.Blocked, Op: k.op, Object: k.object, Err: &cause{text: "an instance takes its tags from its scale set, whose writes aren't the instance's"},
			Next: "exempt it in the policy document"}
	}
	own, err := c.ownObjectID(ctx)
	if err != nil {
		return nil, k.fault(err)
	}
	now := c.now()
	if oldest := now.Add(time.Hour - activityDays); since.Before(oldest) {
		since = oldest
	}
	var writes []cvm.Write
	seen := map[string]bool{}
	for _, resource := range []string{string(id), string(id) + "/providers/Microsoft.Resources/tags/default"} {
		err := c.activity(ctx, k, id.Subscription(), resource, since, now, func(e activityEvent) {
			who := strings.ToLower(e.Claims[claimObjectID])
			if seen[e.EventDataID] || !setsTags(e) || own != "" && who == own {
				return
			}
			seen[e.EventDataID] = e.EventDataID != ""
			writes = append(writes, cvm.Write{Principal: who, At: e.EventTimestamp.UTC(), Event: e.EventDataID, Done: strings.EqualFold(e.Status.Value, "Succeeded")})
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(writes, func(a, b cvm.Write) int { return b.At.Compare(a.At) })
	return writes, nil
}

// setsTags says whether an event may have changed a VM's tags.
func setsTags(e activityEvent) bool {
	switch strings.ToLower(e.OperationName.Value) {
	case "microsoft.compute/virtualmachines/write", "microsoft.resources/tags/write", "microsoft.resources/tags/delete":
	default:
		return false
	}
	refused := strings.EqualFold(e.SubStatus.Value, "Forbidden") || strings.EqualFold(e.SubStatus.Value, "Unauthorized")
	return !(strings.EqualFold(e.Status.Value, "Failed") && refused)
}

// activity calls yield for each event of a resource in a span of time.
func (c *Client) activity(ctx context.Context, k call, subscription, resource string, from, to time.Time, yield func(activityEvent)) error {
	home, err := c.armHost(k)
	if err != nil {
		return err
	}
	const stamp = "2006-01-02T15:04:05.0000000Z"
	path := "/subscriptions/" + subscription + "/providers/Microsoft.Insights/eventtypes/management/values"
	query := url.Values{"api-version": {activityAPI}, "$select": {"eventDataId,eventTimestamp,claims,operationName,status,subStatus"},
		"$filter": {"eventTimestamp ge '" + from.UTC().Format(stamp) + "' and eventTimestamp le '" + to.UTC().Format(stamp) +
			"' and resourceUri eq '" + strings.ReplaceAll(resource, "'", "''") + "'"}}
	for range activityPages {
		var page struct {
			Value    []activityEvent `json:"value"`
			NextLink string          `json:"nextLink"`
		}
		if err := c.armGet(ctx, k, "ActivityLog.List", path, query, &page); err != nil {
			return err
		}
		for _, e := range page.Value {
			yield(e)
		}
		if page.NextLink == "" {
			return nil
		}
		next, err := url.Parse(page.NextLink)
		if err != nil || next.Scheme != "https" || !strings.EqualFold(next.Host, home) {
			return fault.New(fault.Blocked, k.op, k.object, "the log's next page is at another host")
		}
		path, query = next.Path, next.Query()
	}
	return &fault.Error{Kind: fault.Blocked, Op: k.op, Object: k.object, Err: &cause{text: "the log has more pages than are read"}, Next: "exempt the VM in the policy document"}
}

// ownObjectID is the object id of this identity as its own token says it, "" where
// the token doesn't; nothing is left out then.
func (c *Client) ownObjectID(ctx context.Context) (string, error) {
	cred, err := c.credential()
	if err != nil {
		return "", err
	}
	tok, err := cred.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{strings.TrimSuffix(c.cloudConfig().Services[cloud.ResourceManager].Audience, "/") + "/.default"}})
	if err != nil {
		return "", err
	}
	parts := strings.Split(tok.Token, ".")
	if len(parts) != 3 {
		return "", nil
	}
	var claims struct {
		OID string `json:"oid"`
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(payload, &claims)
	}
	if err == nil {
		return strings.ToLower(claims.OID), nil
	}
	return "", nil // a token is the service's own matter: one that can't be read names nobody
}
