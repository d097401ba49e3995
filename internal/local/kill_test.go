package local_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/local"
)

// kills is how often the handler is killed.
const kills = 50

// TestFiftyKills kills the handler (SIGKILL) at 50 random moments during the scene
// and compares the end with a world in which nobody was killed. CVMGUARD_SEED
// repeats a run's moments.
func TestFiftyKills(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("CVMGUARD_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 50))
	short := map[string]string{"CVMGUARD_LEASE": "4s", "CVMGUARD_TURN_TIMEOUT": "3s", "CVMGUARD_MARGIN": "500ms", "CVMGUARD_TRANSITION_WAIT": "1s",
		"CVMGUARD_MAX_POLL": "2s", "CVMGUARD_NONCE_LIFE": "2m", "CVMGUARD_SLOW_PACE": "8s"}
	var final [2]map[string][]string
	var wrote [2][]string
	for i := range 2 {
		w := world(t, local.Options{Mode: "enforce", Settings: short, HidingTime: 2 * time.Second,
			Operation: 1200 * time.Millisecond, Ahead: 3 * time.Second})
		done := make(chan struct{})
		stopped := make(chan int, 1)
		go func() {
			n := 0
			for i == 1 && n < kills {
				select {
				case <-done:
					stopped <- n
					return
				case <-time.After(time.Duration(10+r.IntN(300)) * time.Millisecond):
				}
				if w.Host().KillHandler() == nil {
					n++
				}
			}
			stopped <- n
		}()
		scene := play(t, w, 1)
		if i == 1 {
			// The scene may be over before the last kill: the VMs are looked at again.
			n := 0
			for again := true; again; {
				select {
				case n = <-stopped:
					again = false
				default:
					if err := w.Publish(t.Context(), rerunEvents(w, local.IDs(scene))); err != nil {
						t.Fatal(err)
					}
					time.Sleep(300 * time.Millisecond)
				}
			}
			rest(t, w, local.IDs(scene))
			t.Logf("%d kills, %+v", n, w.Host().Stats())
		}
		close(done)
		expect(t, w, scene, false)
		final[i], wrote[i] = finalState(t, w), writes(w)
	}
	for object, want := range final[0] {
		if got := final[1][object]; !slices.Equal(got, want) {
			t.Errorf("%s: after %d kills (seed %d):\n  %s\nwithout:\n  %s", object, kills, seed, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
	if !slices.Equal(wrote[0], wrote[1]) {
		t.Errorf("seed %d: with kills\n%s\nwithout\n%s", seed, strings.Join(wrote[1], "\n"), strings.Join(wrote[0], "\n"))
	}
}

// finalState is an object's last verdict with its findings, and its outcomes.
func finalState(t *testing.T, w *local.World) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for object, lines := range histories(t, w) {
		last := ""
		var outcomes []string
		for _, l := range lines {
			switch {
			case strings.HasPrefix(l, "outcome"):
				outcomes = append(outcomes, l)
			case !strings.HasPrefix(l, "intent"):
				last = l
			}
		}
		slices.Sort(outcomes)
		out[object] = append([]string{last}, outcomes...)
	}
	return out
}

// rerunEvents are writes of nobody's: duplicates of the creation events.
func rerunEvents(w *local.World, ids []string) []azuresim.Event {
	var out []azuresim.Event
	for _, id := range ids {
		out = append(out, w.Sim.VMEvent(id, "write", false))
	}
	return out
}
