package story

import (
	"context"
	"fmt"
	"time"

	"cvmguard/internal/azuresim"
)

// The names of what most stories are made of.
const (
	vaultName = "kv-cvm-weu"
	setName   = "des-cvm"
	keyName   = "cvm-os-key"
)

// estate makes a Premium vault with a key, a confidential set on it and n VMs on
// that set. It gives the key's versioned URL and the set's ARM id.
func (s *Stage) estate(n int, key azuresim.KeySpec) (keyURL, set string, err error) {
	s.Sim.AddVault(azuresim.VaultSpec{Name: vaultName, Location: azuresim.DefaultLocation})
	key.Vault, key.Name = vaultName, keyName
	if keyURL, err = s.Sim.AddKey(key); err != nil {
		return "", "", fmt.Errorf("making the key: %w", err)
	}
	if set, err = s.Sim.AddDES(azuresim.DESSpec{Name: setName, Key: keyURL}); err != nil {
		return "", "", fmt.Errorf("making the disk encryption set: %w", err)
	}
	for i := range n {
		if _, err := s.Add(azuresim.VMSpec{Name: fmt.Sprintf("vm-%02d", i+1), DES: set, Extensions: []string{"GuestAttestation"},
			Created: time.Now().Add(-10 * time.Minute)}); err != nil {
			return "", "", err
		}
	}
	s.Sim.Reset() // the world's making is nobody's call
	return keyURL, set, nil
}

// keyEvent publishes what the vault says of a key and waits for the loop to rest.
func (s *Stage) keyEvent(ctx context.Context, keyURL, kind string) error {
	e, ok := s.Sim.KeyEvent(keyURL, kind)
	if !ok {
		return fmt.Errorf("there is no key %q", keyURL)
	}
	if err := s.Publish(ctx, []azuresim.Event{e}); err != nil {
		return err
	}
	return s.Rest(ctx, s.VMs)
}

// keyExpiring: a key nears its end, its VMs are judged again when the vault says
// so, and again when it has expired; nothing takes a VM down that may not start.
func keyExpiring(ctx context.Context, s *Stage) error {
	keyURL, _, err := s.estate(3, azuresim.KeySpec{Expires: time.Now().Add(400 * 24 * time.Hour)})
	if err != nil {
		return err
	}
	s.Say("three VMs on one key, which expires in 400 days")
	if err := s.Created(ctx); err != nil {
		return err
	}
	for _, id := range s.VMs {
		if err := s.Expect(ctx, id, "compliant"); err != nil {
			return err
		}
	}
	if err := s.Sim.SetKeyExpiry(keyURL, time.Now().Add(10*24*time.Hour)); err != nil {
		return err
	}
	s.Say("its owner shortens its life to ten days; the vault says that it is near its end")
	if err := s.keyEvent(ctx, keyURL, "KeyNearExpiry"); err != nil {
		return err
	}
	for _, id := range s.VMs {
		if err := s.Expect(ctx, id, "compliant", "key-near-expiry"); err != nil {
			return err
		}
	}
	s.Say("all three are judged again: compliant, with the note key-near-expiry")
	if err := s.Sim.ExpireKey(keyURL); err != nil {
		return err
	}
	if err := s.keyEvent(ctx, keyURL, "KeyExpired"); err != nil {
		return err
	}
	for _, id := range s.VMs {
		if err := s.Expect(ctx, id, "non-compliant", "key-expired"); err != nil {
			return err
		}
	}
	n := s.Writes("/deallocate", "/poweroff", "/restart")
	s.Want(n == 0, "nothing takes a VM down whose key has expired", "%d writes that do", n)
	s.Say("the key has expired: all three are non-compliant, key-expired, and none is taken down: it might not start again")
	return nil
}
