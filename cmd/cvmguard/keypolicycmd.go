package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"cvmguard/internal/azure"
	"cvmguard/internal/config"
	"cvmguard/internal/cvm"
)

// keyPolicyCmds are about release policies of keys.
type keyPolicyCmds struct {
	New   keyPolicyNewCmd   `cmd:"" help:"Draft a release policy for regions."`
	Check keyPolicyCheckCmd `cmd:"" help:"Judge a release policy, clause by clause."`
	Diff  keyPolicyDiffCmd  `cmd:"" help:"Compare two release policies by what they admit."`
}

// question are the flags that say for what a release policy is.
type question struct {
	Region []string `placeholder:"REGION" help:"Region in which VMs boot by the key; may be given several times."`
	TEE    string   `name:"tee" enum:"snp,tdx,any" default:"any" placeholder:"TEE" help:"snp, tdx, or any for both."`
	Policy string   `placeholder:"FILE" help:"Policy document whose authorities may be named, in place of the one in the settings."`
}

var teeNames = map[string]cvm.TEE{"snp": cvm.TEESNP, "tdx": cvm.TEETDX}

// judge gives the findings for every region and TEE that was asked for, each once.
func (q question) judge(p cvm.ReleasePolicy, extra []string) []cvm.PolicyFault {
	tees := []cvm.TEE{teeNames[q.TEE]}
	if q.TEE == "any" && len(q.Region) > 0 {
		tees = []cvm.TEE{cvm.TEESNP, cvm.TEETDX}
	}
	regions := q.Region
	if len(regions) == 0 {
		regions = []string{""}
	}
	var out []cvm.PolicyFault
	seen := map[cvm.PolicyFault]bool{}
	for _, r := range regions {
		for _, t := range tees {
			for _, f := range cvm.JudgeReleasePolicy(p, cvm.PolicyQuestion{Region: r, TEE: t, ExtraAuthorities: extra}) {
				if f.Code == "key-policy-tee-missing" {
					f.Text = strings.Replace(f.Text, "that of the VM's TEE", "that of TEE "+string(t), 1)
				}
				if !seen[f] {
					seen[f] = true
					out = append(out, f)
				}
			}
		}
	}
	return out
}

func (q question) authorities(c *console) ([]string, error) {
	var cfg config.Config
	if q.Policy == "" {
		var err error
		if cfg, err = config.LoadWithoutStorage(c.getenv); err != nil {
			return nil, err
		}
	}
	doc, err := documentFor(q.Policy, cfg)
	if err != nil {
		return nil, err
	}
	return doc.Authorities, nil
}

type keyPolicyNewCmd struct {
	question
	Authority []string `placeholder:"URL" help:"Attestation provider to trust beside the regions' shared ones; may be given several times."`
	Immutable bool     `help:"With -o az: nobody can change the policy later, for ever."`
	Key       string   `placeholder:"URL" help:"With -o az: the key that the command line creates."`
	Output    string   `short:"o" enum:"json,az" default:"json" placeholder:"FORMAT" help:"json for the policy alone, az for a command line of Azure CLI that creates a key under it."`
}

// Help is kong's.
func (keyPolicyNewCmd) Help() string {
	return `The policy has one clause a region: Microsoft's shared attestation provider there, and the platform's word that the VM is a compliant confidential VM. With --tee snp or tdx the TEE is asked for as well, which shuts out the other one for good under an immutable policy. What is printed passes cvmguard's own judge; where it doesn't, for an authority that policy doesn't list, that is said.

A policy has to be there when a key is created: a key without one can't be given one later.`
}

// Run drafts.
func (cmd keyPolicyNewCmd) Run(c *console) error {
	if len(cmd.Region) == 0 && len(cmd.Authority) == 0 {
		return errors.New("key policy new: no region was given; give one, for example --region westeurope")
	}
	urls, err := cvm.Authorities(cmd.Region, nil)
	if err != nil {
		return fmt.Errorf("--region: %w; check the spelling, or name the provider with --authority in the region's place", err)
	}
	for _, a := range cmd.Authority {
		if !cvm.IsAttestationURL(a) {
			return badArgument("--authority", a, "it isn't the URL of a provider: https and a host alone", "--authority https://sharedweu.weu.attest.azure.net")
		}
		urls = append(urls, a)
	}
	extra, err := cmd.authorities(c)
	if err != nil {
		return err
	}
	text := cvm.DraftReleasePolicies(teeNames[cmd.TEE], urls...)
	for _, f := range cmd.judge(cvm.ReleasePolicy{Present: true, Immutable: true, Decoded: text}, extra) {
		c.say("%s: %s (%s)", f.Code, f.Text, f.Clause)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, []byte(text), "", "  "); err != nil {
		return fmt.Errorf("writing the policy: %w", err)
	}
	if cmd.Output == "json" {
		if cmd.Immutable || cmd.Key != "" {
			return errors.New("key policy new: --immutable and --key have a meaning with -o az alone; add it, or leave them out")
		}
		c.line("%s", pretty.String())
		return nil
	}
	where, name := "--vault-name VAULT", "KEY"
	if cmd.Key != "" {
		id, err := parseKeyArgument("--key", cmd.Key)
		if err != nil {
			return err
		}
		host, _, _ := strings.Cut(id.Host(), ".")
		where, name = "--vault-name "+host, id.KeyName()
		if id.IsHSM() {
			where = "--hsm-name " + host
		}
	}
	c.line("cat > release-policy.json <<'JSON'\n%s\nJSON", pretty.String())
	c.line("az keyvault key create %s --name %s --kty RSA-HSM --size 3072 --ops wrapKey unwrapKey --exportable true --policy release-policy.json --immutable %t", where, name, cmd.Immutable)
	return nil
}

// policyRows are the truth table's rows of reason codes.
var policyRows = map[string]int{
	"key-no-release-policy": 45, "key-policy-unreadable": 46, "key-policy-weak": 47, "key-policy-foreign-authority": 48,
	"key-policy-authority-unlisted": 48, "key-policy-region-missing": 49, "key-policy-tee-missing": 50, "key-policy-guest-dialect": 51, "key-policy-mutable": 52,
}

type keyPolicyCheckCmd struct {
	File string `arg:"" optional:"" help:"The policy as JSON, or a key with one as Key Vault, Resource Manager or Azure CLI shows it."`
	Key  string `placeholder:"URL" help:"Judge this key's policy, read from Azure."`
	question
	output
}

// Help is kong's.
func (keyPolicyCheckCmd) Help() string {
	return `Judged is what the policy admits, not how it is written. Without --region it isn't asked whether VMs boot anywhere by it; with --region and --tee any, both TEEs must.

Exit status: 0 nothing is wrong with it; 1 something is, or can't be told; 2 the file or the key couldn't be read.`
}

type checkedPolicy struct {
	Findings []policyFinding    `json:"findings"`
	Clauses  []cvm.PolicyClause `json:"clauses"`
}

type policyFinding struct {
	Row      int       `json:"row"`
	Reason   string    `json:"reason"`
	State    cvm.State `json:"state"`
	Severity string    `json:"severity"`
	Clause   string    `json:"clause"`
	Text     string    `json:"text"`
}

// Run judges.
func (cmd keyPolicyCheckCmd) Run(c *console) error {
	sources, err := policySources("key policy check", cmd.File, "", cmd.Key)
	if err != nil {
		return err
	}
	if len(sources) != 1 {
		return errors.New("key policy check: give one thing to judge, a file or --key")
	}
	extra, err := cmd.authorities(c)
	if err != nil {
		return err
	}
	p, _, err := sources[0].read(c)
	if err != nil {
		return err
	}
	out := checkedPolicy{Findings: []policyFinding{}, Clauses: cvm.ExplainReleasePolicy(p, extra)}
	bad := 0
	for _, f := range cmd.judge(p, extra) {
		out.Findings = append(out.Findings, policyFinding{policyRows[f.Code], f.Code, f.State, f.Severity, f.Clause, f.Text})
		if f.State != cvm.Pass {
			bad++
		}
	}
	if cmd.json() {
		if err := c.json(out); err != nil {
			return err
		}
	} else {
		clauses := c.grid("clause", "authority", "kind", "regions", "tees", "takes", "codes")
		for _, k := range out.Clauses {
			clauses.add(k.Clause, k.Authority, k.Kind, strings.Join(k.Regions, " "), strings.Join(k.TEEs, " "), k.Takes, strings.Join(k.Codes, " "))
		}
		clauses.print(c)
		findings := c.grid("row", "state", "severity", "reason", "clause", "what")
		for _, f := range out.Findings {
			findings.add(f.Row, f.State, f.Severity, f.Reason, f.Clause, f.Text)
		}
		if findings.rows > 0 && clauses.rows > 0 {
			c.line("")
		}
		findings.print(c)
		if bad == 0 {
			c.line("nothing is wrong with it")
		}
	}
	if bad > 0 {
		return exitStatus(exitNot)
	}
	return nil
}

type keyPolicyDiffCmd struct {
	Files []string `arg:"" optional:"" name:"file" help:"Release policies: JSON, or a key with one."`
	Key   []string `placeholder:"URL" help:"A key whose policy is read from Azure, in a file's place; may be given twice."`
	output
}

// Help is kong's.
func (keyPolicyDiffCmd) Help() string {
	return `The first is a, the second b; files come before keys. Said is whether b releases the key in the same cases as a (equivalent), in more (weaker), in fewer (stronger), or in others (different), and by which clauses.

Exit status: 0 equivalent; 1 not, or not to be compared; 2 a file or key couldn't be read.`
}

// Run compares.
func (cmd keyPolicyDiffCmd) Run(c *console) error {
	sources, err := policySources("key policy diff", append(append([]string{}, cmd.Files...), append([]string{""}, cmd.Key...)...)...)
	if err != nil {
		return err
	}
	if len(sources) != 2 {
		return fmt.Errorf("key policy diff: %d release policies were given; give two, files or --key", len(sources))
	}
	var ps [2]cvm.ReleasePolicy
	whole := true
	for i, s := range sources {
		var known bool
		if ps[i], known, err = s.read(c); err != nil {
			return err
		}
		whole = whole && known
	}
	out := cvm.CompareReleasePolicies(ps[0], ps[1])
	if whole && ps[0].Present && ps[1].Present && ps[0].Immutable != ps[1].Immutable {
		one := "a"
		if ps[0].Immutable {
			one = "b"
		}
		out.Differences = append(out.Differences, cvm.PolicyDifference{About: "mutability", Relation: cvm.PolicyEquivalent, Clause: one, Text: "Only " + one + " can be changed later by whoever may update the key."})
	}
	if cmd.json() {
		if err := c.json(out); err != nil {
			return err
		}
	} else {
		words := map[cvm.PolicyRelation]string{cvm.PolicyEquivalent: "b is equivalent to a", cvm.PolicyWeaker: "b is weaker than a", cvm.PolicyStronger: "b is stronger than a",
			cvm.PolicyDifferent: "b is different from a: each releases where the other doesn't", cvm.PolicyNotCompared: "they can't be compared"}
		c.line("%s", words[out.Relation])
		g := c.grid("about", "makes b", "clause", "what")
		for _, d := range out.Differences {
			makes := string(d.Relation)
			if d.Relation == cvm.PolicyEquivalent {
				makes = "(a note)"
			}
			g.add(d.About, makes, d.Clause, d.Text)
		}
		g.print(c)
	}
	if out.Relation != cvm.PolicyEquivalent {
		return exitStatus(exitNot)
	}
	return nil
}

// policySource is where a release policy is: a file, or a key.
type policySource struct {
	file string
	key  cvm.KeyID
}

// policySources takes files, an empty text, and keys' URLs. Empty ones are left out.
func policySources(command string, given ...string) ([]policySource, error) {
	var out []policySource
	keys := false
	for _, s := range given {
		switch {
		case s == "":
			keys = true
		case keys:
			id, err := parseKeyArgument(command+": --key", s)
			if err != nil {
				return nil, err
			}
			out = append(out, policySource{key: id})
		default:
			out = append(out, policySource{file: s})
		}
	}
	return out, nil
}

// maxPolicyFile is how much of a file is read, in bytes: more than any key has.
const maxPolicyFile = 16 << 20

// read gives the policy, and whether it came with what says if it is immutable.
func (s policySource) read(c *console) (cvm.ReleasePolicy, bool, error) {
	if s.file != "" {
		f, err := os.Open(s.file)
		if err != nil {
			return cvm.ReleasePolicy{}, false, fmt.Errorf("reading the release policy: %w; give the path of a JSON file that you may read", err)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxPolicyFile))
		if err != nil {
			return cvm.ReleasePolicy{}, false, fmt.Errorf("reading the release policy: %w; give the path of a JSON file that you may read", err)
		}
		p, whole := cvm.ReadReleasePolicy(text)
		return p, whole, nil
	}
	cfg, err := config.LoadWithoutStorage(c.getenv)
	if err != nil {
		return cvm.ReleasePolicy{}, false, err
	}
	k, err := azure.New(cfg, slog.New(slog.DiscardHandler)).Key(c.ctx, s.key)
	if noToken(err) {
		return cvm.ReleasePolicy{}, false, fmt.Errorf("reading key %q: %w", s.key, errNotSignedIn)
	}
	return k.Policy, true, err
}
