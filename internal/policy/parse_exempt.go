package policy

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"cvmguard/internal/cvm"
)

// ruleExemptions is the rule that judges exemptions, and so can't be exempt.
const ruleExemptions = "exemptions"

// Exemptible says whether a VM can be exempted from a rule.
func Exemptible(rule string) bool { return rule != ruleExemptions }

type rawExemption struct {
	Rules  []string `json:"rules"`
	Owner  string   `json:"owner"`
	Reason string   `json:"reason"`
	Until  string   `json:"until"`
	Scope  struct {
		VM            string       `json:"vm"`
		ResourceGroup string       `json:"resourceGroup"`
		Subscription  string       `json:"subscription"`
		Select        *rawSelector `json:"select"`
	} `json:"scope"`
}

// exemptions are those of a document without faults.
func exemptions(list []rawExemption) []Exemption {
	var out []Exemption
	for _, r := range list {
		e := Exemption{Rules: r.Rules, Owner: r.Owner, Reason: r.Reason,
			Scope: ExemptionScope{ResourceGroup: strings.TrimSuffix(r.Scope.ResourceGroup, "/"), Subscription: strings.ToLower(r.Scope.Subscription)}}
		// What is wrong with these meaning has said, and no document is made then.
		if until, err := parseUntil(r.Until); err == nil {
			e.Until = until
		}
		if id, err := objectID(r.Scope.VM); err == nil {
			e.Scope.VM = id
		}
		if r.Scope.Select != nil {
			s := Selector(*r.Scope.Select)
			e.Scope.Selector = &s
		}
		out = append(out, e)
	}
	return out
}

// meaningOfExemptions checks what the schema can't say of exemptions and their tag.
func (t *tree) meaningOfExemptions(root map[string]any) {
	list, _ := root["exemptions"].([]any)
	for i, v := range list {
		e, ok := v.(map[string]any)
		if !ok {
			continue // the schema says so
		}
		path := []string{"exemptions", strconv.Itoa(i)}
		rules, _ := e["rules"].([]any)
		seen := map[string]bool{}
		for j, r := range rules {
			id, ok := r.(string)
			if !ok || id == "" {
				continue
			}
			if why := notExemptable(id); why != "" {
				t.at(append(path, "rules", strconv.Itoa(j)), false, "%s", why)
			} else if seen[id] {
				t.at(append(path, "rules", strconv.Itoa(j)), false, "rule %q stands here a second time", id)
			}
			seen[id] = true
		}
		if until, ok := e["until"].(string); ok && until != "" {
			if _, err := parseUntil(until); err != nil {
				t.at(append(path, "until"), false, "%v", err)
			}
		}
		for _, name := range []string{"owner", "reason"} {
			if text, ok := e[name].(string); ok && text != "" && strings.TrimSpace(text) == "" {
				t.at(append(path, name), false, "it is blank")
			}
		}
		scope, _ := e["scope"].(map[string]any)
		if id, ok := scope["vm"].(string); ok && id != "" {
			if _, err := objectID(id); err != nil {
				t.at(append(path, "scope", "vm"), false, "%v", err)
			}
		}
		if id, ok := scope["resourceGroup"].(string); ok && id != "" && !groupID().MatchString(id) {
			t.at(append(path, "scope", "resourceGroup"), false, "%q is not a resource group's ARM id such as /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-cvm", cut(id))
		}
	}
	tag, _ := root["exemptionTag"].(map[string]any)
	name, ok := tag["name"].(string)
	if !ok {
		return
	}
	quarantine := "cvmguard-quarantine"
	if remedy, ok := root["remedy"].(map[string]any); ok {
		if q, ok := remedy["quarantineTag"].(string); ok {
			quarantine = q
		}
	}
	low := strings.ToLower(name)
	if low == strings.ToLower(quarantine) || strings.HasPrefix(low, "cvmguard-") && low != "cvmguard-exempt" {
		t.at([]string{"exemptionTag", "name"}, false, "%q is a tag that cvmguard writes, or may write one day; take cvmguard-exempt, or a name of your own", cut(name))
	}
}

// notExemptable says why a rule can't be named by an exemption, "" if it can.
func notExemptable(id string) string {
	switch {
	case id == "*":
		return `"*" is no rule: an exemption names each rule that it leaves out`
	case !Exemptible(id):
		return "rule " + strconv.Quote(id) + " judges exemptions and can't be left out by one"
	}
	if _, ok := RuleByID(id); !ok {
		return "there is no rule " + strconv.Quote(cut(id)) + didYouMean(id, ruleIDs())
	}
	return ""
}

// parseUntil reads a day, which stands for its beginning in UTC, or a time.
func parseUntil(s string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New(strconv.Quote(cut(s)) + " is not a day such as 2027-01-31 or a time such as 2027-01-31T18:00:00Z")
}

// objectID reads the id of a VM or of what VMs share; a key's loses its version.
func objectID(s string) (string, error) {
	if id, err := cvm.ParseVMID(s); err == nil {
		return string(id), nil
	}
	if id, err := cvm.ParseDESID(s); err == nil {
		return string(id), nil
	}
	if id, err := cvm.ParseVaultID(s); err == nil {
		return string(id), nil
	}
	if id, err := cvm.ParseKeyID(s); err == nil {
		return string(id.Versionless()), nil
	}
	if id, err := cvm.ParseRegionID(s); err == nil {
		return string(id), nil
	}
	return "", errors.New(strconv.Quote(cut(s)) + " is not the id of a VM, a disk encryption set, a vault, a key or a region, such as /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg-cvm/providers/Microsoft.Compute/virtualMachines/vm1")
}

var groupID = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^/subscriptions/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/resourceGroups/[^/]{1,90}/?$`)
})
