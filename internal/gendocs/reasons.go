package main

import (
	"slices"
	"strings"

	"cvmguard/internal/cvm"
	"cvmguard/internal/policy"
)

// reasonsOf gives, of all findings that the cases gave, each rule's reason codes in
// the order in which they came, and apart from that the codes by which any rule says
// that a link before its own fact wasn't read.
func reasonsOf(all []policy.Finding) (byRule map[string][]string, links []string) {
	byRule = map[string][]string{}
	for _, f := range all {
		switch {
		case f.Reason == "" || f.State == cvm.NotAsked:
		case isLink(f.Reason):
			links = appendNew(links, f.Reason)
		default:
			byRule[f.Rule] = appendNew(byRule[f.Rule], f.Reason)
		}
	}
	slices.Sort(links)
	return byRule, links
}

// isLink says whether a code is that of a link which wasn't read.
func isLink(code string) bool {
	return code == "not-captured" || strings.HasSuffix(code, "-unreadable") && code != "key-policy-unreadable"
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
