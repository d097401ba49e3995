package reconcile

import (
	"context"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/policy"
	"cvmguard/internal/remedy"
)

// viewShared observes, judges and plans a shared object. Its reads are always
// fresh: ten VMs may rely on what it finds.
func (l *Loop) viewShared(ctx context.Context, h *held, m Message, doc *policy.Document) (*view, error) {
	s := cvm.SharedPosture{Kind: h.object.Kind, ID: h.object.ID,
		DESDisks: cvm.NotRead[[]cvm.Disk]("not-asked", "", ""),
		Rights:   cvm.NotRead[cvm.Rights]("not-asked", "", "")}
	o := Observer{Azure: l.Azure, Fresh: true}
	var err error
	switch h.object.Kind {
	case cvm.SharedDES:
		err = l.observeDES(ctx, o, &s, cvm.DESID(h.object.ID), doc)
		s.Gone = s.DES.Absent
	case cvm.SharedKey:
		err = l.observeKey(ctx, h, &s)
		s.Gone = s.Key.Absent
	case cvm.SharedVault:
		s.Vault, err = fact(l.Azure.Vault(ctx, cvm.VaultRef{ID: h.object.ID}, true))("vault-unreadable")
		s.Gone = s.Vault.Absent
	case cvm.SharedRegion:
		err = l.observeRegion(ctx, o, h, &s, doc)
	default:
		err = fault.New(fault.Bug, "observing a shared object", h.object.ID, "unknown kind %q", h.object.Kind)
	}
	if err != nil {
		return nil, err
	}
	s.Contested = h.row.Contested()
	now := l.Now()
	if s.Gone && h.object.Kind != cvm.SharedRegion {
		if again, err := l.lookForGone(ctx, h, m, now); again || err != nil {
			return nil, err
		}
	}
	changing := s.DES.Known && busy(s.DES.Value.ProvisioningState)
	if changing {
		if wait, err := l.awaitTransition(ctx, h, m, now); wait || err != nil {
			return nil, err
		}
	}
	v := &view{posture: s, gone: s.Gone, busy: changing, region: s.Region, hold: h.row.Hold, change: func(r *ledger.Row) {
		if s.Vault.Known {
			r.Vault = s.Vault.Value.Host
		}
	}}
	v.verdict = l.stamp(policy.JudgeShared(s, doc, now))
	v.plan = remedy.ForShared(s, v.verdict, doc)
	return v, nil
}

func (l *Loop) observeDES(ctx context.Context, o Observer, s *cvm.SharedPosture, id cvm.DESID, doc *policy.Document) (err error) {
	if s.DES, err = fact(l.Azure.DES(ctx, id, true))("des-unreadable"); err != nil || !s.DES.Known {
		return err
	}
	des := s.DES.Value
	s.Region = des.Location
	if des.AutoRotation {
		if s.DESDisks, err = o.disksOf(ctx, id, true); err != nil {
			return err
		}
	}
	if s.Key, s.Vault, err = o.keyAndVault(ctx, des); err != nil {
		return err
	}
	key, err := cvm.ParseKeyID(des.KeyURL)
	if err != nil {
		return nil // the vault isn't known then
	}
	return l.observeRights(ctx, s, key, doc)
}

// observeRights reads who may do what with a key, where vault and identity are
// known: whether the key itself could be read or not.
func (l *Loop) observeRights(ctx context.Context, s *cvm.SharedPosture, key cvm.KeyID, doc *policy.Document) (err error) {
	if !s.Vault.Known || !s.DES.Known || s.DES.Value.PrincipalID == "" {
		return nil
	}
	s.Rights, err = l.rightsOf(ctx, s.Vault.Value, key, s.DES.Value, doc)
	return err
}

// rightsOf reads who may do what with a key.
func (l *Loop) rightsOf(ctx context.Context, v cvm.Vault, key cvm.KeyID, d cvm.DES, doc *policy.Document) (cvm.Fact[cvm.Rights], error) {
	q := cvm.RightsQuery{Vault: v, Key: key.Versionless(), DESPrincipal: d.PrincipalID, Orchestrator: doc.Orchestrator()}
	return fact(l.Azure.Rights(ctx, q, true))("rights-unreadable")
}

// observeKey reads the version of a key that its disk encryption sets use, found
// through a VM that hangs on it; the newest where no VM does.
func (l *Loop) observeKey(ctx context.Context, h *held, s *cvm.SharedPosture) (err error) {
	id := cvm.KeyID(h.object.ID)
	if used, err := l.versionInUse(ctx, id); err != nil {
		return err
	} else if used != "" {
		id = used
	}
	if s.Key, err = fact(l.Azure.Key(ctx, id, true))("key-unreadable"); err != nil {
		return err
	}
	s.Vault, err = fact(l.Azure.Vault(ctx, cvm.VaultRef{Host: id.Host()}, true))("vault-unreadable")
	if s.Vault.Known {
		s.Region = s.Vault.Value.Location
	}
	return err
}

func (l *Loop) versionInUse(ctx context.Context, id cvm.KeyID) (cvm.KeyID, error) {
	var des cvm.DESID
	f := ledger.Filter{Equal: map[string]string{"key": strings.ToLower(string(id.Versionless()))}}
	err := l.Tables.Query(ctx, ledger.TableVMs, f, func(e ledger.Entity) bool {
		des = cvm.DESID(e.Cols["des"])
		return des == ""
	})
	if err != nil || des == "" {
		return "", err
	}
	d, err := fact(l.Azure.DES(ctx, des, true))("des-unreadable")
	if err != nil || !d.Known {
		return "", err
	}
	used, err := cvm.ParseKeyID(d.Value.KeyURL)
	if err != nil || !strings.EqualFold(string(used.Versionless()), string(id.Versionless())) {
		return "", nil // the set has moved to another key since
	}
	return used, nil
}

// observeRegion reads what policy wants ready in a region.
func (l *Loop) observeRegion(ctx context.Context, o Observer, h *held, s *cvm.SharedPosture, doc *policy.Document) (err error) {
	_, s.Region, _ = strings.Cut(h.object.ID, "/regions/")
	want, ok := doc.Region(s.Region)
	if !ok {
		s.Gone = true // policy no longer wants anything here
		return nil
	}
	if s.Vault, err = fact(l.Azure.Vault(ctx, cvm.VaultRef{ID: want.Vault}, true))("vault-unreadable"); err != nil {
		return err
	}
	if s.DES, err = fact(l.Azure.DES(ctx, want.DES, true))("des-unreadable"); err != nil {
		return err
	}
	if s.Vault.Known {
		id := cvm.KeyID("https://" + s.Vault.Value.Host + "/keys/" + want.Key)
		if s.DES.Known {
			if used, err := cvm.ParseKeyID(s.DES.Value.KeyURL); err == nil && strings.EqualFold(string(used.Versionless()), string(id)) {
				id = used
			}
		}
		if s.Key, err = fact(l.Azure.Key(ctx, id, true))("key-unreadable"); err != nil {
			return err
		}
	}
	if !s.Key.Known {
		return nil // what is yet to be made has no rights
	}
	return l.observeRights(ctx, s, s.Key.Value.ID, doc)
}

// dependents selects the VM rows that hang on a shared object; ok is false where
// no VM does.
func dependents(o Object, row ledger.Row) (f ledger.Filter, ok bool) {
	low := strings.ToLower(o.ID)
	switch o.Kind {
	case cvm.SharedDES:
		return ledger.Filter{Equal: map[string]string{"des": low}}, true
	case cvm.SharedKey:
		return ledger.Filter{Equal: map[string]string{"key": low}}, true
	case cvm.SharedVault:
		if row.Vault == "" {
			return f, false
		}
		return ledger.Filter{Prefix: map[string]string{"key": "https://" + row.Vault + "/"}}, true
	}
	return f, false
}
