// Package story plays scenes in the local world that tell one thing each: a key
// that expires, a rotation, a breaker that trips. A story makes its own world,
// lets things happen in it, says what a person would see, and checks what it says
// against the ledger and against the simulated Azure's call log; what isn't so is
// an error of the story.
//
// It promises that a story that ends without an error happened as told, through
// the handler's own process and real requests. It simulates nothing itself: Azure
// is package azuresim's, the host package devhost's.
package story

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/local"
	"cvmguard/internal/reconcile"
)

// Story is one scene.
type Story struct {
	Name  string
	About string // one sentence
	// Edits change the scenes' policy: each first text, which it holds once, becomes
	// the second.
	Edits [][2]string
	// Settings are beside the local world's own.
	Settings map[string]string
	// Ahead is how far away the next look must be for the loop to be at rest, 0: 1 min.
	Ahead time.Duration

	play func(ctx context.Context, s *Stage) error
}

// All are the stories, in the order in which they are listed.
func All() []Story {
	bad := [][2]string{quarantineAll, noRegion, noGrant, noTag}
	return []Story{
		{Name: "key-expiring", About: "a key nears its end and expires; its VMs are judged again by the vault's own events", play: keyExpiring},
		{Name: "rotation", About: "a key's rotation is planned, approved by its hash and carried out, every VM on the set down in between", Edits: [][2]string{noRegion}, play: rotation},
		{Name: "breaker", About: "a bad policy quarantines VM after VM until the breaker trips, and nothing more is written before a person resets it",
			Edits: append(bad, [2]string{"breaker: {vmsPerHour: 500, ", "breaker: {vmsPerHour: 4, "}), play: breaker},
		{Name: "canary", About: "a new policy changes two VMs, and the rest when a person releases it",
			Edits: append(bad, brakes("  canary: {vms: 2}\n")), play: canary},
		{Name: "two-enforcers", About: "another hand changes a value back; after the second time cvmguard leaves it alone and says so",
			Edits: bad, play: twoEnforcers},
		{Name: "kernel", About: "a kernel is updated without the disk's key being sealed to it, which is said before the reboot that would lock the owner out", play: kernel},
		{Name: "recreation", About: "a Trusted Launch VM is made anew as a confidential one by an approved plan, and the way back is taken", Edits: [][2]string{noRegion}, play: recreation},
	}
}

// ByName finds a story.
func ByName(name string) (Story, bool) {
	i := slices.IndexFunc(All(), func(s Story) bool { return s.Name == name })
	if i < 0 {
		return Story{}, false
	}
	return All()[i], true
}

// Options are those of the world in which the story plays.
func (st Story) Options(o local.Options) local.Options {
	o.Mode, o.Policy, o.Edits, o.Events = "enforce", "", st.Edits, true
	o.Ahead = st.Ahead
	o.Settings = map[string]string{}
	maps.Copy(o.Settings, st.Settings)
	return o
}

// Stage is where a story plays: a world, and what the story knows of it.
type Stage struct {
	*local.World
	VMs []string // ARM ids, in the order of their making

	say   func(format string, args ...any)
	began time.Time
	lines []local.RunLine
	wrong []error
}

// Play plays the story in a world whose host runs, and says on `say` what happens.
// The ids of its VMs and what was told come back, with whatever was not so.
func (st Story) Play(ctx context.Context, w *local.World, say func(format string, args ...any)) (vms []string, told local.RunStory, err error) {
	s := &Stage{World: w, say: say, began: time.Now(), lines: []local.RunLine{}}
	err = st.play(ctx, s)
	if err != nil {
		err = fmt.Errorf("story %s: %w", st.Name, err)
	}
	return s.VMs, local.RunStory{About: st.About, Lines: s.lines}, errors.Join(append([]error{err}, s.wrong...)...)
}

// Say tells what happens, for a person.
func (s *Stage) Say(format string, args ...any) {
	s.note(local.RunLine{Text: fmt.Sprintf(format, args...)})
	s.say(format, args...)
}

// Want claims that something is so, beside what was seen of it; the story goes on if
// it isn't so.
func (s *Stage) Want(so bool, claim, seen string, args ...any) {
	l := local.RunLine{Claim: claim, Seen: fmt.Sprintf(seen, args...)}
	s.note(l)
	if !so {
		s.wrong = append(s.wrong, fmt.Errorf("not as told: %s; seen: %s", l.Claim, l.Seen))
	}
}

func (s *Stage) note(l local.RunLine) {
	l.Seconds = float64(time.Since(s.began).Round(100*time.Millisecond)) / float64(time.Second)
	s.lines = append(s.lines, l)
}

// Add makes a VM that is there before cvmguard hears of it.
func (s *Stage) Add(spec azuresim.VMSpec) (string, error) {
	if spec.Location == "" {
		spec.Location = azuresim.DefaultLocation
	}
	id, err := s.Sim.AddVM(spec)
	if err != nil {
		return "", err
	}
	s.VMs = append(s.VMs, id)
	return id, nil
}

// Created publishes that VMs were created (all, where none is named) and waits for
// the loop to rest.
func (s *Stage) Created(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		ids = s.VMs
	}
	var events []azuresim.Event
	for _, id := range ids {
		events = append(events, s.Sim.VMEvent(id, "write", true))
	}
	if err := s.Publish(ctx, events); err != nil {
		return err
	}
	return s.Rest(ctx, ids)
}

// Changed publishes that a VM was written and waits for the loop to rest.
func (s *Stage) Changed(ctx context.Context, ids ...string) error {
	var events []azuresim.Event
	for _, id := range ids {
		events = append(events, s.Sim.VMEvent(id, "write", false))
	}
	if err := s.Publish(ctx, events); err != nil {
		return err
	}
	return s.Rest(ctx, s.VMs)
}

// Call asks the app over HTTP, as a person or the command line does, and reads its
// answer into out. A status other than want is an error with the app's own words.
func (s *Stage) Call(ctx context.Context, method, path string, body, out any, want int) error {
	text := ""
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = string(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.API()+path, strings.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s: %d, not %d: %s", method, path, resp.StatusCode, want, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w: %s", method, path, err, answer)
	}
	return nil
}

// Rerun has the app look at a VM again, with evidence asked anew, and waits.
func (s *Stage) Rerun(ctx context.Context, id string) error {
	if err := s.Call(ctx, http.MethodPost, "/rerun", map[string]string{"vm": id}, nil, http.StatusAccepted); err != nil {
		return err
	}
	return s.Rest(ctx, s.VMs)
}

// Row reads a VM's row.
func (s *Stage) Row(ctx context.Context, id string) (ledger.Row, error) {
	o, err := reconcile.VMObject(id)
	if err != nil {
		return ledger.Row{}, err
	}
	e, err := s.Storage.Tables().Get(ctx, o.Table, o.PK, o.RK)
	if err != nil {
		return ledger.Row{}, err
	}
	return ledger.DecodeRow(e)
}

// Expect says what a VM's verdict must be, and which reasons must be among its
// findings (a note's too).
func (s *Stage) Expect(ctx context.Context, id, verdict string, reasons ...string) error {
	row, err := s.Row(ctx, id)
	if err != nil {
		return fmt.Errorf("reading the row of %s: %w", name(id), err)
	}
	so, claim := string(row.Verdict) == verdict, name(id)+" is "+verdict
	for _, reason := range reasons {
		so, claim = so && has(row, reason), claim+", "+reason
	}
	s.Want(so, claim, "%s", strings.Join(append([]string{string(row.Verdict)}, said(row)...), ", "))
	return nil
}

func has(row ledger.Row, reason string) bool {
	return slices.ContainsFunc(row.Findings, func(f ledger.RowFinding) bool { return f.Reason == reason })
}

// said are the reasons of a row's findings, notes too, each once.
func said(row ledger.Row) []string {
	var out []string
	for _, f := range row.Findings {
		if f.Reason != "" && f.State != cvm.NotAsked && !slices.Contains(out, f.Reason) {
			out = append(out, f.Reason)
		}
	}
	return out
}

// Writes counts the handler's accepted writes, but for asking guests for evidence,
// whose paths hold one of the texts (all, where none is given).
func (s *Stage) Writes(paths ...string) int {
	n := 0
	for _, c := range s.Sim.Writes(azuresim.HandlerPrincipal) {
		if strings.Contains(strings.ToLower(c.Path), "/runcommands/") {
			continue
		}
		if len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool { return strings.Contains(strings.ToLower(c.Path), strings.ToLower(p)) }) {
			n++
		}
	}
	return n
}

// Until waits until something is so, or a minute is over.
func (s *Stage) Until(ctx context.Context, what string, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		ok, err := so()
		if ok || err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func names(ids []string) []string {
	var out []string
	for _, id := range ids {
		out = append(out, name(id))
	}
	return out
}

func name(id string) string { return id[strings.LastIndex(id, "/")+1:] }
