package main

import (
	"fmt"
	"slices"
	"testing"

	"cvmguard/internal/config"
	"cvmguard/internal/fault"
)

func TestUnknownSettings(t *testing.T) {
	environ := []string{"PATH=/bin", "CVMGUARD=x", "CVMGUARD_URL=u", "CVMGUARD_KEY=hush", "AZURE_CLIENT_IDD=x",
		"CVMGUARD_MODE_=enforce", "CVMGUARD_LOGLEVEL=debug", "cvmguard_policy=p", "CVMGUARD_COLOUR_OF_THE_SKY=blue", "CVMGUARD_", "CVMGUARD_LEESE=1s"}
	for _, s := range config.Settings() {
		environ = append(environ, s.Name+"=1")
	}
	want := []unknownSetting{{"CVMGUARD_", ""}, {"CVMGUARD_COLOUR_OF_THE_SKY", ""}, {"CVMGUARD_LEESE", "CVMGUARD_LEASE"},
		{"CVMGUARD_LOGLEVEL", "CVMGUARD_LOG_LEVEL"}, {"CVMGUARD_MODE_", "CVMGUARD_MODE"}, {"cvmguard_policy", "CVMGUARD_POLICY"}}
	if got := unknownSettings(environ); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "AB", 2}, {"AB", "", 2}, {"MODE", "MODE", 0}, {"MOED", "MODE", 2}, {"MODEL", "MODE", 1}, {"LEESE", "LEASE", 1}} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d edits, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestNoToken(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{&fault.Error{Kind: fault.Denied, Code: "CredentialUnavailable"}, true},
		{fmt.Errorf("reading: %w", &fault.Error{Kind: fault.Transient, Code: "AuthenticationFailed"}), true},
		{&fault.Error{Kind: fault.Denied}, true},
		{&fault.Error{Kind: fault.Denied, Code: "AuthorizationFailed", Action: "Microsoft.Compute/virtualMachines/read"}, false},
		{&fault.Error{Kind: fault.Transient}, false},
	} {
		if got := noToken(c.err); got != c.want {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}
