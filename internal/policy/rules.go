package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cvmguard/internal/cvm"
)

// Needs is the sort of fact that a rule rests on. A claim never satisfies a rule
// that needs proof.
type Needs string

// The sorts.
const (
	NeedsAzure  Needs = "azure"  // what ARM says
	NeedsKeys   Needs = "keys"   // what the key plane says
	NeedsProof  Needs = "proof"  // what the guest proved
	NeedsClaims Needs = "claims" // what the guest, or its agent, says
)

// Rule is one rule. Ids are slugs; the table only grows.
type Rule struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Severity Severity `json:"severity"`
	Class    Class    `json:"class"` // of its usual remedy; a finding carries its own
	Needs    Needs    `json:"needs"`
	Default  Effect   `json:"default"` // where a document doesn't name the rule
	Doc      string   `json:"doc"`     // the documentation that it follows
	Checks   string   `json:"checks"`  // what it checks, one sentence
	Why      string   `json:"why"`
	Fix      string   `json:"fix"`
	On       []string `json:"on"` // vm, des, key, vault, region: whose verdict it is part of

	judge func(*subject) []Finding
}

// on says whether the rule is part of the verdict on a kind of object.
func (r Rule) on(kind string) bool { return slices.Contains(r.On, kind) }

// The kinds of object that a rule is judged on, as in Rule.On.
const (
	onVM     = "vm"
	onDES    = string(cvm.SharedDES)
	onKey    = string(cvm.SharedKey)
	onVault  = string(cvm.SharedVault)
	onRegion = string(cvm.SharedRegion)
)

// Documentation that rules follow.
const (
	docOverview   = "https://learn.microsoft.com/azure/confidential-computing/confidential-vm-overview"
	docFAQ        = "https://learn.microsoft.com/azure/confidential-computing/confidential-vm-faq"
	docQuickstart = "https://learn.microsoft.com/azure/confidential-computing/quick-create-confidential-vm-arm"
	docRotation   = "https://learn.microsoft.com/azure/confidential-computing/key-rotation-offline"
	docDisks      = "https://learn.microsoft.com/azure/virtual-machines/disk-encryption"
	docDiskKinds  = "https://learn.microsoft.com/azure/virtual-machines/disk-encryption-overview"
	docSizes      = "https://learn.microsoft.com/azure/confidential-computing/virtual-machine-options"
	docKeys       = "https://learn.microsoft.com/azure/key-vault/keys/about-keys-details"
	docGrammar    = "https://learn.microsoft.com/azure/key-vault/keys/policy-grammar"
	docSoftDelete = "https://learn.microsoft.com/azure/key-vault/general/soft-delete-overview"
	docNetwork    = "https://learn.microsoft.com/azure/key-vault/general/overview-vnet-service-endpoints"
	docRights     = "https://learn.microsoft.com/azure/key-vault/general/rbac-guide"
	docTrusted    = "https://learn.microsoft.com/azure/virtual-machines/trusted-launch"
	docMonitoring = "https://learn.microsoft.com/azure/virtual-machines/boot-integrity-monitoring-overview"
	docAttest     = "https://learn.microsoft.com/azure/confidential-computing/guest-attestation-confidential-vms"
	docExemptions = "https://learn.microsoft.com/azure/azure-monitor/platform/activity-log"
	docAgent      = "https://learn.microsoft.com/azure/virtual-machines/extensions/agent-linux"
)

// Rules are all rules, in the order in which their findings are listed.
func Rules() []Rule { return slices.Clone(ruleTable()) }

// RuleByID finds a rule.
func RuleByID(id string) (Rule, bool) {
	for _, r := range ruleTable() {
		if r.ID == id {
			return r, true
		}
	}
	return Rule{}, false
}

// Explain is a rule's text for a person. ok is false for a rule that there isn't;
// the text then names the nearest one.
func Explain(rule string) (text string, ok bool) {
	r, ok := RuleByID(rule)
	if !ok {
		return fmt.Sprintf("there is no rule %q%s", rule, didYouMean(rule, ruleIDs())), false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", r.ID, r.Title)
	fmt.Fprintf(&b, "Checks    %s\nWhy       %s\nFix       %s\n", r.Checks, r.Why, r.Fix)
	fmt.Fprintf(&b, "Severity  %s\nRemedy    %s\nRests on  %s\nJudged on %s\nDefault   %s\nSee       %s\n",
		r.Severity, orNone(string(r.Class)), r.Needs, strings.Join(r.On, ", "), r.Default, r.Doc)
	if Exemptible(r.ID) {
		fmt.Fprintf(&b, "Exempt    exemptions: [{rules: [%s], owner: WHO, reason: WHY, until: DAY, scope: {vm: ID}}] in the policy document\n", r.ID)
	}
	return b.String(), true
}

// RulesJSON is the list of rules with their effects under a document, as
// `policy show -o json` prints it.
func RulesJSON(d *Document) ([]byte, error) {
	type row struct {
		ID       string   `json:"id"`
		Effect   Effect   `json:"effect"`
		Severity Severity `json:"severity"`
		Title    string   `json:"title"`
	}
	list := make([]row, 0, len(ruleTable()))
	for _, r := range ruleTable() {
		list = append(list, row{r.ID, d.Effect(r.ID), r.Severity, r.Title})
	}
	return json.MarshalIndent(list, "", "  ")
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func ruleIDs() []string {
	ids := make([]string, 0, len(ruleTable()))
	for _, r := range ruleTable() {
		ids = append(ids, r.ID)
	}
	return ids
}
