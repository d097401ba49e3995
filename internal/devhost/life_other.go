//go:build !linux

package devhost

import "os/exec"

// bindLife does nothing where the kernel offers no tie between two processes.
func bindLife(*exec.Cmd) {}
