package handlers_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"cvmguard/handlers"
	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
	"cvmguard/internal/remedy"
)

func TestBrakes(t *testing.T) {
	tw := newTwins(t)
	tag := remedy.Step{Kind: remedy.Tag, Target: vmNamed("vm1")}
	tw.each(func(w *world) {
		doc := *w.app.Policy
		doc.Brakes.Canary = policy.Canary{VMs: 2, Wait: time.Hour}
		w.app.Policy, w.app.Loop.Policy = &doc, &doc
	})
	var v handlers.BrakesView
	a := tw.do("GET", "/api/brakes", "")
	a.into(t, &v)
	if a.Status != 200 || v.Breaker.Tripped || v.Breaker.Most != 500 || v.Breaker.Share != "50%" || v.Breaker.ShareFrom != 20 || v.Breaker.VMs != 0 || v.Held == nil || v.Canary == nil || v.Canary.VMs != 2 || v.Canary.Wait != "1h0m0s" {
		t.Errorf("%d %+v", a.Status, v)
	}
	tw.each(func(w *world) {
		books := ledger.Brakes{Tables: w.store.Tables()}
		if _, err := books.Trip(context.Background(), ledger.Breaker{}, w.clock.Now(), "too many", 7, "p"); err != nil {
			t.Fatal(err)
		}
		place := ledger.CanaryPlace{Chain: ledger.ChainKey("x", strings.Repeat("a", 26)), ID: "x", At: w.clock.Now()}
		if ok, err := books.TakePlace(context.Background(), w.app.Policy.Hash, 2, place); !ok || err != nil {
			t.Fatal(ok, err)
		}
		w.known(vmNamed("vm1"), func(r *ledger.Row) {
			r.Braked = reconcile.BrakeBreaker
			r.Stop(tag, ledger.WhyChangedBack, w.clock.Now())
		})
		w.known(vmNamed("vm2"), func(r *ledger.Row) { r.Braked = reconcile.BrakeCanary })
		w.known(vmNamed("vm3"), func(r *ledger.Row) { r.Shadow = policy.Unknown })
		w.known(vmNamed("vm4"), func(r *ledger.Row) {
			r.WouldBeRefused = []azurepolicy.Refusal{{Rule: "vtpm", Definition: "cvmguard-vtpm", Why: "off"}}
		})
	})
	tw.do("GET", "/api/brakes", "").into(t, &v)
	if !v.Breaker.Tripped || v.Breaker.Why != "too many" || v.Breaker.Count != 7 || len(v.Held) != 2 || v.Held[0].Brake != reconcile.BrakeBreaker || len(v.Held[0].Stopped) != 1 ||
		len(v.Canary.Places) != 1 || v.Canary.Places[0].Trouble == "" {
		t.Errorf("%+v", v)
	}
	var list struct{ VMs []handlers.VMView }
	tw.do("GET", "/api/vms?differ=true", "").into(t, &list)
	if len(list.VMs) != 1 || list.VMs[0].Name != "vm3" || list.VMs[0].Shadow != policy.Unknown {
		t.Errorf("%+v", list)
	}
	for _, q := range []string{"differ=maybe", "refused=1"} {
		if a := tw.do("GET", "/api/vms?"+q, ""); a.Status != 400 {
			t.Errorf("%s: %+v", q, a)
		}
	}
	list.VMs = nil
	tw.do("GET", "/api/vms?refused=true", "").into(t, &list)
	if len(list.VMs) != 1 || list.VMs[0].Name != "vm4" || list.VMs[0].WouldBeRefused[0].Rule != "vtpm" {
		t.Errorf("%+v", list)
	}
	for body, want := range map[string]string{
		"":                                       "a JSON body is needed",
		"{}":                                     "exactly one of reset, release and resume",
		`{"reset":"breaker","release":"canary"}`: "exactly one",
		`{"reset":"canary"}`:                     "only the breaker can be reset",
		`{"release":"breaker"}`:                  "only the canary can be released",
		`{"step":"tag","reset":"breaker"}`:       "it goes with resume",
		`{"reset":true}`:                         "reset is of type bool",
		`{"rest":"breaker"}`:                     "unknown field",
		`{"resume":"vm1"}`:                       "neither a disk encryption set",
	} {
		if a := tw.do("POST", "/api/brakes", body); a.Status != 400 || !strings.Contains(a.Body, want) {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	if a := tw.do("POST", "/api/brakes", `{"resume":"`+vmNamed("vm2")+`"}`); a.Status != 404 || !strings.Contains(a.Body, "no such step") {
		t.Errorf("%+v", a)
	}
	if a := tw.do("POST", "/api/brakes", `{"resume":"`+vmNamed("vm1")+`","step":"start"}`); a.Status != 404 {
		t.Errorf("%+v", a)
	}
	if a := tw.do("POST", "/api/brakes", `{"resume":"`+vmNamed("vm1")+`","step":"tag"}`); a.Status != 202 || !strings.Contains(a.Body, `"steps":["tag"]`) {
		t.Errorf("%+v", a)
	}
	if a := tw.do("POST", "/api/brakes", `{"release":"canary"}`); a.Status != 202 || !strings.Contains(a.Body, `"enqueued":1`) {
		t.Errorf("%+v", a)
	}
	if a := tw.do("POST", "/api/brakes", `{"reset":"breaker"}`); a.Status != 202 || !strings.Contains(a.Body, `"enqueued":1`) {
		t.Errorf("%+v", a)
	}
	tw.each(func(w *world) {
		got := w.queued()
		if len(got) != 3 || got[0].Cause.Kind != ledger.CauseResume || got[0].Cause.ID != "tag" || got[1].VM != vmNamed("vm2") || got[2].VM != vmNamed("vm1") {
			t.Errorf("%+v", got)
		}
	})
	tw.do("GET", "/api/brakes", "").into(t, &v)
	if v.Breaker.Tripped || v.Breaker.ResetAt == nil || v.Canary.ReleasedAt == nil || v.Breaker.VMs != 4 {
		t.Errorf("%+v", v)
	}
}

// A breaker that hasn't tripped isn't reset: what it has counted stays.
func TestAResetOfABreakerThatHasNotTripped(t *testing.T) {
	tw := newTwins(t)
	tw.each(func(w *world) {
		books := ledger.Brakes{Tables: w.store.Tables()}
		c, err := books.Changes(context.Background(), ledger.Breaker{}, w.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := books.Change(context.Background(), ledger.Breaker{}, c, chainOf(vmNamed("vm1")), vmNamed("vm1")); !ok || err != nil {
			t.Fatal(ok, err)
		}
	})
	writes := tw.writes()
	a := tw.do("POST", "/api/brakes", `{"reset":"breaker"}`)
	if p := a.problem(t); a.Status != 409 || p.Field != "reset" || !strings.Contains(p.Message, "it hasn't tripped and holds nothing") || writes() != 0 {
		t.Errorf("%d %+v, %d writes", a.Status, p, writes())
	}
	var v handlers.BrakesView
	tw.do("GET", "/api/brakes", "").into(t, &v)
	if v.Breaker.Changed != 1 || v.Breaker.ResetAt != nil {
		t.Errorf("%+v", v.Breaker)
	}
}
