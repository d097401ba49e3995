package remedy

import (
	"context"
	"strconv"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
)

// A disk encryption set's automatic rotation.

func (a *AzureApplier) lookAutoRotation(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	des, err := a.Azure.DES(ctx, cvm.DESID(s.Target))
	switch {
	case err != nil:
		return Progress{}, err
	case moving(des.ProvisioningState):
		return inMotion(), nil
	case !des.AutoRotation:
		return effected(), nil
	}
	if why := rotationDoubts(des); len(why) > 0 {
		return refuse(s, "%s", why[0]), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startAutoRotation(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	return a.Azure.BeginDESAutoRotation(ctx, cvm.DESID(s.Target), false)
}

// A key's release policy.

func (a *AzureApplier) lookReleasePolicy(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	key, err := a.Azure.Key(ctx, cvm.KeyID(s.Target))
	if err != nil {
		return Progress{}, err
	}
	switch {
	case s.Args[argPolicy] == "" || s.Args[argRegion] == "":
		return Progress{}, fault.New(fault.Bug, "replacing the release policy of key", s.Target, "the step holds no policy or region")
	case releaseFault(key.Policy, s.Args[argRegion], "", a.Policy) == "":
		return effected(), nil
	case key.Policy.Immutable:
		return refuse(s, "the release policy is immutable"), nil
	case key.Managed:
		return refuse(s, "the key backs a certificate"), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startReleasePolicy(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	if err := a.Azure.UpdateKeyReleasePolicy(ctx, cvm.KeyID(s.Target), s.Args[argPolicy]); err != nil {
		return Progress{}, err
	}
	return effected(), nil
}

// A region's key.

// regionVault reads the vault that a step names. what is NotFound comes back so.
func (a *AzureApplier) regionVault(ctx context.Context, s Step) (cvm.Vault, error) {
	if s.Args[argVault] == "" {
		return cvm.Vault{}, fault.New(fault.Bug, "applying "+string(s.Kind), s.Target, "the step names no vault")
	}
	return a.Azure.Vault(ctx, cvm.VaultRef{ID: s.Args[argVault]})
}

func regionKey(v cvm.Vault, s Step) cvm.KeyID {
	return cvm.KeyID("https://" + v.Host + "/keys/" + s.Args[argKey])
}

// keyFaultsNow is what makes a key unfit, by the clock of now.
func (a *AzureApplier) keyFaultsNow(k cvm.Key, region string) []string {
	if a.Now == nil {
		return []string{"there is no clock to tell whether the key has expired"}
	}
	return keyFaults(k, region, a.Now(), a.Policy)
}

func (a *AzureApplier) lookKey(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vault, err := a.regionVault(ctx, s)
	if err != nil {
		return Progress{}, err
	}
	key, err := a.Azure.Key(ctx, regionKey(vault, s))
	if err == nil {
		if why := a.keyFaultsNow(key, s.Args[argRegion]); len(why) > 0 {
			return refuse(s, "there is a key of that name that isn't fit: %s", why[0]), nil
		}
		return effected(), nil
	}
	if !fault.Is(err, fault.NotFound) {
		return Progress{}, err
	}
	if why := vaultDoubts(vault, s.Args[argRegion]); len(why) > 0 {
		return refuse(s, "%s", why[0]), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startKey(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	bits, err := strconv.Atoi(s.Args[argBits])
	if err != nil || s.Args[argPolicy] == "" {
		return Progress{}, fault.New(fault.Bug, "making the key of region", s.Target, "the step holds no size or release policy")
	}
	vault, err := a.regionVault(ctx, s)
	if err != nil {
		return Progress{}, err
	}
	// The release policy must be there at the first version. It is mutable, so that
	// it can follow when Microsoft changes its providers.
	if _, err := a.Azure.CreateKey(ctx, vault.Host, s.Args[argKey], bits, s.Args[argPolicy], false); err != nil {
		return Progress{}, err
	}
	return effected(), nil
}

// A region's disk encryption set.

func (a *AzureApplier) lookDES(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vault, err := a.regionVault(ctx, s)
	if err != nil {
		return Progress{}, err
	}
	id := regionKey(vault, s)
	des, err := a.Azure.DES(ctx, cvm.DESID(s.Target))
	if err == nil {
		if moving(des.ProvisioningState) {
			return inMotion(), nil
		}
		if why := desFaults(des, id); len(why) > 0 {
			return refuse(s, "there is a disk encryption set of that name that isn't fit: %s", why[0]), nil
		}
		return effected(), nil
	}
	if !fault.Is(err, fault.NotFound) {
		return Progress{}, err
	}
	key, err := a.Azure.Key(ctx, id)
	if err != nil {
		return Progress{}, err
	}
	if why := a.keyFaultsNow(key, s.Args[argRegion]); len(why) > 0 {
		return refuse(s, "the key isn't fit: %s", why[0]), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startDES(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	vault, err := a.regionVault(ctx, s)
	if err != nil {
		return Progress{}, err
	}
	key, err := a.Azure.Key(ctx, regionKey(vault, s)) // the newest version: a set names one
	if err != nil {
		return Progress{}, err
	}
	source := vault.ID
	if vault.HSM || !same(cvm.VaultID(vault.ID).Subscription(), cvm.DESID(s.Target).Subscription()) {
		source = "" // Azure takes it neither for an HSM nor from another subscription
	}
	return a.Azure.BeginCreateDES(ctx, cvm.DESID(s.Target), s.Args[argRegion], key.ID, source, map[string]string{"created-by": "cvmguard"})
}

// Rights.

func (a *AzureApplier) lookGrant(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	g, lack, err := a.grantOf(ctx, s)
	switch {
	case err != nil:
		return Progress{}, err
	case g.Principal == "" && s.Kind == GrantDES:
		return refuse(s, "the disk encryption set has no identity"), nil
	case g.Principal == "":
		return refuse(s, "policy doesn't name the orchestrator's object id"), nil
	case len(lack) == 0:
		return effected(), nil
	}
	return notThere(), nil
}

func (a *AzureApplier) startGrant(ctx context.Context, s Step, _ Secrets) (Progress, error) {
	g, _, err := a.grantOf(ctx, s)
	if err != nil {
		return Progress{}, err
	}
	if g.Principal == "" {
		return Progress{}, fault.New(fault.Blocked, "granting rights on key", s.Args[argKey], "there is nobody to grant them to")
	}
	if err := a.Azure.GrantKey(ctx, g); err != nil {
		return Progress{}, err
	}
	return effected(), nil
}

// grantOf reads what a grant needs, and which operations are missing.
func (a *AzureApplier) grantOf(ctx context.Context, s Step) (g cvm.Grant, lack []string, err error) {
	vault, err := a.regionVault(ctx, s)
	if err != nil {
		return g, nil, err
	}
	des, err := a.Azure.DES(ctx, cvm.DESID(s.Args[argDES]))
	if err != nil {
		return g, nil, err
	}
	// Rights on a key that isn't there would wait for whoever makes it.
	key, err := a.Azure.Key(ctx, cvm.KeyID(s.Args[argKey]))
	if err != nil {
		return g, nil, err
	}
	g = cvm.Grant{Vault: vault, Key: key.ID.Versionless(), Principal: des.PrincipalID, For: "des"}
	if s.Kind == GrantOrchestrator {
		g.Principal, g.For = a.Policy.Orchestrator(), "orchestrator"
	}
	if g.Principal == "" {
		return g, nil, nil
	}
	r, err := a.Azure.Rights(ctx, cvm.RightsQuery{Vault: vault, Key: g.Key, DESPrincipal: des.PrincipalID, Orchestrator: a.Policy.Orchestrator()})
	if err != nil {
		return g, nil, err
	}
	if s.Kind == GrantOrchestrator {
		return g, missing(r.Orchestrator, orchestratorOps(r.Model)), nil
	}
	return g, missing(r.DESIdentity, desOps), nil
}
