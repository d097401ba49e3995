package story

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/azuresim/hardware"
)

func (s *Stage) machine(id string) (*hardware.Machine, error) {
	g := s.Guest(id)
	if g == nil {
		return nil, fmt.Errorf("there is no guest in %s", id)
	}
	return g.Machine, nil
}

// kernel: one of two VMs gets a newer kernel whose disk key isn't sealed anew. It
// is said before the reboot; the one that was sealed reboots well.
func kernel(ctx context.Context, s *Stage) error {
	if _, _, err := s.estate(2, azuresim.KeySpec{}); err != nil {
		return err
	}
	if err := s.Created(ctx); err != nil {
		return err
	}
	careless, careful := s.VMs[0], s.VMs[1]
	for _, id := range s.VMs {
		if err := s.Expect(ctx, id, "compliant"); err != nil {
			return err
		}
	}
	s.Say("two Ubuntu VMs, compliant: root encrypted and sealed to the vTPM, borne out by PCR 12")
	for id, sealed := range map[string]bool{careless: false, careful: true} {
		m, err := s.machine(id)
		if err != nil {
			return err
		}
		m.UpdateKernel(sealed)
	}
	for _, id := range s.VMs {
		if err := s.Rerun(ctx, id); err != nil {
			return err
		}
	}
	if err := s.Expect(ctx, careless, "non-compliant", "reseal-pending"); err != nil {
		return err
	}
	if err := s.Expect(ctx, careful, "compliant", "reboot-pending"); err != nil {
		return err
	}
	s.Say("both get a newer kernel; on %s the key isn't sealed to it: reseal-pending, before any reboot. %s is compliant, with the note reboot-pending", name(careless), name(careful))
	m, err := s.machine(careless)
	if err != nil {
		return err
	}
	m.Reseal()
	if err := s.Rerun(ctx, careless); err != nil {
		return err
	}
	if err := s.Expect(ctx, careless, "compliant", "reboot-pending"); err != nil {
		return err
	}
	s.Say("its owner seals the key anew: compliant again, and now it may reboot")
	for _, id := range s.VMs {
		if err := s.Sim.RestartVM(id); err != nil {
			return err
		}
	}
	if err := s.Sim.WaitDelivered(ctx); err != nil {
		return err
	}
	time.Sleep(time.Second)
	if err := s.Rest(ctx, s.VMs); err != nil {
		return err
	}
	for _, id := range s.VMs {
		if err := s.Rerun(ctx, id); err != nil {
			return err
		}
		m, err := s.machine(id)
		if err != nil {
			return err
		}
		s.Want(!m.LockedOut(), name(id)+" is not locked out", "locked out: %t", m.LockedOut())
		if err := s.Expect(ctx, id, "compliant", "pcr-changed"); err != nil {
			return err
		}
	}
	s.Say("both reboot into the new kernel and attest again: compliant, with the note that PCR 4 isn't what it was")
	return nil
}

// short is the end of a hash, for a person.
func short(hash string) string {
	if len(hash) < 12 {
		return hash
	}
	return hash[:12]
}
