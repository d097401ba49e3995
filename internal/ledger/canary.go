package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

const (
	canaryPrefix = "canary-"
	releaseKey   = "release"
)

// Canary is where the canary of one policy stands.
type Canary struct {
	Places     []CanaryPlace // by number
	ReleasedAt time.Time     // zero while the rest waits
	ReleasedBy string        // a person, or ReleasedByTime
}

// ReleasedByTime is the Canary.ReleasedBy of a canary whose time was over without
// trouble.
const ReleasedByTime = "time"

// CanaryPlace is one of the first objects that a policy changes.
type CanaryPlace struct {
	Chain  string
	ID     string
	Shared cvm.SharedKind // "" for a VM
	Was    policy.Value   // its verdict when it took its place
	At     time.Time
}

// Holds says whether an object is one of the canaries.
func (c Canary) Holds(chain string) bool {
	return slices.ContainsFunc(c.Places, func(p CanaryPlace) bool { return p.Chain == chain })
}

// Last is when the last place was taken.
func (c Canary) Last() time.Time {
	var last time.Time
	for _, p := range c.Places {
		if p.At.After(last) {
			last = p.At
		}
	}
	return last
}

// Canary reads a policy's canary.
func (b Brakes) Canary(ctx context.Context, policyHash string) (Canary, error) {
	var c Canary
	var bad error
	err := b.Tables.Query(ctx, TableBrakes, Filter{PK: canaryPrefix + policyHash}, func(e Entity) bool {
		d := columns{op: "reading the canary of policy", object: policyHash, cols: e.Cols, next: "delete the row " + e.RK + " of that partition in table " + TableBrakes}
		at := d.moment("at")
		if d.err != nil {
			bad = d.err
			return false
		}
		if e.RK == releaseKey {
			c.ReleasedAt, c.ReleasedBy = at, e.Cols["by"]
			return true
		}
		c.Places = append(c.Places, CanaryPlace{Chain: e.Cols["chain"], ID: e.Cols["id"], Shared: cvm.SharedKind(e.Cols["shared"]), Was: policy.Value(e.Cols["was"]), At: at})
		return true
	})
	if fault.Is(err, fault.NotFound) { // no table: nothing was ever changed
		return Canary{}, nil
	}
	if err == nil {
		err = bad
	}
	if err != nil {
		return Canary{}, fmt.Errorf("reading the canary: %w", err)
	}
	slices.SortStableFunc(c.Places, func(a, b CanaryPlace) int { return a.At.Compare(b.At) })
	return c, nil
}

// TakePlace takes one of the places of a policy's canary, if one is free. Places
// have numbers, each of which can be taken once, so that there are never more.
func (b Brakes) TakePlace(ctx context.Context, policyHash string, places int, p CanaryPlace) (bool, error) {
	for n := 1; n <= places; n++ {
		_, err := b.Tables.Insert(ctx, TableBrakes, Entity{PK: canaryPrefix + policyHash, RK: fmt.Sprintf("%04d", n),
			Cols: map[string]string{"chain": p.Chain, "id": p.ID, "shared": string(p.Shared), "was": string(p.Was), "at": TimeText(p.At)}})
		if err == nil {
			return true, nil
		}
		if !fault.Is(err, fault.Conflict) {
			return false, fmt.Errorf("taking a canary's place: %w", err)
		}
		there, err := b.Tables.Get(ctx, TableBrakes, canaryPrefix+policyHash, fmt.Sprintf("%04d", n))
		if err == nil && there.Cols["chain"] == p.Chain {
			return true, nil // the answer to an earlier try was lost
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return false, fmt.Errorf("taking a canary's place: %w", err)
		}
	}
	return false, nil
}

// ReleaseCanary lets all objects follow a policy's canary. The first word counts.
func (b Brakes) ReleaseCanary(ctx context.Context, policyHash, by string, now time.Time) error {
	_, err := b.Tables.Insert(ctx, TableBrakes, Entity{PK: canaryPrefix + policyHash, RK: releaseKey,
		Cols: map[string]string{"by": strings.ToValidUTF8(by, "\uFFFD"), "at": TimeText(now)}})
	if err != nil && !fault.Is(err, fault.Conflict) {
		return fmt.Errorf("releasing the canary: %w", err)
	}
	return nil
}
