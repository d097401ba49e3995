//go:build !release

package main

import (
	"math"
	"slices"
	"time"
)

// samples are measurements of one thing, in the order in which they were taken.
type samples []float64

func (s *samples) add(v float64) { *s = append(*s, v) }

// took adds a duration in milliseconds.
func (s *samples) took(d time.Duration) { s.add(float64(d) / float64(time.Millisecond)) }

// percentile is the smallest sample that at least the share p (0 to 1) of all
// samples don't exceed (the nearest rank): always a value that was measured, and
// the largest where there are too few for p. NaN without samples.
func (s samples) percentile(p float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := int(math.Ceil(p*float64(len(sorted)) - 1e-9)) // 0.07*100 is 7.000…1
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// highest is the largest sample, NaN without samples.
func (s samples) highest() float64 { return s.percentile(1) }
