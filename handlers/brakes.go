package handlers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"cvmguard/internal/customhandler"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

const exampleBrakes = `{"reset":"breaker"}`

// maxBrakesBody is the longest body that is read, in bytes.
const maxBrakesBody = 16 << 10

// BrakesView is where the brakes stand, as the API shows it.
type BrakesView struct {
	Policy  string      `json:"policy"` // hash of the one in force
	Breaker BreakerView `json:"breaker"`
	Canary  *CanaryView `json:"canary,omitempty"` // where policy has one
	Held    []HeldView  `json:"held"`             // the strongest brake first
	More    bool        `json:"more,omitempty"`   // more are held than are listed
}

// BreakerView is the breaker.
type BreakerView struct {
	Tripped bool       `json:"tripped"`
	At      *time.Time `json:"at,omitempty"`
	Why     string     `json:"why,omitempty"`
	Count   int        `json:"count,omitempty"`   // objects, when it tripped
	Policy  string     `json:"policy,omitempty"`  // by which it tripped
	Changed int        `json:"changedWithinHour"` // VMs and shared objects
	Most    int        `json:"vmsPerHour"`
	Share   string     `json:"sharePerHour"`
	// ShareFrom is how many changed objects the share needs before it counts.
	ShareFrom int `json:"shareFrom"`
	// VMs are those known, of which the share is a part.
	VMs     int        `json:"vms"`
	ResetAt *time.Time `json:"resetAt,omitempty"`
	ResetBy string     `json:"resetBy,omitempty"`
}

// CanaryView is the canary of the policy in force.
type CanaryView struct {
	VMs        int         `json:"vms"`
	Wait       string      `json:"wait,omitempty"` // "" where only a person releases it
	Places     []PlaceView `json:"places"`
	Ends       *time.Time  `json:"ends,omitempty"` // when the rest follows, if all is well
	ReleasedAt *time.Time  `json:"releasedAt,omitempty"`
	ReleasedBy string      `json:"releasedBy,omitempty"`
}

// PlaceView is one of the first objects that a policy changes.
type PlaceView struct {
	ID      string    `json:"id"`
	Key     string    `json:"key"`
	At      time.Time `json:"at"`
	Trouble string    `json:"trouble,omitempty"`
}

// HeldView is an object that a brake holds.
type HeldView struct {
	ID       string         `json:"id"`
	Key      string         `json:"key"`
	Shared   cvm.SharedKind `json:"shared,omitempty"`
	Brake    string         `json:"brake"`
	NextLook *time.Time     `json:"nextLook,omitempty"`
	Stopped  []cvm.Contest  `json:"stopped,omitempty"`
}

type brakesBody struct {
	Reset   *string `json:"reset"`
	Release *string `json:"release"`
	Resume  *string `json:"resume"`
	Step    *string `json:"step"`
}

// Brakes shows where the brakes stand, and takes a person's word on them: the
// breaker is reset, the canary released, a stopped step resumed.
func Brakes(source Source) customhandler.HTTPFunc {
	return func(ctx context.Context, c customhandler.HTTPCall) customhandler.HTTPAnswer {
		if p := only(c.Query); p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		if c.Method == http.MethodGet {
			app, err := source(ctx)
			if err != nil {
				return failed(err)
			}
			s, err := app.Loop.BrakesNow(ctx)
			if err != nil {
				return failed(err)
			}
			return answer(http.StatusOK, viewOfBrakes(s, app.Policy))
		}
		if c.Chunked {
			return bodyLost(exampleBrakes)
		}
		body, p := decodeBrakes(c.Body)
		if p != nil {
			return refuse(http.StatusBadRequest, *p)
		}
		app, err := source(ctx)
		if err != nil {
			return failed(err)
		}
		return app.sayToBrakes(ctx, body, c.Caller)
	}
}

func (a *App) sayToBrakes(ctx context.Context, body brakesBody, by string) customhandler.HTTPAnswer {
	switch {
	case body.Reset != nil:
		n, err := a.Loop.ResetBreaker(ctx, by)
		if fault.Is(err, fault.Invalid) {
			return refuse(http.StatusConflict, problem{Field: "reset", Given: *body.Reset, Message: err.Error(), Code: string(fault.Invalid)})
		}
		if err != nil {
			return failed(err)
		}
		return answer(http.StatusAccepted, map[string]any{"reset": *body.Reset, "enqueued": n})
	case body.Release != nil:
		n, err := a.Loop.ReleaseCanary(ctx, by)
		if fault.Is(err, fault.Invalid) {
			return refuse(http.StatusConflict, problem{Field: "release", Given: *body.Release, Message: err.Error(), Code: string(fault.Invalid)})
		}
		if err != nil {
			return failed(err)
		}
		return answer(http.StatusAccepted, map[string]any{"release": *body.Release, "enqueued": n})
	}
	step := ""
	if body.Step != nil {
		step = *body.Step
	}
	o, steps, err := a.Loop.Resume(ctx, *body.Resume, step, by)
	var ask *reconcile.AskError
	switch {
	case errors.As(err, &ask) && ask.Field == "step":
		return refuse(http.StatusNotFound, problem{Field: "step", Given: step, Message: err.Error(), Code: string(fault.NotFound)})
	case fault.Is(err, fault.Invalid):
		return refuse(http.StatusBadRequest, problem{Field: "resume", Given: *body.Resume, Message: err.Error(), Example: `{"resume":"` + exampleVM + `"}`, Code: string(fault.Invalid)})
	case fault.Is(err, fault.NotFound):
		return refuse(http.StatusNotFound, problem{Field: "resume", Given: *body.Resume, Message: err.Error(), Code: string(fault.NotFound)})
	case err != nil:
		return failed(err)
	}
	kinds := []string{}
	for _, s := range steps {
		kinds = append(kinds, s.Step)
	}
	return answer(http.StatusAccepted, map[string]any{"resume": o.ID, "key": o.Chain(), "steps": kinds, "enqueued": 1})
}

func decodeBrakes(body []byte) (brakesBody, *problem) {
	bad := func(given, format string, args ...any) (brakesBody, *problem) {
		return brakesBody{}, &problem{Field: "body", Given: given, Message: fmt.Sprintf(format, args...), Example: exampleBrakes}
	}
	if len(body) > maxBrakesBody {
		return bad(strconv.Itoa(len(body))+" bytes", "the body is too long: the most is %d bytes", maxBrakesBody)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return bad("", "a JSON body is needed")
	}
	var b brakesBody
	if err := decodeBody(body, &b); err != nil {
		return bad(string(body), "the body can't be read: %s; it has one of reset, release, resume", unreadable(err))
	}
	n := 0
	for _, f := range []*string{b.Reset, b.Release, b.Resume} {
		if f != nil {
			n++
		}
	}
	if n != 1 {
		return bad(string(body), "exactly one of reset, release and resume must be given")
	}
	switch {
	case b.Reset != nil && *b.Reset != reconcile.BrakeBreaker:
		return brakesBody{}, &problem{Field: "reset", Given: *b.Reset, Message: "only the breaker can be reset", Example: exampleBrakes}
	case b.Release != nil && *b.Release != reconcile.BrakeCanary:
		return brakesBody{}, &problem{Field: "release", Given: *b.Release, Message: "only the canary can be released", Example: `{"release":"canary"}`}
	case b.Step != nil && b.Resume == nil:
		return brakesBody{}, &problem{Field: "step", Given: *b.Step, Message: "it goes with resume", Example: `{"resume":"` + exampleVM + `","step":"tag"}`}
	}
	return b, nil
}

func viewOfBrakes(s reconcile.BrakesState, d *policy.Document) BrakesView {
	limits := d.Brakes
	v := BrakesView{Policy: s.Policy, Held: []HeldView{}, More: s.More, Breaker: BreakerView{Tripped: s.Breaker.Tripped, At: timeOrNil(s.Breaker.At), Why: s.Breaker.Why,
		Count: s.Breaker.Count, Policy: s.Breaker.Policy, Changed: s.Changed, Most: limits.MaxVMsPerHour, Share: strconv.Itoa(limits.MaxSharePerHour) + "%",
		ShareFrom: limits.ShareFrom, VMs: s.VMs,
		ResetAt: timeOrNil(s.Breaker.ResetAt), ResetBy: s.Breaker.ResetBy}}
	if limits.Canary.VMs > 0 {
		v.Canary = &CanaryView{VMs: limits.Canary.VMs, Places: []PlaceView{}, Ends: timeOrNil(s.Ends), ReleasedAt: timeOrNil(s.Canary.ReleasedAt), ReleasedBy: s.Canary.ReleasedBy}
		if limits.Canary.Wait > 0 {
			v.Canary.Wait = limits.Canary.Wait.String()
		}
		for _, p := range s.Canary.Places {
			v.Canary.Places = append(v.Canary.Places, PlaceView{p.ID, p.Chain, p.At, s.Trouble[p.Chain]})
		}
	}
	for _, h := range s.Held {
		v.Held = append(v.Held, HeldView{h.ID, h.Chain, h.Shared, h.Brake, timeOrNil(h.NextLook), h.Stopped})
	}
	return v
}
