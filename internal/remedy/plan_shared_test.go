package remedy

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// shared is what the loop would observe of a shared object.
func (w *world) shared(kind cvm.SharedKind) cvm.SharedPosture {
	p := w.posture()
	s := cvm.SharedPosture{Kind: kind, Region: "northeurope", DESDisks: p.DESDisks, Rights: cvm.NotRead[cvm.Rights]("not-asked", "", "")}
	switch kind {
	case cvm.SharedDES:
		s.ID, s.DES, s.Key, s.Vault, s.Rights = string(desID), p.DES, p.Key, p.Vault, p.Rights
		s.DESDisks = cvm.Known([]cvm.Disk{w.disks[osID]})
	case cvm.SharedKey:
		s.ID, s.Key, s.Vault = string(keyURL), p.Key, p.Vault
	case cvm.SharedVault:
		s.ID, s.Vault = vaultID, p.Vault
	case cvm.SharedRegion:
		s.ID, s.Vault = regionID, p.Vault
		s.DES, s.Key = cvm.NotThere[cvm.DES](), cvm.NotThere[cvm.Key]()
		if des, ok := w.sets[desID]; ok {
			s.DES = cvm.Known(des)
		}
		if key, ok := w.keys[keyURL]; ok {
			s.Key = cvm.Known(key)
		}
		if s.DES.Known && s.Key.Known {
			r := w.rights[keyURL]
			r.Model, r.OrchestratorKnown = "rbac", true
			s.Rights = cvm.Known(r)
		}
	}
	return s
}

func TestForShared(t *testing.T) {
	rotates := func(w *world) { d := w.sets[desID]; d.AutoRotation = true; w.sets[desID] = d }
	weak := func(w *world) {
		k := w.keys[keyV1]
		k.Policy.Decoded = strings.Replace(k.Policy.Decoded, "azure-compliant-cvm", "x", 1)
		w.putKey(k)
	}
	noRights := func(w *world) { w.rights[keyURL] = cvm.Rights{Model: "rbac", OrchestratorKnown: true} }
	vault := func(edit func(*cvm.Vault)) func(*world) {
		return func(w *world) {
			v := w.vaults[strings.ToLower(vaultID)]
			edit(&v)
			w.vaults[strings.ToLower(vaultID)] = v
		}
	}
	both := func(a, b func(*world)) func(*world) { return func(w *world) { a(w); b(w) } }
	nothing := func(w *world) { clear(w.keys); delete(w.sets, desID) }
	for name, c := range map[string]struct {
		kind  cvm.SharedKind
		world func(*world)
		edit  func(*cvm.SharedPosture)
		doc   []string
		want  []string
	}{
		"des good":                   {cvm.SharedDES, func(*world) {}, nil, nil, []string{}},
		"des rotates":                {cvm.SharedDES, rotates, nil, nil, []string{"disable-des-auto-rotation planned"}},
		"des rotates, not let":       {cvm.SharedDES, rotates, nil, []string{"disableAutoRotation: true", "disableAutoRotation: false"}, []string{"disable-des-auto-rotation advised"}},
		"des rotates, audited":       {cvm.SharedDES, rotates, nil, []string{"rules:", "rules:\n  des-auto-rotation: audit"}, []string{"disable-des-auto-rotation advised"}},
		"des rotates now":            {cvm.SharedDES, both(rotates, func(w *world) { d := w.sets[desID]; d.PreviousKeys = 1; w.sets[desID] = d }), nil, nil, []string{"disable-des-auto-rotation blocked"}},
		"des rotates, V2":            {cvm.SharedDES, both(rotates, func(w *world) { d := w.disks[osID]; d.ConfidentialVersion = "V2"; w.disks[osID] = d }), nil, nil, []string{}},
		"des without rights":         {cvm.SharedDES, noRights, nil, nil, []string{"grant-des-identity planned", "grant-orchestrator planned"}},
		"des rights, not let":        {cvm.SharedDES, noRights, nil, []string{"grantRights: true", "grantRights: false"}, []string{"grant-des-identity advised", "grant-orchestrator advised"}},
		"des failed":                 {cvm.SharedDES, func(w *world) { d := w.sets[desID]; d.ProvisioningState = "Failed"; w.sets[desID] = d }, nil, nil, []string{"rotate-key advised"}},
		"des without identity":       {cvm.SharedDES, func(w *world) { d := w.sets[desID]; d.PrincipalID, d.IdentityType = "", "None"; w.sets[desID] = d }, nil, nil, []string{"ask-person advised"}},
		"des gone":                   {cvm.SharedDES, func(*world) {}, func(s *cvm.SharedPosture) { s.Gone = true }, nil, []string{}},
		"key good":                   {cvm.SharedKey, func(*world) {}, nil, nil, []string{}},
		"key weak":                   {cvm.SharedKey, weak, nil, nil, []string{"replace-release-policy planned"}},
		"key weak, not let":          {cvm.SharedKey, weak, nil, []string{"replaceReleasePolicy: true", "replaceReleasePolicy: false"}, []string{"replace-release-policy advised"}},
		"key weak, immutable":        {cvm.SharedKey, both(weak, func(w *world) { k := w.keys[keyV1]; k.Policy.Immutable = true; w.putKey(k) }), nil, nil, []string{"rotate-key advised"}},
		"key weak, vault unread":     {cvm.SharedKey, weak, func(s *cvm.SharedPosture) { s.Vault = cvm.NotRead[cvm.Vault]("vault-unreadable", "", "") }, nil, []string{"replace-release-policy blocked"}},
		"key weak, many regions":     {cvm.SharedKey, both(weak, vault(func(v *cvm.Vault) { v.ExtraRegions = []string{"westeurope"} })), nil, nil, []string{"replace-release-policy blocked"}},
		"key expired":                {cvm.SharedKey, func(w *world) { k := w.keys[keyV1]; k.Expires = testNow; w.putKey(k) }, nil, nil, []string{"rotate-key advised"}},
		"key near expiry":            {cvm.SharedKey, func(w *world) { k := w.keys[keyV1]; k.Expires = testNow.Add(72 * time.Hour); w.putKey(k) }, nil, nil, []string{"rotate-key advised"}},
		"key disabled":               {cvm.SharedKey, func(w *world) { k := w.keys[keyV1]; k.Enabled = cvm.False; w.putKey(k) }, nil, nil, []string{"ask-person advised"}},
		"vault good":                 {cvm.SharedVault, func(*world) {}, nil, nil, []string{}},
		"vault purgeable":            {cvm.SharedVault, vault(func(v *cvm.Vault) { v.PurgeProtection = cvm.False }), nil, nil, []string{"ask-person advised"}},
		"region ready":               {cvm.SharedRegion, func(*world) {}, nil, nil, []string{}},
		"region bare":                {cvm.SharedRegion, nothing, nil, nil, []string{"ensure-key planned", "ensure-disk-encryption-set planned", "grant-des-identity planned", "grant-orchestrator planned"}},
		"region bare, not let":       {cvm.SharedRegion, nothing, nil, []string{"ensureRegionKey: true", "ensureRegionKey: false", "grantRights: true", "grantRights: false"}, []string{"ensure-key advised", "ensure-disk-encryption-set planned", "grant-des-identity advised", "grant-orchestrator advised"}},
		"region, key unread":         {cvm.SharedRegion, nothing, func(s *cvm.SharedPosture) { s.Key = cvm.NotRead[cvm.Key]("key-unreadable", "a/keys/read", "") }, nil, []string{"ensure-key blocked", "ensure-disk-encryption-set blocked", "grant-des-identity planned", "grant-orchestrator planned", "ask-person advised"}},
		"region, vault standard":     {cvm.SharedRegion, both(nothing, vault(func(v *cvm.Vault) { v.SKU = "standard" })), nil, nil, []string{"ensure-key blocked", "ensure-disk-encryption-set blocked", "grant-des-identity blocked", "grant-orchestrator blocked", "ask-person advised"}},
		"region, vault elsewhere":    {cvm.SharedRegion, both(nothing, vault(func(v *cvm.Vault) { v.Location = "westeurope" })), nil, nil, []string{"ensure-key blocked", "ensure-disk-encryption-set blocked", "grant-des-identity blocked", "grant-orchestrator blocked", "ask-person advised"}},
		"region, key unfit":          {cvm.SharedRegion, func(w *world) { k := w.keys[keyV1]; k.Type = "RSA"; w.putKey(k); delete(w.sets, desID) }, nil, nil, []string{"ensure-disk-encryption-set blocked", "grant-des-identity blocked", "grant-orchestrator blocked", "ask-person advised"}},
		"region, set of another key": {cvm.SharedRegion, func(w *world) { d := w.sets[desID]; d.KeyURL = string(dataKey); w.sets[desID] = d }, nil, nil, []string{"ask-person advised"}},
		"region, no rights":          {cvm.SharedRegion, noRights, nil, nil, []string{"grant-des-identity planned", "grant-orchestrator planned"}},
		"region, rights unread":      {cvm.SharedRegion, func(*world) {}, func(s *cvm.SharedPosture) { s.Rights = cvm.NotRead[cvm.Rights]("rights-unreadable", "x", "") }, nil, []string{"grant-des-identity blocked", "grant-orchestrator blocked", "ask-person advised"}},
		"region, no orchestrator":    {cvm.SharedRegion, nothing, nil, []string{"orchestratorObjectId: " + orcheID + "\n", ""}, []string{"ensure-key planned", "ensure-disk-encryption-set planned", "grant-des-identity planned", "grant-orchestrator blocked"}},
		"region not named":           {cvm.SharedRegion, nothing, func(s *cvm.SharedPosture) { s.Region = "westeurope" }, nil, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.world(w)
			s := w.shared(c.kind)
			if c.edit != nil {
				c.edit(&s)
			}
			d := document(t, "enforce", c.doc...)
			plan := func(d *policy.Document) []byte {
				p := ForShared(s, policy.JudgeShared(s, d, testNow), d)
				p.Mode = ""
				b, err := json.Marshal(p)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			v := policy.JudgeShared(s, d, testNow)
			got := ForShared(s, v, d)
			if !slices.Equal(lines(got), c.want) {
				t.Errorf("got  %q\nwant %q", lines(got), c.want)
				for _, s := range got.Steps {
					t.Logf("%s %s: %s (%v) %s", s.Kind, s.State, s.Why, s.Reasons, s.Does)
				}
			}
			if !bytes.Equal(plan(d), plan(d)) || !bytes.Equal(plan(d), plan(d.WithMode("observe"))) {
				t.Error("the plan isn't the same each time and in both modes")
			}
			for _, f := range v.Findings {
				answered := slices.ContainsFunc(got.Steps, func(s Step) bool { return slices.Contains(s.Reasons, f.Reason) })
				if f.State == cvm.Fail && !s.Gone && !answered {
					t.Errorf("nothing answers %s (%s)", f.Rule, f.Reason)
				}
			}
		})
	}
}

// A bare region is made ready, whatever is lost on the way, with one write each.
func TestRegionToTheEnd(t *testing.T) {
	d := document(t, "enforce")
	for _, crash := range []bool{false, true} {
		w := newWorld()
		clear(w.keys)
		clear(w.rights)
		delete(w.sets, desID)
		for range 10 {
			s := w.shared(cvm.SharedRegion)
			step, ok := ForShared(s, policy.JudgeShared(s, d, testNow), d).NextExcept(nothingHeld)
			if !ok {
				break
			}
			if p := drive(t, w, w.applier(d), step, crash); p.State != Effected {
				t.Fatalf("%s ended %s: %v", step.Kind, p.State, p.Err)
			}
		}
		for _, kind := range []string{"create-key", "create-des", "grant des", "grant orchestrator"} {
			if w.writes[kind] != 1 {
				t.Errorf("crash %v: %d writes of %s", crash, w.writes[kind], kind)
			}
		}
		s := w.shared(cvm.SharedRegion)
		if v := policy.JudgeShared(s, d, testNow); v.Value != policy.Compliant {
			t.Errorf("crash %v: the region is %s: %+v", crash, v.Value, v.Findings)
		}
	}
}

// nothingHeld is NextExcept's answer where no step has failed.
func nothingHeld(Step) bool { return false }
