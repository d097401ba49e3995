package policy

import (
	"strings"
	"testing"

	"cvmguard/internal/cvm"
)

// Without orchestratorObjectId rows 70 and 71 are not asked, whatever the vault's
// model and whoever has rights; a fail says where a group's members can't be seen.
func TestOrchestratorNotNamed(t *testing.T) {
	for _, model := range []string{"rbac", "access-policies", "hsm-local"} {
		judge := func(r cvm.Rights) Finding {
			r.Model = model
			p := compliant()
			p.Rights = cvm.Known(r)
			for _, f := range Judge(p, Embedded(), now).Findings {
				if f.Rule == "rights-orchestrator" {
					return f
				}
			}
			t.Fatal("the rule wasn't judged")
			return Finding{}
		}
		for _, missing := range []bool{false, true} {
			if f := judge(cvm.Rights{OrchestratorMissing: missing, Orchestrator: []string{"get"}}); f.State != cvm.NotAsked {
				t.Errorf("%s: %+v", model, f)
			}
		}
		f := judge(cvm.Rights{OrchestratorKnown: true})
		if f.Reason != "orchestrator-denied" || strings.Contains(f.Text, "group") != (model != "rbac") {
			t.Errorf("%s: %+v", model, f)
		}
		if f := judge(cvm.Rights{OrchestratorKnown: true, OrchestratorMissing: true}); f.Reason != "orchestrator-missing" {
			t.Errorf("%s: %+v", model, f)
		}
	}
}
