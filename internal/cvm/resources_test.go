package cvm

import (
	"slices"
	"testing"
)

func TestUsersOfADisk(t *testing.T) {
	for name, c := range map[string]struct {
		disk Disk
		want []string
	}{
		"nobody's":                {Disk{}, nil},
		"one VM's":                {Disk{ManagedBy: "/a"}, []string{"/a"}},
		"shared":                  {Disk{ManagedBy: "/a", Holders: []string{"/A", "/b", "", "/B", "/c"}}, []string{"/a", "/b", "/c"}},
		"shared, with no manager": {Disk{Holders: []string{"/b"}}, []string{"/b"}},
	} {
		if got := c.disk.Users(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAVaultThatShutsThePlatformOut(t *testing.T) {
	for v, want := range map[*Vault]bool{
		{}: false,
		{DefaultAction: "Allow", PublicAccess: "Enabled", Bypass: "None"}: false,
		{DefaultAction: "deny", Bypass: "azureservices"}:                  false,
		{DefaultAction: "Deny", Bypass: "None"}:                           true,
		{DefaultAction: "Deny"}:                                           true,
		{PublicAccess: "disabled", Bypass: "AzureServices"}:               false,
		{PublicAccess: "Disabled"}:                                        true,
		{DefaultAction: "Deny", Bypass: "Logging, AzureServices"}:         true, // no value that a vault has
	} {
		if got := v.ShutsOutPlatform(); got != want {
			t.Errorf("%+v: %t", *v, got)
		}
	}
}
