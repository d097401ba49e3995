package local_test

import (
	"context"
	"testing"
	"time"

	"cvmguard/internal/local"
	"cvmguard/internal/local/story"
)

// Every story happens as it is told, and leaves chains that verify.
func TestStories(t *testing.T) {
	for _, st := range story.All() {
		t.Run(st.Name, func(t *testing.T) {
			w := world(t, st.Options(local.Options{}))
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
			defer cancel()
			if _, err := st.Play(ctx, w, t.Logf); err != nil {
				t.Fatal(err)
			}
			verifyChains(t, w)
		})
	}
}
