package policy

import (
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
)

func TestEnforcement(t *testing.T) {
	since := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	d := Embedded()
	of := func(v Verdict) (out []Finding) {
		for _, f := range v.Findings {
			if f.Rule == "enforcement" {
				out = append(out, f)
			}
		}
		return out
	}
	back := cvm.Contest{Step: "tag", On: "x", Times: 2, Since: since, Why: "changed-back"}
	undone := cvm.Contest{Step: "quarantine", On: "x", Since: since, Why: "undone"}
	for name, c := range map[string]struct {
		list  []cvm.Contest
		asked bool
		want  string
	}{
		"nothing":            {nil, true, "pass"},
		"nobody knows":       {nil, false, "not-asked"},
		"changed back":       {[]cvm.Contest{back}, true, "fail changed-back needs-person"},
		"undone is a note":   {[]cvm.Contest{undone}, true, "pass undone"},
		"both":               {[]cvm.Contest{undone, back}, true, "pass undone, fail changed-back needs-person"},
		"a why of the later": {[]cvm.Contest{{Step: "tag", On: "x", Why: "of a newer version"}}, true, "fail changed-back needs-person"},
	} {
		for on, found := range map[string][]Finding{
			"vm":     of(Judge(cvm.Posture{GuestAsked: c.asked, Contested: c.list}, d, since)),
			"des":    of(JudgeShared(cvm.SharedPosture{Kind: cvm.SharedDES, Contested: c.list}, d, since)),
			"key":    of(JudgeShared(cvm.SharedPosture{Kind: cvm.SharedKey, Contested: c.list}, d, since)),
			"vault":  of(JudgeShared(cvm.SharedPosture{Kind: cvm.SharedVault, Contested: c.list}, d, since)),
			"region": of(JudgeShared(cvm.SharedPosture{Kind: cvm.SharedRegion, Contested: c.list}, d, since)),
		} {
			var got []string
			for _, f := range found {
				got = append(got, strings.TrimSpace(strings.Join([]string{string(f.State), f.Reason, string(f.Class)}, " ")))
				if f.Reason != "" && (!strings.Contains(f.Text, "2026-11-01T12:00:00Z") && !c.list[0].Since.IsZero() || f.Text == "") {
					t.Errorf("%s: %q", name, f.Text)
				}
			}
			want := c.want
			if want == "not-asked" && on != "vm" {
				want = "pass"
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("%s on %s: %v, not %s", name, on, got, want)
			}
		}
	}
}
