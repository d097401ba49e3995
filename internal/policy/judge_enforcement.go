package policy

import (
	"fmt"
	"time"
)

// judgeEnforcement says which steps are not taken any more because people, or
// other enforcers, want otherwise. It rests on cvmguard's own books.
func judgeEnforcement(s *subject) []Finding {
	var list []Finding
	for _, c := range s.contested {
		since := c.Since.UTC().Format(time.RFC3339)
		switch c.Why {
		case "undone":
			list = append(list, note("undone", fmt.Sprintf("The step %s on %s was undone on a person's word (%s) and isn't taken again until a person lets it.", c.Step, c.On, since), "contested"))
		default:
			list = append(list, fail("changed-back", NeedsPerson,
				fmt.Sprintf("What the step %s sets on %s was changed back %s by somebody else. It is left alone since %s: find out who or what changes it, then let cvmguard go on with it.", c.Step, c.On, times(c.Times), since), "contested"))
		}
	}
	if len(list) == 0 && s.on == onVM && !s.p.GuestAsked {
		return notAsked("Only the books of the running cvmguard say it.")
	}
	return orPass(list, "Nobody changes back what cvmguard sets.", "contested")
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func enforcementRules() []Rule {
	return []Rule{
		{ID: "enforcement", Title: "What cvmguard sets stays set", Severity: Medium, Class: NeedsPerson, Needs: NeedsAzure,
			Doc: docExemptions, On: []string{onVM, onDES, onKey, onVault, onRegion}, judge: judgeEnforcement,
			Checks: "No value that cvmguard had set was changed back by others more often than policy allows (brakes.maxChangedBack).",
			Why:    "Another enforcer, an Azure Policy or a person wants otherwise; two who set one value by turns never end, and each change may disturb the VM.",
			Fix:    "Find in the Activity Log who changes it and agree on one value; then `cvmguard brakes resume`."},
	}
}
