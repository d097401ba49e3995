package remedy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// Advice is for a person: what no plan may do, with commands that are ready to be
// read and run. Every finding that fails is answered by a step or by advice.

// around is what advice may name in its commands.
type around struct {
	vm    cvm.VMID
	des   cvm.DESID
	key   cvm.KeyID // "" if it isn't known
	vault cvm.Fact[cvm.Vault]
	bits  int // of a new key
}

// route says under which step a finding is advised.
type route struct {
	kind   Kind
	target string
	class  policy.Class
}

// passing are the reasons of unknown findings that go away by themselves.
var passing = []string{"in-transition", "des-in-transition", "evidence-not-collected", "evidence-stale", "fde-provisioning", "not-captured"}

// wantsAdvice says whether a finding that no step answers is one for a person.
func wantsAdvice(f policy.Finding) bool {
	switch f.State {
	case cvm.Fail:
		return true
	case cvm.UnknownState:
		return !slices.Contains(passing, f.Reason) && (f.Action != "" || f.Class == policy.NeedsPerson)
	}
	return false
}

// adviseRest advises on what is left: one step for each kind, target and class,
// in that order.
func (pl *planner) adviseRest(to func(policy.Finding) route, fill func(*Step, []policy.Finding)) {
	groups := map[route][]int{}
	for i, f := range pl.v.Findings {
		if !pl.answered[i] && wantsAdvice(f) {
			r := to(f)
			groups[r] = append(groups[r], i)
		}
	}
	order := []Kind{RepairShared, RotateKey, Recreate, AskPerson}
	routes := make([]route, 0, len(groups))
	for r := range groups {
		routes = append(routes, r)
	}
	slices.SortFunc(routes, func(a, b route) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.kind), slices.Index(order, b.kind)),
			cmp.Compare(a.target, b.target), cmp.Compare(rank(a.class), rank(b.class)))
	})
	for _, r := range routes {
		var found []policy.Finding
		for _, i := range groups[r] {
			found = append(found, pl.v.Findings[i])
		}
		s := Step{Kind: r.kind, Class: r.class, Target: r.target, Disturbs: disturbance(r)}
		fill(&s, found)
		pl.advise(s, groups[r], cmp.Or(s.Why, "it is left to a person"))
	}
}

func disturbance(r route) Disturbs {
	switch {
	case r.kind == Recreate || r.class == policy.NeedsRecreate:
		return DisturbsRecreate
	case r.class == policy.NeedsDeallocation:
		return DisturbsDeallocate
	}
	return DisturbsNone
}

// advice for a VM.
func (pl *vmPlanner) advice() {
	pl.taintedDisks()
	a := around{vm: pl.p.ID, des: pl.vm.OSDisk.SecureDES, vault: pl.p.Vault, bits: pl.bits(pl.vm.Location)}
	if pl.p.DES.Known {
		a.des = pl.p.DES.Value.ID
		if k, err := cvm.ParseKeyID(pl.p.DES.Value.KeyURL); err == nil {
			a.key = k
		}
	}
	pl.adviseRest(func(f policy.Finding) route {
		if f.State == cvm.UnknownState {
			return route{AskPerson, cmp.Or(f.Object, string(pl.p.ID)), policy.NeedsPerson}
		}
		own := f.Object == "" || same(f.Object, pl.p.ID)
		switch {
		case f.Class == policy.NeedsRecreate:
			return route{Recreate, string(pl.p.ID), policy.NeedsRecreate}
		case own:
			return route{AskPerson, string(pl.p.ID), cmp.Or(f.Class, policy.NeedsPerson)}
		case f.Class == policy.InPlace && isShared(f.Object):
			return route{RepairShared, f.Object, policy.InPlace}
		case f.Class == policy.NeedsDeallocation:
			return route{RotateKey, f.Object, policy.NeedsDeallocation}
		}
		return route{AskPerson, f.Object, policy.NeedsPerson}
	}, func(s *Step, found []policy.Finding) {
		switch s.Kind {
		case RepairShared:
			s.Does = "Leaves the fault to the turn of the shared object itself, which repairs it once for all VMs on it."
			s.Why = "it is another object's"
		case Recreate:
			s.Does = "Makes a new VM with a confidential OS disk under a customer key beside this one, and moves the data disks."
			s.Needs = []string{"A person has chosen the time: the new VM has a new identity, vTPM and OS disk.",
				"Network, identities, extensions and what lies on the OS disk are taken over by hand."}
			s.Undo = "The old VM is left as it is: start it and attach its data disks again, or use their snapshots."
			s.Why = "Azure decides it at creation and can't change it later"
			s.Commands = recreateCommands(pl.p, pl.d)
		case RotateKey:
			rotate(s, found, a)
		default:
			ask(s, found, a)
		}
	})
}

// isShared says whether an object has a turn of its own.
func isShared(id string) bool {
	if _, err := cvm.ParseDESID(id); err == nil {
		return true
	}
	if _, err := cvm.ParseVaultID(id); err == nil {
		return true
	}
	_, err := cvm.ParseKeyID(id)
	return err == nil
}

// taintedDisks advises on data disks that Azure Disk Encryption has barred from
// server-side encryption: they are made anew by a copy of their bytes.
func (pl *vmPlanner) taintedDisks() {
	found := pl.failing("data-disk-ade-tainted")
	if len(found) == 0 {
		return
	}
	for _, i := range pl.failing("data-disk-platform-key") {
		if !pl.answered[i] {
			found = append(found, i) // the same disks' other fault
		}
	}
	for _, dd := range pl.p.DataDisks {
		if dd.Disk.Known && dd.Disk.Value.ADETainted {
			pl.advise(Step{Kind: Recreate, Class: policy.NeedsRecreate, Target: string(dd.Ref.ID), Disturbs: DisturbsDeallocate,
				Does:     fmt.Sprintf("Makes the data disk at LUN %d anew by copying its bytes into an empty disk: the mark of Azure Disk Encryption stays through snapshots and copies.", dd.Ref.LUN),
				Needs:    []string{"The disk is decrypted.", "The VM is deallocated while it is copied."},
				Undo:     "The old disk is left as it is.",
				Commands: copyDisk(dd),
			}, found, "a disk that was under Azure Disk Encryption takes no customer key")
		}
	}
}

func copyDisk(dd cvm.DataDiskFacts) []string {
	id, name := dd.Ref.ID, freshName(dd.Ref.ID.Name())
	group := []string{"--subscription", id.Subscription(), "--resource-group", id.ResourceGroup()}
	return []string{
		"SIZE=$(" + az("disk", "show", "--ids", string(id), "--query", "diskSizeBytes", "--output", "tsv") + ")",
		az(append([]string{"disk", "create", "--name", name, "--location", dd.Disk.Value.Location, "--upload-type", "Upload"}, group...)...) + ` --upload-size-bytes "$((SIZE + 512))"`,
		"FROM=$(" + az("disk", "grant-access", "--ids", string(id), "--access-level", "Read", "--duration-in-seconds", "86400", "--query", "accessSAS", "--output", "tsv") + ")",
		"TO=$(" + az(append([]string{"disk", "grant-access", "--name", name, "--access-level", "Write", "--duration-in-seconds", "86400", "--query", "accessSAS", "--output", "tsv"}, group...)...) + ")",
		`azcopy copy "$FROM" "$TO" --blob-type PageBlob`,
		az("disk", "revoke-access", "--ids", string(id)),
		az(append([]string{"disk", "revoke-access", "--name", name}, group...)...),
	}
}

// bits is how long a new key of a region is to be.
func (pl *planner) bits(region string) int {
	r, _ := pl.d.Region(region)
	return cmp.Or(r.KeyBits, 3072)
}

// rotate fills the advice to give a disk encryption set another key, which takes
// all VMs on it down at once.
func rotate(s *Step, found []policy.Finding, a around) {
	s.Does = "Sets another key version on the disk encryption set while all VMs on it are deallocated."
	s.Needs = []string{"The new key is enabled, exportable, in time, with its release policy and rights, before anything is deallocated.",
		"All VMs on the set are deallocated together: if one runs, none takes the new key.",
		"The old version stays enabled until all have started, and for as long as backups made under it."}
	s.Undo = "Set the old version again in the same way."
	s.Why = "it takes down every VM on the disk encryption set"
	elsewhere := slices.ContainsFunc(found, func(f policy.Finding) bool {
		return strings.HasPrefix(f.Reason, "vault-") || f.Reason == "key-wrong-type" || f.Reason == "key-certificate-backed"
	})
	var cmds []string
	switch k := scopeOf(a.key, a.vault); {
	case elsewhere || a.key == "":
		cmds = append(cmds, "# put the versioned URL of a fit key, in a Premium vault or Managed HSM of the region, into KEY_URL", `: "${KEY_URL:?}"`)
	default:
		cmds = append(cmds, k.create(a.bits), k.newest())
	}
	set := cvm.DESID(`$DES_ID`)
	list := `az disk-encryption-set list-associated-resources --ids "$DES_ID" --output tsv`
	update := `az disk-encryption-set update --ids "$DES_ID" --key-url "$KEY_URL"`
	if a.des == "" {
		cmds = append(cmds, fmt.Sprintf("# for each disk encryption set on the key, its id in %s:", set))
	} else {
		list = az("disk-encryption-set", "list-associated-resources", "--subscription", a.des.Subscription(),
			"--resource-group", a.des.ResourceGroup(), "--disk-encryption-set-name", a.des.Name(), "--output", "tsv")
		vault := ""
		if a.vault.Known && !elsewhere {
			vault = a.vault.Value.ID
		}
		update = azSetKey(a.des, vault)
	}
	cmds = append(cmds,
		"DISKS=$("+list+")",
		`VMS=$(for d in $DISKS; do az disk show --ids "$d" --query managedBy --output tsv; done)`,
		"az vm deallocate --ids $VMS", update, "az vm start --ids $VMS")
	s.Commands = cmds
}

// ask fills the advice to ask somebody.
func ask(s *Step, found []policy.Finding, a around) {
	var texts, actions []string
	whom := ""
	for _, f := range found {
		if f.Text != "" {
			texts = append(texts, f.Text)
		}
		if f.Action != "" {
			actions = append(actions, f.Action)
		}
		whom = cmp.Or(whom, whomFor(f))
		for _, c := range askCommands(f.Reason, a) {
			if !slices.Contains(s.Commands, c) {
				s.Commands = append(s.Commands, c)
			}
		}
	}
	s.Does = "Asks " + whom + ": " + strings.Join(uniqInOrder(texts), " ")
	if len(actions) > 0 {
		s.Needs = []string{"cvmguard's identity is granted " + strings.Join(uniq(actions), ", ") + "."}
	}
	s.Why = "only a person can do it"
	if s.Class != policy.NeedsPerson {
		s.Why = "cvmguard has no step for it"
	}
}

// whomFor says who can put a finding right.
func whomFor(f policy.Finding) string {
	switch {
	case f.Action != "":
		return "whoever grants roles on it"
	case f.Reason == "orchestrator-missing":
		return "an administrator of the tenant"
	case strings.HasPrefix(f.Reason, "region-"):
		return "whoever keeps the policy document"
	case strings.HasPrefix(f.Reason, "key-"):
		return "the key's owner"
	case strings.HasPrefix(f.Reason, "vault-"), strings.HasPrefix(f.Reason, "orchestrator-"), f.Reason == "des-identity-denied":
		return "the vault's owner"
	case strings.HasPrefix(f.Reason, "des-"):
		return "the owner of the disk encryption set"
	}
	return "the VM's owner"
}

// askCommands are those that put a reason right, for whoever may run them.
func askCommands(reason string, a around) []string {
	k := scopeOf(a.key, a.vault)
	vault := string(k.vault)
	switch {
	case reason == "encryption-at-host-off":
		return []string{azDeallocate(a.vm), az("vm", "update", "--ids", string(a.vm), "--set", "securityProfile.encryptionAtHost=true"), azStart(a.vm)}
	case reason == "tl-secure-boot-off", reason == "tl-vtpm-off":
		return []string{azDeallocate(a.vm), az("vm", "update", "--ids", string(a.vm), "--enable-secure-boot", "true", "--enable-vtpm", "true"), azStart(a.vm)}
	case reason == "des-identity-missing" && a.des != "":
		return append([]string{az("disk-encryption-set", "identity", "assign", "--ids", string(a.des), "--system-assigned")}, desGrants(a, k)...)
	case reason == "des-identity-denied" && a.des != "":
		return desGrants(a, k)
	case reason == "orchestrator-missing":
		return []string{az("ad", "sp", "create", "--id", orchestratorApp)}
	case vault != "" && k.vault.IsHSM() && reason == "vault-no-purge-protection":
		return []string{az("keyvault", "update-hsm", "--hsm-name", k.store(), "--enable-purge-protection", "true")}
	case vault != "" && reason == "vault-no-purge-protection":
		return []string{az("keyvault", "update", "--name", k.store(), "--enable-purge-protection", "true")}
	case vault != "" && reason == "vault-no-soft-delete":
		return []string{az("resource", "update", "--ids", vault, "--set", "properties.enableSoftDelete=true")}
	case a.key == "":
		return nil
	}
	switch reason {
	case "orchestrator-denied":
		return azGrantRelease(k)
	case "key-disabled":
		return []string{k.set(a.key.Version(), "--enabled", "true")}
	case "key-deleted":
		return []string{az(append([]string{"keyvault", "key", "recover"}, k.words("")...)...)}
	case "key-ops-missing":
		return []string{k.set(a.key.Version(), "--ops", "wrapKey", "unwrapKey")}
	}
	return nil
}

func desGrants(a around, k keyScope) []string {
	if a.key == "" {
		return nil
	}
	return azGrantDES(a.des, k)
}
