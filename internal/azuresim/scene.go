package azuresim

import (
	"fmt"
	"strings"
	"time"

	"cvmguard/internal/cvm"
)

// Scene is the standard world of the local run: one subscription in westeurope
// with a Premium vault, a Managed HSM, a vault that cvmguard may not read, and
// VMs of every kind. It is played in stages: Play changes the world and gives
// the events that Azure would send, for the caller to publish.
type Scene struct {
	Subscription string
	Group        string
	Location     string
	Vault        string // name of the Premium vault
	HSM          string // name of the Managed HSM
	SSE          string // ARM id of the ordinary disk encryption set, for data disks
	Confidential string // ARM id of the sound confidential set
	Auto         string // ARM id of the set with automatic rotation wrongly on
	AutoKey      string // versioned URL of its key
	VMs          []SceneVM
	Stages       []string // names, in order

	s *Sim
}

// SceneVM is one VM with what is to be found of it when the loop is at rest
// after the first stage, and after the last.
type SceneVM struct {
	ID, Name string
	About    string // one sentence for a person
	Kind     cvm.Kind
	TEE      cvm.TEE
	First    Expectation
	Last     Expectation
}

// Expectation is a verdict under the embedded policy in enforce mode, with the
// reasons that must be among its findings. Where attestation is asked for, the
// guests must be sound.
type Expectation struct {
	Verdict string // compliant, non-compliant, unknown, gone
	Reasons []string
}

const (
	sceneVault  = "kv-cvm-weu"
	sceneClosed = "kv-closed-weu"
	sceneHSM    = "hsm-cvm-weu"
)

// BuildScene makes the standard world in an empty simulator. Times in it are
// relative to now.
func BuildScene(s *Sim, now time.Time) (*Scene, error) {
	sc := &Scene{
		Subscription: s.opt.Subscription, Group: DefaultGroup, Location: DefaultLocation, Vault: sceneVault, HSM: sceneHSM,
		Stages: []string{"created", "changed", "expired"}, s: s,
	}
	sets, err := sc.keys(now)
	if err != nil {
		return nil, fmt.Errorf("building the scene: %w", err)
	}
	if err := sc.machines(sets, now); err != nil {
		return nil, fmt.Errorf("building the scene: %w", err)
	}
	return sc, nil
}

// keys makes vaults, keys and disk encryption sets, and gives the sets' ids by
// name.
func (sc *Scene) keys(now time.Time) (map[string]string, error) {
	s := sc.s
	s.AddVault(VaultSpec{Name: sceneVault, Location: sc.Location})
	s.AddVault(VaultSpec{Name: sceneClosed, Location: sc.Location, AccessPolicies: true})
	s.AddHSM(HSMSpec{Name: sceneHSM, Location: sc.Location})
	handler, ok := s.Principal(HandlerPrincipal)
	if !ok {
		return nil, fmt.Errorf("there is no principal %q", HandlerPrincipal)
	}
	if err := s.GrantHSM(sceneHSM, "/", handler.ObjectID, "Managed HSM Crypto Auditor"); err != nil {
		return nil, err
	}
	ids := map[string]string{}
	for _, k := range []struct {
		des  DESSpec
		key  KeySpec
		keep *string
	}{
		{DESSpec{Name: "des-cvm"}, KeySpec{Vault: sceneVault, Name: "cvm-os-key"}, nil},
		{DESSpec{Name: "des-hsm"}, KeySpec{Vault: sceneHSM, Name: "cvm-os-key"}, nil},
		{DESSpec{Name: "des-expired"}, KeySpec{Vault: sceneVault, Name: "cvm-old-key", Expires: now.Add(-13 * 24 * time.Hour)}, nil},
		{DESSpec{Name: "des-auto", AutoRotation: true}, KeySpec{Vault: sceneVault, Name: "cvm-auto-key"}, &sc.AutoKey},
		{DESSpec{Name: "des-closed"}, KeySpec{Vault: sceneClosed, Name: "cvm-os-key"}, nil},
		{DESSpec{Name: "des-sse", Type: "EncryptionAtRestWithCustomerKey", AutoRotation: true}, KeySpec{Vault: sceneVault, Name: "data-key", NotExportable: true}, nil},
	} {
		url, err := s.AddKey(k.key)
		if err != nil {
			return nil, err
		}
		k.des.Key = url
		if ids[k.des.Name], err = s.AddDES(k.des); err != nil {
			return nil, err
		}
		if k.keep != nil {
			*k.keep = url
		}
	}
	sc.SSE, sc.Confidential, sc.Auto = ids["des-sse"], ids["des-cvm"], ids["des-auto"]
	return ids, nil
}

func (sc *Scene) machines(sets map[string]string, now time.Time) error {
	ok := Expectation{Verdict: "compliant"}
	bad := func(reasons ...string) Expectation { return Expectation{"non-compliant", reasons} }
	attest := []string{"GuestAttestation"}
	created := now.Add(-10 * time.Minute)
	for _, m := range []struct {
		about       string
		spec        VMSpec
		tee         cvm.TEE
		first, last Expectation
	}{
		{"confidential OS disk under a key in the vault, data disk under a customer key",
			VMSpec{Name: "vm-snp-kv", DES: sets["des-cvm"], Extensions: attest, DataDisks: []DataDiskSpec{{DES: sets["des-sse"]}}}, cvm.TEESNP, ok, ok},
		{"confidential OS disk under a key in the Managed HSM",
			VMSpec{Name: "vm-snp-hsm", DES: sets["des-hsm"]}, cvm.TEESNP, ok, ok},
		{"TDX, confidential OS disk under a key in the vault",
			VMSpec{Name: "vm-tdx-kv", DES: sets["des-cvm"], Size: "Standard_DC4es_v6", Image: "Canonical:ubuntu-24_04-lts:cvm", Extensions: attest}, cvm.TEETDX, ok, ok},
		{"confidential OS disk under a platform key, data disk too",
			VMSpec{Name: "vm-snp-pmk", Kind: cvm.KindPlatformKey, DataDisks: []DataDiskSpec{{}}}, cvm.TEESNP,
			bad("os-disk-platform-key", "data-disk-platform-key"), bad("os-disk-platform-key", "data-disk-platform-key")},
		{"only the guest state is confidential",
			VMSpec{Name: "vm-snp-vmgs", Kind: cvm.KindGuestState, Size: "Standard_DC4ads_v5"}, cvm.TEESNP, bad("os-disk-not-confidential"), bad("os-disk-not-confidential")},
		{"its key has expired",
			VMSpec{Name: "vm-snp-expired", DES: sets["des-expired"], Extensions: attest}, cvm.TEESNP, bad("key-expired"), bad("key-expired")},
		{"Trusted Launch, not confidential",
			VMSpec{Name: "vm-tl", Kind: cvm.KindTrustedLaunch, DES: sets["des-sse"]}, cvm.TEENone, bad("not-confidential"), bad("not-confidential")},
		{"an ordinary generation 2 VM",
			VMSpec{Name: "vm-std-gen2", Kind: cvm.KindStandardGen2}, cvm.TEENone, bad("not-confidential"), bad("not-confidential")},
		{"an ordinary generation 1 VM",
			VMSpec{Name: "vm-std-gen1", Kind: cvm.KindStandardGen1}, cvm.TEENone, bad("not-confidential", "generation-1"), bad("not-confidential", "generation-1")},
		{"first of two on a set whose automatic rotation is wrongly on",
			VMSpec{Name: "vm-auto-1", DES: sets["des-auto"], Extensions: attest}, cvm.TEESNP, ok, bad("key-expired")},
		{"second of two on a set whose automatic rotation is wrongly on",
			VMSpec{Name: "vm-auto-2", DES: sets["des-auto"], Extensions: attest}, cvm.TEESNP, ok, bad("key-expired")},
		{"its key is in a vault that cvmguard may not read",
			VMSpec{Name: "vm-closed", DES: sets["des-closed"], Extensions: attest}, cvm.TEESNP,
			Expectation{"unknown", []string{"key-unreadable"}}, Expectation{"unknown", []string{"key-unreadable"}}},
		{"deleted soon after its creation",
			VMSpec{Name: "vm-short-lived", DES: sets["des-cvm"], Extensions: attest}, cvm.TEESNP, ok, Expectation{Verdict: "gone"}},
	} {
		m.spec.Location, m.spec.Created = sc.Location, created
		m.spec.Tags = map[string]string{"env": "scene"}
		id, err := sc.s.AddVM(m.spec)
		if err != nil {
			return err
		}
		kind := m.spec.Kind
		if kind == "" {
			kind = cvm.KindCustomerKey
		}
		sc.VMs = append(sc.VMs, SceneVM{ID: id, Name: m.spec.Name, About: m.about, Kind: kind, TEE: m.tee, First: m.first, Last: m.last})
	}
	return nil
}

// VM finds one of the scene's VMs by name.
func (sc *Scene) VM(name string) SceneVM {
	for _, v := range sc.VMs {
		if v.Name == name {
			return v
		}
	}
	return SceneVM{}
}

// Play changes the world as the stage says and gives the events of it, in the
// order in which Azure would have raised them. The events of one stage are of one
// state of the world: they may be published in any order, and more than once.
func (sc *Scene) Play(stage int) ([]Event, error) {
	if stage < 0 || stage >= len(sc.Stages) {
		return nil, fmt.Errorf("playing stage %d: the scene has stages 0 to %d", stage, len(sc.Stages)-1)
	}
	play := []func() ([]Event, error){sc.created, sc.changed, sc.expired}[stage]
	var events []Event
	err := sc.s.quietly(func() (err error) {
		events, err = play()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("playing stage %q: %w", sc.Stages[stage], err)
	}
	return events, nil
}

func (sc *Scene) created() ([]Event, error) {
	var out []Event
	for _, v := range sc.VMs {
		out = append(out, sc.s.VMEvent(v.ID, "write", true))
	}
	return out, nil
}

// changed: a restart, a tag by a person, a rotation flag by another's hand, a
// deletion, an id spelled otherwise.
func (sc *Scene) changed() ([]Event, error) {
	s := sc.s
	kv, hsm, tdx, gone := sc.VM("vm-snp-kv").ID, sc.VM("vm-snp-hsm").ID, sc.VM("vm-tdx-kv").ID, sc.VM("vm-short-lived").ID
	set := s.idOf(sc.Group, typeDES, "des-hsm")
	shout := func(id string) string {
		return strings.Replace(id, "/resourceGroups/"+sc.Group+"/", "/RESOURCEGROUPS/"+strings.ToUpper(sc.Group)+"/", 1)
	}
	for _, change := range []error{
		s.RestartVM(kv), s.SetTag(hsm, "owner", "payments"), s.SetDESAutoRotation(set, true), s.RenameCase(tdx, shout), s.DeleteVM(gone),
	} {
		if change != nil {
			return nil, change
		}
	}
	return []Event{
		s.VMEvent(kv, "restart", false), s.DESEvent(set), s.VMEvent(hsm, "write", false),
		s.VMEvent(shout(tdx), "write", false), s.VMEvent(gone, "delete", false),
	}, nil
}

// expired: the key of the two VMs on one set runs out.
func (sc *Scene) expired() ([]Event, error) {
	if err := sc.s.ExpireKey(sc.AutoKey); err != nil {
		return nil, err
	}
	e, ok := sc.s.KeyEvent(sc.AutoKey, "KeyExpired")
	if !ok {
		return nil, fmt.Errorf("there is no key %q", sc.AutoKey)
	}
	return []Event{e}, nil
}
