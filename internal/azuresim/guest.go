package azuresim

import (
	"context"
	"net/http"
	"strings"
)

// Guest is what runs inside a VM: it carries out the script of a managed Run
// Command. env holds the named parameters, protected ones too. Run is called
// without any lock; the context ends at the run command's timeout, at its
// deletion and at Close. Output is cut to its last 4 KiB by the simulator, as by
// Azure.
type Guest interface {
	Run(ctx context.Context, env map[string]string, script string) (exit int, stdout, stderr string)
}

// Booter is a Guest that wants to know when its VM boots again (start, restart).
// Boot must not call the simulator.
type Booter interface {
	Boot()
}

// VMInfo is what a guest, or a person, needs to know of a VM.
type VMInfo struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	UniqueID     string `json:"vmId"`
	Location     string `json:"location"`
	Size         string `json:"size"`
	TEE          string `json:"tee"`          // SNP, TDX or ""
	SecurityType string `json:"securityType"` // ConfidentialVM, TrustedLaunch, Standard
	Encryption   string `json:"encryption"`   // securityEncryptionType, "" if none
	Generation   string `json:"generation"`   // V1, V2
	SecureBoot   bool   `json:"secureBoot"`
	VTPM         bool   `json:"vTpm"`
	Power        string `json:"power"`
	Boots        int    `json:"boots"`
}

// VMs lists all VMs, in order of creation.
func (s *Sim) VMs() []VMInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []VMInfo{}
	for _, r := range s.all(typeVM, "") {
		out = append(out, info(r))
	}
	return out
}

func info(r *resource) VMInfo {
	p := r.props()
	size := str(p, "hardwareProfile", "vmSize")
	tee := ""
	if isConfidential(r.body) {
		tee = sizes[strings.ToLower(size)].tee
	}
	return VMInfo{
		ID: r.id, Name: r.name, UniqueID: str(p, "vmId"), Location: r.location(), Size: size, TEE: tee,
		SecurityType: orElse(str(p, "securityProfile", "securityType"), "Standard"),
		Encryption:   str(p, "storageProfile", "osDisk", "managedDisk", "securityProfile", "securityEncryptionType"),
		Generation:   r.vm.generation,
		SecureBoot:   yes(p, "securityProfile", "uefiSettings", "secureBootEnabled"),
		VTPM:         yes(p, "securityProfile", "uefiSettings", "vTpmEnabled"),
		Power:        r.vm.power, Boots: r.vm.boots,
	}
}

// SetGuest puts a guest into one VM. It says whether there is such a VM.
func (s *Sim) SetGuest(vmID string, g Guest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.get(vmID, typeVM)
	if r == nil {
		return false
	}
	r.vm.guest = g
	return true
}

// SetGuests makes guests for the VMs that have none, when one is first needed.
// factory is called without any lock.
func (s *Sim) SetGuests(factory func(VMInfo) Guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guests = factory
}

// guestOf finds or makes a VM's guest; nil if nobody gave one.
func (s *Sim) guestOf(r *resource) Guest {
	s.mu.Lock()
	g, factory, vm := r.vm.guest, s.guests, info(r)
	s.mu.Unlock()
	if g != nil || factory == nil {
		return g
	}
	g = factory(vm)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.vm.guest == nil {
		r.vm.guest = g
	}
	return r.vm.guest
}

// MAA is the attestation service: it is asked for every host under
// attest.azure.net, with the host in the request.
type MAA interface {
	http.Handler
}

// SetMAA gives the attestation service.
func (s *Sim) SetMAA(h MAA) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maa = h
}
