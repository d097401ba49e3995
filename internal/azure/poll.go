package azure

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"

	"cvmguard/internal/fault"
	"cvmguard/internal/remedy"
)

// opResult is the result type of resumed pollers. The result itself isn't used:
// what an operation did is read on the resource.
type opResult struct{}

// UnmarshalJSON takes anything.
func (*opResult) UnmarshalJSON([]byte) error { return nil }

// PollOperation asks once how the operation behind a resume token stands. It
// answers Underway with the token to store next, Effected when the operation
// succeeded (what it did is the caller's to read), or Ended with the error that
// it failed with. An operation that is gone is fault.NotFound. A token that names
// any host but Resource Manager's is fault.Blocked and nothing is sent: the
// request would carry the identity's token there.
func (c *Client) PollOperation(ctx context.Context, token string) (remedy.Progress, error) {
	k := call{op: "asking about an operation", action: "Microsoft.Compute/locations/operations/read"}
	state, err := c.checkToken(k, token)
	if err != nil {
		return remedy.Progress{}, err
	}
	cl, err := c.armClient()
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	// The SDK ties a token to the type of its result; ours takes every operation.
	own, err := json.Marshal(map[string]any{"type": "opResult", "token": state})
	if err != nil {
		return remedy.Progress{}, fault.New(fault.Bug, k.op, "", "writing the resume token: %w", err)
	}
	p, err := runtime.NewPollerFromResumeToken[opResult](string(own), cl.Pipeline(), nil)
	if err != nil {
		return remedy.Progress{}, blockedToken(k, "it is not one that this version can resume")
	}
	if p.Done() {
		return remedy.Progress{State: remedy.Effected}, nil
	}
	resp, err := p.Poll(context.WithValue(ctx, runtime.CtxAPINameKey{}, "Operations.Get"))
	if err != nil {
		return remedy.Progress{}, k.fault(err)
	}
	wait := retryAfter(resp)
	if !p.Done() {
		if resp.StatusCode >= 400 {
			// A poll by Location that was throttled or timed out changes nothing.
			return remedy.Progress{}, k.fault(runtime.NewResponseError(resp))
		}
		next, err := p.ResumeToken()
		if err != nil {
			next = token
		}
		return remedy.Progress{State: remedy.Underway, Token: next, RetryAfter: wait}, nil
	}
	if resp.StatusCode >= 400 || failedBody(resp) {
		// Result makes no call for an operation that failed.
		_, err := p.Result(ctx)
		err = k.failed(err)
		if fault.Is(err, fault.NotFound) && resp.StatusCode == 404 {
			return remedy.Progress{}, err
		}
		return remedy.Progress{State: remedy.Ended, Err: err}, nil
	}
	return remedy.Progress{State: remedy.Effected}, nil
}

// checkToken gives a resume token's inner state if every text in it that could be
// an address is Resource Manager's.
func (c *Client) checkToken(k call, token string) (map[string]any, error) {
	var t struct {
		Token map[string]any `json:"token"`
	}
	if err := json.Unmarshal([]byte(token), &t); err != nil || len(t.Token) == 0 {
		return nil, blockedToken(k, "it is not a resume token")
	}
	home, err := url.Parse(c.cloudConfig().Services[cloud.ResourceManager].Endpoint)
	if err != nil || home.Host == "" {
		return nil, fault.New(fault.Bug, k.op, "", "the cloud has no Resource Manager endpoint")
	}
	for name, v := range t.Token {
		s, ok := v.(string)
		if !ok {
			return nil, blockedToken(k, "its "+name+" is not a text")
		}
		if !strings.ContainsAny(s, "/:\\@") {
			continue // a state, a method
		}
		u, err := url.Parse(s)
		if err != nil || u.Scheme != home.Scheme || !strings.EqualFold(u.Host, home.Host) || u.User != nil {
			return nil, blockedToken(k, "its "+name+" is an address outside Resource Manager ("+home.Host+")")
		}
	}
	return t.Token, nil
}

func blockedToken(k call, why string) error {
	return &fault.Error{Kind: fault.Blocked, Op: k.op, Code: "resume-token-refused", Err: &cause{text: "the stored resume token is refused: " + why},
		Next: "find out who wrote to the storage account, then rerun the object"}
}
