package cvm

import (
	"slices"
	"time"
)

// ComparedPCRs are the PCRs that are compared from one attestation to the next:
// 4 (what was booted: shim, kernel) and 7 (the secure boot policy: state, keys,
// dbx).
func ComparedPCRs() []string { return []string{"4", "7"} }

// PCRChange says that a PCR has another value than it was last proven to have.
type PCRChange struct {
	PCR   string    `json:"pcr"`
	Was   string    `json:"was"` // hex; what it is stands in Attestation.PCRs
	Since time.Time `json:"since"`
}

// Measured is what was last proven of a boot, by which the next proof is compared.
type Measured struct {
	AK   string            `json:"ak"`
	PCRs map[string]string `json:"pcrs"`
}

// Follow compares what a proves with what the VM's attestation before it did, and
// keeps for the next what a itself doesn't prove. last is of the same vmId; nil
// for the first. Values are compared under one attestation key alone: another key
// is another vTPM. A change is kept with its time until the next one.
func (a *Attestation) Follow(last *Attestation) {
	a.Changed, a.Before = nil, nil
	if last == nil {
		return
	}
	before := last.measured()
	if before == nil {
		return
	}
	now := a.measured()
	if now == nil || len(a.PCRs) == 0 {
		a.Before, a.Changed = before, slices.Clone(last.Changed)
		return
	}
	if now.AK != before.AK {
		return
	}
	for _, pcr := range ComparedPCRs() {
		was, is := before.PCRs[pcr], now.PCRs[pcr]
		switch {
		case was == "" || is == "":
		case was != is:
			a.Changed = append(a.Changed, PCRChange{PCR: pcr, Was: was, Since: a.NonceIssued})
		default:
			for _, c := range last.Changed {
				if c.PCR == pcr {
					a.Changed = append(a.Changed, c)
				}
			}
		}
	}
}

// measured is what the attestation, or the one that it keeps in mind, proved.
func (a *Attestation) measured() *Measured {
	if len(a.PCRs) == 0 || a.AK == "" {
		return a.Before
	}
	m := &Measured{AK: a.AK, PCRs: map[string]string{}}
	for _, pcr := range ComparedPCRs() {
		if v := a.PCRs[pcr]; v != "" {
			m.PCRs[pcr] = v
		}
	}
	return m
}
