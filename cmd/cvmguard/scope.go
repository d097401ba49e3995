package main

import (
	"errors"
	"strings"

	"cvmguard/internal/fault"
	"cvmguard/internal/ledger"
	"cvmguard/internal/reconcile"
)

// Examples in messages.
const (
	exampleSubscription = "00000000-0000-0000-0000-000000000001"
	exampleGroup        = "rg-confidential"
	exampleVM           = "/subscriptions/" + exampleSubscription + "/resourceGroups/" + exampleGroup + "/providers/Microsoft.Compute/virtualMachines/vm1"
	exampleKey          = exampleSubscription + "-abcdefghijklmnopqrstuvwxyz"
)

// scope are the flags that select VMs by where they are.
type scope struct {
	Group        string `placeholder:"NAME" help:"All VMs of a resource group: its name, or its ARM id."`
	Subscription string `placeholder:"ID" help:"All VMs of a subscription, or the one that the group is in."`
}

// given says whether any was.
func (s scope) given() bool { return s.Group != "" || s.Subscription != "" }

// parse gives the subscription's id ("" where none is named) and the group's name.
func (s scope) parse() (subscription, group string, err error) {
	if s.Subscription != "" && !isGUID(s.Subscription) {
		return "", "", badArgument("--subscription", s.Subscription, "it must be a subscription's id, a GUID", "--subscription "+exampleSubscription)
	}
	if s.Group == "" {
		return s.Subscription, "", nil
	}
	bad := func(wrong string) (string, string, error) {
		return "", "", badArgument("--group", s.Group, wrong, "--group "+exampleGroup)
	}
	if !strings.HasPrefix(s.Group, "/") {
		if len(s.Group) > 90 || strings.ContainsAny(s.Group, "/'\"\\|;\r\n") {
			return bad("it must be a resource group's name or ARM id")
		}
		return s.Subscription, s.Group, nil
	}
	p := strings.Split(s.Group, "/")
	if len(p) != 5 || !strings.EqualFold(p[1], "subscriptions") || !isGUID(p[2]) || !strings.EqualFold(p[3], "resourceGroups") || p[4] == "" {
		return bad("it begins as an ARM id and isn't a resource group's")
	}
	if s.Subscription != "" && !strings.EqualFold(s.Subscription, p[2]) {
		return bad("it is in another subscription than --subscription names")
	}
	return p[2], p[4], nil
}

// parseVM reads a VM's ARM id; the error names the argument.
func parseVM(name, given string) (reconcile.Object, error) {
	o, err := reconcile.VMObject(given)
	var f *fault.Error
	if errors.As(err, &f) {
		named := *f
		named.Op = name
		return o, &named
	}
	return o, err
}

// vmKey takes a VM's key in the ledger, or its ARM id.
func vmKey(name, given string) (string, error) {
	if strings.HasPrefix(given, "/") {
		o, err := parseVM(name, given)
		if err != nil {
			return "", err
		}
		return o.Chain(), nil
	}
	if _, _, ok := ledger.SplitChain(given); !ok {
		return "", badArgument(name, given, "it is neither a VM's key nor its ARM id", exampleKey+" or "+exampleVM)
	}
	return given, nil
}

// objectKey takes the key or the id of anything that has records: a VM, a shared
// object, an operation. The hash of an operation's plan is left for the app to find.
func objectKey(name, given string) (string, error) {
	hash := strings.ToLower(given)
	_, _, isKey := ledger.SplitChain(given)
	switch {
	case isKey:
		return given, nil
	case ledger.IsHash(hash):
		return hash, nil
	}
	o, err := reconcile.AnyObject(given)
	if err == nil {
		return o.Chain(), nil
	}
	if strings.Contains(strings.ToLower(given), "/virtualmachines/") {
		return vmKey(name, given) // which says what is wrong with a VM's id
	}
	return "", badArgument(name, given, "it is neither the key nor the id of a VM, a shared object or a plan", exampleKey+", "+exampleVM+", a key's URL, <subscription>/regions/<region> or a plan's hash")
}

func isGUID(s string) bool {
	if len(s) != len(exampleSubscription) {
		return false
	}
	for i, r := range s {
		if dash := exampleSubscription[i] == '-'; dash != (r == '-') || !dash && !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return false
		}
	}
	return true
}
