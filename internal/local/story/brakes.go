package story

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/azuresim"
)

// quarantineAll is a bad policy: it asks for keys of 4096 bits, which nobody has,
// and quarantines who hasn't.
var quarantineAll = [2]string{"key-size: {effect: enforce, minBits: 2048}", "key-size: {effect: quarantine, minBits: 4096}"}

// noRegion leaves out what policy wants ready in a region, where a story counts
// writes.
var noRegion = [2]string{"ensureRegionKey: true\n  ensureRegionDES: true", "ensureRegionKey: false\n  ensureRegionDES: false"}

// noGrant leaves rights as they are.
var noGrant = [2]string{"grantRights: true", "grantRights: false"}

// noTag leaves the verdict's tag out, so that quarantine is the one change.
var noTag = [2]string{"  tag: true\n", "  tag: false\n"}

func brakes(lines string) [2]string {
	return [2]string{"brakes:\n", "brakes:\n" + lines}
}

// changed lists the VMs that the handler wrote to, but for asking them for
// evidence.
func (s *Stage) changed() []string {
	var out []string
	for _, id := range s.VMs {
		if s.Writes(id+"/") > 0 || slices.ContainsFunc(s.Sim.Writes(azuresim.HandlerPrincipal), func(c azuresim.Call) bool {
			return strings.HasSuffix(strings.ToLower(c.Path), strings.ToLower(id))
		}) {
			out = append(out, id)
		}
	}
	return out
}

// breaker: a bad policy quarantines every VM; after four of twelve the breaker
// trips and nothing more is written until a person resets it.
func breaker(ctx context.Context, s *Stage) error {
	if _, _, err := s.estate(12, azuresim.KeySpec{}); err != nil {
		return err
	}
	s.Say("twelve sound VMs, and a policy that asks for keys of 4096 bits and quarantines who has none; the breaker is set to 4 VMs an hour")
	if err := s.Created(ctx); err != nil {
		return err
	}
	changed := s.changed()
	s.Want(len(changed) == 4, "4 VMs were changed", "%d: %v", len(changed), names(changed))
	held := 0
	for _, id := range s.VMs {
		row, err := s.Row(ctx, id)
		if err != nil {
			return err
		}
		if row.Braked != "" {
			held++
		}
	}
	s.Want(held >= 8, "8 VMs or more are held by a brake", "%d", held)
	s.Say("%d VMs were quarantined, then the breaker tripped: %d are held", len(changed), held)
	calls := len(s.Sim.Writes(azuresim.HandlerPrincipal))
	for _, id := range s.VMs {
		if err := s.Rerun(ctx, id); err != nil {
			return err
		}
	}
	after := len(s.Sim.Writes(azuresim.HandlerPrincipal))
	s.Want(after == calls, "nothing is written after the breaker has tripped", "%d writes", after-calls)
	s.Say("all twelve are run again by hand: not one more write")
	var answer struct {
		Breaker struct {
			Tripped bool `json:"tripped"`
		} `json:"breaker"`
	}
	if err := s.Call(ctx, http.MethodGet, "/brakes", nil, &answer, http.StatusOK); err != nil {
		return err
	}
	s.Want(answer.Breaker.Tripped, "GET /brakes says that the breaker has tripped", "tripped: %t", answer.Breaker.Tripped)
	if err := s.Call(ctx, http.MethodPost, "/brakes", map[string]string{"reset": "breaker"}, nil, http.StatusAccepted); err != nil {
		return err
	}
	if err := s.Until(ctx, "more VMs are changed", func() (bool, error) { return len(s.changed()) > 4, nil }); err != nil {
		return err
	}
	if err := s.Rest(ctx, s.VMs); err != nil {
		return err
	}
	changed = s.changed()
	s.Want(len(changed) == 8, "after the reset 8 VMs are changed in all", "%d", len(changed))
	s.Say("a person resets it: four more, and it trips again (%d in all)", len(changed))
	return nil
}

// canary: two VMs first, the rest when a person releases it.
func canary(ctx context.Context, s *Stage) error {
	if _, _, err := s.estate(6, azuresim.KeySpec{}); err != nil {
		return err
	}
	s.Say("six VMs and a policy with a canary of two")
	if err := s.Created(ctx); err != nil {
		return err
	}
	changed := s.changed()
	s.Want(len(changed) == 2, "2 VMs were changed", "%d: %v", len(changed), names(changed))
	s.Say("two are changed: %s and %s; the others wait", name(first(changed, 0)), name(first(changed, 1)))
	if err := s.Call(ctx, http.MethodPost, "/brakes", map[string]string{"release": "canary"}, nil, http.StatusAccepted); err != nil {
		return err
	}
	if err := s.Until(ctx, "the others are changed", func() (bool, error) { return len(s.changed()) == 6, nil }); err != nil {
		return fmt.Errorf("%w (%d changed)", err, len(s.changed()))
	}
	s.Say("a person releases it: all six")
	return s.Rest(ctx, s.VMs)
}

func first(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "nobody"
}

// times is how often something was done, in words.
func times(n int) string {
	switch n {
	case 0:
		return "nothing"
	case 1:
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// twoEnforcers: another hand takes the quarantine tag off again and again;
// cvmguard sets it anew twice, then stops and says so.
func twoEnforcers(ctx context.Context, s *Stage) error {
	if _, _, err := s.estate(1, azuresim.KeySpec{}); err != nil {
		return err
	}
	if err := s.Created(ctx); err != nil {
		return err
	}
	id := s.VMs[0]
	const tag = "cvmguard-quarantine"
	s.Say("%s is quarantined by tag", name(id))
	for i := range 4 {
		before := s.Writes(id)
		time.Sleep(2500 * time.Millisecond) // longer than a replica may lag, or it would be no change by others
		if err := s.Sim.SetTag(id, tag, "no"); err != nil {
			return err
		}
		if err := s.Changed(ctx, id); err != nil {
			return err
		}
		wrote := s.Writes(id) - before
		s.Say("another hand sets it to \"no\": cvmguard writes %s", times(wrote))
		want := 1
		if i >= 1 {
			want = 0
		}
		s.Want(wrote == want, fmt.Sprintf("after change %d cvmguard writes %s", i+1, times(want)), "%s", times(wrote))
	}
	if err := s.Expect(ctx, id, "non-compliant", "changed-back"); err != nil {
		return err
	}
	s.Say("the value was changed back twice: the step is stopped, and the finding changed-back says so")
	return nil
}
