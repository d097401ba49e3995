package estate_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cvmguard/internal/azure"
	"cvmguard/internal/azuresim"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
	"cvmguard/internal/estate"
	"cvmguard/internal/estate/estatetest"
	"cvmguard/internal/policy"
	"cvmguard/internal/reconcile"
)

var _ reconcile.Azure = (*estate.Estate)(nil)

// open writes cases to disk and reads them.
func open(t testing.TB, cases []estatetest.Case) *estate.Estate {
	t.Helper()
	dir := t.TempDir()
	if err := estatetest.Write(dir, cases); err != nil {
		t.Fatal(err)
	}
	e, err := estate.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func judge(t testing.TB, az reconcile.Azure, whole bool, id string) policy.Verdict {
	t.Helper()
	p, err := reconcile.Observer{Azure: az, Whole: whole}.VM(t.Context(), cvm.VMID(id))
	if err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	return policy.Judge(p, policy.Embedded(), estatetest.At)
}

// reasons are those of findings that fail or are unknown, each once, sorted.
func reasons(v policy.Verdict) []string {
	var out []string
	for _, f := range v.Findings {
		if f.State == cvm.Fail || f.State == cvm.UnknownState {
			out = append(out, f.Reason)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Each variant gets its verdict for its reasons, in the clouds with known providers.
func TestVariants(t *testing.T) {
	for _, cloud := range []string{estatetest.Public, estatetest.USGov} {
		cases := estatetest.Estate(cloud, len(estatetest.Variants()))
		e := open(t, cases)
		if list := e.Troubles(); len(list) > 0 {
			t.Fatal(list)
		}
		if n := len(e.VMs()); n != len(cases) {
			t.Fatalf("%d VMs of %d", n, len(cases))
		}
		for _, c := range cases {
			if cloud != estatetest.Public && strings.Contains(c.Name, "policy elsewhere") {
				continue // the provider that it names is the public cloud's
			}
			v := judge(t, e, true, c.Chain.ID)
			if got := reasons(v); string(v.Value) != c.Verdict || !slices.Equal(got, c.Reasons) {
				t.Errorf("%s, %s: %s for %v, want %s for %v", cloud, c.Name, v.Value, got, c.Verdict, c.Reasons)
			}
		}
	}
}

// simulated is cvmguard's own client on a simulator with the same bodies.
func simulated(t *testing.T, cloud string, cases []estatetest.Case) *azure.Reader {
	t.Helper()
	s, err := azuresim.Start(azuresim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, e := range s.IdentityEnv() {
		k, v, _ := strings.Cut(e, "=")
		t.Setenv(k, v)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	handler, _ := s.Principal(azuresim.HandlerPrincipal)
	for _, c := range cases {
		for _, b := range c.Chain.Bodies() { // vaults come before keys
			if !estatetest.IsKey(b) {
				if err := s.PutResource(b); err != nil {
					t.Fatal(err)
				}
			}
			if b["type"] == "Microsoft.KeyVault/managedHSMs" {
				if err := s.GrantHSM(estatetest.Text(b, "name"), "/", handler.ObjectID, "Managed HSM Crypto Auditor"); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, b := range c.Chain.Bodies() {
			if estatetest.IsKey(b) && c.Chain.Vault != nil {
				if err := s.PutKey(b); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	c := azure.New(config.Config{Cloud: config.Cloud(cloud), DevAzure: s.Addr(), DevCA: ca, ManagedIdentity: true, Development: true}, nil)
	return c.Reader(time.Hour)
}

// The same bodies through the simulator and the real client give the same
// findings, for the rules that both ask. Where a link wasn't captured, Azure says
// that it isn't there; then neither passes.
func TestEstateEqualsAzure(t *testing.T) {
	for _, cloud := range []string{estatetest.Public, estatetest.USGov, estatetest.China} {
		t.Run(cloud, func(t *testing.T) {
			cases := estatetest.Estate(cloud, 3*len(estatetest.Variants()))
			e, live := open(t, cases), simulated(t, cloud, cases)
			var wg sync.WaitGroup
			next := make(chan estatetest.Case)
			for range 4 {
				wg.Go(func() {
					for c := range next {
						compare(t, c, judge(t, e, true, c.Chain.ID), judge(t, live, false, c.Chain.ID))
					}
				})
			}
			for _, c := range cases {
				next <- c
			}
			close(next)
			wg.Wait()
		})
	}
}

func compare(t *testing.T, c estatetest.Case, captured, live policy.Verdict) {
	if captured.Kind != live.Kind || captured.TEE != live.TEE {
		t.Errorf("%s: %s on %s, live %s on %s", c.Name, captured.Kind, captured.TEE, live.Kind, live.TEE)
	}
	a, b := told(captured), told(live)
	for rule, one := range a {
		two, asked := b[rule]
		switch {
		case c.Chain.Vault == nil && strings.HasPrefix(rule, "key-"): // the simulator has no key without its vault
		case c.Missing && strings.Contains(one, "not-captured"):
			if strings.HasPrefix(one, "pass") {
				t.Errorf("%s: %s passes: %s", c.Name, rule, one)
			}
		case asked && one != two:
			t.Errorf("%s: %s: %s, live %s", c.Name, rule, one, two)
		}
	}
	if c.Missing && captured.Value == policy.Compliant {
		t.Errorf("%s is compliant", c.Name)
	}
}

// told is what each rule says, without the rules that aren't asked.
func told(v policy.Verdict) map[string]string {
	out := map[string]string{}
	for _, f := range v.Findings {
		if f.State != cvm.NotAsked {
			out[f.Rule] += fmt.Sprintf("%s %s; ", f.State, f.Reason)
		}
	}
	return out
}

// An estate of 1,000 VMs, from files to verdicts.
func BenchmarkEstate(b *testing.B) {
	dir := b.TempDir()
	if err := estatetest.Write(dir, estatetest.Estate(estatetest.Public, 1000)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		e, err := estate.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		for _, id := range e.VMs() {
			judge(b, e, true, string(id))
		}
	}
}
