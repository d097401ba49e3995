package azuresim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// bucket is a token bucket: size tokens, refilled at rate a second.
type bucket struct {
	tokens, size, rate float64
	at                 time.Time
}

// take takes one token; wait is how long until there is one, 0 if it was taken.
func (b *bucket) take(now time.Time) (left int, wait time.Duration) {
	b.tokens = min(b.size, b.tokens+now.Sub(b.at).Seconds()*b.rate)
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return int(b.tokens), 0
	}
	return 0, time.Duration((1 - b.tokens) / b.rate * float64(time.Second))
}

// A limit is a bucket's size and how many tokens come back in a minute.
type limit struct {
	policy string
	size   float64
	perMin float64
}

// computeLimits are the Compute provider's own: for one VM, then for the
// subscription. Azure names them "<operation class>[Subscription]Maximum"; the
// names here are of that form.
func computeLimits(x *exchange) (vm, sub limit) {
	a := strings.ToLower(x.action)
	switch {
	case strings.HasSuffix(a, "locations/operations/read"):
		return limit{"GetOperationResource", 45, 15}, limit{"GetOperationSubscriptionMaximum", 15000, 5000}
	case x.r.Method == http.MethodGet && vmOf(x.scope) == "":
		return limit{}, limit{"HighCostGetSubscriptionMaximum", 900, 300}
	case x.r.Method == http.MethodGet:
		return limit{"LowCostGetResource", 36, 12}, limit{"LowCostGetSubscriptionMaximum", 24000, 8000}
	case strings.HasSuffix(a, "deallocate/action"), strings.HasSuffix(a, "virtualmachines/delete"):
		return limit{"DeleteVMResource", 12, 4}, limit{"DeleteVMSubscriptionMaximum", 1500, 500}
	default:
		return limit{"UpdateVMResource", 12, 4}, limit{"UpdateVMSubscriptionMaximum", 1500, 500}
	}
}

// throttle answers 429 when a bucket is empty. Under Sim.mu.
func (s *Sim) throttle(x *exchange) bool {
	if !s.knobs.Throttle || x.plane != PlaneARM || x.principal == nil {
		return false
	}
	kind, l := "reads", limit{size: 250, perMin: 25 * 60}
	switch {
	case x.r.Method == http.MethodDelete:
		kind, l = "deletes", limit{size: 200, perMin: 10 * 60}
	case x.write:
		kind, l = "writes", limit{size: 200, perMin: 10 * 60}
	}
	left, wait := s.take("arm "+x.principal.Name+" "+kind, l)
	if wait > 0 {
		retryAfter(x.header, wait)
		x.fail(http.StatusTooManyRequests, "SubscriptionRequestsThrottled", fmt.Sprintf(
			"Number of requests for subscription '%s' and operation '%s' exceeded the backend storage limit. Please try again after '%d' seconds.",
			s.opt.Subscription, kind, int(wait.Seconds())+1))
		return true
	}
	x.header.Set("x-ms-ratelimit-remaining-subscription-"+kind, strconv.Itoa(left))
	if !strings.HasPrefix(strings.ToLower(x.action), "microsoft.compute/") {
		return false
	}
	vm, sub := computeLimits(x)
	for _, l := range []limit{vm, sub} {
		if l.policy == "" {
			continue
		}
		key := l.policy
		if l.policy == vm.policy {
			key += " " + orElse(vmOf(x.scope), fold(x.scope))
		}
		left, wait := s.take(key, l)
		if wait > 0 {
			x.tooMany(l.policy, wait)
			return true
		}
		x.header["x-ms-ratelimit-remaining-resource"] = append(x.header["x-ms-ratelimit-remaining-resource"],
			fmt.Sprintf("Microsoft.Compute/%s;%d", l.policy, left))
	}
	return false
}

func (s *Sim) take(key string, l limit) (int, time.Duration) {
	now := time.Now()
	b, ok := s.buckets[key]
	if !ok {
		b = &bucket{tokens: l.size, size: l.size, rate: l.perMin / 60, at: now}
		s.buckets[key] = b
	}
	return b.take(now)
}

// tooMany is Compute's 429: an outer OperationNotAllowed without the envelope
// "error", the cause in details, the policy's figures as JSON in a string.
func (x *exchange) tooMany(policy string, wait time.Duration) {
	retryAfter(x.header, wait)
	x.header["x-ms-ratelimit-remaining-resource"] = append(x.header["x-ms-ratelimit-remaining-resource"], "Microsoft.Compute/"+policy+";0")
	now := x.s.now()
	inner, err := json.Marshal(struct {
		Group    string `json:"operationGroup"`
		Start    string `json:"startTime"`
		End      string `json:"endTime"`
		Allowed  int    `json:"allowedRequestCount"`
		Measured int    `json:"measuredRequestCount"`
	}{policy, stamp(now), stamp(now.Add(wait)), 12, 13})
	if err != nil {
		x.s.log.Error("throttle text", "err", err)
	}
	x.reply(http.StatusTooManyRequests, doc{
		"code":    "OperationNotAllowed",
		"message": "The server rejected the request because too many requests have been received for this subscription.",
		"details": []any{doc{"code": "TooManyRequests", "target": policy, "message": string(inner)}},
	})
}

// vmOf is the folded id of the VM that a scope is or is in, "" if none.
func vmOf(scope string) string {
	id := fold(scope)
	const mark = "/providers/microsoft.compute/virtualmachines/"
	i := strings.Index(id, mark)
	if i < 0 {
		return ""
	}
	rest := id[i+len(mark):]
	if rest == "" {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return id[:i+len(mark)] + name
}
