package reconcile

import (
	"cvmguard/internal/azurepolicy"
	"cvmguard/internal/cvm"
)

// lookAtRefusals says of a VM that is there what the policy's Azure Policy
// initiative would have refused of it. It is recorded and shown; no verdict rests
// on it and no step follows from it.
func (l *Loop) lookAtRefusals(v *view) error {
	if v == nil {
		return nil
	}
	p, isVM := v.posture.(cvm.Posture)
	if !isVM || !p.VM.Known {
		return nil
	}
	i := l.initiative.Load()
	if i == nil || i.Policy.Hash != l.Policy.Hash {
		made, err := azurepolicy.Export(l.Policy, azurepolicy.Deny)
		if err != nil {
			return err
		}
		i = &made
		l.initiative.Store(i)
	}
	var err error
	v.refused, err = i.Refuses(p.VM.Value, p.OSDisk)
	return err
}
