package local_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/cvm"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
	"cvmguard/internal/remedy"
)

// play plays the scene's stages and checks what its author expects of the first
// and of the last.
func play(t *testing.T, w *local.World, stages int) *azuresim.Scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	scene, err := w.Play(ctx, stages, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return scene
}

func expect(t *testing.T, w *local.World, scene *azuresim.Scene, last bool) local.Run {
	t.Helper()
	run, err := w.Result(t.Context(), local.IDs(scene), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range run.VMs {
		want := scene.VMs[i].First
		if last {
			want = scene.VMs[i].Last
		}
		if string(v.Verdict) != want.Verdict {
			t.Errorf("%s (%s) is %s, want %s: %s", v.Name, scene.VMs[i].About, v.Verdict, want.Verdict, show(v))
		}
		for _, r := range want.Reasons {
			if !slices.ContainsFunc(v.Findings, func(f local.RunFinding) bool { return f.Reason == r && f.State != cvm.Pass }) {
				t.Errorf("%s lacks the reason %s: %v", v.Name, r, v.Findings)
			}
		}
		if v.Verdict != "gone" && (v.Kind != scene.VMs[i].Kind || v.TEE != scene.VMs[i].TEE) {
			t.Errorf("%s is a %s on %s, want %s on %s", v.Name, v.Kind, v.TEE, scene.VMs[i].Kind, scene.VMs[i].TEE)
		}
	}
	return run
}

func TestTheMainJob(t *testing.T) {
	w := world(t, local.Options{Mode: "enforce"})
	scene := play(t, w, 1)
	run := expect(t, w, scene, false)
	attested := 0
	for _, v := range run.VMs {
		if v.Attestation.MAA.State == cvm.Pass && v.Attestation.Evidence.State == cvm.Pass {
			attested++
		}
		if v.Verdict == "compliant" && v.Attestation.Evidence.State != cvm.Pass {
			t.Errorf("%s is compliant without evidence: %v", v.Name, v.Attestation)
		}
	}
	if attested < 5 {
		t.Errorf("%d VMs were attested by both verifiers, want 5 or more", attested)
	}
	if run.Inbox != 0 {
		t.Errorf("%d letters are in the inbox", run.Inbox)
	}
	verifyChains(t, w)
	api(t, w, run)
	region(t, w)
}

// verifyChains checks every chain of the ledger from its first record to its last.
func verifyChains(t *testing.T, w *local.World) {
	t.Helper()
	for _, chain := range chains(t, w) {
		report, err := ledger.VerifyChain(t.Context(), w.Chains(), chain)
		if err != nil {
			t.Fatal(err)
		}
		if !report.OK() {
			t.Errorf("chain %s: %v", chain, report.Faults)
		}
	}
}

// region checks that what policy wants ready in the region was made, each thing
// once.
func region(t *testing.T, w *local.World) {
	t.Helper()
	lines := histories(t, w)[w.Sim.Subscription()+"/regions/westeurope"]
	var done []string
	for _, l := range lines {
		if kind, ok := strings.CutPrefix(l, "outcome "); ok {
			done = append(done, kind)
		}
	}
	want := []string{"ensure-key done", "ensure-disk-encryption-set done", "grant-des-identity done"}
	if !slices.Equal(done, want) {
		t.Errorf("the region was made ready by %q, want %q: %s", done, want, strings.Join(lines, "\n"))
	}
}

// api asks what `make run` prints URLs for.
func api(t *testing.T, w *local.World, run local.Run) {
	t.Helper()
	get := func(method, path, body string, want int) map[string]any {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, w.API()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want {
			t.Fatalf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, text)
		}
		var out map[string]any
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
		return out
	}
	good, bad := run.VMs[0], run.VMs[3]
	if vms := get("GET", "/vms", "", 200)["vms"].([]any); len(vms) != len(run.VMs) {
		t.Errorf("GET /vms lists %d, want %d", len(vms), len(run.VMs))
	}
	key := local.Chain(good.ID)
	if recs := get("GET", "/vms/"+key+"/records", "", 200)["records"].([]any); len(recs) != len(good.Records) {
		t.Errorf("%d records, want %d", len(recs), len(good.Records))
	}
	if f := get("GET", "/vms/"+key+"/fresh?max_age=1h", "", 200); f["fresh"] != true {
		t.Errorf("fresh: %v", f)
	}
	if f := get("GET", "/vms/"+local.Chain(bad.ID)+"/fresh?max_age=1h", "", 412); f["fresh"] != false || f["reason"] == "" {
		t.Errorf("not fresh: %v", f)
	}
	get("GET", "/vms/nonsense", "", 404)
	get("GET", "/vms/"+key+"/fresh", "", 400)
	for _, body := range []string{`{"vm":"/subscriptions/x"}`, `{}`, `not json`, `{"vm":"a","group":"b"}`, `{"vmm":"a"}`} {
		e := get("POST", "/rerun", body, 400)["error"].(map[string]any)
		if e["field"] == "" || e["message"] == "" || e["example"] == "" {
			t.Errorf("rerun with %s: %v", body, e)
		}
	}
	get("POST", "/rerun?dry=true", fmt.Sprintf(`{"vm":%q}`, good.ID), 400)
	get("POST", "/rerun", fmt.Sprintf(`{"vm":%q}`, good.ID), 202)
	if h := get("GET", "/health", "", 200); h["ready"] != true {
		t.Errorf("health: %v", h)
	}
}

// TestTheWorldChanges plays all stages while the simulated Azure publishes events
// of its own for every write, so that the handler's own come back as echoes: the
// end is the same, and no echo leads to a write.
func TestTheWorldChanges(t *testing.T) {
	var wrote [2][]string
	for i, events := range []bool{false, true} {
		w := world(t, local.Options{Mode: "enforce", Events: events})
		scene := play(t, w, 99)
		expect(t, w, scene, true)
		wrote[i] = writes(w)
	}
	if !slices.Equal(wrote[0], wrote[1]) {
		t.Errorf("with echoes\n%s\nwithout\n%s", strings.Join(wrote[1], "\n"), strings.Join(wrote[0], "\n"))
	}
}

// TestObserveWritesNothing plays the scene in both modes: observing makes no
// write, and the plan at each object's first turn is the same.
func TestObserveWritesNothing(t *testing.T) {
	first := map[string]map[string][]string{}
	for _, mode := range []string{"observe", "enforce"} {
		w := world(t, local.Options{Mode: mode})
		play(t, w, 1)
		if made := w.Sim.Writes(azuresim.HandlerPrincipal); mode == "observe" && len(made) > 0 {
			t.Errorf("observing made %d writes: %v", len(made), made)
		}
		first[mode] = map[string][]string{}
		for _, chain := range chains(t, w) {
			rec, _, _, err := w.Chains().Read(t.Context(), chain, 1)
			if err != nil {
				t.Fatal(err)
			}
			steps := []string{}
			for _, s := range rec.Plan.Steps {
				if s.State != remedy.Planned && s.State != remedy.Advised && s.State != remedy.Blocked {
					t.Errorf("%s: a fresh plan holds a step %s", rec.Object, s.State)
				}
				steps = append(steps, fmt.Sprintf("%s %s %s", s.Kind, s.Class, s.State))
			}
			first[mode][strings.ToLower(rec.Object)] = steps
		}
	}
	for object, steps := range first["enforce"] {
		if got := first["observe"][object]; !slices.Equal(got, steps) {
			t.Errorf("%s: observing plans %q, enforcing %q", object, got, steps)
		}
	}
}

// deeds leaves of a history what was done and the verdict at its end: how often an
// object was looked at while what it hangs on was repaired is a matter of time.
func deeds(history []string) (out []string) {
	end := ""
	for _, line := range history {
		if strings.HasPrefix(line, "intent ") || strings.HasPrefix(line, "outcome ") {
			out = append(out, line)
			continue
		}
		end = line
	}
	return append(out, end)
}

// TestFiveDeliveriesAreOne delivers each event of the scene five times, shuffled,
// while operations run, and compares with a world in which each came once.
func TestFiveDeliveriesAreOne(t *testing.T) {
	var hist [2]map[string][]string
	var wrote [2][]string
	for i, d := range []azuresim.Delivery{{}, {Copies: 5, Shuffle: true, Spread: 1500 * time.Millisecond}} {
		// Without a memory of reads, for else it hangs on the clock whether a look sees
		// another's change of a set in time.
		w := world(t, local.Options{Mode: "enforce", Operation: 1200 * time.Millisecond, Settings: map[string]string{"CVMGUARD_CACHE_TTL": "0s"}})
		w.Sim.SetDelivery(d)
		play(t, w, 99)
		hist[i], wrote[i] = map[string][]string{}, writes(w)
		for object, lines := range histories(t, w) {
			hist[i][object] = deeds(lines)
		}
	}
	for object, want := range hist[0] {
		if got := hist[1][object]; !slices.Equal(got, want) {
			t.Errorf("%s: five deliveries:\n  %s\none:\n  %s", object, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
	if len(hist[0]) != len(hist[1]) {
		t.Errorf("%d objects, with five deliveries %d", len(hist[0]), len(hist[1]))
	}
	if !slices.Equal(wrote[0], wrote[1]) {
		t.Errorf("five deliveries write\n%s\none\n%s", strings.Join(wrote[1], "\n"), strings.Join(wrote[0], "\n"))
	}
}
