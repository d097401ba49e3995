package azure

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"cvmguard/internal/azuresim"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/fault"
	"cvmguard/internal/policy"
)

// keyLife takes keys of a vault through their whole life: by our own client where
// it has the call, else by the SDK's client that ours is made of. After each step
// it reads the key as the loop does and judges it. policies says whether the vault
// knows release policies.
func keyLife(t *testing.T, c *Client, host string, policies bool) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	sdk, err := c.keys.get(host)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	const name = "cvm-os-key"
	base := cvm.KeyID("https://" + host + "/keys/" + name)
	release := cvm.DraftReleasePolicy("https://sharedweu.weu.attest.azure.net")
	// reasons are those that a key has at a time, notes among them. What the vault
	// can't show of release policies is left out.
	reasons := func(id cvm.KeyID, at time.Time) []string {
		t.Helper()
		fact := cvm.Fact[cvm.Key]{}
		switch k, err := c.Key(ctx, id); {
		case fault.Is(err, fault.NotFound):
			fact = cvm.NotThere[cvm.Key]()
		case err != nil:
			t.Fatal(err)
		default:
			fact = cvm.Known(k)
		}
		v := policy.JudgeShared(cvm.SharedPosture{Kind: cvm.SharedKey, ID: string(base), Key: fact}, policy.Embedded(), at)
		var out []string
		for _, f := range v.Findings {
			if !policies && (strings.HasPrefix(f.Reason, "key-policy-") || f.Reason == "key-no-release-policy" || f.Reason == "key-not-exportable") {
				continue
			}
			if strings.HasPrefix(f.Reason, "key-") && !slices.Contains(out, f.Reason) {
				out = append(out, f.Reason)
			}
		}
		return out
	}
	has := func(id cvm.KeyID, at time.Time, want string) {
		t.Helper()
		if got := reasons(id, at); !slices.Contains(got, want) {
			t.Errorf("%s: reasons %v, want %s among them", id, got, want)
		}
	}
	hasNot := func(id cvm.KeyID, at time.Time, not ...string) {
		t.Helper()
		got := reasons(id, at)
		for _, n := range not {
			if slices.Contains(got, n) {
				t.Errorf("%s: reasons %v, and %s isn't true", id, got, n)
			}
		}
	}

	// A key that isn't there.
	has(base, now, "key-deleted")

	// Create, and get with and without the version.
	first, err := c.CreateKey(ctx, host, name, 3072, release, false)
	if err != nil {
		t.Fatal(err)
	}
	if first.ID.Versionless() != base || first.ID.Version() == "" || first.Type != "RSA-HSM" || first.Bits != 3072 || first.Enabled != cvm.True ||
		!slices.Contains(first.Ops, "wrapKey") || !slices.Contains(first.Ops, "unwrapKey") || first.Created.IsZero() {
		t.Errorf("created: %+v", first)
	}
	if policies && (first.Policy.Decoded != release || first.Exportable != cvm.True) {
		t.Errorf("created with the policy %+v", first.Policy)
	}
	for _, id := range []cvm.KeyID{base, first.ID} {
		if k, err := c.Key(ctx, id); err != nil || k.ID != first.ID || k.Bits != 3072 || !k.AttributesRead {
			t.Errorf("%s: %+v, %v", id, k, err)
		}
		hasNot(id, now, "key-deleted", "key-disabled", "key-expired", "key-near-expiry", "key-not-hsm", "key-wrong-type", "key-size-2048", "key-ops-missing", "key-attributes-unread", "key-unreadable")
	}

	// A second version: the newest is what a URL without a version names.
	second, err := c.CreateKey(ctx, host, name, 2048, release, false)
	if err != nil {
		t.Fatal(err)
	}
	if k, err := c.Key(ctx, base); err != nil || k.ID != second.ID || second.ID == first.ID || k.Bits != 2048 {
		t.Errorf("the newest: %+v, %v", k, err)
	}
	if k, err := c.Key(ctx, first.ID); err != nil || k.Bits != 3072 {
		t.Errorf("the older one: %+v, %v", k, err)
	}
	has(second.ID, now, "key-size-2048")
	var versions []string
	for pager := sdk.NewListKeyPropertiesVersionsPager(name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Value {
			versions = append(versions, v.KID.Version())
		}
	}
	if len(versions) != 2 || !slices.Contains(versions, first.ID.Version()) || !slices.Contains(versions, second.ID.Version()) {
		t.Errorf("versions %v", versions)
	}

	// Disable one version, and enable it again.
	update := func(id cvm.KeyID, a azkeys.KeyAttributes) {
		t.Helper()
		if _, err := rawBody(ctx, call{op: "updating"}, func(ctx context.Context) error {
			_, err := sdk.UpdateKey(ctx, name, id.Version(), azkeys.UpdateKeyParameters{KeyAttributes: &a}, nil)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	update(first.ID, azkeys.KeyAttributes{Enabled: to.Ptr(false)})
	has(first.ID, now, "key-disabled")
	hasNot(second.ID, now, "key-disabled")
	update(first.ID, azkeys.KeyAttributes{Enabled: to.Ptr(true)})
	hasNot(first.ID, now, "key-disabled")

	// Expiry: near, come, and of one version alone.
	end := now.Add(10 * 24 * time.Hour).Truncate(time.Second)
	update(first.ID, azkeys.KeyAttributes{Enabled: to.Ptr(true), Expires: &end})
	if k, err := c.Key(ctx, first.ID); err != nil || !k.Expires.Equal(end) {
		t.Errorf("expiry %v, %v, want %v", k.Expires, err, end)
	}
	has(first.ID, now, "key-near-expiry")
	hasNot(first.ID, now, "key-expired")
	hasNot(first.ID, end.Add(-31*24*time.Hour), "key-near-expiry")
	has(first.ID, end, "key-expired")
	hasNot(second.ID, end, "key-expired")

	// Delete: every version is gone, and comes back with the key.
	remove := func(do func(context.Context) error) {
		t.Helper()
		if _, err := rawBody(ctx, call{op: "deleting"}, do); err != nil {
			t.Fatal(err)
		}
	}
	remove(func(ctx context.Context) error { _, err := sdk.DeleteKey(ctx, name, nil); return err })
	for _, id := range []cvm.KeyID{base, first.ID, second.ID} {
		if _, err := c.Key(ctx, id); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s is deleted: %v", id, err)
		}
		has(id, now, "key-deleted")
	}
	remove(func(ctx context.Context) error { _, err := sdk.RecoverDeletedKey(ctx, name, nil); return err })
	for _, id := range []cvm.KeyID{first.ID, second.ID} {
		hasNot(id, now, "key-deleted")
	}
	if k, err := c.Key(ctx, base); err != nil || k.ID != second.ID {
		t.Errorf("recovered: %+v, %v", k, err)
	}

	// A version that never was, and a size that no disk takes.
	if _, err := c.Key(ctx, base+"/"+cvm.KeyID(strings.Repeat("0", 32))); !fault.Is(err, fault.NotFound) {
		t.Errorf("a version that isn't there: %v", err)
	}
	if _, err := c.CreateKey(ctx, host, name, 1024, release, false); !fault.Is(err, fault.Invalid) {
		t.Errorf("1024 bits: %v", err)
	}
	if u, err := url.Parse(string(first.ID)); err != nil || u.Host != host {
		t.Errorf("the key's id is %s", first.ID)
	}
}

// The simulator's vault and a vault by others take keys through the same life.
func TestKeyLifeInTheSimulator(t *testing.T) {
	sim, err := azuresim.Start(azuresim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	sim.AddVault(azuresim.VaultSpec{Name: "kv-life", Location: "westeurope"})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(config.Config{Cloud: config.Public, DevAzure: sim.Addr(), DevCA: ca, Development: true}, nil)
	c.credential = func() (azcore.TokenCredential, error) { return sim.Credential(azuresim.AdminPrincipal), nil }
	t.Cleanup(func() { closeIdle(t, c) })
	keyLife(t, c, "kv-life.vault.azure.net", true)
}
