package main

import (
	"runtime"
	"runtime/debug"
)

// versionCmd prints what this program is.
type versionCmd struct{ output }

// Run prints.
func (cmd versionCmd) Run(c *console) error {
	v := struct {
		Version  string `json:"version"`
		Revision string `json:"revision,omitempty"` // of the source, where the build knew it
		Go       string `json:"go"`
		OS       string `json:"os"`
		Arch     string `json:"arch"`
	}{Version: version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	if cmd.json() {
		return c.json(v)
	}
	c.line("cvmguard %s (%s, %s/%s)", v.Version, v.Go, v.OS, v.Arch)
	return nil
}
