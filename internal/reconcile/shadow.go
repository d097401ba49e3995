package reconcile

import (
	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// judgeShadow judges what was seen by the shadow policy too. Its verdict is
// recorded and shown beside the other, and nothing follows from it: nothing is read
// for it that the policy in force doesn't ask for, and its steps are never planned.
func (l *Loop) judgeShadow(v *view) {
	if l.Shadow == nil || v == nil {
		return
	}
	var verdict policy.Verdict
	switch p := v.posture.(type) {
	case cvm.Posture:
		verdict = policy.Judge(p, l.Shadow, v.verdict.At)
	case cvm.SharedPosture:
		verdict = policy.JudgeShared(p, l.Shadow, v.verdict.At)
	default:
		return // an operation is judged by no policy
	}
	v.shadow = &verdict
}
